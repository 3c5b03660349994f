/* Attention over the KV cache: the numbers that are stored, the roundings that are prescribed (kernels.h), every table against scalar, and fm_attend against one
 * softmax in doubles. --bench [TABLE]: see attention_bench.c. */
#include "attention_cache.h"
#include "base/math.h"
#include "bench.h"

#define GUARD 16

static const fm_kernels *tables[MAX_TABLES];
static int n_tables;

static const char *const names[] = {"bf16", "f32", "q8"};

/* ---- the specification, value by value ---- */

static float bf16_of(float x) {
    if (!isfinite(x)) return NAN;
    float down, up;
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    u &= 0xffff0000;
    memcpy(&down, &u, sizeof down);
    u += 0x10000;
    memcpy(&up, &u, sizeof up);
    double below = fabs((double)x - (double)down), above = isinf(up) ? ldexp(1, 128) - fabs((double)x) : fabs((double)up - (double)x);
    float nearest = below < above || (below == above && u & 0x10000) ? down : up;
    return isinf(nearest) ? NAN : nearest;
}

/* One group as int8 or int16 with its scale. */
static float integers_of(const float *x, int n, int limit, int32_t *q) {
    float amax = 0;
    for (int i = 0; i < n; i++) q[i] = 0;
    for (int i = 0; i < n; i++) {
        if (!isfinite(x[i])) return NAN;
        amax = fmaxf(amax, fabsf(x[i]));
    }
    if (amax < 1e-30f) return 0;
    float factor = (float)limit / amax;
    for (int i = 0; i < n; i++) q[i] = (int32_t)rintf(x[i] * factor);
    return amax / (float)limit;
}

/* Keys or values [n][hd] as the cache holds them: floats, or int8 and scales. */
typedef struct stored {
    float x[FM_ATTENTION_BLOCK][FM_MAX_COLUMNS];
    int32_t q[FM_ATTENTION_BLOCK][FM_MAX_COLUMNS];
    float scale[FM_ATTENTION_BLOCK][FM_MAX_COLUMNS / FM_KV_GROUP];
} stored;

static void store_plain(stored *s, int kind, const float *x, int n, int hd) {
    for (int j = 0; j < n; j++) {
        for (int i = 0; i < hd; i++) s->x[j][i] = kind == FM_KV_BF16 ? bf16_of(x[j * hd + i]) : isfinite(x[j * hd + i]) ? x[j * hd + i] : NAN;
        for (int g = 0; g * FM_KV_GROUP < hd; g++) {
            int first = g * FM_KV_GROUP, count = hd - first < FM_KV_GROUP ? hd - first : FM_KV_GROUP;
            s->scale[j][g] = integers_of(x + j * hd + first, count, 127, s->q[j] + first);
        }
    }
}

static void score_plain(const stored *k, int kind, const float *q, int n, int hd, float scale, float *s) {
    int32_t q16[FM_MAX_COLUMNS];
    float factor = integers_of(q, hd, 32767, q16);
    for (int j = 0; j < n; j++) {
        float sum = 0;
        for (int d = 0; d < hd && kind != FM_KV_Q8; d++) sum = fmaf(q[d], k->x[j][d], sum);
        for (int g = 0; g * FM_KV_GROUP < hd && kind == FM_KV_Q8; g++) {
            int64_t dot = 0;
            for (int d = g * FM_KV_GROUP; d < hd && d < (g + 1) * FM_KV_GROUP; d++) dot += (int64_t)q16[d] * k->q[j][d];
            sum = fmaf((float)dot, k->scale[j][g], sum);
        }
        s[j] = sum * (kind == FM_KV_Q8 ? factor * scale : scale);
    }
}

static void attend_plain(const stored *k, const stored *v, int kind, const float *q, int from, int n, int hd, float *m, float *l, float *acc) {
    float p[FM_ATTENTION_BLOCK] = {0}, ones[FM_ATTENTION_BLOCK], w[FM_ATTENTION_BLOCK];
    int32_t w16[FM_ATTENTION_BLOCK];
    score_plain(k, kind, q, n, hd, 0.3f, p);
    for (int j = 0; j < from; j++) p[j] = -INFINITY;
    *m = -INFINITY;
    for (int j = 0; j < n; j++) {
        *m = p[j] > *m ? p[j] : *m;
        ones[j] = 1;
    }
    for (int j = 0; j < n; j++) p[j] = fm_expf(p[j] - *m);
    *l = fm_kernels_scalar.dot(p, ones, n);
    for (int c = 0; c < hd; c++) {
        acc[c] = 0;
        for (int j = 0; j < n && kind != FM_KV_Q8; j++) acc[c] = fmaf(p[j], v->x[j][c], acc[c]);
        if (kind != FM_KV_Q8) continue;
        for (int j = 0; j < n; j++) w[j] = p[j] * v->scale[j][c / FM_KV_GROUP];
        float factor = integers_of(w, n, 32767, w16);
        int64_t sum = 0;
        for (int j = 0; j < n; j++) sum += (int64_t)w16[j] * v->q[j][c];
        acc[c] = (float)sum * factor;
    }
}

