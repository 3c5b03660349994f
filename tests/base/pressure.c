/* Memory pressure, from files that the test changes: stalls, memory.high, a limit that is near, a machine that is full; and the wait between two looks. */
#include "base/system.h"

#include "tree.h"

static void psi(const char *name, double some, unsigned long long some_total, double full, unsigned long long full_total) {
    char text[300];
    snprintf(text, sizeof text, "some avg10=%.2f avg60=0.00 avg300=0.00 total=%llu\nfull avg10=%.2f avg60=0.00 avg300=0.00 total=%llu\n", some, some_total,
             full, full_total);
    tree_text(name, text);
}

static fm_pressure *open_here(void) {
    fm_pressure *p;
    MUST(fm_pressure_open_at(&p, tree_root, err));
    return p;
}

static void machine(void) {
    tree_clear();
    tree_text("/proc/meminfo", "MemTotal:       1000000 kB\nMemFree:  500 kB\nMemAvailable:    500000 kB\n");
}

static void test_psi(const char *file) {
    psi(file, 50, 1000000, 20, 1000000);
    fm_pressure *p = open_here();
    CHECK(fm_pressure_look(p, 0.5) == 0, "stalls that ended before it was opened");
    psi(file, 9, 1400000, 0.5, 1000000);
    CHECK(fm_pressure_look(p, 0.5) == 0, "a burst that the average does not show yet");
    psi(file, 11, 1500000, 0.5, 1000000);
    uint64_t back = fm_pressure_look(p, 0.5), resident = fm_memory_resident();
    CHECK(back >= (uint64_t)16 << 20 && (back == (uint64_t)16 << 20 || back <= resident / 8), "some: %llu bytes", (unsigned long long)back);
    psi(file, 11, 1540000, 0.5, 1000000);
    CHECK(fm_pressure_look(p, 0.5) == 0, "8 %% of the time, and an average from before");
    psi(file, 0, 1540000, 1.5, 1006000);
    CHECK(fm_pressure_look(p, 0.5) > 0, "full: 1.2 %% of the time");
    CHECK(fm_pressure_look(p, 0.5) == 0, "full: it has ended");
    psi(file, 99, 0, 99, 0);
    CHECK(fm_pressure_look(p, 0.5) == 0, "counters that went back");
    tree_text(file, "rubbish\n");
    CHECK(fm_pressure_look(p, 0.5) == 0, "rubbish");
    fm_pressure_close(&p);
    CHECK(!p, "closed");
    fm_pressure_close(&p);
}

static void test_v2(void) {
    machine();
    tree_text("/proc/self/cgroup", "0::/a/b\n");
    tree_text("/proc/self/mountinfo", "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    tree_text("/sys/fs/cgroup/a/b/memory.events", "high 5\n");
    tree_text("/sys/fs/cgroup/a/memory.events", "high 9\n");
    psi("/sys/fs/cgroup/a/b/memory.pressure", 0, 0, 0, 0);
    fm_pressure *p = open_here();
    CHECK(fm_pressure_look(p, 0.5) == 0, "events from before it was opened");
    psi("/proc/pressure/memory", 99, 99000000, 99, 99000000);
    CHECK(fm_pressure_look(p, 0.5) == 0, "the pressure of others");
    tree_text("/sys/fs/cgroup/a/b/memory.events", "high 6\n");
    CHECK(fm_pressure_look(p, 0.5) > 0, "memory.high");
    CHECK(fm_pressure_look(p, 0.5) == 0, "memory.high, once");
    tree_text("/sys/fs/cgroup/a/memory.events", "high 10\n");
    CHECK(fm_pressure_look(p, 0.5) > 0, "memory.high of the parent");
    tree_text("/sys/fs/cgroup/a/b/memory.max", "100000000\n");
    tree_text("/sys/fs/cgroup/a/b/memory.current", "98500000\n");
    CHECK(fm_pressure_look(p, 0.5) > 0, "1.5 %% are left");
    tree_text("/sys/fs/cgroup/a/b/memory.stat", "inactive_file 1000000\n");
    CHECK(fm_pressure_look(p, 0.5) == 0, "1.5 %% and the page cache are left");
    fm_pressure_close(&p);
    test_psi("/sys/fs/cgroup/a/b/memory.pressure");
}

static void test_v1(void) {
    machine();
    tree_text("/proc/self/cgroup", "4:memory:/a\n0::/\n");
    tree_text("/proc/self/mountinfo", "31 23 0:28 / /m rw - cgroup cgroup rw,memory\n");
    tree_text("/m/a/memory.limit_in_bytes", "100000000\n");
    tree_text("/m/a/memory.usage_in_bytes", "97500000\n");
    fm_pressure *p = open_here();
    CHECK(fm_pressure_look(p, 0.5) == 0, "2.5 %% are left");
    tree_text("/m/a/memory.usage_in_bytes", "98500000\n");
    CHECK(fm_pressure_look(p, 0.5) > 0, "1.5 %% are left");
    CHECK(fm_pressure_look(p, 0.5) > 0, "and still");
    tree_text("/m/a/memory.stat", "total_active_file 2000000\n");
    CHECK(fm_pressure_look(p, 0.5) == 0, "1.5 %% and the page cache are left");
    fm_pressure_close(&p);
    test_psi("/proc/pressure/memory");
}

static void test_machine(void) {
    machine();
    fm_pressure *p = open_here();
    CHECK(fm_pressure_look(p, 0.5) == 0, "half of the memory is free");
    tree_text("/proc/meminfo", "MemTotal:       1000000 kB\nMemAvailable:    19000 kB\n");
    CHECK(fm_pressure_look(p, 0.5) > 0, "1.9 %% of the memory are free");
    tree_text("/proc/meminfo", "");
    CHECK(fm_pressure_look(p, 0.5) == 0, "unknown");
    fm_pressure_close(&p);
    test_psi("/proc/pressure/memory");
}

/* poll looks once in half a second. */
static void test_poll(void) {
    machine();
    tree_text("/proc/meminfo", "MemTotal:       1000000 kB\nMemAvailable:    10000 kB\n");
    fm_pressure *p = open_here();
    double start = fm_now();
    CHECK(fm_pressure_poll(p) == 0 || fm_now() - start > 0.4, "at once");
    usleep(550000);
    CHECK(fm_pressure_poll(p) > 0, "after half a second");
    start = fm_now();
    CHECK(fm_pressure_poll(p) == 0 || fm_now() - start > 0.4, "and once");
    fm_pressure_close(&p);
}

int main(void) {
    tree_open();
    test_v2();
    test_v1();
    test_machine();
    test_poll();
    return TEST_END();
}
