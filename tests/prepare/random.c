/* Random weights: the same bytes everywhere, rows past the end 0, numbers of the size that was asked for. */
#include "prepare/random.h"

#include <math.h>

#include "formats/pack.h"
#include "test.h"

static fm_matrix_type affine(int rows, int cols, int bits, int group) {
    fm_matrix_type type;
    const fm_affine_shape shape = {(uint64_t)rows, (uint64_t)(cols * bits / 32), (uint64_t)(cols / group), FM_BF16, bits, group};
    MUST(fm_matrix_type_affine(&type, "x", &shape, err));
    return type;
}

/* Bytes of a matrix at its native width. */
static size_t bytes_of(const fm_matrix_type *t) {
    return (size_t)fm_matrix_n_strips(t) * 16 * (size_t)(t->cols / t->group) * (size_t)(t->group * t->bits / 8 + 4);
}

/* Value i of a row's words in a block, from a stream of bits that goes from word to word. */
static int value_at(const uint8_t *block, int row, int bits, int i) {
    int value = 0;
    for (int b = 0; b < bits; b++) {
        int bit = i * bits + b;
        uint32_t word;
        memcpy(&word, block + bit / 32 * 64 + row * 4, sizeof word);
        value |= (int)(word >> bit % 32 & 1) << b;
    }
    return value;
}

static float half_at(const uint8_t *p) {
    uint16_t x;
    memcpy(&x, p, sizeof x);
    return fm_from_bf16(x);
}

static void check_matrix(int bits, int group, int rows) {
    enum { COLS = 384 };
    fm_matrix_type t = affine(rows, COLS, bits, group);
    size_t bytes = bytes_of(&t), words = (size_t)(group * bits / 32) * 64;
    uint8_t *data = malloc(bytes + 64), *block = data;
    double sum = 0, squares = 0;
    int counts[256] = {0}, others = 0;
    memset(data, 0xaa, bytes + 64);
    fm_random_r16(data, &t, 1, 42);
    for (int i = 0; i < 64; i++) CHECK(data[bytes + (size_t)i] == 0xaa, "%d bits: it writes past its end", bits);
    for (int strip = 0; strip < fm_matrix_n_strips(&t); strip++) {
        for (int g = 0; g < COLS / group; g++, block += words + 64) {
            for (int r = 0; r < 16; r++) {
                float scale = half_at(block + words + r * 2), bias = half_at(block + words + 32 + r * 2);
                bool past = strip * 16 + r >= rows;
                for (int i = 0; i < group; i++) {
                    int q = value_at(block, r, bits, i);
                    double w = q * (double)scale + (double)bias;
                    if (past) {
                        others += q != 0;
                        continue;
                    }
                    counts[q]++;
                    sum += w;
                    squares += w * w;
                }
                if (past) others += scale != 0 || bias != 0;
                if (!past) CHECK(scale > 0 && bias < 0, "%d bits: scale %g, bias %g", bits, (double)scale, (double)bias);
            }
        }
    }
    double n = (double)rows * COLS, deviation = sqrt(squares / n) * sqrt(COLS);
    CHECK(others == 0, "%d bits, %d rows: %d numbers past the last row are not 0", bits, rows, others);
    CHECK(deviation > 0.5 && deviation < 0.65 && fabs(sum / n) < 0.05 / sqrt(COLS), "%d bits: deviation %g, mean %g", bits, deviation, sum / n);
    for (int q = 0; q < 1 << bits; q++) {
        double expected = n / (1 << bits);
        CHECK(fabs(counts[q] - expected) < 6 * sqrt(expected), "%d bits: %d of value %d, not %g", bits, counts[q], q, expected);
    }
    free(data);
}

