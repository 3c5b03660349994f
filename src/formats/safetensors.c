/* formats/safetensors.c: reading headers of safetensors files and the index of a snapshot directory. Writing is safetensors_write.c. */
#include "formats/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/json.h"

#define HEADER_LIMIT ((uint64_t)100 << 20)
#define PATH_BYTES 1300

/* ---- one file ---- */

static int parse_tensor(fm_tensors *t, int file, const char *name, const json_t *entry, uint64_t data_offset, fm_error *err) {
    const char *path = t->files[file].path, *dtype = json_string_value(json_object_get(entry, "dtype"));
    const json_t *shape = json_object_get(entry, "shape"), *offsets = json_object_get(entry, "data_offsets");
    fm_tensor tensor = {.file = file, .dtype = FM_N_DTYPES};
    uint64_t begin, end;
    if (!dtype || !json_is_array(shape) || json_array_size(offsets) != 2) {
        return fm_fail(err, FM_EFORMAT, "%s: tensor %s lacks a dtype, a shape or a pair of data_offsets", path, name);
    }
    for (int i = 0; i < FM_N_DTYPES; i++) {
        if (!strcmp(dtype, fm_dtype_name((fm_dtype)i))) tensor.dtype = (fm_dtype)i;
    }
    if (tensor.dtype == FM_N_DTYPES) return fm_fail(err, FM_EUNSUPPORTED, "%s: tensor %s is of type %.40s, which is not known", path, name, dtype);
    if (json_array_size(shape) > FM_MAX_DIMS) {
        return fm_fail(err, FM_EUNSUPPORTED, "%s: tensor %s has %zu dimensions, more than %d", path, name, json_array_size(shape), FM_MAX_DIMS);
    }
    if (!fm_json_shape(shape, &tensor)) return fm_fail(err, FM_EFORMAT, "%s: tensor %s has a shape that is not made of whole numbers", path, name);
    if (!fm_json_whole(json_array_get(offsets, 0), INT64_MAX, &begin) || !fm_json_whole(json_array_get(offsets, 1), INT64_MAX, &end)) {
        return fm_fail(err, FM_EFORMAT, "%s: tensor %s has data_offsets that are not whole numbers", path, name);
    }
    if (end < begin)
        return fm_fail(err, FM_EFORMAT, "%s: tensor %s has data_offsets %" PRIu64 " to %" PRIu64 ": it ends before it begins", path, name, begin, end);
    tensor.offset = data_offset + begin;
    tensor.bytes = end - begin;
    return fm_tensors_add(t, name, &tensor, err);
}

int fm_safetensors_parse_header(fm_tensors *t, int file, const char *json, size_t header_bytes, uint64_t file_bytes, fm_error *err) {
    const char *path = t->files[file].path, *name;
    json_t *root, *entry;
    const fm_tensor *last;
    int first = t->n_tensors, rc = fm_json_parse(&root, path, "its header", json, header_bytes, err);
    if (rc < 0) return rc;
    json_object_foreach(root, name, entry) {
        if (strcmp(name, "__metadata__") && (rc = parse_tensor(t, file, name, entry, 8 + header_bytes, err)) < 0) break;
    }
    json_decref(root);
    if (rc < 0 || (rc = fm_tensors_check_places(t, first, &last, err)) < 0) return rc;
    /* Bytes that nobody names would be a sign that header and data are not of one file. */
    uint64_t end = last ? last->offset + last->bytes : 8 + header_bytes;
    if (end == file_bytes) return 0;
    return fm_fail(err, FM_EFORMAT, "%s: %" PRIu64 " bytes follow its last tensor, which ends at %" PRIu64, path, file_bytes - end, end);
}

int fm_safetensors_add(fm_tensors *t, const char *path, fm_error *err) {
    uint8_t head[8];
    uint64_t header = 0;
    int file = fm_tensors_add_file(t, path, err), rc;
    if (file < 0) return file;
    const fm_file *f = &t->files[file];
    if (f->size < sizeof head) return fm_fail(err, FM_EFORMAT, "%s: it has %" PRIu64 " bytes, too few for a safetensors file", path, f->size);
    if ((rc = fm_file_read(f, head, sizeof head, 0, err)) < 0) return rc;
    for (int i = 0; i < 8; i++) header |= (uint64_t)head[i] << (8 * i);
    if (header > f->size - sizeof head) {
        return fm_fail(err, FM_EFORMAT, "%s: its header should have %" PRIu64 " bytes, but the file has %" PRIu64 " in all", path, header, f->size);
    }
    if (header > HEADER_LIMIT)
        return fm_fail(err, FM_EFORMAT, "%s: a header of %" PRIu64 " bytes is more than the %" PRIu64 " allowed", path, header, HEADER_LIMIT);
    char *json = malloc((size_t)header + 1);
    if (!json) return fm_fail(err, FM_ENOMEM, "%s: no memory for its header of %" PRIu64 " bytes", path, header);
    rc = fm_file_read(f, json, (size_t)header, sizeof head, err);
    if (rc >= 0) rc = fm_safetensors_parse_header(t, file, json, (size_t)header, f->size, err);
    free(json);
    return rc;
}

