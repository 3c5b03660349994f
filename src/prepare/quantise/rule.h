/* prepare/quantise/rule.h: scale, bias and values of one group of 16 rows as MLX's quantize makes them, to the bit. */
#ifndef FM_PREPARE_QUANTISE_RULE_H
#define FM_PREPARE_QUANTISE_RULE_H

#include "prepare/quantise/lanes.h"

typedef struct group {
    int n;          /* columns */
    int bits;       /* of a value */
    const lanes *w; /* [n] */
    const float *p; /* [n] importance of each column's squared error */
    float n_bins;   /* 2^bits - 1 */
    bool f16;       /* scales and biases are of f16, else of bf16 */
    lanes least, most;
} group;

typedef struct best { /* scales and biases as rounded; found: lanes for which they are not the rule's */
    lanes error, scale, bias;
    masks found;
} best;

/* A whole number, halves to even, from 0 to n_bins; what is not a number becomes 0. */
INLINE void round_whole(lanes *x, float n_bins) {
    const lanes zero = {0}, bins = zero + n_bins, round = zero + 12582912.0F; /* 1.5 * 2^23: its last place is 1 */
    lanes y = LARGER(*x, zero);
    y = SMALLER(y, bins);
    *x = (y + round) - round;
}

INLINE void find_range(group *g) {
    lanes least = g->w[0], most = g->w[0];
    for (int i = 1; i < g->n; i++) {
        least = SMALLER(g->w[i], least);
        most = LARGER(g->w[i], most);
    }
    g->least = least;
    g->most = most;
}

/* The scale and the bias from which the values are made; stored are these, rounded. The end of the range that is further from 0 is exact, and so is 0 if it is in the
 * range. */
INLINE void rule(const group *g, lanes *scale, lanes *bias) {
    const lanes zero = {0}, whole = zero + 0x1p23F; /* from here on there are only whole numbers */
    const masks sign = (masks){0} + INT32_MIN;
    const lanes least = g->least, most = g->most;
    masks below = (lanes)((masks)least & ~sign) > (lanes)((masks)most & ~sign), some;
    lanes s = (most - least) / g->n_bins, edge = PICK(below, least, most), steps, size, rounded;
    s = LARGER(s, zero + 1e-7F);
    s = (lanes)((masks)s ^ (~below & sign));
    steps = edge / s;
    size = (lanes)((masks)steps & ~sign);
    rounded = (size + whole) - whole;
    size = PICK(size < whole, rounded, size);
    steps = (lanes)((masks)size | ((masks)steps & sign));
    some = (steps < zero) | (steps > zero);
    *scale = PICK(some, edge / steps, s);
    *bias = PICK(some, edge, zero);
}

#endif
