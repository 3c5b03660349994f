/* model/experts.c: where each expert's bytes lie on disk, how they lie in a slot, and the way from one to the other. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "model/resolve.h"

#define FILL_TASKS 8 /* pieces in which each matrix of an arrival is filled */

#define SLOT_ALIGN(n) (((n) + 63) & ~(size_t)63)

/* One layer while its extents are being listed. */
typedef struct listing {
    fm_resolver *r;
    int layer;
    fm_expert_layout *layout;
    int n;            /* extents so far */
    fm_extent *first; /* of the layer's expert 0; experts are model->n_extents apart */
} listing;

/* Adds the extent of each expert's share of tensor (all experts stacked). Returns its index. */
static int add_stacked(listing *l, const fm_tensor *t) {
    uint64_t n = t->shape[0], bytes = t->bytes / n, stride = t->stride ? t->stride : bytes;
    for (uint64_t e = 0; e < n; e++) {
        l->first[e * FM_MAX_EXTENTS + (uint64_t)l->n] = (fm_extent){.offset = t->offset + e * stride, .bytes = (uint32_t)bytes, .file = (uint32_t)t->file};
    }
    l->layout->disk_bytes += bytes;
    return l->n++;
}

static void place(listing *l, int which, const fm_matrix_type *type) {
    l->layout->matrix[which].type = *type;
    l->layout->matrix[which].slot_offset = l->layout->slot_bytes;
    l->layout->slot_bytes += SLOT_ALIGN(fm_matrix_bytes(type));
}

/* A source of the shape of gate, up or down. */
static fm_source source_of(const fm_description *d, int which) {
    int rows = which == FM_DOWN ? d->hidden : d->expert_width, cols = which == FM_DOWN ? d->expert_width : d->hidden;
    return (fm_source){.shape = {FM_KIND_MATRIX, rows, cols}};
}

static void add_stacked_matrix(listing *l, int which, const fm_source *s) {
    fm_expert_matrix *m = &l->layout->matrix[which];
    place(l, which, &s->type);
    m->extent[0] = add_stacked(l, s->weight);
    m->extent[1] = s->scales ? add_stacked(l, s->scales) : -1;
    m->extent[2] = s->biases ? add_stacked(l, s->biases) : -1;
    m->n_tensors = fm_source_parts(s);
}

/* gate, up and down each as one tensor with all experts. 0: not of this form. */
static int list_stacked(listing *l, const char *prefix, fm_error *err) {
    const fm_model *model = l->r->model;
    for (int which = 0; which < 3; which++) {
        char base[300];
        fm_source s = source_of(&model->description, which);
        snprintf(base, sizeof base, "%s%s", prefix, model->family->stacked_experts[which]);
        int rc = fm_resolve_matrix(l->r, base, model->description.n_experts, which == 0, &s, err);
        if (rc <= 0) return rc;
        add_stacked_matrix(l, which, &s);
    }
    return 1;
}

/* gate and up in one tensor, gate's rows first. */
static int list_fused(listing *l, const char *prefix, fm_error *err) {
    const fm_model *model = l->r->model;
    const fm_description *d = &model->description;
    char base[300];
    fm_source s = {.shape = {FM_KIND_MATRIX, 2 * d->expert_width, d->hidden}}, down = source_of(d, FM_DOWN);
    snprintf(base, sizeof base, "%s%s", prefix, model->family->fused_experts[0]);
    int rc = fm_resolve_matrix(l->r, base, d->n_experts, true, &s, err);
    if (rc <= 0) return rc;
    if (s.scales) return fm_fail(err, FM_EUNSUPPORTED, "%s: tensor %s is fused and quantised, which is not supported", model->path, s.weight->name);
    int extent = add_stacked(l, s.weight);
    s.type.rows = d->expert_width;
    for (int which = FM_GATE; which <= FM_UP; which++) {
        fm_expert_matrix *m = &l->layout->matrix[which];
        place(l, which, &s.type);
        m->extent[0] = extent;
        m->extent[1] = m->extent[2] = -1;
        m->n_tensors = which == FM_GATE;
    }
    l->layout->matrix[FM_UP].skip[0] = (uint32_t)fm_matrix_bytes(&s.type);
    snprintf(base, sizeof base, "%s%s", prefix, model->family->fused_experts[1]);
    if ((rc = fm_resolve_matrix(l->r, base, d->n_experts, false, &down, err)) < 0) return rc;
    add_stacked_matrix(l, FM_DOWN, &down);
    return 1;
}

