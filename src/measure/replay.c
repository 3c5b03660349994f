/* measure/replay.c: cache policies over a recorded routing: which accesses a trace means, and the table of all budgets and policies. */
#include "measure/replay.h"

#include <stdlib.h>
#include <string.h>

#define BATCH 4096 /* as the engine reads a prompt when the budget allows it */

static const double default_shares[] = {0.05, 0.08, 0.1, 0.15, 0.2, 0.25, 0.33, 0.5, 0.75};

/* ---- accesses ---- */

void fm_accesses_close(fm_accesses *a) {
    free(a->start);
    free(a->key);
    free(a->mark);
    *a = (fm_accesses){0};
}

/* The experts of one layer of tokens [first, first + n), ascending; seen [n_experts] is all false before and after. */
static void add_request(fm_accesses *a, const fm_trace *t, int layer, int first, int n, bool *seen) {
    size_t row = (size_t)t->n_layers * (size_t)t->top_k;
    const int16_t *x = t->experts + (size_t)first * row + (size_t)layer * (size_t)t->top_k, *p = t->predicted + (x - t->experts);
    bool prompt = t->kind[first] & FM_TRACE_PROMPT;
    int mark = prompt ? 1 << FM_REPLAY_PROMPT : 1 << FM_REPLAY_DECODED | (first >= t->n_tokens / 2 ? 1 << FM_REPLAY_LATER : 0);
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < t->top_k; k++) seen[x[(size_t)i * row + (size_t)k]] = true;
    }
    for (int k = 0; k < t->top_k && !prompt; k++) mark |= p[k] >= 0 ? FM_ACCESS_FORECAST : 0;
    for (int e = 0; e < t->n_experts; e++) {
        if (!seen[e]) continue;
        bool predicted = false;
        for (int k = 0; k < t->top_k && !prompt; k++) predicted |= p[k] == e;
        a->key[a->n] = layer * t->n_experts + e;
        a->mark[a->n++] = (uint8_t)(mark | (predicted ? FM_ACCESS_PREDICTED : 0));
        seen[e] = false;
    }
    a->start[++a->n_requests] = a->n;
}

/* How many tokens are computed together from `first` on: a decoded one alone, of a prompt up to batch. */
static int batch_at(const fm_trace *t, int first, int batch) {
    int n = 1;
    if (!(t->kind[first] & FM_TRACE_PROMPT)) return 1;
    while (n < batch && first + n < t->n_tokens && t->kind[first + n] == FM_TRACE_PROMPT) n++;
    return n;
}

int fm_accesses_open(fm_accesses *a, const fm_trace *t, int batch, fm_error *err) {
    size_t n_moe = 0;
    for (int i = 0; i < t->n_layers; i++) n_moe += t->moe[i];
    size_t most = (size_t)t->n_tokens * n_moe;
    *a = (fm_accesses){.n_layers = t->n_layers, .n_experts = t->n_experts};
    a->start = calloc(most + 1, sizeof *a->start);
    a->key = malloc(most * (size_t)t->top_k * sizeof *a->key);
    a->mark = malloc(most * (size_t)t->top_k);
    bool *seen = calloc((size_t)t->n_experts, sizeof *seen);
    int rc = a->start && a->key && a->mark && seen ? 0 : fm_fail(err, FM_ENOMEM, "no memory for the uses of experts by %d tokens", t->n_tokens);
    for (int token = 0, n; token < t->n_tokens && rc >= 0; token += n) {
        n = batch_at(t, token, batch);
        for (int layer = 0; layer < t->n_layers; layer++) {
            if (t->moe[layer]) add_request(a, t, layer, token, n, seen);
        }
    }
    free(seen);
    if (rc < 0) fm_accesses_close(a);
    return rc;
}

/* ---- the table ---- */

/* A result and what it points to. */
typedef struct replay {
    fm_replay all;
    char *how;
    uint64_t *by_layer;  /* [n_layers] asked for, then [n_budgets][n_rows][n_layers] hits */
    fm_replay_row *rows; /* [n_budgets][n_rows] */
    fm_replay_budget *budgets;
} replay;

void fm_replay_close(fm_replay **out) {
    replay *r = (replay *)*out;
    if (!r) return;
    free(r->how);
    free(r->by_layer);
    free(r->rows);
    free(r->budgets);
    free(r);
    *out = NULL;
}

