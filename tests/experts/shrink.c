/* tests/experts/shrink.c: slots given back: free ones first, never pinned ones, never the last; the memory really goes; the store works on with what is left. */
#include <sys/mman.h>
#include <unistd.h>

#include "experts/store_impl.h"
#include "script.h"

static int n_resident(const fm_store *store) { return store->lists[FM_SLOT_RESIDENT].n; }

static script start(const fixture *x, int n_slots, const fm_policy_ops *policy) {
    fm_store_config config = fixture_config(x, n_slots, 4);
    config.policy = policy;
    script s = {.fixture = x, .seed = 9, .most_held = 3};
    MUST(fm_store_open(&s.store, &config, err));
    return s;
}

static void free_first(const fixture *x, const fm_policy_ops *policy) {
    script s = start(x, 20, policy);
    int keys[6] = {0, 1, 2, 3, 4, 5};
    CHECK(script_layer(&s, keys, 6, IN_ANY_ORDER) == 0, "%s", s.error.message);
    CHECK(fm_store_shrink(s.store, 14, 1) == 14 && fm_store_n_slots(s.store) == 6 && n_resident(s.store) == 6, "%d left", fm_store_n_slots(s.store));
    uint64_t before = s.n_fresh;
    CHECK(script_layer(&s, keys, 6, IN_ANY_ORDER) == 0 && s.n_fresh == before, "a used slot was given back while others were free");
    CHECK(fm_store_shrink(s.store, 2, 1) == 2 && n_resident(s.store) == 4, "%d resident", n_resident(s.store));
    CHECK(fm_store_shrink(s.store, 100, 3) == 1 && fm_store_n_slots(s.store) == 3, "%d left of at least 3", fm_store_n_slots(s.store));
    CHECK(fm_store_shrink(s.store, 100, 0) == 2 && fm_store_n_slots(s.store) == 1, "%d left, one must stay", fm_store_n_slots(s.store));
    CHECK(fm_store_shrink(s.store, 1, 0) == 0 && fm_store_shrink(s.store, 0, 0) == 0, "nothing is left to give");
    script_run(&s, 10);
    script_sweep(&s);
    CHECK(s.n_errors == 0, "%s", s.error.message);
    fm_store_close(&s.store);
}

/* With leases and reads in flight only the others go. */
static void pinned_stay(const fixture *x, const fm_policy_ops *policy) {
    script s = start(x, 8, policy);
    const int keys[] = {0, 1, 2, 3, 4, 5, 6, 7}, more[] = {12, 13, 14};
    fm_lease lease[3];
    CHECK(script_layer(&s, keys, 8, IN_ANY_ORDER) == 0, "%s", s.error.message);
    io_fake.delay_percent = 100;
    CHECK(fm_store_request(s.store, more, 3, NULL) == 3, "three of three");
    MUST(fm_store_next(s.store, FM_ANY_KEY, &lease[0], err));
    fixture_consume(x, &lease[0]);
    CHECK(fm_store_shrink(s.store, 8, 1) == 5 && fm_store_n_slots(s.store) == 3, "%d left: three are pinned", fm_store_n_slots(s.store));
    for (int i = 1; i < 3; i++) {
        MUST(fm_store_next(s.store, FM_ANY_KEY, &lease[i], err));
        fixture_consume(x, &lease[i]);
    }
    for (int i = 0; i < 3; i++) {
        fixture_consume(x, &lease[i]);
        fm_store_release(s.store, &lease[i]);
    }
    CHECK(fm_store_request(s.store, keys, 8, NULL) == 3, "request takes what three slots hold");
    fm_store_cancel(s.store);
    script_sweep(&s);
    fm_store_close(&s.store);
}

/* Shrinks a little between the layers of a random run. */
static void under_load(const fixture *x, const fm_policy_ops *policy, uint64_t seed) {
    script s = start(x, 34, policy);
    io_fake.shuffle = true;
    io_fake.delay_percent = 50;
    s.seed = seed;
    for (int left = 34; left > 1;) {
        script_run(&s, 2);
        int n = 1 + (int)(test_random(&s.seed) % 6), given = fm_store_shrink(s.store, n, 1);
        CHECK(given == (n < left - 1 ? n : left - 1), "%d given of %d", given, n);
        left -= given;
        CHECK(fm_store_n_slots(s.store) == left, "%d left, expected %d", fm_store_n_slots(s.store), left);
    }
    script_sweep(&s);
    CHECK(s.n_errors == 0, "%s", s.error.message);
    fm_store_close(&s.store);
}

static size_t resident_pages(const fm_store *store) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = (store->slot_region.bytes + page - 1) / page, sum = 0;
    unsigned char *in = calloc(n, 1);
    if (mincore(store->slot_region.data, n * page, (void *)in) == 0) {
        for (size_t i = 0; i < n; i++) sum += in[i] & 1;
    }
    free(in);
    return sum;
}

/* The pages of slots given back are gone, those shared by two such slots too. */
static void memory_goes(const fixture *x) {
    script s = start(x, 40, &fm_policy_lru);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    script_sweep(&s);
    memset(s.store->slot_region.data, 1, s.store->slot_region.bytes);
    CHECK(fm_store_shrink(s.store, 37, 1) == 37, "%d left", fm_store_n_slots(s.store));
    size_t most = 3 * (x->slot_bytes / page + 2), n = resident_pages(s.store);
    CHECK(n <= most, "%zu pages are left for 3 slots, at most %zu expected", n, most);
    fm_store_close(&s.store);
}

int main(void) {
    const fm_policy_ops *policies[] = {&fm_policy_lru, &fm_policy_lfu};
    fixture x;
    fixture_open(&x, false, 4);
    for (int p = 0; p < 2; p++) {
        free_first(&x, policies[p]);
        pinned_stay(&x, policies[p]);
        for (uint64_t seed = 0; seed < 10; seed++) under_load(&x, policies[p], seed);
    }
    memory_goes(&x);
    fixture_close(&x);
    return TEST_END();
}
