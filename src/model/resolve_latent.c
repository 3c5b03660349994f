/* model/resolve_latent.c: the projection of latent attention, which checkpoints keep as one matrix with rows by head, and newer MLX snapshots as two, one of them turned. */
#include <stdlib.h>

#include "model/resolve.h"

static bool has_tensor(const fm_resolver *r, const char *base) {
    char name[310];
    snprintf(name, sizeof name, "%s.weight", base);
    return fm_tensors_find(&r->model->tensors, name);
}

/* Of each head the last v_dim rows. */
static int make_row_map(fm_model *model, fm_error *err) {
    const fm_description *d = &model->description;
    int step = d->nope_dim + d->v_dim;
    if (model->row_maps) return 0;
    int32_t *map = model->row_maps = malloc(sizeof *map * (size_t)d->n_heads * (size_t)d->v_dim);
    if (!map) return fm_fail(err, FM_ENOMEM, "%s: no memory for a row map", model->path);
    for (int h = 0; h < d->n_heads; h++) {
        for (int i = 0; i < d->v_dim; i++) *map++ = h * step + d->nope_dim + i;
    }
    return 0;
}

/* What the query's part is when it is turned: quantised values as floats, because a group of them would lie across rows; fp8 as it is, if its blocks begin where heads do. */
static fm_matrix_type turned_type(const fm_matrix_type *from, int step, const fm_shape *shape) {
    fm_format format = from->format;
    if (format == FM_FORMAT_R16 || (format == FM_FORMAT_F8 && step % FM_F8_BLOCK)) format = FM_FORMAT_F32;
    return (fm_matrix_type){.format = format, .rows = shape->rows, .cols = shape->cols};
}

/* One tensor, whose part for the query is turned. */
static int resolve_whole(fm_resolver *r, const char *base, fm_source *sources, fm_error *err) {
    fm_model *model = r->model;
    const fm_description *d = &model->description;
    int step = d->nope_dim + d->v_dim;
    fm_source whole = {.shape = {FM_KIND_MATRIX, d->n_heads * step, d->kv_rank}}, *q = &sources[FM_LATENT_Q], *out = &sources[FM_LATENT_OUT];
    const fm_shape shapes[2] = {q->shape, out->shape};
    int rc = fm_resolve_matrix(r, base, 0, false, &whole, err);
    if (rc < 0 || (rc = make_row_map(model, err)) < 0) return rc;
    *q = *out = whole;
    q->shape = shapes[0];
    q->from = whole.type;
    q->turned = step;
    q->type = turned_type(&whole.type, step, &q->shape);
    out->shape = shapes[1];
    out->type.rows = out->shape.rows;
    out->row_map = model->row_maps;
    return 0;
}

/* A tensor of its own, [heads][rows][cols], or the same with its rows one after the other. */
static int resolve_part(fm_resolver *r, const char *base, fm_source *s, fm_error *err) {
    char name[310];
    snprintf(name, sizeof name, "%s.weight", base);
    const fm_tensor *t = fm_tensors_find(&r->model->tensors, name);
    int heads = r->model->description.n_heads, rows = s->shape.rows;
    bool apart = t && t->n_dims == 3;
    if (apart) s->shape.rows /= heads;
    int rc = fm_resolve_matrix(r, base, apart ? heads : 0, false, s, err);
    s->shape.rows = s->type.rows = rows;
    return rc < 0 ? rc : 0;
}

int fm_resolve_latent(fm_resolver *r, const char *prefix, fm_source *sources, fm_error *err) {
    const fm_family *family = r->model->family;
    char whole[300], q[300], out[300];
    snprintf(whole, sizeof whole, "%s%s", prefix, family->latent_kv);
    snprintf(q, sizeof q, "%s%s", prefix, family->names[FM_LATENT_Q]);
    snprintf(out, sizeof out, "%s%s", prefix, family->names[FM_LATENT_OUT]);
    if (has_tensor(r, whole) || !has_tensor(r, q)) return resolve_whole(r, whole, sources, err);
    int rc = resolve_part(r, q, &sources[FM_LATENT_Q], err);
    return rc < 0 ? rc : resolve_part(r, out, &sources[FM_LATENT_OUT], err);
}
