/* prepare/pack/dense.c: the dense part: all threads read and convert pieces of one half of the buffer while the other half is written. */
#include <stdlib.h>
#include <string.h>

#include "formats/safetensors.h"
#include "prepare/pack/pack.h"

#define PIECE ((size_t)1 << 20) /* of a source or of what becomes of it, or 16 rows */
#define N_PIECES 16             /* in a half */

/* ---- what there is ---- */

typedef struct part {      /* of an item: one tensor of dense.safetensors */
    const fm_tensor *from; /* NULL: it is made */
    fm_dtype dtype;
    int rows;
    size_t row_bytes, source_bytes; /* of a row: written, and read of all that it is made from */
} part;

static const fm_tensor *tensor_of(const fm_source *s, int which) { return which == 0 ? s->weight : which == 1 ? s->scales : s->biases; }

static int n_parts(const fm_dense_item *item) {
    if (!item->matrix) return 1;
    if (!item->target.made) return fm_source_parts(&item->source);
    return item->target.type.format == FM_FORMAT_R16 ? 3 : 1;
}

static fm_dtype float_dtype(fm_format format) { return format == FM_FORMAT_F32 ? FM_F32 : format == FM_FORMAT_F16 ? FM_F16 : FM_BF16; }

static part part_of(const fm_dense_item *item, int which) {
    const fm_source *s = &item->source;
    const fm_tensor *t = tensor_of(s, which);
    if (item->matrix && item->target.made) {
        const fm_matrix_type *to = &item->target.type;
        part p = {NULL, to->format == FM_FORMAT_R16 ? which ? to->scale_dtype : FM_U32 : float_dtype(to->format), to->rows, fm_row_bytes(to, which), 0};
        for (int i = 0; i < 3; i++) p.source_bytes += fm_row_bytes(&s->type, i);
        return p;
    }
    int rows = item->matrix || s->shape.kind == FM_KIND_CONV ? (int)t->shape[0] : 1;
    part p = {t, t->dtype, rows, (size_t)(t->bytes / (uint64_t)rows), (size_t)(t->bytes / (uint64_t)rows)};
    if (item->plus_one) {
        p.dtype = FM_F32;
        p.row_bytes = (size_t)s->shape.cols * sizeof(float);
    }
    return p;
}

static int rows_a_piece(const part *p) {
    size_t row = p->row_bytes > p->source_bytes ? p->row_bytes : p->source_bytes;
    int n = row ? (int)(PIECE / row) : 1;
    n = n < FM_STRIP ? FM_STRIP : n / FM_STRIP * FM_STRIP;
    return n < p->rows ? n : p->rows;
}

/* The tensor that a part is written as. */
static fm_pack_tensor tensor_entry(const fm_dense_item *item, int which, char *name, size_t size) {
    part p = part_of(item, which);
    fm_pack_tensor t = {.name = name, .dtype = p.dtype};
    const char *second = p.from && item->source.type.format == FM_FORMAT_F8 ? "%s.weight_scale_inv" : "%s.scales";
    snprintf(name, size, item->matrix ? which == 0 ? "%s.weight" : which == 1 ? second : "%s.biases" : "%s", item->name);
    if (item->source.shape.kind == FM_KIND_CONV) {
        t.n_dims = 3;
        t.shape[0] = (uint64_t)item->source.shape.rows;
        t.shape[1] = (uint64_t)item->source.shape.cols;
        t.shape[2] = 1;
    } else if (item->source.shape.kind == FM_KIND_DECAY) {
        t.n_dims = 2;
        t.shape[0] = (uint64_t)item->source.shape.rows;
        t.shape[1] = (uint64_t)item->source.shape.cols;
    } else if (!item->matrix) {
        t.n_dims = 1;
        t.shape[0] = (uint64_t)item->source.shape.cols;
    } else if (p.from) {
        t.n_dims = p.from->n_dims;
        memcpy(t.shape, p.from->shape, sizeof t.shape);
    } else {
        t.n_dims = 2;
        t.shape[0] = (uint64_t)p.rows;
        t.shape[1] = p.row_bytes / fm_dtype_bytes(p.dtype);
    }
    return t;
}

/* All tensors, named in memory at *names. */
static int list_tensors(const fm_choice *choice, fm_pack_tensor **tensors, char **names, fm_error *err) {
    enum { NAME = 320 };
    size_t most = (size_t)choice->n_items * 3 + 1;
    int n = 0;
    *tensors = calloc(most, sizeof **tensors);
    *names = malloc(most * NAME);
    if (!*tensors || !*names) return fm_fail(err, FM_ENOMEM, "no memory for %zu tensors", most);
    for (int i = 0; i < choice->n_items; i++) {
        for (int which = 0; which < n_parts(&choice->items[i]); which++, n++)
            (*tensors)[n] = tensor_entry(&choice->items[i], which, *names + (size_t)n * NAME, NAME);
    }
    return n;
}

