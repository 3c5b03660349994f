/* formats/packed_experts.c: see packed_experts.h. */
#include "formats/packed_experts.h"

#include <ctype.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define JSON_LIMIT ((size_t)64 << 20)
#define MAX_COMPONENTS 16

typedef struct layout {
    char path[1200];
    uint64_t expert_size, n_layers, n_experts;
    int n;
    struct {
        char name[64];
        uint64_t offset, size;
        fm_dtype dtype;
    } components[MAX_COMPONENTS];
} layout;

bool fm_packed_experts_here(const char *directory) {
    char path[1200];
    if (fm_path_join(path, sizeof path, directory, "packed_experts/layout.json", NULL) == 0 && fm_path_exists(path)) return true;
    return fm_path_join(path, sizeof path, directory, "model_weights.json", NULL) == 0 && fm_path_exists(path);
}

static int open_json(json_t **root, const char *path, fm_error *err) {
    char *text;
    size_t bytes;
    json_error_t at;
    int rc = fm_file_read_text(&text, &bytes, path, JSON_LIMIT, err);
    *root = NULL;
    if (rc < 0) return rc;
    *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &at);
    free(text);
    return *root ? 0 : fm_fail(err, FM_EFORMAT, "%s: line %d: %s", path, at.line, at.text);
}

static bool number(const json_t *object, const char *key, uint64_t most, uint64_t *out) {
    const json_t *v = json_object_get(object, key);
    if (!json_is_integer(v) || json_integer_value(v) < 0 || (uint64_t)json_integer_value(v) > most) return false;
    *out = (uint64_t)json_integer_value(v);
    return true;
}

/* The programs write "U32", "BF16", "F32"; others "uint32", "bfloat16" and the like. */
static bool dtype_of(const char *name, fm_dtype *out) {
    static const struct {
        const char *name;
        fm_dtype dtype;
    } names[] = {{"U32", FM_U32},    {"BF16", FM_BF16},     {"F16", FM_F16},     {"F32", FM_F32},
                 {"uint32", FM_U32}, {"bfloat16", FM_BF16}, {"float16", FM_F16}, {"float32", FM_F32}};
    for (size_t i = 0; name && i < sizeof names / sizeof *names; i++) {
        if (strcasecmp(name, names[i].name)) continue;
        *out = names[i].dtype;
        return true;
    }
    return false;
}

/* Some layouts leave the type out: weights are u32 words, scales and biases bf16. */
static fm_dtype usual_dtype(const char *component) {
    const char *dot = strrchr(component, '.');
    return dot && !strcmp(dot, ".weight") ? FM_U32 : FM_BF16;
}

static int read_component(layout *l, const json_t *c, fm_error *err) {
    const char *name = json_string_value(json_object_get(c, "name")), *dtype = json_string_value(json_object_get(c, "dtype"));
    if (l->n == MAX_COMPONENTS) return fm_fail(err, FM_EUNSUPPORTED, "%s: more than %d components", l->path, MAX_COMPONENTS);
    if (!name || strlen(name) >= sizeof l->components[0].name) return fm_fail(err, FM_EFORMAT, "%s: component %d has no usable name", l->path, l->n);
    snprintf(l->components[l->n].name, sizeof l->components[0].name, "%s", name);
    l->components[l->n].dtype = usual_dtype(name);
    if (dtype && !dtype_of(dtype, &l->components[l->n].dtype)) {
        return fm_fail(err, FM_EUNSUPPORTED, "%s: component %s is of type %s, which is not supported", l->path, name, dtype);
    }
    uint64_t offset, size;
    if (!number(c, "offset", l->expert_size, &offset) || !number(c, "size", l->expert_size, &size) || offset + size > l->expert_size) {
        return fm_fail(err, FM_EFORMAT, "%s: component %s does not lie within the %" PRIu64 " bytes of an expert", l->path, name, l->expert_size);
    }
    for (int i = 0; i < l->n; i++) {
        bool apart = offset >= l->components[i].offset + l->components[i].size || offset + size <= l->components[i].offset;
        if (!apart) return fm_fail(err, FM_EFORMAT, "%s: components %s and %s overlap", l->path, l->components[i].name, name);
    }
    l->components[l->n].offset = offset;
    l->components[l->n++].size = size;
    return 0;
}

static int read_layout(layout *l, const char *directory, fm_error *err) {
    json_t *root;
    memset(l, 0, sizeof *l);
    int rc = fm_path_join(l->path, sizeof l->path, directory, "packed_experts/layout.json", err);
    if (rc < 0 || (rc = open_json(&root, l->path, err)) < 0) return rc;
    const json_t *components = json_object_get(root, "components");
    if (!number(root, "expert_size", UINT32_MAX, &l->expert_size) || !number(root, "num_layers", 4096, &l->n_layers) ||
        !number(root, "num_experts", 65536, &l->n_experts) || !json_is_array(components) || !l->expert_size || !l->n_experts) {
        rc = fm_fail(err, FM_EFORMAT, "%s: it lacks expert_size, num_layers, num_experts or components, or one of them is out of range", l->path);
    }
    for (size_t i = 0; rc >= 0 && i < json_array_size(components); i++) rc = read_component(l, json_array_get(components, i), err);
    json_decref(root);
    return rc;
}

/* Rows of a component: of its `weight`, scales and biases alike. They follow from sizes: gate and up have as many rows as down has columns, which the caller checks
 * against config.json; here the shapes in the layout (with or without a leading expert axis) say it. */
