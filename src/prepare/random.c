/* prepare/random.c: see random.h. Eight generators (xorshift128+) run side by side, so that vectors of any width can do them. */
#include "prepare/random.h"

#include <math.h>

#define ROW 64 /* bytes that the generators make at once: a word of 16 rows, or their scales and biases */

typedef uint64_t lanes __attribute__((vector_size(ROW)));

typedef struct generator {
    lanes a, b;
} generator;

/* splitmix64. */
static uint64_t next_seed(uint64_t *state) {
    uint64_t x = *state += 0x9e3779b97f4a7c15;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

uint64_t fm_random_seed(uint64_t seed, uint64_t x) {
    uint64_t state = seed ^ next_seed(&x);
    return next_seed(&state);
}

static void start(generator *g, uint64_t seed) {
    for (int i = 0; i < 8; i++) {
        g->a[i] = next_seed(&seed);
        g->b[i] = next_seed(&seed) | 1; /* never both 0 */
    }
}

/* bytes is a multiple of ROW. */
static void fill(generator *g, uint8_t *dest, size_t bytes) {
    lanes a = g->a, b = g->b;
    for (size_t i = 0; i < bytes; i += ROW) {
        lanes x = a, out = a + b;
        memcpy(dest + i, &out, ROW);
        a = b;
        x ^= x << 23;
        b ^= x ^ x >> 18 ^ b >> 5;
    }
    g->a = a;
    g->b = b;
}

/* Rounded to the nearest, ties to even; x is finite. */
static uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* 0.75 to 1.25 of the mean; the bias puts the middle of the values up to half a step beside 0. */
static float scale_of(uint16_t random, float mean) { return mean * (0.75f + (float)random * (0.5f / 65536)); }
static float bias_of(float scale, uint16_t random, float middle) { return -scale * (middle + ((float)random * (1.0f / 65536) - 0.5f)); }

void fm_random_affine(fm_random_values *values, int bits, int cols, float spread) {
    float steps = (float)(1 << bits);
    values->low = spread * 2 / (steps * sqrtf((float)cols));
    values->high = (steps - 1) / 2;
}

static void floats(uint8_t *dest, const fm_random_values *v, const uint8_t *random) {
    float out[ROW / 4], range = v->high - v->low;
    uint32_t x[ROW / 4];
    memcpy(x, random, ROW);
    for (int i = 0; i < ROW / 4; i++) out[i] = v->low + range * ((float)(int32_t)(x[i] >> 8) * 0x1p-24f);
    memcpy(dest, out, ROW);
}

static void halves(uint8_t *dest, const fm_random_values *v, const uint8_t *random) {
    float range = v->high - v->low;
    uint16_t x[ROW / 2], out[ROW / 2];
    memcpy(x, random, ROW);
    for (int i = 0; i < ROW / 2; i++) out[i] = to_bf16(v->low + range * ((float)x[i] * (1.0f / 65536)));
    memcpy(dest, out, ROW);
}

static void scales(uint8_t *dest, const fm_random_values *v, const uint8_t *random) {
    uint16_t x[ROW / 2], out[ROW / 2];
    memcpy(x, random, ROW);
    for (int i = 0; i < ROW / 2; i++) out[i] = to_bf16(scale_of(x[i], v->low));
    memcpy(dest, out, ROW);
}

/* random: the numbers of the scales; beside: those of the biases themselves. */
static void biases(uint8_t *dest, const fm_random_values *v, const uint8_t *random, const uint8_t *beside) {
    uint16_t x[ROW / 2], y[ROW / 2], out[ROW / 2];
    memcpy(x, random, ROW);
    memcpy(y, beside, ROW);
    for (int i = 0; i < ROW / 2; i++) out[i] = to_bf16(bias_of(scale_of(x[i], v->low), y[i], v->high));
    memcpy(dest, out, ROW);
}

static void convert(uint8_t *dest, const fm_random_values *v, const uint8_t *random, const uint8_t *beside) {
    switch (v->kind) {
    case FM_RANDOM_F32: floats(dest, v, random); break;
    case FM_RANDOM_SCALES: scales(dest, v, random); break;
    case FM_RANDOM_BIASES: biases(dest, v, random, beside); break;
    default: halves(dest, v, random);
    }
}

void fm_random_piece(void *dest, const fm_random_values *v, uint64_t piece, size_t bytes) {
    uint8_t *out = dest, random[ROW], beside[ROW] = {0}, last[ROW];
    size_t whole = bytes / ROW * ROW;
    generator g, jitter;
    start(&g, fm_random_seed(v->seed, 2 * piece));
    start(&jitter, fm_random_seed(v->seed, 2 * piece + 1));
    if (v->kind == FM_RANDOM_WORDS) {
        fill(&g, out, whole);
        if (whole < bytes) fill(&g, last, ROW);
    }
    for (size_t i = 0; v->kind != FM_RANDOM_WORDS && i < bytes; i += ROW) {
        fill(&g, random, ROW);
        if (v->kind == FM_RANDOM_BIASES) fill(&jitter, beside, ROW);
        convert(i < whole ? out + i : last, v, random, beside);
    }
    if (whole < bytes) memcpy(out + whole, last, bytes - whole);
}

/* Scales and biases of 16 rows from the ROW of random numbers in their place. */
static void scales_and_biases(uint8_t *row, const fm_random_values *v) {
    uint16_t random[32], out[32];
    memcpy(random, row, ROW);
    for (int r = 0; r < 16; r++) {
        float scale = scale_of(random[r], v->low);
        out[r] = to_bf16(scale);
        out[16 + r] = to_bf16(bias_of(scale, random[16 + r], v->high));
    }
    memcpy(row, out, ROW);
}

void fm_random_r16(void *dest, const fm_matrix_type *type, float spread, uint64_t seed) {
    uint8_t *block = dest;
    size_t words = (size_t)(type->group * type->bits / 32) * ROW;
    fm_random_values v = {0};
    generator g;
    fm_random_affine(&v, type->bits, type->cols, spread);
    start(&g, seed);
    for (int strip = 0; strip < fm_matrix_n_strips(type); strip++) {
        size_t rows = type->rows - strip * 16 < 16 ? (size_t)(type->rows - strip * 16) : 16;
        for (int group = 0; group < type->cols / type->group; group++, block += words + ROW) {
            fill(&g, block, words + ROW);
            scales_and_biases(block + words, &v);
            if (rows == 16) continue;
            for (size_t w = 0; w < words; w += ROW) memset(block + w + rows * 4, 0, (16 - rows) * 4);
            memset(block + words + rows * 2, 0, (16 - rows) * 2);
            memset(block + words + 32 + rows * 2, 0, (16 - rows) * 2);
        }
    }
}
