/* tests/replay/replay.c: replaying: bounds that hold for every trace, the optimum against trying everything, and numbers worked out by hand. */
#include "measure/replay.h"

#include "traces.h"

/* Hits of one policy (NULL: the optimum of the marks) over the accesses. */
static fm_replay_counts run(const fm_accesses *a, const fm_policy_ops *ops, int n_slots, int marks) {
    static uint64_t by_layer[64];
    fm_replay_counts counts = {.hits_by_layer = memset(by_layer, 0, sizeof by_layer)};
    fm_policy *policy = NULL;
    if (ops)
        MUST(ops->open(&policy, n_slots, a->n_layers, a->n_experts, err));
    else
        MUST(fm_belady_open(&policy, a, n_slots, marks, err));
    MUST(fm_replay_cache(a, policy, n_slots, &counts, err));
    policy->ops->close(&policy);
    return counts;
}

/* No policy beats the optimum of a part, in any part; what is all in memory is a hit from the second use on. */
static void bounds(const made_trace *m, int batch, uint64_t seed) {
    fm_trace t = trace_make(m, seed);
    fm_accesses a;
    int total = m->n_layers * m->n_experts;
    MUST(fm_accesses_open(&a, &t, batch, err));
    for (int slots = m->top_k; slots <= total; slots += 1 + slots / 3) {
        for (int part = 0; part < FM_REPLAY_PARTS; part++) {
            uint64_t most = run(&a, NULL, slots, 1 << part).hits[part];
            for (int p = 0; fm_policy_at(p); p++) {
                uint64_t hits = run(&a, fm_policy_at(p), slots, 0).hits[part];
                CHECK(hits <= most, "seed %llu, %d slots, part %d: %s has %llu hits, the optimum %llu", (unsigned long long)seed, slots, part,
                      fm_policy_at(p)->name, (unsigned long long)hits, (unsigned long long)most);
            }
        }
    }
    bool *used = calloc((size_t)total, 1);
    uint64_t first = 0;
    for (size_t i = 0; i < a.n; i++) {
        first += !used[a.key[i]];
        used[a.key[i]] = true;
    }
    for (int p = -1; p < 0 || fm_policy_at(p); p++) {
        fm_replay_counts c = run(&a, p < 0 ? NULL : fm_policy_at(p), total, 1 << FM_REPLAY_DECODED);
        CHECK(c.hits[FM_REPLAY_PROMPT] + c.hits[FM_REPLAY_DECODED] == a.n - first, "policy %d: a cache for all has other misses than first uses", p);
    }
    free(used);
    fm_accesses_close(&a);
    trace_free(&t);
}

/* ---- the optimum by trying everything ---- */

typedef struct search {
    const fm_accesses *a;
    int n_slots, marks;
    int8_t (*best)[256]; /* [n_requests][set of experts that are here], -1: not known */
} search;

/* The most marked hits from request r on, with a set of at most n_slots experts in memory. */
static int most_hits(search *s, size_t r, unsigned set) {
    if (r == s->a->n_requests) return 0;
    int8_t *best = &s->best[r][set];
    if (*best >= 0) return *best;
    unsigned wanted = 0, after;
    int hits = 0, most = 0;
    for (size_t i = s->a->start[r]; i < s->a->start[r + 1]; i++) {
        wanted |= 1u << s->a->key[i];
        hits += (set >> s->a->key[i] & 1) && s->a->mark[i] & s->marks;
    }
    unsigned others = set & ~wanted;
    for (unsigned kept = others;; kept = (kept - 1) & others) { /* all subsets */
        after = kept | wanted;
        if (__builtin_popcount(after) <= s->n_slots) {
            int x = most_hits(s, r + 1, after);
            most = x > most ? x : most;
        }
        if (!kept) break;
    }
    return *best = (int8_t)(hits + most);
}

static void optimum(uint64_t seed) {
    const made_trace m = {.n_layers = 2, .n_experts = 4, .top_k = 2, .n_tokens = 18, .n_prompt = 2, .n_sequence = 6, .exponent = 0.5, .dense_layer = -1};
    fm_trace t = trace_make(&m, seed);
    fm_accesses a;
    MUST(fm_accesses_open(&a, &t, 2, err));
    for (int slots = 4; slots <= 7; slots++) { /* the union of a prompt of two tokens fits */
        for (int part = 0; part < FM_REPLAY_PARTS; part++) {
            search s = {.a = &a, .n_slots = slots, .marks = 1 << part, .best = malloc(a.n_requests * sizeof *s.best)};
            memset(s.best, -1, a.n_requests * sizeof *s.best);
            int most = most_hits(&s, 0, 0);
            uint64_t belady = run(&a, NULL, slots, 1 << part).hits[part];
            CHECK(belady == (uint64_t)most, "seed %llu, %d slots, part %d: %llu hits, but %d are possible", (unsigned long long)seed, slots, part,
                  (unsigned long long)belady, most);
            free(s.best);
        }
    }
    fm_accesses_close(&a);
    trace_free(&t);
}

