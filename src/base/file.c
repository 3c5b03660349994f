/* base/file.c: see file.h. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_ALIGNMENT 4096
#define MAX_ALIGNMENT 65536
#define MAX_READ ((size_t)1 << 30) /* systems refuse or shorten reads of 2 GiB */

/* What offset, length and address of a direct read must be a multiple of, as far as the system tells. */
static uint32_t alignment_of(int fd) {
#ifdef STATX_DIOALIGN
    struct statx sx;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && (sx.stx_mask & STATX_DIOALIGN) && sx.stx_dio_offset_align) {
        return sx.stx_dio_mem_align > sx.stx_dio_offset_align ? sx.stx_dio_mem_align : sx.stx_dio_offset_align;
    }
#endif
    (void)fd;
    return DEFAULT_ALIGNMENT;
}

/* Opens path past the page cache; test: and reads one block, as some file systems take the flag and refuse the read. */
static int open_direct(const char *path, bool test, uint32_t *alignment) {
#if defined(O_DIRECT)
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
#elif defined(F_NOCACHE)
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && fcntl(fd, F_NOCACHE, 1) != 0) {
        close(fd);
        fd = -1;
    }
#else
    int fd = -1;
#endif
    if (fd < 0) return -1;
    uint32_t block_bytes = alignment_of(fd);
    void *block = NULL;
    ssize_t n = test ? -1 : 0;
    if (test && block_bytes <= MAX_ALIGNMENT && posix_memalign(&block, block_bytes, block_bytes) == 0) {
        do n = pread(fd, block, block_bytes, 0);
        while (n < 0 && errno == EINTR);
        free(block);
    }
    if (n >= 0) {
        *alignment = block_bytes;
        return fd;
    }
    close(fd);
    return -1;
}

static int open_file(fm_file *file, const char *path, bool direct, bool test, fm_error *err) {
    struct stat st;
    int rc = 0;
    *file = (fm_file){.fd = -1, .direct_fd = -1, .alignment = 1};
    if (!(file->path = strdup(path))) return fm_fail(err, FM_ENOMEM, "%s: no memory for its name", path);
    /* Before it is opened: opening a pipe would wait for its writer. */
    if (stat(path, &st)) rc = fm_fail_errno(err, FM_EIO, errno, "%s", path);
    if (rc == 0 && !S_ISREG(st.st_mode)) rc = fm_fail(err, FM_EIO, "%s: it is %s, not a file", path, S_ISDIR(st.st_mode) ? "a directory" : "a device or pipe");
    if (rc == 0 && ((file->fd = open(path, O_RDONLY | O_CLOEXEC)) < 0 || fstat(file->fd, &st))) rc = fm_fail_errno(err, FM_EIO, errno, "%s", path);
    if (rc < 0) {
        fm_file_close(file);
        return rc;
    }
    file->size = (uint64_t)st.st_size;
    if (direct) file->direct_fd = open_direct(path, test, &file->alignment);
    return 0;
}

int fm_file_open(fm_file *file, const char *path, bool direct, fm_error *err) { return open_file(file, path, direct, true, err); }
int fm_file_open_untested(fm_file *file, const char *path, fm_error *err) { return open_file(file, path, true, false, err); }

void fm_file_close(fm_file *file) {
    if (!file->path) return; /* never opened: all its bytes may be 0, and 0 is the descriptor of somebody else */
    if (file->fd >= 0) close(file->fd);
    if (file->direct_fd >= 0) close(file->direct_fd);
    free(file->path);
    *file = (fm_file){.fd = -1, .direct_fd = -1, .alignment = 1};
}

int fm_file_read(const fm_file *file, void *data, size_t bytes, uint64_t offset, fm_error *err) {
    size_t got = 0;
    while (got < bytes) {
        size_t want = bytes - got < MAX_READ ? bytes - got : MAX_READ;
        ssize_t n = pread(file->fd, (char *)data + got, want, (off_t)(offset + got));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fm_fail_errno(err, FM_EIO, errno, "%s: reading %zu bytes at %" PRIu64, file->path, bytes, offset);
        if (n == 0)
            return fm_fail(err, FM_EFORMAT, "%s: it ends at byte %" PRIu64 ", but %zu bytes at %" PRIu64 " are needed", file->path, offset + got, bytes,
                           offset);
        got += (size_t)n;
    }
    return 0;
}

