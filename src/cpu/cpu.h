/* cpu/cpu.h: device 1, the CPU. Private to this folder but for fm_cpu_device. */
#ifndef FM_CPU_CPU_H
#define FM_CPU_CPU_H

#include "cpu/isa/kernels.h"
#include "model/device.h"

extern const fm_device_ops fm_cpu_device;

/* Vectors that matrices are multiplied with, and their int8 forms, made when first asked for. */
#define FM_MAX_ACTS 6 /* widths 2, 4, 8 by groups 32, 64 */
typedef struct fm_input {
    const float *x; /* [n][ld] */
    size_t ld;
    int n, cols;
    int n_acts;
    fm_act8 acts[FM_MAX_ACTS]; /* of different group or width; their memory is taken from `memory` */
    uint8_t *memory;
    size_t memory_bytes, used;
} fm_input;

/* Keys and values of one layer, by kv head: for each what fm_kv_block says, of all positions. Latent attention has no v. */
typedef struct fm_kv {
    void *k, *v;
    float *k_scale, *v_scale; /* FM_KV_Q8 alone */
} fm_kv;

typedef struct fm_layer_state {
    fm_kv kv; /* attention */
    /* Of the other mixers; one after the other, and NULL of what a mixer does not have. */
    float *memory;  /* delta: [n_value_heads][key_dim][value_dim]; mamba: [mamba_states][mamba_width]; lightning: [n_heads][head_dim] of k by [head_dim] of v */
    float *conv;    /* [conv_taps - 1][fm_mixer_channels], oldest first */
    uint8_t *fixed; /* all of it */
    size_t fixed_bytes;
} fm_layer_state;

/* Consecutive tokens of one span whose positions are in one tile of the KV cache. */
typedef struct fm_token_tile {
    const fm_span *span;
    int first, n; /* rows of the batch */
    int position; /* of the first */
} fm_token_tile;

struct fm_device {
    const fm_device_ops *ops;
    fm_device_config config;
    const fm_description *d;
    const fm_kernels *k;
    fm_arena arena;
    fm_batch batch;              /* what is computed: all of it, or a piece of it */
    fm_span piece[FM_MAX_SPANS]; /* spans of a piece */

    float *rope;    /* [context][rotary_dim]: cosines, then sines */
    float *x, *h;   /* [max_batch][hidden]: residual stream; normed input of a mixer or of the experts */
    float *shared;  /* [max_batch][hidden] */
    float *out;     /* [max_batch][hidden]: a mixer's output; the experts' sum */
    float *scratch; /* mixers, of a piece, and experts, one after the other */
    fm_input input; /* h */
    fm_input inner; /* what lies between two matrices */

    struct {      /* predict's own */
        float *x; /* [FM_GUESS_TOKENS][hidden], normed */
        fm_input input;
        float *logits; /* [FM_GUESS_TOKENS][fm_router_floats] */
        int *chosen;   /* [FM_GUESS_TOKENS][top_k] */
        float *weights;
    } ahead;
    float *router_logits; /* [max_batch][fm_router_floats] */
    int *chosen;          /* [max_batch][top_k] */
    float *weights;       /* [max_batch][top_k] */
    float *rows;          /* [n_rows][hidden]: experts' outputs, kept apart for batches of up to FM_ROW_TOKENS tokens */
    int n_rows;           /* FM_ROW_TOKENS * top_k */
    int rows_used;
    int32_t *row_of; /* [n_rows]: row of each choice */
    int n_iota;
    int32_t *iota; /* [max_batch or n_rows, the larger]: 0, 1, 2 … */

    fm_observe_fn observe; /* NULL: none */
    void *observe_user;

    fm_token_tile *tiles; /* [max_batch]: the batch's, for attention */
    float *partial;       /* [n_heads * blocks of the context][fm_kv_columns + 2]: attention over single blocks */
    float *logits;        /* [FM_HEAD_ROWS][vocab] */
};

struct fm_state {
    fm_device *device;
    fm_arena arena;
    fm_layer_state *layers;
    uint8_t *fixed; /* memory and conv of all layers */
    size_t fixed_bytes;
};

/* A long batch goes through mixers and dense MLPs in pieces of so many tokens, so that what lies between two matrices stays small; through the experts it goes whole, so that
 * each is needed once. */
#define FM_PIECE_TOKENS 512

/* Tokens up to which each expert's output has a row of its own. */
#define FM_ROW_TOKENS 16

/* ---- linear.c ---- */

/* Makes x [n][ld] of cols columns the input of what follows; its int8 forms are made anew. */
void fm_input_set(fm_input *input, const float *x, size_t ld, int n, int cols);
/* Memory for n_kinds int8 forms of n vectors of cols columns. */
size_t fm_input_bytes(int n_kinds, int n, int cols);

typedef struct fm_product { /* y[i * ldy + r] = matrix row r times token tokens[i] of input */
    const fm_matrix *matrix;
    fm_input *input;
    const int32_t *tokens; /* NULL: all in order */
    int n;
    float *y;
    size_t ldy;
    bool exact; /* f32 activations whatever the mode */
} fm_product;

#define FM_MAX_PRODUCTS (2 * FM_MAX_JOBS)

/* Computes all products on all threads. */
void fm_multiply(fm_device *device, const fm_product *products, int n);
/* What observe wants to see. */
void fm_observe(fm_device *device, int layer, int role, const fm_input *input);
/* One product of the whole input. */
void fm_linear(fm_device *device, const fm_matrix *matrix, fm_input *input, float *y, size_t ldy);
/* y = the model's norm of one row of the residual stream, with the weights of role norm and, of a LayerNorm, bias. */
void fm_norm_row(const fm_device *device, const fm_layer_weights *w, fm_role norm, fm_role bias, const float *x, float *y);
/* h = norm(x) for every row of the batch, and input = h. */
void fm_norm_input(fm_device *device, const fm_layer_weights *w, fm_role norm, fm_role bias);

