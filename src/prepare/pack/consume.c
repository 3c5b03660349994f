/* prepare/pack/consume.c: a source's files, in which order they are needed, waiting for those that arrive while packing goes on, and giving experts back to the disk: a file of which
 * all are packed goes from DIR/NAME to DIR/.consumed/NAME, where nobody takes it for what it was, and keeps its size and the rest, with holes instead of experts, so that the model
 * can still be opened when packing goes on after a stop; in the end the files are removed. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "families/families.h"
#include "prepare/pack/pack.h"

#define CONSUMED FM_PACK_CONSUMED

static const char *name_of(const fm_pack_job *job, int file) {
    const char *path = job->model->tensors.files[file].path, *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* ---- the order ---- */

static uint8_t *uses_of(const fm_pack_job *job, int layer) { return job->uses.uses + (size_t)layer * (size_t)job->model->tensors.n_files; }

static void find_uses(fm_pack_job *job) {
    const fm_model *model = job->model;
    size_t n = (size_t)model->n_extents, n_experts = (size_t)model->description.n_experts;
    for (int layer = 0; layer < model->description.n_layers; layer++) {
        const fm_extent *x = &model->extents[(size_t)layer * n_experts * n];
        for (size_t i = 0; i < n_experts * n && model->description.layers[layer].moe; i++) {
            if (x[i].bytes) uses_of(job, layer)[x[i].file] = 1;
        }
        if (model->description.layers[layer].moe && job->choice.searched) uses_of(job, layer)[model->sources[layer + 1][FM_NORM2].weight->file] = 1;
    }
}

/* Bytes of a layer's files that no layer before it needs. */
static uint64_t new_bytes(const fm_pack_job *job, int layer, const bool *taken) {
    uint64_t bytes = 0;
    for (int file = 0; file < job->model->tensors.n_files; file++)
        bytes += uses_of(job, layer)[file] && !taken[file] ? job->model->tensors.files[file].size : 0;
    return bytes;
}

/* The next layer: of what is fed the one that can be whole first. */
static int next_layer(const fm_pack_job *job, const bool *done, const bool *taken) {
    const fm_description *d = &job->model->description;
    int best = -1;
    for (int layer = 0; layer < d->n_layers; layer++) {
        if (!d->layers[layer].moe || done[layer]) continue;
        if (!job->feed) return layer;
        if (best < 0 || new_bytes(job, layer, taken) < new_bytes(job, best, taken)) best = layer;
    }
    return best;
}

int fm_uses_make(fm_pack_job *job, fm_error *err) {
    size_t n_layers = (size_t)job->model->description.n_layers, n_files = (size_t)job->model->tensors.n_files;
    fm_uses *u = &job->uses;
    bool *done = calloc(n_layers + 1, sizeof *done), *taken = calloc(n_files + 1, sizeof *taken);
    int n = 0;
    u->order = calloc(n_layers + 1, sizeof *u->order);
    u->uses = calloc(n_layers * n_files + 1, 1);
    u->files = calloc(n_files + 1, sizeof *u->files);
    u->here = calloc(n_files + 1, sizeof *u->here);
    if (!done || !taken || !u->order || !u->uses || !u->files || !u->here) {
        free(done);
        free(taken);
        return fm_fail(err, FM_ENOMEM, "%s: no memory for %zu files", job->model->path, n_files);
    }
    find_uses(job);
    for (int layer; (layer = next_layer(job, done, taken)) >= 0;) {
        done[layer] = true;
        u->order[u->n++] = layer;
        for (int file = 0; file < (int)n_files; file++) {
            if (!uses_of(job, layer)[file] || taken[file]) continue;
            taken[file] = true;
            u->files[n++] = file;
        }
    }
    for (int file = 0; file < (int)n_files; file++) {
        if (!taken[file]) u->files[n++] = file;
    }
    free(done);
    free(taken);
    return 0;
}

void fm_uses_close(fm_uses *u) {
    free(u->order);
    free(u->uses);
    free(u->files);
    free(u->here);
    *u = (fm_uses){0};
}

/* The last layer whose experts lie in a file; -1: none. */
static int last_layer(const fm_pack_job *job, int file) {
    for (int i = job->uses.n - 1; i >= 0; i--) {
        if (uses_of(job, job->uses.order[i])[file]) return job->uses.order[i];
    }
    return -1;
}

