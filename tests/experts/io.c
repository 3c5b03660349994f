/* tests/experts/io.c: the I/O back ends alone: many reads of a file in flight, its end, a bad descriptor, closing in the middle, another thread. */
#include "experts/io.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "test.h"

#define DEPTH 24
#define BYTES 5000
#define FILE_BYTES (BYTES * 100 + 321)

static int fd = -1;

static uint8_t byte_at(uint64_t offset) {
    uint64_t word = offset / 8;
    return (uint8_t)(test_random(&word) >> (offset % 8 * 8));
}

static void make_file(void) {
    char path[] = "io-XXXXXX";
    uint8_t *data = malloc(FILE_BYTES);
    for (uint64_t i = 0; i < FILE_BYTES; i++) data[i] = byte_at(i);
    fd = mkstemp(path);
    if (fd < 0 || write(fd, data, FILE_BYTES) != FILE_BYTES) {
        perror(path);
        exit(1);
    }
    unlink(path);
    free(data);
}

static void check(const fm_read *r) {
    int64_t left = (int64_t)FILE_BYTES - (int64_t)r->offset, expected = left < 0 ? 0 : left < (int64_t)r->bytes ? left : (int64_t)r->bytes;
    CHECK(r->result == expected, "%u bytes at %llu: %d", r->bytes, (unsigned long long)r->offset, r->result);
    for (int32_t i = 0; i < r->result; i++) {
        if (((uint8_t *)r->data)[i] == byte_at(r->offset + (uint64_t)i)) continue;
        CHECK(false, "byte %d of the read at %llu is wrong", i, (unsigned long long)r->offset);
        return;
    }
}

typedef struct many {
    fm_io *io;
    uint8_t data[DEPTH][BYTES];
    fm_read reads[DEPTH];
    uint64_t seed;
} many;

static void fill(many *m, int i) {
    memset(m->data[i], 0xee, BYTES);
    m->reads[i] = (fm_read){.fd = fd,
                            .data = m->data[i],
                            .offset = test_random(&m->seed) % (FILE_BYTES + 2000),
                            .bytes = 1 + (uint32_t)(test_random(&m->seed) % BYTES),
                            .result = -12345,
                            .user = &m->reads[i]};
}

/* Keeps DEPTH reads in flight; each comes back once. */
static void *run_many(void *arg) {
    many *m = arg;
    fm_read *batch[DEPTH], *done[7];
    for (int i = 0; i < DEPTH; i++) {
        fill(m, i);
        batch[i] = &m->reads[i];
    }
    MUST(m->io->ops->submit(m->io, batch, DEPTH, err));
    CHECK(m->io->n_in_flight == DEPTH, "%d in flight", m->io->n_in_flight);
    for (int n_done = 0, n_started = DEPTH; n_done < n_started;) {
        int n = m->io->ops->reap(m->io, done, 7, n_done % 2, NULL), n_again = 0;
        CHECK(n >= n_done % 2 && n <= 7, "reap gives %d", n); /* at least one when it was told to wait */
        for (int i = 0; i < n; i++) {
            CHECK(done[i]->user == done[i] && done[i]->result != -12345, "a read that did not end");
            check(done[i]);
            n_done++;
            if (n_started == 600) {
                done[i]->user = NULL; /* must not come again */
                continue;
            }
            fill(m, (int)(done[i] - m->reads));
            batch[n_again++] = done[i];
            n_started++;
        }
        MUST(m->io->ops->submit(m->io, batch, n_again, err));
        CHECK(m->io->n_in_flight == n_started - n_done, "%d in flight, expected %d", m->io->n_in_flight, n_started - n_done);
    }
    CHECK(m->io->ops->reap(m->io, done, 7, true, NULL) == 0, "waiting although nothing is in flight");
    return NULL;
}

static void bad_descriptor(fm_io *io) {
    uint8_t data[16];
    fm_read r = {.fd = -1, .data = data, .bytes = 16}, *one = &r, *done[1];
    MUST(io->ops->submit(io, &one, 1, err));
    int n = io->ops->reap(io, done, 1, true, NULL);
    CHECK(n == 1 && r.result == -EBADF, "%d, %d", n, r.result);
}

static void try_back_end(const char *name) {
    many *m = calloc(1, sizeof *m);
    const char *note;
    fm_error e = {0};
    pthread_t thread;
    int rc = fm_io_open(&m->io, name, DEPTH, &note, &e);
    if (rc == FM_EUNSUPPORTED) {
        fprintf(stderr, "left out: %s: %s\n", name, e.message);
        free(m);
        return;
    }
    CHECK(rc == 0 && !strcmp(m->io->ops->name, name), "%s: %d, %s", name, rc, e.message);
    run_many(m);
    bad_descriptor(m->io);
    /* An engine may move to another thread. */
    if (pthread_create(&thread, NULL, run_many, m) == 0) pthread_join(thread, NULL);
    run_many(m);
    /* Closing waits for what is in flight: the buffers may go afterwards. */
    fm_read *batch[DEPTH];
    for (int i = 0; i < DEPTH; i++) {
        fill(m, i);
        batch[i] = &m->reads[i];
    }
    MUST(m->io->ops->submit(m->io, batch, DEPTH, err));
    m->io->ops->close(&m->io);
    CHECK(!m->io, "close leaves the pointer");
    free(m);
}

int main(void) {
    const char *note;
    fm_io *io = NULL;
    fm_error e = {0};
    make_file();
    try_back_end("pread");
#ifdef FM_HAVE_URING
    try_back_end("uring");
#endif
    CHECK(fm_io_open(&io, "aio", 4, &note, &e) == FM_EINVAL && strstr(e.message, "aio") && strstr(e.message, "pread"), "\"%s\"", e.message);
    MUST(fm_io_open(&io, NULL, 4, &note, err));
    CHECK(!strcmp(io->ops->name, "uring") || note || !strcmp(io->ops->name, "pread"), "the default is %s", io->ops->name);
    io->ops->close(&io);
    close(fd);
    return TEST_END();
}
