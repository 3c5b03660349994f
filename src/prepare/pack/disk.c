/* prepare/pack/disk.c: what the disk does when nothing is computed, measured just before the work, by as many threads. */
#include <unistd.h>

#include "base/system.h"
#include "base/write.h"
#include "prepare/pack/pack.h"

#define WRITE_BYTES ((uint64_t)1 << 30) /* each place is written once, as what is packed is */

typedef struct measuring {
    const fm_file *files;
    int n_files;
    fm_writer *writer;
    uint8_t *buffers;
    double until;
    _Atomic uint64_t bytes, next;
} measuring;

static void read_task(void *arg, int task, int thread) {
    measuring *m = arg;
    uint8_t *buffer = m->buffers + (size_t)thread * FM_DISK_PIECE;
    (void)task;
    while (fm_now() < m->until) {
        /* A step that has no common factor with the number of pieces visits them in no order. */
        uint64_t i = atomic_fetch_add(&m->next, 1) * 2654435761u;
        const fm_file *f = &m->files[i % (uint64_t)m->n_files];
        uint64_t pieces = f->size / FM_DISK_PIECE;
        if (!pieces) continue;
        ssize_t n = pread(f->direct_fd, buffer, FM_DISK_PIECE, (off_t)(i / (uint64_t)m->n_files % pieces * FM_DISK_PIECE));
        if (n > 0) atomic_fetch_add(&m->bytes, (uint64_t)n);
    }
}

static void write_task(void *arg, int task, int thread) {
    measuring *m = arg;
    (void)task;
    while (fm_now() < m->until) {
        uint64_t at = atomic_fetch_add(&m->next, 1) * FM_DISK_PIECE;
        if (at >= WRITE_BYTES || fm_writer_put(m->writer, m->buffers + (size_t)thread * FM_DISK_PIECE, FM_DISK_PIECE, at, NULL) < 0) return;
        atomic_fetch_add(&m->bytes, FM_DISK_PIECE);
    }
}

double fm_disk_read_rate(fm_pool *pool, const fm_file *files, int n_files, uint8_t *buffers, double seconds) {
    double begin = fm_now();
    measuring m = {.files = files, .n_files = n_files, .buffers = buffers, .until = begin + seconds};
    bool any = false;
    for (int i = 0; i < n_files; i++) {
        if (files[i].direct_fd < 0 || files[i].alignment > FM_FILE_PAGE) return 0;
        any |= files[i].size >= FM_DISK_PIECE;
    }
    if (!any) return 0;
    fm_pool_run(pool, fm_pool_n_threads(pool), read_task, &m);
    return (double)atomic_load(&m.bytes) / (fm_now() - begin);
}

double fm_disk_write_rate(fm_pool *pool, const char *path, uint8_t *buffers, double seconds) {
    fm_writer w;
    (void)unlink(path);
    if (fm_writer_open(&w, path, WRITE_BYTES, NULL) < 0) return 0;
    double begin = fm_now();
    measuring m = {.writer = &w, .buffers = buffers, .until = begin + seconds};
    fm_pool_run(pool, fm_pool_n_threads(pool), write_task, &m);
    int rc = fm_writer_finish(&w, NULL);
    double taken = fm_now() - begin;
    (void)unlink(path);
    return rc < 0 ? 0 : (double)atomic_load(&m.bytes) / taken;
}
