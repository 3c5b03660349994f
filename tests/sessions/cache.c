/* tests/sessions/cache.c: sessions on the disk: a restart finds them, what is damaged or foreign is never used, a limit is kept, and what the system refuses is one warning.
 * cache DIRECTORY OTHER: two models. */
#include <dirent.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/engine.h"
#include "snapshots/directory_files.h"
#include "test.h"

#define CONTEXT 2048
#define N_TEXT 800
#define BORDER 700
#define N_TEXTS 4
#define N_DAMAGES (TEST_SLOW ? 8 : 40)
#define N_KILLS (TEST_SLOW ? 8 : 60)

static const char *model, *other_model;
static char root[256];
static int32_t text[CONTEXT];
static char lines[4096]; /* of the log */
static int n_warnings;

static void log_line(void *user, int level, const char *line) {
    (void)user;
    if (level != FM_LOG_WARNING) return;
    n_warnings++;
    snprintf(lines, sizeof lines, "%s", line);
}

static fm_engine *open_engine(const char *path, int kv, uint64_t limit) {
    fm_engine_options o = FM_ENGINE_OPTIONS_INIT;
    fm_engine *e;
    o.context = CONTEXT;
    o.n_threads = 2;
    o.n_sessions = 2;
    o.kv = kv;
    o.memory_bytes = (uint64_t)512 << 20;
    o.session_cache = root;
    o.session_cache_bytes = limit;
    o.log = log_line;
    MUST(fm_engine_open(&e, path, &o, err));
    n_warnings = 0;
    return e;
}

/* Brings a session to text [n] with one border, and returns how the tokens came. */
static fm_synced sync_to(fm_engine *e, int n, int border, float *logits) {
    fm_session *s;
    fm_synced out;
    MUST(fm_session_open(&s, e, err));
    MUST(fm_session_sync(s, text, n, &border, 1, &out, err));
    if (logits) memcpy(logits, fm_session_logits(s), (size_t)fm_engine_info(e)->vocab * sizeof *logits);
    fm_session_close(&s);
    return out;
}

static void fresh(fm_engine *e, int n, float *logits) {
    fm_session *s;
    MUST(fm_session_open(&s, e, err));
    MUST(fm_session_feed(s, text, n, FM_LOGITS_LAST, NULL, NULL, err));
    memcpy(logits, fm_session_logits(s), (size_t)fm_engine_info(e)->vocab * sizeof *logits);
    fm_session_close(&s);
}

/* Calls fn for each file below directory; returns how many. */
static int each_file(const char *directory, void (*fn)(const char *path, void *user), void *user) {
    DIR *dir = opendir(directory);
    int n = 0;
    for (const struct dirent *entry; dir && (entry = readdir(dir));) {
        char path[1600];
        struct stat st;
        if (entry->d_name[0] == '.') continue;
        if (snprintf(path, sizeof path, "%s/%s", directory, entry->d_name) >= (int)sizeof path) continue;
        if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
            n += each_file(path, fn, user);
        } else {
            n++;
            if (fn) fn(path, user);
        }
    }
    if (dir) closedir(dir);
    return n;
}

static void add_bytes(const char *path, void *user) {
    struct stat st;
    if (!strstr(path, "/lock") && stat(path, &st) == 0) *(uint64_t *)user += (uint64_t)st.st_size;
}

static void remove_file(const char *path, void *user) {
    (void)user;
    unlink(path);
}

static void clean(void) { each_file(root, remove_file, NULL); }

static void fill(int n, int border) {
    fm_engine *e = open_engine(model, FM_KV_BF16, 0);
    sync_to(e, n, border, NULL);
    fm_engine_close(&e);
}

/* A restart finds the state at the border, and what it computes then is the same. */
static void check_restart(int kv) {
    fm_engine *e = open_engine(model, kv, 0);
    int vocab = fm_engine_info(e)->vocab;
    float *want = malloc((size_t)vocab * 4), *got = malloc((size_t)vocab * 4);
    clean();
    fresh(e, N_TEXT, want);
    fm_synced s = sync_to(e, BORDER + 20, BORDER, NULL);
    CHECK(s.n_restored == 0 && s.n_kept == 0, "%d tokens came from an empty cache", s.n_restored);
    fm_engine_close(&e);
    CHECK(n_warnings == 0, "%s", lines);
    e = open_engine(model, kv, 0);
    s = sync_to(e, N_TEXT, BORDER, got);
    CHECK(s.n_restored >= BORDER && s.n_kept == 0 && s.n_computed == N_TEXT - s.n_restored, "kv %d: %d tokens restored, %d kept", kv, s.n_restored, s.n_kept);
    CHECK(memcmp(want, got, (size_t)vocab * 4) == 0, "kv %d: other logits after a restart", kv);
    s = sync_to(e, N_TEXT, BORDER, got);
    CHECK(s.n_kept + s.n_restored >= BORDER && memcmp(want, got, (size_t)vocab * 4) == 0, "kv %d: %d tokens kept the second time", kv, s.n_kept);
    fm_engine_close(&e);
    for (int k = FM_KV_BF16; k <= FM_KV_Q8; k++) {
        if (k == kv) continue;
        e = open_engine(model, k, 0);
        s = sync_to(e, N_TEXT, BORDER, NULL);
        CHECK(s.n_restored == 0, "kv %d uses %d tokens of kv %d", k, s.n_restored, kv);
        fm_engine_close(&e);
    }
    free(want);
    free(got);
}

