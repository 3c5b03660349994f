/* experts/io_pread.c: expert I/O by a few threads that call pread. Works everywhere; the reads wait in a ring until a thread takes them. */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "experts/io.h"

#define MAX_THREADS 8

typedef struct ring {
    fm_read **reads; /* [depth] */
    int first, n;
} ring;

typedef struct pread_io {
    fm_io io;
    int depth, n_threads;
    pthread_t threads[MAX_THREADS];
    pthread_mutex_t mutex; /* guards what follows */
    pthread_cond_t work, done;
    ring waiting, finished;
    bool stop;
} pread_io;

static void push(ring *r, int depth, fm_read *read) {
    assert(r->n < depth);
    r->reads[(r->first + r->n++) % depth] = read;
}

static fm_read *pop(ring *r, int depth) {
    fm_read *read = r->reads[r->first];
    r->first = (r->first + 1) % depth;
    r->n--;
    return read;
}

/* Takes reads until it is told to stop and none is left. */
static void *read_loop(void *arg) {
    pread_io *p = arg;
    pthread_mutex_lock(&p->mutex);
    for (;;) {
        while (!p->waiting.n && !p->stop) pthread_cond_wait(&p->work, &p->mutex);
        if (!p->waiting.n) break;
        fm_read *r = pop(&p->waiting, p->depth);
        pthread_mutex_unlock(&p->mutex);
        ssize_t n = pread(r->fd, r->data, r->bytes, (off_t)r->offset);
        r->result = n < 0 ? -errno : (int32_t)n;
        pthread_mutex_lock(&p->mutex);
        push(&p->finished, p->depth, r);
        pthread_cond_signal(&p->done);
    }
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

static void pread_close(fm_io **io) {
    pread_io *p = (pread_io *)*io;
    if (!p) return;
    pthread_mutex_lock(&p->mutex);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->mutex);
    for (int i = 0; i < p->n_threads; i++) pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->done);
    pthread_mutex_destroy(&p->mutex);
    free(p->waiting.reads);
    free(p->finished.reads);
    free(p);
    *io = NULL;
}

/* Signals are the program's affair: they go to its own threads. */
static int start_threads(pread_io *p, int n) {
    sigset_t all, before;
    int rc = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; p->n_threads < n && !rc; p->n_threads += !rc) rc = pthread_create(&p->threads[p->n_threads], NULL, read_loop, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return p->n_threads ? 0 : rc; /* fewer than asked for will do */
}

static int pread_open(fm_io **io, int depth, fm_error *err) {
    pread_io *p = calloc(1, sizeof *p);
    *io = (fm_io *)p;
    if (!p) return fm_fail(err, FM_ENOMEM, "no memory for an I/O queue of %d reads", depth);
    p->io.ops = &fm_io_pread;
    p->depth = depth;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    int rc = 0;
    p->waiting.reads = calloc((size_t)depth, sizeof *p->waiting.reads);
    p->finished.reads = calloc((size_t)depth, sizeof *p->finished.reads);
    if (!p->waiting.reads || !p->finished.reads) {
        rc = fm_fail(err, FM_ENOMEM, "no memory for an I/O queue of %d reads", depth);
        goto fail;
    }
    rc = start_threads(p, depth < MAX_THREADS ? depth : MAX_THREADS);
    if (!rc) return 0;
    rc = fm_fail_errno(err, FM_EIO, rc, "the system gives no thread for reading");
fail:
    pread_close(io);
    return rc;
}

static int pread_submit(fm_io *io, fm_read **reads, int n, fm_error *err) {
    pread_io *p = (pread_io *)io;
    (void)err;
    assert(io->n_in_flight + n <= p->depth);
    pthread_mutex_lock(&p->mutex);
    for (int i = 0; i < n; i++) {
        push(&p->waiting, p->depth, reads[i]);
        pthread_cond_signal(&p->work);
    }
    pthread_mutex_unlock(&p->mutex);
    io->n_in_flight += n;
    return 0;
}

static int pread_reap(fm_io *io, fm_read **done, int max, bool wait, fm_error *err) {
    pread_io *p = (pread_io *)io;
    int n = 0;
    (void)err;
    pthread_mutex_lock(&p->mutex);
    while (wait && io->n_in_flight && !p->finished.n) pthread_cond_wait(&p->done, &p->mutex);
    while (n < max && p->finished.n) done[n++] = pop(&p->finished, p->depth);
    pthread_mutex_unlock(&p->mutex);
    io->n_in_flight -= n;
    return n;
}

const fm_io_ops fm_io_pread = {.name = "pread", .open = pread_open, .close = pread_close, .submit = pread_submit, .reap = pread_reap};
