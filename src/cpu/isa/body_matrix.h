/* cpu/isa/body_matrix.h: products of matrices and a few vectors. Contracts: kernels.h; the layout of r16: formats/quant.h.
 *
 * Each of the three works on one strip (or row) for up to TOKENS tokens at a time, in functions that are inlined with the width of the values and the number of
 * tokens as constants, so that sums stay in registers. What a token's result is does not depend on how many share the pass. */
#ifndef FM_CPU_ISA_BODY_MATRIX_H
#define FM_CPU_ISA_BODY_MATRIX_H

#include "cpu/isa/lanes.h"

#define MAX_TOKENS 8

static inline int32_t load_tuple(const int8_t *q) {
    int32_t x;
    memcpy(&x, q, sizeof x);
    return x;
}

typedef struct i8_pass {
    const fm_matrix_type *type;
    int group; /* of the activations */
    const int8_t *q[MAX_TOKENS];
    const float *scale[MAX_TOKENS], *sum[MAX_TOKENS];
    float *y[MAX_TOKENS]; /* of the strip's first row */
    int rows;             /* to store */
} i8_pass;

/* Sums of a group, apart where one chain of dependent products would be waited for. */
typedef vi i8_sums[2][MAX_TOKENS];

static inline int chains_of(int nt) { return 2 * nt <= TOKENS_I8 ? 2 : 1; }

/* How far ahead cache lines are asked for: the more is computed of a line, the less of the stream does the CPU see by itself. */
static inline int prefetch_of(int width, int nt) { return nt > 1 ? PREFETCH_FAR : width == 2 ? 2 * PREFETCH_FAR : PREFETCH_BYTES; }

/* Widths that are template arguments: of affine values their bits; MX: mxfp4, of 4. */
#define MX 12
#define BITS(width) ((width) == MX ? 4 : (width))

/* d += the words [n_words][16] times the tuples of each of nt tokens, tuples in turns to the chains. */
ALWAYS_INLINE void dot_words(i8_sums d, const uint8_t *words, const int8_t *const *q, const int n_words, const int kind, const int nt, const int ahead) {
    const int width = BITS(kind);
    const int chains = chains_of(nt);
#pragma GCC unroll 16
    for (int w = 0; w < n_words; w++) {
        prefetch(words + 64 * w, ahead);
        vi v = i_load(words + 64 * w);
#pragma GCC unroll 4
        for (int k = 0; k < 8 / width; k++) {
            int tuple = w * (8 / width) + k;
            vi *sum = d[tuple % chains], part = width == 8 ? v : i_and(i_shr(v, k * width), i_set1(width == 4 ? 0x0f0f0f0f : 0x03030303));
            if (kind == MX) part = i_table(part);
#pragma GCC unroll 8
            for (int t = 0; t < nt; t++)
                sum[t] = width == 8 ? i_dot(sum[t], part, load_tuple(q[t] + 4 * tuple)) : i_dot_small(sum[t], part, load_tuple(q[t] + 4 * tuple));
        }
    }
}

ALWAYS_INLINE void strip_i8(const i8_pass *p, const uint8_t *block, const int width, const int group, const int nt) {
    const int n_words = group * BITS(width) / 32, chains = chains_of(nt), ahead = prefetch_of(BITS(width), nt);
    const bool f16 = p->type->scale_dtype == FM_F16, mx = width == MX;
    int parts = mx ? FM_MX_GROUPS : p->type->group / group;
    const size_t n_groups = (size_t)(p->type->cols / group);
    const int8_t *q[MAX_TOKENS];
    vf a[MAX_TOKENS], b[MAX_TOKENS];
    for (int t = 0; t < nt; t++) {
        a[t] = b[t] = f_set1(0);
        q[t] = p->q[t];
    }
    for (size_t g = 0; g < n_groups;) {
        if (mx && n_groups - g < FM_MX_GROUPS) parts = (int)(n_groups - g);
        const uint8_t *tail = block + (size_t)parts * (size_t)n_words * 64;
        vf scale = f16 ? f_load_f16(tail) : f_load_bf16(tail), bias = f16 ? f_load_f16(tail + 32) : f_load_bf16(tail + 32);
        prefetch(tail, ahead);
        for (int part = 0; part < parts; part++, g++, block += (size_t)n_words * 64) {
            i8_sums d;
            if (mx) bias = f_mul(scale = f_load_e8m0(tail + 16 * part), f_set1(-12));
            for (int t = 0; t < nt; t++) d[0][t] = d[chains - 1][t] = i_set1(0);
            dot_words(d, block, q, n_words, width, nt, ahead);
            for (int t = 0; t < nt; t++) {
                vi sum = chains == 2 ? i_add(d[0][t], d[1][t]) : d[0][t];
                a[t] = f_fma(f_mul(scale, f_set1(p->scale[t][g])), i_to_float(sum), a[t]);
                b[t] = f_fma(bias, f_set1(p->sum[t][g]), b[t]);
                q[t] += group;
            }
        }
        block = tail + 64;
    }
    for (int t = 0; t < nt; t++) f_store_n(p->y[t], f_add(a[t], b[t]), p->rows);
}

