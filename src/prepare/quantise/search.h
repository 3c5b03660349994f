/* prepare/quantise/search.h: scales and biases of less squared error than the rule's, found among a few dozen, of one group of 16 rows: a row a lane, each by itself. */
#ifndef FM_PREPARE_QUANTISE_SEARCH_H
#define FM_PREPARE_QUANTISE_SEARCH_H

#include "prepare/quantise/rule.h"

#define STEPS 6  /* widths of range that are tried at either end */
#define KEPT 4   /* of these, what is followed further: those of the least error when their values are fitted once */
#define REFITS 3 /* times that they are fitted and rounded */

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
INLINE void measure(const group *g, const lanes *scale, const lanes *bias, bool with_error, sums *out) {
    const lanes *w = g->w;
    const lanes s = *scale, b = *bias, inverse = 1.0F / s;
    lanes q_sum = {0}, qq = {0}, qw = {0}, error = {0};
    for (int i = 0; i < g->n; i++) {
        lanes q = (w[i] - b) * inverse, d, a;
        round_whole(&q, g->n_bins);
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

/* Scale and bias of the least error for the values of sums, and that error; lanes whose values say nothing, as all are the same, are active no more. */
INLINE void fit(const constants *c, const sums *s, start *f, masks *active) {
    doubles q = __builtin_convertvector(s->q, doubles), qq = __builtin_convertvector(s->qq, doubles), qw = __builtin_convertvector(s->qw, doubles);
    doubles w = __builtin_convertvector(c->pw, doubles), determinant = c->p * qq - q * q, slope = (c->p * qw - q * w) / determinant,
            at = (w - slope * q) / c->p;
    masks good = __builtin_convertvector(determinant > 1e-6 * c->p * c->p, masks);
    f->scale = PICK(good, __builtin_convertvector(slope, lanes), f->scale);
    f->bias = PICK(good, __builtin_convertvector(at, lanes), f->bias);
    f->error = __builtin_convertvector(__builtin_convertvector(c->pww, doubles) - slope * qw - at * w, lanes);
    *active &= good;
}

/* Keeps what is new among the KEPT of the least error, in order. */
INLINE void keep(start kept[KEPT], const start *new, const masks *active) {
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
INLINE void refine(const group *g, const constants *c, const start *from, best *b) {
    const lanes zero = {0};
    start f = *from;
    sums s;
    masks active = f.error < (lanes)((masks){0} + 0x7f800000);
    for (int again = 0; again < REFITS; again++) {
        if (again) fit(c, &s, &f, &active);
        round_half(&f.scale, g->f16);
        round_half(&f.bias, g->f16);
        active &= (f.scale > zero) | (f.scale < zero);
        measure(g, &f.scale, &f.bias, true, &s);
        masks less = active & (s.error < b->error);
        b->error = PICK(less, s.error, b->error);
        b->scale = PICK(less, f.scale, b->scale);
        b->bias = PICK(less, f.bias, b->bias);
        b->found |= less;
    }
}

/* In: the error to beat, in *b. Out: what was found of less error, and where. */
INLINE void search(const group *g, best *b) {
    const lanes *w = g->w;
    lanes step;
    constants c = {0};
    start kept[KEPT];
    for (int i = 0; i < g->n; i++) {
        c.p += (double)g->p[i];
        c.pw += w[i] * g->p[i];
        c.pww += w[i] * w[i] * g->p[i];
    }
    for (int i = 0; i < KEPT; i++) kept[i] = (start){.error = (lanes)((masks){0} + 0x7f800000)};
    step = (g->most - g->least) * (g->n_bins < 4 ? 0.07F : g->n_bins < 16 ? 0.04F : 0.02F);
    for (int i = 0; i < STEPS * STEPS; i++) {
        start f = {.bias = g->least + step * (float)(i / STEPS)};
        masks active = (masks){0} - 1;
        sums s;
        f.scale = (g->most - step * (float)(i % STEPS) - f.bias) / g->n_bins;
        measure(g, &f.scale, &f.bias, false, &s);
        fit(&c, &s, &f, &active);
        keep(kept, &f, &active);
    }
    for (int i = 0; i < KEPT; i++) refine(g, &c, &kept[i], b);
}

#endif
