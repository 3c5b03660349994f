/* families/keys.c: see keys.h. */
#include "families/keys.h"

#include <math.h>
#include <string.h>

#define MAX_SIZE (1 << 24) /* of any one dimension: far above what exists, far below where products overflow */

int fm_keys_epsilon(fm_description *d, const fm_config *config, const char *key, double fallback, fm_error *err) {
    double eps;
    int rc = fm_config_double(config, key, fallback, &eps, err);
    if (rc < 0) return rc;
    d->norm_eps = (float)eps;
    return eps > 0 && eps < 1 ? 0 : fm_fail(err, FM_EFORMAT, "%s: %s is %g, not between 0 and 1", config->path, key, eps);
}

int fm_keys_body(fm_description *d, const fm_config *config, double default_eps, fm_error *err) {
    bool tied;
    int rc;
    if ((rc = fm_config_int(config, "vocab_size", FM_REQUIRED, 1, MAX_SIZE, &d->vocab, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "hidden_size", FM_REQUIRED, 1, MAX_SIZE, &d->hidden, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "num_hidden_layers", FM_REQUIRED, 1, FM_MAX_LAYERS, &d->n_layers, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "max_position_embeddings", 32768, 1, INT32_MAX, &d->max_position, err)) < 0) return rc;
    if ((rc = fm_keys_epsilon(d, config, "rms_norm_eps", default_eps, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "tie_word_embeddings", false, &tied, err)) < 0) return rc;
    d->tied_head = tied;
    return fm_config_expect_string(config, "hidden_act", "silu", err);
}

int fm_keys_attention(fm_description *d, const fm_config *config, int default_head_dim, fm_error *err) {
    int rc;
    if ((rc = fm_config_int(config, "num_attention_heads", FM_REQUIRED, 1, 4096, &d->n_heads, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "num_key_value_heads", d->n_heads, 1, 4096, &d->n_kv_heads, err)) < 0) return rc;
    if (!default_head_dim) default_head_dim = d->hidden / d->n_heads;
    if ((rc = fm_config_int(config, "head_dim", default_head_dim, 1, FM_MAX_HEAD_DIM, &d->head_dim, err)) < 0) return rc;
    if (d->head_dim < 1 || d->head_dim > FM_MAX_HEAD_DIM) {
        return fm_fail(err, FM_EFORMAT, "%s: hidden_size %d and num_attention_heads %d give heads of %d, not from 1 to %d", config->path, d->hidden, d->n_heads,
                       d->head_dim, FM_MAX_HEAD_DIM);
    }
    if ((rc = fm_config_bool(config, "attention_bias", false, &d->qkv_bias, err)) < 0) return rc;
    if (d->n_heads % d->n_kv_heads) {
        return fm_fail(err, FM_EFORMAT, "%s: num_attention_heads %d is not a multiple of num_key_value_heads %d", config->path, d->n_heads, d->n_kv_heads);
    }
    d->o_bias = d->qkv_bias;
    d->attention_scale = 1 / sqrtf((float)d->head_dim);
    return 0;
}

int fm_keys_window(const fm_config *config, const char *use, int *window, fm_error *err) {
    bool used = true;
    int rc = use ? fm_config_bool(config, use, false, &used, err) : 0;
    *window = 0;
    return rc < 0 || !used ? rc : fm_config_int(config, "sliding_window", 0, 0, INT32_MAX, window, err);
}

