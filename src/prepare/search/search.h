/* prepare/search/search.h: the search for scales and biases of less squared error, of one group of 16 rows at once: a row a lane, each by itself. One body, compiled for
 * several instruction sets; results are the same to the bit. */
#ifndef FM_PREPARE_SEARCH_SEARCH_H
#define FM_PREPARE_SEARCH_SEARCH_H

#include <stdbool.h>

#define FM_SEARCH_ROWS 16

typedef struct fm_search_group {
    int n;                     /* columns */
    const float *w;            /* [n][16], 64-aligned */
    const float *p;            /* [n] importance of each column's squared error */
    float n_bins;              /* 2^bits - 1 */
    bool f16;                  /* scales and biases are of f16, else bf16 */
    float least[16], most[16]; /* of each row */
    /* In: the error to beat. Out: the least found, with its scale and bias, as rounded; found 0: none was less. */
    float error[16], scale[16], bias[16];
    int found[16];
} fm_search_group;

typedef void fm_search_fn(fm_search_group *g);

/* The best one for this CPU; and the i-th that it can run, the plainest first; NULL after the last. */
fm_search_fn *fm_search_best(void);
fm_search_fn *fm_search_at(int i);

#endif
