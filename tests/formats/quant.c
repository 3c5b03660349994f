/* r16: what an independent MLX packer wrote, bit by bit, must lie where quant.h says and read back as q * scale + bias. */
#include "formats/quant.h"

#include <math.h>

#include "test.h"

/* A matrix as MLX stores it: rows of an LSB-first stream of bits, each row of whole words. Every array is exactly as long as its contents, for the sanitizers. */
typedef struct source {
    uint8_t *weight, *scales, *biases; /* each at an odd address */
    uint8_t *q;                        /* [rows][cols], one value a byte */
    uint8_t *owned[3];
} source;

static uint8_t *odd(uint8_t **owned, size_t bytes) {
    *owned = calloc(bytes + 1, 1);
    return *owned + 1;
}

static source source_make(int rows, int cols, int bits, int group, uint64_t *seed) {
    source s;
    size_t row_bytes = (size_t)cols * (size_t)bits / 8, n_groups = (size_t)rows * (size_t)(cols / group);
    s.weight = odd(&s.owned[0], row_bytes * (size_t)rows);
    s.scales = odd(&s.owned[1], n_groups * 2);
    s.biases = odd(&s.owned[2], n_groups * 2);
    s.q = malloc((size_t)rows * (size_t)cols);
    for (int r = 0; r < rows; r++) {
        for (int c = 0; c < cols; c++) {
            int value = (int)(test_random(seed) % (1u << bits));
            s.q[r * cols + c] = (uint8_t)value;
            for (int b = 0; b < bits; b++) {
                size_t at = (size_t)c * (size_t)bits + (size_t)b;
                if (value >> b & 1) s.weight[(size_t)r * row_bytes + at / 8] |= (uint8_t)(1 << at % 8);
            }
        }
    }
    for (size_t i = 0; i < n_groups * 2; i++) {
        /* any sign and mantissa, exponents that are finite in bf16 and in f16 */
        s.scales[i] = (uint8_t)(i % 2 ? (test_random(seed) & 0x80) | (0x38 + test_random(seed) % 4) : test_random(seed));
        s.biases[i] = (uint8_t)(i % 2 ? (test_random(seed) & 0x80) | (0x39 + test_random(seed) % 4) : test_random(seed));
    }
    return s;
}

static void source_close(source *s) {
    for (int i = 0; i < 3; i++) free(s->owned[i]);
    free(s->q);
}

static float half_value(uint16_t h, bool bf16) {
    int mantissa_bits = bf16 ? 7 : 10, exponent_bits = 15 - mantissa_bits, mask = (1 << exponent_bits) - 1, exponent = h >> mantissa_bits & mask;
    int mantissa = h & ((1 << mantissa_bits) - 1), shift = (mask >> 1) + mantissa_bits;
    double v = exponent == mask ? (mantissa ? (double)NAN : (double)INFINITY)
               : exponent       ? ldexp(mantissa + (1 << mantissa_bits), exponent - shift)
                                : ldexp(mantissa, 1 - shift);
    return (float)(h & 0x8000 ? -v : v);
}

static float half_of(const uint8_t *p, bool bf16) { return half_value((uint16_t)(p[0] | p[1] << 8), bf16); }

typedef struct form {
    int bits, group, rows, cols;
    bool bf16, mapped;
} form;

/* Row `row` of the source must lie at row `to` of the r16 matrix. The place of each value is computed from the definition. */
static void check_row(const fm_matrix *m, const source *s, int row, int to, const form *f) {
    int width = f->bits == 2 ? 2 : f->bits <= 4 ? 4 : 8, n_groups = f->cols / f->group, wrong = 0;
    size_t words = (size_t)(f->group * width / 32), block = words * 64 + 64, strip = block * (size_t)n_groups;
    const uint8_t *base = (const uint8_t *)m->data + (size_t)(to / 16) * strip;
    float *out = malloc((size_t)f->cols * sizeof *out);
    fm_matrix_row(m, to, out);
    for (int c = 0; c < f->cols; c++) {
        int g = c / f->group, per_word = 32 / width, w = c % f->group / per_word;
        const uint8_t *p = base + (size_t)g * block + (size_t)(w * 16 + to % 16) * 4;
        uint32_t word = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        int q = s->q[row * f->cols + c], at = row * n_groups + g;
        const uint8_t *scale = base + (size_t)g * block + words * 64 + (size_t)(to % 16) * 2, *bias = scale + 32;
        float want = fmaf((float)q, half_of(s->scales + 2 * at, f->bf16), half_of(s->biases + 2 * at, f->bf16));
        wrong += (int)(word >> c % per_word * width & ((1u << width) - 1)) != q;
        wrong += memcmp(scale, s->scales + 2 * at, 2) != 0 || memcmp(bias, s->biases + 2 * at, 2) != 0;
        wrong += memcmp(&out[c], &want, sizeof want) != 0;
    }
    CHECK(wrong == 0, "%d-bit group %d, %d x %d: %d of %d values of row %d are wrong", f->bits, f->group, f->rows, f->cols, wrong, 3 * f->cols, to);
    free(out);
}

