/* cpu/deltanet.c: the gated delta rule with its convolution. Token by token in prompts too, parallel over heads, so that a prompt gives the bits that decoding
 * gives. Mathematics: torch_recurrent_gated_delta_rule in transformers' modeling files that families/ names. */
#include <math.h>
#include <string.h>

#include "base/math.h"
#include "cpu/cpu.h"

#define SHORT_TOKENS 8 /* a span: below this many, a key head is one task, with fewer steps to wait for; from here on there are more tasks */

typedef struct delta_work {
    fm_device *device;
    const fm_layer_weights *w;
    float *raw;   /* [n][channels]: projected q | k | v */
    float *mixed; /* [n][channels]: after convolution and SiLU; q and k then normalised */
    float *z;     /* [n][values] */
    float *a, *b; /* [n][n_value_heads]: decay and beta, in place of their projections */
    float *out;   /* [n][values] */
    size_t channels, values;
    int layer;
} delta_work;

size_t fm_deltanet_floats(const fm_description *d, int n) {
    size_t channels = (size_t)fm_conv_channels(d), values = (size_t)d->n_value_heads * (size_t)d->value_dim;
    return (size_t)n * (2 * channels + 2 * values + 2 * (size_t)d->n_value_heads);
}

/* A run of channels: of queries, of keys or of values. */
typedef struct channels {
    size_t first, n;
} channels;

/* The channels of n key heads and of the value heads that they serve. */
static void channels_of(const fm_description *d, int key_head, int n, channels c[3]) {
    size_t dk = (size_t)d->key_dim, values = (size_t)(d->n_value_heads / d->n_key_heads) * (size_t)d->value_dim, keys = (size_t)d->n_key_heads * dk;
    c[0] = (channels){(size_t)key_head * dk, (size_t)n * dk};
    c[1] = (channels){keys + c[0].first, c[0].n};
    c[2] = (channels){2 * keys + (size_t)key_head * values, (size_t)n * values};
}

static fm_conv conv_of(const delta_work *w, const fm_span *span) {
    return (fm_conv){w->raw, span->state->layers[w->layer].conv, w->channels, w->channels, w->device->d->conv_taps};
}

/* Convolution, norms, decay and beta of one token in n key heads. */
static void prepare(const delta_work *w, const fm_span *span, int token, int key_head, int n) {
    fm_device *dev = w->device;
    const fm_description *d = dev->d;
    const float *taps[FM_MAX_TAPS];
    fm_conv conv = conv_of(w, span);
    fm_conv_rows(&conv, span, token, taps);
    float *x = w->mixed + (size_t)token * w->channels, scale = 1 / sqrtf((float)d->key_dim);
    channels c[3];
    channels_of(d, key_head, n, c);
    for (int i = 0; i < 3; i++)
        dev->k->conv_silu(w->w->vector[FM_DELTA_CONV], taps, d->conv_taps, (int)w->channels, (int)c[i].first, (int)(c[i].first + c[i].n), x);
    for (size_t i = 0; i < c[0].n; i += (size_t)d->key_dim) {
        float *q = x + c[0].first + i, *k = x + c[1].first + i;
        dev->k->l2_norm(q, d->key_dim, 1e-6f, scale, q);
        dev->k->l2_norm(k, d->key_dim, 1e-6f, 1, k);
    }
    float *a = w->a + (size_t)token * (size_t)d->n_value_heads, *b = w->b + (size_t)token * (size_t)d->n_value_heads;
    int served = d->n_value_heads / d->n_key_heads;
    for (int i = key_head * served; i < (key_head + n) * served; i++) {
        a[i] = fm_expf(-fm_expf(w->w->vector[FM_DELTA_A_LOG][i]) * fm_softplusf(a[i] + w->w->vector[FM_DELTA_DT_BIAS][i]));
        b[i] = fm_sigmoidf(b[i]);
    }
}

