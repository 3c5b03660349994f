/* prepare/pack/quantise.c: see quantise.h. Loops over 16 lanes are written for the compiler's vectors; sums have one order. */
#include "prepare/pack/quantise.h"

#include <math.h>

#define MAX_GROUP 128
#define LANES 16

/* ---- halves ---- */

uint16_t fm_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint16_t fm_to_f16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return sign | 0x7e00;
    if (bits >= 0x477ff000) return sign | 0x7c00; /* from half way past the largest on */
    if (bits < 0x38800000) {                      /* a denormal: its last place is 2^-24 */
        float magnitude;
        memcpy(&magnitude, &bits, sizeof magnitude);
        return sign | (uint16_t)lrintf(magnitude * 0x1p24f);
    }
    bits += 0xfff + (bits >> 13 & 1);
    return sign | (uint16_t)((bits >> 13) - (112u << 10));
}

static uint16_t to_half(float x, fm_dtype dtype) { return dtype == FM_BF16 ? fm_to_bf16(x) : fm_to_f16(x); }
static float from_half(uint16_t x, fm_dtype dtype) { return dtype == FM_BF16 ? fm_from_bf16(x) : fm_from_f16(x); }

/* ---- what was lost ---- */

void fm_deviation_add(fm_deviation *to, const fm_deviation *more) {
    to->n += more->n;
    to->error += more->error;
    to->before += more->before;
    to->after += more->after;
    to->product += more->product;
}

static inline float sum_of(const float lanes[LANES]) {
    float sum = 0;
    for (int l = 0; l < LANES; l++) sum += lanes[l];
    return sum;
}

void fm_deviation_measure(fm_deviation *to, const float *w, const float *v, size_t n) {
    for (size_t first = 0; first < n; first += MAX_GROUP) { /* short sums are exact enough in float */
        size_t end = n - first < MAX_GROUP ? n : first + MAX_GROUP, i = first;
        float error[LANES] = {0}, before[LANES] = {0}, after[LANES] = {0}, product[LANES] = {0};
        for (; i + LANES <= end; i += LANES) {
            for (size_t l = 0; l < LANES; l++) {
                float d = w[i + l] - v[i + l];
                error[l] += d * d;
                before[l] += w[i + l] * w[i + l];
                after[l] += v[i + l] * v[i + l];
                product[l] += w[i + l] * v[i + l];
            }
        }
        for (size_t l = 0; i < end; i++, l++) {
            float d = w[i] - v[i];
            error[l] += d * d;
            before[l] += w[i] * w[i];
            after[l] += v[i] * v[i];
            product[l] += w[i] * v[i];
        }
        fm_deviation_add(to,
                         &(fm_deviation){(double)(end - first), (double)sum_of(error), (double)sum_of(before), (double)sum_of(after), (double)sum_of(product)});
    }
}

/* ---- one group ---- */

typedef struct group {
    int n;          /* weights */
    const float *w; /* [n] */
    const float *p; /* [n] importance */
    float n_bins;   /* 2^bits - 1 */
    fm_dtype dtype;
} group;

typedef struct choice {
    float scale, bias; /* of dtype, but for the rule's while it makes its values */
    float q[MAX_GROUP];
    float error;
} choice;

static inline void find_range(const group *g, float *least, float *most) {
    float low[LANES], high[LANES];
    for (int l = 0; l < LANES; l++) low[l] = high[l] = g->w[l];
    for (int i = LANES; i < g->n; i += LANES) {
        for (int l = 0; l < LANES; l++) {
            low[l] = g->w[i + l] < low[l] ? g->w[i + l] : low[l];
            high[l] = g->w[i + l] > high[l] ? g->w[i + l] : high[l];
        }
    }
    *least = low[0];
    *most = high[0];
    for (int l = 1; l < LANES; l++) {
        *least = low[l] < *least ? low[l] : *least;
        *most = high[l] > *most ? high[l] : *most;
    }
}

/* x as a whole number, halves to even, from 0 to n_bins; what is not a number becomes 0. */
static inline float whole(float x, float n_bins) {
    const float round = 12582912.0f; /* 1.5 * 2^23: its last place is 1 */
    x = x > 0 ? x : 0;
    x = x < n_bins ? x : n_bins;
    return (x + round) - round;
}

/* The values that are nearest to w under scale and bias, as MLX finds them. */
static inline void assign(const group *g, choice *c) {
    for (int i = 0; i < g->n; i++) c->q[i] = whole((g->w[i] - c->bias) / c->scale, g->n_bins);
}

/* The same for the search, quicker by far. */
static inline void assign_quickly(const group *g, choice *c) {
    float inverse = 1 / c->scale;
    for (int i = 0; i < g->n; i++) c->q[i] = whole((g->w[i] - c->bias) * inverse, g->n_bins);
}

static inline void measure(const group *g, choice *c) {
    float error[LANES] = {0};
    for (int i = 0; i < g->n; i += LANES) {
        for (int l = 0; l < LANES; l++) {
            float d = g->w[i + l] - (c->q[i + l] * c->scale + c->bias);
            error[l] += g->p[i + l] * d * d;
        }
    }
    c->error = sum_of(error);
}

