/* families/ernie4_5_moe.c: ERNIE 4.5 (21B-A3B, 300B-A47B, text): rope on adjacent pairs, a bias in the choice of softmax scores, shared experts without a gate.
 * Mathematics: transformers' modeling_ernie4_5_moe.py. mlx-lm's conversions lack the bias, without which the model chooses other experts: they are refused. */
#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

/* Layers [start, end] have experts, of these every interval-th. */
static int read_layers(fm_description *d, const fm_config *config, fm_error *err) {
    int start, end, interval, rc;
    if ((rc = fm_keys_same(config, "moe_layer_start_index", 1, 0, FM_MAX_LAYERS, &start, err)) < 0) return rc;
    if ((rc = fm_keys_same(config, "moe_layer_end_index", -1, -1, FM_MAX_LAYERS, &end, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "moe_layer_interval", 1, 1, FM_MAX_LAYERS, &interval, err)) < 0) return rc;
    for (int i = 0; i < d->n_layers; i++) d->layers[i].moe = (i + 1) % interval == 0 && i >= start && (end < 0 || i <= end);
    return fm_keys_dense_width(d, config, err);
}

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    static const fm_moe_keys moe = {"moe_num_experts", "moe_k", "moe_intermediate_size", "moe_num_shared_experts"};
    int rc;
    if ((rc = fm_keys_body(d, config, 1e-5, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "tie_word_embeddings", true, &d->tied_head, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 0, err)) < 0) return rc;
    if ((rc = fm_keys_rope(d, config, 5e5, 1, err)) < 0) return rc;
    if ((rc = fm_keys_moe(d, config, &moe, err)) < 0 || (rc = read_layers(d, config, err)) < 0) return rc;
    if ((rc = fm_keys_float(config, "moe_norm_min", 1e-12, &d->router.least, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "moe_use_aux_free", true, &d->router.bias, err)) < 0) return rc;
    if ((rc = fm_config_expect_bool(config, "use_bias", false, err)) < 0) return rc;
    d->router.renormalise = d->rope_adjacent = true;
    return fm_config_expect_string(config, "moe_gate_act", "softmax", err);
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_BODY, FM_NAMES_ATTENTION, FM_NAMES_MLP,
                                              FM_NAMES_SHARED_PLAIN("mlp.shared_experts"), [FM_CHOICE_BIAS] = "mlp.moe_statics.e_score_correction_bias"};

extern const fm_family fm_family_ernie4_5_moe;
const fm_family fm_family_ernie4_5_moe = {
    .name = "ernie4_5_moe",
    .architectures = (const char *const[]){"Ernie4_5_MoeForCausalLM", "Ernie4_5_MoEForCausalLM", NULL},
    .model_types = (const char *const[]){"ernie4_5_moe", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .stacked_experts = FM_STACKED_EXPERTS,
    .fused_experts = FM_FUSED_EXPERTS,
    .each_expert = FM_EACH_EXPERT,
    .left_out = (const char *const[]){"mtp_", "mtp", NULL},
};
