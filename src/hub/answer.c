/* hub/answer.c: see answer.h. */
#include "hub/answer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/json.h"
#include "hub/name.h"

#define MOST_FILES 100000
#define MOST_BYTES ((uint64_t)1 << 50)

/* ---- the listing ---- */

/* Size and hash of one file; false: they are there and wrong. */
static bool read_contents(fm_hub_file *file, const json_t *json) {
    const json_t *lfs = json_object_get(json, "lfs");
    bool large = json_is_object(lfs);
    const json_t *bytes = json_object_get(large ? lfs : json, "size"), *hash = json_object_get(large ? lfs : json, large ? "sha256" : "blobId");
    if (!bytes || json_is_null(bytes) || !hash || json_is_null(hash)) return true;
    if (!fm_json_whole(bytes, MOST_BYTES, &file->bytes) || !json_is_string(hash) || !fm_hub_is_hash(json_string_value(hash), large ? 64 : 40)) return false;
    snprintf(file->hash, sizeof file->hash, "%s", json_string_value(hash));
    return true;
}

static int by_name(const void *a, const void *b) { return strcmp(((const fm_hub_file *)a)->name, ((const fm_hub_file *)b)->name); }

static int read_files(fm_hub_listing *out, const char *where, const json_t *list, fm_error *err) {
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n == 0 || n > MOST_FILES) return fm_fail(err, FM_EFORMAT, "%s: the hub's answer lists no files", where);
    if (!(out->files = calloc(n, sizeof *out->files))) return fm_fail(err, FM_ENOMEM, "%s: no memory for a list of %zu files", where, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *json = json_array_get(list, i);
        const char *name = json_string_value(json_object_get(json, "rfilename"));
        fm_hub_file *file = &out->files[out->n_files];
        if (!name) return fm_fail(err, FM_EFORMAT, "%s: file %zu of the hub's answer has no name", where, i);
        if (!fm_hub_is_file(name)) continue;
        if (!read_contents(file, json)) return fm_fail(err, FM_EFORMAT, "%s: the hub's answer has no proper size and hash of %.200s", where, name);
        if (!(file->name = strdup(name))) return fm_fail(err, FM_ENOMEM, "%s: no memory for a list of %zu files", where, n);
        out->n_files++;
    }
    qsort(out->files, (size_t)out->n_files, sizeof *out->files, by_name);
    for (int i = 1; i < out->n_files; i++) {
        if (!strcmp(out->files[i - 1].name, out->files[i].name))
            return fm_fail(err, FM_EFORMAT, "%s: the hub's answer has %.200s twice", where, out->files[i].name);
    }
    return 0;
}

int fm_hub_listing_parse(fm_hub_listing *out, const char *where, const char *text, size_t bytes, fm_error *err) {
    json_t *root;
    *out = (fm_hub_listing){0};
    int rc = fm_json_parse(&root, where, "the hub's answer", text, bytes, err);
    if (rc < 0) return rc;
    const char *commit = json_string_value(json_object_get(root, "sha"));
    if (commit && fm_hub_is_hash(commit, 40)) {
        snprintf(out->commit, sizeof out->commit, "%s", commit);
        rc = read_files(out, where, json_object_get(root, "siblings"), err);
    } else {
        rc = fm_fail(err, FM_EFORMAT, "%s: the hub's answer names no commit", where);
    }
    json_decref(root);
    if (rc < 0) fm_hub_listing_close(out);
    return rc;
}

void fm_hub_listing_close(fm_hub_listing *l) {
    for (int i = 0; i < l->n_files; i++) free(l->files[i].name);
    free(l->files);
    *l = (fm_hub_listing){0};
}

const fm_hub_file *fm_hub_listing_find(const fm_hub_listing *l, const char *name) {
    const fm_hub_file key = {.name = (char *)name};
    return l->n_files ? bsearch(&key, l->files, (size_t)l->n_files, sizeof *l->files, by_name) : NULL;
}

/* ---- what is needed of it ---- */

static bool ends(const char *name, const char *suffix) {
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && !strcmp(name + n - m, suffix);
}