/* ---- by hand ---- */

/* Tokens that use experts 0 … of each layer in turn: token i has expert i % cycle. */
static fm_trace cyclic(int n_layers, int cycle, int n_tokens) {
    const made_trace m = {.n_layers = n_layers, .n_experts = cycle, .top_k = 1, .n_tokens = n_tokens, .n_sequence = n_tokens, .dense_layer = -1};
    fm_trace t = trace_empty(&m);
    t.kind[0] = FM_TRACE_FIRST;
    for (int i = 0; i < n_tokens * n_layers; i++) t.experts[i] = (int16_t)(i / n_layers % cycle);
    return t;
}

/* Least recently used finds nothing when what comes round is one more than fits; the optimum finds all but one in each round. */
static void cycles(void) {
    fm_trace t = cyclic(3, 4, 400);
    fm_accesses a;
    MUST(fm_accesses_open(&a, &t, 1, err));
    CHECK(run(&a, &fm_policy_lru, 11, 0).hits[FM_REPLAY_DECODED] == 0, "11 slots for a round of 12");
    CHECK(run(&a, &fm_policy_lru, 12, 0).hits[FM_REPLAY_DECODED] == 1200 - 12, "12 slots for a round of 12");
    uint64_t most = run(&a, NULL, 11, 1 << FM_REPLAY_DECODED).hits[FM_REPLAY_DECODED];
    /* Between two misses of the optimum lie 11 accesses at most: one less than fits, and the one that is let go. */
    CHECK(most >= (1200 - 12) * 10 / 11 && most < 1200 - 12, "the optimum has %llu hits", (unsigned long long)most);
    fm_accesses_close(&a);
    trace_free(&t);
}

/* A request of a prompt that fills all slots leaves its last experts behind, whoever decides. */
static void too_small(void) {
    const made_trace m = {.n_layers = 1, .n_experts = 8, .top_k = 2, .n_tokens = 5, .n_sequence = 5, .n_prompt = 4, .dense_layer = -1};
    const int16_t experts[] = {0, 1, 2, 3, 4, 5, 6, 7, 5, 7};
    fm_trace t = trace_empty(&m);
    fm_accesses a;
    for (int i = 0; i < 10; i++) t.experts[i] = experts[i];
    for (int i = 0; i < 4; i++) t.kind[i] = FM_TRACE_PROMPT | (i == 0 ? FM_TRACE_FIRST : 0);
    MUST(fm_accesses_open(&a, &t, 4, err));
    CHECK(a.n_requests == 2 && a.n == 10, "%zu requests of %zu experts: 8 for the prompt, 2 for a token", a.n_requests, a.n);
    CHECK(run(&a, &fm_policy_lru, 2, 0).hits[FM_REPLAY_DECODED] == 1, "6 and 7 are left, 5 and 7 asked for");
    CHECK(run(&a, NULL, 2, 1 << FM_REPLAY_DECODED).hits[FM_REPLAY_DECODED] == 1, "the optimum has no choice");
    CHECK(run(&a, NULL, 3, 1 << FM_REPLAY_DECODED).hits[FM_REPLAY_DECODED] == 2, "5, 6 and 7 are left");
    fm_accesses_close(&a);
    trace_free(&t);
}

static bool near(double x, double y) { return fabs(x - y) < 1e-9; }

