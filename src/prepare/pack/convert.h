/* prepare/pack/convert.h: rows of a matrix from the format that a source has to the one that a packed model will have. */
#ifndef FM_PREPARE_PACK_CONVERT_H
#define FM_PREPARE_PACK_CONVERT_H

#include "prepare/pack/quantise.h"

/* What becomes of a matrix. */
typedef struct fm_target {
    fm_matrix_type type;
    bool made;        /* quantised or rounded; else its bytes are kept */
    bool search;      /* R16 */
    fm_search_fn *fn; /* that does it on this CPU, found out once: asking the CPU takes long */
} fm_target;

/* Bytes of a matrix as a source has them: weight, scales and biases by rows, or packed, as pack.h says. */
typedef struct fm_rows {
    const fm_matrix_type *type;
    const uint8_t *parts[3]; /* fp8: those of its rows, and all scales */
    int first_row;           /* fp8: of the matrix, at parts[0] */
    bool packed;
} fm_rows;

#define FM_STRIP 16

/* Bytes of scratch that fm_convert needs, 64-aligned. */
size_t fm_convert_scratch(const fm_matrix_type *from);

/* Rows [first, first + n), at most 16 and from a multiple of 16 on, into values (and R16: scales and biases), the rows from `first` on lying there one after the other. Adds
 * to *sum. Returns -1, or the row of which a scale or bias is too large. */
int fm_convert(const fm_rows *from, const fm_target *to, const float *importance, const int rows[2], uint8_t *scratch, uint8_t *const out[3],
               fm_deviation *sum);

/* Bytes of one row of a matrix by rows: of weight, scales or biases (part 0 to 2). */
size_t fm_row_bytes(const fm_matrix_type *type, int part);
/* "bf16", "4-bit group 64". */
void fm_type_text(char text[32], const fm_matrix_type *type);

#endif
