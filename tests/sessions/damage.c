/* tests/sessions/damage.c: files of a session cache with a bit flipped in every region, a disk that is full or read-only, and the limit of writing. damage DIRECTORY: a model. */
#include <dirent.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/engine.h"
#include "snapshots/directory_files.h"
#include "test.h"
#if defined(__linux__)
#include <sched.h>
#include <sys/mount.h>
#endif

#define CONTEXT 1024
#define N_TEXT 600
#define BORDER 530 /* two pages and some rows */

static const char *model;
static char root[256], line[1024]; /* the last of the log's */
static int32_t text[CONTEXT];
static int n_lines;

static void log_line(void *user, int level, const char *what) {
    (void)user;
    if (level != FM_LOG_WARNING) return;
    n_lines++;
    snprintf(line, sizeof line, "%s", what);
}

static fm_engine *open_engine(void) {
    fm_engine_options o = FM_ENGINE_OPTIONS_INIT;
    fm_engine *e;
    o.context = CONTEXT;
    o.n_threads = 2;
    o.n_sessions = 2;
    o.memory_bytes = (uint64_t)512 << 20;
    o.session_cache = root;
    o.log = log_line;
    MUST(fm_engine_open(&e, model, &o, err));
    n_lines = 0;
    return e;
}

static fm_session *open_at(fm_engine *e, int border) {
    fm_session *s;
    MUST(fm_session_open(&s, e, err));
    MUST(fm_session_sync(s, text, N_TEXT, &border, 1, NULL, err));
    return s;
}

static void shell(const char *format) {
    char command[600];
    snprintf(command, sizeof command, format, root);
    if (system(command)) abort();
}

/* ---- flipped bits ---- */

typedef struct kept {
    char path[800];
    uint8_t *data;
    size_t bytes, meta_bytes;
} kept;

static kept files[8];
static int n_files;

static void keep_files(const char *directory) {
    DIR *dir = opendir(directory);
    for (const struct dirent *entry; dir && (entry = readdir(dir));) {
        char path[800];
        struct stat st;
        if (entry->d_name[0] == '.' || snprintf(path, sizeof path, "%s/%s", directory, entry->d_name) >= (int)sizeof path || stat(path, &st)) continue;
        if (S_ISDIR(st.st_mode)) keep_files(path);
        if (!S_ISREG(st.st_mode) || st.st_size < 200 || n_files == 8) continue;
        kept *k = &files[n_files++];
        memcpy(k->path, path, sizeof path);
        k->bytes = (size_t)st.st_size;
        k->data = malloc(k->bytes);
        FILE *f = fopen(path, "rb");
        if (fread(k->data, 1, k->bytes, f) != k->bytes) abort();
        fclose(f);
        fm_state_header h;
        memcpy(&h, k->data, sizeof h);
        k->meta_bytes = (size_t)h.meta_bytes;
    }
    if (dir) closedir(dir);
}

static void put(const kept *k) {
    FILE *f = fopen(k->path, "wb");
    if (!f || fwrite(k->data, 1, k->bytes, f) != k->bytes || fclose(f)) abort();
}

/* One bit of one file: nothing is restored, there is a line that names the file, and the file is gone or stays if it is of another version. */
static void flip(fm_engine *e, fm_session *s, kept *k, size_t at, int bit) {
    n_lines = 0;
    k->data[at] ^= (uint8_t)(1 << bit);
    put(k);
    k->data[at] ^= (uint8_t)(1 << bit);
    fm_session_clear(s);
    s->line.n_rows = 0;
    int got = fm_directory_restore(e->directory, &s->line, text, 0, N_TEXT);
    CHECK(got == 0 && n_lines == 1 && strstr(line, k->path), "bit %d of byte %zu of %s: %d tokens restored, %d lines: %s", bit, at, k->path, got, n_lines,
          line);
    for (int i = 0; i < n_files; i++) put(&files[i]);
}