/* ---- kv.c ---- */

/* Bytes of one layer's keys, and as many of its values; of the scales of either. */
size_t fm_kv_value_bytes(const fm_device_config *config);
size_t fm_kv_scale_bytes(const fm_device_config *config);
/* The tiles of a kv head from the one of position on. */
fm_kv_block fm_kv_at(const fm_device *device, const fm_kv *kv, int head, int position);
/* Writes one position's keys and values [n_kv_heads * head_dim]; v NULL: there are none. */
void fm_kv_store(const fm_device *device, const fm_kv *kv, int position, const float *k, const float *v);
void fm_kv_clear(const fm_device *device, const fm_kv *kv, int position); /* zeroes one position */
/* Writes the first value_dim columns of a tile's keys (those of its 16 positions) as values, into the tile's place in values. */
void fm_kv_turn(const fm_kv_block *block, int tile, void *values);
/* The memory of positions [from, to), in whole tiles, from the first of one on: parts [fm_kv_n_parts], all heads of a layer. */
int fm_kv_n_parts(const fm_device_config *config);
uint64_t fm_kv_part_sizes(const fm_device_config *config, int n, fm_bytes *parts);
void fm_kv_parts(const fm_device *device, const fm_kv *kv, int from, int to, fm_bytes *parts);

/* ---- attention.c ---- */

/* Attention of the batch's queries, with their gates, over what the layer's cache holds; out [n][n_heads * head_dim]. */
void fm_attend(fm_device *device, int layer, const float *q, float *out);
/* Finds the tiles of the batch's tokens; returns how many. */
int fm_attention_tiles(fm_device *device);
/* Rotates the first rotary_dim of x. */
void fm_rotate(const fm_device *device, float *x, int position);
size_t fm_attention_partial_floats(const fm_device_config *config);

/* ---- short_conv.c ---- */

#define FM_MAX_TAPS 16

/* A causal convolution of each channel by itself, over the rows of a batch. */
typedef struct fm_conv {
    const float *raw; /* [n][channels], rows ld apart: what goes in */
    float *kept;      /* [taps - 1][channels]: the rows before a span, oldest first */
    size_t ld, channels;
    int n_taps;
} fm_conv;

/* The rows that the convolution of a span's token takes, oldest first. */
void fm_conv_rows(const fm_conv *conv, const fm_span *span, int token, const float *rows[FM_MAX_TAPS]);
/* y[c] = bias[c] (NULL: 0), + weights[tap][c] * rows[tap][c] tap by tap, of channels [first, last). */
void fm_conv_sum(const fm_conv *conv, const float *weights, const float *bias, const float *const *rows, const size_t range[2], float *y);
/* The last rows of the span stay for the next batch: n channels from first on. Nothing may need the older ones any more. */
void fm_conv_keep(const fm_conv *conv, const fm_span *span, size_t first, size_t n);

/* ---- the verbs ---- */
size_t fm_attention_floats(const fm_description *d, int n); /* scratch for n tokens */
size_t fm_mla_floats(const fm_description *d, int n);
size_t fm_deltanet_floats(const fm_description *d, int n);
size_t fm_mamba_floats(const fm_description *d, int n);
size_t fm_lightning_floats(const fm_description *d, int n);
size_t fm_short_conv_floats(const fm_description *d, int n);
/* What latent attention needs beside scratch, and the most int8 vectors and columns that it multiplies at once. */
size_t fm_mla_partial_floats(const fm_device_config *config);
int fm_mla_rows(const fm_description *d, int n);
size_t fm_feed_forward_floats(const fm_device_config *config, int n);
void fm_attention(fm_device *device, int layer);
void fm_mla(fm_device *device, int layer);
void fm_deltanet(fm_device *device, int layer);
void fm_mamba(fm_device *device, int layer);
void fm_lightning(fm_device *device, int layer);
void fm_short_conv(fm_device *device, int layer);
void fm_dense(fm_device *device, int layer);
/* Which top_k experts the logits of one token choose, ascending, and their weights. bias [n_experts]: of routers that have one. logits: fm_router_floats of them, of
 * which the first n_experts are given, and all are overwritten. */
int fm_router_floats(const fm_description *d);
void fm_choose(const fm_description *d, const fm_kernels *k, const float *bias, int top_k, float *logits, int *chosen, float *weights);
void fm_route(fm_device *device, int layer, fm_routing *routing);
void fm_predict(fm_device *device, int layer, fm_routing *routing);
void fm_shared(fm_device *device, int layer);
int fm_expert(fm_device *device, int layer, const fm_expert_job *jobs, int n, int *bad, fm_error *err);
void fm_combine(fm_device *device, int layer);
typedef enum fm_part_of_layer { FM_OF_MIXER, FM_OF_MLP } fm_part_of_layer;
/* x += out, times the residual's scale if there is one, or as the layer's keep and add say, for every row and for one. */
void fm_add_out(fm_device *device, int layer, fm_part_of_layer part);
void fm_add_row(fm_device *device, int layer, fm_part_of_layer part, int row);
/* x[i][0 .. cols) += bias, for every row of the batch; bias NULL: nothing. */
void fm_add_bias(fm_device *device, float *x, size_t cols, const float *bias);

#endif
