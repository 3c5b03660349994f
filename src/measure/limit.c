/* measure/limit.c: see limit.h. */
#include "measure/limit.h"

#include <stdlib.h>
#include <string.h>

static double source_bytes(const fm_source *s) {
    if (!s->weight) return 0;
    return s->shape.kind == FM_KIND_MATRIX ? (double)fm_matrix_bytes(&s->type) : (double)s->shape.rows * (double)s->shape.cols * sizeof(float);
}

static double source_macs(const fm_source *s) { return s->weight && s->shape.kind == FM_KIND_MATRIX ? (double)s->shape.rows * (double)s->shape.cols : 0; }

static void add_weights(fm_limit *limit, fm_limit_layer *layer, const fm_source *sources) {
    for (int role = 0; role < FM_N_ROLES; role++) {
        bool after = role >= FM_SHARED_GATE_PROJ && role <= FM_DENSE_DOWN_PROJ;
        *(after ? &layer->after_bytes : &layer->before_bytes) += source_bytes(&sources[role]);
        limit->token_macs += source_macs(&sources[role]);
    }
}

static void add_experts(fm_limit *limit, fm_limit_layer *layer, const fm_expert_layout *layout, int top_k) {
    layer->slot_bytes = (double)layout->slot_bytes;
    layer->disk_bytes = (double)layout->disk_bytes;
    for (int which = 0; which < 3; which++) limit->token_macs += (double)top_k * layout->matrix[which].type.rows * layout->matrix[which].type.cols;
}

/* The device says what its states take; what grows with the context is the KV cache. */
static void add_states(fm_limit *limit, const fm_engine *e) {
    const fm_description *d = &e->model->description;
    const int contexts[2] = {1024, 2048};
    double bytes[2];
    int n_attention = 0, n_recurrent = 0;
    for (int i = 0; i < 2; i++) {
        fm_plan plan = e->plan;
        plan.context = contexts[i];
        fm_device_config config = fm_plan_device(&plan, e->model, &e->options);
        bytes[i] = (double)e->ops->state_bytes(&config);
    }
    for (int i = 0; i < d->n_layers; i++) *(d->layers[i].mixer == FM_MIXER_ATTENTION ? &n_attention : &n_recurrent) += 1;
    double position = (bytes[1] - bytes[0]) / (contexts[1] - contexts[0]), fixed = bytes[0] - position * contexts[0];
    for (int i = 0; i < d->n_layers; i++) {
        bool attention = d->layers[i].mixer == FM_MIXER_ATTENTION;
        limit->layers[i].position_bytes = attention ? position / n_attention : 0;
        limit->layers[i].state_bytes = attention ? 0 : 2 * fixed / n_recurrent;
    }
}

int fm_limit_open(fm_limit *limit, const fm_engine *e, fm_error *err) {
    const fm_model *m = e->model;
    const fm_description *d = &m->description;
    *limit = (fm_limit){.n_layers = d->n_layers, .layers = calloc((size_t)d->n_layers, sizeof *limit->layers)};
    if (!limit->layers) return fm_fail(err, FM_ENOMEM, "no memory for the bytes of %d layers", d->n_layers);
    for (int i = 0; i < d->n_layers; i++) {
        add_weights(limit, &limit->layers[i], m->sources[i + 1]);
        if (d->layers[i].moe) add_experts(limit, &limit->layers[i], &m->experts[i], e->top_k);
    }
    add_states(limit, e);
    const fm_source *head = &m->sources[0][d->tied_head ? FM_EMBED : FM_HEAD];
    limit->head_bytes = source_bytes(head) + source_bytes(&m->sources[0][FM_FINAL_NORM]);
    limit->head_macs = source_macs(head);
    return 0;
}

void fm_limit_close(fm_limit *limit) {
    free(limit->layers);
    memset(limit, 0, sizeof *limit);
}

static double before(const fm_limit_layer *l, int position) { return l->before_bytes + l->state_bytes + l->position_bytes * (position + 1); }

static double disk_seconds(const fm_limit_rates *r, double bytes) { return r->disk > 0 ? bytes / r->disk : 0; }

double fm_limit_token_seconds(const fm_limit *limit, const fm_limit_rates *r, int position, const fm_limit_uses *uses) {
    double seconds = limit->head_bytes / r->ram;
    for (int i = 0; i < limit->n_layers; i++) {
        const fm_limit_layer *l = &limit->layers[i];
        double ready = (uses[i].hits * l->slot_bytes + l->after_bytes) / r->ram, io = disk_seconds(r, uses[i].misses * l->disk_bytes);
        seconds += before(l, position) / r->ram + (ready > io ? ready : io) + (uses[i].misses ? l->slot_bytes / r->ram : 0);
    }
    return seconds;
}

void fm_limit_token_bytes(const fm_limit *limit, int position, const fm_limit_uses *uses, double *ram, double *disk) {
    *ram = limit->head_bytes;
    *disk = 0;
    for (int i = 0; i < limit->n_layers; i++) {
        const fm_limit_layer *l = &limit->layers[i];
        *ram += before(l, position) + l->after_bytes + (uses[i].hits + 2 * uses[i].misses) * l->slot_bytes;
        *disk += uses[i].misses * l->disk_bytes;
    }
}

double fm_limit_prompt_seconds(const fm_limit *limit, const fm_limit_rates *r, int n, const fm_limit_uses *uses) {
    double ram, disk;
    fm_limit_token_bytes(limit, n - 1, uses, &ram, &disk);
    double most = ram / r->ram, io = disk_seconds(r, disk), compute = 2 * (limit->token_macs * n + limit->head_macs) / r->operations;
    if (io > most) most = io;
    return compute > most ? compute : most;
}
