/* tests/replay/traces.h: made-up traces: experts by popularity (Zipf), with some of the last token's again. */
#ifndef FM_TESTS_REPLAY_TRACES_H
#define FM_TESTS_REPLAY_TRACES_H

#include <math.h>
#include <unistd.h>

#include "measure/trace.h"
#include "test.h"

typedef struct made_trace {
    int n_layers, n_experts, top_k, n_tokens;
    int n_prompt, n_sequence; /* tokens of each sequence's prompt, and of each sequence */
    double exponent, reuse;   /* of Zipf; share of experts that the token before had */
    int dense_layer;          /* has no experts; -1: none */
    bool predicted;           /* half of the decoded tokens have predictions, of which half are right */
} made_trace;

static inline double trace_unit(uint64_t *seed) { return (double)(test_random(seed) >> 11) * 0x1p-53; }

static inline int trace_zipf(const made_trace *m, uint64_t *seed) {
    double sum = 0, at;
    for (int i = 0; i < m->n_experts; i++) sum += pow(i + 1, -m->exponent);
    at = trace_unit(seed) * sum;
    for (int i = 0; i < m->n_experts; i++) {
        if ((at -= pow(i + 1, -m->exponent)) < 0) return i;
    }
    return m->n_experts - 1;
}

static inline bool trace_has(const int16_t *row, int n, int x) {
    for (int i = 0; i < n; i++) {
        if (row[i] == x) return true;
    }
    return false;
}

static inline void trace_insert(int16_t *row, int n, int x) {
    for (; n > 0 && row[n - 1] > x; n--) row[n] = row[n - 1];
    row[n] = (int16_t)x;
}

/* The experts of one token in one layer; before: those of the token before, or NULL. */
static inline void trace_choose(const made_trace *m, int layer, const int16_t *before, int16_t *row, uint64_t *seed) {
    for (int k = 0; k < m->top_k;) {
        bool again = before && trace_unit(seed) < m->reuse;
        int x = again ? before[test_random(seed) % (uint64_t)m->top_k] : (trace_zipf(m, seed) + 7 * layer) % m->n_experts;
        if (!trace_has(row, k, x)) trace_insert(row, k++, x);
    }
}

static inline void trace_free(fm_trace *t) {
    free(t->moe);
    free(t->kind);
    free(t->experts);
    free(t->predicted);
    free(t->how);
}

static inline fm_trace trace_empty(const made_trace *m) {
    size_t values = (size_t)m->n_tokens * (size_t)m->n_layers * (size_t)m->top_k;
    fm_trace t = {
        .n_layers = m->n_layers, .n_experts = m->n_experts, .top_k = m->top_k, .n_tokens = m->n_tokens, .model_type = "made_up", .architecture = "MadeUp"};
    t.moe = malloc((size_t)m->n_layers);
    t.kind = calloc((size_t)m->n_tokens, 1);
    t.experts = malloc(values * sizeof *t.experts);
    t.predicted = malloc(values * sizeof *t.predicted);
    t.how = strdup("{\"made\":\"up\"}");
    for (int i = 0; i < m->n_layers; i++) t.moe[i] = i != m->dense_layer;
    for (size_t i = 0; i < values; i++) t.experts[i] = t.predicted[i] = -1;
    return t;
}

static inline fm_trace trace_make(const made_trace *m, uint64_t seed) {
    fm_trace t = trace_empty(m);
    size_t row = (size_t)m->n_layers * (size_t)m->top_k;
    for (int i = 0; i < m->n_tokens; i++) {
        int at = i % m->n_sequence;
        t.kind[i] = (uint8_t)((at == 0 ? FM_TRACE_FIRST : 0) | (at < m->n_prompt ? FM_TRACE_PROMPT : 0));
        for (int layer = 0; layer < m->n_layers; layer++) {
            int16_t *x = t.experts + (size_t)i * row + (size_t)layer * (size_t)m->top_k, *p = t.predicted + (x - t.experts);
            if (!t.moe[layer]) continue;
            trace_choose(m, layer, at ? x - row : NULL, x, &seed);
            if (m->predicted && at >= m->n_prompt && i % 2) trace_choose(m, layer, test_random(&seed) % 2 ? x : NULL, p, &seed);
        }
    }
    return t;
}

/* A file's name in the directory where the test runs. */
static inline const char *trace_path(char path[64], const char *name) {
    snprintf(path, 64, "%s-%d.trace", name, (int)getpid());
    return path;
}

static inline void trace_write(const fm_trace *t, const char *path) {
    fm_trace_writer *writer = NULL;
    size_t row = (size_t)t->n_layers * (size_t)t->top_k;
    MUST(fm_trace_writer_open(&writer, path, t, err));
    for (int i = 0; i < t->n_tokens; i++) { MUST(fm_trace_writer_add(writer, t->kind[i], t->experts + (size_t)i * row, t->predicted + (size_t)i * row, err)); }
    MUST(fm_trace_writer_save(writer, err));
    fm_trace_writer_close(&writer);
}

#endif
