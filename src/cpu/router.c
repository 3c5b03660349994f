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

static void route_task(void *arg, int token, int thread) {
    (void)thread;
    fm_device *dev = arg;
    const fm_description *d = dev->d;
    int k = dev->config.top_k;
    float *p = dev->router_logits + (size_t)token * (size_t)d->n_experts, *weights = dev->weights + (size_t)token * (size_t)k, sum = 0;
    int *chosen = dev->chosen + (size_t)token * (size_t)k;
    dev->k->softmax(p, d->n_experts, p);
    choose(p, d->n_experts, k, chosen);
    for (int i = 0; i < k; i++) {
        weights[i] = p[chosen[i]];
        sum += weights[i];
    }
    for (int i = 0; i < k && d->renormalise; i++) weights[i] /= sum;
}

void fm_route(fm_device *dev, int layer, fm_routing *routing) {
    const fm_layer_weights *lw = &dev->config.weights->layers[layer];
    fm_norm_input(dev, lw->vector[FM_NORM2]);
    fm_product p = {
        .matrix = &lw->matrix[FM_ROUTER], .input = &dev->input, .n = dev->batch.n, .y = dev->router_logits, .ldy = (size_t)dev->d->n_experts, .exact = true};
    fm_multiply(dev, &p, 1);
    fm_pool_run(dev->config.pool, dev->batch.n, route_task, dev);
    *routing = (fm_routing){.top_k = dev->config.top_k, .experts = dev->chosen, .weights = dev->weights};
}
