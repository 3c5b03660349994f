/* tests/experts/faults.c: every read of a run failed once in turn, in every way a read can fail: the call that notices says which file and place, nothing is
 * left requested, and the store works on. */
#include <errno.h>

#include "script.h"

#define N_STEPS 6

typedef struct fault {
    const char *name;
    int result, n;
    bool is_error;
    const char *says; /* a part of the message */
} fault;

static const fault faults[] = {
    {"EIO", -EIO, 1, true, "Input/output error"},
    {"end of file", 0, 1, true, "end after"},
    {"EINVAL twice", -EINVAL, 2, true, "Invalid argument"},
    {"EINTR", -EINTR, 3, false, NULL},
    {"EAGAIN", -EAGAIN, 20, false, NULL},
    {"EAGAIN for ever", -EAGAIN, 1000, true, "temporarily unavailable"},
};

static script start(const fixture *x, fm_store_config *config) {
    config->n_guesses = x->in_place ? 3 : 0;
    script s = {.fixture = x, .seed = 5, .most_held = 2, .guess_percent = x->in_place ? 80 : 0};
    MUST(fm_store_open(&s.store, config, err));
    return s;
}

static int count_reads(const fixture *x, bool shuffle) {
    fm_store_config config = fixture_config(x, 9, 3);
    io_fake.shuffle = shuffle;
    script s = start(x, &config);
    script_run(&s, N_STEPS);
    CHECK(s.n_errors == 0, "%s", s.error.message);
    fm_store_close(&s.store);
    return io_fake.n_completed;
}

/* Runs with the n-th completion failed. */
static void one(const fixture *x, const fault *f, int n, bool shuffle) {
    fm_store_config config = fixture_config(x, 9, 3);
    io_fake.shuffle = shuffle;
    io_fake.fail_from = n;
    io_fake.fail_n = f->n;
    io_fake.fail_result = f->result;
    script s = start(x, &config);
    script_run(&s, N_STEPS);
    io_fake.fail_from = -1;
    if (n % 8)
        script_run(&s, 1);
    else
        script_sweep(&s);
    /* A guess that cannot be read is no error until somebody asks for it. */
    CHECK((s.n_errors > 0) == f->is_error || (x->in_place && !s.n_errors), "%s of read %d: %d errors", f->name, n, s.n_errors);
    CHECK(!f->is_error || s.n_errors == 1 || f->n > 1 || x->in_place, "%s of read %d: %d errors", f->name, n, s.n_errors);
    fm_store_stats stats;
    fm_store_stats_read(s.store, &stats);
    CHECK(stats.disk_bytes == io_fake.bytes, "%llu bytes counted, %llu read", (unsigned long long)stats.disk_bytes, (unsigned long long)io_fake.bytes);
    fm_store_close(&s.store);
}

/* The first error's message. */
static void message(const fixture *x, const fault *f) {
    fm_store_config config = fixture_config(x, 9, 3);
    io_fake.fail_from = 0;
    io_fake.fail_n = f->n;
    io_fake.fail_result = f->result;
    script s = start(x, &config);
    int key = fixture_key(5), rc = script_layer(&s, &key, 1, IN_ANY_ORDER);
    char place[64];
    const fm_extent *e = &x->extents[key * N_EXTENTS];
    snprintf(place, sizeof place, "at %llu ", (unsigned long long)(x->direct ? e->offset / x->alignment * x->alignment : e->offset));
    CHECK(rc == FM_EIO && strstr(s.error.message, f->says), "%s: %d, \"%s\"", f->name, rc, s.error.message);
    CHECK(strstr(s.error.message, x->files[e->file].path) && strstr(s.error.message, place), "no file or place (%s) in \"%s\"", place, s.error.message);
    CHECK(strstr(s.error.message, "expert 5 of layer 0"), "which expert? \"%s\"", s.error.message);
    fm_store_close(&s.store);
}

