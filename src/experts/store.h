/* experts/store.h: the expert store: slots, pins, reads in flight, leases.
 *
 * An expert is a key = layer * n_experts + expert. On disk it is a short list of extents; in memory it is one slot, of a layout that
 * only the consumer knows. When an expert's bytes have just arrived they lie in a staging buffer as they are on disk, and whoever
 * takes the lease puts them into the slot (permuting them) before releasing it. One owner thread calls everything. After the store
 * is open nothing is allocated. */
#ifndef FM_EXPERTS_STORE_H
#define FM_EXPERTS_STORE_H

#include "experts/io.h"
#include "experts/policy.h"

#define FM_MAX_EXTENTS 12

typedef struct fm_extent {
    uint64_t offset;
    uint32_t bytes; /* 0: no more extents */
    uint32_t file;  /* index into files */
} fm_extent;

typedef struct fm_store_config {
    int n_layers, n_experts;  /* keys are 0 .. n_layers * n_experts - 1; a layer without experts has keys that are never asked for */
    size_t slot_bytes;        /* of one slot, a multiple of 64 */
    int n_slots;              /* at least 1 */
    int n_staging;            /* experts being read or waiting to be taken at once, at least 1 */
    int n_extents;            /* extents a key, at most FM_MAX_EXTENTS */
    const fm_extent *extents; /* [n_layers * n_experts][n_extents], borrowed for the store's life */
    const fm_extent *narrow;  /* in_place: [n_layers * n_experts] of narrow copies, which fit into slots too; NULL: none */
    const fm_file *files;     /* borrowed for the store's life */
    const fm_file *mirrors;   /* in_place: a second copy of each file, on another disk; half of each expert is read from it. NULL: none */
    bool in_place; /* a slot's bytes are those on disk: each key is one extent of whole 4 KiB pages, read into its slot; else through staging buffers */
    int n_guesses; /* slots that prefetch may hold at once, of n_slots; 0, or not in_place: it does nothing */
    const fm_policy_ops *policy;
    const fm_io_ops *io; /* NULL: io_name, or the best */
    const char *io_name;
    void (*log)(void *user, int level, const char *line);
    void *user;
} fm_store_config;

typedef struct fm_store fm_store;

typedef struct fm_lease {
    int key;
    int slot;
    bool narrow;                          /* it is the narrow copy */
    uint8_t *data;                        /* the slot's slot_bytes */
    bool fresh;                           /* just read: parts are to be put into data before release, unless they lie there already (in_place) */
    const uint8_t *parts[FM_MAX_EXTENTS]; /* when fresh: the first byte of each extent, of any alignment */
} fm_lease;

typedef struct fm_store_stats {
    uint64_t n_requests, n_hits;        /* keys that request took, and those of them that were in memory */
    uint64_t disk_bytes;                /* that the disk delivered: the aligned ranges around the extents */
    uint64_t n_reads;                   /* that delivered them; parts of an expert that touch are one read */
    uint64_t n_guessed, n_guesses_used; /* keys read on advice, and those of them that were asked for afterwards */
    double stall_seconds;               /* in next, waiting for a read */
    double disk_seconds;                /* at least one read in flight, as far as the owner has looked */
} fm_store_stats;

/* Memory that a store of this configuration takes, all of it. */
uint64_t fm_store_memory_bytes(const fm_store_config *config);

int fm_store_open(fm_store **store, const fm_store_config *config, fm_error *err);
void fm_store_close(fm_store **store);
const char *fm_store_io_name(const fm_store *store); /* "uring direct", "pread buffered" … */

/* Asks for keys (distinct, none leased or requested already), most wanted first: starts the reads of those that are not in memory, in this order, while a
 * staging buffer is free. Takes a prefix of them, as many as there are slots neither requested nor leased: at least 1 if there are none outstanding; returns how
 * many. Each key taken is handed out exactly once by next. FM_EIO… cancels what is requested.
 *
 * A list longer than that is asked for again, less what was taken, after each release. Nothing waits for ever as long as the consumer holds fewer leases than
 * there are staging buffers when it calls next (ready says whether more can be had). */
int fm_store_request(fm_store *store, const int *keys, int n, fm_error *err);

/* The same, but that the keys for which cold (NULL: none) is not 0 come as their narrow copies, unless the others are there. A narrow copy that is there is no hit for a key
 * that is not cold: it gives its slot up. */
