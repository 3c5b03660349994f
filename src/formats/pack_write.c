/* formats/pack_write.c: see pack.h: writing. */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/memory.h"
#include "base/write.h"
#include "formats/json.h"
#include "formats/pack.h"
#include "formats/safetensors.h"

#define PATH_BYTES 1300
#define STAGE_BYTES ((size_t)4 << 20) /* of the dense part that are written at once */

typedef struct dense_tensor {
    char *name;
    uint64_t bytes;
} dense_tensor;

struct fm_packer {
    char directory[PATH_BYTES - 8], part[PATH_BYTES];
    int n_layers, n_experts; /* n_layers: of all copies, of which n_wide are of the first */
    int n_wide;
    bool made; /* part is there, and is removed unless it is finished */
    int lock;  /* of part, when it stays; -1: none */
    json_t *hashes, *layers;

    /* dense.safetensors: tensor `tensor` is being written, `left` bytes of it are to come. */
    fm_writer dense;
    dense_tensor *tensors;
    int n_tensors, tensor;
    uint64_t left, at, dense_bytes; /* at: offset of the stage in the file; dense_bytes: of all of it */
    fm_region stage;
    size_t staged;
    XXH3_state_t *state;
    enum { DENSE_NOT_BEGUN, DENSE_OPEN, DENSE_WRITTEN } dense_state;

    /* The layer being written; -1: none. */
    fm_writer file;
    int layer;
    uint64_t expert_bytes;
    uint64_t *expert_hashes;
    _Atomic(unsigned char) *written; /* [n_experts] */
};

static int inside(const fm_packer *p, char out[PATH_BYTES], const char *name, fm_error *err) { return fm_path_join(out, PATH_BYTES, p->part, name, err); }

/* ---- the directory ---- */

/* Removes a directory's files for which keep (NULL: none) is false; and the directory, its folders too if they are empty, when it keeps none. */
static void remove_directory(const fm_packer *p, const char *path, bool (*keep)(const fm_packer *p, const char *path, const char *name)) {
    char name[PATH_BYTES + 256];
    DIR *directory = opendir(path);
    for (struct dirent *e; directory && (e = readdir(directory));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        snprintf(name, sizeof name, "%s/%s", path, e->d_name);
        if (!keep || !keep(p, name, e->d_name)) (void)remove(name);
    }
    if (directory) closedir(directory);
    if (!keep) (void)rmdir(path);
}