/* What another model kept is not found; put where this one's is, it is ignored with a line, and answers stay the same. */
static void check_other_model(void) {
    char command[2200];
    clean();
    snprintf(command, sizeof command, "rm -rf '%s'/*", root);
    CHECK(system(command) == 0, "%s", command);
    fill(N_TEXT, BORDER);
    fm_engine *e = open_engine(other_model, FM_KV_BF16, 0);
    snprintf(command, sizeof command, "mv '%s'/*/*%d-*.snapshot '%s/mine'", root, BORDER, root);
    CHECK(system(command) == 0, "%s", command);
    fm_synced s = sync_to(e, N_TEXT, BORDER, NULL);
    CHECK(s.n_restored == 0, "%d tokens of another model", s.n_restored);
    fm_engine_close(&e);
    e = open_engine(model, FM_KV_BF16, 0);
    size_t bytes = (size_t)fm_engine_info(e)->vocab * sizeof(float);
    float *want = malloc(bytes), *got = malloc(bytes);
    fresh(e, N_TEXT, want);
    /* The border's snapshot of the other model is the only one left: it gets this one's name. */
    char hex[40] = "";
    for (int i = 0; i < 16; i++) snprintf(hex + 2 * i, 3, "%02x", e->directory->identity.bytes[i]);
    fm_prefix_hash *hash;
    MUST(fm_prefix_hash_open(&hash, &e->directory->identity, text, err));
    fm_identity prefix = fm_prefix_hash_at(hash, BORDER);
    fm_prefix_hash_close(&hash);
    char path[FM_DIRECTORY_PATH];
    fm_directory_name(e->directory, path, BORDER, &prefix, "snapshot");
    snprintf(command, sizeof command, "rm -f '%s/%s'/*.snapshot && mv '%s'/*/*%d-*.snapshot '%.900s'", root, hex, root, BORDER, path);
    CHECK(strlen(path) < 500 && system(command) == 0, "%s", command);
    s = sync_to(e, N_TEXT, BORDER, got);
    CHECK(s.n_restored == 0 && n_warnings == 1 && strstr(lines, "of another model"), "%d tokens restored, %d lines: %s", s.n_restored, n_warnings, lines);
    CHECK(memcmp(want, got, bytes) == 0, "other logits");
    free(want);
    free(got);
    fm_engine_close(&e);
}

typedef struct flip {
    int file, n; /* which of the files, so far */
    double at;   /* as a share of it */
    int how;     /* 0: a bit; 1: cut short; 2: nothing left; 3: gone */
    char path[1600];
} flip;

static void flip_file(const char *path, void *user) {
    flip *f = user;
    struct stat st;
    if (strstr(path, "/lock") || f->n++ != f->file || stat(path, &st)) return;
    snprintf(f->path, sizeof f->path, "%s", path);
    off_t at = (off_t)(f->at * (double)(st.st_size - 1));
    if (f->how == 1 && truncate(path, at)) abort();
    if (f->how == 2 && truncate(path, 0)) abort();
    if (f->how == 3) unlink(path);
    if (f->how) return;
    FILE *file = fopen(path, "r+b");
    fseek(file, at, SEEK_SET);
    int c = fgetc(file);
    fseek(file, at, SEEK_SET);
    fputc(c ^ 1 << (at % 8), file);
    fclose(file);
}

