/* families/minimax.c: MiniMax-Text-01 and MiniMax-M1: lightning attention between attention layers, and a residual stream that carries the normed input, scaled.
 * Mathematics: transformers' modeling_minimax.py; it rotates whole heads, where the published code and this file rotate rotary_dim. */
#include <string.h>

#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

/* Of the mixers of lightning and of attention layers, and of experts: as transformers' config names them, and as the published one does. */
static const char *const factors[3][2][2] = {
    {{"linear_attn_alpha_factor", "layernorm_linear_attention_alpha"}, {"linear_attn_beta_factor", "layernorm_linear_attention_beta"}},
    {{"full_attn_alpha_factor", "layernorm_full_attention_alpha"}, {"full_attn_beta_factor", "layernorm_full_attention_beta"}},
    {{"mlp_alpha_factor", "layernorm_mlp_alpha"}, {"mlp_beta_factor", "layernorm_mlp_beta"}}};

static int factor(const fm_config *config, const char *const names[2], float *out, fm_error *err) {
    const char *key = fm_config_get(config, names[0]) ? names[0] : names[1];
    int rc = fm_keys_float(config, key, 1, out, err);
    return rc < 0 || *out > 0 ? rc : fm_fail(err, FM_EFORMAT, "%s: %s is 0", config->path, key);
}

/* attn_type_list: 0 is lightning, 1 attention. */
static int mixers(fm_description *d, const fm_config *config, fm_error *err) {
    const json_t *list = fm_config_get(config, "attn_type_list");
    if (fm_config_get(config, "layer_types") || !list) return fm_keys_layer_types(d, config, "linear_attention", FM_MIXER_LIGHTNING, err);
    if (json_array_size(list) != (size_t)d->n_layers)
        return fm_fail(err, FM_EFORMAT, "%s: attn_type_list has %zu entries, but there are %d layers", config->path, json_array_size(list), d->n_layers);
    for (int i = 0; i < d->n_layers; i++) {
        const json_t *type = json_array_get(list, (size_t)i);
        if (!json_is_integer(type) || json_integer_value(type) < 0 || json_integer_value(type) > 1)
            return fm_fail(err, FM_EUNSUPPORTED, "%s: attn_type_list[%d] is neither 0 nor 1", config->path, i);
        d->layers[i].mixer = json_integer_value(type) ? FM_MIXER_ATTENTION : FM_MIXER_LIGHTNING;
    }
    return 0;
}

static int describe_layers(fm_description *d, const fm_config *config, bool published, fm_error *err) {
    float read[3][2];
    int rc;
    for (int i = 0; i < 6; i++) {
        if ((rc = factor(config, factors[i / 2][i % 2], &read[i / 2][i % 2], err)) < 0) return rc;
    }
    for (int i = 0; i < d->n_layers; i++) {
        fm_layer *l = &d->layers[i];
        const float *of_mixer = read[l->mixer == FM_MIXER_ATTENTION];
        double others = d->n_layers > 1 ? d->n_layers - 1 : 1;
        l->slope = (float)(1 - i / (published ? others : d->n_layers - 1 + 1e-5) + 1e-5);
        l->keep[0] = of_mixer[0], l->add[0] = of_mixer[1];
        l->keep[1] = read[2][0], l->add[1] = read[2][1];
    }
    return 0;
}

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    static const fm_moe_keys moe = {.n_experts = "num_local_experts", .top_k = "num_experts_per_tok", .width = "intermediate_size"};
    bool published = strcmp(d->model_type, "minimax") != 0, postnorm;
    int rc, rotary;
    if ((rc = fm_keys_body(d, config, 1e-5, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 0, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "rotary_dim", d->head_dim, 2, d->head_dim, &rotary, err)) < 0) return rc;
    if ((rc = fm_keys_rope(d, config, 1e6, (double)rotary / d->head_dim, err)) < 0) return rc;
    if ((rc = fm_keys_moe(d, config, &moe, err)) < 0) return rc;
    if ((rc = mixers(d, config, err)) < 0 || (rc = describe_layers(d, config, published, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "postnorm", !published, &postnorm, err)) < 0) return rc;
    if (!postnorm) return fm_fail(err, FM_EUNSUPPORTED, "%s: postnorm is not true, which is not supported", config->path);
    if (published && (d->n_heads & (d->n_heads - 1)))
        return fm_fail(err, FM_EUNSUPPORTED, "%s: num_attention_heads %d is no power of two, which is not supported", config->path, d->n_heads);
    if ((rc = fm_config_expect_absent(config, "sliding_window", err)) < 0) return rc;
    if ((rc = fm_config_expect_bool(config, "attention_bias", false, err)) < 0) return rc;
    d->router.renormalise = true;
    return fm_keys_expect(config, "shared_intermediate_size", 0, err);
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_BODY,
                                              FM_NAMES_PROJECTIONS,
                                              [FM_MIX_IN] = "self_attn.qkv_proj",
                                              [FM_MIX_OUT] = "self_attn.out_proj",
                                              [FM_LIGHTNING_GATE] = "self_attn.output_gate",
                                              [FM_LIGHTNING_NORM] = "self_attn.norm",
                                              [FM_ROUTER] = "block_sparse_moe.gate"};

extern const fm_family fm_family_minimax;
const fm_family fm_family_minimax = {
    .name = "minimax",
    .architectures = (const char *const[]){"MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM", "MiniMaxForCausalLM", NULL},
    .model_types = (const char *const[]){"minimax_text_01", "minimax_m1", "minimax", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .stacked_experts = FM_STACKED_EXPERTS_OF("block_sparse_moe"),
    .fused_experts = FM_FUSED_EXPERTS_OF("block_sparse_moe"),
    .each_expert = FM_EACH_EXPERT_W,
    /* Tables of decays, which follow from the slopes. */
    .left_out = (const char *const[]){"self_attn.slope_rate", "decays", "self_attn.query_decay", "decays", "self_attn.key_decay", "decays",
                                      "self_attn.diagonal_decay", "decays", NULL},
};
