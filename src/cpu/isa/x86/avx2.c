/* cpu/isa/x86/avx2.c: AVX2, FMA and F16C. */
#include "cpu/isa/x86/avx2.h"
#include "cpu/isa/kernels.h"

/* Sums of 4 products. maddubs adds two of them in 16 bits and saturates: bytes up to 24 stay far from that (2 * 24 * 127). */
static inline __m256i dot_small(__m256i a, __m256i x) { return _mm256_madd_epi16(_mm256_maddubs_epi16(a, x), _mm256_set1_epi16(1)); }

static inline vi i_dot_small(vi acc, vi v, int32_t x) {
    __m256i xs = _mm256_set1_epi32(x);
    return (vi){_mm256_add_epi32(acc.a, dot_small(v.a, xs)), _mm256_add_epi32(acc.b, dot_small(v.b, xs))};
}

/* Bytes up to 255 in two halves of 4 bits, for the same reason. */
static inline vi i_dot(vi acc, vi v, int32_t x) {
    vi mask = i_set1(0x0f0f0f0f), high = i_dot_small(i_set1(0), i_and(i_shr(v, 4), mask), x);
    return i_add(i_dot_small(acc, i_and(v, mask), x), i_shl(high, 4));
}

#include "cpu/isa/bodies.h"

const fm_kernels fm_kernels_avx2 = KERNELS("avx2", mul_r16_i8);