int fm_dense_bytes(const fm_choice *choice, uint64_t *bytes, fm_error *err) {
    fm_pack_tensor *tensors;
    char *names, *header = NULL;
    int n = list_tensors(choice, &tensors, &names, err), rc = n < 0 ? n : 0;
    fm_safetensors_entry *entries = rc == 0 ? calloc((size_t)n + 1, sizeof *entries) : NULL;
    *bytes = 8;
    if (rc == 0 && !entries) rc = fm_fail(err, FM_ENOMEM, "no memory for %d tensors", n);
    for (int i = 0; i < n && rc == 0; i++) {
        uint64_t size = fm_dtype_bytes(tensors[i].dtype);
        entries[i] = (fm_safetensors_entry){.name = tensors[i].name, .dtype = tensors[i].dtype, .n_dims = tensors[i].n_dims};
        memcpy(entries[i].shape, tensors[i].shape, sizeof entries[i].shape);
        for (int d = 0; d < tensors[i].n_dims; d++) size *= tensors[i].shape[d];
        *bytes += size;
    }
    if (rc == 0) rc = fm_safetensors_header(&header, "dense.safetensors", entries, n, err);
    if (rc == 0) *bytes += strlen(header);
    free(header);
    free(entries);
    free(tensors);
    free(names);
    return rc;
}

uint64_t fm_dense_source_bytes(const fm_choice *choice) {
    uint64_t bytes = 0;
    for (int i = 0; i < choice->n_items; i++) {
        for (int which = 0; which < 3; which++) bytes += tensor_of(&choice->items[i].source, which) ? tensor_of(&choice->items[i].source, which)->bytes : 0;
    }
    return bytes;
}

/* What is read for each piece beside its rows: all scales of fp8. */
static size_t table_bytes(const fm_dense_item *item) {
    return item->matrix && item->source.type.format == FM_FORMAT_F8 ? (size_t)item->source.scales->bytes + 3 * FM_FILE_PAGE : 0;
}

/* The largest over all pieces of what is read for one, and of what is written. */
static void largest_piece(const fm_choice *choice, size_t *source, size_t *made, size_t *scratch) {
    *source = *made = *scratch = 0;
    for (int i = 0; i < choice->n_items; i++) {
        const fm_dense_item *item = &choice->items[i];
        for (int which = 0; which < n_parts(item); which++) {
            part p = part_of(item, which);
            size_t rows = (size_t)rows_a_piece(&p), read = rows * p.source_bytes + (item->target.made ? table_bytes(item) : 0);
            if (read > *source) *source = read;
            if ((item->target.made ? which == 0 : true) && rows * p.row_bytes > *made) *made = rows * p.row_bytes;
        }
        if (item->target.made && fm_convert_scratch(&item->source.type) > *scratch) *scratch = fm_convert_scratch(&item->source.type);
    }
    *source = (*source + FM_FILE_PAGE - 1) / FM_FILE_PAGE * FM_FILE_PAGE;
    *made = (*made + FM_FILE_PAGE - 1) / FM_FILE_PAGE * FM_FILE_PAGE;
}

size_t fm_dense_thread_bytes(const fm_choice *choice) {
    size_t source, made, scratch;
    largest_piece(choice, &source, &made, &scratch);
    return source + 10 * FM_FILE_PAGE + scratch;
}

size_t fm_dense_shared_bytes(const fm_choice *choice) {
    size_t source, made, scratch;
    largest_piece(choice, &source, &made, &scratch);
    return 2 * N_PIECES * made;
}

/* Scales and biases lie in memory from when their values are made until those are written: of two large matrices at most. */
size_t fm_dense_side_bytes(const fm_choice *choice) {
    size_t most = 0;
    for (int i = 0; i < choice->n_items; i++) {
        const fm_matrix_type *t = &choice->items[i].target.type;
        size_t bytes = choice->items[i].target.made ? 2 * (size_t)t->rows * fm_row_bytes(t, 1) : 0;
        if (bytes > most) most = bytes;
    }
    return 2 * most;
}

/* ---- writing ---- */

typedef struct piece {
    fm_dense_item *item;
    int part, first, last;
    size_t bytes;
    const uint8_t *data; /* NULL: to be made in the half */
    fm_deviation sum;
} piece;

typedef struct dense {
    fm_pack_job *job;
    uint8_t *half[2];
    size_t piece_bytes;
    piece pieces[2][N_PIECES];
    int n_pieces[2], making;
    int item, part, row; /* of the next piece */
    fm_deviation sum;    /* of the item being written */
} dense;

