/* The pool: each task once, on a thread of its own number, whatever the counts; runs close together and far apart; floating-point mode.
 * With --bench: what a run costs. */
#include "base/pool.h"

#include <dirent.h>
#include <float.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/system.h"
#include "test.h"

enum { MAX_TASKS = 10000, MAX_THREADS = 16 };

typedef struct work {
    int n_tasks, n_threads, plain[MAX_TASKS]; /* plain: what the tasks wrote must be seen by the owner without any atomic */
    atomic_int count[MAX_TASKS], inside[MAX_THREADS], wrong;
    pthread_t owner;
} work;

static void task(void *arg, int i, int thread) {
    work *w = arg;
    if (i < 0 || i >= w->n_tasks || thread < 0 || thread >= w->n_threads || (thread == 0) != !!pthread_equal(pthread_self(), w->owner)) {
        atomic_fetch_add(&w->wrong, 1);
        return;
    }
    if (atomic_fetch_add(&w->inside[thread], 1)) atomic_fetch_add(&w->wrong, 1); /* two tasks with one thread's scratch */
    atomic_fetch_add(&w->count[i], 1);
    w->plain[i]++;
    atomic_fetch_sub(&w->inside[thread], 1);
}

static void test_once(int n_threads) {
    static const int counts[] = {0, 1, 2, 3, 15, 16, 17, 1000, MAX_TASKS};
    static work w;
    fm_pool *pool;
    MUST(fm_pool_open(&pool, n_threads, err));
    CHECK(fm_pool_n_threads(pool) == n_threads, "%d threads", fm_pool_n_threads(pool));
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        memset(&w, 0, sizeof w);
        w.n_tasks = counts[c], w.n_threads = n_threads, w.owner = pthread_self();
        fm_pool_run(pool, counts[c], task, &w);
        int bad = 0;
        for (int i = 0; i < MAX_TASKS; i++) bad += atomic_load(&w.count[i]) != (i < counts[c]) || w.plain[i] != (i < counts[c]);
        CHECK(bad == 0 && atomic_load(&w.wrong) == 0, "%d threads, %d tasks: %d not done once, %d wrong", n_threads, counts[c], bad, atomic_load(&w.wrong));
    }
    fm_pool_close(&pool);
    CHECK(!pool, "closed");
    fm_pool_close(&pool);
}

/* Runs of different sizes follow each other at once, as the layers of a token do, and now and then after a pause in which the workers fall asleep: a worker that
 * comes late must not take a task of the next run twice. */
static void test_sequence(int n_threads, int n_runs) {
    static work w;
    static int expected[64];
    fm_pool *pool;
    uint64_t seed = 7;
    memset(&w, 0, sizeof w);
    memset(expected, 0, sizeof expected);
    w.n_threads = n_threads, w.owner = pthread_self();
    MUST(fm_pool_open(&pool, n_threads, err));
    for (int r = 0; r < n_runs; r++) {
        w.n_tasks = (int)(test_random(&seed) % 64);
        if (r % 500 == 499) usleep(2000);
        fm_pool_run(pool, w.n_tasks, task, &w);
        for (int i = 0; i < w.n_tasks; i++) expected[i]++;
    }
    fm_pool_close(&pool);
    int bad = 0;
    for (int i = 0; i < 64; i++) bad += atomic_load(&w.count[i]) != expected[i] || w.plain[i] != expected[i];
    CHECK(bad == 0 && atomic_load(&w.wrong) == 0, "%d threads: %d tasks not done once a run, %d wrong", n_threads, bad, atomic_load(&w.wrong));
}

/* Half the smallest normal number, and a denormal times so much that it is normal: both 0 when denormals are flushed, as results and as operands. */
static int n_denormals(void) {
    volatile float tiny = FLT_MIN, denormal = FLT_TRUE_MIN, half = 0.5f, large = 0x1p60f;
    return (tiny * half != 0) + (denormal * large != 0);
}

typedef struct modes {
    atomic_int arrived, denormals, signals;
    int n;
} modes;

/* Each task waits for the others, so each runs on a thread of its own. */
static void mode_task(void *arg, int i, int thread) {
    modes *m = arg;
    (void)i;
    atomic_fetch_add(&m->denormals, n_denormals());
    sigset_t set;
    pthread_sigmask(SIG_BLOCK, NULL, &set);
    if (thread && (!sigismember(&set, SIGINT) || !sigismember(&set, SIGTERM) || !sigismember(&set, SIGUSR1))) atomic_fetch_add(&m->signals, 1);
    atomic_fetch_add(&m->arrived, 1);
    while (atomic_load(&m->arrived) < m->n) usleep(100);
}

