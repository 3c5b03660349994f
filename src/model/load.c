/* model/load.c: the dense weights from disk to memory: pieces of a few MB, read past the page cache where that works and permuted by the thread that read
 * them, so that the disk and all CPUs are busy. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "model/weights.h"

#define PIECES_A_RUN 64 /* between two looks at the progress callback */
#define PAGE 4096u

typedef struct piece { /* strips [first, last) of one matrix */
    const fm_source *source;
    uint8_t *dest;
    int first, last;
} piece;

typedef struct loader {
    const fm_model *model;
    piece *pieces;
    int n_pieces, next;
    uint8_t *buffers; /* [n_threads][buffer_bytes]: for weight, scales, biases each two of rows_bytes: as read, and gathered */
    size_t buffer_bytes, rows_bytes, piece_bytes;
    atomic_int failed;
    fm_error *errors; /* [n_threads] */
} loader;

static size_t align_up(size_t n) { return (n + PAGE - 1) / PAGE * PAGE; }

/* Bytes of one source row of part 0..2 (weight, scales, biases) of a matrix. */
static size_t source_row_bytes(const fm_matrix_type *type, int part) {
    if (type->format == FM_FORMAT_F8) return part ? 0 : (size_t)type->cols; /* scales are read whole: see read_scales */
    if (type->format != FM_FORMAT_R16) return part ? 0 : fm_matrix_strip_bytes(type);
    return part ? (size_t)(type->cols / type->group) * 2 : (size_t)type->cols * (size_t)type->bits / 8;
}

static int rows_of_strip(const fm_matrix_type *type) { return type->format == FM_FORMAT_R16 ? 16 : 1; }

static const fm_tensor *part_tensor(const fm_source *s, int part) { return part == 0 ? s->weight : part == 1 ? s->scales : s->biases; }

/* Source rows of destination rows [first, last) of a part of s, one after the other, by way of buffer: *at is in its first half, or in the second if they had to be
 * gathered. */
static int read_rows(const loader *l, const fm_source *s, int part, const int rows[2], uint8_t *buffer, const uint8_t **at, fm_error *err) {
    const fm_tensor *t = part_tensor(s, part);
    const fm_file *file = &l->model->tensors.files[t->file];
    uint8_t *gathered = buffer + l->rows_bytes;
    size_t bytes = source_row_bytes(&s->type, part);
    if (!s->row_map) return fm_file_read_direct(file, buffer, t->offset + (uint64_t)rows[0] * bytes, (size_t)(rows[1] - rows[0]) * bytes, at, err);
    for (int r = rows[0]; r < rows[1];) {
        int n = 1;
        while (r + n < rows[1] && s->row_map[r + n] == s->row_map[r] + n) n++;
        const uint8_t *run;
        int rc = fm_file_read_direct(file, buffer, t->offset + (uint64_t)s->row_map[r] * bytes, (size_t)n * bytes, &run, err);
        if (rc < 0) return rc;
        memcpy(gathered + (size_t)(r - rows[0]) * bytes, run, (size_t)n * bytes);
        r += n;
    }
    *at = gathered;
    return 0;
}

static int check_finite(const fm_model *model, const fm_source *s, int part, const uint8_t *data, int first, int n_rows, fm_error *err) {
    const fm_tensor *t = part_tensor(s, part);
    uint64_t cols = source_row_bytes(&s->type, part) / fm_dtype_bytes(t->dtype);
    int64_t bad = fm_find_nonfinite(data, t->dtype, cols * (uint64_t)n_rows);
    if (bad < 0) return 0;
    int row = first + (int)((uint64_t)bad / cols);
    uint32_t word = 0;
    memcpy(&word, data + (size_t)bad * fm_dtype_bytes(t->dtype), fm_dtype_bytes(t->dtype));
    float value;
    memcpy(&value, &word, sizeof value);
    if (t->dtype == FM_F8_E4M3) value = NAN;
    if (t->dtype == FM_BF16) value = fm_from_bf16((uint16_t)word);
    if (t->dtype == FM_F16) value = fm_from_f16((uint16_t)word);
    uint64_t i = (uint64_t)(s->row_map ? s->row_map[row] : row) * cols + (uint64_t)bad % cols;
    return fm_model_nonfinite(model, t, i, value, err);
}

