/* tests/engine/pressure.c: when memory gets short while tokens are made, the expert cache gives slots back, says so in one line, keeps what a layer needs, and the
 * logits stay the same. */
#include "engine/engine.h"

#include "../base/tree.h"

static int n_lines;
static char last_line[600];

static void on_log(void *user, int level, const char *line) {
    (void)user, (void)level;
    n_lines++;
    snprintf(last_line, sizeof last_line, "%s", line);
}

/* 40 tokens one by one; the machine is short of memory from token `from` on. A hash of the logits. */
static uint64_t run(fm_engine *engine, int from) {
    fm_session *session;
    uint64_t hash = 0xcbf29ce484222325u;
    size_t bytes = (size_t)fm_engine_info(engine)->vocab * sizeof(float);
    MUST(fm_session_open(&session, engine, err));
    for (int i = 0; i < 40; i++) {
        int32_t id = 50 + 31 * i;
        if (i == from) tree_text("/proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 9000 kB\n");
        if (i == from) usleep(600000); /* a look every half second */
        MUST(fm_session_feed(session, &id, 1, FM_LOGITS_LAST, NULL, NULL, err));
        for (size_t j = 0; j < bytes; j++) hash = (hash ^ ((const uint8_t *)fm_session_logits(session))[j]) * 0x100000001b3u;
    }
    fm_session_close(&session);
    return hash;
}

int main(void) {
    fm_engine_options o = FM_ENGINE_OPTIONS_INIT;
    fm_engine *engine;
    fm_stats stats;
    tree_open();
    tree_text("/proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 500000 kB\n");
    o.context = 256;
    o.memory_bytes = (uint64_t)64 << 20;
    o.log = on_log;
    MUST(fm_engine_open(&engine, TEST_SOURCE_ROOT "/models/ember", &o, err));
    fm_pressure_close(&engine->pressure);
    MUST(fm_pressure_open_at(&engine->pressure, tree_root, err));
    int n_slots = fm_store_n_slots(engine->store);
    uint64_t want = run(engine, -1);
    CHECK(n_lines == 0 && fm_store_n_slots(engine->store) == n_slots, "gave back without need: %s", last_line);
    CHECK(run(engine, 20) == want, "other logits under pressure");
    fm_engine_stats(engine, &stats);
    int left = fm_store_n_slots(engine->store);
    CHECK(left < n_slots && left >= engine->plan.min_slots && stats.slots_given_back == (uint64_t)(n_slots - left), "%d slots of %d are left, %llu given back",
          left, n_slots, (unsigned long long)stats.slots_given_back);
    CHECK(n_lines == 1 && strstr(last_line, "memory is short"), "%d lines, the last: %s", n_lines, last_line);
    CHECK(run(engine, -1) == want, "other logits afterwards");
    fm_engine_close(&engine);
    return TEST_END();
}