/* ---- one block ---- */

typedef struct block_case {
    int kind, n_rows, n, hd, inputs;
    float special;
    bool windows; /* rows see no key before one of their own */
} block_case;

typedef struct seen {
    int from[FM_ATTENTION_ROWS], n[FM_ATTENTION_ROWS];
} seen;

static void check_table(const fm_kernels *k, const cache *c, const float *const *q, const seen *s, const block_case *b, const float *want) {
    size_t ld = fm_kv_columns(b->hd) + GUARD, size = FM_ATTENTION_ROWS * ld;
    float m[FM_ATTENTION_ROWS], l[FM_ATTENTION_ROWS], *got = new_vector((int)size, SAME);
    fm_kv_block block = fm_kv_at(&c->device, &c->state.layers[0].kv, 1, 0);
    const int *n = s->n;
    if (b->windows) block.from = s->from;
    k->attend(&block, q, b->n_rows, n, 0.3f, m, l, got, ld);
    for (int i = 0; i < FM_ATTENTION_ROWS; i++) {
        const float *row = got + (size_t)i * ld, *expected = want + (size_t)i * (size_t)(b->hd + 2);
        bool in = i < b->n_rows;
        if (in)
            SAME(row, expected, b->hd, "%s attend %s, row %d of %d, %d keys of %d, inputs %d", k->name, names[b->kind], i, b->n_rows, n[i], b->hd, b->inputs);
        if (in) SAME(m + i, expected + b->hd, 1, "%s attend's m, %s, row %d of %d, %d keys", k->name, names[b->kind], i, b->n_rows, n[i]);
        if (in) SAME(l + i, expected + b->hd + 1, 1, "%s attend's l, %s, row %d of %d, %d keys", k->name, names[b->kind], i, b->n_rows, n[i]);
        for (size_t x = in ? fm_kv_columns(b->hd) : 0; x < ld; x++) CHECK(row[x] == 127, "%s wrote at %zu of row %d of %d", k->name, x, i, b->n_rows);
    }
    free(got);
}

/* Rows see n keys or a few less; the keys behind what any row sees are NaN. */
static void check_block(block_case b) {
    static stored keys, values;
    int heads[3] = {2, 2, b.hd};
    seen s = {0};
    cache *c = cache_open(heads, b.kind, FM_ATTENTION_BLOCK, 1, &fm_kernels_scalar, NULL);
    float *k = new_vector(FM_ATTENTION_BLOCK * 2 * b.hd, b.inputs), *v = new_vector(FM_ATTENTION_BLOCK * 2 * b.hd, b.inputs % 2 ? NORMAL : b.inputs);
    float *qs = new_vector(FM_ATTENTION_ROWS * b.hd, NORMAL), *mine = new_vector(b.n * b.hd, ZEROS);
    const float *q[FM_ATTENTION_ROWS];
    if (b.special != 0) (random_below(2) ? k : v)[(2 * random_below(b.n) + 1) * b.hd + random_below(b.hd)] = b.special;
    for (int i = b.n * 2 * b.hd; i < FM_ATTENTION_BLOCK * 2 * b.hd; i++) k[i] = v[i] = NAN;
    for (int j = 0; j < FM_ATTENTION_BLOCK; j++) fm_kv_store(&c->device, &c->state.layers[0].kv, j, k + j * 2 * b.hd, v + j * 2 * b.hd);
    for (int j = 0; j < b.n; j++) memcpy(mine + j * b.hd, k + (2 * j + 1) * b.hd, (size_t)b.hd * sizeof *mine);
    store_plain(&keys, b.kind, mine, b.n, b.hd);
    for (int j = 0; j < b.n; j++) memcpy(mine + j * b.hd, v + (2 * j + 1) * b.hd, (size_t)b.hd * sizeof *mine);
    store_plain(&values, b.kind, mine, b.n, b.hd);
    float *want = allocate((size_t)(FM_ATTENTION_ROWS * (b.hd + 2)) * sizeof *want);
    for (int i = 0; i < b.n_rows; i++) {
        int fewer = b.inputs % 3 ? 0 : random_below(b.n < 20 ? b.n : 20);
        s.n[i] = i == b.n_rows - 1 ? b.n : b.n - fewer;
        s.from[i] = b.windows ? random_below(s.n[i]) : 0;
        q[i] = qs + i * b.hd;
        float *row = want + i * (b.hd + 2);
        attend_plain(&keys, &values, b.kind, q[i], s.from[i], s.n[i], b.hd, row + b.hd, row + b.hd + 1, row);
    }
    check_table(&fm_kernels_scalar, c, q, &s, &b, want);
    for (int i = 0; i < n_tables; i++) check_table(tables[i], c, q, &s, &b, want);
    free(k);
    free(v);
    free(qs);
    free(mine);
    free(want);
    cache_close(c);
}

