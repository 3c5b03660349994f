/* hub/none.c: a build without libcurl (-Dpull=disabled). */
#include "base/error.h"
#include "flash_moe_tools.h"

int fm_pull_plan_make(fm_pull_plan *out, const char *name, const fm_pull_options *options, fm_error *err) {
    (void)options;
    *out = (fm_pull_plan){0};
    return fm_fail(err, FM_EUNSUPPORTED, "%s: this flash-moe was built without libcurl, which fetches models", name);
}

int fm_pull(const char *name, const fm_pull_options *options, fm_pull_result *result, fm_error *err) {
    fm_pull_plan plan;
    if (result) *result = (fm_pull_result){0};
    return fm_pull_plan_make(&plan, name, options, err);
}