/* ---- arriving ---- */

/* Makes holes of all experts in a file: the dense part stays, as what follows may look at it. What cannot be given back now is removed in the end. */
static void punch(const fm_model *model, int file, const char *path) {
#if defined(__linux__)
    size_t n_keys = (size_t)model->description.n_layers * (size_t)model->description.n_experts, n = (size_t)model->n_extents;
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    for (const fm_extent *x = model->extents; x < model->extents + n_keys * n; x++) {
        if ((int)x->file == file && x->bytes) (void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)x->offset, (off_t)x->bytes);
    }
    close(fd);
#else
    (void)model, (void)file, (void)path;
#endif
}

int fm_feed_begin(fm_pack_job *job, uint64_t write_bytes, fm_error *err) {
    int n = job->model->tensors.n_files;
    const char **names = calloc((size_t)n + 1, sizeof *names);
    if (!names) return fm_fail(err, FM_ENOMEM, "%s: no memory for %d files", job->model->path, n);
    for (int i = 0; i < n; i++) {
        names[i] = name_of(job, job->uses.files[i]);
        /* The run before may have been stopped just then. */
        if (fm_journal_is_consumed(&job->journal, job->model, job->uses.files[i]))
            punch(job->model, job->uses.files[i], job->model->tensors.files[job->uses.files[i]].path);
    }
    int rc = job->feed->begin(job->feed->user, names, n, write_bytes, err);
    free(names);
    return rc;
}

/* Opens the file that has taken the place of one that had a header only, which must be the same. */
static int open_again(fm_file *file, fm_error *err) {
    enum { PIECE = 65536 };
    uint8_t length[8], a[PIECE], b[PIECE];
    uint64_t header = 0;
    fm_file whole;
    int rc = fm_file_open(&whole, file->path, true, err);
    if (rc < 0) return rc;
    if (whole.size != file->size) rc = fm_fail(err, FM_EIO, "%s: it has changed while it was packed", file->path);
    if (rc == 0 && (rc = fm_file_read(file, length, sizeof length, 0, err)) == 0) {
        for (int i = 0; i < 8; i++) header |= (uint64_t)length[i] << (8 * i);
        header = header < file->size - 8 ? header + 8 : file->size;
    }
    for (uint64_t at = 0; at < header && rc == 0; at += PIECE) {
        size_t n = header - at < PIECE ? (size_t)(header - at) : PIECE;
        if ((rc = fm_file_read(file, a, n, at, err)) < 0 || (rc = fm_file_read(&whole, b, n, at, err)) < 0) break;
        if (memcmp(a, b, n)) rc = fm_fail(err, FM_EFORMAT, "%s: it arrived with another header than it was said to have", file->path);
    }
    if (rc < 0) {
        fm_file_close(&whole);
        return rc;
    }
    fm_file_close(file);
    *file = whole;
    return 0;
}

int fm_feed_wait(fm_pack_job *job, int layer, fm_error *err) {
    for (int i = 0; i < job->model->tensors.n_files && job->feed; i++) {
        int file = job->uses.files[i], rc;
        if (job->uses.here[file] || (layer >= 0 && !uses_of(job, layer)[file])) continue;
        if ((rc = job->feed->wait(job->feed->user, name_of(job, file), err)) < 0) return rc;
        if ((rc = open_again(&job->model->tensors.files[file], err)) < 0) return rc;
        job->uses.here[file] = true;
    }
    return job->feed ? fm_choice_weigh(&job->choice, job->model, layer, err) : 0;
}

/* ---- whose it is ---- */

enum owner {
    OWNER_THIS,  /* a file with no other name */
    OWNER_BLOB,  /* a link of huggingface_hub's cache to a blob that no other snapshot links to */
    OWNER_OTHERS /* or nobody knows */
};

