/* cpu/isa/arm/neon.c: arm64 with the dot product instructions. */
#include "cpu/isa/arm/neon.h"
#include "cpu/isa/kernels.h"

#include "cpu/isa/bodies.h"

const fm_kernels fm_kernels_neon = KERNELS("neon", mul_r16_i8);
