/* The scalar kernels against what kernels.h says, written out as plainly as can be: where it fixes every rounding the bits must agree, elsewhere the result
 * lies within a tolerance of the same formula in double. */
#include "base/math.h"
#include "kernels_test.h"

static const fm_kernels *k = &fm_kernels_scalar;

/* dot's tree, column by column. */
static float plain_dot(const float *a, const float *b, int n) {
    float sum[4][16] = {{0}}, lane[16];
    for (int c = 0; c < (n + 15) / 16 * 16; c++) {
        float *s = &sum[c / 16 % 4][c % 16];
        *s = fmaf(c < n ? a[c] : 0, c < n ? b[c] : 0, *s);
    }
    for (int i = 0; i < 16; i++) lane[i] = (sum[0][i] + sum[1][i]) + (sum[2][i] + sum[3][i]);
    for (int step = 8; step >= 1; step /= 2) {
        for (int i = 0; i < step; i++) lane[i] += lane[i + step];
    }
    return lane[0];
}

static void check_dot(void) {
    for (int n = 0; n <= 300; n++) {
        float *a = new_vector(n, n % 2 ? WIDE : NORMAL), *b = new_vector(n, NORMAL);
        float got = k->dot(a, b, n), want = plain_dot(a, b, n);
        SAME(&got, &want, 1, "dot of %d", n);
        double exact = 0, size = 0;
        for (int i = 0; i < n; i++) {
            exact += (double)a[i] * (double)b[i];
            size += fabs((double)a[i] * (double)b[i]);
        }
        /* At most n / 64 + 7 roundings, each of half a unit, on any path. */
        CHECK(fabs((double)got - exact) <= size * 0x1p-24 * (n / 64 + 8), "dot of %d: %g, exactly %g", n, (double)got, exact);
        free(a);
        free(b);
    }
}

/* Column that byte `i` of a group's q holds. */
static int column_of(int i, int width) {
    int per_word = 32 / width, word = i / per_word, tuple = i % per_word / 4, byte = i % 4;
    return word * per_word + tuple + byte * (8 / width);
}

static void check_quantize(int width, int group, int kind) {
    int cols = 3 * group;
    float *x = new_vector(cols, kind);
    fm_act8 a = new_act8(k, x, 1, cols, group, width);
    for (int g = 0; g < 3; g++) {
        const float *xs = x + g * group;
        float amax = 0;
        for (int i = 0; i < group; i++) amax = fmaxf(amax, fabsf(xs[i]));
        int sum = 0;
        for (int i = 0; i < group; i++) {
            int q = a.q[g * group + i];
            float want = amax < 1e-30f ? 0 : xs[column_of(i, width)] * (127 / amax);
            CHECK(q == (int)rint((double)want), "q %d of group %d is %d, from %g", i, g, q, (double)want);
            sum += q;
        }
        float scale = amax < 1e-30f ? 0 : amax / 127, want = scale * (float)sum;
        SAME(a.scale + g, &scale, 1, "scale, inputs %d", kind);
        SAME(a.sum + g, &want, 1, "sum, inputs %d", kind);
        for (int i = 0; i < group; i++) {
            double error = fabs((double)(a.scale[g] * (float)a.q[g * group + i]) - (double)xs[column_of(i, width)]);
            CHECK(amax < 1e-30f || error <= 0.5001 * (double)scale, "error %g of scale %g", error, (double)scale);
        }
    }
    free_act8(&a);
    free(x);
}

/* An infinity or NaN makes its group's products NaN, and only its group's. */
static void check_not_finite(void) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        float *x = new_vector(256, NORMAL), y[16];
        x[70 + i] = bad[i];
        fm_act8 a = new_act8(k, x, 1, 256, 64, 4);
        for (int g = 0; g < 4; g++) CHECK(isnan(a.scale[g]) == (g == 1) && isnan(a.sum[g]) == (g == 1), "group %d", g);
        fm_matrix m = new_r16(16, 256, 4, 64, false, ALL_ZERO);
        k->mul_r16_i8(&m, 0, 1, &a, NULL, 1, y, 16);
        for (int r = 0; r < 16; r++) CHECK(isnan(y[r]), "row %d is %g", r, (double)y[r]);
        free_matrix(&m);
        free_act8(&a);
        free(x);
    }
}

