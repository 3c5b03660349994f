/* cpu/feed_forward.c: gated MLPs: the dense one, the shared expert, and routed experts as they come; and adding their outputs in one order. */
#include <string.h>

#include "base/math.h"
#include "cpu/cpu.h"

size_t fm_feed_forward_floats(const fm_device_config *config, int n) {
    const fm_description *d = &config->model->description;
    size_t rows = FM_ROW_TOKENS * (size_t)config->top_k;
    size_t dense = (size_t)n * (size_t)d->dense_width, shared = (size_t)n * (size_t)(d->shared_width + 1), experts = rows * (size_t)d->expert_width;
    size_t most = dense > shared ? dense : shared;
    return 2 * (most > experts ? most : experts);
}

typedef struct rows_work {
    fm_device *device;
    float *gate, *up;
    size_t width;
    const fm_expert_job *jobs; /* whose outputs are the rows, one job after the other; NULL: none, of dense and shared */
    int n_jobs, slice;         /* columns that a task adds */
    int which;                 /* bias_task: of which matrix, at `gate` */
} rows_work;

/* How a job's expert lies in its slot: as the layer's experts do, or as their narrow copies. */
static const fm_expert_layout *layout_of(const fm_device *dev, const fm_expert_job *job) {
    const fm_model *model = dev->config.model;
    return &model->experts[job->key / model->description.n_experts];
}

/* Adds the bias of matrix `which` of the expert that a row is of, if there is one. */
static void add_expert_bias(const rows_work *w, int which, int row, float *x) {
    int job = 0;
    for (; row >= w->jobs[job].n; job++) row -= w->jobs[job].n;
    fm_matrix bias = fm_expert_matrix_in(layout_of(w->device, &w->jobs[job]), FM_GATE_BIAS + which, w->jobs[job].slot);
    const uint16_t *halves = bias.data;
    int n = bias.type.rows;
    switch (bias.type.format) {
    case FM_FORMAT_F32: w->device->k->add(bias.data, n, x); break;
    case FM_FORMAT_F16:
        for (int i = 0; i < n; i++) x[i] += fm_from_f16(halves[i]);
        break;
    default:
        for (int i = 0; i < n; i++) x[i] += fm_from_bf16(halves[i]);
    }
}

static void bias_task(void *arg, int row, int thread) {
    (void)thread;
    const rows_work *w = arg;
    add_expert_bias(w, w->which, row, w->gate + (size_t)row * w->width);
}

static void swiglu_task(void *arg, int row, int thread) {
    (void)thread;
    const rows_work *w = arg;
    const fm_description *d = w->device->d;
    float *g = w->gate + (size_t)row * w->width, *u = w->up + (size_t)row * w->width;
    if (w->jobs && d->expert_bias) {
        add_expert_bias(w, FM_GATE, row, g);
        add_expert_bias(w, FM_UP, row, u);
    }
    if (d->gate_limit != 0)
        w->device->k->swiglu_clamped(g, u, (int)w->width, d->gate_limit, d->gate_alpha, g);
    else
        w->device->k->swiglu(g, u, (int)w->width, g);
}

/* gate = silu(gate) * up, or what the model has in its place, for n rows, which become the inner input. jobs: whose rows these are, NULL: not experts'. */
static void activate(fm_device *dev, float *gate, float *up, int n, int width, const fm_expert_job *jobs) {
    rows_work w = {.device = dev, .gate = gate, .up = up, .width = (size_t)width, .jobs = jobs};
    fm_pool_run(dev->config.pool, n, swiglu_task, &w);
    fm_input_set(&dev->inner, gate, (size_t)width, n, width);
}

/* Rows [first, first + n) of out = down(silu(gate h) * (up h)). with, of one row (NULL: none), is multiplied in passing, in f32; its products [n] are returned. */
static const float *gated_mlp(fm_device *dev, const fm_matrix *const m[3], const fm_matrix *with, int first, int n, float *out) {
    size_t width = (size_t)m[0]->type.rows;
    float *gate = dev->scratch, *up = gate + (size_t)n * width, *y = up + (size_t)n * width;
    fm_product products[3] = {
        {.matrix = m[0], .input = &dev->input, .tokens = dev->iota + first, .n = n, .y = gate, .ldy = width},
        {.matrix = m[1], .input = &dev->input, .tokens = dev->iota + first, .n = n, .y = up, .ldy = width},
        {.matrix = with, .input = &dev->input, .tokens = dev->iota + first, .n = n, .y = y, .ldy = 1, .exact = true},
    };
    fm_multiply(dev, products, with ? 3 : 2);
    activate(dev, gate, up, n, (int)width, NULL);
    fm_linear(dev, m[2], &dev->inner, out + (size_t)first * (size_t)dev->d->hidden, (size_t)dev->d->hidden);
    return y;
}