/* Whether another link than `own` below a directory leads to real. What cannot be looked at may. */
static bool is_linked(const char *directory, const char *real, const struct stat *own) {
    char path[FM_PATH_BYTES], to[PATH_MAX];
    DIR *d = opendir(directory);
    bool linked = !d;
    while (!linked) {
        struct stat st;
        errno = 0;
        struct dirent *e = readdir(d);
        if (!e) {
            linked = errno != 0;
            break;
        }
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if (fm_path_join(path, sizeof path, directory, e->d_name, NULL) < 0 || lstat(path, &st))
            linked = true;
        else if (S_ISDIR(st.st_mode))
            linked = is_linked(path, real, own);
        else if (S_ISLNK(st.st_mode) && (st.st_ino != own->st_ino || st.st_dev != own->st_dev))
            linked = realpath(path, to) && !strcmp(to, real);
    }
    if (d) closedir(d);
    return linked;
}

/* real: where it is, if it is OWNER_BLOB. */
static enum owner owner_of(const char *path, char real[PATH_MAX]) {
    char folder[PATH_MAX];
    struct stat own, there;
    size_t n = strlen(path);
    if (lstat(path, &own) || stat(path, &there) || there.st_nlink > 1) return OWNER_OTHERS;
    if (!S_ISLNK(own.st_mode)) return OWNER_THIS;
    while (n > 0 && path[n - 1] != '/') n--;
    char *above = strndup(n ? path : ".", n ? n : 1), *at = NULL;
    bool known = above && realpath(above, folder) && realpath(path, real);
    free(above);
    for (char *next = known ? folder : NULL; next && (next = strstr(next, "/snapshots/")); next++) at = next;
    if (!at) return OWNER_OTHERS;
    n = (size_t)(at - folder);
    if (strncmp(real, folder, n) || strncmp(real + n, "/blobs/", 7) || strchr(real + n + 7, '/')) return OWNER_OTHERS;
    at[strlen("/snapshots")] = '\0';
    return is_linked(folder, real, &own) ? OWNER_OTHERS : OWNER_BLOB;
}

/* Brings a file, or the blob that a link leads to, into .consumed beside it, so that no snapshot can come to share what has holes, and nobody reads it. False: it is not this
 * model's alone, or cannot be moved. */
static bool take(const char *path, char to[FM_PATH_BYTES]) {
    char real[PATH_MAX];
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    enum owner owner = owner_of(path, real);
    int n = snprintf(to, FM_PATH_BYTES, "%.*s" CONSUMED, (int)(name - path), path);
    if (owner == OWNER_OTHERS || n >= FM_PATH_BYTES || (mkdir(to, 0777) && errno != EEXIST)) return false;
    if (snprintf(to + n, (size_t)(FM_PATH_BYTES - n), "/%s", name) >= FM_PATH_BYTES - n || rename(owner == OWNER_BLOB ? real : path, to)) return false;
    if (owner == OWNER_BLOB) (void)unlink(path);
    return true;
}

static bool is_shared(const fm_pack_job *job, int file) {
    char real[PATH_MAX];
    if (job->feed) return !job->feed->may_consume(job->feed->user, name_of(job, file));
    return owner_of(job->model->tensors.files[file].path, real) == OWNER_OTHERS;
}

/* ---- giving back ---- */

uint64_t fm_consume_bytes(const fm_pack_job *job, int layer) {
    uint64_t bytes = 0;
    for (int file = 0; file < job->model->tensors.n_files; file++) {
        if (last_layer(job, file) == layer && !is_shared(job, file)) bytes += job->model->tensors.files[file].size;
    }
    return bytes;
}

/* Bytes that are still to be written of the copies of a layer; false: all of them are there. */
static bool unwritten(const fm_pack_job *job, const json_t *state, int layer, uint64_t (*layer_bytes)(const fm_pack_job *job, int layer), uint64_t *bytes) {
    bool any = false;
    *bytes = 0;
    for (int copy = 0; copy < job->choice.n_copies; copy++) {
        int target = layer + copy * job->model->description.n_layers;
        if (json_is_object(json_array_get(json_object_get(state, "layers"), (size_t)target))) continue;
        *bytes += layer_bytes(job, target);
        any = true;
    }
    return any;
}

/* Bytes of experts in a file. */
static uint64_t expert_bytes(const fm_model *model, int file) {
    size_t n = (size_t)model->description.n_layers * (size_t)model->description.n_experts * (size_t)model->n_extents;
    uint64_t bytes = 0;
    for (const fm_extent *x = model->extents; x < model->extents + n; x++) bytes += (int)x->file == file ? x->bytes : 0;
    return bytes;
}

