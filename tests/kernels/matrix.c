/* Quantising and products of matrices on every instruction set against scalar, bit by bit. With --bench it times them instead. */
#include "bench.h"
#include "kernels_test.h"

static const fm_kernels *tables[MAX_TABLES];
static int n_tables;

/* One product to compute with every table. */
typedef struct product {
    fm_matrix matrix;
    int first, last; /* strips or rows */
    const float *x;
    size_t ldx;
    const fm_act8 *act; /* for mul_r16_i8, else NULL */
    const int32_t *tokens;
    int n;
} product;

static void multiply(const fm_kernels *k, const product *p, float *y, size_t ldy) {
    if (p->matrix.type.format != FM_FORMAT_R16) {
        k->mul_float(&p->matrix, p->first, p->last, p->x, p->ldx, p->tokens, p->n, y, ldy);
    } else if (p->act) {
        k->mul_r16_i8(&p->matrix, p->first, p->last, p->act, p->tokens, p->n, y, ldy);
    } else {
        k->mul_r16_f32(&p->matrix, p->first, p->last, p->x, p->ldx, p->tokens, p->n, y, ldy);
    }
}

/* Outputs have room between the rows, which must stay as it was. */
static void check_product(const product *p) {
    const fm_matrix_type *t = &p->matrix.type;
    size_t ldy = (size_t)t->rows + 5, bytes = (size_t)p->n * ldy * sizeof(float);
    float *want = allocate(bytes), *got = allocate(bytes);
    memset(want, 0x5a, bytes);
    multiply(&fm_kernels_scalar, p, want, ldy);
    int per = t->format == FM_FORMAT_R16 ? 16 : 1;
    for (size_t i = 0; i < (size_t)p->n * ldy; i++) {
        int row = (int)(i % ldy);
        bool inside = row >= p->first * per && row < p->last * per && row < t->rows;
        uint32_t bits;
        memcpy(&bits, want + i, sizeof bits);
        CHECK(inside == (bits != 0x5a5a5a5a), "scalar: row %d, rows %d, first %d, last %d", row, t->rows, p->first, p->last);
    }
    for (int k = 0; k < n_tables; k++) {
        memset(got, 0x5a, bytes);
        multiply(tables[k], p, got, ldy);
        SAME(got, want, (size_t)p->n * ldy, "%s: format %d rows %d cols %d width %d group %d scales %d first %d last %d n %d int8 %d", tables[k]->name,
             (int)t->format, t->rows, t->cols, t->width, t->group, (int)t->scale_dtype, p->first, p->last, p->n, p->act != NULL);
    }
    free(want);
    free(got);
}

/* The product of int8 and of f32 activations; n_x vectors, of which n are taken by tokens. */
static void check_r16(const fm_matrix *m, int n, int n_x, int kind, bool listed) {
    const fm_matrix_type *t = &m->type;
    float *x = new_vector(n_x * t->cols, kind);
    int32_t *tokens = allocate((size_t)n * sizeof *tokens);
    for (int i = 0; i < n; i++) tokens[i] = random_below(n_x);
    fm_act8 act = new_act8(&fm_kernels_scalar, x, n_x, t->cols, t->group < 64 ? t->group : 64, t->width);
    int n_strips = fm_matrix_n_strips(t), first = random_below(n_strips), last = first + 1 + random_below(n_strips - first);
    product p = {.matrix = *m, .first = first, .last = last, .x = x, .ldx = (size_t)t->cols, .tokens = listed ? tokens : NULL, .n = n};
    check_product(&p);
    p.act = &act;
    check_product(&p);
    p.first = 0;
    p.last = n_strips;
    check_product(&p);
    free_act8(&act);
    free(tokens);
    free(x);
}

static void check_all_r16(void) {
    static const int widths[] = {2, 4, 8}, groups[] = {32, 64, 128}, rows[] = {1, 15, 16, 17, 33, 64};
    for (int i = 0; i < 18; i++) {
        int width = widths[i % 3], group = groups[i / 3 % 3];
        bool f16 = i >= 9;
        for (int j = 0; j < 12; j++) {
            fm_matrix m = new_r16(rows[j % 6], group * (1 + random_below(4)), width, group, f16, RANDOM_BITS);
            int n = j < 6 ? 1 + j : random_below(18);
            check_r16(&m, n, n + 1, NORMAL, j % 2);
            free_matrix(&m);
        }
    }
    for (int n = 1; n <= 17; n++) {
        for (int i = 0; i < 3; i++) {
            fm_matrix m = new_r16(48, 256, widths[i], 64, false, RANDOM_BITS);
            check_r16(&m, n, n < 3 ? n : 3, WIDE, true);
            free_matrix(&m);
        }
    }
    fm_matrix m = new_r16(40, 2048, 4, 64, false, RANDOM_BITS);
    check_r16(&m, 3, 3, NORMAL, false);
    free_matrix(&m);
    /* Batches: more than one block of tiles each way, and what is left over. */
    for (int i = 0; i < 36; i++) {
        m = new_r16(1 + random_below(70), groups[i / 3 % 3] * (1 + random_below(6)), widths[i % 3], groups[i / 3 % 3], i % 2, RANDOM_BITS);
        int n = 14 + random_below(i % 4 ? 30 : 130);
        check_r16(&m, n, n + 3, i % 5 ? NORMAL : WIDE, i / 9 % 2);
        free_matrix(&m);
    }
}

