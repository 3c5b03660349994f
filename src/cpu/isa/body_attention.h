/* cpu/isa/body_attention.h: attention over a block of keys, the merging of blocks, and a step of the gated delta rule. Contracts: kernels.h. */
#ifndef FM_CPU_ISA_BODY_ATTENTION_H
#define FM_CPU_ISA_BODY_ATTENTION_H

#include "cpu/isa/body_vector.h"
#include "cpu/isa/lanes.h"

enum { ATTEND_LD = 512 + 16 }; /* of rows of queries: not a power of two, or they would share the sets of the cache */

/* Up to ATTEND_ROWS queries and one block of keys. */
typedef struct attend_pass {
    const fm_kv_block *block;
    size_t columns;
    const int *n;    /* [rows]: keys that each sees */
    int least, most; /* of n */
    float scale;
    float q[ATTEND_ROWS][ATTEND_LD];
    float p[ATTEND_ROWS][FM_ATTENTION_BLOCK]; /* scores, then weights */
    int16_t q16[ATTEND_ROWS][ATTEND_LD], p16[ATTEND_ROWS][FM_ATTENTION_BLOCK];
    float factor[ATTEND_ROWS]; /* of q16 or p16 */
    float *acc;
    size_t ldacc;
} attend_pass;

/* 16 values from the i-th on of an array of f32 or bf16. */
ALWAYS_INLINE vf kv_load(const void *base, size_t i, const int kind) {
    return kind == FM_KV_BF16 ? f_load_bf16((const uint16_t *)base + i) : f_load((const float *)base + i);
}

