/* formats/quant.c: what a quantised matrix is, its way from MLX's rows to r16, and reading it back. Products are cpu/'s. */
#include "formats/quant.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

static bool is_one_of(int x, const int *list) {
    while (*list && *list != x) list++;
    return *list != 0;
}

int fm_matrix_type_affine(fm_matrix_type *type, const char *name, const fm_affine_shape *shape, fm_error *err) {
    uint64_t rows = shape->rows, weight_cols = shape->weight_cols, scale_cols = shape->scale_cols;
    fm_dtype scale_dtype = shape->scale_dtype;
    int bits = shape->bits, group = shape->group;
    static const int all_bits[] = {2, 3, 4, 5, 6, 8, 0}, groups[] = {32, 64, 128, 0};
    if (!is_one_of(bits, all_bits))
        return fm_fail(err, FM_EUNSUPPORTED, "tensor %s: quantisation to %d bits is not supported (2, 3, 4, 5, 6 and 8 are)", name, bits);
    if (!is_one_of(group, groups))
        return fm_fail(err, FM_EUNSUPPORTED, "tensor %s: quantisation in groups of %d is not supported (32, 64 and 128 are)", name, group);
    if (scale_dtype != FM_BF16 && scale_dtype != FM_F16) {
        return fm_fail(err, FM_EUNSUPPORTED, "tensor %s: its scales are of type %s; BF16 and F16 are supported", name, fm_dtype_name(scale_dtype));
    }
    if (rows == 0 || rows > INT32_MAX - 15 || weight_cols > INT32_MAX || scale_cols == 0 || scale_cols > INT32_MAX / 128) {
        return fm_fail(err, FM_EFORMAT, "tensor %s: %" PRIu64 " rows of %" PRIu64 " words and %" PRIu64 " scales are no matrix", name, rows, weight_cols,
                       scale_cols);
    }
    uint64_t cols = scale_cols * (uint64_t)group;
    if (weight_cols * 32 != cols * (uint64_t)bits) {
        return fm_fail(err, FM_EFORMAT,
                       "tensor %s: %" PRIu64 " words and %" PRIu64
                       " scales a row do not fit %d bits in groups of %d, as config.json or the shapes say (in such groups "
                       "they are %g bits)",
                       name, weight_cols, scale_cols, bits, group, (double)(weight_cols * 32) / (double)cols);
    }
    *type = (fm_matrix_type){.format = FM_FORMAT_R16,
                             .rows = (int)rows,
                             .cols = (int)cols,
                             .bits = bits,
                             .width = bits == 2   ? 2
                                      : bits <= 4 ? 4
                                                  : 8,
                             .group = group,
                             .scale_dtype = scale_dtype};
    return 0;
}

int fm_matrix_type_mxfp4(fm_matrix_type *type, const char *name, uint64_t rows, uint64_t cols, fm_error *err) {
    if (rows == 0 || rows > INT32_MAX - 15 || cols == 0 || cols > INT32_MAX / 128 || cols % FM_MX_GROUP) {
        return fm_fail(err, FM_EFORMAT, "tensor %s: %" PRIu64 " rows of %" PRIu64 " columns are no mxfp4 matrix, whose groups have %d", name, rows, cols,
                       FM_MX_GROUP);
    }
    *type = (fm_matrix_type){.format = FM_FORMAT_R16, .rows = (int)rows, .cols = (int)cols, .bits = 4, .width = 4, .group = FM_MX_GROUP, .scale_dtype = FM_U8};
    return 0;
}

size_t fm_matrix_row_bytes(const fm_matrix_type *type, int part) {
    size_t cols = (size_t)type->cols;
    if (type->format == FM_FORMAT_F8) return part ? 0 : cols;
    if (type->format != FM_FORMAT_R16) return part ? 0 : cols * (type->format == FM_FORMAT_F32 ? 4 : 2);
    if (part == 0) return cols * (size_t)type->bits / 8;
    if (fm_is_mx(type)) return part == 1 ? cols / FM_MX_GROUP : 0;
    return cols / (size_t)type->group * 2;
}

static size_t block_bytes(const fm_matrix_type *type) { return (size_t)(type->group * type->width / 32) * 64 + 64; }

int fm_matrix_n_strips(const fm_matrix_type *type) { return type->format == FM_FORMAT_R16 ? (type->rows + 15) / 16 : type->rows; }

