/* families/olmoe.c: OLMoE: norms over the whole of q and k, every layer MoE. Mathematics: transformers' modeling_olmoe.py (mlx-lm's ignores clip_qkv, and ties the
 * head where config.json does not say). */
#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    static const fm_moe_keys moe = {.n_experts = "num_experts", .top_k = "num_experts_per_tok", .width = "intermediate_size"};
    int rc;
    if ((rc = fm_keys_body(d, config, 1e-5, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 0, err)) < 0) return rc;
    if ((rc = fm_keys_rope(d, config, 1e4, 1, err)) < 0) return rc;
    if ((rc = fm_keys_moe(d, config, &moe, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "norm_topk_prob", false, &d->router.renormalise, err)) < 0) return rc;
    if ((rc = fm_keys_float(config, "clip_qkv", 0, &d->clip_qkv, err)) < 0) return rc;
    d->qk_norm = FM_QK_NORM_WHOLE;
    return fm_config_expect_absent(config, "sliding_window", err);
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_BODY, FM_NAMES_ATTENTION, FM_NAMES_MLP};

extern const fm_family fm_family_olmoe;
const fm_family fm_family_olmoe = {
    .name = "olmoe",
    .architectures = (const char *const[]){"OlmoeForCausalLM", NULL},
    .model_types = (const char *const[]){"olmoe", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .stacked_experts = FM_STACKED_EXPERTS,
    .fused_experts = FM_FUSED_EXPERTS,
    .each_expert = FM_EACH_EXPERT,
};
