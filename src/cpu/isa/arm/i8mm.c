/* cpu/isa/arm/i8mm.c: neon, and products of r16 matrices and two or more int8 vectors with the matrix instructions of I8MM: 2 rows by 2 tokens by 8 columns each. */
#include "cpu/isa/arm/neon.h"
#include "cpu/isa/kernels.h"

#include "cpu/isa/bodies.h"

#define PAIRS 2 /* of tokens in a pass */

/* Tuple `tuple` of four rows from row 4 * i, of a group's words. */
ALWAYS_INLINE uint8x16_t tuple_of(const uint8_t *words, const int kind, const int tuple, const int i) {
    const int width = BITS(kind), per_word = 8 / width, shift = tuple % per_word * width;
    uint8x16_t v = vld1q_u8(words + 64 * (tuple / per_word) + 16 * i);
    if (width == 8) return v;
    if (shift) v = vreinterpretq_u8_u32(vshlq_u32(vreinterpretq_u32_u8(v), vdupq_n_s32(-shift)));
    v = vandq_u8(v, vdupq_n_u8(width == 4 ? 15 : 3));
    return kind == MX ? mx_table(v) : v;
}

/* Eight columns of two tokens. */
static inline int8x16_t two_tokens(const int8_t *a, const int8_t *b) { return vcombine_s8(vld1_s8(a), vld1_s8(b)); }

/* The exact sums of a group: sum[pair][i] holds rows 2 i and 2 i + 1 by two tokens. */
ALWAYS_INLINE void multiply_group(int32x4_t sum[PAIRS][8], const uint8_t *words, const int8_t *const *q, const int width, const int group, const int pairs) {
    for (int p = 0; p < pairs; p++) {
        for (int i = 0; i < 8; i++) sum[p][i] = vdupq_n_s32(0);
    }
#pragma GCC unroll 16
    for (int tuple = 0; tuple < group / 4; tuple += 2) {
        int8x16_t x[PAIRS];
        for (int p = 0; p < pairs; p++) x[p] = two_tokens(q[2 * p] + 4 * tuple, q[2 * p + 1] + 4 * tuple);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            uint32x4_t even = vreinterpretq_u32_u8(tuple_of(words, width, tuple, i)), odd = vreinterpretq_u32_u8(tuple_of(words, width, tuple + 1, i));
            uint8x16_t low = vreinterpretq_u8_u32(vzip1q_u32(even, odd)), high = vreinterpretq_u8_u32(vzip2q_u32(even, odd));
            for (int p = 0; p < pairs; p++) {
                sum[p][2 * i] = vusmmlaq_s32(sum[p][2 * i], low, x[p]);
                sum[p][2 * i + 1] = vusmmlaq_s32(sum[p][2 * i + 1], high, x[p]);
            }
        }
    }
}

