/* cpu/isa/bodies.h: every kernel, once, in the operations of lanes.h. An ISA's file includes it last; so all of them do the same arithmetic in the same order. */
#ifndef FM_CPU_ISA_BODIES_H
#define FM_CPU_ISA_BODIES_H

#include "cpu/isa/lanes.h"

#include "cpu/isa/body_attention.h"
#include "cpu/isa/body_matrix.h"
#include "cpu/isa/body_vector.h"

/* clang-format off */
/* The int8 product is a parameter: some instruction sets differ from another in that one only. */
#define KERNELS(name_, mul_r16_i8_) {.name = name_, .quantize = quantize, .mul_r16_i8 = mul_r16_i8_, .mul_r16_f32 = mul_r16_f32, .mul_float = mul_float, .dot = dot, \
    .rms_norm = rms_norm, .layer_norm = layer_norm, .rms_norm_gated = rms_norm_gated, .l2_norm = l2_norm, .swiglu = swiglu, .swiglu_clamped = swiglu_clamped, .sigmoid_mul = sigmoid_mul, .add = add, .axpy = axpy, \
    .softmax = softmax, .conv_silu = conv_silu, .delta_steps = delta_steps, .attend = attend, .attend_merge = attend_merge, .attend_finish = attend_finish, \
    .exp = exp_all}
/* clang-format on */

#endif
