/* cpu/isa/body_attention.h: attention over a block of keys, the merging of blocks, and a step of the gated delta rule. Contracts: kernels.h. */
#ifndef FM_CPU_ISA_BODY_ATTENTION_H
#define FM_CPU_ISA_BODY_ATTENTION_H

#include "cpu/isa/body_vector.h"
#include "cpu/isa/lanes.h"

/* n_vectors vectors of acc: sum over j of p[j] * v[j], in the order of j. The last may be part of one: n columns are left. */
ALWAYS_INLINE void weighted_rows(const float *p, const float *v, size_t ld, int n_rows, float *acc, const int n_vectors, int n) {
    vf sum[4];
    for (int i = 0; i < n_vectors; i++) sum[i] = f_set1(0);
    for (int j = 0; j < n_rows; j++, v += ld) {
        vf weight = f_set1(p[j]);
        for (int i = 0; i < n_vectors; i++) sum[i] = f_fma(weight, f_load_n(v + 16 * i, n - 16 * i), sum[i]);
    }
    for (int i = 0; i < n_vectors; i++) f_store_n(acc + 16 * i, sum[i], n - 16 * i);
}

static void attend(const float *q, const float *k, const float *v, size_t ld, int n, int hd, float scale, float *m, float *l, float *acc) {
    float p[FM_ATTENTION_BLOCK];
    for (int j = 0; j < n; j++) p[j] = dot(q, k + (size_t)j * ld, hd) * scale;
    *m = highest(p, n);
    *l = exp_and_sum(p, *m, n, p);
    int c = 0;
    for (; c + 64 <= hd; c += 64) weighted_rows(p, v + c, ld, n, acc + c, 4, 64);
    for (; c < hd; c += 16) weighted_rows(p, v + c, ld, n, acc + c, 1, hd - c);
}

static void attend_merge(float *M, float *L, float *ACC, float m, float l, const float *acc, int hd) {
    if (*L == 0) {
        *M = m;
        *L = l;
        memcpy(ACC, acc, (size_t)hd * sizeof *acc);
        return;
    }
    float most = *M > m ? *M : m, a = fm_expf(*M - most), b = fm_expf(m - most);
    vf va = f_set1(a), vb = f_set1(b);
    *L = fmaf(*L, a, l * b);
    *M = most;
    for (int c = 0; c < hd; c += 16) {
        int left = hd - c;
        f_store_n(ACC + c, f_fma(f_load_n(ACC + c, left), va, f_mul(f_load_n(acc + c, left), vb)), left);
    }
}

static void attend_finish(float L, const float *ACC, int hd, float *y) {
    vf scale = f_set1(1 / L);
    for (int c = 0; c < hd; c += 16) f_store_n(y + c, f_mul(f_load_n(ACC + c, hd - c), scale), hd - c);
}

typedef struct delta_args {
    const float *q, *k; /* [dk] */
    int dk, dv;
    float g, beta;
} delta_args;

/* n_vectors vectors of columns of the state, of v and of o; they stay in registers and the columns in the first-level cache between the two passes. */
ALWAYS_INLINE void delta_columns(const delta_args *d, float *s, const float *v, float *o, const int n_vectors, int n) {
    vf kv[4], out[4], g = f_set1(d->g), beta = f_set1(d->beta);
    for (int c = 0; c < n_vectors; c++) kv[c] = out[c] = f_set1(0);
    float *row = s;
    for (int i = 0; i < d->dk; i++, row += d->dv) {
        vf k = f_set1(d->k[i]);
        for (int c = 0; c < n_vectors; c++) kv[c] = f_fma(f_mul(f_load_n(row + 16 * c, n - 16 * c), g), k, kv[c]);
    }
    for (int c = 0; c < n_vectors; c++) kv[c] = f_mul(f_sub(f_load_n(v + 16 * c, n - 16 * c), kv[c]), beta);
    row = s;
    for (int i = 0; i < d->dk; i++, row += d->dv) {
        vf k = f_set1(d->k[i]), q = f_set1(d->q[i]);
        for (int c = 0; c < n_vectors; c++) {
            vf x = f_fma(k, kv[c], f_mul(f_load_n(row + 16 * c, n - 16 * c), g));
            out[c] = f_fma(x, q, out[c]);
            f_store_n(row + 16 * c, x, n - 16 * c);
        }
    }
    for (int c = 0; c < n_vectors; c++) f_store_n(o + 16 * c, out[c], n - 16 * c);
}

static void delta_step(float *s, int dk, int dv, const float *q, const float *k, const float *v, float g, float beta, float *o) {
    delta_args d = {.q = q, .k = k, .dk = dk, .dv = dv, .g = g, .beta = beta};
    int c = 0;
    for (; c + 64 <= dv; c += 64) delta_columns(&d, s + c, v + c, o + c, 4, 64);
    for (; c < dv; c += 16) delta_columns(&d, s + c, v + c, o + c, 1, dv - c);
}

#endif
