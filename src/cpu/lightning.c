/* cpu/lightning.c: lightning attention: linear attention with a decay of each head's own, token by token in prompts too, parallel over heads, so that a
 * prompt gives the bits that decoding gives. Mathematics: the lightning attention of transformers' modeling files that families/ names, in its recurrent
 * form. */
#include "base/math.h"
#include "cpu/cpu.h"

/* Not the model's: the class's default, which the reference leaves in place. */
#define NORM_EPS 1e-6f

typedef struct lightning_work {
    fm_device *device;
    const fm_layer_weights *w;
    float *qkv;  /* [n][n_heads][3 * head_dim]: q, k, v */
    float *gate; /* [n][values] */
    float *out;  /* [n][values] */
    size_t values;
    int layer;
} lightning_work;

size_t fm_lightning_floats(const fm_description *d, int n) { return 5 * (size_t)n * (size_t)d->n_heads * (size_t)d->head_dim; }

static float decay_of(const fm_description *d, int layer, int head) {
    double rate = fm_pow(2, -8.0 * (head + 1) / d->n_heads);
    return fm_expf(-(float)(rate * (double)d->layers[layer].slope));
}

/* s = decay * s + k v, o = q s: row by row of s [head_dim][head_dim], in order. */
static void step(float *s, size_t dim, float decay, const float *qkv, float *o) {
    const float *q = qkv, *k = q + dim, *v = k + dim;
    for (size_t c = 0; c < dim; c++) o[c] = 0;
    for (size_t i = 0; i < dim; i++, s += dim) {
        for (size_t c = 0; c < dim; c++) {
            s[c] = decay * s[c] + k[i] * v[c];
            o[c] += q[i] * s[c];
        }
    }
}

/* One head of one span: its tokens one after the other. */
static void head_task(void *arg, int task, int thread) {
    (void)thread;
    const lightning_work *w = arg;
    const fm_device *dev = w->device;
    const fm_description *d = dev->d;
    const fm_span *span = &dev->batch.spans[task / d->n_heads];
    int head = task % d->n_heads, three = 3 * d->head_dim;
    size_t dim = (size_t)d->head_dim;
    float *s = span->state->layers[w->layer].memory + (size_t)head * dim * dim, decay = decay_of(d, w->layer, head);
    for (size_t t = (size_t)span->first; t < (size_t)(span->first + span->n); t++) {
        float *qkv = w->qkv + (t * (size_t)d->n_heads + (size_t)head) * (size_t)three;
        dev->k->sigmoid_mul(qkv, qkv, three, qkv);
        step(s, dim, decay, qkv, w->out + t * w->values + (size_t)head * dim);
    }
}

static void gate_task(void *arg, int token, int thread) {
    (void)thread;
    const lightning_work *w = arg;
    const fm_device *dev = w->device;
    float *o = w->out + (size_t)token * w->values;
    dev->k->rms_norm(o, w->w->vector[FM_LIGHTNING_NORM], (int)w->values, NORM_EPS, o);
    dev->k->sigmoid_mul(o, w->gate + (size_t)token * w->values, (int)w->values, o);
}

void fm_lightning(fm_device *dev, int layer) {
    const fm_description *d = dev->d;
    const fm_layer_weights *lw = &dev->config.weights->layers[layer];
    size_t n = (size_t)dev->batch.n;
    lightning_work w = {.device = dev, .w = lw, .layer = layer, .values = (size_t)d->n_heads * (size_t)d->head_dim};
    w.qkv = dev->scratch;
    w.gate = w.qkv + 3 * n * w.values;
    w.out = w.gate + n * w.values;
    fm_product products[2] = {
        {.matrix = &lw->matrix[FM_MIX_IN], .input = &dev->input, .n = dev->batch.n, .y = w.qkv, .ldy = 3 * w.values},
        {.matrix = &lw->matrix[FM_LIGHTNING_GATE], .input = &dev->input, .n = dev->batch.n, .y = w.gate, .ldy = w.values},
    };
    fm_multiply(dev, products, 2);
    fm_pool_run(dev->config.pool, dev->batch.n_spans * d->n_heads, head_task, &w);
    fm_pool_run(dev->config.pool, dev->batch.n, gate_task, &w);
    fm_input_set(&dev->inner, w.out, w.values, dev->batch.n, (int)w.values);
    fm_linear(dev, &lw->matrix[FM_MIX_OUT], &dev->inner, dev->out, (size_t)d->hidden);
}
