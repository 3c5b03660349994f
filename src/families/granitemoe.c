/* families/granitemoe.c: Granite 3.x MoE: scales of the embedding, the residual stream, attention and the logits. Its router's softmax over the chosen is that over
 * all, divided by the sum of the chosen. Mathematics: transformers' modeling_granitemoe.py. */
#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

static int scale(const fm_config *config, const char *key, float *out, fm_error *err) {
    int rc = fm_keys_float(config, key, 1, out, err);
    return rc < 0 || *out > 0 ? rc : fm_fail(err, FM_EFORMAT, "%s: %s is 0", config->path, key);
}

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    static const fm_moe_keys moe = {.n_experts = "num_local_experts", .top_k = "num_experts_per_tok", .width = "intermediate_size"};
    int rc;
    if ((rc = fm_keys_body(d, config, 1e-6, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 0, err)) < 0) return rc;
    if ((rc = fm_keys_rope(d, config, 1e4, 1, err)) < 0) return rc;
    if ((rc = fm_keys_moe(d, config, &moe, err)) < 0) return rc;
    if ((rc = scale(config, "embedding_multiplier", &d->embedding_scale, err)) < 0) return rc;
    if ((rc = scale(config, "residual_multiplier", &d->residual_scale, err)) < 0) return rc;
    if ((rc = scale(config, "attention_multiplier", &d->attention_scale, err)) < 0) return rc;
    if ((rc = scale(config, "logits_scaling", &d->logit_divisor, err)) < 0) return rc;
    if ((rc = fm_keys_expect(config, "shared_intermediate_size", 0, err)) < 0) return rc;
    d->router.renormalise = true;
    return fm_config_expect_string(config, "position_embedding_type", "rope", err);
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_BODY, FM_NAMES_ATTENTION, [FM_ROUTER] = "block_sparse_moe.router.layer"};

extern const fm_family fm_family_granitemoe;
const fm_family fm_family_granitemoe = {
    .name = "granitemoe",
    .architectures = (const char *const[]){"GraniteMoeForCausalLM", NULL},
    .model_types = (const char *const[]){"granitemoe", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .stacked_experts = FM_STACKED_EXPERTS_OF("block_sparse_moe"),
    .fused_experts = (const char *const[]){"block_sparse_moe.input_linear", "block_sparse_moe.output_linear"},
    .each_expert = FM_EACH_EXPERT_W,
};