ALWAYS_INLINE void strip_i8_of_width(const i8_pass *p, const uint8_t *block, const int width, const int nt) {
    if (p->group == 64) {
        strip_i8(p, block, width, 64, nt);
    } else {
        strip_i8(p, block, width, 32, nt);
    }
}

ALWAYS_INLINE void strip_i8_of_tokens(const i8_pass *p, const uint8_t *block, const int nt) {
    switch (p->type->width) {
    case 2: strip_i8_of_width(p, block, 2, nt); break;
    case 4:
        if (p->type->scale_dtype == FM_U8) {
            strip_i8(p, block, MX, FM_MX_GROUP, nt);
        } else {
            strip_i8_of_width(p, block, 4, nt);
        }
        break;
    default: strip_i8_of_width(p, block, 8, nt); break;
    }
}

static void strip_i8_1(const i8_pass *p, const uint8_t *block) { strip_i8_of_tokens(p, block, 1); }
static void strip_i8_2(const i8_pass *p, const uint8_t *block) { strip_i8_of_tokens(p, block, 2); }
static void strip_i8_3(const i8_pass *p, const uint8_t *block) { strip_i8_of_tokens(p, block, 3); }
static void strip_i8_4(const i8_pass *p, const uint8_t *block) { strip_i8_of_tokens(p, block, 4); }
static void strip_i8_8(const i8_pass *p, const uint8_t *block) { strip_i8_of_tokens(p, block, 8); }

static size_t token_of(const int32_t *tokens, int i) { return (size_t)(tokens ? tokens[i] : i); }

/* Of an r16 matrix. */
static size_t strip_bytes_of(const fm_matrix_type *type) {
    if (type->scale_dtype == FM_U8) return fm_mx_bytes((size_t)(type->cols / FM_MX_GROUP));
    return (size_t)(type->cols / type->group) * (size_t)(type->group * type->width * 2 + 64);
}

/* Tokens of the next pass when n are left: as many as fit, or what is left in two parts that are nearly the same. */
static inline int i8_pass_of(int n) {
    if (n >= TOKENS_I8) return TOKENS_I8;
    return n > 4 ? (n + 1) / 2 : n;
}

static void mul_r16_i8(const fm_matrix *matrix, int first, int last, const fm_act8 *x, const int32_t *tokens, int n, float *y, size_t ldy) {
    i8_pass p = {.type = &matrix->type, .group = x->group};
    const size_t n_groups = (size_t)(x->cols / x->group), strip_bytes = strip_bytes_of(p.type);
    for (int i = 0, nt; i < n; i += nt) {
        nt = i8_pass_of(n - i);
        for (int t = 0; t < nt; t++) {
            size_t token = token_of(tokens, i + t);
            p.q[t] = x->q + token * (size_t)x->cols;
            p.scale[t] = x->scale + token * n_groups;
            p.sum[t] = x->sum + token * n_groups;
            p.y[t] = y + (size_t)(i + t) * ldy + (size_t)first * 16;
        }
        for (int strip = first; strip < last; strip++) {
            const uint8_t *block = (const uint8_t *)matrix->data + (size_t)strip * strip_bytes;
            p.rows = p.type->rows - 16 * strip;
            switch (nt) {
            case 1: strip_i8_1(&p, block); break;
            case 2: strip_i8_2(&p, block); break;
            case 3: strip_i8_3(&p, block); break;
            case 4: strip_i8_4(&p, block); break;
            default: strip_i8_8(&p, block); break;
            }
            for (int t = 0; t < nt; t++) p.y[t] += 16;
        }
    }
}

