/* cpu/isa/scalar.c: the kernels in plain C, one lane after the other: the specification that the other instruction sets are compared with. */
#include "cpu/isa/kernels.h"

#include <math.h>
#include <string.h>

typedef struct vf {
    float v[16];
} vf;

typedef struct vi {
    int32_t v[16];
} vi;

#define ATTEND_ROWS 1
#define ATTEND_VECTORS 1
#define DELTA_VECTORS 1
#define TOKENS_I8 1
#define FLOAT_ROWS 1
#define FLOAT_TOKENS 1
#define PREFETCH_BYTES 0
#define PREFETCH_FAR 0

#define EACH for (int i = 0; i < 16; i++)

static inline uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline vf f_set1(float x) {
    vf r;
    EACH r.v[i] = x;
    return r;
}

static inline vf f_load(const float *p) {
    vf r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}

static inline vf f_load_part(const float *p, int n, float fill) {
    vf r;
    EACH r.v[i] = i < n ? p[i] : fill;
    return r;
}

static inline vf f_load_bf16(const void *p) {
    uint16_t h[16];
    vf r;
    memcpy(h, p, sizeof h);
    EACH r.v[i] = fm_from_bf16(h[i]);
    return r;
}

static inline vf f_load_f16(const void *p) {
    uint16_t h[16];
    vf r;
    memcpy(h, p, sizeof h);
    EACH r.v[i] = fm_from_f16(h[i]);
    return r;
}

static inline vf f_load_f8(const void *p) {
    uint8_t b[16];
    vf r;
    memcpy(b, p, sizeof b);
    EACH r.v[i] = fm_from_f16(fm_f8_half(b[i]));
    return r;
}

static inline void f_store(float *p, vf a) { memcpy(p, a.v, sizeof a.v); }

static inline void f_store_part(float *p, vf a, int n) {
    for (int i = 0; i < n; i++) p[i] = a.v[i];
}

static inline vf f_add(vf a, vf b) {
    EACH a.v[i] = a.v[i] + b.v[i];
    return a;
}

static inline vf f_sub(vf a, vf b) {
    EACH a.v[i] = a.v[i] - b.v[i];
    return a;
}

static inline vf f_mul(vf a, vf b) {
    EACH a.v[i] = a.v[i] * b.v[i];
    return a;
}

static inline vf f_div(vf a, vf b) {
    EACH a.v[i] = a.v[i] / b.v[i];
    return a;
}

static inline vf f_fma(vf a, vf b, vf c) {
    EACH c.v[i] = fmaf(a.v[i], b.v[i], c.v[i]);
    return c;
}

static inline vf f_max(vf a, vf b) {
    EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
}

static inline vf f_less(vf a, vf b, vf yes, vf no) {
    EACH yes.v[i] = a.v[i] < b.v[i] ? yes.v[i] : no.v[i];
    return yes;
}

static inline vf f_or_nan(vf x, vf y) {
    EACH y.v[i] = x.v[i] != x.v[i] ? x.v[i] : y.v[i];
    return y;
}

static inline float f_sum(vf a) {
    for (int step = 8; step; step /= 2) {
        for (int i = 0; i < step; i++) a.v[i] = a.v[i] + a.v[i + step];
    }
    return a.v[0];
}

static inline float f_highest(vf a) {
    for (int step = 8; step; step /= 2) {
        for (int i = 0; i < step; i++) a.v[i] = a.v[i] > a.v[i + step] ? a.v[i] : a.v[i + step];
    }
    return a.v[0];
}

static inline vi f_bits(vf a) {
    vi r;
    EACH r.v[i] = (int32_t)bits_of(a.v[i]);
    return r;
}

static inline vf i_as_float(vi a) {
    vf r;
    memcpy(r.v, a.v, sizeof r.v);
    return r;
}

static inline vf i_to_float(vi a) {
    vf r;
    EACH r.v[i] = (float)a.v[i];
    return r;
}

static inline vi f_round(vf a) {
    vi r;
    EACH r.v[i] = (int32_t)rintf(a.v[i]);
    return r;
}

static inline vi i_set1(int32_t x) {
    vi r;
    EACH r.v[i] = x;
    return r;
}

static inline vi i_load(const void *p) {
    vi r;
    memcpy(r.v, p, sizeof r.v);
    return r;
}

static inline vi i_add(vi a, vi b) {
    EACH a.v[i] = (int32_t)((uint32_t)a.v[i] + (uint32_t)b.v[i]);
    return a;
}

static inline vi i_and(vi a, vi b) {
    EACH a.v[i] &= b.v[i];
    return a;
}

static inline vi i_max(vi a, vi b) {
    EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
}

static inline vi i_shr(vi a, int n) {
    EACH a.v[i] = (int32_t)((uint32_t)a.v[i] >> n);
    return a;
}

static inline vi i_shl(vi a, int n) {
    EACH a.v[i] = (int32_t)((uint32_t)a.v[i] << n);
    return a;
}

static inline int32_t i_sum(vi a) {
    int32_t sum = 0;
    EACH sum += a.v[i];
    return sum;
}

static inline int32_t i_highest(vi a) {
    int32_t highest = a.v[0];
    EACH highest = a.v[i] > highest ? a.v[i] : highest;
    return highest;
}

static inline void i_store8(int8_t *p, vi a, const uint8_t order[16]) { EACH p[i] = (int8_t)a.v[order[i]]; }

static inline vi i_dot(vi acc, vi a, int32_t x) {
    int8_t s[4];
    memcpy(s, &x, sizeof s);
    EACH {
        uint32_t u = (uint32_t)a.v[i];
        acc.v[i] += (int32_t)(u & 255) * s[0] + (int32_t)(u >> 8 & 255) * s[1] + (int32_t)(u >> 16 & 255) * s[2] + (int32_t)(u >> 24) * s[3];
    }
    return acc;
}

static inline vi i_dot_small(vi acc, vi a, int32_t x) { return i_dot(acc, a, x); }

static inline vi i_pairs(const void *p) {
    int8_t b[32];
    vi r;
    memcpy(b, p, sizeof b);
    EACH {
        uint32_t low = (uint16_t)b[2 * i], high = (uint16_t)b[2 * i + 1];
        r.v[i] = (int32_t)(low | high << 16);
    }
    return r;
}

static inline vi i_dot_pair(vi acc, vi a, int32_t x) {
    int16_t s[2], v[2];
    memcpy(s, &x, sizeof s);
    EACH {
        memcpy(v, &a.v[i], sizeof v);
        acc.v[i] += v[0] * s[0] + v[1] * s[1];
    }
    return acc;
}

static inline void i_store16(int16_t *p, vi a) { EACH p[i] = (int16_t)a.v[i]; }

#include "cpu/isa/bodies.h"

const fm_kernels fm_kernels_scalar = KERNELS("scalar", mul_r16_i8);
