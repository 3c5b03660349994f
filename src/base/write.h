/* base/write.h: writing large files: past the page cache where the file system allows it, and without flooding the cache where it does not. */
#ifndef FM_BASE_WRITE_H
#define FM_BASE_WRITE_H

#include <stdatomic.h>

#include "base/error.h"

#define FM_WRITE_ALIGNMENT 4096u /* of address, offset and length of what is written past the page cache */

typedef struct fm_writer {
    char *path;
    int fd;               /* buffered */
    int direct_fd;        /* O_DIRECT (F_NOCACHE on macOS); -1: refused */
    atomic_bool buffered; /* a direct write was refused: use fd */
} fm_writer;

/* Makes the file, whose bytes are reserved on the disk where the file system can, so that a full disk is known before anything is written. FM_EIO naming path
 * and bytes; also if the file is there already. */
int fm_writer_open(fm_writer *writer, const char *path, uint64_t bytes, fm_error *err);
/* All of data at offset; from any thread. Direct if address, offset and bytes are aligned. FM_EIO. */
int fm_writer_put(fm_writer *writer, const void *data, size_t bytes, uint64_t offset, fm_error *err);
/* Makes sure that everything is on the disk, and closes, in any case. FM_EIO. */
int fm_writer_finish(fm_writer *writer, fm_error *err);
/* Closes without care for what was written; closing twice, or what is all 0, is fine. */
void fm_writer_close(fm_writer *writer);

/* Makes sure that a directory's entries are on the disk. */
int fm_directory_sync(const char *path, fm_error *err);
/* Bytes that this user may still write to the file system path lies on. FM_EIO. */
int fm_disk_free(const char *path, uint64_t *bytes, fm_error *err);

#endif
