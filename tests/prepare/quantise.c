/* Affine quantisation: to the bit what MLX 0.32.4 makes of the same rows (the hashes are tools/reference/make_quantised.py's); the search never loses to the rule. */
#include "prepare/pack/quantise.h"
#include "prepare/search/search.h"

#include <math.h>

#include "formats/pack.h"
#include "test.h"

enum { ROWS = 24, COLS = 384 };

static const struct {
    fm_dtype dtype;
    int bits, group;
    uint64_t hash;
} mlx[] = {
    {FM_BF16, 2, 32, 0x6900b2f1927143c6},  {FM_BF16, 2, 64, 0x0cee2c196e3c65b9},  {FM_BF16, 2, 128, 0xdf214a1e0df0b010}, {FM_BF16, 3, 32, 0x47845ada65816222},
    {FM_BF16, 3, 64, 0xf8f89e42e91ed7ee},  {FM_BF16, 3, 128, 0x352a5a3edc44b327}, {FM_BF16, 4, 32, 0x621fc30d4dcdc7c0},  {FM_BF16, 4, 64, 0xd7b0e543a6d5418f},
    {FM_BF16, 4, 128, 0xd6143d63bc415f6d}, {FM_BF16, 5, 32, 0x917ece03f2ac3a00},  {FM_BF16, 5, 64, 0xfc6c5dfa83b7ad4f},  {FM_BF16, 5, 128, 0x73becdc633e2631d},
    {FM_BF16, 6, 32, 0x570a1692fa16a221},  {FM_BF16, 6, 64, 0xce810844d1044bed},  {FM_BF16, 6, 128, 0xea18a2714278823f}, {FM_BF16, 8, 32, 0x24aac5984500c9df},
    {FM_BF16, 8, 64, 0xfc4ff108bcee0873},  {FM_BF16, 8, 128, 0x0977cdf3aaae7332}, {FM_F16, 2, 32, 0x0f79dc924ab0fe5e},   {FM_F16, 2, 64, 0x6caa4d1ee39f9f10},
    {FM_F16, 2, 128, 0xb5f8fa4e323cdd07},  {FM_F16, 3, 32, 0x6d0bc16f96a43be8},   {FM_F16, 3, 64, 0x3fd5a22594d772ad},   {FM_F16, 3, 128, 0xcc0d58871562122c},
    {FM_F16, 4, 32, 0xadb06d63b0351ff8},   {FM_F16, 4, 64, 0xf1ad3deb7c275a9f},   {FM_F16, 4, 128, 0x06b168a7ede008fc},  {FM_F16, 5, 32, 0x5eecf193e1fde0a0},
    {FM_F16, 5, 64, 0x79b3129ce3c4c037},   {FM_F16, 5, 128, 0xf5e62c942f607924},  {FM_F16, 6, 32, 0xf38314dfefed0605},   {FM_F16, 6, 64, 0xb19c6ecfcbeedf3b},
    {FM_F16, 6, 128, 0xa2219c5a0b3040e7},  {FM_F16, 8, 32, 0x0fcd9cec9245d4b0},   {FM_F16, 8, 64, 0x3c6c1fd7f6c26273},   {FM_F16, 8, 128, 0x35c9ff489422a2db},
};

/* Random exponents; row 0 all 0, row 1 all the same, row 2 positive, row 3 negative, row 4 with many zeros. */
static void make_rows(float w[ROWS][COLS], fm_dtype dtype) {
    uint64_t state = 1;
    for (int i = 0; i < ROWS * COLS; i++) {
        uint64_t x = test_random(&state);
        int row = i / COLS;
        uint64_t number = dtype == FM_F16 ? (4 + (x >> 16) % 22) << 10 | (x >> 32 & 0x3ff) : (100 + (x >> 16) % 30) << 7 | (x >> 32 & 0x7f);
        uint16_t bits = (uint16_t)((x & 0x8000) | number);
        if (row == 0 || (row == 4 && i % 3)) bits = 0;
        if (row == 1) bits = 0xbe00;
        if (row == 2) bits &= 0x7fff;
        if (row == 3) bits |= 0x8000;
        w[row][i % COLS] = dtype == FM_F16 ? fm_from_f16(bits) : fm_from_bf16(bits);
    }
}

typedef struct result {
    uint8_t values[ROWS * COLS];
    uint16_t scales[ROWS * COLS / 32], biases[ROWS * COLS / 32];
    fm_deviation sum;
    int bad;
} result;

static void quantise(result *r, const fm_quantiser *q, float w[ROWS][COLS]) {
    size_t bytes = (size_t)(COLS * q->type.bits / 8), groups = (size_t)(COLS / q->type.group);
    memset(r, 0, sizeof *r);
    r->bad = -1;
    for (size_t row = 0; row < ROWS; row += 16) {
        uint8_t *out[3] = {r->values + row * bytes, (uint8_t *)(r->scales + row * groups), (uint8_t *)(r->biases + row * groups)};
        int bad = fm_quantise_rows(q, w[row], ROWS - row < 16 ? (int)(ROWS - row) : 16, out, &r->sum);
        if (bad >= 0) r->bad = bad;
    }
}

