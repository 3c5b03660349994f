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

/* Biases of all experts, [n_experts][n], as matrices of one column: of gate, up or down (`which`), or of gate and up in one, with their values in turns. */
static int list_bias(listing *l, const char *name, int which, bool both, fm_error *err) {
    const fm_description *d = &l->r->model->description;
    const fm_tensor *t = fm_resolve_find(l->r, name);
    int n = which == FM_DOWN ? d->hidden : d->expert_width;
    const uint64_t wanted[2] = {(uint64_t)d->n_experts, (uint64_t)n * (both ? 2 : 1)};
    if (!t) return fm_resolve_missing(l->r, name, err);
    if (t->n_dims != 2 || memcmp(t->shape, wanted, sizeof wanted)) return fm_resolve_shape_error(l->r, t, 2, wanted, err);
    if (t->dtype != FM_F32 && t->dtype != FM_BF16 && t->dtype != FM_F16) {
        return fm_fail(err, FM_EUNSUPPORTED, "%s: tensor %s is of type %s, which is not supported here", fm_resolve_path(l->r, t), name,
                       fm_dtype_name(t->dtype));
    }
    const fm_matrix_type type = {.format = t->dtype == FM_F32 ? FM_FORMAT_F32 : t->dtype == FM_F16 ? FM_FORMAT_F16 : FM_FORMAT_BF16, .rows = n, .cols = 1};
    int extent = add_stacked(l, t);
    for (int i = 0; i < (both ? 2 : 1); i++) {
        fm_expert_matrix *m = &l->layout->matrix[FM_GATE_BIAS + which + i];
        place(l, FM_GATE_BIAS + which + i, &type);
        m->extent[0] = extent;
        m->extent[1] = m->extent[2] = -1;
        m->n_tensors = i == 0;
        m->step = both ? 2 : 1;
        m->skip[0] = i ? (uint32_t)fm_dtype_bytes(t->dtype) : 0;
    }
    return 0;
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
    for (int which = 0; which < 3 && model->description.expert_bias; which++) {
        char name[300];
        snprintf(name, sizeof name, "%s%s.bias", prefix, model->family->stacked_experts[which]);
        int rc = list_bias(l, name, which, false, err);
        if (rc < 0) return rc;
    }
    return 1;
}

/* An mxfp4 matrix as it is published, base + "_blocks" [E][rows][groups][16] and "_scales" [E][rows][groups]. 0: it is not there. */
static int find_blocks(fm_resolver *r, const char *base, fm_source *s, fm_error *err) {
    char name[320];
    uint64_t groups = (uint64_t)s->shape.cols / FM_MX_GROUP;
    const uint64_t wanted[4] = {(uint64_t)r->model->description.n_experts, (uint64_t)s->shape.rows, groups, FM_MX_GROUP / 2};
    snprintf(name, sizeof name, "%s_blocks", base);
    if (!(s->weight = fm_resolve_find(r, name))) return 0;
    int rc = fm_matrix_type_mxfp4(&s->type, name, (uint64_t)s->shape.rows, (uint64_t)s->shape.cols, err);
    if (rc < 0) return rc;
    snprintf(name, sizeof name, "%s_scales", base);
    if (!(s->scales = fm_resolve_find(r, name))) return fm_resolve_missing(r, name, err);
    for (int i = 0; i < 2; i++) {
        const fm_tensor *t = i ? s->scales : s->weight;
        if (t->dtype != FM_U8)
            return fm_fail(err, FM_EUNSUPPORTED, "%s: tensor %s is of type %s, but mxfp4 is of type U8", fm_resolve_path(r, t), t->name,
                           fm_dtype_name(t->dtype));
        if (t->n_dims != 4 - i || memcmp(t->shape, wanted, (size_t)(4 - i) * sizeof *wanted)) return fm_resolve_shape_error(r, t, 4 - i, wanted, err);
    }
    return 1;
}

/* A fused matrix of the interleaved form: mxfp4, or floats by columns. 0: it is not there. */
static int find_interleaved(fm_resolver *r, const char *base, fm_source *s, fm_error *err) {
    int rc = find_blocks(r, base, s, err);
    if (rc != 0) return rc;
    fm_source turned = {.shape = {FM_KIND_MATRIX, s->shape.cols, s->shape.rows}};
    if ((rc = fm_resolve_matrix(r, base, r->model->description.n_experts, true, &turned, err)) <= 0) return rc;
    if (turned.scales)
        return fm_fail(err, FM_EUNSUPPORTED, "%s: tensor %s is fused and quantised, which is not supported", r->model->path, turned.weight->name);
    s->weight = turned.weight;
    s->type = (fm_matrix_type){.format = turned.type.format, .rows = s->shape.rows, .cols = s->shape.cols};
    return 1;
}

