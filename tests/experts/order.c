/* tests/experts/order.c: what request, next, ready, cancel, release and discard promise, one by one. */
#include "experts/store_impl.h"
#include "script.h"

static fm_store *opened(const fixture *x, int n_slots, int n_staging) {
    fm_store_config config = fixture_config(x, n_slots, n_staging);
    fm_store *store = NULL;
    MUST(fm_store_open(&store, &config, err));
    return store;
}

/* Takes key (requested before), which must be a hit or not. */
static void take(const fixture *x, fm_store *store, int key, bool fresh) {
    fm_lease lease;
    MUST(fm_store_next(store, key, &lease, err));
    CHECK(lease.fresh == fresh, "key %d: fresh is %d", lease.key, lease.fresh);
    fixture_consume(x, &lease);
    fm_store_release(store, &lease);
}

static void load(const fixture *x, fm_store *store, const int *keys, int n) {
    script s = {.fixture = x, .store = store, .most_held = 1};
    int rc = script_layer(&s, keys, n, IN_REQUEST_ORDER);
    CHECK(rc == 0, "%s", s.error.message);
}

static uint64_t hits(const fm_store *store) {
    fm_store_stats stats;
    fm_store_stats_read(store, &stats);
    return stats.n_hits;
}

/* Hits come first, in the order of the request; misses in the order in which their reads end. */
static void hits_first(const fixture *x) {
    fm_store *store = opened(x, 8, 4);
    const int resident[] = {3, 1}, keys[] = {0, 1, 2, 3};
    fm_lease lease[4];
    load(x, store, resident, 2);
    CHECK(fm_store_request(store, keys, 4, NULL) == 4, "four of four");
    for (int i = 0; i < 4; i++) {
        MUST(fm_store_next(store, FM_ANY_KEY, &lease[i], err));
        fixture_consume(x, &lease[i]);
    }
    CHECK(lease[0].key == 1 && lease[1].key == 3 && !lease[0].fresh && !lease[1].fresh, "first %d and %d", lease[0].key, lease[1].key);
    CHECK(lease[2].key == 0 && lease[3].key == 2 && lease[2].fresh && lease[3].fresh, "then %d and %d", lease[2].key, lease[3].key);
    for (int i = 0; i < 4; i++) fm_store_release(store, &lease[i]);
    CHECK(fm_store_next(store, FM_ANY_KEY, &lease[0], NULL) == 0, "a fifth of four");
    CHECK(fm_store_next(store, 2, &lease[0], NULL) == FM_EINVAL, "a key that is not requested");
    fm_store_close(&store);
}

/* The consumer may wait for any requested key although others hold every staging buffer. */
static void last_one_first(const fixture *x) {
    fm_store *store = opened(x, 8, 2);
    const int keys[] = {0, 1, 2, 3, 4, 5};
    CHECK(fm_store_request(store, keys, 6, NULL) == 6, "six of six");
    for (int i = 5; i >= 0; i--) take(x, store, keys[i], true);
    CHECK(io_fake.most_in_flight <= 2 * N_EXTENTS, "%d reads in flight", io_fake.most_in_flight);
    fm_store_close(&store);
}

/* When leases hold all staging buffers, waiting would last for ever: ready says no and next gives an error. */
static void all_staging_held(const fixture *x) {
    fm_store *store = opened(x, 8, 2);
    const int keys[] = {0, 1, 2}, again[] = {1, 2};
    fm_lease a, b, c;
    fm_error e = {0};
    CHECK(fm_store_request(store, keys, 3, NULL) == 3, "three of three");
    MUST(fm_store_next(store, FM_ANY_KEY, &a, err));
    MUST(fm_store_next(store, FM_ANY_KEY, &b, err));
    CHECK(!fm_store_ready(store), "ready, without a staging buffer");
    CHECK(fm_store_next(store, FM_ANY_KEY, &c, &e) == FM_EINVAL && strstr(e.message, "staging"), "\"%s\"", e.message);
    fixture_consume(x, &a);
    fixture_consume(x, &b);
    int kept = a.key;
    fm_store_release(store, &a);
    fm_store_release(store, &b);
    CHECK(kept == 0 && fm_store_request(store, again, 2, NULL) == 2, "the store does not go on");
    take(x, store, 1, false);
    take(x, store, 2, true);
    fm_store_close(&store);
}

