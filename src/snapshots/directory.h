/* snapshots/directory.h: snapshots as files, where a later process finds them, and several share them.
 *
 *   DIR/lock                       held (flock) by who writes or removes; reading needs none. Its text counts what was written, for the limit of writing
 *   DIR/MODEL/N-HASH.snapshot      the state behind N tokens, with the rows behind its last whole page
 *   DIR/MODEL/N-HASH.page          the rows of the FM_PAGE_TOKENS tokens before N: shared, never written again
 *   DIR/MODEL/NUMBER.part          being written; left by a crash, it is removed by the next who has the lock
 *
 * MODEL is the model's identity in hex, HASH that of the identity and the first N tokens. Files appear when they are whole, a snapshot after its pages. Each use sets the
 * files' times; a page's is never before that of a snapshot that needs it, so removing the oldest first, snapshots before pages of the same age, never removes
 * a page that is needed. What is damaged is a line in the log, and is removed; what the system refuses is a line, once. */
#ifndef FM_SNAPSHOTS_DIRECTORY_H
#define FM_SNAPSHOTS_DIRECTORY_H

#include "snapshots/state_file.h"

/* The limit of writing, which all processes share: what they wrote, less FM_DIRECTORY_WRITE_RATE for each second since, is less than FM_DIRECTORY_WRITE_BYTES when a
 * snapshot is begun. So no day writes more than 52 GiB and one snapshot. */
#define FM_DIRECTORY_WRITE_BYTES ((uint64_t)4 << 30)
#define FM_DIRECTORY_WRITE_RATE (((uint64_t)2 << 30) / 3600)

typedef struct fm_directory_config {
    const char *path;
    uint64_t limit_bytes;
    uint64_t write_bytes; /* FM_DIRECTORY_WRITE_BYTES, but for tests */
    const fm_model *model;
    fm_snapshots *snapshots;
    void (*log)(void *user, int level, const char *line);
    void *user;
} fm_directory_config;

typedef struct fm_directory fm_directory;

/* Makes nothing on the disk; removes what a crash left. */
int fm_directory_open(fm_directory **directory, const fm_directory_config *config, fm_error *err);
void fm_directory_close(fm_directory **directory);

/* Makes timeline hold the longest snapshot of the first of ids, more than `more` tokens and at most n. Returns its tokens; 0: none. What the timeline held may
 * be lost in any case, but for rows: then its position is 0. */
int fm_directory_restore(fm_directory *directory, fm_timeline *timeline, const int32_t *ids, int more, int n);
/* Writes snapshots that are in memory alone, the latest first, until the time (fm_now) is `deadline`, waiting for the lock till then at most, or until the limit of
 * writing is reached. Returns how many are left. */
int fm_directory_store(fm_directory *directory, double deadline);

#endif
