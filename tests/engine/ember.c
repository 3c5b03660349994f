/* tests/engine/ember.c: the demo model against transformers in float32: logits, greedy texts and perplexity. usage: ember DIRECTORY [BF16-DIRECTORY]
 *
 * Alone, DIRECTORY's weights are compared with the reference.safetensors and reference.json beside them, with f32 activations: logits within 1e-3 (both are float32
 * sums of a few hundred terms in another order; logits reach 20), the same greedy tokens, the perplexity to four digits. With BF16-DIRECTORY, DIRECTORY is run with
 * int8 activations, as users run it, and compared with the bf16 checkpoint: perplexity within 0.3 %, mean KL divergence below 1.5e-3. */
#include <jansson.h>
#include <math.h>

#include "golden.h"
#include "logits.h"

#define WINDOW 512
#define N_WINDOWS 16

static fm_engine *open_engine(const char *directory, int activations, int kv) {
    fm_engine_options options = FM_ENGINE_OPTIONS_INIT;
    fm_engine *engine;
    options.activations = activations;
    options.kv = kv;
    options.context = 1024;
    options.memory_bytes = (uint64_t)512 << 20;
    MUST(fm_engine_open(&engine, directory, &options, err));
    return engine;
}

static int argmax(const float *x, int n) {
    int best = 0;
    for (int i = 1; i < n; i++) {
        if (x[i] > x[best]) best = i;
    }
    return best;
}

/* Prompt N of the reference: its logits, and its greedy continuation by feeding our own choices. */
static double check_prompt(golden *g, fm_engine *engine, int prompt, int logits_from) {
    char name[32];
    int n = 0, n_rows = 0, vocab = 0, n_greedy = 0, one, model_vocab = fm_engine_info(engine)->vocab;
    snprintf(name, sizeof name, "%d.ids", prompt);
    int32_t *ids = golden_read(g, name, FM_I32, &n, &one);
    snprintf(name, sizeof name, "%d.logits", prompt);
    float *want = golden_read(g, name, FM_F32, &n_rows, &vocab);
    snprintf(name, sizeof name, "%d.greedy", prompt);
    int32_t *greedy = golden_read(g, name, FM_I32, &n_greedy, &one);
    CHECK(ids && want && greedy && vocab == model_vocab && n_rows + logits_from == n, "prompt %d: %d rows of logits", prompt, n_rows);
    rows r = {malloc((size_t)n * (size_t)vocab * sizeof(float)), vocab};
    fm_session *session;
    MUST(fm_session_open(&session, engine, err));
    MUST(fm_session_feed(session, ids, n, FM_LOGITS_ALL, rows_keep, &r, err));
    double worst = 0;
    for (size_t i = 0; i < (size_t)n_rows * (size_t)vocab; i++) {
        double d = fabs((double)r.data[(size_t)logits_from * (size_t)vocab + i] - (double)want[i]);
        if (!(d <= worst)) worst = d;
    }
    CHECK(worst <= 1e-3, "prompt %d: a logit differs by %g", prompt, worst);
    for (int i = n; i < n_greedy; i++) {
        int32_t id = argmax(fm_session_logits(session), vocab);
        CHECK(id == greedy[i], "prompt %d: token %d is %d, expected %d", prompt, i, (int)id, (int)greedy[i]);
        if (id != greedy[i]) break;
        MUST(fm_session_feed(session, &id, 1, FM_LOGITS_LAST, NULL, NULL, err));
    }
    fm_session_close(&session);
    free(ids);
    free(want);
    free(greedy);
    free(r.data);
    return worst;
}

static int read_ids(fm_engine *engine, const char *directory, int32_t **ids) {
    char path[1200], *text;
    size_t bytes;
    int n = 0;
    snprintf(path, sizeof path, "%s/held-out.txt", directory);
    MUST(fm_file_read_text(&text, &bytes, path, (size_t)16 << 20, err));
    MUST(n = fm_engine_encode(engine, text, bytes, true, ids, err));
    CHECK(n >= WINDOW * N_WINDOWS, "%d tokens", n);
    free(text);
    return n;
}

static void window_logits(fm_engine *engine, const int32_t *ids, rows *r) {
    fm_session *session;
    MUST(fm_session_open(&session, engine, err));
    MUST(fm_session_feed(session, ids, WINDOW, FM_LOGITS_ALL, rows_keep, r, err));
    fm_session_close(&session);
}

/* log of the sum of exponentials of a row. */
static double log_sum(const float *x, int n) {
    double most = x[argmax(x, n)], sum = 0;
    for (int i = 0; i < n; i++) sum += exp((double)x[i] - most);
    return most + log(sum);
}