typedef struct f32_pass {
    const fm_matrix_type *type;
    const float *x[MAX_TOKENS];
    float *y[MAX_TOKENS]; /* of the strip's first row */
    int rows;             /* to store */
} f32_pass;

ALWAYS_INLINE void strip_f32(const f32_pass *p, const uint8_t *block, const int width, const int nt) {
    const fm_matrix_type *type = p->type;
    const bool f16 = type->scale_dtype == FM_F16;
    size_t words = (size_t)(type->group * width / 32);
    vf acc[MAX_TOKENS];
    vi mask = i_set1((1 << width) - 1);
    for (int t = 0; t < nt; t++) acc[t] = f_set1(0);
    for (size_t c = 0; c < (size_t)type->cols;) {
        const uint8_t *tail = block + words * 64;
        vf scale = f16 ? f_load_f16(tail) : f_load_bf16(tail), bias = f16 ? f_load_f16(tail + 32) : f_load_bf16(tail + 32);
        for (; block < tail; block += 64) {
            vi v = i_load(block);
            for (int k = 0; k < 32 / width; k++, c++) {
                vf w = f_fma(i_to_float(i_and(i_shr(v, k * width), mask)), scale, bias);
                for (int t = 0; t < nt; t++) acc[t] = f_fma(w, f_set1(p->x[t][c]), acc[t]);
            }
        }
        block = tail + 64;
    }
    for (int t = 0; t < nt; t++) f_store_n(p->y[t], acc[t], p->rows);
}

ALWAYS_INLINE void strip_f32_mx(const f32_pass *p, const uint8_t *block, const int nt) {
    vf acc[MAX_TOKENS];
    int groups = p->type->cols / FM_MX_GROUP;
    for (int t = 0; t < nt; t++) acc[t] = f_set1(0);
    for (int g = 0, c = 0, parts; g < groups; g += parts) {
        parts = groups - g < FM_MX_GROUPS ? groups - g : FM_MX_GROUPS;
        const uint8_t *tail = block + 256 * parts;
        for (int part = 0; part < parts; part++) {
            vf scale = f_load_e8m0(tail + 16 * part), bias = f_mul(scale, f_set1(-12));
            for (int word = 0; word < 4; word++, block += 64) {
                vi v = i_load(block);
                for (int k = 0; k < 8; k++, c++) {
                    vi q = i_and(i_table(i_and(i_shr(v, k * 4), i_set1(15))), i_set1(255));
                    vf w = f_fma(i_to_float(q), scale, bias);
                    for (int t = 0; t < nt; t++) acc[t] = f_fma(w, f_set1(p->x[t][c]), acc[t]);
                }
            }
        }
        block = tail + 64;
    }
    for (int t = 0; t < nt; t++) f_store_n(p->y[t], acc[t], p->rows);
}

ALWAYS_INLINE void strip_f32_of_tokens(const f32_pass *p, const uint8_t *block, const int nt) {
    switch (p->type->width) {
    case 2: strip_f32(p, block, 2, nt); break;
    case 4:
        if (p->type->scale_dtype == FM_U8) {
            strip_f32_mx(p, block, nt);
        } else {
            strip_f32(p, block, 4, nt);
        }
        break;
    default: strip_f32(p, block, 8, nt); break;
    }
}

static void strip_f32_1(const f32_pass *p, const uint8_t *block) { strip_f32_of_tokens(p, block, 1); }
static void strip_f32_4(const f32_pass *p, const uint8_t *block) { strip_f32_of_tokens(p, block, 4); }

static void mul_r16_f32(const fm_matrix *matrix, int first, int last, const float *x, size_t ldx, const int32_t *tokens, int n, float *y, size_t ldy) {
    f32_pass p = {.type = &matrix->type};
    for (int strip = first; strip < last; strip++) {
        const uint8_t *block = (const uint8_t *)matrix->data + (size_t)strip * strip_bytes_of(p.type);
        p.rows = p.type->rows - 16 * strip;
        for (int i = 0, nt; i < n; i += nt) {
            nt = n - i >= 4 ? 4 : 1;
            for (int t = 0; t < nt; t++) {
                p.x[t] = x + token_of(tokens, i + t) * ldx;
                p.y[t] = y + (size_t)(i + t) * ldy + (size_t)strip * 16;
            }
            if (nt == 4) {
                strip_f32_4(&p, block);
            } else {
                strip_f32_1(&p, block);
            }
        }
    }
}

