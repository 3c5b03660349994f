/* measure/trace_write.c: writing a trace token by token, so that its length costs no memory. What the header says of the whole, and the hash, come last. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "measure/trace.h"

struct fm_trace_writer {
    char *path, *part;
    FILE *file; /* of part */
    fm_trace shape;
    int n_tokens, n_moe;
    size_t header_bytes; /* with the prefix and the line's end */
    uint8_t *record;     /* one token's */
};

static int fail_write(const fm_trace_writer *w, int code, fm_error *err) {
    return fm_fail_errno(err, FM_EIO, code ? code : EIO, "%s: it cannot be written", w->path);
}

/* The header of n_tokens tokens, at the file's beginning: as long as that of the most tokens there can be. */
static int write_header(fm_trace_writer *w, int n_tokens, fm_error *err) {
    const fm_trace *s = &w->shape;
    json_t *how = s->how ? json_loads(s->how, 0, NULL) : json_object(), *moe = json_array(), *root;
    for (int i = 0; i < s->n_layers; i++) {
        if (s->moe[i]) json_array_append_new(moe, json_integer(i));
    }
    root = json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:o, s:o}", "model_type", s->model_type, "architecture", s->architecture, "n_layers", s->n_layers,
                     "n_experts", s->n_experts, "top_k", s->top_k, "n_tokens", n_tokens, "moe", moe, "how", how);
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (!text) return fm_fail(err, FM_EINVAL, "%s: its header is not JSON, or there is no memory for it", w->path);
    size_t length = strlen(text), line = w->header_bytes ? w->header_bytes - 17 : length;
    w->header_bytes = line + 17;
    int wrote = fseek(w->file, 0, SEEK_SET) ? -1 : fprintf(w->file, "%s%c%-*s\n", FM_TRACE_MAGIC, FM_TRACE_VERSION, (int)line, text);
    free(text);
    return wrote == (int)w->header_bytes ? 0 : fail_write(w, errno, err);
}

int fm_trace_writer_open(fm_trace_writer **writer, const char *path, const fm_trace *shape, fm_error *err) {
    struct stat st;
    fm_trace_writer *w = *writer = calloc(1, sizeof *w);
    if (!w) return fm_fail(err, FM_ENOMEM, "%s: no memory for writing a trace", path);
    w->shape = *shape;
    w->path = strdup(path);
    w->shape.moe = malloc((size_t)shape->n_layers);
    w->shape.how = shape->how ? strdup(shape->how) : NULL;
    int rc = asprintf(&w->part, "%s.part", path);
    if (rc < 0) w->part = NULL;
    if (rc < 0 || !w->path || !w->shape.moe || (shape->how && !w->shape.how)) {
        rc = fm_fail(err, FM_ENOMEM, "%s: no memory for writing a trace", path);
        goto fail;
    }
    memcpy(w->shape.moe, shape->moe, (size_t)shape->n_layers);
    for (int i = 0; i < shape->n_layers; i++) w->n_moe += shape->moe[i] != 0;
    if (!(w->record = malloc(1 + 4 * (size_t)w->n_moe * (size_t)shape->top_k))) {
        rc = fm_fail(err, FM_ENOMEM, "%s: no memory for writing a trace", path);
        goto fail;
    }
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) { /* a device would be replaced */
        rc = fm_fail(err, FM_EIO, "%s: it is there and is not a file", path);
        goto fail;
    }
    if (!(w->file = fopen(w->part, "w+b"))) {
        rc = fail_write(w, errno, err);
        goto fail;
    }
    if ((rc = write_header(w, INT32_MAX, err)) >= 0) return 0;
fail:
    fm_trace_writer_close(writer);
    return rc;
}

/* One token's choices behind `at` in the record; returns where they end. */
static size_t put_choices(fm_trace_writer *w, size_t at, const int16_t *choices) {
    for (int layer = 0; layer < w->shape.n_layers; layer++) {
        for (int i = 0; i < w->shape.top_k && w->shape.moe[layer]; i++) {
            int x = choices[layer * w->shape.top_k + i];
            w->record[at++] = (uint8_t)x;
            if (w->shape.n_experts > UINT8_MAX) w->record[at++] = (uint8_t)(x >> 8);
        }
    }
    return at;
}

int fm_trace_writer_add(fm_trace_writer *w, int kind, const int16_t *experts, const int16_t *predicted, fm_error *err) {
    bool any = false;
    for (int i = 0; predicted && i < w->shape.n_layers * w->shape.top_k && !any; i++) any = predicted[i] >= 0;
    if (w->n_tokens == INT32_MAX) return fm_fail(err, FM_EINVAL, "%s: a trace has at most %d tokens", w->path, INT32_MAX);
    w->record[0] = (uint8_t)(kind | (any ? FM_TRACE_PREDICTED : 0));
    size_t bytes = put_choices(w, 1, experts);
    if (any) bytes = put_choices(w, bytes, predicted);
    errno = 0;
    if (fwrite(w->record, 1, bytes, w->file) != bytes) return fail_write(w, errno, err);
    w->n_tokens++;
    return 0;
}

