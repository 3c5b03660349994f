/* tests/experts/script.h: a made-up run over a store: requests as an engine makes them, everything handed out checked. */
#ifndef FM_TESTS_EXPERTS_SCRIPT_H
#define FM_TESTS_EXPERTS_SCRIPT_H

#include "fixture.h"

#define MAX_HELD 4

enum { IN_ANY_ORDER, IN_REQUEST_ORDER, IN_RANDOM_ORDER };

typedef struct script {
    const fixture *fixture;
    fm_store *store;
    uint64_t seed;
    int most_held;               /* leases held at once: fewer than staging buffers, at most MAX_HELD */
    int cancel_percent;          /* of requests given up half way */
    int discard_percent;         /* of leases */
    int guess_percent;           /* of requests after which the store is advised of what will be asked for next, right or wrong */
    int next[N_EXPERTS], n_next; /* what script_run will ask for next; 0: not chosen yet */
    /* counted */
    uint64_t n_taken, n_fresh, fresh_bytes;
    int n_errors;
    fm_error error; /* the last */
} script;

static inline bool script_percent(script *s, int p) { return (int)(test_random(&s->seed) % 100) < p; }

static inline void script_give_back(script *s, fm_lease *lease, bool discard) {
    fixture_consume(s->fixture, lease); /* once more: nothing has changed while it was held */
    if (discard)
        fm_store_discard(s->store, lease);
    else
        fm_store_release(s->store, lease);
}

static inline int script_position(const int *keys, int n, int key) {
    for (int i = 0; i < n; i++) {
        if (keys[i] == key) return i;
    }
    return -1;
}

/* A lease is of a requested key that was not handed out before, in a slot that no other lease has. */
static inline void script_check_lease(const fm_lease *held, int n_held, const int *keys, int n, bool *taken) {
    const fm_lease *lease = &held[n_held];
    int at = script_position(keys, n, lease->key);
    CHECK(at >= 0 && !taken[at], "key %d is handed out, requested at %d", lease->key, at);
    if (at >= 0) taken[at] = true;
    for (int i = 0; i < n_held; i++) {
        CHECK(held[i].slot != lease->slot && held[i].data != lease->data, "keys %d and %d share slot %d", held[i].key, lease->key, lease->slot);
    }
}

static inline int script_fail(script *s, fm_lease *held, int n_held, int code) {
    for (int i = 0; i < n_held; i++) script_give_back(s, &held[i], false);
    s->n_errors++;
    CHECK(code == s->error.code && s->error.message[0], "code %d and %d, message \"%s\"", code, s->error.code, s->error.message);
    fm_lease lease;
    CHECK(fm_store_next(s->store, FM_ANY_KEY, &lease, NULL) == 0, "something is still requested after an error");
    return code;
}

/* Advises the next request's keys, or some of another layer's. */
static inline void script_guess(script *s) {
    int keys[N_EXPERTS], n = 1 + (int)(test_random(&s->seed) % N_EXPERTS);
    if (!script_percent(s, s->guess_percent)) return;
    fixture_choose(&s->seed, keys, n);
    bool right = script_percent(s, 70) && s->n_next;
    fm_store_prefetch(s->store, right ? s->next : keys, right ? s->n_next : n);
}

/* Requests n distinct keys and takes each once, in one of the orders. Returns 0, or the error after which it gave up (all leases given back). */
static inline int script_layer(script *s, const int *keys, int n, int order) {
    fm_lease held[MAX_HELD];
    bool taken[N_KEYS] = {false};
    int asked = 0, done = 0;
    s->error = (fm_error){0};
    while (done < n) {
        int n_held = 0, rc = asked < n ? fm_store_request(s->store, keys + asked, n - asked, &s->error) : 0;
        if (rc < 0) return script_fail(s, held, 0, rc);
        CHECK(rc > 0 || asked > done, "request takes nothing although nothing is outstanding");
        asked += rc;
        s->n_taken += (uint64_t)rc;
        script_guess(s);
        do {
            int key = FM_ANY_KEY;
            if (order == IN_REQUEST_ORDER) key = keys[done];
            for (int skip = order == IN_RANDOM_ORDER ? (int)(test_random(&s->seed) % (uint64_t)(asked - done)) : -1, i = 0; skip >= 0; i++) {
                if (!taken[i] && skip-- == 0) key = keys[i];
            }
            rc = fm_store_next(s->store, key, &held[n_held], &s->error);
            if (rc < 0) return script_fail(s, held, n_held, rc);
            CHECK(rc == 1 && (key == FM_ANY_KEY || held[n_held].key == key), "next of key %d gives %d", key, rc);
            if (rc != 1) return 0;
            script_check_lease(held, n_held, keys, asked, taken);
            fixture_consume(s->fixture, &held[n_held]);
            s->n_fresh += held[n_held].fresh;
            s->fresh_bytes += held[n_held].fresh ? fixture_key_bytes(s->fixture, held[n_held].key) : 0;
            n_held++;
            done++;
        } while (n_held < s->most_held && done < asked && (order == IN_ANY_ORDER && fm_store_ready(s->store)));
        bool cancel = script_percent(s, s->cancel_percent);
        if (cancel) fm_store_cancel(s->store);
        for (int i = 0; i < n_held; i++) script_give_back(s, &held[i], script_percent(s, s->discard_percent));
        if (cancel) return 0;
    }
    CHECK(fm_store_next(s->store, FM_ANY_KEY, &held[0], NULL) == 0, "something is left after %d keys", n);
    return 0;
}

/* n_steps random layers in random orders; goes on after errors, which it counts. */
static inline void script_run(script *s, int n_steps) {
    for (int i = 0; i <= n_steps; i++) { /* the first only chooses */
        int keys[N_EXPERTS], n = s->n_next, order = (int)(test_random(&s->seed) % 3);
        memcpy(keys, s->next, sizeof keys);
        s->n_next = 1 + (int)(test_random(&s->seed) % N_EXPERTS);
        fixture_choose(&s->seed, s->next, s->n_next);
        if (n) script_layer(s, keys, n, order);
    }
}

/* Takes every key there is once, in ascending order; checks that it works. */
static inline void script_sweep(script *s) {
    int keys[N_KEYS - N_EXPERTS];
    for (int i = 0; i < N_KEYS - N_EXPERTS; i++) keys[i] = fixture_key(i);
    int rc = script_layer(s, keys, N_KEYS - N_EXPERTS, IN_REQUEST_ORDER);
    CHECK(rc == 0, "a pass over all experts: %s", s->error.message);
}

#endif