static void test_mode(void) {
    modes m = {.n = 4};
    fm_pool *pool;
    sigset_t none, after;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, NULL);
    MUST(fm_pool_open(&pool, 4, err));
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    CHECK(!sigismember(&after, SIGINT) && !sigismember(&after, SIGTERM), "the caller's signal mask was changed");
    CHECK(n_denormals() == 2, "the caller's mode before: %d", n_denormals());
    unsigned long mode = fm_pool_enter();
    CHECK(n_denormals() == 0, "the caller's mode inside: %d", n_denormals());
    fm_pool_run(pool, 4, mode_task, &m);
    fm_pool_leave(mode);
    CHECK(n_denormals() == 2, "the caller's mode after: %d", n_denormals());
    CHECK(atomic_load(&m.arrived) == 4 && atomic_load(&m.denormals) == 0, "%d of 4 threads, %d denormals", atomic_load(&m.arrived), atomic_load(&m.denormals));
    CHECK(atomic_load(&m.signals) == 0, "%d workers take signals", atomic_load(&m.signals));
    fm_pool_close(&pool);
}

/* Threads of this process by that name. */
static int n_named(const char *name) {
    DIR *dir = opendir("/proc/self/task");
    int n = dir ? 0 : -1;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        char path[300], text[64] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", e->d_name);
        FILE *f = fopen(path, "r");
        if (f && fgets(text, sizeof text, f)) n += !strncmp(text, name, strlen(name)) && text[strlen(name)] == '\n';
        if (f) fclose(f);
    }
    if (dir) closedir(dir);
    return n;
}

/* About two microseconds of work in registers. */
static void chain(void *arg, int i, int thread) {
    (void)arg, (void)thread;
    volatile double sink;
    double x = i;
    for (int j = 0; j < 1000; j++) x = x * 0.5 + 1;
    sink = x;
    (void)sink;
}

/* Microseconds a run beyond what its tasks take, by threads and tasks a thread. */
static int bench(void) {
    double task = 1e9;
    for (int round = 0; round < 100; round++) {
        double start = fm_now();
        for (int i = 0; i < 100; i++) chain(NULL, i, 0);
        double t = (fm_now() - start) / 100;
        task = t < task ? t : task;
    }
    for (int n_threads = 2, most = fm_cpu_count(); n_threads <= most; n_threads *= 2) {
        fm_pool *pool;
        MUST(fm_pool_open(&pool, n_threads, err));
        for (int per = 1; per <= 8; per *= 2) {
            double least = 1e9;
            for (int round = 0; round < 20; round++) {
                double start = fm_now();
                for (int i = 0; i < 1000; i++) fm_pool_run(pool, per * n_threads, chain, NULL);
                double t = (fm_now() - start) / 1000 - per * task;
                least = t < least ? t : least;
            }
            printf("%3d threads, %d tasks each of %.2f us: %6.2f us more\n", n_threads, per, 1e6 * task, 1e6 * least);
        }
        fm_pool_close(&pool);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--bench")) return bench();
    static const int threads[] = {1, 2, 3, MAX_THREADS};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        test_once(threads[i]);
        test_sequence(threads[i], threads[i] <= 2 ? 20000 : 3000);
    }
    test_mode();

    fm_pool *pool;
    fm_error failed = {0};
    CHECK(fm_cpu_count() >= 1, "%d CPUs", fm_cpu_count());
    MUST(fm_pool_open(&pool, 0, err));
    CHECK(fm_pool_n_threads(pool) == fm_cpu_count(), "%d threads, %d CPUs", fm_pool_n_threads(pool), fm_cpu_count());
    fm_pool_close(&pool);
    CHECK(fm_pool_open(&pool, 1 << 30, &failed) == FM_EINVAL && !pool && strstr(failed.message, "1073741824"), "%s", failed.message);
    if (n_named("") != -1) {
        MUST(fm_pool_open(&pool, 5, err));
        CHECK(n_named("fm-compute") == 4, "%d workers have their name", n_named("fm-compute"));
        fm_pool_close(&pool);
        for (int i = 0; i < 100 && n_named("fm-compute"); i++) usleep(10000); /* a thread leaves /proc a little after it was joined */
        CHECK(n_named("fm-compute") == 0, "%d workers are left", n_named("fm-compute"));
    }
    return TEST_END();
}
