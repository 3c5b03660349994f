/* measure/replay_cache.c: a cache without contents: the slots and pins of the expert store over a list of accesses, and the policy that knows the future. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "measure/replay.h"

/* ---- the store's order of things ---- */

typedef struct cache {
    const fm_accesses *a;
    fm_policy *policy;
    int n_slots, n_used;
    int *slot_of;    /* [keys], -1: not here */
    int *key;        /* [n_slots] */
    uint8_t *pinned; /* [n_slots] */
    fm_replay_counts *counts;
} cache;

static void count(cache *c, int key, int mark, bool hit) {
    for (int part = 0; part < FM_REPLAY_PARTS; part++) c->counts->hits[part] += hit && mark & 1 << part;
    if (mark & 1 << FM_REPLAY_DECODED) c->counts->hits_by_layer[key / c->a->n_experts] += hit;
    c->counts->n_misses_with_forecast += !hit && mark & FM_ACCESS_FORECAST;
    c->counts->n_predicted_misses += !hit && mark & FM_ACCESS_PREDICTED;
}

/* A free slot as long as there are any, else the policy's victim. */
static void bring(cache *c, int key) {
    const fm_policy_ops *ops = c->policy->ops;
    int slot = c->n_used < c->n_slots ? c->n_used++ : ops->victim(c->policy, key, c->pinned);
    assert(slot >= 0 && slot < c->n_slots && !c->pinned[slot]);
    if (c->key[slot] >= 0) {
        ops->empty(c->policy, slot);
        c->slot_of[c->key[slot]] = -1;
    }
    c->key[slot] = key;
    c->slot_of[key] = slot;
    c->pinned[slot] = 1;
    ops->fill(c->policy, slot, key);
}

/* As many of one layer's experts at once as there are slots, those that are here pinned first. When there are more, each that has been computed makes room for
 * the next. */
static void request(cache *c, size_t from, size_t n) {
    const int *key = c->a->key + from;
    const uint8_t *mark = c->a->mark + from;
    size_t at_once = n < (size_t)c->n_slots ? n : (size_t)c->n_slots;
    for (size_t i = 0; i < at_once; i++) {
        if (c->slot_of[key[i]] >= 0) c->pinned[c->slot_of[key[i]]] = 1;
    }
    for (size_t i = 0; i < n; i++) {
        if (i >= at_once) c->pinned[c->slot_of[key[i - at_once]]] = 0;
        bool hit = c->slot_of[key[i]] >= 0;
        if (!hit) bring(c, key[i]);
        c->pinned[c->slot_of[key[i]]] = 1;
        c->policy->ops->use(c->policy, c->slot_of[key[i]]);
        count(c, key[i], mark[i], hit);
    }
    for (size_t i = n - at_once; i < n; i++) c->pinned[c->slot_of[key[i]]] = 0;
}

int fm_replay_cache(const fm_accesses *a, fm_policy *policy, int n_slots, fm_replay_counts *counts, fm_error *err) {
    size_t n_keys = (size_t)a->n_layers * (size_t)a->n_experts;
    cache c = {.a = a, .policy = policy, .n_slots = n_slots, .counts = counts};
    c.slot_of = malloc(n_keys * sizeof *c.slot_of);
    c.key = malloc((size_t)n_slots * sizeof *c.key);
    c.pinned = calloc((size_t)n_slots, 1);
    int rc = c.slot_of && c.key && c.pinned ? 0 : fm_fail(err, FM_ENOMEM, "no memory for replaying a cache of %d slots", n_slots);
    if (rc >= 0) {
        memset(c.slot_of, 0xff, n_keys * sizeof *c.slot_of);
        memset(c.key, 0xff, (size_t)n_slots * sizeof *c.key);
        for (size_t r = 0; r < a->n_requests; r++) request(&c, a->start[r], a->start[r + 1] - a->start[r]);
    }
    free(c.slot_of);
    free(c.key);
    free(c.pinned);
    return rc;
}

/* ---- Belady ---- */

/* Who leaves is whose next use that counts is furthest away. Two things make a use not count: it is not of the part whose hits are wanted, or it is no hit whatever
 * is done: a request that fills all slots leaves only its own last experts behind. Slots lie in a heap, the furthest on top. */
typedef struct belady {
    fm_policy policy;
    uint32_t *next; /* [accesses] the request of the expert's next use that counts, NEVER: none */
    size_t at;      /* accesses used so far */
    int n;          /* occupied slots */
    int *heap;      /* [n_slots] */
    int *place;     /* [n_slots] in heap */
    uint32_t *far;  /* [n_slots] next use of what it holds */
} belady;

#define NEVER UINT32_MAX

static void belady_close(fm_policy **policy) {
    belady *b = (belady *)*policy;
    if (!b) return;
    free(b->next);
    free(b->heap);
    free(b->place);
    free(b->far);
    free(b);
    *policy = NULL;
}

static void put(belady *b, int i, int slot) {
    b->heap[i] = slot;
    b->place[slot] = i;
}

/* Moves the slot at place i to where it belongs. */
static void sift(belady *b, int i) {
    int slot = b->heap[i];
    for (; i > 0 && b->far[slot] > b->far[b->heap[(i - 1) / 2]]; i = (i - 1) / 2) put(b, i, b->heap[(i - 1) / 2]);
    for (int child; (child = 2 * i + 1) < b->n; i = child) {
        if (child + 1 < b->n && b->far[b->heap[child + 1]] > b->far[b->heap[child]]) child++;
        if (b->far[b->heap[child]] <= b->far[slot]) break;
        put(b, i, b->heap[child]);
    }
    put(b, i, slot);
}

