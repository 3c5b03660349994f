/* cpu/isa/body_vector.h: kernels over one vector: products, norms, activations, softmax, quantisation, convolution. Contracts: kernels.h. */
#ifndef FM_CPU_ISA_BODY_VECTOR_H
#define FM_CPU_ISA_BODY_VECTOR_H

#include "cpu/isa/lanes.h"

static float dot(const float *a, const float *b, int n) {
    vf sum[4] = {f_set1(0), f_set1(0), f_set1(0), f_set1(0)};
    int c = 0;
    for (; c + 64 <= n; c += 64) {
        for (int i = 0; i < 4; i++) sum[i] = f_fma(f_load(a + c + 16 * i), f_load(b + c + 16 * i), sum[i]);
    }
    for (int i = 0; i < 4; i++, c += 16) {
        if (c < n) sum[i] = f_fma(f_load_n(a + c, n - c), f_load_n(b + c, n - c), sum[i]);
    }
    return f_tree(sum[0], sum[1], sum[2], sum[3]);
}

static void rms_norm(const float *x, const float *w, int n, float eps, float *y) {
    vf scale = f_set1(1 / sqrtf(dot(x, x, n) / (float)n + eps));
    for (int c = 0; c < n; c += 16) f_store_n(y + c, f_mul(f_mul(f_load_n(x + c, n - c), scale), f_load_n(w + c, n - c)), n - c);
}

static void layer_norm(const float *x, const float *w, const float *b, int n, float eps, float *y) {
    vf sum[4] = {f_set1(0), f_set1(0), f_set1(0), f_set1(0)}, one = f_set1(1);
    for (int c = 0; c < n; c += 16) sum[c / 16 % 4] = f_fma(f_load_part(x + c, n - c < 16 ? n - c : 16, 0), one, sum[c / 16 % 4]);
    vf mean = f_set1(f_tree(sum[0], sum[1], sum[2], sum[3]) / (float)n);
    for (int c = 0; c < n; c += 16) f_store_n(y + c, f_sub(f_load_n(x + c, n - c), mean), n - c);
    vf scale = f_set1(1 / sqrtf(dot(y, y, n) / (float)n + eps));
    for (int c = 0; c < n; c += 16) {
        vf normed = f_mul(f_mul(f_load_n(y + c, n - c), scale), f_load_n(w + c, n - c));
        f_store_n(y + c, f_add(normed, f_load_n(b + c, n - c)), n - c);
    }
}

static void rms_norm_gated(const float *x, const float *w, const float *z, int n, float eps, float *y) {
    vf scale = f_set1(1 / sqrtf(dot(x, x, n) / (float)n + eps));
    for (int c = 0; c < n; c += 16) {
        vf normed = f_mul(f_mul(f_load_n(x + c, n - c), scale), f_load_n(w + c, n - c));
        f_store_n(y + c, f_mul(normed, f_silu(f_load_n(z + c, n - c))), n - c);
    }
}

static void l2_norm(const float *x, int n, float eps, float scale, float *y) {
    vf norm = f_set1(1 / sqrtf(dot(x, x, n) + eps)), s = f_set1(scale);
    for (int c = 0; c < n; c += 16) f_store_n(y + c, f_mul(f_mul(f_load_n(x + c, n - c), norm), s), n - c);
}

static void swiglu(const float *g, const float *u, int n, float *y) {
    for (int c = 0; c < n; c += 16) f_store_n(y + c, f_mul(f_silu(f_load_n(g + c, n - c)), f_load_n(u + c, n - c)), n - c);
}

static void swiglu_clamped(const float *g, const float *u, int n, float limit, float alpha, float *y) {
    vf most = f_set1(limit), least = f_set1(-limit);
    for (int c = 0; c < n; c += 16) {
        vf gate = f_load_n(g + c, n - c), up = f_load_n(u + c, n - c);
        gate = f_less(most, gate, most, gate);
        up = f_less(most, up, most, up);
        up = f_less(up, least, least, up);
        gate = f_div(gate, f_one_plus_exp_minus(f_mul(gate, f_set1(alpha))));
        f_store_n(y + c, f_mul(f_add(up, f_set1(1)), gate), n - c);
    }
}

