/* cpu/isa/amx.h: what avx512.c takes from amx.c. */
#ifndef FM_CPU_ISA_AMX_H
#define FM_CPU_ISA_AMX_H

#include "cpu/isa/kernels.h"

/* mul_r16_i8 (kernels.h), for a CPU with AMX-INT8 and what avx512 needs, after fm_cpu_features_read said so. */
void fm_mul_r16_i8_amx(const fm_matrix *matrix, int first, int last, const fm_act8 *x, const int32_t *tokens, int n, float *y, size_t ldy);

#endif