static inline void round_choice(const group *g, choice *c) {
    c->scale = from_half(to_half(c->scale, g->dtype), g->dtype);
    c->bias = from_half(to_half(c->bias, g->dtype), g->dtype);
}

/* MLX's rule: the end of the range that is further from 0 is exact, and so is 0 if it is in the range. */
static inline void plain(const group *g, choice *c, float least, float most) {
    bool below = fabsf(least) > fabsf(most);
    float scale = (most - least) / g->n_bins, edge = below ? least : most;
    scale = scale > 1e-7f ? scale : 1e-7f;
    if (!below) scale = -scale;
    float steps = rintf(edge / scale);
    c->scale = steps != 0 ? edge / steps : scale;
    c->bias = steps != 0 ? edge : 0;
    assign(g, c);
    round_choice(g, c);
}

/* Scale and bias of the least error for the values as they are. False: they say nothing, as all are the same. */
static inline bool fit(const group *g, choice *c) {
    float p[LANES] = {0}, pq[LANES] = {0}, pqq[LANES] = {0}, pw[LANES] = {0}, pqw[LANES] = {0};
    for (int i = 0; i < g->n; i += LANES) {
        for (int l = 0; l < LANES; l++) {
            float a = g->p[i + l], q = c->q[i + l], w = g->w[i + l];
            p[l] += a;
            pq[l] += a * q;
            pqq[l] += a * q * q;
            pw[l] += a * w;
            pqw[l] += a * q * w;
        }
    }
    double s = (double)sum_of(p), sq = (double)sum_of(pq), sqq = (double)sum_of(pqq), sw = (double)sum_of(pw), sqw = (double)sum_of(pqw);
    double determinant = s * sqq - sq * sq;
    if (!(determinant > 1e-6 * s * s)) return false;
    c->scale = (float)((s * sqw - sq * sw) / determinant);
    c->bias = (float)((sw - (double)c->scale * sq) / s);
    return true;
}

/* Tries ranges that are narrower than the weights', each fitted twice; *best holds the rule's choice. */
static inline void search(const group *g, choice *best, float least, float most) {
    enum { STEPS = 6 };
    float step = (most - least) * (g->n_bins < 4 ? 0.07f : g->n_bins < 16 ? 0.04f : 0.02f);
    measure(g, best);
    choice c = *best;
    for (int i = 0; i < STEPS * STEPS && most > least; i++) {
        float low = least + step * (float)(i / STEPS), high = most - step * (float)(i % STEPS);
        c.scale = (high - low) / g->n_bins;
        c.bias = low;
        assign_quickly(g, &c);
        for (int again = 0; again < 2 && fit(g, &c); again++) {
            round_choice(g, &c);
            if (!(fabsf(c.scale) > 0)) break;
            assign_quickly(g, &c);
            measure(g, &c);
            if (c.error < best->error) *best = c;
            if (c.error > 1.1f * best->error) break; /* a second fit gains little */
        }
    }
}

static bool is_finite(float x) { return x - x == 0; }

/* ---- one row ---- */

/* n values of `bits` bits as a stream, 8 of them in `bits` bytes. */
static inline void pack_values(uint8_t *to, const float *q, int n, int bits) {
    for (int i = 0; i < n; i += 8, to += bits) {
        uint64_t x = 0;
        for (int k = 0; k < 8; k++) x |= (uint64_t)(uint32_t)(int32_t)q[i + k] << (k * bits);
        for (int b = 0; b < bits; b++) to[b] = (uint8_t)(x >> (8 * b));
    }
}

int fm_quantise_row(const fm_quantiser *quantiser, const float *row, uint8_t *values, uint16_t *scales, uint16_t *biases, fm_deviation *sum) {
    const fm_matrix_type *t = &quantiser->type;
    float same[MAX_GROUP], v[MAX_GROUP];
    int bad = -1;
    for (int i = 0; i < MAX_GROUP; i++) same[i] = 1;
    for (int i = 0; i < t->cols / t->group; i++) {
        group g = {t->group, row + (size_t)i * (size_t)t->group, same, (float)((1 << t->bits) - 1), t->scale_dtype};
        float least, most;
        choice c;
        if (quantiser->importance) g.p = quantiser->importance + (size_t)i * (size_t)t->group;
        find_range(&g, &least, &most);
        plain(&g, &c, least, most);
        if (quantiser->search) search(&g, &c, least, most);
        if (bad < 0 && !(is_finite(c.scale) && is_finite(c.bias))) bad = i;
        scales[i] = to_half(c.scale, g.dtype);
        biases[i] = to_half(c.bias, g.dtype);
        pack_values(values, c.q, g.n, t->bits);
        values += (size_t)g.n * (size_t)t->bits / 8;
        for (int k = 0; k < g.n; k++) v[k] = c.q[k] * c.scale + c.bias;
        fm_deviation_measure(sum, g.w, v, (size_t)g.n);
    }
    return bad;
}