/* Values are asked for while the keys of the same positions are multiplied, so that memory is never idle. */
ALWAYS_INLINE void fetch_values(const char *from, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

/* Scores of n_rows queries and n_tiles tiles of keys. */
ALWAYS_INLINE void score_floats(attend_pass *a, int tile, const int n_rows, const int n_tiles, const int kind) {
    vf s[ATTEND_ROWS][2];
    size_t bytes = kind == FM_KV_BF16 ? 2 : 4, step = a->columns * FM_KV_TILE, at = (size_t)tile * step;
    const char *values = (const char *)a->block->v + at * bytes;
    for (int i = 0; i < n_rows; i++) {
        for (int t = 0; t < n_tiles; t++) s[i][t] = f_set1(0);
    }
    for (int d = 0; d < a->block->head_dim; d++, at += FM_KV_TILE) {
        vf k[2];
        for (int t = 0; t < n_tiles; t++) k[t] = kv_load(a->block->k, at + (size_t)t * step, kind);
        fetch_values(values + (size_t)d * 16 * bytes * (size_t)n_tiles, 16 * bytes * (size_t)n_tiles);
        for (int i = 0; i < n_rows; i++) {
            vf q = f_set1(a->q[i][d]);
            for (int t = 0; t < n_tiles; t++) s[i][t] = f_fma(q, k[t], s[i][t]);
        }
    }
    for (int i = 0; i < n_rows; i++) {
        for (int t = 0; t < n_tiles; t++) f_store(a->p[i] + (tile + t) * FM_KV_TILE, f_mul(s[i][t], f_set1(a->scale)));
    }
}

/* n_vectors vectors of columns from c on: sums over the keys that all queries see. */
ALWAYS_INLINE void weigh_floats(attend_pass *a, size_t c, const int n_rows, const int n_vectors, const int kind) {
    vf sum[ATTEND_ROWS][2];
    for (int i = 0; i < n_rows; i++) {
        for (int x = 0; x < n_vectors; x++) sum[i][x] = f_set1(0);
    }
    for (int j = 0; j < a->least; j++) {
        vf v[2];
        for (int x = 0; x < n_vectors; x++) v[x] = kv_load(a->block->v, (size_t)j * a->columns + c + 16 * (size_t)x, kind);
        for (int i = 0; i < n_rows; i++) {
            vf p = f_set1(a->p[i][j]);
            for (int x = 0; x < n_vectors; x++) sum[i][x] = f_fma(p, v[x], sum[i][x]);
        }
    }
    for (int i = 0; i < n_rows; i++) {
        for (int x = 0; x < n_vectors; x++) f_store(a->acc + (size_t)i * a->ldacc + c + 16 * x, sum[i][x]);
    }
}

/* The keys behind those, which some of the queries see. */
ALWAYS_INLINE void weigh_rest(attend_pass *a, const int n_rows, const int kind) {
    for (int i = 0; i < n_rows; i++) {
        for (size_t c = 0; c < a->columns && a->n[i] > a->least; c += 16) {
            float *acc = a->acc + (size_t)i * a->ldacc + c;
            vf sum = f_load(acc);
            for (int j = a->least; j < a->n[i]; j++) sum = f_fma(f_set1(a->p[i][j]), kv_load(a->block->v, (size_t)j * a->columns + c, kind), sum);
            f_store(acc, sum);
        }
    }
}

/* x[n] as 16-bit integers times the factor that is returned; zeros up to a multiple of 16. */
static inline float to_int16(const float *x, int n, int16_t *y) {
    vi most = i_set1(0), no_sign = i_set1(0x7fffffff);
    for (int c = 0; c < n; c += 16) most = i_max(most, i_and(f_bits(f_load_n(x + c, n - c)), no_sign));
    int32_t bits = i_highest(most);
    float amax;
    memcpy(&amax, &bits, sizeof amax);
    bool finite = bits < 0x7f800000, zero = !finite || amax < 1e-30f;
    vf factor = f_set1(zero ? 0 : 32767 / amax);
    for (int c = 0; c < n; c += 16) i_store16(y + c, zero ? i_set1(0) : f_round(f_mul(f_load_n(x + c, n - c), factor)));
    return !finite ? NAN : zero ? 0 : amax / 32767;
}

ALWAYS_INLINE int32_t pair_at(const int16_t *p) {
    int32_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

ALWAYS_INLINE void score_int8(attend_pass *a, int tile, const int n_rows, const int n_tiles) {
    size_t step = a->columns * FM_KV_TILE, groups = fm_kv_groups(a->block->head_dim);
    const int8_t *keys = (const int8_t *)a->block->k + (size_t)tile * step;
    const char *values = (const char *)a->block->v + (size_t)tile * step;
    for (size_t g = 0; g < groups; g++) {
        vi dot[ATTEND_ROWS][2];
        for (int i = 0; i < n_rows; i++) {
            for (int t = 0; t < n_tiles; t++) dot[i][t] = i_set1(0);
        }
        size_t d = g * FM_KV_GROUP, end = d + FM_KV_GROUP < a->columns ? d + FM_KV_GROUP : a->columns;
        for (; d < end; d += 2) {
            vi k[2];
            for (int t = 0; t < n_tiles; t++) k[t] = i_pairs(keys + d * FM_KV_TILE + (size_t)t * step);
            fetch_values(values + d * 16 * (size_t)n_tiles, 32 * (size_t)n_tiles);
            for (int i = 0; i < n_rows; i++) {
                int32_t q = pair_at(a->q16[i] + d);
                for (int t = 0; t < n_tiles; t++) dot[i][t] = i_dot_pair(dot[i][t], k[t], q);
            }
        }
        for (int i = 0; i < n_rows; i++) {
            for (int t = 0; t < n_tiles; t++) {
                float *p = a->p[i] + (tile + t) * FM_KV_TILE;
                vf scales = f_load(a->block->k_scale + ((size_t)(tile + t) * groups + g) * FM_KV_TILE);
                vf s = f_fma(i_to_float(dot[i][t]), scales, g ? f_load(p) : f_set1(0));
                f_store(p, g + 1 < groups ? s : f_mul(s, f_set1(a->factor[i] * a->scale)));
            }
        }
    }
}

/* Weights times the scales of the values' group g, as integers; zeros for keys that a query does not see. */
ALWAYS_INLINE void weights_int16(attend_pass *a, size_t g, const int n_rows) {
    size_t groups = fm_kv_groups(a->block->head_dim);
    for (int i = 0; i < n_rows; i++) {
        float w[FM_ATTENTION_BLOCK];
        for (int j = 0; j < a->n[i]; j += 16) {
            int left = a->n[i] - j;
            const float *scales = a->block->v_scale + ((size_t)(j / FM_KV_TILE) * groups + g) * FM_KV_TILE;
            f_store_n(w + j, f_mul(f_load_n(a->p[i] + j, left), f_load_n(scales, left)), left);
        }
        a->factor[i] = to_int16(w, a->n[i], a->p16[i]);
        for (int j = (a->n[i] + 15) / 16 * 16; j < a->most; j += 16) i_store16(a->p16[i] + j, i_set1(0));
    }
}

ALWAYS_INLINE void weigh_int8(attend_pass *a, size_t c, const int n_rows, const int n_vectors) {
    vi sum[ATTEND_ROWS][2];
    for (int i = 0; i < n_rows; i++) {
        for (int x = 0; x < n_vectors; x++) sum[i][x] = i_set1(0);
    }
    const int8_t *values = (const int8_t *)a->block->v + 2 * c;
    for (int j = 0; j < a->most; j += 2, values += 2 * a->columns) {
        vi v[2];
        for (int x = 0; x < n_vectors; x++) v[x] = i_pairs(values + 32 * x);
        for (int i = 0; i < n_rows; i++) {
            int32_t p = pair_at(a->p16[i] + j);
            for (int x = 0; x < n_vectors; x++) sum[i][x] = i_dot_pair(sum[i][x], v[x], p);
        }
    }
    for (int i = 0; i < n_rows; i++) {
        for (int x = 0; x < n_vectors; x++) f_store(a->acc + (size_t)i * a->ldacc + c + 16 * x, f_mul(i_to_float(sum[i][x]), f_set1(a->factor[i])));
    }
}

ALWAYS_INLINE void weights(attend_pass *a, float *m, float *l, const int n_rows) {
    for (int i = 0; i < n_rows; i++) {
        m[i] = highest(a->p[i], a->n[i]);
        l[i] = exp_and_sum(a->p[i], m[i], a->n[i], a->p[i]);
    }
}

ALWAYS_INLINE void attend_floats(attend_pass *a, float *m, float *l, const int n_rows, const int kind) {
    int tile = 0, n_tiles = (a->most + FM_KV_TILE - 1) / FM_KV_TILE;
    size_t c = 0;
    for (; tile + 2 <= n_tiles; tile += 2) score_floats(a, tile, n_rows, 2, kind);
    if (tile < n_tiles) score_floats(a, tile, n_rows, 1, kind);
    weights(a, m, l, n_rows);
    for (; c + 32 <= a->columns; c += 32) weigh_floats(a, c, n_rows, 2, kind);
    if (c < a->columns) weigh_floats(a, c, n_rows, 1, kind);
    if (a->most > a->least) weigh_rest(a, n_rows, kind);
}

ALWAYS_INLINE void attend_int8(attend_pass *a, float *m, float *l, const int n_rows) {
    int tile = 0, n_tiles = (a->most + FM_KV_TILE - 1) / FM_KV_TILE;
    for (int i = 0; i < n_rows; i++) a->factor[i] = to_int16(a->q[i], (int)a->columns, a->q16[i]);
    for (; tile + 2 <= n_tiles; tile += 2) score_int8(a, tile, n_rows, 2);
    if (tile < n_tiles) score_int8(a, tile, n_rows, 1);
    weights(a, m, l, n_rows);
    for (size_t g = 0; g < fm_kv_groups(a->block->head_dim); g++) {
        size_t c = g * FM_KV_GROUP, end = c + FM_KV_GROUP < a->columns ? c + FM_KV_GROUP : a->columns;
        weights_int16(a, g, n_rows);
        for (; c + 32 <= end; c += 32) weigh_int8(a, c, n_rows, 2);
        if (c < end) weigh_int8(a, c, n_rows, 1);
    }
}

ALWAYS_INLINE void attend_rows(attend_pass *a, float *m, float *l, const int n_rows) {
    switch (a->block->kind) {
    case FM_KV_F32: attend_floats(a, m, l, n_rows, FM_KV_F32); return;
    case FM_KV_BF16: attend_floats(a, m, l, n_rows, FM_KV_BF16); return;
    default: attend_int8(a, m, l, n_rows);
    }
}

static void attend(const fm_kv_block *block, const float *const *q, int n_rows, const int *n, float scale, float *m, float *l, float *acc, size_t ldacc) {
    attend_pass a;
    a.block = block;
    a.columns = fm_kv_columns(block->head_dim);
    a.scale = scale;
    a.ldacc = ldacc;
    for (int first = 0, rows; first < n_rows; first += rows) {
        for (rows = ATTEND_ROWS; rows > n_rows - first; rows /= 2) continue;
        a.n = n + first;
        a.least = a.most = a.n[0];
        a.acc = acc + (size_t)first * ldacc;
        for (int i = 0; i < rows; i++) {
            memcpy(a.q[i], q[first + i], (size_t)block->head_dim * sizeof(float));
            memset(a.q[i] + block->head_dim, 0, (a.columns - (size_t)block->head_dim) * sizeof(float));
            a.least = a.n[i] < a.least ? a.n[i] : a.least;
            a.most = a.n[i] > a.most ? a.n[i] : a.most;
        }
        switch (rows) {
#if ATTEND_ROWS >= 8
        case 8: attend_rows(&a, m + first, l + first, 8); break;
#endif
#if ATTEND_ROWS >= 4
        case 4: attend_rows(&a, m + first, l + first, 4); break;
        case 2: attend_rows(&a, m + first, l + first, 2); break;
#endif
        default: attend_rows(&a, m + first, l + first, 1);
        }
    }
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
