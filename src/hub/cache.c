/* hub/cache.c: see cache.h; and finding a model that was pulled before, for which the hub is not asked. */
#include "hub/cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "flash_moe_tools.h"
#include "formats/json.h"
#include "formats/pack.h"

int fm_hub_cache_open(fm_hub_cache *c, const char *top, const char *repo, fm_error *err) {
    char folder[220];
    const char *slash = strchr(repo, '/');
    *c = (fm_hub_cache){0};
    snprintf(folder, sizeof folder, "models--%.*s--%s", (int)(slash - repo), repo, slash + 1);
    if (!top || !*top) return fm_fail(err, FM_EINVAL, "%s: there is no directory for models from the hub", repo);
    if (strlen(top) >= sizeof c->top) return fm_fail(err, FM_EINVAL, "%s: the path is too long", top);
    snprintf(c->top, sizeof c->top, "%s", top);
    snprintf(c->repo, sizeof c->repo, "%s/%s", top, folder);
    snprintf(c->locks, sizeof c->locks, "%s/.locks/%s", top, folder);
    snprintf(c->name, sizeof c->name, "%s", repo);
    return 0;
}

int fm_hub_cache_make(const fm_hub_cache *c, const char *commit, fm_error *err) {
    char path[FM_HUB_PATH];
    fm_hub_snapshot_path(c, commit, path);
    int rc = fm_path_make(path, 0777, err);
    snprintf(path, sizeof path, "%s/blobs", c->repo);
    if (rc == 0) rc = fm_path_make(path, 0777, err);
    return rc == 0 ? fm_path_make(c->locks, 0777, err) : rc;
}

void fm_hub_blob_path(const fm_hub_cache *c, const char *hash, char out[FM_HUB_PATH]) { snprintf(out, FM_HUB_PATH, "%s/blobs/%s", c->repo, hash); }

void fm_hub_snapshot_path(const fm_hub_cache *c, const char *commit, char out[FM_HUB_PATH]) { snprintf(out, FM_HUB_PATH, "%s/snapshots/%s", c->repo, commit); }

bool fm_hub_has_bytes(const char *path, uint64_t bytes) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == bytes;
}

int fm_hub_cache_link(const fm_hub_cache *c, const char *commit, const fm_hub_file *file, fm_error *err) {
    char path[FM_HUB_PATH], blob[FM_HUB_PATH], to[FM_HUB_PATH];
    int up = 2, n;
    n = snprintf(path, sizeof path, "%s/snapshots/%s/%s", c->repo, commit, file->name);
    if (n >= (int)sizeof path) return fm_fail(err, FM_EINVAL, "%s: the path is too long", file->name);
    if (fm_hub_has_bytes(path, file->bytes)) return 0;
    (void)unlink(path);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    int rc = fm_path_make(path, 0777, err);
    *slash = '/';
    if (rc < 0) return rc;
    for (const char *p = file->name; *p; p++) up += *p == '/';
    for (n = 0; up > 0; up--) n += snprintf(to + n, sizeof to - (size_t)n, "../");
    snprintf(to + n, sizeof to - (size_t)n, "blobs/%s", file->hash);
    if (symlink(to, path) == 0 || errno == EEXIST) return 0;
    /* As huggingface_hub does where there are no links. */
    fm_hub_blob_path(c, file->hash, blob);
    if (rename(blob, path)) return fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be made", path);
    return 0;
}

int fm_hub_cache_note(const fm_hub_cache *c, const char *revision, const char *commit, fm_error *err) {
    char path[FM_HUB_PATH], next[FM_HUB_PATH + 32], old[41];
    if (!strcmp(revision, commit)) return 0;
    if (fm_hub_cache_commit(c, revision, old) && !strcmp(old, commit)) return 0;
    snprintf(path, sizeof path, "%s/refs/%s", c->repo, revision);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    int rc = fm_path_make(path, 0777, err);
    *slash = '/';
    if (rc < 0) return rc;
    /* Beside refs/, as everything in there is a revision. */
    snprintf(next, sizeof next, "%s/.ref-%ld", c->repo, (long)getpid());
    int fd = open(next, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool written = fd >= 0 && write(fd, commit, strlen(commit)) == (ssize_t)strlen(commit);
    int error = errno;
    if (fd >= 0 && close(fd)) written = false;
    if (written && rename(next, path) == 0) return 0;
    if (written) error = errno;
    (void)unlink(next);
    return fm_fail_errno(err, FM_EIO, error, "%s: it cannot be written", path);
}

bool fm_hub_cache_commit(const fm_hub_cache *c, const char *revision, char commit[41]) {
    char path[FM_HUB_PATH], *text;
    size_t n;
    if (fm_hub_is_hash(revision, 40)) {
        memcpy(commit, revision, 41);
        return true;
    }
    snprintf(path, sizeof path, "%s/refs/%s", c->repo, revision);
    if (fm_file_read_text(&text, &n, path, 1000, NULL) < 0) return false;
    text[strcspn(text, " \r\n")] = '\0';
    bool good = fm_hub_is_hash(text, 40);
    if (good) memcpy(commit, text, 41);
    free(text);
    return good;
}

/* ---- finding ---- */

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

/* A snapshot may have only some of the files: other programs fetch what they need, a pull may have been stopped, and a packing that gives them back: that has to find it
 * again. */
static bool is_usable(const char *snapshot) {
    char path[FM_HUB_PATH];
    if (fm_path_join(path, sizeof path, snapshot, "config.json", NULL) < 0 || !fm_path_exists(path)) return false;
    if (fm_path_join(path, sizeof path, snapshot, FM_PACK_CONSUMED_JOURNAL, NULL) == 0 && fm_path_exists(path)) return true;
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
    if (!is_usable(snapshot)) return fm_fail(err, FM_EIO, "%s: it is not in %s, or not all of it", name, cache);
    if (strlen(snapshot) >= size) return fm_fail(err, FM_EINVAL, "%s: the path is too long", snapshot);
    memcpy(path, snapshot, strlen(snapshot) + 1);
    return 0;
}
