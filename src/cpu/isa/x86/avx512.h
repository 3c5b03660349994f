/* cpu/isa/x86/avx512.h: 16 lanes in one register, in AVX-512 F, BW, VL, DQ and VNNI: what avx512.c and amx.c have in common. */
#ifndef FM_CPU_ISA_AVX512_H
#define FM_CPU_ISA_AVX512_H

#include <immintrin.h>
#include <stdint.h>

typedef __m512 vf;
typedef __m512i vi;
typedef uint32_t u32x16 __attribute__((vector_size(64)));

#define ATTEND_ROWS 8
#define ATTEND_VECTORS 2
#define DELTA_VECTORS 2
#define TOKENS_I8 8
#define FLOAT_ROWS 2
#define FLOAT_TOKENS 2

static inline __mmask16 first_lanes(int n) { return (__mmask16)((1u << n) - 1); }

static inline vf f_set1(float x) { return _mm512_set1_ps(x); }
static inline vf f_load(const float *p) { return _mm512_loadu_ps(p); }
static inline vf f_load_part(const float *p, int n, float fill) { return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first_lanes(n), p); }
static inline vf f_load_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
static inline vf f_load_bf16(const void *p) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16)); }
static inline vf f_load_f8(const void *p) {
    __m256i high = _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128(p)), 8);
    return _mm512_cvtph_ps(_mm256_and_si256(_mm256_srai_epi16(high, 1), _mm256_set1_epi16((short)0xbf80)));
}
static inline void f_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
static inline void f_store_part(float *p, vf a, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), a); }

static inline vf f_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf f_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf f_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf f_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf f_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf f_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf f_less(vf a, vf b, vf yes, vf no) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes); }
static inline vf f_or_nan(vf x, vf y) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), y, x); }

static inline float f_sum(vf a) {
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

static inline float f_highest(vf a) {
    __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}

static inline vi f_bits(vf a) { return _mm512_castps_si512(a); }
static inline vf i_as_float(vi a) { return _mm512_castsi512_ps(a); }
static inline vf i_to_float(vi a) { return _mm512_cvtepi32_ps(a); }
static inline vi f_round(vf a) { return _mm512_cvtps_epi32(a); }

static inline vi i_set1(int32_t x) { return _mm512_set1_epi32(x); }
static inline vi i_load(const void *p) { return _mm512_loadu_si512(p); }
static inline vi i_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
static inline vi i_and(vi a, vi b) { return _mm512_and_si512(a, b); }
static inline vi i_max(vi a, vi b) { return _mm512_max_epi32(a, b); }
static inline vi i_shr(vi a, int n) { return (vi)((u32x16)a >> n); }
static inline vi i_shl(vi a, int n) { return (vi)((u32x16)a << n); }
static inline int32_t i_sum(vi a) { return _mm512_reduce_add_epi32(a); }
static inline int32_t i_highest(vi a) { return _mm512_reduce_max_epi32(a); }

static inline void i_store8(int8_t *p, vi a, const uint8_t order[16]) {
    __m128i bytes = _mm512_cvtsepi32_epi8(a);
    _mm_storeu_si128((__m128i *)(void *)p, _mm_shuffle_epi8(bytes, _mm_loadu_si128((const __m128i *)(const void *)order)));
}

static inline vi i_dot(vi acc, vi a, int32_t x) { return _mm512_dpbusd_epi32(acc, a, _mm512_set1_epi32(x)); }
static inline vi i_dot_small(vi acc, vi a, int32_t x) { return i_dot(acc, a, x); }

static inline vi i_pairs(const void *p) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256(p)); }
static inline vi i_dot_pair(vi acc, vi a, int32_t x) { return _mm512_dpwssd_epi32(acc, a, _mm512_set1_epi32(x)); }
static inline void i_store16(int16_t *p, vi a) { _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(a)); }

#endif
