/* tests/engine/allocation.c: nothing is allocated inside a token. The linker hands every allocation of the library to the functions below, which count while
 * armed. (Reads of experts, sampling and text are part of a token.) */
#include <sys/mman.h>

#include "test.h"

static int armed, count;

#define COUNT() (armed ? count++ : 0)

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset);

void *__wrap_malloc(size_t n) { return COUNT(), __real_malloc(n); }
void *__wrap_calloc(size_t n, size_t size) { return COUNT(), __real_calloc(n, size); }
void *__wrap_realloc(void *p, size_t n) { return COUNT(), __real_realloc(p, n); }
void *__wrap_mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset) { return COUNT(), __real_mmap(at, n, protection, flags, fd, offset); }

int main(void) {
    fm_engine_options options = FM_ENGINE_OPTIONS_INIT;
    options.context = 512;
    fm_plan plan;
    MUST(fm_plan_make(&plan, TEST_SOURCE_ROOT "/models/ember", &options, err));
    options.memory_bytes = plan.floor_bytes + 100 * plan.slot_bytes;
    fm_engine *engine;
    fm_session *session;
    fm_sampler *sampler;
    fm_sampling sampling = FM_SAMPLING_INIT;
    sampling.temperature = 1;
    sampling.top_p = 0.9f;
    sampling.repeat_penalty = 1.1f;
    MUST(fm_engine_open(&engine, TEST_SOURCE_ROOT "/models/ember", &options, err));
    MUST(fm_session_open(&session, engine, err));
    MUST(fm_sampler_open(&sampler, fm_engine_info(engine)->vocab, &sampling, err));
    int32_t ids[200];
    for (int i = 0; i < 200; i++) ids[i] = 5 + i;
    armed = 1;
    void *volatile p = malloc(1); /* the guard itself works */
    free(p);
    CHECK(count == 1, "%d allocations counted of 1", count);
    count = 0;
    MUST(fm_session_feed(session, ids, 200, FM_LOGITS_LAST, NULL, NULL, err));
    CHECK(count == 0, "%d allocations in a prompt", count);
    for (int i = 0; i < 100; i++) {
        const char *bytes;
        int32_t id = fm_sampler_choose(sampler, fm_session_logits(session), NULL);
        fm_sampler_feed(sampler, id);
        fm_engine_token_bytes(engine, id, &bytes);
        MUST(fm_session_feed(session, &id, 1, FM_LOGITS_LAST, NULL, NULL, err));
    }
    CHECK(count == 0, "%d allocations in 100 tokens", count);
    fm_stats stats;
    fm_engine_stats(engine, &stats);
    CHECK(stats.disk_bytes > 0 && stats.n_hits < stats.n_requests, "nothing was read: %llu of %llu were hits", (unsigned long long)stats.n_hits,
          (unsigned long long)stats.n_requests);
    armed = 0;
    fm_sampler_close(&sampler);
    fm_session_close(&session);
    fm_engine_close(&engine);
    return TEST_END();
}