/* All bytes of rows past the end are 0. */
static void check_padding(const fm_matrix *m, const form *f) {
    size_t strip = fm_matrix_strip_bytes(&m->type), words = (size_t)(f->group * m->type.width / 32), block = words * 64 + 64;
    const uint8_t *last = (const uint8_t *)m->data + (size_t)(fm_matrix_n_strips(&m->type) - 1) * strip;
    int wrong = 0;
    for (int r = (f->rows + 15) % 16 + 1; r < 16; r++) {
        for (size_t b = 0; b < strip; b += block) {
            for (size_t i = 0; i < words * 4; i++) wrong += last[b + i / 4 * 64 + (size_t)r * 4 + i % 4] != 0;
            for (size_t i = 0; i < 2; i++) wrong += last[b + words * 64 + (size_t)r * 2 + i] != 0 || last[b + words * 64 + 32 + (size_t)r * 2 + i] != 0;
        }
    }
    CHECK(wrong == 0, "%d-bit group %d, %d rows: %d bytes of padding are not 0", f->bits, f->group, f->rows, wrong);
}

static void test_form(form f, uint64_t *seed) {
    fm_matrix_type type;
    uint64_t cols = (uint64_t)f.cols;
    MUST(fm_matrix_type_affine(
        &type, "w", &(fm_affine_shape){(uint64_t)f.rows, cols * (uint64_t)f.bits / 32, cols / (uint64_t)f.group, f.bf16 ? FM_BF16 : FM_F16, f.bits, f.group},
        err));
    CHECK(type.rows == f.rows && type.cols == f.cols && type.bits == f.bits && type.group == f.group && type.format == FM_FORMAT_R16, "%d x %d", type.rows,
          type.cols);
    int n_source = f.mapped ? f.rows + 7 : f.rows, n_strips = (f.rows + 15) / 16;
    source s = source_make(n_source, f.cols, f.bits, f.group, seed);
    int32_t *map = malloc((size_t)f.rows * sizeof *map);
    for (int r = 0; r < f.rows; r++) map[r] = f.mapped ? (int32_t)(test_random(seed) % (uint64_t)n_source) : r;
    size_t bytes = fm_matrix_bytes(&type), strip = fm_matrix_strip_bytes(&type);
    CHECK(fm_matrix_n_strips(&type) == n_strips && bytes == strip * (size_t)n_strips, "%zu bytes", bytes);
    uint8_t *data = aligned_alloc(64, bytes);
    memset(data, 0xaa, bytes);
    /* Strip by strip and backwards, which must leave the others alone. */
    for (int i = n_strips - 1; i >= 0; i--) {
        fm_r16_fill(data, &type, &(fm_affine_rows){s.weight, s.scales, s.biases, f.mapped ? map : NULL, 0}, i, i + 1);
        int touched = 0;
        for (size_t b = 0; b < strip * (size_t)i; b++) touched += data[b] != 0xaa;
        CHECK(touched == 0, "filling strip %d wrote %d bytes of those before it", i, touched);
    }
    uint8_t *whole = aligned_alloc(64, bytes);
    fm_r16_fill(whole, &type, &(fm_affine_rows){s.weight, s.scales, s.biases, f.mapped ? map : NULL, 0}, 0, n_strips);
    CHECK(!memcmp(whole, data, bytes), "all strips at once are not what they are one by one");
    fm_matrix m = {.type = type, .data = data};
    for (int r = 0; r < f.rows; r++) check_row(&m, &s, map[r], r, &f);
    check_padding(&m, &f);
    free(whole);
    free(data);
    free(map);
    source_close(&s);
}

static void test_forms(void) {
    static const int bits[] = {2, 3, 4, 5, 6, 8}, groups[] = {32, 64, 128}, rows[] = {1, 15, 16, 17, 40};
    uint64_t seed = 7;
    for (int b = 0; b < 6; b++) {
        for (int g = 0; g < 3; g++) {
            for (int r = 0; r < 5; r++) {
                for (int k = 0; k < 4; k++) test_form((form){bits[b], groups[g], rows[r], groups[g] * (k / 2 ? 5 : 1), k % 2 == 0, k % 2 == 1}, &seed);
            }
        }
    }
}

