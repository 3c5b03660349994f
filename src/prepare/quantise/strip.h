/* prepare/quantise/strip.h: a strip of 16 rows to MLX's affine quantisation, a row a lane, by MLX's own rule or by a search for less error, and what was lost by it. One body,
 * compiled for several instruction sets; results are the same to the bit. */
#ifndef FM_PREPARE_QUANTISE_STRIP_H
#define FM_PREPARE_QUANTISE_STRIP_H

#include "formats/quant.h"

#define FM_STRIP 16     /* rows */
#define FM_STRIP_SUMS 4 /* (w - v)^2, w^2, v^2, w v */

/* In: the weights, as rows or as r16; what they are to become. Out: the strip as pack.h has it, rows past n_rows 0. Without search it is the rule of MLX's quantize, to the bit:
 * for each group the scale and the bias in float32, the values from these, and then both rounded. With search, those of a few dozen scales and biases, as rounded, that have
 * the least squared error; never more than the rule's, and the same whatever the other rows. */
typedef struct fm_strip {
    const float *rows;     /* [n_rows][cols]; or NULL, and */
    const uint8_t *blocks; /* a strip in the engine's layout, of this width and group */
    int from_width, from_group;
    bool from_f16;
    int n_rows, cols; /* cols: whole groups of both */
    int bits, group;  /* 2, 3, 4, 5, 6, 8; 32, 64, 128 */
    bool f16;         /* scales and biases are of f16, else of bf16 */
    bool search;
    const float *importance;    /* [cols] of each column's squared error in the search; NULL: all the same */
    uint8_t *out;               /* [cols / group][group * bits * 2 + 64] */
    double sums[FM_STRIP_SUMS]; /* out: over all weights, w as it was and v as it is read back */
    int bad;                    /* out: the first row with a scale or bias that is too large for its type, or -1 */
} fm_strip;

typedef void fm_strip_fn(fm_strip *s);

/* The best one for this CPU; and the i-th that it can run, the plainest first; NULL after the last. Asking the CPU takes long: ask once. */
fm_strip_fn *fm_strip_best(void);
fm_strip_fn *fm_strip_at(int i);

#endif
