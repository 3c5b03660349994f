/* tests/engine/golden.c: a tiny model of random weights against transformers in float32: the embedding's, each layer's output and the logits, of one pass over
 * all tokens and of a prompt with 64 decoded steps; and those two bit for bit. usage: golden CASE [TOLERANCE]
 *
 * The tolerance is absolute: residual streams of these models have an rms of about 4 and logits of about 2, and two float32 programs that add in different orders
 * differ by up to 6e-5 (measured between transformers and a float64 program). int8 activations are compared with a bound of their own in ember.c. */
#include <math.h>

#include "golden.h"

#define TOLERANCE 3e-4
#define MAX_TENSORS 64

typedef struct record {
    int n_tokens, n_tensors;
    char names[MAX_TENSORS][24];
    float *data[MAX_TENSORS]; /* [n_tokens][cols] */
    int cols[MAX_TENSORS];
} record;

static float *slot(record *r, const char *name, int cols) {
    int i = 0;
    while (i < r->n_tensors && strcmp(r->names[i], name)) i++;
    if (i == r->n_tensors) {
        snprintf(r->names[r->n_tensors++], sizeof r->names[0], "%s", name);
        r->data[i] = calloc((size_t)r->n_tokens * (size_t)cols, sizeof(float));
        r->cols[i] = cols;
    }
    return r->data[i];
}

static void on_trace(void *user, const char *name, int position, int n, int hidden, const float *x) {
    memcpy(slot(user, name, hidden) + (size_t)position * (size_t)hidden, x, (size_t)n * (size_t)hidden * sizeof *x);
}

typedef struct logits_to {
    record *r;
    int vocab;
} logits_to;

static int on_logits(void *user, int position, const float *logits) {
    logits_to *to = user;
    memcpy(slot(to->r, "logits", to->vocab) + (size_t)position * (size_t)to->vocab, logits, (size_t)to->vocab * sizeof *logits);
    return 0;
}

/* Feeds n_prompt tokens as one piece and the rest one by one. */
static void run(fm_engine *engine, const int32_t *ids, int n, int n_prompt, record *r) {
    fm_session *session;
    logits_to to = {r, fm_engine_info(engine)->vocab};
    r->n_tokens = n;
    MUST(fm_session_open(&session, engine, err));
    fm_session_trace(session, on_trace, r);
    MUST(fm_session_feed(session, ids, n_prompt, FM_LOGITS_ALL, on_logits, &to, err));
    for (int i = n_prompt; i < n; i++) MUST(fm_session_feed(session, ids + i, 1, FM_LOGITS_ALL, on_logits, &to, err));
    fm_session_close(&session);
}

static void free_record(record *r) {
    for (int i = 0; i < r->n_tensors; i++) free(r->data[i]);
}

static double compare(golden *g, record *r, const int *rows, int n_rows) {
    double worst = 0;
    for (int i = 0; i < r->n_tensors; i++) {
        int got_rows, cols;
        float *want = golden_read(g, r->names[i], FM_F32, &got_rows, &cols);
        CHECK(want && got_rows == n_rows && cols == r->cols[i], "%s: no such expected tensor, or of another shape", r->names[i]);
        for (int j = 0; want && j < n_rows; j++) {
            for (int c = 0; c < cols; c++) {
                double d = fabs((double)r->data[i][(size_t)rows[j] * (size_t)cols + (size_t)c] - (double)want[(size_t)j * (size_t)cols + (size_t)c]);
                if (!(d <= worst)) worst = d;
                if (!(d <= TOLERANCE)) {
                    CHECK(false, "%s: position %d, column %d is %g, expected %g", r->names[i], rows[j], c,
                          (double)r->data[i][(size_t)rows[j] * (size_t)cols + (size_t)c], (double)want[(size_t)j * (size_t)cols + (size_t)c]);
                    free(want);
                    return worst;
                }
            }
        }
        free(want);
    }
    return worst;
}

int main(int argc, char **argv) {
    if (argc < 2) return 1;
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", argv[1], argc > 2 ? argv[2] : "expected.safetensors");
    golden g;
    golden_open(&g, path);
    int n = 0, n_rows = 0, one, n_layers;
    int32_t *ids = golden_read(&g, "ids", FM_I32, &n, &one), *n_prompt = golden_read(&g, "n_prompt", FM_I32, &one, &one);
    int32_t *rows = golden_read(&g, "rows", FM_I32, &n_rows, &one);
    CHECK(ids && n_prompt && rows && n == *n_prompt + 64, "%d ids", n);

    fm_engine_options options = FM_ENGINE_OPTIONS_INIT;
    options.activations = FM_ACTIVATIONS_F32;
    options.kv = FM_KV_F32;
    options.context = n;
    options.memory_bytes = (uint64_t)256 << 20;
    fm_engine *engine;
    MUST(fm_engine_open(&engine, argv[1], &options, err));
    n_layers = fm_engine_info(engine)->n_layers;
    record whole = {0}, stepped = {0};
    run(engine, ids, n, n, &whole);
    run(engine, ids, n, *n_prompt, &stepped);
    CHECK(whole.n_tensors == n_layers + 2 && stepped.n_tensors == whole.n_tensors, "%d tensors of %d layers", whole.n_tensors, n_layers);
    double worst = compare(&g, &whole, rows, n_rows);
    fprintf(stderr, "%s: largest difference %.2g, tolerance %.2g\n", argv[1], worst, TOLERANCE);
    for (int i = 0; i < whole.n_tensors; i++) {
        bool same = !memcmp(whole.data[i], stepped.data[i], (size_t)n * (size_t)whole.cols[i] * sizeof(float));
        CHECK(same, "%s: decoding gives other bits than one pass", whole.names[i]);
    }
    free_record(&whole);
    free_record(&stepped);
    fm_engine_close(&engine);
    golden_close(&g);
    free(ids);
    free(n_prompt);
    free(rows);
    return TEST_END();
}
