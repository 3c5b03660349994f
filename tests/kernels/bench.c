/* What the kernels reach, for `test_kernels_matrix --bench [TABLE [vectors|products|batches]]`: bytes of weights a second from memory next to a plain read of the
 * same bytes on the same threads; operations a second in batches next to the dot instruction alone; and microseconds a call of the rest. Not part of the tests. */
#include "bench.h"

#include <sys/mman.h>

#include "base/system.h"
#include "kernels_test.h"

#define BYTES ((size_t)600 << 20)
#define RUN_BYTES ((size_t)4 << 20)
#define ROUNDS 5

typedef struct stream {
    const fm_kernels *k;
    fm_matrix matrix; /* of rows that fill BYTES */
    const float *x;
    const fm_act8 *act; /* NULL: f32 activations */
    const int32_t *tokens;
    int n, step;
    float *y;
    uint64_t sink;
} stream;

static void read_task(void *arg, int task, int thread) {
    (void)thread;
    stream *s = arg;
    size_t strip = fm_matrix_strip_bytes(&s->matrix.type), n = strip * (size_t)s->step / 8;
    const uint64_t *p = (const uint64_t *)s->matrix.data + (size_t)task * n;
    uint64_t sum[32] = {0}, all = 0;
    for (size_t i = 0; i + 32 <= n; i += 32) {
        for (size_t j = 0; j < 32; j += 8) __builtin_prefetch((const char *)(p + i + j) + 2304);
        for (size_t j = 0; j < 32; j++) sum[j] ^= p[i + j];
    }
    for (int j = 0; j < 32; j++) all ^= sum[j];
    __atomic_fetch_xor(&s->sink, all, __ATOMIC_RELAXED);
}

static void multiply_task(void *arg, int task, int thread) {
    (void)thread;
    const stream *s = arg;
    const fm_matrix *m = &s->matrix;
    int first = task * s->step, last = first + s->step;
    size_t ldy = (size_t)m->type.rows, ldx = (size_t)m->type.cols;
    if (m->type.format != FM_FORMAT_R16) {
        s->k->mul_float(m, first, last, s->x, ldx, NULL, s->n, s->y, ldy);
    } else if (s->act) {
        s->k->mul_r16_i8(m, first, last, s->act, s->tokens, s->n, s->y, ldy);
    } else {
        s->k->mul_r16_f32(m, first, last, s->x, ldx, NULL, s->n, s->y, ldy);
    }
}

/* Best time of a pass over n_strips. */
static double best(fm_pool *pool, stream *s, int n_strips, fm_task_fn fn) {
    double least = 1e9;
    for (int i = 0; i < ROUNDS; i++) {
        double start = fm_now();
        fm_pool_run(pool, n_strips / s->step, fn, s);
        double t = fm_now() - start;
        least = t < least ? t : least;
    }
    return least;
}

/* A product of n vectors with weights that do not fit the caches (n small), or a part of them (n large). */
static void bench_product(fm_pool *pool, const fm_kernels *k, fm_matrix_type type, const void *memory, int n, bool int8) {
    type.rows = type.format == FM_FORMAT_R16 ? 16 : 1;
    size_t strip = fm_matrix_bytes(&type);
    /* What the memory gives depends on how far apart the threads read: long runs, as fm_multiply hands them out. */
    int n_strips = (int)(BYTES / (n > 4 ? 16 : 1) / strip), step = (int)(RUN_BYTES / (n > 4 ? 16 : 1) / strip) + 1;
    n_strips -= n_strips % step;
    type.rows *= n_strips;
    stream s = {.k = k, .matrix = {.type = type, .data = memory}, .n = n, .step = step};
    float *x = new_vector(n * type.cols, NORMAL);
    fm_act8 act = new_act8(k, x, n, type.cols, fm_is_mx(&type) ? FM_MX_GROUP : 64, type.format == FM_FORMAT_R16 ? type.width : 4);
    s.x = x;
    s.act = int8 ? &act : NULL;
    s.y = calloc((size_t)n * (size_t)type.rows, sizeof(float));
    if (!s.y) exit(1);
    double bytes = (double)strip * n_strips, read = best(pool, &s, n_strips, read_task), t = best(pool, &s, n_strips, multiply_task);
    static const char *const formats[] = {"f32", "f16", "bf16"};
    printf("%-7s threads %d  %s %d bits %-4s cols %5d  n %3d  %7.2f GB/s = %3.0f %% of %5.2f  %8.1f GMAC/s\n", k->name, fm_pool_n_threads(pool),
           int8 ? "int8" : "f32 ",
           type.format == FM_FORMAT_R16   ? type.width
           : type.format == FM_FORMAT_F32 ? 32
                                          : 16,
           fm_is_mx(&type)                ? "mx"
           : type.format == FM_FORMAT_R16 ? "r16"
                                          : formats[type.format],
           type.cols, n, bytes / t * 1e-9, 100 * read / t, bytes / read * 1e-9, (double)type.rows * type.cols * n / t * 1e-9);
    fflush(stdout);
    free_act8(&act);
    free(x);
    free(s.y);
}

