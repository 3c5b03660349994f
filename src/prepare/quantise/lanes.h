/* prepare/quantise/lanes.h: vectors of FM_LANES lanes, as many as whoever includes it has in a register, a row a lane. They are the compiler's, whatever the instruction set:
 * every lane does the same operations in the same order. (Compilers keep larger vectors than the registers in memory, which is 10 times slower.) */
#ifndef FM_PREPARE_QUANTISE_LANES_H
#define FM_PREPARE_QUANTISE_LANES_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef float lanes __attribute__((vector_size(4 * FM_LANES)));
typedef int32_t masks __attribute__((vector_size(4 * FM_LANES)));
typedef uint32_t words __attribute__((vector_size(4 * FM_LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * FM_LANES)));
typedef double doubles __attribute__((vector_size(8 * FM_LANES)));

#define INLINE static inline __attribute__((always_inline))
#define PICK(mask, a, b) ((lanes)(((mask) & (masks)(a)) | (~(mask) & (masks)(b))))
#define SMALLER(a, b) PICK((a) < (b), a, b)
#define LARGER(a, b) PICK((a) > (b), a, b)

/* To the nearest number of bf16 or f16, halves to even; what is too large becomes infinite. */
INLINE void round_bf16(lanes *x) {
    masks bits = (masks)*x;
    *x = (lanes)((bits + 0x7fff + (bits >> 16 & 1)) & (int32_t)0xffff0000);
}

INLINE void round_f16(lanes *x) {
    const lanes zero = {0}, tiny = zero + 0.75F; /* its last place is that of the smallest halves, 2^-24 */
    const masks top = (masks){0} + INT32_MIN;
    masks sign = (masks)*x & top, bits = (masks)*x & ~top;
    lanes size = (lanes)bits, small = (size + tiny) - tiny, normal = (lanes)((bits + 0xfff + (bits >> 13 & 1)) & ~0x1fff);
    const lanes infinite = (lanes)((masks){0} + 0x7f800000);
    size = PICK(size < zero + 0x1p-14F, small, normal);
    size = PICK(size > zero + 65504.0F, infinite, size);
    *x = (lanes)((masks)size | sign);
}

INLINE void round_half(lanes *x, bool f16) {
    if (f16)
        round_f16(x);
    else
        round_bf16(x);
}

#endif
