/* families/jamba.c: Jamba (v0.1, 1.5, 1.6, 1.7): Mamba layers with some of attention, which has no rope; experts in some layers, dense MLPs of the same width in the
 * others. Mathematics: transformers' modeling_jamba.py (mlx-lm's router divides the weights by their sum, and has another rule of which layers have experts). */
#include <string.h>

#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

/* Every period-th layer from the offset-th on. */
typedef struct every {
    int period, offset;
} every;

static int read_every(const fm_config *config, const char *period, const char *offset, const every *fallback, every *out, fm_error *err) {
    int rc = fm_config_int(config, period, fallback->period, 1, FM_MAX_LAYERS, &out->period, err);
    return rc < 0 ? rc : fm_config_int(config, offset, fallback->offset, 0, out->period - 1, &out->offset, err);
}

/* Older configs name the layers too. */
static int check_types(const fm_description *d, const fm_config *config, fm_error *err) {
    const json_t *types = fm_config_get(config, "layers_block_type");
    for (int i = 0; types && i < d->n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i)), *wanted = d->layers[i].mixer == FM_MIXER_ATTENTION ? "attention" : "mamba";
        if (!type || strcmp(type, wanted))
            return fm_fail(err, FM_EFORMAT, "%s: layers_block_type[%d] is %s, but attn_layer_period and attn_layer_offset give %s", config->path, i,
                           type ? type : "no string", wanted);
    }
    return 0;
}

static int describe_mamba(fm_description *d, const fm_config *config, fm_error *err) {
    int rc, expand, rank = (d->hidden + 15) / 16;
    const json_t *given = fm_config_get(config, "mamba_dt_rank");
    bool automatic = json_is_string(given);
    if ((rc = fm_config_int(config, "mamba_expand", 2, 1, 64, &expand, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "mamba_d_state", 16, 1, 1024, &d->mamba_states, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "mamba_d_conv", 4, 2, 16, &d->conv_taps, err)) < 0) return rc;
    if ((rc = automatic ? fm_config_expect_string(config, "mamba_dt_rank", "auto", err)
                        : fm_config_int(config, "mamba_dt_rank", rank, 1, 1 << 20, &rank, err)) < 0)
        return rc;
    if ((rc = fm_config_expect_bool(config, "mamba_inner_layernorms", true, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "mamba_conv_bias", true, &d->conv_bias, err)) < 0) return rc;
    d->mamba_width = expand * d->hidden;
    d->mamba_rank = rank;
    return fm_config_bool(config, "mamba_proj_bias", false, &d->mixer_bias, err);
}

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    static const fm_moe_keys moe = {.n_experts = "num_experts", .top_k = "num_experts_per_tok", .width = "intermediate_size"};
    every attention, experts;
    int rc;
    if ((rc = fm_keys_body(d, config, 1e-6, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 0, err)) < 0) return rc;
    if ((rc = fm_keys_moe(d, config, &moe, err)) < 0) return rc;
    if ((rc = describe_mamba(d, config, err)) < 0) return rc;
    if ((rc = read_every(config, "attn_layer_period", "attn_layer_offset", &(every){8, 4}, &attention, err)) < 0) return rc;
    if ((rc = read_every(config, "expert_layer_period", "expert_layer_offset", &(every){2, 1}, &experts, err)) < 0) return rc;
    for (int i = 0; i < d->n_layers; i++) {
        d->layers[i].mixer = i % attention.period == attention.offset ? FM_MIXER_ATTENTION : FM_MIXER_MAMBA;
        d->layers[i].moe = i % experts.period == experts.offset;
    }
    d->dense_width = d->expert_width;
    if (d->n_experts < 2) return fm_fail(err, FM_EUNSUPPORTED, "%s: num_experts is %d: a model without experts is not supported", config->path, d->n_experts);
    if ((rc = check_types(d, config, err)) < 0) return rc;
    if ((rc = fm_config_expect_absent(config, "sliding_window", err)) < 0) return rc;
    return fm_config_expect_bool(config, "attention_bias", false, err);
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_PROJECTIONS,
                                              FM_NAMES_MAMBA,
                                              FM_NAMES_DENSE_OF("feed_forward"),
                                              [FM_EMBED] = "embed_tokens",
                                              [FM_FINAL_NORM] = "final_layernorm",
                                              [FM_NORM1] = "input_layernorm",
                                              [FM_NORM2] = "pre_ff_layernorm",
                                              [FM_MAMBA_DT_NORM] = "mamba.dt_layernorm",
                                              [FM_MAMBA_B_NORM] = "mamba.b_layernorm",
                                              [FM_MAMBA_C_NORM] = "mamba.c_layernorm",
                                              [FM_ROUTER] = "feed_forward.router"};

extern const fm_family fm_family_jamba;
const fm_family fm_family_jamba = {
    .name = "jamba",
    .architectures = (const char *const[]){"JambaForCausalLM", NULL},
    .model_types = (const char *const[]){"jamba", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .stacked_experts = FM_STACKED_EXPERTS_OF("feed_forward"),
    .fused_experts = FM_FUSED_EXPERTS_OF("feed_forward"),
    .each_expert = (const char *const[]){"feed_forward.experts.%d.gate_proj", "feed_forward.experts.%d.up_proj", "feed_forward.experts.%d.down_proj"},
};
