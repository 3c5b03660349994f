/* measure/trace.h: a recorded routing: which experts each token chose in each layer, and which were predicted one layer ahead. Written by `trace`, read by
 * `replay` and by the bench's routes. */
#ifndef FM_MEASURE_TRACE_H
#define FM_MEASURE_TRACE_H

#include "base/error.h"

typedef struct fm_trace {
    char model_type[64]; /* of the model that was traced */
    int n_layers, n_experts, top_k;
    uint8_t *moe;       /* [n_layers]: the layer has experts */
    int n_tokens;       /* of all sequences, in the order in which they were computed */
    uint8_t *kind;      /* [n_tokens]: FM_TRACE_… */
    int16_t *experts;   /* [n_tokens][n_layers][top_k], ascending; -1 in layers without experts */
    int16_t *predicted; /* the same, as the router of this layer chose on the state one layer before; -1: not predicted */
} fm_trace;

enum { FM_TRACE_FIRST = 1 /* of a sequence */, FM_TRACE_PROMPT = 2 /* read in a prompt, else decoded */ };

/* FM_EFORMAT with path and number for anything that is not what it says. */
int fm_trace_open(fm_trace **trace, const char *path, fm_error *err);
void fm_trace_close(fm_trace **trace);

#endif
