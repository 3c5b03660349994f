/* What attention reaches, for `test_kernels_attention --bench [TABLE]`: a decoded token's time at several contexts next to a plain read of the same KV cache by
 * the same threads, and operations a second of a prompt's piece of 512 tokens. Layers are as many as make it come from memory. Not part of the tests. */
#include "attention_cache.h"
#include "base/system.h"
#include "bench.h"

#define BYTES ((size_t)320 << 20)
#define ROUNDS 4

static const char *const kinds[] = {"bf16", "f32", "q8"};

typedef struct stream {
    const uint8_t *data;
    uint64_t sink;
} stream;

#define TASK ((size_t)128 << 10)

static void read_task(void *arg, int task, int thread) {
    (void)thread;
    stream *s = arg;
    const uint64_t *p = (const uint64_t *)(const void *)(s->data + (size_t)task * TASK);
    uint64_t sum[32] = {0}, all = 0;
    for (size_t i = 0; i + 32 <= TASK / 8; i += 32) {
        for (size_t j = 0; j < 32; j += 8) __builtin_prefetch((const char *)(p + i + j) + 2304);
        for (size_t j = 0; j < 32; j++) sum[j] ^= p[i + j];
    }
    for (int j = 0; j < 32; j++) all ^= sum[j];
    __atomic_fetch_xor(&s->sink, all, __ATOMIC_RELAXED);
}

static void bench_cache(const int heads[3], int kind, int context, const fm_kernels *k, fm_pool *pool) {
    size_t layer = (size_t)heads[1] * (size_t)heads[2] * (size_t)context * 2 * (kind == FM_KV_F32 ? 4 : kind == FM_KV_BF16 ? 2 : 1);
    int n_layers = layer < BYTES ? (int)(BYTES / layer) : 1, cols = heads[0] * heads[2], kv_cols = heads[1] * heads[2];
    cache *c = cache_open(heads, kind, context, n_layers, k, pool);
    float *x = new_vector(64 * kv_cols, NORMAL), *q = new_vector(512 * cols, NORMAL), *out = allocate((size_t)(512 * cols) * sizeof *out);
    for (int i = 0; i < n_layers; i++) {
        for (int p = 0; p < context; p++) fm_kv_store(&c->device, &c->state.layers[i].kv, p, x + (p + i) % 64 * kv_cols, x + (p + 31) % 64 * kv_cols);
    }
    double bytes = 2.0 * (double)(fm_kv_value_bytes(&c->device.config) + fm_kv_scale_bytes(&c->device.config)), read = 1e9, decode = 1e9, prompt = 1e9;
    stream s = {.data = c->memory.data};
    int n_reads = (int)(c->memory.bytes / TASK);
    for (int round = 0; round < ROUNDS; round++) {
        double t = fm_now(), u;
        fm_pool_run(pool, n_reads, read_task, &s);
        u = (fm_now() - t) / ((double)n_reads * (double)TASK);
        read = u < read ? u : read;
        cache_batch(c, context - 1, 1);
        t = fm_now();
        for (int i = 0; i < n_layers; i++) fm_attend(&c->device, i, q, out);
        u = (fm_now() - t) / n_layers;
        decode = u < decode ? u : decode;
    }
    cache_batch(c, context - 512, 512);
    for (int round = 0; round < 2; round++) {
        double t = fm_now(), u;
        fm_attend(&c->device, 0, q, out);
        u = fm_now() - t;
        prompt = u < prompt ? u : prompt;
    }
    printf("%-7s threads %d  heads %2d/%d/%3d  %-4s context %6d  decode %8.1f us  %6.2f GB/s = %3.0f %% of %5.2f   512 tokens %7.2f ms %7.1f GFLOPS\n", k->name,
           fm_pool_n_threads(pool), heads[0], heads[1], heads[2], kinds[kind], context, decode * 1e6, bytes / decode * 1e-9, 100 * read * bytes / decode,
           1e-9 / read, prompt * 1e3, 4.0 * heads[0] * heads[2] * 512 * (context - 255.5) / prompt * 1e-9);
    fflush(stdout);
    free(x);
    free(q);
    free(out);
    cache_close(c);
}

int bench(const char *name, const char *what) {
    static const int shapes[2][3] = {{16, 2, 256}, {32, 4, 128}}, contexts[] = {1024, 4096, 16384, 32768, 65536};
    const fm_kernels *k = fm_kernels_find(name, NULL);
    fm_pool *pool;
    if (!k || what) return 1;
    MUST(fm_pool_open(&pool, 0, err));
    unsigned long mode = fm_pool_enter();
    for (int shape = 0; shape < 2; shape++) {
        for (int kind = 0; kind < 3; kind++) {
            for (int i = 0; i < 5; i++) bench_cache(shapes[shape], kind, contexts[i], k, pool);
        }
    }
    fm_pool_leave(mode);
    fm_pool_close(&pool);
    return 0;
}
