/* families/glm4_moe.c: GLM-4.5, 4.5-Air, 4.6 and 4.7: sigmoid router with a bias in the choice, a shared expert without a gate, dense layers first. Mathematics:
 * transformers' modeling_glm4_moe.py. */
#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    static const fm_moe_keys moe = {"n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts"};
    int rc;
    bool normed;
    if ((rc = fm_keys_body(d, config, 1e-5, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 0, err)) < 0) return rc;
    if ((rc = fm_keys_rope(d, config, 1e4, 0.5, err)) < 0) return rc;
    if ((rc = fm_keys_moe(d, config, &moe, err)) < 0) return rc;
    if ((rc = fm_keys_first_dense(d, config, 1, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "use_qk_norm", false, &normed, err)) < 0) return rc;
    d->qk_norm = normed ? FM_QK_NORM_HEAD : FM_QK_NORM_NONE;
    d->o_bias = false;
    return fm_keys_sigmoid_router(d, config, err);
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_BODY, FM_NAMES_ATTENTION, FM_NAMES_MLP,
                                              FM_NAMES_SHARED_PLAIN("mlp.shared_experts"), [FM_CHOICE_BIAS] = "mlp.gate.e_score_correction_bias"};

extern const fm_family fm_family_glm4_moe;
const fm_family fm_family_glm4_moe = {
    .name = "glm4_moe",
    .architectures = (const char *const[]){"Glm4MoeForCausalLM", NULL},
    .model_types = (const char *const[]){"glm4_moe", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .stacked_experts = FM_STACKED_EXPERTS,
    .fused_experts = FM_FUSED_EXPERTS,
    .each_expert = FM_EACH_EXPERT,
};
