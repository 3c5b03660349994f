/* hub/pull.h: the inside of a pull: what is wanted of which model, and where it goes. */
#ifndef FM_HUB_PULL_H
#define FM_HUB_PULL_H

#include "flash_moe_tools.h"
#include "hub/fetch.h"
#include "hub/hash.h"

typedef struct fm_pull_job {
    fm_pull_options options;
    fm_hub hub;
    fm_hub_name name;
    fm_hub_cache cache;
    fm_hub_listing listing; /* what is needed */
    fm_fetch_file *files;   /* [listing.n_files] */
    char snapshot[FM_HUB_PATH];
    const char *what; /* of progress */
    uint64_t done, total;
    int first; /* of the listing's files in the fetch at work */
} fm_pull_job;

/* Bytes of a file that are on the disk. */
uint64_t fm_pull_here(const fm_fetch_file *file);
/* Fetches files [first, first + n) into the cache's snapshot. */
int fm_pull_fetch(fm_pull_job *job, int first, int n, fm_error *err);
/* Says how far it is; non-zero: it is cancelled. */
int fm_pull_tell(fm_pull_job *job, uint64_t done);

/* feed.c: the same with packing as the shards arrive. */
int fm_pull_pack(fm_pull_job *job, fm_pull_result *result, fm_error *err);

#endif