/* The read that waits for a staging buffer starts when a lease gives its one back, not when somebody asks. */
static void release_starts_reads(const fixture *x) {
    fm_store *store = opened(x, 8, 1);
    const int keys[] = {0, 1, 2};
    fm_lease lease;
    CHECK(fm_store_request(store, keys, 3, NULL) == 3 && io_fake.n_submits == 1, "%d submits for one buffer", io_fake.n_submits);
    for (int i = 0; i < 2; i++) {
        MUST(fm_store_next(store, FM_ANY_KEY, &lease, err));
        fixture_consume(x, &lease);
        if (i)
            fm_store_discard(store, &lease);
        else
            fm_store_release(store, &lease);
        CHECK(io_fake.n_submits == i + 2, "%d submits after %d leases", io_fake.n_submits, i + 1);
    }
    fm_store_close(&store);
}

/* More keys than slots: request takes a prefix, and more as leases end; a leased slot is nobody's victim. */
static void window(const fixture *x) {
    fm_store *store = opened(x, 3, 3);
    const int keys[] = {0, 1, 2, 3, 4};
    fm_lease a, b;
    CHECK(fm_store_request(store, keys, 5, NULL) == 3, "three slots take three");
    CHECK(fm_store_request(store, keys + 3, 2, NULL) == 0, "no slot is left");
    MUST(fm_store_next(store, 0, &a, err));
    MUST(fm_store_next(store, 1, &b, err));
    fixture_consume(x, &a);
    fixture_consume(x, &b);
    CHECK(fm_store_request(store, keys + 3, 2, NULL) == 0, "leases are pinned");
    fm_store_release(store, &b);
    CHECK(fm_store_request(store, keys + 3, 2, NULL) == 1, "one slot is free again");
    take(x, store, 2, true);
    take(x, store, 3, true);
    fixture_consume(x, &a);
    fm_store_release(store, &a);
    CHECK(fm_store_request(store, keys + 4, 1, NULL) == 1, "the last");
    take(x, store, 4, true);
    fm_store_close(&store);
}

/* A miss must not take the slot of a hit that stands later in the same request. */
static void hits_are_pinned_first(const fixture *x, const fm_policy_ops *policy) {
    fm_store_config config = fixture_config(x, 2, 2);
    config.policy = policy;
    fm_store *store = NULL;
    MUST(fm_store_open(&store, &config, err));
    const int resident[] = {0, 1}, keys[] = {5, 0};
    load(x, store, resident, 2);
    CHECK(fm_store_request(store, keys, 2, NULL) == 2, "two of two");
    CHECK(hits(store) == 1, "%s: %llu hits", policy->name, (unsigned long long)hits(store));
    take(x, store, 0, false);
    take(x, store, 5, true);
    fm_store_close(&store);
}

static void invalid(const fixture *x) {
    fm_store *store = opened(x, 8, 4);
    const int bad[][2] = {{0, -1}, {0, N_KEYS}, {0, 0}, {0, DENSE_LAYER * N_EXPERTS}};
    fm_lease lease;
    for (int i = 0; i < 4; i++) {
        fm_error e = {0};
        CHECK(fm_store_request(store, bad[i], 2, &e) == FM_EINVAL && e.message[0], "request %d: \"%s\"", i, e.message);
        CHECK(fm_store_next(store, FM_ANY_KEY, &lease, NULL) == 0, "request %d leaves something", i);
    }
    const int key = 3;
    CHECK(fm_store_request(store, &key, 1, NULL) == 1, "one of one");
    CHECK(fm_store_request(store, &key, 1, NULL) == FM_EINVAL, "the same again");
    CHECK(fm_store_request(store, &key, 0, NULL) == 0, "nothing");
    load(x, store, &key, 1);
    fm_store_close(&store);
}

static void ready(const fixture *x) {
    fm_store *store = opened(x, 8, 4);
    const int keys[] = {0, 1};
    fm_lease lease;
    CHECK(fm_store_ready(store), "next would return 0 at once");
    io_fake.delay_percent = 100;
    CHECK(fm_store_request(store, keys, 2, NULL) == 2, "two of two");
    CHECK(!fm_store_ready(store), "no read has ended");
    io_fake.delay_percent = 0;
    for (int i = 0; i < 100 && !fm_store_ready(store); i++) {}
    CHECK(fm_store_ready(store), "the reads have ended");
    int reaps = io_fake.n_reaps;
    MUST(fm_store_next(store, FM_ANY_KEY, &lease, err));
    CHECK(io_fake.n_reaps <= reaps + 1, "next waits although one is ready");
    fm_store_discard(store, &lease);
    fm_store_close(&store);
}

