/* The same on a real control group: a child process goes into one of 256 MiB, fills it and gives back. Needs root; the group is removed again. */
#include "base/memory.h"
#include "base/system.h"

#include <errno.h>
#include <sys/wait.h>

#include "tree.h"

#define MIB ((uint64_t)1 << 20)
#define LIMIT (256 * MIB)

static char directory[200];

static bool put(const char *name, const char *text) {
    char path[300];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0) close(fd);
    return done;
}

/* Makes a group with the limit; "" and the reason if that is refused. */
static const char *make_group(void) {
    bool v1 = access("/sys/fs/cgroup/memory/memory.limit_in_bytes", F_OK) == 0;
    if (!v1 && access("/sys/fs/cgroup/cgroup.controllers", F_OK)) return "no memory control groups are mounted";
    snprintf(directory, sizeof directory, "/sys/fs/cgroup/%sflash-moe-test-%d", v1 ? "memory/" : "", (int)getpid());
    if (mkdir(directory, 0700)) return "a control group cannot be made";
    if (put(v1 ? "memory.limit_in_bytes" : "memory.max", "268435456")) return NULL;
    rmdir(directory);
    return "a memory limit cannot be set";
}

/* Writes 64 MiB through the page cache, which is charged to the group but can be dropped. */
static void test_page_cache(void) {
    static char block[1 << 20];
    char path[TREE_PATH];
    uint64_t before = fm_memory_available();
    snprintf(path, sizeof path, "%s/cache", tree_root);
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    for (int i = 0; i < 64; i++) CHECK(write(fd, block, sizeof block) == sizeof block, "writing %d MiB", i);
    fsync(fd);
    uint64_t with = fm_memory_available();
    CHECK(with + 24 * MIB >= before, "64 MiB of page cache took %lld MiB", (long long)(before - with) >> 20);
    close(fd);
}

static int child(void) {
    if (!put("cgroup.procs", "0")) return 77;
    alarm(120);
    uint64_t limit = fm_memory_limit(), start = fm_memory_available();
    CHECK(limit == LIMIT, "a limit of %llu", (unsigned long long)limit);
    CHECK(start > 128 * MIB && start <= LIMIT, "%llu available", (unsigned long long)start);
    test_page_cache();
    fm_pressure *p;
    fm_region r;
    MUST(fm_pressure_open(&p, err));
    MUST(fm_region_open(&r, LIMIT, "test", err));
    size_t used = 0;
    while (used < LIMIT && fm_memory_available() >= 2 * MIB) {
        memset(r.data + used, 1, MIB);
        used += MIB;
    }
    CHECK(used > 24 * MIB && used < LIMIT, "full after %zu MiB", used >> 20);
    uint64_t back = fm_pressure_look(p, 0.5);
    CHECK(back >= 16 * MIB && back <= 32 * MIB, "%llu bytes are to be given back", (unsigned long long)back);
    fm_region_drop(&r, 0, 48 * MIB);
    uint64_t left = fm_memory_available();
    CHECK(left >= 40 * MIB && left <= 64 * MIB, "48 MiB given back leave %llu", (unsigned long long)left);
    fm_region_close(&r);
    fm_pressure_close(&p);
    return TEST_END();
}

int main(void) {
    const char *reason = make_group();
    if (reason) SKIP("%s", reason);
    tree_open();
    pid_t pid = fork();
    if (pid == 0) _exit(child());
    int status = 0;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    /* What was charged is let go of a little after the process. */
    int refused = -1;
    for (int i = 0; i < 100 && (refused = rmdir(directory)) != 0; i++) usleep(20000);
    CHECK(refused == 0, "%s is left behind", directory);
    if (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 77) SKIP("a process cannot enter the group");
    CHECK(pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with status %x", (unsigned)status);
    return TEST_END();
}
