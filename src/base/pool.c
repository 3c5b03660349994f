/* base/pool.c: see pool.h.
 *
 * A run is published as one 64-bit word: its number and how many tasks it has. Each thread has a lane, an equal share of consecutive tasks, and a ticket that
 * says how many of them are taken in which run; who takes one raises the ticket by one. A thread works through its own lane, which nobody else's cache wants,
 * then helps the others. While a task is not done the owner is inside fm_pool_run, so what the run refers to stands still; and a run is done only when
 * every ticket says so, so one that was read in an earlier run cannot be raised any more. The owner waits for the tasks only, never for a worker that slept
 * through the run. Workers look for the next run for some microseconds before they sleep, because runs follow each other closely. */
#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define RELAX() _mm_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() ((void)0)
#endif

#define SPINS 20000 /* a third of a millisecond to one: sleeping between the steps of a layer costs more than that */
#define MAX_THREADS 1024
#define STOP UINT32_MAX /* the run that ends the workers */

typedef struct worker {
    _Alignas(64) _Atomic(uint64_t) ticket; /* number of the run << 32 | tasks of the lane that are taken in it */
    fm_pool *pool;
    pthread_t id;
    int index;
} worker;

struct fm_pool {
    int n_threads, spins;
    _Atomic(fm_task_fn) fn; /* of the present run, as is arg */
    _Atomic(void *) arg;
    _Alignas(64) _Atomic(uint64_t) run; /* its number << 32 | its tasks */
    _Alignas(64) atomic_int unfinished; /* tasks of the run that are not done */
    _Alignas(64) atomic_int sleepers;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    worker workers[]; /* the owner's lane first */
};

unsigned long fm_pool_enter(void) {
#if defined(__x86_64__)
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040); /* flush to zero, denormals are zero */
    return mode;
#elif defined(__aarch64__)
    unsigned long mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" ::"r"(mode | 1ul << 24));
    return mode;
#else
    return 0;
#endif
}

