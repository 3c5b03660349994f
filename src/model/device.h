/* model/device.h: the device seam: who computes. A device holds the activations of one batch and works through a layer verb by verb; the engine says what
 * comes next and brings the experts.
 *
 * A batch is a list of spans: consecutive tokens of one session each. Rows of the residual stream x [n][hidden] are the batch's tokens in order. Every result
 * is independent of how tokens are batched. */
#ifndef FM_MODEL_DEVICE_H
#define FM_MODEL_DEVICE_H

#include "model/weights.h"

typedef struct fm_state fm_state; /* one session's KV cache and recurrent states on the device */

typedef struct fm_span {
    fm_state *state;
    int first, n; /* rows of the batch */
    int position; /* of the first of them in the session */
} fm_span;

/* The fixed part of a state, as it is after some of its span's tokens, is to be copied. */
typedef struct fm_capture {
    const fm_state *state;
    int position; /* tokens in the session then: inside the span or at its end */
    uint8_t *to;  /* [fixed_bytes] */
} fm_capture;

typedef struct fm_batch {
    const int32_t *ids; /* [n] */
    int n;
    const fm_span *spans;
    int n_spans;
    const fm_capture *captures;
    int n_captures;
} fm_batch;

typedef struct fm_bytes {
    uint8_t *data;
    size_t bytes;
} fm_bytes;

/* What the router chose: by token, ascending in the expert's index. Of a batch whose experts may come in any order both may be changed, before the first expert. */
typedef struct fm_routing {
    int top_k;
    int *experts;   /* [n][top_k]; FM_NO_EXPERT: it is left out */
    float *weights; /* [n][top_k] */
} fm_routing;

#define FM_NO_EXPERT (-1)

/* One expert of a layer and the tokens that go through it. */
typedef struct fm_expert_job {
    int key; /* with fm_model_narrow added: its narrow copy */
    uint8_t *slot;
    const uint8_t *const *parts; /* when its bytes have just arrived: to be put into slot first; else NULL */
    const int32_t *tokens;       /* [n] rows of the batch, ascending */
    const int32_t *choices;      /* [n] index into routing.weights: token * top_k + j */
    int n;
} fm_expert_job;

typedef struct fm_device_config {
    const fm_model *model;
    const fm_weights *weights;
    fm_pool *pool;
    const char *cpu;          /* name of the kernels, NULL: the best */
    bool int8;                /* int8 activations for quantised weights */
    int top_k;                /* experts a token */
    int max_batch;            /* tokens a batch */
    int context;              /* tokens a state holds */
    int kv;                   /* FM_KV_…: numbers of the KV cache */
    void (*poll)(void *user); /* called between pieces of long computations, so that reads go on; NULL: none */
    void *poll_user;
} fm_device_config;

typedef struct fm_device fm_device;

/* Sees what matrices are multiplied with: x [n][ld] of cols columns, of one layer (-1: the model's). role: FM_NORM1, FM_NORM2 or FM_FINAL_NORM for what follows that norm,
 * or that of a matrix which has an input of its own. The inner columns of experts are not shown. */
typedef void (*fm_observe_fn)(void *user, int layer, int role, const float *x, size_t ld, int n, int cols);

typedef struct fm_device_ops {
    const char *name;
    /* Bytes of a device and of one state; reads only model, int8, top_k, max_batch, context and kv of config. */
    uint64_t (*device_bytes)(const fm_device_config *config);
    uint64_t (*state_bytes)(const fm_device_config *config);

    int (*open)(fm_device **device, const fm_device_config *config, fm_error *err);
    void (*close)(fm_device **device);
    int (*state_open)(fm_state **state, fm_device *device, fm_error *err);
    void (*state_close)(fm_state **state);
    void (*state_clear)(fm_state *state);

    /* A state as bytes, where they lie, to be copied, saved and put back between batches: the same bytes give the same results. Two parts: what is of one size
     * whatever the tokens (recurrent states; 0 bytes if there are none), and the KV cache of positions, in whole tiles of FM_STATE_TILE. */
    uint64_t (*fixed_bytes)(const fm_device_config *config);
    uint8_t *(*fixed)(fm_state *state);
    int (*n_row_parts)(const fm_device_config *config);
    /* Sizes of the parts [n_row_parts] for n positions (NULL: not wanted), and their sum. */
    uint64_t (*row_sizes)(const fm_device_config *config, int n, fm_bytes *parts);
    /* parts [n_row_parts]: positions [from, to), from a multiple of FM_STATE_TILE; what lies behind `to` in its tile is among them. A part of fewer positions is the beginning
     * of that of more. */
    void (*rows)(fm_state *state, int from, int to, fm_bytes *parts);
    /* Zeroes the positions from `from` to the end of its tile. */
    void (*rows_clear)(fm_state *state, int from);

    /* x = embedding rows of the batch's ids. The batch stays until the next embed. */
    void (*embed)(fm_device *device, const fm_batch *batch);
    /* x += mixer(norm1(x)); adds to the spans' states. */
    void (*mixer)(fm_device *device, int layer);
    /* x += mlp(norm2(x)), of a layer without experts. */
    void (*dense)(fm_device *device, int layer);
    /* h = norm2(x), and which experts it goes through. *routing is the device's, until the next route. */
    void (*route)(fm_device *device, int layer, fm_routing *routing);
    /* Which experts layer's router would choose of the present x, a layer early: a guess, for batches of up to FM_GUESS_TOKENS tokens; top_k 0 for longer ones. Leaves h
     * and the last routing as they are. *routing is the device's, until the next predict. */
    void (*predict)(fm_device *device, int layer, fm_routing *routing);
    /* The shared expert of h, kept until combine. */
    void (*shared)(fm_device *device, int layer);
    /* Whether the outputs of all chosen experts of a batch of n tokens are kept apart, so that experts may come in any order; else expert has to be
     * called in ascending order of experts. */
    bool (*any_order)(const fm_device *device);
    /* Computes jobs of distinct experts (with any_order false: one at a time). FM_ENAN: a value that arrived is not finite; *bad is the job. */
    int (*expert)(fm_device *device, int layer, const fm_expert_job *jobs, int n, int *bad, fm_error *err);
    /* x += (experts' outputs times their weights, added in ascending order) + shared. */
    void (*combine)(fm_device *device, int layer);
    /* Logits [n][vocab] of rows [first, first + n), n at most FM_HEAD_ROWS; the device's, until the next head. FM_ENAN with the row and id. */
    int (*head)(fm_device *device, int first, int n, const float **logits, fm_error *err);
    /* The residual stream [n][hidden], for traces. */
    const float *(*residual)(fm_device *device);
    const char *(*kernels)(const fm_device *device);
    /* From now on fn sees each input once, in the order of computing; NULL: nothing does. NULL in ops: the device cannot. */
    void (*observe)(fm_device *device, fm_observe_fn fn, void *user);
} fm_device_ops;

#define FM_STATE_TILE 16
#define FM_HEAD_ROWS 8
#define FM_MAX_SPANS 64 /* sessions in one batch */
#define FM_GUESS_TOKENS 16
#define FM_MAX_JOBS FM_MAX_ARRIVALS

#endif