static void write_half(dense *d, int thread) {
    fm_pack_job *job = d->job;
    int which = !d->making, rc = 0;
    for (int i = 0; i < d->n_pieces[which] && rc == 0; i++) {
        piece *p = &d->pieces[which][i];
        rc = fm_packer_dense_write(job->packer, p->data ? p->data : d->half[which] + (size_t)i * d->piece_bytes, p->bytes, &job->errors[thread]);
        if (!p->item->target.made || rc < 0) continue;
        if (p->part == 0) fm_deviation_add(&d->sum, &p->sum);
        if (p->part == 0 && p->last == p->item->target.type.rows) {
            fm_figures_add(&job->figures, fm_role_part(p->item->role), p->item->name, &p->item->source.type, &p->item->target.type, &d->sum);
            d->sum = (fm_deviation){0};
        }
        if (p->part > 0) {
            free(p->item->side[p->part - 1]);
            p->item->side[p->part - 1] = NULL;
        }
    }
    if (rc < 0) fm_pack_stop(job, thread, rc);
}

/* Reads rows [first, last) of a source's tensor by way of buffer, and checks those that are numbers. */
static int read_rows(fm_pack_job *job, const fm_tensor *t, const piece *p, size_t row_bytes, uint8_t *buffer, const uint8_t **at, fm_error *err) {
    uint64_t begin = (uint64_t)p->first * row_bytes;
    size_t bytes = (size_t)(p->last - p->first) * row_bytes;
    int rc = fm_file_read_direct(&job->model->tensors.files[t->file], buffer, t->offset + begin, bytes, at, err);
    atomic_fetch_add_explicit(&job->read_bytes, bytes, memory_order_relaxed);
    if (rc < 0 || t->dtype == FM_U32) return rc;
    size_t size = fm_dtype_bytes(t->dtype);
    return fm_pack_finite(job->model, t, *at, begin / size, bytes / size, err);
}

static int keep_piece(fm_pack_job *job, const piece *p, uint8_t *out, uint8_t *buffer, fm_error *err) {
    part from = part_of(p->item, p->part);
    const uint8_t *data;
    int rc = read_rows(job, from.from, p, from.source_bytes, buffer, &data, err);
    if (rc < 0) return rc;
    if (!p->item->plus_one) {
        memcpy(out, data, p->bytes);
        return 0;
    }
    fm_matrix_type type = {.format = from.from->dtype == FM_F32 ? FM_FORMAT_F32 : from.from->dtype == FM_F16 ? FM_FORMAT_F16 : FM_FORMAT_BF16, .rows = 1};
    type.cols = p->item->source.shape.cols;
    float *values = (float *)(void *)out;
    fm_matrix_row(&(fm_matrix){type, data}, 0, values);
    for (int i = 0; i < type.cols; i++) values[i] += 1;
    return 0;
}

static int make_piece(fm_pack_job *job, piece *p, uint8_t *out, uint8_t *buffer, fm_error *err) {
    fm_dense_item *item = p->item;
    const fm_matrix_type *from = &item->source.type, *to = &item->target.type;
    fm_rows rows = {.type = from};
    uint8_t *scratch = buffer;
    buffer += fm_convert_scratch(from);
    buffer += -(uintptr_t)buffer % FM_FILE_PAGE;
    for (int i = 0; i < (fm_is_mx(from) ? 2 : from->format == FM_FORMAT_R16 ? 3 : 1); i++) {
        size_t row = fm_row_bytes(from, i), bytes = (size_t)(p->last - p->first) * row;
        int rc = read_rows(job, tensor_of(&item->source, i), p, row, buffer, &rows.parts[i], err);
        if (rc < 0) return rc;
        buffer += (bytes + FM_FILE_PAGE - 1) / FM_FILE_PAGE * FM_FILE_PAGE + 2 * FM_FILE_PAGE;
    }
    if (from->format == FM_FORMAT_F8) {
        const fm_tensor *t = item->source.scales;
        const piece all = {.last = (int)t->shape[0]};
        int rc = read_rows(job, t, &all, (size_t)(t->bytes / t->shape[0]), buffer, &rows.parts[1], err);
        if (rc < 0) return rc;
        rows.first_row = p->first;
    }
    const float *importance = fm_choice_importance(&job->choice, job->model, item->layer, item->role, from->cols);
    for (int first = p->first; first < p->last; first += FM_STRIP) {
        size_t done = (size_t)(first - p->first), halves = fm_row_bytes(to, 1);
        const int range[2] = {(int)done, p->last - first < FM_STRIP ? p->last - p->first : (int)done + FM_STRIP};
        uint8_t *outs[3] = {out + done * fm_row_bytes(to, 0)};
        for (int i = 0; i < 2 && item->side[i]; i++) outs[i + 1] = item->side[i] + (size_t)first * halves;
        int bad = fm_convert_rows(&rows, &item->target, importance, range, scratch, outs, &p->sum);
        if (bad >= 0)
            return fm_fail(err, FM_ENAN, "%s: tensor %s: row %d has weights that are too large for its scales", job->model->path, item->source.weight->name,
                           p->first + bad);
    }
    return 0;
}