static void bench_products(const fm_kernels *k, const void *memory) {
    fm_matrix_type r16 = {.format = FM_FORMAT_R16, .cols = 2048, .width = 4, .bits = 4, .group = 64, .scale_dtype = FM_BF16},
                   f = {.format = FM_FORMAT_BF16, .cols = 2048},
                   mx = {.format = FM_FORMAT_R16, .cols = 2880, .width = 4, .bits = 4, .group = FM_MX_GROUP, .scale_dtype = FM_U8};
    static const int widths[] = {4, 8, 2}, batches[] = {1, 2, 4, 8, 32};
    int most = fm_cpu_count();
    for (int threads = 1; threads <= most; threads = threads < most && threads * 2 > most ? most : threads * 2) {
        fm_pool *pool;
        MUST(fm_pool_open(&pool, threads, err));
        for (int i = 0; i < 3; i++) {
            r16.cols = 2048 >> (2 * (i == 1)) << (i == 2);
            bench_product(pool, k, r16, memory, 1, true);
        }
        r16.cols = 2048;
        for (int i = 0; i < 3; i++) {
            r16.width = r16.bits = widths[i];
            for (int j = i == 0 ? 1 : 0; j < 5; j++) bench_product(pool, k, r16, memory, batches[j], true);
        }
        r16.width = r16.bits = 4;
        for (int j = 0; j < 5; j++) bench_product(pool, k, mx, memory, batches[j], true);
        bench_product(pool, k, r16, memory, 1, false);
        bench_product(pool, k, r16, memory, 8, false);
        for (int j = 0; j < 5; j++) bench_product(pool, k, f, memory, batches[j], false);
        f.format = FM_FORMAT_F32;
        bench_product(pool, k, f, memory, 1, false);
        f.format = FM_FORMAT_BF16;
        fm_pool_close(&pool);
    }
}

/* Batches for weights of an expert's two shapes, which lie in the caches: what the arithmetic reaches. Tokens of the first are listed, as in an expert. */
static void bench_batches(const fm_kernels *k, const void *memory) {
    static const int batches[] = {1, 2, 4, 8, 16, 32, 64, 128}, widths[] = {4, 8, 2};
    int most = fm_cpu_count();
    for (int threads = 1; threads <= most; threads = threads < most && threads * 2 > most ? most : threads * 2) {
        fm_pool *pool;
        int32_t tokens[128];
        for (int i = 0; i < 128; i++) tokens[i] = i ^ 1;
        MUST(fm_pool_open(&pool, threads, err));
        for (int i = 0; i < 32; i++) {
            int cols = i / 8 == 1 ? 512 : 2048, width = widths[i < 16 ? 0 : i / 8 - 1], n = batches[i % 8];
            fm_matrix_type type = {.format = FM_FORMAT_R16, .rows = 2048 * 512 / cols, .cols = cols, .width = width, .bits = width, .group = 64};
            type.scale_dtype = FM_BF16;
            stream s = {.k = k, .matrix = {.type = type, .data = memory}, .n = n, .step = cols == 512 ? 8 : 4};
            float *x = new_vector(n * cols, NORMAL);
            fm_act8 act = new_act8(k, x, n, cols, 64, width);
            s.x = x;
            s.act = &act;
            s.tokens = cols == 2048 && n > 1 ? tokens : NULL;
            s.y = calloc((size_t)n * (size_t)type.rows, sizeof(float));
            if (!s.y) exit(1);
            double peak = dot_peak(pool, k->name), least = 1e9;
            for (int round = 0; round < 10 * ROUNDS; round++) {
                double t = best(pool, &s, fm_matrix_n_strips(&type), multiply_task);
                least = t < least ? t : least;
            }
            double ops = 2.0 * type.rows * cols * n / least;
            printf("%-7s threads %d  int8 %d bits %4d x %4d  n %3d  %7.1f GOPS = %3.0f %% of %7.1f\n", k->name, threads, width, type.rows, cols, n, ops * 1e-9,
                   peak > 0 ? 50 * ops / peak : 0, 2e-9 * peak);
            fflush(stdout);
            free_act8(&act);
            free(x);
            free(s.y);
        }
        fm_pool_close(&pool);
    }
}

