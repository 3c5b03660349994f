/* Regions and arenas: zeroed, aligned, given back, faulted in without a change; corner sizes. */
#include "base/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include "test.h"

/* Pages of [data, data + bytes) that are resident. */
static size_t n_resident(const uint8_t *data, size_t bytes) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = (bytes + page - 1) / page, count = 0;
    unsigned char *map = calloc(n, 1);
    if (mincore((void *)data, bytes, (void *)map) == 0) {
        for (size_t i = 0; i < n; i++) count += map[i] & 1;
    }
    free(map);
    return count;
}

static void test_region(size_t bytes) {
    fm_region r;
    size_t align = bytes >= FM_HUGE_PAGE ? FM_HUGE_PAGE : (size_t)sysconf(_SC_PAGESIZE), wrong = 0;
    MUST(fm_region_open(&r, bytes, "test", err));
    CHECK(r.bytes == bytes && (uintptr_t)r.data % align == 0, "%zu bytes at %p", bytes, (void *)r.data);
    for (size_t i = 0; i < bytes; i++) wrong += r.data[i] != 0;
    CHECK(wrong == 0, "%zu bytes of %zu are not 0", wrong, bytes);
    if (bytes) r.data[0] = r.data[bytes - 1] = 1;
    fm_region_close(&r);
    CHECK(!r.data && !r.bytes && !r.map, "closed");
    fm_region_close(&r);
}

static void test_drop(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), bytes = 64 * page;
    fm_region r;
    MUST(fm_region_open(&r, bytes, "test", err));
    memset(r.data, 7, bytes);
    fm_region_drop(&r, page / 2, 10 * page); /* holds the pages 1 to 9 */
    size_t kept = 0, gone = 0;
    for (size_t i = 0; i < bytes; i++) {
        bool inside = i >= page && i < 10 * page;
        kept += !inside && r.data[i] == 7;
        gone += inside && r.data[i] == 0;
    }
    CHECK(kept == 55 * page && gone == 9 * page, "%zu bytes kept, %zu gone", kept, gone);
    memset(r.data, 7, bytes);
    fm_region_drop(&r, 1, page); /* no whole page */
    fm_region_drop(&r, 0, 0);
    kept = 0;
    for (size_t i = 0; i < bytes; i++) kept += r.data[i] == 7;
    CHECK(kept == bytes, "%zu bytes of %zu kept", kept, bytes);
    fm_region_close(&r);
}

/* Whether MADV_POPULATE_WRITE does anything that can be seen here: old kernels refuse it, emulators ignore it or count other pages. */
static bool can_populate(void) {
    if (getenv("FM_TEST_EMULATED")) return false;
#ifdef MADV_POPULATE_WRITE
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *p = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool works = p != MAP_FAILED && madvise(p, 4 * page, MADV_POPULATE_WRITE) == 0 && n_resident(p, 4 * page) == 4;
    if (p != MAP_FAILED) munmap(p, 4 * page);
    return works;
#else
    return false;
#endif
}

static void test_touch(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    fm_region r;
    MUST(fm_region_open(&r, 64 * page, "test", err));
    r.data[20 * page] = 9;
    bool touched = fm_region_touch(&r, 10 * page + 5, 20 * page); /* from the middle of page 10 to the middle of page 30 */
    if (!can_populate()) {
        fprintf(stderr, "MADV_POPULATE_WRITE is not to be had here: touching is not tested\n");
    } else {
        CHECK(touched, "not touched");
        CHECK(n_resident(r.data + 10 * page, 21 * page) == 21, "%zu pages of 21", n_resident(r.data + 10 * page, 21 * page));
        CHECK(n_resident(r.data + 40 * page, 20 * page) == 0, "%zu pages that nobody touched", n_resident(r.data + 40 * page, 20 * page));
        CHECK(r.data[20 * page] == 9 && r.data[15 * page] == 0, "touching changed the contents");
        CHECK(fm_region_touch(&r, 64 * page, 0), "nothing to touch");
    }
    fm_region_close(&r);
}

int main(void) {
    size_t sizes[] = {0, 1, 4095, 4096, 4097, FM_HUGE_PAGE - 1, FM_HUGE_PAGE, FM_HUGE_PAGE + 1, 3 * FM_HUGE_PAGE + 12345};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) test_region(sizes[i]);
    test_drop();
    test_touch();

    fm_region r;
    fm_error failed = {0};
    CHECK(fm_region_open(&r, SIZE_MAX - 10, "a giant", &failed) == FM_ENOMEM && strstr(failed.message, "a giant"), "%s", failed.message);
    CHECK(fm_region_open(&r, (size_t)1 << 60, "a giant", &failed) == FM_ENOMEM && strstr(failed.message, "1152921504606846976"), "%s", failed.message);
    CHECK(!r.data && !r.map, "a region that was not opened");

    CHECK(fm_arena_bytes(0) == 0 && fm_arena_bytes(1) == 64 && fm_arena_bytes(64) == 64 && fm_arena_bytes(65) == 128, "rounding");
    fm_arena arena = {0};
    MUST(fm_region_open(&arena.region, 256, "test", err));
    uint8_t *a = fm_arena_take(&arena, 1), *b = fm_arena_take(&arena, 64), *c = fm_arena_take(&arena, 100);
    CHECK(a == arena.region.data && b == a + 64 && c == b + 64 && arena.used == 256, "blocks at %td, %td; %zu used", b - a, c - a, arena.used);
    fm_region_close(&arena.region);
    return TEST_END();
}
