/* prepare/pack/convert.c: see convert.h. Whatever the source is, its weights are what the engine would compute with: they are read through the engine's own layout. */
#include "prepare/pack/convert.h"

#include <assert.h>
#include <stdio.h>

#include "formats/pack.h"

size_t fm_row_bytes(const fm_matrix_type *type, int part) { return fm_matrix_row_bytes(type, part); }

void fm_type_text(char text[32], const fm_matrix_type *type) {
    static const char *const names[] = {[FM_FORMAT_F32] = "f32", [FM_FORMAT_F16] = "f16", [FM_FORMAT_BF16] = "bf16", [FM_FORMAT_F8] = "fp8"};
    if (fm_is_mx(type))
        snprintf(text, 32, "mxfp4");
    else if (type->format == FM_FORMAT_R16)
        snprintf(text, 32, "%d-bit group %d", type->bits, type->group);
    else
        snprintf(text, 32, "%s", names[type->format]);
}

static size_t align(size_t n) { return (n + 63) / 64 * 64; }

static size_t scratch_strip(const fm_matrix_type *from) {
    if (from->format == FM_FORMAT_F8) return align(FM_STRIP * fm_matrix_strip_bytes(from));
    return from->format == FM_FORMAT_R16 ? align(fm_matrix_strip_bytes(from)) : 0;
}

static void gather_f8(const fm_rows *from, int first, int n, uint8_t *scratch) {
    size_t cols = (size_t)from->type->cols, n_scales = (size_t)fm_f8_n_scales(from->type->cols);
    for (int i = first; i < first + n; i++, scratch += fm_matrix_strip_bytes(from->type)) {
        const uint8_t *scales = from->parts[1] + (size_t)((from->first_row + i) / FM_F8_BLOCK) * n_scales * sizeof(float);
        fm_f8_fill_row(scratch, from->type->cols, from->parts[0] + (size_t)i * cols, scales);
    }
}

/* Behind the source's strip: 16 rows and one more as numbers; by rows, the strip that was made, which is less than 5 rows of numbers. */
size_t fm_convert_scratch(const fm_matrix_type *from) { return scratch_strip(from) + align((FM_STRIP + 6) * (size_t)from->cols * sizeof(float)); }

/* One strip in the engine's layout, for fm_matrix_row. */
static fm_matrix strip_matrix(const fm_rows *from, int first, int n, uint8_t *scratch) {
    fm_matrix m = {*from->type, NULL};
    size_t weight = fm_row_bytes(from->type, 0), halves = fm_row_bytes(from->type, 1);
    m.type.rows = n;
    if (m.type.format == FM_FORMAT_F8 && from->packed) weight = fm_matrix_strip_bytes(from->type);
    if (m.type.format != FM_FORMAT_R16 && (m.type.format != FM_FORMAT_F8 || from->packed)) {
        m.data = from->parts[0] + (size_t)first * weight;
        return m;
    }
    m.data = scratch;
    if (m.type.format == FM_FORMAT_F8) {
        gather_f8(from, first, n, scratch);
        return m;
    }
    if (from->packed && m.type.bits == m.type.width) {
        m.data = from->parts[0] + (size_t)first / FM_STRIP * fm_matrix_strip_bytes(&m.type);
    } else if (from->packed) {
        fm_r16_widen(scratch, &m.type, from->parts[0] + (size_t)first / FM_STRIP * fm_pack_matrix_bytes(&m.type), 0, 1);
    } else {
        const fm_affine_rows rows = {.weight = from->parts[0] + (size_t)first * weight,
                                     .scales = from->parts[1] + (size_t)first * halves,
                                     .biases = from->parts[2] ? from->parts[2] + (size_t)first * halves : NULL};
        fm_r16_fill(scratch, &m.type, &rows, 0, 1);
    }
    return m;
}

/* One row to bf16. */
static void round_row(const float *row, float *back, int cols, uint8_t *out) {
    for (int c = 0; c < cols; c++) {
        uint16_t half = fm_to_bf16(row[c]);
        memcpy(out + 2 * c, &half, 2);
        back[c] = fm_from_bf16(half);
    }
}

