/* prepare/recipe.c: see recipe.h. Names and forms are those of MLX snapshots: norms plain, the convolution [channels][taps][1], routers of 8 bits. */
#include "prepare/recipe.h"

#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>

#include "families/families.h"
#include "model/model.h"
#include "prepare/shapes.h"

#define NAME_BYTES 300

/* ---- config.json ---- */

static int unknown(const char *name, fm_error *err) {
    char names[300] = "";
    for (const fm_named_shape *s = fm_named_shapes; s->name; s++) {
        size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, "%s%s", n ? ", " : "", s->name);
    }
    return fm_fail(err, FM_EINVAL, "there is no known shape and no file called %.100s; the shapes are %s", name, names);
}

static int read_config(fm_config *config, const char *name, fm_error *err) {
    char path[1100];
    struct stat st;
    for (const fm_named_shape *s = fm_named_shapes; s->name; s++) {
        if (!strcasecmp(s->name, name)) return fm_config_parse(config, s->config, strlen(s->config), s->name, err);
    }
    if (stat(name, &st)) return unknown(name, err);
    if (!S_ISDIR(st.st_mode)) return fm_config_open(config, name, err);
    int rc = fm_path_join(path, sizeof path, name, "config.json", err);
    return rc < 0 ? rc : fm_config_open(config, path, err);
}

/* Fewer layers, or more, than the config has: what it says layer by layer is cut to them. */
static void set_layers(fm_config *config, int n) {
    json_t *types = json_object_get(config->text, "layer_types"), *dense = json_object_get(config->text, "mlp_only_layers");
    json_object_set_new(config->text, "num_hidden_layers", json_integer(n));
    while (json_array_size(types) > (size_t)n) json_array_remove(types, json_array_size(types) - 1);
    for (size_t i = json_array_size(dense); i-- > 0;) {
        if (json_integer_value(json_array_get(dense, i)) >= n) json_array_remove(dense, i);
    }
}

/* What config.json says of quantisation; eight: the entry of matrices with 8 bits is added by add_matrix. */
static int set_quantization(fm_recipe *r, fm_error *err) {
    json_t *q = json_pack("{s:i, s:i, s:s}", "group_size", r->group, "bits", r->bits, "mode", "affine");
    json_object_del(r->config.root, "quantization_config");
    if (q && json_object_set_new(r->config.root, "quantization", q) == 0) return 0;
    return fm_fail(err, FM_ENOMEM, "%s: no memory for it", r->config.path);
}

/* ---- tensors ---- */

static uint64_t seed_of(const fm_recipe *r, const char *name) { return fm_random_seed(r->seed, fm_pack_hash(name, strlen(name))); }

static int add(fm_recipe *r, const char *name, fm_dtype dtype, const uint64_t shape[3], fm_random_values values, fm_error *err) {
    if (r->n_tensors == r->room) {
        int room = r->room ? 2 * r->room : 256;
        fm_recipe_tensor *tensors = realloc(r->tensors, (size_t)room * sizeof *tensors);
        if (!tensors) return fm_fail(err, FM_ENOMEM, "%s: no memory for %d tensors", r->config.path, room);
        r->tensors = tensors;
        r->room = room;
    }
    fm_recipe_tensor *t = &r->tensors[r->n_tensors];
    *t = (fm_recipe_tensor){.tensor = {.name = strdup(name), .dtype = dtype}, .bytes = fm_dtype_bytes(dtype), .values = values};
    if (!t->tensor.name) return fm_fail(err, FM_ENOMEM, "%s: no memory for %d tensors", r->config.path, r->n_tensors);
    r->n_tensors++;
    for (int i = 0; i < 3 && shape[i]; i++) {
        t->tensor.shape[t->tensor.n_dims++] = shape[i];
        t->bytes *= shape[i];
    }
    return 0;
}

static int affine_type(const fm_recipe *r, fm_matrix_type *type, const char *name, const fm_shape *shape, const int format[2], fm_error *err) {
    int bits = format[0], group = format[1], cols = shape->cols;
    if (cols % group) {
        return fm_fail(err, FM_EUNSUPPORTED, "%s: %s has %d columns, which are no whole number of groups of %d", r->config.path, name, cols, group);
    }
    const fm_affine_shape affine = {(uint64_t)shape->rows, (uint64_t)cols * (uint64_t)bits / 32, (uint64_t)(cols / group), FM_BF16, bits, group};
    return fm_matrix_type_affine(type, name, &affine, err);
}