/* A part of a tensor is the same whatever was made before, and a short last piece the begin of a long one. */
static void test_pieces(void) {
    static const fm_random_kind kinds[] = {FM_RANDOM_WORDS, FM_RANDOM_SCALES, FM_RANDOM_BIASES, FM_RANDOM_BF16, FM_RANDOM_F32};
    uint8_t *whole = malloc(FM_RANDOM_PIECE), *part = malloc(FM_RANDOM_PIECE);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        fm_random_values v = {.kind = kinds[k], .low = -0.5f, .high = 0.75f, .seed = 9};
        if (k == 1 || k == 2) fm_random_affine(&v, 4, 2048, 1);
        fm_random_piece(whole, &v, 3, FM_RANDOM_PIECE);
        for (size_t bytes = 4; bytes < 1000; bytes += 12) {
            memset(part, 0x55, 1100);
            fm_random_piece(part, &v, 3, bytes);
            CHECK(!memcmp(part, whole, bytes) && part[bytes] == 0x55, "kind %zu, %zu bytes", k, bytes);
        }
        fm_random_piece(part, &v, 4, FM_RANDOM_PIECE);
        CHECK(memcmp(part, whole, 64), "kind %zu: pieces differ", k);
        float least = INFINITY, most = -INFINITY;
        for (size_t i = 0; k > 0 && i < FM_RANDOM_PIECE; i += k == 4 ? 4 : 2) {
            float x = half_at(whole + i);
            if (k == 4) memcpy(&x, whole + i, sizeof x);
            if (x < least) least = x;
            if (x > most) most = x;
        }
        float scale = 2 / (16 * sqrtf(2048));
        if (k == 1) CHECK(fabsf(least / scale - 0.75f) < 0.01f && fabsf(most / scale - 1.25f) < 0.01f, "scales %g to %g", (double)least, (double)most);
        if (k == 2) CHECK(least > -1.26f * 8 * scale && most < -0.74f * 7 * scale, "biases %g to %g", (double)least, (double)most);
        if (k > 2) CHECK(least >= -0.5f && least < -0.49f && most <= 0.75f && most > 0.74f, "%g to %g", (double)least, (double)most);
    }
    free(whole);
    free(part);
}

/* The biases go with the scales of the same seed: -bias / scale is 7 to 8. */
static void test_biases_fit_scales(void) {
    uint8_t scales[4096], biases[4096];
    fm_random_values v = {.kind = FM_RANDOM_SCALES, .seed = 5};
    fm_random_affine(&v, 4, 1024, 20);
    fm_random_piece(scales, &v, 0, sizeof scales);
    v.kind = FM_RANDOM_BIASES;
    fm_random_piece(biases, &v, 0, sizeof biases);
    for (size_t i = 0; i < sizeof scales; i += 2) {
        float ratio = -half_at(biases + i) / half_at(scales + i);
        CHECK(ratio > 6.9f && ratio < 8.1f, "%zu: %g", i, (double)ratio);
    }
}

/* What was written with a seed once is written by every later version, on every CPU. */
static void test_same_bytes(void) {
    static const struct {
        int bits;
        uint64_t hash;
    } known[] = {{2, 0xa4c5c68eb759a9a2}, {3, 0x0144c8edfeea2d74}, {4, 0x7850ae0cb81bd5b4},
                 {5, 0x441fe001caad8b66}, {6, 0xe2be48728481796d}, {8, 0xef5bf8b8e48b2fd7}};
    static const uint64_t pieces[] = {0x0b87ce971d273f30, 0x988b64427ddc42e3, 0x4b42e4d6057ecaf3, 0x6935d526c09ef347, 0x68f028709e48f869};
    uint8_t *data = malloc(FM_RANDOM_PIECE);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        fm_matrix_type t = affine(37, 256, known[i].bits, 64);
        fm_random_r16(data, &t, 1, fm_random_seed(1, 2));
        uint64_t hash = fm_pack_hash(data, bytes_of(&t));
        CHECK(hash == known[i].hash, "%d bits: 0x%016llx", known[i].bits, (unsigned long long)hash);
    }
    for (int kind = FM_RANDOM_WORDS; kind <= FM_RANDOM_F32; kind++) {
        fm_random_values v = {.kind = (fm_random_kind)kind, .low = 0.8f, .high = 1.2f, .seed = 3};
        fm_random_piece(data, &v, 7, 10000);
        uint64_t hash = fm_pack_hash(data, 10000);
        CHECK(hash == pieces[kind], "kind %d: 0x%016llx", kind, (unsigned long long)hash);
    }
    free(data);
}

int main(void) {
    static const int bits[] = {2, 3, 4, 5, 6, 8}, groups[] = {32, 64, 128};
    for (int b = 0; b < 6; b++) {
        for (int g = 0; g < 3; g++) check_matrix(bits[b], groups[g], 96 + 5 * g);
    }
    test_pieces();
    test_biases_fit_scales();
    test_same_bytes();
    return TEST_END();
}
