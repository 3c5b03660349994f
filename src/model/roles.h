/* model/roles.h: what a tensor is for. A family gives each role a name; the description gives it a shape. */
#ifndef FM_MODEL_ROLES_H
#define FM_MODEL_ROLES_H

#include "model/description.h"

typedef enum fm_role {
    /* of the model */
    FM_EMBED,
    FM_FINAL_NORM,
    FM_HEAD,
    FM_HEAD_BIAS,
    FM_FINAL_NORM_BIAS,
    /* of every layer */
    FM_NORM1,
    FM_NORM2,
    FM_NORM1_BIAS,
    FM_NORM2_BIAS,
    /* of attention layers */
    FM_Q,
    FM_K,
    FM_V,
    FM_O,
    FM_Q_BIAS,
    FM_K_BIAS,
    FM_V_BIAS,
    FM_O_BIAS,
    FM_Q_NORM,
    FM_K_NORM,
    FM_SINKS,
    /* of latent attention, beside q (without q_a) and o */
    FM_Q_A,
    FM_Q_A_NORM,
    FM_Q_B,
    FM_KV_A,
    FM_KV_A_NORM,
    FM_LATENT_OUT, /* [heads][v_dim][kv_rank]: from the latent to a head's output */
    FM_LATENT_Q,   /* [heads][kv_rank][nope_dim]: a head's query to the latent */
    /* of delta layers */
    FM_DELTA_QKV,
    FM_DELTA_Z,
    FM_DELTA_B,
    FM_DELTA_A,
    FM_DELTA_CONV,
    FM_DELTA_A_LOG,
    FM_DELTA_DT_BIAS,
    FM_DELTA_NORM,
    FM_DELTA_OUT,
    /* of mamba, lightning and convolution layers */
    FM_MIX_IN, /* mamba: u and z; lightning: q, k and v of each head; convolution: gate in, gate out and x */
    FM_MIX_IN_BIAS,
    FM_MIX_CONV,
    FM_MIX_CONV_BIAS,
    FM_MIX_OUT,
    FM_MIX_OUT_BIAS,
    /* of mamba layers */
    FM_MAMBA_X, /* gives dt, B and C */
    FM_MAMBA_DT,
    FM_MAMBA_DT_BIAS,
    FM_MAMBA_DT_NORM,
    FM_MAMBA_B_NORM,
    FM_MAMBA_C_NORM,
    FM_MAMBA_A_LOG,
    FM_MAMBA_D,
    /* of lightning layers */
    FM_LIGHTNING_GATE,
    FM_LIGHTNING_NORM,
    /* of moe layers */
    FM_ROUTER,
    FM_ROUTER_BIAS,
    FM_CHOICE_BIAS, /* added to scores for the choice of experts */
    FM_SHARED_GATE_PROJ,
    FM_SHARED_UP_PROJ,
    FM_SHARED_DOWN_PROJ,
    FM_SHARED_GATE,
    /* of dense layers */
    FM_DENSE_GATE_PROJ,
    FM_DENSE_UP_PROJ,
    FM_DENSE_DOWN_PROJ,
    FM_N_ROLES
} fm_role;

/* FM_KIND_NORM: 1+w possible. FM_KIND_CONV and FM_KIND_DECAY lie transposed in memory; DECAY as -exp(w). */
typedef enum fm_kind { FM_KIND_MATRIX, FM_KIND_NORM, FM_KIND_VECTOR, FM_KIND_CONV, FM_KIND_DECAY } fm_kind;

typedef struct fm_shape {
    fm_kind kind;
    int rows, cols; /* vectors and norms: rows = 1; conv: [channels][taps]; decay: [channels][states] */
} fm_shape;

/* Whether tensors of this kind have .weight behind the name that the family gives. */
static inline bool fm_kind_has_suffix(fm_kind kind) { return kind != FM_KIND_VECTOR && kind != FM_KIND_DECAY; }

/* The part of the model that a role belongs to, as `info` names it. */
const char *fm_role_part(fm_role role);
/* Whether this model has this role in this layer (layer -1: of the model), and its shape. */
bool fm_role_shape(const fm_description *d, int layer, fm_role role, fm_shape *shape);

#endif
