/* cpu/short_conv.c: the causal convolution of single channels that mixers have, and the mixer that is nothing else, with a gate before it and one behind.
 * Mathematics: the short convolution of transformers' modeling files that families/ names. */
#include <string.h>

#include "cpu/cpu.h"

#define SLICE 64 /* channels of a task */

void fm_conv_rows(const fm_conv *c, const fm_span *span, int token, const float *rows[FM_MAX_TAPS]) {
    for (int j = 0; j < c->n_taps; j++) {
        int back = token - span->first - (c->n_taps - 1) + j; /* row of the span; before it, those that were kept */
        rows[j] = back >= 0 ? c->raw + (size_t)(span->first + back) * c->ld : c->kept + (size_t)(c->n_taps - 1 + back) * c->channels;
    }
}

void fm_conv_sum(const fm_conv *c, const float *weights, const float *bias, const float *const *rows, const size_t range[2], float *y) {
    for (size_t i = range[0]; i < range[1]; i++) y[i] = bias ? bias[i] : 0;
    for (int j = 0; j < c->n_taps; j++) {
        const float *w = weights + (size_t)j * c->channels, *x = rows[j];
        for (size_t i = range[0]; i < range[1]; i++) y[i] += w[i] * x[i];
    }
}

/* Oldest first, so a row is read before it is overwritten. */
void fm_conv_keep(const fm_conv *c, const fm_span *span, size_t first, size_t n) {
    int rows = c->n_taps - 1;
    for (int j = 0; j < rows; j++) {
        int back = span->n - rows + j;
        const float *from = back >= 0 ? c->raw + (size_t)(span->first + back) * c->ld : c->kept + (size_t)(rows + back) * c->channels;
        memmove(c->kept + (size_t)j * c->channels + first, from + first, n * sizeof *from);
    }
}

typedef struct conv_work {
    fm_device *device;
    const fm_layer_weights *w;
    float *in;        /* [n][3 * hidden]: gate in, gate out, x */
    float *raw, *out; /* [n][hidden] */
    int layer, n_slices;
} conv_work;

size_t fm_short_conv_floats(const fm_description *d, int n) { return 5 * (size_t)n * (size_t)d->hidden; }

/* Some channels of one span: all its tokens. */
static void slice_task(void *arg, int task, int thread) {
    (void)thread;
    const conv_work *w = arg;
    const fm_device *dev = w->device;
    const fm_span *span = &dev->batch.spans[task / w->n_slices];
    size_t hidden = (size_t)dev->d->hidden, first = (size_t)(task % w->n_slices) * SLICE, last = first + SLICE < hidden ? first + SLICE : hidden;
    fm_conv conv = {w->raw, span->state->layers[w->layer].conv, hidden, hidden, dev->d->conv_taps};
    const float *rows[FM_MAX_TAPS];
    for (int token = span->first; token < span->first + span->n; token++) {
        const float *before = w->in + (size_t)token * 3 * hidden, *behind = before + hidden, *x = behind + hidden;
        float *raw = w->raw + (size_t)token * hidden, *out = w->out + (size_t)token * hidden;
        for (size_t i = first; i < last; i++) raw[i] = before[i] * x[i];
        fm_conv_rows(&conv, span, token, rows);
        fm_conv_sum(&conv, w->w->vector[FM_MIX_CONV], w->w->vector[FM_MIX_CONV_BIAS], rows, (const size_t[2]){first, last}, out);
        for (size_t i = first; i < last; i++) out[i] *= behind[i];
    }
    fm_conv_keep(&conv, span, first, last - first);
}

void fm_short_conv(fm_device *dev, int layer) {
    const fm_layer_weights *lw = &dev->config.weights->layers[layer];
    size_t n = (size_t)dev->batch.n, hidden = (size_t)dev->d->hidden;
    conv_work w = {.device = dev, .w = lw, .layer = layer, .n_slices = (dev->d->hidden + SLICE - 1) / SLICE};
    w.in = dev->scratch;
    w.raw = w.in + 3 * n * hidden;
    w.out = w.raw + n * hidden;
    fm_linear(dev, &lw->matrix[FM_MIX_IN], &dev->input, w.in, 3 * hidden);
    fm_add_bias(dev, w.in, 3 * hidden, lw->vector[FM_MIX_IN_BIAS]);
    fm_pool_run(dev->config.pool, dev->batch.n_spans * w.n_slices, slice_task, &w);
    fm_input_set(&dev->inner, w.out, hidden, dev->batch.n, dev->d->hidden);
    fm_linear(dev, &lw->matrix[FM_MIX_OUT], &dev->inner, dev->out, hidden);
    fm_add_bias(dev, dev->out, hidden, lw->vector[FM_MIX_OUT_BIAS]);
}
