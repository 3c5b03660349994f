/* tests/kernels/kernels_test.h: random and corner inputs for kernels, r16 matrices of them, and comparison bit by bit. */
#ifndef KERNELS_TEST_H
#define KERNELS_TEST_H

#include <math.h>

#include "base/pool.h"
#include "cpu/isa/kernels.h"
#include "test.h"

#define MAX_TABLES 5

static uint64_t seed = 1;

static inline int random_below(int n) { return (int)(test_random(&seed) % (uint64_t)n); }
static inline double random_unit(void) { return (double)(test_random(&seed) >> 11) * 0x1p-53; }

/* Roughly normal. */
static inline float random_normal(void) { return (float)(random_unit() + random_unit() + random_unit() + random_unit() - 2) * 1.7f; }

/* Kinds of vectors. */
enum { NORMAL, WIDE /* of all magnitudes */, ZEROS, ALTERNATING /* +-127 */, SPIKE /* one value, the rest 0 */, DENORMAL, TINY, HUGE_, SAME, N_VECTORS };

static inline void fill_vector(float *x, int n, int kind) {
    int spike = n ? random_below(n) : 0;
    for (int i = 0; i < n; i++) {
        float r = random_normal();
        switch (kind) {
        case NORMAL: x[i] = r; break;
        case WIDE: x[i] = r * ldexpf(1, random_below(40) - 20); break;
        case ZEROS: x[i] = i % 3 ? 0.0f : -0.0f; break;
        case ALTERNATING: x[i] = i % 2 ? -127 : 127; break;
        case SPIKE: x[i] = i == spike ? r : 0; break;
        case DENORMAL: x[i] = r * 0x1p-130f; break;
        case TINY: x[i] = r * 1e-29f; break;
        case HUGE_: x[i] = r * 1e36f; break;
        default: x[i] = 127; break;
        }
    }
}

/* Exactly n bytes, so that the address sanitizer sees a read past the end; never NULL. */
static inline void *allocate(size_t n) {
    void *p = malloc(n ? n : 1);
    if (!p) exit(1);
    return p;
}

static inline float *new_vector(int n, int kind) {
    float *x = allocate((size_t)n * sizeof *x);
    fill_vector(x, n, kind);
    return x;
}

static inline uint16_t to_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return (uint16_t)(u >> 16);
}

/* Of |x| below 2, cut off. */
static inline uint16_t to_f16(float x) {
    int e;
    float m = frexpf(fabsf(x), &e); /* m in [0.5, 1) */
    uint16_t sign = x < 0 ? 0x8000 : 0;
    if (x == 0 || e < -23) return sign;
    if (e < -13) return sign | (uint16_t)ldexpf(m, e + 24);
    return sign | (uint16_t)((e + 14) << 10 | ((int)ldexpf(m, 11) & 1023));
}

static inline uint16_t to_half(float x, bool f16) { return f16 ? to_f16(x) : to_bf16(x); }

/* Kinds of weights: random, all bits 0 or 1, every other value the greatest, one row of each strip that is not 0; scales as models have them, or denormal. */
enum { RANDOM_BITS, ALL_ZERO, ALL_ONE, CHECKERED, ONE_ROW, SMALL_SCALES, N_WEIGHTS };

static inline void fill_r16(uint8_t *data, const fm_matrix_type *t, int kind) {
    int n_words = t->group * t->width / 2; /* u32 words of 16 rows */
    int row = random_below(16);
    uint32_t checkered = t->width == 8 ? 0x00ff00ff : t->width == 4 ? 0xf0f0f0f0 : 0xcccccccc;
    for (int block = 0; block < (t->rows + 15) / 16 * (t->cols / t->group); block++, data += (size_t)n_words * 4 + 64) {
        for (int w = 0; w < n_words; w++) {
            uint32_t random = (uint32_t)test_random(&seed), word = kind == ALL_ZERO || (kind == ONE_ROW && w % 16 != row) ? 0
                                                                   : kind == ALL_ONE                                      ? ~0u
                                                                   : kind == CHECKERED                                    ? checkered
                                                                                                                          : random;
            memcpy(data + (size_t)w * 4, &word, sizeof word);
        }
        for (int r = 0; r < 32; r++) {
            float s = 0.01f * (random_normal() + 2), scale = r < 16 ? s : -7.5f * s;
            uint16_t half = kind == SMALL_SCALES ? (uint16_t)(random_below(64) | random_below(2) << 15) : to_half(scale, t->scale_dtype == FM_F16);
            memcpy(data + (size_t)n_words * 4 + (size_t)r * 2, &half, sizeof half);
        }
    }
}

