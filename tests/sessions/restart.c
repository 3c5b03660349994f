/* tests/sessions/restart.c: a long preamble again, with another ending: in memory it is there, after a restart it is read from the disk, and it is not computed. restart
 * DIRECTORY; by hand, with times, on a machine where nothing else runs: restart DIRECTORY --bench TOKENS [MEMORY_MB [KV]], with TMPDIR on the disk that is meant. */
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
    if (level == FM_LOG_WARNING && strstr(line, "session cache")) fprintf(stderr, "%s\n", line);
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
static fm_synced turn(fm_session *s, int n, int ending, double *first_token) {
    fm_synced out;
    int border = n - ENDING;
    for (int i = border; i < n; i++) text[i] = ending + i % 50;
    double start = fm_now();
    MUST(fm_session_sync(s, text, n, &border, 1, &out, err));
    *first_token = fm_now() - start;
    return out;
}

/* Only the snapshot at the border is left, so that what is there is what is read. */
static void leave_one(int border) {
    char command[600];
    snprintf(command, sizeof command, "find '%s' -name '*.snapshot' ! -name '%08d-*' -delete", root, border);
    if (system(command)) exit(1);
}

/* ---- what reading alone takes ---- */

#define MAX_FILES 1024
#define PIECE_BYTES ((size_t)1 << 20)

enum { BUFFERED, DIRECT, N_READERS };

typedef struct piece {
    int file;
    uint64_t at;
} piece;

typedef struct plain {
    fm_file files[MAX_FILES];
    int n_files;
    uint64_t start[MAX_FILES + 1]; /* of each file in memory */
    fm_region region;
    bool direct;
    piece pieces[1 << 14];
    int n_pieces;
} plain;

static void open_files(plain *p, const char *directory) {
    DIR *dir = opendir(directory);
    for (const struct dirent *entry; dir && (entry = readdir(dir));) {
        char path[1600];
        struct stat st;
        if (entry->d_name[0] == '.' || snprintf(path, sizeof path, "%s/%s", directory, entry->d_name) >= (int)sizeof path || stat(path, &st)) continue;
        if (S_ISDIR(st.st_mode)) {
            open_files(p, path);
        } else if (st.st_size > 4096 && p->n_files < MAX_FILES) {
            MUST(fm_file_open(&p->files[p->n_files], path, true, err));
            p->start[p->n_files + 1] = p->start[p->n_files] + ((uint64_t)st.st_size + 4095) / 4096 * 4096;
            p->n_files++;
        }
    }
    if (dir) closedir(dir);
}

static void forget(const plain *p) {
    for (int i = 0; i < p->n_files; i++) posix_fadvise(p->files[i].fd, 0, 0, POSIX_FADV_DONTNEED);
}

static void read_piece(void *arg, int i, int thread) {
    const plain *p = arg;
    const fm_file *f = &p->files[p->pieces[i].file];
    uint64_t at = p->pieces[i].at, left = f->size - at;
    (void)thread;
    ssize_t n = pread(p->direct && f->direct_fd >= 0 ? f->direct_fd : f->fd, p->region.data + p->start[p->pieces[i].file] + at,
                      left < PIECE_BYTES ? (size_t)((left + 4095) / 4096 * 4096) : PIECE_BYTES, (off_t)at);
    if (n < 0 || (uint64_t)n != (left < PIECE_BYTES ? left : PIECE_BYTES)) abort();
}

/* All files' bytes, into memory that was not used before, as a session's is; by all threads, past the page cache, or as a plain program does: one after the other. */
static double read_seconds(plain *p, fm_pool *pool, bool direct) {
    p->direct = direct;
    p->n_pieces = 0;
    for (int i = 0; i < p->n_files; i++) {
        for (uint64_t at = 0; at < p->files[i].size && p->n_pieces < 1 << 14; at += PIECE_BYTES) p->pieces[p->n_pieces++] = (piece){i, at};
    }
    MUST(fm_region_open(&p->region, (size_t)p->start[p->n_files], "files", err));
    double start = fm_now();
    if (direct)
        fm_pool_run(pool, p->n_pieces, read_piece, p);
    else
        for (int i = 0; i < p->n_pieces; i++) read_piece(p, i, 0);
    double seconds = fm_now() - start;
    fm_region_close(&p->region);
    return seconds;
}