int fm_keys_windows(fm_description *d, const fm_config *config, int window, fm_error *err) {
    const json_t *types = fm_config_get(config, "layer_types");
    if (types && json_array_size(types) != (size_t)d->n_layers) {
        return fm_fail(err, FM_EFORMAT, "%s: layer_types has %zu entries, but there are %d layers", config->path, json_array_size(types), d->n_layers);
    }
    for (int i = 0; types && i < d->n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        bool slides = type && !strcmp(type, "sliding_attention");
        if (!slides && !(type && !strcmp(type, "full_attention"))) {
            return fm_fail(err, FM_EUNSUPPORTED, "%s: layer_types[%d] is %s, which is not supported", config->path, i, type ? type : "no string");
        }
        if (slides && !window) return fm_fail(err, FM_EFORMAT, "%s: layer_types[%d] is sliding_attention, but sliding_window is not set", config->path, i);
        d->layers[i].window = slides ? window : 0;
    }
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

int fm_keys_layer_types(fm_description *d, const fm_config *config, const char *other, fm_mixer mixer, fm_error *err) {
    const json_t *types = fm_config_get(config, "layer_types");
    if (!types) return fm_fail(err, FM_EFORMAT, "%s: the key layer_types is missing", config->path);
    if (json_array_size(types) != (size_t)d->n_layers) {
        return fm_fail(err, FM_EFORMAT, "%s: layer_types has %zu entries, but there are %d layers", config->path, json_array_size(types), d->n_layers);
    }
    for (int i = 0; i < d->n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        bool recurrent = type && !strcmp(type, other);
        if (!recurrent && !(type && !strcmp(type, "full_attention"))) {
            return fm_fail(err, FM_EUNSUPPORTED, "%s: layer_types[%d] is %s, which is not supported", config->path, i, type ? type : "no string");
        }
        d->layers[i].mixer = recurrent ? mixer : FM_MIXER_ATTENTION;
    }
    return 0;
}

int fm_keys_mixers(fm_description *d, const fm_config *config, fm_error *err) {
    int interval, rc = fm_config_int(config, "full_attention_interval", 4, 1, FM_MAX_LAYERS, &interval, err);
    if (rc < 0 || fm_config_get(config, "layer_types")) return rc < 0 ? rc : fm_keys_layer_types(d, config, "linear_attention", FM_MIXER_DELTANET, err);
    for (int i = 0; i < d->n_layers; i++) d->layers[i].mixer = (i + 1) % interval ? FM_MIXER_DELTANET : FM_MIXER_ATTENTION;
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

int fm_keys_moe(fm_description *d, const fm_config *config, const fm_moe_keys *keys, fm_error *err) {
    int rc, n_shared = 0;
    if ((rc = fm_keys_same(config, keys->n_experts, FM_REQUIRED, 1, 65536, &d->n_experts, err)) < 0) return rc;
    if ((rc = fm_keys_same(config, keys->top_k, FM_REQUIRED, 1, d->n_experts, &d->top_k, err)) < 0) return rc;
    if ((rc = fm_keys_same(config, keys->width, FM_REQUIRED, 1, MAX_SIZE, &d->expert_width, err)) < 0) return rc;
    if (keys->n_shared && (rc = fm_keys_same(config, keys->n_shared, 0, 0, 256, &n_shared, err)) < 0) return rc;
    for (int i = 0; i < d->n_layers; i++) d->layers[i].moe = true;
    return fm_keys_shared(d, config, n_shared, d->expert_width, err);
}

int fm_keys_float(const fm_config *config, const char *key, double fallback, float *out, fm_error *err) {
    double x;
    int rc = fm_config_double(config, key, fallback, &x, err);
    if (rc >= 0 && !(x >= 0 && x <= 1e9)) return fm_fail(err, FM_EFORMAT, "%s: %s is %g, not from 0 to a billion", config->path, key, x);
    *out = (float)x;
    return rc;
}

int fm_keys_shared(fm_description *d, const fm_config *config, int n, int width, fm_error *err) {
    if (n && width > MAX_SIZE / n) return fm_fail(err, FM_EFORMAT, "%s: %d shared experts of width %d are too wide", config->path, n, width);
    d->shared_width = n * width;
    return 0;
}

int fm_keys_same(const fm_config *config, const char *key, int fallback, int low, int high, int *out, fm_error *err) {
    const json_t *v = fm_config_get(config, key);
    if (!json_is_array(v)) return fm_config_int(config, key, fallback, low, high, out, err);
    const json_t *first = json_array_get(v, 0);
    for (size_t i = 0; i < json_array_size(v); i++) {
        if (json_is_integer(first) && json_equal(json_array_get(v, i), first)) continue;
        return fm_fail(err, FM_EUNSUPPORTED, "%s: the numbers of %s are not the same for all layers, which is not supported", config->path, key);
    }
    json_int_t x = json_integer_value(first);
    if (!first || x < low || x > high) return fm_fail(err, FM_EFORMAT, "%s: %s is not a list of whole numbers from %d to %d", config->path, key, low, high);
    *out = (int)x;
    return 0;
}

int fm_keys_expect(const fm_config *config, const char *key, int wanted, fm_error *err) {
    int x, rc = fm_keys_same(config, key, wanted, INT32_MIN + 1, INT32_MAX, &x, err);
    return rc < 0 || x == wanted ? rc : fm_fail(err, FM_EUNSUPPORTED, "%s: %s is %d, which is not supported (only %d is)", config->path, key, x, wanted);
}

int fm_keys_expect_false(const fm_config *config, const char *const *keys, fm_error *err) {
    int rc = 0;
    while (*keys && rc >= 0) rc = fm_config_expect_bool(config, *keys++, false, err);
    return rc;
}

int fm_keys_first_dense(fm_description *d, const fm_config *config, int fallback, fm_error *err) {
    int first, rc;
    if ((rc = fm_config_int(config, "first_k_dense_replace", fallback, 0, d->n_layers, &first, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "num_nextn_predict_layers", 0, 0, 64, &d->n_more_layers, err)) < 0) return rc;
    for (int i = 0; i < first; i++) d->layers[i].moe = false;
    return fm_keys_dense_width(d, config, err);
}

int fm_keys_dense_width(fm_description *d, const fm_config *config, fm_error *err) {
    for (int i = 0; i < d->n_layers; i++) {
        if (!d->layers[i].moe) return fm_config_int(config, "intermediate_size", FM_REQUIRED, 1, MAX_SIZE, &d->dense_width, err);
    }
    return 0;
}

int fm_keys_groups(fm_description *d, const fm_config *config, fm_error *err) {
    fm_router *r = &d->router;
    int rc;
    if ((rc = fm_config_int(config, "n_group", 1, 1, FM_MAX_GROUPS, &r->n_groups, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "topk_group", r->n_groups, 1, FM_MAX_GROUPS, &r->n_chosen, err)) < 0) return rc;
    if ((rc = fm_keys_float(config, "routed_scaling_factor", 1, &r->scale, err)) < 0) return rc;
    if (r->n_groups == 1) r->n_chosen = 1;
    int size = d->n_experts / r->n_groups;
    if (d->n_experts % r->n_groups || r->n_chosen > r->n_groups || (r->n_groups > 1 && size < 2) || r->n_chosen * size < d->top_k) {
        return fm_fail(err, FM_EFORMAT, "%s: %d experts in n_group %d, of which topk_group is %d, do not give %d experts a token", config->path, d->n_experts,
                       r->n_groups, r->n_chosen, d->top_k);
    }
    r->best_of = 2;
    return r->scale > 0 ? 0 : fm_fail(err, FM_EFORMAT, "%s: routed_scaling_factor is 0", config->path);
}

int fm_keys_sigmoid_router(fm_description *d, const fm_config *config, fm_error *err) {
    int rc;
    if ((rc = fm_keys_groups(d, config, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "norm_topk_prob", true, &d->router.renormalise, err)) < 0) return rc;
    if ((rc = fm_config_expect_string(config, "scoring_func", "sigmoid", err)) < 0) return rc;
    d->router.score = FM_SCORE_SIGMOID;
    d->router.bias = true;
    d->router.add = 1e-20f;
    return fm_config_expect_string(config, "topk_method", "noaux_tc", err);
}

int fm_keys_sparse_layers(fm_description *d, const fm_config *config, fm_error *err) {
    int step, rc;
    if ((rc = fm_config_int(config, "decoder_sparse_step", 1, 1, FM_MAX_LAYERS, &step, err)) < 0) return rc;
    for (int i = 0; i < d->n_layers; i++) d->layers[i].moe = (i + 1) % step == 0;
    const json_t *only = fm_config_get(config, "mlp_only_layers");
    for (size_t j = 0; j < json_array_size(only); j++) {
        json_int_t i = json_integer_value(json_array_get(only, j));
        if (i < 0 || i >= d->n_layers) return fm_fail(err, FM_EFORMAT, "%s: mlp_only_layers names layer %d of %d", config->path, (int)i, d->n_layers);
        d->layers[i].moe = false;
    }
    return fm_keys_dense_width(d, config, err);
}