/* A literal one, so that not everything rests on the packer above: 3 bits, values 0..7 in turn, are the bytes 88 c6 fa; scale 0.5, bias -1. */
static void test_literal(void) {
    uint8_t weight[12];
    for (int i = 0; i < 12; i++) weight[i] = (const uint8_t[]){0x88, 0xc6, 0xfa}[i % 3];
    const uint8_t scale[2] = {0x00, 0x3f}, bias[2] = {0x80, 0xbf};
    fm_matrix_type type;
    MUST(fm_matrix_type_affine(&type, "w", &(fm_affine_shape){1, 3, 1, FM_BF16, 3, 32}, err));
    CHECK(type.width == 4, "width %d", type.width);
    _Alignas(64) uint8_t data[4 * 64 + 64];
    CHECK(fm_matrix_bytes(&type) == sizeof data, "%zu bytes", fm_matrix_bytes(&type));
    fm_r16_fill(data, &type, &(fm_affine_rows){weight, scale, bias, NULL, 0}, 0, 1);
    const uint8_t first[4] = {0x10, 0x32, 0x54, 0x76};
    CHECK(!memcmp(data, first, 4) && !memcmp(data + 192, first, 4), "%02x %02x %02x %02x", data[0], data[1], data[2], data[3]);
    float row[32];
    fm_matrix_row(&(fm_matrix){.type = type, .data = data}, 0, row);
    for (int c = 0; c < 32; c++) CHECK(row[c] == 0.5f * (float)(c % 8) - 1, "column %d is %g", c, (double)row[c]);
}