static bool has_bytes(const char *path, uint64_t bytes) {
    struct stat st;
    return lstat(path, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == bytes;
}

static uint64_t layer_bytes(const fm_packer *p, uint64_t expert_bytes) { return (uint64_t)p->n_experts * (expert_bytes + 8) + 8; }

static void layer_name(const fm_packer *p, char name[64], int layer) {
    snprintf(name, 64, layer < p->n_wide ? "experts/layer_%02d.bin" : "experts/narrow_%02d.bin", layer % p->n_wide);
}

/* Whether an entry of the state, a layer's, is of a file that is there. */
static bool is_written(const fm_packer *p, int layer, const json_t *entry) {
    char path[PATH_BYTES], name[64];
    uint64_t bytes;
    const char *file = json_string_value(json_object_get(entry, "file"));
    layer_name(p, name, layer);
    if (!file || strcmp(file, name) || !fm_json_whole(json_object_get(entry, "expert_bytes"), (uint64_t)1 << 40, &bytes)) return false;
    return inside(p, path, file, NULL) == 0 && has_bytes(path, layer_bytes(p, bytes));
}

static void take_state(fm_packer *p, const json_t *state) {
    char path[PATH_BYTES];
    json_t *tensors = json_object_get(state, "tensors");
    if (json_is_object(tensors) && fm_json_whole(json_object_get(state, "dense_bytes"), INT64_MAX, &p->dense_bytes) &&
        inside(p, path, "dense.safetensors", NULL) == 0 && has_bytes(path, p->dense_bytes) && json_object_update(p->hashes, tensors) == 0) {
        p->dense_state = DENSE_WRITTEN;
    }
    for (int i = 0; i < p->n_layers; i++) {
        json_t *entry = json_array_get(json_object_get(state, "layers"), (size_t)i);
        if (is_written(p, i, entry)) json_array_set(p->layers, (size_t)i, entry);
    }
}

static bool keep_dense(const fm_packer *p, const char *path, const char *name) {
    (void)path;
    return !strcmp(name, "experts") || (p->dense_state == DENSE_WRITTEN && !strcmp(name, "dense.safetensors"));
}

static bool keep_layer(const fm_packer *p, const char *path, const char *name) {
    (void)path;
    char own[64];
    for (int i = 0; i < p->n_layers; i++) {
        layer_name(p, own, i);
        if (!strcmp(own + strlen("experts/"), name)) return fm_packer_has_layer(p, i);
    }
    return false;
}

/* Makes DIR.part and what is in it, or finds it there. */
static int make_part(fm_packer *p, bool again, const json_t *state, fm_error *err) {
    char experts[PATH_BYTES];
    struct stat st;
    int rc = inside(p, experts, "experts", err);
    if (rc < 0) return rc;
    if (lstat(p->directory, &st) == 0) return fm_fail(err, FM_EIO, "%s: it is there already", p->directory);
    if (mkdir(p->part, 0777)) {
        if (errno != EEXIST) return fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be made", p->part);
        if (!again) return fm_fail(err, FM_EIO, "%s: it is there already, left by a program that was stopped or still writes; remove it first", p->part);
    }
    p->made = !again;
    if (mkdir(experts, 0777) && !(again && errno == EEXIST)) return fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be made", experts);
    if (!again) return 0;
    p->lock = open(p->part, O_RDONLY | O_CLOEXEC);
    if (p->lock < 0) return fm_fail_errno(err, FM_EIO, errno, "%s", p->part);
    if (flock(p->lock, LOCK_EX | LOCK_NB)) return fm_fail(err, FM_EIO, "%s: another program is writing it", p->part);
    take_state(p, state);
    remove_directory(p, p->part, keep_dense);
    remove_directory(p, experts, keep_layer);
    return 0;
}

static int open_packer(fm_packer **out, const char *directory, const int shape[3], const json_t *const *state, fm_error *err) {
    int n_layers = shape[0] * shape[2], n_experts = shape[1];
    size_t n = strlen(directory);
    *out = NULL;
    while (n > 1 && directory[n - 1] == '/') n--;
    if (n == 0) return fm_fail(err, FM_EINVAL, "the directory to write has no name");
    fm_packer *p = calloc(1, sizeof *p);
    if (!p) return fm_fail(err, FM_ENOMEM, "%s: no memory to write it", directory);
    p->n_layers = n_layers;
    p->n_wide = shape[0];
    p->n_experts = n_experts;
    p->layer = p->lock = -1;
    int rc = 0;
    if (n >= sizeof p->directory) {
        rc = fm_fail(err, FM_EINVAL, "%s: the path is too long", directory);
        goto fail;
    }
    memcpy(p->directory, directory, n);
    snprintf(p->part, sizeof p->part, "%s.part", p->directory);
    p->hashes = json_object();
    p->layers = json_array();
    p->expert_hashes = calloc((size_t)n_experts + 1, sizeof *p->expert_hashes);
    p->written = calloc((size_t)n_experts + 1, sizeof *p->written);
    p->state = XXH3_createState();
    for (int i = 0; i < n_layers && p->layers; i++) json_array_append_new(p->layers, json_null());
    if (!p->hashes || json_array_size(p->layers) != (size_t)n_layers || !p->expert_hashes || !p->written || !p->state) {
        rc = fm_fail(err, FM_ENOMEM, "%s: no memory to write %d layers of %d experts", directory, n_layers, n_experts);
        goto fail;
    }
    if ((rc = make_part(p, state != NULL, state ? *state : NULL, err)) < 0) goto fail;
    *out = p;
    return 0;
fail:
    fm_packer_close(&p);
    return rc;
}

int fm_packer_open(fm_packer **out, const char *directory, int n_layers, int n_experts, fm_error *err) {
    return open_packer(out, directory, (const int[3]){n_layers, n_experts, 1}, NULL, err);
}

int fm_packer_open_copies(fm_packer **out, const char *directory, const int shape[3], const json_t *state, fm_error *err) {
    return open_packer(out, directory, shape, &state, err);
}

bool fm_packer_has_dense(const fm_packer *p) { return p->dense_state == DENSE_WRITTEN; }
bool fm_packer_has_layer(const fm_packer *p, int layer) { return p->layer != layer && json_is_object(json_array_get(p->layers, (size_t)layer)); }

json_t *fm_packer_state(const fm_packer *p) {
    json_t *layers = json_copy(p->layers);
    if (layers && p->layer >= 0) json_array_set_new(layers, (size_t)p->layer, json_null());
    if (p->dense_state != DENSE_WRITTEN) return json_pack("{s:n, s:o}", "tensors", "layers", layers);
    return json_pack("{s:I, s:O, s:o}", "dense_bytes", (json_int_t)p->dense_bytes, "tensors", p->hashes, "layers", layers);
}

static void free_tensors(fm_packer *p) {
    for (int i = 0; i < p->n_tensors; i++) free(p->tensors[i].name);
    free(p->tensors);
    p->tensors = NULL;
    p->n_tensors = 0;
}

void fm_packer_close(fm_packer **packer) {
    fm_packer *p = *packer;
    if (!p) return;
    char experts[PATH_BYTES];
    fm_writer_close(&p->dense);
    fm_writer_close(&p->file);
    if (p->made) {
        if (inside(p, experts, "experts", NULL) == 0) remove_directory(p, experts, NULL);
        remove_directory(p, p->part, NULL);
    }
    if (p->lock >= 0) close(p->lock);
    free_tensors(p);
    fm_region_close(&p->stage);
    if (p->state) XXH3_freeState(p->state);
    free(p->expert_hashes);
    free(p->written);
    json_decref(p->hashes);
    json_decref(p->layers);
    free(p);
    *packer = NULL;
}

/* ---- files beside the model ---- */

int fm_packer_file(fm_packer *p, const char *name, const void *data, size_t bytes, fm_error *err) {
    char path[PATH_BYTES];
    fm_writer w;
    int rc = inside(p, path, name, err);
    if (rc < 0 || (rc = fm_writer_open(&w, path, bytes, err)) < 0) return rc;
    if ((rc = fm_writer_put(&w, data, bytes, 0, err)) == 0) return fm_writer_finish(&w, err);
    fm_writer_close(&w);
    return rc;
}

int fm_packer_copy(fm_packer *p, const char *name, const char *path, fm_error *err) {
    enum { PIECE = 1 << 20 };
    char to[PATH_BYTES];
    fm_file from;
    fm_writer w = {0};
    uint8_t *piece = NULL;
    int rc = fm_file_open(&from, path, false, err);
    if (rc < 0) return rc;
    if ((rc = inside(p, to, name, err)) < 0 || (rc = fm_writer_open(&w, to, from.size, err)) < 0) goto done;
    if (!(piece = malloc(PIECE))) rc = fm_fail(err, FM_ENOMEM, "%s: no memory to copy it", path);
    for (uint64_t at = 0; at < from.size && rc == 0; at += PIECE) {
        size_t n = from.size - at < PIECE ? (size_t)(from.size - at) : PIECE;
        if ((rc = fm_file_read(&from, piece, n, at, err)) == 0) rc = fm_writer_put(&w, piece, n, at, err);
    }
    if (rc == 0) rc = fm_writer_finish(&w, err);
done:
    free(piece);
    fm_writer_close(&w);
    fm_file_close(&from);
    return rc;
}

/* ---- the dense part ---- */

static uint64_t tensor_bytes(const fm_pack_tensor *t) {
    uint64_t n = fm_dtype_bytes(t->dtype);
    for (int i = 0; i < t->n_dims; i++) n *= t->shape[i];
    return n;
}

static int write_stage(fm_packer *p, fm_error *err) {
    int rc = fm_writer_put(&p->dense, p->stage.data, p->staged, p->at, err);
    p->at += p->staged;
    p->staged = 0;
    return rc;
}

static int stage(fm_packer *p, const uint8_t *data, size_t bytes, fm_error *err) {
    for (int rc; bytes;) {
        size_t n = STAGE_BYTES - p->staged < bytes ? STAGE_BYTES - p->staged : bytes;
        memcpy(p->stage.data + p->staged, data, n);
        p->staged += n;
        data += n;
        bytes -= n;
        if (p->staged == STAGE_BYTES && (rc = write_stage(p, err)) < 0) return rc;
    }
    return 0;
}

static json_t *hash_json(uint64_t hash) {
    char text[20];
    snprintf(text, sizeof text, "%016" PRIx64, hash);
    return json_string(text);
}

/* While the present tensor has all its bytes: notes its hash and goes on to the next. */
static int end_tensors(fm_packer *p, fm_error *err) {
    while (p->tensor < p->n_tensors && p->left == 0) {
        if (json_object_set_new(p->hashes, p->tensors[p->tensor].name, hash_json(XXH3_64bits_digest(p->state)))) {
            return fm_fail(err, FM_ENOMEM, "%s: no memory for %d tensors", p->directory, p->n_tensors);
        }
        XXH3_64bits_reset(p->state);
        if (++p->tensor < p->n_tensors) p->left = p->tensors[p->tensor].bytes;
    }
    return 0;
}

/* The list of tensors, and the file's header. */
static int list_tensors(fm_packer *p, const char *path, const fm_pack_tensor *tensors, int n, char **header, fm_error *err) {
    fm_safetensors_entry *entries = calloc((size_t)n + 1, sizeof *entries);
    p->tensors = calloc((size_t)n + 1, sizeof *p->tensors);
    int rc = entries && p->tensors ? 0 : FM_ENOMEM;
    for (int i = 0; i < n && rc == 0; i++) {
        entries[i] = (fm_safetensors_entry){.name = tensors[i].name, .dtype = tensors[i].dtype, .n_dims = tensors[i].n_dims};
        memcpy(entries[i].shape, tensors[i].shape, sizeof entries[i].shape);
        p->tensors[i] = (dense_tensor){strdup(tensors[i].name), tensor_bytes(&tensors[i])};
        p->n_tensors = i + 1;
        if (!p->tensors[i].name) rc = FM_ENOMEM;
    }
    rc = rc < 0 ? fm_fail(err, rc, "%s: no memory for %d tensors", path, n) : fm_safetensors_header(header, path, entries, n, err);
    free(entries);
    return rc;
}

int fm_packer_dense(fm_packer *p, const fm_pack_tensor *tensors, int n, fm_error *err) {
    char path[PATH_BYTES], *header = NULL;
    uint8_t length[8];
    uint64_t bytes = 0;
    if (p->dense_state != DENSE_NOT_BEGUN) return fm_fail(err, FM_EINVAL, "%s: its dense part is begun twice", p->directory);
    int rc = inside(p, path, "dense.safetensors", err);
    if (rc < 0 || (rc = list_tensors(p, path, tensors, n, &header, err)) < 0) goto done;
    for (int i = 0; i < n; i++) bytes += p->tensors[i].bytes;
    if ((rc = fm_region_open(&p->stage, STAGE_BYTES, "writing the dense part", err)) < 0) goto done;
    p->dense_bytes = 8 + strlen(header) + bytes;
    if ((rc = fm_writer_open(&p->dense, path, p->dense_bytes, err)) < 0) goto done;
    p->dense_state = DENSE_OPEN;
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)strlen(header) >> (8 * i));
    if ((rc = stage(p, length, sizeof length, err)) < 0 || (rc = stage(p, (const uint8_t *)header, strlen(header), err)) < 0) goto done;
    XXH3_64bits_reset(p->state);
    p->left = n ? p->tensors[0].bytes : 0;
    rc = end_tensors(p, err);