/* 16 weights from column c, or the n < 16 there are and zeros. */
ALWAYS_INLINE vf load_weights(const uint8_t *row, int c, int n, const fm_format format) {
    if (format == FM_FORMAT_F32) return f_load_n((const float *)(const void *)row + c, n);
    const size_t size = format == FM_FORMAT_F8 ? 1 : 2;
    const uint8_t *p = row + size * (size_t)c;
    uint8_t some[32] = {0};
    if (n < 16) p = memcpy(some, p, size * (size_t)n);
    if (format == FM_FORMAT_F8) return f_load_f8(p);
    return format == FM_FORMAT_BF16 ? f_load_bf16(p) : f_load_f16(p);
}

typedef struct float_pass {
    const fm_matrix_type *type;
    const uint8_t *row; /* the first; row_bytes apart */
    size_t row_bytes;
    const float *x[MAX_TOKENS];
    float *y[MAX_TOKENS]; /* of the first row */
} float_pass;

/* One accumulator of every row and token. */
typedef vf block_sum[FLOAT_ROWS][FLOAT_TOKENS];

/* Of fp8 rows, from column c on, in one block. */
typedef vf block_scales[FLOAT_ROWS];

ALWAYS_INLINE void load_scales(block_scales scales, const float_pass *p, int c, const int nr) {
    for (int r = 0; r < nr; r++) {
        float scale;
        memcpy(&scale, p->row + (size_t)r * p->row_bytes + fm_f8_values_bytes(p->type->cols) + (size_t)(c / FM_F8_BLOCK) * sizeof scale, sizeof scale);
        scales[r] = f_set1(scale * 256);
    }
}

/* Adds 16 columns from c of nr rows times nt tokens; n columns are left. */
ALWAYS_INLINE void add_columns(block_sum sum, const float_pass *p, const block_scales scales, int c, int n, const fm_format format, const int nr,
                               const int nt) {
    for (int r = 0; r < nr; r++) {
        vf w = load_weights(p->row + (size_t)r * p->row_bytes, c, n, format);
        if (format == FM_FORMAT_F8) w = f_mul(w, scales[r]);
        for (int t = 0; t < nt; t++) sum[r][t] = f_fma(w, f_load_n(p->x[t] + c, n), sum[r][t]);
    }
}

/* y[t][r] = dot(row r, x[t]) for nr rows and nt tokens. */
ALWAYS_INLINE void block_float(const float_pass *p, const fm_format format, const int nr, const int nt) {
    block_sum sum[4];
    const int value_bytes = format == FM_FORMAT_F32 ? 4 : format == FM_FORMAT_F8 ? 1 : 2;
    block_scales scales;
    int c = 0, n = p->type->cols;
    for (int r = 0; r < nr; r++) {
        scales[r] = f_set1(0);
        for (int t = 0; t < nt; t++) sum[0][r][t] = sum[1][r][t] = sum[2][r][t] = sum[3][r][t] = f_set1(0);
    }
    for (; c + 64 <= n; c += 64) {
        /* Rows follow each other, so past the end of one comes the next. */
        for (int line = 0; line < value_bytes && nr * nt == 1; line++) prefetch(p->row + (size_t)(c * value_bytes + 64 * line), PREFETCH_FAR);
        if (format == FM_FORMAT_F8) load_scales(scales, p, c, nr);
        for (int i = 0; i < 4; i++) add_columns(sum[i], p, scales, c + 16 * i, 16, format, nr, nt);
    }
    if (format == FM_FORMAT_F8 && c < n) load_scales(scales, p, c, nr);
    for (int i = 0; i < 4; i++, c += 16) {
        if (c < n) add_columns(sum[i], p, scales, c, n - c, format, nr, nt);
    }
    for (int r = 0; r < nr; r++) {
        for (int t = 0; t < nt; t++) p->y[t][r] = f_tree(sum[0][r][t], sum[1][r][t], sum[2][r][t], sum[3][r][t]);
    }
}

