/* The kernels over vectors, attention and the delta rule on every instruction set against scalar, bit by bit. */
#include "base/math.h"
#include "kernels_test.h"

#define GUARD 20 /* floats after an output that must stay as they were */

static const fm_kernels *tables[MAX_TABLES];
static int n_tables;

/* Inputs of one call, and outputs a call writes. */
typedef struct call {
    int n, m;
    const float *a, *b, *c, *d;
    float s, t;
    float *y, *z;
} call;

static void call_dot(const fm_kernels *k, const call *c) { c->z[0] = k->dot(c->a, c->b, c->n); }
static void call_rms_norm(const fm_kernels *k, const call *c) { k->rms_norm(c->a, c->b, c->n, 1e-6f, c->y); }
static void call_layer_norm(const fm_kernels *k, const call *c) { k->layer_norm(c->a, c->b, c->c, c->n, 1e-6f, c->y); }
static void call_rms_norm_gated(const fm_kernels *k, const call *c) { k->rms_norm_gated(c->a, c->b, c->c, c->n, 1e-6f, c->y); }
static void call_l2_norm(const fm_kernels *k, const call *c) { k->l2_norm(c->a, c->n, 1e-6f, 0.125f, c->y); }
static void call_swiglu(const fm_kernels *k, const call *c) { k->swiglu(c->a, c->b, c->n, c->y); }
static void call_swiglu_clamped(const fm_kernels *k, const call *c) { k->swiglu_clamped(c->a, c->b, c->n, 1.25f, 1.702f, c->y); }
static void call_sigmoid_mul(const fm_kernels *k, const call *c) { k->sigmoid_mul(c->a, c->b, c->n, c->y); }
static void call_add(const fm_kernels *k, const call *c) { k->add(c->a, c->n, c->y); }
static void call_axpy(const fm_kernels *k, const call *c) { k->axpy(c->s, c->a, c->n, c->y); }
static void call_softmax(const fm_kernels *k, const call *c) { k->softmax(c->a, c->n, c->y); }
static void call_exp(const fm_kernels *k, const call *c) { k->exp(c->a, c->n, c->y); }
static void call_attend_finish(const fm_kernels *k, const call *c) { k->attend_finish(c->s, c->a, c->n, c->y); }

/* The same with y = one of the inputs. */
static void call_in_place(const fm_kernels *k, const call *c) {
    float *y[8];
    for (int i = 0; i < 8; i++) {
        y[i] = allocate((size_t)c->n * sizeof(float));
        memcpy(y[i], i == 3 ? c->b : c->a, (size_t)c->n * sizeof(float));
    }
    k->rms_norm(y[0], c->b, c->n, 1e-6f, y[0]);
    k->l2_norm(y[1], c->n, 1e-6f, 2, y[1]);
    k->swiglu(y[2], c->b, c->n, y[2]);
    k->swiglu(c->a, y[3], c->n, y[3]);
    k->swiglu_clamped(y[2], y[3], c->n, 2, 1.5f, y[2]);
    k->swiglu_clamped(y[2], y[3], c->n, 2, 1.5f, y[3]);
    k->sigmoid_mul(y[4], c->b, c->n, y[4]);
    k->softmax(y[5], c->n, y[5]);
    k->layer_norm(y[6], c->b, c->c, c->n, 1e-6f, y[6]);
    k->sigmoid_mul(y[7], y[7], c->n, y[7]);
    memset(c->y, 0, (size_t)c->n * sizeof(float));
    for (int i = 0; i < 8; i++) {
        for (int j = 0; j < c->n; j++) c->z[i] += y[i][j] * (float)(j % 7);
        for (int j = 0; j < c->n; j++) c->y[j] = c->y[j] * 0.5f + y[i][j];
        free(y[i]);
    }
}

static void call_attend_merge(const fm_kernels *k, const call *c) {
    c->z[0] = c->a[0];
    c->z[1] = c->s == 0 ? 0 : fabsf(c->s);
    k->attend_merge(&c->z[0], &c->z[1], c->y, c->b[0], fabsf(c->t), c->c, c->n);
}

