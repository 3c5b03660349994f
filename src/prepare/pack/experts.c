/* prepare/pack/experts.c: experts, a layer at a time: each thread reads one from where it lies, converts it and writes it, so that disk and CPUs are busy. */
#include <stdlib.h>
#include <string.h>

#include "prepare/pack/pack.h"

void fm_target_types(const fm_target targets[FM_EXPERT_MATRICES], fm_matrix_type types[FM_EXPERT_MATRICES]) {
    for (int i = 0; i < FM_EXPERT_MATRICES; i++) types[i] = targets[i].type;
}

static size_t page_up(size_t n) { return (n + FM_FILE_PAGE - 1) / FM_FILE_PAGE * FM_FILE_PAGE; }

/* What one thread needs for experts: what is read (each extent may be read by itself), what is written, and what converting takes. */
typedef struct area {
    size_t read, made, scratch, plain; /* plain: a matrix whose rows do not follow each other in the source, brought into order */
} area;

int fm_experts_layer(const fm_pack_job *job, int i) {
    int copies = job->choice.n_copies;
    return i / copies + (copies - 1 - i % copies) * job->model->description.n_layers;
}

static area largest_area(const fm_pack_job *job) {
    const fm_model *model = job->model;
    area a = {0};
    for (int i = 0; i < job->choice.n_copies * model->description.n_layers; i++) {
        int wide = i % model->description.n_layers;
        const fm_expert_layout *l = &model->experts[wide];
        fm_matrix_type types[FM_EXPERT_MATRICES];
        if (!model->description.layers[wide].moe) continue;
        fm_target_types(job->choice.experts[i], types);
        size_t made = (size_t)fm_pack_expert_bytes(types, NULL), read = page_up(l->disk_bytes) + (size_t)model->n_extents * 4 * FM_FILE_PAGE;
        if (made > a.made) a.made = made;
        if (read > a.read) a.read = read;
        for (int w = 0; w < FM_EXPERT_MATRICES; w++) {
            size_t scratch = fm_convert_scratch(&l->matrix[w].type), plain = 3 * 64;
            for (int part = 0; part < 3; part++) plain += (size_t)l->matrix[w].type.rows * fm_row_bytes(&l->matrix[w].type, part);
            if ((l->matrix[w].step > 1 || l->matrix[w].transposed) && plain > a.plain) a.plain = plain;
            if (scratch > a.scratch) a.scratch = scratch;
        }
    }
    return a;
}

size_t fm_experts_thread_bytes(const fm_pack_job *job) {
    area a = largest_area(job);
    return page_up(a.read) + page_up(a.made) + page_up((a.scratch + 63) / 64 * 64 + a.plain);
}

typedef struct banks { /* one layer at work */
    fm_pack_job *job;
    int layer, target; /* target: layer, or n_layers + layer for its narrow copies */
    area area;
    uint64_t offsets[FM_EXPERT_MATRICES];
    fm_deviation (*sums)[FM_EXPERT_MATRICES]; /* [n_experts] */
    _Atomic uint64_t moved;                   /* bytes of this layer */
} banks;

/* Reads an expert's extents, those that lie one after the other at once. */
static int read_expert(const banks *b, int expert, uint8_t *buffer, const uint8_t **parts, fm_error *err) {
    fm_pack_job *job = b->job;
    const fm_model *model = job->model;
    int key = b->layer * model->description.n_experts + expert, n = model->n_extents;
    const fm_extent *x = &model->extents[(size_t)key * (size_t)n];
    for (int i = 0; i < n && x[i].bytes;) {
        int end = i + 1;
        size_t bytes = x[i].bytes;
        const uint8_t *at;
        while (end < n && x[end].bytes && x[end].file == x[i].file && x[end].offset == x[i].offset + bytes) bytes += x[end++].bytes;
        int rc = fm_file_read_direct(&model->tensors.files[x[i].file], buffer, x[i].offset, bytes, &at, err);
        if (rc < 0) return rc;
        atomic_fetch_add_explicit(&job->read_bytes, bytes, memory_order_relaxed);
        for (; i < end; i++) {
            parts[i] = at;
            at += x[i].bytes;
        }
        buffer += page_up(bytes) + 2 * FM_FILE_PAGE;
    }
    return model->pack ? fm_expert_verify(model, key, parts[0], err) : 0;
}

