/* snapshots/readers.c: see readers.h. */
#include "snapshots/readers.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "base/memory.h"

/* ---- a window ---- */

void fm_window_begin(fm_window *w, const fm_file *file) {
    w->file = file;
    w->start = 0;
    w->n = 0;
}

static uint64_t align_down(uint64_t n) { return n / FM_WINDOW_ALIGNMENT * FM_WINDOW_ALIGNMENT; }

/* What it has from `at` on moves to its beginning. */
static void move_to(fm_window *w, uint64_t at) {
    uint64_t from = align_down(at), end = w->start + w->n;
    size_t kept = from >= w->start && from < end ? (size_t)(end - from) : 0;
    if (kept) memmove(w->data, w->data + (from - w->start), kept);
    w->start = from;
    w->n = kept;
}

int fm_window_need(fm_window *w, uint64_t at, size_t n, uint64_t end, const uint8_t **out, fm_error *err) {
    if (at < w->start || at + n > w->start + w->n) move_to(w, at);
    uint64_t last = align_down(end + FM_WINDOW_ALIGNMENT - 1);
    while (at + n > w->start + w->n) {
        uint64_t from = w->start + w->n, room = w->bytes - w->n;
        int64_t got = from < last ? fm_file_read_some(w->file, w->data + w->n, (size_t)(last - from < room ? last - from : room), from, err) : 0;
        if (got < 0) return (int)got;
        if (got == 0) return fm_fail(err, FM_EFORMAT, "%s: it ends at byte %" PRIu64 ", but %zu bytes at %" PRIu64 " are needed", w->file->path, from, n, at);
        w->n += (size_t)got;
    }
    *out = w->data + (at - w->start);
    return 0;
}

/* ---- threads ---- */

typedef struct readers {
    void (*task)(void *arg, int i, fm_window *window);
    void *arg;
    int n_tasks;
    atomic_int next, n_windows;
    uint8_t *memory;
    size_t window_bytes;
} readers;

static void *read_loop(void *arg) {
    readers *r = arg;
    int own = atomic_fetch_add(&r->n_windows, 1);
    fm_window window = {.data = r->memory + (size_t)own * r->window_bytes, .bytes = r->window_bytes};
    for (int i; (i = atomic_fetch_add(&r->next, 1)) < r->n_tasks;) r->task(r->arg, i, &window);
    return NULL;
}

int fm_readers_run(int n_readers, size_t window_bytes, int n_tasks, void (*task)(void *arg, int i, fm_window *window), void *arg, fm_error *err) {
    pthread_t threads[FM_MAX_READERS];
    readers r = {.task = task, .arg = arg, .n_tasks = n_tasks, .window_bytes = (size_t)align_down(window_bytes + FM_WINDOW_ALIGNMENT - 1)};
    int n = n_readers < n_tasks ? n_readers : n_tasks, started = 0, rc;
    fm_region region;
    sigset_t all, before;
    if (n > FM_MAX_READERS) n = FM_MAX_READERS;
    if (n < 1) n = 1;
    if ((rc = fm_region_open(&region, (size_t)n * r.window_bytes, "reading a session's state", err)) < 0) return rc;
    r.memory = region.data;
    /* Signals are the program's affair: they go to its own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (started < n - 1 && pthread_create(&threads[started], NULL, read_loop, &r) == 0) started++; /* fewer than asked for will do */
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    read_loop(&r);
    for (int i = 0; i < started; i++) pthread_join(threads[i], NULL);
    fm_region_close(&region);
    return 0;
}