done:
    free(header);
    return rc;
}

int fm_packer_dense_write(fm_packer *p, const void *data, size_t bytes, fm_error *err) {
    const uint8_t *from = data;
    if (p->dense_state != DENSE_OPEN) return fm_fail(err, FM_EINVAL, "%s: its dense part is not open", p->directory);
    for (int rc; bytes;) {
        if (p->tensor == p->n_tensors) return fm_fail(err, FM_EINVAL, "%s: %zu bytes follow the last tensor", p->dense.path, bytes);
        size_t n = p->left < bytes ? (size_t)p->left : bytes;
        XXH3_64bits_update(p->state, from, n);
        if ((rc = stage(p, from, n, err)) < 0) return rc;
        p->left -= n;
        from += n;
        bytes -= n;
        if ((rc = end_tensors(p, err)) < 0) return rc;
    }
    return 0;
}

int fm_packer_dense_end(fm_packer *p, fm_error *err) {
    if (p->dense_state != DENSE_OPEN) return fm_fail(err, FM_EINVAL, "%s: its dense part is not open", p->directory);
    if (p->tensor < p->n_tensors) {
        return fm_fail(err, FM_EINVAL, "%s: tensor %s lacks %" PRIu64 " bytes", p->dense.path, p->tensors[p->tensor].name, p->left);
    }
    int rc = write_stage(p, err);
    if (rc < 0 || (rc = fm_writer_finish(&p->dense, err)) < 0) return rc;
    fm_region_close(&p->stage);
    free_tensors(p);
    p->dense_state = DENSE_WRITTEN;
    return 0;
}