/* Cancelled and discarded experts are absent; what was resident stays; a lease outlives a cancel. */
static void cancel_and_discard(const fixture *x) {
    fm_store *store = opened(x, 8, 4);
    const int resident[] = {0, 1}, keys[] = {0, 1, 2, 3, 4};
    fm_lease lease, none;
    load(x, store, resident, 2);
    CHECK(fm_store_request(store, keys, 5, NULL) == 5, "five of five");
    MUST(fm_store_next(store, 3, &lease, err));
    fixture_consume(x, &lease);
    fm_store_cancel(store);
    CHECK(fm_store_next(store, FM_ANY_KEY, &none, NULL) == 0, "something is left after cancel");
    fm_store_release(store, &lease);
    uint64_t before = hits(store);
    load(x, store, keys, 5);
    CHECK(hits(store) - before == 3, "%llu hits of keys 0, 1 and 3", (unsigned long long)(hits(store) - before));
    CHECK(fm_store_request(store, keys, 1, NULL) == 1, "one of one");
    MUST(fm_store_next(store, FM_ANY_KEY, &lease, err));
    fm_store_discard(store, &lease);
    before = hits(store);
    load(x, store, keys, 1);
    CHECK(hits(store) == before, "a discarded expert is a hit");
    fm_store_close(&store);
}

/* Nothing leaves while a slot is free, and a store with room for all reads each expert once. */
static void free_slots_first(const fixture *x, const fm_policy_ops *policy) {
    fm_store_config config = fixture_config(x, N_KEYS - N_EXPERTS, 2);
    config.policy = policy;
    script s = {.fixture = x, .seed = 1, .most_held = 1};
    MUST(fm_store_open(&s.store, &config, err));
    for (int i = 0; i < 5; i++) script_sweep(&s);
    CHECK(s.n_fresh == N_KEYS - N_EXPERTS, "%s: %llu reads of %d experts", policy->name, (unsigned long long)s.n_fresh, N_KEYS - N_EXPERTS);
    fm_store_close(&s.store);
}

/* A random run with cancels and discards, each policy, a shuffled disk. */
static void restless(const fixture *x, const fm_policy_ops *policy, uint64_t seed) {
    fm_store_config config = fixture_config(x, 1 + (int)(seed % 14), 1 + (int)(seed % 5));
    config.policy = policy;
    io_fake.shuffle = true;
    io_fake.delay_percent = 60;
    io_fake.short_percent = 10;
    script s = {.fixture = x, .seed = seed, .most_held = config.n_staging < 3 ? config.n_staging : 3, .cancel_percent = 20, .discard_percent = 10};
    MUST(fm_store_open(&s.store, &config, err));
    script_run(&s, 40);
    CHECK(s.n_errors == 0, "seed %d: %s", (int)seed, s.error.message);
    s.cancel_percent = 0;
    script_sweep(&s);
    fm_store_close(&s.store);
}

/* Parts of an expert that touch are one read: the fixture must have such parts, or this tests nothing. */
static void touching_parts(const fixture *x) {
    fm_store *store = opened(x, 1, 1);
    int n_extents = 0, n_touching = 0;
    for (int n = 0; n < N_KEYS - N_EXPERTS; n++) {
        const fm_extent *e = &x->extents[fixture_key(n) * N_EXTENTS];
        for (int i = 0; i < N_EXTENTS && e[i].bytes; i++) {
            n_extents++;
            n_touching += i > 0 && e[i].file == e[i - 1].file && e[i].offset == e[i - 1].offset + e[i - 1].bytes;
        }
    }
    script s = {.fixture = x, .store = store, .most_held = 1};
    script_sweep(&s);
    CHECK(n_touching > 5, "%d parts touch", n_touching);
    if (!x->direct) CHECK(io_fake.n_completed == n_extents - n_touching, "%d reads of %d parts, %d touch", io_fake.n_completed, n_extents, n_touching);
    CHECK(io_fake.n_completed <= n_extents - n_touching, "%d reads of %d parts, %d touch", io_fake.n_completed, n_extents, n_touching);
    fm_store_close(&store);
}

