/* engine/approximate.c: what is computed instead of the model where the user asked for it: experts that are not in memory are left out, or come as their narrow copies where
 * they have little weight. Only for batches of a few tokens, that is in decoding: a prompt reads each expert once for all its tokens. The result depends on what is in memory, so it is named wherever it is used. */
#include <string.h>

#include "engine/engine.h"

/* Whether a batch is of decoding: fewer tokens than a prompt has. */
static bool applies(const fm_engine *e, int n) { return n <= FM_GUESS_TOKENS && e->ops->any_order(e->device); }

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
    if (e->options.missing != FM_MISSING_DROP || !applies(e, n)) return 0;
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

const uint8_t *fm_cold_keys(fm_engine *e, const fm_routing *r, int n) {
    const fm_uses *u = &e->uses;
    if (!e->options.cold_bits || !applies(e, n)) return NULL;
    for (int i = 0; i < u->n; i++) {
        float most = 0;
        for (int c = u->start[i]; c < u->start[i + 1]; c++) most = r->weights[u->choices[c]] > most ? r->weights[u->choices[c]] : most;
        e->cold[i] = most < e->options.cold_below;
    }
    return e->cold;
}

int fm_approximation_check(const fm_engine_options *o, fm_error *err) {
    if (o->missing != FM_MISSING_READ && o->missing != FM_MISSING_DROP) return fm_fail(err, FM_EINVAL, "there is no way %d with missed experts", o->missing);
    if (o->cold_bits && !(o->cold_bits >= 2 && o->cold_bits <= 8)) return fm_fail(err, FM_EINVAL, "%d bits of narrow copies are not from 2 to 8", o->cold_bits);
    if (!(o->cold_below >= 0)) return fm_fail(err, FM_EINVAL, "no expert has a weight below %g", (double)o->cold_below);
    if (o->cold_bits && o->mirror) return fm_fail(err, FM_EINVAL, "narrow copies of experts are not read from a mirror");
    if (o->cold_bits && o->missing == FM_MISSING_DROP) return fm_fail(err, FM_EINVAL, "missed experts are either left out or come as narrow copies, not both");
    if (!(o->pin >= 0) || o->pin > 0.9F) return fm_fail(err, FM_EINVAL, "%g of the cache cannot be pinned: from 0 to 0.9 can", (double)o->pin);
    if (o->pin > 0 && !o->profile) return fm_fail(err, FM_EINVAL, "experts are pinned in the order of a profile, and none is given");
    return 0;
}

/* That the model has copies of these bits. */
static int check_copies(const fm_engine *e, fm_error *err) {
    const fm_model *m = e->model;
    int bits = e->options.cold_bits, n = m->description.n_layers;
    if (!m->in_place || m->n_copies < 2)
        return fm_fail(err, FM_EUNSUPPORTED, "%s: it has no narrow copies of its experts; pack --experts 4,2 makes them", m->path);
    for (int i = 0; i < n; i++) {
        const fm_matrix_type *t = &m->experts[n + i].matrix[FM_GATE].type;
        if (m->description.layers[i].moe && t->bits != bits)
            return fm_fail(err, FM_EUNSUPPORTED, "%s: the narrow copies of its experts have %d bits, not %d", m->path, t->bits, bits);
    }
    return 0;
}

int fm_approximation_open(fm_engine *e, fm_error *err) {
    const fm_engine_options *o = &e->options;
    int trained = e->model->description.top_k;
    size_t size = sizeof e->approximation, at = 0;
    if (o->missing == FM_MISSING_DROP && !e->model->in_place)
        return fm_fail(err, FM_EUNSUPPORTED, "%s: experts can be left out only where they are read in the background, which needs a packed model",
                       e->model->path);
    int rc = o->cold_bits ? check_copies(e, err) : 0;
    if (rc < 0) return rc;
    if (o->experts_per_token > 0 && o->experts_per_token < trained)
        at += (size_t)snprintf(e->approximation, size, "%d experts a token instead of the %d this model was trained with", o->experts_per_token, trained);
    if (o->missing == FM_MISSING_DROP)
        snprintf(e->approximation + at, size - at, "%sexperts that are not in memory are left out while decoding", at ? ", and " : "");
    if (o->cold_bits)
        snprintf(e->approximation + at, size - at, "%sexperts that are not in memory come as copies of %d bits while decoding, if their weight is below %g",
                 at ? ", and " : "", o->cold_bits, (double)o->cold_below);
    if (e->approximation[0]) fm_engine_log(e, FM_LOG_WARNING, "%s: an approximation", e->approximation);
    return 0;
}

bool fm_approximation_wanders(const fm_engine *e) { return e->options.missing == FM_MISSING_DROP || e->options.cold_bits; }
const char *fm_engine_approximation(const fm_engine *e) { return e->approximation[0] ? e->approximation : NULL; }
bool fm_engine_cache_matters(const fm_engine *e) { return fm_approximation_wanders(e); }
