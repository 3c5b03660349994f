/* snapshots/snapshots.h: saved states of sessions, in memory and under a limit.
 *
 * A snapshot is tokens, the fixed part of the state behind them (recurrent states), and the KV cache of their positions ("rows"). Rows are not copied while some session
 * holds them anyway: a session's rows stay behind its position until other tokens overwrite them. Before they are, whoever needs them takes copies, in pages that
 * snapshots with the same tokens share; what does not fit under the limit goes, the least recently used first. So every snapshot that is found is whole.
 *
 * Nothing here knows the disk: see directory.h. One owner thread. */
#ifndef FM_SNAPSHOTS_SNAPSHOTS_H
#define FM_SNAPSHOTS_SNAPSHOTS_H

#include "base/memory.h"
#include "model/device.h"

#define FM_PAGE_TOKENS 256 /* a multiple of FM_STATE_TILE */

/* What a session holds. */
typedef struct fm_timeline {
    fm_state *state;
    int32_t *ids;             /* [n_rows], room for the context */
    int position;             /* tokens in the session: those that the fixed part of the state has seen */
    int n_rows;               /* tokens whose rows lie in the state: position, or more after going back */
    struct fm_timeline *next; /* of those that are entered */
} fm_timeline;

/* A copy of the rows from a multiple of FM_PAGE_TOKENS on. */
typedef struct fm_page {
    fm_region rows;
    int n_users; /* snapshots */
    int n;       /* tokens */
} fm_page;

typedef struct fm_snapshot {
    struct fm_snapshot *next;
    int n;
    int32_t *ids; /* [n] */
    fm_region fixed;
    fm_page **pages; /* [(n + FM_PAGE_TOKENS - 1) / FM_PAGE_TOKENS]; NULL: in a timeline */
    uint64_t used;   /* stamp of its last use */
    bool between;    /* of a long stretch, not asked for: these take half of the limit at most */
    bool ready;      /* else it is being made, and stays */
    bool stored;     /* on the disk, or not to be tried again */
} fm_snapshot;

typedef struct fm_snapshots_config {
    const fm_device_ops *ops;
    fm_device_config device;
    uint64_t limit_bytes;
} fm_snapshots_config;

typedef struct fm_snapshots {
    fm_snapshots_config config; /* limit_bytes: less what reading files takes */
    int n_readers;              /* threads that read files of states */
    uint64_t fixed_bytes;       /* of a state */
    int n_parts;                /* of rows */
    fm_bytes *parts;            /* [n_parts] */
    fm_snapshot *first;         /* in no order */
    fm_timeline *timeline;      /* the first */
    uint64_t used_bytes, between_bytes, stamp;
} fm_snapshots;

int fm_snapshots_open(fm_snapshots **snapshots, const fm_snapshots_config *config, fm_error *err);
void fm_snapshots_close(fm_snapshots **snapshots);

/* Timelines whose rows snapshots may lie in. leave: their copies are taken first. */
void fm_snapshots_enter(fm_snapshots *snapshots, fm_timeline *timeline);
void fm_snapshots_leave(fm_snapshots *snapshots, fm_timeline *timeline);
/* To be called before rows from position `from` on are written over by those of other tokens: what needs them takes copies or goes. They are the timeline's no more. */
void fm_snapshots_overwrite(fm_snapshots *snapshots, fm_timeline *timeline, int from);

/* Zeroes what lies behind timelines' rows in their last tiles, which is copied with them. */
void fm_snapshots_tidy(fm_snapshots *snapshots);

/* A new snapshot of ids [n], without contents: to be filled and then set ready, or dropped. NULL if there is one already (which has been used now), or no room. */
fm_snapshot *fm_snapshots_make(fm_snapshots *snapshots, const int32_t *ids, int n, bool between);
void fm_snapshots_drop(fm_snapshots *snapshots, fm_snapshot *snapshot);
/* The longest whose tokens are the first of ids, at most n of them; NULL: none. */
fm_snapshot *fm_snapshots_find(const fm_snapshots *snapshots, const int32_t *ids, int n);
/* Makes timeline hold it. */
void fm_snapshots_restore(fm_snapshots *snapshots, fm_snapshot *snapshot, fm_timeline *timeline);
/* Where the rows of its page are: parts [n_parts], of whole tiles; true. False: it has lost them (not of one that is ready). */
bool fm_snapshots_rows(const fm_snapshots *snapshots, const fm_snapshot *snapshot, int page, fm_bytes *parts);

/* How many of the first n of a and b are the same. */
int fm_common_tokens(const int32_t *a, const int32_t *b, int n);
static inline int fm_page_count(int n) { return (n + FM_PAGE_TOKENS - 1) / FM_PAGE_TOKENS; }
/* Tokens of a snapshot of n up to the end of its page. */
static inline int fm_page_end(int n, int page) { return n < (page + 1) * FM_PAGE_TOKENS ? n : (page + 1) * FM_PAGE_TOKENS; }

#endif