/* Row r times token t, from the values in the matrix's words. */
static float plain_i8(const fm_matrix *m, int row, const fm_act8 *a, int t) {
    const fm_matrix_type *type = &m->type;
    int groups = type->cols / a->group, block_bytes = type->group * type->width * 2 + 64;
    const uint8_t *strip = (const uint8_t *)m->data + (size_t)(row / 16) * (size_t)(type->cols / type->group) * (size_t)block_bytes;
    float A = 0, B = 0;
    for (int g = 0; g < groups; g++) {
        const uint8_t *block = strip + (size_t)(g * a->group / type->group) * (size_t)block_bytes;
        int32_t dot = 0;
        for (int i = 0; i < a->group; i++) {
            int c = column_of(i, type->width), in_group = (g * a->group + c) % type->group, bit = in_group * type->width;
            uint32_t word;
            memcpy(&word, block + bit / 32 * 64 + row % 16 * 4, sizeof word);
            dot += (int32_t)(word >> bit % 32 & ((1u << type->width) - 1)) * a->q[t * a->cols + g * a->group + i];
        }
        uint16_t half[2];
        memcpy(&half[0], block + block_bytes - 64 + row % 16 * 2, 2);
        memcpy(&half[1], block + block_bytes - 32 + row % 16 * 2, 2);
        bool f16 = type->scale_dtype == FM_F16;
        float s = f16 ? fm_from_f16(half[0]) : fm_from_bf16(half[0]), b = f16 ? fm_from_f16(half[1]) : fm_from_bf16(half[1]);
        A = fmaf(s * a->scale[t * groups + g], (float)dot, A);
        B = fmaf(b, a->sum[t * groups + g], B);
    }
    return A + B;
}

static void check_r16(int width, int group, bool f16) {
    int rows = 37, cols = 512, n = 3;
    fm_matrix m = new_r16(rows, cols, width, group, f16, RANDOM_BITS);
    float *x = new_vector(n * cols, NORMAL), *w = allocate((size_t)cols * 4), *i8 = allocate((size_t)(n * rows) * 4), *f32 = allocate((size_t)(n * rows) * 4);
    fm_act8 a = new_act8(k, x, n, cols, group < 64 ? group : 64, width);
    static const int32_t tokens[] = {2, 0, 2};
    k->mul_r16_i8(&m, 0, 3, &a, tokens, n, i8, (size_t)rows);
    k->mul_r16_f32(&m, 0, 3, x, (size_t)cols, tokens, n, f32, (size_t)rows);
    double error = 0, size = 0;
    for (int t = 0; t < n; t++) {
        for (int r = 0; r < rows; r++) {
            fm_matrix_row(&m, r, w);
            float acc = 0, int8 = plain_i8(&m, r, &a, tokens[t]);
            double exact = 0;
            for (int c = 0; c < cols; c++) {
                float xc = x[tokens[t] * cols + c];
                acc = fmaf(w[c], xc, acc);
                exact += (double)w[c] * (double)xc;
            }
            SAME(f32 + t * rows + r, &acc, 1, "f32: width %d group %d f16 %d token %d row %d", width, group, f16, t, r);
            SAME(i8 + t * rows + r, &int8, 1, "i8: width %d group %d f16 %d token %d row %d", width, group, f16, t, r);
            error += pow((double)i8[t * rows + r] - exact, 2);
            size += exact * exact;
        }
    }
    CHECK(sqrt(error / size) < 0.02, "int8 activations: relative error %g, width %d, group %d", sqrt(error / size), width, group);
    free_act8(&a);
    free(x);
    free(w);
    free(i8);
    free(f32);
    free_matrix(&m);
}

