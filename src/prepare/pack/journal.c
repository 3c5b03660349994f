/* prepare/pack/journal.c: DIR.part.json says what is being packed, of which files, and what is done. It is replaced as a whole, so it is never half written; what it says is
 * done is on the disk. It lies beside DIR.part so that DIR.part can become DIR by one rename. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/write.h"
#include "formats/json.h"
#include "prepare/pack/pack.h"

static const char *last_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static json_t *describe_file(const char *path) {
    struct stat st;
    if (stat(path, &st)) return json_pack("{s:s}", "file", last_name(path));
#if defined(__APPLE__)
    long nanoseconds = st.st_mtimespec.tv_nsec;
#else
    long nanoseconds = st.st_mtim.tv_nsec;
#endif
    return json_pack("{s:s, s:I, s:I, s:I}", "file", last_name(path), "bytes", (json_int_t)st.st_size, "seconds", (json_int_t)st.st_mtime, "nanoseconds",
                     (json_int_t)nanoseconds);
}

json_t *fm_journal_sources(const fm_model *model, const fm_pack_feed *feed) {
    json_t *list = json_array();
    for (int i = 0; i < model->tensors.n_files; i++) {
        const fm_file *f = &model->tensors.files[i];
        const char *name = last_name(f->path);
        json_t *file =
            feed ? json_pack("{s:s, s:I, s:s}", "file", name, "bytes", (json_int_t)f->size, "hash", feed->hash(feed->user, name)) : describe_file(f->path);
        if (json_array_append_new(list, file)) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static bool is_consumed(const fm_journal *j, const char *name) {
    for (size_t i = 0; i < json_array_size(j->consumed); i++) {
        if (name && !strcmp(json_string_value(json_array_get(j->consumed, i)), name)) return true;
    }
    return false;
}

bool fm_journal_is_consumed(const fm_journal *j, const fm_model *model, int file) { return is_consumed(j, last_name(model->tensors.files[file].path)); }

int fm_journal_check(const fm_journal *j, const fm_model *model, fm_error *err) {
    const json_t *sources = json_object_get(j->job, "sources");
    for (int i = 0; i < model->tensors.n_files && !j->feed; i++) { /* what is fed has been checked by its hash */
        const char *path = model->tensors.files[i].path;
        json_t *now = describe_file(path);
        bool same = json_equal(now, json_array_get(sources, (size_t)i));
        json_decref(now);
        if (!same && !fm_journal_is_consumed(j, model, i))
            return fm_fail(err, FM_EIO, "%s: it has changed since packing began; remove %.*s and its .json and begin again", path, (int)strlen(j->path) - 5,
                           j->path);
    }
    return 0;
}

/* The source file that is not as it was when the journal was begun; NULL: the jobs differ in something else. */
static const char *changed_file(const fm_journal *j, const json_t *then) {
    const json_t *now = json_object_get(j->job, "sources");
    for (size_t i = 0; i < json_array_size(now); i++) {
        const json_t *a = json_array_get(now, i), *b = json_array_get(json_object_get(then, "sources"), i);
        const char *name = json_string_value(json_object_get(a, "file")), *before = json_string_value(json_object_get(b, "file"));
        if (before && !strcmp(name, before) && !json_equal(a, b) && !is_consumed(j, name)) return name;
    }
    return NULL;
}

/* Whether the jobs are the same but for the times of files that are consumed. */
static bool same_job(const fm_journal *j, const json_t *then) {
    json_t *now = json_deep_copy(j->job), *sources = json_object_get(now, "sources");
    for (size_t i = 0; i < json_array_size(sources); i++) {
        const char *name = json_string_value(json_object_get(json_array_get(sources, i), "file"));
        json_t *before = json_array_get(json_object_get(then, "sources"), i);
        const char *same = json_string_value(json_object_get(before, "file"));
        if (same && name && !strcmp(same, name) && is_consumed(j, name)) json_array_set(sources, i, before);
    }
    bool same = now && json_equal(now, then);
    json_decref(now);
    return same;
}

static int read_journal(fm_journal *j, const char *part, const json_t *root, fm_figures *figures, fm_error *err) {
    json_t *then = json_object_get(root, "job"), *consumed = json_object_get(root, "consumed");
    for (size_t i = 0; i < json_array_size(consumed); i++) {
        if (json_is_string(json_array_get(consumed, i))) json_array_append(j->consumed, json_array_get(consumed, i));
    }
    if (!same_job(j, then)) {
        const char *file = changed_file(j, then);
        if (file) return fm_fail(err, FM_EIO, "%s: %s has changed since this was begun; remove it and its .json to begin again", part, file);
        return fm_fail(err, FM_EIO, "%s: it was begun with another source or other options; give the same, or remove it and its .json", part);
    }
    json_decref(j->job);
    j->job = json_incref(then); /* with the times from before files were consumed */
    j->state = json_incref(json_object_get(root, "state"));
    fm_figures_read(figures, json_object_get(root, "figures"));
    return 0;
}

