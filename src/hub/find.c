/* hub/find.c: a model that was pulled before, by its name. The hub is not asked. */
#include <dirent.h>
#include <string.h>

#include "base/file.h"
#include "flash_moe_tools.h"
#include "formats/json.h"
#include "hub/cache.h"

/* Whether each file that the index names is there. */
static bool has_shards(const char *snapshot, const char *index) {
    const char *tensor;
    char path[FM_HUB_PATH];
    json_t *root, *value;
    if (fm_json_open(&root, index, NULL) < 0) return false;
    json_t *map = json_object_get(root, "weight_map");
    bool all = json_object_size(map) > 0;
    json_object_foreach(map, tensor, value) {
        const char *name = json_string_value(value);
        all = all && name && fm_hub_is_file(name) && fm_path_join(path, sizeof path, snapshot, name, NULL) == 0 && fm_path_exists(path);
    }
    json_decref(root);
    return all;
}

/* Each layer's file of a packed model. */
static bool has_layers(const char *snapshot, const char *description) {
    char path[FM_HUB_PATH];
    json_t *root;
    if (fm_json_open(&root, description, NULL) < 0) return false;
    json_t *layers = json_object_get(root, "layers");
    bool all = fm_path_join(path, sizeof path, snapshot, "dense.safetensors", NULL) == 0 && fm_path_exists(path);
    for (size_t i = 0; i < json_array_size(layers) && all; i++) {
        const char *file = json_string_value(json_object_get(json_array_get(layers, i), "file"));
        if (file) all = fm_hub_is_file(file) && fm_path_join(path, sizeof path, snapshot, file, NULL) == 0 && fm_path_exists(path);
    }
    json_decref(root);
    return all;
}

/* Without an index there is one file, which is there or not. */
static bool has_weights(const char *snapshot) {
    char path[FM_HUB_PATH];
    bool any = false;
    DIR *directory = opendir(snapshot);
    for (struct dirent *e; directory && (e = readdir(directory));) {
        size_t n = strlen(e->d_name);
        if (n > 12 && !strcmp(e->d_name + n - 12, ".safetensors"))
            any |= fm_path_join(path, sizeof path, snapshot, e->d_name, NULL) == 0 && fm_path_exists(path);
    }
    if (directory) closedir(directory);
    return any;
}

/* A snapshot may have only some of the files: other programs fetch what they need, and a pull may have been stopped. */
static bool is_whole(const char *snapshot) {
    char path[FM_HUB_PATH];
    if (fm_path_join(path, sizeof path, snapshot, "config.json", NULL) < 0 || !fm_path_exists(path)) return false;
    if (fm_path_join(path, sizeof path, snapshot, "model.json", NULL) == 0 && fm_path_exists(path)) return has_layers(snapshot, path);
    if (fm_path_join(path, sizeof path, snapshot, "model.safetensors.index.json", NULL) == 0 && fm_path_exists(path)) return has_shards(snapshot, path);
    return has_weights(snapshot);
}

int fm_pull_find(char *path, size_t size, const char *name, const char *cache, fm_error *err) {
    char commit[41], snapshot[FM_HUB_PATH];
    fm_hub_name n;
    fm_hub_cache c;
    int rc = fm_hub_name_read(&n, name, err);
    if (rc < 0 || (rc = fm_hub_cache_open(&c, cache, n.repo, err)) < 0) return rc;
    if (!fm_hub_cache_commit(&c, n.revision, commit)) return fm_fail(err, FM_EIO, "%s: it is not in %s", name, cache);
    fm_hub_snapshot_path(&c, commit, snapshot);
    if (!is_whole(snapshot)) return fm_fail(err, FM_EIO, "%s: it is not in %s, or not all of it", name, cache);
    if (strlen(snapshot) >= size) return fm_fail(err, FM_EINVAL, "%s: the path is too long", snapshot);
    memcpy(path, snapshot, strlen(snapshot) + 1);
    return 0;
}
