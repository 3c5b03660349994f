/* prepare/search/body.h: the search, for whoever includes it with FM_SEARCH_NAME. Vectors are the compiler's, of 16 lanes whatever the instruction set; every lane does the
 * same operations in the same order. */
#include <stdint.h>
#include <string.h>

#include "prepare/search/search.h"

typedef float lanes __attribute__((vector_size(64)));
typedef int32_t masks __attribute__((vector_size(64)));
typedef double doubles __attribute__((vector_size(128)));

#define STEPS 6  /* widths of range that are tried at either end */
#define KEPT 4   /* of these, what is followed further: those of the least error when their values are fitted once */
#define REFITS 3 /* times that they are fitted and rounded */
#define PICK(mask, a, b) ((lanes)(((mask) & (masks)(a)) | (~(mask) & (masks)(b))))
#define SMALLER(a, b) PICK((a) < (b), a, b)
#define LARGER(a, b) PICK((a) > (b), a, b)

/* Of the values under a scale and a bias: sums over the columns. */
typedef struct sums {
    lanes q, qq, qw, error; /* times the importance */
} sums;

typedef struct start { /* what is to be tried, and the error it would have without rounding and with the values as they are */
    lanes error, scale, bias;
} start;

typedef struct constants { /* of a group */
    double p;              /* sum of the importance */
    lanes pw, pww;         /* of the importance times the weights, and times their squares */
} constants;

/* with_error is a constant wherever this is put in. */
static inline __attribute__((always_inline)) void measure(const fm_search_group *g, const lanes *scale, const lanes *bias, bool with_error, sums *out) {
    const lanes *w = (const lanes *)(const void *)g->w;
    const lanes s = *scale, b = *bias, inverse = 1.0F / s, zero = {0}, bins = zero + g->n_bins,
                round = zero + 12582912.0F; /* 1.5 * 2^23: its last place is 1 */
    lanes q_sum = {0}, qq = {0}, qw = {0}, error = {0};
    for (int i = 0; i < g->n; i++) {
        lanes x = (w[i] - b) * inverse, q, d, a;
        x = LARGER(x, zero);
        x = SMALLER(x, bins);
        q = (x + round) - round;
        a = q * g->p[i];
        q_sum += a;
        qq += a * q;
        qw += a * w[i];
        if (!with_error) continue;
        d = w[i] - (q * s + b);
        error += d * d * g->p[i];
    }
    *out = (sums){q_sum, qq, qw, error};
}

static inline __attribute__((always_inline)) void round_bf16(lanes *x) {
    masks bits = (masks)*x;
    *x = (lanes)((bits + 0x7fff + (bits >> 16 & 1)) & (int32_t)0xffff0000);
}

static inline __attribute__((always_inline)) void round_f16(lanes *x) {
    const lanes zero = {0}, tiny = zero + 0.75F; /* its last place is that of the smallest halves, 2^-24 */
    const masks top = {(int32_t)0x80000000, (int32_t)0x80000000, (int32_t)0x80000000, (int32_t)0x80000000, (int32_t)0x80000000, (int32_t)0x80000000,
                       (int32_t)0x80000000, (int32_t)0x80000000, (int32_t)0x80000000, (int32_t)0x80000000, (int32_t)0x80000000, (int32_t)0x80000000,
                       (int32_t)0x80000000, (int32_t)0x80000000, (int32_t)0x80000000, (int32_t)0x80000000};
    masks sign = (masks)*x & top, bits = (masks)*x & ~top;
    lanes size = (lanes)bits, small = (size + tiny) - tiny, normal = (lanes)((bits + 0xfff + (bits >> 13 & 1)) & ~0x1fff);
    const lanes infinite = (lanes)((masks){0} + 0x7f800000);
    size = PICK(size < zero + 0x1p-14F, small, normal);
    size = PICK(size > zero + 65504.0F, infinite, size);
    *x = (lanes)((masks)size | sign);
}

