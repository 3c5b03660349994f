/* cpu/isa/arm/neon.h: 16 lanes in four registers of 4, in arm64 with the dot product instructions: what neon.c and i8mm.c have in common. */
#ifndef FM_CPU_ISA_ARM_NEON_H
#define FM_CPU_ISA_ARM_NEON_H

#include <arm_neon.h>
#include <string.h>

typedef struct vf {
    float32x4_t v[4];
} vf;

typedef struct vi {
    int32x4_t v[4];
} vi;

#define ATTEND_ROWS 4
#define ATTEND_VECTORS 1
#define DELTA_VECTORS 1
#define TOKENS_I8 4
#define FLOAT_ROWS 1
#define FLOAT_TOKENS 1
#define PREFETCH_BYTES 0
#define PREFETCH_FAR 0

#define EACH for (int i = 0; i < 4; i++)

static inline vf f_set1(float x) {
    float32x4_t v = vdupq_n_f32(x);
    return (vf){{v, v, v, v}};
}

static inline vf f_load(const float *p) { return (vf){{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}}; }

static inline vf f_load_part(const float *p, int n, float fill) {
    float some[16];
    for (int i = 0; i < 16; i++) some[i] = fill;
    memcpy(some, p, (size_t)n * sizeof *p);
    return f_load(some);
}

static inline vf f_load_bf16(const void *p) {
    vf r;
    EACH r.v[i] = vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8((const uint8_t *)p + 8 * i)), 16));
    return r;
}

static inline vf f_load_f16(const void *p) {
    vf r;
    EACH r.v[i] = vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8((const uint8_t *)p + 8 * i)));
    return r;
}

/* A byte in the high half of 16 bits, moved down by one with its sign kept, is the half but for a bit. */
static inline vf f_load_f8(const void *p) {
    uint8x16_t bytes = vld1q_u8(p);
    int16x8_t high[2] = {vreinterpretq_s16_u16(vshll_n_u8(vget_low_u8(bytes), 8)), vreinterpretq_s16_u16(vshll_n_u8(vget_high_u8(bytes), 8))};
    vf r;
    EACH {
        int16x8_t halves = vandq_s16(vshrq_n_s16(high[i / 2], 1), vdupq_n_s16((int16_t)0xbf80));
        r.v[i] = vcvt_f32_f16(vreinterpret_f16_s16(i % 2 ? vget_high_s16(halves) : vget_low_s16(halves)));
    }
    return r;
}

static inline void f_store(float *p, vf x) { EACH vst1q_f32(p + 4 * i, x.v[i]); }

static inline void f_store_part(float *p, vf x, int n) {
    float all[16];
    f_store(all, x);
    memcpy(p, all, (size_t)n * sizeof *p);
}

static inline vf f_add(vf x, vf y) {
    EACH x.v[i] = vaddq_f32(x.v[i], y.v[i]);
    return x;
}

static inline vf f_sub(vf x, vf y) {
    EACH x.v[i] = vsubq_f32(x.v[i], y.v[i]);
    return x;
}

static inline vf f_mul(vf x, vf y) {
    EACH x.v[i] = vmulq_f32(x.v[i], y.v[i]);
    return x;
}

static inline vf f_div(vf x, vf y) {
    EACH x.v[i] = vdivq_f32(x.v[i], y.v[i]);
    return x;
}

static inline vf f_fma(vf x, vf y, vf z) {
    EACH z.v[i] = vfmaq_f32(z.v[i], x.v[i], y.v[i]);
    return z;
}

/* vmaxq would make a NaN of either win. */
static inline float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }

static inline vf f_max(vf x, vf y) {
    EACH x.v[i] = larger(x.v[i], y.v[i]);
    return x;
}

static inline vf f_less(vf x, vf y, vf yes, vf no) {
    EACH yes.v[i] = vbslq_f32(vcltq_f32(x.v[i], y.v[i]), yes.v[i], no.v[i]);
    return yes;
}

static inline vf f_or_nan(vf x, vf y) {
    EACH y.v[i] = vbslq_f32(vceqq_f32(x.v[i], x.v[i]), y.v[i], x.v[i]);
    return y;
}

static inline float f_sum(vf x) {
    float32x4_t s = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
    float32x2_t t = vadd_f32(vget_low_f32(s), vget_high_f32(s));
    return vget_lane_f32(t, 0) + vget_lane_f32(t, 1);
}

static inline float f_highest(vf x) {
    float32x4_t s = larger(larger(x.v[0], x.v[2]), larger(x.v[1], x.v[3]));
    float t[4];
    vst1q_f32(t, s);
    float a = t[0] > t[2] ? t[0] : t[2], b = t[1] > t[3] ? t[1] : t[3];
    return a > b ? a : b;
}

