/* Affine quantisation: to the bit what MLX 0.32.4 makes of the same rows (the hashes are tools/reference/make_quantised.py's); the search never loses to the rule. With --bench it
 * is timed instead. */
#include "prepare/pack/convert.h"

#include <math.h>

#include "base/system.h"
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

/* What is asked of a row of numbers. */
typedef struct quantiser {
    fm_matrix_type type;
    bool search;
    const float *importance;
} quantiser;

static void quantise_rows(const quantiser *q, const float *w, int n_rows, int cols, uint8_t *const out[3], fm_deviation *sum, int *bad) {
    const fm_matrix_type from = {.format = FM_FORMAT_F32, .rows = n_rows, .cols = cols};
    const fm_rows in = {.type = &from, .parts = {(const uint8_t *)w}};
    fm_target to = {q->type, true, q->search, fm_strip_best()};
    uint8_t *scratch = aligned_alloc(64, fm_convert_scratch(&from));
    to.type.rows = n_rows;
    to.type.cols = cols;
    for (int first = 0; first < n_rows; first += FM_STRIP) {
        const int range[2] = {first, n_rows - first < FM_STRIP ? n_rows : first + FM_STRIP};
        uint8_t *at[3];
        for (int i = 0; i < 3; i++) at[i] = out[i] + (size_t)first * fm_row_bytes(&to.type, i);
        int row = fm_convert_rows(&in, &to, q->importance, range, scratch, at, sum);
        if (row >= 0 && *bad < 0) *bad = row;
    }
    free(scratch);
}

static void quantise(result *r, const quantiser *q, float w[ROWS][COLS]) {
    uint8_t *out[3] = {r->values, (uint8_t *)r->scales, (uint8_t *)r->biases};
    memset(r, 0, sizeof *r);
    r->bad = -1;
    quantise_rows(q, w[0], ROWS, COLS, out, &r->sum, &r->bad);
}

static quantiser quantiser_of(fm_dtype dtype, int bits, int group) {
    quantiser q = {0};
    const fm_affine_shape shape = {ROWS, (uint64_t)(COLS * bits / 32), (uint64_t)(COLS / group), dtype, bits, group};
    MUST(fm_matrix_type_affine(&q.type, "x", &shape, err));
    return q;
}

/* Squared error of what is read back by the engine's own way, weighted. */
static double error_of(const quantiser *q, const result *r, float w[ROWS][COLS], const float *importance) {
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
    quantiser q = quantiser_of(mlx[i].dtype, mlx[i].bits, mlx[i].group);
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
    q.search = true;
    quantise(&searched, &q, rows);
    CHECK(error_of(&q, &searched, rows, NULL) <= error * 0.98, "case %d: the search's error %g, the rule's %g", i, searched.sum.error, error);
}

static void test_importance(void) {
    quantiser q = quantiser_of(FM_BF16, 3, 64);
    float importance[COLS];
    make_rows(rows, FM_BF16);
    for (int c = 0; c < COLS; c++) importance[c] = c % 5 ? 0.01f : 4.0f;
    q.search = true;
    quantise(&plain, &q, rows);
    q.importance = importance;
    quantise(&searched, &q, rows);
    double same = error_of(&q, &plain, rows, importance), weighted = error_of(&q, &searched, rows, importance);
    CHECK(weighted < same * 0.95, "weighted error %g, of a search without weights %g", weighted, same);
}

