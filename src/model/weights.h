/* model/weights.h: the dense part of a model in memory. Matrices are in their kernels' layout, vectors are f32 with norms plain (w, not w - 1), the convolution
 * is [taps][channels], decays are -exp(A_log) [states][channels]. */
#ifndef FM_MODEL_WEIGHTS_H
#define FM_MODEL_WEIGHTS_H

#include "base/memory.h"
#include "model/model.h"

typedef struct fm_layer_weights {
    fm_matrix matrix[FM_N_ROLES];
    const float *vector[FM_N_ROLES];
} fm_layer_weights;

typedef struct fm_weights {
    fm_arena arena;
    fm_layer_weights model; /* the embedding, the final norm, the head (the embedding's matrix when tied) */
    fm_layer_weights *layers;
} fm_weights;

/* Bytes that the dense part takes in memory; of them, those that are read for one token (the embedding is not, unless it is the head). */
uint64_t fm_weights_bytes(const fm_model *model);
uint64_t fm_weights_token_bytes(const fm_model *model);

/* progress as in fm_engine_options, of what "load"; returning non-zero gives FM_ECANCELLED. */
typedef struct fm_progress {
    int (*fn)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;
} fm_progress;

/* Reads all of it, with the pool's threads, each piece_bytes at a time (or 16 rows, if that is more); takes six times that per thread while it runs. FM_ENAN naming tensor and place for a value that is not finite; FM_EIO, FM_EFORMAT for reads. */
int fm_weights_load(fm_weights *weights, const fm_model *model, fm_pool *pool, size_t piece_bytes, const fm_progress *progress, fm_error *err);
void fm_weights_close(fm_weights *weights);

#endif