/* ---- experts ---- */

static json_t *matrix_json(const fm_matrix_type *t) {
    static const char *const formats[] = {[FM_FORMAT_F32] = "F32", [FM_FORMAT_F16] = "F16", [FM_FORMAT_BF16] = "BF16", [FM_FORMAT_F8] = "F8_E4M3"};
    if (t->format != FM_FORMAT_R16 || fm_is_mx(t)) {
        return json_pack("{s:i, s:i, s:s}", "rows", t->rows, "cols", t->cols, "format", fm_is_mx(t) ? "mxfp4" : formats[t->format]);
    }
    return json_pack("{s:i, s:i, s:s, s:i, s:i, s:s}", "rows", t->rows, "cols", t->cols, "format", "affine", "bits", t->bits, "group", t->group, "scales",
                     fm_dtype_name(t->scale_dtype));
}

/* FM_EINVAL unless layer may be given now. */
static int check_layer(const fm_packer *p, int layer, fm_error *err) {
    if (layer < 0 || layer >= p->n_layers) return fm_fail(err, FM_EINVAL, "%s: there are %d layers, no layer %d", p->directory, p->n_layers, layer);
    if (p->layer >= 0) return fm_fail(err, FM_EINVAL, "%s: layer %d is not ended yet, but layer %d begins", p->directory, p->layer, layer);
    if (!json_is_null(json_array_get(p->layers, (size_t)layer))) return fm_fail(err, FM_EINVAL, "%s: layer %d is given twice", p->directory, layer);
    return 0;
}

