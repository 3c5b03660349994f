/* families/glm4_moe_lite.c: GLM-4.7-Flash: the body of DeepSeek-V3, under keys of its own for which layers are dense. Mathematics: transformers'
 * modeling_glm4_moe_lite.py. */
#include <string.h>

#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

/* mlp_layer_types, else first_k_dense_replace. */
static int find_dense(fm_description *d, const fm_config *config, fm_error *err) {
    const json_t *types = fm_config_get(config, "mlp_layer_types");
    int rc = fm_keys_first_dense(d, config, 1, err);
    if (rc < 0 || !types) return rc;
    if (json_array_size(types) != (size_t)d->n_layers)
        return fm_fail(err, FM_EFORMAT, "%s: mlp_layer_types has %zu entries, but there are %d layers", config->path, json_array_size(types), d->n_layers);
    for (int i = 0; i < d->n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        bool dense = type && !strcmp(type, "dense");
        if (!dense && !(type && !strcmp(type, "sparse")))
            return fm_fail(err, FM_EUNSUPPORTED, "%s: mlp_layer_types[%d] is %s, which is not supported", config->path, i, type ? type : "no string");
        d->layers[i].moe = !dense;
    }
    return fm_keys_dense_width(d, config, err);
}

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    static const fm_moe_keys moe = {"n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts"};
    int rc;
    if ((rc = fm_keys_body(d, config, 1e-5, err)) < 0) return rc;
    if ((rc = fm_keys_latent(d, config, 1e4, err)) < 0) return rc;
    if ((rc = fm_keys_moe(d, config, &moe, err)) < 0) return rc;
    if ((rc = find_dense(d, config, err)) < 0 || (rc = fm_keys_expect(config, "moe_layer_freq", 1, err)) < 0) return rc;
    return fm_keys_sigmoid_router(d, config, err);
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_BODY, FM_NAMES_LATENT, FM_NAMES_MLP,
                                              FM_NAMES_SHARED_PLAIN("mlp.shared_experts"), [FM_CHOICE_BIAS] = "mlp.gate.e_score_correction_bias"};

extern const fm_family fm_family_glm4_moe_lite;
const fm_family fm_family_glm4_moe_lite = {
    .name = "glm4_moe_lite",
    .architectures = (const char *const[]){"Glm4MoeLiteForCausalLM", NULL},
    .model_types = (const char *const[]){"glm4_moe_lite", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .latent_kv = "self_attn.kv_b_proj",
    .stacked_experts = FM_STACKED_EXPERTS,
    .fused_experts = FM_FUSED_EXPERTS,
    .each_expert = FM_EACH_EXPERT,
};