/* A tensor of its own for each matrix of each expert. */
static int list_each(listing *l, const char *prefix, fm_error *err) {
    const fm_model *model = l->r->model;
    const fm_description *d = &model->description;
    for (int which = 0; which < 3; which++) {
        int first = l->n;
        for (int e = 0; e < d->n_experts; e++) {
            char below[200], base[400];
            fm_source s = source_of(d, which);
            snprintf(below, sizeof below, model->family->each_expert[which], e);
            snprintf(base, sizeof base, "%s%s", prefix, below);
            int rc = fm_resolve_matrix(l->r, base, 0, false, &s, err);
            if (rc < 0) return rc;
            fm_expert_matrix *m = &l->layout->matrix[which];
            const fm_tensor *parts[3] = {s.weight, s.scales, s.biases};
            if (e == 0) place(l, which, &s.type);
            if (memcmp(&m->type, &s.type, sizeof s.type)) {
                return fm_fail(err, FM_EUNSUPPORTED, "%s: tensor %s is of another format than that of expert 0", fm_resolve_path(l->r, s.weight),
                               s.weight->name);
            }
            m->n_tensors += fm_source_parts(&s);
            for (int i = 0, n = first; i < 3; i++) {
                m->extent[i] = parts[i] ? n : -1;
                if (!parts[i]) continue;
                l->first[(size_t)e * FM_MAX_EXTENTS + (size_t)n++] =
                    (fm_extent){.offset = parts[i]->offset, .bytes = (uint32_t)parts[i]->bytes, .file = (uint32_t)parts[i]->file};
                if (e == 0) l->layout->disk_bytes += parts[i]->bytes;
                l->n = n;
            }
        }
    }
    return 1;
}

/* A packed layer: one extent an expert, the matrices in it one after the other. */
static int list_packed(listing *l, fm_error *err) {
    fm_model *model = l->r->model;
    const fm_pack_layer *from = &model->pack->layers[l->layer];
    uint64_t offsets[3];
    if (from->file < 0) return fm_fail(err, FM_EFORMAT, "%s: model.json has no experts for layer %d", model->path, l->layer);
    l->layout->disk_bytes = fm_pack_expert_bytes(from->types, offsets);
    for (int which = 0; which < 3; which++) {
        fm_source s = source_of(&model->description, which);
        const fm_matrix_type *type = &from->types[which];
        if (type->rows != s.shape.rows || type->cols != s.shape.cols) {
            return fm_fail(err, FM_EFORMAT, "%s: model.json: a matrix of layer %d's experts is %d by %d, config.json says %d by %d", model->path, l->layer,
                           type->rows, type->cols, s.shape.rows, s.shape.cols);
        }
        place(l, which, type);
        fm_expert_matrix *m = &l->layout->matrix[which];
        *m = (fm_expert_matrix){.type = *type, .slot_offset = m->slot_offset, .extent = {0, -1, -1}, .skip = {(uint32_t)offsets[which]}};
        m->n_tensors = type->format == FM_FORMAT_R16 ? 3 : 1;
        model->in_place &= m->slot_offset == offsets[which] && fm_pack_matrix_bytes(type) == fm_matrix_bytes(type);
    }
    for (uint64_t e = 0; e < (uint64_t)model->description.n_experts; e++) {
        l->first[e * FM_MAX_EXTENTS] = (fm_extent){.offset = e * from->bytes, .bytes = (uint32_t)from->bytes, .file = (uint32_t)from->file};
    }
    l->n = 1;
    return 0;
}

static int list_layer(listing *l, fm_error *err) {
    char prefix[200];
    if (l->r->model->pack) return list_packed(l, err);
    snprintf(prefix, sizeof prefix, "%slayers.%d.", l->r->model->prefix, l->layer);
    int rc = list_stacked(l, prefix, err);
    if (rc == 0) rc = list_fused(l, prefix, err);
    if (rc == 0) rc = list_each(l, prefix, err);
    return rc < 0 ? rc : 0;
}

