/* families/qwen3_next.c: Qwen3-Next and Qwen3-Coder-Next: as Qwen3.5, with the delta rule's projections interleaved by key head and, if the config asks,
 * dense layers. Mathematics: transformers' modeling_qwen3_next.py. */
#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    int rc;
    if ((rc = fm_keys_body(d, config, 1e-6, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 256, err)) < 0) return rc;
    if ((rc = fm_config_expect_bool(config, "attn_output_gate", true, err)) < 0) return rc;
    if ((rc = fm_config_expect_bool(config, "use_sliding_window", false, err)) < 0) return rc;
    if ((rc = fm_keys_rope(d, config, 1e4, 0.25, err)) < 0) return rc;
    if ((rc = fm_keys_delta(d, config, err)) < 0) return rc;
    if ((rc = fm_keys_mixers(d, config, err)) < 0) return rc;
    if ((rc = fm_keys_experts(d, config, true, err)) < 0) return rc;
    if ((rc = fm_keys_sparse_layers(d, config, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "norm_topk_prob", true, &d->router.renormalise, err)) < 0) return rc;
    d->query_gate = d->norm_stored_less_one = d->grouped_projection = d->shared_gate = true;
    d->qk_norm = FM_QK_NORM_HEAD;
    return 0;
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_BODY, FM_NAMES_ATTENTION, FM_NAMES_DELTA, FM_NAMES_MLP, FM_NAMES_SHARED};

extern const fm_family fm_family_qwen3_next;
const fm_family fm_family_qwen3_next = {
    .name = "qwen3_next",
    .architectures = (const char *const[]){"Qwen3NextForCausalLM", NULL},
    .model_types = (const char *const[]){"qwen3_next", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", "language_model.model.", NULL},
    .heads = (const char *const[]){"lm_head", "language_model.lm_head", NULL},
    .names = names,
    .stacked_experts = FM_STACKED_EXPERTS,
    .fused_experts = FM_FUSED_EXPERTS,
    .each_expert = FM_EACH_EXPERT,
    .grouped_qkvz = "linear_attn.in_proj_qkvz",
    .grouped_ba = "linear_attn.in_proj_ba",
    .left_out = (const char *const[]){"mtp.", "mtp", NULL},
};
