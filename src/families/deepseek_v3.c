/* families/deepseek_v3.c: DeepSeek-V3, R1 and V3.1, and Kimi K2 and Moonlight, which have the same body: latent attention, sigmoid router with a bias in the choice, in
 * groups by the two best experts of each. Mathematics: transformers' modeling_deepseek_v3.py. */
#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    static const fm_moe_keys moe = {"n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts"};
    static const char *const needed[] = {"n_group", "topk_group", "routed_scaling_factor", "first_k_dense_replace"}; /* programs differ in their defaults */
    int rc;
    if ((rc = fm_keys_body(d, config, 1e-6, err)) < 0) return rc;
    if ((rc = fm_keys_latent(d, config, 1e4, err)) < 0) return rc;
    for (int i = 0; i < 4; i++) {
        if (!fm_config_get(config, needed[i])) return fm_fail(err, FM_EFORMAT, "%s: %s is missing", config->path, needed[i]);
    }
    if ((rc = fm_keys_moe(d, config, &moe, err)) < 0) return rc;
    if ((rc = fm_keys_first_dense(d, config, 3, err)) < 0 || (rc = fm_keys_expect(config, "moe_layer_freq", 1, err)) < 0) return rc;
    return fm_keys_sigmoid_router(d, config, err);
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_BODY, FM_NAMES_LATENT, FM_NAMES_MLP,
                                              FM_NAMES_SHARED_PLAIN("mlp.shared_experts"), [FM_CHOICE_BIAS] = "mlp.gate.e_score_correction_bias"};

extern const fm_family fm_family_deepseek_v3;
const fm_family fm_family_deepseek_v3 = {
    .name = "deepseek_v3",
    .architectures = (const char *const[]){"DeepseekV3ForCausalLM", NULL},
    .model_types = (const char *const[]){"deepseek_v3", "kimi_k2", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .latent_kv = "self_attn.kv_b_proj",
    .stacked_experts = FM_STACKED_EXPERTS,
    .fused_experts = FM_FUSED_EXPERTS,
    .each_expert = FM_EACH_EXPERT,
};
