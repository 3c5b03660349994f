/* formats/quant.h: number formats of weights and the one layout that kernels know.
 *
 * MLX affine quantisation on disk: weight u32 [rows][cols * bits / 32], values least significant first (3, 5 and 6 bits as one
 * LSB-first byte stream), scales and biases [rows][cols / group] of bf16 or f16; w = q * scale + bias.
 *
 * r16 in memory: rows are padded to 16 and taken in strips of 16. A strip is a stream of blocks, one a group of columns:
 *     words  [group * width / 32][16] u32   word w of each of the 16 rows (width = bits 2, 4 or 8)
 *     scales [16] u16                       bf16 or f16 as on disk
 *     biases [16] u16
 * 3-bit values are widened to 4 bits, 5 and 6 to 8, unchanged. In a word, value i lies at bit i * width. It is a lossless
 * permutation of the source for 2, 4 and 8 bits.
 *
 * mxfp4 on disk: groups of 32 columns, 16 bytes of 4-bit values, the first in the low half of the first byte (so MLX's words are the same bytes), and one scale of
 * 8 bits: w = table[q] * 2^(scale - 127), table = 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives. It is r16 with scale_dtype FM_U8 and no biases. A block is four groups:
 *     words  [4][4][16] u32
 *     scales [4][16] u8
 * and the last of a strip has as many groups as are left, with all 64 bytes of scales. Kernels take it as w = s * (2 * table[q] + 12) - 12 * s with
 * s = 2^(scale - 128), or 0 where that is below 2^-126; scales of FM_MX_SCALES and more (NaN is one) are refused when they are read.
 *
 * bf16, f16 and f32 matrices are kept as they are, row-major, rows not padded.
 *
 * fp8 (e4m3) on disk: a byte a weight, and an f32 scale a block of 128 rows and 128 columns; w = value * scale, rounded once. In memory each row has its scales behind
 * it, so that rows may be taken from anywhere: [cols] bytes, padding to 4, [(cols + 127) / 128] f32. */
#ifndef FM_FORMATS_QUANT_H
#define FM_FORMATS_QUANT_H

#include <string.h>

#include "formats/tensors.h"

typedef enum fm_format { FM_FORMAT_F32, FM_FORMAT_F16, FM_FORMAT_BF16, FM_FORMAT_R16, FM_FORMAT_F8 } fm_format;

#define FM_F8_BLOCK 128 /* rows, and columns, that share a scale */

/* What a matrix is, without where it is. */
typedef struct fm_matrix_type {
    fm_format format;
    int rows, cols;       /* y[rows] = W[rows][cols] x[cols] */
    int bits;             /* R16: on disk: 2, 3, 4, 5, 6, 8 */
    int width;            /* R16: in memory: 2, 4, 8 */
    int group;            /* R16: 32, 64, 128 */
    fm_dtype scale_dtype; /* R16: FM_BF16 or FM_F16; FM_U8: mxfp4 */
} fm_matrix_type;

#define FM_MX_GROUP 32
#define FM_MX_GROUPS 4    /* of a block */
#define FM_MX_SCALES 0xf8 /* 2^121 */
static inline bool fm_is_mx(const fm_matrix_type *type) { return type->format == FM_FORMAT_R16 && type->scale_dtype == FM_U8; }
/* Bytes of a strip of `groups` groups, which is where its last block ends and where any of its blocks begins. */
static inline size_t fm_mx_bytes(size_t groups) { return groups * 256 + (groups + FM_MX_GROUPS - 1) / FM_MX_GROUPS * 64; }
/* 2 * table[q] + 12 by q. */
#define FM_MX_TABLE 12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0

/* A matrix in memory. */
typedef struct fm_matrix {
    fm_matrix_type type;
    const void *data; /* 64-byte aligned for R16 */
} fm_matrix;

/* What the source says of a quantised matrix: weight [rows][weight_cols] u32, scales [rows][scale_cols], and config.json's bits and group. */
typedef struct fm_affine_shape {
    uint64_t rows, weight_cols, scale_cols;
    fm_dtype scale_dtype;
    int bits, group;
} fm_affine_shape;

/* The type of such a matrix. FM_EFORMAT when bits and group do not fit the shapes; FM_EUNSUPPORTED for other bits, groups or types; both name `name`. */
int fm_matrix_type_affine(fm_matrix_type *type, const char *name, const fm_affine_shape *shape, fm_error *err);

