/* families/qwen2_moe.c: Qwen1.5-MoE and Qwen2-57B-A14B: attention with biases on q, k and v, and a shared expert behind a gate. Mathematics: transformers'
 * modeling_qwen2_moe.py. */
#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    int rc, window, most;
    if ((rc = fm_keys_body(d, config, 1e-6, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 0, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "qkv_bias", true, &d->qkv_bias, err)) < 0) return rc;
    if ((rc = fm_keys_rope(d, config, 1e4, 1, err)) < 0) return rc;
    if ((rc = fm_keys_experts(d, config, true, err)) < 0) return rc;
    if ((rc = fm_keys_sparse_layers(d, config, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "norm_topk_prob", false, &d->router.renormalise, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "max_window_layers", 28, 0, INT32_MAX, &most, err)) < 0) return rc;
    if ((rc = fm_keys_window(config, "use_sliding_window", &window, err)) < 0) return rc;
    for (int i = 0; i < d->n_layers && i < most; i += 2) d->layers[i].window = window;
    d->o_bias = false;
    d->shared_gate = true;
    return fm_keys_windows(d, config, window, err);
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_BODY, FM_NAMES_ATTENTION, FM_NAMES_MLP, FM_NAMES_SHARED};

extern const fm_family fm_family_qwen2_moe;
const fm_family fm_family_qwen2_moe = {
    .name = "qwen2_moe",
    .architectures = (const char *const[]){"Qwen2MoeForCausalLM", NULL},
    .model_types = (const char *const[]){"qwen2_moe", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .stacked_experts = FM_STACKED_EXPERTS,
    .fused_experts = FM_FUSED_EXPERTS,
    .each_expert = FM_EACH_EXPERT,
};
