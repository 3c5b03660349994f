/* Control groups, from trees of files laid out as Linux has them: v1, v2, both, containers, and what is missing. */
#include "base/cgroup.h"

#include "tree.h"

#define MIB ((uint64_t)1 << 20)
#define V1_MOUNT                                                                                                                                               \
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n35 31 0:32 %s /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
#define V2_MOUNT "31 23 0:28 %s /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"

static fm_cgroup group;

/* A new tree with these two files; mounts has one %s, the mount's root. */
static bool find(const char *controller, const char *groups, const char *mounts, const char *mount_root) {
    char text[1000];
    tree_text("/proc/self/cgroup", groups);
    snprintf(text, sizeof text, mounts, mount_root); /* NOLINT: the formats are the two above */
    tree_text("/proc/self/mountinfo", text);
    return fm_cgroup_find(&group, tree_root, controller);
}

/* Where it was found, without the tree's root. */
static const char *where(void) { return group.directory + strlen(tree_root); }

#define EXPECT_MEMORY(want_limit, want_available, want_tight)                                                                                                  \
    do {                                                                                                                                                       \
        fm_cgroup_memory m = fm_cgroup_memory_read(&group);                                                                                                    \
        CHECK(m.limit == (want_limit) && m.available == (want_available) && m.tight == (want_tight), "limit %llu available %llu tight %d",                     \
              (unsigned long long)m.limit, (unsigned long long)m.available, m.tight);                                                                          \
    } while (0)

