/* cpu/kv.c: the KV cache of a layer: how much memory it takes, writing a position's keys and values, and finding a block of them. The layout is fm_kv_block's
 * (cpu/isa/kernels.h), kv head by kv head, so that each head's blocks are one linear stream.
 *
 * What is stored is a number or NaN: an infinity, which could vanish in a softmax, becomes NaN, which cannot. */
#include <math.h>
#include <string.h>

#include "cpu/cpu.h"

static size_t positions(const fm_device_config *c) { return ((size_t)c->context + FM_KV_TILE - 1) / FM_KV_TILE * FM_KV_TILE; }

/* A latent is its own value. */
static int kinds(const fm_device_config *c) { return c->model->description.kv_rank ? 1 : 2; }

static size_t value_bytes(int kind) { return kind == FM_KV_F32 ? 4 : kind == FM_KV_BF16 ? 2 : 1; }

size_t fm_kv_value_bytes(const fm_device_config *c) {
    const fm_description *d = &c->model->description;
    return (size_t)d->n_kv_heads * positions(c) * fm_kv_columns(d->head_dim) * value_bytes(c->kv);
}

size_t fm_kv_scale_bytes(const fm_device_config *c) {
    const fm_description *d = &c->model->description;
    return c->kv == FM_KV_Q8 ? (size_t)d->n_kv_heads * positions(c) * fm_kv_groups(d->head_dim) * sizeof(float) : 0;
}

fm_kv_block fm_kv_at(const fm_device *dev, const fm_kv *kv, int head, int position) {
    size_t columns = fm_kv_columns(dev->d->head_dim), groups = fm_kv_groups(dev->d->head_dim);
    size_t at = (size_t)head * positions(&dev->config) + (size_t)position / FM_KV_TILE * FM_KV_TILE, bytes = at * columns * value_bytes(dev->config.kv);
    fm_kv_block b = {.kind = dev->config.kv, .head_dim = dev->d->head_dim, .k = (uint8_t *)kv->k + bytes, .v = kv->v ? (uint8_t *)kv->v + bytes : NULL};
    if (b.kind != FM_KV_Q8) return b;
    b.k_scale = kv->k_scale + at * groups;
    b.v_scale = kv->v ? kv->v_scale + at * groups : NULL;
    return b;
}

int fm_kv_n_parts(const fm_device_config *c) { return c->model->description.n_kv_heads * (c->kv == FM_KV_Q8 ? 2 : 1) * kinds(c); }

uint64_t fm_kv_part_sizes(const fm_device_config *c, int n, fm_bytes *parts) {
    const fm_description *d = &c->model->description;
    size_t tokens = ((size_t)n + FM_KV_TILE - 1) / FM_KV_TILE * FM_KV_TILE, per_head = fm_kv_n_parts(c) ? (size_t)fm_kv_n_parts(c) / (size_t)d->n_kv_heads : 0;
    uint64_t sum = 0;
    for (int i = 0; i < fm_kv_n_parts(c); i++) {
        bool scale = i % (int)per_head >= kinds(c);
        size_t bytes = tokens * (scale ? fm_kv_groups(d->head_dim) * sizeof(float) : fm_kv_columns(d->head_dim) * value_bytes(c->kv));
        if (parts) parts[i].bytes = bytes;
        sum += bytes;
    }
    return sum;
}

void fm_kv_parts(const fm_device *dev, const fm_kv *kv, int from, int to, fm_bytes *parts) {
    fm_kv_part_sizes(&dev->config, to - from, parts);
    for (int head = 0; head < dev->d->n_kv_heads; head++) {
        fm_kv_block b = fm_kv_at(dev, kv, head, from);
        const void *at[] = {b.k, b.v, b.k_scale, b.v_scale};
        for (int i = 0; i < (b.kind == FM_KV_Q8 ? 4 : 2); i += 3 - kinds(&dev->config)) (parts++)->data = (uint8_t *)(uintptr_t)at[i];
    }
}

/* Nearest even. */
static uint16_t to_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    u = (u + 0x7fff + (u >> 16 & 1)) >> 16;
    return (u & 0x7f80) == 0x7f80 || !isfinite(x) ? 0x7fc0 : (uint16_t)u;
}

static float or_nan(float x) { return isfinite(x) ? x : NAN; }

/* x[n] (at most FM_KV_GROUP) as int8 times the scale that is returned: see kernels.h, quantize. */
static float to_int8(const float *x, int n, int8_t *q) {
    float amax = 0;
    bool finite = true;
    memset(q, 0, (size_t)n);
    for (int i = 0; i < n; i++) {
        finite &= isfinite(x[i]) != 0;
        amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    }
    if (!finite) return NAN;
    if (amax < 1e-30f) return 0;
    float factor = 127 / amax;
    for (int i = 0; i < n; i++) q[i] = (int8_t)rintf(x[i] * factor);
    return amax / 127;
}

