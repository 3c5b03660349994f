/* measure/trace.h: a recorded routing: which experts each token chose in each layer, and which were predicted one layer ahead. Written by `trace`, read by
 * `replay` and by the bench's routes.
 *
 * The file: FM_TRACE_MAGIC and a version digit (16 bytes); one line of JSON padded with spaces (model_type, architecture, n_layers, n_experts, top_k, moe: the
 * layers that have experts, n_tokens, how: what made it, in the writer's words); a record a token: kind (u8), for each layer that has experts its top_k experts,
 * ascending, and if kind has FM_TRACE_PREDICTED as many predicted ones again (all ones: none). Experts are u8 if n_experts is at most 255, else little-endian u16.
 * Last XXH3 of 64 bits, seed 0, of all that, little-endian. */
#ifndef FM_MEASURE_TRACE_H
#define FM_MEASURE_TRACE_H

#include "base/error.h"
#include "flash_moe_tools.h"

#define FM_TRACE_MAGIC "flash-moe trace" /* 15 bytes */
#define FM_TRACE_VERSION '1'

typedef struct fm_trace {
    char model_type[64]; /* of the model that was traced */
    int n_layers, n_experts, top_k;
    uint8_t *moe;       /* [n_layers]: the layer has experts */
    int n_tokens;       /* of all sequences, in the order in which they were computed */
    uint8_t *kind;      /* [n_tokens]: FM_TRACE_… */
    int16_t *experts;   /* [n_tokens][n_layers][top_k], ascending; -1 in layers without experts */
    int16_t *predicted; /* the same, as the router of this layer chose on the state one layer before; -1: not predicted */
    char architecture[96];
    char *how; /* JSON */
} fm_trace;

enum { FM_TRACE_FIRST = 1 /* of a sequence */, FM_TRACE_PROMPT = 2 /* read in a prompt, else decoded */, FM_TRACE_PREDICTED = 4 /* in files only */ };

/* FM_EFORMAT with path and number for anything that is not what it says, FM_EUNSUPPORTED for another version. */
int fm_trace_open(fm_trace **trace, const char *path, fm_error *err);
/* The same of a file's bytes; path is for messages. */
int fm_trace_decode(fm_trace **trace, const char *path, const uint8_t *data, size_t bytes, fm_error *err);
void fm_trace_close(fm_trace **trace);

/* trace_write.c: a trace that is written as it is made: PATH.part, which becomes PATH when it is saved. */
typedef struct fm_trace_writer fm_trace_writer;

/* shape gives model_type, architecture, n_layers, n_experts, top_k, moe and how (a JSON object as text; NULL: none). */
int fm_trace_writer_open(fm_trace_writer **writer, const char *path, const fm_trace *shape, fm_error *err);
/* One token: experts and predicted [n_layers][top_k] as in fm_trace; predicted NULL or all -1: there is none. */
int fm_trace_writer_add(fm_trace_writer *writer, int kind, const int16_t *experts, const int16_t *predicted, fm_error *err);
/* FM_EINVAL if nothing was added. */
int fm_trace_writer_save(fm_trace_writer *writer, fm_error *err);
/* Removes what was not saved. */
void fm_trace_writer_close(fm_trace_writer **writer);

/* What routers see, beside a trace: PATH.part, which becomes PATH, a NumPy array of float32 [n_tokens][n_moe][hidden], when it is saved. */
typedef struct fm_states_writer fm_states_writer;
int fm_states_writer_open(fm_states_writer **writer, const char *path, int n_moe, int hidden, fm_error *err);
/* Rows [n] of tokens from `token` on, in the layer that is number `moe` of those with experts. */
int fm_states_writer_add(fm_states_writer *writer, uint64_t token, int moe, const float *x, size_t ld, int n, fm_error *err);
int fm_states_writer_save(fm_states_writer *writer, uint64_t n_tokens, fm_error *err);
/* Removes what was not saved. */
void fm_states_writer_close(fm_states_writer **writer);

#endif