void fm_pool_leave(unsigned long mode) {
#if defined(__x86_64__)
    _mm_setcsr((unsigned)mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" ::"r"(mode));
#else
    (void)mode;
#endif
}

/* Takes tasks of a lane until none is left; returns how many. */
static int work_lane(fm_pool *pool, uint64_t run, int lane, int thread) {
    uint32_t number = (uint32_t)(run >> 32), n_tasks = (uint32_t)run, n_lanes = (uint32_t)pool->n_threads, l = (uint32_t)lane;
    uint32_t share = n_tasks / n_lanes, rest = n_tasks % n_lanes, n = share + (l < rest), first = l * share + (l < rest ? l : rest);
    _Atomic(uint64_t) *lane_ticket = &pool->workers[lane].ticket;
    uint64_t ticket = atomic_load_explicit(lane_ticket, memory_order_acquire);
    int done = 0;
    while (true) {
        uint32_t of = (uint32_t)(ticket >> 32), taken = of == number ? (uint32_t)ticket : 0;
        if (taken >= n || (int32_t)(of - number) > 0) return done;
        if (!atomic_compare_exchange_weak_explicit(lane_ticket, &ticket, (uint64_t)number << 32 | (taken + 1), memory_order_acq_rel, memory_order_acquire))
            continue;
        atomic_load_explicit(&pool->fn, memory_order_relaxed)(atomic_load_explicit(&pool->arg, memory_order_relaxed), (int)(first + taken), thread);
        done++;
        ticket = (uint64_t)number << 32 | (taken + 1);
    }
}

/* Works through the present run; returns its number. */
static uint32_t work(fm_pool *pool, int thread) {
    uint64_t run = atomic_load_explicit(&pool->run, memory_order_acquire);
    for (int i = 0, lane = thread; i < pool->n_threads; i++, lane = lane + 1 < pool->n_threads ? lane + 1 : 0) {
        int done = work_lane(pool, run, lane, thread);
        if (done && atomic_fetch_sub_explicit(&pool->unfinished, done, memory_order_acq_rel) == done) break;
    }
    return (uint32_t)(run >> 32);
}

/* Waits until the run is another than seen. */
static void await_run(fm_pool *pool, uint32_t seen) {
    for (int i = 0; i < pool->spins; i++) {
        if (atomic_load_explicit(&pool->run, memory_order_relaxed) >> 32 != seen) return;
        RELAX();
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->run) >> 32 == seen) pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static void *worker_main(void *arg) {
    worker *w = arg;
#if defined(__APPLE__)
    (void)pthread_setname_np("fm-compute");
#endif
    fm_pool_enter();
    for (uint32_t seen = 0; seen != STOP; seen = work(w->pool, w->index)) await_run(w->pool, seen);
    return NULL;
}

/* Publishes a run and wakes who sleeps. A worker counts itself a sleeper before it looks at the run for the last time, so none is missed. */
static void publish(fm_pool *pool, uint32_t run, int n_tasks) {
    atomic_store(&pool->run, (uint64_t)run << 32 | (uint32_t)n_tasks);
    if (atomic_load(&pool->sleepers) == 0) return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

void fm_pool_run(fm_pool *pool, int n_tasks, fm_task_fn fn, void *arg) {
    if (n_tasks <= 1 || pool->n_threads == 1) {
        for (int i = 0; i < n_tasks; i++) fn(arg, i, 0);
        return;
    }
    atomic_store_explicit(&pool->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&pool->arg, arg, memory_order_relaxed);
    atomic_store_explicit(&pool->unfinished, n_tasks, memory_order_relaxed);
    uint32_t run = (uint32_t)(atomic_load_explicit(&pool->run, memory_order_relaxed) >> 32) + 1;
    publish(pool, run == STOP ? 0 : run, n_tasks);
    work(pool, 0);
    for (int i = 0; atomic_load_explicit(&pool->unfinished, memory_order_acquire); i++) {
        if (i < pool->spins) {
            RELAX();
        } else {
            sched_yield();
        }
    }
}

static int start_workers(fm_pool *pool, fm_error *err) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = 0, wanted = pool->n_threads;
    for (pool->n_threads = 1; pool->n_threads < wanted && rc == 0;) {
        worker *w = &pool->workers[pool->n_threads];
        w->pool = pool;
        w->index = pool->n_threads;
        rc = pthread_create(&w->id, NULL, worker_main, w);
        if (rc == 0) pool->n_threads++;
#if defined(__linux__)
        if (rc == 0) (void)pthread_setname_np(w->id, "fm-compute");
#endif
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc ? fm_fail_errno(err, FM_ENOMEM, rc, "starting computing thread %d of %d", pool->n_threads + 1, wanted) : 0;
}

int fm_pool_open(fm_pool **out, int n_threads, fm_error *err) {
    *out = NULL;
    int cpus = fm_cpu_count();
    if (n_threads <= 0) n_threads = cpus < MAX_THREADS ? cpus : MAX_THREADS;
    if (n_threads > MAX_THREADS) return fm_fail(err, FM_EINVAL, "%d computing threads are more than %d", n_threads, MAX_THREADS);
    size_t bytes = (sizeof(fm_pool) + (size_t)n_threads * sizeof(worker) + 63) & ~(size_t)63;
    fm_pool *pool = aligned_alloc(64, bytes);
    if (!pool) return fm_fail(err, FM_ENOMEM, "no memory for a pool of %d threads", n_threads);
    memset(pool, 0, bytes);
    pool->n_threads = n_threads;
    /* More threads than CPUs: whoever spins keeps another from working. */
    pool->spins = n_threads <= cpus ? SPINS : 0;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    int rc = start_workers(pool, err);
    *out = pool;
    if (rc < 0) fm_pool_close(out);
    return rc;
}

void fm_pool_close(fm_pool **out) {
    fm_pool *pool = *out;
    if (!pool) return;
    publish(pool, STOP, 0);
    for (int i = 1; i < pool->n_threads; i++) pthread_join(pool->workers[i].id, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
    *out = NULL;
}

int fm_pool_n_threads(const fm_pool *pool) { return pool->n_threads; }
