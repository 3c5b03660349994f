/* tests/fuzz/fuzz_trace.c: any bytes as a trace, with and without a right hash behind them: what is accepted is as trace.h says. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "measure/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_layer(const fm_trace *t, int layer, const int16_t *chosen, const int16_t *predicted) {
    for (int k = 0; k < t->top_k; k++) {
        if (t->moe[layer])
            assert(chosen[k] >= 0 && chosen[k] < t->n_experts && (k == 0 || chosen[k] > chosen[k - 1]));
        else
            assert(chosen[k] == -1 && predicted[k] == -1);
        assert(predicted[k] >= -1 && predicted[k] < t->n_experts);
    }
}

static void check(const fm_trace *t) {
    assert(t->n_layers > 0 && t->n_tokens > 0 && t->top_k > 0 && t->top_k <= t->n_experts && t->kind[0] & FM_TRACE_FIRST);
    assert(strlen(t->model_type) < sizeof t->model_type && strlen(t->architecture) < sizeof t->architecture && t->how[0] == '{');
    for (int i = 0; i < t->n_tokens; i++) {
        assert(!(t->kind[i] & ~(FM_TRACE_FIRST | FM_TRACE_PROMPT)));
        for (int layer = 0; layer < t->n_layers; layer++) {
            size_t at = ((size_t)i * (size_t)t->n_layers + (size_t)layer) * (size_t)t->top_k;
            check_layer(t, layer, t->experts + at, t->predicted + at);
        }
    }
}

static void decode(const uint8_t *data, size_t size) {
    fm_trace *t = NULL;
    fm_error err = {0};
    if (fm_trace_decode(&t, "x.trace", data, size, &err) < 0)
        assert(err.code < 0 && err.message[0] && !t);
    else
        check(t);
    fm_trace_close(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *sealed = malloc(size + 8);
    uint64_t hash = XXH3_64bits(data, size);
    if (!sealed) abort();
    if (size) memcpy(sealed, data, size);
    for (int i = 0; i < 8; i++) sealed[size + (size_t)i] = (uint8_t)(hash >> (8 * i));
    decode(sealed, size);
    decode(sealed, size + 8);
    free(sealed);
    return 0;
}