/* The hash of what is in the file; leaves it at its end. */
static int hash_file(const fm_trace_writer *w, uint64_t *hash, fm_error *err) {
    uint8_t piece[16384];
    size_t n;
    XXH3_state_t *state = XXH3_createState();
    if (!state) return fm_fail(err, FM_ENOMEM, "%s: no memory for its hash", w->path);
    XXH3_64bits_reset(state);
    errno = 0;
    bool good = fflush(w->file) == 0 && fseek(w->file, 0, SEEK_SET) == 0;
    while (good && (n = fread(piece, 1, sizeof piece, w->file)) > 0) XXH3_64bits_update(state, piece, n);
    *hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return good && !ferror(w->file) && fseek(w->file, 0, SEEK_END) == 0 ? 0 : fail_write(w, errno, err);
}

int fm_trace_writer_save(fm_trace_writer *w, fm_error *err) {
    uint64_t hash;
    uint8_t bytes[8];
    if (w->n_tokens == 0) return fm_fail(err, FM_EINVAL, "%s: no token was recorded", w->path);
    int rc = write_header(w, w->n_tokens, err);
    if (rc < 0 || (rc = hash_file(w, &hash, err)) < 0) return rc;
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(hash >> (8 * i));
    errno = 0;
    bool good = fwrite(bytes, 1, sizeof bytes, w->file) == sizeof bytes && fflush(w->file) == 0;
    int failed = good ? 0 : errno ? errno : EIO;
    if (fclose(w->file) && !failed) failed = errno;
    w->file = NULL;
    if (!failed && rename(w->part, w->path)) failed = errno;
    if (failed) unlink(w->part);
    return failed ? fail_write(w, failed, err) : 0;
}

void fm_trace_writer_close(fm_trace_writer **writer) {
    fm_trace_writer *w = *writer;
    if (!w) return;
    if (w->file) {
        fclose(w->file);
        unlink(w->part);
    }
    free(w->path);
    free(w->part);
    free(w->shape.moe);
    free(w->shape.how);
    free(w->record);
    free(w);
    *writer = NULL;
}

/* ---- what routers see ---- */

#define NPY_HEADER 128

struct fm_states_writer {
    char *path, *part;
    int fd, n_moe, hidden; /* fd of part; -1: none */
};

static int fail_states(const fm_states_writer *w, fm_error *err) {
    return fm_fail_errno(err, FM_EIO, errno ? errno : EIO, "%s: it cannot be written", w->path);
}

/* All of data at offset. */
static bool put_all(int fd, const void *data, size_t bytes, uint64_t offset) {
    const char *from = data;
    for (ssize_t n; bytes > 0; from += n, offset += (uint64_t)n, bytes -= (size_t)n) {
        errno = 0;
        n = pwrite(fd, from, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR) n = 0;
        if (n < 0) return false;
    }
    return true;
}

int fm_states_writer_open(fm_states_writer **writer, const char *path, int n_moe, int hidden, fm_error *err) {
    fm_states_writer *w = *writer = calloc(1, sizeof *w);
    if (!w) return fm_fail(err, FM_ENOMEM, "%s: no memory for writing states", path);
    *w = (fm_states_writer){.path = strdup(path), .fd = -1, .n_moe = n_moe, .hidden = hidden};
    int rc = asprintf(&w->part, "%s.part", path) < 0 || !w->path ? fm_fail(err, FM_ENOMEM, "%s: no memory for writing states", path) : 0;
    if (rc == 0 && (w->fd = open(w->part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) < 0) rc = fail_states(w, err);
    if (rc < 0) fm_states_writer_close(writer);
    return rc;
}

int fm_states_writer_add(fm_states_writer *w, uint64_t token, int moe, const float *x, size_t ld, int n, fm_error *err) {
    size_t row = (size_t)w->hidden * sizeof *x;
    for (int i = 0; i < n; i++) {
        uint64_t at = NPY_HEADER + ((token + (uint64_t)i) * (uint64_t)w->n_moe + (uint64_t)moe) * row;
        if (!put_all(w->fd, x + (size_t)i * ld, row, at)) return fail_states(w, err);
    }
    return 0;
}

int fm_states_writer_save(fm_states_writer *w, uint64_t n_tokens, fm_error *err) {
    char header[NPY_HEADER + 1], text[NPY_HEADER - 10];
    snprintf(text, sizeof text, "{'descr': '<f4', 'fortran_order': False, 'shape': (%" PRIu64 ", %d, %d), }", n_tokens, w->n_moe, w->hidden);
    snprintf(header, sizeof header, "xNUMPYxxxx%-*s\n", NPY_HEADER - 11, text);
    memcpy(header, "\x93NUMPY\x01\x00\x76\x00", 10);
    bool good = put_all(w->fd, header, NPY_HEADER, 0);
    int failed = good ? 0 : errno;
    if (close(w->fd) && !failed) failed = errno;
    w->fd = -1;
    if (!failed && rename(w->part, w->path)) failed = errno;
    if (failed) unlink(w->part);
    errno = failed;
    return failed ? fail_states(w, err) : 0;
}

void fm_states_writer_close(fm_states_writer **writer) {
    fm_states_writer *w = *writer;
    if (!w) return;
    if (w->fd >= 0) {
        close(w->fd);
        unlink(w->part);
    }
    free(w->path);
    free(w->part);
    free(w);
    *writer = NULL;
}
