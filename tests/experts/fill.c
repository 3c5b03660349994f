/* tests/experts/fill.c: what is read without being waited for: the list of fill comes into free slots and is looked at by whoever leases it first; pinned experts stay, others
 * leave; a wanted expert is there after a while; and shrinking undoes pins.
 * And narrow copies. */
#include "fixture.h"

static int lease_all(const fixture *x, fm_store *s, const int *keys, int n, int *n_fresh) {
    int done = 0;
    *n_fresh = 0;
    MUST(fm_store_request(s, keys, n, err));
    for (fm_lease lease; done < n; done++) {
        fm_error e;
        if (fm_store_next(s, FM_ANY_KEY, &lease, &e) != 1) break;
        *n_fresh += lease.fresh;
        fixture_consume(x, &lease);
        fm_store_release(s, &lease);
    }
    return done;
}

static fm_store *open_store(const fixture *x, int n_slots, int n_guesses, const fm_policy_ops *policy) {
    fm_store_config config = fixture_config(x, n_slots, 4);
    fm_store *s;
    config.n_guesses = n_guesses;
    config.policy = policy;
    MUST(fm_store_open(&s, &config, err));
    return s;
}

/* Twice as many as there are slots: the first half is there, and each is fresh for its first lease only. */
static void fill(const fixture *x, const fm_policy_ops *policy) {
    enum { SLOTS = 15 };
    fm_store *s = open_store(x, SLOTS, 0, policy);
    fm_store_stats stats;
    int keys[2 * SLOTS], n_fresh, there = 0;
    for (int i = 0; i < 2 * SLOTS; i++) keys[i] = fixture_key(2 * SLOTS - 1 - i);
    fm_store_fill(s, keys, 2 * SLOTS);
    CHECK(lease_all(x, s, keys + 3, 1, &n_fresh) == 1 && n_fresh == 1, "a key of the list cannot be asked for");
    CHECK(fm_store_fill_wait(s, 60) == 0, "the list is not read");
    for (int i = 0; i < 2 * SLOTS; i++) there += fm_store_holds(s, keys[i]);
    CHECK(there == SLOTS, "%d of %d slots are filled", there, SLOTS);
    for (int i = 0; i < SLOTS; i++) {
        CHECK(fm_store_holds(s, keys[i]), "the %dth of the list is not there", i);
        CHECK(lease_all(x, s, keys + i, 1, &n_fresh) == 1 && n_fresh == (i != 3), "the %dth of the list is %sfresh", i, n_fresh ? "" : "not ");
        CHECK(lease_all(x, s, keys + i, 1, &n_fresh) == 1 && !n_fresh, "the %dth of the list is fresh twice", i);
    }
    fm_store_stats_read(s, &stats);
    CHECK(stats.n_requests == 2 * SLOTS + 1 && stats.n_hits == 2 * SLOTS && stats.n_guessed == 0, "%d requests, %d hits", (int)stats.n_requests,
          (int)stats.n_hits);
    fm_store_close(&s);
}

/* Eight pinned among twelve slots, then every other key twice. */
static void pin(const fixture *x, const fm_policy_ops *policy) {
    enum { SLOTS = 12, PINNED = 8 };
    fm_store *s = open_store(x, SLOTS, 0, policy);
    int keys[SLOTS], n_fresh, left = 0;
    for (int i = 0; i < SLOTS; i++) keys[i] = fixture_key(i);
    fm_store_pin(s, keys, PINNED, 2);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < N_KEYS - N_EXPERTS; i++) {
            int key = fixture_key(i);
            CHECK(lease_all(x, s, &key, 1, &n_fresh) == 1, "key %d does not come", key);
            CHECK(!pass || i >= PINNED || !n_fresh, "key %d is pinned and was read again", key);
        }
    }
    for (int i = 0; i < PINNED; i++) CHECK(fm_store_holds(s, keys[i]), "key %d is pinned and has left", keys[i]);
    for (int i = 0; i < SLOTS; i++) keys[i] = fixture_key(N_EXPERTS + i);
    int took;
    MUST(took = fm_store_request(s, keys, SLOTS, err));
    CHECK(took == SLOTS - PINNED, "%d keys taken beside %d pinned ones", took, PINNED);
    fm_store_cancel(s);
    CHECK(fm_store_shrink(s, SLOTS, 3) == SLOTS - 3, "pinned slots are not given back");
    for (int i = 0; i < PINNED; i++) left += fm_store_holds(s, fixture_key(i));
    CHECK(left <= 3 && fm_store_n_slots(s) == 3, "%d pinned ones in %d slots", left, fm_store_n_slots(s));
    fm_store_close(&s);
    s = open_store(x, 4, 1, policy);
    fm_store_pin(s, keys, SLOTS, 2);
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < SLOTS; i++) CHECK(lease_all(x, s, keys + i, 1, &n_fresh) == 1, "a store whose slots are all to be pinned has no room");
    }
    fm_store_close(&s);
}

