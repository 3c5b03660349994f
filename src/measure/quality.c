/* measure/quality.c: perplexity, and the divergence of one model from another. Sums are in double and in the order of the text. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/system.h"
#include "engine/engine.h"
#include "flash_moe_tools.h"

#define ROW_BYTES ((size_t)64 << 20) /* of one model's logits that wait for the other's */

typedef struct quality {
    fm_quality_options options;
    const int32_t *ids;
    int n, vocab;
    fm_engine *engines[2];
    fm_session *sessions[2];
    double nll[2], seconds[2]; /* sums */
    double own_seconds;        /* spent in callbacks: no model's */
    int n_tokens;
    float *rows; /* [n_rows][vocab] of the first model */
    int n_rows;
    double *kl; /* [n] */
    int n_same;
    bool one_by_one; /* as in decoding, because results depend on it */
    fm_error error;  /* of a callback */

    int window, first; /* first token of the window; first that is counted */
    int from;          /* position of the first row */
} quality;

static int complete(fm_quality_options *o, const fm_quality_options *given, fm_error *err) {
    *o = (fm_quality_options)FM_QUALITY_OPTIONS_INIT;
    if (given) memcpy(o, given, given->size < sizeof *o ? given->size : sizeof *o);
    if (!o->window) o->window = 512;
    if (!o->stride) o->stride = o->window;
    if (o->window < 2) return fm_fail(err, FM_EINVAL, "a window of %d tokens predicts nothing", o->window);
    if (o->stride < 1 || o->stride > o->window) return fm_fail(err, FM_EINVAL, "a stride of %d is not from 1 to the window's %d", o->stride, o->window);
    return 0;
}

/* log of the sum of exponentials, stable, and the place of the greatest. Not finite if a logit is not. */
static double log_sum(const float *x, int n, int *greatest) {
    double most = -INFINITY, sum = 0;
    *greatest = 0;
    for (int i = 0; i < n; i++) {
        if (isnan(x[i])) return NAN;
        if ((double)x[i] > most) {
            most = (double)x[i];
            *greatest = i;
        }
    }
    for (int i = 0; i < n; i++) sum += exp((double)x[i] - most);
    return most + log(sum);
}

static int check_nll(quality *q, int place, double nll) {
    if (isfinite(nll)) return 0;
    return fm_fail(&q->error, FM_ENAN, "the likelihood of token %d of the text, id %d, is not a number", place, (int)q->ids[place]);
}

static int told(quality *q, int place, double nll, double nll_b) {
    if (!q->options.token || !q->options.token(q->options.user, place, q->ids[place], nll, nll_b)) return 0;
    return fm_fail(&q->error, FM_ECANCELLED, "measuring was cancelled");
}

/* One position of a single model. */
static int single(void *user, int position, const float *logits) {
    quality *q = user;
    int place = q->window + position + 1, greatest;
    if (place < q->first) return 0;
    double nll = log_sum(logits, q->vocab, &greatest) - (double)logits[q->ids[place]];
    if (check_nll(q, place, nll) < 0) return 1;
    q->nll[0] += nll;
    q->n_tokens++;
    return told(q, place, nll, 0) < 0;
}

static int add_single(void *user, int position, const float *logits) {
    quality *q = user;
    double begin = fm_now();
    int rc = single(q, position, logits);
    q->own_seconds += fm_now() - begin;
    return rc;
}

static int keep_row(void *user, int position, const float *logits) {
    quality *q = user;
    memcpy(q->rows + (size_t)(position - q->from) * (size_t)q->vocab, logits, (size_t)q->vocab * sizeof *logits);
    return 0;
}