static int check_finite(const banks *b, int expert, int which, const fm_rows *rows, fm_error *err) {
    const fm_matrix_type *t = rows->type;
    int key = b->layer * b->job->model->description.n_experts + expert;
    bool affine = t->format == FM_FORMAT_R16, f8 = t->format == FM_FORMAT_F8;
    if (rows->packed) return 0; /* its hash is right, and what made it looked */
    for (int part = affine; part < (affine ? 3 : f8 ? 2 : 1) && rows->parts[part]; part++) {
        fm_dtype dtype = f8                           ? part ? FM_F32 : FM_F8_E4M3
                         : affine                     ? t->scale_dtype
                         : t->format == FM_FORMAT_F32 ? FM_F32
                         : t->format == FM_FORMAT_F16 ? FM_F16
                                                      : FM_BF16;
        uint64_t n = (uint64_t)t->rows * fm_row_bytes(t, part) / fm_dtype_bytes(dtype);
        if (f8 && part) n = (uint64_t)((t->rows + FM_F8_BLOCK - 1) / FM_F8_BLOCK) * (uint64_t)fm_f8_n_scales(t->cols);
        int64_t bad = fm_find_nonfinite(rows->parts[part], dtype, n);
        if (bad >= 0) return fm_expert_nonfinite(b->job->model, key, which, part, (uint64_t)bad, rows->parts[part] + (size_t)bad * fm_dtype_bytes(dtype), err);
    }
    return 0;
}

static void keep_matrix(const fm_rows *rows, uint8_t *out) {
    const fm_matrix_type *t = rows->type;
    size_t cols = (size_t)t->cols, scales = (size_t)fm_f8_n_scales(t->cols) * sizeof(float);
    for (int r = 0; r < t->rows && t->format == FM_FORMAT_F8 && !rows->packed; r++, out += fm_matrix_strip_bytes(t))
        fm_f8_fill_row(out, t->cols, rows->parts[0] + (size_t)r * cols, rows->parts[1] + (size_t)(r / FM_F8_BLOCK) * scales);
    if (t->format == FM_FORMAT_F8 && !rows->packed) return;
    if (rows->packed || t->format != FM_FORMAT_R16)
        memcpy(out, rows->parts[0], fm_pack_matrix_bytes(t));
    else
        fm_r16_pack(out, t, &(fm_affine_rows){rows->parts[0], rows->parts[1], rows->parts[2], NULL, 0}, 0, fm_matrix_n_strips(t));
}

/* Converts 16 rows at a time. Returns the row whose scales are too large, or -1. */
static int make_matrix(const banks *b, int which, const fm_rows *rows, uint8_t *out, uint8_t *scratch, fm_deviation *sum) {
    const fm_target *to = &b->job->choice.experts[b->target][which];
    int role = which == FM_DOWN ? FM_ROLE_EXPERT_DOWN : FM_ROLE_EXPERT_IN;
    const float *importance = fm_choice_importance(&b->job->choice, b->job->model, b->layer, role, rows->type->cols);
    for (int first = 0; first < to->type.rows; first += FM_STRIP) {
        fm_matrix_type strip = to->type;
        const int range[2] = {first, first + FM_STRIP < to->type.rows ? first + FM_STRIP : to->type.rows};
        strip.rows = range[1] - range[0];
        int bad = fm_convert(rows, to, importance, range, scratch, out, sum);
        if (bad >= 0) return bad;
        out += fm_pack_matrix_bytes(&strip);
    }
    return -1;
}

/* The parts of a matrix, by way of `to` where its rows do not follow each other. */
static void find_parts(const fm_expert_matrix *m, const uint8_t *const *parts, uint8_t *to, fm_rows *rows) {
    for (int i = 0; i < 3; i++) {
        rows->parts[i] = m->extent[i] >= 0 ? parts[m->extent[i]] + m->skip[i] : NULL;
        if (!rows->parts[i] || (m->step <= 1 && !m->transposed)) continue;
        fm_expert_gather(m, i, rows->parts[i], 0, m->type.rows, to);
        rows->parts[i] = to;
        to += ((size_t)m->type.rows * fm_row_bytes(&m->type, i) + 63) / 64 * 64;
    }
}

static int pack_expert(const banks *b, int expert, uint8_t *buffer, fm_error *err) {
    fm_pack_job *job = b->job;
    const fm_expert_layout *layout = &job->model->experts[b->layer];
    const uint8_t *parts[FM_MAX_EXTENTS] = {0};
    uint8_t *out = buffer + page_up(b->area.read), *scratch = out + page_up(b->area.made), *plain = scratch + (b->area.scratch + 63) / 64 * 64;
    int rc = read_expert(b, expert, buffer, parts, err);
    if (rc < 0) return rc;
    size_t end = 0;
    for (int which = 0; which < FM_EXPERT_MATRICES; which++) {
        const fm_expert_matrix *m = &layout->matrix[which];
        if (!m->type.rows) continue;
        const fm_target *to = &job->choice.experts[b->target][which];
        fm_rows rows = {.type = &m->type, .packed = job->model->pack};
        size_t begin = (size_t)b->offsets[which], bytes = fm_pack_matrix_bytes(&to->type);
        find_parts(m, parts, plain, &rows);
        memset(out + end, 0, begin - end);
        if ((rc = check_finite(b, expert, which, &rows, err)) < 0) return rc;
        if (!to->made) {
            keep_matrix(&rows, out + begin);
        } else {
            int bad = make_matrix(b, which, &rows, out + begin, scratch, &b->sums[expert][which]);
            if (bad >= 0)
                return fm_fail(err, FM_ENAN, "%s: layer %d, expert %d: row %d of a matrix has weights that are too large for its scales", job->model->path,
                               b->layer, expert, bad);
        }
        end = begin + bytes;
    }
    memset(out + end, 0, b->area.made - end);
    return fm_packer_expert(job->packer, expert, out, err);
}