/* One strip and nt tokens in `pairs` pairs; an odd one is there twice. */
ALWAYS_INLINE void multiply_strip(const i8_pass *p, const uint8_t *block, const int width, const int group, const int pairs, int nt) {
    const int words_bytes = group * BITS(width) * 2, n_groups = p->type->cols / group;
    const bool f16 = p->type->scale_dtype == FM_F16, mx = width == MX;
    int parts = mx ? FM_MX_GROUPS : p->type->group / group;
    const int8_t *q[2 * PAIRS];
    vf a[2 * PAIRS], b[2 * PAIRS];
    for (int t = 0; t < 2 * pairs; t++) {
        a[t] = b[t] = f_set1(0);
        q[t] = p->q[t];
    }
    for (int g = 0; g < n_groups;) {
        if (mx && n_groups - g < FM_MX_GROUPS) parts = n_groups - g;
        const uint8_t *tail = block + (size_t)parts * (size_t)words_bytes;
        vf scale = f16 ? f_load_f16(tail) : f_load_bf16(tail), bias = f16 ? f_load_f16(tail + 32) : f_load_bf16(tail + 32);
        for (int part = 0; part < parts; part++, g++, block += words_bytes) {
            int32x4_t sum[PAIRS][8];
            if (mx) bias = f_mul(scale = f_load_e8m0(tail + 16 * part), f_set1(-12));
            multiply_group(sum, block, q, width, group, pairs);
            for (int t = 0; t < 2 * pairs; t++) {
                vi d;
                for (int i = 0; i < 4; i++) {
                    int32x4_t low = sum[t / 2][2 * i], high = sum[t / 2][2 * i + 1];
                    d.v[i] = t % 2 ? vuzp2q_s32(low, high) : vuzp1q_s32(low, high);
                }
                a[t] = f_fma(f_mul(scale, f_set1(p->scale[t][g])), i_to_float(d), a[t]);
                b[t] = f_fma(bias, f_set1(p->sum[t][g]), b[t]);
                q[t] += group;
            }
        }
        block = tail + 64;
    }
    for (int t = 0; t < nt; t++) f_store_n(p->y[t], f_add(a[t], b[t]), p->rows);
}

ALWAYS_INLINE void multiply_strip_of_group(const i8_pass *p, const uint8_t *block, const int width, const int pairs, int nt) {
    if (p->group == 64) {
        multiply_strip(p, block, width, 64, pairs, nt);
    } else {
        multiply_strip(p, block, width, 32, pairs, nt);
    }
}

ALWAYS_INLINE void multiply_strip_of_width(const i8_pass *p, const uint8_t *block, const int pairs, int nt) {
    switch (p->type->width) {
    case 2: multiply_strip_of_group(p, block, 2, pairs, nt); break;
    case 4:
        if (p->type->scale_dtype == FM_U8) {
            multiply_strip(p, block, MX, FM_MX_GROUP, pairs, nt);
        } else {
            multiply_strip_of_group(p, block, 4, pairs, nt);
        }
        break;
    default: multiply_strip_of_group(p, block, 8, pairs, nt); break;
    }
}

static void multiply_pair(const i8_pass *p, const uint8_t *block, int nt) { multiply_strip_of_width(p, block, 1, nt); }
static void multiply_pairs(const i8_pass *p, const uint8_t *block, int nt) { multiply_strip_of_width(p, block, PAIRS, nt); }

static void mul_r16_i8_pairs(const fm_matrix *matrix, int first, int last, const fm_act8 *x, const int32_t *tokens, int n, float *y, size_t ldy) {
    if (n < 2) {
        mul_r16_i8(matrix, first, last, x, tokens, n, y, ldy);
        return;
    }
    i8_pass p = {.type = &matrix->type, .group = x->group};
    const size_t n_groups = (size_t)(x->cols / x->group), strip_bytes = strip_bytes_of(p.type);
    for (int i = 0, nt; i < n; i += nt) {
        nt = n - i < 2 * PAIRS ? n - i : 2 * PAIRS;
        for (int t = 0; t < 2 * PAIRS; t++) {
            size_t token = token_of(tokens, i + (t < nt ? t : nt - 1));
            p.q[t] = x->q + token * (size_t)x->cols;
            p.scale[t] = x->scale + token * n_groups;
            p.sum[t] = x->sum + token * n_groups;
            p.y[t] = t < nt ? y + (size_t)(i + t) * ldy + (size_t)first * 16 : NULL;
        }
        for (int strip = first; strip < last; strip++) {
            const uint8_t *block = (const uint8_t *)matrix->data + (size_t)strip * strip_bytes;
            p.rows = p.type->rows - 16 * strip;
            (nt > 2 ? multiply_pairs : multiply_pair)(&p, block, nt);
            for (int t = 0; t < nt; t++) p.y[t] += 16;
        }
    }
}

const fm_kernels fm_kernels_i8mm = KERNELS("i8mm", mul_r16_i8_pairs);