/* One position of the second model, whose row of the first one is there. */
static int pair(void *user, int position, const float *y) {
    quality *q = user;
    int place = q->window + position + 1, top[2];
    const float *x = q->rows + (size_t)(position - q->from) * (size_t)q->vocab;
    if (place < q->first) return 0;
    double lx = log_sum(x, q->vocab, &top[0]), ly = log_sum(y, q->vocab, &top[1]), kl = 0;
    double nll = lx - (double)x[q->ids[place]], nll_b = ly - (double)y[q->ids[place]];
    if (check_nll(q, place, nll) < 0 || check_nll(q, place, nll_b) < 0) return 1;
    for (int t = 0; t < q->vocab; t++) {
        double log_p = (double)x[t] - lx;
        kl += exp(log_p) * (log_p - ((double)y[t] - ly));
    }
    q->nll[0] += nll;
    q->nll[1] += nll_b;
    q->kl[q->n_tokens++] = kl > 0 ? kl : 0; /* it cannot be less, but for rounding */
    q->n_same += top[0] == top[1];
    return told(q, place, nll, nll_b) < 0;
}

static int add_pair(void *user, int position, const float *y) {
    quality *q = user;
    double begin = fm_now();
    int rc = pair(q, position, y);
    q->own_seconds += fm_now() - begin;
    return rc;
}

static int feed(quality *q, int which, int from, int n, fm_logits_fn fn, fm_error *err) {
    double begin = fm_now();
    int rc = fm_session_feed(q->sessions[which], q->ids + q->window + from, n, FM_LOGITS_ALL, fn, q, err);
    q->seconds[which] += fm_now() - begin - q->own_seconds;
    q->own_seconds = 0;
    if (rc < 0 && q->error.code) {
        if (err) *err = q->error;
        return q->error.code;
    }
    return rc < 0 ? rc : 0;
}

/* Tokens [0, length) of the window: the last is only predicted. */
static int read_window(quality *q, int length, fm_error *err) {
    int rc = 0, step = q->one_by_one ? 1 : q->rows ? q->n_rows : length;
    for (int i = 0; i < 2 && q->sessions[i]; i++) fm_session_clear(q->sessions[i]);
    for (q->from = 0; q->from < length - 1 && rc == 0; q->from += step) {
        int n = length - 1 - q->from < step ? length - 1 - q->from : step;
        if (!q->rows) {
            rc = feed(q, 0, q->from, n, add_single, err);
        } else if ((rc = feed(q, 0, q->from, n, keep_row, err)) == 0) {
            rc = feed(q, 1, q->from, n, add_pair, err);
        }
    }
    return rc;
}

static int read_windows(quality *q, fm_error *err) {
    int rc = 0;
    q->first = 1;
    for (q->window = 0; q->window + 1 < q->n && rc == 0; q->window += q->options.stride) {
        int length = q->n - q->window < q->options.window ? q->n - q->window : q->options.window;
        if (q->window + length <= q->first) break; /* nothing new */
        if (q->first < q->window + 1) q->first = q->window + 1;
        if (q->options.progress && q->options.progress(q->options.user, "tokens", (uint64_t)q->window, (uint64_t)q->n))
            return fm_fail(err, FM_ECANCELLED, "measuring was cancelled");
        rc = read_window(q, length, err);
        q->first = q->window + length;
    }
    return rc;
}

static int open_side(quality *q, int which, fm_engine *engine, fm_error *err) {
    int context = fm_engine_plan(engine)->context;
    q->engines[which] = engine;
    q->one_by_one |= fm_engine_cache_matters(engine);
    if (context < q->options.window) return fm_fail(err, FM_EINVAL, "a window of %d tokens does not fit a context of %d", q->options.window, context);
    return fm_session_open(&q->sessions[which], engine, err);
}

static void close_sides(quality *q) {
    fm_session_close(&q->sessions[0]);
    fm_session_close(&q->sessions[1]);
    free(q->rows);
    free(q->kl);
}

static fm_perplexity_result result_of(const quality *q, int which) {
    double mean = q->nll[which] / q->n_tokens;
    return (fm_perplexity_result){q->n_tokens, mean, exp(mean), q->seconds[which]};
}

static int check_text(const quality *q, fm_error *err) {
    for (int i = 0; i < q->n; i++) {
        if (q->ids[i] < 0 || q->ids[i] >= q->vocab)
            return fm_fail(err, FM_EINVAL, "token %d of the text has id %d, but there are only %d", i, (int)q->ids[i], q->vocab);
    }
    if (q->n >= 2) return 0;
    return fm_fail(err, FM_EINVAL, "the text has %d token%s, and 2 is the least that can be predicted", q->n, q->n == 1 ? "" : "s");
}

