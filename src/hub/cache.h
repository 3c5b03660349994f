/* hub/cache.h: huggingface_hub's cache of models, in which its files and ours are the same:
 *
 *   CACHE/models--ORG--NAME/blobs/HASH                 contents, once; HASH.incomplete: the first bytes of them
 *   CACHE/models--ORG--NAME/snapshots/COMMIT/FILE      a link to its blob
 *   CACHE/models--ORG--NAME/refs/REVISION              the commit that a branch or tag was
 *   CACHE/.locks/models--ORG--NAME/HASH.lock           locked (flock) while a blob is written */
#ifndef FM_HUB_CACHE_H
#define FM_HUB_CACHE_H

#include "hub/answer.h"
#include "hub/name.h"

#define FM_HUB_PATH 2300

typedef struct fm_hub_cache {
    char top[1024];               /* CACHE */
    char repo[1300], locks[1300]; /* the model's folders in it */
    char name[200];               /* ORG/NAME */
} fm_hub_cache;

/* Only names: nothing is made. FM_EINVAL if the path is too long. */
int fm_hub_cache_open(fm_hub_cache *cache, const char *top, const char *repo, fm_error *err);
/* Makes the folders, that of a commit too. FM_EIO. */
int fm_hub_cache_make(const fm_hub_cache *cache, const char *commit, fm_error *err);

void fm_hub_blob_path(const fm_hub_cache *cache, const char *hash, char out[FM_HUB_PATH]);
void fm_hub_snapshot_path(const fm_hub_cache *cache, const char *commit, char out[FM_HUB_PATH]);

/* Makes the snapshot's link to a blob that is there, or leaves the one that is. FM_EIO. */
int fm_hub_cache_link(const fm_hub_cache *cache, const char *commit, const fm_hub_file *file, fm_error *err);
/* Notes the commit of a revision. FM_EIO. */
int fm_hub_cache_note(const fm_hub_cache *cache, const char *revision, const char *commit, fm_error *err);
/* The commit that a revision was when it was noted; false: unknown. */
bool fm_hub_cache_commit(const fm_hub_cache *cache, const char *revision, char commit[41]);

bool fm_hub_has_bytes(const char *path, uint64_t bytes);

#endif
