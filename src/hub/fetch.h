/* hub/fetch.h: files from the hub to the disk, several connections at once, large files by ranges. A file that is not whole yet is always the first bytes of it, written
 * in order, so that whatever ends the program, it goes on from there; it gets its name when its hash is right. */
#ifndef FM_HUB_FETCH_H
#define FM_HUB_FETCH_H

#include "hub/answer.h"
#include "hub/cache.h"
#include "hub/http.h"

typedef struct fm_fetch_file {
    const fm_hub_file *file;
    char part[FM_HUB_PATH], whole[FM_HUB_PATH]; /* while it is not whole, and then */
    char lock[FM_HUB_PATH];                     /* locked while it is written; "": no lock */
    uint64_t want;                              /* bytes to fetch: all, or fewer, then it stays a part */
} fm_fetch_file;

typedef struct fm_fetch {
    const fm_hub *hub;
    char commit[41];
    fm_fetch_file *files; /* in the order in which they are begun */
    int n_files;
    int n_connections;
    /* Called several times a second with the bytes that are there, of all files. Non-zero ends it. */
    int (*progress)(void *user, uint64_t done);
    bool (*may_begin)(void *user, int file);             /* NULL: always */
    int (*arrived)(void *user, int file, fm_error *err); /* NULL: nothing is to be done */
    void *user;
} fm_fetch;

#define FM_FETCH_CONNECTIONS 64

/* Fetches all files. Those of which whole is there already have arrived. FM_EIO: it cannot be had, or not be written; FM_EFORMAT: it has another size or hash than the hub
 * said; FM_ECANCELLED. What was fetched stays. */
int fm_fetch_run(const fm_fetch *fetch, fm_error *err);

#endif
