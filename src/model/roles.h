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
    /* of moe layers */
    FM_ROUTER,
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

typedef enum fm_kind { FM_KIND_MATRIX, FM_KIND_NORM /* 1+w possible */, FM_KIND_VECTOR, FM_KIND_CONV } fm_kind;

typedef struct fm_shape {
    fm_kind kind;
    int rows, cols; /* vectors and norms: rows = 1; conv: [channels][taps] */
} fm_shape;

/* The part of the model that a role belongs to, as `info` names it. */
const char *fm_role_part(fm_role role);
/* Whether this model has this role in this layer (layer -1: of the model), and its shape. */
bool fm_role_shape(const fm_description *d, int layer, fm_role role, fm_shape *shape);

#endif