static void check_blocks(void) {
    static const float special[] = {NAN, INFINITY, -INFINITY, -NAN};
    for (int kind = 0; kind < 3; kind++) {
        for (int hd = 1; hd <= 150; hd += hd < 36 ? 1 : 19) check_block((block_case){kind, 1 + hd % 8, 1 + hd * 7 % 40, hd, hd % N_VECTORS, 0, false});
        for (int n = 1; n <= FM_ATTENTION_BLOCK; n += n < 36 ? 1 : 31) check_block((block_case){kind, 1 + n * 3 % 8, n, 64, n % N_VECTORS, 0, false});
        for (int n = 1; n <= FM_ATTENTION_BLOCK; n += 15) check_block((block_case){kind, 1 + n * 5 % 8, n, 64, n % 3, 0, true});
        for (int i = 0; i < 40; i++) check_block((block_case){kind, 1 + i % 8, 30 + i, 1 + i * 3, NORMAL, special[i % 4], false});
        for (int rows = 1; rows <= 8; rows++)
            check_block((block_case){kind, rows, FM_ATTENTION_BLOCK - rows, 128 * (1 + rows % 2), rows % 4 ? NORMAL : WIDE, 0, false});
        check_block((block_case){kind, 8, FM_ATTENTION_BLOCK, FM_MAX_HEAD_DIM, NORMAL, 0, false});
        check_block((block_case){kind, 8, FM_ATTENTION_BLOCK, 192, ALTERNATING, 0, false}); /* the largest integer sums */
    }
}

/* ---- a latent, whose values are the first columns of its keys ---- */

static void check_latent_table(const fm_kernels *k, const fm_kv_block *block, const float *const *q, const seen *s, const block_case *b, const float *want) {
    size_t dim = (size_t)block->value_dim, ld = dim + GUARD;
    float m[FM_ATTENTION_ROWS], l[FM_ATTENTION_ROWS], *got = new_vector((int)(FM_ATTENTION_ROWS * ld), SAME);
    k->attend(block, q, b->n_rows, s->n, 0.3f, m, l, got, ld);
    for (int i = 0; i < b->n_rows; i++) {
        const float *row = got + (size_t)i * ld, *expected = want + i * (b->hd + 2);
        SAME(row, expected, block->value_dim, "%s attend %s, %zu of %d columns, row %d of %d, %d keys", k->name, names[b->kind], dim, b->hd, i, b->n_rows,
             s->n[i]);
        SAME(l + i, expected + b->hd + 1, 1, "%s attend's l, %s, %zu of %d columns, row %d", k->name, names[b->kind], dim, b->hd, i);
        for (size_t x = dim; x < ld; x++) CHECK(row[x] == 127, "%s wrote at %zu of row %d of %d", k->name, x, i, b->n_rows);
    }
    free(got);
}