/* Any file damaged anywhere: the answer is the same, and if it would have been used there is a line. */
static void check_damage(void) {
    uint64_t random = 7;
    clean();
    fill(N_TEXT, BORDER);
    int n_files = each_file(root, NULL, NULL) - 1, noticed = 0;
    fm_engine *e = open_engine(model, FM_KV_BF16, 0);
    int vocab = fm_engine_info(e)->vocab;
    float *want = malloc((size_t)vocab * 4), *got = malloc((size_t)vocab * 4);
    fresh(e, N_TEXT, want);
    fm_engine_close(&e);
    for (int i = 0; i < N_DAMAGES; i++) {
        clean();
        fill(N_TEXT, BORDER);
        double places[] = {0, 9e-6, 0.001, 0.5, 1};
        flip f = {.file = i % n_files,
                  .at = i % 3 ? (double)(test_random(&random) % 1000) / 1000 : places[test_random(&random) % 5],
                  .how = i % 7 < 4 ? 0 : i % 7 - 3};
        each_file(root, flip_file, &f);
        e = open_engine(model, FM_KV_BF16, 0);
        fm_synced s = sync_to(e, N_TEXT, BORDER, got);
        CHECK(memcmp(want, got, (size_t)vocab * 4) == 0, "%s damaged (%d, at %g): other logits, %d tokens restored", f.path, f.how, f.at, s.n_restored);
        noticed += n_warnings > 0;
        fm_engine_close(&e);
        e = open_engine(model, FM_KV_BF16, 0);
        sync_to(e, N_TEXT, BORDER, got);
        CHECK(memcmp(want, got, (size_t)vocab * 4) == 0, "%s damaged: other logits the next time", f.path);
        CHECK(n_warnings == 0 || strstr(lines, "version"), "%s damaged: a line again: %s", f.path, lines);
        fm_engine_close(&e);
    }
    CHECK(noticed > N_DAMAGES / 4, "%d of %d damaged files were noticed", noticed, N_DAMAGES);
    free(want);
    free(got);
}

/* Snapshots of many texts under a small limit. */
static void check_limit(void) {
    clean();
    uint64_t one = 0, limit;
    fill(N_TEXT, BORDER);
    each_file(root, add_bytes, &one);
    limit = one * 2;
    for (int i = 0; i < 6; i++) {
        uint64_t sum = 0;
        text[0] = i;
        fm_engine *e = open_engine(model, FM_KV_BF16, limit);
        sync_to(e, N_TEXT, BORDER, NULL);
        fm_engine_close(&e);
        each_file(root, add_bytes, &sum);
        CHECK(sum <= limit && sum > 0, "%llu bytes of files, limit %llu", (unsigned long long)sum, (unsigned long long)limit);
        CHECK(n_warnings == 0, "%s", lines);
        e = open_engine(model, FM_KV_BF16, limit);
        fm_synced s = sync_to(e, N_TEXT, BORDER, NULL);
        CHECK(s.n_restored >= BORDER, "text %d: %d tokens restored", i, s.n_restored);
        fm_engine_close(&e);
    }
    fm_engine *e = open_engine(model, FM_KV_BF16, 5000);
    text[0] = 9;
    sync_to(e, N_TEXT, BORDER, NULL);
    fm_engine_close(&e);
    CHECK(strstr(lines, "more than the session cache may have"), "a limit that holds nothing: %s", lines);
}

static void check_refused(void) {
    clean();
    /* A full disk: no file may be longer. */
    struct rlimit old, none = {.rlim_cur = 4096};
    getrlimit(RLIMIT_FSIZE, &old);
    none.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    fm_engine *e = open_engine(model, FM_KV_BF16, 0);
    fm_session *s;
    int border = BORDER;
    MUST(fm_session_open(&s, e, err));
    MUST(fm_session_sync(s, text, N_TEXT, &border, 1, NULL, err));
    setrlimit(RLIMIT_FSIZE, &none);
    CHECK(fm_engine_idle(e, 10, NULL) > 0, "what could not be written is not left");
    CHECK(fm_engine_idle(e, 10, NULL) > 0 && n_warnings == 1 && strstr(lines, "session cache is not written"), "%d lines, the last: %s", n_warnings, lines);
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK(fm_engine_idle(e, 10, NULL) == 0, "there is room again, and something is left");
    fm_session_close(&s);
    fm_engine_close(&e);
    clean();
    /* A path that cannot be made: below a file. */
    char file[300], keep[256];
    snprintf(file, sizeof file, "%s/file", root);
    snprintf(keep, sizeof keep, "%s", root);
    fclose(fopen(file, "wb"));
    snprintf(root, sizeof root, "%.240s/below", file);
    e = open_engine(model, FM_KV_BF16, 0);
    sync_to(e, N_TEXT, BORDER, NULL);
    CHECK(n_warnings == 1 && strstr(lines, "session cache is not written"), "%d lines, the last: %s", n_warnings, lines);
    fm_engine_close(&e);
    CHECK(n_warnings == 1, "%d lines", n_warnings);
    memcpy(root, keep, sizeof root);
    clean();
}

