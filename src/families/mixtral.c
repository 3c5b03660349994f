/* families/mixtral.c: Mixtral 8x7B and 8x22B: plain attention, every layer MoE. Mathematics: transformers' modeling_mixtral.py. */
#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    static const fm_moe_keys moe = {.n_experts = "num_local_experts", .top_k = "num_experts_per_tok", .width = "intermediate_size"};
    int rc, window;
    if ((rc = fm_keys_body(d, config, 1e-5, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 0, err)) < 0) return rc;
    if ((rc = fm_keys_rope(d, config, 1e6, 1, err)) < 0) return rc;
    if ((rc = fm_keys_moe(d, config, &moe, err)) < 0) return rc;
    if ((rc = fm_keys_window(config, NULL, &window, err)) < 0) return rc;
    for (int i = 0; i < d->n_layers; i++) d->layers[i].window = window;
    d->router.renormalise = true;
    return fm_config_expect_bool(config, "attention_bias", false, err);
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_BODY, FM_NAMES_ATTENTION, [FM_ROUTER] = "block_sparse_moe.gate"};

extern const fm_family fm_family_mixtral;
const fm_family fm_family_mixtral = {
    .name = "mixtral",
    .architectures = (const char *const[]){"MixtralForCausalLM", NULL},
    .model_types = (const char *const[]){"mixtral", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .stacked_experts = FM_STACKED_EXPERTS_OF("block_sparse_moe"),
    .fused_experts = FM_FUSED_EXPERTS_OF("block_sparse_moe"),
    .each_expert = FM_EACH_EXPERT_W,
};
