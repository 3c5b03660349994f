/* cpu/mamba.c: Mamba, a selective state space, token by token in prompts too, parallel over channels, so that a prompt gives the bits that decoding gives.
 * States lie [state][channel], so that no sum is horizontal. Mathematics: the mixer of transformers' modeling files that families/ names, with norms of dt, B
 * and C. */
#include "cpu/cpu.h"

#define SLICE 128 /* channels of a task */

typedef struct mamba_work {
    fm_device *device;
    const fm_layer_weights *w;
    float *in;    /* [n][2 * width]: u before its convolution, z */
    float *u;     /* [n][width]: behind the convolution */
    float *x;     /* [n][x_cols]: dt, B, C */
    float *delta; /* [n][width] */
    float *out;   /* [n][width] */
    size_t width, x_cols;
    int layer, n_slices;
} mamba_work;

size_t fm_mamba_floats(const fm_description *d, int n) {
    return (size_t)n * (5 * (size_t)d->mamba_width + (size_t)d->mamba_rank + 2 * (size_t)d->mamba_states);
}

typedef struct slice {
    const fm_span *span;
    size_t first, last; /* channels */
} slice;

static slice slice_of(const mamba_work *w, int task) {
    size_t first = (size_t)(task % w->n_slices) * SLICE;
    return (slice){&w->device->batch.spans[task / w->n_slices], first, first + SLICE < w->width ? first + SLICE : w->width};
}

/* u = silu(convolution of u) of some channels of a span. */
static void conv_task(void *arg, int task, int thread) {
    (void)thread;
    const mamba_work *w = arg;
    const fm_device *dev = w->device;
    slice s = slice_of(w, task);
    fm_conv conv = {w->in, s.span->state->layers[w->layer].conv, 2 * w->width, w->width, dev->d->conv_taps};
    const float *rows[FM_MAX_TAPS];
    for (int token = s.span->first; token < s.span->first + s.span->n; token++) {
        float *u = w->u + (size_t)token * w->width;
        fm_conv_rows(&conv, s.span, token, rows);
        fm_conv_sum(&conv, w->w->vector[FM_MIX_CONV], w->w->vector[FM_MIX_CONV_BIAS], rows, (const size_t[2]){s.first, s.last}, u);
        dev->k->sigmoid_mul(u + s.first, u + s.first, (int)(s.last - s.first), u + s.first);
    }
    fm_conv_keep(&conv, s.span, s.first, s.last - s.first);
}

static void norm_task(void *arg, int token, int thread) {
    (void)thread;
    const mamba_work *w = arg;
    const fm_description *d = w->device->d;
    const fm_role norms[3] = {FM_MAMBA_DT_NORM, FM_MAMBA_B_NORM, FM_MAMBA_C_NORM};
    const int n[3] = {d->mamba_rank, d->mamba_states, d->mamba_states};
    float *x = w->x + (size_t)token * w->x_cols;
    for (int i = 0; i < 3; x += n[i], i++) w->device->k->rms_norm(x, w->w->vector[norms[i]], n[i], d->norm_eps, x);
}

/* h = exp(delta A) h + (delta u) B, y = h C + D u, out = y silu(z), of n channels (at most SLICE) from `first` on of one token. h, A: [state][width]. */
static void step(const mamba_work *w, float *h, size_t token, size_t first, size_t n) {
    const fm_device *dev = w->device;
    size_t at = token * w->width + first, n_states = (size_t)dev->d->mamba_states;
    const float *delta = w->delta + at, *u = w->u + at, *b = w->x + token * w->x_cols + (size_t)dev->d->mamba_rank, *c = b + n_states;
    const float *a = w->w->vector[FM_MAMBA_A_LOG] + first, *skip = w->w->vector[FM_MAMBA_D] + first;
    float decay[SLICE], du[SLICE], *y = w->out + at;
    for (size_t i = 0; i < n; i++) du[i] = delta[i] * u[i];
    for (size_t i = 0; i < n; i++) y[i] = 0;
    h += first;
    for (size_t s = 0; s < n_states; s++, a += w->width, h += w->width) {
        for (size_t i = 0; i < n; i++) decay[i] = delta[i] * a[i];
        dev->k->exp(decay, (int)n, decay);
        for (size_t i = 0; i < n; i++) {
            h[i] = decay[i] * h[i] + du[i] * b[s];
            y[i] += h[i] * c[s];
        }
    }
    for (size_t i = 0; i < n; i++) y[i] += skip[i] * u[i];
    dev->k->swiglu(w->in + token * 2 * w->width + w->width + first, y, (int)n, y);
}

