/* cpu/isa/x86/avxvnni.c: AVX2 with the dot product instructions in their short encoding (AVX-VNNI), for CPUs that have those and no AVX-512. */
#include "cpu/isa/kernels.h"
#include "cpu/isa/x86/avx2.h"

static inline vi i_dot(vi acc, vi v, int32_t x) {
    __m256i xs = _mm256_set1_epi32(x);
    return (vi){_mm256_dpbusd_avx_epi32(acc.a, v.a, xs), _mm256_dpbusd_avx_epi32(acc.b, v.b, xs)};
}

static inline vi i_dot_small(vi acc, vi v, int32_t x) { return i_dot(acc, v, x); }

#include "cpu/isa/bodies.h"

const fm_kernels fm_kernels_avxvnni = KERNELS("avxvnni", mul_r16_i8);