/* mxfp4: every number of groups in the last block, rows, tokens, and all of the above. */
static void check_mx(void) {
    for (int i = 0; i < 60; i++) {
        fm_matrix m = new_mx(1 + random_below(70), FM_MX_GROUP * (1 + i % 9), i % N_WEIGHTS);
        check_r16(&m, 1 + i % 18, 18, i / 6 % N_VECTORS, i % 2);
        free_matrix(&m);
    }
    for (int i = 0; i < 12; i++) {
        fm_matrix m = new_mx(1 + random_below(70), FM_MX_GROUP * (1 + i), i % 3 ? RANDOM_BITS : ALL_ONE);
        int n = 14 + random_below(i % 4 ? 30 : 130);
        check_r16(&m, n, n + 3, i % 5 ? NORMAL : ALTERNATING, i / 9 % 2);
        free_matrix(&m);
    }
}

/* The greatest weights against the greatest activations of either sign, and the like: what saturates 16-bit sums, if anything does. */
static void check_corners(void) {
    static const int widths[] = {2, 4, 8}, groups[] = {32, 64, 128};
    for (int i = 0; i < 9; i++) {
        for (int weights = 0; weights < N_WEIGHTS; weights++) {
            for (int kind = 0; kind < N_VECTORS; kind++) {
                fm_matrix m = new_r16(20, groups[i / 3] * 2, widths[i % 3], groups[i / 3], weights == SMALL_SCALES || kind % 2, weights);
                check_r16(&m, 1 + kind % 5, 5, kind, false);
                check_r16(&m, 16 + kind, 16 + kind, kind, false);
                free_matrix(&m);
            }
        }
    }
}

/* int8 values that quantize does not give together: every combination of extremes in a tuple. */
static void check_extremes(void) {
    static const int widths[] = {2, 4, 8, 4};
    for (int i = 0; i < 4; i++) {
        fm_matrix m = i == 3 ? new_mx(16, 128, ALL_ONE) : new_r16(16, 128, widths[i], 64, false, ALL_ONE);
        float *x = new_vector(16 * 128, NORMAL);
        fm_act8 act = new_act8(&fm_kernels_scalar, x, 16, 128, i == 3 ? FM_MX_GROUP : 64, widths[i]);
        for (int j = 0; j < 16 * 128; j++) act.q[j] = (j / 128) >> (j % 4) & 1 ? -128 : 127;
        product p = {.matrix = m, .last = 1, .x = x, .act = &act, .n = 16};
        check_product(&p);
        free_act8(&act);
        free(x);
        free_matrix(&m);
    }
}

static void check_float(int rows, int cols, int n, fm_format format, int kind) {
    fm_matrix m = new_float(rows, cols, format, kind == HUGE_ ? NORMAL : kind);
    size_t ldx = (size_t)cols + 3;
    float *x = allocate(((size_t)n * ldx + 1) * sizeof *x);
    fill_vector(x, n * (int)ldx + 1, kind);
    int32_t *tokens = allocate((size_t)n * sizeof *tokens);
    for (int i = 0; i < n; i++) tokens[i] = random_below(n);
    int first = random_below(rows);
    product p = {
        .matrix = m, .first = first, .last = first + 1 + random_below(rows - first), .x = x + 1, .ldx = ldx, .tokens = cols % 2 ? tokens : NULL, .n = n};
    check_product(&p);
    free(tokens);
    free(x);
    free_matrix(&m);
}

static void check_floats(void) {
    static const fm_format formats[] = {FM_FORMAT_F32, FM_FORMAT_F16, FM_FORMAT_BF16};
    for (int i = 0; i < 3; i++) {
        for (int cols = 1; cols <= 131; cols++) check_float(1 + cols % 5, cols, 1 + cols % 9, formats[i], cols % N_VECTORS);
        check_float(3, 2048, 1, formats[i], NORMAL);
        check_float(2, 2048, 6, formats[i], WIDE);
        check_float(4, 777, 2, formats[i], WIDE);
    }
}

/* Every value of a 16-bit format goes through a matrix of one column: bits, infinities and NaN included. */
static void check_halves(void) {
    static const fm_format formats[] = {FM_FORMAT_F16, FM_FORMAT_BF16};
    uint16_t *all = allocate(65536 * sizeof *all);
    for (int i = 0; i < 65536; i++) all[i] = (uint16_t)i;
    float one = 1;
    for (int i = 0; i < 2; i++) {
        product p = {.matrix = {.type = {.format = formats[i], .rows = 65536, .cols = 1}, .data = all}, .last = 65536, .x = &one, .ldx = 1, .n = 1};
        check_product(&p);
    }
    free(all);
}

