/* experts/policy_lru.c: the slot whose last use is longest ago leaves. A doubly linked list of occupied slots, the most recent first. */
#include <assert.h>
#include <stdlib.h>

#include "experts/policy.h"

typedef struct lru {
    fm_policy policy;
    int head;         /* index of the list's head in prev and next: n_slots, its neighbours are the most and the least recent */
    int *prev, *next; /* [n_slots + 1]; next -1: the slot is empty */
} lru;

static void lru_close(fm_policy **policy) {
    lru *l = (lru *)*policy;
    if (!l) return;
    free(l->prev);
    free(l->next);
    free(l);
    *policy = NULL;
}

static uint64_t lru_memory_bytes(int n_slots, int n_layers, int n_experts) {
    (void)n_layers, (void)n_experts;
    return sizeof(lru) + 2 * ((uint64_t)n_slots + 1) * sizeof(int);
}

static int lru_open(fm_policy **policy, int n_slots, int n_layers, int n_experts, fm_error *err) {
    (void)n_layers, (void)n_experts;
    lru *l = calloc(1, sizeof *l);
    *policy = (fm_policy *)l;
    if (!l) goto fail;
    l->policy.ops = &fm_policy_lru;
    l->prev = malloc(((size_t)n_slots + 1) * sizeof *l->prev);
    l->next = malloc(((size_t)n_slots + 1) * sizeof *l->next);
    if (!l->prev || !l->next) goto fail;
    for (int i = 0; i < n_slots; i++) l->next[i] = -1;
    l->head = l->prev[n_slots] = l->next[n_slots] = n_slots;
    return 0;
fail:
    lru_close(policy);
    return fm_fail(err, FM_ENOMEM, "no memory for the cache policy's tables of %d slots", n_slots);
}

static void unlink_slot(lru *l, int slot) {
    l->next[l->prev[slot]] = l->next[slot];
    l->prev[l->next[slot]] = l->prev[slot];
    l->next[slot] = -1;
}

static void link_first(lru *l, int slot) {
    l->prev[slot] = l->head;
    l->next[slot] = l->next[l->head];
    l->prev[l->next[slot]] = slot;
    l->next[l->head] = slot;
}

static void lru_fill(fm_policy *policy, int slot, int key) {
    lru *l = (lru *)policy;
    (void)key;
    assert(l->next[slot] < 0);
    link_first(l, slot);
}

static void lru_use(fm_policy *policy, int slot) {
    lru *l = (lru *)policy;
    assert(l->next[slot] >= 0);
    unlink_slot(l, slot);
    link_first(l, slot);
}

static void lru_empty(fm_policy *policy, int slot) {
    lru *l = (lru *)policy;
    assert(l->next[slot] >= 0);
    unlink_slot(l, slot);
}

static int lru_victim(fm_policy *policy, int key, const uint8_t *pinned) {
    lru *l = (lru *)policy;
    (void)key;
    for (int slot = l->prev[l->head]; slot != l->head; slot = l->prev[slot]) {
        if (!pinned[slot]) return slot;
    }
    return -1;
}

const fm_policy_ops fm_policy_lru = {.name = "lru",
                                     .open = lru_open,
                                     .close = lru_close,
                                     .fill = lru_fill,
                                     .use = lru_use,
                                     .empty = lru_empty,
                                     .victim = lru_victim,
                                     .memory_bytes = lru_memory_bytes};
