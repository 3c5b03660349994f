/* fm_find_nonfinite: the first one, wherever it is, at any alignment; the largest numbers and denormals are none. */
#include "formats/quant.h"

#include "test.h"

enum { N = 3100 };

static const struct {
    fm_dtype dtype;
    uint32_t bad[6], good[6];
} kinds[] = {
    {FM_BF16, {0x7f80, 0xff80, 0x7f81, 0xffff, 0x7fc0, 0x7f80}, {0x7f7f, 0xff7f, 0x0001, 0x8000, 0x3f80, 0x7f00}},
    {FM_F16, {0x7c00, 0xfc00, 0x7c01, 0xffff, 0x7e00, 0x7c00}, {0x7bff, 0xfbff, 0x0001, 0x8000, 0x3c00, 0x7800}},
    {FM_F32,
     {0x7f800000, 0xff800000, 0x7f800001, 0xffffffff, 0x7fc00000, 0x7f800000},
     {0x7f7fffff, 0xff7fffff, 0x00000001, 0x80000000, 0x3f800000, 0x7f000000}},
};

static void put(uint8_t *data, size_t size, size_t at, uint32_t value) {
    for (size_t i = 0; i < size; i++) data[at * size + i] = (uint8_t)(value >> (8 * i));
}

static void test_kind(int k) {
    static const int places[] = {0, 1, 7, 15, 16, 1023, 1024, 1025, 2047, 2048, 3071, 3072, N - 1};
    fm_dtype dtype = kinds[k].dtype;
    size_t size = fm_dtype_bytes(dtype);
    uint8_t *owned = malloc(N * size + 1), *data = owned + 1;
    for (size_t i = 0; i < N; i++) put(data, size, i, kinds[k].good[i % 6]);
    CHECK(fm_find_nonfinite(data, dtype, N) == -1, "%s: all are finite", fm_dtype_name(dtype));
    CHECK(fm_find_nonfinite(data, dtype, 0) == -1, "%s: none of none", fm_dtype_name(dtype));
    for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
        int at = places[p];
        for (int b = 0; b < 6; b++) {
            put(data, size, (size_t)at, kinds[k].bad[b]);
            int64_t found = fm_find_nonfinite(data, dtype, N);
            CHECK(found == at, "%s: %x at %d is found at %lld", fm_dtype_name(dtype), kinds[k].bad[b], at, (long long)found);
            CHECK(fm_find_nonfinite(data, dtype, (uint64_t)at) == -1, "%s: before %d all are finite", fm_dtype_name(dtype), at);
        }
        if (at < N - 1) {
            put(data, size, N - 1, kinds[k].bad[0]);
            CHECK(fm_find_nonfinite(data, dtype, N) == at, "%s: of two the first", fm_dtype_name(dtype));
            put(data, size, N - 1, kinds[k].good[0]);
        }
        put(data, size, (size_t)at, kinds[k].good[0]);
    }
    free(owned);
}

int main(void) {
    for (int k = 0; k < 3; k++) test_kind(k);
    return TEST_END();
}
