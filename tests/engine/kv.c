/* tests/engine/kv.c: the kinds of KV cache against each other: how far bf16 and q8 move the logits from f32's, on the demo model and a tiny one; what each takes of
 * the budget; and that none of them hides a number that is not finite. */
#include <math.h>

#include "cpu/cpu.h"
#include "engine/engine.h"
#include "golden.h"
#include "logits.h"

#define N_TOKENS 1024

static const char ember[] = TEST_SOURCE_ROOT "/models/ember", tiny[] = TEST_SOURCE_ROOT "/tests/golden/qwen3_moe-bf16";
static const char *const names[] = {"bf16", "f32", "q8"};

static fm_engine_options options_of(int kv, int context) {
    fm_engine_options options = FM_ENGINE_OPTIONS_INIT;
    options.activations = FM_ACTIVATIONS_F32;
    options.kv = kv;
    options.context = context;
    options.memory_bytes = (uint64_t)512 << 20;
    return options;
}

static fm_engine *open_engine(const char *directory, int kv, int context) {
    fm_engine_options options = options_of(kv, context);
    fm_engine *engine;
    MUST(fm_engine_open(&engine, directory, &options, err));
    return engine;
}

static rows logits_of(const char *directory, int kv, const int32_t *ids, int n) {
    fm_engine *engine = open_engine(directory, kv, n);
    rows r = {.vocab = fm_engine_info(engine)->vocab};
    r.data = malloc((size_t)n * (size_t)r.vocab * sizeof *r.data);
    fm_session *session;
    MUST(fm_session_open(&session, engine, err));
    MUST(fm_session_feed(session, ids, n, FM_LOGITS_ALL, rows_keep, &r, err));
    fm_session_close(&session);
    fm_engine_close(&engine);
    return r;
}

/* log of the sum of exponentials of a row. */
static double log_sum(const float *x, int n) {
    double most = x[0], sum = 0;
    for (int i = 1; i < n; i++) {
        if ((double)x[i] > most) most = (double)x[i];
    }
    for (int i = 0; i < n; i++) sum += exp((double)x[i] - most);
    return most + log(sum);
}

typedef struct distance {
    double worst, rms, kl, nll; /* differences of logits: the largest, and the root of the mean square; means */
} distance;

static distance distance_of(const rows *p, const rows *q, const int32_t *ids, int n) {
    distance d = {0};
    for (int i = 0; i < n; i++) {
        const float *x = p->data + (size_t)i * (size_t)p->vocab, *y = q->data + (size_t)i * (size_t)q->vocab;
        double lx = log_sum(x, p->vocab), ly = log_sum(y, q->vocab);
        for (int t = 0; t < p->vocab; t++) {
            double difference = fabs((double)x[t] - (double)y[t]);
            if (!(difference <= d.worst)) d.worst = difference;
            d.rms += difference * difference / n / p->vocab;
            d.kl += exp((double)x[t] - lx) * ((double)x[t] - lx - (double)y[t] + ly) / n;
        }
        if (i + 1 < n) d.nll += (ly - (double)y[ids[i + 1]]) / (n - 1);
    }
    d.rms = sqrt(d.rms);
    return d;
}

/* Bounds of the rms difference of logits and of the mean KL divergence. Where a rounding turns a near tie of two experts, that token's logits move by 1 and more:
 * so no bound of the largest, and bf16 is not always nearer than q8. */
static void check_distance(const char *directory, const int32_t *ids, int n, const double bounds[2]) {
    rows want = logits_of(directory, FM_KV_F32, ids, n);
    distance base = distance_of(&want, &want, ids, n);
    for (int kv = FM_KV_BF16; kv <= FM_KV_Q8; kv++) {
        if (kv == FM_KV_F32) continue;
        rows got = logits_of(directory, kv, ids, n);
        distance d = distance_of(&want, &got, ids, n);
        fprintf(stderr, "%s, %s: differences of logits %.3g rms, %.3g at most, KL %.3g, perplexity %.6f (f32 %.6f)\n", directory, names[kv], d.rms, d.worst,
                d.kl, exp(d.nll), exp(base.nll));
        CHECK(d.rms > 0 && d.rms <= bounds[0], "%s: logits differ by %g rms", names[kv], d.rms);
        CHECK(d.kl <= bounds[1], "%s: KL %g", names[kv], d.kl);
        free(got.data);
    }
    free(want.data);
}

static void check_ember(void) {
    static const double bounds[2] = {0.03, 5e-5};
    char *text;
    size_t bytes;
    int32_t *ids;
    int n = 0;
    fm_engine *engine = open_engine(ember, FM_KV_BF16, 256);
    MUST(fm_file_read_text(&text, &bytes, TEST_SOURCE_ROOT "/models/ember/held-out.txt", (size_t)16 << 20, err));
    MUST(n = fm_engine_encode(engine, text, bytes, true, &ids, err));
    CHECK(n >= 4 * N_TOKENS, "%d tokens", n);
    fm_engine_close(&engine);
    for (int i = 0; i < 4; i++) check_distance(ember, ids + i * N_TOKENS, N_TOKENS, bounds);
    free(text);
    fm_free(ids);
}