size_t fm_matrix_strip_bytes(const fm_matrix_type *type) {
    if (fm_is_mx(type)) return fm_mx_bytes((size_t)(type->cols / FM_MX_GROUP));
    switch (type->format) {
    case FM_FORMAT_R16: return (size_t)(type->cols / type->group) * block_bytes(type);
    case FM_FORMAT_F32: return (size_t)type->cols * 4;
    case FM_FORMAT_F8: return fm_f8_row_bytes(type->cols);
    default: return (size_t)type->cols * 2;
    }
}

size_t fm_matrix_bytes(const fm_matrix_type *type) { return (size_t)fm_matrix_n_strips(type) * fm_matrix_strip_bytes(type); }

/* Source rows of one strip. Rows past the end of the matrix are the last one once more; clear_rows makes them 0. */
typedef struct strip {
    const uint8_t *weight[16], *scales[16], *biases[16];
} strip;

/* Words of one group, unchanged: word w of each row side by side. Four rows at a time keep the reads linear and the writes 16 bytes wide. */
static void transpose_words(uint8_t *dest, const strip *s, size_t offset, int n_words) {
    for (int r = 0; r < 16; r += 4) {
        const uint8_t *const *row = s->weight + r, *a = row[0] + offset, *b = row[1] + offset, *c = row[2] + offset, *d = row[3] + offset;
        for (int w = 0; w < n_words; w++) {
            uint32_t x[4];
            memcpy(&x[0], a + w * 4, 4);
            memcpy(&x[1], b + w * 4, 4);
            memcpy(&x[2], c + w * 4, 4);
            memcpy(&x[3], d + w * 4, 4);
            memcpy(dest + w * 64 + r * 4, x, 16);
        }
    }
}

/* The values of two words, 48 bits of 3- or 6-bit values or 40 of 5-bit ones, moved apart to 4 and 8 bits: the halves first, then halves of halves. */
static inline uint64_t widen(uint64_t x, int bits) {
    if (bits == 5) {
        x = (x & 0xfffff) | (x & 0xfffff00000) << 12;
        x = (x & 0x000003ff000003ff) | (x & 0x000ffc00000ffc00) << 6;
        return (x & 0x001f001f001f001f) | (x & 0x03e003e003e003e0) << 3;
    }
    x = (x & 0xffffff) | (x & 0xffffff000000) << 8;
    x = (x & 0x00000fff00000fff) | (x & 0x00fff00000fff000) << 4;
    x = (x & 0x003f003f003f003f) | (x & 0x0fc00fc00fc00fc0) << 2;
    return bits == 3 ? (x & 0x0707070707070707) | (x & 0x3838383838383838) << 1 : x;
}

/* transpose_words for 3, 5 and 6 bits, which arrive as one stream of bits. n_words is even. */
static inline void widen_rows(uint8_t *dest, const strip *s, size_t offset, int n_words, int bits) {
    for (int r = 0; r < 16; r++) {
        const uint8_t *from = s->weight[r] + offset;
        for (int w = 0; w < n_words; w += 2) {
            uint32_t begin;
            uint16_t end = 0;
            memcpy(&begin, from, 4);
            memcpy(&end, from + 4, bits == 5 ? 1 : 2);
            from += bits == 5 ? 5 : 6;
            uint64_t x = begin | (uint64_t)end << 32;
            x = widen(x, bits);
            uint32_t low = (uint32_t)x, high = (uint32_t)(x >> 32);
            memcpy(dest + w * 64 + r * 4, &low, 4);
            memcpy(dest + w * 64 + 64 + r * 4, &high, 4);
        }
    }
}

static void group_words(uint8_t *dest, const strip *s, size_t offset, int n_words, int bits) {
    switch (bits) { /* each with bits a constant */
    case 3: widen_rows(dest, s, offset, n_words, 3); break;
    case 5: widen_rows(dest, s, offset, n_words, 5); break;
    case 6: widen_rows(dest, s, offset, n_words, 6); break;
    default: transpose_words(dest, s, offset, n_words);
    }
}

static void gather_halves(uint8_t *dest, const uint8_t *const *rows, size_t offset) {
    for (int r = 0; r < 16; r++) memcpy(dest + r * 2, rows[r] + offset, 2);
}