/* All scales of an fp8 source: a number a block, so that reading them again for every piece costs nothing. */
static int read_scales(const loader *l, const fm_source *s, uint8_t *buffer, const uint8_t **at, fm_error *err) {
    const fm_tensor *t = s->scales;
    int rc = fm_file_read_direct(&l->model->tensors.files[t->file], buffer + 2 * l->rows_bytes, t->offset, t->bytes, at, err);
    if (rc < 0) return rc;
    int64_t bad = fm_find_nonfinite(*at, FM_F32, t->bytes / sizeof(float));
    if (bad < 0) return 0;
    float value;
    memcpy(&value, *at + (size_t)bad * sizeof value, sizeof value);
    return fm_model_nonfinite(l->model, t, (uint64_t)bad, value, err);
}

/* The scales of a row of the tensor. */
static const uint8_t *scales_of(const uint8_t *scales, int row, int cols) {
    return scales + (size_t)(row / FM_F8_BLOCK) * (size_t)fm_f8_n_scales(cols) * sizeof(float);
}

static int load_f8(const loader *l, const piece *p, uint8_t *buffer, fm_error *err) {
    const fm_source *s = p->source;
    const int rows[2] = {p->first, p->last};
    const uint8_t *values, *scales;
    size_t step = fm_matrix_strip_bytes(&s->type), cols = (size_t)s->type.cols;
    int rc = read_rows(l, s, 0, rows, buffer, &values, err);
    if (rc < 0 || (rc = check_finite(l->model, s, 0, values, rows[0], rows[1] - rows[0], err)) < 0) return rc;
    if ((rc = read_scales(l, s, buffer, &scales, err)) < 0) return rc;
    for (int r = rows[0]; r < rows[1]; r++, values += cols)
        fm_f8_fill_row(p->dest + (size_t)r * step, s->type.cols, values, scales_of(scales, s->row_map ? s->row_map[r] : r, s->type.cols));
    return 0;
}

/* One head of fp8 that is turned, and stays fp8: its rows are whole blocks, whose scales are turned with them. */
static void turn_f8(const fm_source *s, int first_row, const uint8_t *values, const uint8_t *scales, uint8_t *dest) {
    int n = s->shape.cols, cols = s->from.cols;
    size_t step = fm_f8_row_bytes(n);
    for (int c = 0; c < cols; c++, dest += step) {
        float *to = (float *)(void *)(dest + fm_f8_values_bytes(n));
        memset(dest, 0, fm_f8_values_bytes(n));
        for (int i = 0; i < n; i++) dest[i] = values[(size_t)i * (size_t)cols + (size_t)c];
        for (int i = 0; i < fm_f8_n_scales(n); i++)
            memcpy(to + i, scales_of(scales, first_row + i * FM_F8_BLOCK, cols) + (size_t)(c / FM_F8_BLOCK) * sizeof(float), sizeof(float));
    }
}

/* A row of a quantised matrix as f32; made, in scratch, in the kernels' layout. */
static void row_values(const fm_source *s, int row, const uint8_t *const data[3], uint8_t *scratch, float *out) {
    fm_matrix_type one = s->from;
    const uint8_t *values = data[0] + (size_t)row * source_row_bytes(&one, 0);
    size_t halves = source_row_bytes(&one, 1) * (size_t)row;
    one.rows = 1;
    if (one.format == FM_FORMAT_F8)
        fm_f8_fill_row(scratch, one.cols, values, data[1]);
    else
        fm_r16_fill(scratch, &one, &(fm_affine_rows){values, data[1] + halves, data[2] + halves, NULL}, 0, 1);
    fm_matrix_row(&(fm_matrix){one, scratch}, 0, out);
}