static void belady_fill(fm_policy *policy, int slot, int key) {
    belady *b = (belady *)policy;
    (void)key;
    b->far[slot] = 0;
    put(b, b->n++, slot);
    sift(b, b->place[slot]);
}

static void belady_use(fm_policy *policy, int slot) {
    belady *b = (belady *)policy;
    b->far[slot] = b->next[b->at++];
    sift(b, b->place[slot]);
}

static void belady_empty(fm_policy *policy, int slot) {
    belady *b = (belady *)policy;
    int i = b->place[slot], moved = b->heap[--b->n];
    if (moved == slot) return;
    put(b, i, moved);
    sift(b, i);
}

/* The furthest slot without a pin at or below place i: below one without a pin nothing is further. */
static int furthest(const belady *b, int i, const uint8_t *pinned, int best) {
    if (i >= b->n || (best >= 0 && b->far[b->heap[i]] <= b->far[best])) return best;
    if (!pinned[b->heap[i]]) return b->heap[i];
    best = furthest(b, 2 * i + 1, pinned, best);
    return furthest(b, 2 * i + 2, pinned, best);
}

static int belady_victim(fm_policy *policy, int key, const uint8_t *pinned) {
    (void)key;
    return furthest((const belady *)policy, 0, pinned, -1);
}

static const fm_policy_ops belady_ops = {
    .name = "belady", .close = belady_close, .fill = belady_fill, .use = belady_use, .empty = belady_empty, .victim = belady_victim};

/* From the end to the beginning: next[i] is what comes of key[i] after access i. */
static void look_ahead(belady *b, const fm_accesses *a, int n_slots, int marks, uint32_t *coming) {
    size_t n_keys = (size_t)a->n_layers * (size_t)a->n_experts;
    memset(coming, 0xff, n_keys * sizeof *coming);
    for (size_t r = a->n_requests; r-- > 0;) {
        size_t from = a->start[r], n = a->start[r + 1] - from, at_once = n < (size_t)n_slots ? n : (size_t)n_slots;
        for (size_t i = 0; i < n; i++) b->next[from + i] = coming[a->key[from + i]];
        if (n > at_once) memset(coming, 0xff, n_keys * sizeof *coming);
        for (size_t i = 0; i < at_once; i++) coming[a->key[from + i]] = a->mark[from + i] & marks ? (uint32_t)r : NEVER;
    }
}

int fm_belady_open(fm_policy **policy, const fm_accesses *a, int n_slots, int marks, fm_error *err) {
    uint32_t *coming = malloc((size_t)a->n_layers * (size_t)a->n_experts * sizeof *coming);
    belady *b = calloc(1, sizeof *b);
    *policy = (fm_policy *)b;
    if (b) {
        b->policy.ops = &belady_ops;
        b->next = malloc((a->n ? a->n : 1) * sizeof *b->next);
        b->heap = malloc((size_t)n_slots * sizeof *b->heap);
        b->place = malloc((size_t)n_slots * sizeof *b->place);
        b->far = malloc((size_t)n_slots * sizeof *b->far);
    }
    if (!coming || !b || !b->next || !b->heap || !b->place || !b->far) {
        free(coming);
        belady_close(policy);
        return fm_fail(err, FM_ENOMEM, "no memory for looking ahead over %zu uses of experts", a->n);
    }
    look_ahead(b, a, n_slots, marks, coming);
    free(coming);
    return 0;
}

/* ---- a fixed choice ---- */

static int more_uses(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

int fm_replay_static(const fm_accesses *a, int n, uint64_t *hits, fm_error *err) {
    size_t n_keys = (size_t)a->n_layers * (size_t)a->n_experts;
    uint64_t *order = calloc(n_keys, sizeof *order); /* uses << 32 | key, then sorted */
    bool *stays = calloc(n_keys, sizeof *stays);
    int rc = order && stays ? 0 : fm_fail(err, FM_ENOMEM, "no memory for the uses of %zu experts", n_keys);
    *hits = 0;
    for (size_t i = 0; i < a->n && rc >= 0; i++) {
        size_t layer = (size_t)(a->key[i] / a->n_experts) * (size_t)a->n_experts;
        for (size_t k = layer; k < layer + (size_t)a->n_experts && !order[k]; k++) order[k] = (uint32_t)(n_keys - k); /* a layer without experts has none */
        bool before = a->mark[i] & 1 << FM_REPLAY_DECODED && !(a->mark[i] & 1 << FM_REPLAY_LATER);
        order[a->key[i]] += before ? (uint64_t)1 << 32 : 0;
    }
    if (rc >= 0) qsort(order, n_keys, sizeof *order, more_uses);
    for (int i = 0; i < n && (size_t)i < n_keys && rc >= 0 && order[i]; i++) stays[n_keys - (uint32_t)order[i]] = true;
    for (size_t i = 0; i < a->n && rc >= 0; i++) *hits += a->mark[i] & 1 << FM_REPLAY_LATER && stays[a->key[i]];
    free(order);
    free(stays);
    return rc;
}