static int fewer_slots(const void *a, const void *b) {
    int x = ((const fm_replay_budget *)a)->n_slots, y = ((const fm_replay_budget *)b)->n_slots;
    return x < y ? -1 : x > y;
}

/* The budgets that were asked for, ascending, each once. A cache has room for one token's experts of a layer, as in the engine. */
static int choose_budgets(replay *r, const fm_replay_options *o, fm_error *err) {
    fm_replay *all = &r->all;
    bool given = o->n_slots > 0 || o->n_shares > 0;
    const double *shares = given ? o->shares : default_shares;
    int n_shares = given ? o->n_shares : (int)(sizeof default_shares / sizeof *default_shares), n = 0;
    if (!(r->budgets = calloc((size_t)(o->n_slots + n_shares), sizeof *r->budgets))) return fm_fail(err, FM_ENOMEM, "no memory for %d budgets", n_shares);
    for (int i = 0; i < o->n_slots; i++) {
        if (o->slots[i] < all->top_k || o->slots[i] > all->n_experts_total)
            return fm_fail(err, FM_EINVAL, "a cache of %d experts is not between %d, a token's in one layer, and all %d", o->slots[i], all->top_k,
                           all->n_experts_total);
        r->budgets[n++].n_slots = o->slots[i];
    }
    for (int i = 0; i < n_shares; i++) {
        if (!(shares[i] > 0 && shares[i] <= 1)) return fm_fail(err, FM_EINVAL, "a cache of %g %% of the experts is not between 0 and 100 %%", 100 * shares[i]);
        int slots = (int)(shares[i] * all->n_experts_total + 0.5);
        r->budgets[n++].n_slots = slots < all->top_k ? all->top_k : slots;
    }
    qsort(r->budgets, (size_t)n, sizeof *r->budgets, fewer_slots);
    for (int i = 0; i < n; i++) {
        if (i > 0 && r->budgets[i].n_slots == r->budgets[all->n_budgets - 1].n_slots) continue;
        r->budgets[all->n_budgets++] = r->budgets[i];
    }
    for (int i = 0; i < all->n_budgets; i++) r->budgets[i].share = (double)r->budgets[i].n_slots / all->n_experts_total;
    all->budgets = r->budgets;
    return 0;
}

/* The numbers of the trace itself. */
static void describe(replay *r, const fm_trace *t) {
    fm_replay *all = &r->all;
    *all = (fm_replay){.n_layers = t->n_layers, .n_experts = t->n_experts, .top_k = t->top_k, .lags = {1, 2, 4, 8, 16}, .windows = {2, 4, 8}};
    memcpy(all->model_type, t->model_type, sizeof all->model_type);
    memcpy(all->architecture, t->architecture, sizeof all->architecture);
    for (int i = 0; i < t->n_layers; i++) all->n_moe_layers += t->moe[i];
    all->n_experts_total = all->n_moe_layers * t->n_experts;
    for (int i = 0; i < t->n_tokens; i++) {
        all->n_sequences += t->kind[i] & FM_TRACE_FIRST ? 1 : 0;
        *(t->kind[i] & FM_TRACE_PROMPT ? &all->n_prompt : &all->n_decoded) += 1;
    }
}

static int make_rows(replay *r, const fm_trace *t, const fm_accesses *a, fm_error *err) {
    fm_replay *all = &r->all;
    size_t n_layers = (size_t)t->n_layers, n;
    for (all->n_rows = 1; fm_policy_at(all->n_rows - 1);) all->n_rows++;
    n = (size_t)all->n_budgets * (size_t)all->n_rows;
    r->how = strdup(t->how ? t->how : "{}");
    r->rows = calloc(n, sizeof *r->rows);
    r->by_layer = calloc((n + 1) * n_layers, sizeof *r->by_layer);
    if (!r->how || !r->rows || !r->by_layer) return fm_fail(err, FM_ENOMEM, "no memory for %zu rows of a table", n);
    all->how = r->how;
    all->n_requests_by_layer = r->by_layer;
    for (size_t i = 0; i < a->n; i++) {
        for (int part = 0; part < FM_REPLAY_PARTS; part++) all->n_requests[part] += a->mark[i] & 1 << part ? 1 : 0;
        r->by_layer[a->key[i] / a->n_experts] += a->mark[i] & 1 << FM_REPLAY_DECODED ? 1 : 0;
    }
    for (int i = 0; i < all->n_budgets; i++) r->budgets[i].rows = r->rows + (size_t)i * (size_t)all->n_rows;
    for (size_t i = 0; i < n; i++) r->rows[i].hits_by_layer = r->by_layer + (i + 1) * n_layers;
    return 0;
}