/* Three decoded tokens behind a prompt of one, 3 experts of 8, one layer of two with experts. */
static void numbers(void) {
    const made_trace m = {.n_layers = 2, .n_experts = 8, .top_k = 3, .n_tokens = 4, .n_prompt = 1, .n_sequence = 4, .dense_layer = 0};
    const int16_t experts[4][3] = {{0, 1, 2}, {1, 2, 3}, {1, 4, 5}, {1, 4, 6}}, predicted[2][3] = {{1, 4, 7}, {4, 5, 6}};
    fm_trace t = trace_empty(&m);
    fm_replay *r = NULL;
    char path[64];
    for (int i = 0; i < 4; i++) {
        for (int k = 0; k < 3; k++) t.experts[(2 * i + 1) * 3 + k] = experts[i][k];
        for (int k = 0; k < 3 && i >= 2; k++) t.predicted[(2 * i + 1) * 3 + k] = predicted[i - 2][k];
        t.kind[i] = i == 0 ? FM_TRACE_FIRST | FM_TRACE_PROMPT : 0;
    }
    trace_write(&t, trace_path(path, "numbers"));
    const int slots[] = {8, 3, 4, 3};
    const double shares[] = {0.5, 0.01};
    fm_replay_options o = FM_REPLAY_OPTIONS_INIT;
    o.slots = slots;
    o.n_slots = 4;
    o.shares = shares;
    o.n_shares = 2;
    MUST(fm_replay_open(&r, path, &o, err));
    CHECK(r->n_sequences == 1 && r->n_prompt == 1 && r->n_decoded == 3 && r->n_experts_total == 8 && r->n_moe_layers == 1, "the trace");
    CHECK(r->n_requests[FM_REPLAY_PROMPT] == 3 && r->n_requests[FM_REPLAY_DECODED] == 9 && r->n_requests[FM_REPLAY_LATER] == 6, "experts asked for");
    CHECK(r->n_requests_by_layer[0] == 0 && r->n_requests_by_layer[1] == 9, "by layer");
    CHECK(r->n_budgets == 3 && r->budgets[0].n_slots == 3 && r->budgets[1].n_slots == 4 && r->budgets[2].n_slots == 8 && near(r->budgets[1].share, 0.5),
          "budgets: 3, 4, 8 once each");
    /* common with the token before: 2, 1, 2 of 3; two before: 1, 1; four before: none */
    CHECK(near(r->overlaps[0], 5.0 / 9) && near(r->overlaps[1], 2.0 / 6) && isnan(r->overlaps[2]), "overlaps %g %g %g", r->overlaps[0], r->overlaps[1],
          r->overlaps[2]);
    /* two decoded tokens together: 1 2 3 4 5 and 1 4 5 6; four: none */
    CHECK(near(r->unions[0], 9.0 / 6) && isnan(r->unions[1]) && isnan(r->unions[2]), "unions %g %g", r->unions[0], r->unions[1]);
    CHECK(near(r->recall, 4.0 / 6) && near(r->recall_previous, 3.0 / 6), "recall %g, of the token before %g", r->recall, r->recall_previous);
    for (int b = 0; b < 3; b++) CHECK(!strcmp(r->budgets[b].rows[0].policy, "belady") && !strcmp(r->budgets[b].rows[1].policy, fm_policy_at(0)->name), "rows");
    const fm_replay_row *three = &r->budgets[0].rows[0], *all = &r->budgets[2].rows[1];
    CHECK(three->hits[FM_REPLAY_DECODED] == 5 && three->hits_by_layer[1] == 5 && three->n_misses_with_forecast == 3 && three->n_predicted_misses == 2,
          "3 slots hold just the token before: %llu hits", (unsigned long long)three->hits[FM_REPLAY_DECODED]);
    CHECK(all->hits[FM_REPLAY_DECODED] == 5 && all->hits[FM_REPLAY_PROMPT] == 0, "0 to 6 are first uses");
    /* the first half's decoded token has 1, 2, 3: with all 8 for good those are hits, and so are the others */
    CHECK(r->budgets[2].static_hits == 6 && r->budgets[1].static_hits == 2 && r->budgets[0].static_hits == 0, "static: %llu %llu",
          (unsigned long long)r->budgets[2].static_hits, (unsigned long long)r->budgets[1].static_hits);
    fm_replay_close(&r);
    CHECK(!r, "closing sets NULL");
    unlink(path);
    trace_free(&t);
}

static void bad_options(void) {
    fm_trace t = cyclic(2, 4, 10);
    char path[64];
    trace_write(&t, trace_path(path, "options"));
    const int few[] = {0}, many[] = {9};
    const double nothing[] = {0}, above[] = {1.01};
    const fm_replay_options cases[] = {{.size = sizeof *cases, .slots = few, .n_slots = 1},
                                       {.size = sizeof *cases, .slots = many, .n_slots = 1},
                                       {.size = sizeof *cases, .shares = nothing, .n_shares = 1},
                                       {.size = sizeof *cases, .shares = above, .n_shares = 1},
                                       {.size = sizeof *cases, .batch = -1}};
    for (int i = 0; i < 5; i++) {
        fm_replay *r = NULL;
        fm_error err = {0};
        CHECK(fm_replay_open(&r, path, &cases[i], &err) == FM_EINVAL && !r && err.message[0], "case %d: %s", i, err.message);
    }
    unlink(path);
    trace_free(&t);
}

int main(void) {
    for (uint64_t seed = 1; seed <= 12; seed++) {
        bounds(
            &(made_trace){
                .n_layers = 3, .n_experts = 16, .top_k = 3, .n_tokens = 120, .n_prompt = 6, .n_sequence = 40, .exponent = 1, .reuse = 0.3, .dense_layer = 1},
            8, seed);
        bounds(&(made_trace){.n_layers = 4, .n_experts = 24, .top_k = 4, .n_tokens = 200, .n_prompt = 30, .n_sequence = 70, .exponent = 0.3, .dense_layer = -1},
               512, seed);
        bounds(&(made_trace){.n_layers = 1, .n_experts = 10, .top_k = 2, .n_tokens = 150, .n_prompt = 1, .n_sequence = 150, .reuse = 0.5, .dense_layer = -1}, 1,
               seed);
        optimum(seed);
    }
    cycles();
    too_small();
    numbers();
    bad_options();
    return TEST_END();
}
