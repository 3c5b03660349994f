/* cpu/isa/x86/avx512.c: AVX-512 with VNNI. Distances to prefetch are those of a Zen 4. */
#include "cpu/isa/x86/avx512.h"
#include "cpu/isa/kernels.h"

#define PREFETCH_BYTES 1152
#define PREFETCH_FAR 4608

#include "cpu/isa/bodies.h"

const fm_kernels fm_kernels_avx512 = KERNELS("avx512", mul_r16_i8);
