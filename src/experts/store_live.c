/* experts/store_live.c: what other threads may see of a store while its owner works: each expert's state and counts, and a few sums. One writer, so no locks and no atomic
 * additions: a word is loaded, changed and stored. */
#include <stdlib.h>

#include "experts/store_impl.h"

#define STATE_BITS 2
#define STATE_MASK ((uint64_t)3)
#define READS_MASK ((((uint64_t)1 << 30) - 1) << STATE_BITS)
#define ONE_READ ((uint64_t)1 << STATE_BITS)
#define ONE_USE ((uint64_t)1 << 32)

static int n_keys(const fm_store *s) { return s->config.n_layers * s->config.n_experts; }

static uint64_t get(const _Atomic uint64_t *word) { return atomic_load_explicit(word, memory_order_relaxed); }
static void set(_Atomic uint64_t *word, uint64_t value) { atomic_store_explicit(word, value, memory_order_relaxed); }

int fm_store_live_open(fm_store *s, fm_error *err) {
    s->live.keys = calloc((size_t)n_keys(s), sizeof *s->live.keys);
    if (!s->live.keys) return fm_fail(err, FM_ENOMEM, "no memory for the counts of %d experts", n_keys(s));
    for (int key = 0; key < n_keys(s); key++)
        set(&s->live.keys[key], s->config.extents[(size_t)key * (size_t)s->config.n_extents].bytes ? FM_EXPERT_ABSENT : FM_EXPERT_NONE);
    return 0;
}

void fm_store_live_clear(fm_store *s) {
    for (int key = 0; key < n_keys(s); key++) set(&s->live.keys[key], get(&s->live.keys[key]) & STATE_MASK);
    fm_store_live_sums(s);
}

void fm_store_live_close(fm_store *s) { free(s->live.keys); }

void fm_store_live_state(fm_store *s, int key, fm_slot_state state) {
    uint64_t word = get(&s->live.keys[key]), shown = FM_EXPERT_RESIDENT;

    if (state == FM_SLOT_FREE) shown = FM_EXPERT_ABSENT;
    if (state == FM_SLOT_QUEUED || state == FM_SLOT_READING || state == FM_SLOT_GUESSING) shown = FM_EXPERT_READING;
    set(&s->live.keys[key], (word & ~STATE_MASK) | shown);
}

void fm_store_live_used(fm_store *s, int key) { set(&s->live.keys[key], get(&s->live.keys[key]) + ONE_USE); }

/* Does not carry into the uses. */
void fm_store_live_was_read(fm_store *s, int key) {
    uint64_t word = get(&s->live.keys[key]);

    set(&s->live.keys[key], (word & ~READS_MASK) | ((word + ONE_READ) & READS_MASK));
}

void fm_store_live_sums(fm_store *s) {
    set(&s->live.n_requests, s->stats.n_requests);
    set(&s->live.n_hits, s->stats.n_hits);
    set(&s->live.disk_bytes, s->stats.disk_bytes);
}

int fm_store_live_read(const fm_store *s, fm_live *out, fm_live_expert *experts, int n) {
    for (int key = 0; key < n_keys(s) && key < n; key++) {
        uint64_t word = get(&s->live.keys[key]);
        experts[key] =
            (fm_live_expert){.uses = (uint32_t)(word >> 32), .reads = (uint32_t)((word & READS_MASK) >> STATE_BITS), .state = (uint8_t)(word & STATE_MASK)};
    }
    out->n_requests = get(&s->live.n_requests);
    out->n_hits = get(&s->live.n_hits);
    out->disk_bytes = get(&s->live.disk_bytes);
    return n_keys(s);
}