static void check_flips(void) {
    uint64_t random = 11;
    fm_engine *e = open_engine();
    fm_session *s = open_at(e, BORDER);
    CHECK(fm_engine_idle(e, 60, NULL) == 0, "something is left");
    shell("find '%s' -name '*.snapshot' ! -name '00000530-*' -delete");
    keep_files(root);
    CHECK(n_files == 3, "%d files, not two pages and a snapshot", n_files);
    uint64_t bytes = e->snapshots->fixed_bytes, sum;
    uint8_t *want = malloc(bytes + 1);
    fm_session_clear(s);
    s->line.n_rows = 0;
    CHECK(fm_directory_restore(e->directory, &s->line, text, 0, N_TEXT) == BORDER && n_lines == 0, "not restored: %s", line);
    memcpy(want, e->ops->fixed(s->line.state), bytes);
    int n = 0;
    for (int i = 0; i < n_files; i++) {
        kept *k = &files[i];
        for (size_t at = 0; at < k->meta_bytes; at += at < 512 ? 1 : 61, n++) flip(e, s, k, at, (int)(at % 8));
        for (int j = 0; j < 400; j++, n++) {
            size_t behind = k->bytes - k->meta_bytes;
            size_t at = j == 0 ? k->meta_bytes : j == 1 ? k->bytes - 1 : k->meta_bytes + (size_t)(test_random(&random) % behind);
            flip(e, s, k, at, (int)(test_random(&random) % 8));
        }
    }
    fm_session_clear(s);
    s->line.n_rows = 0;
    sum = (uint64_t)fm_directory_restore(e->directory, &s->line, text, 0, N_TEXT);
    CHECK(sum == BORDER && memcmp(want, e->ops->fixed(s->line.state), bytes) == 0, "%d tokens restored in the end", (int)sum);
    fprintf(stderr, "%d bits flipped in %d files\n", n, n_files);
    free(want);
    for (int i = 0; i < n_files; i++) free(files[i].data);
    fm_session_close(&s);
    fm_engine_close(&e);
    shell("rm -rf '%s'/*");
}

/* ---- the limit of writing ---- */

static void check_write_limit(void) {
    fm_engine *e = open_engine();
    e->directory->config.write_bytes = 1000; /* one snapshot crosses it */
    fm_session *s = open_at(e, BORDER);
    int left = fm_engine_idle(e, 60, NULL);
    CHECK(left > 0 && n_lines == 1 && strstr(line, "written much"), "%d left, %d lines: %s", left, n_lines, line);
    CHECK(fm_engine_idle(e, 60, NULL) == left && n_lines == 1, "%d lines: %s", n_lines, line);
    /* Another process is held back by what this one wrote. */
    fm_engine *other = open_engine();
    other->directory->config.write_bytes = 1000;
    text[0]++;
    fm_session *t = open_at(other, BORDER);
    n_lines = 0;
    CHECK(fm_engine_idle(other, 60, NULL) > 0 && n_lines == 1, "%d lines: %s", n_lines, line);
    /* Long after, it may write again. */
    char path[300], wrote[64] = "";
    snprintf(path, sizeof path, "%s/lock", root);
    FILE *f = fopen(path, "r+");
    unsigned long long bytes = 0;
    long long then = 0;
    CHECK(fgets(wrote, sizeof wrote, f) && sscanf(wrote, "%llu bytes at %lld", &bytes, &then) == 2 && bytes > 1000, "the lock file says: %s", wrote);
    rewind(f);
    fprintf(f, "%20llu bytes at %20lld\n", bytes, then - 3600);
    fclose(f);
    n_lines = 0;
    left = fm_engine_idle(e, 60, NULL);
    CHECK(fm_engine_idle(other, 60, NULL) > 0, "it wrote twice");
    other->directory->config.write_bytes = e->directory->config.write_bytes = UINT64_MAX;
    CHECK(fm_engine_idle(other, 60, NULL) == 0 && fm_engine_idle(e, 60, NULL) == 0, "without a limit something is left");
    text[0]--;
    fm_session_close(&t);
    fm_engine_close(&other);
    fm_session_close(&s);
    fm_engine_close(&e);
    shell("rm -rf '%s'/*");
}

/* ---- disks that refuse ---- */

