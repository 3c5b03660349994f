/* prepare/pack/consume.c: gives a source's experts back to the disk. A file of which all are packed keeps its size and the rest, with holes instead of experts, so that the model can still be opened when packing goes on after a stop; in the end the files are removed. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "prepare/pack/pack.h"

/* The last layer whose experts lie in a file; -1: none. */
static int last_layer(const fm_model *model, int file) {
    const fm_description *d = &model->description;
    for (int layer = d->n_layers - 1; layer >= 0; layer--) {
        if (!d->layers[layer].moe) continue;
        for (size_t e = 0; e < (size_t)d->n_experts; e++) {
            const fm_extent *x = &model->extents[((size_t)layer * (size_t)d->n_experts + e) * (size_t)model->n_extents];
            for (int i = 0; i < model->n_extents && x[i].bytes; i++) {
                if ((int)x[i].file == file) return layer;
            }
        }
    }
    return -1;
}

/* Makes holes of all experts in a file: the dense part stays, as what follows may look at it. What cannot be given back now is removed in the end. */
static void punch(const fm_model *model, int file) {
#if defined(__linux__)
    size_t n_keys = (size_t)model->description.n_layers * (size_t)model->description.n_experts, n = (size_t)model->n_extents;
    int fd = open(model->tensors.files[file].path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    for (const fm_extent *x = model->extents; x < model->extents + n_keys * n; x++) {
        if ((int)x->file == file && x->bytes) (void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)x->offset, (off_t)x->bytes);
    }
    close(fd);
#else
    (void)model, (void)file;
#endif
}

static bool shared(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && st.st_nlink > 1;
}

uint64_t fm_consume_bytes(const fm_model *model, int layer) {
    uint64_t bytes = 0;
    for (int file = 0; file < model->tensors.n_files; file++) {
        if (last_layer(model, file) == layer && !shared(model->tensors.files[file].path)) bytes += model->tensors.files[file].size;
    }
    return bytes;
}

int fm_consume_layer(fm_pack_job *job, int layer, fm_error *err) {
    const fm_model *model = job->model;
    int n = 0, rc;
    for (int file = 0; file < model->tensors.n_files; file++) {
        const char *path = model->tensors.files[file].path, *slash = strrchr(path, '/');
        if (last_layer(model, file) != layer || fm_journal_is_consumed(&job->journal, model, file) || shared(path)) continue;
        json_array_append_new(job->journal.consumed, json_string(slash ? slash + 1 : path));
        n++;
    }
    if (!n) return 0;
    /* First it is remembered that these files are not needed any more, then they are not there any more. */
    json_t *state = fm_packer_state(job->packer);
    rc = state ? fm_journal_save(&job->journal, state, &job->figures, err) : fm_fail(err, FM_ENOMEM, "no memory for a journal");
    json_decref(state);
    for (int file = 0; file < model->tensors.n_files && rc == 0; file++) {
        if (last_layer(model, file) == layer && fm_journal_is_consumed(&job->journal, model, file)) punch(model, file);
    }
    return rc;
}

int fm_consume_files(fm_pack_job *job, fm_error *err) {
    const fm_model *model = job->model;
    for (int file = 0; file < model->tensors.n_files; file++) {
        const char *path = model->tensors.files[file].path;
        char real[PATH_MAX];
        bool linked = realpath(path, real) && strcmp(real, path) != 0;
        if (unlink(path)) return fm_fail_errno(err, FM_EIO, errno, "%s: it is packed, but cannot be removed", path);
        if (linked && access(real, F_OK) == 0 && unlink(real)) return fm_fail_errno(err, FM_EIO, errno, "%s: it is packed, but cannot be removed", real);
    }
    return 0;
}
