/* experts/policy.h: who leaves: the seam of cache policies. Pure bookkeeping over slots and keys: no I/O, no clock, no threads, so that a
 * recorded trace can replay it. A policy only ranks occupied slots; free slots belong to the store. */
#ifndef FM_EXPERTS_POLICY_H
#define FM_EXPERTS_POLICY_H

#include "base/error.h"

typedef struct fm_policy fm_policy;

typedef struct fm_policy_ops {
    const char *name;
    int (*open)(fm_policy **policy, int n_slots, int n_layers, int n_experts, fm_error *err);
    void (*close)(fm_policy **policy);
    void (*fill)(fm_policy *policy, int slot, int key); /* slot now holds key = layer * n_experts + expert, not yet used */
    void (*use)(fm_policy *policy, int slot);           /* the key in slot was asked for */
    void (*empty)(fm_policy *policy, int slot);         /* slot no longer holds anything (evicted, failed, given back) */
    /* The occupied slot to evict for key (-1: for none, the cache shrinks) among those for which pinned[slot] == 0; -1: all are pinned. */
    int (*victim)(fm_policy *policy, int key, const uint8_t *pinned);
    /* Counts of uses by key [n_layers * n_experts], to be kept for the next start, and taking them up again, scaled to what a use is worth now. NULL: it has none. */
    void (*heat_save)(const fm_policy *policy, float *heat);
    void (*heat_load)(fm_policy *policy, const float *heat);
    uint64_t (*memory_bytes)(int n_slots, int n_layers, int n_experts); /* that open takes */
} fm_policy_ops;

struct fm_policy {
    const fm_policy_ops *ops;
};

extern const fm_policy_ops fm_policy_lru; /* least recently used */
extern const fm_policy_ops fm_policy_lfu; /* decayed use counts, kept for absent keys too */

/* By name; NULL: the default. NULL returned, with the list of names in *err, for an unknown one. */
const fm_policy_ops *fm_policy_find(const char *name, fm_error *err);
/* All of them, the default first; NULL after the last. */
const fm_policy_ops *fm_policy_at(int index);

#endif
