/* model/description.h: what a model is, as numbers: filled by a family from config.json, read by everything else. No names of families, no
 * tensors, no memory. */
#ifndef FM_MODEL_DESCRIPTION_H
#define FM_MODEL_DESCRIPTION_H

#include "base/error.h"

typedef enum fm_mixer { FM_MIXER_ATTENTION, FM_MIXER_DELTANET } fm_mixer;

typedef struct fm_layer {
    fm_mixer mixer;
    bool moe; /* else a dense MLP of dense_width */
} fm_layer;

#define FM_MAX_LAYERS 512
#define FM_MAX_HEAD_DIM 512 /* of attention heads, and of keys and values of the delta rule */

typedef struct fm_description {
    char architecture[96], model_type[64];
    int vocab, hidden, n_layers, max_position;
    fm_layer layers[FM_MAX_LAYERS];
    float norm_eps;
    bool norm_stored_less_one; /* raw checkpoints store RMSNorm weights as w - 1 (never the gated norm of the delta rule) */
    bool tied_head;            /* the head is the embedding */

    /* Attention: n_heads query heads share n_kv_heads; the first rotary_dim of head_dim rotate, in pairs (i, i + rotary_dim / 2). */
    int n_heads, n_kv_heads, head_dim, rotary_dim;
    double rope_theta;
    bool query_gate;     /* q_proj gives, per head, head_dim of q and head_dim of a gate: out *= sigmoid(gate) */
    bool qk_norm;        /* RMSNorm over each head of q and k, before rope */
    bool attention_bias; /* q, k, v and o projections have biases */

    /* Gated delta rule. */
    int n_key_heads, n_value_heads, key_dim, value_dim, conv_taps;
    bool grouped_projection; /* in_proj_qkvz and in_proj_ba, rows interleaved by key head */

    /* Feed-forward. */
    int n_experts, top_k, expert_width;
    bool renormalise; /* the chosen experts' weights are divided by their sum */
    int shared_width; /* 0: no shared expert; else it is gated by a sigmoid */
    int dense_width;  /* of layers that are not moe */
} fm_description;

/* Channels of the delta rule's convolution: q, k and v side by side. */
static inline int fm_conv_channels(const fm_description *d) { return 2 * d->n_key_heads * d->key_dim + d->n_value_heads * d->value_dim; }

#endif