int fm_packer_layer(fm_packer *p, int layer, const fm_matrix_type types[FM_EXPERT_MATRICES], fm_error *err) {
    static const char *const biases[] = {"gate_bias", "up_bias", "down_bias"};
    char path[PATH_BYTES], name[64];
    int rc = check_layer(p, layer, err);
    if (rc < 0) return rc;
    layer_name(p, name, layer);
    if ((rc = inside(p, path, name, err)) < 0) return rc;
    uint64_t bytes = fm_pack_expert_bytes(types, NULL);
    json_t *json = json_pack("{s:s, s:I, s:o, s:o, s:o}", "file", name, "expert_bytes", (json_int_t)bytes, "gate", matrix_json(&types[0]), "up",
                             matrix_json(&types[1]), "down", matrix_json(&types[2]));
    if (!json) return fm_fail(err, FM_ENOMEM, "%s: no memory to describe it", path);
    for (int i = 0; i < 3; i++) {
        if (types[3 + i].rows) json_object_set_new(json, biases[i], matrix_json(&types[3 + i]));
    }
    json_array_set_new(p->layers, (size_t)layer, json);
    if ((rc = fm_writer_open(&p->file, path, layer_bytes(p, bytes), err)) < 0) return rc;
    p->layer = layer;
    p->expert_bytes = bytes;
    for (int i = 0; i < p->n_experts; i++) atomic_store(&p->written[i], 0);
    return 0;
}

int fm_packer_expert(fm_packer *p, int expert, const void *data, fm_error *err) {
    assert((uintptr_t)data % FM_WRITE_ALIGNMENT == 0);
    if (p->layer < 0 || expert < 0 || expert >= p->n_experts) {
        return fm_fail(err, FM_EINVAL, "%s: expert %d has no place: layer %d is open and has %d", p->directory, expert, p->layer, p->n_experts);
    }
    if (atomic_exchange(&p->written[expert], 1)) return fm_fail(err, FM_EINVAL, "%s: expert %d is given twice", p->file.path, expert);
    p->expert_hashes[expert] = fm_pack_hash(data, (size_t)p->expert_bytes);
    return fm_writer_put(&p->file, data, (size_t)p->expert_bytes, (uint64_t)expert * p->expert_bytes, err);
}

