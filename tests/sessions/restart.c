/* tests/sessions/restart.c: a long preamble again after a restart, with another ending: it is read from the disk and not computed. restart DIRECTORY; by hand, with times:
 * restart DIRECTORY --bench TOKENS [MEMORY_MB [KV]] */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/engine.h"
#include "test.h"

#define ENDING 16

static char root[256];
static int32_t *text;

static void log_line(void *user, int level, const char *line) {
    (void)user;
    if (level == FM_LOG_WARNING) fprintf(stderr, "%s\n", line);
}

static fm_engine *open_engine(const char *model, int n, const char *cache, uint64_t memory, int kv) {
    fm_engine_options o = FM_ENGINE_OPTIONS_INIT;
    fm_engine *e;
    o.context = n + 256;
    o.memory_bytes = memory;
    o.session_cache = cache;
    o.kv = kv;
    o.log = log_line;
    MUST(fm_engine_open(&e, model, &o, err));
    return e;
}

/* The preamble of n - ENDING tokens, and an ending of its own for each. */
static fm_synced turn(fm_engine *e, int n, int ending, double *first_token) {
    fm_session *s;
    fm_synced out;
    int border = n - ENDING;
    for (int i = border; i < n; i++) text[i] = ending + i % 50;
    MUST(fm_session_open(&s, e, err));
    double start = fm_now();
    MUST(fm_session_sync(s, text, n, &border, 1, &out, err));
    *first_token = fm_now() - start;
    fm_session_close(&s);
    return out;
}

/* Only the snapshot at the border is left, so that what is there is what is read. */
static void leave_one(int border) {
    char command[600];
    snprintf(command, sizeof command, "find '%s' -name '*.snapshot' ! -name '%08d-*' -delete", root, border);
    if (system(command)) exit(1);
}

/* All files: drop: out of the page cache; else reads them to `to`. Returns their bytes. */
static uint64_t files(const char *directory, bool drop, uint8_t *to) {
    uint64_t sum = 0;
    DIR *dir = opendir(directory);
    for (const struct dirent *entry; dir && (entry = readdir(dir));) {
        char path[1600];
        struct stat st;
        if (entry->d_name[0] == '.' || snprintf(path, sizeof path, "%s/%s", directory, entry->d_name) >= (int)sizeof path || stat(path, &st)) continue;
        if (S_ISDIR(st.st_mode)) {
            sum += files(path, drop, to + sum);
            continue;
        }
        int fd = open(path, O_RDONLY);
        if (drop) posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        for (ssize_t n = 0; !drop && (n = read(fd, to + sum, 1 << 20)) > 0;) sum += (uint64_t)n;
        close(fd);
    }
    if (dir) closedir(dir);
    return sum;
}

/* Into memory that was not used before, as a session's is. */
static double read_seconds(uint64_t *bytes) {
    fm_region region;
    MUST(fm_region_open(&region, (size_t)2 << 30, "files", err));
    double start = fm_now();
    *bytes = files(root, false, region.data);
    double seconds = fm_now() - start;
    fm_region_close(&region);
    return seconds;
}

int main(int argc, char **argv) {
    if (argc < 2) SKIP("restart DIRECTORY");
    bool bench = argc > 3;
    int n = bench ? atoi(argv[3]) : 1500, kv = argc > 5 ? atoi(argv[5]) : 0;
    uint64_t memory = (uint64_t)(argc > 4 ? atoi(argv[4]) : 512) << 20, bytes;
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%.200s/flash-moe-restart-XXXXXX", tmp ? tmp : "/tmp");
    text = malloc((size_t)n * sizeof *text);
    if (!mkdtemp(root) || !text) SKIP("no temporary directory");
    uint64_t random = 1;
    for (int i = 0; i < n; i++) text[i] = (int32_t)(test_random(&random) % 4000);
    double first;
    fm_engine *e = open_engine(argv[1], n, root, memory, kv);
    fm_synced s = turn(e, n, 100, &first);
    CHECK(s.n_computed == n, "%d tokens came from nowhere", n - s.n_computed);
    fm_engine_close(&e);
    fprintf(stderr, "%d tokens computed: first token after %.3f s\n", n, first);
    leave_one(n - ENDING);
    for (int round = 0; round < (bench ? 5 : 1); round++) {
        for (int cold = 1; cold >= 0; cold--) {
            if (cold) files(root, true, NULL);
            double plain = read_seconds(&bytes);
            if (cold) files(root, true, NULL);
            e = open_engine(argv[1], n, root, memory, kv);
            s = turn(e, n, 200 + round, &first);
            CHECK(s.n_restored == n - ENDING && s.n_computed == ENDING, "%d tokens restored, %d computed", s.n_restored, s.n_computed);
            if (bench)
                fprintf(stderr, "%s: %.1f MB in the cache, plain reading %.4f s; restored in %.4f s (%.2f times), %d tokens computed in %.4f s\n",
                        cold ? "cold" : "warm", (double)bytes / 1e6, plain, s.restore_seconds, s.restore_seconds / plain, s.n_computed, s.compute_seconds);
            fm_directory_close(&e->directory); /* nothing more is written */
            fm_engine_close(&e);
        }
    }
    char command[400];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    free(text);
    return system(command) ? 1 : TEST_END();
}
