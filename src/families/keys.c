/* families/keys.c: see keys.h. */
#include "families/keys.h"

#include <math.h>
#include <string.h>

#define MAX_SIZE (1 << 24) /* of any one dimension: far above what exists, far below where products overflow */

int fm_keys_body(fm_description *d, const fm_config *config, fm_error *err) {
    double eps;
    bool tied;
    int rc;
    if ((rc = fm_config_int(config, "vocab_size", FM_REQUIRED, 1, MAX_SIZE, &d->vocab, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "hidden_size", FM_REQUIRED, 1, MAX_SIZE, &d->hidden, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "num_hidden_layers", FM_REQUIRED, 1, FM_MAX_LAYERS, &d->n_layers, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "max_position_embeddings", 32768, 1, INT32_MAX, &d->max_position, err)) < 0) return rc;
    if ((rc = fm_config_double(config, "rms_norm_eps", 1e-6, &eps, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "tie_word_embeddings", false, &tied, err)) < 0) return rc;
    if (!(eps > 0 && eps < 1)) return fm_fail(err, FM_EFORMAT, "%s: rms_norm_eps is %g, not between 0 and 1", config->path, eps);
    d->norm_eps = (float)eps;
    d->tied_head = tied;
    return fm_config_expect_string(config, "hidden_act", "silu", err);
}

int fm_keys_attention(fm_description *d, const fm_config *config, int default_head_dim, fm_error *err) {
    int rc;
    if ((rc = fm_config_int(config, "num_attention_heads", FM_REQUIRED, 1, 4096, &d->n_heads, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "num_key_value_heads", d->n_heads, 1, 4096, &d->n_kv_heads, err)) < 0) return rc;
    if (!default_head_dim) default_head_dim = d->hidden / d->n_heads;
    if ((rc = fm_config_int(config, "head_dim", default_head_dim, 1, FM_MAX_HEAD_DIM, &d->head_dim, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "attention_bias", false, &d->attention_bias, err)) < 0) return rc;
    if (d->n_heads % d->n_kv_heads) {
        return fm_fail(err, FM_EFORMAT, "%s: num_attention_heads %d is not a multiple of num_key_value_heads %d", config->path, d->n_heads, d->n_kv_heads);
    }
    return fm_config_expect_bool(config, "use_sliding_window", false, err);
}

/* A number in the object `in` or, failing that, at the top. */
static int rope_number(const fm_config *config, const json_t *in, const char *key, double fallback, double *out, fm_error *err) {
    const json_t *v = json_object_get(in, key);
    if (json_is_number(v)) {
        *out = json_number_value(v);
        return 0;
    }
    return fm_config_double(config, key, fallback, out, err);
}

int fm_keys_rope(fm_description *d, const fm_config *config, double default_theta, double default_fraction, fm_error *err) {
    const char *name = "rope_parameters";
    const json_t *rope = fm_config_get(config, name);
    if (!rope) rope = fm_config_get(config, name = "rope_scaling");
    const json_t *type = json_object_get(rope, "rope_type");
    if (!type) type = json_object_get(rope, "type");
    if (json_is_string(type) && strcmp(json_string_value(type), "default") && strcmp(json_string_value(type), "mrope")) {
        return fm_fail(err, FM_EUNSUPPORTED, "%s: %s asks for rope type %s, which is not supported", config->path, name, json_string_value(type));
    }
    if (!type && json_object_get(rope, "factor")) return fm_fail(err, FM_EUNSUPPORTED, "%s: %s has a factor without a type", config->path, name);
    double theta, fraction;
    int rc;
    if ((rc = rope_number(config, rope, "rope_theta", default_theta, &theta, err)) < 0) return rc;
    if ((rc = rope_number(config, rope, "partial_rotary_factor", default_fraction, &fraction, err)) < 0) return rc;
    if (!(theta > 1 && theta < 1e12)) return fm_fail(err, FM_EFORMAT, "%s: rope_theta is %g", config->path, theta);
    if (!(fraction > 0 && fraction <= 1)) return fm_fail(err, FM_EFORMAT, "%s: partial_rotary_factor is %g", config->path, fraction);
    d->rope_theta = theta;
    d->rotary_dim = (int)(d->head_dim * fraction);
    if (d->rotary_dim % 2 || !d->rotary_dim) return fm_fail(err, FM_EFORMAT, "%s: %d rotary dimensions, not an even number", config->path, d->rotary_dim);
    return 0;
}

