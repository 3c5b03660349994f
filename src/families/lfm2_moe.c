/* families/lfm2_moe.c: LFM2 MoE (8B-A1B): short convolutions between attention layers, sigmoid router with a bias in the choice. Mathematics: transformers'
 * modeling_lfm2_moe.py. */
#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

/* full_attn_idxs, in older configs, instead of layer_types. */
static int mixers(fm_description *d, const fm_config *config, fm_error *err) {
    const json_t *list = fm_config_get(config, "full_attn_idxs");
    if (fm_config_get(config, "layer_types") || !list) return fm_keys_layer_types(d, config, "conv", FM_MIXER_CONV, err);
    for (int i = 0; i < d->n_layers; i++) d->layers[i].mixer = FM_MIXER_CONV;
    for (size_t j = 0; j < json_array_size(list); j++) {
        json_int_t i = json_integer_value(json_array_get(list, j));
        if (i < 0 || i >= d->n_layers) return fm_fail(err, FM_EFORMAT, "%s: full_attn_idxs names layer %d of %d", config->path, (int)i, d->n_layers);
        d->layers[i].mixer = FM_MIXER_ATTENTION;
    }
    return 0;
}

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    static const fm_moe_keys moe = {.n_experts = "num_experts", .top_k = "num_experts_per_tok", .width = "moe_intermediate_size"};
    int rc, n_dense;
    if ((rc = fm_keys_body(d, config, 1e-5, err)) < 0) return rc;
    if ((rc = fm_keys_epsilon(d, config, "norm_eps", 1e-5, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 0, err)) < 0) return rc;
    if ((rc = fm_keys_rope(d, config, 1e6, 1, err)) < 0) return rc;
    if ((rc = fm_keys_moe(d, config, &moe, err)) < 0) return rc;
    if ((rc = mixers(d, config, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "conv_L_cache", 3, 2, 16, &d->conv_taps, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "conv_bias", false, &d->conv_bias, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "num_dense_layers", 2, 0, d->n_layers, &n_dense, err)) < 0) return rc;
    for (int i = 0; i < n_dense; i++) d->layers[i].moe = false;
    if ((rc = fm_keys_dense_width(d, config, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "use_expert_bias", true, &d->router.bias, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "norm_topk_prob", true, &d->router.renormalise, err)) < 0) return rc;
    if ((rc = fm_keys_float(config, "routed_scaling_factor", 1, &d->router.scale, err)) < 0) return rc;
    bool tied = fm_config_get(config, "tie_embedding") || !fm_config_get(config, "tie_word_embeddings");
    if (tied && (rc = fm_config_bool(config, "tie_embedding", true, &d->tied_head, err)) < 0) return rc;
    d->mixer_bias = d->conv_bias;
    d->qk_norm = FM_QK_NORM_HEAD;
    d->router.score = FM_SCORE_SIGMOID;
    d->router.add = 1e-6f;
    return fm_config_expect_bool(config, "attention_bias", false, err);
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_SHORT_CONV,
                                              FM_NAMES_DENSE_OF("feed_forward"),
                                              [FM_EMBED] = "embed_tokens",
                                              [FM_FINAL_NORM] = "embedding_norm",
                                              [FM_NORM1] = "operator_norm",
                                              [FM_NORM2] = "ffn_norm",
                                              [FM_Q] = "self_attn.q_proj",
                                              [FM_K] = "self_attn.k_proj",
                                              [FM_V] = "self_attn.v_proj",
                                              [FM_O] = "self_attn.out_proj",
                                              [FM_Q_NORM] = "self_attn.q_layernorm",
                                              [FM_K_NORM] = "self_attn.k_layernorm",
                                              [FM_ROUTER] = "feed_forward.gate",
                                              [FM_CHOICE_BIAS] = "feed_forward.expert_bias"};
/* Of raw checkpoints. */
static const char *const letters[FM_N_ROLES] = {
    [FM_DENSE_GATE_PROJ] = "feed_forward.w1", [FM_DENSE_UP_PROJ] = "feed_forward.w3", [FM_DENSE_DOWN_PROJ] = "feed_forward.w2"};

extern const fm_family fm_family_lfm2_moe;
const fm_family fm_family_lfm2_moe = {
    .name = "lfm2_moe",
    .architectures = (const char *const[]){"Lfm2MoeForCausalLM", NULL},
    .model_types = (const char *const[]){"lfm2_moe", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .other_names = letters,
    .stacked_experts = FM_STACKED_EXPERTS_OF("feed_forward"),
    .fused_experts = FM_FUSED_EXPERTS_OF("feed_forward"),
    .each_expert = (const char *const[]){"feed_forward.experts.%d.w1", "feed_forward.experts.%d.w3", "feed_forward.experts.%d.w2"},
};
