/* What the machine says of itself: memory that grows with what is touched, the clock, CPU features as the kernel lists them, CPUs of the affinity mask. */
#include "base/system.h"

#include <sched.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/pool.h"
#include "test.h"

#define MIB ((uint64_t)1 << 20)

static void test_memory(void) {
    uint64_t before = fm_memory_resident(), total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    CHECK(fm_memory_available() > 0 && fm_memory_available() <= total, "%llu of %llu", (unsigned long long)fm_memory_available(), (unsigned long long)total);
    CHECK(fm_memory_limit() > 0, "%llu", (unsigned long long)fm_memory_limit());
    CHECK(before > 0 && before < total, "%llu resident", (unsigned long long)before);
    fm_region r;
    MUST(fm_region_open(&r, 64 * MIB, "test", err));
    memset(r.data, 1, r.bytes);
    uint64_t with = fm_memory_resident();
    /* A sanitizer keeps notes on each byte, up to four times its size. */
    CHECK(with >= before + 60 * MIB && with <= before + 400 * MIB, "64 MiB more are %lld", (long long)(with - before));
    unsigned long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%*s %llu", &pages) == 1) {
        int64_t other = (int64_t)(pages * (uint64_t)sysconf(_SC_PAGESIZE)), apart = (int64_t)fm_memory_resident() - other;
        CHECK(apart > -(int64_t)MIB / 2 && apart < (int64_t)MIB / 2, "%lld bytes from what statm says", (long long)apart);
    }
    if (f) fclose(f);
    fm_region_drop(&r, 0, r.bytes);
    uint64_t after = fm_memory_resident();
    CHECK(after + 60 * MIB <= with, "64 MiB given back are %lld", (long long)(with - after));
    CHECK(fm_memory_peak() >= with - MIB, "peak %llu after %llu", (unsigned long long)fm_memory_peak(), (unsigned long long)with);
    fm_region_close(&r);
}

#if defined(__linux__)
static void test_cpu_list(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (size_t cpu = 0; cpu < 20; cpu++) CPU_SET(cpu, &set);
    static const struct {
        const char *list;
        int n;
    } cases[] = {{"0-15\n", 16}, {"0-7,16-19", 12}, {"3", 1},  {"18-25\n", 2}, {"0,2,4\n", 3}, {"", 0},
                 {"\n", 0},      {"x", 0},          {"5-", 0}, {"7-3", 0},     {"0-99999", 0}, {"-1", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK(fm_cpu_list_count(cases[i].list, &set) == cases[i].n, "\"%s\": %d CPUs", cases[i].list, fm_cpu_list_count(cases[i].list, &set));
    }
}
#endif

static void test_clock(void) {
    double a = fm_now();
    usleep(20000);
    double b = fm_now();
    CHECK(b - a >= 0.019 && b - a < 10, "20 ms are %g s", b - a);
}

#if defined(__x86_64__)
/* Whether the first "flags" line of /proc/cpuinfo has the word. */
static bool has_flag(const char *flags, const char *word) {
    size_t n = strlen(word);
    for (const char *p = flags; (p = strstr(p, word)); p++) {
        if (p[-1] == ' ' && (p[n] == ' ' || p[n] == '\n')) return true;
    }
    return false;
}

static void test_features(void) {
    char flags[16384] = "";
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(flags, sizeof flags, f) && strncmp(flags, "flags", 5)) flags[0] = 0;
    if (f) fclose(f);
    if (!*flags) return;
    fm_cpu_features c = fm_cpu_features_read();
    bool avx512 = has_flag(flags, "avx512f") && has_flag(flags, "avx512bw") && has_flag(flags, "avx512vl") && has_flag(flags, "avx512dq");
    CHECK(c.avx2 == has_flag(flags, "avx2"), "%d", c.avx2);
    CHECK(c.fma == has_flag(flags, "fma"), "%d", c.fma);
    CHECK(c.f16c == has_flag(flags, "f16c"), "%d", c.f16c);
    CHECK(c.avx_vnni == has_flag(flags, "avx_vnni"), "%d", c.avx_vnni);
    CHECK(c.avx512 == avx512, "%d", c.avx512);
    CHECK(c.avx512_vnni == (avx512 && has_flag(flags, "avx512_vnni")), "%d", c.avx512_vnni);
    CHECK(c.amx_int8 == has_flag(flags, "amx_int8"), "%d", c.amx_int8);
    CHECK(!c.neon && !c.dotprod && !c.i8mm, "arm64 on x86");
}
#else
static void test_features(void) {
    fm_cpu_features c = fm_cpu_features_read();
    CHECK(!c.avx2 && !c.fma && !c.avx512 && !c.amx_int8, "x86 elsewhere");
#if defined(__aarch64__)
    CHECK(c.neon, "arm64 without NEON");
#endif
}
#endif

static void test_affinity(void) {
    cpu_set_t before, one;
    int n = fm_cpu_count();
    if (sched_getaffinity(0, sizeof before, &before)) return;
    CHECK(n >= 1 && n <= CPU_COUNT(&before), "%d CPUs of %d", n, CPU_COUNT(&before));
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && !CPU_COUNT(&one); i++) {
        if (CPU_ISSET(i, &before)) CPU_SET(i, &one);
    }
    if (sched_setaffinity(0, sizeof one, &one)) return;
    CHECK(fm_cpu_count() == 1, "%d CPUs", fm_cpu_count());
    sched_setaffinity(0, sizeof before, &before);
    CHECK(fm_cpu_count() == n, "%d CPUs", fm_cpu_count());
}

int main(void) {
    test_memory();
    test_clock();
#if defined(__linux__)
    test_cpu_list();
#endif
    test_features();
    test_affinity();
    return TEST_END();
}