static fm_quantiser quantiser(fm_dtype dtype, int bits, int group) {
    fm_quantiser q = {0};
    const fm_affine_shape shape = {ROWS, (uint64_t)(COLS * bits / 32), (uint64_t)(COLS / group), dtype, bits, group};
    MUST(fm_matrix_type_affine(&q.type, "x", &shape, err));
    return q;
}

/* Squared error of what is read back by the engine's own way, weighted. */
static double error_of(const fm_quantiser *q, const result *r, float w[ROWS][COLS], const float *importance) {
    uint8_t *memory = aligned_alloc(64, (fm_matrix_bytes(&q->type) + 63) / 64 * 64);
    float row[COLS];
    double sum = 0;
    fm_r16_fill(memory, &q->type, &(fm_affine_rows){r->values, r->scales, r->biases, NULL, 0}, 0, fm_matrix_n_strips(&q->type));
    for (int i = 0; i < ROWS; i++) {
        fm_matrix_row(&(fm_matrix){q->type, memory}, i, row);
        for (int c = 0; c < COLS; c++) sum += (importance ? (double)importance[c] : 1) * pow((double)w[i][c] - (double)row[c], 2);
    }
    free(memory);
    return sum;
}

static float rows[ROWS][COLS];
static result plain, searched;

static void check_case(int i) {
    fm_quantiser q = quantiser(mlx[i].dtype, mlx[i].bits, mlx[i].group);
    size_t bytes = (size_t)(ROWS * COLS * q.type.bits / 8), halves = (size_t)(ROWS * COLS / q.type.group);
    uint8_t all[ROWS * COLS + 4 * ROWS * COLS / 32];
    make_rows(rows, mlx[i].dtype);
    quantise(&plain, &q, rows);
    memcpy(all, plain.values, bytes);
    memcpy(all + bytes, plain.scales, 2 * halves);
    memcpy(all + bytes + 2 * halves, plain.biases, 2 * halves);
    uint64_t hash = fm_pack_hash(all, bytes + 4 * halves);
    CHECK(hash == mlx[i].hash, "case %d, %d bits in groups of %d: hash %016llx", i, q.type.bits, q.type.group, (unsigned long long)hash);
    double error = error_of(&q, &plain, rows, NULL);
    CHECK(fabs(plain.sum.error - error) <= 1e-4 * error + 1e-12, "case %d: error %g, by the engine %g", i, plain.sum.error, error);
    CHECK(plain.sum.n == ROWS * COLS && plain.bad < 0, "case %d: %g weights", i, plain.sum.n);
    q.search = fm_search_best();
    quantise(&searched, &q, rows);
    CHECK(error_of(&q, &searched, rows, NULL) <= error * 0.98, "case %d: the search's error %g, the rule's %g", i, searched.sum.error, error);
}

static void test_importance(void) {
    fm_quantiser q = quantiser(FM_BF16, 3, 64);
    float importance[COLS];
    make_rows(rows, FM_BF16);
    for (int c = 0; c < COLS; c++) importance[c] = c % 5 ? 0.01f : 4.0f;
    q.search = fm_search_best();
    quantise(&plain, &q, rows);
    q.importance = importance;
    quantise(&searched, &q, rows);
    double same = error_of(&q, &plain, rows, importance), weighted = error_of(&q, &searched, rows, importance);
    CHECK(weighted < same * 0.95, "weighted error %g, of a search without weights %g", weighted, same);
}

/* The worst group of each row is looked at, not their sum: no group may lose by the search. */
static void test_every_group(void) {
    fm_quantiser q = quantiser(FM_F16, 2, 32);
    make_rows(rows, FM_F16);
    for (int row = 0; row < ROWS; row++) {
        fm_deviation sum[2] = {0};
        for (int first = 0; first < COLS; first += 32) {
            uint8_t values[8];
            uint16_t scale, bias;
            fm_quantiser one = q;
            one.type.cols = 32;
            for (int search = 0; search < 2; search++) {
                one.search = search ? fm_search_best() : NULL;
                sum[search] = (fm_deviation){0};
                uint8_t *out[3] = {values, (uint8_t *)&scale, (uint8_t *)&bias};
                fm_quantise_rows(&one, &rows[row][first], 1, out, &sum[search]);
            }
            CHECK(sum[1].error <= sum[0].error * (1 + 1e-5), "row %d, group at %d: %g, the rule's %g", row, first, sum[1].error, sum[0].error);
        }
    }
}