static inline vi f_bits(vf x) {
    vi r;
    EACH r.v[i] = vreinterpretq_s32_f32(x.v[i]);
    return r;
}

static inline vf i_as_float(vi x) {
    vf r;
    EACH r.v[i] = vreinterpretq_f32_s32(x.v[i]);
    return r;
}

static inline vf i_to_float(vi x) {
    vf r;
    EACH r.v[i] = vcvtq_f32_s32(x.v[i]);
    return r;
}

static inline vi f_round(vf x) {
    vi r;
    EACH r.v[i] = vcvtnq_s32_f32(x.v[i]);
    return r;
}

static inline vi i_set1(int32_t x) {
    int32x4_t v = vdupq_n_s32(x);
    return (vi){{v, v, v, v}};
}

static inline vi i_load(const void *p) {
    vi r;
    EACH r.v[i] = vreinterpretq_s32_u8(vld1q_u8((const uint8_t *)p + 16 * i));
    return r;
}

static inline vi i_add(vi x, vi y) {
    EACH x.v[i] = vaddq_s32(x.v[i], y.v[i]);
    return x;
}

static inline vi i_and(vi x, vi y) {
    EACH x.v[i] = vandq_s32(x.v[i], y.v[i]);
    return x;
}

static inline vi i_max(vi x, vi y) {
    EACH x.v[i] = vmaxq_s32(x.v[i], y.v[i]);
    return x;
}

static inline vi i_shr(vi x, int n) {
    EACH x.v[i] = vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(x.v[i]), vdupq_n_s32(-n)));
    return x;
}

static inline vi i_shl(vi x, int n) {
    EACH x.v[i] = vshlq_s32(x.v[i], vdupq_n_s32(n));
    return x;
}

static inline int32_t i_sum(vi x) { return vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[1]), vaddq_s32(x.v[2], x.v[3]))); }
static inline int32_t i_highest(vi x) { return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.v[0], x.v[1]), vmaxq_s32(x.v[2], x.v[3]))); }

static inline void i_store8(int8_t *p, vi x, const uint8_t order[16]) {
    int16x8_t low = vcombine_s16(vqmovn_s32(x.v[0]), vqmovn_s32(x.v[1])), high = vcombine_s16(vqmovn_s32(x.v[2]), vqmovn_s32(x.v[3]));
    vst1q_s8(p, vqtbl1q_s8(vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)), vld1q_u8(order)));
}

/* The instruction takes signed bytes: those up to 15 are the same either way, larger ones are taken in two halves of 4 bits. */
static inline vi i_dot_small(vi acc, vi a, int32_t x) {
    int8x16_t xs = vreinterpretq_s8_s32(vdupq_n_s32(x));
    EACH acc.v[i] = vdotq_s32(acc.v[i], vreinterpretq_s8_s32(a.v[i]), xs);
    return acc;
}

static inline vi i_dot(vi acc, vi a, int32_t x) {
    vi mask = i_set1(0x0f0f0f0f), high = i_dot_small(i_set1(0), i_and(i_shr(a, 4), mask), x);
    return i_add(i_dot_small(acc, i_and(a, mask), x), i_shl(high, 4));
}

/* The first of each lane's pair in v[0] and v[1], the second in v[2] and v[3]. */
static inline vi i_pairs(const void *p) {
    int8x16x2_t x = vld2q_s8(p);
    return (vi){{vreinterpretq_s32_s16(vmovl_s8(vget_low_s8(x.val[0]))), vreinterpretq_s32_s16(vmovl_high_s8(x.val[0])),
                 vreinterpretq_s32_s16(vmovl_s8(vget_low_s8(x.val[1]))), vreinterpretq_s32_s16(vmovl_high_s8(x.val[1]))}};
}

static inline vi i_dot_pair(vi acc, vi a, int32_t x) {
    int16x4_t xs = vreinterpret_s16_s32(vdup_n_s32(x));
    for (int i = 0; i < 2; i++) {
        int16x8_t first = vreinterpretq_s16_s32(a.v[i]), second = vreinterpretq_s16_s32(a.v[2 + i]);
        acc.v[2 * i] = vmlal_lane_s16(vmlal_lane_s16(acc.v[2 * i], vget_low_s16(first), xs, 0), vget_low_s16(second), xs, 1);
        acc.v[2 * i + 1] = vmlal_high_lane_s16(vmlal_high_lane_s16(acc.v[2 * i + 1], first, xs, 0), second, xs, 1);
    }
    return acc;
}

static inline void i_store16(int16_t *p, vi x) { EACH vst1_s16(p + 4 * i, vmovn_s32(x.v[i])); }

#endif
