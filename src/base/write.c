/* base/write.c: see write.h. */
#include "base/write.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define MAX_WRITE ((size_t)1 << 30) /* systems refuse or shorten writes of 2 GiB; a multiple of the alignment */
#define FLUSH_BYTES (1u << 20)      /* buffered writes of at least this much are written out at once */

static int open_direct(const char *path) {
#if defined(O_DIRECT)
    return open(path, O_WRONLY | O_CLOEXEC | O_DIRECT);
#elif defined(F_NOCACHE)
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && fcntl(fd, F_NOCACHE, 1) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
#else
    (void)path;
    return -1;
#endif
}

/* Room for all of the file, in one piece if the disk has one, which also lets several threads write at once. 0, or the errno; a file system that cannot do it is no
 * error. */
static int reserve(int fd, uint64_t bytes) {
#if defined(__linux__)
    int rc;
    do rc = bytes ? fallocate(fd, 0, 0, (off_t)bytes) : 0;
    while (rc && errno == EINTR);
    if (rc && errno != EOPNOTSUPP && errno != ENOSYS) return errno;
#else
    (void)fd, (void)bytes;
#endif
    return 0;
}

int fm_writer_open(fm_writer *w, const char *path, uint64_t bytes, fm_error *err) {
    *w = (fm_writer){.fd = -1, .direct_fd = -1};
    if (!(w->path = strdup(path))) return fm_fail(err, FM_ENOMEM, "%s: no memory for its name", path);
    int rc = 0, failed;
    w->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->fd < 0) rc = fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be made", path);
    if (rc == 0 && (failed = reserve(w->fd, bytes))) rc = fm_fail_errno(err, FM_EIO, failed, "%s: it cannot be written, its %" PRIu64 " bytes", path, bytes);
    if (rc < 0) {
        fm_writer_close(w);
        return rc;
    }
    w->direct_fd = open_direct(path);
    return 0;
}

/* Writes out what was just written, and lets go of its pages: who writes much would else push everything out of the cache. */
static void flush(int fd, uint64_t offset, size_t bytes) {
#if defined(__linux__)
    if (bytes < FLUSH_BYTES) return;
    (void)sync_file_range(fd, (off_t)offset, (off_t)bytes, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    (void)posix_fadvise(fd, (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
#else
    (void)fd, (void)offset, (void)bytes;
#endif
}

int fm_writer_put(fm_writer *w, const void *data, size_t bytes, uint64_t offset, fm_error *err) {
    bool direct = w->direct_fd >= 0 && ((uintptr_t)data | bytes | offset) % FM_WRITE_ALIGNMENT == 0;
    for (size_t done = 0; done < bytes;) {
        bool now = direct && done % FM_WRITE_ALIGNMENT == 0 && !atomic_load_explicit(&w->buffered, memory_order_relaxed);
        size_t want = bytes - done < MAX_WRITE ? bytes - done : MAX_WRITE;
        ssize_t n = pwrite(now ? w->direct_fd : w->fd, (const char *)data + done, want, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && now && (errno == EINVAL || errno == EOPNOTSUPP)) { /* some file systems take the flag and refuse the write */
            atomic_store(&w->buffered, true);
            continue;
        }
        if (n <= 0) { return fm_fail_errno(err, FM_EIO, n < 0 ? errno : EIO, "%s: it cannot be written, %zu bytes at %" PRIu64, w->path, bytes, offset); }
        if (!now) flush(w->fd, offset + done, (size_t)n);
        done += (size_t)n;
    }
    return 0;
}

int fm_writer_finish(fm_writer *w, fm_error *err) {
    int failed = fsync(w->fd) ? errno : 0, rc = 0;
    if (w->direct_fd >= 0 && close(w->direct_fd) && !failed) failed = errno;
    if (close(w->fd) && !failed) failed = errno;
    w->fd = w->direct_fd = -1;
    if (failed) rc = fm_fail_errno(err, FM_EIO, failed, "%s: it cannot be written", w->path);
    fm_writer_close(w);
    return rc;
}

void fm_writer_close(fm_writer *w) {
    if (!w->path) return; /* never opened: all its bytes may be 0, and 0 is the descriptor of somebody else */
    if (w->fd >= 0) close(w->fd);
    if (w->direct_fd >= 0) close(w->direct_fd);
    free(w->path);
    *w = (fm_writer){.fd = -1, .direct_fd = -1};
}

int fm_directory_sync(const char *path, fm_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC), failed = 0;
    if (fd < 0) return fm_fail_errno(err, FM_EIO, errno, "%s", path);
    if (fsync(fd) && errno != EINVAL && errno != EROFS) failed = errno; /* some file systems have nothing to do for a directory, and say so by EINVAL */
    close(fd);
    return failed ? fm_fail_errno(err, FM_EIO, failed, "%s: its entries cannot be written", path) : 0;
}

int fm_disk_free(const char *path, uint64_t *bytes, fm_error *err) {
    struct statvfs st;
    if (statvfs(path, &st)) return fm_fail_errno(err, FM_EIO, errno, "%s", path);
    *bytes = (uint64_t)st.f_bavail * (st.f_frsize ? st.f_frsize : st.f_bsize);
    return 0;
}