/* Every byte, and scales of all sizes, against w = value * scale in doubles, rounded once. */
static void check_f8(int rows, int cols, int n) {
    fm_matrix_type type = {.format = FM_FORMAT_F8, .rows = rows, .cols = cols};
    size_t row_bytes = fm_matrix_strip_bytes(&type), ldx = (size_t)cols + 3;
    uint8_t *data = allocate((size_t)rows * row_bytes);
    uint8_t *values = allocate((size_t)cols);
    float *scales = allocate((size_t)fm_f8_n_scales(cols) * sizeof *scales), *x = new_vector(n * (int)ldx, NORMAL), *got = allocate((size_t)cols * sizeof *got);
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < fm_f8_n_scales(cols); i++) scales[i] = random_normal() * ldexpf(1, random_below(20) - 12);
        for (int c = 0; c < cols; c++) {
            values[c] = (uint8_t)random_below(256);
            if ((values[c] & 0x7f) == 0x7f) values[c]--;
        }
        fm_f8_fill_row(data + (size_t)r * row_bytes, cols, values, scales);
        fm_matrix_row(&(fm_matrix){type, data}, r, got);
        for (int c = 0; c < cols; c++) {
            int e = values[c] >> 3 & 15, m = values[c] & 7;
            double v = (e ? ldexp(8 + m, e - 10) : ldexp(m, -9)) * (values[c] & 128 ? -1 : 1);
            float want = (float)(v * (double)scales[c / 128]);
            SAME(got + c, &want, 1, "byte %02x times %g", values[c], (double)scales[c / 128]);
        }
    }
    product p = {.matrix = {type, data}, .first = random_below(rows), .last = rows, .x = x, .ldx = ldx, .n = n};
    check_product(&p);
    free(data);
    free(values);
    free(scales);
    free(x);
    free(got);
}

static void check_all_f8(void) {
    for (int cols = 1; cols <= 300; cols += cols < 140 ? 1 : 11) check_f8(1 + cols % 5, cols, 1 + cols % 9);
    check_f8(3, 2048, 1);
    check_f8(4, 1000, 6);
    for (int n = 31; n < 36; n++) check_f8(n % 5 + 1, 40 * n + n % 3, n); /* rows that are made f32 first */
    check_f8(3, 4096, 33);
    check_f8(3, 4097, 33);
}

static void check_quantize(const float *x, int cols, int group, int width) {
    size_t groups = (size_t)(cols / group), n = (size_t)cols;
    int8_t *q[2] = {allocate(n), allocate(n)};
    float *scale[2] = {allocate(groups * 4), allocate(groups * 4)}, *sum[2] = {allocate(groups * 4), allocate(groups * 4)};
    fm_kernels_scalar.quantize(x, cols, group, width, q[0], scale[0], sum[0]);
    for (int k = 0; k < n_tables; k++) {
        tables[k]->quantize(x, cols, group, width, q[1], scale[1], sum[1]);
        CHECK(!memcmp(q[0], q[1], n), "%s: cols %d group %d width %d", tables[k]->name, cols, group, width);
        SAME(scale[1], scale[0], groups, "%s: scale", tables[k]->name);
        SAME(sum[1], sum[0], groups, "%s: sum", tables[k]->name);
    }
    for (int i = 0; i < 2; i++) {
        free(q[i]);
        free(scale[i]);
        free(sum[i]);
    }
}

static void check_all_quantize(void) {
    static const float bad[] = {NAN, INFINITY, -INFINITY, -NAN};
    for (int i = 0; i < 18 * N_VECTORS; i++) {
        int width = 2 << (i % 3), group = i / 3 % 2 ? 64 : 32, cols = group * (1 + i / 6 % 3 * 5);
        float *x = new_vector(cols, i / 18);
        check_quantize(x, cols, group, width);
        x[random_below(cols)] = bad[i % 4];
        check_quantize(x, cols, group, width);
        free(x);
    }
    float halves[64] = {127}; /* ties */
    for (int i = 1; i < 64; i++) halves[i] = (float)i - 31.5f;
    check_quantize(halves, 64, 64, 4);
    check_quantize(halves, 64, 32, 8);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--bench")) return bench(argc > 2 ? argv[2] : NULL, argc > 3 ? argv[3] : NULL);
    n_tables = tables_to_test(tables);
    for (int flush = 0; flush < 2; flush++) {
        unsigned long mode = flush ? fm_pool_enter() : 0;
        check_all_quantize();
        check_all_r16();
        check_mx();
        check_corners();
        check_extremes();
        check_floats();
        check_halves();
        check_all_f8();
        if (flush) fm_pool_leave(mode);
    }
    return TEST_END();
}
