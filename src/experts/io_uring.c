/* experts/io_uring.c: expert I/O by Linux io_uring: no threads, one system call a batch.
 *
 * The ring is not bound to a thread (no SINGLE_ISSUER, and so no DEFER_TASKRUN): an engine may be opened in one thread and used in another, and the
 * kernel would refuse the second one. COOP_TASKRUN, where it exists, spares the owner the interrupts of completions. */
#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>

#include "experts/io.h"

#define SQ_ENTRIES 256 /* reads a system call takes at most; more in flight need only room for their completions */

typedef struct uring_io {
    fm_io io;
    struct io_uring ring;
    bool open;
    int depth;
    int broken; /* errno of a system call that cannot be repeated; then the ring is not touched again */
} uring_io;

static void uring_close(fm_io **io) {
    uring_io *u = (uring_io *)*io;
    fm_read *done[16];
    if (!u) return;
    while (u->open && !u->broken && io[0]->n_in_flight) io[0]->ops->reap(*io, done, 16, true, NULL);
    if (u->open) io_uring_queue_exit(&u->ring);
    free(u);
    *io = NULL;
}

static int open_ring(uring_io *u) {
    int rc = -EINVAL;
    unsigned entries = 1;
    while (entries < (unsigned)u->depth && entries < SQ_ENTRIES) entries *= 2;
    for (int cooperative = 1; cooperative >= 0 && rc == -EINVAL; cooperative--) {
        struct io_uring_params p = {.flags = IORING_SETUP_CQSIZE, .cq_entries = (unsigned)u->depth < entries ? entries : (unsigned)u->depth};
        if (cooperative) p.flags |= IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
        rc = io_uring_queue_init_params(entries, &u->ring, &p);
    }
    return rc;
}

static int uring_open(fm_io **io, int depth, fm_error *err) {
    uring_io *u = calloc(1, sizeof *u);
    *io = (fm_io *)u;
    if (!u) return fm_fail(err, FM_ENOMEM, "no memory for an I/O queue of %d reads", depth);
    u->io.ops = &fm_io_uring;
    u->depth = depth;
    int rc = open_ring(u);
    u->open = rc >= 0;
    if (u->open) return 0;
    uring_close(io);
    return fm_fail_errno(err, rc == -ENOMEM ? FM_ENOMEM : FM_EUNSUPPORTED, -rc, "io_uring cannot be used here");
}

/* Hands what is prepared to the kernel. EAGAIN and EBUSY mean later: the entries stay in the ring and go with the next call. */
static int enter(uring_io *u, unsigned wait, fm_error *err) {
    int rc = wait ? io_uring_submit_and_wait(&u->ring, wait) : io_uring_submit(&u->ring);
    if (rc >= 0 || rc == -EINTR || rc == -EAGAIN || rc == -EBUSY) return 0;
    u->broken = -rc;
    return fm_fail_errno(err, FM_EIO, u->broken, "io_uring stopped working");
}

static int uring_submit(fm_io *io, fm_read **reads, int n, fm_error *err) {
    uring_io *u = (uring_io *)io;
    assert(io->n_in_flight + n <= u->depth);
    for (int i = 0; i < n && !u->broken; i++) {
        struct io_uring_sqe *sqe;
        while (!(sqe = io_uring_get_sqe(&u->ring)) && enter(u, 0, err) >= 0) {}
        if (!sqe) break;
        io_uring_prep_read(sqe, reads[i]->fd, reads[i]->data, reads[i]->bytes, reads[i]->offset);
        io_uring_sqe_set_data(sqe, reads[i]);
    }
    if (u->broken || enter(u, 0, err) < 0) return fm_fail_errno(err, FM_EIO, u->broken, "io_uring stopped working");
    io->n_in_flight += n;
    return 0;
}

static int uring_reap(fm_io *io, fm_read **done, int max, bool wait, fm_error *err) {
    uring_io *u = (uring_io *)io;
    int n = 0;
    if (u->broken) return fm_fail_errno(err, FM_EIO, u->broken, "io_uring stopped working");
    if (!io->n_in_flight) return 0;
    if (io_uring_sq_ready(&u->ring) && enter(u, 0, err) < 0) return FM_EIO;
    for (;;) {
        struct io_uring_cqe *cqe;
        while (n < max && !io_uring_peek_cqe(&u->ring, &cqe)) {
            fm_read *r = io_uring_cqe_get_data(cqe);
            r->result = cqe->res;
            done[n++] = r;
            io_uring_cqe_seen(&u->ring, cqe);
        }
        if (n || !wait) break;
        if (enter(u, 1, err) < 0) return FM_EIO;
    }
    io->n_in_flight -= n;
    return n;
}

const fm_io_ops fm_io_uring = {.name = "uring", .open = uring_open, .close = uring_close, .submit = uring_submit, .reap = uring_reap};