/* Killed while it writes: what is found then is whole or is not there, and what was begun is removed. */
static void check_kill(uint64_t limit) {
    uint64_t random = 3;
    int found = 0, parts = 0;
    clean();
    for (int i = 0; i < N_KILLS; i++) {
        text[0] = i;
        pid_t child = fork();
        if (child == 0) {
            fm_engine *e = open_engine(model, FM_KV_BF16, limit);
            fm_session *s;
            int border = BORDER;
            MUST(fm_session_open(&s, e, err));
            MUST(fm_session_sync(s, text, N_TEXT, &border, 1, NULL, err));
            if (write(1, "", 0) || kill(getppid(), SIGUSR1)) _exit(1);
            fm_engine_idle(e, 60, NULL);
            _exit(0);
        }
        sigset_t set;
        int sig;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR1);
        sigwait(&set, &sig);
        usleep((useconds_t)(test_random(&random) % 5000));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        char command[400];
        snprintf(command, sizeof command, "ls %s/*/*.part 2>/dev/null | grep -q .", root);
        parts += system(command) == 0;
        fm_engine *e = open_engine(model, FM_KV_BF16, limit);
        fm_synced s = sync_to(e, N_TEXT, BORDER, NULL);
        CHECK(s.n_restored == 0 || s.n_restored == BORDER || s.n_restored > BORDER - 256, "%d tokens restored", s.n_restored);
        CHECK(n_warnings == 0, "after a kill: %s", lines);
        found += s.n_restored > 0;
        fm_engine_close(&e);
        CHECK(system(command) != 0, "a part is left");
    }
    fprintf(stderr, "killed %d times: %d found whole, %d in the middle of a file\n", N_KILLS, found, parts);
    CHECK(found < N_KILLS, "no kill came in time");
}

/* What process c does: the texts of two others and its own, in a cache that holds few of them; each answer is what it would be afresh. */
static int write_and_read(int c, uint64_t limit, float *const *want) {
    size_t bytes = 0;
    int restored = 0;
    for (int i = 0; i < 9; i++) {
        text[0] = (i * (c + 1) + c) % N_TEXTS;
        fm_engine *e = open_engine(model, FM_KV_BF16, limit);
        bytes = (size_t)fm_engine_info(e)->vocab * sizeof(float);
        float *got = malloc(bytes);
        restored += sync_to(e, N_TEXT, BORDER, got).n_restored > 0;
        if (memcmp(got, want[text[0]], bytes) != 0) {
            fprintf(stderr, "process %d, text %d: other logits\n", c, (int)text[0]);
            return 3;
        }
        free(got);
        fm_engine_close(&e);
        if (n_warnings) {
            fprintf(stderr, "%s\n", lines);
            return 2;
        }
    }
    fprintf(stderr, "process %d: %d of 9 texts were restored\n", c, restored);
    return 0;
}

/* Three processes write, evict and read at once. */
static void check_several(uint64_t limit) {
    float *want[N_TEXTS];
    pid_t children[3];
    fm_engine *e = open_engine(model, FM_KV_BF16, 1);
    clean();
    for (int i = 0; i < N_TEXTS; i++) {
        text[0] = i;
        want[i] = malloc((size_t)fm_engine_info(e)->vocab * sizeof(float));
        fresh(e, N_TEXT, want[i]);
    }
    fm_engine_close(&e);
    for (int c = 0; c < 3; c++) {
        if ((children[c] = fork()) == 0) _exit(write_and_read(c, limit, want));
    }
    for (int c = 0; c < 3; c++) {
        int status;
        waitpid(children[c], &status, 0);
        CHECK(status == 0, "process %d ended with %d", c, status);
    }
    uint64_t sum = 0;
    each_file(root, add_bytes, &sum);
    CHECK(sum <= limit, "%llu bytes of files", (unsigned long long)sum);
    for (int i = 0; i < N_TEXTS; i++) free(want[i]);
}

int main(int argc, char **argv) {
    if (argc != 3) SKIP("cache DIRECTORY OTHER");
    model = argv[1];
    other_model = argv[2];
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%.200s/flash-moe-cache-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(root)) SKIP("no temporary directory");
    uint64_t random = 1;
    for (int i = 0; i < CONTEXT; i++) text[i] = (int32_t)(test_random(&random) % 90);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (int kv = FM_KV_BF16; kv <= FM_KV_Q8; kv++) check_restart(kv);
    check_other_model();
    check_damage();
    check_limit();
    check_refused();
    clean();
    text[0] = 0;
    fill(N_TEXT, BORDER);
    uint64_t one = 0;
    each_file(root, add_bytes, &one);
    check_kill(one * 5 / 2);
    check_several(one * 5 / 2);
    clean();
    char command[400];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command) ? 1 : TEST_END();
}
