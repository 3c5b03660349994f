/* cpu/router.c: which experts a token goes through, and with what weights: scores of softmax or sigmoid, a bias and groups in the choice, the top k, ties to the lower
 * index, weights divided by their sum if the model does so; and sparsemixer. Always from f32 activations. Mathematics: the routers of transformers' modeling files
 * that families/ names. */
#include <math.h>
#include <string.h>

#include "base/math.h"
#include "cpu/cpu.h"

/* Ascending by index, each with its weight (NULL: none yet). */
static void sort(int *chosen, float *weights, int n) {
    for (int i = 1; i < n; i++) {
        int e = chosen[i], at = i;
        float weight = weights ? weights[i] : 0;
        for (; at > 0 && chosen[at - 1] > e; at--) {
            chosen[at] = chosen[at - 1];
            if (weights) weights[at] = weights[at - 1];
        }
        chosen[at] = e;
        if (weights) weights[at] = weight;
    }
}

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
    sort(chosen, NULL, top_k);
}

/* Groups that are left out get the score -infinity. */
static void keep_groups(const fm_description *d, float *p) {
    const fm_router *r = &d->router;
    int size = d->n_experts / r->n_groups, kept[FM_MAX_GROUPS];
    float best[FM_MAX_GROUPS] = {0};
    for (int g = 0; g < r->n_groups; g++) {
        float first = -INFINITY, second = -INFINITY;
        for (int i = g * size; i < (g + 1) * size; i++) {
            if (p[i] > first) {
                second = first;
                first = p[i];
            } else if (p[i] > second) {
                second = p[i];
            }
        }
        best[g] = r->best_of == 2 ? first + second : first;
    }
    choose(best, r->n_groups, r->n_chosen, kept);
    for (int g = 0, k = 0; g < r->n_groups; g++) {
        if (k < r->n_chosen && kept[k] == g) {
            k++;
            continue;
        }
        for (int i = g * size; i < (g + 1) * size; i++) p[i] = -INFINITY;
    }
}

/* The largest score, then the largest of the rest, and so on; the weight of each is its share of a softmax over those that are left and lie within the margin:
 * (largest - s) / max(|s|, largest) <= 2 margin. */
static void sparsemixer(const fm_description *d, int top_k, float *s, int *chosen, float *weights) {
    const float margin = (float)(2 * (double)d->router.margin);
    for (int k = 0; k < top_k; k++) {
        int best = 0;
        float sum = 0;
        for (int i = 1; i < d->n_experts; i++) best = s[i] > s[best] ? i : best;
        for (int i = 0; i < d->n_experts; i++) {
            float size = fabsf(s[i]), largest = s[best];
            if (s[i] == -INFINITY || (largest - s[i]) / (size > largest ? size : largest) > margin) continue; /* 0 / 0 is within */
            sum += fm_expf(s[i] - largest);
        }
        chosen[k] = best;
        weights[k] = 1 / sum;
        s[best] = -INFINITY;
    }
    sort(chosen, weights, top_k);
}

int fm_router_floats(const fm_description *d) { return d->n_experts * (d->router.bias || d->router.n_groups > 1 ? 2 : 1); }

void fm_choose(const fm_description *d, const fm_kernels *kernels, const float *bias, int top_k, float *logits, int *chosen, float *weights) {
    const fm_router *r = &d->router;
    float *p = logits, sum = 0; /* p: what is chosen by */
    if (r->score == FM_SCORE_SPARSEMIXER) {
        sparsemixer(d, top_k, logits, chosen, weights);
        return;
    }
    if (r->score == FM_SCORE_SIGMOID) {
        for (int e = 0; e < d->n_experts; e++) logits[e] = fm_sigmoidf(logits[e]);
    } else {
        kernels->softmax(logits, d->n_experts, logits);
    }
    if (r->bias || r->n_groups > 1) {
        p = logits + d->n_experts;
        for (int e = 0; e < d->n_experts; e++) p[e] = r->bias ? logits[e] + bias[e] : logits[e];
    }
    if (r->n_groups > 1) keep_groups(d, p);
    choose(p, d->n_experts, top_k, chosen);
    for (int i = 0; i < top_k; i++) {
        weights[i] = logits[chosen[i]];
        sum += weights[i];
    }
    sum += r->add;
    sum = sum < r->least ? r->least : sum;
    for (int i = 0; i < top_k && r->renormalise; i++) weights[i] /= sum;
    for (int i = 0; i < top_k && r->scale != 0; i++) weights[i] *= r->scale;
}

typedef struct route_work {
    const fm_device *device;
    const float *bias, *logit_bias;
    float *logits; /* [n][fm_router_floats] */
    int *chosen;   /* [n][top_k] */
    float *weights;
} route_work;

static void route_task(void *arg, int token, int thread) {
    (void)thread;
    const route_work *w = arg;
    const fm_device *dev = w->device;
    size_t at = (size_t)token * (size_t)dev->config.top_k;
    if (w->logit_bias) dev->k->add(w->logit_bias, dev->d->n_experts, w->logits + (size_t)token * (size_t)fm_router_floats(dev->d));
    fm_choose(dev->d, dev->k, w->bias, dev->config.top_k, w->logits + (size_t)token * (size_t)fm_router_floats(dev->d), w->chosen + at, w->weights + at);
}

/* The choice of layer's router for the n vectors of input. */
static fm_routing choose_experts(fm_device *dev, int layer, fm_input *input, route_work *w, bool exact) {
    const fm_layer_weights *lw = &dev->config.weights->layers[layer];
    fm_product p = {.matrix = &lw->matrix[FM_ROUTER], .input = input, .n = input->n, .y = w->logits, .ldy = (size_t)fm_router_floats(dev->d), .exact = exact};
    w->device = dev;
    w->bias = lw->vector[FM_CHOICE_BIAS];
    w->logit_bias = lw->vector[FM_ROUTER_BIAS];
    fm_multiply(dev, &p, 1);
    fm_pool_run(dev->config.pool, input->n, route_task, w);
    return (fm_routing){.top_k = dev->config.top_k, .experts = w->chosen, .weights = w->weights};
}

void fm_route(fm_device *dev, int layer, fm_routing *routing) {
    fm_norm_input(dev, &dev->config.weights->layers[layer], FM_NORM2, FM_NORM2_BIAS);
    route_work w = {.logits = dev->router_logits, .chosen = dev->chosen, .weights = dev->weights};
    *routing = choose_experts(dev, layer, &dev->input, &w, true);
}

void fm_predict(fm_device *dev, int layer, fm_routing *routing) {
    const fm_layer_weights *lw = &dev->config.weights->layers[layer];
    size_t hidden = (size_t)dev->d->hidden;
    int n = dev->batch.n;
    *routing = (fm_routing){0};
    if (n > FM_GUESS_TOKENS) return;
    for (size_t i = 0; i < (size_t)n; i++) fm_norm_row(dev, lw, FM_NORM2, FM_NORM2_BIAS, dev->x + i * hidden, dev->ahead.x + i * hidden);
    fm_input_set(&dev->ahead.input, dev->ahead.x, hidden, n, dev->d->hidden);
    route_work w = {.logits = dev->ahead.logits, .chosen = dev->ahead.chosen, .weights = dev->ahead.weights};
    *routing = choose_experts(dev, layer, &dev->ahead.input, &w, false);
}
