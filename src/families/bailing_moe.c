/* families/bailing_moe.c: Ling and Ring, 1 and 2, which share a model_type and differ in the architecture: q, k and v in one matrix, shared experts without a gate; the
 * second has a sigmoid router with groups and a bias in the choice. Mathematics: mlx-lm's bailing_moe.py, which the golden tests hold against transformers'
 * modeling_glm4_moe.py, the same body under other names. */
#include <string.h>

#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

static int read_router(fm_description *d, const fm_config *config, bool second, fm_error *err) {
    const char *score = second ? "sigmoid" : "softmax";
    int rc;
    if ((rc = fm_keys_groups(d, config, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "norm_topk_prob", second, &d->router.renormalise, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "moe_router_enable_expert_bias", second, &d->router.bias, err)) < 0) return rc;
    if (second && (rc = fm_config_expect_bool(config, "norm_topk_prob", true, err)) < 0) return rc;
    if ((rc = fm_config_expect_string(config, "score_function", score, err)) < 0) return rc;
    d->router.score = second ? FM_SCORE_SIGMOID : FM_SCORE_SOFTMAX;
    d->router.add = 1e-20f;
    return 0;
}

static const char *const not_done[] = {"use_bias", "norm_head", "norm_softmax", "multi_gate", "use_sliding_window", NULL};

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    static const fm_moe_keys moe = {"num_experts", "num_experts_per_tok", "moe_intermediate_size", "num_shared_experts"};
    bool second = !strcmp(d->architecture, "BailingMoeV2ForCausalLM"), normed;
    double fraction = 1;
    int rc, rotary, shared;
    if (!*d->architecture) return fm_fail(err, FM_EUNSUPPORTED, "%s: without architectures, model_type %s says too little", config->path, d->model_type);
    if ((rc = fm_keys_body(d, config, 1e-6, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 0, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "use_qkv_bias", false, &d->qkv_bias, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "rotary_dim", d->head_dim, 2, d->head_dim, &rotary, err)) < 0) return rc;
    fraction = (double)rotary / d->head_dim;
    if ((rc = fm_keys_rope(d, config, 1e4, fraction, err)) < 0) return rc;
    if ((rc = fm_keys_moe(d, config, &moe, err)) < 0) return rc;
    if ((rc = fm_keys_first_dense(d, config, 0, err)) < 0) return rc;
    if ((rc = read_router(d, config, second, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "use_qk_norm", second, &normed, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "moe_shared_expert_intermediate_size", d->expert_width, 1, 1 << 24, &shared, err)) < 0) return rc;
    if ((rc = fm_config_expect_bool(config, "moe_router_enable_shared_expert", true, err)) < 0) return rc;
    if ((rc = fm_keys_expect_false(config, not_done, err)) < 0) return rc;
    if ((rc = fm_keys_shared(d, config, d->shared_width / d->expert_width, shared, err)) < 0) return rc;
    d->qk_norm = normed ? FM_QK_NORM_HEAD : FM_QK_NORM_NONE;
    d->o_bias = false;
    return 0;
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_NORMS,
                                              FM_NAMES_MLP,
                                              FM_NAMES_SHARED_PLAIN("mlp.shared_experts"),
                                              [FM_EMBED] = "word_embeddings",
                                              [FM_O] = "attention.dense",
                                              [FM_Q_NORM] = "attention.query_layernorm",
                                              [FM_K_NORM] = "attention.key_layernorm",
                                              [FM_CHOICE_BIAS] = "mlp.gate.expert_bias"};
static const char *const mlx_names[FM_N_ROLES] = {[FM_ROUTER] = "mlp.gate.gate_proj"};

extern const fm_family fm_family_bailing_moe;
const fm_family fm_family_bailing_moe = {
    .name = "bailing_moe",
    .architectures = (const char *const[]){"BailingMoeForCausalLM", "BailingMoeV2ForCausalLM", NULL},
    .model_types = (const char *const[]){"bailing_moe", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .other_names = mlx_names,
    .fused_qkv = "attention.query_key_value",
    .stacked_experts = FM_STACKED_EXPERTS,
    .fused_experts = FM_FUSED_EXPERTS,
    .each_expert = FM_EACH_EXPERT,
};
