/* measure/replay.h: the parts of replay. replay.c puts them together. */
#ifndef FM_MEASURE_REPLAY_H
#define FM_MEASURE_REPLAY_H

#include "experts/policy.h"
#include "flash_moe_tools.h"
#include "measure/trace.h"

enum { FM_ACCESS_FORECAST = 1 << FM_REPLAY_PARTS /* of a decoded token and layer with a prediction */, FM_ACCESS_PREDICTED = 2 << FM_REPLAY_PARTS };

/* What the store is asked for: a request is the distinct experts of one layer for all tokens of a batch, ascending. */
typedef struct fm_accesses {
    int n_layers, n_experts;
    size_t n_requests, n;
    size_t *start; /* [n_requests + 1] into key and mark */
    int *key;      /* [n] layer * n_experts + expert */
    uint8_t *mark; /* [n] 1 << FM_REPLAY_… of its parts, FM_ACCESS_… */
} fm_accesses;

/* batch: tokens of a prompt that are computed together. */
int fm_accesses_open(fm_accesses *accesses, const fm_trace *trace, int batch, fm_error *err);
void fm_accesses_close(fm_accesses *accesses);

typedef struct fm_replay_counts {
    uint64_t hits[FM_REPLAY_PARTS];
    uint64_t *hits_by_layer; /* [n_layers], of decoded tokens; added to */
    uint64_t n_predicted_misses, n_misses_with_forecast;
} fm_replay_counts;

/* replay_cache.c: the accesses through an empty cache of n_slots with a fresh policy, in the order in which the store does things. */
int fm_replay_cache(const fm_accesses *accesses, fm_policy *policy, int n_slots, fm_replay_counts *counts, fm_error *err);
/* A policy that knows the accesses: no other has more hits among those with any of these marks. Each access has to be used in turn. */
int fm_belady_open(fm_policy **policy, const fm_accesses *accesses, int n_slots, int marks, fm_error *err);
/* Hits of FM_REPLAY_LATER if the n experts that were used most by decoded tokens before stayed for good. */
int fm_replay_static(const fm_accesses *accesses, int n, uint64_t *hits, fm_error *err);

/* replay_locality.c: fills overlaps, unions, recall and recall_previous. */
int fm_replay_locality(fm_replay *out, const fm_trace *trace, fm_error *err);

#endif