int fm_packer_layer_end(fm_packer *p, fm_error *err) {
    if (p->layer < 0) return fm_fail(err, FM_EINVAL, "%s: no layer is open", p->directory);
    for (int i = 0; i < p->n_experts; i++) {
        if (!atomic_load(&p->written[i])) return fm_fail(err, FM_EINVAL, "%s: expert %d is not given", p->file.path, i);
    }
    size_t n = (size_t)p->n_experts + 1;
    uint8_t *table = malloc(n * 8);
    if (!table) return fm_fail(err, FM_ENOMEM, "%s: no memory for its table", p->file.path);
    for (size_t i = 0; i < n; i++) {
        uint64_t hash = i + 1 < n ? p->expert_hashes[i] : fm_pack_hash(table, (n - 1) * 8);
        for (int b = 0; b < 8; b++) table[i * 8 + (size_t)b] = (uint8_t)(hash >> (8 * b));
    }
    int rc = fm_writer_put(&p->file, table, n * 8, (uint64_t)p->n_experts * p->expert_bytes, err);
    free(table);
    if (rc < 0) return rc;
    p->layer = -1;
    return fm_writer_finish(&p->file, err);
}

int fm_packer_layer_like(fm_packer *p, int layer, int earlier, fm_error *err) {
    char from[PATH_BYTES], to[PATH_BYTES], name[64];
    int rc = check_layer(p, layer, err);
    if (rc < 0) return rc;
    const json_t *like = json_array_get(p->layers, earlier < 0 ? SIZE_MAX : (size_t)earlier);
    if (!json_is_object(like)) return fm_fail(err, FM_EINVAL, "%s: layer %d cannot be like layer %d, which has no file", p->directory, layer, earlier);
    json_t *json = json_deep_copy(like);
    if (!json || json_array_set_new(p->layers, (size_t)layer, json)) return fm_fail(err, FM_ENOMEM, "%s: no memory to describe layer %d", p->directory, layer);
    if ((rc = inside(p, from, json_string_value(json_object_get(like, "file")), err)) < 0) return rc;
    layer_name(p, name, layer);
    if ((rc = inside(p, to, name, err)) < 0) return rc;
    /* Where a file can have no second name, model.json names the one it has. */
    if (link(from, to) == 0) return json_object_set_new(json, "file", json_string(name)) ? fm_fail(err, FM_ENOMEM, "%s: no memory for its name", to) : 0;
    if (errno == EPERM || errno == EOPNOTSUPP || errno == ENOTSUP || errno == EMLINK) return 0;
    return fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be made, a second name of %s", to, from);
}

/* ---- the end ---- */

static int write_description(fm_packer *p, const char *made_by, fm_error *err) {
    json_t *wide = json_array(), *narrow = p->n_layers > p->n_wide ? json_array() : NULL;
    for (int i = 0; i < p->n_layers; i++) json_array_append(i < p->n_wide ? wide : narrow, json_array_get(p->layers, (size_t)i));
    json_t *json = json_pack("{s:s, s:i, s:s, s:{s:s, s:O}, s:o, s:o*}", "format", "flash-moe", "version", FM_PACK_VERSION, "made_by", made_by, "dense", "file",
                             "dense.safetensors", "tensors", p->hashes, "layers", wide, "narrow", narrow);
    char *text = json ? json_dumps(json, JSON_INDENT(1)) : NULL;
    int rc = text ? fm_packer_file(p, "model.json", text, strlen(text), err) : fm_fail(err, FM_ENOMEM, "%s: no memory for model.json", p->directory);
    json_decref(json);
    free(text);
    return rc;
}

int fm_packer_finish(fm_packer *p, const char *made_by, fm_error *err) {
    char path[PATH_BYTES];
    struct stat st;
    if (p->dense_state != DENSE_WRITTEN) return fm_fail(err, FM_EINVAL, "%s: its dense part is not written", p->directory);
    if (p->layer >= 0) return fm_fail(err, FM_EINVAL, "%s: layer %d is not ended", p->directory, p->layer);
    int rc = write_description(p, made_by, err);
    if (rc < 0 || (rc = inside(p, path, "experts", err)) < 0 || (rc = fm_directory_sync(path, err)) < 0 || (rc = fm_directory_sync(p->part, err)) < 0)
        return rc;
    if (lstat(p->directory, &st) == 0) return fm_fail(err, FM_EIO, "%s: it is there already, made since this began", p->directory);
    if (rename(p->part, p->directory)) return fm_fail_errno(err, FM_EIO, errno, "%s: %s cannot be renamed to it", p->directory, p->part);
    p->made = false;
    const char *slash = strrchr(p->directory, '/');
    snprintf(path, sizeof path, "%.*s", slash ? (int)(slash - p->directory) + 1 : 1, slash ? p->directory : ".");
    return fm_directory_sync(path, err);
}
