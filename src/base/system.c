/* base/system.c: see system.h. Control groups are read by cgroup.c; what to do about pressure is the caller's. */
#include "base/system.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/cgroup.h"
#include "base/pool.h"

#if defined(__APPLE__)
#include <mach/mach.h>
#include <sys/sysctl.h>
#else
#include <sched.h>
#include <sys/syscall.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#define MIB ((uint64_t)1 << 20)
#define POLL_SECONDS 0.5
#define LEAST_BACK (16 * MIB)

double fm_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

uint64_t fm_cache_bytes(void) {
    uint64_t most = 0;
#if defined(__APPLE__)
    static const char *const names[] = {"hw.l2cachesize", "hw.l3cachesize", "hw.perflevel0.l2cachesize"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        uint64_t bytes = 0;
        size_t size = sizeof bytes;
        if (sysctlbyname(names[i], &bytes, &size, NULL, 0) == 0 && bytes > most) most = bytes;
    }
#else
    for (int i = 0; i < 8; i++) {
        char path[80], text[32], *unit;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        if (!fm_cgroup_text(text, sizeof text, path)) break;
        uint64_t bytes = strtoull(text, &unit, 10) * (*unit == 'M' ? MIB : *unit == 'K' ? 1024 : 1);
        if (bytes > most) most = bytes;
    }
#endif
    return most;
}

/* "Name:   123 kB" of a file in /proc, in bytes; 0 if it is not there. */
static uint64_t proc_kb(const char *path, const char *name) {
    char text[8192];
    const char *at = fm_cgroup_text(text, sizeof text, path) ? strstr(text, name) : NULL;
    return at ? strtoull(at + strlen(name), NULL, 10) * 1024 : 0;
}

#if defined(__APPLE__)

uint64_t fm_memory_available(void) {
    vm_statistics64_data_t vm;
    mach_msg_type_number_t n = HOST_VM_INFO64_COUNT;
    if (host_statistics64(mach_host_self(), HOST_VM_INFO64, (host_info64_t)&vm, &n) != KERN_SUCCESS) return 0;
    return ((uint64_t)vm.free_count + vm.inactive_count + vm.purgeable_count) * (uint64_t)sysconf(_SC_PAGESIZE);
}
uint64_t fm_memory_limit(void) { return UINT64_MAX; }
uint64_t fm_memory_resident(void) {
    mach_task_basic_info_data_t info;
    mach_msg_type_number_t n = MACH_TASK_BASIC_INFO_COUNT;
    return task_info(mach_task_self(), MACH_TASK_BASIC_INFO, (task_info_t)&info, &n) == KERN_SUCCESS ? info.resident_size : 0;
}
uint64_t fm_memory_peak(void) {
    mach_task_basic_info_data_t info;
    mach_msg_type_number_t n = MACH_TASK_BASIC_INFO_COUNT;
    return task_info(mach_task_self(), MACH_TASK_BASIC_INFO, (task_info_t)&info, &n) == KERN_SUCCESS ? info.resident_size_max : 0;
}
int fm_cpu_count(void) {
    int n = 0; /* perflevel0 are the fast ones */
    size_t bytes = sizeof n;
    return sysctlbyname("hw.perflevel0.logicalcpu", &n, &bytes, NULL, 0) == 0 && n > 0 ? n : (int)sysconf(_SC_NPROCESSORS_ONLN);
}

#else

uint64_t fm_memory_available(void) {
    fm_cgroup group;
    uint64_t machine = proc_kb("/proc/meminfo", "MemAvailable:"),
             own = fm_cgroup_find(&group, "", "memory") ? fm_cgroup_memory_read(&group).available : UINT64_MAX;
    return machine < own ? machine : own;
}

uint64_t fm_memory_limit(void) {
    fm_cgroup group;
    return fm_cgroup_find(&group, "", "memory") ? fm_cgroup_memory_read(&group).limit : UINT64_MAX;
}

uint64_t fm_memory_peak(void) { return proc_kb("/proc/self/status", "VmHWM:"); }
uint64_t fm_memory_resident(void) { return proc_kb("/proc/self/status", "VmRSS:"); }

int fm_cpu_list_count(const char *list, const cpu_set_t *among) {
    int n = 0;
    for (char *end; *list && *list != '\n'; list = *end == ',' ? end + 1 : end) {
        long first = strtol(list, &end, 10), last = first;
        if (end == list) return 0;
        if (*end == '-') last = strtol(list = end + 1, &end, 10);
        if (end == list || first < 0 || last < first || last >= CPU_SETSIZE) return 0;
        for (long cpu = first; cpu <= last; cpu++) n += CPU_ISSET((size_t)cpu, among) != 0;
    }
    return n;
}

int fm_cpu_count(void) {
    cpu_set_t set;
    fm_cgroup group;
    char fast[256];
    bool known = sched_getaffinity(0, sizeof set, &set) == 0;
    int n = known ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    /* Of a hybrid CPU the performance cores: they have the bandwidth, and the others would be waited for. */
    int n_fast = known && fm_cgroup_text(fast, sizeof fast, "/sys/devices/cpu_core/cpus") ? fm_cpu_list_count(fast, &set) : 0;
    if (n_fast > 0) n = n_fast;
    int quota = fm_cgroup_find(&group, "", "cpu") ? fm_cgroup_cpus(&group) : 0;
    if (quota && quota < n) n = quota;
    return n < 1 ? 1 : n;
}