static void check_latent(block_case b, int dim) {
    static stored keys;
    static _Alignas(64) uint8_t values[FM_ATTENTION_BLOCK * FM_MAX_COLUMNS * sizeof(float)];
    seen s = {0};
    cache *c = cache_open((const int[]){1, 1, b.hd}, b.kind, FM_ATTENTION_BLOCK, 1, &fm_kernels_scalar, NULL);
    float *k = new_vector(FM_ATTENTION_BLOCK * b.hd, NORMAL), *qs = new_vector(FM_ATTENTION_ROWS * b.hd, NORMAL);
    float *want = allocate((size_t)(FM_ATTENTION_ROWS * (b.hd + 2)) * sizeof *want);
    const float *q[FM_ATTENTION_ROWS];
    for (int i = b.n * b.hd; i < FM_ATTENTION_BLOCK * b.hd; i++) k[i] = NAN;
    for (int j = 0; j < FM_ATTENTION_BLOCK; j++) fm_kv_store(&c->device, &c->state.layers[0].kv, j, k + j * b.hd, k + j * b.hd);
    store_plain(&keys, b.kind, k, b.n, b.hd);
    fm_kv_block block = fm_kv_at(&c->device, &c->state.layers[0].kv, 0, 0);
    block.value_dim = dim;
    memset(values, 0xff, sizeof values);
    for (int tile = 0; tile * FM_KV_TILE < b.n; tile++) fm_kv_turn(&block, tile, values);
    block.v = values;
    block.v_scale = block.k_scale;
    for (int i = 0; i < b.n_rows; i++) {
        float *row = want + i * (b.hd + 2);
        s.n[i] = i ? b.n : b.n - random_below(b.n < 20 ? b.n : 20);
        q[i] = qs + i * b.hd;
        attend_plain(&keys, &keys, b.kind, q[i], 0, s.n[i], b.hd, row + b.hd, row + b.hd + 1, row);
    }
    check_latent_table(&fm_kernels_scalar, &block, q, &s, &b, want);
    for (int i = 0; i < n_tables; i++) check_latent_table(tables[i], &block, q, &s, &b, want);
    free(k);
    free(qs);
    free(want);
    cache_close(c);
}

static void check_latents(void) {
    for (int kind = 0; kind < 3; kind++) {
        for (int n = 1; n <= 80; n += 13) check_latent((block_case){.kind = kind, .n_rows = 1 + n % 8, .n = n, .hd = 44}, 32);
        for (int dim = 16; dim <= 160; dim += 16)
            check_latent((block_case){.kind = kind, .n_rows = 1 + dim / 16 % 8, .n = 90 + dim, .hd = dim + 2 + dim % 7 * 2}, dim);
        check_latent((block_case){.kind = kind, .n_rows = 8, .n = FM_ATTENTION_BLOCK, .hd = 576}, 512);
        check_latent((block_case){.kind = kind, .n_rows = 8, .n = FM_ATTENTION_BLOCK, .hd = FM_MAX_COLUMNS}, 512);
    }
}

/* ---- numbers that are stored ---- */

/* Ties, the largest numbers and what is beyond, through a cache of one value. */
static void check_bf16(void) {
    static const uint32_t cases[][2] = {{0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81}, {0xbf808000, 0xbf80},
                                        {0x7f7f0000, 0x7f7f}, {0x7f7f7fff, 0x7f7f}, {0x7f7f8000, 0x7fc0}, {0x7f800000, 0x7fc0}, {0xff800000, 0x7fc0},
                                        {0x7f800001, 0x7fc0}, {0xffffffff, 0x7fc0}, {0x80000000, 0x8000}, {0x00000000, 0x0000}, {0x7fffffff, 0x7fc0}};
    int heads[3] = {1, 1, 1};
    cache *c = cache_open(heads, FM_KV_BF16, 16, 1, &fm_kernels_scalar, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float x;
        memcpy(&x, &cases[i][0], sizeof x);
        fm_kv_store(&c->device, &c->state.layers[0].kv, 3, &x, &x);
        const uint16_t *k = c->state.layers[0].kv.k, *v = c->state.layers[0].kv.v;
        CHECK(k[6] == cases[i][1] && v[33] == cases[i][1], "%08x is stored as %04x and %04x, not %04x", cases[i][0], k[6], v[33], cases[i][1]);
    }
    cache_close(c);
}

/* ---- fm_attend ---- */

static void attention_exact(const float *q, const float *k, const float *v, const int shape[3], int n, double *out) {
    int hd = shape[0], ld = shape[1], at = shape[2];
    double *p = calloc((size_t)n, sizeof *p), most = -1e300, total = 0;
    if (!p) exit(1);
    for (int j = 0; j < n; j++) {
        double dot = 0;
        for (int i = 0; i < hd; i++) dot += (double)q[i] * (double)k[j * ld + at + i];
        p[j] = dot / sqrt(hd);
        if (p[j] > most) most = p[j];
    }
    for (int i = 0; i < hd; i++) out[i] = 0;
    for (int j = 0; j < n; j++) {
        total += p[j] = exp(p[j] - most);
        for (int i = 0; i < hd; i++) out[i] += p[j] * (double)v[j * ld + at + i];
    }
    for (int i = 0; i < hd; i++) out[i] /= total;
    free(p);
}