/* gate and up in one, their rows in turns, and biases. */
static int list_interleaved(listing *l, const char *prefix, fm_error *err) {
    const fm_model *model = l->r->model;
    const fm_description *d = &model->description;
    char gate_up[300], down[300], *const base[2] = {gate_up, down}, name[320];
    fm_source s[2] = {{.shape = {FM_KIND_MATRIX, 2 * d->expert_width, d->hidden}}, {.shape = {FM_KIND_MATRIX, d->hidden, d->expert_width}}};
    for (int i = 0; i < 2; i++) {
        snprintf(base[i], sizeof gate_up, "%s%s", prefix, model->family->fused_experts[i]);
        int rc = find_interleaved(l->r, base[i], &s[i], err);
        if (rc < 0 || (rc == 0 && i == 0)) return rc;
        snprintf(name, sizeof name, "%s_blocks", base[i]);
        if (rc == 0) return fm_resolve_missing(l->r, name, err);
    }
    int weight = add_stacked(l, s[0].weight), scales = s[0].scales ? add_stacked(l, s[0].scales) : -1;
    s[0].type.rows = d->expert_width;
    for (int which = FM_GATE; which <= FM_UP; which++) {
        fm_expert_matrix *m = &l->layout->matrix[which];
        place(l, which, &s[0].type);
        m->extent[0] = weight;
        m->extent[1] = scales;
        m->extent[2] = -1;
        m->n_tensors = which ? 0 : scales < 0 ? 1 : 2;
        m->step = 2;
        m->transposed = scales < 0;
        size_t value = s[0].type.format == FM_FORMAT_F32 ? 4 : 2;
        for (int part = 0; part < 2 && which == FM_UP; part++) m->skip[part] = (uint32_t)(m->transposed ? value : fm_matrix_row_bytes(&s[0].type, part));
    }
    add_stacked_matrix(l, FM_DOWN, &s[1]);
    l->layout->matrix[FM_DOWN].transposed = !s[1].scales;
    snprintf(name, sizeof name, "%s_bias", base[0]);
    int rc = d->expert_bias ? list_bias(l, name, FM_GATE, true, err) : 0;
    snprintf(name, sizeof name, "%s_bias", base[1]);
    if (rc == 0 && d->expert_bias) rc = list_bias(l, name, FM_DOWN, false, err);
    return rc < 0 ? rc : 1;
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
    uint64_t offsets[FM_EXPERT_MATRICES];
    if (from->file < 0) return fm_fail(err, FM_EFORMAT, "%s: model.json has no experts for layer %d", model->path, l->layer);
    l->layout->disk_bytes = fm_pack_expert_bytes(from->types, offsets);
    for (int which = 0; which < FM_EXPERT_MATRICES; which++) {
        fm_source s = source_of(&model->description, which % 3);
        const fm_matrix_type *type = &from->types[which];
        if (which >= FM_GATE_BIAS) {
            s.shape.cols = model->description.expert_bias;
            if (!s.shape.cols) s.shape.rows = 0;
        }
        if (type->rows != s.shape.rows || type->cols != s.shape.cols) {
            return fm_fail(err, FM_EFORMAT, "%s: model.json: a matrix of layer %d's experts is %d by %d, config.json says %d by %d", model->path, l->layer,
                           type->rows, type->cols, s.shape.rows, s.shape.cols);
        }
        if (!type->rows) continue;
        place(l, which, type);
        fm_expert_matrix *m = &l->layout->matrix[which];
        *m = (fm_expert_matrix){.type = *type, .slot_offset = m->slot_offset, .extent = {0, -1, -1}, .skip = {(uint32_t)offsets[which]}};
        m->n_tensors = fm_is_mx(type) ? 2 : type->format == FM_FORMAT_R16 ? 3 : 1;
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
    if (rc == 0) rc = l->r->model->family->interleaved_experts ? list_interleaved(l, prefix, err) : list_fused(l, prefix, err);
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
    uint64_t size = fm_dtype_bytes(dtype), cols = fm_matrix_row_bytes(&m->type, part) / size, step = m->step ? (uint64_t)m->step : 1;
    if (m->transposed || step > 1) {
        uint64_t row = at / cols * step, column = at % cols;
        at = m->transposed ? column * (uint64_t)m->type.rows * step + row : row * cols + column;
    }
    if (dtype == FM_U8) {
        uint8_t power = *(const uint8_t *)value;
        v = power == 255 ? NAN : ldexpf(1, power - 127);
    } else if (dtype == FM_F32) {
        memcpy(&v, value, sizeof v);
    } else if (dtype == FM_F8_E4M3) {
        v = NAN;
    } else {
        memcpy(&h, value, sizeof h);
        v = dtype == FM_BF16 ? fm_from_bf16(h) : fm_from_f16(h);
    }
    int n = model->description.n_experts;
    return fm_fail(err, FM_ENAN, "%s: tensor %s, layer %d, expert %d: value %lld is %g", model->tensors.files[x->file].path, t ? t->name : "?", key / n,
                   key % n, (long long)(at + m->skip[part] / size), (double)v);
}

void fm_expert_gather(const fm_expert_matrix *m, int part, const uint8_t *from, int first, int last, uint8_t *to) {
    size_t row = fm_matrix_row_bytes(&m->type, part), step = m->step ? (size_t)m->step : 1, size = m->type.format == FM_FORMAT_F32 ? 4 : 2;
    if (!m->transposed) {
        for (int r = first; r < last && step > 1; r++) memcpy(to + (size_t)(r - first) * row, from + (size_t)r * step * row, row);
        if (step == 1) memcpy(to, from + (size_t)first * row, (size_t)(last - first) * row);
        return;
    }
    /* A few rows at a time, so that what is written stays in the cache. */
    size_t cols = (size_t)m->type.cols, column = (size_t)m->type.rows * step * size;
    for (int begin = first; begin < last; begin += 16) {
        int end = begin + 16 < last ? begin + 16 : last;
        for (size_t c = 0; c < cols; c++) {
            const uint8_t *values = from + c * column;
            for (int r = begin; r < end; r++) memcpy(to + (size_t)(r - first) * row + c * size, values + (size_t)r * step * size, size);
        }
    }
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
        uint64_t groups = (uint64_t)(m->type.cols / m->type.group), size = fm_dtype_bytes(m->type.scale_dtype), step = m->step > 1 ? (uint64_t)m->step : 1;
        /* Rows that follow each other are looked at in one go. */
        int rows = step > 1 ? 1 : end - first * 16;
        for (int i = 1; i < 3 && from[i]; i++) {
            for (int row = first * 16; row < end; row += rows) {
                const uint8_t *begin = from[i] + (uint64_t)row * step * groups * size;
                int64_t bad = fm_find_nonfinite(begin, m->type.scale_dtype, (uint64_t)rows * groups);
                if (bad >= 0) return fm_expert_nonfinite(model, a->key, which, i, (uint64_t)row * groups + (uint64_t)bad, begin + (uint64_t)bad * size, err);
            }
        }
        fm_r16_fill(a->slot + m->slot_offset, &m->type, &(fm_affine_rows){from[0], from[1], from[2], NULL, m->step}, first, last);
        return 0;
    }
    if (m->type.format == FM_FORMAT_F8) return fill_f8(model, a, which, from, first, last, err);
    fm_dtype dtype = part_dtype(&m->type, 0);
    size_t size = fm_dtype_bytes(dtype), row = fm_matrix_strip_bytes(&m->type), begin = (size_t)first * row, bytes = (size_t)(last - first) * row;
    uint8_t *to = a->slot + m->slot_offset + begin;
    fm_expert_gather(m, 0, from[0], first, last, to);
    int64_t bad = fm_find_nonfinite(to, dtype, bytes / size);
    return bad < 0 ? 0 : fm_expert_nonfinite(model, a->key, which, 0, begin / size + (uint64_t)bad, to + (size_t)bad * size, err);
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
    int i = w->index[task / (FM_EXPERT_MATRICES * FILL_TASKS)], which = task / FILL_TASKS % FM_EXPERT_MATRICES, part = task % FILL_TASKS;
    const fm_expert_layout *layout = &w->model->experts[w->arrivals[i].key / w->model->description.n_experts];
    if (!layout->matrix[which].type.rows) return;
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
    if (!model->in_place) fm_pool_run(pool, count * FM_EXPERT_MATRICES * FILL_TASKS, fill_task, &w);
    *bad = atomic_load(&w.failed) - 1;
    return *bad >= 0 ? w.code : 0;
}