#endif

struct fm_pressure {
    double last;
    char psi[FM_CGROUP_PATH + 64]; /* file with PSI lines */
    char meminfo[FM_CGROUP_PATH];
    bool grouped;
    fm_cgroup group;
    uint64_t n_high;                 /* of the group when last looked at */
    uint64_t some_total, full_total; /* microseconds of stalls when last looked at */
};

/* Whether the line of kind says pressure: more than percent of the last ten seconds, and more than it since the last look too. The average alone lags: after
 * memory was given back it would ask again and again until it has decayed. */
static bool stalled(const char *text, const char *kind, double percent, double seconds, uint64_t *total) {
    const char *line = strstr(text, kind), *average = line ? strstr(line, "avg10=") : NULL, *sum = line ? strstr(line, "total=") : NULL;
    if (!average || !sum) return false;
    uint64_t now = strtoull(sum + 6, NULL, 10), before = *total;
    *total = now;
    return strtod(average + 6, NULL) > percent && now > before && (double)(now - before) > percent / 100 * seconds * 1e6;
}

uint64_t fm_pressure_look(fm_pressure *p, double seconds) {
    char text[512];
    bool pressed = false;
    if (fm_cgroup_text(text, sizeof text, p->psi)) {
        pressed |= stalled(text, "some", 10, seconds, &p->some_total);
        pressed |= stalled(text, "full", 1, seconds, &p->full_total);
    }
    if (p->grouped) {
        fm_cgroup_memory m = fm_cgroup_memory_read(&p->group);
        pressed |= m.tight || m.n_high > p->n_high;
        p->n_high = m.n_high;
    }
    /* Many systems run without PSI. */
    pressed |= proc_kb(p->meminfo, "MemAvailable:") < proc_kb(p->meminfo, "MemTotal:") / 50;
    if (!pressed) return 0;
    uint64_t back = fm_memory_resident() / 16;
    return back > LEAST_BACK ? back : LEAST_BACK;
}

int fm_pressure_open_at(fm_pressure **out, const char *root, fm_error *err) {
    fm_pressure *p = *out = calloc(1, sizeof *p);
    if (!p) return fm_fail(err, FM_ENOMEM, "no memory to watch memory pressure");
    p->grouped = fm_cgroup_find(&p->group, root, "memory");
    if (p->grouped && p->group.v2) snprintf(p->psi, sizeof p->psi, "%s/memory.pressure", p->group.directory);
    if (!*p->psi || access(p->psi, R_OK)) snprintf(p->psi, sizeof p->psi, "%s/proc/pressure/memory", root);
    snprintf(p->meminfo, sizeof p->meminfo, "%s/proc/meminfo", root);
    (void)fm_pressure_look(p, 0); /* takes the counters as they are */
    p->last = fm_now();
    return 0;
}

int fm_pressure_open(fm_pressure **pressure, fm_error *err) { return fm_pressure_open_at(pressure, "", err); }

void fm_pressure_close(fm_pressure **pressure) {
    free(*pressure);
    *pressure = NULL;
}

uint64_t fm_pressure_poll(fm_pressure *p) {
    double now = fm_now(), seconds = now - p->last;
    if (seconds < POLL_SECONDS) return 0;
    p->last = now;
    return fm_pressure_look(p, seconds);
}

#if defined(__x86_64__)
/* Linux lets a process use tiles when it has asked to, once for all of its threads. */
static bool tiles_permitted(void) {
#if defined(__linux__)
    return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0;
#else
    return false;
#endif
}
#endif

fm_cpu_features fm_cpu_features_read(void) {
    fm_cpu_features f = {0};
#if defined(__x86_64__)
    unsigned a, b, c, d, state_low = 0, state_high;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
    bool fma = c >> 12 & 1, f16c = c >> 29 & 1;
    if (c >> 27 & 1) __asm__ volatile("xgetbv" : "=a"(state_low), "=d"(state_high) : "c"(0));
    bool avx = (state_low & 6) == 6, zmm = (state_low & 0xe6) == 0xe6, tiles = (state_low & 0x60000) == 0x60000;
    if (!avx || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
    f.fma = fma;
    f.f16c = f16c;
    f.avx2 = b >> 5 & 1;
    f.avx512 = zmm && (b >> 16 & 1) && (b >> 30 & 1) && (b >> 31 & 1) && (b >> 17 & 1);
    f.avx512_vnni = f.avx512 && (c >> 11 & 1);
    f.amx_int8 = tiles && (d >> 24 & 1) && (d >> 25 & 1) && tiles_permitted();
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) f.avx_vnni = a >> 4 & 1;
#elif defined(__aarch64__)
    f.neon = true;
#if defined(__linux__)
    f.dotprod = getauxval(AT_HWCAP) >> 20 & 1;
    f.i8mm = getauxval(AT_HWCAP2) >> 13 & 1;
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    f.dotprod = true;
    f.i8mm = sysctlbyname("hw.optional.arm.FEAT_I8MM", &has, &size, NULL, 0) == 0 && has;
#endif
#endif
    return f;
}
