/* formats/pack.c: see pack.h: reading model.json and the tables of hashes, and the form of an expert on disk. */
#include "formats/pack.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

#include "formats/json.h"
#include "formats/safetensors.h"

#define PAGE 4096u
#define PATH_BYTES 1300

static const char *const matrix_names[FM_EXPERT_MATRICES] = {"gate", "up", "down", "gate_bias", "up_bias", "down_bias"};

uint64_t fm_pack_hash(const void *data, size_t bytes) { return XXH3_64bits(data, bytes); }

fm_pack_hasher *fm_pack_hasher_open(void) {
    XXH3_state_t *state = XXH3_createState();
    if (state) XXH3_64bits_reset(state);
    return (fm_pack_hasher *)state;
}

void fm_pack_hasher_feed(fm_pack_hasher *hasher, const void *data, size_t bytes) { XXH3_64bits_update((XXH3_state_t *)hasher, data, bytes); }
uint64_t fm_pack_hasher_value(const fm_pack_hasher *hasher) { return XXH3_64bits_digest((const XXH3_state_t *)hasher); }
void fm_pack_hasher_close(fm_pack_hasher *hasher) { XXH3_freeState((XXH3_state_t *)hasher); }

size_t fm_pack_matrix_bytes(const fm_matrix_type *type) {
    if (type->format != FM_FORMAT_R16 || fm_is_mx(type)) return fm_matrix_bytes(type);
    return (size_t)fm_matrix_n_strips(type) * 16 * (size_t)(type->cols / type->group) * ((size_t)(type->group * type->bits) / 8 + 4);
}

uint64_t fm_pack_expert_bytes(const fm_matrix_type types[FM_EXPERT_MATRICES], uint64_t offsets[FM_EXPERT_MATRICES]) {
    uint64_t bytes = 0;
    for (int i = 0; i < FM_EXPERT_MATRICES; i++) {
        if (offsets) offsets[i] = bytes;
        bytes += (fm_pack_matrix_bytes(&types[i]) + 63) & ~(uint64_t)63;
    }
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

bool fm_pack_here(const char *directory) {
    char path[PATH_BYTES];
    return fm_path_join(path, sizeof path, directory, "model.json", NULL) == 0 && fm_path_exists(path);
}

typedef struct reader {
    char path[PATH_BYTES]; /* of model.json */
    const char *directory;
    json_t *root;
    fm_tensors *tensors;
    fm_pack *pack;
    int n_experts;
} reader;

/* FM_EFORMAT about one matrix of one layer. */
static int bad_matrix(const reader *r, int layer, int which, const char *what, fm_error *err) {
    return fm_fail(err, FM_EFORMAT, "%s: layer %d, %s: %s", r->path, layer, matrix_names[which], what);
}

static int read_matrix(const reader *r, int layer, int which, const json_t *json, fm_error *err) {
    fm_matrix_type *type = &r->pack->layers[layer].types[which];
    const char *format = json_string_value(json_object_get(json, "format")), *scales = json_string_value(json_object_get(json, "scales"));
    uint64_t rows, cols, bits, group;
    if (!fm_json_whole(json_object_get(json, "rows"), INT32_MAX, &rows) || !fm_json_whole(json_object_get(json, "cols"), INT32_MAX, &cols) || !rows || !cols ||
        rows * cols > INT32_MAX || !format) {
        return bad_matrix(r, layer, which, "it has no rows, cols and format", err);
    }
    *type = (fm_matrix_type){.rows = (int)rows, .cols = (int)cols};
    static const fm_format plain[] = {FM_FORMAT_BF16, FM_FORMAT_F16, FM_FORMAT_F32, FM_FORMAT_F8};
    static const char *const names[] = {"BF16", "F16", "F32", "F8_E4M3"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(format, names[i])) continue;
        type->format = plain[i];
        return 0;
    }
    char name[64];
    snprintf(name, sizeof name, "%s of layer %d", matrix_names[which], layer);
    if (!strcmp(format, "mxfp4")) {
        fm_error why;
        int rc = fm_matrix_type_mxfp4(type, name, rows, cols, &why);
        return rc < 0 ? fm_fail(err, rc, "%s: %.400s", r->path, why.message) : 0;
    }
    if (strcmp(format, "affine")) return bad_matrix(r, layer, which, "its format is neither affine nor mxfp4, BF16, F16, F32 or F8_E4M3", err);
    if (!fm_json_whole(json_object_get(json, "bits"), 8, &bits) || !fm_json_whole(json_object_get(json, "group"), 128, &group) || !group || !scales ||
        (strcmp(scales, "BF16") && strcmp(scales, "F16"))) {
        return bad_matrix(r, layer, which, "it has no bits, group and scales of BF16 or F16", err);
    }
    fm_affine_shape shape = {rows, cols * bits / 32, cols / group, scales[0] == 'B' ? FM_BF16 : FM_F16, (int)bits, (int)group};
    fm_error why;
    int rc = fm_matrix_type_affine(type, name, &shape, &why);
    if (rc < 0) return fm_fail(err, rc, "%s: %.400s", r->path, why.message);
    return type->rows == (int)rows && type->cols == (int)cols ? 0 : bad_matrix(r, layer, which, "its cols are no multiple of its group", err);
}

