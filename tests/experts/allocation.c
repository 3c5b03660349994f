/* tests/experts/allocation.c: every allocation of opening a store failed once, and threads refused: an error that says so, or a store that works without; nothing
 * leaks (under the address sanitizer). After that nothing is allocated. The linker sends the library's calls here (--wrap). */
#include <errno.h>
#include <pthread.h>

#include "base/memory.h"
#include "script.h"

static int n_calls, fail_at = -1, n_threads_refused; /* of the allocating functions together */
static size_t n_bytes;

static bool refuse(size_t bytes) {
    n_bytes += bytes;
    return n_calls++ == fail_at;
}

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *p, size_t bytes);
int __real_fm_region_open(fm_region *region, size_t bytes, const char *what, fm_error *err);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *p, size_t bytes);
int __wrap_fm_region_open(fm_region *region, size_t bytes, const char *what, fm_error *err);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);

void *__wrap_malloc(size_t bytes) { return refuse(bytes) ? NULL : __real_malloc(bytes); }
void *__wrap_calloc(size_t n, size_t bytes) { return refuse(n * bytes) ? NULL : __real_calloc(n, bytes); }
void *__wrap_realloc(void *p, size_t bytes) { return refuse(bytes) ? NULL : __real_realloc(p, bytes); }

int __wrap_fm_region_open(fm_region *region, size_t bytes, const char *what, fm_error *err) {
    *region = (fm_region){0};
    return refuse(bytes) ? fm_fail(err, FM_ENOMEM, "no memory for %s", what) : __real_fm_region_open(region, bytes, what, err);
}

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg) {
    if (!refuse(0)) return __real_pthread_create(thread, attr, fn, arg);
    n_threads_refused++;
    return EAGAIN;
}

static void try_all(const fixture *x, const fm_io_ops *io, const fm_policy_ops *policy) {
    int n_failed = 0, n = 0;
    for (bool reached = true; reached; n++) {
        fm_store_config config = fixture_config(x, 9, 3);
        script s = {.fixture = x, .seed = 3, .most_held = 2};
        fm_error e = {0};
        config.io = io;
        config.policy = policy;
        n_calls = n_threads_refused = 0;
        fail_at = n;
        int rc = fm_store_open(&s.store, &config, &e);
        fail_at = -1;
        reached = n_calls > n;
        if (rc == FM_EUNSUPPORTED) return;
        if (rc < 0) {
            CHECK(reached && (rc == FM_ENOMEM || n_threads_refused) && e.code == rc && e.message[0], "allocation %d: %d, \"%s\"", n, rc, e.message);
            CHECK(!s.store && io_fake.n_open == 0, "allocation %d: something stays open", n);
            n_failed++;
            continue;
        }
        CHECK(!reached || n_threads_refused, "allocation %d failed and open did not notice", n);
        n_calls = 0;
        script_run(&s, 5);
        CHECK(n_calls == 0, "%d allocations while experts are read", n_calls);
        script_sweep(&s);
        fm_store_close(&s.store);
    }
    CHECK(n_failed >= 12, "only %d of %d allocations make open fail", n_failed, n);
}

/* What a store says it takes is at least what it allocates, and little more. */
static void promised(const fixture *x, const fm_policy_ops *policy, int n_slots, int n_staging) {
    fm_store_config config = fixture_config(x, n_slots, n_staging);
    fm_store *store = NULL;
    config.policy = policy;
    n_bytes = 0;
    MUST(fm_store_open(&store, &config, err));
    uint64_t said = fm_store_memory_bytes(&config);
    CHECK(n_bytes <= said && said < n_bytes + (1 << 20), "%d slots, %d buffers: %llu bytes promised, %zu allocated", n_slots, n_staging,
          (unsigned long long)said, n_bytes);
    fm_store_close(&store);
}

int main(void) {
    fixture x;
    fixture_open(&x, false, 2);
    try_all(&x, &io_fake_ops, &fm_policy_lru);
    try_all(&x, &fm_io_pread, &fm_policy_lfu);
#ifdef FM_HAVE_URING
    try_all(&x, &fm_io_uring, &fm_policy_lru);
#endif
    promised(&x, &fm_policy_lru, 1, 1);
    promised(&x, &fm_policy_lfu, 300, 20);
    promised(&x, &fm_policy_lru, 20000, 100);
    promised(&x, &fm_policy_lfu, 20000, 100);
    fixture_close(&x);
    return TEST_END();
}