int fm_store_request_cold(fm_store *store, const int *keys, const uint8_t *cold, int n, fm_error *err);

#define FM_ANY_KEY (-1)

/* The next expert that is ready: hits first in the order of the request, then in the order of arrival; or the one of `key`, waiting for it (in any order, but
 * one that is far from the order of the request costs reads twice). Blocks if need be. Returns 1, 0 when nothing requested is left, or an error: a failed read
 * names file, offset and errno or the short count; FM_EINVAL: key is not requested, or leases hold every staging buffer. After an error nothing requested is
 * left, reads in flight have been waited for, slots hold only what is whole, and leases stay valid. When the I/O back end itself has failed, not a read, each
 * further request is an error. */
int fm_store_next(fm_store *store, int key, fm_lease *lease, fm_error *err);
/* Whether next(FM_ANY_KEY) would return without waiting. Reaps and resubmits as a side effect; never blocks. */
bool fm_store_ready(fm_store *store);
/* Whether next(key) of a key that is requested would return without waiting. Reaps and resubmits too. */
bool fm_store_ready_key(fm_store *store, int key);

/* Advice: the keys that will probably be asked for next, likeliest first; replaces the last advice. They are read only while no read that was asked for waits or is in
 * flight, a few at a time, into slots of their own, so that no expert leaves for a guess but the n_guesses that such slots take. A read that fails is forgotten. */
void fm_store_prefetch(fm_store *store, const int *keys, int n);

/* What is to be in memory in the long run, most wanted first: each is read, one at a time, when nothing else is, into a free slot as long as there are any. Only in_place.
 * keys is borrowed until the next call or close. fill_wait: reads on, several at a time, for so many seconds; returns how many keys are still to
 * be looked at, 0 if none can be read. */
void fm_store_fill(fm_store *store, const int *keys, int n);
int fm_store_fill_wait(fm_store *store, double seconds);
/* These keys are not evicted once they are there, but when memory gets short; replaces the last ones. At most as many as leave min_left slots to others. */
void fm_store_pin(fm_store *store, const int *keys, int n, int min_left);
/* Keys that were wanted and are done without: counted as asked for and not found, and read in the background into slots that the policy gives. Only in_place. */
void fm_store_want(fm_store *store, const int *keys, int n);

/* Exactly once for each lease. release: data is whole. discard: it is not (the consumer found a bad value); the slot is emptied. */
void fm_store_release(fm_store *store, fm_lease *lease);
void fm_store_discard(fm_store *store, fm_lease *lease);

/* Gives up everything requested and not yet handed out: waits for the reads in flight. Leases handed out stay valid. */
void fm_store_cancel(fm_store *store);

/* Forgets every expert in memory, so that each has to be read again; returns how many. FM_EINVAL: some are requested or handed out. */
int fm_store_clear(fm_store *store, fm_error *err);
/* Whether a request for key would be a hit; whether its bytes are there at all, as a guess too. */
bool fm_store_holds(const fm_store *store, int key);
bool fm_store_at_hand(const fm_store *store, int key);

/* Gives n slots back to the system for good (fewer if pinned), keeping at least min_left; returns how many. */
int fm_store_shrink(fm_store *store, int n, int min_left);
int fm_store_n_slots(const fm_store *store);

/* The policy's counts of uses by key, to be kept for the next start: false if it has none. load: takes such counts up. */
bool fm_store_heat_save(const fm_store *store, float *heat);
bool fm_store_heat_load(fm_store *store, const float *heat);

/* Experts being read at once, from now on: 1 to n_staging, which it is at first. */
void fm_store_set_window(fm_store *store, int n);

/* Reaps and resubmits without waiting, for whoever computes something long. Costs next to nothing when no read is in flight. */
void fm_store_poll(fm_store *store);

/* Any thread may call this while the store is open: the experts from key 0 on, at most n of them, and the sums of fm_store_stats that out names. Returns the number of keys. */
int fm_store_live_read(const fm_store *store, fm_live *out, fm_live_expert *experts, int n);

void fm_store_stats_clear(fm_store *store); /* also what fm_store_live_read counts */
void fm_store_stats_read(const fm_store *store, fm_store_stats *out);

#endif
