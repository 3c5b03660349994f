/* cpu/isa/lanes.h: what the bodies are written in: 16 lanes of f32 (vf) and of 32-bit integers (vi), and what is built on them. Included by an ISA's file after it
 * has defined the two types and the operations below, all static inline; scalar.c's say what each does, lane by lane.
 *
 *   f_set1 f_load f_load_bf16 f_load_f16 f_store      16 values from or to memory of any alignment
 *   f_load_f8                                         16 fm_f8_half of bytes
 *   f_load_part(p, n, fill) f_store_part(p, v, n)     the first n of 16; memory past them is not touched
 *   f_add f_sub f_mul f_div f_fma(a, b, c)            IEEE, to nearest even; fma is a * b + c in one rounding
 *   f_max(a, b)                                       a > b ? a : b, so b when one of them is NaN
 *   f_less(a, b, yes, no)                             a < b ? yes : no
 *   f_or_nan(x, y)                                    x when it is NaN, else y
 *   f_sum(v)                                          lanes i and i + 8, then i + 4, i + 2, i + 1
 *   f_highest(v)                                      f_max in the same order
 *   f_bits i_as_float                                 reinterpret; i_to_float and f_round (nearest even) convert
 *   i_set1 i_load i_add i_and i_max i_shr i_shl       32-bit; shr is logical
 *   i_sum i_highest                                   over the lanes, signed
 *   i_store8(p, v, order)                             byte i of p = lane order[i], which fits an int8
 *   i_dot(acc, v, x)                                  acc + sum over the 4 bytes of v (0..255) times x's (int8)
 *   i_dot_small(acc, v, x)                            the same for bytes up to 15
 *   i_pairs(p), i_dot_pair(acc, v, x)                 32 int8 of any alignment; acc + sum over the 2 of a lane (2 i and 2 i + 1) times x's (int16)
 *   i_store16(p, v)                                   16 int16 of lanes that fit
 *
 * And eight numbers: ATTEND_ROWS and ATTEND_VECTORS, of how many queries (a power of two up to 8) and vectors (1 or 2) the registers hold sums; DELTA_VECTORS, how many
 * columns' vectors of the delta rule they hold; TOKENS_I8, how many tokens' sums the registers hold in a pass over an r16 matrix (a power of two up to 8); FLOAT_ROWS and FLOAT_TOKENS,
 * the same for matrices of floats; PREFETCH_BYTES and PREFETCH_FAR, how far ahead in an r16 matrix cache lines are asked for when one token is computed and when
 * several are, 0 to leave that to the hardware. */
#ifndef FM_CPU_ISA_LANES_H
#define FM_CPU_ISA_LANES_H

#include <math.h>
#include <string.h>

#include "base/math.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Into the second-level cache: asking for the first halved the speed on a Zen 4, depending on how the compiler had ordered the loop. */
ALWAYS_INLINE void prefetch(const void *p, const int ahead) {
    if (ahead) __builtin_prefetch((const char *)p + ahead, 0, 2);
}

/* fm_expf in each lane. */
static inline vf f_exp(vf x) {
    vf shifted = f_fma(x, f_set1(FM_EXP_LOG2E), f_set1(FM_EXP_SHIFT)), n = f_sub(shifted, f_set1(FM_EXP_SHIFT));
    vf r = f_fma(n, f_set1(-FM_EXP_LN2_LOW), f_fma(n, f_set1(-FM_EXP_LN2_HIGH), x));
    vf p = f_fma(f_set1(FM_EXP_C7), r, f_set1(FM_EXP_C6));
    p = f_fma(p, r, f_set1(FM_EXP_C5));
    p = f_fma(p, r, f_set1(FM_EXP_C4));
    p = f_fma(p, r, f_set1(FM_EXP_C3));
    p = f_fma(p, r, f_set1(FM_EXP_C2));
    p = f_add(f_fma(p, f_mul(r, r), r), f_set1(1));
    vf y = i_as_float(i_add(f_bits(p), i_shl(f_bits(shifted), 23)));
    y = f_less(x, f_set1(FM_EXP_LOWEST), f_set1(0), y);
    y = f_less(f_set1(FM_EXP_HIGHEST), x, f_set1(INFINITY), y);
    return f_or_nan(x, y);
}

/* 1 / (1 + exp(-x)) and x / (1 + exp(-x)). -x flips the sign bit. */
static inline vf f_one_plus_exp_minus(vf x) { return f_add(f_set1(1), f_exp(f_mul(x, f_set1(-1)))); }
static inline vf f_sigmoid(vf x) { return f_div(f_set1(1), f_one_plus_exp_minus(x)); }
static inline vf f_silu(vf x) { return f_div(x, f_one_plus_exp_minus(x)); }

/* 16 values, or the first n < 16 and zeros. */
static inline vf f_load_n(const float *p, int n) { return n >= 16 ? f_load(p) : f_load_part(p, n, 0); }
static inline void f_store_n(float *p, vf v, int n) {
    if (n >= 16) {
        f_store(p, v);
    } else {
        f_store_part(p, v, n);
    }
}

/* The sum of dot's tree over its four accumulators. */
static inline float f_tree(vf a, vf b, vf c, vf d) { return f_sum(f_add(f_add(a, b), f_add(c, d))); }

#endif