static float *numbers(const fm_rows *from, uint8_t *scratch) { return (float *)(void *)(scratch + scratch_strip(from->type)); }

static int quantise(const fm_matrix *m, const fm_target *to, const float *importance, float *values, uint8_t *out, fm_deviation *sum) {
    const fm_matrix_type *from = &m->type, *t = &to->type;
    fm_strip s = {.n_rows = from->rows, .cols = from->cols, .bits = t->bits, .group = t->group, .f16 = t->scale_dtype == FM_F16};
    s.search = to->search;
    s.importance = importance;
    s.out = out;
    if (from->format == FM_FORMAT_R16 && !fm_is_mx(from)) {
        s.blocks = m->data;
        s.from_width = from->width;
        s.from_group = from->group;
        s.from_f16 = from->scale_dtype == FM_F16;
    } else {
        s.rows = values;
        for (int i = 0; i < from->rows; i++) fm_matrix_row(m, i, values + (size_t)i * (size_t)from->cols);
    }
    to->fn(&s);
    fm_deviation_add(sum, &(fm_deviation){(double)from->rows * from->cols, s.sums[0], s.sums[1], s.sums[2], s.sums[3]});
    return s.bad;
}

int fm_convert(const fm_rows *from, const fm_target *to, const float *importance, const int rows[2], uint8_t *scratch, uint8_t *out, fm_deviation *sum) {
    int n = rows[1] - rows[0], cols = from->type->cols, bad = -1;
    float *values = numbers(from, scratch), *back = values + cols;
    fm_matrix m = strip_matrix(from, rows[0], n, scratch);
    assert(to->made && n <= FM_STRIP && rows[0] % FM_STRIP == 0);
    if (to->type.format == FM_FORMAT_R16) {
        bad = quantise(&m, to, importance, values, out, sum);
        return bad < 0 ? -1 : rows[0] + bad;
    }
    for (int i = 0; i < n; i++, out += fm_row_bytes(&to->type, 0)) {
        fm_matrix_row(&m, i, values);
        round_row(values, back, cols, out);
        fm_deviation_measure(sum, values, back, (size_t)cols);
        if (bad < 0 && fm_find_nonfinite(out, FM_BF16, (uint64_t)cols) >= 0) bad = rows[0] + i;
    }
    return bad;
}

/* A strip as pack.h has it, by rows. */
static void unpack(const fm_matrix_type *t, const uint8_t *strip, int n_rows, uint8_t *const out[3]) {
    size_t groups = (size_t)(t->cols / t->group), n_words = (size_t)(t->group * t->bits / 32), halves = fm_row_bytes(t, 1);
    for (size_t r = 0; r < (size_t)n_rows; r++) {
        const uint8_t *block = strip;
        uint8_t *values = out[0] + r * fm_row_bytes(t, 0);
        for (size_t g = 0; g < groups; g++, block += n_words * 64 + 64, values += n_words * 4) {
            for (size_t w = 0; w < n_words; w++) memcpy(values + w * 4, block + w * 64 + r * 4, 4);
            memcpy(out[1] + r * halves + g * 2, block + n_words * 64 + r * 2, 2);
            memcpy(out[2] + r * halves + g * 2, block + n_words * 64 + 32 + r * 2, 2);
        }
    }
}

int fm_convert_rows(const fm_rows *from, const fm_target *to, const float *importance, const int rows[2], uint8_t *scratch, uint8_t *const out[3],
                    fm_deviation *sum) {
    uint8_t *strip = (uint8_t *)(numbers(from, scratch) + FM_STRIP * (size_t)from->type->cols);
    if (to->type.format != FM_FORMAT_R16) return fm_convert(from, to, importance, rows, scratch, out[0], sum);
    int bad = fm_convert(from, to, importance, rows, scratch, strip, sum);
    unpack(&to->type, strip, rows[1] - rows[0], out);
    return bad;
}
