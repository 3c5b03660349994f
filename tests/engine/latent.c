/* tests/engine/latent.c: latent attention over more blocks of keys than it takes to memory at once: the same bits whatever the threads, the kernels and the pieces, for
 * each kind of KV cache; what the cache takes; how far bf16 and q8 move the logits; and that a latent that is not finite is seen. */
#include <math.h>

#include "cpu/cpu.h"
#include "engine/engine.h"
#include "test.h"

#define N 2200 /* eight blocks are 2048 */
#define N_PROMPT 2185

static const char *const models[] = {TEST_SOURCE_ROOT "/tests/golden/deepseek_v2-bf16-lite", TEST_SOURCE_ROOT "/tests/golden/deepseek_v3-mlx-4bit"};
static const char *const names[] = {"bf16", "f32", "q8"};
static int32_t ids[2][N];

static fm_engine_options options_of(int kv) {
    fm_engine_options o = FM_ENGINE_OPTIONS_INIT;
    o.context = N;
    o.n_sessions = 2;
    o.kv = kv;
    o.memory_bytes = (uint64_t)256 << 20;
    return o;
}

static fm_engine *open_engine(const char *directory, const fm_engine_options *o) {
    fm_engine *e;
    MUST(fm_engine_open(&e, directory, o, err));
    return e;
}

/* The last rows' logits [N - N_PROMPT][vocab]: the prompt in pieces, then one by one; beside it another session, a few tokens at a time. */
static float *run(const char *directory, const fm_engine_options *o, int piece, bool beside) {
    fm_engine *e = open_engine(directory, o);
    fm_session *a, *b;
    int vocab = fm_engine_info(e)->vocab;
    float *out = malloc(sizeof *out * (size_t)vocab * (N - N_PROMPT)), *to = out;
    MUST(fm_session_open(&a, e, err));
    MUST(fm_session_open(&b, e, err));
    for (int at = 0, other = 0; at < N; other += 7) {
        int n = at >= N_PROMPT ? 1 : N_PROMPT - at < piece ? N_PROMPT - at : piece;
        fm_piece pieces[2] = {{a, ids[0] + at, n, FM_LOGITS_LAST}, {b, ids[1] + other, 7, FM_LOGITS_NONE}};
        MUST(fm_engine_feed(e, pieces, beside && other + 7 <= N ? 2 : 1, NULL, NULL, err));
        at += n;
        if (at <= N_PROMPT) continue;
        memcpy(to, fm_session_logits(a), (size_t)vocab * sizeof *to);
        to += vocab;
    }
    fm_session_close(&a);
    fm_session_close(&b);
    fm_engine_close(&e);
    return out;
}

static size_t logits_of(const char *directory, const fm_engine_options *o) {
    fm_engine *e = open_engine(directory, o);
    size_t n = (size_t)fm_engine_info(e)->vocab * (N - N_PROMPT);
    fm_engine_close(&e);
    return n;
}

static void check_order(const char *directory, int kv) {
    fm_engine_options o = options_of(kv);
    size_t bytes = logits_of(directory, &o) * sizeof(float);
    o.n_threads = 1;
    float *want = run(directory, &o, N, false);
    for (int way = 0; way < (kv == FM_KV_BF16 ? 3 : 2); way++) {
        o = options_of(kv);
        o.n_threads = 2 + way;
        o.cpu = way == 2 ? "scalar" : NULL;
        float *got = run(directory, &o, (const int[]){100, 611, N}[way], way == 0);
        CHECK(memcmp(want, got, bytes) == 0, "%s, %s: way %d gives other logits", directory, names[kv], way);
        free(got);
    }
    free(want);
}

/* Of single numbers: a choice of experts that turns moves logits by 1 and more. */
static void check_distance(const char *directory) {
    static const double bounds[] = {0.1, 0, 0.2};
    fm_engine_options o = options_of(FM_KV_F32);
    size_t n = logits_of(directory, &o);
    float *want = run(directory, &o, N, false);
    for (int kv = FM_KV_BF16; kv <= FM_KV_Q8; kv++) {
        o = options_of(kv);
        float *got = run(directory, &o, N, false);
        double sum = 0;
        for (size_t i = 0; i < n; i++) sum += ((double)want[i] - (double)got[i]) * ((double)want[i] - (double)got[i]) / (double)n;
        fprintf(stderr, "%s, %s: logits differ by %.3g rms\n", directory, names[kv], sqrt(sum));
        CHECK(sqrt(sum) <= bounds[kv] && (kv == FM_KV_F32) == (sum == 0), "%s: logits differ by %g rms", names[kv], sqrt(sum));
        free(got);
    }
    free(want);
}

/* A position takes a latent and its rotary part, once. */
static void check_bytes(const char *directory) {
    uint64_t bytes[3];
    fm_plan plan;
    fm_engine_options o = options_of(FM_KV_F32);
    fm_engine *e = open_engine(directory, &o);
    uint64_t columns = fm_kv_columns(e->model->description.head_dim), groups = fm_kv_groups(e->model->description.head_dim), layers[3];
    CHECK(e->model->description.head_dim == e->model->description.kv_rank + e->model->description.rotary_dim, "columns");
    layers[FM_KV_BF16] = columns * 2, layers[FM_KV_F32] = columns * 4, layers[FM_KV_Q8] = columns + 4 * groups;
    for (int kv = FM_KV_BF16; kv <= FM_KV_Q8; kv++) {
        o = options_of(kv);
        o.context = 1024;
        MUST(fm_plan_make(&plan, directory, &o, err));
        bytes[kv] = plan.session_bytes;
        o.context = 2048;
        MUST(fm_plan_make(&plan, directory, &o, err));
        uint64_t want = 2 * 1024 * (layers[kv] * (uint64_t)e->model->description.n_layers + sizeof(int32_t));
        CHECK(plan.session_bytes - bytes[kv] == want, "%s: 1024 positions of two sessions take %llu bytes, not %llu", names[kv],
              (unsigned long long)(plan.session_bytes - bytes[kv]), (unsigned long long)want);
    }
    fm_engine_close(&e);
}

static void check_not_finite(const char *directory) {
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    for (int i = 0; i < 9; i++) {
        fm_engine_options o = options_of(i % 3);
        fm_engine *e = open_engine(directory, &o);
        fm_session *s;
        fm_error error = {0};
        ((float *)(uintptr_t)e->weights.layers[e->model->description.n_layers - 1].vector[FM_KV_A_NORM])[3] = bad[i / 3];
        MUST(fm_session_open(&s, e, err));
        int rc = fm_session_feed(s, ids[0], 5, FM_LOGITS_LAST, NULL, NULL, &error);
        CHECK(rc == FM_ENAN, "%s: latents of %g give %d: %s", names[i % 3], (double)bad[i / 3], rc, error.message);
        fm_session_close(&s);
        fm_engine_close(&e);
    }
}

int main(void) {
    uint64_t random = 5;
    for (int i = 0; i < 2 * N; i++) ids[i / N][i % N] = (int32_t)(test_random(&random) % 96);
    for (int i = 0; i < 2; i++) {
        check_bytes(models[i]);
        check_not_finite(models[i]);
        check_distance(models[i]);
        for (int kv = FM_KV_BF16; kv <= FM_KV_Q8; kv++) {
            if (TEST_SLOW ? i == 1 && kv == FM_KV_BF16 : i == 0 || kv == FM_KV_BF16) check_order(models[i], kv);
        }
    }
    return TEST_END();
}