/* mxfp4: every code in turn, rows in turns with those of another matrix; where each value and scale lies, what is past the end, and by way of the native width. */
static void test_mx(int rows, int groups, int step) {
    static const float table[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    int cols = groups * FM_MX_GROUP, n_strips = (rows + 15) / 16, wrong = 0;
    uint64_t seed = (uint64_t)(rows * 100 + groups);
    uint8_t *weight = malloc((size_t)(rows * step * cols) / 2), *scales = malloc((size_t)(rows * step * groups));
    for (int i = 0; i < rows * step * cols / 2; i++) weight[i] = (uint8_t)test_random(&seed);
    for (int i = 0; i < rows * step * groups; i++) scales[i] = (uint8_t)(test_random(&seed) % FM_MX_SCALES);
    fm_matrix_type type;
    MUST(fm_matrix_type_mxfp4(&type, "w", (uint64_t)rows, (uint64_t)cols, err));
    size_t bytes = fm_matrix_bytes(&type), strip = fm_matrix_strip_bytes(&type);
    CHECK(fm_is_mx(&type) && strip == (size_t)(groups * 256 + (groups + 3) / 4 * 64) && bytes == strip * (size_t)n_strips, "%zu bytes", bytes);
    CHECK(fm_matrix_row_bytes(&type, 0) == (size_t)cols / 2 && fm_matrix_row_bytes(&type, 1) == (size_t)groups && !fm_matrix_row_bytes(&type, 2), "rows");
    uint8_t *data = aligned_alloc(64, bytes), *packed = aligned_alloc(64, bytes), *widened = aligned_alloc(64, bytes);
    const fm_affine_rows from = {.weight = weight, .scales = scales, .step = step};
    memset(data, 0xaa, bytes);
    for (int i = n_strips - 1; i >= 0; i--) fm_r16_fill(data, &type, &from, i, i + 1);
    fm_r16_pack(packed, &type, &from, 0, n_strips);
    fm_r16_widen(widened, &type, packed, 0, n_strips);
    CHECK(!memcmp(data, packed, bytes) && !memcmp(data, widened, bytes), "the native width is another");
    float *row = malloc((size_t)cols * sizeof *row);
    for (int r = 0; r < rows; r++) {
        fm_matrix_row(&(fm_matrix){type, data}, r, row);
        for (int c = 0; c < cols; c++) {
            uint8_t byte = weight[(size_t)(r * step) * (size_t)cols / 2 + (size_t)c / 2], power = scales[r * step * groups + c / FM_MX_GROUP];
            float want = power < 2 ? 0 : table[c % 2 ? byte >> 4 : byte & 15] * ldexpf(1, power - 127);
            wrong += row[c] != want;
        }
    }
    for (int r = rows; r < n_strips * 16; r++) {
        for (int g = 0, parts; g < groups; g += parts) {
            parts = groups - g < FM_MX_GROUPS ? groups - g : FM_MX_GROUPS;
            const uint8_t *block = data + strip * (size_t)(n_strips - 1) + fm_mx_bytes((size_t)g);
            for (int i = 0; i < parts * 16; i++) wrong += block[i / 4 * 64 + r % 16 * 4 + i % 4] != 0;
            for (int i = 0; i < 4; i++) wrong += block[parts * 256 + i * 16 + r % 16] != 0;
        }
    }
    CHECK(wrong == 0, "mxfp4, %d x %d: %d values are wrong", rows, cols, wrong);
    free(weight);
    free(scales);
    free(data);
    free(packed);
    free(widened);
    free(row);
}

static void test_mx_refused(void) {
    static const struct { uint64_t rows, cols; } cases[] = {{0, 32}, {16, 0}, {16, 33}, {16, 48}, {(uint64_t)1 << 31, 32}, {16, (uint64_t)1 << 40}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fm_matrix_type type;
        fm_error e = {0};
        int rc = fm_matrix_type_mxfp4(&type, "layers.3.w", cases[i].rows, cases[i].cols, &e);
        CHECK(rc == FM_EFORMAT && strstr(e.message, "layers.3.w") && strstr(e.message, "mxfp4"), "case %zu: %d: %s", i, rc, e.message);
    }
    uint8_t scales[3000];
    memset(scales, FM_MX_SCALES - 1, sizeof scales);
    CHECK(fm_find_nonfinite(scales, FM_U8, sizeof scales) == -1, "the greatest scale is refused");
    scales[2999] = 255;
    CHECK(fm_find_nonfinite(scales, FM_U8, sizeof scales) == 2999, "NaN is not found");
    scales[1500] = FM_MX_SCALES;
    CHECK(fm_find_nonfinite(scales, FM_U8, sizeof scales) == 1500, "2^121 is not found");
}

static void test_plain_rows(void) {
    float row[3];
    const float f32[6] = {0, 0, 0, 1.5f, -2.25f, 3e-39f};
    const uint16_t bf16[6] = {0, 0, 0, 0x3fc0, 0xc010, 0x0001}, f16[6] = {0, 0, 0, 0x3e00, 0xc080, 0x0001};
    const struct {
        fm_format format;
        const void *data;
        size_t bytes;
        float want[3];
    } cases[] = {{FM_FORMAT_F32, f32, 24, {1.5f, -2.25f, 3e-39f}},
                 {FM_FORMAT_BF16, bf16, 12, {1.5f, -2.25f, 0x1p-133f}},
                 {FM_FORMAT_F16, f16, 12, {1.5f, -2.25f, 0x1p-24f}}};
    for (int i = 0; i < 3; i++) {
        fm_matrix m = {.type = {.format = cases[i].format, .rows = 2, .cols = 3}, .data = cases[i].data};
        fm_matrix_row(&m, 1, row);
        CHECK(!memcmp(row, cases[i].want, sizeof row), "format %d: %g %g %g", i, (double)row[0], (double)row[1], (double)row[2]);
        CHECK(fm_matrix_bytes(&m.type) == cases[i].bytes && fm_matrix_n_strips(&m.type) == 2, "format %d: %zu bytes", i, fm_matrix_bytes(&m.type));
    }
}

static void test_halves(void) {
    int wrong = 0;
    for (int i = 0; i < 65536; i++) {
        float a = fm_from_bf16((uint16_t)i), b = fm_from_f16((uint16_t)i), x = half_value((uint16_t)i, true), y = half_value((uint16_t)i, false);
        wrong += isnan(x) ? !isnan(a) : a != x || signbit(a) != signbit(x);
        wrong += isnan(y) ? !isnan(b) : b != y || signbit(b) != signbit(y);
    }
    CHECK(wrong == 0, "%d of 131072 conversions are wrong", wrong);
}

/* Types that are none: each names the tensor and the numbers. */
static void test_refused(void) {
    static const struct {
        uint64_t rows, weight_cols, scale_cols;
        fm_dtype dtype;
        int bits, group, code;
        const char *says[2];
    } cases[] = {
        {16, 8, 1, FM_BF16, 7, 64, FM_EUNSUPPORTED, {"7 bits", "2, 3, 4, 5, 6 and 8"}},
        {16, 8, 1, FM_BF16, 1, 64, FM_EUNSUPPORTED, {"1 bits", "not supported"}},
        {16, 8, 1, FM_BF16, 0, 64, FM_EUNSUPPORTED, {"0 bits", "not supported"}},
        {16, 8, 1, FM_BF16, -4, 64, FM_EUNSUPPORTED, {"-4 bits", "not supported"}},
        {16, 8, 1, FM_BF16, 4, 16, FM_EUNSUPPORTED, {"groups of 16", "32, 64 and 128"}},
        {16, 8, 1, FM_BF16, 4, 0, FM_EUNSUPPORTED, {"groups of 0", "not supported"}},
        {16, 8, 1, FM_F32, 4, 64, FM_EUNSUPPORTED, {"type F32", "BF16 and F16"}},
        {16, 16, 1, FM_BF16, 4, 64, FM_EFORMAT, {"16 words and 1 scales", "they are 8 bits"}},
        {16, 9, 1, FM_BF16, 4, 64, FM_EFORMAT, {"9 words and 1 scales", "4 bits in groups of 64"}},
        {16, 8, 2, FM_F16, 4, 64, FM_EFORMAT, {"8 words and 2 scales", "they are 2 bits"}},
        {0, 8, 1, FM_BF16, 4, 64, FM_EFORMAT, {"0 rows", "no matrix"}},
        {16, 8, 0, FM_BF16, 4, 64, FM_EFORMAT, {"0 scales", "no matrix"}},
        {(uint64_t)1 << 31, 8, 1, FM_BF16, 4, 64, FM_EFORMAT, {"2147483648 rows", "no matrix"}},
        {16, (uint64_t)1 << 59, (uint64_t)1 << 56, FM_BF16, 4, 64, FM_EFORMAT, {"576460752303423488 words", "no matrix"}},
        {16, ((uint64_t)1 << 59) + 8, 1, FM_BF16, 4, 64, FM_EFORMAT, {"576460752303423496 words", "no matrix"}}, /* times 32 it is 8 once more */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fm_matrix_type type;
        fm_error e = {0};
        int rc = fm_matrix_type_affine(
            &type, "layers.3.w", &(fm_affine_shape){cases[i].rows, cases[i].weight_cols, cases[i].scale_cols, cases[i].dtype, cases[i].bits, cases[i].group},
            &e);
        CHECK(rc == cases[i].code && e.code == rc, "case %zu: %d: %s", i, rc, e.message);
        CHECK(strstr(e.message, "layers.3.w") && strstr(e.message, cases[i].says[0]) && strstr(e.message, cases[i].says[1]), "case %zu: %s", i, e.message);
    }
    CHECK(fm_matrix_type_affine(&(fm_matrix_type){0}, "w", &(fm_affine_shape){16, 8, 1, FM_BF16, 7, 64}, NULL) == FM_EUNSUPPORTED, "without an error");
}

/* By way of the native width is the same as at once. */
static void test_native_width(void) {
    static const int all_bits[] = {2, 3, 4, 5, 6, 8}, groups[] = {32, 64, 128};
    uint64_t seed = 77;
    for (int i = 0; i < 18; i++) {
        int bits = all_bits[i / 3], group = groups[i % 3], rows = 37, cols = 3 * group;
        source s = source_make(rows, cols, bits, group, &seed);
        fm_matrix_type type;
        const fm_affine_shape shape = {(uint64_t)rows, (uint64_t)(cols * bits / 32), (uint64_t)(cols / group), FM_BF16, bits, group};
        MUST(fm_matrix_type_affine(&type, "x", &shape, err));
        size_t bytes = fm_matrix_bytes(&type);
        uint8_t *at_once = aligned_alloc(64, bytes), *native = aligned_alloc(64, bytes), *widened = aligned_alloc(64, bytes);
        const fm_affine_rows from = {s.weight, s.scales, s.biases, NULL, 0};
        memset(native, 0xaa, bytes);
        fm_r16_fill(at_once, &type, &from, 0, fm_matrix_n_strips(&type));
        fm_r16_pack(native, &type, &from, 0, 1); /* in two pieces */
        fm_r16_pack(native, &type, &from, 1, fm_matrix_n_strips(&type));
        fm_r16_widen(widened, &type, native, 0, fm_matrix_n_strips(&type));
        CHECK(!memcmp(at_once, widened, bytes), "%d bits in groups of %d", bits, group);
        free(at_once);
        free(native);
        free(widened);
        source_close(&s);
    }
}

int main(void) {
    test_native_width();
    test_halves();
    test_plain_rows();
    test_literal();
    test_forms();
    test_refused();
    for (int groups = 1; groups < 10; groups++) test_mx(groups % 2 ? 37 : 16 - groups, groups, 1 + groups % 2);
    test_mx_refused();
    return TEST_END();
}
