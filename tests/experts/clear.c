/* tests/experts/clear.c: a store that was emptied has to read everything again, and works on. */
#include "experts/store_impl.h"
#include "script.h"

static void clear(const fixture *x, const fm_policy_ops *policy) {
    fm_store_config config = fixture_config(x, 20, 4);
    fm_store_stats before, after;
    script s = {.fixture = x, .seed = 3, .most_held = 3};
    int keys[6] = {0, 1, 2, 3, 4, 5};
    config.policy = policy;
    MUST(fm_store_open(&s.store, &config, err));
    CHECK(fm_store_clear(s.store, NULL) == 0 && !fm_store_holds(s.store, 0), "an empty store has nothing to forget");
    CHECK(script_layer(&s, keys, 6, IN_ANY_ORDER) == 0, "%s", s.error.message);
    for (int key = 0; key < 12; key++) CHECK(fm_store_holds(s.store, key) == (key < 6), "key %d", key);
    CHECK(fm_store_clear(s.store, NULL) == 6, "six experts were in memory");
    for (int key = 0; key < 12; key++) CHECK(!fm_store_holds(s.store, key), "key %d is still there", key);
    CHECK(s.store->lists[FM_SLOT_FREE].n == 20 && fm_store_n_slots(s.store) == 20, "%d of 20 slots are free", s.store->lists[FM_SLOT_FREE].n);
    fm_store_stats_read(s.store, &before);
    CHECK(script_layer(&s, keys, 6, IN_ANY_ORDER) == 0, "%s", s.error.message);
    fm_store_stats_read(s.store, &after);
    CHECK(after.n_hits == before.n_hits && after.disk_bytes > before.disk_bytes, "a hit in an emptied store");
    script_run(&s, 10);
    CHECK(fm_store_clear(s.store, NULL) > 6, "what was used since");
    script_run(&s, 10);
    script_sweep(&s);
    CHECK(s.n_errors == 0, "%s", s.error.message);
    fm_store_close(&s.store);
}

/* Not while somebody waits for an expert or holds one. */
static void refused(const fixture *x) {
    fm_store_config config = fixture_config(x, 8, 4);
    const int keys[] = {0, 1};
    fm_store *store;
    fm_lease lease;
    fm_error error = {0};
    MUST(fm_store_open(&store, &config, err));
    CHECK(fm_store_request(store, keys, 2, NULL) == 2, "two of two");
    CHECK(fm_store_clear(store, &error) == FM_EINVAL && strstr(error.message, "2 experts are requested"), "%s", error.message);
    MUST(fm_store_next(store, FM_ANY_KEY, &lease, err));
    fixture_consume(x, &lease);
    fm_store_cancel(store);
    CHECK(fm_store_clear(store, &error) == FM_EINVAL && strstr(error.message, "1 handed out"), "%s", error.message);
    CHECK(!fm_store_holds(store, lease.key), "a request for what is handed out is no hit");
    fm_store_release(store, &lease);
    CHECK(fm_store_clear(store, NULL) == 1, "the one that was handed out");
    fm_store_close(&store);
}

int main(void) {
    fixture x;
    fixture_open(&x, false, 5);
    clear(&x, &fm_policy_lru);
    clear(&x, &fm_policy_lfu);
    refused(&x);
    fixture_close(&x);
    return TEST_END();
}
