/* families/qwen3_moe.c: Qwen3 MoE (30B-A3B, 235B-A22B, Coder): attention only, no gate, no shared expert, plain norms. Mathematics: transformers'
 * modeling_qwen3_moe.py. */
#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    int rc, window;
    if ((rc = fm_keys_body(d, config, 1e-6, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 0, err)) < 0) return rc;
    if ((rc = fm_keys_rope(d, config, 1e4, 1, err)) < 0) return rc;
    if ((rc = fm_keys_experts(d, config, false, err)) < 0) return rc;
    if ((rc = fm_keys_sparse_layers(d, config, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "norm_topk_prob", false, &d->router.renormalise, err)) < 0) return rc;
    if ((rc = fm_keys_window(config, "use_sliding_window", &window, err)) < 0) return rc;
    for (int i = 0; i < d->n_layers; i++) d->layers[i].window = window;
    d->qk_norm = FM_QK_NORM_HEAD;
    return 0;
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_BODY, FM_NAMES_ATTENTION, FM_NAMES_MLP};

extern const fm_family fm_family_qwen3_moe;
const fm_family fm_family_qwen3_moe = {
    .name = "qwen3_moe",
    .architectures = (const char *const[]){"Qwen3MoeForCausalLM", NULL},
    .model_types = (const char *const[]){"qwen3_moe", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", "language_model.model.", NULL},
    .heads = (const char *const[]){"lm_head", "language_model.lm_head", NULL},
    .names = names,
    .stacked_experts = FM_STACKED_EXPERTS,
    .fused_experts = FM_FUSED_EXPERTS,
    .each_expert = FM_EACH_EXPERT,
};
