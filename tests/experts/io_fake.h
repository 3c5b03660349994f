/* tests/experts/io_fake.h: an I/O back end for tests. It reads real files, at the moment of reaping, in any order, and errs as it is told. It checks what the
 * store owes a back end: at most depth reads in flight, aligned direct reads. */
#ifndef FM_TESTS_IO_FAKE_H
#define FM_TESTS_IO_FAKE_H

#include "experts/io.h"

typedef struct io_fake_control {
    uint64_t seed;
    bool shuffle;       /* completions in any order, else the oldest first */
    int delay_percent;  /* of reaps without waiting that find nothing */
    int short_percent;  /* of reads that return fewer bytes, at least 1 */
    int short_most;     /* bytes of such a read at most; 0: any number */
    int fail_from;      /* number of the first completion that gets fail_result, counted from 0; -1: none */
    int fail_n;         /* how many in a row */
    int fail_result;    /* 0 (end of file) or -errno */
    int fail_submit;    /* number of the submit call that is refused, -1: none */
    int fail_reap;      /* number of the reap call that is refused, -1: none */
    uint32_t alignment; /* of direct reads, for the check */
    /* counted */
    int n_completed, n_submits, n_reaps, n_open, most_in_flight, n_misaligned;
    uint64_t bytes; /* delivered */
} io_fake_control;

/* What the back ends opened from now on obey. */
extern io_fake_control io_fake;
extern const fm_io_ops io_fake_ops;

#define IO_FAKE_INIT                                                                                                                                           \
    (io_fake_control) { .fail_from = -1, .fail_submit = -1, .fail_reap = -1, .alignment = 1 }

#endif
