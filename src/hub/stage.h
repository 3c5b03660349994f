/* hub/stage.h: DIR.pull, beside the DIR that a model is packed into while it is fetched:
 *
 *   DIR.pull/pull.json        which model of which commit
 *   DIR.pull/view/NAME        the model as packing sees it: links to files that are whole, and for a shard that is not a file of its size that has only a header
 *   DIR.pull/NAME             only without the cache: whole files; and HASH.incomplete */
#ifndef FM_HUB_STAGE_H
#define FM_HUB_STAGE_H

#include "hub/fetch.h"

typedef struct fm_hub_stage {
    char path[FM_HUB_PATH - 1200], view[FM_HUB_PATH - 1190];
    int lock;
} fm_hub_stage;

/* Makes it, or finds the one of a run before. FM_EIO: it is another model's, nobody's, or another program's that is at work. */
int fm_hub_stage_open(fm_hub_stage *stage, const char *directory, const char *repo, const char *commit, fm_error *err);
void fm_hub_stage_close(fm_hub_stage *stage);
/* Removes it. */
void fm_hub_stage_remove(const fm_hub_stage *stage);
/* Whether there is one beside directory that pull has made. */
bool fm_hub_stage_here(const char *directory);

/* Empties the view. */
int fm_hub_stage_clear(const fm_hub_stage *stage, fm_error *err);
/* Puts a whole file in the view, in place of what may be there. */
int fm_hub_stage_show(const fm_hub_stage *stage, const fm_fetch_file *file, fm_error *err);
/* Bytes of a shard's header, from what is there of it; 0: there is not enough to say. FM_EFORMAT: it is none. */
int fm_hub_stage_header(const fm_fetch_file *file, uint64_t *bytes, fm_error *err);
/* Puts a file of the shard's size in the view that has only its header. */
int fm_hub_stage_ghost(const fm_hub_stage *stage, const fm_fetch_file *file, fm_error *err);

#endif
