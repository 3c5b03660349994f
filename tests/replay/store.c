/* tests/replay/store.c: a replayed cache is the expert store to the hit: the same accesses through a real store, taken as the engine takes them. */
#include "experts/store.h"
#include "measure/replay.h"
#include "traces.h"

#define EXPERT_BYTES 64

/* A file with room for every expert, and a store of it. */
static fm_store *open_store(const fm_trace *t, const fm_policy_ops *policy, int n_slots, fm_file *file, fm_extent **extents) {
    size_t n_keys = (size_t)t->n_layers * (size_t)t->n_experts;
    char path[64];
    fm_store *store = NULL;
    FILE *f = fopen(trace_path(path, "experts"), "wb");
    *extents = calloc(n_keys, sizeof **extents);
    for (size_t i = 0; f && i < n_keys * EXPERT_BYTES; i++) fputc((int)(i / EXPERT_BYTES), f);
    if (!f || fclose(f) || !*extents) {
        perror(path);
        exit(1);
    }
    MUST(fm_file_open(file, path, false, err));
    unlink(path);
    for (size_t i = 0; i < n_keys; i++) (*extents)[i] = (fm_extent){.offset = i * EXPERT_BYTES, .bytes = EXPERT_BYTES};
    const fm_store_config config = {.n_layers = t->n_layers,
                                    .n_experts = t->n_experts,
                                    .slot_bytes = EXPERT_BYTES,
                                    .n_slots = n_slots,
                                    .n_staging = 3,
                                    .n_extents = 1,
                                    .extents = *extents,
                                    .files = file,
                                    .policy = policy,
                                    .io_name = "pread"};
    MUST(fm_store_open(&store, &config, err));
    return store;
}

/* One layer of a batch, in the order of its experts. */
static void take_all(fm_store *store, const int *keys, int n) {
    fm_lease lease;
    int asked;
    MUST(asked = fm_store_request(store, keys, n, err));
    for (int done = 0; done < n; done++) {
        MUST(fm_store_next(store, keys[done], &lease, err));
        fm_store_release(store, &lease);
        if (asked == n) continue;
        int more;
        MUST(more = fm_store_request(store, keys + asked, n - asked, err));
        asked += more;
    }
}

static void compare(const made_trace *m, const fm_policy_ops *ops, int n_slots, uint64_t seed) {
    fm_trace t = trace_make(m, seed);
    fm_accesses a;
    fm_file file;
    fm_extent *extents;
    fm_store_stats stats;
    fm_policy *policy = NULL;
    uint64_t by_layer[16] = {0}, sum = 0;
    fm_replay_counts counts = {.hits_by_layer = by_layer};
    MUST(fm_accesses_open(&a, &t, 16, err));
    MUST(ops->open(&policy, n_slots, t.n_layers, t.n_experts, err));
    MUST(fm_replay_cache(&a, policy, n_slots, &counts, err));
    ops->close(&policy);
    fm_store *store = open_store(&t, ops, n_slots, &file, &extents);
    for (size_t r = 0; r < a.n_requests; r++) take_all(store, a.key + a.start[r], (int)(a.start[r + 1] - a.start[r]));
    fm_store_stats_read(store, &stats);
    CHECK(stats.n_requests == a.n, "%llu experts were asked for, not %zu", (unsigned long long)stats.n_requests, a.n);
    CHECK(stats.n_hits == counts.hits[FM_REPLAY_PROMPT] + counts.hits[FM_REPLAY_DECODED], "%s, %d slots: the store has %llu hits, the replay %llu and %llu",
          ops->name, n_slots, (unsigned long long)stats.n_hits, (unsigned long long)counts.hits[FM_REPLAY_PROMPT],
          (unsigned long long)counts.hits[FM_REPLAY_DECODED]);
    for (int i = 0; i < t.n_layers; i++) sum += by_layer[i];
    CHECK(sum == counts.hits[FM_REPLAY_DECODED] && counts.hits[FM_REPLAY_LATER] <= sum, "hits by layer");
    fm_store_close(&store);
    fm_file_close(&file);
    free(extents);
    fm_accesses_close(&a);
    trace_free(&t);
}

int main(void) {
    const made_trace m = {
        .n_layers = 5, .n_experts = 20, .top_k = 4, .n_tokens = 300, .n_prompt = 25, .n_sequence = 60, .exponent = 0.8, .reuse = 0.2, .dense_layer = 3};
    const int slots[] = {4, 5, 9, 16, 19, 25, 40, 60, 80}; /* below 19 or so a batch of a prompt does not fit */
    for (int p = 0; fm_policy_at(p); p++) {
        for (size_t i = 0; i < sizeof slots / sizeof *slots; i++) {
            for (uint64_t seed = 1; seed < 4; seed++) compare(&m, fm_policy_at(p), slots[i], seed);
        }
    }
    return TEST_END();
}
