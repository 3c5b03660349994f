/* tests/experts/fixture.h: a made-up model's expert files for the tests of the store: every byte of them tells its file and place, extents lie anywhere. */
#ifndef FM_TESTS_EXPERTS_FIXTURE_H
#define FM_TESTS_EXPERTS_FIXTURE_H

#include <unistd.h>

#include "experts/store.h"
#include "io_fake.h"
#include "test.h"

#define N_LAYERS 4
#define N_EXPERTS 12
#define N_KEYS (N_LAYERS * N_EXPERTS)
#define N_EXTENTS 4
#define N_FILES 3
#define DENSE_LAYER 2 /* has no experts */

typedef struct fixture {
    fm_file files[N_FILES];
    bool direct;
    bool in_place;      /* every key is one extent of whole pages */
    uint32_t alignment; /* of the files */
    fm_extent extents[N_KEYS * N_EXTENTS];
    size_t slot_bytes;
} fixture;

/* The 8 bytes of a file at a multiple of 8. */
static inline uint64_t fixture_word(uint32_t file, uint64_t offset) {
    uint64_t word = ((uint64_t)file << 48) + offset / 8;
    return test_random(&word);
}

/* Extents in random places: some touch the one before, some share a block with it, most lie elsewhere. The last of each file ends with it. */
static inline void fixture_place(fixture *x, uint64_t *sizes, uint64_t *seed) {
    for (int key = 0; key < N_KEYS; key++) {
        uint32_t file = (uint32_t)(test_random(seed) % N_FILES);
        int n = 1 + (int)(test_random(seed) % N_EXTENTS);
        for (int i = 0; i < n && key / N_EXPERTS != DENSE_LAYER; i++) {
            uint64_t kind = test_random(seed) % 4, gap = kind == 0 ? 0 : kind == 1 ? test_random(seed) % 100 : test_random(seed) % 20000;
            if (kind == 3) file = (uint32_t)(test_random(seed) % N_FILES);
            uint32_t bytes = 1 + (uint32_t)(test_random(seed) % (kind == 2 ? 50 : 20000));
            x->extents[key * N_EXTENTS + i] = (fm_extent){.offset = sizes[file] + gap, .bytes = bytes, .file = file};
            sizes[file] += gap + bytes;
        }
    }
}

/* One extent of one to three pages a key. */
static inline void fixture_place_pages(fixture *x, uint64_t *sizes, uint64_t *seed) {
    for (int key = 0; key < N_KEYS; key++) {
        uint32_t file = (uint32_t)(test_random(seed) % N_FILES), bytes = 4096 * (1 + (uint32_t)(test_random(seed) % 3));
        if (key / N_EXPERTS == DENSE_LAYER) continue;
        x->extents[key * N_EXTENTS] = (fm_extent){.offset = sizes[file], .bytes = bytes, .file = file};
        sizes[file] += bytes;
    }
}

static inline void fixture_write(const char *path, uint32_t file, uint64_t bytes) {
    FILE *f = fopen(path, "wb");
    for (uint64_t i = 0; f && i < bytes; i++) fputc((int)(fixture_word(file, i) >> (i % 8 * 8) & 0xff), f);
    if (!f || fclose(f)) {
        perror(path);
        exit(1);
    }
}

/* The sum of its extents. */
static inline uint64_t fixture_key_bytes(const fixture *x, int key) {
    uint64_t bytes = 0;
    for (int i = 0; i < N_EXTENTS; i++) bytes += x->extents[key * N_EXTENTS + i].bytes;
    return bytes;
}

/* Makes the files where the test runs and removes their names. direct: false afterwards, when this file system has no direct I/O. */
static inline void fixture_open_as(fixture *x, bool in_place, bool direct, uint64_t seed) {
    char directory[] = "experts-XXXXXX", path[64];
    uint64_t sizes[N_FILES] = {0};
    memset(x, 0, sizeof *x);
    x->direct = direct;
    x->in_place = in_place;
    (in_place ? fixture_place_pages : fixture_place)(x, sizes, &seed);
    if (!mkdtemp(directory)) {
        perror(directory);
        exit(1);
    }
    for (uint32_t i = 0; i < N_FILES; i++) {
        snprintf(path, sizeof path, "%s/part-%u", directory, i);
        fixture_write(path, i, sizes[i]);
        MUST(fm_file_open(&x->files[i], path, direct, err));
        x->direct &= x->files[i].direct_fd >= 0;
        x->alignment = x->files[i].alignment;
        unlink(path);
    }
    rmdir(directory);
    for (int key = 0; key < N_KEYS; key++) {
        size_t bytes = (fixture_key_bytes(x, key) + 63) / 64 * 64;
        if (bytes > x->slot_bytes) x->slot_bytes = bytes;
    }
}

