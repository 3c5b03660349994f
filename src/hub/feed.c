/* hub/feed.c: packing a model while it is fetched. */
#include "hub/pull.h"

int fm_pull_pack(fm_pull_job *job, fm_pull_result *result, fm_error *err) {
    (void)result;
    return fm_fail(err, FM_EUNSUPPORTED, "%s", job->name.repo);
}
