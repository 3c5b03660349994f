/* formats/packed_experts.c: see packed_experts.h. Whether tensors fit the model is model/'s business. */
#include "formats/packed_experts.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "formats/json.h"

#define MAX_COMPONENTS 16
#define PATH_BYTES 1300

typedef struct component {
    const char *name; /* in the layout's JSON */
    fm_tensor tensor; /* of one expert: type, shape, offset and bytes */
} component;

typedef struct layout {
    char path[PATH_BYTES];
    json_t *json;
    uint64_t expert_size, n_layers, n_experts;
    int n;
    component components[MAX_COMPONENTS];
} layout;

static bool exists(const char *directory, const char *name) {
    char path[PATH_BYTES];
    return fm_path_join(path, sizeof path, directory, name, NULL) == 0 && fm_path_exists(path);
}

bool fm_packed_experts_here(const char *directory) {
    if (exists(directory, "model_weights.json")) return true;
    return exists(directory, "packed_experts/layout.json") && !exists(directory, "model.safetensors.index.json") && !exists(directory, "model.safetensors");
}

/* The programs write "U32", "BF16", "F32"; others "uint32", "bfloat16" and the like. */
static bool find_dtype(const char *name, fm_dtype *out) {
    static const struct {
        const char *name;
        fm_dtype dtype;
    } names[] = {{"U32", FM_U32},    {"BF16", FM_BF16},     {"F16", FM_F16},     {"F32", FM_F32},
                 {"uint32", FM_U32}, {"bfloat16", FM_BF16}, {"float16", FM_F16}, {"float32", FM_F32}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcasecmp(name, names[i].name)) continue;
        *out = names[i].dtype;
        return true;
    }
    return false;
}

/* What layout and manifest have in common: dtype, shape, offset and size of the entry of a name. what is "component" or "tensor". */
static int read_entry(fm_tensor *tensor, const char *path, const char *what, const char *name, const json_t *entry, fm_error *err) {
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!dtype) return fm_fail(err, FM_EFORMAT, "%s: %s %s has no dtype", path, what, name);
    if (!find_dtype(dtype, &tensor->dtype)) return fm_fail(err, FM_EUNSUPPORTED, "%s: %s %s is of type %.40s, which is not supported", path, what, name, dtype);
    if (!fm_json_whole(json_object_get(entry, "offset"), INT64_MAX, &tensor->offset) ||
        !fm_json_whole(json_object_get(entry, "size"), INT64_MAX, &tensor->bytes)) {
        return fm_fail(err, FM_EFORMAT, "%s: %s %s has no offset and size that are whole numbers", path, what, name);
    }
    if (fm_json_shape(json_object_get(entry, "shape"), tensor)) return 0;
    return fm_fail(err, FM_EFORMAT, "%s: %s %s has no shape of up to %d whole numbers", path, what, name, FM_MAX_DIMS);
}

static int read_component(layout *l, const json_t *json, fm_error *err) {
    if (l->n == MAX_COMPONENTS) return fm_fail(err, FM_EUNSUPPORTED, "%s: it has more than %d components", l->path, MAX_COMPONENTS);
    component *c = &l->components[l->n];
    fm_tensor *t = &c->tensor;
    c->name = json_string_value(json_object_get(json, "name"));
    if (!c->name || !*c->name) return fm_fail(err, FM_EFORMAT, "%s: component %d has no name", l->path, l->n);
    int rc = read_entry(t, l->path, "component", c->name, json, err);
    if (rc < 0) return rc;
    if (t->n_dims == 3 && t->shape[0] == l->n_experts) { /* some say the shape of all experts */
        memmove(t->shape, t->shape + 1, 2 * sizeof *t->shape);
        t->n_dims = 2;
    }
    if (t->n_dims != 2) return fm_fail(err, FM_EFORMAT, "%s: component %s has %d dimensions, not 2", l->path, c->name, t->n_dims);
    if (t->offset > l->expert_size || t->bytes > l->expert_size - t->offset) {
        return fm_fail(err, FM_EFORMAT, "%s: component %s, %" PRIu64 " bytes at %" PRIu64 ", leaves the %" PRIu64 " bytes of an expert", l->path, c->name,
                       t->bytes, t->offset, l->expert_size);
    }
    for (int i = 0; i < l->n; i++) {
        const fm_tensor *other = &l->components[i].tensor;
        if (t->offset >= other->offset + other->bytes || t->offset + t->bytes <= other->offset) continue;
        return fm_fail(err, FM_EFORMAT, "%s: components %s, at %" PRIu64 ", and %s, at %" PRIu64 ", overlap", l->path, l->components[i].name, other->offset,
                       c->name, t->offset);
    }
    l->n++;
    return 0;
}

