/* experts/io.h: how bytes come from the disk: the seam of expert I/O. A back end submits reads and reaps completions.
 *
 * It knows nothing of experts. The owner thread calls everything; threads of its own are a back end's affair. */
#ifndef FM_EXPERTS_IO_H
#define FM_EXPERTS_IO_H

#include "base/file.h"

typedef struct fm_read {
    int fd;
    void *data; /* for direct reads aligned as the file needs it */
    uint64_t offset;
    uint32_t bytes;
    int32_t result; /* set when reaped: bytes read (short is possible, 0 at the file's end), or -errno */
    void *user;     /* the caller's */
} fm_read;

typedef struct fm_io fm_io;

typedef struct fm_io_ops {
    const char *name;
    /* depth: reads in flight at most. */
    int (*open)(fm_io **io, int depth, fm_error *err);
    /* Finishes what is in flight, then frees. */
    void (*close)(fm_io **io);
    /* Starts n reads; each fm_read stays where it is until reaped. Never more than depth in flight (our bug otherwise). FM_EIO: the
     * system refused; then none of these n is in flight. */
    int (*submit)(fm_io *io, fm_read **reads, int n, fm_error *err);
    /* Completed reads into done[max]; returns how many. wait: blocks until there is at least one, if any is in flight. */
    int (*reap)(fm_io *io, fm_read **done, int max, bool wait, fm_error *err);
} fm_io_ops;

struct fm_io {
    const fm_io_ops *ops;
    int n_in_flight;
};

extern const fm_io_ops fm_io_pread; /* a pool of threads calling pread: everywhere */
#ifdef FM_HAVE_URING
extern const fm_io_ops fm_io_uring; /* Linux; open fails with FM_EUNSUPPORTED where the kernel or a sandbox refuses it */
#endif

/* Opens the back end called name, or with NULL the best that works here: *note, a static line or NULL, says what was refused.
 * FM_EINVAL, with the list of names, for an unknown name. */
int fm_io_open(fm_io **io, const char *name, int depth, const char **note, fm_error *err);

#endif