/* mxfp4, from the words and scales. The values themselves are exact. */
static void check_mx(int groups) {
    static const double table[16] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6};
    int rows = 19, cols = groups * FM_MX_GROUP, n = 2;
    fm_matrix m = new_mx(rows, cols, RANDOM_BITS);
    float *x = new_vector(n * cols, NORMAL), *w = allocate((size_t)cols * 4), i8[2 * 19], f32[2 * 19];
    fm_act8 a = new_act8(k, x, n, cols, FM_MX_GROUP, 4);
    k->mul_r16_i8(&m, 0, 2, &a, NULL, n, i8, (size_t)rows);
    k->mul_r16_f32(&m, 0, 2, x, (size_t)cols, NULL, n, f32, (size_t)rows);
    for (int i = 0; i < n * rows; i++) {
        int t = i / rows, r = i % rows;
        const uint8_t *strip = (const uint8_t *)m.data + (size_t)(r / 16) * fm_mx_bytes((size_t)groups);
        float acc = 0, A = 0, B = 0;
        fm_matrix_row(&m, r, w);
        for (int g = 0; g < groups; g++) {
            int first = g / FM_MX_GROUPS * FM_MX_GROUPS, parts = groups - first < FM_MX_GROUPS ? groups - first : FM_MX_GROUPS, dot = 0;
            const uint8_t *block = strip + fm_mx_bytes((size_t)first);
            int power = block[parts * 256 + (g - first) * 16 + r % 16];
            float s = ldexpf(1, power - 128);
            for (int c = 0; c < FM_MX_GROUP; c++) {
                int q = block[(g - first) * 256 + c / 8 * 64 + r % 16 * 4 + c % 8 / 2] >> (c % 2 * 4) & 15;
                CHECK(w[g * FM_MX_GROUP + c] == (float)(table[q] * ldexp(1, power - 127)), "row %d, group %d, column %d", r, g, c);
                acc = fmaf(w[g * FM_MX_GROUP + c], x[t * cols + g * FM_MX_GROUP + c], acc);
            }
            for (int j = 0; j < FM_MX_GROUP; j++) {
                int c = column_of(j, 4), q = block[(g - first) * 256 + c / 8 * 64 + r % 16 * 4 + c % 8 / 2] >> (c % 2 * 4) & 15;
                dot += (int)(2 * table[q] + 12) * a.q[t * cols + g * FM_MX_GROUP + j];
            }
            A = fmaf(s * a.scale[t * groups + g], (float)dot, A);
            B = fmaf(-12 * s, a.sum[t * groups + g], B);
        }
        A += B;
        SAME(f32 + i, &acc, 1, "mxfp4, f32: %d groups, token %d row %d", groups, t, r);
        SAME(i8 + i, &A, 1, "mxfp4, i8: %d groups, token %d row %d", groups, t, r);
        CHECK(fabs((double)A - (double)acc) < 0.02 * sqrt(cols) * 0.1, "mxfp4, i8: %g, f32 %g", (double)A, (double)acc);
    }
    free_act8(&a);
    free(x);
    free(w);
    free_matrix(&m);
}

static void check_float(fm_format format, int cols) {
    fm_matrix m = new_float(5, cols, format, NORMAL);
    float *x = new_vector(2 * cols, NORMAL), *w = allocate((size_t)cols * 4), y[10];
    k->mul_float(&m, 0, 5, x, (size_t)cols, NULL, 2, y, 5);
    for (int i = 0; i < 10; i++) {
        fm_matrix_row(&m, i % 5, w);
        float want = plain_dot(w, x + i / 5 * cols, cols);
        SAME(y + i, &want, 1, "format %d cols %d row %d", (int)format, cols, i % 5);
    }
    free(x);
    free(w);
    free_matrix(&m);
}

#define CLOSE(got, want, tolerance, what)                                                                                                                      \
    CHECK(fabs((double)(got) - (want)) <= (tolerance) * (fabs(want) + 1e-30), "%s: %.9g, want %.9g", what, (double)(got), (double)(want))

/* Each value of got must be `plain`, in floats, and close to `exact`, in doubles. */
#define EACH(what, plain, exact)                                                                                                                               \
    for (int i = 0; i < n; i++) {                                                                                                                              \
        float each_want = (plain);                                                                                                                             \
        SAME(y + i, &each_want, 1, what " %d of %d", i, n);                                                                                                    \
        CLOSE(y[i], exact, 1e-6, what);                                                                                                                        \
    }

static double silu(double x) { return x / (1 + exp(-x)); }
static float siluf(float x) { return x / (1 + fm_expf(-x)); }

static void check_layer_norm(const float *x, const float *w, const float *b, int n, float *y) {
    float *d = allocate((size_t)n * sizeof *d), *ones = new_vector(n, ZEROS);
    double exact_mean = 0, square = 0;
    for (int i = 0; i < n; i++) ones[i] = 1;
    for (int i = 0; i < n; i++) exact_mean += (double)x[i] / n;
    for (int i = 0; i < n; i++) square += ((double)x[i] - exact_mean) * ((double)x[i] - exact_mean);
    float mean = plain_dot(x, ones, n) / (float)n;
    for (int i = 0; i < n; i++) d[i] = x[i] - mean;
    float scale = 1 / sqrtf(plain_dot(d, d, n) / (float)n + 1e-3f);
    double exact = 1 / sqrt(square / n + 1e-3);
    k->layer_norm(x, w, b, n, 1e-3f, y);
    for (int i = 0; i < n; i++) {
        float want = d[i] * scale * w[i] + b[i];
        SAME(y + i, &want, 1, "layer_norm %d of %d", i, n);
        CHECK(fabs((double)want - ((double)x[i] - exact_mean) * exact * (double)w[i] - (double)b[i]) < 1e-5, "layer_norm: %g", (double)want);
    }
    free(d);
    free(ones);
}

