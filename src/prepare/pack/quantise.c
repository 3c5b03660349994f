/* prepare/pack/quantise.c: see quantise.h. Loops over 16 lanes are written for the compiler's vectors; sums have one order. */
#include "prepare/pack/quantise.h"

#include <math.h>

#define MAX_GROUP 128
#define LANES 16
#define LESS 0.99999F /* of the rule's error, which is summed in another order than the search's */

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

/* Replaces the rule's choices [n] of one group of n rows by ones of less error, where there are such. */
static void search(fm_search_fn *fn, const group *groups, choice *choices, const float (*ranges)[2], int n) {
    _Alignas(64) float w[MAX_GROUP * FM_SEARCH_ROWS];
    fm_search_group s = {.n = groups->n, .w = w, .p = groups->p, .n_bins = groups->n_bins, .f16 = groups->dtype == FM_F16};
    for (int lane = 0; lane < FM_SEARCH_ROWS; lane++) { /* lanes without a row do as the first */
        int row = lane < n ? lane : 0;
        for (int i = 0; i < s.n; i++) w[i * FM_SEARCH_ROWS + lane] = groups[row].w[i];
        s.least[lane] = ranges[row][0];
        s.most[lane] = ranges[row][1];
        if (lane < n) measure(&groups[lane], &choices[lane]);
        s.error[lane] = choices[row].error * LESS;
    }
    fn(&s);
    for (int row = 0; row < n; row++) {
        if (!s.found[row]) continue;
        choices[row].scale = s.scale[row];
        choices[row].bias = s.bias[row];
        assign_quickly(&groups[row], &choices[row]);
    }
}

/* One group of up to 16 rows. */
static int quantise_group(const fm_quantiser *quantiser, const group *groups, choice *choices, int n) {
    float ranges[FM_SEARCH_ROWS][2];
    int bad = -1;
    for (int r = 0; r < n; r++) {
        find_range(&groups[r], &ranges[r][0], &ranges[r][1]);
        plain(&groups[r], &choices[r], ranges[r][0], ranges[r][1]);
    }
    if (quantiser->search) search(quantiser->search, groups, choices, (const float(*)[2])ranges, n);
    for (int r = n - 1; r >= 0; r--) {
        if (!(is_finite(choices[r].scale) && is_finite(choices[r].bias))) bad = r;
    }
    return bad;
}

int fm_quantise_rows(const fm_quantiser *quantiser, const float *rows, int n, uint8_t *const out[3], fm_deviation *sum) {
    const fm_matrix_type *t = &quantiser->type;
    int n_groups = t->cols / t->group, bad = -1;
    size_t value_bytes = (size_t)t->group * (size_t)t->bits / 8;
    float same[MAX_GROUP], v[MAX_GROUP];
    group groups[FM_SEARCH_ROWS];
    choice choices[FM_SEARCH_ROWS];
    for (int i = 0; i < MAX_GROUP; i++) same[i] = 1;
    for (int i = 0; i < n_groups; i++) {
        const float *p = quantiser->importance ? quantiser->importance + (size_t)i * (size_t)t->group : same;
        for (int r = 0; r < n; r++) {
            const float *w = rows + (size_t)r * (size_t)t->cols + (size_t)i * (size_t)t->group;
            groups[r] = (group){t->group, w, p, (float)((1 << t->bits) - 1), t->scale_dtype};
        }
        int row = quantise_group(quantiser, groups, choices, n);
        if (row >= 0 && (bad < 0 || row < bad)) bad = row;
        for (int r = 0; r < n; r++) {
            const choice *c = &choices[r];
            size_t at = (size_t)r * (size_t)n_groups + (size_t)i;
            ((uint16_t *)(void *)out[1])[at] = to_half(c->scale, t->scale_dtype);
            ((uint16_t *)(void *)out[2])[at] = to_half(c->bias, t->scale_dtype);
            pack_values(out[0] + at * value_bytes, c->q, t->group, t->bits);
            for (int k = 0; k < t->group; k++) v[k] = c->q[k] * c->scale + c->bias;
            fm_deviation_measure(sum, groups[r].w, v, (size_t)t->group);
        }
    }
    return bad;
}