int fm_perplexity(fm_engine *engine, const int32_t *ids, int n, const fm_quality_options *options, fm_perplexity_result *out, fm_error *err) {
    quality q = {.ids = ids, .n = n, .vocab = fm_engine_info(engine)->vocab};
    *out = (fm_perplexity_result){0};
    int rc = complete(&q.options, options, err);
    if (rc == 0) rc = check_text(&q, err);
    if (rc == 0) rc = open_side(&q, 0, engine, err);
    if (rc == 0 && (rc = read_windows(&q, err)) == 0) *out = result_of(&q, 0);
    close_sides(&q);
    return rc;
}

/* ---- two models ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Tokens a second of a model that is given the text's first tokens one at a time, after a prompt of as many. */
static int decode_rate(quality *q, int which, double *rate, fm_error *err) {
    int n = q->options.decode, most = (q->n < q->options.window ? q->n : q->options.window) / 2;
    if (n > most) n = most;
    *rate = 0;
    if (n < 1) return 0;
    fm_session_clear(q->sessions[which]);
    int rc = fm_session_feed(q->sessions[which], q->ids, n, FM_LOGITS_LAST, NULL, NULL, err);
    double begin = fm_now();
    for (int i = 0; i < n && rc >= 0; i++) rc = fm_session_feed(q->sessions[which], q->ids + n + i, 1, FM_LOGITS_LAST, NULL, NULL, err);
    if (rc >= 0) *rate = n / (fm_now() - begin);
    return rc < 0 ? rc : 0;
}

static int open_rows(quality *q, fm_error *err) {
    size_t row = (size_t)q->vocab * sizeof *q->rows;
    q->n_rows = row > ROW_BYTES ? 1 : (int)(ROW_BYTES / row);
    if (q->n_rows > q->options.window) q->n_rows = q->options.window;
    q->rows = malloc((size_t)q->n_rows * row);
    q->kl = malloc((size_t)q->n * sizeof *q->kl);
    return q->rows && q->kl ? 0 : fm_fail(err, FM_ENOMEM, "no memory for %d rows of %d logits", q->n_rows, q->vocab);
}

static void fill_result(quality *q, fm_compare_result *out) {
    int n = q->n_tokens;
    double sum = 0;
    out->a = result_of(q, 0);
    out->b = result_of(q, 1);
    for (int i = 0; i < n; i++) sum += q->kl[i];
    qsort(q->kl, (size_t)n, sizeof *q->kl, by_value);
    out->kl_mean = sum / n;
    out->kl_median = q->kl[n / 2];
    out->kl_p90 = q->kl[(size_t)((double)(n - 1) * 0.9)];
    out->kl_p99 = q->kl[(size_t)((double)(n - 1) * 0.99)];
    out->kl_most = q->kl[n - 1];
    out->same_top = (double)q->n_same / n;
}

int fm_compare(fm_engine *a, fm_engine *b, const int32_t *ids, int n, const fm_quality_options *options, fm_compare_result *out, fm_error *err) {
    quality q = {.ids = ids, .n = n, .vocab = fm_engine_info(a)->vocab};
    *out = (fm_compare_result){0};
    int rc = complete(&q.options, options, err);
    if (rc == 0 && fm_engine_info(b)->vocab != q.vocab)
        rc = fm_fail(err, FM_EINVAL, "%s has %d tokens and %s %d: they cannot be compared", fm_engine_info(a)->path, q.vocab, fm_engine_info(b)->path,
                     fm_engine_info(b)->vocab);
    if (rc == 0) rc = check_text(&q, err);
    if (rc == 0) rc = open_side(&q, 0, a, err);
    if (rc == 0) rc = open_side(&q, 1, b, err);
    if (rc == 0) rc = open_rows(&q, err);
    if (rc == 0 && (rc = read_windows(&q, err)) == 0) fill_result(&q, out);
    if (rc == 0) rc = decode_rate(&q, 0, &out->decode_a, err);
    if (rc == 0) rc = decode_rate(&q, 1, &out->decode_b, err);
    close_sides(&q);
    return rc;
}