static void check_vectors(int n) {
    float *x = new_vector(n, NORMAL), *w = new_vector(n, NORMAL), *z = new_vector(n, NORMAL), *y = new_vector(n, NORMAL), *y0 = allocate((size_t)n * 4);
    memcpy(y0, y, (size_t)n * 4);
    double square = 0, most = -1e30, total = 0;
    for (int i = 0; i < n; i++) {
        square += (double)x[i] * (double)x[i];
        most = fmax(most, (double)x[i]);
    }
    for (int i = 0; i < n; i++) {
        total += exp((double)x[i] - most);
        z[i] = fm_expf(x[i] - (float)most);
        w[i] = 1;
    }
    float rms = 1 / sqrtf(plain_dot(x, x, n) / (float)n + 1e-3f), l2 = 1 / sqrtf(plain_dot(x, x, n) + 1e-3f), sum = plain_dot(z, w, n);
    double exact_rms = 1 / sqrt(square / n + 1e-3), exact_l2 = 1 / sqrt(square + 1e-3);
    k->softmax(x, n, y);
    EACH("softmax", z[i] / sum, exp((double)x[i] - most) / total)
    fill_vector(w, n, NORMAL);
    fill_vector(z, n, NORMAL);
    memcpy(y, y0, (size_t)n * 4);
    k->add(x, n, y);
    EACH("add", y0[i] + x[i], (double)(y0[i] + x[i]))
    k->axpy(0.3f, x, n, y);
    EACH("axpy", fmaf(0.3f, x[i], y0[i] + x[i]), (double)fmaf(0.3f, x[i], y0[i] + x[i]))
    k->rms_norm(x, w, n, 1e-3f, y);
    EACH("rms_norm", x[i] * rms * w[i], (double)x[i] * exact_rms * (double)w[i])
    check_layer_norm(x, w, z, n, y);
    k->rms_norm_gated(x, w, z, n, 1e-3f, y);
    EACH("rms_norm_gated", x[i] * rms * w[i] * siluf(z[i]), (double)x[i] * exact_rms * (double)w[i] * silu((double)z[i]))
    k->l2_norm(x, n, 1e-3f, 0.3f, y);
    EACH("l2_norm", x[i] * l2 * 0.3f, (double)x[i] * exact_l2 * (double)0.3f)
    k->swiglu(x, w, n, y);
    EACH("swiglu", siluf(x[i]) * w[i], silu((double)x[i]) * (double)w[i])
    for (int i = 0; i < n; i++) z[i] = fminf(x[i], 0.9f);
    k->swiglu_clamped(x, w, n, 0.9f, 1.7f, y);
    EACH("swiglu_clamped", (fmaxf(fminf(w[i], 0.9f), -0.9f) + 1) * (z[i] / (1 + fm_expf(-(z[i] * 1.7f)))),
         ((double)fmaxf(fminf(w[i], 0.9f), -0.9f) + 1) * (double)z[i] / (1 + exp(-(double)z[i] * (double)1.7f)))
    k->sigmoid_mul(x, w, n, y);
    EACH("sigmoid_mul", x[i] * fm_sigmoidf(w[i]), (double)x[i] / (1 + exp(-(double)w[i])))
    free(x);
    free(w);
    free(z);
    free(y);
    free(y0);
}

static void check_conv(void) {
    enum { CHANNELS = 37, TAPS = 4 };
    const int n = CHANNELS;
    float *w = new_vector(CHANNELS * TAPS, NORMAL), *x = new_vector(CHANNELS * TAPS, NORMAL), y[CHANNELS], sums[CHANNELS] = {0};
    const float *rows[TAPS] = {x + 2 * CHANNELS, x, x + 3 * CHANNELS, x + CHANNELS};
    k->conv_silu(w, rows, TAPS, CHANNELS, 0, CHANNELS, y);
    for (int j = 0; j < TAPS; j++) {
        for (int c = 0; c < CHANNELS; c++) sums[c] = fmaf(w[j * CHANNELS + c], rows[j][c], sums[c]);
    }
    EACH("conv_silu", siluf(sums[i]), silu((double)sums[i]))
    free(w);
    free(x);
}

