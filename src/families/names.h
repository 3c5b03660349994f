/* families/names.h: tensor names that several families have in common, as initialisers of fm_family.names. */
#ifndef FM_FAMILIES_NAMES_H
#define FM_FAMILIES_NAMES_H

#define FM_NAMES_NORMS [FM_FINAL_NORM] = "norm", [FM_NORM1] = "input_layernorm", [FM_NORM2] = "post_attention_layernorm"
#define FM_NAMES_BODY [FM_EMBED] = "embed_tokens", FM_NAMES_NORMS

#define FM_NAMES_PROJECTIONS                                                                                                                                   \
    [FM_Q] = "self_attn.q_proj", [FM_K] = "self_attn.k_proj", [FM_V] = "self_attn.v_proj", [FM_O] = "self_attn.o_proj", [FM_Q_BIAS] = "self_attn.q_proj.bias", \
    [FM_K_BIAS] = "self_attn.k_proj.bias", [FM_V_BIAS] = "self_attn.v_proj.bias", [FM_O_BIAS] = "self_attn.o_proj.bias"
#define FM_NAMES_ATTENTION FM_NAMES_PROJECTIONS, [FM_Q_NORM] = "self_attn.q_norm", [FM_K_NORM] = "self_attn.k_norm"

#define FM_NAMES_LATENT                                                                                                                                        \
    [FM_Q] = "self_attn.q_proj", [FM_Q_A] = "self_attn.q_a_proj", [FM_Q_A_NORM] = "self_attn.q_a_layernorm", [FM_Q_B] = "self_attn.q_b_proj",                  \
    [FM_KV_A] = "self_attn.kv_a_proj_with_mqa", [FM_KV_A_NORM] = "self_attn.kv_a_layernorm", [FM_LATENT_OUT] = "self_attn.unembed_out",                        \
    [FM_LATENT_Q] = "self_attn.embed_q", [FM_O] = "self_attn.o_proj"

#define FM_NAMES_DELTA                                                                                                                                         \
    [FM_DELTA_QKV] = "linear_attn.in_proj_qkv", [FM_DELTA_Z] = "linear_attn.in_proj_z", [FM_DELTA_B] = "linear_attn.in_proj_b",                                \
    [FM_DELTA_A] = "linear_attn.in_proj_a", [FM_DELTA_CONV] = "linear_attn.conv1d", [FM_DELTA_A_LOG] = "linear_attn.A_log",                                    \
    [FM_DELTA_DT_BIAS] = "linear_attn.dt_bias", [FM_DELTA_NORM] = "linear_attn.norm.weight", [FM_DELTA_OUT] = "linear_attn.out_proj"

#define FM_NAMES_MLP                                                                                                                                           \
    [FM_ROUTER] = "mlp.gate", [FM_DENSE_GATE_PROJ] = "mlp.gate_proj", [FM_DENSE_UP_PROJ] = "mlp.up_proj", [FM_DENSE_DOWN_PROJ] = "mlp.down_proj"

#define FM_NAMES_SHARED                                                                                                                                        \
    [FM_SHARED_GATE_PROJ] = "mlp.shared_expert.gate_proj", [FM_SHARED_UP_PROJ] = "mlp.shared_expert.up_proj",                                                  \
    [FM_SHARED_DOWN_PROJ] = "mlp.shared_expert.down_proj", [FM_SHARED_GATE] = "mlp.shared_expert_gate"

/* Without a gate, below base. */
#define FM_NAMES_SHARED_PLAIN(base) [FM_SHARED_GATE_PROJ] = base ".gate_proj", [FM_SHARED_UP_PROJ] = base ".up_proj", [FM_SHARED_DOWN_PROJ] = base ".down_proj"

#define FM_NAMES_NORM_BIASES [FM_FINAL_NORM_BIAS] = "norm.bias", [FM_NORM1_BIAS] = "input_layernorm.bias", [FM_NORM2_BIAS] = "post_attention_layernorm.bias"

/* Experts below moe. */
#define FM_STACKED_EXPERTS_OF(moe)                                                                                                                             \
    (const char *const[]) { moe ".switch_mlp.gate_proj", moe ".switch_mlp.up_proj", moe ".switch_mlp.down_proj" }
#define FM_FUSED_EXPERTS_OF(moe)                                                                                                                               \
    (const char *const[]) { moe ".experts.gate_up_proj", moe ".experts.down_proj" }

#define FM_STACKED_EXPERTS FM_STACKED_EXPERTS_OF("mlp")
#define FM_FUSED_EXPERTS FM_FUSED_EXPERTS_OF("mlp")
#define FM_EACH_EXPERT                                                                                                                                         \
    (const char *const[]) { "mlp.experts.%d.gate_proj", "mlp.experts.%d.up_proj", "mlp.experts.%d.down_proj" }
/* Mixtral's letters. */
#define FM_EACH_EXPERT_W                                                                                                                                       \
    (const char *const[]) { "block_sparse_moe.experts.%d.w1", "block_sparse_moe.experts.%d.w3", "block_sparse_moe.experts.%d.w2" }

#endif
