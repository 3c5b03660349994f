/* families/deepseek_v2.c: DeepSeek-V2, V2.5, V2-Lite and Coder-V2: latent attention, softmax router, in groups by the best expert of each or without. Mathematics:
 * transformers' modeling_deepseek_v2.py. */
#include <string.h>

#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    static const fm_moe_keys moe = {"n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts"};
    const char *method = json_string_value(fm_config_get(config, "topk_method"));
    int rc;
    if ((rc = fm_keys_body(d, config, 1e-6, err)) < 0) return rc;
    if ((rc = fm_keys_latent(d, config, 1e4, err)) < 0) return rc;
    if ((rc = fm_config_expect_bool(config, "rope_interleave", true, err)) < 0) return rc;
    if ((rc = fm_keys_moe(d, config, &moe, err)) < 0) return rc;
    if ((rc = fm_keys_first_dense(d, config, 0, err)) < 0 || (rc = fm_keys_expect(config, "moe_layer_freq", 1, err)) < 0) return rc;
    if ((rc = fm_config_expect_one_of(config, "topk_method", (const char *const[]){"greedy", "group_limited_greedy", NULL}, err)) < 0) return rc;
    if ((rc = fm_keys_groups(d, config, err)) < 0) return rc;
    if (!method || !strcmp(method, "greedy")) d->router.n_groups = d->router.n_chosen = 1;
    d->router.best_of = 1;
    /* DeepSeek's own code would then divide instead of scaling, transformers does neither. */
    if ((rc = fm_config_expect_bool(config, "norm_topk_prob", false, err)) < 0) return rc;
    if ((rc = fm_config_expect_bool(config, "mlp_bias", false, err)) < 0) return rc;
    return fm_config_expect_string(config, "scoring_func", "softmax", err);
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_BODY, FM_NAMES_LATENT, FM_NAMES_MLP, FM_NAMES_SHARED_PLAIN("mlp.shared_experts")};

extern const fm_family fm_family_deepseek_v2;
const fm_family fm_family_deepseek_v2 = {
    .name = "deepseek_v2",
    .architectures = (const char *const[]){"DeepseekV2ForCausalLM", NULL},
    .model_types = (const char *const[]){"deepseek_v2", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .latent_kv = "self_attn.kv_b_proj",
    .stacked_experts = FM_STACKED_EXPERTS,
    .fused_experts = FM_FUSED_EXPERTS,
    .each_expert = FM_EACH_EXPERT,
};
