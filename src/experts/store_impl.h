/* experts/store_impl.h: what store.c (slots, leases) and store_read.c (staging, reads in flight) share. Not for anyone else. */
#ifndef FM_EXPERTS_STORE_IMPL_H
#define FM_EXPERTS_STORE_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/memory.h"
#include "experts/store.h"

/* What a slot is at. Each state has a list of its slots, in the order in which they came into it. */
typedef enum fm_slot_state {
    FM_SLOT_FREE,     /* holds nothing */
    FM_SLOT_QUEUED,   /* its key is requested and waits for a staging buffer */
    FM_SLOT_READING,  /* requested, reads in flight into its staging buffer (in place: into the slot) */
    FM_SLOT_READY,    /* requested, its bytes lie there */
    FM_SLOT_HIT,      /* requested, and it already held its key */
    FM_SLOT_LEASED,   /* handed out */
    FM_SLOT_RESIDENT, /* holds its key; the only state from which a policy may evict it */
    FM_SLOT_GUESSING, /* nobody asked for its key yet, reads in flight; filling: it becomes RESIDENT by itself */
    FM_SLOT_GUESSED,  /* nobody asked for its key yet, and it is there */
    FM_SLOT_GONE,     /* given back to the system */
    FM_N_SLOT_STATES
} fm_slot_state;

typedef struct fm_slot {
    int key;        /* -1: none */
    int prev, next; /* in its state's list, -1: none */
    int staging;    /* -1: none */
    fm_slot_state state;
    bool narrow;  /* the narrow copy of key */
    bool filling; /* GUESSING for fill or want; wanted: it counts as used */
    bool wanted;
    bool fresh; /* RESIDENT and HIT: nobody has looked at its bytes yet */
} fm_slot;

typedef struct fm_slot_list {
    int first, last, n;
} fm_slot_list;

typedef struct fm_reading { /* one read: the aligned range around one extent, or around several that touch */
    fm_read io;
    const fm_file *file;
    uint8_t *data; /* of the range */
    uint64_t start;
    uint32_t bytes;    /* of the range */
    uint32_t expected; /* less than bytes where the range passes the end of the file */
    uint32_t done;
    int n_tries; /* without progress */
    int staging;
} fm_reading;

typedef struct fm_staging { /* of an expert being read; in place it has no memory of its own, and is free as soon as the reads are whole */
    uint8_t *data;
    int slot, next_free;
    int n_left; /* reads that are not whole yet */
    const uint8_t *parts[FM_MAX_EXTENTS];
    fm_reading reads[FM_MAX_EXTENTS]; /* with a mirror, where an expert is one extent, two */
} fm_staging;

typedef struct fm_toucher { /* the thread that faults slots in ahead of their use */
    pthread_t thread;
    bool running; /* to be joined */
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    size_t target; /* under mutex: how far to touch */
    bool stop;     /* under mutex */
} fm_toucher;

/* What other threads may see: written by the owner alone, each word whole, without any order between them. */
typedef struct fm_store_live {
    _Atomic uint64_t *keys; /* [keys] uses << 32 | reads << 2 | FM_EXPERT_… */
    _Atomic uint64_t n_requests, n_hits, disk_bytes;
} fm_store_live;

struct fm_store {
    fm_store_config config;
    fm_policy *policy;
    fm_io *io;
    char name[40];
    fm_region slot_region, staging_region;
    fm_slot *slots;  /* [n_slots] */
    int *slot_of;    /* [keys], -1: absent */
    uint8_t *pinned; /* [n_slots] for the policy: everything that is not resident, and what keep says */
    uint8_t *keep;   /* [keys] not to be evicted */
    int n_kept;      /* of them resident */
    fm_slot_list lists[FM_N_SLOT_STATES];
    fm_staging *staging; /* [n_staging] */
    int free_staging;    /* first of a list, -1: none */
    int window;          /* experts being read at most */
    int depth;           /* reads in flight at most */
    int n_batch;
    fm_read **batch;                /* [depth] to be submitted together */
    fm_read **done;                 /* [depth] */
    int *advice, n_advice, advised; /* [n_guesses] keys, how many, and how many of them have been looked at */
    const int *fill;                /* [n_fill] keys, of which `filled` have been looked at */
    int n_fill, filled;
    bool waiting;    /* in fill_wait */
    fm_error error;  /* code != 0: found while settling, to be reported by the next call that can */
    bool cancelling; /* reads that end short are not continued */
    bool broken;     /* the back end failed: nothing is read any more */
    double busy_since;
    fm_store_stats stats;
    fm_store_live live;
    fm_toucher toucher;
};

/* How a file is read: direct where it can be and its alignment is one that staging buffers have. */
bool fm_store_reads_direct(const fm_file *file);
/* Bytes of one staging buffer: the worst key's aligned ranges. FM_EFORMAT, naming the file: an extent past its end. */
int fm_store_staging_bytes(const fm_store_config *config, size_t *bytes, fm_error *err);

/* Faults the pages of slots up to this one in, and some more. */
void fm_store_touch_ahead(fm_store *store, int slot);
/* Moves a slot to the end of the list of state; first: to its beginning. */
void fm_store_move(fm_store *store, int slot, fm_slot_state state, bool first);
/* The key of a slot is absent from now on; the slot is free. */
void fm_store_empty(fm_store *store, int slot);

static inline uint8_t *fm_store_slot_data(const fm_store *s, int slot) { return s->slot_region.data + (size_t)slot * s->config.slot_bytes; }
static inline int fm_store_n_guesses(const fm_store *s) { return s->lists[FM_SLOT_GUESSING].n + s->lists[FM_SLOT_GUESSED].n; }

/* Reads that one key may take. */
static inline int fm_store_reads_a_key(const fm_store_config *c) { return c->mirrors ? 2 : c->n_extents; }

/* store_live.c: opens, clears and closes what other threads may see. */
int fm_store_live_open(fm_store *store, fm_error *err);
void fm_store_live_clear(fm_store *store);
void fm_store_live_close(fm_store *store);
/* The key of a slot has come into a state; FM_SLOT_FREE: it leaves memory. */
void fm_store_live_state(fm_store *store, int key, fm_slot_state state);
void fm_store_live_used(fm_store *store, int key);
void fm_store_live_was_read(fm_store *store, int key);
void fm_store_live_sums(fm_store *store); /* after store->stats has changed */

/* Gives a slot a staging entry (there is one free) and puts its reads into the batch. */
void fm_store_begin_read(fm_store *store, int slot);
/* store_guess.c: begins reads of advice as far as nothing that was asked for waits. Whoever calls submits the batch. */
void fm_store_begin_guesses(fm_store *store);
/* The read of a slot that is filling is whole. */
void fm_store_end_fill(fm_store *store, int slot);
/* A guess is forgotten; no read of it is in flight. */
void fm_store_drop_guess(fm_store *store, int slot);
/* All of them, those in flight too (after a drain). */
void fm_store_drop_guesses(fm_store *store);
/* Starts reads while there are queued slots and staging buffers. A failure is left in store->error. */
void fm_store_start_reads(fm_store *store);
/* Settles the reads that have ended; wait: at least one, if any is in flight. Then starts more. A failure is left in store->error. */
void fm_store_settle(fm_store *store, bool wait);
/* Waits for all reads in flight, without starting any. */
void fm_store_drain(fm_store *store);
void fm_store_free_staging(fm_store *store, int slot);

#endif
