/* cpu/isa/body_attention.h: attention over a block of keys, the merging of blocks, and a step of the gated delta rule. Contracts: kernels.h. */
#ifndef FM_CPU_ISA_BODY_ATTENTION_H
#define FM_CPU_ISA_BODY_ATTENTION_H

#include "cpu/isa/body_vector.h"
#include "cpu/isa/lanes.h"

enum { ATTEND_LD = FM_MAX_COLUMNS + 16 }; /* of rows of queries: not a power of two, or they would share the sets of the cache */

/* EACH_OF stands before a loop whose sums have to stay in registers: it is unrolled, whatever the compiler would think. FOR_COUNTS makes a function anew for each
 * pair of counts it is called with. Neither under a sanitizer, which makes a page of code of each access: there one function for all counts has to do. */
#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(undefined_behavior_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED
#endif
#ifdef SANITIZED
#define EACH_OF
#define FOR_COUNTS static
#elif defined(__clang__)
#define EACH_OF _Pragma("clang loop unroll(full)")
#define FOR_COUNTS ALWAYS_INLINE
#else
#define EACH_OF _Pragma("GCC unroll 8")
#define FOR_COUNTS ALWAYS_INLINE
#endif

/* Up to ATTEND_ROWS queries and one block of keys. */
typedef struct attend_pass {
    const fm_kv_block *block;
    size_t columns, value_columns;
    const void *next; /* keys */
    const int *n;     /* [rows]: keys that each sees */
    const int *from;  /* [rows]: but for those before this one */
    int least, most;  /* of n */
    float scale;
    float q[ATTEND_ROWS][ATTEND_LD];
    float p[ATTEND_ROWS][FM_ATTENTION_BLOCK]; /* scores, then weights */
    int16_t q16[ATTEND_ROWS][ATTEND_LD], p16[ATTEND_ROWS][FM_ATTENTION_BLOCK];
    float factor[ATTEND_ROWS]; /* of q16 or p16 */
    float *acc;
    size_t ldacc;
} attend_pass;

/* Vectors of 16 of two columns of keys, or of two positions' values: with bf16 the two lie in the halves of 32 bits at i, with f32 at i and at next. */
typedef struct kv_two {
    vf first, second;
} kv_two;

ALWAYS_INLINE kv_two kv_load(const void *base, size_t i, size_t next, const int kind) {
    if (kind == FM_KV_F32) return (kv_two){f_load((const float *)base + i), f_load((const float *)base + next)};
    vi both = i_load((const uint16_t *)base + i);
    return (kv_two){i_as_float(i_shl(both, 16)), i_as_float(i_and(both, i_set1((int32_t)0xffff0000)))};
}

/* Columns d and d + 1 of a tile of keys that begins at `at`. */
ALWAYS_INLINE kv_two keys_of(const attend_pass *a, size_t at, size_t d, const int kind) {
    return kv_load(a->block->k, at + d * FM_KV_TILE, at + (d + 1) * FM_KV_TILE, kind);
}

/* 16 columns from c on of positions j (even) and j + 1. */
ALWAYS_INLINE kv_two values_of(const attend_pass *a, size_t j, size_t c, const int kind) {
    size_t i = j * a->value_columns + c;
    return kv_load(a->block->v, kind == FM_KV_F32 ? i : i + c, i + a->value_columns, kind);
}