/* The last n of `context` positions, in batches of `piece`: the same bits whatever the piece and the threads, and close to the exact result. */
static void check_context(const int heads[3], int kind, int context, int n, int window) {
    static const double tolerance[] = {2e-2, 4e-6, 3e-2}; /* values of size 1: bf16 has 8 bits; int8 errs by up to 1 in 254 of a group's largest, in keys too */
    int cols = heads[0] * heads[2], kv_cols = heads[1] * heads[2], group = heads[0] / heads[1];
    float *k = new_vector(context * kv_cols, NORMAL), *v = new_vector(context * kv_cols, NORMAL), *q = new_vector(n * cols, NORMAL);
    float *out = allocate((size_t)(n * cols) * sizeof *out), *want = NULL;
    for (int threads = 1; threads <= 5; threads += 2) {
        fm_pool *pool;
        MUST(fm_pool_open(&pool, threads, err));
        cache *c = cache_open(heads, kind, context, 1, fm_kernels_find(NULL, NULL), pool);
        c->model.description.layers[0].window = window;
        for (int p = 0; p < context; p++) fm_kv_store(&c->device, &c->state.layers[0].kv, p, k + p * kv_cols, v + p * kv_cols);
        for (int piece = 1; piece <= n; piece = piece < n && piece * 7 > n ? n : piece * 7) {
            for (int at = 0; at < n; at += piece) {
                cache_batch(c, context - n + at, n - at < piece ? n - at : piece);
                fm_attend(&c->device, 0, q + at * cols, out + at * cols);
            }
            if (!want) {
                want = allocate((size_t)(n * cols) * sizeof *want);
                memcpy(want, out, (size_t)(n * cols) * sizeof *want);
            }
            SAME(out, want, n * cols, "%s, context %d, %d threads, pieces of %d", names[kind], context, threads, piece);
        }
        cache_close(c);
        fm_pool_close(&pool);
    }
    double exact[FM_MAX_HEAD_DIM], worst = 0;
    for (int t = 0; t < n; t++) {
        for (int h = 0; h < heads[0]; h++) {
            int shape[3] = {heads[2], kv_cols, h / group * heads[2]}, sees = context - n + t + 1;
            int first = window && sees > window ? sees - window : 0;
            attention_exact(q + t * cols + h * heads[2], k + first * kv_cols, v + first * kv_cols, shape, sees - first, exact);
            for (int i = 0; i < heads[2]; i++) {
                double error = fabs(exact[i] - (double)want[t * cols + h * heads[2] + i]);
                if (!(error <= worst)) worst = error;
            }
        }
    }
    CHECK(worst <= tolerance[kind], "%s, context %d, heads %d/%d/%d: off by %g", names[kind], context, heads[0], heads[1], heads[2], worst);
    fprintf(stderr, "%s, context %d, heads %d/%d/%d: off by %.2g, at most %.2g\n", names[kind], context, heads[0], heads[1], heads[2], worst, tolerance[kind]);
    free(k);
    free(v);
    free(q);
    free(out);
    free(want);
}

static void check_contexts(void) {
    static const int shapes[][3] = {{16, 2, 64}, {6, 3, 80}, {4, 4, 33}, {96, 1, 16}};
    bool slow = getenv("FM_TEST_EMULATED") != NULL;
    for (int kind = 0; kind < 3; kind++) {
        check_context(shapes[1], kind, 300, 20, 0);
        check_context(shapes[1], kind, 300, 20, 30); /* from the block before into the last */
        if (slow) continue;
        for (int i = 0; i < 4; i++) check_context(shapes[i], kind, 700 + i, 60, 0);
        for (int i = 0; i < 4; i++) check_context(shapes[i], kind, 800, 60, (const int[]){1, 256, 280, 511}[i]);
        check_context(shapes[0], kind, 70, 70, 0);
        check_context(shapes[1], kind, 3000, 19, 0);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--bench")) return bench(argc > 2 ? argv[2] : NULL, NULL);
    n_tables = tables_to_test(tables);
    check_bf16();
    for (int flush = 0; flush < 2; flush++) {
        unsigned long mode = flush ? fm_pool_enter() : 0;
        check_blocks();
        check_latents();
        if (flush) check_contexts();
        if (flush) fm_pool_leave(mode);
    }
    return TEST_END();
}
