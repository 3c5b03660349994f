/* base/memory.h: memory that is ours: page-aligned regions outside malloc, on huge pages where the system gives them.
 *
 * Regions hold weights, expert slots, KV caches and activations. They are never mapped from a file and never locked. */
#ifndef FM_BASE_MEMORY_H
#define FM_BASE_MEMORY_H

#include <stdlib.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "base/error.h"

#define FM_HUGE_PAGE ((size_t)2 << 20)

typedef struct fm_region {
    uint8_t *data; /* zeroed; aligned to 2 MiB when bytes >= 2 MiB, else to the page */
    size_t bytes;  /* as asked for */
    void *map;     /* what was mapped, for close */
    size_t map_bytes;
} fm_region;

/* Maps bytes of zeroed private memory, huge pages by madvise when it is 2 MiB or more. FM_ENOMEM names what it was for. */
int fm_region_open(fm_region *region, size_t bytes, const char *what, fm_error *err);
void fm_region_close(fm_region *region);

/* Gives the pages wholly inside [offset, offset + bytes) back to the system; their contents are lost. */
void fm_region_drop(fm_region *region, size_t offset, size_t bytes);

/* Faults the pages of [offset, offset + bytes) in without changing them, where the system can (MADV_POPULATE_WRITE);
 * returns false where it cannot. Safe beside threads that write there. */
bool fm_region_touch(fm_region *region, size_t offset, size_t bytes);

/* A bump allocator over a region: blocks of 64-byte alignment, never freed one by one. */
typedef struct fm_arena {
    fm_region region;
    size_t used;
} fm_arena;

/* Bytes that n bytes take in an arena (rounded to 64). */
static inline size_t fm_arena_bytes(size_t n) { return (n + 63) & ~(size_t)63; }
/* The next n bytes of it, zeroed at first use. The caller sized the arena: running over is our bug (assert). */
void *fm_arena_take(fm_arena *arena, size_t n);

/* Gives what malloc has free back to the system, where the C library can: after something large was freed in small pieces. */
static inline void fm_memory_trim(void) {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

#endif