/* Values are asked for while the keys of the same positions are multiplied, and the next keys while values are, so that memory is never idle. */
ALWAYS_INLINE void fetch(const char *from, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

typedef vf attend_sums[ATTEND_ROWS][ATTEND_VECTORS];

/* sums += x[i][at] times v of each vector. */
FOR_COUNTS void add_products(attend_sums sums, const float *x, size_t ld, const vf *v, const int n_rows, const int n_vectors) {
    EACH_OF for (int i = 0; i < n_rows; i++) {
        vf each = f_set1(x[(size_t)i * ld]);
        EACH_OF for (int t = 0; t < n_vectors; t++) sums[i][t] = f_fma(each, v[t], sums[i][t]);
    }
}

FOR_COUNTS void no_sums(attend_sums sums, const int n_rows, const int n_vectors) {
    EACH_OF for (int i = 0; i < n_rows; i++) { EACH_OF for (int t = 0; t < n_vectors; t++) sums[i][t] = f_set1(0); }
}

/* Scores of n_rows queries and n_tiles tiles of keys. */
FOR_COUNTS void score_floats(attend_pass *a, int tile, const int n_rows, const int n_tiles, const int kind) {
    attend_sums s;
    vf even[ATTEND_VECTORS], odd[ATTEND_VECTORS];
    size_t step = a->columns * FM_KV_TILE, at = (size_t)tile * step, d = 0, hd = (size_t)a->block->head_dim, bytes = kind == FM_KV_BF16 ? 2 : 4;
    const char *values = (const char *)a->block->v + (size_t)tile * FM_KV_TILE * a->value_columns * bytes;
    no_sums(s, n_rows, n_tiles);
    for (; d + 2 <= hd; d += 2) {
        fetch(values + d * 16 * bytes * (size_t)n_tiles, 32 * bytes * (size_t)n_tiles);
        EACH_OF for (int t = 0; t < n_tiles; t++) {
            kv_two k = keys_of(a, at + (size_t)t * step, d, kind);
            even[t] = k.first;
            odd[t] = k.second;
        }
        add_products(s, &a->q[0][d], ATTEND_LD, even, n_rows, n_tiles);
        add_products(s, &a->q[0][d + 1], ATTEND_LD, odd, n_rows, n_tiles);
    }
    if (d < hd) {
        EACH_OF for (int t = 0; t < n_tiles; t++) even[t] = keys_of(a, at + (size_t)t * step, d, kind).first;
        add_products(s, &a->q[0][d], ATTEND_LD, even, n_rows, n_tiles);
    }
    EACH_OF for (int i = 0; i < n_rows; i++) {
        EACH_OF for (int t = 0; t < n_tiles; t++) f_store(a->p[i] + (tile + t) * FM_KV_TILE, f_mul(s[i][t], f_set1(a->scale)));
    }
}

/* n_vectors vectors of columns from c on: sums over the keys that all queries see. */
FOR_COUNTS void weigh_floats(attend_pass *a, size_t c, const int n_rows, const int n_vectors, const int kind) {
    attend_sums s;
    vf even[ATTEND_VECTORS], odd[ATTEND_VECTORS];
    size_t j = 0, n = (size_t)a->least, bytes = kind == FM_KV_BF16 ? 2 : 4;
    no_sums(s, n_rows, n_vectors);
    const char *next = (const char *)a->next + c * n * bytes;
    for (; j + 2 <= n; j += 2) {
        fetch(next + j * 16 * (size_t)n_vectors * bytes, 32 * bytes * (size_t)n_vectors);
        EACH_OF for (int t = 0; t < n_vectors; t++) {
            kv_two v = values_of(a, j, c + 16 * (size_t)t, kind);
            even[t] = v.first;
            odd[t] = v.second;
        }
        add_products(s, &a->p[0][j], FM_ATTENTION_BLOCK, even, n_rows, n_vectors);
        add_products(s, &a->p[0][j + 1], FM_ATTENTION_BLOCK, odd, n_rows, n_vectors);
    }
    if (j < n) {
        EACH_OF for (int t = 0; t < n_vectors; t++) even[t] = values_of(a, j, c + 16 * (size_t)t, kind).first;
        add_products(s, &a->p[0][j], FM_ATTENTION_BLOCK, even, n_rows, n_vectors);
    }
    EACH_OF for (int i = 0; i < n_rows; i++) {
        EACH_OF for (int t = 0; t < n_vectors; t++) f_store(a->acc + (size_t)i * a->ldacc + c + 16 * (size_t)t, s[i][t]);
    }
}

/* The keys behind those, which some of the queries see. */
FOR_COUNTS void weigh_rest(attend_pass *a, const int n_rows, const int kind) {
    for (int i = 0; i < n_rows; i++) {
        for (size_t c = 0; c < a->value_columns && a->n[i] > a->least; c += 16) {
            float *acc = a->acc + (size_t)i * a->ldacc + c;
            vf sum = f_load(acc);
            for (int j = a->least; j < a->n[i]; j++) {
                kv_two v = values_of(a, (size_t)j / 2 * 2, c, kind);
                sum = f_fma(f_set1(a->p[i][j]), j % 2 ? v.second : v.first, sum);
            }
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

FOR_COUNTS void score_int8(attend_pass *a, int tile, const int n_rows, const int n_tiles) {
    size_t step = a->columns * FM_KV_TILE, groups = fm_kv_groups(a->block->head_dim);
    const int8_t *keys = (const int8_t *)a->block->k + (size_t)tile * step;
    const char *values = (const char *)a->block->v + (size_t)tile * FM_KV_TILE * a->value_columns;
    for (size_t g = 0; g < groups; g++) {
        vi dot[ATTEND_ROWS][ATTEND_VECTORS];
        EACH_OF for (int i = 0; i < n_rows; i++) { EACH_OF for (int t = 0; t < n_tiles; t++) dot[i][t] = i_set1(0); }
        size_t d = g * FM_KV_GROUP, end = d + FM_KV_GROUP < a->columns ? d + FM_KV_GROUP : a->columns;
        for (; d < end; d += 2) {
            vi k[ATTEND_VECTORS];
            EACH_OF for (int t = 0; t < n_tiles; t++) k[t] = i_pairs(keys + d * FM_KV_TILE + (size_t)t * step);
            fetch(values + d * 16 * (size_t)n_tiles, 32 * (size_t)n_tiles);
            EACH_OF for (int i = 0; i < n_rows; i++) {
                int32_t q = pair_at(a->q16[i] + d);
                EACH_OF for (int t = 0; t < n_tiles; t++) dot[i][t] = i_dot_pair(dot[i][t], k[t], q);
            }
        }
        EACH_OF for (int i = 0; i < n_rows; i++) {
            EACH_OF for (int t = 0; t < n_tiles; t++) {
                float *p = a->p[i] + (tile + t) * FM_KV_TILE;
                vf scales = f_load(a->block->k_scale + ((size_t)(tile + t) * groups + g) * FM_KV_TILE);
                vf s = f_fma(i_to_float(dot[i][t]), scales, g ? f_load(p) : f_set1(0));
                f_store(p, g + 1 < groups ? s : f_mul(s, f_set1(a->factor[i] * a->scale)));
            }
        }
    }
}

/* Weights times the scales of the values' group g, as integers; zeros for keys that a query does not see. */
FOR_COUNTS void weights_int16(attend_pass *a, size_t g, const int n_rows) {
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

FOR_COUNTS void weigh_int8(attend_pass *a, size_t c, const int n_rows, const int n_vectors) {
    vi sum[ATTEND_ROWS][ATTEND_VECTORS];
    EACH_OF for (int i = 0; i < n_rows; i++) { EACH_OF for (int x = 0; x < n_vectors; x++) sum[i][x] = i_set1(0); }
    const int8_t *values = (const int8_t *)a->block->v + 2 * c;
    const char *next = (const char *)a->next + c * (size_t)a->most;
    for (int j = 0; j < a->most; j += 2, values += 2 * a->value_columns, next += 32 * n_vectors) {
        fetch(next, 32 * (size_t)n_vectors);
        vi v[ATTEND_VECTORS];
        EACH_OF for (int x = 0; x < n_vectors; x++) v[x] = i_pairs(values + 32 * x);
        EACH_OF for (int i = 0; i < n_rows; i++) {
            int32_t p = pair_at(a->p16[i] + j);
            EACH_OF for (int x = 0; x < n_vectors; x++) sum[i][x] = i_dot_pair(sum[i][x], v[x], p);
        }
    }
    EACH_OF for (int i = 0; i < n_rows; i++) {
        EACH_OF for (int x = 0; x < n_vectors; x++) f_store(a->acc + (size_t)i * a->ldacc + c + 16 * x, f_mul(i_to_float(sum[i][x]), f_set1(a->factor[i])));
    }
}

FOR_COUNTS void weights(attend_pass *a, float *m, float *l, const int n_rows) {
    for (int i = 0; i < n_rows; i++) {
        for (int j = 0; j < a->from[i]; j++) a->p[i][j] = -INFINITY;
        m[i] = highest(a->p[i], a->n[i]);
        l[i] = exp_and_sum(a->p[i], m[i], a->n[i], a->p[i]);
    }
}

FOR_COUNTS void attend_floats(attend_pass *a, float *m, float *l, const int n_rows, const int kind) {
    int tile = 0, n_tiles = (a->most + FM_KV_TILE - 1) / FM_KV_TILE;
    size_t c = 0;
    for (; tile + ATTEND_VECTORS <= n_tiles; tile += ATTEND_VECTORS) score_floats(a, tile, n_rows, ATTEND_VECTORS, kind);
    if (tile < n_tiles) score_floats(a, tile, n_rows, 1, kind);
    weights(a, m, l, n_rows);
    for (; c + 16 * ATTEND_VECTORS <= a->value_columns; c += 16 * ATTEND_VECTORS) weigh_floats(a, c, n_rows, ATTEND_VECTORS, kind);
    if (c < a->value_columns) weigh_floats(a, c, n_rows, 1, kind);
    if (a->most > a->least) weigh_rest(a, n_rows, kind);
}

FOR_COUNTS void attend_int8(attend_pass *a, float *m, float *l, const int n_rows) {
    int tile = 0, n_tiles = (a->most + FM_KV_TILE - 1) / FM_KV_TILE;
    for (int i = 0; i < n_rows; i++) a->factor[i] = to_int16(a->q[i], (int)a->columns, a->q16[i]);
    for (; tile + ATTEND_VECTORS <= n_tiles; tile += ATTEND_VECTORS) score_int8(a, tile, n_rows, ATTEND_VECTORS);
    if (tile < n_tiles) score_int8(a, tile, n_rows, 1);
    weights(a, m, l, n_rows);
    for (size_t g = 0; g * FM_KV_GROUP < a->value_columns; g++) {
        size_t c = g * FM_KV_GROUP, end = c + FM_KV_GROUP < a->value_columns ? c + FM_KV_GROUP : a->value_columns;
        weights_int16(a, g, n_rows);
        for (; c + 16 * ATTEND_VECTORS <= end; c += 16 * ATTEND_VECTORS) weigh_int8(a, c, n_rows, ATTEND_VECTORS);
        if (c < end) weigh_int8(a, c, n_rows, 1);
    }
}

FOR_COUNTS void attend_rows(attend_pass *a, float *m, float *l, const int n_rows) {
    switch (a->block->kind) {
    case FM_KV_F32: attend_floats(a, m, l, n_rows, FM_KV_F32); return;
    case FM_KV_BF16: attend_floats(a, m, l, n_rows, FM_KV_BF16); return;
    default: attend_int8(a, m, l, n_rows);
    }
}

static void attend(const fm_kv_block *block, const float *const *q, int n_rows, const int *n, float scale, float *m, float *l, float *acc, size_t ldacc) {
    attend_pass a;
    static const int none[FM_ATTENTION_ROWS];
    a.block = block;
    a.columns = fm_kv_columns(block->head_dim);
    a.value_columns = fm_kv_columns(block->value_dim ? block->value_dim : block->head_dim);
    a.next = block->next ? block->next : block->k;
    a.scale = scale;
    a.ldacc = ldacc;
    for (int first = 0, rows; first < n_rows; first += rows) {
        for (rows = ATTEND_ROWS; rows > n_rows - first; rows /= 2) continue;
        a.n = n + first;
        a.from = (block->from ? block->from : none) + first;
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

/* The state of one group of columns while tokens go through it: its rows are ld apart. */
typedef struct delta_columns {
    const fm_delta_tokens *tokens;
    float *s;
    size_t ld, first; /* of the columns */
    int dk, n;        /* columns, at most 16 * n_vectors */
} delta_columns;

/* s *= g; kv[] = sums of s times token t's k: what comes before its step. */
FOR_COUNTS void delta_begin(const delta_columns *a, vf *kv, const int n_vectors) {
    vf g = f_set1(a->tokens->g[0]);
    EACH_OF for (int c = 0; c < n_vectors; c++) kv[c] = f_set1(0);
    for (int i = 0; i < a->dk; i++) {
        float *row = a->s + (size_t)i * a->ld;
        vf k = f_set1(a->tokens->k[i]);
        EACH_OF for (int c = 0; c < n_vectors; c++) {
            vf x = f_mul(f_load_n(row + 16 * c, a->n - 16 * c), g);
            kv[c] = f_fma(x, k, kv[c]);
            f_store_n(row + 16 * c, x, a->n - 16 * c);
        }
    }
}

/* Token t's step, of a state that is decayed and kv of it; in the same pass the next token's decay and kv, unless it is the last. */
FOR_COUNTS void delta_step(const delta_columns *a, size_t t, vf *kv, const int n_vectors, const bool last) {
    const fm_delta_tokens *x = a->tokens;
    const float *q = x->q + t * x->ld, *k = x->k + t * x->ld, *v = x->v + t * x->ld + a->first, *k_next = last ? k : k + x->ld;
    vf out[DELTA_VECTORS], d[DELTA_VECTORS], g = f_set1(last ? 1 : x->g[(t + 1) * x->n_heads]), beta = f_set1(x->beta[t * x->n_heads]);
    EACH_OF for (int c = 0; c < n_vectors; c++) {
        d[c] = f_mul(f_sub(f_load_n(v + 16 * c, a->n - 16 * c), kv[c]), beta);
        kv[c] = out[c] = f_set1(0);
    }
    for (int i = 0; i < a->dk; i++) {
        float *row = a->s + (size_t)i * a->ld;
        vf ki = f_set1(k[i]), qi = f_set1(q[i]), next = f_set1(k_next[i]);
        EACH_OF for (int c = 0; c < n_vectors; c++) {
            vf s = f_fma(ki, d[c], f_load_n(row + 16 * c, a->n - 16 * c));
            out[c] = f_fma(s, qi, out[c]);
            if (!last) s = f_mul(s, g);
            if (!last) kv[c] = f_fma(s, next, kv[c]);
            f_store_n(row + 16 * c, s, a->n - 16 * c);
        }
    }
    EACH_OF for (int c = 0; c < n_vectors; c++) f_store_n(x->o + t * x->ldo + a->first + 16 * c, out[c], a->n - 16 * c);
}

FOR_COUNTS void delta_tokens(const delta_columns *a, const int n_vectors) {
    vf kv[DELTA_VECTORS];
    size_t last = (size_t)a->tokens->n - 1;
    delta_begin(a, kv, n_vectors);
    for (size_t t = 0; t < last; t++) delta_step(a, t, kv, n_vectors, false);
    delta_step(a, last, kv, n_vectors, true);
}

/* One token, in two passes over n columns from `first` on. They stay in registers, and the columns in the first-level cache between the passes. */
FOR_COUNTS void delta_token(const delta_columns *a, size_t t, const int n_vectors) {
    const fm_delta_tokens *x = a->tokens;
    const float *q = x->q + t * x->ld, *k = x->k + t * x->ld, *v = x->v + t * x->ld + a->first;
    vf kv[4], out[4], g = f_set1(x->g[t * x->n_heads]), beta = f_set1(x->beta[t * x->n_heads]);
    EACH_OF for (int c = 0; c < n_vectors; c++) kv[c] = out[c] = f_set1(0);
    for (int i = 0; i < a->dk; i++) {
        const float *row = a->s + (size_t)i * a->ld;
        vf ki = f_set1(k[i]);
        EACH_OF for (int c = 0; c < n_vectors; c++) kv[c] = f_fma(f_mul(f_load_n(row + 16 * c, a->n - 16 * c), g), ki, kv[c]);
    }
    EACH_OF for (int c = 0; c < n_vectors; c++) kv[c] = f_mul(f_sub(f_load_n(v + 16 * c, a->n - 16 * c), kv[c]), beta);
    for (int i = 0; i < a->dk; i++) {
        float *row = a->s + (size_t)i * a->ld;
        vf ki = f_set1(k[i]), qi = f_set1(q[i]);
        EACH_OF for (int c = 0; c < n_vectors; c++) {
            vf s = f_fma(ki, kv[c], f_mul(f_load_n(row + 16 * c, a->n - 16 * c), g));
            out[c] = f_fma(s, qi, out[c]);
            f_store_n(row + 16 * c, s, a->n - 16 * c);
        }
    }
    EACH_OF for (int c = 0; c < n_vectors; c++) f_store_n(x->o + t * x->ldo + a->first + 16 * c, out[c], a->n - 16 * c);
}

/* Many tokens go through a copy of a few columns: side by side it stays in the first-level cache, whose sets the rows of the state share. */
static void delta_many(float *s, int dk, int dv, const fm_delta_tokens *tokens) {
    enum { WIDTH = 16 * DELTA_VECTORS };
    float copy[512 * WIDTH];
    for (int c = 0, n; c < dv; c += n) {
        n = dv - c >= WIDTH ? WIDTH : dv - c < 16 ? dv - c : 16;
        delta_columns a = {.tokens = tokens, .s = copy, .ld = WIDTH, .first = (size_t)c, .dk = dk, .n = n};
        for (int i = 0; i < dk; i++) memcpy(copy + i * WIDTH, s + (size_t)i * (size_t)dv + c, (size_t)n * sizeof *s);
        if (n == WIDTH) {
            a.n = WIDTH;
            delta_tokens(&a, DELTA_VECTORS);
        } else {
            delta_tokens(&a, 1);
        }
        for (int i = 0; i < dk; i++) memcpy(s + (size_t)i * (size_t)dv + c, copy + i * WIDTH, (size_t)n * sizeof *s);
    }
}

static void delta_steps(float *s, int dk, int dv, const fm_delta_tokens *tokens) {
    if (tokens->n >= FM_DELTA_MANY) {
        delta_many(s, dk, dv, tokens);
        return;
    }
    for (size_t t = 0; t < (size_t)tokens->n; t++) {
        delta_columns a = {.tokens = tokens, .s = s, .ld = (size_t)dv, .dk = dk, .n = 64};
        int c = 0;
        for (; c + 64 <= dv; c += 64, a.s += 64, a.first += 64) delta_token(&a, t, 4);
        for (; c < dv; c += 16, a.s += 16, a.first += 16) {
            a.n = dv - c;
            delta_token(&a, t, 1);
        }
    }
}

#endif