/* ---- turns ---- */

static int by_size(const void *a, const void *b) { return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b); }

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_size);
    return x[n / 2];
}

typedef struct setting {
    const char *model;
    int n, kv;
    uint64_t memory;
} setting;

/* Computed afresh, then again in the same session with another ending. */
static void in_memory(const setting *o, bool bench) {
    double first, second;
    fm_engine *e = open_engine(o->model, o->n, root, o->memory, o->kv);
    fm_session *s;
    MUST(fm_session_open(&s, e, err));
    fm_synced synced = turn(s, o->n, 100, &first);
    CHECK(synced.n_computed == o->n, "%d tokens came from nowhere", o->n - synced.n_computed);
    synced = turn(s, o->n, 150, &second);
    CHECK(synced.n_kept == o->n - ENDING && synced.n_computed == ENDING, "in memory: %d tokens kept, %d computed", synced.n_kept, synced.n_computed);
    if (bench)
        fprintf(stderr, "%d tokens computed: first token after %.3f s; with another ending: %d tokens kept in %.4f s, first token after %.4f s\n", o->n, first,
                synced.n_kept, synced.restore_seconds, second);
    fm_session_close(&s);
    fm_engine_close(&e);
}

static void after_restart(const setting *o, int rounds, bool cold) {
    static plain p;
    enum { MOST = 15 };
    double reading[N_READERS][MOST], restoring[MOST], ratio[N_READERS][MOST], first[MOST];
    p = (plain){0};
    open_files(&p, root);
    for (int i = 0; i < rounds; i++) {
        fm_engine *e = open_engine(o->model, o->n, root, o->memory, o->kv);
        for (int direct = 0; direct < N_READERS; direct++) {
            if (cold) forget(&p);
            reading[direct][i] = read_seconds(&p, e->pool, direct);
        }
        if (cold) forget(&p);
        fm_session *s;
        MUST(fm_session_open(&s, e, err));
        fm_synced synced = turn(s, o->n, 200 + i, &first[i]);
        CHECK(synced.n_restored == o->n - ENDING && synced.n_computed == ENDING, "%d tokens restored, %d computed", synced.n_restored, synced.n_computed);
        restoring[i] = synced.restore_seconds;
        for (int direct = 0; direct < N_READERS; direct++) ratio[direct][i] = restoring[i] / reading[direct][i];
        fm_directory_close(&e->directory); /* nothing more is written */
        fm_session_close(&s);
        fm_engine_close(&e);
    }
    if (rounds > 1)
        fprintf(stderr,
                "%s: %.1f MB in %d files; medians of %d: reading alone %.4f s (direct, all threads %.4f s), restored in %.4f s: %.2f times (%.2f times); first "
                "token after %.4f s\n",
                cold ? "cold" : "warm", (double)p.start[p.n_files] / 1e6, p.n_files, rounds, median(reading[BUFFERED], rounds), median(reading[DIRECT], rounds),
                median(restoring, rounds), median(ratio[BUFFERED], rounds), median(ratio[DIRECT], rounds), median(first, rounds));
    for (int i = 0; i < p.n_files; i++) fm_file_close(&p.files[i]);
}

int main(int argc, char **argv) {
    if (argc < 2) SKIP("restart DIRECTORY");
    bool bench = argc > 3;
    setting o = {
        .model = argv[1], .n = bench ? atoi(argv[3]) : 1500, .kv = argc > 5 ? atoi(argv[5]) : 0, .memory = (uint64_t)(argc > 4 ? atoi(argv[4]) : 512) << 20};
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%.200s/flash-moe-restart-XXXXXX", tmp ? tmp : "/tmp");
    text = malloc((size_t)o.n * sizeof *text);
    if (!mkdtemp(root) || !text) SKIP("no temporary directory");
    uint64_t random = 1;
    for (int i = 0; i < o.n; i++) text[i] = (int32_t)(test_random(&random) % 4000);
    in_memory(&o, bench);
    leave_one(o.n - ENDING);
    after_restart(&o, bench ? 15 : 1, true);
    after_restart(&o, bench ? 15 : 1, false);
    char command[400];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    free(text);
    return system(command) ? 1 : TEST_END();
}