/* A number of the layout, from 1 to most. */
static int read_number(const layout *l, const char *key, uint64_t most, uint64_t *out, fm_error *err) {
    if (fm_json_whole(json_object_get(l->json, key), most, out) && *out) return 0;
    return fm_fail(err, FM_EFORMAT, "%s: it has no %s from 1 to %" PRIu64, l->path, key, most);
}

static int open_layout(layout *l, const char *directory, fm_error *err) {
    memset(l, 0, sizeof *l);
    int rc = fm_path_join(l->path, sizeof l->path, directory, "packed_experts/layout.json", err);
    if (rc < 0 || (rc = fm_json_open(&l->json, l->path, err)) < 0) return rc;
    if ((rc = read_number(l, "expert_size", UINT32_MAX, &l->expert_size, err)) < 0) return rc;
    if ((rc = read_number(l, "num_layers", 4096, &l->n_layers, err)) < 0) return rc;
    if ((rc = read_number(l, "num_experts", 65536, &l->n_experts, err)) < 0) return rc;
    const json_t *components = json_object_get(l->json, "components");
    size_t n = json_array_size(components);
    if (n == 0) return fm_fail(err, FM_EFORMAT, "%s: it has no components", l->path);
    for (size_t i = 0; i < n && rc >= 0; i++) rc = read_component(l, json_array_get(components, i), err);
    return rc;
}

/* model_weights.bin as model_weights.json says it. */
static int add_dense(fm_tensors *t, const char *directory, json_t **manifest, fm_error *err) {
    char path[PATH_BYTES], weights[PATH_BYTES];
    const char *name;
    json_t *entry;
    int rc = fm_path_join(path, sizeof path, directory, "model_weights.json", err), file, first = t->n_tensors;
    if (rc < 0 || (rc = fm_json_open(manifest, path, err)) < 0) return rc;
    json_t *tensors = json_object_get(*manifest, "tensors");
    if (!json_is_object(tensors)) return fm_fail(err, FM_EFORMAT, "%s: it has no tensors", path);
    if ((rc = fm_path_join(weights, sizeof weights, directory, "model_weights.bin", err)) < 0 || (rc = file = fm_tensors_add_file(t, weights, err)) < 0)
        return rc;
    json_object_foreach(tensors, name, entry) {
        fm_tensor tensor = {.file = file};
        if ((rc = read_entry(&tensor, path, "tensor", name, entry, err)) < 0 || (rc = fm_tensors_add(t, name, &tensor, err)) < 0) return rc;
    }
    return fm_tensors_check_places(t, first, NULL, err);
}

static int add_layer(fm_tensors *t, const layout *l, const char *path, unsigned layer, fm_error *err) {
    int file = fm_tensors_add_file(t, path, err), rc;
    if (file < 0) return file;
    uint64_t size = t->files[file].size, want = l->n_experts * l->expert_size;
    if (size != want) {
        return fm_fail(err, FM_EFORMAT, "%s: it has %" PRIu64 " bytes, but %" PRIu64 " experts of %" PRIu64 " are %" PRIu64, path, size, l->n_experts,
                       l->expert_size, want);
    }
    for (int i = 0; i < l->n; i++) {
        const fm_tensor *one = &l->components[i].tensor;
        fm_tensor all = {.file = file, .dtype = one->dtype, .n_dims = 3, .offset = one->offset, .bytes = l->n_experts * one->bytes, .stride = l->expert_size};
        all.shape[0] = l->n_experts;
        all.shape[1] = one->shape[0];
        all.shape[2] = one->shape[1];
        char name[300];
        snprintf(name, sizeof name, "model.layers.%u.mlp.switch_mlp.%s", layer, l->components[i].name);
        if ((rc = fm_tensors_add(t, name, &all, err)) < 0) return rc;
    }
    return 0;
}

/* A layer whose MLP stands in the manifest need have no experts, so no file. */
static bool is_dense(const json_t *manifest, unsigned layer) {
    char name[80];
    snprintf(name, sizeof name, "model.layers.%u.mlp.gate_proj.weight", layer);
    return json_object_get(json_object_get(manifest, "tensors"), name) != NULL;
}

int fm_packed_experts_add(fm_tensors *t, const char *directory, fm_error *err) {
    layout l;
    json_t *manifest = NULL;
    char name[64], path[PATH_BYTES];
    int rc = open_layout(&l, directory, err);
    if (rc >= 0) rc = add_dense(t, directory, &manifest, err);
    for (unsigned i = 0; rc >= 0 && i < l.n_layers; i++) {
        snprintf(name, sizeof name, "packed_experts/layer_%02u.bin", i);
        if ((rc = fm_path_join(path, sizeof path, directory, name, err)) < 0) break;
        if (fm_path_exists(path) || !is_dense(manifest, i)) rc = add_layer(t, &l, path, i, err);
    }
    json_decref(l.json);
    json_decref(manifest);
    return rc;
}