/* One head's key and value as int8; slot: of the position in its tile. */
static void store_int8(const fm_kv_block *b, int slot, const float *k, const float *v) {
    size_t columns = fm_kv_columns(b->head_dim), groups = fm_kv_groups(b->head_dim), s = (size_t)slot;
    int8_t q[FM_KV_GROUP], *keys = (int8_t *)(uintptr_t)b->k, *values = v ? (int8_t *)(uintptr_t)b->v + s / 2 * 2 * columns + s % 2 : NULL;
    float *k_scale = (float *)(uintptr_t)b->k_scale + s, *v_scale = v ? (float *)(uintptr_t)b->v_scale + s : NULL;
    for (size_t g = 0; g < groups; g++) {
        size_t first = g * FM_KV_GROUP, left = (size_t)b->head_dim - first;
        int n = left < FM_KV_GROUP ? (int)left : FM_KV_GROUP;
        k_scale[g * FM_KV_TILE] = to_int8(k + first, n, q);
        for (size_t i = 0; i < (size_t)n; i++) keys[(first + i) / 2 * 2 * FM_KV_TILE + 2 * s + i % 2] = q[i];
        if (!v) continue;
        v_scale[g * FM_KV_TILE] = to_int8(v + first, n, q);
        for (size_t i = 0; i < (size_t)n; i++) values[2 * (first + i)] = q[i];
    }
}

static void store_head(const fm_kv_block *block, size_t slot, const float *k, const float *v) {
    fm_kv_block b = *block;
    size_t hd = (size_t)b.head_dim, columns = fm_kv_columns(b.head_dim);
    if (b.kind == FM_KV_F32) {
        float *keys = (float *)(uintptr_t)b.k + slot, *values = v ? (float *)(uintptr_t)b.v + slot * columns : NULL;
        for (size_t i = 0; i < hd; i++) keys[i * FM_KV_TILE] = or_nan(k[i]);
        for (size_t i = 0; i < hd && v; i++) values[i] = or_nan(v[i]);
    } else if (b.kind == FM_KV_BF16) {
        uint16_t *keys = (uint16_t *)(uintptr_t)b.k + 2 * slot, *values = v ? (uint16_t *)(uintptr_t)b.v + slot / 2 * 2 * columns + slot % 2 : NULL;
        for (size_t i = 0; i < hd; i++) keys[i / 2 * 2 * FM_KV_TILE + i % 2] = to_bf16(k[i]);
        for (size_t i = 0; i < hd && v; i++) values[2 * i] = to_bf16(v[i]);
    } else {
        store_int8(&b, (int)slot, k, v);
    }
}

void fm_kv_store(const fm_device *dev, const fm_kv *kv, int position, const float *k, const float *v) {
    size_t hd = (size_t)dev->d->head_dim, slot = (size_t)position % FM_KV_TILE;
    for (int head = 0; head < dev->d->n_kv_heads; head++, k += hd) {
        fm_kv_block b = fm_kv_at(dev, kv, head, position);
        store_head(&b, slot, k, v ? v + (size_t)head * hd : NULL);
    }
}

void fm_kv_clear(const fm_device *dev, const fm_kv *kv, int position) {
    static const float zeros[FM_MAX_LATENT];
    for (int head = 0; head < dev->d->n_kv_heads; head++) {
        fm_kv_block b = fm_kv_at(dev, kv, head, position);
        store_head(&b, (size_t)position % FM_KV_TILE, zeros, kv->v ? zeros : NULL);
    }
}

/* Keys and values keep two numbers in one word, the keys two columns of a position, the values two positions of a column: so what is turned is squares of two by two. */
void fm_kv_turn(const fm_kv_block *b, int tile, void *values) {
    size_t from = fm_kv_columns(b->head_dim) * FM_KV_TILE * (size_t)tile, n = fm_kv_columns(b->value_dim), to = n * FM_KV_TILE * (size_t)tile;
    for (size_t s = 0; s < FM_KV_TILE; s += 2) {
        if (b->kind == FM_KV_F32) {
            const float *k = (const float *)b->k + from + s;
            float *v = (float *)values + to + s * n;
            for (size_t c = 0; c < n; c++) {
                v[c] = k[c * FM_KV_TILE];
                v[n + c] = k[c * FM_KV_TILE + 1];
            }
        } else if (b->kind == FM_KV_BF16) {
            const uint16_t *k = (const uint16_t *)b->k + from + 2 * s;
            uint16_t *v = (uint16_t *)values + to + s * n;
            for (size_t c = 0; c < n; c += 2) {
                uint64_t x;
                memcpy(&x, k + c * FM_KV_TILE, sizeof x);
                x = (x & 0xffff00000000ffff) | (x >> 16 & 0xffff0000) | (x & 0xffff0000) << 16;
                memcpy(v + 2 * c, &x, sizeof x);
            }
        } else {
            const uint8_t *k = (const uint8_t *)b->k + from + 2 * s;
            uint8_t *v = (uint8_t *)values + to + s * n;
            for (size_t c = 0; c < n; c += 2) {
                uint32_t x;
                memcpy(&x, k + c * FM_KV_TILE, sizeof x);
                x = (x & 0xff0000ff) | (x >> 8 & 0xff00) | (x & 0xff00) << 8;
                memcpy(v + 2 * c, &x, sizeof x);
            }
        }
    }
}
