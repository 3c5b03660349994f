/* prepare/random.h: random weights, the same for the same seed on every CPU, and faster than disks. */
#ifndef FM_PREPARE_RANDOM_H
#define FM_PREPARE_RANDOM_H

#include "formats/quant.h"

/* A seed of its own for the x-th part of what has seed. */
uint64_t fm_random_seed(uint64_t seed, uint64_t x);

/* What a tensor is filled with. Matrices are quantised uniformly from -spread / sqrt(cols) to spread / sqrt(cols), each group a little differently. */
typedef enum fm_random_kind { FM_RANDOM_WORDS, FM_RANDOM_SCALES, FM_RANDOM_BIASES, FM_RANDOM_BF16, FM_RANDOM_F32 } fm_random_kind;

typedef struct fm_random_values {
    fm_random_kind kind;
    float low, high; /* of BF16 and F32; for scales and biases: the mean scale, and the middle value of the bits */
    uint64_t seed;   /* biases: that of their scales, which they go with */
} fm_random_values;

/* scale and middle of a matrix of these bits and columns. */
void fm_random_affine(fm_random_values *values, int bits, int cols, float spread);

/* The piece-th FM_RANDOM_PIECE bytes of such values, or the bytes that are left of them. */
#define FM_RANDOM_PIECE ((size_t)1 << 20)
void fm_random_piece(void *dest, const fm_random_values *values, uint64_t piece, size_t bytes);

/* A matrix of an expert as a packed model holds it (pack.h): r16 at its native width, rows past the end 0. */
void fm_random_r16(void *dest, const fm_matrix_type *type, float spread, uint64_t seed);

#endif
