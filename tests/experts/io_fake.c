/* tests/experts/io_fake.c: see io_fake.h. */
#include "io_fake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "test.h"

#define GARBAGE 0xee

io_fake_control io_fake;

typedef struct fake_io {
    fm_io io;
    int depth;
    fm_read *reads[]; /* [depth] in flight, the oldest first */
} fake_io;

static int fake_open(fm_io **io, int depth, fm_error *err) {
    fake_io *f = calloc(1, sizeof *f + (size_t)depth * sizeof(fm_read *));
    *io = (fm_io *)f;
    if (!f) return fm_fail(err, FM_ENOMEM, "no memory for a fake queue");
    f->io.ops = &io_fake_ops;
    f->depth = depth;
    io_fake.n_open++;
    return 0;
}

static void fake_close(fm_io **io) {
    if (!*io) return;
    free(*io);
    *io = NULL;
    io_fake.n_open--;
}

static int fake_submit(fm_io *io, fm_read **reads, int n, fm_error *err) {
    fake_io *f = (fake_io *)io;
    if (io_fake.n_submits++ == io_fake.fail_submit) return fm_fail(err, FM_EIO, "the fake refuses to submit");
    if (io->n_in_flight + n > f->depth) abort();
    for (int i = 0; i < n; i++) {
        fm_read *r = reads[i];
        uint32_t a = fcntl(r->fd, F_GETFL) & O_DIRECT ? io_fake.alignment : 1;
        if (r->offset % a || r->bytes % a || (uintptr_t)r->data % a || !r->bytes) io_fake.n_misaligned++;
        memset(r->data, GARBAGE, r->bytes);
        f->reads[io->n_in_flight++] = r;
    }
    if (io->n_in_flight > io_fake.most_in_flight) io_fake.most_in_flight = io->n_in_flight;
    return 0;
}

/* What the read returns; past that its buffer holds garbage. */
static void complete(fm_read *r) {
    int number = io_fake.n_completed++;
    ssize_t n = pread(r->fd, r->data, r->bytes, (off_t)r->offset);
    r->result = n < 0 ? -errno : (int32_t)n;
    if (io_fake.fail_from >= 0 && number >= io_fake.fail_from && number < io_fake.fail_from + io_fake.fail_n) {
        r->result = io_fake.fail_result;
    } else if (r->result > 1 && (int)(test_random(&io_fake.seed) % 100) < io_fake.short_percent) {
        int most = io_fake.short_most && io_fake.short_most < r->result ? io_fake.short_most : r->result - 1;
        r->result = 1 + (int32_t)(test_random(&io_fake.seed) % (uint64_t)most);
    }
    uint32_t good = r->result > 0 ? (uint32_t)r->result : 0;
    memset((uint8_t *)r->data + good, GARBAGE, r->bytes - good);
    io_fake.bytes += good;
}

static int fake_reap(fm_io *io, fm_read **done, int max, bool wait, fm_error *err) {
    fake_io *f = (fake_io *)io;
    if (!io->n_in_flight) return 0;
    if (io_fake.n_reaps++ == io_fake.fail_reap) return fm_fail(err, FM_EIO, "the fake refuses to reap");
    if (!wait && (int)(test_random(&io_fake.seed) % 100) < io_fake.delay_percent) return 0;
    int n = 1 + (int)(test_random(&io_fake.seed) % (uint64_t)io->n_in_flight);
    if (n > max) n = max;
    for (int i = 0; i < n; i++) {
        int at = io_fake.shuffle ? (int)(test_random(&io_fake.seed) % (uint64_t)io->n_in_flight) : 0;
        done[i] = f->reads[at];
        complete(done[i]);
        memmove(&f->reads[at], &f->reads[at + 1], (size_t)(io->n_in_flight - at - 1) * sizeof *f->reads);
        io->n_in_flight--;
    }
    return n;
}

const fm_io_ops io_fake_ops = {.name = "fake", .open = fake_open, .close = fake_close, .submit = fake_submit, .reap = fake_reap};