static int set_path(fm_journal *j, char part[FM_PATH_BYTES - 8], const char *directory, fm_error *err) {
    size_t n = strlen(directory);
    while (n > 1 && directory[n - 1] == '/') n--;
    if (snprintf(part, FM_PATH_BYTES - 8, "%.*s.part", (int)n, directory) >= FM_PATH_BYTES - 8)
        return fm_fail(err, FM_EINVAL, "%s: the path is too long", directory);
    snprintf(j->path, sizeof j->path, "%s.json", part);
    return 0;
}

int fm_journal_open(fm_journal *j, const char *directory, json_t *job, fm_figures *figures, const fm_pack_feed *feed, fm_error *err) {
    char part[FM_PATH_BYTES - 8];
    json_t *root;
    *j = (fm_journal){.job = job, .consumed = json_array(), .feed = feed};
    *figures = (fm_figures){0};
    if (!job || !j->consumed) return fm_fail(err, FM_ENOMEM, "%s: no memory for its journal", directory);
    int rc = set_path(j, part, directory, err);
    if (rc < 0) return rc;
    if (!fm_path_exists(j->path)) {
        if (!fm_path_exists(part)) return 0;
        return fm_fail(err, FM_EIO, "%s: it is there already, without a journal %s; remove it first", part, last_name(j->path));
    }
    if ((rc = fm_json_open(&root, j->path, err)) < 0) return rc;
    rc = read_journal(j, part, root, figures, err);
    json_decref(root);
    return rc;
}

int fm_journal_save(const fm_journal *j, const json_t *state, const fm_figures *figures, fm_error *err) {
    char next[FM_PATH_BYTES + 8];
    fm_writer w = {0};
    json_t *root = json_pack("{s:O, s:O*, s:O, s:O*, s:o}", "job", j->job, "state", state, "consumed", j->consumed, "removing", j->removing, "figures",
                             fm_figures_json(figures));
    char *text = root ? json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(17)) : NULL;
    int rc = text ? 0 : fm_fail(err, FM_ENOMEM, "%s: no memory for it", j->path);
    snprintf(next, sizeof next, "%s.new", j->path);
    (void)unlink(next);
    if (rc == 0 && (rc = fm_writer_open(&w, next, strlen(text), err)) == 0) {
        if ((rc = fm_writer_put(&w, text, strlen(text), 0, err)) == 0) rc = fm_writer_finish(&w, err);
        fm_writer_close(&w);
        if (rc == 0 && rename(next, j->path)) rc = fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be written", j->path);
    }
    if (rc < 0) (void)unlink(next);
    free(text);
    json_decref(root);
    return rc;
}

bool fm_journal_has_consumed(const char *directory) {
    char part[FM_PATH_BYTES - 8];
    fm_journal j;
    json_t *root;
    if (set_path(&j, part, directory, NULL) < 0 || fm_json_open(&root, j.path, NULL) < 0) return false;
    bool any = json_array_size(json_object_get(root, "consumed")) > 0;
    json_decref(root);
    return any;
}

const json_t *fm_journal_removing(fm_journal *j, const char *model, const char *directory, fm_figures *figures) {
    char part[FM_PATH_BYTES - 8], real[PATH_MAX];
    json_t *root;
    *j = (fm_journal){0};
    *figures = (fm_figures){0};
    if (!fm_path_exists(directory) || set_path(j, part, directory, NULL) < 0 || fm_json_open(&root, j->path, NULL) < 0) return NULL;
    j->removing = json_incref(json_object_get(root, "removing"));
    fm_figures_read(figures, json_object_get(root, "figures"));
    json_decref(root);
    const char *there = json_string_value(json_object_get(j->removing, "model"));
    return there && realpath(model, real) && !strcmp(there, real) ? json_object_get(j->removing, "files") : NULL;
}

void fm_journal_remove(const fm_journal *j) { (void)unlink(j->path); }

void fm_journal_close(fm_journal *j) {
    json_decref(j->job);
    json_decref(j->state);
    json_decref(j->consumed);
    json_decref(j->removing);
    *j = (fm_journal){0};
}