uint64_t fm_uses_peak(const fm_pack_job *job, const json_t *state, uint64_t dense_bytes, uint64_t (*layer_bytes)(const fm_pack_job *job, int layer)) {
    const fm_uses *u = &job->uses;
    int n_files = job->model->tensors.n_files, n = 0;
    int64_t now = 0, most = 0;
    for (int i = 0; i <= u->n; i++) {
        int layer = i < u->n ? u->order[i] : -1, needed = n_files - 1;
        uint64_t bytes = dense_bytes;
        if (layer >= 0 && !unwritten(job, state, layer, layer_bytes, &bytes)) continue;
        for (needed = n_files - 1; layer >= 0 && needed >= 0 && !uses_of(job, layer)[u->files[needed]];) needed--;
        for (needed += job->feed->n_ahead; n <= needed && n < n_files; n++) now += (int64_t)job->feed->missing(job->feed->user, name_of(job, u->files[n]));
        now += (int64_t)bytes;
        if (now > most) most = now;
        for (int file = 0; layer >= 0 && file < n_files && job->options.delete_consumed; file++) {
            if (last_layer(job, file) == layer && !is_shared(job, file)) now -= (int64_t)expert_bytes(job->model, file);
        }
    }
    return (uint64_t)most;
}

/* A link to the journal in the model's .consumed, or its removal: by it a model of the hub's cache is found by its name although files are missing, as long as packing has to
 * go on. Only that would be lost without it. */
static void mark(const fm_journal *journal, const char *model, bool set) {
    char hidden[FM_PATH_BYTES], path[FM_PATH_BYTES], next[FM_PATH_BYTES], real[PATH_MAX];
    if (fm_path_join(hidden, sizeof hidden, model, CONSUMED, NULL) < 0 || fm_path_join(path, sizeof path, model, FM_PACK_CONSUMED_JOURNAL, NULL) < 0) return;
    if (fm_path_join(next, sizeof next, model, FM_PACK_CONSUMED_JOURNAL ".new", NULL) < 0) return;
    (void)unlink(next);
    if (!set || !realpath(journal->path, real)) {
        if (unlink(path) == 0) (void)rmdir(hidden);
    } else if (mkdir(hidden, 0777) == 0 || errno == EEXIST) { /* at no moment without one */
        if (symlink(real, next) == 0) (void)rename(next, path);
    }
}

int fm_consume_layer(fm_pack_job *job, int layer, fm_error *err) {
    const fm_model *model = job->model;
    char path[FM_PATH_BYTES];
    int n = 0, rc;
    for (int file = 0; file < model->tensors.n_files; file++) {
        if (last_layer(job, file) != layer || fm_journal_is_consumed(&job->journal, model, file) || is_shared(job, file)) continue;
        json_array_append_new(job->journal.consumed, json_string(name_of(job, file)));
        n++;
    }
    if (!n) return 0;
    /* First it is remembered that these files are not needed any more, then they are not there any more. */
    json_t *state = fm_packer_state(job->packer);
    rc = state ? fm_journal_save(&job->journal, state, &job->figures, err) : fm_fail(err, FM_ENOMEM, "no memory for a journal");
    json_decref(state);
    if (!job->feed && rc == 0) mark(&job->journal, model->path, true);
    for (int file = 0; file < model->tensors.n_files && rc == 0; file++) {
        if (last_layer(job, file) != layer || !fm_journal_is_consumed(&job->journal, model, file)) continue;
        if (job->feed) punch(model, file, model->tensors.files[file].path);
        if (!job->feed && take(model->tensors.files[file].path, path)) punch(model, file, path);
    }
    return rc;
}

int fm_consume_check(const fm_pack_job *job, fm_error *err) {
    for (int file = 0; file < job->model->tensors.n_files; file++) {
        char folder[FM_PATH_BYTES];
        const char *path = job->model->tensors.files[file].path, *slash = strrchr(path, '/');
        snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
        if (access(*folder ? folder : "/", W_OK)) return fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be removed when it is packed", path);
    }
    return 0;
}

