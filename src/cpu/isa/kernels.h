/* cpu/isa/kernels.h: the table of kernels: what an instruction set does. scalar.c is the specification, and every other ISA matches it bit
 * for bit (tests/kernels compares with memcmp).
 *
 * How that is possible: arithmetic is in 16 lanes; sums over a vector go through dot's tree below on every ISA; `fma` stands where it is
 * meant and nowhere else (-ffp-contract=off); exp, log, sin, cos and pow are ours (base/math.h), the same operations in each form; division
 * and sqrt are IEEE's. Denormals are flushed (FTZ, DAZ) on every computing thread.
 *
 *   sum of n products or values ("dot"): column c goes to lane c % 16 of accumulator (c / 16) % 4 by fma, in the order of c, from +0; columns
 *   missing to a multiple of 16 count as +0 * +0. Then (A0 + A1) + (A2 + A3), then lanes i and i + 8, i and i + 4, i and i + 2, i and i + 1.
 *
 * The same bits is meant for every input, infinities and signed zeros too; where a result is NaN it is NaN on every ISA, of whatever sign and
 * payload. No kernel turns a NaN of its input into numbers only.
 *
 * No pointer needs alignment unless said; lengths need not be multiples of 16 unless said. None of them allocates. */
#ifndef FM_CPU_ISA_KERNELS_H
#define FM_CPU_ISA_KERNELS_H

#include "base/system.h"
#include "formats/quant.h"

/* int8 activations: each group of `group` columns has its scale. q lies in the order in which r16 words of `width` bits are taken apart: in each
 * word's 32 / width columns (8 for 4 bits, 16 for 2, 4 for 8), the columns that share the bit position k * width of each of the word's 4 bytes
 * follow each other: column 4-tuples k = 0 .. 8 / width - 1, tuple k holding columns k, k + 8 / width, k + 2 * 8 / width, k + 3 * 8 / width. */
typedef struct fm_act8 {
    int cols, group, width;
    int8_t *q;    /* [n][cols] */
    float *scale; /* [n][cols / group]: x ~ scale * q */
    float *sum;   /* [n][cols / group]: scale * (sum of q) */
} fm_act8;

#define FM_ATTENTION_BLOCK 256 /* keys, at absolute positions: block b holds keys b * 256 .. b * 256 + 255 */
#define FM_ATTENTION_ROWS 8    /* queries that are computed together, at most */
#define FM_KV_TILE 16          /* keys that lie side by side */
#define FM_KV_GROUP 64         /* int8 columns that share a scale */
#define FM_MAX_COLUMNS 640     /* of a key */

/* Columns of a key or value in the cache. */
static inline size_t fm_kv_columns(int head_dim) { return ((size_t)head_dim + 15) & ~(size_t)15; }
static inline size_t fm_kv_groups(int head_dim) { return (fm_kv_columns(head_dim) + FM_KV_GROUP - 1) / FM_KV_GROUP; }

/* The keys and values of one kv head from a position on that begins a block, in whole tiles; C = fm_kv_columns(head_dim).
 *   k: tiles [C][16] of f32: column by column, the tile's keys side by side. bf16 and int8: [C / 2][16][2], columns in pairs.
 *   v: [C] by position, of f32. bf16 and int8: [C][2] by pair of positions.
 *   scales (int8 alone): tiles [groups][16], x ~ scale * int8; not finite for a group in which there was something that is not finite. */
typedef struct fm_kv_block {
    int kind;      /* FM_KV_… */
    int head_dim;  /* at most FM_MAX_COLUMNS */
    int value_dim; /* columns of a value if it has fewer, C of v is theirs, and v_scale has the groups of keys; 0: head_dim */
    const void *k, *v;
    const float *k_scale, *v_scale;
    const void *next; /* keys that will be asked for next, or NULL: only to have them fetched from memory */
    const int *from;  /* by query, the first key that it sees (below its n); NULL: all see the first */
} fm_kv_block;

#define FM_DELTA_MANY 16

/* What n tokens give to the delta rule. */
typedef struct fm_delta_tokens {
    int n;
    const float *q, *k, *v; /* [n][dk], [n][dk] and [n][dv], rows ld apart */
    const float *g, *beta;  /* [n], n_heads apart */
    float *o;               /* [n][dv], rows ldo apart */
    size_t ld, n_heads, ldo;
} fm_delta_tokens;