static double nll(const rows *r, const int32_t *ids) {
    double sum = 0;
    for (int i = 0; i + 1 < WINDOW; i++) {
        const float *row = r->data + (size_t)i * (size_t)r->vocab;
        sum += log_sum(row, r->vocab) - (double)row[ids[i + 1]];
    }
    return sum;
}

static rows new_rows(fm_engine *engine) {
    int vocab = fm_engine_info(engine)->vocab;
    return (rows){malloc((size_t)WINDOW * (size_t)vocab * sizeof(float)), vocab};
}

static void check_perplexity(fm_engine *engine, const char *directory, double expected) {
    int32_t *ids;
    double sum = 0;
    rows r = new_rows(engine);
    read_ids(engine, directory, &ids);
    for (int w = 0; w < N_WINDOWS; w++) {
        window_logits(engine, ids + w * WINDOW, &r);
        sum += nll(&r, ids + w * WINDOW);
    }
    double perplexity = exp(sum / (N_WINDOWS * (WINDOW - 1)));
    fprintf(stderr, "perplexity %.6f, expected %.6f\n", perplexity, expected);
    CHECK(fabs(perplexity - expected) < 5e-5, "perplexity %.6f, expected %.6f", perplexity, expected);
    fm_free(ids);
    free(r.data);
}

static void check_reference(const char *directory) {
    char path[1200];
    golden g;
    json_error_t at;
    snprintf(path, sizeof path, "%s/reference.safetensors", directory);
    golden_open(&g, path);
    snprintf(path, sizeof path, "%s/reference.json", directory);
    json_t *reference = json_load_file(path, 0, &at);
    CHECK(reference, "%s: %s", path, at.text);
    fm_engine *engine = open_engine(directory, FM_ACTIVATIONS_F32, FM_KV_F32);
    double worst = 0;
    for (int i = 0; i < 7; i++) {
        int from = (int)json_integer_value(json_array_get(json_object_get(reference, "logits_from"), (size_t)i));
        double d = check_prompt(&g, engine, i, from);
        if (d > worst) worst = d;
    }
    fprintf(stderr, "%s: largest difference of a logit %.2g\n", directory, worst);
    check_perplexity(engine, directory, json_real_value(json_object_get(reference, "perplexity")));
    fm_engine_close(&engine);
    json_decref(reference);
    golden_close(&g);
}

static void check_quality(const char *directory, const char *bf16) {
    fm_engine *a = open_engine(bf16, FM_ACTIVATIONS_F32, FM_KV_F32), *b = open_engine(directory, FM_ACTIVATIONS_INT8, FM_KV_BF16);
    rows p = new_rows(a), q = new_rows(b);
    int32_t *ids;
    double nll_a = 0, nll_b = 0, kl = 0;
    read_ids(a, bf16, &ids);
    for (int w = 0; w < N_WINDOWS; w++) {
        window_logits(a, ids + w * WINDOW, &p);
        window_logits(b, ids + w * WINDOW, &q);
        nll_a += nll(&p, ids + w * WINDOW);
        nll_b += nll(&q, ids + w * WINDOW);
        for (int i = 0; i < WINDOW; i++) {
            const float *x = p.data + (size_t)i * (size_t)p.vocab, *y = q.data + (size_t)i * (size_t)q.vocab;
            double lx = log_sum(x, p.vocab), ly = log_sum(y, q.vocab);
            for (int t = 0; t < p.vocab; t++) kl += exp((double)x[t] - lx) * ((double)x[t] - lx - (double)y[t] + ly);
        }
    }
    int n = N_WINDOWS * (WINDOW - 1);
    double perplexity_a = exp(nll_a / n), perplexity_b = exp(nll_b / n);
    kl /= N_WINDOWS * WINDOW;
    fprintf(stderr, "perplexity bf16 %.6f, 4-bit with int8 activations %.6f (%+.3f %%), KL %.3g\n", perplexity_a, perplexity_b,
            (perplexity_b / perplexity_a - 1) * 100, kl);
    CHECK(fabs(perplexity_b / perplexity_a - 1) < 0.003, "perplexity %.6f against %.6f", perplexity_b, perplexity_a);
    CHECK(kl < 1.5e-3 && kl > 0, "KL %g", kl);
    fm_free(ids);
    free(p.data);
    free(q.data);
    fm_engine_close(&a);
    fm_engine_close(&b);
}

int main(int argc, char **argv) {
    const char *bf16 = getenv("EMBER_BF16");
    if (argc < 2) return 1;
    bool wants_bf16 = argc > 2 || !strcmp(argv[1], "bf16");
    if (wants_bf16 && !(bf16 && *bf16)) SKIP("EMBER_BF16 does not name the directory of the bf16 checkpoint");
    if (argc > 2) {
        check_quality(argv[1], bf16);
    } else {
        check_reference(wants_bf16 ? bf16 : argv[1]);
    }
    return TEST_END();
}