/* Task 0 writes what was made in the run before; the others make a piece each. */
static void dense_task(void *arg, int task, int thread) {
    dense *d = arg;
    fm_pack_job *job = d->job;
    if (task == 0) {
        write_half(d, thread);
        return;
    }
    piece *p = &d->pieces[d->making][task - 1];
    if (p->data || atomic_load_explicit(&job->failed, memory_order_relaxed)) return;
    uint8_t *out = d->half[d->making] + (size_t)(task - 1) * d->piece_bytes, *buffer = job->buffers.data + (size_t)thread * job->thread_bytes;
    int rc = p->item->target.made ? make_piece(job, p, out, buffer, &job->errors[thread]) : keep_piece(job, p, out, buffer, &job->errors[thread]);
    if (rc < 0) fm_pack_stop(job, thread, rc);
}

/* Memory for a matrix's scales and biases, when its first piece is listed. */
static int open_side(fm_dense_item *item, fm_error *err) {
    size_t bytes = (size_t)item->target.type.rows * fm_row_bytes(&item->target.type, 1);
    for (int i = 0; i < 2; i++) {
        if (!(item->side[i] = malloc(bytes))) return fm_fail(err, FM_ENOMEM, "no memory for the %zu bytes of scales of %s", bytes, item->name);
    }
    return 0;
}

/* The next pieces of the stream of all tensors. */
static int list_pieces(dense *d, fm_error *err) {
    fm_choice *choice = &d->job->choice;
    int n = 0;
    while (n < N_PIECES && d->item < choice->n_items) {
        fm_dense_item *item = &choice->items[d->item];
        if (d->part == n_parts(item)) {
            d->item++;
            d->part = d->row = 0;
            continue;
        }
        part p = part_of(item, d->part);
        bool side = item->target.made && d->part > 0, first = item->target.made && d->part == 0 && d->row == 0 && p.dtype == FM_U32;
        int rc = first ? open_side(item, err) : 0, rows = side ? p.rows : rows_a_piece(&p);
        if (rc < 0) return rc;
        piece *to = &d->pieces[d->making][n++];
        *to = (piece){.item = item, .part = d->part, .first = d->row, .last = d->row + rows < p.rows ? d->row + rows : p.rows};
        to->bytes = (size_t)(to->last - to->first) * p.row_bytes;
        to->data = side ? item->side[d->part - 1] : NULL;
        d->row = to->last;
        if (d->row == p.rows) d->part++, d->row = 0;
    }
    d->n_pieces[d->making] = n;
    return 0;
}

static int write_pieces(dense *d, fm_error *err) {
    fm_pack_job *job = d->job;
    int rc;
    do {
        if ((rc = list_pieces(d, err)) < 0) return rc;
        fm_pool_run(job->pool, 1 + d->n_pieces[d->making], dense_task, d);
        for (int i = 0; i < d->n_pieces[!d->making]; i++) job->done += d->pieces[!d->making][i].bytes;
        if ((rc = fm_pack_first_error(job, err)) < 0) return rc;
        if (fm_pack_cancelled(job, "writing the dense part", job->done, job->total)) return fm_fail(err, FM_ECANCELLED, "packing was cancelled");
        d->making = !d->making;
    } while (d->n_pieces[!d->making]);
    return 0;
}

int fm_dense_write(fm_pack_job *job, fm_error *err) {
    fm_pack_tensor *tensors;
    char *names;
    size_t source, scratch;
    dense d = {.job = job};
    int n = list_tensors(&job->choice, &tensors, &names, err), rc = n < 0 ? n : fm_packer_dense(job->packer, tensors, n, err);
    free(tensors);
    free(names);
    if (rc < 0) return rc;
    largest_piece(&job->choice, &source, &d.piece_bytes, &scratch);
    d.half[0] = job->buffers.data + (size_t)job->n_threads * job->thread_bytes;
    d.half[1] = d.half[0] + N_PIECES * d.piece_bytes;
    if ((rc = write_pieces(&d, err)) < 0) return rc;
    return fm_packer_dense_end(job->packer, err);
}
