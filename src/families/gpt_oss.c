/* families/gpt_oss.c: gpt-oss 20b and 120b: experts in mxfp4 with biases and a clamped unit, attention with sinks and a window in every other layer, a router with a
 * bias. Its router's softmax over the chosen is that over all, divided by the sum of the chosen. Mathematics: transformers' modeling_gpt_oss.py; mlx-lm's gpt_oss.py
 * rounds yarn's range, whatever `truncate` says. */
#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    static const fm_moe_keys moe = {.n_experts = "num_local_experts", .top_k = "num_experts_per_tok", .width = "intermediate_size"};
    int rc, window;
    if ((rc = fm_keys_body(d, config, 1e-5, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 64, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "attention_bias", true, &d->qkv_bias, err)) < 0) return rc;
    if (!fm_config_get(config, "rope_parameters") && !fm_config_get(config, "rope_scaling"))
        return fm_fail(err, FM_EFORMAT, "%s: it has neither rope_parameters nor rope_scaling, which this family has", config->path);
    if ((rc = fm_keys_rope(d, config, 150000, 1, err)) < 0) return rc;
    if ((rc = fm_keys_moe(d, config, &moe, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "sliding_window", 128, 1, INT32_MAX, &window, err)) < 0) return rc;
    if ((rc = fm_keys_float(config, "swiglu_limit", 7, &d->gate_limit, err)) < 0) return rc;
    if ((rc = fm_keys_float(config, "swiglu_alpha", 1.702, &d->gate_alpha, err)) < 0) return rc;
    if (!(d->gate_limit > 0)) return fm_fail(err, FM_EFORMAT, "%s: swiglu_limit is 0", config->path);
    for (int i = 0; i < d->n_layers; i += 2) d->layers[i].window = window;
    d->o_bias = d->qkv_bias;
    d->sinks = d->expert_bias = d->router.logit_bias = d->router.renormalise = true;
    return fm_keys_windows(d, config, window, err);
}

static const char *const names[FM_N_ROLES] = {
    FM_NAMES_BODY, FM_NAMES_PROJECTIONS, [FM_SINKS] = "self_attn.sinks", [FM_ROUTER] = "mlp.router", [FM_ROUTER_BIAS] = "mlp.router.bias"};

extern const fm_family fm_family_gpt_oss;
const fm_family fm_family_gpt_oss = {
    .name = "gpt_oss",
    .architectures = (const char *const[]){"GptOssForCausalLM", NULL},
    .model_types = (const char *const[]){"gpt_oss", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .stacked_experts = (const char *const[]){"mlp.experts.gate_proj", "mlp.experts.up_proj", "mlp.experts.down_proj"},
    .fused_experts = FM_FUSED_EXPERTS,
    .each_expert = FM_EACH_EXPERT,
    .interleaved_experts = true,
};