static void sigmoid_mul(const float *x, const float *g, int n, float *y) {
    for (int c = 0; c < n; c += 16) f_store_n(y + c, f_mul(f_load_n(x + c, n - c), f_sigmoid(f_load_n(g + c, n - c))), n - c);
}

static void add(const float *x, int n, float *y) {
    for (int c = 0; c < n; c += 16) f_store_n(y + c, f_add(f_load_n(y + c, n - c), f_load_n(x + c, n - c)), n - c);
}

static void axpy(float a, const float *x, int n, float *y) {
    vf scale = f_set1(a);
    for (int c = 0; c < n; c += 16) f_store_n(y + c, f_fma(scale, f_load_n(x + c, n - c), f_load_n(y + c, n - c)), n - c);
}

static void exp_all(const float *x, int n, float *y) {
    for (int c = 0; c < n; c += 16) f_store_n(y + c, f_exp(f_load_n(x + c, n - c)), n - c);
}

/* The largest of x[n]; NaNs do not count. */
static inline float highest(const float *x, int n) {
    vf m = f_set1(-INFINITY);
    int c = 0;
    for (; c + 16 <= n; c += 16) m = f_max(f_load(x + c), m);
    if (c < n) m = f_max(f_load_part(x + c, n - c, -INFINITY), m);
    return f_highest(m);
}

/* y = exp(x - m); returns their sum by dot's tree. y may be x. */
static inline float exp_and_sum(const float *x, float m, int n, float *y) {
    vf sum[4] = {f_set1(0), f_set1(0), f_set1(0), f_set1(0)}, one = f_set1(1), most = f_set1(m);
    for (int c = 0; c < n; c += 64) {
        for (int i = 0; i < 4; i++) {
            int at = c + 16 * i;
            if (at >= n) break;
            vf e = f_exp(f_sub(f_load_n(x + at, n - at), most));
            f_store_n(y + at, e, n - at);
            if (n - at < 16) e = f_load_part(y + at, n - at, 0); /* lanes past the end count as 0 */
            sum[i] = f_fma(e, one, sum[i]);
        }
    }
    return f_tree(sum[0], sum[1], sum[2], sum[3]);
}

static void softmax(const float *x, int n, float *y) {
    if (n <= 0) return;
    vf sum = f_set1(exp_and_sum(x, highest(x, n), n, y));
    for (int c = 0; c < n; c += 16) f_store_n(y + c, f_div(f_load_n(y + c, n - c), sum), n - c);
}

/* Where the columns of 16 go, for words of 8, 4 and 2 bits (kernels.h, fm_act8). */
static const uint8_t act8_order[3][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15},
    {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15},
};

static void quantize(const float *x, int cols, int group, int width, int8_t *q, float *scale, float *sum) {
    const uint8_t *order = act8_order[width == 8 ? 0 : width == 4 ? 1 : 2];
    for (int g = 0; g < cols / group; g++, x += group, q += group) {
        /* Without the sign, floats compare as integers do, and NaN is above all. */
        vi most = i_set1(0), no_sign = i_set1(0x7fffffff);
        for (int c = 0; c < group; c += 16) most = i_max(most, i_and(f_bits(f_load(x + c)), no_sign));
        int32_t bits = i_highest(most);
        float amax;
        memcpy(&amax, &bits, sizeof amax);
        bool finite = bits < 0x7f800000;
        if (!finite || amax < 1e-30f) {
            memset(q, 0, (size_t)group);
            scale[g] = sum[g] = finite ? 0 : NAN;
            continue;
        }
        vf factor = f_set1(127 / amax);
        vi total = i_set1(0);
        for (int c = 0; c < group; c += 16) {
            vi v = f_round(f_mul(f_load(x + c), factor));
            total = i_add(total, v);
            i_store8(q + c, v, order);
        }
        scale[g] = amax / 127;
        sum[g] = scale[g] * (float)i_sum(total);
    }
}

static void conv_silu(const float *w, const float *const *x, int taps, int channels, int first, int last, float *y) {
    for (int c = first; c < last; c += 16) {
        vf acc = f_set1(0);
        for (int j = 0; j < taps; j++) acc = f_fma(f_load_n(w + (size_t)j * (size_t)channels + c, last - c), f_load_n(x[j] + c, last - c), acc);
        f_store_n(y + c, f_silu(acc), last - c);
    }
}

#endif
