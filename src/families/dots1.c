/* families/dots1.c: dots.llm1: sigmoid router with a bias in the choice, a shared expert without a gate, dense layers first, windows in the last layers if
 * the config asks. Mathematics: transformers' modeling_dots1.py. */
#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    static const fm_moe_keys moe = {"n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts"};
    int rc, window, first;
    if ((rc = fm_keys_body(d, config, 1e-6, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 0, err)) < 0) return rc;
    if ((rc = fm_keys_rope(d, config, 1e4, 1, err)) < 0) return rc;
    if ((rc = fm_keys_moe(d, config, &moe, err)) < 0) return rc;
    if ((rc = fm_keys_first_dense(d, config, 0, err)) < 0) return rc;
    if ((rc = fm_keys_groups(d, config, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "norm_topk_prob", false, &d->router.renormalise, err)) < 0) return rc;
    if ((rc = fm_config_expect_one_of(config, "scoring_func", (const char *const[]){"sigmoid", "noaux_tc", NULL}, err)) < 0) return rc;
    if ((rc = fm_config_expect_bool(config, "mlp_bias", false, err)) < 0 || (rc = fm_keys_expect(config, "moe_layer_freq", 1, err)) < 0) return rc;
    if ((rc = fm_keys_window(config, NULL, &window, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "max_window_layers", 62, 0, INT32_MAX, &first, err)) < 0) return rc;
    for (int i = first; i < d->n_layers; i++) d->layers[i].window = window;
    d->router.score = FM_SCORE_SIGMOID;
    d->router.bias = true;
    d->router.add = 1e-20f;
    d->qk_norm = FM_QK_NORM_HEAD;
    return fm_keys_windows(d, config, window, err);
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_BODY, FM_NAMES_ATTENTION, FM_NAMES_MLP,
                                              FM_NAMES_SHARED_PLAIN("mlp.shared_experts"), [FM_CHOICE_BIAS] = "mlp.gate.e_score_correction_bias"};

extern const fm_family fm_family_dots1;
const fm_family fm_family_dots1 = {
    .name = "dots1",
    .architectures = (const char *const[]){"Dots1ForCausalLM", NULL},
    .model_types = (const char *const[]){"dots1", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .stacked_experts = (const char *const[]){"mlp.experts.gate_proj", "mlp.experts.up_proj", "mlp.experts.down_proj"},
    .fused_experts = FM_FUSED_EXPERTS,
    .each_expert = FM_EACH_EXPERT,
};