/* Removes a file, of what others have too only this name. */
static int remove_file(const char *path, uint64_t *kept_bytes, fm_error *err) {
    char real[PATH_MAX];
    struct stat st;
    if (lstat(path, &st) && errno == ENOENT) return 0;
    enum owner owner = owner_of(path, real);
    uint64_t bytes = owner == OWNER_OTHERS && stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
    if (unlink(path)) return fm_fail_errno(err, FM_EIO, errno, "%s: it is packed, but cannot be removed", path);
    if (owner == OWNER_BLOB && unlink(real)) return fm_fail_errno(err, FM_EIO, errno, "%s: it is packed, but cannot be removed", real);
    *kept_bytes += bytes;
    return 0;
}

/* Removes what is in .consumed, or was to be. */
static int remove_consumed(const char *folder, const char *name, uint64_t *kept_bytes, fm_error *err) {
    char path[FM_PATH_BYTES], hidden[FM_PATH_BYTES];
    struct stat st;
    int rc = fm_path_join(hidden, sizeof hidden, folder, CONSUMED, err);
    if (rc < 0 || (rc = fm_path_join(path, sizeof path, hidden, name, err)) < 0) return rc;
    bool taken = lstat(path, &st) == 0;
    if ((rc = remove_file(path, kept_bytes, err)) < 0) return rc;
    (void)rmdir(hidden); /* when it was the last */
    if ((rc = fm_path_join(path, sizeof path, folder, name, err)) < 0) return rc;
    /* What has come there since is another file; a link without a blob is what was left by a stop. */
    return !taken || stat(path, &st) ? remove_file(path, kept_bytes, err) : 0;
}

int fm_consume_rest(const fm_journal *journal, const char *model, const json_t *files, uint64_t *kept_bytes, fm_error *err) {
    char folder[FM_PATH_BYTES];
    int rc = 0;
    mark(journal, model, true);
    for (size_t i = 0; i < json_array_size(files) && rc == 0; i++) {
        const char *name = json_string_value(json_array_get(files, i)), *slash = name ? strrchr(name, '/') : NULL;
        if (!name || !*name || *name == '/' || !strncmp(name, "../", 3) || strstr(name, "/../"))
            return fm_fail(err, FM_EFORMAT, "%s: it names a file outside of %s", journal->path, model);
        int n = snprintf(folder, sizeof folder, "%s/%.*s", model, slash ? (int)(slash - name) : 0, name);
        if (n >= (int)sizeof folder) return fm_fail(err, FM_EINVAL, "%s/%s: the path is too long", model, name);
        if (!slash) folder[n - 1] = '\0';
        rc = remove_consumed(folder, slash ? slash + 1 : name, kept_bytes, err);
    }
    if (rc < 0) return rc;
    fm_journal_remove(journal);
    mark(journal, model, false);
    return 0;
}

/* "experts/layer_00.bin" of the path of a file that may be in experts/.consumed; NULL without memory. */
static json_t *relative_name(const char *path, const char *directory) {
    char name[FM_PATH_BYTES];
    for (path += strlen(directory); *path == '/';) path++;
    snprintf(name, sizeof name, "%s", path);
    char *hidden = strstr(name, CONSUMED "/");
    if (hidden && (hidden == name || hidden[-1] == '/')) memmove(hidden, hidden + sizeof CONSUMED, strlen(hidden + sizeof CONSUMED) + 1);
    return json_string(name);
}

int fm_consume_files(fm_pack_job *job, uint64_t *kept_bytes, fm_error *err) {
    const fm_model *model = job->model;
    char real[PATH_MAX];
    json_t *files = json_array();
    for (int file = 0; file < model->tensors.n_files; file++) json_array_append_new(files, relative_name(model->tensors.files[file].path, model->path));
    /* A model without some of its files cannot be opened, so it is remembered which they are. */
    job->journal.removing = json_pack("{s:s, s:O}", "model", realpath(model->path, real) ? real : model->path, "files", files);
    int rc = job->journal.removing ? fm_journal_save(&job->journal, job->journal.state, &job->figures, err)
                                   : fm_fail(err, FM_ENOMEM, "%s: no memory for its journal", model->path);
    if (rc == 0) rc = fm_consume_rest(&job->journal, model->path, files, kept_bytes, err);
    json_decref(files);
    return rc;
}