/* Opens a layer's file, and reads and checks its hashes. */
static int open_layer(const reader *r, int layer, const char *name, fm_error *err) {
    fm_pack_layer *l = &r->pack->layers[layer];
    char path[PATH_BYTES];
    if (name[0] == '/' || strstr(name, "..")) return fm_fail(err, FM_EFORMAT, "%s: layer %d: its file %.80s is not below the model", r->path, layer, name);
    int rc = fm_path_join(path, sizeof path, r->directory, name, err);
    if (rc < 0 || (rc = l->file = fm_tensors_add_file(r->tensors, path, err)) < 0) return rc;
    const fm_file *file = &r->tensors->files[l->file];
    size_t n = (size_t)r->n_experts, table = (n + 1) * sizeof(uint64_t);
    uint64_t bytes = n * l->bytes;
    if (file->size != bytes + table) {
        return fm_fail(err, FM_EFORMAT, "%s: it has %" PRIu64 " bytes, but %zu experts of %" PRIu64 " and their hashes are %" PRIu64, path, file->size, n,
                       l->bytes, bytes + table);
    }
    l->hashes = malloc(table);
    if (!l->hashes) return fm_fail(err, FM_ENOMEM, "%s: no memory for %zu hashes", path, n);
    if ((rc = fm_file_read(file, l->hashes, table, bytes, err)) < 0) return rc;
    if (fm_pack_hash(l->hashes, n * sizeof(uint64_t)) == l->hashes[n]) return 0;
    return fm_fail(err, FM_EFORMAT, "%s: its table of hashes, at %" PRIu64 ", is corrupt", path, bytes);
}

static int read_layer(const reader *r, int layer, const json_t *json, fm_error *err) {
    fm_pack_layer *l = &r->pack->layers[layer];
    const char *name = json_string_value(json_object_get(json, "file"));
    if (json_is_null(json)) return 0;
    if (!name || !fm_json_whole(json_object_get(json, "expert_bytes"), (uint64_t)1 << 30, &l->bytes)) {
        return fm_fail(err, FM_EFORMAT, "%s: layer %d has no file and expert_bytes", r->path, layer);
    }
    for (int which = 0; which < FM_EXPERT_MATRICES; which++) {
        if (which >= 3 && !json_object_get(json, matrix_names[which])) continue;
        int rc = read_matrix(r, layer, which, json_object_get(json, matrix_names[which]), err);
        if (rc < 0) return rc;
    }
    uint64_t want = fm_pack_expert_bytes(l->types, NULL);
    if (l->bytes != want) {
        return fm_fail(err, FM_EFORMAT, "%s: layer %d has experts of %" PRIu64 " bytes, but its matrices are %" PRIu64, r->path, layer, l->bytes, want);
    }
    return open_layer(r, layer, name, err);
}

