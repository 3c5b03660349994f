/* The rate of the instruction that a table's int8 products are made of, in a loop of nothing else: what bench.c's batches are held against. */
#include "bench.h"

#include <string.h>

#include "base/system.h"

#define LOOPS 20000
#define ROUNDS 5

#if defined(__x86_64__)

/* Sixteen of an instruction into sixteen registers, LOOPS times. */
#define TIMES16(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11) x(12) x(13) x(14) x(15)
#define TIMES12(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11)
#define LOOP(body)                                                                                                                                             \
    long n = LOOPS;                                                                                                                                            \
    __asm__ volatile("1:\n" body "dec %0\njnz 1b"                                                                                                              \
                     : "+r"(n)::"memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",     \
                       "xmm13", "xmm14", "xmm15")
#define ZMM(i) "vpdpbusd %%zmm31, %%zmm31, %%zmm" #i "\n"
#define YMM(i) "%{vex%} vpdpbusd %%ymm15, %%ymm15, %%ymm" #i "\n"
#define MADD(i) "vpmaddubsw %%ymm15, %%ymm15, %%ymm0\nvpmaddwd %%ymm15, %%ymm0, %%ymm0\nvpaddd %%ymm0, %%ymm14, %%ymm1\n"
#define TILE(i) "tdpbsud %%tmm5, %%tmm4, %%tmm0\ntdpbsud %%tmm5, %%tmm4, %%tmm1\ntdpbsud %%tmm5, %%tmm4, %%tmm2\ntdpbsud %%tmm5, %%tmm4, %%tmm3\n"

static void zmm(void *arg, int task, int thread) {
    (void)arg, (void)task, (void)thread;
    LOOP(TIMES16(ZMM));
}

static void ymm(void *arg, int task, int thread) {
    (void)arg, (void)task, (void)thread;
    LOOP(TIMES12(YMM));
}

static void madd(void *arg, int task, int thread) {
    (void)arg, (void)task, (void)thread;
    LOOP(TIMES16(MADD));
}

static void tile(void *arg, int task, int thread) {
    (void)arg, (void)task, (void)thread;
    uint8_t config[64] = {1};
    for (int i = 0; i < 8; i++) {
        config[16 + 2 * i] = 64;
        config[48 + i] = 16;
    }
    __asm__ volatile("ldtilecfg %0" ::"m"(config));
    LOOP(TIMES16(TILE));
    __asm__ volatile("tilerelease");
}

static const struct {
    const char *table;
    fm_task_fn loop;
    double macs; /* a loop */
} peaks[] = {{"avx2", madd, 16 * 32}, {"avxvnni", ymm, 12 * 32}, {"avx512", zmm, 16 * 64}, {"amx", tile, 64 * 16 * 16 * 64}};

#elif defined(__aarch64__)

#define TIMES16(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(16) x(17) x(18) x(19) x(20) x(21) x(22) x(23)
#define LOOP(body)                                                                                                                                             \
    long n = LOOPS;                                                                                                                                            \
    __asm__ volatile(".arch armv8.6-a\n1:\n" body "subs %0, %0, #1\nb.ne 1b"                                                                                   \
                     : "+r"(n)::"memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23")
#define SDOT(i) "sdot v" #i ".4s, v31.16b, v30.16b\n"
#define USMMLA(i) "usmmla v" #i ".4s, v31.16b, v30.16b\n"

static void sdot(void *arg, int task, int thread) {
    (void)arg, (void)task, (void)thread;
    LOOP(TIMES16(SDOT));
}

static void usmmla(void *arg, int task, int thread) {
    (void)arg, (void)task, (void)thread;
    LOOP(TIMES16(USMMLA));
}

static const struct {
    const char *table;
    fm_task_fn loop;
    double macs;
} peaks[] = {{"neon", sdot, 16 * 16}, {"i8mm", usmmla, 16 * 32}};

#endif

double dot_peak(fm_pool *pool, const char *table) {
#if defined(__x86_64__) || defined(__aarch64__)
    for (size_t i = 0; i < sizeof peaks / sizeof *peaks; i++) {
        if (strcmp(peaks[i].table, table) != 0) continue;
        int n = fm_pool_n_threads(pool);
        double least = 1e9;
        for (int round = 0; round < ROUNDS; round++) {
            double start = fm_now();
            fm_pool_run(pool, 4 * n, peaks[i].loop, NULL);
            double t = fm_now() - start;
            least = t < least ? t : least;
        }
        return 4 * n * LOOPS * peaks[i].macs / least;
    }
#endif
    (void)pool;
    (void)table;
    return 0;
}