/* ---- a source of which some is consumed ---- */

/* Links in `to` to all that is in `from`; in the place of each file that is in .consumed to that one. */
static int link_all(const char *from, const char *to, bool consumed, fm_error *err) {
    char a[FM_PATH_BYTES], b[FM_PATH_BYTES];
    DIR *d = opendir(from);
    int rc = d ? 0 : fm_fail_errno(err, FM_EIO, errno, "%s", from);
    for (struct dirent *e; rc == 0 && (e = readdir(d));) {
        struct stat st;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if ((rc = fm_path_join(a, sizeof a, from, e->d_name, err)) < 0 || (rc = fm_path_join(b, sizeof b, to, e->d_name, err)) < 0) break;
        if (lstat(a, &st)) continue;
        if (!S_ISDIR(st.st_mode)) {
            if (consumed) (void)unlink(b);
            if (symlink(a, b) && errno != EEXIST) rc = fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be made", b);
        } else if (!strcmp(e->d_name, CONSUMED)) {
            rc = link_all(a, to, true, err);
        } else {
            rc = mkdir(b, 0777) ? fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be made", b) : link_all(a, b, false, err);
        }
    }
    if (d) closedir(d);
    return rc;
}

/* Removes a directory of links, and of such directories. */
static void remove_links(const char *view) {
    char path[FM_PATH_BYTES];
    DIR *d = opendir(view);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || fm_path_join(path, sizeof path, view, e->d_name, NULL) < 0) continue;
        if (unlink(path)) remove_links(path);
    }
    if (d) closedir(d);
    (void)rmdir(view);
}

/* Removes what runs that were killed have left of this name. */
static void remove_others(const char *view) {
    char parent[FM_PATH_BYTES], path[FM_PATH_BYTES];
    const char *slash = strrchr(view, '/'), *name = slash ? slash + 1 : view;
    snprintf(parent, sizeof parent, "%.*s", slash ? (int)(name - view) : 1, slash ? view : ".");
    DIR *d = opendir(parent);
    for (struct dirent *e; d && (e = readdir(d));) {
        bool same = strlen(e->d_name) == strlen(name) && !strncmp(e->d_name, name, strlen(name) - 6);
        if (same && fm_path_join(path, sizeof path, parent, e->d_name, NULL) == 0) remove_links(path);
    }
    if (d) closedir(d);
}

/* The files' own paths instead of those of links. */
static int set_paths(fm_model *model, fm_error *err) {
    char path[PATH_MAX];
    for (int i = 0; i < model->tensors.n_files; i++) {
        fm_file *f = &model->tensors.files[i];
        ssize_t n = readlink(f->path, path, sizeof path);
        char *own = n > 0 && n < (ssize_t)sizeof path ? strndup(path, (size_t)n) : NULL;
        if (!own) return fm_fail(err, FM_EIO, "%s: it is no link to the source's file", f->path);
        free(f->path);
        f->path = own;
    }
    return 0;
}

int fm_consumed_open(fm_model **out, const char *path, const char *directory, const char *config_from, fm_error *err) {
    char view[FM_PATH_BYTES], real[PATH_MAX];
    size_t n = strlen(directory);
    while (n > 1 && directory[n - 1] == '/') n--;
    if (!fm_journal_has_consumed(directory)) return fm_model_open(out, path, config_from, fm_families, err);
    *out = NULL;
    if (!realpath(path, real)) return fm_fail(err, FM_EIO, "%s: there is no such directory", path);
    if (strlen(real) >= sizeof(*out)->path) return fm_fail(err, FM_EINVAL, "%s: the path is too long", real);
    if (snprintf(view, sizeof view, "%.*s.part.links-XXXXXX", (int)n, directory) >= (int)sizeof view)
        return fm_fail(err, FM_EINVAL, "%s: the path is too long", directory);
    remove_others(view);
    if (!mkdtemp(view)) return fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be made", view);
    int rc = link_all(real, view, false, err);
    if (rc == 0 && (rc = fm_model_open(out, view, config_from, fm_families, err)) == 0 && (rc = set_paths(*out, err)) == 0)
        memcpy((*out)->path, real, strlen(real) + 1);
    remove_links(view);
    return rc;
}
