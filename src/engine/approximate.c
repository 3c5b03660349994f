/* engine/approximate.c: what is computed instead of the model where the user asked for it: experts that are not in memory are left out. Only for batches of a few tokens, that
 * is in decoding: a prompt reads each expert once for all its tokens. The result depends on what is in memory, so it is named wherever it is used. */
#include <string.h>

#include "engine/engine.h"

/* Whether there is something to do for a batch: fewer tokens than a prompt has. */
static bool applies(const fm_engine *e, int n) { return e->options.missing == FM_MISSING_DROP && n <= FM_GUESS_TOKENS && e->ops->any_order(e->device); }

/* Tokens none of whose experts is there wait for their heaviest one, which others then have too: marks[expert]. */
static void mark_read(const fm_engine *e, int first, const fm_routing *r, int n, int *marks) {
    for (int t = 0; t < n; t++) {
        const int *experts = r->experts + t * r->top_k;
        const float *weights = r->weights + t * r->top_k;
        bool any = false;
        int best = 0;
        for (int j = 0; j < r->top_k; j++) {
            any |= fm_store_at_hand(e->store, first + experts[j]);
            best = weights[j] > weights[best] ? j : best;
        }
        if (!any) marks[experts[best]] = 1;
    }
}

int fm_approximate(fm_engine *e, int layer, fm_routing *r, int n) {
    int n_experts = e->model->description.n_experts, first = layer * n_experts, *marks = e->uses.count, n_dropped = 0;
    if (!applies(e, n)) return 0;
    memset(marks, 0, (size_t)n_experts * sizeof *marks);
    mark_read(e, first, r, n, marks);
    for (int t = 0; t < n; t++) {
        int *experts = r->experts + t * r->top_k;
        float *weights = r->weights + t * r->top_k, all = 0, kept = 0;
        for (int j = 0; j < r->top_k; j++) {
            all += weights[j];
            if (marks[experts[j]] || fm_store_at_hand(e->store, first + experts[j])) {
                kept += weights[j];
                continue;
            }
            e->dropped[n_dropped++] = first + experts[j];
            experts[j] = FM_NO_EXPERT;
        }
        for (int j = 0; j < r->top_k && kept > 0 && kept < all; j++) weights[j] *= all / kept;
    }
    e->n_left_out += (uint64_t)n_dropped;
    return n_dropped;
}

int fm_approximation_check(const fm_engine_options *o, fm_error *err) {
    if (o->missing != FM_MISSING_READ && o->missing != FM_MISSING_DROP) return fm_fail(err, FM_EINVAL, "there is no way %d with missed experts", o->missing);
    if (!(o->pin >= 0) || o->pin > 0.9F) return fm_fail(err, FM_EINVAL, "%g of the cache cannot be pinned: from 0 to 0.9 can", (double)o->pin);
    if (o->pin > 0 && !o->profile) return fm_fail(err, FM_EINVAL, "experts are pinned in the order of a profile, and none is given");
    return 0;
}

int fm_approximation_open(fm_engine *e, fm_error *err) {
    const fm_engine_options *o = &e->options;
    int trained = e->model->description.top_k;
    size_t size = sizeof e->approximation, at = 0;
    if (o->missing == FM_MISSING_DROP && !e->model->in_place)
        return fm_fail(err, FM_EUNSUPPORTED, "%s: experts can be left out only where they are read in the background, which needs a packed model",
                       e->model->path);
    if (o->experts_per_token > 0 && o->experts_per_token < trained)
        at += (size_t)snprintf(e->approximation, size, "%d experts a token instead of the %d this model was trained with", o->experts_per_token, trained);
    if (o->missing == FM_MISSING_DROP)
        snprintf(e->approximation + at, size - at, "%sexperts that are not in memory are left out while decoding", at ? ", and " : "");
    if (e->approximation[0]) fm_engine_log(e, FM_LOG_WARNING, "%s: an approximation", e->approximation);
    return 0;
}

bool fm_approximation_wanders(const fm_engine *e) { return e->options.missing == FM_MISSING_DROP; }
const char *fm_engine_approximation(const fm_engine *e) { return e->approximation[0] ? e->approximation : NULL; }
bool fm_engine_cache_matters(const fm_engine *e) { return fm_approximation_wanders(e); }
