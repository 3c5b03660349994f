/* model/description.h: what a model is, as numbers: filled by a family from config.json, read by everything else. No names of families, no
 * tensors, no memory. */
#ifndef FM_MODEL_DESCRIPTION_H
#define FM_MODEL_DESCRIPTION_H

#include "base/error.h"

typedef enum fm_mixer { FM_MIXER_ATTENTION, FM_MIXER_DELTANET } fm_mixer;

typedef struct fm_layer {
    fm_mixer mixer;
    bool moe;   /* else a dense MLP of dense_width */
    int window; /* of attention: keys that a query sees, its own included; 0: all */
} fm_layer;

#define FM_MAX_LAYERS 512
#define FM_MAX_HEAD_DIM 512 /* of attention heads, and of keys and values of the delta rule */
#define FM_MAX_LATENT 640   /* columns of a latent key, its rotary part included */
#define FM_MAX_GROUPS 64    /* of experts */

/* FM_NORM_RMS: x / rms(x) * w. FM_NORM_LAYER: (x - mean) / deviation * w + bias. Of norm1, norm2 and the final norm. */
typedef enum fm_norm { FM_NORM_RMS, FM_NORM_LAYER } fm_norm;

/* RMSNorm of q and k: of each head before or after rope, or of the whole projection before it is divided into heads. */
typedef enum fm_qk_norm { FM_QK_NORM_NONE, FM_QK_NORM_HEAD, FM_QK_NORM_HEAD_AFTER_ROPE, FM_QK_NORM_WHOLE } fm_qk_norm;

/* How frequencies are made of theta: see model/rope.h. */
typedef enum fm_rope_type { FM_ROPE_DEFAULT, FM_ROPE_LINEAR, FM_ROPE_DYNAMIC, FM_ROPE_NTK, FM_ROPE_YARN, FM_ROPE_LONG, FM_ROPE_BANDED } fm_rope_type;

typedef struct fm_rope {
    fm_rope_type type;
    double theta, factor;        /* NTK: factor is alpha */
    double original;             /* positions that were trained, of all but LINEAR and NTK */
    double attention;            /* multiplies cosines and sines; of LONG: where the context is at most original */
    double attention_long;       /* LONG: where it is longer */
    double beta_fast, beta_slow; /* YARN */
    bool truncate;               /* YARN: the ends of the ramp are whole numbers */
    double low, high;            /* BANDED: low_freq_factor, high_freq_factor */
    float short_factor[FM_MAX_HEAD_DIM / 2], long_factor[FM_MAX_HEAD_DIM / 2]; /* LONG */
} fm_rope;

/* What makes experts' scores of a router's logits. FM_SCORE_SPARSEMIXER: see cpu/router.c; it knows no bias, groups or renormalising. */
typedef enum fm_score { FM_SCORE_SOFTMAX, FM_SCORE_SIGMOID, FM_SCORE_SPARSEMIXER } fm_score;

/* Scores choose, with the bias added if there is one; weights are scores without it. */
typedef struct fm_router {
    fm_score score;
    bool bias;              /* choice is by score + bias */
    int n_groups, n_chosen; /* experts in consecutive groups, of which so many are kept: those whose best_of best experts have the largest sum; 0 or 1: none */
    int best_of;            /* 1 or 2 */
    bool renormalise;       /* the chosen experts' weights are divided by their sum: by the larger of sum + add and least */
    float add, least;
    float scale;  /* multiplies weights; 0: none */
    float margin; /* sparsemixer's */
} fm_router;

typedef struct fm_description {
    char architecture[96], model_type[64];
    int vocab, hidden, n_layers, max_position;
    int n_more_layers; /* that checkpoints may have behind n_layers, for speculation; they are left out */
    fm_layer layers[FM_MAX_LAYERS];
    fm_norm norm;
    float norm_eps;
    bool norm_stored_less_one; /* raw checkpoints store RMSNorm weights as w - 1 (never the gated norm of the delta rule) */
    bool tied_head;            /* the head is the embedding */
    bool head_bias;
    /* 0: none. Embeddings and what layers add are multiplied, logits are divided. */
    float embedding_scale, residual_scale, logit_divisor;

    /* Attention: n_heads query heads share n_kv_heads; the first rotary_dim of head_dim rotate, in pairs (i, i + rotary_dim / 2). */
    int n_heads, n_kv_heads, head_dim, rotary_dim;
    float attention_scale; /* of the products of queries and keys */
    fm_rope rope;
    bool rope_adjacent; /* pairs are (2i, 2i + 1) */
    bool query_gate;    /* q_proj gives, per head, head_dim of q and head_dim of a gate: out *= sigmoid(gate) */
    fm_qk_norm qk_norm;
    bool qkv_bias, o_bias; /* the projections have biases */
    float clip_qkv;        /* q, k and v are held within +-clip_qkv, after a norm of the whole; 0: they are not */

    /* Latent attention, if kv_rank is not 0: all heads share one key, a latent of kv_rank columns that is the value too, and behind it rotary_dim columns that rotate:
     * head_dim together. A head's query has nope_dim columns, which its part of the projection takes to the latent, and rotary_dim; its output v_dim. */
    int kv_rank, q_rank; /* q_rank 0: queries have no latent of their own */
    int nope_dim, v_dim;
    float latent_eps; /* of the norms of both latents */

    /* Gated delta rule. */
    int n_key_heads, n_value_heads, key_dim, value_dim, conv_taps;
    bool grouped_projection; /* in_proj_qkvz and in_proj_ba, rows interleaved by key head */

    /* Feed-forward. */
    int n_experts, top_k, expert_width;
    fm_router router;
    int shared_width; /* 0: no shared expert */
    bool shared_gate; /* the shared expert's output is gated by a sigmoid */
    int dense_width;  /* of layers that are not moe */
} fm_description;

/* Channels of the delta rule's convolution: q, k and v side by side. */
static inline int fm_conv_channels(const fm_description *d) { return 2 * d->n_key_heads * d->key_dim + d->n_value_heads * d->value_dim; }

#endif
