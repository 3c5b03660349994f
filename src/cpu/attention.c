/* cpu/attention.c: softmax attention with grouped heads, optional q/k norms, partial rotary embedding and output gate. The KV cache is f32. Keys are taken in
 * blocks at absolute positions that are merged in order, so that the result does not depend on how tokens are batched. Mathematics: the attention
 * class of transformers' modeling files that families/ names. */
#include <math.h>
#include <string.h>

#include "cpu/cpu.h"

typedef struct attention_work {
    fm_device *device;
    const fm_layer_weights *w;
    float *q, *k, *v; /* [n][q_cols], [n][kv_cols] twice */
    float *out;       /* [n][n_heads * head_dim] */
    size_t q_cols, kv_cols, out_cols;
    int layer;
} attention_work;

size_t fm_attention_floats(const fm_description *d, int n) {
    size_t q = (size_t)d->n_heads * (size_t)d->head_dim * (d->query_gate ? 2 : 1), kv = (size_t)d->n_kv_heads * (size_t)d->head_dim;
    return (size_t)n * (q + 2 * kv + (size_t)d->n_heads * (size_t)d->head_dim);
}

static const fm_span *span_of(const fm_batch *batch, int token) {
    const fm_span *s = batch->spans;
    while (token >= s->first + s->n) s++;
    return s;
}

static void add_bias(float *x, const float *bias, size_t n) {
    for (size_t i = 0; bias && i < n; i++) x[i] += bias[i];
}

/* Pairs (i, i + rotary_dim / 2), in the operations and order of x * cos + rotate_half(x) * sin. */
static void rotate(const fm_device *dev, float *x, int position) {
    int half = dev->d->rotary_dim / 2;
    const float *cosine = dev->rope + (size_t)position * (size_t)dev->d->rotary_dim, *sine = cosine + half;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

/* Biases, norms and rope of one token's q and k; k and v go to the cache. */
static void prepare_task(void *arg, int token, int thread) {
    (void)thread;
    const attention_work *w = arg;
    fm_device *dev = w->device;
    const fm_description *d = dev->d;
    const fm_span *span = span_of(&dev->batch, token);
    fm_layer_state *state = &span->state->layers[w->layer];
    int position = span->position + token - span->first, head = d->head_dim, stride = d->query_gate ? 2 * head : head;
    float *q = w->q + (size_t)token * w->q_cols, *k = w->k + (size_t)token * w->kv_cols, *v = w->v + (size_t)token * w->kv_cols;
    add_bias(q, w->w->vector[FM_Q_BIAS], w->q_cols);
    add_bias(k, w->w->vector[FM_K_BIAS], w->kv_cols);
    add_bias(v, w->w->vector[FM_V_BIAS], w->kv_cols);
    for (int i = 0; i < d->n_heads; i++) {
        float *x = q + i * stride;
        if (d->qk_norm) dev->k->rms_norm(x, w->w->vector[FM_Q_NORM], head, d->norm_eps, x);
        rotate(dev, x, position);
    }
    for (int i = 0; i < d->n_kv_heads; i++) {
        float *x = k + i * head;
        if (d->qk_norm) dev->k->rms_norm(x, w->w->vector[FM_K_NORM], head, d->norm_eps, x);
        rotate(dev, x, position);
    }
    memcpy(state->keys + (size_t)position * w->kv_cols, k, w->kv_cols * sizeof *k);
    memcpy(state->values + (size_t)position * w->kv_cols, v, w->kv_cols * sizeof *v);
}

static void attend_task(void *arg, int task, int thread) {
    (void)thread;
    const attention_work *w = arg;
    fm_device *dev = w->device;
    const fm_description *d = dev->d;
    /* Late tokens have the most keys: they go first, so that the threads end together. */
    int token = dev->batch.n - 1 - task / d->n_heads, head = task % d->n_heads;
    const fm_span *span = span_of(&dev->batch, token);
    const fm_layer_state *state = &span->state->layers[w->layer];
    int n_keys = span->position + token - span->first + 1;
    size_t hd = (size_t)d->head_dim, kv = (size_t)(head / (d->n_heads / d->n_kv_heads)) * hd;
    const float *q = w->q + (size_t)token * w->q_cols + (size_t)head * (d->query_gate ? 2 * hd : hd);
    float *out = w->out + (size_t)token * w->out_cols + (size_t)head * hd;
    float scale = 1 / sqrtf((float)d->head_dim), M = 0, L = 0, m, l;
    float sum[FM_MAX_HEAD_DIM], block[FM_MAX_HEAD_DIM];
    for (int first = 0; first < n_keys; first += FM_ATTENTION_BLOCK) {
        int n = n_keys - first < FM_ATTENTION_BLOCK ? n_keys - first : FM_ATTENTION_BLOCK;
        size_t at = (size_t)first * w->kv_cols + kv;
        dev->k->attend(q, state->keys + at, state->values + at, w->kv_cols, n, d->head_dim, scale, &m, &l, block);
        dev->k->attend_merge(&M, &L, sum, m, l, block, d->head_dim);
    }
    dev->k->attend_finish(L, sum, d->head_dim, out);
    if (d->query_gate) dev->k->sigmoid_mul(out, q + hd, d->head_dim, out);
}

void fm_attention(fm_device *dev, int layer) {
    const fm_description *d = dev->d;
    const fm_layer_weights *lw = &dev->config.weights->layers[layer];
    size_t n = (size_t)dev->batch.n, hd = (size_t)d->head_dim;
    attention_work w = {.device = dev, .w = lw, .layer = layer};
    w.q_cols = (size_t)d->n_heads * hd * (d->query_gate ? 2 : 1);
    w.kv_cols = (size_t)d->n_kv_heads * hd;
    w.out_cols = (size_t)d->n_heads * hd;
    w.q = dev->scratch;
    w.k = w.q + n * w.q_cols;
    w.v = w.k + n * w.kv_cols;
    w.out = w.v + n * w.kv_cols;
    fm_product products[3] = {
        {.matrix = &lw->matrix[FM_Q], .input = &dev->input, .n = dev->batch.n, .y = w.q, .ldy = w.q_cols},
        {.matrix = &lw->matrix[FM_K], .input = &dev->input, .n = dev->batch.n, .y = w.k, .ldy = w.kv_cols},
        {.matrix = &lw->matrix[FM_V], .input = &dev->input, .n = dev->batch.n, .y = w.v, .ldy = w.kv_cols},
    };
    fm_multiply(dev, products, 3);
    fm_pool_run(dev->config.pool, dev->batch.n, prepare_task, &w);
    fm_pool_run(dev->config.pool, dev->batch.n * d->n_heads, attend_task, &w);
    fm_input_set(&dev->inner, w.out, w.out_cols, dev->batch.n, (int)w.out_cols);
    fm_linear(dev, &lw->matrix[FM_O], &dev->inner, dev->out, (size_t)d->hidden);
    for (size_t i = 0; i < n && lw->vector[FM_O_BIAS]; i++) add_bias(dev->out + i * (size_t)d->hidden, lw->vector[FM_O_BIAS], (size_t)d->hidden);
}
