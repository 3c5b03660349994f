/* cpu/linear.c: products of matrices and batches of vectors on all threads, and the int8 forms of the vectors. */
#include <assert.h>

#include "cpu/cpu.h"

/* A task is a run of strips, long enough to stream from memory at full speed and to cost little to hand out, short enough that the threads end together. */
#define TASKS_A_THREAD 3
#define LEAST_BYTES ((size_t)32 << 10)
#define MOST_BYTES ((size_t)4 << 20)
#define PRODUCTS_A_BYTE 10 /* that are computed in the time in which a byte of weights is read, about */
#define BYTES_A_PRODUCT 2  /* with quantised weights and f32 activations, which take longer than reading */

size_t fm_input_bytes(int n_kinds, int n, int cols) {
    /* Of group 32, the finer: q, scale and sum. Each block is rounded to 64 bytes. */
    size_t groups = (size_t)(cols + 31) / 32;
    return (size_t)n_kinds * ((size_t)n * ((size_t)cols + 8 * groups) + 3 * 64);
}

void fm_input_set(fm_input *input, const float *x, size_t ld, int n, int cols) {
    input->x = x;
    input->ld = ld;
    input->n = n;
    input->cols = cols;
    input->n_acts = 0;
    input->used = 0;
}

static void *take(fm_input *input, size_t bytes) {
    void *p = input->memory + input->used;
    input->used += fm_arena_bytes(bytes);
    return p;
}

typedef struct quantize_work {
    const fm_kernels *k;
    const fm_input *input;
    const fm_act8 *act;
} quantize_work;

static void quantize_task(void *arg, int i, int thread) {
    (void)thread;
    const quantize_work *w = arg;
    const fm_act8 *a = w->act;
    size_t groups = (size_t)(a->cols / a->group), t = (size_t)i;
    w->k->quantize(w->input->x + t * w->input->ld, a->cols, a->group, a->width, a->q + t * (size_t)a->cols, a->scale + t * groups, a->sum + t * groups);
}

/* The int8 form of all its rows that matrices of type need. */
static const fm_act8 *input_act(fm_device *device, fm_input *input, const fm_matrix_type *type) {
    int group = type->group < 64 ? type->group : 64;
    for (int i = 0; i < input->n_acts; i++) {
        if (input->acts[i].group == group && input->acts[i].width == type->width) return &input->acts[i];
    }
    assert(input->n_acts < FM_MAX_ACTS);
    fm_act8 *a = &input->acts[input->n_acts++];
    size_t groups = (size_t)(input->cols / group), n = (size_t)input->n;
    *a = (fm_act8){.cols = input->cols, .group = group, .width = type->width};
    a->q = take(input, n * (size_t)input->cols);
    a->scale = take(input, n * groups * sizeof(float));
    a->sum = take(input, n * groups * sizeof(float));
    quantize_work w = {device->k, input, a};
    fm_pool_run(device->config.pool, input->n, quantize_task, &w);
    return a;
}

typedef struct multiply_work {
    const fm_kernels *k;
    const fm_product *products;
    const fm_act8 *acts[FM_MAX_PRODUCTS]; /* NULL: f32 */
    int first_task[FM_MAX_PRODUCTS + 1], step[FM_MAX_PRODUCTS];
    int n;
} multiply_work;

static void multiply_task(void *arg, int task, int thread) {
    (void)thread;
    const multiply_work *w = arg;
    int i = 0;
    while (task >= w->first_task[i + 1]) i++;
    const fm_product *p = &w->products[i];
    const fm_matrix *m = p->matrix;
    int n_strips = fm_matrix_n_strips(&m->type), first = (task - w->first_task[i]) * w->step[i], last = first + w->step[i];
    if (last > n_strips) last = n_strips;
    if (m->type.format != FM_FORMAT_R16) {
        w->k->mul_float(m, first, last, p->input->x, p->input->ld, p->tokens, p->n, p->y, p->ldy);
    } else if (w->acts[i]) {
        w->k->mul_r16_i8(m, first, last, w->acts[i], p->tokens, p->n, p->y, p->ldy);
    } else {
        w->k->mul_r16_f32(m, first, last, p->input->x, p->input->ld, p->tokens, p->n, p->y, p->ldy);
    }
}