static inline void fixture_open(fixture *x, bool direct, uint64_t seed) { fixture_open_as(x, false, direct, seed); }

static inline void fixture_close(fixture *x) {
    for (int i = 0; i < N_FILES; i++) fm_file_close(&x->files[i]);
}

/* A configuration that a test changes as it likes; io is the fake, which is reset. */
static inline fm_store_config fixture_config(const fixture *x, int n_slots, int n_staging) {
    static fm_extent firsts[N_KEYS];
    fm_store_config config = {.n_layers = N_LAYERS,
                              .n_experts = N_EXPERTS,
                              .slot_bytes = x->slot_bytes,
                              .n_slots = n_slots,
                              .n_staging = n_staging,
                              .n_extents = N_EXTENTS,
                              .extents = x->extents,
                              .files = x->files,
                              .policy = &fm_policy_lru,
                              .io = &io_fake_ops};
    io_fake = IO_FAKE_INIT;
    io_fake.alignment = x->alignment;
    if (!x->in_place) return config;
    for (int key = 0; key < N_KEYS; key++) firsts[key] = x->extents[key * N_EXTENTS]; /* without the gaps of those that it does not have */
    config.in_place = true;
    config.n_extents = 1;
    config.extents = firsts;
    return config;
}

static inline bool fixture_is_extent(const uint8_t *data, const fm_extent *e) {
    uint64_t word = fixture_word(e->file, e->offset);
    for (uint64_t i = e->offset; i < e->offset + e->bytes; i++) {
        if (i % 8 == 0) word = fixture_word(e->file, i);
        if (data[i - e->offset] != (uint8_t)(word >> (i % 8 * 8))) return false;
    }
    return true;
}

/* Whether the slot's bytes are those of key. */
static inline bool fixture_slot_holds(const fixture *x, const uint8_t *data, int key) {
    for (int i = 0; i < N_EXTENTS; i++) {
        const fm_extent *e = &x->extents[key * N_EXTENTS + i];
        if (!fixture_is_extent(data, e)) return false;
        data += e->bytes;
    }
    return true;
}

/* What a consumer does: when fresh, checks the parts and puts them into the slot; and checks the slot. */
static inline void fixture_consume(const fixture *x, const fm_lease *lease) {
    uint8_t *to = lease->data;
    for (int i = 0; i < N_EXTENTS && lease->fresh; i++) {
        const fm_extent *e = &x->extents[lease->key * N_EXTENTS + i];
        if (!e->bytes) {
            CHECK(!lease->parts[i], "key %d has no extent %d", lease->key, i);
            continue;
        }
        CHECK(fixture_is_extent(lease->parts[i], e), "key %d, extent %d of file %u at %llu: other bytes", lease->key, i, e->file,
              (unsigned long long)e->offset);
        CHECK((lease->parts[i] == lease->data) == x->in_place, "key %d lies at %p, its slot at %p", lease->key, (const void *)lease->parts[i], (void *)to);
        if (!x->in_place) memcpy(to, lease->parts[i], e->bytes);
        to += e->bytes;
    }
    CHECK(fixture_slot_holds(x, lease->data, lease->key), "slot %d, %s, does not hold key %d", lease->slot, lease->fresh ? "fresh" : "a hit", lease->key);
}

/* The n-th key that has an expert: 0 <= n < N_KEYS - N_EXPERTS. */
static inline int fixture_key(int n) { return n < DENSE_LAYER * N_EXPERTS ? n : n + N_EXPERTS; }

/* n distinct keys of one layer. */
static inline void fixture_choose(uint64_t *seed, int *keys, int n) {
    int layer = fixture_key((int)(test_random(seed) % (N_KEYS - N_EXPERTS))) / N_EXPERTS, taken[N_EXPERTS] = {0};
    for (int i = 0; i < n;) {
        int expert = (int)(test_random(seed) % N_EXPERTS);
        if (taken[expert]++) continue;
        keys[i++] = layer * N_EXPERTS + expert;
    }
}

#endif
