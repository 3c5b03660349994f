/* families/phimoe.c: Phi-3.5-MoE: LayerNorms, biases everywhere but in the experts, sparsemixer, longrope with factors of its own. Mathematics: transformers'
 * modeling_phimoe.py; where a text is longer than what was trained, that of the longrope paper (transformers keeps the short factors there). */
#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    static const fm_moe_keys moe = {.n_experts = "num_local_experts", .top_k = "num_experts_per_tok", .width = "intermediate_size"};
    float margin;
    int rc, window;
    if ((rc = fm_keys_body(d, config, 1e-5, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 0, err)) < 0) return rc;
    if ((rc = fm_keys_rope(d, config, 1e6, 1, err)) < 0) return rc;
    if ((rc = fm_keys_moe(d, config, &moe, err)) < 0) return rc;
    if ((rc = fm_keys_float(config, "router_jitter_noise", 0.01, &margin, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "lm_head_bias", false, &d->head_bias, err)) < 0) return rc;
    if ((rc = fm_keys_window(config, NULL, &window, err)) < 0) return rc;
    for (int i = 0; i < d->n_layers; i++) d->layers[i].window = window;
    d->router = (fm_router){.score = FM_SCORE_SPARSEMIXER, .margin = margin};
    d->norm = FM_NORM_LAYER;
    if (d->top_k == 2) return 0;
    return fm_fail(err, FM_EUNSUPPORTED, "%s: num_experts_per_tok is %d, but sparsemixer takes 2", config->path, d->top_k);
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_BODY, FM_NAMES_ATTENTION, FM_NAMES_NORM_BIASES, [FM_ROUTER] = "block_sparse_moe.gate"};

extern const fm_family fm_family_phimoe;
const fm_family fm_family_phimoe = {
    .name = "phimoe",
    .architectures = (const char *const[]){"PhiMoEForCausalLM", "PhimoeForCausalLM", NULL},
    .model_types = (const char *const[]){"phimoe", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .stacked_experts = FM_STACKED_EXPERTS_OF("block_sparse_moe"),
    .fused_experts = FM_FUSED_EXPERTS_OF("block_sparse_moe"),
    .each_expert = FM_EACH_EXPERT_W,
};