/* Extents were listed FM_MAX_EXTENTS apart; closes the gaps. */
static void compact(fm_model *model, int n_extents) {
    size_t n_keys = (size_t)model->n_copies * (size_t)model->description.n_layers * (size_t)model->description.n_experts;
    for (size_t k = 0; k < n_keys; k++) {
        memmove(model->extents + k * (size_t)n_extents, model->extents + k * FM_MAX_EXTENTS, (size_t)n_extents * sizeof *model->extents);
    }
    fm_extent *smaller = realloc(model->extents, n_keys * (size_t)n_extents * sizeof *smaller);
    if (smaller) model->extents = smaller;
    model->n_extents = n_extents;
}

int fm_resolve_experts(fm_resolver *r, fm_error *err) {
    fm_model *model = r->model;
    const fm_description *d = &model->description;
    int n_layers = d->n_layers * (model->n_copies = model->pack ? model->pack->n_copies : 1), n_extents = 1;
    size_t n_keys = (size_t)n_layers * (size_t)d->n_experts;
    model->experts = calloc((size_t)n_layers, sizeof *model->experts);
    model->extents = calloc(n_keys * FM_MAX_EXTENTS, sizeof *model->extents);
    if (!model->experts || !model->extents) return fm_fail(err, FM_ENOMEM, "%s: no memory for a table of %zu experts", model->path, n_keys);
    if (model->pack && model->pack->n_layers != d->n_layers) {
        return fm_fail(err, FM_EFORMAT, "%s: model.json has %d layers, config.json %d", model->path, model->pack->n_layers, d->n_layers);
    }
    model->in_place = model->pack;
    for (int i = 0; i < n_layers; i++) {
        if (!d->layers[i % d->n_layers].moe) continue;
        listing l = {.r = r, .layer = i, .layout = &model->experts[i], .first = model->extents + (size_t)i * (size_t)d->n_experts * FM_MAX_EXTENTS};
        int rc = list_layer(&l, err);
        if (rc < 0) return rc;
        if (l.n > n_extents) n_extents = l.n;
        if (l.layout->slot_bytes > model->slot_bytes) model->slot_bytes = l.layout->slot_bytes;
    }
    for (int i = 0; i < n_layers && model->in_place; i++) {
        if (model->experts[i].disk_bytes > model->slot_bytes) model->slot_bytes = model->experts[i].disk_bytes; /* the pages' ends too */
    }
    compact(model, n_extents);
    return 0;
}

/* The tensor that an extent lies in: found by its place, for messages. */
static const fm_tensor *tensor_at(const fm_model *model, const fm_extent *extent) {
    for (int i = 0; i < model->tensors.n_tensors; i++) {
        const fm_tensor *t = &model->tensors.tensors[i];
        uint64_t span = t->stride ? t->stride * (t->shape[0] - 1) + t->bytes / t->shape[0] : t->bytes;
        bool inside = (uint32_t)t->file == extent->file && extent->offset >= t->offset && extent->offset < t->offset + span;
        if (inside && (!t->stride || (extent->offset - t->offset) % t->stride == 0)) return t;
    }
    return NULL;
}

static fm_dtype part_dtype(const fm_matrix_type *type, int part) {
    if (type->format == FM_FORMAT_F8) return part ? FM_F32 : FM_F8_E4M3;
    if (part) return type->scale_dtype;
    return type->format == FM_FORMAT_F32 ? FM_F32 : type->format == FM_FORMAT_F16 ? FM_F16 : FM_BF16;
}

