/* tests/engine/disk_error.c: the disk fails in the middle of a token: an error that names file, place and reason; the session is empty again, the engine goes on
 * and computes what it would have. */
#include <errno.h>

#include "engine/engine.h"
#include "experts/io_fake.h"
#include "test.h"

static const char model[] = TEST_SOURCE_ROOT "/models/ember";

static int feed(fm_session *session, int n_prompt, fm_error *err) {
    int32_t ids[80];
    for (int i = 0; i < 80; i++) ids[i] = 100 + 7 * i;
    int rc = fm_session_feed(session, ids, n_prompt, FM_LOGITS_LAST, NULL, NULL, err);
    for (int i = n_prompt; i < 80 && rc >= 0; i++) rc = fm_session_feed(session, ids + i, 1, FM_LOGITS_LAST, NULL, NULL, err);
    return rc;
}

int main(void) {
    fm_engine_options o = FM_ENGINE_OPTIONS_INIT;
    fm_plan plan;
    fm_engine *engine;
    fm_session *session;
    o.context = 256;
    MUST(fm_plan_make(&plan, model, &o, err));
    o.memory_bytes = plan.floor_bytes + 30 * plan.slot_bytes;
    io_fake = IO_FAKE_INIT;
    MUST(fm_engine_open_io(&engine, model, &o, &io_fake_ops, err));
    MUST(fm_session_open(&session, engine, err));
    int vocab = fm_engine_info(engine)->vocab;
    size_t bytes = (size_t)vocab * sizeof(float);
    float *want = malloc(bytes);
    int first = io_fake.n_completed;
    MUST(feed(session, 40, err));
    int n_reads = io_fake.n_completed - first;
    memcpy(want, fm_session_logits(session), bytes);
    CHECK(n_reads > 500, "only %d reads", n_reads);
    /* Reads here and there fail once: in prompts and in single tokens, by an error, by the end of the file. */
    for (int i = 0; i < 9; i++) {
        fm_error failure = {0};
        int results[3] = {-EIO, 0, -ENXIO};
        fm_session_clear(session);
        io_fake.fail_from = io_fake.n_completed + n_reads * i / 10;
        io_fake.fail_n = 1;
        io_fake.fail_result = results[i % 3];
        int rc = feed(session, i % 2 ? 40 : 1, &failure);
        if (rc >= 0) continue; /* another history needs fewer reads */
        CHECK(rc == FM_EIO || rc == FM_EFORMAT, "error %d: %s", rc, failure.message);
        CHECK(strstr(failure.message, "model.safetensors"), "no file in: %s", failure.message);
        CHECK(fm_session_position(session) == 0 && !fm_session_logits(session), "the session holds %d tokens", fm_session_position(session));
        io_fake.fail_from = -1;
        MUST(feed(session, 40, err));
        CHECK(!memcmp(want, fm_session_logits(session), bytes), "other logits after failure %d", i);
    }
    CHECK(test_checks > 20, "hardly any read failed");
    free(want);
    fm_session_close(&session);
    fm_engine_close(&engine);
    return TEST_END();
}