static inline fm_matrix new_r16(int rows, int cols, int width, int group, bool f16, int kind) {
    fm_matrix m = {
        .type = {.format = FM_FORMAT_R16, .rows = rows, .cols = cols, .bits = width, .width = width, .group = group, .scale_dtype = f16 ? FM_F16 : FM_BF16}};
    void *data = NULL;
    if (posix_memalign(&data, 64, fm_matrix_bytes(&m.type))) exit(1);
    fill_r16(data, &m.type, kind);
    m.data = data;
    return m;
}

/* mxfp4. Scales: of models, or from the least to the greatest there are. */
static inline fm_matrix new_mx(int rows, int cols, int kind) {
    fm_matrix m = {.type = {.format = FM_FORMAT_R16, .rows = rows, .cols = cols, .bits = 4, .width = 4, .group = FM_MX_GROUP, .scale_dtype = FM_U8}};
    size_t bytes = fm_matrix_bytes(&m.type);
    int groups = cols / FM_MX_GROUP, row = random_below(16);
    uint8_t *data = NULL;
    if (posix_memalign((void **)&data, 64, bytes)) exit(1);
    m.data = data;
    for (int strip = 0; strip < (rows + 15) / 16; strip++) {
        for (int g = 0, parts; g < groups; g += parts, data += parts * 256 + 64) {
            parts = groups - g < FM_MX_GROUPS ? groups - g : FM_MX_GROUPS;
            for (int i = 0; i < parts * 256; i++) {
                uint8_t random = (uint8_t)test_random(&seed);
                data[i] = kind == ALL_ZERO || (kind == ONE_ROW && i / 4 % 16 != row) ? 0 : kind == ALL_ONE ? 0x77 : kind == CHECKERED ? 0xf7 : random;
            }
            for (int i = 0; i < 64; i++) data[parts * 256 + i] = (uint8_t)(kind == SMALL_SCALES ? random_below(FM_MX_SCALES) : 117 + random_below(6));
        }
    }
    return m;
}

static inline fm_matrix new_float(int rows, int cols, fm_format format, int kind) {
    fm_matrix m = {.type = {.format = format, .rows = rows, .cols = cols}};
    int n = rows * cols;
    float *x = new_vector(n, kind);
    m.data = x;
    if (format == FM_FORMAT_F32) return m;
    uint16_t *halves = allocate((size_t)n * 2);
    for (int i = 0; i < n; i++) halves[i] = to_half(format == FM_FORMAT_F16 && fabsf(x[i]) >= 2 ? 1.5f : x[i], format == FM_FORMAT_F16);
    free(x);
    m.data = halves;
    return m;
}

static inline void free_matrix(fm_matrix *m) { free((void *)(uintptr_t)m->data); }

static inline fm_act8 new_act8(const fm_kernels *k, const float *x, int n, int cols, int group, int width) {
    size_t count = (size_t)n * (size_t)cols, groups = (size_t)(cols / group);
    fm_act8 a = {.cols = cols,
                 .group = group,
                 .width = width,
                 .q = allocate(count),
                 .scale = allocate(count / (size_t)group * 4),
                 .sum = allocate(count / (size_t)group * 4)};
    for (size_t t = 0; t < (size_t)n; t++) {
        k->quantize(x + t * (size_t)cols, cols, group, width, a.q + t * (size_t)cols, a.scale + t * groups, a.sum + t * groups);
    }
    return a;
}

static inline void free_act8(fm_act8 *a) {
    free(a->q);
    free(a->scale);
    free(a->sum);
}

/* The first of n floats that is not the same in bits (NaN is the same as NaN), or -1. */
static inline int differs(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (memcmp(a + i, b + i, sizeof *a) && !(a[i] != a[i] && b[i] != b[i])) return (int)i;
    }
    return -1;
}

/* got must be want, bit by bit. */
#define SAME(got, want, n, ...)                                                                                                                                \
    do {                                                                                                                                                       \
        int same_at = differs(got, want, (size_t)(n));                                                                                                         \
        if (same_at >= 0) fprintf(stderr, "at %d: %a, want %a: ", same_at, (double)(got)[same_at], (double)(want)[same_at]);                                   \
        CHECK(same_at < 0, __VA_ARGS__);                                                                                                                       \
    } while (0)

/* The tables of this CPU without scalar; says which of the machine's kind it has not got. */
static inline int tables_to_test(const fm_kernels **list) {
#if defined(__x86_64__)
    static const char *const names[] = {"avx2", "avxvnni", "avx512", "amx"};
#elif defined(__aarch64__)
    static const char *const names[] = {"neon", "i8mm"};
#else
    static const char *const names[] = {"none"};
#endif
    int n = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const fm_kernels *k = fm_kernels_find(names[i], NULL);
        if (k) {
            list[n++] = k;
        } else {
            fprintf(stderr, "skipped: this CPU has no %s\n", names[i]);
        }
    }
    if (!n) SKIP("only the scalar kernels run here");
    return n;
}

#endif