/* Whatever the system lets be written of a file: what is there then is whole. */
static void check_short_files(void) {
    uint64_t random = 5;
    struct rlimit old, some;
    getrlimit(RLIMIT_FSIZE, &old);
    some = old;
    signal(SIGXFSZ, SIG_IGN);
    for (int i = 0; i < 12; i++) {
        fm_engine *e = open_engine();
        fm_session *s = open_at(e, BORDER);
        some.rlim_cur = (rlim_t)(test_random(&random) % 150000);
        setrlimit(RLIMIT_FSIZE, &some);
        int left = fm_engine_idle(e, 60, NULL);
        setrlimit(RLIMIT_FSIZE, &old);
        CHECK(left == 0 || (n_lines == 1 && strstr(line, "session cache is not written")), "limit %lu: %d left, %d lines: %s", (unsigned long)some.rlim_cur,
              left, n_lines, line);
        fm_engine *other = open_engine();
        fm_session *t;
        MUST(fm_session_open(&t, other, err));
        int got = fm_directory_restore(other->directory, &t->line, text, 0, N_TEXT);
        CHECK(n_lines == 0 && (left > 0 || got >= BORDER), "limit %lu: %d left, %d restored: %s", (unsigned long)some.rlim_cur, left, got, line);
        fm_directory_close(&other->directory);
        fm_session_close(&t);
        fm_engine_close(&other);
        fm_directory_close(&e->directory);
        fm_session_close(&s);
        fm_engine_close(&e);
        shell("rm -rf '%s'/*");
    }
}

#if defined(__linux__)
/* In a child with file systems of its own: a small disk that is full, then read-only. */
static int small_disk(void) {
    bool is_root = geteuid() == 0;
    if (unshare(CLONE_NEWNS | (is_root ? 0 : CLONE_NEWUSER)) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)) return 77;
    if (mount("none", root, "tmpfs", 0, "size=150k")) return 77;
    fm_engine *e = open_engine();
    fm_session *s = open_at(e, BORDER);
    CHECK(fm_engine_idle(e, 60, NULL) > 0 && n_lines == 1 && strstr(line, "No space left"), "%d lines: %s", n_lines, line);
    fm_session_close(&s);
    fm_engine_close(&e);
    CHECK(n_lines == 1, "%d lines: %s", n_lines, line);
    if (mount("none", root, NULL, MS_REMOUNT, "size=64m")) return 77;
    e = open_engine();
    s = open_at(e, BORDER);
    CHECK(fm_engine_idle(e, 60, NULL) == 0 && n_lines == 0, "with room: %s", line);
    fm_session_close(&s);
    fm_engine_close(&e);
    if (mount("none", root, NULL, MS_REMOUNT | MS_RDONLY, NULL)) return 77;
    fm_synced synced;
    int border = BORDER;
    e = open_engine();
    MUST(fm_session_open(&s, e, err));
    text[N_TEXT - 1]++; /* so that there is something new to write */
    MUST(fm_session_sync(s, text, N_TEXT, &border, 1, &synced, err));
    CHECK(synced.n_restored >= BORDER && n_lines == 0, "read-only: %d tokens restored: %s", synced.n_restored, line);
    MUST(fm_session_keep(s, err));
    fm_session_close(&s);
    fm_engine_close(&e);
    CHECK(n_lines == 1 && strstr(line, "session cache is not written"), "read-only: %d lines: %s", n_lines, line);
    return TEST_END();
}
#else
static int small_disk(void) { return 77; }
#endif

static void check_small_disk(void) {
    pid_t child = fork();
    int status;
    if (child == 0) _exit(small_disk());
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        fprintf(stderr, "skipped: a full and a read-only disk, as nothing can be mounted here\n");
    else
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a full or read-only disk: status %d", status);
}

int main(int argc, char **argv) {
    if (argc != 2) SKIP("damage DIRECTORY");
    model = argv[1];
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%.200s/flash-moe-damage-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(root)) SKIP("no temporary directory");
    uint64_t random = 1;
    for (int i = 0; i < CONTEXT; i++) text[i] = (int32_t)(test_random(&random) % 90);
    check_small_disk();
    check_write_limit();
    check_short_files();
    check_flips();
    shell("rm -rf '%s'");
    return TEST_END();
}
