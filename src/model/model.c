/* model/model.c: opening a checkpoint: the family, the description, and the dense part's tensors. Experts are in experts.c. */
#include "model/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/packed_experts.h"
#include "formats/safetensors.h"
#include "model/resolve.h"

static bool in_list(const char *const *list, const char *s) {
    for (; *list; list++) {
        if (!strcmp(*list, s)) return true;
    }
    return false;
}

int fm_model_find_family(const fm_family **family, fm_description *d, const fm_config *config, const fm_family *const *families, fm_error *err) {
    const json_t *first = json_array_get(json_object_get(config->root, "architectures"), 0);
    const json_t *type = json_object_get(config->root, "model_type");
    if (!type) type = fm_config_get(config, "model_type");
    snprintf(d->architecture, sizeof d->architecture, "%s", json_is_string(first) ? json_string_value(first) : "");
    snprintf(d->model_type, sizeof d->model_type, "%s", json_is_string(type) ? json_string_value(type) : "");
    for (; *families; families++) {
        /* Some converters leave the architecture out; a wrong one is another model. */
        bool architecture = !*d->architecture || in_list((*families)->architectures, d->architecture);
        if (!architecture || !in_list((*families)->model_types, d->model_type)) continue;
        *family = *families;
        return 0;
    }
    return fm_fail(err, FM_EUNSUPPORTED, "%s: architecture \"%s\" with model_type \"%s\" is not supported", config->path, d->architecture, d->model_type);
}

static int read_eos(fm_model *model, const json_t *value, const char *path, fm_error *err) {
    size_t n = json_is_array(value) ? json_array_size(value) : value ? 1 : 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX) {
            return fm_fail(err, FM_EFORMAT, "%s: eos_token_id is neither a token id nor a list of them", path);
        }
        if (model->n_eos == (int)(sizeof model->eos / sizeof *model->eos)) return fm_fail(err, FM_EUNSUPPORTED, "%s: %zu eos_token_ids are too many", path, n);
        model->eos[model->n_eos++] = (int32_t)json_integer_value(id);
    }
    return 0;
}

bool fm_model_find_file(char *out, size_t size, const char *directory, const char *config_from, const char *name) {
    if (fm_path_join(out, size, directory, name, NULL) == 0 && fm_path_exists(out)) return true;
    return config_from && fm_path_join(out, size, config_from, name, NULL) == 0 && fm_path_exists(out);
}

/* What a checkpoint that is published quantised says of it: fp8 in blocks, with activations that are rounded as they come (here they are not). */
static int check_quantization(const fm_config *config, const char *path, fm_error *err) {
    const json_t *q = fm_config_get(config, "quantization_config"), *block = json_object_get(q, "weight_block_size");
    const char *method = json_string_value(json_object_get(q, "quant_method")), *format = json_string_value(json_object_get(q, "fmt"));
    const char *scheme = json_string_value(json_object_get(q, "activation_scheme"));
    if (!method) return 0;
    if (strcmp(method, "fp8")) return fm_fail(err, FM_EUNSUPPORTED, "%s: quantization_config has quant_method %s, which is not supported", path, method);
    if (format && strcmp(format, "e4m3") && strcmp(format, "float8_e4m3fn"))
        return fm_fail(err, FM_EUNSUPPORTED, "%s: quantization_config has fmt %s, which is not supported", path, format);
    if (scheme && strcmp(scheme, "dynamic"))
        return fm_fail(err, FM_EUNSUPPORTED, "%s: quantization_config has activation_scheme %s, which is not supported", path, scheme);
    bool blocks = json_array_size(block) == 2;
    for (size_t i = 0; i < json_array_size(block); i++) blocks &= json_integer_value(json_array_get(block, i)) == FM_F8_BLOCK;
    if (blocks) return 0;
    return fm_fail(err, FM_EUNSUPPORTED, "%s: quantization_config has fp8 with another weight_block_size than [%d, %d], which is not supported", path,
                   FM_F8_BLOCK, FM_F8_BLOCK);
}