/* One head of a source that is turned: its rows become columns, as they are or, of quantised ones, as f32. */
static int load_turned(const loader *l, const piece *p, uint8_t *buffer, fm_error *err) {
    fm_source from = *p->source;
    const fm_matrix_type *to = &p->source->type;
    int n = to->cols, rc = 0;
    const int first = p->first / from.from.cols * from.turned, rows[2] = {first, first + n};
    const uint8_t *data[3] = {0};
    bool f8 = from.from.format == FM_FORMAT_F8;
    from.type = from.from;
    from.row_map = NULL;
    for (int part = 0; part < (f8 ? 1 : fm_source_parts(&from)) && rc >= 0; part++) {
        rc = read_rows(l, &from, part, rows, buffer + (size_t)part * l->rows_bytes * 2, &data[part], err);
        if (rc >= 0 && (part || f8 || !from.scales)) rc = check_finite(l->model, &from, part, data[part], rows[0], n, err);
    }
    if (rc < 0 || (f8 && (rc = read_scales(l, &from, buffer, &data[1], err)) < 0)) return rc;
    size_t step = fm_matrix_strip_bytes(to), size = to->format == FM_FORMAT_F32 ? 4 : 2, row_bytes = source_row_bytes(&from.from, 0);
    uint8_t *dest = p->dest + (size_t)p->first * step, *scratch = buffer + l->rows_bytes;
    float *values = (float *)(void *)(buffer + 3 * l->rows_bytes);
    if (to->format == FM_FORMAT_F8) {
        turn_f8(p->source, first, data[0], data[1], dest);
        return 0;
    }
    const uint8_t *scales = data[1];
    for (int i = 0; i < n; i++) {
        const uint8_t *row = data[0] + (size_t)i * row_bytes;
        if (f8) data[1] = scales_of(scales, first + i, from.from.cols);
        if (from.scales) {
            row_values(&from, i, data, scratch, values);
            row = (const uint8_t *)values;
        }
        for (size_t c = 0; c < (size_t)from.from.cols; c++) memcpy(dest + c * step + (size_t)i * size, row + c * size, size);
    }
    return 0;
}

static int load_piece(const loader *l, const piece *p, uint8_t *buffer, fm_error *err) {
    const fm_source *s = p->source;
    if (s->turned) return load_turned(l, p, buffer, err);
    if (s->type.format == FM_FORMAT_F8) return load_f8(l, p, buffer, err);
    const fm_matrix_type *type = &s->type;
    int strip = rows_of_strip(type), first = p->first * strip, last = p->last * strip < type->rows ? p->last * strip : type->rows;
    const int rows[2] = {first, last};
    const uint8_t *data[3] = {0};
    for (int part = 0; part < (s->scales ? 3 : 1); part++) {
        int rc = read_rows(l, s, part, rows, buffer + (size_t)part * l->rows_bytes * 2, &data[part], err);
        if (rc < 0) return rc;
        if ((part || !s->scales) && (rc = check_finite(l->model, s, part, data[part], first, last - first, err)) < 0) return rc;
    }
    size_t strip_bytes = fm_matrix_strip_bytes(type);
    if (!s->scales) {
        memcpy(p->dest + (size_t)p->first * strip_bytes, data[0], (size_t)(last - first) * strip_bytes);
        return 0;
    }
    /* The rows lie one after the other from row `first` on: fill takes them as a matrix of its own. */
    fm_matrix_type part_type = *type;
    part_type.rows = last - first;
    fm_r16_fill(p->dest + (size_t)p->first * strip_bytes, &part_type, &(fm_affine_rows){data[0], data[1], data[2], NULL}, 0, p->last - p->first);
    return 0;
}

static void load_task(void *arg, int task, int thread) {
    loader *l = arg;
    if (atomic_load_explicit(&l->failed, memory_order_relaxed)) return;
    uint8_t *buffer = l->buffers + (size_t)thread * l->buffer_bytes;
    int rc = load_piece(l, &l->pieces[l->next + task], buffer, &l->errors[thread]);
    if (rc < 0) atomic_store(&l->failed, rc);
}

