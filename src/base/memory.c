/* base/memory.c: see memory.h. */
#include "base/memory.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static size_t page_bytes(void) { return (size_t)sysconf(_SC_PAGESIZE); }

int fm_region_open(fm_region *region, size_t bytes, const char *what, fm_error *err) {
    size_t align = bytes >= FM_HUGE_PAGE ? FM_HUGE_PAGE : page_bytes(), slack = bytes >= FM_HUGE_PAGE ? FM_HUGE_PAGE : 0;
    *region = (fm_region){0};
    if (bytes == 0) return 0;
    if (bytes > SIZE_MAX - slack - page_bytes()) return fm_fail(err, FM_ENOMEM, "%zu bytes for %s are more than an address space", bytes, what);
    size_t map_bytes = (bytes + page_bytes() - 1) / page_bytes() * page_bytes() + slack;
    void *map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return fm_fail_errno(err, FM_ENOMEM, errno, "no %zu bytes for %s", bytes, what);
    region->map = map;
    region->map_bytes = map_bytes;
    region->data = (uint8_t *)(((uintptr_t)map + align - 1) / align * align);
    region->bytes = bytes;
#ifdef MADV_HUGEPAGE
    if (bytes >= FM_HUGE_PAGE) (void)madvise(region->data, bytes, MADV_HUGEPAGE);
#endif
    return 0;
}

void fm_region_close(fm_region *region) {
    if (region->map) munmap(region->map, region->map_bytes);
    *region = (fm_region){0};
}

/* The whole pages inside [offset, offset + bytes) of region. */
static size_t inner_pages(const fm_region *region, size_t offset, size_t bytes, uint8_t **first) {
    size_t page = page_bytes();
    uintptr_t begin = ((uintptr_t)region->data + offset + page - 1) / page * page, end = ((uintptr_t)region->data + offset + bytes) / page * page;
    assert(offset + bytes <= region->bytes);
    *first = (uint8_t *)begin;
    return end > begin ? end - begin : 0;
}

void fm_region_drop(fm_region *region, size_t offset, size_t bytes) {
    uint8_t *first;
    size_t n = inner_pages(region, offset, bytes, &first);
    if (n) (void)madvise(first, n, MADV_DONTNEED);
}

bool fm_region_touch(fm_region *region, size_t offset, size_t bytes) {
#ifdef MADV_POPULATE_WRITE
    size_t page = page_bytes();
    uintptr_t begin = ((uintptr_t)region->data + offset) / page * page, end = ((uintptr_t)region->data + offset + bytes + page - 1) / page * page;
    assert(offset + bytes <= region->bytes);
    return bytes == 0 || madvise((void *)begin, end - begin, MADV_POPULATE_WRITE) == 0;
#else
    (void)region, (void)offset, (void)bytes;
    return false;
#endif
}

void *fm_arena_take(fm_arena *arena, size_t n) {
    void *p = arena->region.data + arena->used;
    arena->used += fm_arena_bytes(n);
    assert(arena->used <= arena->region.bytes);
    return p;
}