static int run_policy(fm_replay_row *row, const fm_accesses *a, const fm_policy_ops *ops, int n_slots, fm_error *err) {
    fm_policy *policy = NULL;
    fm_replay_counts counts = {.hits_by_layer = (uint64_t *)row->hits_by_layer};
    int rc = ops->open(&policy, n_slots, a->n_layers, a->n_experts, err);
    if (rc >= 0) rc = fm_replay_cache(a, policy, n_slots, &counts, err);
    if (policy) ops->close(&policy);
    row->policy = ops->name;
    memcpy(row->hits, counts.hits, sizeof row->hits);
    row->n_predicted_misses = counts.n_predicted_misses;
    row->n_misses_with_forecast = counts.n_misses_with_forecast;
    return rc;
}

/* The optimum of each part is that of a cache which cares for nothing else. ignored [n_layers]. */
static int run_belady(fm_replay_row *row, const fm_accesses *a, int n_slots, uint64_t *ignored, fm_error *err) {
    row->policy = "belady";
    for (int part = 0; part < FM_REPLAY_PARTS; part++) {
        fm_policy *policy = NULL;
        fm_replay_counts counts = {.hits_by_layer = part == FM_REPLAY_DECODED ? (uint64_t *)row->hits_by_layer : ignored};
        int rc = fm_belady_open(&policy, a, n_slots, 1 << part, err);
        if (rc >= 0) rc = fm_replay_cache(a, policy, n_slots, &counts, err);
        if (policy) policy->ops->close(&policy);
        if (rc < 0) return rc;
        row->hits[part] = counts.hits[part];
        if (part != FM_REPLAY_DECODED) continue;
        row->n_predicted_misses = counts.n_predicted_misses;
        row->n_misses_with_forecast = counts.n_misses_with_forecast;
    }
    return 0;
}

static int fill_table(replay *r, const fm_accesses *a, fm_error *err) {
    const fm_replay *all = &r->all;
    uint64_t *ignored = calloc((size_t)all->n_layers, sizeof *ignored);
    int rc = ignored ? 0 : fm_fail(err, FM_ENOMEM, "no memory for %d layers", all->n_layers);
    for (int b = 0; b < all->n_budgets && rc >= 0; b++) {
        fm_replay_row *rows = r->rows + (size_t)b * (size_t)all->n_rows;
        int slots = r->budgets[b].n_slots, fixed = slots == all->n_experts_total ? slots : slots - all->top_k;
        rc = run_belady(&rows[0], a, slots, ignored, err);
        for (int i = 1; i < all->n_rows && rc >= 0; i++) rc = run_policy(&rows[i], a, fm_policy_at(i - 1), slots, err);
        if (rc >= 0) rc = fm_replay_static(a, fixed, &r->budgets[b].static_hits, err);
    }
    free(ignored);
    return rc;
}

int fm_replay_open(fm_replay **out, const char *path, const fm_replay_options *options, fm_error *err) {
    fm_replay_options o = FM_REPLAY_OPTIONS_INIT;
    fm_trace *trace = NULL;
    fm_accesses accesses = {0};
    *out = NULL;
    if (options) memcpy(&o, options, options->size < sizeof o ? options->size : sizeof o);
    if (o.batch < 0) return fm_fail(err, FM_EINVAL, "%d tokens of a prompt at a time is negative", o.batch);
    int rc = fm_trace_open(&trace, path, err);
    if (rc < 0) return rc;
    replay *r = calloc(1, sizeof *r);
    *out = (fm_replay *)r;
    if (!r) {
        rc = fm_fail(err, FM_ENOMEM, "no memory for a replay");
        goto done;
    }
    describe(r, trace);
    if ((rc = choose_budgets(r, &o, err)) < 0) goto done;
    if ((rc = fm_accesses_open(&accesses, trace, o.batch ? o.batch : BATCH, err)) < 0) goto done;
    if ((rc = make_rows(r, trace, &accesses, err)) < 0) goto done;
    if ((rc = fill_table(r, &accesses, err)) >= 0) rc = fm_replay_locality(&r->all, trace, err);
done:
    fm_accesses_close(&accesses);
    fm_trace_close(&trace);
    if (rc < 0) fm_replay_close(out);
    return rc < 0 ? rc : 0;
}