/* Configs, tokenizers and templates, which lie at the top. */
static bool is_text(const char *name) {
    static const char *const names[] = {"merges.txt", "vocab.txt", "tokenizer.model"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!strcmp(name, names[i])) return true;
    }
    return !strchr(name, '/') && name[0] != '.' && (ends(name, ".json") || ends(name, ".jinja")) && !ends(name, ".index.json");
}

static bool is_shard(const char *name, const char *prefix) {
    return !strchr(name, '/') && !strncmp(name, prefix, strlen(prefix)) && ends(name, ".safetensors");
}

static int count_shards(const fm_hub_listing *l, const char *prefix) {
    int n = 0;
    for (int i = 0; i < l->n_files; i++) n += is_shard(l->files[i].name, prefix);
    return n;
}

/* The shards that an index names. */
static int mark_indexed(fm_hub_listing *l, const char *where, const char *index, size_t bytes, fm_error *err) {
    const char *tensor;
    json_t *root, *value;
    char place[400];
    snprintf(place, sizeof place, "%.300s: " FM_HUB_INDEX, where);
    int rc = fm_json_parse(&root, place, NULL, index, bytes, err);
    if (rc < 0) return rc;
    json_t *map = json_object_get(root, "weight_map");
    if (json_object_size(map) == 0) rc = fm_fail(err, FM_EFORMAT, "%s: its weight_map names no tensors", place);
    json_object_foreach(map, tensor, value) {
        const char *name = json_string_value(value);
        fm_hub_file *file = name && is_shard(name, "") ? (fm_hub_file *)fm_hub_listing_find(l, name) : NULL;
        if (!file) {
            rc = fm_fail(err, FM_EFORMAT, "%s: tensor %.200s is in '%.200s', which the model does not have", place, tensor, name ? name : "");
            break;
        }
        file->weights = true;
    }
    json_decref(root);
    return rc;
}

static int mark_weights(fm_hub_listing *l, const char *where, const char *index, size_t bytes, fm_error *err) {
    bool packed = fm_hub_listing_find(l, "model.json") && fm_hub_listing_find(l, "dense.safetensors");
    const char *prefix = count_shards(l, "model") ? "model" : "";
    int n = count_shards(l, prefix);
    if (packed) {
        for (int i = 0; i < l->n_files; i++) {
            const char *name = l->files[i].name;
            l->files[i].weights = !strcmp(name, "dense.safetensors") || (!strncmp(name, "experts/", 8) && !strchr(name + 8, '/') && ends(name, ".bin"));
        }
        return 0;
    }
    if (index) return mark_indexed(l, where, index, bytes, err);
    if (n == 0) return fm_fail(err, FM_EFORMAT, "%s: it has no safetensors files, which are what can be run", where);
    if (n > 1 && !*prefix)
        return fm_fail(err, FM_EFORMAT, "%s: it has %d safetensors files, but no " FM_HUB_INDEX " that says which are the model's", where, n);
    for (int i = 0; i < l->n_files; i++) l->files[i].weights = is_shard(l->files[i].name, prefix);
    return 0;
}

int fm_hub_listing_select(fm_hub_listing *l, const char *where, const char *index, size_t index_bytes, fm_error *err) {
    if (!fm_hub_listing_find(l, "config.json")) return fm_fail(err, FM_EFORMAT, "%s: it has no config.json", where);
    int rc = mark_weights(l, where, index, index_bytes, err), n = 0, room = l->n_files;
    if (rc < 0) return rc;
    fm_hub_file *kept = calloc((size_t)room, sizeof *kept);
    if (!kept) return fm_fail(err, FM_ENOMEM, "%s: no memory for a list of %d files", where, room);
    for (int weights = 0; weights < 2; weights++) {
        for (int i = 0; i < room; i++) {
            fm_hub_file *file = &l->files[i];
            if (!file->name || file->weights != weights) continue;
            if (!weights && !is_text(file->name) && !(index && !strcmp(file->name, FM_HUB_INDEX))) continue;
            kept[n++] = *file;
            file->name = NULL;
        }
    }
    for (int i = 0; i < room; i++) free(l->files[i].name);
    free(l->files);
    l->files = kept;
    l->n_files = n;
    return 0;
}
