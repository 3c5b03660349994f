/* base/pool.h: the thread pool. One owner thread calls fm_pool_run and works too; the others wait between runs.
 *
 * Every thread computes with denormals flushed to zero (FTZ and DAZ; FZ on arm64): the workers always, the owner between
 * fm_pool_enter and fm_pool_leave. */
#ifndef FM_BASE_POOL_H
#define FM_BASE_POOL_H

#include "base/error.h"

typedef struct fm_pool fm_pool;

/* task: index of the task, 0 <= task < n_tasks; thread: 0 <= thread < n_threads, for per-thread scratch. */
typedef void (*fm_task_fn)(void *arg, int task, int thread);

/* n_threads counts the caller; 0: one per CPU that the affinity mask and the cgroup's CPU quota allow. */
int fm_pool_open(fm_pool **pool, int n_threads, fm_error *err);
void fm_pool_close(fm_pool **pool);
int fm_pool_n_threads(const fm_pool *pool);

/* Runs fn for each task on all threads and returns when all are done. Tasks are handed out dynamically, so what a task
 * computes must not depend on the thread. Allocates nothing. Not to be called from inside a task. */
void fm_pool_run(fm_pool *pool, int n_tasks, fm_task_fn fn, void *arg);

/* Floating-point mode of the calling thread: enter flushes denormals and returns what was there, leave restores it. */
unsigned long fm_pool_enter(void);
void fm_pool_leave(unsigned long mode);

/* CPUs this process should use: those of the affinity mask, of a hybrid CPU only the performance cores among them, capped by cgroup v1/v2 quotas (rounded up), at least
 * 1. */
int fm_cpu_count(void);

#endif
