/* families/qwen3_5_moe.c: Qwen3.5 MoE (35B-A3B, 122B-A10B, 397B-A17B) and Qwen3.6: gated delta rule and gated attention, every layer MoE with a shared
 * expert. Only config.json tells the sizes apart. Mathematics: transformers' modeling_qwen3_5_moe.py. */
#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    int rc;
    if ((rc = fm_keys_body(d, config, 1e-6, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 256, err)) < 0) return rc;
    if ((rc = fm_config_expect_bool(config, "attn_output_gate", true, err)) < 0) return rc;
    if ((rc = fm_config_expect_bool(config, "use_sliding_window", false, err)) < 0) return rc;
    if ((rc = fm_keys_rope(d, config, 1e4, 0.25, err)) < 0) return rc;
    if ((rc = fm_keys_delta(d, config, err)) < 0) return rc;
    if ((rc = fm_keys_mixers(d, config, err)) < 0) return rc;
    if ((rc = fm_keys_experts(d, config, true, err)) < 0) return rc;
    d->query_gate = d->router.renormalise = d->norm_stored_less_one = d->shared_gate = true;
    d->qk_norm = FM_QK_NORM_HEAD;
    return 0;
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_BODY, FM_NAMES_ATTENTION, FM_NAMES_DELTA, FM_NAMES_MLP, FM_NAMES_SHARED};

extern const fm_family fm_family_qwen3_5_moe;
const fm_family fm_family_qwen3_5_moe = {
    .name = "qwen3_5_moe",
    .architectures = (const char *const[]){"Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM", NULL},
    .model_types = (const char *const[]){"qwen3_5_moe", "qwen3_5_moe_text", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.language_model.", "language_model.model.", "model.", NULL},
    .heads = (const char *const[]){"lm_head", "language_model.lm_head", "model.language_model.lm_head", NULL},
    .names = names,
    .stacked_experts = FM_STACKED_EXPERTS,
    .fused_experts = FM_FUSED_EXPERTS,
    .each_expert = FM_EACH_EXPERT,
    .left_out = (const char *const[]){"mtp.", "mtp", "visual.", "vision", "vision_tower.", "vision", NULL},
};