static int open_config(fm_model *model, fm_config *config, const char *config_from, const fm_family *const *families, fm_error *err) {
    char path[1100];
    if (config_from && !fm_path_exists(config_from)) return fm_fail(err, FM_EIO, "%s: there is no such directory", config_from);
    if (!fm_model_find_file(path, sizeof path, model->path, config_from, "config.json")) {
        if (!fm_path_exists(model->path)) return fm_fail(err, FM_EIO, "%s: there is no such directory", model->path);
        return fm_fail(err, FM_EFORMAT, "%s: it has no config.json, so it is no model directory", model->path);
    }
    int rc = fm_config_open(config, path, err);
    if (rc < 0) return rc;
    if ((rc = fm_model_find_family(&model->family, &model->description, config, families, err)) < 0) return rc;
    if ((rc = check_quantization(config, path, err)) < 0) return rc;
    if ((rc = model->family->describe(&model->description, config, err)) < 0) return rc;
    fm_config generation = {0};
    if (fm_model_find_file(path, sizeof path, model->path, config_from, "generation_config.json")) {
        if ((rc = fm_config_open(&generation, path, err)) < 0) return rc;
        rc = read_eos(model, fm_config_get(&generation, "eos_token_id"), path, err);
        fm_config_close(&generation);
        if (rc < 0) return rc;
    }
    return model->n_eos ? 0 : read_eos(model, fm_config_get(config, "eos_token_id"), config->path, err);
}

static int open_tensors(fm_model *model, fm_error *err) {
    bool packed = fm_packed_experts_here(model->path);
    int rc;
    if (fm_pack_here(model->path))
        rc = fm_pack_open(&model->pack, &model->tensors, model->path, model->description.n_experts, err);
    else if (packed)
        rc = fm_packed_experts_add(&model->tensors, model->path, err);
    else
        rc = fm_safetensors_add_snapshot(&model->tensors, model->path, err);
    if (rc < 0 || (rc = fm_tensors_finish(&model->tensors, err)) < 0) return rc;
    model->used = calloc((size_t)model->tensors.n_tensors + 1, 1);
    if (!model->used) return fm_fail(err, FM_ENOMEM, "%s: no memory for %d tensors", model->path, model->tensors.n_tensors);
    char name[300];
    for (const char *const *p = model->family->prefixes; *p; p++) {
        snprintf(name, sizeof name, "%s%s.weight", *p, model->family->names[FM_EMBED]);
        if (!fm_tensors_find(&model->tensors, name)) continue;
        model->prefix = *p;
        break;
    }
    if (!model->prefix) {
        return fm_fail(err, FM_EFORMAT, "%s: tensor %s%s.weight is missing, under any prefix that %s checkpoints have", model->path, model->family->prefixes[0],
                       model->family->names[FM_EMBED], model->family->name);
    }
    return packed || model->pack;
}

/* MLX stores the convolution as [channels][taps][1] and norms plain; raw checkpoints as [channels][1][taps] and norms less 1. Without a
 * convolution, quantised tensors or MLX's prefix tell. */
static void find_source(fm_model *model, bool packed) {
    bool scales = false;
    if (model->pack) {
        model->mlx = true;
        goto found;
    }
    model->mlx = packed || !strncmp(model->prefix, "language_model.", 15);
    for (int i = 0; i < model->tensors.n_tensors; i++) {
        const fm_tensor *t = &model->tensors.tensors[i];
        size_t n = strlen(t->name);
        if (n > 7 && !strcmp(t->name + n - 7, ".scales")) scales = true;
        if (n > 13 && !strcmp(t->name + n - 13, "conv1d.weight") && t->n_dims == 3 && !strstr(t->name, "mtp.")) {
            model->mlx = t->shape[2] == 1;
            goto found;
        }
    }
    model->mlx |= scales;
found:
    model->source = model->pack ? "packed" : packed ? "packed_experts" : model->mlx ? "mlx" : "safetensors";
}

static int resolve_vector(fm_resolver *r, const char *base, fm_source *s, fm_error *err) {
    const fm_shape *want = &s->shape;
    char name[300];
    bool whole = want->kind == FM_KIND_VECTOR;
    snprintf(name, sizeof name, whole ? "%s" : "%s.weight", base);
    s->weight = fm_resolve_find(r, name);
    if (!s->weight) return fm_resolve_missing(r, name, err);
    const fm_tensor *t = s->weight;
    if (t->dtype != FM_F32 && t->dtype != FM_BF16 && t->dtype != FM_F16) {
        return fm_fail(err, FM_EUNSUPPORTED, "%s: tensor %s is of type %s, which is not supported here", fm_resolve_path(r, t), t->name,
                       fm_dtype_name(t->dtype));
    }
    /* MLX keeps the convolution's one input channel last. */
    bool conv = want->kind == FM_KIND_CONV;
    const uint64_t taps = (uint64_t)want->cols, shape[3] = {(uint64_t)(conv ? want->rows : want->cols), r->model->mlx ? taps : 1, r->model->mlx ? 1 : taps};
    int n = conv ? 3 : 1;
    /* Some store a vector as a matrix of one row. */
    if (whole && t->n_dims == 2 && t->shape[0] == 1 && t->shape[1] == shape[0]) return 0;
    return t->n_dims == n && !memcmp(t->shape, shape, (size_t)n * sizeof *shape) ? 0 : fm_resolve_shape_error(r, t, n, shape, err);
}