/* What a strip costs, in bytes of weights read or, for many tokens, in products worth as much. */
static size_t strip_cost(const fm_product *p) {
    const fm_matrix_type *t = &p->matrix->type;
    bool r16 = t->format == FM_FORMAT_R16;
    size_t n = (size_t)(r16 ? 16 : 1) * (size_t)t->cols * (size_t)p->n, read = fm_matrix_strip_bytes(t);
    size_t computed = r16 && p->exact ? n * BYTES_A_PRODUCT : n / PRODUCTS_A_BYTE;
    return read > computed ? read : computed;
}

void fm_multiply(fm_device *device, const fm_product *products, int n) {
    multiply_work w = {.k = device->k, .products = products, .n = n};
    size_t all = 0, share;
    for (int i = 0; i < n; i++) all += products[i].n ? strip_cost(&products[i]) * (size_t)fm_matrix_n_strips(&products[i].matrix->type) : 0;
    share = all / (size_t)(TASKS_A_THREAD * fm_pool_n_threads(device->config.pool));
    share = share < LEAST_BYTES ? LEAST_BYTES : share > MOST_BYTES ? MOST_BYTES : share;
    for (int i = 0; i < n; i++) {
        const fm_product *p = &products[i];
        bool act = device->config.int8 && !p->exact && p->matrix->type.format == FM_FORMAT_R16;
        int n_strips = fm_matrix_n_strips(&p->matrix->type), step = (int)(share / (strip_cost(p) + 1));
        w.acts[i] = act ? input_act(device, p->input, &p->matrix->type) : NULL;
        step = step < 2 ? 2 : step > n_strips ? n_strips : step; /* tiles take two strips at a time */
        int n_tasks = (n_strips + step - 1) / step;
        w.step[i] = (n_strips + n_tasks - 1) / n_tasks; /* all of a length */
        w.first_task[i + 1] = w.first_task[i] + (p->n ? (n_strips + w.step[i] - 1) / w.step[i] : 0);
    }
    fm_pool_run(device->config.pool, w.first_task[n], multiply_task, &w);
    if (device->config.poll) device->config.poll(device->config.poll_user);
}

void fm_observe(fm_device *device, int layer, int role, const fm_input *input) {
    if (device->observe) device->observe(device->observe_user, layer, role, input->x, input->ld, input->n, input->cols);
}

void fm_linear(fm_device *device, const fm_matrix *matrix, fm_input *input, float *y, size_t ldy) {
    fm_product p = {.matrix = matrix, .input = input, .n = input->n, .y = y, .ldy = ldy};
    fm_multiply(device, &p, 1);
}

typedef struct norm_work {
    fm_device *device;
    const fm_layer_weights *w;
    fm_role norm, bias;
} norm_work;

void fm_norm_row(const fm_device *dev, const fm_layer_weights *w, fm_role norm, fm_role bias, const float *x, float *y) {
    const fm_description *d = dev->d;
    if (d->norm == FM_NORM_LAYER)
        dev->k->layer_norm(x, w->vector[norm], w->vector[bias], d->hidden, d->norm_eps, y);
    else
        dev->k->rms_norm(x, w->vector[norm], d->hidden, d->norm_eps, y);
}

static void norm_task(void *arg, int i, int thread) {
    (void)thread;
    const norm_work *w = arg;
    fm_device *dev = w->device;
    size_t at = (size_t)i * (size_t)dev->d->hidden;
    fm_norm_row(dev, w->w, w->norm, w->bias, dev->x + at, dev->h + at);
}

void fm_norm_input(fm_device *device, const fm_layer_weights *weights, fm_role norm, fm_role bias) {
    norm_work w = {device, weights, norm, bias};
    fm_pool_run(device->config.pool, device->batch.n, norm_task, &w);
    fm_input_set(&device->input, device->h, (size_t)device->d->hidden, device->batch.n, device->d->hidden);
    fm_observe(device, (int)(weights - device->config.weights->layers), norm, &device->input);
}