void fm_dense(fm_device *dev, int layer) {
    const fm_layer_weights *lw = &dev->config.weights->layers[layer];
    const fm_matrix *const m[3] = {&lw->matrix[FM_DENSE_GATE_PROJ], &lw->matrix[FM_DENSE_UP_PROJ], &lw->matrix[FM_DENSE_DOWN_PROJ]};
    fm_norm_input(dev, lw, FM_NORM2, FM_NORM2_BIAS);
    gated_mlp(dev, m, NULL, 0, dev->batch.n, dev->out);
    fm_observe(dev, layer, FM_DENSE_DOWN_PROJ, &dev->inner);
    fm_add_out(dev, layer, FM_OF_MLP);
}

/* The shared expert of tokens [first, first + n). */
static void shared_piece(fm_device *dev, const fm_layer_weights *lw, int first, int n) {
    const fm_matrix *const m[3] = {&lw->matrix[FM_SHARED_GATE_PROJ], &lw->matrix[FM_SHARED_UP_PROJ], &lw->matrix[FM_SHARED_DOWN_PROJ]};
    size_t hidden = (size_t)dev->d->hidden;
    bool gated = dev->d->shared_gate;
    const float *gate = gated_mlp(dev, m, gated ? &lw->matrix[FM_SHARED_GATE] : NULL, first, n, dev->shared);
    fm_observe(dev, (int)(lw - dev->config.weights->layers), FM_SHARED_DOWN_PROJ, &dev->inner);
    for (int t = 0; gated && t < n; t++) {
        float s = fm_sigmoidf(gate[t]), *row = dev->shared + (size_t)(first + t) * hidden;
        for (size_t i = 0; i < hidden; i++) row[i] *= s;
    }
}

void fm_shared(fm_device *dev, int layer) {
    int n = dev->batch.n;
    /* The experts' sum starts anew with every layer. */
    memset(dev->out, 0, (size_t)n * (size_t)dev->d->hidden * sizeof *dev->out);
    dev->rows_used = 0;
    for (int first = 0; first < n && dev->d->shared_width; first += FM_PIECE_TOKENS) {
        shared_piece(dev, &dev->config.weights->layers[layer], first, n - first < FM_PIECE_TOKENS ? n - first : FM_PIECE_TOKENS);
    }
}

/* gate, up and down of jobs whose tokens fit in the rows; outputs go to rows first_row and on, one job after the other. */
static void compute(fm_device *dev, const fm_expert_job *jobs, int n, int first_row) {
    size_t width = (size_t)dev->d->expert_width, hidden = (size_t)dev->d->hidden;
    float *gate = dev->scratch, *up = gate + (size_t)dev->n_rows * width;
    fm_matrix matrices[3][FM_MAX_JOBS];
    fm_product products[FM_MAX_PRODUCTS] = {0};
    int n_rows = 0;
    for (int i = 0; i < n; i++) {
        for (int which = 0; which < 3; which++) matrices[which][i] = fm_expert_matrix_in(layout_of(dev, &jobs[i]), which, jobs[i].slot);
        for (int up_too = 0; up_too < 2; up_too++) {
            products[2 * i + up_too] = (fm_product){.matrix = &matrices[up_too][i],
                                                    .input = &dev->input,
                                                    .tokens = jobs[i].tokens,
                                                    .n = jobs[i].n,
                                                    .y = (up_too ? up : gate) + (size_t)n_rows * width,
                                                    .ldy = width};
        }
        n_rows += jobs[i].n;
    }
    fm_multiply(dev, products, 2 * n);
    activate(dev, gate, up, n_rows, (int)width, jobs);
    for (int i = 0, row = 0; i < n; row += jobs[i].n, i++) {
        products[i] = (fm_product){.matrix = &matrices[FM_DOWN][i],
                                   .input = &dev->inner,
                                   .tokens = dev->iota + row,
                                   .n = jobs[i].n,
                                   .y = dev->rows + (size_t)(first_row + row) * hidden,
                                   .ldy = hidden};
    }
    fm_multiply(dev, products, n);
    rows_work w = {.device = dev, .gate = dev->rows + (size_t)first_row * hidden, .width = hidden, .jobs = jobs, .which = FM_DOWN};
    if (dev->d->expert_bias) fm_pool_run(dev->config.pool, n_rows, bias_task, &w);
}