/* Makes rows [n_rows, 16) of a block 0. */
static void clear_rows(uint8_t *block, int n_words, int n_rows) {
    for (int w = 0; w < n_words; w++) memset(block + w * 64 + n_rows * 4, 0, (size_t)(16 - n_rows) * 4);
    memset(block + n_words * 64 + n_rows * 2, 0, (size_t)(16 - n_rows) * 2);
    memset(block + n_words * 64 + 32 + n_rows * 2, 0, (size_t)(16 - n_rows) * 2);
}

static void find_rows(strip *s, const fm_matrix_type *type, const fm_affine_rows *rows, int index, int n_rows) {
    size_t row_bytes = fm_matrix_row_bytes(type, 0), scale_bytes = fm_matrix_row_bytes(type, 1), step = rows->step ? (size_t)rows->step : 1;
    for (int r = 0; r < 16; r++) {
        int to = index * 16 + (r < n_rows ? r : n_rows - 1);
        size_t row = (size_t)(rows->row_map ? rows->row_map[to] : to) * step;
        s->weight[r] = (const uint8_t *)rows->weight + row * row_bytes;
        s->scales[r] = (const uint8_t *)rows->scales + row * scale_bytes;
        s->biases[r] = rows->biases ? (const uint8_t *)rows->biases + row * scale_bytes : NULL;
    }
}

/* Strips of mxfp4. */
static void fill_mx(uint8_t *dest, const fm_matrix_type *type, const fm_affine_rows *rows, int first, int last) {
    int groups = type->cols / FM_MX_GROUP;
    uint8_t *block = dest + (size_t)first * fm_matrix_strip_bytes(type);
    for (int i = first; i < last; i++) {
        strip s;
        int n_rows = type->rows - i * 16 < 16 ? type->rows - i * 16 : 16;
        find_rows(&s, type, rows, i, n_rows);
        for (int g = 0, parts; g < groups; g += parts) {
            parts = groups - g < FM_MX_GROUPS ? groups - g : FM_MX_GROUPS;
            uint8_t *tail = block + parts * 256;
            transpose_words(block, &s, (size_t)g * 16, parts * 4);
            memset(tail, 0, 64);
            for (int part = 0; part < parts; part++) {
                for (int r = 0; r < n_rows; r++) tail[part * 16 + r] = s.scales[r][g + part];
            }
            for (int w = 0; w < parts * 4 && n_rows < 16; w++) memset(block + w * 64 + n_rows * 4, 0, (size_t)(16 - n_rows) * 4);
            block = tail + 64;
        }
    }
}

/* Strips of blocks whose values are `width` bits wide: of the kernels' width, or of the native one, `bits`. */
static void fill(void *dest, const fm_matrix_type *type, int width, const fm_affine_rows *rows, int first, int last) {
    if (fm_is_mx(type)) {
        fill_mx(dest, type, rows, first, last);
        return;
    }
    size_t groups = (size_t)(type->cols / type->group), group_bytes = (size_t)(type->group * type->bits / 8);
    int n_words = type->group * width / 32;
    size_t step = (size_t)n_words * 64 + 64, strip_bytes = groups * step;
    assert(type->format == FM_FORMAT_R16 && first >= 0 && last <= fm_matrix_n_strips(type));
    for (int i = first; i < last; i++) {
        strip s;
        int n_rows = type->rows - i * 16 < 16 ? type->rows - i * 16 : 16;
        find_rows(&s, type, rows, i, n_rows);
        uint8_t *block = (uint8_t *)dest + (size_t)i * strip_bytes;
        for (size_t g = 0; g < groups; g++, block += step) {
            if (width == type->bits)
                transpose_words(block, &s, g * group_bytes, n_words);
            else
                group_words(block, &s, g * group_bytes, n_words, type->bits);
            gather_halves(block + n_words * 64, s.scales, g * 2);
            gather_halves(block + n_words * 64 + 32, s.biases, g * 2);
            if (n_rows < 16) clear_rows(block, n_words, n_rows);
        }
    }
}

void fm_r16_fill(void *dest, const fm_matrix_type *type, const fm_affine_rows *rows, int first, int last) { fill(dest, type, type->width, rows, first, last); }

void fm_r16_pack(void *dest, const fm_matrix_type *type, const fm_affine_rows *rows, int first, int last) { fill(dest, type, type->bits, rows, first, last); }