int fm_keys_delta(fm_description *d, const fm_config *config, fm_error *err) {
    int rc;
    if ((rc = fm_config_int(config, "linear_num_key_heads", 16, 1, 4096, &d->n_key_heads, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "linear_num_value_heads", 32, 1, 4096, &d->n_value_heads, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "linear_key_head_dim", 128, 1, FM_MAX_HEAD_DIM, &d->key_dim, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "linear_value_head_dim", 128, 1, FM_MAX_HEAD_DIM, &d->value_dim, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "linear_conv_kernel_dim", 4, 2, 16, &d->conv_taps, err)) < 0) return rc;
    if (d->n_value_heads % d->n_key_heads == 0) return 0;
    return fm_fail(err, FM_EFORMAT, "%s: linear_num_value_heads %d is not a multiple of linear_num_key_heads %d", config->path, d->n_value_heads,
                   d->n_key_heads);
}

int fm_keys_mixers(fm_description *d, const fm_config *config, fm_error *err) {
    const json_t *types = fm_config_get(config, "layer_types");
    int interval, rc = fm_config_int(config, "full_attention_interval", 4, 1, FM_MAX_LAYERS, &interval, err);
    if (rc < 0) return rc;
    if (types && json_array_size(types) != (size_t)d->n_layers) {
        return fm_fail(err, FM_EFORMAT, "%s: layer_types has %zu entries, but there are %d layers", config->path, json_array_size(types), d->n_layers);
    }
    for (int i = 0; i < d->n_layers; i++) {
        const char *type = types ? json_string_value(json_array_get(types, (size_t)i)) : (i + 1) % interval ? "linear_attention" : "full_attention";
        bool linear = type && !strcmp(type, "linear_attention");
        if (!linear && !(type && !strcmp(type, "full_attention"))) {
            return fm_fail(err, FM_EUNSUPPORTED, "%s: layer_types[%d] is %s, which is not supported", config->path, i, type ? type : "no string");
        }
        d->layers[i].mixer = linear ? FM_MIXER_DELTANET : FM_MIXER_ATTENTION;
    }
    return 0;
}

int fm_keys_experts(fm_description *d, const fm_config *config, bool shared, fm_error *err) {
    int rc;
    if ((rc = fm_config_int(config, "num_experts", FM_REQUIRED, 1, 65536, &d->n_experts, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "num_experts_per_tok", FM_REQUIRED, 1, d->n_experts, &d->top_k, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "moe_intermediate_size", FM_REQUIRED, 1, MAX_SIZE, &d->expert_width, err)) < 0) return rc;
    if (shared && (rc = fm_config_int(config, "shared_expert_intermediate_size", FM_REQUIRED, 0, MAX_SIZE, &d->shared_width, err)) < 0) return rc;
    for (int i = 0; i < d->n_layers; i++) d->layers[i].moe = true;
    return 0;
}

int fm_keys_sparse_layers(fm_description *d, const fm_config *config, fm_error *err) {
    int step, rc, n_dense = 0;
    if ((rc = fm_config_int(config, "decoder_sparse_step", 1, 1, FM_MAX_LAYERS, &step, err)) < 0) return rc;
    for (int i = 0; i < d->n_layers; i++) d->layers[i].moe = (i + 1) % step == 0;
    const json_t *only = fm_config_get(config, "mlp_only_layers");
    for (size_t j = 0; j < json_array_size(only); j++) {
        json_int_t i = json_integer_value(json_array_get(only, j));
        if (i < 0 || i >= d->n_layers) return fm_fail(err, FM_EFORMAT, "%s: mlp_only_layers names layer %d of %d", config->path, (int)i, d->n_layers);
        d->layers[i].moe = false;
    }
    for (int i = 0; i < d->n_layers; i++) n_dense += !d->layers[i].moe;
    return n_dense ? fm_config_int(config, "intermediate_size", FM_REQUIRED, 1, MAX_SIZE, &d->dense_width, err) : 0;
}