int fm_expert_nonfinite(const fm_model *model, int key, int which, int part, uint64_t at, const void *value, fm_error *err) {
    const fm_expert_matrix *m = &model->experts[key / model->description.n_experts].matrix[which];
    const fm_extent *x = &model->extents[(size_t)key * (size_t)model->n_extents + (size_t)m->extent[part]];
    const fm_tensor *t = tensor_at(model, x);
    fm_dtype dtype = part_dtype(&m->type, part);
    float v = 0;
    uint16_t h = 0;
    if (dtype == FM_F32) {
        memcpy(&v, value, sizeof v);
    } else if (dtype == FM_F8_E4M3) {
        v = NAN;
    } else {
        memcpy(&h, value, sizeof h);
        v = dtype == FM_BF16 ? fm_from_bf16(h) : fm_from_f16(h);
    }
    int n = model->description.n_experts;
    return fm_fail(err, FM_ENAN, "%s: tensor %s, layer %d, expert %d: value %lld is %g", model->tensors.files[x->file].path, t ? t->name : "?", key / n,
                   key % n, (long long)(at + m->skip[part] / fm_dtype_bytes(dtype)), (double)v);
}

/* Rows [first, last) of an fp8 matrix. */
static int fill_f8(const fm_model *model, const fm_arrival *a, int which, const uint8_t *const from[3], int first, int last, fm_error *err) {
    const fm_expert_matrix *m = &model->experts[a->key / model->description.n_experts].matrix[which];
    size_t cols = (size_t)m->type.cols, row = fm_matrix_strip_bytes(&m->type), scale_row = (size_t)fm_f8_n_scales(m->type.cols);
    size_t begin = (size_t)first * cols, scales = (size_t)(first / FM_F8_BLOCK) * scale_row, end = (size_t)((last - 1) / FM_F8_BLOCK + 1) * scale_row;
    int64_t bad = fm_find_nonfinite(from[0] + begin, FM_F8_E4M3, (size_t)(last - first) * cols);
    if (bad >= 0) return fm_expert_nonfinite(model, a->key, which, 0, begin + (uint64_t)bad, from[0] + begin + bad, err);
    bad = fm_find_nonfinite(from[1] + scales * sizeof(float), FM_F32, end - scales);
    if (bad >= 0) return fm_expert_nonfinite(model, a->key, which, 1, scales + (uint64_t)bad, from[1] + (scales + (size_t)bad) * sizeof(float), err);
    for (size_t r = (size_t)first; r < (size_t)last; r++)
        fm_f8_fill_row(a->slot + m->slot_offset + r * row, m->type.cols, from[0] + r * cols, from[1] + r / FM_F8_BLOCK * scale_row * sizeof(float));
    return 0;
}

/* Strips [first, last) of matrix `which` of one arrival. */
static int fill_strips(const fm_model *model, const fm_arrival *a, int which, int first, int last, fm_error *err) {
    const fm_expert_matrix *m = &model->experts[a->key / model->description.n_experts].matrix[which];
    const uint8_t *from[3] = {0};
    for (int i = 0; i < 3; i++) {
        if (m->extent[i] >= 0) from[i] = a->parts[m->extent[i]] + m->skip[i];
    }
    if (model->pack) {
        uint8_t *slot = a->slot + m->slot_offset;
        size_t strip = fm_matrix_strip_bytes(&m->type);
        if (m->type.format == FM_FORMAT_R16)
            fm_r16_widen(slot, &m->type, from[0], first, last);
        else
            memcpy(slot + (size_t)first * strip, from[0] + (size_t)first * strip, (size_t)(last - first) * strip);
        return 0;
    }
    if (m->type.format == FM_FORMAT_R16) {
        int end = last * 16 < m->type.rows ? last * 16 : m->type.rows;
        uint64_t groups = (uint64_t)(m->type.cols / m->type.group), begin = (uint64_t)first * 16 * groups, n = (uint64_t)(end - first * 16) * groups;
        for (int i = 1; i < 3; i++) {
            int64_t bad = fm_find_nonfinite(from[i] + begin * 2, m->type.scale_dtype, n);
            if (bad >= 0) {
                const uint8_t *value = from[i] + (begin + (uint64_t)bad) * 2;
                return fm_expert_nonfinite(model, a->key, which, i, begin + (uint64_t)bad, value, err);
            }
        }
        fm_r16_fill(a->slot + m->slot_offset, &m->type, &(fm_affine_rows){from[0], from[1], from[2], NULL}, first, last);
        return 0;
    }
    if (m->type.format == FM_FORMAT_F8) return fill_f8(model, a, which, from, first, last, err);
    fm_dtype dtype = part_dtype(&m->type, 0);
    size_t size = fm_dtype_bytes(dtype), row = fm_matrix_strip_bytes(&m->type), begin = (size_t)first * row, bytes = (size_t)(last - first) * row;
    int64_t bad = fm_find_nonfinite(from[0] + begin, dtype, bytes / size);
    if (bad >= 0) {
        const uint8_t *value = from[0] + begin + (size_t)bad * size;
        return fm_expert_nonfinite(model, a->key, which, 0, begin / size + (uint64_t)bad, value, err);
    }
    memcpy(a->slot + m->slot_offset + begin, from[0] + begin, bytes);
    return 0;
}