/* Rows first to first + rows of a matrix that several roles share: its source, with a shape and a row map of its own. map: identity. */
static void share_rows(fm_source *s, const fm_source *whole, int first, const int32_t *map) {
    fm_shape shape = s->shape;
    *s = *whole;
    s->shape = shape;
    s->type.rows = shape.rows;
    s->row_map = map + first;
}

/* The grouped projections hold, by key head, [q | k | v of its value heads | z of them] and [b | a]. */
static int resolve_grouped(fm_resolver *r, const char *prefix, fm_source *sources, fm_error *err) {
    fm_model *model = r->model;
    const fm_description *d = &model->description;
    char base[300];
    int ratio = d->n_value_heads / d->n_key_heads, values = d->n_value_heads * d->value_dim;
    fm_source qkvz = {.shape = {FM_KIND_MATRIX, fm_conv_channels(d) + values, d->hidden}}, ba = {.shape = {FM_KIND_MATRIX, 2 * d->n_value_heads, d->hidden}};
    snprintf(base, sizeof base, "%s%s", prefix, model->family->grouped_qkvz);
    int rc = fm_resolve_matrix(r, base, 0, false, &qkvz, err);
    if (rc < 0) return rc;
    snprintf(base, sizeof base, "%s%s", prefix, model->family->grouped_ba);
    if ((rc = fm_resolve_matrix(r, base, 0, false, &ba, err)) < 0) return rc;
    if (!model->row_maps) {
        int32_t *map = model->row_maps = malloc(sizeof *map * (size_t)(fm_conv_channels(d) + values + 2 * d->n_value_heads));
        if (!map) return fm_fail(err, FM_ENOMEM, "%s: no memory for a row map", model->path);
        int dk = d->key_dim, dv = ratio * d->value_dim, group = 2 * dk + 2 * dv;
        const int starts[4] = {0, dk, 2 * dk, 2 * dk + dv}, counts[4] = {dk, dk, dv, dv};
        for (int part = 0; part < 4; part++) {
            for (int h = 0; h < d->n_key_heads; h++) {
                for (int i = 0; i < counts[part]; i++) *map++ = h * group + starts[part] + i;
            }
        }
        for (int part = 0; part < 2; part++) {
            for (int h = 0; h < d->n_key_heads; h++) {
                for (int i = 0; i < ratio; i++) *map++ = (2 * h + part) * ratio + i;
            }
        }
    }
    const int32_t *maps[4] = {model->row_maps, model->row_maps + fm_conv_channels(d), model->row_maps + fm_conv_channels(d) + values,
                              model->row_maps + fm_conv_channels(d) + values + d->n_value_heads};
    const fm_role roles[4] = {FM_DELTA_QKV, FM_DELTA_Z, FM_DELTA_B, FM_DELTA_A};
    for (int i = 0; i < 4; i++) { share_rows(&sources[roles[i]], i < 2 ? &qkvz : &ba, 0, maps[i]); }
    return 0;
}

static int resolve_fused_qkv(fm_resolver *r, const char *prefix, fm_source *sources, fm_error *err) {
    static const fm_role roles[3] = {FM_Q, FM_K, FM_V}, biases[3] = {FM_Q_BIAS, FM_K_BIAS, FM_V_BIAS};
    fm_model *model = r->model;
    char base[300], bias[310];
    int rows = sources[FM_Q].shape.rows + sources[FM_K].shape.rows + sources[FM_V].shape.rows;
    fm_source whole = {.shape = {FM_KIND_MATRIX, rows, model->description.hidden}}, values = {.shape = {FM_KIND_VECTOR, 1, rows}};
    snprintf(base, sizeof base, "%s%s", prefix, model->family->fused_qkv);
    snprintf(bias, sizeof bias, "%s.bias", base);
    int rc = fm_resolve_matrix(r, base, 0, false, &whole, err);
    if (rc < 0 || (model->description.qkv_bias && (rc = resolve_vector(r, bias, &values, err)) < 0)) return rc;
    if (!model->row_maps) {
        if (!(model->row_maps = malloc(sizeof *model->row_maps * (size_t)rows))) return fm_fail(err, FM_ENOMEM, "%s: no memory for a row map", model->path);
        for (int i = 0; i < rows; i++) model->row_maps[i] = i;
    }
    for (int i = 0, first = 0; i < 3; first += sources[roles[i]].shape.rows, i++) {
        share_rows(&sources[roles[i]], &whole, first, model->row_maps);
        sources[biases[i]].weight = values.weight;
        sources[biases[i]].first = first;
    }
    return 0;
}