/* A back end that refuses to take reads, or to give them back. */
static void refused(const fixture *x, bool submit, int n) {
    fm_store_config config = fixture_config(x, 9, 3);
    if (submit)
        io_fake.fail_submit = n;
    else
        io_fake.fail_reap = n;
    script s = start(x, &config);
    s.guess_percent = 0;
    int key = fixture_key(1), rc = script_layer(&s, &key, 1, IN_ANY_ORDER);
    for (int i = 0; i < 30 && rc == 0; i++) {
        key = fixture_key(i);
        rc = script_layer(&s, &key, 1, IN_ANY_ORDER);
    }
    CHECK(rc == FM_EIO && strstr(s.error.message, "the fake refuses"), "%d, \"%s\"", rc, s.error.message);
    rc = script_layer(&s, &key, 1, IN_ANY_ORDER);
    CHECK(rc == FM_EIO && strstr(s.error.message, "before"), "after that: %d, \"%s\"", rc, s.error.message);
    fm_store_cancel(s.store);
    fm_store_close(&s.store);
    CHECK(io_fake.n_open == 0, "the back end is not closed");
}

/* A lease that was handed out before the error stays whole, and what was released stays resident. */
static void leases_survive(const fixture *x) {
    fm_store_config config = fixture_config(x, 9, 3);
    script s = start(x, &config);
    int first = fixture_key(0), second = fixture_key(1), third = fixture_key(2);
    fm_lease a, b, c;
    MUST(fm_store_request(s.store, &first, 1, err));
    MUST(fm_store_next(s.store, FM_ANY_KEY, &a, err));
    fixture_consume(x, &a);
    fm_store_release(s.store, &a);
    MUST(fm_store_request(s.store, &second, 1, err));
    MUST(fm_store_next(s.store, FM_ANY_KEY, &b, err));
    io_fake.fail_from = io_fake.n_completed;
    io_fake.fail_n = 1;
    io_fake.fail_result = -EIO;
    const int more[] = {third, first};
    fm_error e = {0};
    CHECK(fm_store_request(s.store, more, 2, &e) == 2, "%s", e.message);
    int rc = fm_store_next(s.store, third, &c, &e);
    CHECK(rc == FM_EIO && e.code == FM_EIO, "%d, %s", rc, e.message);
    fixture_consume(x, &b);
    fm_store_release(s.store, &b);
    const int all[] = {first, second, third};
    fm_store_stats before, after;
    fm_store_stats_read(s.store, &before);
    CHECK(script_layer(&s, all, 3, IN_ANY_ORDER) == 0, "%s", s.error.message);
    fm_store_stats_read(s.store, &after);
    CHECK(after.n_hits - before.n_hits == 2, "%llu hits of the two that were whole", (unsigned long long)(after.n_hits - before.n_hits));
    fm_store_close(&s.store);
}

int main(void) {
    for (int kind = 0; kind < 4; kind++) {
        fixture x;
        bool direct = kind & 1, in_place = kind & 2;
        fixture_open_as(&x, in_place, direct, 11);
        if (direct && !x.direct) continue;
        for (int shuffle = 0; shuffle < 2; shuffle++) {
            int n_reads = count_reads(&x, shuffle);
            CHECK(n_reads > (in_place ? 20 : 60), "the run reads %d times", n_reads);
            for (size_t f = 0; f < sizeof faults / sizeof *faults; f++) {
                for (int n = 0; n<n_reads; n += faults[f].n> 3 ? 7 : 1) one(&x, &faults[f], n, shuffle);
            }
        }
        for (size_t f = 0; f < sizeof faults / sizeof *faults; f++) {
            if (faults[f].is_error) message(&x, &faults[f]);
        }
        for (int n = 0; n < 6; n++) {
            refused(&x, true, n);
            refused(&x, false, n);
        }
        leases_survive(&x);
        fixture_close(&x);
    }
    return TEST_END();
}