/* Adds all rows, in the order of the jobs, to the outputs of their tokens: one slice of columns, so that no two tasks write the same. */
static void accumulate_task(void *arg, int slice, int thread) {
    (void)thread;
    const rows_work *w = arg;
    fm_device *dev = w->device;
    int first = slice * w->slice, n = dev->d->hidden - first < w->slice ? dev->d->hidden - first : w->slice;
    size_t hidden = (size_t)dev->d->hidden;
    const float *row = dev->rows + first;
    for (int i = 0; i < w->n_jobs; i++) {
        const fm_expert_job *job = &w->jobs[i];
        for (int t = 0; t < job->n; t++, row += hidden) {
            dev->k->axpy(dev->weights[job->choices[t]], row, n, dev->out + (size_t)job->tokens[t] * hidden + first);
        }
    }
}

/* Computes and adds the jobs of a long prompt, as many at a time as the rows hold. */
static void accumulate(fm_device *dev, const fm_expert_job *jobs, int n) {
    int slice = (dev->d->hidden / (2 * fm_pool_n_threads(dev->config.pool)) + 127) / 128 * 128;
    fm_expert_job some[FM_MAX_JOBS];
    for (int i = 0, done = 0; i < n;) { /* done: tokens of job i */
        int n_some = 0, room = dev->n_rows;
        /* A job is divided only if it does not fit at all. */
        for (int left; i < n && room && ((left = jobs[i].n - done) <= room || !n_some);) {
            int count = left < room ? left : room;
            some[n_some++] =
                (fm_expert_job){.key = jobs[i].key, .slot = jobs[i].slot, .tokens = jobs[i].tokens + done, .choices = jobs[i].choices + done, .n = count};
            room -= count;
            done += count;
            if (done < jobs[i].n) break;
            i++;
            done = 0;
        }
        compute(dev, some, n_some, 0);
        rows_work w = {.device = dev, .jobs = some, .n_jobs = n_some, .slice = slice < 128 ? 128 : slice};
        fm_pool_run(dev->config.pool, (dev->d->hidden + w.slice - 1) / w.slice, accumulate_task, &w);
    }
}

int fm_expert(fm_device *dev, int layer, const fm_expert_job *jobs, int n, int *bad, fm_error *err) {
    fm_arrival arrivals[FM_MAX_JOBS];
    (void)layer;
    for (int i = 0; i < n; i++) arrivals[i] = (fm_arrival){jobs[i].key, jobs[i].slot, jobs[i].parts};
    int rc = fm_experts_fill(dev->config.model, dev->config.pool, arrivals, n, bad, err);
    if (rc < 0) return rc;
    if (dev->batch.n <= FM_ROW_TOKENS) {
        compute(dev, jobs, n, dev->rows_used);
        for (int i = 0; i < n; i++) {
            for (int t = 0; t < jobs[i].n; t++) dev->row_of[jobs[i].choices[t]] = dev->rows_used++;
        }
        return 0;
    }
    accumulate(dev, jobs, n);
    return 0;
}

typedef struct combine_work {
    fm_device *device;
    int layer;
} combine_work;

static void combine_task(void *arg, int token, int thread) {
    (void)thread;
    const combine_work *w = arg;
    fm_device *dev = w->device;
    size_t hidden = (size_t)dev->d->hidden, at = (size_t)token * hidden;
    int k = dev->config.top_k;
    for (int j = token * k; j < (token + 1) * k && dev->batch.n <= FM_ROW_TOKENS; j++) {
        if (dev->chosen[j] == FM_NO_EXPERT) continue;
        dev->k->axpy(dev->weights[j], dev->rows + (size_t)dev->row_of[j] * hidden, dev->d->hidden, dev->out + at);
    }
    if (dev->d->shared_width) dev->k->add(dev->shared + at, dev->d->hidden, dev->out + at);
    fm_add_row(dev, w->layer, FM_OF_MLP, token);
}

void fm_combine(fm_device *dev, int layer) {
    combine_work w = {dev, layer};
    fm_pool_run(dev->config.pool, dev->batch.n, combine_task, &w);
}