/* A staging buffer holds the aligned ranges of its worst key: an extent of 2 bytes may need two blocks. */
static void staging_bytes(void) {
    const fm_file files[] = {{.path = (char *)"a", .fd = -1, .direct_fd = 0, .size = 100000, .alignment = 4096},
                             {.path = (char *)"b", .fd = -1, .direct_fd = -1, .size = 100000, .alignment = 1},
                             {.path = (char *)"c", .fd = -1, .direct_fd = 0, .size = 100000, .alignment = 65536}};
    const struct {
        fm_extent extents[2];
        size_t bytes;
    } cases[] = {
        {{{4095, 2, 0}}, 8192}, {{{4096, 4096, 0}}, 4096}, {{{4095, 2, 0}, {50000, 4096, 0}}, 16384},
        {{{4095, 2, 1}}, 4096}, {{{4095, 5000, 2}}, 8192}, {{{99999, 1, 0}}, 4096},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const fm_store_config c = {.n_layers = 1, .n_experts = 1, .n_extents = 2, .extents = cases[i].extents, .files = files};
        size_t bytes = 0;
        MUST(fm_store_staging_bytes(&c, &bytes, err));
        CHECK(bytes == cases[i].bytes, "case %zu: %zu bytes, expected %zu", i, bytes, cases[i].bytes);
    }
}

/* What open must refuse, and what it says. */
static void bad_configs(const fixture *x) {
    const char *says[] = {"0 slots", "0 staging", "multiple of 64", "layers", "but the file has", "no I/O back end", NULL};
    for (int i = 0; says[i]; i++) {
        fm_store_config c = fixture_config(x, 4, 2);
        fm_extent extents[N_KEYS * N_EXTENTS];
        fm_store *store = (fm_store *)&c;
        fm_error e = {0};
        memcpy(extents, x->extents, sizeof extents);
        if (i == 0) c.n_slots = 0;
        if (i == 1) c.n_staging = 0;
        if (i == 2) c.slot_bytes++;
        if (i == 3) c.n_layers = 0;
        if (i == 4) extents[N_EXTENTS].offset = x->files[extents[N_EXTENTS].file].size - extents[N_EXTENTS].bytes + 1;
        if (i == 4) c.extents = extents;
        if (i == 5) c.io = NULL, c.io_name = "aio";
        int rc = fm_store_open(&store, &c, &e);
        CHECK(rc == (i == 4 ? FM_EFORMAT : FM_EINVAL) && !store && strstr(e.message, says[i]), "config %d: %d, \"%s\"", i, rc, e.message);
    }
}

static int n_lines;
static char line_seen[1200];

static void keep_line(void *user, int level, const char *line) {
    (void)user;
    n_lines += level == FM_LOG_WARNING;
    snprintf(line_seen, sizeof line_seen, "%s", line);
}

/* Files that refuse direct I/O are read all the same, and one line names one of them. */
static void refused_direct(const fixture *x) {
    fm_store *store;
    fm_store_config config = fixture_config(x, 9, 3);
    config.log = keep_line;
    n_lines = 0;
    MUST(fm_store_open(&store, &config, err));
    CHECK(n_lines == !x->direct, "%d lines, the last: %s", n_lines, line_seen);
    CHECK(x->direct || (strstr(line_seen, "part-") && strstr(line_seen, "direct I/O is refused")), "%s", line_seen);
    CHECK(!strcmp(strchr(fm_store_io_name(store), ' '), x->direct ? " direct" : " buffered"), "%s", fm_store_io_name(store));
    fm_store_close(&store);
}

int main(void) {
    staging_bytes();
    const fm_policy_ops *policies[] = {&fm_policy_lru, &fm_policy_lfu};
    for (int direct = 0; direct < 2; direct++) {
        fixture x;
        fixture_open(&x, direct, 3);
        if (direct && !x.direct) break;
        refused_direct(&x);
        hits_first(&x);
        last_one_first(&x);
        all_staging_held(&x);
        release_starts_reads(&x);
        window(&x);
        invalid(&x);
        ready(&x);
        cancel_and_discard(&x);
        touching_parts(&x);
        bad_configs(&x);
        for (int p = 0; p < 2; p++) {
            hits_are_pinned_first(&x, policies[p]);
            free_slots_first(&x, policies[p]);
            for (uint64_t seed = 0; seed < 20; seed++) restless(&x, policies[p], seed);
        }
        fixture_close(&x);
    }
    return TEST_END();
}
