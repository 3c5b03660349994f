/* tests/sessions/save.c: a session as a file: saved and loaded it goes on with the same bits; a file that is damaged, of another model, KV format or too long leaves the
 * session as it was. save DIRECTORY OTHER */
#include <sys/stat.h>
#include <unistd.h>

#include "engine/engine.h"
#include "test.h"

#define CONTEXT 1024
#define N_TEXT 600
#define N_MORE 20

static const char *model;
static char root[256], file[300];
static int32_t text[CONTEXT];
static float *want, *got;
static size_t logits_bytes;

static fm_engine *open_engine(const char *path, int kv, int context) {
    fm_engine_options o = FM_ENGINE_OPTIONS_INIT;
    fm_engine *e;
    o.context = context;
    o.n_threads = 2;
    o.kv = kv;
    o.memory_bytes = (uint64_t)512 << 20;
    MUST(fm_engine_open(&e, path, &o, err));
    return e;
}

static void feed(fm_session *s, int from, int to, float *logits) {
    MUST(fm_session_feed(s, text + from, to - from, FM_LOGITS_LAST, NULL, NULL, err));
    memcpy(logits, fm_session_logits(s), logits_bytes);
}

/* Saves after N_TEXT tokens; want: the logits after N_MORE others. */
static void save(fm_engine *e) {
    fm_session *s;
    MUST(fm_session_open(&s, e, err));
    logits_bytes = (size_t)fm_engine_info(e)->vocab * sizeof(float);
    want = realloc(want, logits_bytes);
    got = realloc(got, logits_bytes);
    feed(s, 0, N_TEXT, got);
    MUST(fm_session_save(s, file, err));
    feed(s, N_TEXT, N_TEXT + N_MORE, want);
    fm_session_close(&s);
}

/* The session holds 100 tokens; loading fails with code, and it still does. */
static void refuse(fm_engine *e, int code, const char *what) {
    fm_session *s;
    fm_error error = {0};
    float *before = malloc(logits_bytes);
    MUST(fm_session_open(&s, e, err));
    feed(s, 100, 200, got);
    feed(s, 200, 201, before);
    fm_session_clear(s);
    feed(s, 100, 200, got);
    int rc = fm_session_load(s, file, &error);
    CHECK(rc == code && error.code == code && strstr(error.message, file), "%s: %d instead of %d: %s", what, rc, code, error.message);
    CHECK(fm_session_position(s) == 100 && memcmp(fm_session_tokens(s), text + 100, 400) == 0, "%s: the session has %d tokens", what, fm_session_position(s));
    feed(s, 200, 201, got);
    CHECK(memcmp(before, got, logits_bytes) == 0, "%s: the session goes on otherwise", what);
    fm_session_close(&s);
    free(before);
}

static void check_kind(int kv) {
    fm_session *s;
    fm_engine *e = open_engine(model, kv, CONTEXT);
    save(e);
    fm_engine_close(&e);
    e = open_engine(model, kv, CONTEXT + 512); /* rows lie otherwise in a longer context */
    MUST(fm_session_open(&s, e, err));
    feed(s, 300, 900, got);
    MUST(fm_session_load(s, file, err));
    CHECK(fm_session_position(s) == N_TEXT && memcmp(fm_session_tokens(s), text, N_TEXT * sizeof *text) == 0 && !fm_session_logits(s), "%d tokens loaded",
          fm_session_position(s));
    feed(s, N_TEXT, N_TEXT + N_MORE, got);
    CHECK(memcmp(want, got, logits_bytes) == 0, "kv %d: other logits after loading", kv);
    fm_session_close(&s);
    fm_engine_close(&e);
    e = open_engine(model, (kv + 1) % 3, CONTEXT);
    refuse(e, FM_EINVAL, "another KV format");
    fm_engine_close(&e);
}

static void put_byte(const char *path, long at, int flip) {
    FILE *f = fopen(path, "r+b");
    fseek(f, at, SEEK_SET);
    int c = fgetc(f);
    fseek(f, at, SEEK_SET);
    fputc(c ^ flip, f);
    fclose(f);
}

static void check_damage(void) {
    struct stat st;
    uint64_t random = 5;
    fm_engine *e = open_engine(model, FM_KV_BF16, CONTEXT);
    save(e);
    if (stat(file, &st)) abort();
    put_byte(file, 8, 2);
    refuse(e, FM_EUNSUPPORTED, "another version");
    put_byte(file, 8, 2);
    for (int i = 0; i < 60; i++) {
        long at = i < 8 ? i : i < 20 ? 12 + i * 9 : (long)(test_random(&random) % (uint64_t)st.st_size);
        /* Zeros between units say nothing, and nobody looks at them. */
        fm_error error = {0};
        fm_session *s;
        put_byte(file, at, 1 << i % 8);
        MUST(fm_session_open(&s, e, err));
        int rc = fm_session_load(s, file, &error);
        if (rc == 0) {
            feed(s, N_TEXT, N_TEXT + N_MORE, got);
            CHECK(at > 4000 && memcmp(want, got, logits_bytes) == 0, "byte %ld flipped: loaded, and it goes on otherwise", at);
        } else {
            CHECK(rc == FM_EFORMAT, "byte %ld flipped: %d: %s", at, rc, error.message);
        }
        fm_session_close(&s);
        put_byte(file, at, 1 << i % 8);
    }
    if (truncate(file, st.st_size - 1)) abort();
    refuse(e, FM_EFORMAT, "short by a byte");
    if (truncate(file, 100)) abort();
    refuse(e, FM_EFORMAT, "100 bytes");
    if (truncate(file, 0)) abort();
    refuse(e, FM_EFORMAT, "empty");
    unlink(file);
    refuse(e, FM_EIO, "missing");
    fm_engine_close(&e);
}

int main(int argc, char **argv) {
    if (argc != 3) SKIP("save DIRECTORY OTHER");
    model = argv[1];
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%.200s/flash-moe-save-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(root)) SKIP("no temporary directory");
    snprintf(file, sizeof file, "%s/a.session", root);
    uint64_t random = 1;
    for (int i = 0; i < CONTEXT; i++) text[i] = (int32_t)(test_random(&random) % 90);
    for (int kv = FM_KV_BF16; kv <= FM_KV_Q8; kv++) check_kind(kv);
    check_damage();
    fm_engine *e = open_engine(model, FM_KV_BF16, CONTEXT);
    save(e);
    fm_session *s;
    MUST(fm_session_open(&s, e, err));
    fm_error error = {0};
    CHECK(fm_session_save(s, "/nowhere/at/all", &error) == FM_EIO && strstr(error.message, "/nowhere"), "%s", error.message);
    fm_session_close(&s);
    fm_engine_close(&e);
    e = open_engine(model, FM_KV_BF16, 512);
    refuse(e, FM_EINVAL, "a shorter context");
    fm_engine_close(&e);
    e = open_engine(argv[2], FM_KV_BF16, CONTEXT);
    refuse(e, FM_EINVAL, "another model");
    fm_engine_close(&e);
    unlink(file);
    CHECK(rmdir(root) == 0, "something is left in %s", root);
    free(want);
    free(got);
    return TEST_END();
}