/* x = log(1 + exp(x + bias)), of n (at most SLICE) channels: the larger of x and 0, and log(1 + e) = 2 atanh(s) of e = exp(-|x|), s = e / (2 + e) at most 1/3. */
static void softplus(const fm_kernels *k, const float *bias, size_t n, float *x) {
    static const float c[] = {2.0f / 17, 2.0f / 15, 2.0f / 13, 2.0f / 11, 2.0f / 9, 2.0f / 7, 2.0f / 5, 2.0f / 3, 2};
    float e[SLICE] = {0};
    for (size_t i = 0; i < n; i++) {
        x[i] += bias[i];
        e[i] = x[i] < 0 ? x[i] : -x[i];
    }
    k->exp(e, (int)n, e);
    for (size_t i = 0; i < n; i++) {
        float s = e[i] / (2 + e[i]), z = s * s, p = c[0];
        for (int j = 1; j < 9; j++) p = p * z + c[j];
        x[i] = (x[i] > 0 ? x[i] : 0) + s * p;
    }
}

static void scan_task(void *arg, int task, int thread) {
    (void)thread;
    const mamba_work *w = arg;
    slice s = slice_of(w, task);
    const float *bias = w->w->vector[FM_MAMBA_DT_BIAS];
    float *h = s.span->state->layers[w->layer].memory;
    for (size_t t = (size_t)s.span->first; t < (size_t)(s.span->first + s.span->n); t++) {
        softplus(w->device->k, bias + s.first, s.last - s.first, w->delta + t * w->width + s.first);
        step(w, h, t, s.first, s.last - s.first);
    }
}

void fm_mamba(fm_device *dev, int layer) {
    const fm_description *d = dev->d;
    const fm_layer_weights *lw = &dev->config.weights->layers[layer];
    size_t n = (size_t)dev->batch.n;
    mamba_work w = {.device = dev, .w = lw, .layer = layer, .width = (size_t)d->mamba_width, .n_slices = (d->mamba_width + SLICE - 1) / SLICE};
    w.x_cols = (size_t)d->mamba_rank + 2 * (size_t)d->mamba_states;
    w.in = dev->scratch;
    w.u = w.in + 2 * n * w.width;
    w.delta = w.u + n * w.width;
    w.out = w.delta + n * w.width;
    w.x = w.out + n * w.width;
    int n_tasks = dev->batch.n_spans * w.n_slices;
    fm_linear(dev, &lw->matrix[FM_MIX_IN], &dev->input, w.in, 2 * w.width);
    fm_add_bias(dev, w.in, 2 * w.width, lw->vector[FM_MIX_IN_BIAS]);
    fm_pool_run(dev->config.pool, n_tasks, conv_task, &w);
    fm_input_set(&dev->inner, w.u, w.width, dev->batch.n, d->mamba_width);
    fm_product x = {.matrix = &lw->matrix[FM_MAMBA_X], .input = &dev->inner, .n = dev->batch.n, .y = w.x, .ldy = w.x_cols, .exact = true};
    fm_multiply(dev, &x, 1);
    fm_pool_run(dev->config.pool, dev->batch.n, norm_task, &w);
    fm_input_set(&dev->inner, w.x, w.x_cols, dev->batch.n, d->mamba_rank);
    fm_product delta = {.matrix = &lw->matrix[FM_MAMBA_DT], .input = &dev->inner, .n = dev->batch.n, .y = w.delta, .ldy = w.width, .exact = true};
    fm_multiply(dev, &delta, 1);
    fm_pool_run(dev->config.pool, n_tasks, scan_task, &w);
    fm_input_set(&dev->inner, w.out, w.width, dev->batch.n, d->mamba_width);
    fm_linear(dev, &lw->matrix[FM_MIX_OUT], &dev->inner, dev->out, (size_t)d->hidden);
    fm_add_bias(dev, dev->out, (size_t)d->hidden, lw->vector[FM_MIX_OUT_BIAS]);
}
