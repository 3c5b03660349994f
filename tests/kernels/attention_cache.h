/* tests/kernels/attention_cache.h: a device that has nothing but KV caches of some layers, for tests of attention without a model. */
#ifndef ATTENTION_CACHE_H
#define ATTENTION_CACHE_H

#include "base/memory.h"
#include "cpu/cpu.h"
#include "kernels_test.h"

typedef struct cache {
    fm_model model;
    fm_device device;
    fm_state state;
    fm_span span;
    fm_region memory;
} cache;

static inline void *cache_take(cache *c, size_t *used, size_t bytes) {
    void *p = c->memory.data ? c->memory.data + *used : NULL;
    *used += fm_arena_bytes(bytes);
    return p;
}

static inline size_t cache_lay_out(cache *c, int n_layers) {
    const fm_device_config *config = &c->device.config;
    size_t used = 0;
    c->state.layers = cache_take(c, &used, (size_t)n_layers * sizeof *c->state.layers);
    for (int i = 0; i < n_layers; i++) {
        fm_kv kv = {cache_take(c, &used, fm_kv_value_bytes(config)), cache_take(c, &used, fm_kv_value_bytes(config)),
                    cache_take(c, &used, fm_kv_scale_bytes(config)), cache_take(c, &used, fm_kv_scale_bytes(config))};
        if (c->memory.data) c->state.layers[i].kv = kv;
    }
    c->device.tiles = cache_take(c, &used, (size_t)config->max_batch * sizeof *c->device.tiles);
    c->device.partial = cache_take(c, &used, fm_attention_partial_floats(config) * sizeof(float));
    return used;
}

/* heads: query heads, kv heads, head_dim. */
static inline cache *cache_open(const int heads[3], int kind, int context, int n_layers, const fm_kernels *kernels, fm_pool *pool) {
    cache *c = calloc(1, sizeof *c);
    if (!c) exit(1);
    fm_description *d = &c->model.description;
    d->n_heads = heads[0];
    d->n_kv_heads = heads[1];
    d->head_dim = heads[2];
    d->n_layers = n_layers;
    d->attention_scale = 1 / sqrtf((float)d->head_dim);
    c->device.config = (fm_device_config){.model = &c->model, .pool = pool, .max_batch = 512, .context = context, .kv = kind};
    c->device.d = d;
    c->device.k = kernels;
    c->state.device = &c->device;
    c->span.state = &c->state;
    MUST(fm_region_open(&c->memory, cache_lay_out(c, n_layers), "a test's KV cache", err));
    cache_lay_out(c, n_layers);
    return c;
}

static inline void cache_close(cache *c) {
    fm_region_close(&c->memory);
    free(c);
}

/* The next batch: n tokens from position on. */
static inline void cache_batch(cache *c, int position, int n) {
    c->span.first = 0;
    c->span.n = n;
    c->span.position = position;
    c->device.batch = (fm_batch){.n = n, .spans = &c->span, .n_spans = 1};
}

#endif
