/* tests/engine/live.c: fm_engine_live from a second thread while the engine computes: what it sees only grows, and when the engine is at rest it is what fm_engine_stats says.
 * Under the thread sanitizer this shows that it needs no lock. */
#include <pthread.h>
#include <stdatomic.h>

#include "test.h"

typedef struct watcher {
    const fm_engine *engine;
    atomic_bool stop;
    int n_looks, n_changes;
} watcher;

static int n_experts(const fm_engine *engine) { return fm_engine_info(engine)->n_layers * fm_engine_info(engine)->n_experts; }

static void *watch(void *user) {
    watcher *w = user;
    int n = n_experts(w->engine);
    fm_live_expert *now = calloc((size_t)n, sizeof *now), *before = calloc((size_t)n, sizeof *before);
    fm_live live = {0}, last = {0};
    bool over = false;
    while (!over) {
        over = atomic_load(&w->stop); /* once more after the end */
        CHECK(fm_engine_live(w->engine, &live, now, n) == n, "all experts");
        CHECK(live.n_tokens >= last.n_tokens && live.n_requests >= last.n_requests && live.n_hits >= last.n_hits && live.disk_bytes >= last.disk_bytes,
              "a sum has become less");
        for (int i = 0; i < n; i++) {
            if (now[i].uses < before[i].uses || now[i].reads < before[i].reads || now[i].state > FM_EXPERT_RESIDENT)
                CHECK(false, "expert %d: %u uses after %u, %u reads after %u, state %d", i, now[i].uses, before[i].uses, now[i].reads, before[i].reads,
                      now[i].state);
        }
        w->n_looks++;
        w->n_changes += live.n_requests > last.n_requests;
        last = live;
        memcpy(before, now, (size_t)n * sizeof *now);
    }
    free(now);
    free(before);
    return NULL;
}

/* Compares with the engine's own sums, at rest. Returns how many experts are in memory. */
static int compare(const fm_engine *engine) {
    int n = n_experts(engine), resident = 0;
    fm_live_expert *experts = calloc((size_t)n, sizeof *experts);
    uint64_t uses = 0, reads = 0;
    fm_stats stats;
    fm_live live;
    fm_engine_stats(engine, &stats);
    CHECK(fm_engine_live(engine, &live, experts, n) == n, "all experts");
    for (int i = 0; i < n; i++) {
        uses += experts[i].uses;
        reads += experts[i].reads;
        resident += experts[i].state == FM_EXPERT_RESIDENT;
        CHECK(experts[i].state != FM_EXPERT_READING && experts[i].state != FM_EXPERT_NONE, "expert %d is in state %d", i, experts[i].state);
    }
    CHECK(live.n_tokens == stats.n_tokens && live.n_requests == stats.n_requests && live.n_hits == stats.n_hits && live.disk_bytes == stats.disk_bytes,
          "%llu tokens, expected %llu", (unsigned long long)live.n_tokens, (unsigned long long)stats.n_tokens);
    CHECK(uses == stats.n_requests && reads == stats.n_requests - stats.n_hits, "%llu uses, %llu reads", (unsigned long long)uses, (unsigned long long)reads);
    free(experts);
    return resident;
}

int main(void) {
    fm_engine_options o = FM_ENGINE_OPTIONS_INIT;
    fm_engine *engine;
    fm_session *session;
    fm_plan plan;
    pthread_t thread;
    o.context = 256;
    fm_plan_make(&plan, TEST_SOURCE_ROOT "/models/ember", &o, NULL);
    o.memory_bytes = plan.floor_bytes + 40 * plan.slot_bytes; /* a cache that is too small */
    o.prefetch = FM_PREFETCH_OFF;
    MUST(fm_engine_open(&engine, TEST_SOURCE_ROOT "/models/ember", &o, err));
    CHECK(compare(engine) == 0 && fm_engine_plan(engine)->n_slots < n_experts(engine), "nothing was read yet");
    watcher w = {.engine = engine};
    CHECK(pthread_create(&thread, NULL, watch, &w) == 0, "no thread");
    MUST(fm_session_open(&session, engine, err));
    for (int i = 0; i < 60; i++) {
        int32_t ids[] = {50 + 31 * i, 51 + 29 * i};
        MUST(fm_session_feed(session, ids, 2, FM_LOGITS_LAST, NULL, NULL, err));
    }
    atomic_store(&w.stop, true);
    pthread_join(thread, NULL);
    CHECK(w.n_looks > 2 && w.n_changes > 2, "%d looks saw %d changes", w.n_looks, w.n_changes);
    int resident = compare(engine);
    CHECK(resident == fm_engine_plan(engine)->n_slots, "%d experts in %d slots", resident, fm_engine_plan(engine)->n_slots);
    fm_session_close(&session);
    fm_engine_close(&engine);
    return TEST_END();
}