static int resolve_head(fm_resolver *r, fm_source *s, fm_error *err) {
    const char *const *heads = r->model->family->heads;
    for (const char *const *h = heads; *h; h++) {
        int rc = fm_resolve_matrix(r, *h, 0, true, s, err);
        if (rc != 0) return rc;
    }
    char name[300];
    snprintf(name, sizeof name, "%s.weight", heads[0]);
    return fm_resolve_missing(r, name, err);
}

/* Whether a role's tensors are found with those of others. */
static bool shares(const fm_model *model, fm_role role) {
    if (role == FM_LATENT_OUT || role == FM_LATENT_Q) return true;
    if (model->description.grouped_projection && role >= FM_DELTA_QKV && role <= FM_DELTA_A) return true;
    return model->family->fused_qkv && ((role >= FM_Q && role <= FM_V) || (role >= FM_Q_BIAS && role <= FM_V_BIAS));
}

static int resolve_role(fm_resolver *r, const char *prefix, fm_role role, fm_source *s, fm_error *err) {
    const fm_family *family = r->model->family;
    bool matrix = s->shape.kind == FM_KIND_MATRIX;
    char base[300];
    if (role == FM_HEAD) return resolve_head(r, s, err);
    if (role == FM_HEAD_BIAS) {
        const char *const *h = family->heads;
        do snprintf(base, sizeof base, "%s.bias", *h);
        while (!fm_tensors_find(&r->model->tensors, base) && *++h);
        return resolve_vector(r, base, s, err);
    }
    if (family->other_names && family->other_names[role]) {
        char name[310];
        snprintf(base, sizeof base, "%s%s", prefix, family->other_names[role]);
        snprintf(name, sizeof name, s->shape.kind == FM_KIND_VECTOR ? "%s" : "%s.weight", base);
        if (fm_tensors_find(&r->model->tensors, name)) return matrix ? fm_resolve_matrix(r, base, 0, false, s, err) : resolve_vector(r, base, s, err);
    }
    snprintf(base, sizeof base, "%s%s", prefix, family->names[role]);
    return matrix ? fm_resolve_matrix(r, base, 0, false, s, err) : resolve_vector(r, base, s, err);
}

static int resolve_layer(fm_resolver *r, int layer, fm_error *err) {
    fm_model *model = r->model;
    const fm_description *d = &model->description;
    fm_source *sources = model->sources[layer + 1];
    char prefix[200];
    if (layer < 0) snprintf(prefix, sizeof prefix, "%s", model->prefix);
    if (layer >= 0) snprintf(prefix, sizeof prefix, "%slayers.%d.", model->prefix, layer);
    for (int role = 0, rc = 0; role < FM_N_ROLES; role++) {
        fm_source *s = &sources[role];
        if (!fm_role_shape(d, layer, (fm_role)role, &s->shape) || shares(model, (fm_role)role)) continue;
        if ((rc = resolve_role(r, prefix, (fm_role)role, s, err)) < 0) return rc;
    }
    if (layer >= 0 && d->layers[layer].mixer == FM_MIXER_ATTENTION && d->kv_rank) return fm_resolve_latent(r, prefix, sources, err);
    if (layer < 0 || d->layers[layer].mixer == FM_MIXER_ATTENTION)
        return layer >= 0 && model->family->fused_qkv ? resolve_fused_qkv(r, prefix, sources, err) : 0;
    return d->grouped_projection ? resolve_grouped(r, prefix, sources, err) : 0;
}

const char *fm_model_left_out(const fm_model *model, const char *name) {
    const char *const *pair = model->family->left_out;
    for (; pair && *pair; pair += 2) {
        if (strstr(name, pair[0])) return pair[1];
    }
    /* Layers behind the last. */
    const char *layer = strstr(name, "layers.");
    int number = layer ? atoi(layer + 7) : 0, n = model->description.n_layers;
    return number >= n && number < n + model->description.n_more_layers ? "mtp" : NULL;
}

/* Every tensor must be run, known to be left out, or harmless: one that the description has no place for (a bias, a second scale) would make the
 * answers quietly wrong. */
