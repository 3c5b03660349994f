/* prepare/pack/convert.h: rows of a matrix from the format that a source has to the one that a packed model will have. */
#ifndef FM_PREPARE_PACK_CONVERT_H
#define FM_PREPARE_PACK_CONVERT_H

#include "prepare/quantise/strip.h"

/* What became of n weights: sums over them, of w as it was and v as it is read back. */
typedef struct fm_deviation {
    double n, error /* (w - v)^2 */, before /* w^2 */, after /* v^2 */, product /* w v */;
} fm_deviation;

void fm_deviation_add(fm_deviation *to, const fm_deviation *more);
/* Adds w [n] and what became of it. */
void fm_deviation_measure(fm_deviation *to, const float *w, const float *v, size_t n);

/* What becomes of a matrix. */
typedef struct fm_target {
    fm_matrix_type type;
    bool made;       /* quantised or rounded; else its bytes are kept */
    bool search;     /* R16 */
    fm_strip_fn *fn; /* R16: that does it on this CPU */
} fm_target;

/* Bytes of a matrix as a source has them: weight, scales and biases by rows, or packed, as pack.h says. */
typedef struct fm_rows {
    const fm_matrix_type *type;
    const uint8_t *parts[3]; /* fp8: those of its rows, and all scales */
    int first_row;           /* fp8: of the matrix, at parts[0] */
    bool packed;
} fm_rows;

/* Bytes of scratch that fm_convert and fm_convert_rows need, 64-aligned. */
size_t fm_convert_scratch(const fm_matrix_type *from);

/* Rows [rows[0], rows[1]), at most 16 and from a multiple of 16 on, as pack.h has them: R16, whose importance [cols] weighs the search's errors (NULL: all the same), a strip;
 * bf16, rows. Adds to *sum. Returns -1, or the first row of which a scale or bias, or a weight of bf16, is too large. */
int fm_convert(const fm_rows *from, const fm_target *to, const float *importance, const int rows[2], uint8_t *scratch, uint8_t *out, fm_deviation *sum);
/* The same by rows: values, and R16: scales and biases, those of rows[0] first. */
int fm_convert_rows(const fm_rows *from, const fm_target *to, const float *importance, const int rows[2], uint8_t *scratch, uint8_t *const out[3],
                    fm_deviation *sum);

/* Bytes of one row of a matrix by rows: of weight, scales or biases (part 0 to 2). */
size_t fm_row_bytes(const fm_matrix_type *type, int part);
/* "bf16", "4-bit group 64". */
void fm_type_text(char text[32], const fm_matrix_type *type);

#endif
