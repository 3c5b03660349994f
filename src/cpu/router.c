/* cpu/router.c: which experts a token goes through: softmax over all of them, the top k, ties to the lower index, weights divided by their sum if the
 * model does so. Always from f32 activations. Mathematics: the top-k router of transformers' modeling files that families/ names. */
#include "cpu/cpu.h"

/* The top_k largest of p[n], ascending by index, into chosen. */
static void choose(const float *p, int n, int top_k, int *chosen) {
    int count = 0; /* chosen[0..count) sorted by p descending, index ascending */
    for (int e = 0; e < n; e++) {
        if (count == top_k && !(p[e] > p[chosen[count - 1]])) continue;
        int at = count < top_k ? count++ : count - 1;
        while (at > 0 && p[e] > p[chosen[at - 1]]) {
            chosen[at] = chosen[at - 1];
            at--;
        }
        chosen[at] = e;
    }
    for (int i = 1; i < top_k; i++) { /* by index */
        int e = chosen[i], at = i;
        for (; at > 0 && chosen[at - 1] > e; at--) chosen[at] = chosen[at - 1];
        chosen[at] = e;
    }
}

typedef struct route_work {
    const fm_device *device;
    float *logits; /* [n][n_experts] */
    int *chosen;   /* [n][top_k] */
    float *weights;
} route_work;

static void route_task(void *arg, int token, int thread) {
    (void)thread;
    const route_work *w = arg;
    const fm_description *d = w->device->d;
    int k = w->device->config.top_k;
    float *p = w->logits + (size_t)token * (size_t)d->n_experts, *weights = w->weights + (size_t)token * (size_t)k, sum = 0;
    int *chosen = w->chosen + (size_t)token * (size_t)k;
    w->device->k->softmax(p, d->n_experts, p);
    choose(p, d->n_experts, k, chosen);
    for (int i = 0; i < k; i++) {
        weights[i] = p[chosen[i]];
        sum += weights[i];
    }
    for (int i = 0; i < k && d->renormalise; i++) weights[i] /= sum;
}

/* The choice of layer's router for the n vectors of input. */
static fm_routing choose_experts(fm_device *dev, int layer, fm_input *input, const route_work *w, bool exact) {
    const fm_matrix *router = &dev->config.weights->layers[layer].matrix[FM_ROUTER];
    fm_product p = {.matrix = router, .input = input, .n = input->n, .y = w->logits, .ldy = (size_t)dev->d->n_experts, .exact = exact};
    fm_multiply(dev, &p, 1);
    fm_pool_run(dev->config.pool, input->n, route_task, (void *)w);
    return (fm_routing){.top_k = dev->config.top_k, .experts = w->chosen, .weights = w->weights};
}

void fm_route(fm_device *dev, int layer, fm_routing *routing) {
    fm_norm_input(dev, dev->config.weights->layers[layer].vector[FM_NORM2]);
    *routing = choose_experts(dev, layer, &dev->input, &(route_work){dev, dev->router_logits, dev->chosen, dev->weights}, true);
}

void fm_predict(fm_device *dev, int layer, fm_routing *routing) {
    const float *norm = dev->config.weights->layers[layer].vector[FM_NORM2];
    size_t hidden = (size_t)dev->d->hidden;
    int n = dev->batch.n;
    *routing = (fm_routing){0};
    if (n > FM_GUESS_TOKENS) return;
    for (size_t i = 0; i < (size_t)n; i++) dev->k->rms_norm(dev->x + i * hidden, norm, dev->d->hidden, dev->d->norm_eps, dev->ahead.x + i * hidden);
    fm_input_set(&dev->ahead.input, dev->ahead.x, hidden, n, dev->d->hidden);
    *routing = choose_experts(dev, layer, &dev->ahead.input, &(route_work){dev, dev->ahead.logits, dev->ahead.chosen, dev->ahead.weights}, false);
}