/* The second copies: each of a layer's shape. */
static int read_narrow(const reader *r, const json_t *narrow, fm_error *err) {
    int n = r->pack->n_layers, rc = 0;
    if (!json_is_array(narrow) || json_array_size(narrow) != (size_t)n)
        return fm_fail(err, FM_EFORMAT, "%s: its narrow is not a list of %d layers", r->path, n);
    for (int i = 0; i < n && rc >= 0; i++) {
        const fm_pack_layer *wide = &r->pack->layers[i], *own = &r->pack->layers[n + i];
        if ((rc = read_layer(r, n + i, json_array_get(narrow, (size_t)i), err)) < 0) return rc;
        bool same = (wide->file < 0) == (own->file < 0);
        for (int w = 0; w < 3 && same && own->file >= 0; w++) same = wide->types[w].rows == own->types[w].rows && wide->types[w].cols == own->types[w].cols;
        if (!same) return fm_fail(err, FM_EFORMAT, "%s: narrow: layer %d is not of the shape of that layer", r->path, i);
    }
    return rc;
}

static int read_model(reader *r, fm_error *err) {
    const char *format = json_string_value(json_object_get(r->root, "format"));
    const json_t *layers = json_object_get(r->root, "layers");
    const char *dense = json_string_value(json_object_get(json_object_get(r->root, "dense"), "file"));
    uint64_t version;
    if (!format || strcmp(format, "flash-moe") || !fm_json_whole(json_object_get(r->root, "version"), INT32_MAX, &version)) {
        return fm_fail(err, FM_EFORMAT, "%s: it is not of a packed model", r->path);
    }
    if (version != FM_PACK_VERSION) {
        return fm_fail(err, FM_EUNSUPPORTED, "%s: the packed model is of version %" PRIu64 ", this program reads version %d", r->path, version,
                       FM_PACK_VERSION);
    }
    size_t n = json_array_size(layers);
    if (!n || n > FM_PACK_LAYERS || !dense || dense[0] == '/' || strstr(dense, "..")) {
        return fm_fail(err, FM_EFORMAT, "%s: it does not name dense.file and 1 to %d layers", r->path, FM_PACK_LAYERS);
    }
    char path[PATH_BYTES];
    int rc = fm_path_join(path, sizeof path, r->directory, dense, err);
    if (rc < 0 || (rc = fm_safetensors_add(r->tensors, path, err)) < 0) return rc;
    const json_t *narrow = json_object_get(r->root, "narrow");
    size_t copies = narrow ? 2 : 1;
    r->pack->layers = calloc(copies * n, sizeof *r->pack->layers);
    r->pack->verified = calloc(copies * n * (size_t)r->n_experts, 1);
    if (!r->pack->layers || !r->pack->verified) return fm_fail(err, FM_ENOMEM, "%s: no memory for %zu layers", r->path, n);
    r->pack->n_layers = (int)n;
    r->pack->n_copies = (int)copies;
    for (size_t i = 0; i < copies * n; i++) r->pack->layers[i].file = -1;
    for (int i = 0; i < r->pack->n_layers && rc >= 0; i++) rc = read_layer(r, i, json_array_get(layers, (size_t)i), err);
    if (rc >= 0 && narrow) rc = read_narrow(r, narrow, err);
    return rc < 0 ? rc : 0;
}

int fm_pack_open(fm_pack **pack, fm_tensors *tensors, const char *directory, int n_experts, fm_error *err) {
    reader r = {.directory = directory, .tensors = tensors, .n_experts = n_experts};
    *pack = NULL;
    int rc = fm_path_join(r.path, sizeof r.path, directory, "model.json", err);
    if (rc < 0 || (rc = fm_json_open(&r.root, r.path, err)) < 0) return rc;
    r.pack = *pack = calloc(1, sizeof **pack);
    rc = r.pack ? read_model(&r, err) : fm_fail(err, FM_ENOMEM, "%s: no memory to read it", r.path);
    json_decref(r.root);
    if (rc < 0) fm_pack_close(pack);
    return rc;
}

void fm_pack_close(fm_pack **pack) {
    fm_pack *p = *pack;
    if (!p) return;
    for (int i = 0; i < p->n_copies * p->n_layers && p->layers; i++) free(p->layers[i].hashes);
    free(p->layers);
    free(p->verified);
    free(p);
    *pack = NULL;
}
