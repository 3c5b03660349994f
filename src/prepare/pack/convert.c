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

size_t fm_convert_scratch(const fm_matrix_type *from) { return scratch_strip(from) + align((FM_STRIP + 1) * (size_t)from->cols * sizeof(float)); }

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
    if (from->packed) {
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

int fm_convert(const fm_rows *from, const fm_target *to, const float *importance, const int rows[2], uint8_t *scratch, uint8_t *const out[3],
               fm_deviation *sum) {
    int n = rows[1] - rows[0], cols = from->type->cols, bad = -1;
    float *values = (float *)(void *)(scratch + scratch_strip(from->type)), *back = values + (size_t)FM_STRIP * (size_t)cols; /* [n][cols], [cols] */
    fm_matrix m = strip_matrix(from, rows[0], n, scratch);
    fm_quantiser q = {to->type, to->fn, importance};
    assert(to->made && n <= FM_STRIP && rows[0] % FM_STRIP == 0);
    for (int i = 0; i < n; i++) fm_matrix_row(&m, i, values + (size_t)i * (size_t)cols);
    if (to->type.format == FM_FORMAT_R16) {
        bad = fm_quantise_rows(&q, values, n, out, sum);
        return bad < 0 ? -1 : rows[0] + bad;
    }
    for (int i = 0; i < n; i++) {
        const float *row = values + (size_t)i * (size_t)cols;
        uint8_t *to_row = out[0] + (size_t)i * fm_row_bytes(&to->type, 0);
        round_row(row, back, cols, to_row);
        fm_deviation_measure(sum, row, back, (size_t)cols);
        if (bad < 0 && fm_find_nonfinite(to_row, FM_BF16, (uint64_t)cols) >= 0) bad = rows[0] + i;
    }
    return bad;
}