/* ---- a directory ---- */

static int compare_names(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* Adds shards[0..n), the same name being there many times. */
static int add_shards(fm_tensors *t, const char *directory, const char **shards, size_t n, fm_error *err) {
    char path[PATH_BYTES];
    int rc = 0;
    qsort(shards, n, sizeof *shards, compare_names);
    for (size_t i = 0; i < n && rc >= 0; i++) {
        if (i && !strcmp(shards[i], shards[i - 1])) continue;
        if ((rc = fm_path_join(path, sizeof path, directory, shards[i], err)) >= 0) rc = fm_safetensors_add(t, path, err);
    }
    return rc;
}

/* Each tensor of the index must be in the shard that it names. */
static int check_map(const fm_tensors *t, const char *path, json_t *map, fm_error *err) {
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value) {
        const fm_tensor *tensor = fm_tensors_find(t, name);
        if (!tensor) return fm_fail(err, FM_EFORMAT, "%s: tensor %s should be in %s, but it is in none of the files", path, name, json_string_value(value));
        const char *in = strrchr(t->files[tensor->file].path, '/') + 1; /* a joined path */
        if (strcmp(in, json_string_value(value))) {
            return fm_fail(err, FM_EFORMAT, "%s: tensor %s should be in %s, but it is in %s", path, name, json_string_value(value), in);
        }
    }
    return 0;
}

static int add_indexed(fm_tensors *t, const char *directory, const char *path, fm_error *err) {
    const char *name, **shards = NULL;
    size_t n = 0;
    json_t *root, *map, *value;
    int rc = fm_json_open(&root, path, err);
    if (rc < 0) return rc;
    map = json_object_get(root, "weight_map");
    if (json_object_size(map) == 0) { /* of what is no object, too */
        rc = fm_fail(err, FM_EFORMAT, "%s: its weight_map names no tensors", path);
        goto done;
    }
    if (!(shards = calloc(json_object_size(map), sizeof *shards))) {
        rc = fm_fail(err, FM_ENOMEM, "%s: no memory for %zu tensors", path, json_object_size(map));
        goto done;
    }
    json_object_foreach(map, name, value) {
        const char *file = json_string_value(value);
        if (!file || !*file || strchr(file, '/') || !strcmp(file, ".") || !strcmp(file, "..")) {
            rc = fm_fail(err, FM_EFORMAT, "%s: tensor %s is in '%s', which is no name of a file beside the index", path, name, file ? file : "");
            goto done;
        }
        shards[n++] = file;
    }
    rc = add_shards(t, directory, shards, n, err);
    if (rc >= 0) rc = fm_tensors_finish(t, err);
    if (rc >= 0) rc = check_map(t, path, map, err);
done:
    free(shards);
    json_decref(root);
    return rc;
}

typedef struct listing {
    char **names;
    size_t n;
} listing;

static void listing_close(listing *l) {
    for (size_t i = 0; i < l->n; i++) free(l->names[i]);
    free(l->names);
    *l = (listing){0};
}

static bool is_shard(const char *name, const char *prefix) {
    static const char suffix[] = ".safetensors";
    size_t n = strlen(name);
    return name[0] != '.' && n >= sizeof suffix - 1 && !strcmp(name + n - (sizeof suffix - 1), suffix) && !strncmp(name, prefix, strlen(prefix));
}

/* The *.safetensors files of directory whose names begin with prefix. */
static int list_shards(listing *l, const char *directory, const char *prefix, fm_error *err) {
    DIR *dir = opendir(directory);
    if (!dir) return fm_fail_errno(err, FM_EIO, errno, "%s", directory);
    int rc = 0;
    for (struct dirent *e; rc == 0 && (e = readdir(dir));) {
        if (!is_shard(e->d_name, prefix)) continue;
        char **names = realloc(l->names, (l->n + 1) * sizeof *names);
        if (names) l->names = names;
        if (names && (names[l->n] = strdup(e->d_name))) {
            l->n++;
        } else {
            rc = fm_fail(err, FM_ENOMEM, "%s: no memory for its list of files", directory);
        }
    }
    closedir(dir);
    return rc;
}

int fm_safetensors_add_snapshot(fm_tensors *t, const char *directory, fm_error *err) {
    char path[PATH_BYTES];
    int rc = fm_path_join(path, sizeof path, directory, "model.safetensors.index.json", err);
    if (rc < 0) return rc;
    if (fm_path_exists(path)) return add_indexed(t, directory, path, err);
    listing l = {0};
    rc = list_shards(&l, directory, "model", err);
    if (rc >= 0 && l.n == 0) rc = list_shards(&l, directory, "", err);
    if (rc >= 0 && l.n == 0) rc = fm_fail(err, FM_EFORMAT, "%s: it has no safetensors files", directory);
    if (rc >= 0 && l.n > 1 && strncmp(l.names[0], "model", 5)) {
        rc = fm_fail(err, FM_EFORMAT, "%s: it has %zu safetensors files, but no model.safetensors.index.json that says which are the model's", directory, l.n);
    }
    if (rc >= 0) rc = add_shards(t, directory, (const char **)l.names, l.n, err);
    listing_close(&l);
    return rc;
}