/* base.weight, base.scales and base.biases. */
static int add_matrix(fm_recipe *r, fm_role role, const char *base, const fm_shape *shape, fm_error *err) {
    bool eight = role == FM_ROUTER || role == FM_SHARED_GATE;
    const int format[2] = {eight ? 8 : r->bits, eight ? 64 : r->group};
    float spread = role == FM_EMBED ? 20.0f : role == FM_ROUTER ? 3.0f : 1.0f; /* tokens, and experts, that differ */
    char name[3][NAME_BYTES + 8];
    fm_matrix_type type;
    int rc = affine_type(r, &type, base, shape, format, err);
    if (rc < 0) return rc;
    for (int i = 0; i < 3; i++) snprintf(name[i], sizeof name[i], "%s.%s", base, i == 0 ? "weight" : i == 1 ? "scales" : "biases");
    uint64_t rows = (uint64_t)type.rows, words = (uint64_t)type.cols * (uint64_t)type.bits / 32, groups = (uint64_t)(type.cols / type.group);
    fm_random_values scales = {.kind = FM_RANDOM_SCALES, .seed = seed_of(r, name[1])}, biases;
    fm_random_affine(&scales, type.bits, type.cols, spread);
    biases = scales;
    biases.kind = FM_RANDOM_BIASES;
    if ((rc = add(r, name[0], FM_U32, (uint64_t[]){rows, words, 0}, (fm_random_values){.kind = FM_RANDOM_WORDS, .seed = seed_of(r, name[0])}, err)) < 0)
        return rc;
    if ((rc = add(r, name[1], FM_BF16, (uint64_t[]){rows, groups, 0}, scales, err)) < 0) return rc;
    if ((rc = add(r, name[2], FM_BF16, (uint64_t[]){rows, groups, 0}, biases, err)) < 0 || !eight) return rc;
    json_t *own = json_pack("{s:i, s:i}", "group_size", type.group, "bits", type.bits);
    if (json_object_set_new(json_object_get(r->config.root, "quantization"), base, own) == 0) return 0;
    return fm_fail(err, FM_ENOMEM, "%s: no memory for it", r->config.path);
}

/* A norm, the convolution, or a vector, by its role. */
static int add_vector(fm_recipe *r, fm_role role, const char *base, const fm_shape *shape, fm_error *err) {
    bool conv = shape->kind == FM_KIND_CONV, table = conv || shape->kind == FM_KIND_DECAY, f32 = false;
    const uint64_t cols = (uint64_t)shape->cols, dims[3] = {table ? (uint64_t)shape->rows : cols, table ? cols : 0, conv ? 1 : 0};
    const char *state = json_string_value(fm_config_get(&r->config, "mamba_ssm_dtype"));
    fm_random_values v = {.kind = FM_RANDOM_BF16, .low = 0.8f, .high = 1.2f};
    char name[NAME_BYTES + 8];
    switch (role) {
    case FM_DELTA_CONV:
    case FM_MIX_CONV: v.low = -0.5f, v.high = 0.5f; break;
    case FM_DELTA_A_LOG:
        v.low = -2, v.high = 1;
        f32 = state && !strcmp(state, "float32");
        break;
    case FM_MAMBA_A_LOG: v.low = 0, v.high = 3; break;
    case FM_DELTA_DT_BIAS: v.low = -1, v.high = 1; break;
    case FM_MAMBA_DT_BIAS: v.low = -4, v.high = -1; break;
    case FM_MIX_IN_BIAS:
    case FM_MIX_CONV_BIAS:
    case FM_MIX_OUT_BIAS:
    case FM_Q_BIAS:
    case FM_K_BIAS:
    case FM_V_BIAS:
    case FM_O_BIAS: v.low = -0.1f, v.high = 0.1f; break;
    default: break; /* norms */
    }
    if (f32) v.kind = FM_RANDOM_F32;
    snprintf(name, sizeof name, fm_kind_has_suffix(shape->kind) ? "%s.weight" : "%s", base);
    v.seed = seed_of(r, name);
    return add(r, name, f32 ? FM_F32 : FM_BF16, dims, v, err);
}

static bool has(const char *const *list, const char *s) {
    for (; list && *list; list++) {
        if (!strcmp(*list, s)) return true;
    }
    return false;
}

/* The names that MLX gives: a text model inside another has `language_model.` before all of them. */
static const char *before_names(const fm_recipe *r) {
    return r->config.text != r->config.root && has(r->family->prefixes, "language_model.model.") ? "language_model." : "";
}