void fm_r16_widen(void *dest, const fm_matrix_type *type, const void *packed, int first, int last) {
    size_t groups = (size_t)(type->cols / type->group), words = (size_t)(type->group * type->bits / 32), from_bytes = words * 64 + 64;
    size_t to_bytes = block_bytes(type), to_words = (size_t)(type->group * type->width / 32);
    assert(type->format == FM_FORMAT_R16 && first >= 0 && last <= fm_matrix_n_strips(type));
    if (fm_is_mx(type)) {
        size_t strip_bytes = fm_matrix_strip_bytes(type), begin = (size_t)first * strip_bytes;
        memcpy((uint8_t *)dest + begin, (const uint8_t *)packed + begin, (size_t)(last - first) * strip_bytes);
        return;
    }
    for (size_t i = (size_t)first * groups; i < (size_t)last * groups; i++) {
        const uint8_t *from = (const uint8_t *)packed + i * from_bytes;
        uint8_t *to = (uint8_t *)dest + i * to_bytes;
        if (type->bits == type->width) {
            memcpy(to, from, to_bytes);
            continue;
        }
        uint32_t rows[16][32]; /* at most 128 values of 6 bits are 24 words */
        strip s;
        for (size_t w = 0; w < words; w++) {
            for (size_t r = 0; r < 16; r++) memcpy(&rows[r][w], from + w * 64 + r * 4, 4);
        }
        for (int r = 0; r < 16; r++) s.weight[r] = (const uint8_t *)rows[r];
        group_words(to, &s, 0, (int)to_words, type->bits);
        memcpy(to + to_words * 64, from + words * 64, 64);
    }
}

static float half_at(const uint8_t *p, fm_dtype dtype) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return dtype == FM_BF16 ? fm_from_bf16(h) : fm_from_f16(h);
}

/* A value of at most 8 bits times a scale of at most 11 is exact, so that rounding after the sum alone makes it an fma. */
static inline void r16_row_of(const fm_matrix *matrix, int row, int width, float *out) {
    const fm_matrix_type *t = &matrix->type;
    int n_words = t->group * width / 32, per_word = 32 / width, lane = row % 16;
    uint32_t mask = (1u << width) - 1;
    const uint8_t *block = (const uint8_t *)matrix->data + (size_t)(row / 16) * fm_matrix_strip_bytes(t);
    for (int g = 0; g < t->cols / t->group; g++, block += block_bytes(t)) {
        float scale = half_at(block + n_words * 64 + lane * 2, t->scale_dtype), bias = half_at(block + n_words * 64 + 32 + lane * 2, t->scale_dtype);
        for (int w = 0; w < n_words; w++, out += per_word) {
            uint32_t word;
            memcpy(&word, block + w * 64 + lane * 4, sizeof word);
            for (int i = 0; i < per_word; i++) out[i] = (float)(int32_t)(word >> (i * width) & mask) * scale + bias;
        }
    }
}

static void mx_row(const fm_matrix *matrix, int row, float *out) {
    static const uint8_t table[16] = {FM_MX_TABLE};
    int groups = matrix->type.cols / FM_MX_GROUP, lane = row % 16;
    const uint8_t *block = (const uint8_t *)matrix->data + (size_t)(row / 16) * fm_matrix_strip_bytes(&matrix->type);
    for (int g = 0, parts; g < groups; g += parts, block += parts * 256 + 64) {
        parts = groups - g < FM_MX_GROUPS ? groups - g : FM_MX_GROUPS;
        for (int part = 0; part < parts; part++) {
            int power = block[parts * 256 + part * 16 + lane];
            uint32_t bits = power < 2 ? 0 : (uint32_t)(power - 1) << 23, word;
            float scale;
            memcpy(&scale, &bits, sizeof scale);
            for (int w = 0; w < 4; w++) {
                memcpy(&word, block + part * 256 + w * 64 + lane * 4, sizeof word);
                for (int i = 0; i < 8; i++) *out++ = (float)(table[word >> (i * 4) & 15] - 12) * scale;
            }
        }
    }
}

static void r16_row(const fm_matrix *matrix, int row, float *out) {
    if (fm_is_mx(&matrix->type)) {
        mx_row(matrix, row, out);
        return;
    }
    switch (matrix->type.width) { /* each with width a constant */
    case 2: r16_row_of(matrix, row, 2, out); break;
    case 4: r16_row_of(matrix, row, 4, out); break;
    default: r16_row_of(matrix, row, 8, out);
    }
}

