/* measure/replay_locality.c: how alike the experts of neighbouring tokens are, and how many of them were predicted. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "measure/replay.h"

/* Sums over (decoded token, layer with experts). */
typedef struct sums {
    uint64_t same[FM_REPLAY_LAGS], of_lag[FM_REPLAY_LAGS]; /* experts, and places */
    uint64_t distinct[FM_REPLAY_UNIONS], of_window[FM_REPLAY_UNIONS];
    uint64_t predicted, previous, forecasts;
} sums;

/* How many of the experts x [top_k] are in y [top_k]. */
static uint64_t common(const int16_t *x, const int16_t *y, int top_k) {
    uint64_t n = 0;
    for (int i = 0; i < top_k; i++) {
        for (int j = 0; j < top_k; j++) {
            if (x[i] != y[j]) continue;
            n++;
            break;
        }
    }
    return n;
}

/* last: position of the token in its sequence; decoded: tokens in a row, up to this one, that were decoded; seen [n_experts]: a stamp. */
static void add_place(sums *s, const fm_replay *r, const fm_trace *t, const int place[4], uint32_t *seen) {
    int token = place[0], layer = place[1], last = place[2], decoded = place[3], k = t->top_k;
    size_t row = (size_t)t->n_layers * (size_t)k;
    const int16_t *x = t->experts + (size_t)token * row + (size_t)layer * (size_t)k, *predicted = t->predicted + (x - t->experts);
    for (int i = 0; i < FM_REPLAY_LAGS && r->lags[i] <= last; i++) {
        s->same[i] += common(x, x - (size_t)r->lags[i] * row, k);
        s->of_lag[i]++;
    }
    uint32_t *stamp = &seen[t->n_experts];
    uint64_t distinct = 0;
    ++*stamp;
    for (int back = 0, i = 0; i < FM_REPLAY_UNIONS && back < decoded; back++) {
        for (int j = 0; j < k; j++) {
            uint32_t *mark = &seen[x[j - (ptrdiff_t)((size_t)back * row)]];
            distinct += *mark != *stamp;
            *mark = *stamp;
        }
        if (back + 1 < r->windows[i]) continue;
        s->distinct[i] += distinct;
        s->of_window[i++]++;
    }
    bool forecast = false;
    for (int i = 0; i < k; i++) forecast |= predicted[i] >= 0;
    if (!forecast) return;
    s->forecasts++;
    s->predicted += common(x, predicted, k);
    if (last > 0) s->previous += common(x, x - row, k);
}

static double share(uint64_t part, uint64_t of, int top_k) { return of ? (double)part / ((double)of * top_k) : NAN; }

int fm_replay_locality(fm_replay *r, const fm_trace *t, fm_error *err) {
    sums s = {0};
    uint32_t *seen = calloc((size_t)t->n_experts + 1, sizeof *seen);
    if (!seen) return fm_fail(err, FM_ENOMEM, "no memory for %d experts", t->n_experts);
    for (int token = 0, last = 0, decoded = 0; token < t->n_tokens; token++) {
        last = t->kind[token] & FM_TRACE_FIRST ? 0 : last + 1;
        decoded = t->kind[token] & FM_TRACE_PROMPT ? 0 : t->kind[token] & FM_TRACE_FIRST ? 1 : decoded + 1;
        for (int layer = 0; layer < t->n_layers && decoded; layer++) {
            if (t->moe[layer]) add_place(&s, r, t, (const int[4]){token, layer, last, decoded}, seen);
        }
    }
    free(seen);
    for (int i = 0; i < FM_REPLAY_LAGS; i++) r->overlaps[i] = share(s.same[i], s.of_lag[i], t->top_k);
    for (int i = 0; i < FM_REPLAY_UNIONS; i++) r->unions[i] = share(s.distinct[i], s.of_window[i], t->top_k);
    r->recall = share(s.predicted, s.forecasts, t->top_k);
    r->recall_previous = share(s.previous, s.forecasts, t->top_k);
    return 0;
}