/* The type of an mxfp4 matrix: FM_EFORMAT, naming `name`, when cols is no whole number of groups. */
int fm_matrix_type_mxfp4(fm_matrix_type *type, const char *name, uint64_t rows, uint64_t cols, fm_error *err);

/* Bytes of one row as it is on disk: of weight, scales or biases (part 0 to 2); 0: no such part, or fp8's scales, which several rows share. */
size_t fm_matrix_row_bytes(const fm_matrix_type *type, int part);

/* Bytes in memory: of all of it, and of one strip of 16 rows (R16) or one row (others). */
size_t fm_matrix_bytes(const fm_matrix_type *type);
size_t fm_matrix_strip_bytes(const fm_matrix_type *type);
int fm_matrix_n_strips(const fm_matrix_type *type); /* R16: (rows + 15) / 16; others: rows */

/* Rows of a quantised matrix as they are on disk: pointers to row 0, of any alignment. */
typedef struct fm_affine_rows {
    const void *weight, *scales, *biases; /* biases NULL: mxfp4 */
    const int32_t *row_map;               /* for each row in memory its row here; NULL: the same */
    int step;                             /* rows are so many apart; 0: 1 */
} fm_affine_rows;

/* Permutes the strips [first, last) from rows to r16 at dest (the matrix's first byte). Rows past the end become 0. */
void fm_r16_fill(void *dest, const fm_matrix_type *type, const fm_affine_rows *rows, int first, int last);

/* The same to r16 of the native width, as packed models keep it. */
void fm_r16_pack(void *dest, const fm_matrix_type *type, const fm_affine_rows *rows, int first, int last);

/* fm_r16_fill from r16 of the native width (`bits` instead of `width`), as packed models keep it: strips of `rows` blocks [group * bits / 32][16] words, scales,
 * biases. packed is the matrix's first byte. */
void fm_r16_widen(void *dest, const fm_matrix_type *type, const void *packed, int first, int last);

/* A row of fp8 from its bytes and its scales. */
void fm_f8_fill_row(void *dest, int cols, const void *values, const void *scales);
static inline int fm_f8_n_scales(int cols) { return (cols + FM_F8_BLOCK - 1) / FM_F8_BLOCK; }
static inline size_t fm_f8_values_bytes(int cols) { return ((size_t)cols + 3) & ~(size_t)3; }
static inline size_t fm_f8_row_bytes(int cols) { return fm_f8_values_bytes(cols) + (size_t)fm_f8_n_scales(cols) * sizeof(float); }

/* One value of a matrix in memory as f32, for tests and the embedding row: out[cols] = row `row`. q * scale + bias by one fma. */
void fm_matrix_row(const fm_matrix *matrix, int row, float *out);

/* The first value that is not finite among n of type dtype, FM_F32, FM_F16, FM_BF16 or FM_F8_E4M3 (any alignment), or mxfp4's scale that is refused, FM_U8: its index, or -1. */
int64_t fm_find_nonfinite(const void *data, fm_dtype dtype, uint64_t n);

/* Exact. Here because kernels convert whole rows. */
static inline float fm_from_bf16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline float fm_from_f16(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, exponent = x >> 10 & 31, mantissa = x & 1023, bits;
    float f;
    if (exponent == 0) { /* a denormal, or zero */
        f = (float)mantissa * 0x1p-24f;
        return sign ? -f : f;
    }
    bits = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | mantissa << 13;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Rounded to nearest, halves to even. */
static inline uint16_t fm_to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline uint16_t fm_to_f16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return sign | 0x7e00;
    if (bits >= 0x477ff000) return sign | 0x7c00; /* from half way past the largest on */
    if (bits < 0x38800000) {                      /* a denormal: its last place is 2^-24, which is 0.5's */
        float magnitude;
        memcpy(&magnitude, &bits, sizeof magnitude);
        magnitude += 0.5F;
        memcpy(&bits, &magnitude, sizeof bits);
        return sign | (uint16_t)(bits - 0x3f000000);
    }
    bits += 0xfff + (bits >> 13 & 1);
    return sign | (uint16_t)((bits >> 13) - (112u << 10));
}

/* e4m3 as f16: the same bits at other places, which makes it 2^-8 times the value. Not of 0x7f and 0xff, which are NaN: these do not get into memory. */
static inline uint16_t fm_f8_half(uint8_t x) { return (uint16_t)((x & 0x80) << 8 | (x & 0x7f) << 7); }

#endif
