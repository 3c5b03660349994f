/* model/roles.c: see roles.h. */
#include "model/roles.h"

const char *fm_role_part(fm_role role) {
    if (role == FM_EMBED) return "embedding";
    if (role == FM_HEAD || role == FM_HEAD_BIAS) return "head";
    if (role <= FM_NORM2_BIAS) return "norms";
    if (role >= FM_Q && role <= FM_LATENT_Q) return "attention";
    if (role >= FM_DELTA_QKV && role <= FM_DELTA_OUT) return "delta";
    if (role == FM_ROUTER || role == FM_CHOICE_BIAS || role == FM_SHARED_GATE) return "router";
    if (role >= FM_SHARED_GATE_PROJ && role <= FM_SHARED_DOWN_PROJ) return "shared expert";
    return "dense MLP";
}

static fm_shape matrix(int rows, int cols) { return (fm_shape){FM_KIND_MATRIX, rows, cols}; }
static fm_shape norm(int n) { return (fm_shape){FM_KIND_NORM, 1, n}; }
static fm_shape vector(int n) { return (fm_shape){FM_KIND_VECTOR, 1, n}; }

static bool model_shape(const fm_description *d, fm_role role, fm_shape *s) {
    switch (role) {
    case FM_EMBED: *s = matrix(d->vocab, d->hidden); return true;
    case FM_FINAL_NORM: *s = norm(d->hidden); return true;
    case FM_FINAL_NORM_BIAS: *s = vector(d->hidden); return d->norm == FM_NORM_LAYER;
    case FM_HEAD: *s = matrix(d->vocab, d->hidden); return !d->tied_head;
    case FM_HEAD_BIAS: *s = vector(d->vocab); return d->head_bias;
    default: return false;
    }
}

static bool attention_shape(const fm_description *d, fm_role role, fm_shape *s) {
    int q = d->n_heads * d->head_dim * (d->query_gate ? 2 : 1), kv = d->n_kv_heads * d->head_dim;
    bool whole = d->qk_norm == FM_QK_NORM_WHOLE, normed = d->qk_norm != FM_QK_NORM_NONE;
    switch (role) {
    case FM_Q: *s = matrix(q, d->hidden); return true;
    case FM_K: *s = matrix(kv, d->hidden); return true;
    case FM_V: *s = matrix(kv, d->hidden); return true;
    case FM_O: *s = matrix(d->hidden, d->n_heads * d->head_dim); return true;
    case FM_Q_BIAS: *s = vector(q); return d->qkv_bias;
    case FM_K_BIAS: *s = vector(kv); return d->qkv_bias;
    case FM_V_BIAS: *s = vector(kv); return d->qkv_bias;
    case FM_O_BIAS: *s = vector(d->hidden); return d->o_bias;
    case FM_Q_NORM: *s = norm(whole ? q : d->head_dim); return normed;
    case FM_K_NORM: *s = norm(whole ? kv : d->head_dim); return normed;
    default: return false;
    }
}

static bool latent_shape(const fm_description *d, fm_role role, fm_shape *s) {
    int q = d->n_heads * (d->nope_dim + d->rotary_dim);
    switch (role) {
    case FM_Q: *s = matrix(q, d->hidden); return !d->q_rank;
    case FM_Q_A: *s = matrix(d->q_rank, d->hidden); return d->q_rank;
    case FM_Q_A_NORM: *s = norm(d->q_rank); return d->q_rank;
    case FM_Q_B: *s = matrix(q, d->q_rank); return d->q_rank;
    case FM_KV_A: *s = matrix(d->head_dim, d->hidden); return true;
    case FM_KV_A_NORM: *s = norm(d->kv_rank); return true;
    case FM_LATENT_OUT: *s = matrix(d->n_heads * d->v_dim, d->kv_rank); return true;
    case FM_LATENT_Q: *s = matrix(d->n_heads * d->kv_rank, d->nope_dim); return true;
    case FM_O: *s = matrix(d->hidden, d->n_heads * d->v_dim); return true;
    default: return false;
    }
}

static bool delta_shape(const fm_description *d, fm_role role, fm_shape *s) {
    int channels = fm_conv_channels(d), values = d->n_value_heads * d->value_dim;
    switch (role) {
    case FM_DELTA_QKV: *s = matrix(channels, d->hidden); return true;
    case FM_DELTA_Z: *s = matrix(values, d->hidden); return true;
    case FM_DELTA_B: *s = matrix(d->n_value_heads, d->hidden); return true;
    case FM_DELTA_A: *s = matrix(d->n_value_heads, d->hidden); return true;
    case FM_DELTA_CONV: *s = (fm_shape){FM_KIND_CONV, channels, d->conv_taps}; return true;
    case FM_DELTA_A_LOG: *s = vector(d->n_value_heads); return true;
    case FM_DELTA_DT_BIAS: *s = vector(d->n_value_heads); return true;
    case FM_DELTA_NORM: *s = vector(d->value_dim); return true;
    case FM_DELTA_OUT: *s = matrix(d->hidden, values); return true;
    default: return false;
    }
}

static bool feed_forward_shape(const fm_description *d, bool moe, fm_role role, fm_shape *s) {
    bool shared = moe && d->shared_width > 0;
    switch (role) {
    case FM_ROUTER: *s = matrix(d->n_experts, d->hidden); return moe;
    case FM_CHOICE_BIAS: *s = vector(d->n_experts); return moe && d->router.bias;
    case FM_SHARED_GATE_PROJ: *s = matrix(d->shared_width, d->hidden); return shared;
    case FM_SHARED_UP_PROJ: *s = matrix(d->shared_width, d->hidden); return shared;
    case FM_SHARED_DOWN_PROJ: *s = matrix(d->hidden, d->shared_width); return shared;
    case FM_SHARED_GATE: *s = matrix(1, d->hidden); return shared && d->shared_gate;
    case FM_DENSE_GATE_PROJ: *s = matrix(d->dense_width, d->hidden); return !moe;
    case FM_DENSE_UP_PROJ: *s = matrix(d->dense_width, d->hidden); return !moe;
    case FM_DENSE_DOWN_PROJ: *s = matrix(d->hidden, d->dense_width); return !moe;
    default: return false;
    }
}

bool fm_role_shape(const fm_description *d, int layer, fm_role role, fm_shape *shape) {
    if (layer < 0) return model_shape(d, role, shape);
    if (role == FM_NORM1 || role == FM_NORM2) {
        *shape = norm(d->hidden);
        return true;
    }
    if (role == FM_NORM1_BIAS || role == FM_NORM2_BIAS) {
        *shape = vector(d->hidden);
        return d->norm == FM_NORM_LAYER;
    }
    if (role >= FM_ROUTER) return feed_forward_shape(d, d->layers[layer].moe, role, shape);
    if (d->layers[layer].mixer == FM_MIXER_DELTANET) return delta_shape(d, role, shape);
    return d->kv_rank ? latent_shape(d, role, shape) : attention_shape(d, role, shape);
}
