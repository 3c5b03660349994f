/* tests/experts/store.c: the store with each policy, each I/O back end, direct and buffered, from one slot to room for all: every expert that is handed out is
 * whole, once, in a slot of its own; the statistics are exact. */
#include "script.h"

typedef struct back_end {
    const char *name;
    const fm_io_ops *io;
    io_fake_control control;
} back_end;

static const back_end back_ends[] = {
    {"in order", &io_fake_ops, {.fail_from = -1, .fail_submit = -1, .fail_reap = -1}},
    {"shuffled", &io_fake_ops, {.shuffle = true, .delay_percent = 50, .fail_from = -1, .fail_submit = -1, .fail_reap = -1}},
    {"short", &io_fake_ops, {.shuffle = true, .delay_percent = 20, .short_percent = 40, .fail_from = -1, .fail_submit = -1, .fail_reap = -1}},
    {"pread", &fm_io_pread, {0}},
#ifdef FM_HAVE_URING
    {"uring", &fm_io_uring, {0}},
#endif
};

static void one(const fixture *x, const back_end *b, const fm_policy_ops *policy, int n_slots, int n_staging, int n_guesses) {
    fm_store_config config = fixture_config(x, n_slots, n_staging);
    config.n_guesses = n_guesses;
    config.policy = policy;
    config.io = b->io;
    uint32_t alignment = io_fake.alignment;
    io_fake = b->control;
    io_fake.alignment = alignment;
    fm_error e;
    script s = {.fixture = x, .seed = (uint64_t)(n_slots * 100 + n_staging), .most_held = n_staging < MAX_HELD ? n_staging : MAX_HELD, .guess_percent = 80};
    int rc = fm_store_open(&s.store, &config, &e);
    if (rc == FM_EUNSUPPORTED) {
        fprintf(stderr, "left out: %s: %s\n", b->name, e.message);
        return;
    }
    CHECK(rc == 0, "%s, %d slots, %d buffers: %s", b->name, n_slots, n_staging, e.message);
    if (rc < 0) return;
    script_run(&s, 12);
    script_sweep(&s);
    fm_store_stats stats;
    fm_store_stats_read(s.store, &stats);
    CHECK(s.n_errors == 0, "%s: %s", b->name, s.error.message);
    CHECK(stats.n_requests == s.n_taken, "%llu requests counted, %llu made", (unsigned long long)stats.n_requests, (unsigned long long)s.n_taken);
    CHECK(stats.n_hits == s.n_taken - s.n_fresh, "%llu hits counted of %llu", (unsigned long long)stats.n_hits, (unsigned long long)(s.n_taken - s.n_fresh));
    if (b->io == &io_fake_ops) {
        CHECK(stats.disk_bytes == io_fake.bytes, "%llu bytes counted, %llu read", (unsigned long long)stats.disk_bytes, (unsigned long long)io_fake.bytes);
        CHECK(stats.n_reads == (uint64_t)io_fake.n_completed, "%llu reads counted, %d made", (unsigned long long)stats.n_reads, io_fake.n_completed);
        CHECK(io_fake.n_misaligned == 0, "%d direct reads are not aligned", io_fake.n_misaligned);
    }
    CHECK(stats.n_guesses_used <= stats.n_guessed && (!stats.n_guessed || n_guesses), "%llu of %llu guesses used, %d slots for them",
          (unsigned long long)stats.n_guesses_used, (unsigned long long)stats.n_guessed, n_guesses);
    if (n_guesses > 2 && n_slots < N_KEYS / 2) CHECK(stats.n_guesses_used > 0, "no guess of %llu is used", (unsigned long long)stats.n_guessed);
    /* A buffered key costs its bytes, and again if its staging buffer was given to one that was waited for before it. */
    if (!x->direct)
        CHECK(stats.disk_bytes >= s.fresh_bytes, "%llu bytes read for %llu", (unsigned long long)stats.disk_bytes, (unsigned long long)s.fresh_bytes);
    /* The random part makes some 80 requests for 36 keys, the pass over all one each. */
    if (n_slots >= N_KEYS - N_EXPERTS && !n_guesses)
        CHECK(s.n_fresh == N_KEYS - N_EXPERTS, "%llu keys read into %d slots", (unsigned long long)s.n_fresh, n_slots);
    fm_store_close(&s.store);
    CHECK(s.store == NULL && io_fake.n_open == 0, "close leaves something");
}

int main(void) {
    const int slots[] = {1, 2, 5, 12, 30, 36, 50}, buffers[] = {1, 2, 4, 12};
    const fm_policy_ops *policies[] = {&fm_policy_lru, &fm_policy_lfu};
    for (int kind = 0; kind < 4; kind++) {
        fixture x;
        bool direct = kind & 1, in_place = kind & 2;
        fixture_open_as(&x, in_place, direct, 7);
        if (direct && !x.direct) fprintf(stderr, "left out: this file system has no direct reads\n");
        for (size_t b = 0; b < sizeof back_ends / sizeof *back_ends && x.direct == direct; b++) {
            for (size_t i = 0; i < sizeof slots / sizeof *slots; i++) {
                for (size_t j = 0; j < sizeof buffers / sizeof *buffers; j++) {
                    one(&x, &back_ends[b], policies[(i + j + b) % 2], slots[i], buffers[j], 0);
                    if (i < 3) one(&x, &back_ends[b], policies[(i + j + b + 1) % 2], slots[i], buffers[j], 0);
                    if (in_place && i > 0) one(&x, &back_ends[b], policies[(i + j + b) % 2], slots[i], buffers[j], 1);
                    if (in_place && i > 2) one(&x, &back_ends[b], policies[(i + j + b + 1) % 2], slots[i], buffers[j], 7);
                }
            }
        }
        fixture_close(&x);
    }
    return TEST_END();
}
