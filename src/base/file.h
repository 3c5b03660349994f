/* base/file.h: reading files, buffered and direct.
 *
 * Direct reads bypass the page cache; whether a file system allows them, and at which alignment, is found out when the
 * file is opened. */
#ifndef FM_BASE_FILE_H
#define FM_BASE_FILE_H

#include "base/error.h"

typedef struct fm_file {
    char *path;
    int fd;             /* buffered */
    int direct_fd;      /* O_DIRECT (F_NOCACHE on macOS); -1: refused, use fd */
    uint64_t size;      /* bytes, when it was opened */
    uint32_t alignment; /* of offset, length and address of a direct read: STATX_DIOALIGN's, else 4096; 1 when buffered */
} fm_file;

/* Opens path for reading. FM_EIO with the path: missing, unreadable, a directory. With direct, also tries direct I/O by
 * opening and by a test read; refused is no error (direct_fd is -1 then). */
int fm_file_open(fm_file *file, const char *path, bool direct, fm_error *err);
/* The same with direct, but for the test read: for small files that are read by fm_file_read_some. */
int fm_file_open_untested(fm_file *file, const char *path, fm_error *err);
void fm_file_close(fm_file *file); /* closing twice, or what is all 0, is fine */

/* Exactly bytes from offset, buffered. FM_EIO, or FM_EFORMAT if the file ends before, with path, offset and numbers. */
int fm_file_read(const fm_file *file, void *data, size_t bytes, uint64_t offset, fm_error *err);

/* At most bytes from offset, fewer at the end of the file, 0 behind it; direct if the file was opened so and data, bytes and offset are multiples of its alignment, and
 * buffered after all if the system refuses that. Returns how many; FM_EIO. */
int64_t fm_file_read_some(const fm_file *file, void *data, size_t bytes, uint64_t offset, fm_error *err);

/* The same past the page cache, where that works: by way of buffer, which is aligned to FM_FILE_PAGE and two pages longer than bytes; *at points to the first byte in it. */
#define FM_FILE_PAGE 4096u
int fm_file_read_direct(const fm_file *file, uint8_t *buffer, uint64_t offset, size_t bytes, const uint8_t **at, fm_error *err);

/* A whole small file (at most limit bytes) as a malloc'd string with a 0 after its *bytes bytes. */
int fm_file_read_text(char **text, size_t *bytes, const char *path, size_t limit, fm_error *err);

/* directory + "/" + name into out[size]; FM_EINVAL if it does not fit. */
int fm_path_join(char *out, size_t size, const char *directory, const char *name, fm_error *err);
bool fm_path_exists(const char *path);
/* Makes the directory and what is missing above it. FM_EIO. */
int fm_path_make(const char *path, unsigned mode, fm_error *err);

#endif