/* One step; the state, the output and what they are close to. */
static void check_delta_step(float *s, int dk, int dv, const float *q, const float *key, const float *v, float g, float beta, float *o) {
    for (int c = 0; c < dv; c++) {
        float kv = 0;
        o[c] = 0;
        for (int i = 0; i < dk; i++) kv = fmaf(s[i * dv + c] * g, key[i], kv);
        float d = (v[c] - kv) * beta;
        double exact = 0;
        for (int i = 0; i < dk; i++) {
            s[i * dv + c] = fmaf(key[i], d, s[i * dv + c] * g);
            o[c] = fmaf(s[i * dv + c], q[i], o[c]);
            exact += (double)s[i * dv + c] * (double)q[i];
        }
        CHECK(fabs((double)o[c] - exact) < 1e-4, "output %d", c);
    }
}

static void check_delta(int n) {
    enum { DK = 24, DV = 40, LD = 2 * DK + DV + 5, HEADS = 3 };
    float *s = new_vector(DK * DV, NORMAL), *want = allocate(DK * DV * sizeof *want), *x = new_vector(n * LD, NORMAL), *o = new_vector(n * (DV + 1), SAME);
    float *gates = new_vector(n * HEADS, NORMAL), out[DV];
    memcpy(want, s, DK * DV * sizeof *want);
    for (int i = 0; i < n * LD; i++) x[i] *= 0.3f;
    for (int i = 0; i < n * HEADS; i++) gates[i] = fm_sigmoidf(gates[i]);
    fm_delta_tokens tokens = {.n = n, .q = x, .k = x + DK, .v = x + 2 * DK, .g = gates, .beta = gates + 1, .o = o, .ld = LD, .n_heads = HEADS, .ldo = DV + 1};
    k->delta_steps(s, DK, DV, &tokens);
    for (int t = 0; t < n; t++) {
        const float *row = x + t * LD;
        check_delta_step(want, DK, DV, row, row + DK, row + 2 * DK, gates[t * HEADS], gates[t * HEADS + 1], out);
        SAME(o + t * (DV + 1), out, DV, "output of token %d of %d", t, n);
        CHECK(o[t * (DV + 1) + DV] == 127, "token %d of %d: written past the output", t, n);
    }
    SAME(s, want, DK * DV, "state after %d tokens", n);
    free(s);
    free(want);
    free(x);
    free(o);
    free(gates);
}

/* A NaN among the inputs must be seen in the output. */
static void check_nan(void) {
    float x[40], y[40], z[40];
    for (int at = 0; at < 40; at++) {
        fill_vector(x, 40, NORMAL);
        fill_vector(z, 40, NORMAL);
        x[at] = NAN;
        CHECK(isnan(k->dot(x, z, 40)), "dot");
        k->rms_norm(x, z, 40, 1e-6f, y);
        CHECK(isnan(y[0]) && isnan(y[39]), "rms_norm");
        k->softmax(x, 40, y);
        CHECK(isnan(y[0]) && isnan(y[39]), "softmax");
        k->exp(x, 40, y);
        CHECK(isnan(y[at]), "exp");
        k->swiglu(x, z, 40, y);
        CHECK(isnan(y[at]), "swiglu");
        k->swiglu_clamped(x, z, 40, 7, 1.7f, y);
        CHECK(isnan(y[at]), "swiglu_clamped");
        k->swiglu_clamped(z, x, 40, 7, 1.7f, y);
        CHECK(isnan(y[at]), "swiglu_clamped");
        k->sigmoid_mul(z, x, 40, y);
        CHECK(isnan(y[at]), "sigmoid_mul");
    }
}

int main(void) {
    check_dot();
    for (int kind = 0; kind < N_VECTORS; kind++) {
        for (int i = 0; i < 6; i++) check_quantize(2 << i % 3, i < 3 ? 32 : 64, kind);
    }
    check_not_finite();
    for (int i = 0; i < 18; i++) check_r16(2 << i % 3, 32 << i / 3 % 3, i >= 9);
    for (int groups = 1; groups < 10; groups++) check_mx(groups);
    for (int i = 0; i < 30; i++) check_float(i % 3 == 0 ? FM_FORMAT_F32 : i % 3 == 1 ? FM_FORMAT_F16 : FM_FORMAT_BF16, 1 + i * 7);
    for (int n = 1; n < 80; n++) check_vectors(n);
    check_vectors(2048);
    check_conv();
    for (int n = 1; n < FM_DELTA_MANY + 5; n++) check_delta(n);
    check_nan();
    return TEST_END();
}
