/* hub/answer.h: what the hub answers, read strictly: which files a revision of a model has, and which of them the engine needs. */
#ifndef FM_HUB_ANSWER_H
#define FM_HUB_ANSWER_H

#include "base/error.h"

typedef struct fm_hub_file {
    char *name; /* a plain path (name.h) */
    uint64_t bytes;
    char hash[65]; /* sha256 (64 digits) or git's (40) of its contents; "": the listing does not say, and bytes neither */
    bool weights;  /* else small */
} fm_hub_file;

typedef struct fm_hub_listing {
    char commit[41];
    fm_hub_file *files;
    int n_files;
} fm_hub_listing;

/* The answer of /api/models/ORG/NAME/revision/REVISION?blobs=true, of which where says in messages where it came from. FM_EFORMAT if it is none: no commit, a size or a hash
 * that is none, a file given twice. Files whose names are no plain paths are left out. */
int fm_hub_listing_parse(fm_hub_listing *out, const char *where, const char *text, size_t bytes, fm_error *err);
void fm_hub_listing_close(fm_hub_listing *listing);
/* NULL: it is not there. Not of a listing of which some were selected. */
const fm_hub_file *fm_hub_listing_find(const fm_hub_listing *listing, const char *name);

/* Leaves in the listing what the engine needs: small files first, then the weights in the order of their names. index: the text of model.safetensors.index.json, if the
 * listing has one; what it names must be there. FM_EFORMAT if there are no weights that the engine reads. */
int fm_hub_listing_select(fm_hub_listing *listing, const char *where, const char *index, size_t index_bytes, fm_error *err);

#define FM_HUB_INDEX "model.safetensors.index.json"

#endif
