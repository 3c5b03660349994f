/* tests/replay/trace.c: trace files: what is written is what is read, and what is not a trace is refused by name. */
#include <sys/stat.h>
#include <xxhash.h>

#include "traces.h"

typedef struct bytes {
    uint8_t *data;
    size_t n;
} bytes;

static bytes read_bytes(const char *path) {
    FILE *f = fopen(path, "rb");
    bytes b = {.data = malloc(1 << 20)};
    if (f) b.n = fread(b.data, 1, 1 << 20, f);
    if (!f || fclose(f) || b.n == 0) {
        perror(path);
        exit(1);
    }
    return b;
}

static void round_trip(const made_trace *m) {
    fm_trace t = trace_make(m, 1), *back = NULL;
    char path[64];
    size_t values = (size_t)m->n_tokens * (size_t)m->n_layers * (size_t)m->top_k;
    trace_write(&t, trace_path(path, "round"));
    MUST(fm_trace_open(&back, path, err));
    CHECK(!strcmp(back->model_type, "made_up") && !strcmp(back->architecture, "MadeUp") && !strcmp(back->how, t.how), "%s, %s, %s", back->model_type,
          back->architecture, back->how);
    CHECK(back->n_layers == m->n_layers && back->n_experts == m->n_experts && back->top_k == m->top_k && back->n_tokens == m->n_tokens, "%d %d %d %d",
          back->n_layers, back->n_experts, back->top_k, back->n_tokens);
    CHECK(!memcmp(back->moe, t.moe, (size_t)m->n_layers), "other layers have experts");
    CHECK(!memcmp(back->kind, t.kind, (size_t)m->n_tokens), "tokens are of other kinds");
    CHECK(!memcmp(back->experts, t.experts, values * sizeof *t.experts), "other experts");
    CHECK(!memcmp(back->predicted, t.predicted, values * sizeof *t.predicted), "other predictions");
    unlink(path);
    fm_trace_close(&back);
    CHECK(!back, "closing sets NULL");
    trace_free(&t);
}

/* The bytes are refused, with the path and the words in the message. */
static void refused(const uint8_t *data, size_t n, int code, const char *words) {
    fm_trace *t = NULL;
    fm_error err = {0};
    uint8_t *exact = malloc(n ? n : 1); /* so that a sanitizer sees a read past the end */
    memcpy(exact, data, n);
    int rc = fm_trace_decode(&t, "some.trace", exact, n, &err);
    CHECK(rc == code && !t && err.code == rc, "%zu bytes give %d, not %d: %s", n, rc, code, err.message);
    CHECK(strstr(err.message, "some.trace") && strstr(err.message, words), "no \"%s\" in \"%s\"", words, err.message);
    fm_trace_close(&t);
    free(exact);
}

static void seal(bytes *b) {
    uint64_t hash = XXH3_64bits(b->data, b->n - 8);
    for (int i = 0; i < 8; i++) b->data[b->n - 8 + (size_t)i] = (uint8_t)(hash >> (8 * i));
}

/* Changes the bytes, makes the hash right again, and changes them back. */
static void refused_sealed(bytes *b, size_t at, uint8_t value, const char *words) {
    uint8_t old = b->data[at];
    b->data[at] = value;
    seal(b);
    refused(b->data, b->n, FM_EFORMAT, words);
    b->data[at] = old;
    seal(b);
}

/* Every bit flipped, every length: all refused. */
static void damage(bytes *b) {
    for (size_t n = 0; n < b->n; n++) refused(b->data, n, FM_EFORMAT, n < 15 ? "it is no trace" : n < 24 ? "it ends after" : "cut short or damaged");
    for (size_t i = 0; i < b->n; i++) {
        for (int bit = 0; bit < 8; bit++) {
            b->data[i] ^= (uint8_t)(1 << bit);
            refused(b->data, b->n, i == 15 ? FM_EUNSUPPORTED : FM_EFORMAT, i < 15 ? "it is no trace" : i == 15 ? "version" : "cut short or damaged");
            b->data[i] ^= (uint8_t)(1 << bit);
        }
    }
}

