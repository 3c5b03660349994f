/* hub/cache.c: see cache.h. */
#include "hub/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

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

int fm_hub_directories(const char *path, fm_error *err) {
    char part[FM_HUB_PATH];
    size_t n = strlen(path);
    if (n >= sizeof part) return fm_fail(err, FM_EINVAL, "%s: the path is too long", path);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != '\0') continue;
        snprintf(part, sizeof part, "%.*s", (int)i, path);
        if (mkdir(part, 0777) && errno != EEXIST && !fm_path_exists(part)) return fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be made", part);
    }
    return 0;
}

int fm_hub_cache_make(const fm_hub_cache *c, const char *commit, fm_error *err) {
    char path[FM_HUB_PATH];
    fm_hub_snapshot_path(c, commit, path);
    int rc = fm_hub_directories(path, err);
    snprintf(path, sizeof path, "%s/blobs", c->repo);
    if (rc == 0) rc = fm_hub_directories(path, err);
    return rc == 0 ? fm_hub_directories(c->locks, err) : rc;
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
    int rc = fm_hub_directories(path, err);
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
    int rc = fm_hub_directories(path, err);
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