/* Keys that are done without are there some requests later, in the place of others, and count as misses. */
static void want(const fixture *x, const fm_policy_ops *policy) {
    enum { SLOTS = 8 };
    fm_store *s = open_store(x, SLOTS, 2, policy);
    fm_store_stats stats;
    int keys[SLOTS], wanted[2] = {fixture_key(30), fixture_key(31)}, n_fresh;
    for (int i = 0; i < SLOTS; i++) keys[i] = fixture_key(i);
    for (int i = 0; i < SLOTS; i++) lease_all(x, s, keys + i, 1, &n_fresh);
    CHECK(!fm_store_at_hand(s, wanted[0]), "a key is there that nobody read");
    fm_store_stats_clear(s);
    fm_store_want(s, wanted, 2);
    fm_store_fill_wait(s, 60);
    for (int i = 0; i < 100 && !(fm_store_holds(s, wanted[0]) && fm_store_holds(s, wanted[1])); i++) fm_store_poll(s);
    CHECK(fm_store_at_hand(s, wanted[0]) && fm_store_at_hand(s, wanted[1]), "what is wanted does not come");
    CHECK(lease_all(x, s, wanted, 2, &n_fresh) == 2 && n_fresh == 2, "%d of two wanted are fresh", n_fresh);
    fm_store_stats_read(s, &stats);
    CHECK(stats.n_requests == 4 && stats.n_hits == 2, "%d requests, %d hits", (int)stats.n_requests, (int)stats.n_hits);
    fm_store_close(&s);
}

/* The narrow copy of every key is here the last key: its bytes tell which of the two came. */
static int lease_cold(const fixture *x, fm_store *s, int key, bool cold, bool *narrow, bool *fresh) {
    uint8_t mark = cold;
    fm_lease lease;
    MUST(fm_store_request_cold(s, &key, &mark, 1, err));
    MUST(fm_store_next(s, FM_ANY_KEY, &lease, err));
    *narrow = lease.narrow;
    *fresh = lease.fresh;
    int shown = lease.narrow ? fixture_key(35) : key;
    CHECK(lease.key == key && fixture_slot_holds(x, lease.data, shown), "key %d, %s: other bytes", key, lease.narrow ? "narrow" : "wide");
    fm_store_release(s, &lease);
    return 0;
}

/* A miss comes as it was asked for; what is there is taken, but a narrow copy only for cold keys, and its slot holds the wide one then. */
static void narrow(const fixture *x, const fm_policy_ops *policy) {
    static fm_extent narrow[N_KEYS];
    fm_store_config config = fixture_config(x, 5, 4);
    fm_store *s;
    bool is_narrow, fresh;
    int a = fixture_key(3), b = fixture_key(20), n_fresh;
    for (int i = 0; i < N_KEYS; i++) narrow[i] = config.extents[i].bytes ? config.extents[fixture_key(35)] : config.extents[i];
    config.policy = policy;
    config.narrow = narrow;
    MUST(fm_store_open(&s, &config, err));
    lease_cold(x, s, a, true, &is_narrow, &fresh);
    CHECK(is_narrow && fresh && !fm_store_at_hand(s, a), "a cold miss is not narrow");
    lease_cold(x, s, a, true, &is_narrow, &fresh);
    CHECK(is_narrow && !fresh, "a narrow copy is not kept");
    lease_cold(x, s, a, false, &is_narrow, &fresh);
    CHECK(!is_narrow && fresh && fm_store_at_hand(s, a), "a narrow copy stands in for a key that is not cold");
    lease_cold(x, s, a, true, &is_narrow, &fresh);
    CHECK(!is_narrow && !fresh, "the wide copy is not taken for a cold key");
    lease_cold(x, s, b, true, &is_narrow, &fresh);
    CHECK(lease_all(x, s, &b, 1, &n_fresh) == 1 && n_fresh == 1, "a plain request is given a narrow copy");
    for (int i = 0; i < 200; i++) { /* with others leaving in between */
        int key = fixture_key((i * 7) % (N_KEYS - N_EXPERTS));
        lease_cold(x, s, key, i % 3, &is_narrow, &fresh);
        CHECK(!is_narrow || i % 3, "key %d is narrow", key);
    }
    fm_store_close(&s);
    config.mirrors = x->files;
    fm_error e;
    CHECK(fm_store_open(&s, &config, &e) == FM_EINVAL, "narrow copies from a mirror");
    fm_store_close(&s);
}

int main(void) {
    const fm_policy_ops *policies[] = {&fm_policy_lru, &fm_policy_lfu};
    fixture x;
    fixture_open_as(&x, true, false, 11);
    for (int i = 0; i < 2; i++) {
        fill(&x, policies[i]);
        pin(&x, policies[i]);
        want(&x, policies[i]);
        narrow(&x, policies[i]);
    }
    fixture_close(&x);
    return TEST_END();
}