#define TIME(what, calls, call)                                                                                                                                \
    do {                                                                                                                                                       \
        double time_least = 1e9;                                                                                                                               \
        for (int time_i = 0; time_i < ROUNDS; time_i++) {                                                                                                      \
            double time_start = fm_now();                                                                                                                      \
            for (int time_j = 0; time_j < (calls); time_j++) call;                                                                                             \
            double time_t = fm_now() - time_start;                                                                                                             \
            time_least = time_t < time_least ? time_t : time_least;                                                                                            \
        }                                                                                                                                                      \
        printf("%-7s %-40s %9.3f us\n", k->name, what, time_least / (calls)*1e6);                                                                              \
    } while (0)

static void bench_vectors(const fm_kernels *k) {
    float *x = new_vector(1 << 16, NORMAL), *y = new_vector(1 << 16, NORMAL), *z = new_vector(1 << 16, NORMAL), m = 0, l = 0, scale[64], sum[64];
    int8_t q[2048];
    const float *taps[4] = {z, z + 8192, z + 16384, z + 24576};
    for (int i = 0; i < 2048; i++) x[i] *= 0.01f;
    fm_delta_tokens tokens = {.n = 1, .q = x, .k = x + 128, .v = x + 256, .g = z, .beta = z + 64, .o = x + 40000, .ld = 384, .n_heads = 1, .ldo = 128};
    TIME("delta_steps, 128 x 128, 1 token", 200, k->delta_steps(y, 128, 128, &tokens));
    tokens.n = 64;
    TIME("delta_steps, 128 x 128, 64 tokens", 20, k->delta_steps(y, 128, 128, &tokens));
    TIME("quantize 2048 in groups of 64, 4 bits", 1000, k->quantize(z, 2048, 64, 4, q, scale, sum));
    TIME("rms_norm 2048", 1000, k->rms_norm(z, z, 2048, 1e-6f, y));
    TIME("swiglu 512", 1000, k->swiglu(z, z, 512, y));
    TIME("softmax 256", 1000, k->softmax(z, 256, y));
    TIME("conv_silu 4 x 8192", 100, k->conv_silu(x, taps, 4, 8192, 0, 8192, y));
    TIME("attend_merge of 128", 1000, k->attend_merge(&m, &l, y, 0.5f, 2, z, 128));
    free(x);
    free(y);
    free(z);
}

int bench(const char *name, const char *what) {
    const fm_kernels *k = fm_kernels_find(name, NULL);
    if (!k) return 1;
    size_t huge = (size_t)2 << 20;
    uint8_t *memory = mmap(NULL, BYTES + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    uint8_t *start = (uint8_t *)(((uintptr_t)memory + huge - 1) & ~(uintptr_t)(huge - 1));
    madvise(start, BYTES, MADV_HUGEPAGE);
    /* Every 16 bits are a small number, as weights and as scales. */
    for (size_t i = 0; i < BYTES / 2; i++) ((uint16_t *)(void *)start)[i] = (uint16_t)(0x3c00 + (i * 2654435761u >> 22));
    unsigned long mode = fm_pool_enter();
    if (!what || !strcmp(what, "vectors")) bench_vectors(k);
    if (!what || !strcmp(what, "products")) bench_products(k, start);
    if (!what || !strcmp(what, "batches")) bench_batches(k, start);
    fm_pool_leave(mode);
    munmap(memory, BYTES + huge);
    return 0;
}