/* n channels of which the first and the last few are left out. */
static void call_conv_silu(const fm_kernels *k, const call *c) {
    const float *rows[4] = {c->a, c->b, c->c, c->d};
    float *w = allocate((size_t)c->n * 4 * sizeof *w);
    for (int j = 0; j < 4; j++) memcpy(w + (size_t)j * (size_t)c->n, rows[3 - j], (size_t)c->n * sizeof *w);
    for (int taps = 1; taps <= 4; taps++) k->conv_silu(w, rows, taps, c->n, taps % 2 ? 0 : c->n / 3, taps < 3 ? c->n : c->n - c->n / 4, c->y);
    free(w);
}

typedef struct entry {
    const char *name;
    void (*call)(const fm_kernels *k, const call *c);
} entry;

static const entry entries[] = {
    {"dot", call_dot},
    {"rms_norm", call_rms_norm},
    {"layer_norm", call_layer_norm},
    {"rms_norm_gated", call_rms_norm_gated},
    {"l2_norm", call_l2_norm},
    {"swiglu", call_swiglu},
    {"swiglu_clamped", call_swiglu_clamped},
    {"sigmoid_mul", call_sigmoid_mul},
    {"add", call_add},
    {"axpy", call_axpy},
    {"softmax", call_softmax},
    {"exp", call_exp},
    {"attend_finish", call_attend_finish},
    {"in place", call_in_place},
    {"attend_merge", call_attend_merge},
    {"conv_silu", call_conv_silu},
};

static void check_call(const entry *e, call *c, int kind) {
    size_t bytes = (size_t)(c->n + GUARD) * sizeof(float);
    float *want = allocate(bytes), *got = allocate(bytes), *before = new_vector(c->n + GUARD, kind), want_z[8] = {0}, got_z[8];
    memcpy(want, before, bytes);
    c->y = want;
    c->z = want_z;
    e->call(&fm_kernels_scalar, c);
    CHECK(!memcmp(want + c->n, before + c->n, GUARD * sizeof(float)), "scalar %s wrote past %d", e->name, c->n);
    for (int k = 0; k < n_tables; k++) {
        memcpy(got, before, bytes);
        memset(got_z, 0, sizeof got_z);
        c->y = got;
        c->z = got_z;
        e->call(tables[k], c);
        SAME(got, want, c->n + GUARD, "%s %s of %d, inputs %d", tables[k]->name, e->name, c->n, kind);
        SAME(got_z, want_z, 8, "%s %s of %d, inputs %d, scalars", tables[k]->name, e->name, c->n, kind);
    }
    free(want);
    free(got);
    free(before);
}

static void check_vectors(int n, int kind, float special) {
    float *x[4];
    for (int i = 0; i < 4; i++) {
        x[i] = new_vector(n, i == kind % 3 ? NORMAL : kind);
        if (special != 0 && n > 0) x[i][random_below(n)] = special;
    }
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        call c = {.n = n, .a = x[0], .b = x[1], .c = x[2], .d = x[3], .s = n % 4 ? random_normal() : 0, .t = random_normal()};
        if (n == 0 && entries[i].call == call_attend_merge) continue;
        check_call(&entries[i], &c, kind);
    }
    for (int i = 0; i < 4; i++) free(x[i]);
}

/* exp of n floats whose bits are first, first + step, … */
static void check_exp_of(uint32_t first, uint32_t step) {
    enum { N = 1000 };
    float x[N], want[N], got[N];
    for (uint32_t i = 0; i < N; i++) {
        uint32_t bits = first + i * step;
        memcpy(x + i, &bits, sizeof bits);
        want[i] = fm_expf(x[i]);
    }
    fm_kernels_scalar.exp(x, N, got);
    SAME(got, want, N, "scalar exp against fm_expf");
    for (int k = 0; k < n_tables; k++) {
        tables[k]->exp(x, N, got);
        SAME(got, want, N, "%s exp against fm_expf", tables[k]->name);
    }
}