/* The worst group of each row is looked at, not their sum: no group may lose by the search. */
static void test_every_group(void) {
    quantiser q = quantiser_of(FM_F16, 2, 32);
    make_rows(rows, FM_F16);
    for (int row = 0; row < ROWS; row++) {
        fm_deviation sum[2] = {0};
        for (int first = 0; first < COLS; first += 32) {
            uint8_t values[8];
            uint16_t scale, bias;
            quantiser one = q;
            for (int search = 0; search < 2; search++) {
                one.search = search;
                sum[search] = (fm_deviation){0};
                uint8_t *out[3] = {values, (uint8_t *)&scale, (uint8_t *)&bias};
                int bad = -1;
                quantise_rows(&one, &rows[row][first], 1, 32, out, &sum[search], &bad);
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
    quantiser q = quantiser_of(FM_F16, 4, 64);
    make_rows(rows, FM_BF16);
    rows[7][70] = 1e7f;
    quantise(&plain, &q, rows);
    CHECK(plain.bad == 7, "row %d instead of 7", plain.bad);
}

/* Every instruction set makes the same, of numbers and of blocks, and a row is quantised as if it were alone. */
static void test_forms(void) {
    enum { MOST = 160 };
    static float w[16 * MOST], alone[MOST];
    static _Alignas(64) uint8_t blocks[MOST * 24], out[2][MOST * 24];
    float p[MOST];
    uint64_t seed = 3;
    for (int trial = 0; trial < 240; trial++) {
        const int bits[] = {2, 3, 4, 5, 6, 8}, cols = 32 << trial % 3, n = 1 + (int)(test_random(&seed) % 16);
        const bool of_blocks = trial % 4 == 1;
        fm_strip s = {.n_rows = n, .cols = trial % 3 == 0 ? 5 * cols : cols, .bits = bits[trial % 6], .group = cols, .f16 = trial & 1, .search = trial & 2};
        for (int i = 0; i < MOST; i++) p[i] = (float)(test_random(&seed) % 1000 + 1) * 1e-3F;
        for (int i = 0; i < n * s.cols; i++) w[i] = (float)(test_random(&seed) % 20001) * 1e-4F - (float)(i / s.cols % 5) * 0.5F;
        for (int i = 0; i < s.cols; i++) w[i] = 0.75F; /* a row of one value, which nothing beats */
        s.importance = trial % 8 < 4 ? p : NULL;
        s.rows = of_blocks ? NULL : w;
        s.blocks = blocks;
        s.from_width = 2 << trial % 3;
        s.from_group = cols;
        s.from_f16 = trial % 8 > 4;
        for (size_t i = 0; i < sizeof blocks; i++) blocks[i] = (uint8_t)test_random(&seed);
        for (size_t i = 1; i < sizeof blocks; i += 2) blocks[i] &= 0xbf; /* no scale is beyond numbers, whatever its type */
        size_t bytes = fm_pack_matrix_bytes(&(fm_matrix_type){.format = FM_FORMAT_R16, .rows = 16, .cols = s.cols, .bits = s.bits, .group = s.group});
        fm_strip first = s;
        first.out = out[0];
        fm_strip_at(0)(&first);
        for (int i = 1; fm_strip_at(i); i++) {
            fm_strip other = s;
            other.out = out[1];
            fm_strip_at(i)(&other);
            CHECK(!memcmp(out[0], out[1], bytes), "trial %d: form %d makes something else", trial, i);
            CHECK(!memcmp(first.sums, other.sums, sizeof first.sums) && first.bad == other.bad, "trial %d: form %d finds that something else is lost", trial,
                  i);
        }
        if (of_blocks) continue;
        CHECK(first.bad < 0, "trial %d: row %d is bad", trial, first.bad);
        fm_strip single = s;
        int row = n - 1;
        memcpy(alone, w + row * s.cols, sizeof(float) * (size_t)s.cols);
        single.rows = alone;
        single.n_rows = 1;
        single.out = out[1];
        fm_strip_best()(&single);
        for (size_t i = 0; i < bytes - 64; i += 4) { /* words: of the only row, and of others, which are 0 */
            size_t in_block = i % ((size_t)s.group * (size_t)s.bits * 2 + 64), lane = i / 4 % 16;
            if (in_block >= (size_t)s.group * (size_t)s.bits * 2) continue;
            CHECK(lane ? !memcmp(out[1] + i, &(uint32_t){0}, 4) : !memcmp(out[1] + i, out[0] + i + 4 * (size_t)row, 4), "trial %d: byte %zu of a row alone",
                  trial, i);
        }
    }
}

/* A strip of any width read from blocks is the same as one read from the numbers that the engine makes of them. */
static void test_blocks(void) {
    static _Alignas(64) uint8_t blocks[256 * 24], out[2][256 * 24];
    static float w[16 * 256];
    uint64_t seed = 9;
    for (int width = 2; width <= 8; width *= 2) {
        fm_matrix m = {.type = {.format = FM_FORMAT_R16, .rows = 16, .cols = 256, .bits = width, .width = width, .group = 64, .scale_dtype = FM_F16},
                       .data = blocks};
        for (size_t i = 0; i < sizeof blocks; i++) blocks[i] = (uint8_t)test_random(&seed);
        for (size_t i = 1; i < sizeof blocks; i += 2) blocks[i] &= 0xbf;
        for (int r = 0; r < 16; r++) fm_matrix_row(&m, r, w + r * 256);
        for (int search = 0; search < 2; search++) {
            fm_strip s = {.n_rows = 16, .cols = 256, .bits = 3, .group = 128, .search = search, .from_width = width, .from_group = 64, .from_f16 = true};
            fm_strip a = s, b = s;
            a.rows = w, a.out = out[0];
            b.blocks = blocks, b.out = out[1];
            fm_strip_best()(&a);
            fm_strip_best()(&b);
            CHECK(!memcmp(out[0], out[1], 256 * 2 * 3 + 128) && !memcmp(a.sums, b.sums, sizeof a.sums), "%d bits, search %d", width, search);
            CHECK(a.sums[0] > 0 && a.sums[0] < a.sums[1], "an error of %g in %g", a.sums[0], a.sums[1]);
        }
    }
}

/* Nanoseconds a weight of one thread, the best of nine times 16 rows of 2,048, from each format that a source may have. */
static int bench(void) {
    enum { BENCH_COLS = 2048, TIMES = 9 };
    static const fm_matrix_type from[] = {
        {.format = FM_FORMAT_F32},
        {.format = FM_FORMAT_F16},
        {.format = FM_FORMAT_BF16},
        {.format = FM_FORMAT_F8},
        {.format = FM_FORMAT_R16, .bits = 4, .width = 4, .group = 32, .scale_dtype = FM_U8},
        {.format = FM_FORMAT_R16, .bits = 4, .width = 4, .group = 64, .scale_dtype = FM_BF16},
        {.format = FM_FORMAT_R16, .bits = 6, .width = 8, .group = 64, .scale_dtype = FM_BF16},
        {.format = FM_FORMAT_R16, .bits = 8, .width = 8, .group = 64, .scale_dtype = FM_BF16},
    };
    static uint8_t source[3][16 * BENCH_COLS * 4], out[16 * BENCH_COLS * 2];
    printf("%-16s %-16s", "from", "to");
    for (int i = 0; fm_strip_at(i); i++) printf("  %8s", i == 0 ? "plain" : i == 1 ? "avx2" : "avx512");
    printf("  ns a weight\n");
    for (size_t f = 0; f < sizeof from / sizeof *from; f++) {
        fm_matrix_type type = from[f];
        type.rows = 16;
        type.cols = BENCH_COLS;
        uint8_t *scratch = aligned_alloc(64, fm_convert_scratch(&type));
        for (int to_bits = 2; to_bits <= 5; to_bits++) { /* 5: 3 bits with the search */
            char names[2][32];
            quantiser q = quantiser_of(FM_BF16, to_bits == 5 ? 3 : to_bits, 64);
            fm_target to = {q.type, true, to_bits == 5, NULL};
            to.type.cols = BENCH_COLS;
            fm_type_text(names[0], &type);
            fm_type_text(names[1], &to.type);
            printf("%-16s %-16s", names[0], to.search ? "3-bit, search" : names[1]);
            for (int i = 0; (to.fn = fm_strip_at(i)); i++) {
                double best = 1;
                for (int t = 0; t < TIMES; t++) {
                    const fm_rows in = {.type = &type, .parts = {source[0], source[1], source[2]}};
                    fm_deviation sum = {0};
                    double start = fm_now();
                    fm_convert(&in, &to, NULL, (const int[2]){0, 16}, scratch, out, &sum);
                    best = fmin(best, fm_now() - start);
                }
                printf("  %8.2f", best * 1e9 / (16 * BENCH_COLS));
            }
            printf("\n");
        }
        free(scratch);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--bench")) return bench();
    for (int i = 0; i < (int)(sizeof mlx / sizeof *mlx); i++) check_case(i);
    test_importance();
    test_every_group();
    test_halves();
    test_too_large();
    test_forms();
    test_blocks();
    return TEST_END();
}