static int check_unused(fm_model *model, fm_error *err) {
    for (int i = 0; i < model->tensors.n_tensors; i++) {
        const fm_tensor *t = &model->tensors.tensors[i];
        if (model->used[i]) continue;
        bool harmless = strstr(t->name, "rotary_emb.inv_freq");
        for (const char *const *h = model->family->heads; *h && model->description.tied_head; h++) harmless |= !strncmp(t->name, *h, strlen(*h));
        if (harmless || fm_model_left_out(model, t->name)) {
            model->used[i] = harmless ? FM_USED_IGNORED : FM_USED_LEFT_OUT;
            continue;
        }
        return fm_fail(err, FM_EUNSUPPORTED, "%s: tensor %s has no place in a %s model as config.json describes it", model->tensors.files[t->file].path,
                       t->name, model->family->name);
    }
    return 0;
}

int fm_model_open(fm_model **out, const char *directory, const char *config_from, const fm_family *const *families, fm_error *err) {
    *out = NULL;
    fm_config config = {0};
    fm_model *model = calloc(1, sizeof *model);
    if (!model) return fm_fail(err, FM_ENOMEM, "%s: no memory to open it", directory);
    snprintf(model->path, sizeof model->path, "%s", directory);
    int rc = open_config(model, &config, config_from, families, err);
    if (rc < 0) goto fail;
    if ((rc = open_tensors(model, err)) < 0) goto fail;
    find_source(model, rc);
    fm_description *d = &model->description;
    model->sources = calloc((size_t)d->n_layers + 1, sizeof *model->sources);
    if (!model->sources) {
        rc = fm_fail(err, FM_ENOMEM, "%s: no memory for %d layers", directory, d->n_layers);
        goto fail;
    }
    fm_resolver r = {.model = model, .quantization = json_object_get(config.root, "quantization"), .config_path = config.path};
    for (int layer = -1; layer < d->n_layers && rc >= 0; layer++) rc = resolve_layer(&r, layer, err);
    if (rc < 0 || (d->n_experts && (rc = fm_resolve_experts(&r, err)) < 0) || (rc = check_unused(model, err)) < 0) goto fail;
    fm_config_close(&config);
    *out = model;
    return 0;
fail:
    fm_config_close(&config);
    fm_model_close(&model);
    return rc;
}

int fm_model_mirror(fm_model *m, const char *directory, fm_error *err) {
    if (!m->in_place) return fm_fail(err, FM_EUNSUPPORTED, "%s: a mirror is for packed models whose experts are read in place", m->path);
    m->mirrors = calloc((size_t)m->tensors.n_files, sizeof *m->mirrors);
    if (!m->mirrors) return fm_fail(err, FM_ENOMEM, "%s: no memory for a table of files", directory);
    for (int i = 0; i < m->tensors.n_files; i++) m->mirrors[i].fd = m->mirrors[i].direct_fd = -1;
    for (int layer = 0; layer < m->pack->n_layers; layer++) {
        int file = m->pack->layers[layer].file;
        if (file < 0) continue;
        const fm_file *from = &m->tensors.files[file];
        char path[1300];
        /* The file's path begins with the model's. */
        int rc = fm_path_join(path, sizeof path, directory, from->path + strlen(m->path) + 1, err);
        if (rc < 0 || (rc = fm_file_open(&m->mirrors[file], path, true, err)) < 0) return rc;
        if (m->mirrors[file].size == from->size) continue;
        return fm_fail(err, FM_EFORMAT, "%s: it has %llu bytes, and %s has %llu", path, (unsigned long long)m->mirrors[file].size, from->path,
                       (unsigned long long)from->size);
    }
    return 0;
}

void fm_model_close(fm_model **model) {
    fm_model *m = *model;
    if (!m) return;
    for (int i = 0; i < m->tensors.n_files && m->mirrors; i++) fm_file_close(&m->mirrors[i]);
    free(m->mirrors);
    fm_tensors_close(&m->tensors);
    fm_pack_close(&m->pack);
    free(m->sources);
    free(m->row_maps);
    free(m->experts);
    free(m->extents);
    free(m->used);
    free(m);
    *model = NULL;
}

int fm_model_nonfinite(const fm_model *model, const fm_tensor *t, uint64_t i, float value, fm_error *err) {
    uint64_t cols = t->n_dims ? t->shape[t->n_dims - 1] : 1;
    return fm_fail(err, FM_ENAN, "%s: tensor %s: row %llu, column %llu is %g", model->tensors.files[t->file].path, t->name, (unsigned long long)(i / cols),
                   (unsigned long long)(i % cols), (double)value);
}
