/* snapshots/readers.h: reading files of states: a window that goes through a file, and threads that read several at once, so that the disk has enough to do while what came
 * is hashed and put into its place. */
#ifndef FM_SNAPSHOTS_READERS_H
#define FM_SNAPSHOTS_READERS_H

#include "base/file.h"

#define FM_MAX_READERS 8
#define FM_WINDOW_ALIGNMENT 4096u /* of a window's memory and of what it reads */

typedef struct fm_window {
    uint8_t *data;
    size_t bytes;        /* room */
    const fm_file *file; /* borrowed */
    uint64_t start;      /* of what it has, in the file */
    size_t n;
} fm_window;

/* Forgets what it has: it is to go through file now. */
void fm_window_begin(fm_window *window, const fm_file *file);
/* The bytes of the file at [at, at + n), which fit with 2 * FM_WINDOW_ALIGNMENT more; valid until the next call. It may read on, but not past `end`. FM_EIO, FM_EFORMAT if
 * the file ends before. */
int fm_window_need(fm_window *window, uint64_t at, size_t n, uint64_t end, const uint8_t **out, fm_error *err);

/* Calls task(arg, 0 … n_tasks - 1, window) from up to n_readers threads, the caller's among them, each with a window of its own of at least window_bytes. */
int fm_readers_run(int n_readers, size_t window_bytes, int n_tasks, void (*task)(void *arg, int i, fm_window *window), void *arg, fm_error *err);

#endif
