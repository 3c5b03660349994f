/* tests/sessions/edits.c: after any edit of a conversation the logits equal those of a fresh computation, bit for bit: random edits (cut, change, append, another
 * conversation) at borders and off them, with snapshots in memory, for each kind of KV cache. edits DIRECTORY VOCAB SEEDS */
#include "engine/engine.h"
#include "test.h"

#define CONTEXT 2048
#define MAX_TEXT 900
#define N_STEPS 10

static int vocab;

typedef struct conversation {
    int32_t ids[CONTEXT];
    int n;
    int borders[64];
    int n_borders;
} conversation;

static void append(conversation *c, uint64_t *random, int n) {
    for (int i = 0; i < n && c->n < MAX_TEXT; i++) c->ids[c->n++] = (int32_t)(test_random(random) % (uint64_t)vocab);
    if (c->n_borders < 64 && test_random(random) % 3) c->borders[c->n_borders++] = c->n;
}

static void cut(conversation *c, int n) {
    c->n = n;
    while (c->n_borders && c->borders[c->n_borders - 1] > n) c->n_borders--;
}

/* Truncate, change a token, append, or cut back to a border; then something new, so that a last token is left. */
static void edit(conversation *c, uint64_t *random) {
    uint64_t kind = test_random(random) % 5;
    if (kind == 0) cut(c, (int)(test_random(random) % (uint64_t)(c->n + 1)));
    if (kind == 1 && c->n_borders) cut(c, c->borders[test_random(random) % (uint64_t)c->n_borders]);
    if (kind == 2 && c->n) {
        int at = (int)(test_random(random) % (uint64_t)c->n);
        c->ids[at] = (c->ids[at] + 1) % vocab;
    }
    int sizes[] = {1, 3, 20, 90, 300, 700};
    append(c, random, sizes[test_random(random) % 6]);
    if (c->n == 0) append(c, random, 1);
}

static void check_fresh(fm_engine *e, const conversation *c, fm_session *s, const char *what, uint64_t seed, int step) {
    fm_session *fresh;
    MUST(fm_session_open(&fresh, e, err));
    MUST(fm_session_feed(fresh, c->ids, c->n, FM_LOGITS_LAST, NULL, NULL, err));
    CHECK(memcmp(fm_session_logits(fresh), fm_session_logits(s), (size_t)vocab * sizeof(float)) == 0, "%s, seed %llu, step %d, %d tokens: other logits", what,
          (unsigned long long)seed, step, c->n);
    fm_session_close(&fresh);
}

/* Two conversations in two sessions, or in one by turns; tokens that the model "writes" one by one after each. */
static int run(fm_engine *e, uint64_t seed, const char *what) {
    uint64_t random = seed;
    static conversation c[2];
    fm_session *s[2];
    int saved = 0;
    for (int i = 0; i < 2; i++) {
        c[i] = (conversation){0};
        MUST(fm_session_open(&s[i], e, err));
        append(&c[i], &random, 200);
    }
    for (int step = 0; step < (TEST_SLOW ? 6 : N_STEPS); step++) {
        int which = (int)(test_random(&random) % 2), in = seed % 2 ? which : 0;
        fm_synced synced;
        edit(&c[which], &random);
        MUST(fm_session_sync(s[in], c[which].ids, c[which].n, c[which].borders, c[which].n_borders, &synced, err));
        CHECK(synced.n_kept + synced.n_restored + synced.n_computed == c[which].n, "%d + %d + %d tokens of %d", synced.n_kept, synced.n_restored,
              synced.n_computed, c[which].n);
        CHECK(fm_session_position(s[in]) == c[which].n && memcmp(fm_session_tokens(s[in]), c[which].ids, (size_t)c[which].n * sizeof(int32_t)) == 0,
              "the session's tokens are others");
        saved += synced.n_kept;
        check_fresh(e, &c[which], s[in], what, seed, step);
        for (uint64_t i = test_random(&random) % 4; i > 0; i--) {
            int32_t id = (int32_t)(test_random(&random) % (uint64_t)vocab);
            MUST(fm_session_feed(s[in], &id, 1, FM_LOGITS_LAST, NULL, NULL, err));
            c[which].ids[c[which].n++] = id;
        }
        if (test_random(&random) % 4 == 0) MUST(fm_session_keep(s[in], err));
        if (test_random(&random) % 9 == 0) fm_session_clear(s[in]);
        if (test_random(&random) % 9 == 0) {
            fm_session_close(&s[in]);
            MUST(fm_session_open(&s[in], e, err));
        }
    }
    fm_session_close(&s[0]);
    fm_session_close(&s[1]);
    return saved;
}

int main(int argc, char **argv) {
    if (argc != 3) SKIP("edits DIRECTORY SEEDS");
    static const char *const names[] = {"bf16", "f32", "q8"};
    for (int kv = FM_KV_BF16; kv <= FM_KV_Q8; kv++) {
        for (int tight = 0; tight < 3; tight++) {
            if (TEST_SLOW && (kv != FM_KV_Q8 || tight != 1)) continue;
            if (kv && tight == 2) continue; /* a budget at the floor reads its experts again and again */
            fm_engine_options o = FM_ENGINE_OPTIONS_INIT;
            o.context = CONTEXT;
            o.n_threads = 2;
            o.n_sessions = 3;
            o.kv = kv;
            o.memory_bytes = (uint64_t)512 << 20;
            fm_plan plan;
            fm_engine *e;
            MUST(fm_plan_make(&plan, argv[1], &o, err));
            if (tight == 2) o.memory_bytes = plan.floor_bytes;
            MUST(fm_engine_open(&e, argv[1], &o, err));
            if (tight == 1) e->snapshots->config.limit_bytes = 3 * e->snapshots->fixed_bytes + 300000;
            vocab = fm_engine_info(e)->vocab;
            int saved = 0, seeds = TEST_SLOW ? 2 : atoi(argv[2]);
            for (int seed = TEST_SLOW ? 2 : 1; seed <= seeds; seed++) { /* the first finds nothing within few steps */
                saved += run(e, (uint64_t)seed, names[kv]);
                CHECK(e->snapshots->used_bytes <= e->snapshots->config.limit_bytes, "%llu bytes of snapshots, limit %llu",
                      (unsigned long long)e->snapshots->used_bytes, (unsigned long long)e->snapshots->config.limit_bytes);
            }
            CHECK(saved > 0, "nothing was kept, kv %s", names[kv]);
            fprintf(stderr, "kv %s, limit %llu: %d tokens kept\n", names[kv], (unsigned long long)e->snapshots->config.limit_bytes, saved);
            fm_engine_close(&e);
        }
    }
    return TEST_END();
}