static void expert_task(void *arg, int expert, int thread) {
    banks *b = arg;
    fm_pack_job *job = b->job;
    if (atomic_load_explicit(&job->failed, memory_order_relaxed)) return;
    int rc = pack_expert(b, expert, job->buffers.data + (size_t)thread * job->thread_bytes, &job->errors[thread]);
    uint64_t moved = atomic_fetch_add(&b->moved, b->area.made) + b->area.made;
    /* Thread 0 is the caller's, the only one that may call back. */
    if (rc == 0 && thread == 0 && fm_pack_cancelled(job, "writing experts", job->done + moved, job->total))
        rc = fm_fail(&job->errors[thread], FM_ECANCELLED, "packing was cancelled");
    if (rc < 0) fm_pack_stop(job, thread, rc);
}

static void add_figures(const banks *b) {
    static const char *const kinds[2][3] = {{"experts gate", "experts up", "experts down"},
                                            {"narrow experts gate", "narrow experts up", "narrow experts down"}};
    static const char *const names[] = {"gate", "up", "down"};
    fm_pack_job *job = b->job;
    bool narrow = b->target != b->layer;
    for (int which = 0; which < 3; which++) {
        const fm_target *to = &job->choice.experts[b->target][which];
        for (int e = 0; e < job->model->description.n_experts && to->made; e++) {
            char name[96];
            snprintf(name, sizeof name, "layer %d, %sexpert %d, %s", b->layer, narrow ? "narrow " : "", e, names[which]);
            fm_figures_add(&job->figures, kinds[narrow][which], name, &job->model->experts[b->layer].matrix[which].type, &to->type, &b->sums[e][which]);
        }
    }
}

static int write_layer(banks *b, fm_error *err) {
    fm_pack_job *job = b->job;
    int n = job->model->description.n_experts;
    fm_matrix_type types[FM_EXPERT_MATRICES];
    fm_target_types(job->choice.experts[b->target], types);
    uint64_t bytes = fm_pack_expert_bytes(types, b->offsets);
    b->area = largest_area(job);
    b->area.made = (size_t)bytes;
    atomic_store(&b->moved, 0);
    memset(b->sums, 0, (size_t)n * sizeof *b->sums);
    int rc = fm_packer_layer(job->packer, b->target, types, err);
    if (rc < 0) return rc;
    fm_pool_run(job->pool, n, expert_task, b);
    if ((rc = fm_pack_first_error(job, err)) < 0 || (rc = fm_packer_layer_end(job->packer, err)) < 0) return rc;
    add_figures(b);
    job->done += (uint64_t)n * (bytes + 8) + 8;
    job->written_bytes += (uint64_t)n * (bytes + 8) + 8;
    return 0;
}

int fm_experts_write(fm_pack_job *job, fm_error *err) {
    const fm_description *d = &job->model->description;
    banks b = {.job = job, .sums = calloc((size_t)d->n_experts + 1, sizeof *b.sums)};
    int rc = b.sums ? 0 : fm_fail(err, FM_ENOMEM, "no memory for %d experts", d->n_experts);
    for (int i = 0; i < job->choice.n_copies * job->uses.n && rc == 0; i++) {
        int copies = job->choice.n_copies;
        b.layer = job->uses.order[i / copies];
        b.target = b.layer + (copies - 1 - i % copies) * d->n_layers;
        if (fm_packer_has_layer(job->packer, b.target)) continue;
        if ((rc = fm_feed_wait(job, b.layer, err)) < 0) break;
        json_t *state = NULL;
        if ((rc = write_layer(&b, err)) == 0 && (rc = fm_journal_check(&job->journal, job->model, err)) == 0) {
            rc = (state = fm_packer_state(job->packer)) ? fm_journal_save(&job->journal, state, &job->figures, err)
                                                        : fm_fail(err, FM_ENOMEM, "no memory for a journal");
        }
        json_decref(state);
        if (rc == 0 && job->options.delete_consumed && b.target == b.layer) rc = fm_consume_layer(job, b.layer, err);
        if (rc == 0 && fm_pack_cancelled(job, "writing experts", job->done, job->total)) rc = fm_fail(err, FM_ECANCELLED, "packing was cancelled");
    }
    free(b.sums);
    return rc;
}