void fm_f8_fill_row(void *dest, int cols, const void *values, const void *scales) {
    size_t n = (size_t)cols, padded = fm_f8_values_bytes(cols);
    memcpy(dest, values, n);
    memset((uint8_t *)dest + n, 0, padded - n);
    memcpy((uint8_t *)dest + padded, scales, (size_t)fm_f8_n_scales(cols) * sizeof(float));
}

/* e4m3: the same bits at f32's places with its exponent's bias; denormals by way of a whole number. No branches: it is a vector's work. */
static inline float from_f8(uint8_t x) {
    uint32_t size = x & 0x7f, bits = (size << 20) + ((127u - 7) << 23);
    float normal, tiny = (float)(int32_t)size * 0x1p-9F;
    memcpy(&normal, &bits, sizeof normal);
    normal = size < 8 ? tiny : normal;
    return x & 0x80 ? -normal : normal;
}

static void f8_row(const uint8_t *row, int cols, float *out) {
    const uint8_t *scales = row + fm_f8_values_bytes(cols);
    for (int first = 0; first < cols; first += FM_F8_BLOCK, scales += sizeof(float)) {
        int end = cols - first < FM_F8_BLOCK ? cols : first + FM_F8_BLOCK;
        float scale;
        memcpy(&scale, scales, sizeof scale);
        for (int c = first; c < end; c++) out[c] = from_f8(row[c]) * scale;
    }
}

void fm_matrix_row(const fm_matrix *matrix, int row, float *out) {
    const fm_matrix_type *t = &matrix->type;
    assert(row >= 0 && row < t->rows);
    if (t->format == FM_FORMAT_R16) {
        r16_row(matrix, row, out);
        return;
    }
    const uint8_t *p = (const uint8_t *)matrix->data + (size_t)row * fm_matrix_strip_bytes(t);
    if (t->format == FM_FORMAT_F32) {
        memcpy(out, p, (size_t)t->cols * sizeof *out);
        return;
    }
    if (t->format == FM_FORMAT_F8) {
        f8_row(p, t->cols, out);
        return;
    }
    for (int c = 0; c < t->cols; c++) out[c] = half_at(p + 2 * c, t->format == FM_FORMAT_BF16 ? FM_BF16 : FM_F16);
}

/* Whether any of n values has all exponent bits set. Whole runs are tested before a single value is looked at, so that the compiler can use vectors. */
static bool any_halves(const uint8_t *p, size_t n, uint16_t exponent) {
    uint16_t found = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t x;
        memcpy(&x, p + 2 * i, sizeof x);
        found |= (uint16_t)((x & exponent) == exponent);
    }
    return found;
}

static bool any_floats(const uint8_t *p, size_t n) {
    uint32_t found = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t x;
        memcpy(&x, p + 4 * i, sizeof x);
        found |= (uint32_t)((x & 0x7f800000) == 0x7f800000);
    }
    return found;
}

static bool any_scales(const uint8_t *p, size_t n) {
    uint8_t found = 0;
    for (size_t i = 0; i < n; i++) found |= (uint8_t)(p[i] >= FM_MX_SCALES);
    return found;
}

static bool any_f8(const uint8_t *p, size_t n) {
    uint8_t found = 0;
    for (size_t i = 0; i < n; i++) found |= (uint8_t)((p[i] & 0x7f) == 0x7f);
    return found;
}

static bool any(const uint8_t *data, fm_dtype dtype, uint64_t first, size_t n) {
    if (dtype == FM_U8) return any_scales(data + first, n);
    if (dtype == FM_F8_E4M3) return any_f8(data + first, n);
    if (dtype == FM_F32) return any_floats(data + first * 4, n);
    return any_halves(data + first * 2, n, dtype == FM_BF16 ? 0x7f80 : 0x7c00);
}

int64_t fm_find_nonfinite(const void *data, fm_dtype dtype, uint64_t n) {
    enum { RUN = 1024 };
    assert(dtype == FM_F32 || dtype == FM_F16 || dtype == FM_BF16 || dtype == FM_F8_E4M3 || dtype == FM_U8);
    for (uint64_t i = 0; i < n; i += RUN) {
        size_t count = n - i < RUN ? (size_t)(n - i) : RUN;
        if (!any(data, dtype, i, count)) continue;
        while (!any(data, dtype, i, 1)) i++;
        return (int64_t)i;
    }
    return -1;
}