ALWAYS_INLINE void block_float_of(const float_pass *p, const int nr, const int nt) {
    switch (p->type->format) {
    case FM_FORMAT_BF16: block_float(p, FM_FORMAT_BF16, nr, nt); break;
    case FM_FORMAT_F16: block_float(p, FM_FORMAT_F16, nr, nt); break;
    case FM_FORMAT_F8: block_float(p, FM_FORMAT_F8, nr, nt); break;
    default: block_float(p, FM_FORMAT_F32, nr, nt); break;
    }
}

static void block_float_rows_tokens(const float_pass *p) { block_float_of(p, FLOAT_ROWS, FLOAT_TOKENS); }
static void block_float_rows(const float_pass *p) { block_float_of(p, FLOAT_ROWS, 1); }
static void block_float_tokens(const float_pass *p) { block_float_of(p, 1, FLOAT_TOKENS); }
static void block_float_1(const float_pass *p) { block_float_of(p, 1, 1); }

static inline size_t float_row_bytes(const fm_matrix_type *type) {
    if (type->format == FM_FORMAT_F8) return fm_f8_row_bytes(type->cols);
    return (size_t)type->cols * (type->format == FM_FORMAT_F32 ? 4 : 2);
}

/* The weights of fp8 rows as f32, for several tokens: the same bits as when they are made anew for each. */
static void expand_f8(const float_pass *p, const int nr, float *out) {
    int n = p->type->cols;
    for (int c = 0; c < n; c += 16) {
        block_scales scales;
        load_scales(scales, p, c, nr);
        for (int r = 0; r < nr; r++) {
            vf w = f_mul(load_weights(p->row + (size_t)r * p->row_bytes, c, n - c, FM_FORMAT_F8), scales[r]);
            f_store_n(out + (size_t)r * (size_t)n + c, w, n - c);
        }
    }
}

static void mul_floats(const fm_matrix *matrix, int first, int last, const float *x, size_t ldx, const int32_t *tokens, int n, float *y, size_t ldy) {
    float_pass p = {.type = &matrix->type, .row_bytes = float_row_bytes(&matrix->type)};
    for (int r = first, nr; r < last; r += nr) {
        /* One token is a matter of reading: one stream. */
        nr = n > 1 && last - r >= FLOAT_ROWS ? FLOAT_ROWS : 1;
        p.row = (const uint8_t *)matrix->data + (size_t)r * p.row_bytes;
        for (int i = 0, nt; i < n; i += nt) {
            nt = n - i >= FLOAT_TOKENS ? FLOAT_TOKENS : 1;
            for (int t = 0; t < nt; t++) {
                p.x[t] = x + token_of(tokens, i + t) * ldx;
                p.y[t] = y + (size_t)(i + t) * ldy + (size_t)r;
            }
            if (nr > 1 && nt > 1) {
                block_float_rows_tokens(&p);
            } else if (nr > 1) {
                block_float_rows(&p);
            } else if (nt > 1) {
                block_float_tokens(&p);
            } else {
                block_float_1(&p);
            }
        }
    }
}

static void mul_float(const fm_matrix *matrix, int first, int last, const float *x, size_t ldx, const int32_t *tokens, int n, float *y, size_t ldy) {
    /* It pays for enough tokens, more where a block makes each weight for several at once, and while a row stays in the first cache. */
    enum { TOKENS = 8 * FLOAT_ROWS * FLOAT_TOKENS, COLUMNS = 4096 };
    if (matrix->type.format != FM_FORMAT_F8 || n < TOKENS || matrix->type.cols > COLUMNS) {
        mul_floats(matrix, first, last, x, ldx, tokens, n, y, ldy);
        return;
    }
    float rows[FLOAT_ROWS * COLUMNS];
    float_pass p = {.type = &matrix->type, .row_bytes = fm_f8_row_bytes(matrix->type.cols)};
    fm_matrix some = {{.format = FM_FORMAT_F32, .cols = matrix->type.cols}, rows};
    for (int r = first; r < last; r += some.type.rows) {
        some.type.rows = last - r < FLOAT_ROWS ? last - r : FLOAT_ROWS;
        p.row = (const uint8_t *)matrix->data + (size_t)r * p.row_bytes;
        expand_f8(&p, some.type.rows, rows);
        mul_floats(&some, 0, some.type.rows, x, ldx, tokens, n, y + r, ldy);
    }
}

#endif