/* One value head of one span: its tokens one after the other. */
static void value_head(const delta_work *w, const fm_span *span, int head) {
    fm_device *dev = w->device;
    const fm_description *d = dev->d;
    int key_head = head / (d->n_value_heads / d->n_key_heads);
    size_t dk = (size_t)d->key_dim, dv = (size_t)d->value_dim, keys = (size_t)d->n_key_heads * dk;
    float *memory = span->state->layers[w->layer].memory + (size_t)head * dk * dv;
    size_t first = (size_t)span->first, heads = (size_t)d->n_value_heads, gate = first * heads + (size_t)head;
    const float *x = w->mixed + first * w->channels, *q = x + (size_t)key_head * dk;
    fm_delta_tokens tokens = {.n = span->n, .q = q, .k = q + keys, .v = x + 2 * keys + (size_t)head * dv, .g = w->a + gate, .beta = w->b + gate};
    tokens.o = w->out + first * w->values + (size_t)head * dv;
    tokens.ld = w->channels;
    tokens.n_heads = heads;
    tokens.ldo = w->values;
    dev->k->delta_steps(memory, d->key_dim, d->value_dim, &tokens);
    for (size_t t = first; t < first + (size_t)span->n; t++) {
        float *o = w->out + t * w->values + (size_t)head * dv;
        dev->k->rms_norm_gated(o, w->w->vector[FM_DELTA_NORM], w->z + t * w->values + (size_t)head * dv, d->value_dim, d->norm_eps, o);
    }
}

/* The last raw rows of n key heads stay for the next batch. */
static void keep_taps(const delta_work *w, const fm_span *span, int key_head, int n) {
    fm_conv conv = conv_of(w, span);
    channels c[3];
    channels_of(w->device->d, key_head, n, c);
    for (int i = 0; i < 3; i++) fm_conv_keep(&conv, span, c[i].first, c[i].n);
}

static void prepare_task(void *arg, int token, int thread) {
    (void)thread;
    const delta_work *w = arg;
    const fm_span *span = w->device->batch.spans;
    while (token >= span->first + span->n) span++;
    prepare(w, span, token, 0, w->device->d->n_key_heads);
}

static void value_head_task(void *arg, int task, int thread) {
    (void)thread;
    const delta_work *w = arg;
    int n = w->device->d->n_value_heads;
    value_head(w, &w->device->batch.spans[task / n], task % n);
}

/* All that a key head of a short span needs, in one task. */
static void key_head_task(void *arg, int task, int thread) {
    (void)thread;
    const delta_work *w = arg;
    const fm_description *d = w->device->d;
    const fm_span *span = &w->device->batch.spans[task / d->n_key_heads];
    int key_head = task % d->n_key_heads, served = d->n_value_heads / d->n_key_heads;
    for (int t = span->first; t < span->first + span->n; t++) prepare(w, span, t, key_head, 1);
    for (int i = key_head * served; i < (key_head + 1) * served; i++) value_head(w, span, i);
    keep_taps(w, span, key_head, 1);
}

void fm_deltanet(fm_device *dev, int layer) {
    const fm_description *d = dev->d;
    const fm_layer_weights *lw = &dev->config.weights->layers[layer];
    size_t n = (size_t)dev->batch.n, heads = (size_t)d->n_value_heads;
    delta_work w = {.device = dev, .w = lw, .layer = layer};
    w.channels = (size_t)fm_conv_channels(d);
    w.values = heads * (size_t)d->value_dim;
    w.raw = dev->scratch;
    w.mixed = w.raw + n * w.channels;
    w.z = w.mixed + n * w.channels;
    w.out = w.z + n * w.values;
    w.a = w.out + n * w.values;
    w.b = w.a + n * heads;
    fm_product products[4] = {
        {.matrix = &lw->matrix[FM_DELTA_QKV], .input = &dev->input, .n = dev->batch.n, .y = w.raw, .ldy = w.channels},
        {.matrix = &lw->matrix[FM_DELTA_Z], .input = &dev->input, .n = dev->batch.n, .y = w.z, .ldy = w.values},
        {.matrix = &lw->matrix[FM_DELTA_A], .input = &dev->input, .n = dev->batch.n, .y = w.a, .ldy = heads, .exact = true},
        {.matrix = &lw->matrix[FM_DELTA_B], .input = &dev->input, .n = dev->batch.n, .y = w.b, .ldy = heads, .exact = true},
    };
    fm_multiply(dev, products, 4);
    if (dev->batch.n < SHORT_TOKENS * dev->batch.n_spans) {
        fm_pool_run(dev->config.pool, dev->batch.n_spans * d->n_key_heads, key_head_task, &w);
    } else {
        fm_pool_run(dev->config.pool, dev->batch.n, prepare_task, &w);
        fm_pool_run(dev->config.pool, dev->batch.n_spans * d->n_value_heads, value_head_task, &w);
        for (int i = 0; i < dev->batch.n_spans; i++) keep_taps(&w, &dev->batch.spans[i], 0, d->n_key_heads);
    }
    fm_input_set(&dev->inner, w.out, w.values, dev->batch.n, (int)w.values);
    fm_observe(dev, layer, FM_DELTA_OUT, &dev->inner);
    fm_linear(dev, &lw->matrix[FM_DELTA_OUT], &dev->inner, dev->out, (size_t)d->hidden);
}
