/* snapshots/directory_files.h: what directory.c and directory_store.c share. */
#ifndef FM_SNAPSHOTS_DIRECTORY_FILES_H
#define FM_SNAPSHOTS_DIRECTORY_FILES_H

#include "snapshots/directory.h"

#define FM_DIRECTORY_PATH 4096

struct timespec;

struct fm_directory {
    fm_directory_config config; /* path is not kept */
    char path[FM_DIRECTORY_PATH - 256], own[FM_DIRECTORY_PATH - 128];
    fm_identity identity;
    int lock;              /* descriptor; -1: not held */
    bool refused;          /* the system refused to write, and that was said */
    bool limited;          /* the limit of writing was reached, and that was said */
    uint64_t total_bytes;  /* of all files, while the lock is held */
    uint64_t wrote_bytes;  /* what counts for the limit of writing, while the lock is held */
    uint64_t wrote_before; /* the same when it was taken */
};

__attribute__((format(printf, 2, 3))) void fm_directory_log(const fm_directory *directory, const char *format, ...);
/* The path of a file, of the last part "N-HASH.kind", into out[FM_DIRECTORY_PATH]. */
void fm_directory_name(const fm_directory *directory, char *out, int n, const fm_identity *prefix, const char *kind);
/* Sets a file's time to now, or leaves a later one. False: it is not there. */
bool fm_directory_touch(const char *path, const struct timespec *now);

/* Makes the directories and takes the lock, waiting till deadline; removes what crashes left, counts total_bytes and
 * reads wrote_bytes, which unlock writes. FM_EIO; 0: somebody else has it; 1: it is ours. */
int fm_directory_lock(fm_directory *directory, double deadline, fm_error *err);
void fm_directory_unlock(fm_directory *directory);
/* The lock as who only looks has it, several at once: a descriptor to close; -1: somebody writes or removes just now. */
int fm_directory_share(const fm_directory *directory);
/* Removes the oldest files of all models until `bytes` more fit under the limit, but none whose time is that of *spare. The lock is held. */
void fm_directory_make_room(fm_directory *directory, uint64_t bytes, const struct timespec *spare);

#endif