/* Vectors and the convolution are small: read whole, made f32. */
static int load_vector(const fm_model *model, const fm_source *s, float *out, fm_error *err) {
    const fm_tensor *t = s->weight;
    int rows = s->shape.rows, cols = s->shape.cols;
    size_t n = (size_t)rows * (size_t)cols;
    uint8_t *data = malloc(t->bytes ? t->bytes : 1);
    if (!data) return fm_fail(err, FM_ENOMEM, "%s: no memory for tensor %s", model->path, t->name);
    int rc = fm_file_read(&model->tensors.files[t->file], data, t->bytes, t->offset, err);
    float plus = s->shape.kind == FM_KIND_NORM && model->description.norm_stored_less_one && !model->mlx ? 1 : 0;
    for (size_t i = 0; i < n && rc >= 0; i++) {
        uint16_t half;
        float v;
        size_t from = (size_t)s->first + i;
        if (t->dtype == FM_F32) {
            memcpy(&v, data + 4 * from, 4);
        } else {
            memcpy(&half, data + 2 * from, 2);
            v = t->dtype == FM_BF16 ? fm_from_bf16(half) : fm_from_f16(half);
        }
        if (!(v - v == 0)) rc = fm_model_nonfinite(model, t, from, v, err);
        size_t at = s->shape.kind == FM_KIND_CONV ? i % (size_t)cols * (size_t)rows + i / (size_t)cols : i;
        out[at] = v + plus;
    }
    free(data);
    return rc < 0 ? rc : 0;
}

static size_t source_bytes(const fm_source *s) {
    return fm_arena_bytes(s->shape.kind == FM_KIND_MATRIX ? fm_matrix_bytes(&s->type) : (size_t)s->shape.rows * (size_t)s->shape.cols * sizeof(float));
}

uint64_t fm_weights_bytes(const fm_model *model) {
    uint64_t bytes = fm_arena_bytes((size_t)model->description.n_layers * sizeof(fm_layer_weights));
    for (int i = 0; i <= model->description.n_layers; i++) {
        for (int role = 0; role < FM_N_ROLES; role++) {
            if (model->sources[i][role].weight) bytes += source_bytes(&model->sources[i][role]);
        }
    }
    return bytes;
}

uint64_t fm_weights_token_bytes(const fm_model *model) {
    uint64_t bytes = fm_weights_bytes(model);
    return model->description.tied_head ? bytes : bytes - source_bytes(&model->sources[0][FM_EMBED]);
}

/* Makes each part of a buffer hold at least so many bytes that are read. */
static void widen(loader *l, size_t bytes) {
    size_t rows = align_up(bytes) + 2 * PAGE;
    if (rows > l->rows_bytes) l->rows_bytes = rows;
}

/* The pieces of a source that is turned: a head is one. */
static int list_turned(loader *l, const fm_source *s, uint8_t *dest, piece *pieces) {
    int step = s->from.cols, n_heads = s->shape.rows / step;
    size_t read = (size_t)s->shape.cols * source_row_bytes(&s->from, 0), row = fm_matrix_strip_bytes(&s->from), values = (size_t)step * sizeof(float);
    widen(l, read > row ? read : row);
    widen(l, values);
    if (s->from.format == FM_FORMAT_F8) widen(l, s->scales->bytes);
    for (int h = 0; h < n_heads && pieces; h++) pieces[h] = (piece){s, dest, h * step, (h + 1) * step};
    return n_heads;
}

/* Lists the pieces of one matrix into pieces (NULL: only counts) and widens the buffers to hold one. */
static int list_pieces(loader *l, const fm_source *s, uint8_t *dest, piece *pieces) {
    size_t strip = 0;
    if (s->turned) return list_turned(l, s, dest, pieces);
    for (int part = 0; part < 3; part++) {
        size_t bytes = source_row_bytes(&s->type, part) * (size_t)rows_of_strip(&s->type);
        if (bytes > strip) strip = bytes;
    }
    int n_strips = fm_matrix_n_strips(&s->type), step = strip && strip < l->piece_bytes ? (int)(l->piece_bytes / strip) : 1, n = 0;
    widen(l, (size_t)step * strip);
    if (s->type.format == FM_FORMAT_F8) widen(l, s->scales->bytes);
    for (int first = 0; first < n_strips; first += step, n++) {
        if (pieces) pieces[n] = (piece){s, dest, first, first + step < n_strips ? first + step : n_strips};
    }
    return n;
}