typedef struct fm_kernels {
    const char *name;

    /* One vector x[cols] to int8. Per group: amax = max |x|; if amax < 1e-30, q = 0 and scale = sum = 0; if it is infinite or there is a NaN,
     * q = 0 and scale = sum = NaN; else q = rint(x * (127 / amax)) (one division, ties to even), scale = amax / 127 and
     * sum = scale * (float)(sum of q). */
    void (*quantize)(const float *x, int cols, int group, int width, int8_t *q, float *scale, float *sum);

    /* y[i * ldy + r] = row r of matrix times token tokens[i] (tokens NULL: token i) for i < n and the rows of strips [first, last).
     * R16 matrix, x->group = min(64, matrix group), x->width = matrix width. With dot the exact integer product of an activation group:
     * A = fma(s * xs, dot, A), B = fma(b, sum, B) over the activation groups in order, y = A + B. (s, b of the weight group it lies in.) */
    void (*mul_r16_i8)(const fm_matrix *matrix, int first, int last, const fm_act8 *x, const int32_t *tokens, int n, float *y, size_t ldy);

    /* The same from f32 activations x[token * ldx]: acc = fma(w, x, acc) over the columns in order, w = fma(q, s, b).
     * Of mxfp4, in both, q is 2 * table[q] + 12 and b is -12 * s (quant.h). */
    void (*mul_r16_f32)(const fm_matrix *matrix, int first, int last, const float *x, size_t ldx, const int32_t *tokens, int n, float *y, size_t ldy);

    /* bf16, f16, f32 and fp8 matrices: rows [first, last), y = dot(w, x). fp8: w = (its value * 2^-8) * (scale * 2^8); the bytes 0x7f and 0xff, which are NaN, are
     * refused before they get here. */
    void (*mul_float)(const fm_matrix *matrix, int first, int last, const float *x, size_t ldx, const int32_t *tokens, int n, float *y, size_t ldy);

    float (*dot)(const float *a, const float *b, int n);

    /* y = (x * (1 / sqrt(dot(x, x) / n + eps))) * w. y may be x. */
    void (*rms_norm)(const float *x, const float *w, int n, float eps, float *y);
    /* With mean = dot(x, ones) / n and d = x - mean: y = (d * (1 / sqrt(dot(d, d) / n + eps))) * w + b. y may be x. */
    void (*layer_norm)(const float *x, const float *w, const float *b, int n, float eps, float *y);
    /* y = rms_norm(x, w) * silu(z). */
    void (*rms_norm_gated)(const float *x, const float *w, const float *z, int n, float eps, float *y);
    /* y = (x * (1 / sqrt(dot(x, x) + eps))) * scale. y may be x. */
    void (*l2_norm)(const float *x, int n, float eps, float scale, float *y);

    /* silu(g) * u, silu(x) = x / (1 + exp(-x)). y may be g or u. */
    void (*swiglu)(const float *g, const float *u, int n, float *y);
    /* With g' = min(g, limit) and u' = u within +-limit: (u' + 1) * (g' / (1 + exp(-(alpha * g')))). y may be g or u. */
    void (*swiglu_clamped)(const float *g, const float *u, int n, float limit, float alpha, float *y);
    /* y = x * (1 / (1 + exp(-g))). y and g may be x. */
    void (*sigmoid_mul)(const float *x, const float *g, int n, float *y);
    /* y += x */
    void (*add)(const float *x, int n, float *y);
    /* y = fma(a, x, y) */
    void (*axpy)(float a, const float *x, int n, float *y);
    /* y = exp(x - max) / (their sum by dot with ones), one division each. y may be x. */
    void (*softmax)(const float *x, int n, float *y);

    /* Depthwise causal convolution and SiLU, channels [first, last): y[c] = silu(sum over j of w[j * channels + c] * x[j][c]), fma in the order of j from 0.
     * x: taps rows, oldest first. */
    void (*conv_silu)(const float *w, const float *const *x, int taps, int channels, int first, int last, float *y);

    /* Tokens of the gated delta rule, one after the other, for one value head with the state s [dk][dv]:
     * kv = sum over i of fma(s[i] * g, k[i], .), d = (v - kv) * beta, s[i] = fma(k[i], d, s[i] * g), o = sum over i of fma(s[i], q[i], .), i in order.
     * dk at most 512. From FM_DELTA_MANY tokens on the work is divided in another way, with the same bits. */
    void (*delta_steps)(float *s, int dk, int dv, const fm_delta_tokens *tokens);

    /* Attention of n_rows (1 to FM_ATTENTION_ROWS) queries q[i][head_dim] over one block of keys; query i sees the first n[i] (1 to FM_ATTENTION_BLOCK) of them:
     * s_j = (sum over d in order of fma(q_d, k_jd, .)) * scale, m[i] = max s_j, p_j = exp(s_j - m[i]), l[i] = dot(p, ones),
     * acc[i * ldacc + c] = sum over j in order of fma(p_j, v_jc, .). Keys that a query does not see have no part in it, whatever they are;
     * those before block->from have the weight 0, as if their score were -infinity.
     * FM_KV_Q8 multiplies integers, in groups g of FM_KV_GROUP columns:
     *   q is rounded to 16 bits as one group: amax = max |q|, q16 = rint(q * (32767 / amax)), f = amax / 32767;
     *   s_j = (sum over g in order of fma((float)(sum over d in g of q16_d * k8_jd), k_scale_jg, .)) * (f * scale);
     *   w_j = p_j * v_scale_jg is rounded to 16 bits as one group, with its f; acc = (float)(sum over j of w16_j * v8_jc) * f.
     *   A group whose amax is below 1e-30 is 0; one in which there is an infinity or NaN has f = NaN. */
    void (*attend)(const fm_kv_block *block, const float *const *q, int n_rows, const int *n, float scale, float *m, float *l, float *acc, size_t ldacc);
    /* Merges block (m, l, acc) into the running (*M, *L, ACC): with N = max(*M, m), a = exp(*M - N), b = exp(m - N): *L = fma(*L, a, l * b),
     * ACC = fma(ACC, a, acc * b), *M = N. The first block is copied instead (*L == 0). */
    void (*attend_merge)(float *M, float *L, float *ACC, float m, float l, const float *acc, int hd);
    /* y = ACC * (1 / L) */
    void (*attend_finish)(float L, const float *ACC, int hd, float *y);

    /* exp of each, for tests and where a whole vector is needed. */
    void (*exp)(const float *x, int n, float *y);
} fm_kernels;

extern const fm_kernels fm_kernels_scalar;

/* The best table for this CPU when name is NULL or empty, else the one of that name. NULL, with FM_EINVAL and the names that this CPU has in
 * *err, for another name. */
const fm_kernels *fm_kernels_find(const char *name, fm_error *err);
/* Names of the tables this CPU can run, lowest first; returns how many. */
int fm_kernels_list(const fm_kernels **list, int max);

#endif