/* On every 997th float, and around the ends of its range. */
static void check_exp(void) {
    for (uint64_t first = 0; first < UINT32_MAX; first += 1000 * 997) check_exp_of((uint32_t)first, 997);
    static const float ends[] = {FM_EXP_LOWEST, FM_EXP_HIGHEST};
    for (int i = 0; i < 2; i++) {
        uint32_t bits;
        memcpy(&bits, &ends[i], sizeof bits);
        check_exp_of(bits - 500, 1);
    }
}

static void delta_steps(const fm_kernels *k, float *s, int dk, int dv, const float *x, float *o, int n) {
    float g[FM_DELTA_MANY + 3], beta[FM_DELTA_MANY + 3];
    for (int i = 0; i < n; i++) {
        g[i] = 1 - 0.01f * (float)(i * 7 % 30);
        beta[i] = 0.05f + 0.04f * (float)(i * 5 % 24);
    }
    fm_delta_tokens tokens = {
        .n = n, .q = x, .k = x + dk, .v = x + 2 * dk, .g = g, .beta = beta, .o = o, .ld = (size_t)(2 * dk + dv + 3), .n_heads = 1, .ldo = (size_t)dv};
    k->delta_steps(s, dk, dv, &tokens);
}

/* All tokens at once and one by one, so that an error of the state is seen in what follows. */
static void check_delta(int dk, int dv, int kind) {
    enum { N = FM_DELTA_MANY + 3 };
    size_t state = (size_t)dk * (size_t)dv;
    int ld = 2 * dk + dv + 3;
    float *first = new_vector((int)state, kind), *x = new_vector(N * ld, NORMAL), *s[2], *o[2];
    fill_vector(x, ld, kind);
    for (int i = 0; i < 2; i++) {
        s[i] = allocate(state * sizeof(float));
        o[i] = new_vector(N * dv, ZEROS);
    }
    for (int n = 1; n <= N; n += n < 3 ? 1 : FM_DELTA_MANY - 4) {
        memcpy(s[0], first, state * sizeof(float));
        delta_steps(&fm_kernels_scalar, s[0], dk, dv, x, o[0], n);
        for (int i = 0; i < n_tables; i++) {
            memcpy(s[1], first, state * sizeof(float));
            delta_steps(tables[i], s[1], dk, dv, x, o[1], n);
            SAME(s[1], s[0], state, "%s delta_steps' state, %d x %d, %d tokens, inputs %d", tables[i]->name, dk, dv, n, kind);
            SAME(o[1], o[0], n * dv, "%s delta_steps, %d x %d, %d tokens, inputs %d", tables[i]->name, dk, dv, n, kind);
        }
    }
    free(first);
    free(x);
    for (int i = 0; i < 2; i++) {
        free(s[i]);
        free(o[i]);
    }
}

static void check_all(void) {
    static const float special[] = {0, NAN, INFINITY, -INFINITY};
    for (int n = 0; n <= 70; n++) {
        for (int kind = 0; kind < N_VECTORS; kind++) check_vectors(n, kind, 0);
    }
    static const int sizes[] = {128, 255, 256, 512, 2048, 2049, 4096};
    for (int i = 0; i < 7; i++) check_vectors(sizes[i], i % 2 ? WIDE : NORMAL, 0);
    for (int i = 0; i < 40; i++) check_vectors(1 + i * 3, i % N_VECTORS, special[1 + i % 3]);
    for (int dv = 1; dv <= 140; dv += dv < 70 ? 1 : 13) check_delta(1 + dv * 5 % 37, dv, dv % N_VECTORS);
    check_delta(128, 128, NORMAL);
    check_delta(64, 512, WIDE);
}

int main(void) {
    n_tables = tables_to_test(tables);
    for (int flush = 0; flush < 2; flush++) {
        unsigned long mode = flush ? fm_pool_enter() : 0;
        check_all();
        if (flush) fm_pool_leave(mode);
    }
    check_exp();
    return TEST_END();
}