/* Takes memory for everything, reads the vectors, and lists the matrices' pieces. */
static int lay_out(loader *l, fm_weights *w, fm_error *err) {
    const fm_model *model = l->model;
    int n = 0, n_layers = model->description.n_layers;
    w->layers = fm_arena_take(&w->arena, (size_t)n_layers * sizeof *w->layers);
    for (int count = 1; count >= 0; count--) {
        n = 0;
        for (int i = 0; i <= n_layers; i++) {
            fm_layer_weights *lw = i ? &w->layers[i - 1] : &w->model;
            for (int role = 0; role < FM_N_ROLES; role++) {
                const fm_source *s = &model->sources[i][role];
                bool matrix = s->shape.kind == FM_KIND_MATRIX;
                if (!s->weight || (count && !matrix)) continue;
                if (count) {
                    n += list_pieces(l, s, NULL, NULL);
                    continue;
                }
                void *dest = fm_arena_take(&w->arena, source_bytes(s));
                if (matrix) {
                    lw->matrix[role] = (fm_matrix){s->type, dest};
                    n += list_pieces(l, s, dest, l->pieces + n);
                } else {
                    lw->vector[role] = dest;
                    int rc = load_vector(model, s, dest, err);
                    if (rc < 0) return rc;
                }
            }
        }
        if (count && !(l->pieces = calloc((size_t)n + 1, sizeof *l->pieces))) return fm_fail(err, FM_ENOMEM, "%s: no memory for %d pieces", model->path, n);
    }
    if (model->description.tied_head) w->model.matrix[FM_HEAD] = w->model.matrix[FM_EMBED];
    l->n_pieces = n;
    return 0;
}

static int run_pieces(loader *l, fm_pool *pool, const fm_progress *progress, fm_error *err) {
    uint64_t done = 0, total = 0;
    for (int i = 0; i < l->n_pieces; i++) total += (uint64_t)(l->pieces[i].last - l->pieces[i].first) * fm_matrix_strip_bytes(&l->pieces[i].source->type);
    for (l->next = 0; l->next < l->n_pieces; l->next += PIECES_A_RUN) {
        int n = l->n_pieces - l->next < PIECES_A_RUN ? l->n_pieces - l->next : PIECES_A_RUN;
        fm_pool_run(pool, n, load_task, l);
        for (int t = 0; t < fm_pool_n_threads(pool); t++) {
            if (!l->errors[t].code) continue;
            if (err) *err = l->errors[t];
            return l->errors[t].code;
        }
        for (int i = l->next; i < l->next + n; i++)
            done += (uint64_t)(l->pieces[i].last - l->pieces[i].first) * fm_matrix_strip_bytes(&l->pieces[i].source->type);
        if (progress && progress->fn && progress->fn(progress->user, "load", done, total)) return fm_fail(err, FM_ECANCELLED, "loading was cancelled");
    }
    return 0;
}

int fm_weights_load(fm_weights *w, const fm_model *model, fm_pool *pool, size_t piece_bytes, const fm_progress *progress, fm_error *err) {
    int n_threads = fm_pool_n_threads(pool);
    fm_region buffers = {0};
    loader l = {.model = model, .piece_bytes = piece_bytes};
    memset(w, 0, sizeof *w);
    int rc = fm_region_open(&w->arena.region, fm_weights_bytes(model), "dense weights", err);
    if (rc < 0 || (rc = lay_out(&l, w, err)) < 0) goto done;
    l.buffer_bytes = l.rows_bytes * 6;
    if ((rc = fm_region_open(&buffers, l.buffer_bytes * (size_t)n_threads, "load buffers", err)) < 0) goto done;
    l.buffers = buffers.data;
    l.errors = calloc((size_t)n_threads, sizeof *l.errors);
    rc = l.errors ? run_pieces(&l, pool, progress, err) : fm_fail(err, FM_ENOMEM, "no memory for loading");
done:
    free(l.errors);
    free(l.pieces);
    fm_region_close(&buffers);
    if (rc < 0) fm_weights_close(w);
    return rc;
}

void fm_weights_close(fm_weights *w) {
    fm_region_close(&w->arena.region);
    memset(w, 0, sizeof *w);
}