static void check_tiny(void) {
    static const double bounds[2] = {0.3, 1e-2};
    golden g;
    int n = 0, one;
    golden_open(&g, TEST_SOURCE_ROOT "/tests/golden/qwen3_moe-bf16/expected.safetensors");
    int32_t *ids = golden_read(&g, "ids", FM_I32, &n, &one);
    CHECK(ids, "no ids");
    check_distance(tiny, ids, n, bounds);
    free(ids);
    golden_close(&g);
}

/* ---- the budget ---- */

static fm_plan plan_of(const char *directory, int kv, int context, uint64_t memory) {
    fm_engine_options o = options_of(kv, context);
    fm_plan plan;
    o.memory_bytes = memory;
    MUST(fm_plan_make(&plan, directory, &o, err));
    CHECK(plan.kv == kv, "the plan is for kv %d, not %d", plan.kv, kv);
    return plan;
}

static void check_plan(void) {
    fm_engine *engine = open_engine(ember, FM_KV_BF16, 256);
    const fm_description *d = &engine->model->description;
    uint64_t values = 2 * (uint64_t)fm_engine_info(engine)->n_attention_layers * (uint64_t)d->n_kv_heads * 1024; /* heads of a position, times positions */
    uint64_t columns = (uint64_t)d->head_dim, groups = (columns + 63) / 64, all = (uint64_t)256 << 20, want[3];
    CHECK(d->head_dim % 16 == 0, "the columns of %d are padded", d->head_dim);
    want[FM_KV_BF16] = values * columns * 2;
    want[FM_KV_F32] = values * columns * 4;
    want[FM_KV_Q8] = values * (columns + groups * 4);
    fm_plan f32 = plan_of(ember, FM_KV_F32, 1024, all);
    for (int kv = FM_KV_BF16; kv <= FM_KV_Q8; kv++) {
        fm_plan plan = plan_of(ember, kv, 1024, all);
        CHECK(f32.session_bytes - plan.session_bytes == want[FM_KV_F32] - want[kv], "%s: sessions %llu, with f32 %llu, expected to differ by %llu", names[kv],
              (unsigned long long)plan.session_bytes, (unsigned long long)f32.session_bytes, (unsigned long long)(want[FM_KV_F32] - want[kv]));
        CHECK(f32.floor_bytes - plan.floor_bytes >= want[FM_KV_F32] - want[kv], "%s: the floor is %llu", names[kv], (unsigned long long)plan.floor_bytes);
    }
    /* Of the same budget, the smaller numbers hold the longer context. */
    int contexts[3];
    for (int kv = FM_KV_BF16; kv <= FM_KV_Q8; kv++) contexts[kv] = plan_of(ember, kv, 0, (uint64_t)24 << 20).context;
    fprintf(stderr, "context in 24 MiB: bf16 %d, f32 %d, q8 %d\n", contexts[FM_KV_BF16], contexts[FM_KV_F32], contexts[FM_KV_Q8]);
    CHECK(contexts[FM_KV_Q8] > contexts[FM_KV_BF16] && contexts[FM_KV_BF16] > contexts[FM_KV_F32], "contexts %d, %d and %d", contexts[0], contexts[1],
          contexts[2]);
    fm_engine_close(&engine);
    fm_engine_options o = options_of(3, 0);
    fm_plan plan;
    fm_error err = {0};
    CHECK(fm_plan_make(&plan, ember, &o, &err) == FM_EINVAL && strstr(err.message, "KV cache"), "kind 3: %s", err.message);
}

/* ---- numbers that are not finite ---- */

/* A key that overflowed: without care its score could be -infinity and the key be left out. */
static void check_not_finite(void) {
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    for (int i = 0; i < 9; i++) {
        fm_engine *engine = open_engine(tiny, i % 3, 64);
        const fm_layer_weights *last = &engine->weights.layers[engine->model->description.n_layers - 1];
        ((float *)(uintptr_t)last->vector[FM_K_NORM])[3] = bad[i / 3];
        fm_session *session;
        fm_error error = {0};
        int32_t ids[] = {5, 6, 7, 8, 9};
        MUST(fm_session_open(&session, engine, err));
        int rc = fm_session_feed(session, ids, 5, FM_LOGITS_LAST, NULL, NULL, &error);
        CHECK(rc == FM_ENAN, "%s: keys of %g give %d: %s", names[i % 3], (double)bad[i / 3], rc, error.message);
        fm_session_close(&session);
        fm_engine_close(&engine);
    }
}

int main(void) {
    check_plan();
    check_not_finite();
    check_tiny();
    check_ember();
    return TEST_END();
}