/* Headers that are well formed and wrong, with a right hash. */
static void bad_headers(const bytes *good) {
    const struct {
        const char *from, *to, *words;
    } cases[] = {{"\"top_k\":2", "\"top_k\":9", "top_k"},
                 {"\"top_k\":2", "\"top_k\":0", "top_k"},
                 {"\"top_k\":2", "\"top_x\":2", "no top_k"},
                 {"\"n_layers\":3", "\"n_layers\":0", "n_layers"},
                 {"\"n_layers\":3", "\"n_layers\":2", "moe"},
                 {"\"n_experts\":5", "\"n_experts\":3", "there is no expert"},
                 {"\"moe\":[0,2]", "\"moe\":[2,0]", "ascend"},
                 {"\"moe\":[0,2]", "\"moe\":[0,0]", "ascend"},
                 {"\"moe\":[0,2]", "\"moe\":[]   ", "moe"},
                 {"\"moe\":[0,2]", "\"moe\":[2]  ", "byte "},
                 {"\"made\":\"up\"}", "\"made\":\"up\"]", "not JSON"},
                 {"\"how\":{\"made\":\"up\"}", "\"how\":\"made up one\"", "how it was made"},
                 {"\"model_type\":\"made_up\"", "\"model_type\":123456789", "model_type"},
                 {"\"n_tokens\":8,", "\"n_tokens\":0,", "n_tokens"},
                 {"\"n_tokens\":8,", "\"n_tokens\":7,", "left after its 7 tokens"},
                 {"\"n_tokens\":8,", "\"n_tokens\":9,", "too few for its 9 tokens"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bytes b = {.data = malloc(good->n + 1), .n = good->n};
        memcpy(b.data, good->data, good->n);
        char *at = memmem(b.data, b.n, cases[i].from, strlen(cases[i].from));
        if (!at) {
            fprintf(stderr, "the header has no %s\n", cases[i].from);
            exit(1);
        }
        memcpy(at, cases[i].to, strlen(cases[i].to));
        seal(&b);
        refused(b.data, b.n, FM_EFORMAT, cases[i].words);
        free(b.data);
    }
}

static void refusals(void) {
    const made_trace m = {.n_layers = 3, .n_experts = 5, .top_k = 2, .n_tokens = 8, .n_prompt = 2, .n_sequence = 4, .dense_layer = 1};
    fm_trace t = trace_make(&m, 3), *none = NULL;
    char path[64];
    fm_error refusal = {0};
    trace_write(&t, trace_path(path, "refused"));
    bytes b = read_bytes(path);
    size_t body = (size_t)((uint8_t *)memchr(b.data, '\n', b.n) - b.data) + 1;
    CHECK(b.n == body + 8 * 5 + 8, "%zu bytes and not 8 tokens of 5 after %zu", b.n, body);
    damage(&b);
    bad_headers(&b);
    refused_sealed(&b, body, FM_TRACE_PROMPT, "token 0 is of no known kind");
    refused_sealed(&b, body + 5, 8, "token 1 is of no known kind: 8");
    refused_sealed(&b, body + 1, 5, "there is no expert 5 among 5");
    refused_sealed(&b, body + 1, b.data[body + 2], "have to ascend");
    refused_sealed(&b, body + 35, FM_TRACE_PREDICTED, "it ends at token 7 of 8");
    refused_sealed(&b, body - 1, ' ', "first line");
    CHECK(fm_trace_open(&none, "nowhere.trace", &refusal) == FM_EIO && strstr(refusal.message, "nowhere.trace"), "%s", refusal.message);
    unlink(path);
    free(b.data);
    trace_free(&t);
}

/* A writer leaves nothing behind that is not whole, and replaces nothing but a file. */
static void writing(void) {
    const made_trace m = {.n_layers = 1, .n_experts = 4, .top_k = 2, .n_tokens = 3, .n_prompt = 1, .n_sequence = 3, .dense_layer = -1};
    fm_trace t = trace_make(&m, 5);
    fm_trace_writer *writer = NULL;
    fm_error refusal = {0};
    char path[64], part[80];
    struct stat st;
    snprintf(part, sizeof part, "%s.part", trace_path(path, "writing"));
    MUST(fm_trace_writer_open(&writer, path, &t, err));
    CHECK(fm_trace_writer_save(writer, &refusal) == FM_EINVAL && strstr(refusal.message, path), "an empty trace: %s", refusal.message);
    MUST(fm_trace_writer_add(writer, t.kind[0], t.experts, NULL, err));
    CHECK(stat(part, &st) == 0 && stat(path, &st) != 0, "it is written under another name first");
    fm_trace_writer_close(&writer);
    CHECK(stat(part, &st) != 0 && stat(path, &st) != 0 && !writer, "what was not saved is gone");
    CHECK(fm_trace_writer_open(&writer, "no-such-directory/x", &t, &refusal) == FM_EIO && strstr(refusal.message, "no-such-directory/x") && !writer, "%s",
          refusal.message);
    CHECK(fm_trace_writer_open(&writer, "/dev/null", &t, &refusal) == FM_EIO && strstr(refusal.message, "/dev/null"), "%s", refusal.message);
    trace_free(&t);
}

int main(void) {
    round_trip(&(made_trace){.n_layers = 3, .n_experts = 12, .top_k = 3, .n_tokens = 40, .n_prompt = 3, .n_sequence = 10, .dense_layer = -1});
    round_trip(
        &(made_trace){.n_layers = 4, .n_experts = 255, .top_k = 8, .n_tokens = 60, .n_prompt = 5, .n_sequence = 20, .dense_layer = 0, .predicted = true});
    round_trip(
        &(made_trace){.n_layers = 2, .n_experts = 256, .top_k = 8, .n_tokens = 60, .n_prompt = 5, .n_sequence = 20, .dense_layer = -1, .predicted = true});
    round_trip(
        &(made_trace){.n_layers = 5, .n_experts = 600, .top_k = 10, .n_tokens = 50, .n_prompt = 1, .n_sequence = 50, .dense_layer = 4, .predicted = true});
    round_trip(&(made_trace){.n_layers = 1, .n_experts = 1, .top_k = 1, .n_tokens = 1, .n_prompt = 1, .n_sequence = 1, .dense_layer = -1});
    refusals();
    writing();
    return TEST_END();
}