typedef struct fill_work {
    const fm_model *model;
    const fm_arrival *arrivals;
    int index[FM_MAX_ARRIVALS]; /* of those that have parts */
    fm_error *err;
    atomic_int failed; /* 0, or 1 + index of the arrival that failed first */
    int code;
} fill_work;

static void fill_failed(fill_work *w, int i, int code, const fm_error *err) {
    int none = 0;
    if (!atomic_compare_exchange_strong(&w->failed, &none, i + 1)) return;
    w->code = code;
    if (w->err) *w->err = *err;
}

int fm_expert_verify(const fm_model *model, int key, const uint8_t *data, fm_error *err) {
    int n = model->description.n_experts, layer = key / n, expert = key % n;
    const fm_pack_layer *l = &model->pack->layers[layer];
    uint64_t hash = fm_pack_hash(data, l->bytes);
    if (hash == l->hashes[expert]) return 0;
    return fm_fail(err, FM_EFORMAT, "%s: layer %d, expert %d, %llu bytes at %llu: the hash is %016llx and should be %016llx",
                   model->tensors.files[l->file].path, layer % model->description.n_layers, expert, (unsigned long long)l->bytes,
                   (unsigned long long)expert * l->bytes, (unsigned long long)hash, (unsigned long long)l->hashes[expert]);
}

/* Checks one packed expert's hash, the first time it is read. Values that are not finite are refused when a model is packed. */
static void verify_task(void *arg, int task, int thread) {
    (void)thread;
    fill_work *w = arg;
    const fm_arrival *a = &w->arrivals[w->index[task]];
    uint8_t *verified = &w->model->pack->verified[a->key];
    fm_error err;
    if (__atomic_load_n(verified, __ATOMIC_RELAXED)) return;
    int rc = fm_expert_verify(w->model, a->key, a->parts[0], &err);
    if (rc == 0)
        __atomic_store_n(verified, 1, __ATOMIC_RELAXED);
    else
        fill_failed(w, w->index[task], rc, &err);
}

static void fill_task(void *arg, int task, int thread) {
    (void)thread;
    fill_work *w = arg;
    int i = w->index[task / (3 * FILL_TASKS)], which = task / FILL_TASKS % 3, part = task % FILL_TASKS;
    const fm_expert_layout *layout = &w->model->experts[w->arrivals[i].key / w->model->description.n_experts];
    int n = fm_matrix_n_strips(&layout->matrix[which].type), first = (int)((int64_t)n * part / FILL_TASKS), last = (int)((int64_t)n * (part + 1) / FILL_TASKS);
    fm_error err = {0};
    int rc = first < last ? fill_strips(w->model, &w->arrivals[i], which, first, last, &err) : 0;
    if (rc < 0) fill_failed(w, i, rc, &err);
}

int fm_experts_fill(const fm_model *model, fm_pool *pool, const fm_arrival *arrivals, int n, int *bad, fm_error *err) {
    fill_work w = {.model = model, .arrivals = arrivals, .err = err};
    int count = 0;
    for (int i = 0; i < n; i++) {
        if (arrivals[i].parts) w.index[count++] = i;
    }
    if (model->pack) fm_pool_run(pool, count, verify_task, &w);
    if (!model->in_place) fm_pool_run(pool, count * 3 * FILL_TASKS, fill_task, &w);
    *bad = atomic_load(&w.failed) - 1;
    return *bad >= 0 ? w.code : 0;
}