static int component_shape(const layout *l, int i, uint64_t shape[2], const json_t *json, fm_error *err) {
    const json_t *dims = json_object_get(json_array_get(json_object_get(json, "components"), (size_t)i), "shape");
    size_t n = json_array_size(dims);
    for (size_t d = 0; d < 2 && n >= 2; d++) shape[d] = (uint64_t)json_integer_value(json_array_get(dims, n - 2 + d));
    uint64_t bytes = 0;
    bool good = n >= 2 && shape[0] && shape[1] && !__builtin_mul_overflow(shape[0], shape[1], &bytes) &&
                !__builtin_mul_overflow(bytes, (uint64_t)fm_dtype_bytes(l->components[i].dtype), &bytes) && bytes == l->components[i].size;
    if (good) return 0;
    return fm_fail(err, FM_EFORMAT, "%s: component %s has %" PRIu64 " bytes, which is not what its shape and type give", l->path, l->components[i].name,
                   l->components[i].size);
}

static int add_layer(fm_tensors *t, const layout *l, const json_t *json, const char *directory, int layer, fm_error *err) {
    char name[160], path[1300];
    snprintf(name, sizeof name, "packed_experts/layer_%02d.bin", layer);
    int rc = fm_path_join(path, sizeof path, directory, name, err), file;
    if (rc < 0 || (rc = file = fm_tensors_add_file(t, path, err)) < 0) return rc;
    if (t->files[file].size != l->n_experts * l->expert_size) {
        return fm_fail(err, FM_EFORMAT, "%s: it has %" PRIu64 " bytes, but %" PRIu64 " experts of %" PRIu64 " are %" PRIu64, path, t->files[file].size,
                       l->n_experts, l->expert_size, l->n_experts * l->expert_size);
    }
    for (int i = 0; i < l->n; i++) {
        fm_tensor tensor = {.file = file, .dtype = l->components[i].dtype, .n_dims = 3, .offset = l->components[i].offset, .stride = l->expert_size};
        tensor.shape[0] = l->n_experts;
        if ((rc = component_shape(l, i, tensor.shape + 1, json, err)) < 0) return rc;
        tensor.bytes = l->n_experts * l->components[i].size;
        snprintf(name, sizeof name, "model.layers.%d.mlp.switch_mlp.%s", layer, l->components[i].name);
        if ((rc = fm_tensors_add(t, name, &tensor, err)) < 0) return rc;
    }
    return 0;
}

static int add_dense(fm_tensors *t, const char *directory, json_t **manifest, fm_error *err) {
    char path[1200], weights[1200];
    const char *name;
    json_t *entry;
    int rc = fm_path_join(path, sizeof path, directory, "model_weights.json", err), file;
    if (rc < 0 || (rc = open_json(manifest, path, err)) < 0) return rc;
    if ((rc = fm_path_join(weights, sizeof weights, directory, "model_weights.bin", err)) < 0 || (rc = file = fm_tensors_add_file(t, weights, err)) < 0)
        return rc;
    json_t *tensors = json_object_get(*manifest, "tensors");
    if (!json_is_object(tensors)) return fm_fail(err, FM_EFORMAT, "%s: it has no tensors", path);
    json_object_foreach(tensors, name, entry) {
        fm_tensor tensor = {.file = file};
        const json_t *shape = json_object_get(entry, "shape");
        const char *dtype = json_string_value(json_object_get(entry, "dtype"));
        if (!dtype_of(dtype, &tensor.dtype))
            return fm_fail(err, FM_EUNSUPPORTED, "%s: tensor %s is of type %s, which is not supported", path, name, dtype ? dtype : "none");
        if (!number(entry, "offset", INT64_MAX, &tensor.offset) || !number(entry, "size", INT64_MAX, &tensor.bytes) || json_array_size(shape) > FM_MAX_DIMS) {
            return fm_fail(err, FM_EFORMAT, "%s: tensor %s lacks a usable offset, size or shape", path, name);
        }
        for (; tensor.n_dims < (int)json_array_size(shape); tensor.n_dims++) {
            json_int_t n = json_integer_value(json_array_get(shape, (size_t)tensor.n_dims));
            if (n < 0) return fm_fail(err, FM_EFORMAT, "%s: tensor %s has a negative dimension", path, name);
            tensor.shape[tensor.n_dims] = (uint64_t)n;
        }
        if ((rc = fm_tensors_add(t, name, &tensor, err)) < 0) return rc;
    }
    return 0;
}

/* A layer whose MLP stands in the manifest has no experts, so no file. */
static bool is_dense(const json_t *manifest, uint64_t layer) {
    char name[80];
    snprintf(name, sizeof name, "model.layers.%u.mlp.gate_proj.weight", (unsigned)layer);
    return json_object_get(json_object_get(manifest, "tensors"), name) != NULL;
}

int fm_packed_experts_add(fm_tensors *t, const char *directory, fm_error *err) {
    layout l;
    json_t *json = NULL, *manifest = NULL;
    int rc = read_layout(&l, directory, err);
    if (rc < 0 || (rc = open_json(&json, l.path, err)) < 0) return rc;
    rc = add_dense(t, directory, &manifest, err);
    for (uint64_t i = 0; rc >= 0 && i < l.n_layers; i++) {
        if (!is_dense(manifest, i)) rc = add_layer(t, &l, json, directory, (int)i, err);
    }
    json_decref(json);
    json_decref(manifest);
    return rc;
}