static void test_halves(void) {
    /* Every f16 and bf16 comes back, and what lies half way goes to the even one. */
    for (uint32_t i = 0; i < 0x10000; i++) {
        float x = fm_from_f16((uint16_t)i), y = fm_from_bf16((uint16_t)i);
        if (x == x) CHECK(fm_to_f16(x) == i, "f16 %04x", i);
        if (y == y) CHECK(fm_to_bf16(y) == i, "bf16 %04x", i);
        if ((i & 0x7fff) >= 0x7bff) continue;
        float next = fm_from_f16((uint16_t)(i + 1)), half = x + (next - x) / 2;
        CHECK(fm_to_f16(half) == i + (i & 1), "half way from f16 %04x", i);
        CHECK(fm_to_f16(nextafterf(half, next)) == i + 1 && fm_to_f16(nextafterf(half, x)) == i, "beside half way from f16 %04x", i);
    }
    CHECK(fm_to_f16(65519.0f) == 0x7bff && fm_to_f16(65520.0f) == 0x7c00 && fm_to_f16(-1e30f) == 0xfc00, "the largest f16");
    CHECK(fm_to_bf16(1.0f + 0x1p-8f) == 0x3f80 && fm_to_bf16(1.0f + 3 * 0x1p-8f) == 0x3f82 && fm_to_bf16(3.4e38f) == 0x7f80, "halves of bf16");
}

static void test_too_large(void) {
    fm_quantiser q = quantiser(FM_F16, 4, 64);
    make_rows(rows, FM_BF16);
    rows[7][70] = 1e7f;
    quantise(&plain, &q, rows);
    CHECK(plain.bad == 7, "row %d instead of 7", plain.bad);
}

/* Every instruction set finds the same, a row is chosen for as if it were alone, and what is found is a number of the scales' type and has the error that is said. */
static void test_search(void) {
    static _Alignas(64) float w[128 * 16], alone[128 * 16];
    float p[128];
    uint64_t seed = 3;
    for (int trial = 0; trial < 60; trial++) {
        const int bits[] = {2, 3, 4, 5, 6, 8}, n = 32 << trial % 3;
        fm_search_group g = {.n = n, .w = w, .p = p, .n_bins = (float)((1 << bits[trial % 6]) - 1), .f16 = trial & 1};
        for (int i = 0; i < n; i++) p[i] = trial % 4 ? (float)(test_random(&seed) % 1000 + 1) * 1e-3F : 1;
        for (int lane = 0; lane < 16; lane++) {
            float size = ldexpf(1, g.f16 ? (int)(test_random(&seed) % 12) - 4 : (int)(test_random(&seed) % 30) - 20),
                  centre = (float)(test_random(&seed) % 5) - 2;
            g.least[lane] = INFINITY, g.most[lane] = -INFINITY, g.error[lane] = lane ? INFINITY : 0;
            for (int i = 0; i < n; i++) {
                float x = size * (lane == 1 ? centre : centre + (float)(test_random(&seed) % 20001) * 1e-4F - 1);
                w[i * 16 + lane] = x;
                g.least[lane] = x < g.least[lane] ? x : g.least[lane];
                g.most[lane] = x > g.most[lane] ? x : g.most[lane];
            }
        }
        fm_search_group first = g;
        fm_search_at(0)(&first);
        CHECK(!first.found[0] && !first.found[1] && first.found[2] && first.found[15], "an error of 0 or a row of one value is beaten, or others are not");
        for (int i = 1; fm_search_at(i); i++) {
            fm_search_group other = g;
            fm_search_at(i)(&other);
            CHECK(!memcmp(&other, &first, sizeof other), "trial %d: form %d of the search finds something else", trial, i);
        }
        int row = 2 + trial % 14;
        fm_search_group single = g;
        single.w = alone;
        for (int i = 0; i < n * 16; i++) alone[i] = w[i / 16 * 16 + row];
        for (int lane = 0; lane < 16; lane++) single.least[lane] = g.least[row], single.most[lane] = g.most[row], single.error[lane] = g.error[row];
        fm_search_best()(&single);
        CHECK(single.scale[7] == first.scale[row] && single.bias[7] == first.bias[row] && single.error[7] == first.error[row],
              "a row's result depends on others");
        float s = first.scale[row], b = first.bias[row], inverse = 1 / s;
        float s2 = g.f16 ? fm_from_f16(fm_to_f16(s)) : fm_from_bf16(fm_to_bf16(s)), b2 = g.f16 ? fm_from_f16(fm_to_f16(b)) : fm_from_bf16(fm_to_bf16(b));
        CHECK(s == s2 && b == b2, "scale %g or bias %g is no half", (double)s, (double)b);
        double error = 0;
        for (int i = 0; i < n; i++) {
            double x = (double)w[i * 16 + row], q = rint((double)((w[i * 16 + row] - b) * inverse));
            q = q < 0 ? 0 : q > (double)g.n_bins ? (double)g.n_bins : q;
            error += (double)p[i] * pow(x - (q * (double)s + (double)b), 2);
        }
        CHECK(fabs(error - (double)first.error[row]) <= 1e-4 * error, "trial %d: error %g is said to be %g", trial, error, (double)first.error[row]);
    }
}

int main(void) {
    for (int i = 0; i < (int)(sizeof mlx / sizeof *mlx); i++) check_case(i);
    test_importance();
    test_every_group();
    test_halves();
    test_too_large();
    test_search();
    return TEST_END();
}