int64_t fm_file_read_some(const fm_file *file, void *data, size_t bytes, uint64_t offset, fm_error *err) {
    bool direct = file->direct_fd >= 0 && ((uintptr_t)data | bytes | offset) % file->alignment == 0;
    ssize_t n;
    do {
        n = pread(direct ? file->direct_fd : file->fd, data, bytes < MAX_READ ? bytes : MAX_READ, (off_t)offset);
        if (n < 0 && direct && (errno == EINVAL || errno == EOPNOTSUPP)) {
            direct = false;
            errno = EINTR;
        }
    } while (n < 0 && errno == EINTR);
    return n < 0 ? fm_fail_errno(err, FM_EIO, errno, "%s: reading %zu bytes at %" PRIu64, file->path, bytes, offset) : n;
}

int fm_file_read_direct(const fm_file *file, uint8_t *buffer, uint64_t offset, size_t bytes, const uint8_t **at, fm_error *err) {
    *at = buffer;
    if (file->direct_fd < 0 || file->alignment > FM_FILE_PAGE) return fm_file_read(file, buffer, bytes, offset, err);
    uint64_t begin = offset / FM_FILE_PAGE * FM_FILE_PAGE;
    size_t head = (size_t)(offset - begin), want = (head + bytes + FM_FILE_PAGE - 1) / FM_FILE_PAGE * FM_FILE_PAGE, got = 0;
    while (got < head + bytes) {
        ssize_t n = pread(file->direct_fd, buffer + got, want - got < MAX_READ ? want - got : MAX_READ, (off_t)(begin + got));
        if (n < 0 && errno == EINTR) continue;
        /* After a short read the rest would be unaligned: let the page cache have it. */
        if (n <= 0 || (n % FM_FILE_PAGE && got + (size_t)n < head + bytes)) return fm_file_read(file, buffer, bytes, offset, err);
        got += (size_t)n;
    }
    *at = buffer + head;
    return 0;
}

int fm_file_read_text(char **text, size_t *bytes, const char *path, size_t limit, fm_error *err) {
    fm_file file;
    *text = NULL;
    *bytes = 0;
    int rc = fm_file_open(&file, path, false, err);
    if (rc < 0) return rc;
    if (file.size > limit) {
        rc = fm_fail(err, FM_EFORMAT, "%s: %" PRIu64 " bytes are more than the %zu that such a file may have", path, file.size, limit);
    } else if (!(*text = malloc((size_t)file.size + 1))) {
        rc = fm_fail(err, FM_ENOMEM, "%s: no memory for its %" PRIu64 " bytes", path, file.size);
    } else {
        rc = fm_file_read(&file, *text, (size_t)file.size, 0, err);
    }
    if (rc < 0) {
        free(*text);
        *text = NULL;
    } else {
        *bytes = (size_t)file.size;
        (*text)[*bytes] = 0;
    }
    fm_file_close(&file);
    return rc;
}

int fm_path_join(char *out, size_t size, const char *directory, const char *name, fm_error *err) {
    size_t n = strlen(directory);
    int wrote = snprintf(out, size, n && directory[n - 1] == '/' ? "%s%s" : "%s/%s", directory, name);
    return wrote < 0 || (size_t)wrote >= size ? fm_fail(err, FM_EINVAL, "%s/%s: the path is too long", directory, name) : 0;
}

bool fm_path_exists(const char *path) { return access(path, F_OK) == 0; }

int fm_path_make(const char *path, unsigned mode, fm_error *err) {
    char *part = strdup(path);
    int rc = part ? 0 : fm_fail(err, FM_ENOMEM, "%s: no memory for a path", path);
    for (size_t n = strlen(path), at = 1; at <= n && rc == 0; at++) {
        if (path[at] && path[at] != '/') continue;
        part[at] = 0;
        int failed = mkdir(part, (mode_t)mode) ? errno : 0;
        if (failed && failed != EEXIST && !fm_path_exists(part)) rc = fm_fail_errno(err, FM_EIO, failed, "%s: it cannot be made", part);
        part[at] = path[at];
    }
    free(part);
    return rc;
}