static void test_v1(void) {
    tree_clear();
    CHECK(find("memory", "9:name=systemd:/\n4:memory:/a/b\n1:cpu:/\n0::/\n", V1_MOUNT, "/") && !group.v2, "found");
    CHECK(!strcmp(where(), "/sys/fs/cgroup/memory/a/b"), "%s", where());
    EXPECT_MEMORY(UINT64_MAX, UINT64_MAX, false); /* no file at all */
    tree_text("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    tree_text("/sys/fs/cgroup/memory/memory.usage_in_bytes", "99999999999\n");
    tree_text("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "104857600\n");
    tree_text("/sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "62914560\n");
    EXPECT_MEMORY(100 * MIB, 40 * MIB, false);
    tree_text("/sys/fs/cgroup/memory/a/b/memory.stat", "cache 1\ninactive_file 1\nactive_file 1\ntotal_inactive_file 10485760\ntotal_active_file 5242880\n");
    EXPECT_MEMORY(100 * MIB, 55 * MIB, false);
    /* The parent's limit is the larger one, but what is left of it is less. */
    tree_text("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "209715200\n");
    tree_text("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "199229440\n");
    EXPECT_MEMORY(100 * MIB, 10 * MIB, false);
    tree_text("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "207600000\n");
    EXPECT_MEMORY(100 * MIB, 209715200u - 207600000u, false);
    tree_text("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "207700000\n"); /* less than 2 MiB are left */
    EXPECT_MEMORY(100 * MIB, 209715200u - 207700000u, true);
    tree_text("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "10737418240\n");
    tree_text("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "10732418240\n"); /* less than a thousandth of its own limit, much of the child's */
    EXPECT_MEMORY(100 * MIB, 5000000u, true);
    tree_text("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "209715200\n");
    tree_text("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "300000000\n"); /* over its limit */
    EXPECT_MEMORY(100 * MIB, 0u, true);
    tree_text("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "52428800\n");
    EXPECT_MEMORY(50 * MIB, 0u, true);
    tree_text("/sys/fs/cgroup/memory/a/memory.stat", "total_inactive_file 999999999\n"); /* more cache than usage */
    EXPECT_MEMORY(50 * MIB, 50 * MIB, false);
}

static void test_v2(void) {
    tree_clear();
    CHECK(find("memory", "0::/user.slice/x.scope\n", V2_MOUNT, "/") && group.v2, "found");
    tree_text("/sys/fs/cgroup/user.slice/x.scope/memory.max", "max\n");
    tree_text("/sys/fs/cgroup/user.slice/x.scope/memory.high", "max\n");
    tree_text("/sys/fs/cgroup/user.slice/x.scope/memory.current", "73400320\n");
    EXPECT_MEMORY(UINT64_MAX, UINT64_MAX, false);
    tree_text("/sys/fs/cgroup/user.slice/x.scope/memory.max", "104857600\n");
    tree_text("/sys/fs/cgroup/user.slice/x.scope/memory.stat",
              "anon 1\nfile 9\nfile_mapped 5\ninactive_file 4194304\nactive_file 2097152\nworkingset_refault_file 7\n");
    EXPECT_MEMORY(100 * MIB, 36 * MIB, false);
    tree_text("/sys/fs/cgroup/user.slice/x.scope/memory.high", "94371840\n");
    EXPECT_MEMORY(90 * MIB, 26 * MIB, false);
    tree_text("/sys/fs/cgroup/user.slice/memory.max", "83886080\n"); /* the parent has the smaller limit */
    tree_text("/sys/fs/cgroup/user.slice/memory.current", "78643200\n");
    EXPECT_MEMORY(80 * MIB, 5 * MIB, false);
    tree_text("/sys/fs/cgroup/user.slice/x.scope/memory.events", "low 1\nhigh 3\nmax 0\n");
    tree_text("/sys/fs/cgroup/user.slice/memory.events", "low 0\nhigh 40\nmax 0\n");
    CHECK(fm_cgroup_memory_read(&group).n_high == 43, "%llu", (unsigned long long)fm_cgroup_memory_read(&group).n_high);
    tree_text("/sys/fs/cgroup/user.slice/memory.max", "rubbish\n");
    EXPECT_MEMORY(90 * MIB, 26 * MIB, false);
}

/* Which directory is looked at: containers see a part of the path, or none of it. */
static void test_place(void) {
    static const struct {
        const char *groups, *mounts, *mount_root, *want;
    } cases[] = {
        {"0::/\n", V2_MOUNT, "/", "/sys/fs/cgroup"},
        {"4:memory:/docker/abc\n", V1_MOUNT, "/docker/abc", "/sys/fs/cgroup/memory"},
        {"4:memory:/docker/abc/x/y\n", V1_MOUNT, "/docker/abc", "/sys/fs/cgroup/memory/x/y"},
        {"4:memory:/docker/abcd\n", V1_MOUNT, "/docker/abc", "/sys/fs/cgroup/memory"}, /* the same first letters are not the same group */
        {"4:memory:/elsewhere\n", V1_MOUNT, "/docker/abc", "/sys/fs/cgroup/memory"},
        {"0::/../other\n", V2_MOUNT, "/", "/sys/fs/cgroup"}, /* outside the cgroup namespace */
        {"0::/\n", V2_MOUNT, "/..", "/sys/fs/cgroup"},
        {"0::/a..b\n", V2_MOUNT, "/", "/sys/fs/cgroup/a..b"},
        {"0::/a:b\n", V2_MOUNT, "/", "/sys/fs/cgroup/a:b"},
        {"5:cpu,memory:/m\n0::/u\n", "35 31 0:32 %s /mnt rw - cgroup cgroup rw,cpu,memory\n", "/", "/mnt/m"},
        {"0::/g\n", "35 31 0:32 %s /mnt\\040with\\134signs rw - cgroup2 cgroup2 rw\n", "/", "/mnt with\\signs/g"},
        /* v2 first in the file, and a v1 hierarchy that has the controller: v1 it is */
        {"0::/u\n4:memory:/m\n", "1 1 0:1 / /v2 rw - cgroup2 cgroup2 rw\n2 1 0:2 %s /v1 rw - cgroup cgroup rw,memory\n", "/", "/v1/m"},
        /* controllers whose names only begin alike */
        {"3:memory2:/n\n4:memory:/m\n", "2 1 0:2 / /n rw - cgroup cgroup rw,memory2\n2 1 0:2 %s /v1 rw - cgroup cgroup rw,memory\n", "/", "/v1/m"},
        /* two mounts: the one that shows the group, whichever comes first */
        {"0::/a/b\n", "1 1 0:1 /c /one rw - cgroup2 cgroup2 rw\n2 1 0:1 %s /two rw - cgroup2 cgroup2 rw\n", "/a", "/two/b"},
        {"0::/a/b\n", "2 1 0:1 %s /two rw - cgroup2 cgroup2 rw\n1 1 0:1 /c /one rw - cgroup2 cgroup2 rw\n", "/a", "/two/b"},
        {"0::/g\n", "rubbish\n\n1 2\n - cgroup2\n1 1 0:1 / /one rw - cgroup2 cgroup2 rw%s\n", "", "/one/g"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tree_clear();
        bool found = find("memory", cases[i].groups, cases[i].mounts, cases[i].mount_root);
        CHECK(found && !strcmp(where(), cases[i].want), "case %zu: %s instead of %s", i, found ? where() : "nothing", cases[i].want);
    }
    tree_clear();
    CHECK(!fm_cgroup_find(&group, tree_root, "memory"), "nothing there");
    CHECK(!find("memory", "4:memory:/m\n", "1 1 0:1 %s /one rw - ext4 /dev/x rw\n", "/"), "no mount");
    CHECK(!find("memory", "rubbish\n\n:\n::\n", V1_MOUNT, "/"), "no group");
    CHECK(!find("memory", "", V1_MOUNT, "/"), "an empty file");
    char longer[3000] = "0::/";
    memset(longer + 4, 'x', sizeof longer - 5);
    CHECK(!find("memory", longer, V2_MOUNT, "/"), "a path that is too long");
}

/* A mountinfo as hosts of many containers have it: the line comes after more than a hundred kilobytes. */
static void test_long_mountinfo(void) {
    size_t size = 400000, n = 0;
    char *text = malloc(size);
    for (int i = 0; i < 2000; i++) n += (size_t)snprintf(text + n, size - n, "%d 1 0:%d / /var/lib/layers/%064d rw,relatime - overlay overlay rw\n", i, i, i);
    snprintf(text + n, size - n, "9 1 0:9 / /late rw - cgroup2 cgroup2 rw\n");
    tree_clear();
    tree_text("/proc/self/cgroup", "0::/g\n");
    tree_text("/proc/self/mountinfo", text);
    CHECK(fm_cgroup_find(&group, tree_root, "memory") && !strcmp(where(), "/late/g"), "%s", where());
    free(text);
}

static int cpus(void) { return fm_cgroup_cpus(&group); }

static void test_cpus(void) {
    tree_clear();
    CHECK(find("cpu", "0::/a/b\n", V2_MOUNT, "/"), "found");
    CHECK(cpus() == 0, "%d", cpus());
    tree_text("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    CHECK(cpus() == 0, "%d", cpus());
    tree_text("/sys/fs/cgroup/a/b/cpu.max", "350000 100000\n");
    CHECK(cpus() == 4, "%d", cpus());
    tree_text("/sys/fs/cgroup/a/cpu.max", "100001 50000\n");
    CHECK(cpus() == 3, "%d", cpus());
    tree_text("/sys/fs/cgroup/a/cpu.max", "1000 100000\n");
    CHECK(cpus() == 1, "%d", cpus());
    tree_text("/sys/fs/cgroup/a/cpu.max", "1000 0\n");
    CHECK(cpus() == 4, "%d", cpus());

    tree_clear();
    CHECK(find("cpu", "2:cpu,cpuacct:/a\n", "1 1 0:1 %s /c rw - cgroup cgroup rw,cpu,cpuacct\n", "/") && !group.v2, "found");
    tree_text("/c/a/cpu.cfs_quota_us", "-1\n");
    tree_text("/c/a/cpu.cfs_period_us", "100000\n");
    CHECK(cpus() == 0, "%d", cpus());
    tree_text("/c/a/cpu.cfs_quota_us", "150000\n");
    CHECK(cpus() == 2, "%d", cpus());
    tree_text("/c/a/cpu.cfs_period_us", "10000\n");
    CHECK(cpus() == 15, "%d", cpus());
    tree_text("/c/cpu.cfs_quota_us", "200000\n"); /* the parent; its period is missing: the default */
    CHECK(cpus() == 2, "%d", cpus());
}

int main(void) {
    tree_open();
    test_v1();
    test_v2();
    test_place();
    test_long_mountinfo();
    test_cpus();
    return TEST_END();
}