/* The delta rule's projections, two that hold the rows of four. */
static int add_grouped(fm_recipe *r, const char *prefix, fm_error *err) {
    const fm_description *d = &r->description;
    const fm_shape qkvz = {FM_KIND_MATRIX, fm_conv_channels(d) + d->n_value_heads * d->value_dim, d->hidden},
                   ba = {FM_KIND_MATRIX, 2 * d->n_value_heads, d->hidden};
    char base[NAME_BYTES];
    snprintf(base, sizeof base, "%s%s", prefix, r->family->grouped_qkvz);
    int rc = add_matrix(r, FM_DELTA_QKV, base, &qkvz, err);
    if (rc < 0) return rc;
    snprintf(base, sizeof base, "%s%s", prefix, r->family->grouped_ba);
    return add_matrix(r, FM_DELTA_B, base, &ba, err);
}

static int add_layer(fm_recipe *r, int layer, fm_error *err) {
    const fm_description *d = &r->description;
    const char *before = before_names(r);
    char prefix[80], base[NAME_BYTES];
    int rc = 0;
    if (layer < 0) snprintf(prefix, sizeof prefix, "%smodel.", before);
    if (layer >= 0) snprintf(prefix, sizeof prefix, "%smodel.layers.%d.", before, layer);
    for (int role = 0; role < FM_N_ROLES && rc == 0; role++) {
        fm_shape shape;
        if (!fm_role_shape(d, layer, (fm_role)role, &shape)) continue;
        if (d->grouped_projection && role >= FM_DELTA_QKV && role <= FM_DELTA_A) {
            if (role == FM_DELTA_QKV) rc = add_grouped(r, prefix, err);
            continue;
        }
        if (role == FM_HEAD)
            snprintf(base, sizeof base, "%slm_head", before);
        else
            snprintf(base, sizeof base, "%s%s", prefix, r->family->names[role]);
        rc = shape.kind == FM_KIND_MATRIX ? add_matrix(r, (fm_role)role, base, &shape, err) : add_vector(r, (fm_role)role, base, &shape, err);
    }
    return rc;
}

static int find_experts(fm_recipe *r, fm_error *err) {
    const fm_description *d = &r->description;
    const int format[2] = {r->bits, r->group};
    for (int i = 0; i < 3; i++) {
        const fm_shape shape = {FM_KIND_MATRIX, i == FM_DOWN ? d->hidden : d->expert_width, i == FM_DOWN ? d->expert_width : d->hidden};
        int rc = affine_type(r, &r->expert[i], r->family->stacked_experts[i], &shape, format, err);
        if (rc < 0) return rc;
    }
    for (int i = 0; i < 3 && d->expert_bias; i++) r->expert[3 + i] = (fm_matrix_type){.format = FM_FORMAT_BF16, .rows = r->expert[i].rows, .cols = 1};
    for (int i = 0; i < d->n_layers; i++) r->n_moe_layers += d->layers[i].moe;
    if (r->n_moe_layers == 0) return fm_fail(err, FM_EUNSUPPORTED, "%s: none of the %d layers has experts", r->config.path, d->n_layers);
    uint64_t bytes = fm_pack_expert_bytes(r->expert, NULL);
    if (bytes <= UINT32_MAX) return 0;
    return fm_fail(err, FM_EUNSUPPORTED, "%s: an expert of %llu bytes is more than the 4 GiB that one can have", r->config.path, (unsigned long long)bytes);
}

int fm_recipe_open(fm_recipe *r, const char *config, const fm_synth_options *options, fm_error *err) {
    *r = (fm_recipe){.bits = options->bits, .group = options->group, .seed = options->seed};
    int rc = read_config(&r->config, config, err);
    if (rc < 0) return rc;
    if (options->n_layers) set_layers(&r->config, options->n_layers);
    if ((rc = fm_model_find_family(&r->family, &r->description, &r->config, fm_families, err)) < 0) goto fail;
    if ((rc = r->family->describe(&r->description, &r->config, err)) < 0 || (rc = set_quantization(r, err)) < 0) goto fail;
    for (int layer = -1; layer < r->description.n_layers; layer++) {
        if ((rc = add_layer(r, layer, err)) < 0) goto fail;
    }
    if ((rc = find_experts(r, err)) == 0) return 0;
fail:
    fm_recipe_close(r);
    return rc;
}

void fm_recipe_close(fm_recipe *r) {
    for (int i = 0; i < r->n_tensors; i++) free((char *)r->tensors[i].tensor.name);
    free(r->tensors);
    fm_config_close(&r->config);
    *r = (fm_recipe){0};
}
