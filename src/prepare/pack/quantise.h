/* prepare/pack/quantise.h: rows of numbers to MLX's affine quantisation, by MLX's own rule or by a search for less error, and what was lost by it. */
#ifndef FM_PREPARE_PACK_QUANTISE_H
#define FM_PREPARE_PACK_QUANTISE_H

#include "formats/quant.h"
#include "prepare/search/search.h"

/* What became of n weights: sums over them, of w as it was and v as it is read back. */
typedef struct fm_deviation {
    double n, error /* (w - v)^2 */, before /* w^2 */, after /* v^2 */, product /* w v */;
} fm_deviation;

void fm_deviation_add(fm_deviation *to, const fm_deviation *more);
/* Adds w [n] and what became of it. */
void fm_deviation_measure(fm_deviation *to, const float *w, const float *v, size_t n);

typedef struct fm_quantiser {
    fm_matrix_type type;     /* R16: bits, group and scale_dtype are used, and cols */
    fm_search_fn *search;    /* NULL: MLX's rule */
    const float *importance; /* [cols] of each column's squared error in the search; NULL: all the same */
} fm_quantiser;

/* n rows [n][cols], at most 16, to type.cols * bits / 8 bytes of values each, least significant first (out[0]), and cols / group scales (out[1]) and biases (out[2]), of two
 * bytes. Without search it is the rule of MLX's quantize, to the bit: for each group the scale and the bias in float32, the values from these, and then both rounded to
 * scale_dtype. With search, those of a few dozen scales and biases, as rounded, that have the least squared error; never more than the rule's, and the same whatever the other
 * rows and the CPU. Adds to *sum. Returns the first row with a scale or bias that is too large for scale_dtype, or -1. */
int fm_quantise_rows(const fm_quantiser *q, const float *rows, int n, uint8_t *const out[3], fm_deviation *sum);

/* Rounded to nearest even. */
uint16_t fm_to_bf16(float x);
uint16_t fm_to_f16(float x);

#endif