/* Scale and bias of the least error for the values of sums, and that error; lanes whose values say nothing, as all are the same, are active no more. */
static inline __attribute__((always_inline)) void fit(const constants *c, const sums *s, start *f, masks *active) {
    doubles q = __builtin_convertvector(s->q, doubles), qq = __builtin_convertvector(s->qq, doubles), qw = __builtin_convertvector(s->qw, doubles);
    doubles w = __builtin_convertvector(c->pw, doubles), determinant = c->p * qq - q * q, slope = (c->p * qw - q * w) / determinant,
            at = (w - slope * q) / c->p;
    masks good = __builtin_convertvector(determinant > 1e-6 * c->p * c->p, masks);
    f->scale = PICK(good, __builtin_convertvector(slope, lanes), f->scale);
    f->bias = PICK(good, __builtin_convertvector(at, lanes), f->bias);
    f->error = __builtin_convertvector(__builtin_convertvector(c->pww, doubles) - slope * qw - at * w, lanes);
    *active &= good;
}

typedef struct best {
    lanes error, scale, bias;
    masks found;
} best;

/* Keeps what is new among the KEPT of the least error, in order. */
static inline __attribute__((always_inline)) void keep(start kept[KEPT], const start *new, const masks *active) {
    start x = *new;
    const lanes none = (lanes)((masks){0} + 0x7f800000);
    x.error = PICK(*active, x.error, none);
    for (int i = 0; i < KEPT; i++) {
        start y = kept[i];
        masks less = x.error < y.error;
        kept[i] = (start){PICK(less, x.error, y.error), PICK(less, x.scale, y.scale), PICK(less, x.bias, y.bias)};
        x = (start){PICK(less, y.error, x.error), PICK(less, y.scale, x.scale), PICK(less, y.bias, x.bias)};
    }
}

/* A start, rounded, and what fitting its values again makes of it. */
static inline __attribute__((always_inline)) void refine(const fm_search_group *g, const constants *c, const start *from, best *b) {
    const lanes zero = {0};
    start f = *from;
    sums s;
    masks active = f.error < (lanes)((masks){0} + 0x7f800000);
    for (int again = 0; again < REFITS; again++) {
        if (again) fit(c, &s, &f, &active);
        if (g->f16) {
            round_f16(&f.scale);
            round_f16(&f.bias);
        } else {
            round_bf16(&f.scale);
            round_bf16(&f.bias);
        }
        active &= (f.scale > zero) | (f.scale < zero);
        measure(g, &f.scale, &f.bias, true, &s);
        masks less = active & (s.error < b->error);
        b->error = PICK(less, s.error, b->error);
        b->scale = PICK(less, f.scale, b->scale);
        b->bias = PICK(less, f.bias, b->bias);
        b->found |= less;
    }
}

void FM_SEARCH_NAME(fm_search_group *g);
void FM_SEARCH_NAME(fm_search_group *g) {
    const lanes *w = (const lanes *)(const void *)g->w;
    lanes least, most, step;
    constants c = {0};
    best b = {0};
    start kept[KEPT];
    memcpy(&least, g->least, sizeof least);
    memcpy(&most, g->most, sizeof most);
    memcpy(&b.error, g->error, sizeof b.error);
    for (int i = 0; i < g->n; i++) {
        c.p += (double)g->p[i];
        c.pw += w[i] * g->p[i];
        c.pww += w[i] * w[i] * g->p[i];
    }
    for (int i = 0; i < KEPT; i++) kept[i] = (start){.error = (lanes)((masks){0} + 0x7f800000)};
    step = (most - least) * (g->n_bins < 4 ? 0.07F : g->n_bins < 16 ? 0.04F : 0.02F);
    for (int i = 0; i < STEPS * STEPS; i++) {
        start f = {.bias = least + step * (float)(i / STEPS)};
        masks active = (masks){0} - 1;
        sums s;
        f.scale = (most - step * (float)(i % STEPS) - f.bias) / g->n_bins;
        measure(g, &f.scale, &f.bias, false, &s);
        fit(&c, &s, &f, &active);
        keep(kept, &f, &active);
    }
    for (int i = 0; i < KEPT; i++) refine(g, &c, &kept[i], &b);
    memcpy(g->error, &b.error, sizeof b.error);
    memcpy(g->scale, &b.scale, sizeof b.scale);
    memcpy(g->bias, &b.bias, sizeof b.bias);
    memcpy(g->found, &b.found, sizeof b.found);
}
