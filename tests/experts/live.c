/* tests/experts/live.c: what other threads see of a store: states and counts of experts are those of its slots, of what was asked for and of what was read. */
#include "experts/store_impl.h"
#include "script.h"

static int state_of(const fm_store *store, int key) {
    fm_live_expert experts[N_KEYS];
    fm_live sums;
    CHECK(fm_store_live_read(store, &sums, experts, N_KEYS) == N_KEYS, "all keys");
    return experts[key].state;
}

/* Of a slot, as store.c has it. */
static int expected_state(const fm_store *s, int key) {
    if (key / N_EXPERTS == DENSE_LAYER) return FM_EXPERT_NONE;
    if (s->slot_of[key] < 0) return FM_EXPERT_ABSENT;
    fm_slot_state state = s->slots[s->slot_of[key]].state;
    bool reading = state == FM_SLOT_QUEUED || state == FM_SLOT_READING || state == FM_SLOT_GUESSING;
    return reading ? FM_EXPERT_READING : FM_EXPERT_RESIDENT;
}

static void compare(const fm_store *store) {
    fm_live_expert experts[N_KEYS];
    fm_store_stats stats;
    fm_live sums;
    uint64_t uses = 0;
    fm_store_live_read(store, &sums, experts, N_KEYS);
    fm_store_stats_read(store, &stats);
    for (int key = 0; key < N_KEYS; key++) {
        CHECK(experts[key].state == expected_state(store, key), "key %d is shown as %d, expected %d", key, experts[key].state, expected_state(store, key));
        CHECK(key / N_EXPERTS != DENSE_LAYER || (!experts[key].uses && !experts[key].reads), "key %d was used", key);
        uses += experts[key].uses;
    }
    CHECK(uses == stats.n_requests && sums.n_requests == stats.n_requests, "%llu uses, %llu asked for", (unsigned long long)uses,
          (unsigned long long)stats.n_requests);
    CHECK(sums.n_hits == stats.n_hits && sums.disk_bytes == stats.disk_bytes, "%llu hits, %llu bytes", (unsigned long long)sums.n_hits,
          (unsigned long long)sums.disk_bytes);
}

/* One expert, step by step. */
static void life(const fixture *x) {
    fm_store_config config = fixture_config(x, 1, 1);
    const int keys[] = {3, 5};
    fm_live_expert experts[8];
    fm_store *store;
    fm_lease lease;
    fm_live sums;
    MUST(fm_store_open(&store, &config, err));
    CHECK(state_of(store, 3) == FM_EXPERT_ABSENT && state_of(store, DENSE_LAYER * N_EXPERTS) == FM_EXPERT_NONE, "an empty store");
    for (int i = 0; i < 4; i++) { /* a miss, a hit, another that drives it out, a miss again */
        int key = keys[i == 2];
        CHECK(fm_store_request(store, &key, 1, NULL) == 1, "one of one");
        CHECK(state_of(store, key) == (i == 1 ? FM_EXPERT_RESIDENT : FM_EXPERT_READING), "step %d: %d", i, state_of(store, key));
        MUST(fm_store_next(store, FM_ANY_KEY, &lease, err));
        fixture_consume(x, &lease);
        CHECK(state_of(store, key) == FM_EXPERT_RESIDENT, "step %d", i);
        fm_store_release(store, &lease);
        CHECK(state_of(store, keys[i != 2]) == FM_EXPERT_ABSENT, "step %d: there is one slot", i);
    }
    fm_store_live_read(store, &sums, experts, 8);
    CHECK(experts[3].uses == 3 && experts[3].reads == 2 && experts[5].uses == 1 && experts[5].reads == 1, "%u uses, %u reads", experts[3].uses,
          experts[3].reads);
    CHECK(!experts[4].uses && sums.n_requests == 4 && sums.n_hits == 1, "%llu asked for", (unsigned long long)sums.n_requests);
    MUST(fm_store_request(store, &keys[1], 1, err));
    MUST(fm_store_next(store, FM_ANY_KEY, &lease, err));
    fm_store_discard(store, &lease);
    CHECK(state_of(store, 5) == FM_EXPERT_ABSENT, "what was not whole is gone");
    fm_store_stats_clear(store);
    compare(store);
    experts[0].uses = 77;
    CHECK(fm_store_live_read(store, &sums, experts, 0) == N_KEYS && experts[0].uses == 77, "none was asked for");
    fm_store_close(&store);
}

/* Whatever happens to a store; compared after each layer, and amidst a request, and with guesses. */
static void script_compared(const fixture *x, const fm_policy_ops *policy, int n_guesses) {
    fm_store_config config = fixture_config(x, 14, 3);
    script s = {.fixture = x, .seed = 11, .most_held = 2};
    uint64_t seed = 5;
    config.policy = policy;
    config.n_guesses = n_guesses;
    MUST(fm_store_open(&s.store, &config, err));
    for (int i = 0; i < 60; i++) {
        int keys[5];
        fm_lease lease;
        script_run(&s, 3);
        compare(s.store);
        fixture_choose(&seed, keys, 5);
        fm_store_prefetch(s.store, keys, 5);
        compare(s.store);
        fixture_choose(&seed, keys, 5);
        CHECK(fm_store_request(s.store, keys, 5, NULL) == 5, "five of five");
        compare(s.store);
        MUST(fm_store_next(s.store, FM_ANY_KEY, &lease, err));
        fixture_consume(x, &lease);
        fm_store_release(s.store, &lease);
        fm_store_cancel(s.store);
        compare(s.store);
    }
    fm_store_shrink(s.store, 6, 2);
    compare(s.store);
    MUST(fm_store_clear(s.store, err));
    compare(s.store);
    CHECK(s.n_errors == 0, "%s", s.error.message);
    fm_store_close(&s.store);
}

int main(void) {
    fixture x;
    fixture_open(&x, false, 5);
    life(&x);
    script_compared(&x, &fm_policy_lru, 0);
    script_compared(&x, &fm_policy_lfu, 0);
    fixture_close(&x);
    fixture_open_as(&x, true, false, 6);
    life(&x);
    script_compared(&x, &fm_policy_lru, 4);
    fixture_close(&x);
    return TEST_END();
}
