/* cpu/isa/x86/avx2.h: 16 lanes in two registers of 8, in AVX2, FMA and F16C: what avx2.c and avxvnni.c have in common. They add i_dot and i_dot_small. */
#ifndef FM_CPU_ISA_AVX2_H
#define FM_CPU_ISA_AVX2_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef struct vf {
    __m256 a, b; /* lanes 0..7, 8..15 */
} vf;

typedef struct vi {
    __m256i a, b;
} vi;

#define ATTEND_ROWS 4
#define ATTEND_VECTORS 1
#define DELTA_VECTORS 1
#define TOKENS_I8 4
#define FLOAT_ROWS 1
#define FLOAT_TOKENS 1
#define PREFETCH_BYTES 4608
#define PREFETCH_FAR 4608

static inline __m256i load256(const void *p) { return _mm256_loadu_si256(p); }
static inline __m128i load128(const void *p) { return _mm_loadu_si128(p); }

static inline vf f_set1(float x) { return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline vf f_load(const float *p) { return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }

static inline vf f_load_part(const float *p, int n, float fill) {
    float some[16];
    for (int i = 0; i < 16; i++) some[i] = fill;
    memcpy(some, p, (size_t)n * sizeof *p);
    return f_load(some);
}

static inline vf f_load_f16(const void *p) { return (vf){_mm256_cvtph_ps(load128(p)), _mm256_cvtph_ps(load128((const uint16_t *)p + 8))}; }

static inline __m256 from_bf16(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
static inline vf f_load_bf16(const void *p) { return (vf){from_bf16(load128(p)), from_bf16(load128((const uint16_t *)p + 8))}; }

static inline vf f_load_f8(const void *p) {
    __m256i high = _mm256_slli_epi16(_mm256_cvtepu8_epi16(load128(p)), 8),
            halves = _mm256_and_si256(_mm256_srai_epi16(high, 1), _mm256_set1_epi16((short)0xbf80));
    return (vf){_mm256_cvtph_ps(_mm256_castsi256_si128(halves)), _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1))};
}

static inline void f_store(float *p, vf x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}

static inline void f_store_part(float *p, vf x, int n) {
    float all[16];
    f_store(all, x);
    memcpy(p, all, (size_t)n * sizeof *p);
}

static inline vf f_add(vf x, vf y) { return (vf){_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
static inline vf f_sub(vf x, vf y) { return (vf){_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
static inline vf f_mul(vf x, vf y) { return (vf){_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
static inline vf f_div(vf x, vf y) { return (vf){_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
static inline vf f_fma(vf x, vf y, vf z) { return (vf){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
static inline vf f_max(vf x, vf y) { return (vf){_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }

static inline __m256 less(__m256 a, __m256 b, __m256 yes, __m256 no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
static inline vf f_less(vf x, vf y, vf yes, vf no) { return (vf){less(x.a, y.a, yes.a, no.a), less(x.b, y.b, yes.b, no.b)}; }

static inline __m256 or_nan(__m256 x, __m256 y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q)); }
static inline vf f_or_nan(vf x, vf y) { return (vf){or_nan(x.a, y.a), or_nan(x.b, y.b)}; }

static inline float f_sum(vf x) {
    __m256 s = _mm256_add_ps(x.a, x.b);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline float f_highest(vf x) {
    __m256 s = _mm256_max_ps(x.a, x.b);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

static inline vi f_bits(vf x) { return (vi){_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
static inline vf i_as_float(vi x) { return (vf){_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
static inline vf i_to_float(vi x) { return (vf){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
static inline vi f_round(vf x) { return (vi){_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }

static inline vi i_set1(int32_t x) { return (vi){_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
static inline vi i_load(const void *p) { return (vi){load256(p), load256((const uint8_t *)p + 32)}; }
static inline vi i_add(vi x, vi y) { return (vi){_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
static inline vi i_and(vi x, vi y) { return (vi){_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
static inline vi i_max(vi x, vi y) { return (vi){_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
static inline vi i_shr(vi x, int n) { return (vi){_mm256_srli_epi32(x.a, n), _mm256_srli_epi32(x.b, n)}; }
static inline vi i_shl(vi x, int n) { return (vi){_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)}; }

static inline int32_t i_sum(vi x) {
    __m256i s = _mm256_add_epi32(x.a, x.b);
    __m128i c = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    c = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 0xb1)));
}

static inline int32_t i_highest(vi x) {
    __m256i s = _mm256_max_epi32(x.a, x.b);
    __m128i c = _mm_max_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    c = _mm_max_epi32(c, _mm_shuffle_epi32(c, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(c, _mm_shuffle_epi32(c, 0xb1)));
}

static inline void i_store8(int8_t *p, vi x, const uint8_t order[16]) {
    /* Packing takes turns between the 128-bit halves: 0..3 8..11 | 4..7 12..15. */
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)(void *)p, _mm_shuffle_epi8(bytes, load128(order)));
}

static inline vi i_pairs(const void *p) { return (vi){_mm256_cvtepi8_epi16(load128(p)), _mm256_cvtepi8_epi16(load128((const uint8_t *)p + 16))}; }

static inline vi i_dot_pair(vi acc, vi v, int32_t x) {
    __m256i xs = _mm256_set1_epi32(x);
    return (vi){_mm256_add_epi32(acc.a, _mm256_madd_epi16(v.a, xs)), _mm256_add_epi32(acc.b, _mm256_madd_epi16(v.b, xs))};
}

static inline void i_store16(int16_t *p, vi x) { _mm256_storeu_si256((__m256i *)(void *)p, _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8)); }

#endif
