/* families/minimax_m2.c: MiniMax-M2, M2.1, M2.5, M2.7: norms over the whole of q and k, rope on rotary_dim of a head, sigmoid router with a bias in the choice.
 * Mathematics: transformers' modeling_minimax_m2.py. */
#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

/* Factors of the residual stream that MiniMax-01 has. */
static const char *const residual[] = {"layernorm_full_attention_alpha", "layernorm_full_attention_beta", "layernorm_mlp_alpha", "layernorm_mlp_beta"};

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    static const fm_moe_keys moe = {.n_experts = "num_local_experts", .top_k = "num_experts_per_tok", .width = "intermediate_size"};
    int rc, rotary;
    if ((rc = fm_keys_body(d, config, 1e-6, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 128, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "rotary_dim", d->head_dim, 2, d->head_dim, &rotary, err)) < 0) return rc;
    if ((rc = fm_keys_rope(d, config, 5e6, (double)rotary / d->head_dim, err)) < 0) return rc;
    if ((rc = fm_keys_moe(d, config, &moe, err)) < 0) return rc;
    if ((rc = fm_config_expect_bool(config, "use_qk_norm", true, err)) < 0) return rc;
    if ((rc = fm_config_expect_string(config, "qk_norm_type", "per_layer", err)) < 0) return rc;
    if ((rc = fm_config_expect_string(config, "scoring_func", "sigmoid", err)) < 0) return rc;
    if ((rc = fm_config_expect_bool(config, "use_routing_bias", true, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "num_mtp_modules", 0, 0, 64, &d->n_more_layers, err)) < 0) return rc;
    if ((rc = fm_keys_expect(config, "attn_type_list", 1, err)) < 0) return rc;
    for (size_t i = 0; i < sizeof residual / sizeof *residual; i++) {
        if ((rc = fm_keys_expect(config, residual[i], 1, err)) < 0) return rc;
    }
    d->qk_norm = FM_QK_NORM_WHOLE;
    d->router = (fm_router){.score = FM_SCORE_SIGMOID, .bias = true, .renormalise = true};
    return fm_keys_expect(config, "shared_intermediate_size", 0, err);
}

static const char *const names[FM_N_ROLES] = {
    FM_NAMES_BODY, FM_NAMES_ATTENTION, [FM_ROUTER] = "block_sparse_moe.gate", [FM_CHOICE_BIAS] = "block_sparse_moe.e_score_correction_bias"};

extern const fm_family fm_family_minimax_m2;
const fm_family fm_family_minimax_m2 = {
    .name = "minimax_m2",
    .architectures = (const char *const[]){"MiniMaxM2ForCausalLM", NULL},
    .model_types = (const char *const[]){"minimax_m2", "minimax", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .stacked_experts = FM_STACKED_EXPERTS_OF("block_sparse_moe"),
    .fused_experts = FM_FUSED_EXPERTS_OF("block_sparse_moe"),
    .each_expert = FM_EACH_EXPERT_W,
    .left_out = (const char *const[]){"mtp.", "mtp", NULL},
};
