/* engine/keep.c: sessions that do not forget: going back to a snapshot, keeping snapshots, and computing only what is new. */
#include <string.h>

#include "engine/engine.h"

#define DEFAULT_CACHE_BYTES ((uint64_t)20 << 30)
#define CLOSE_SECONDS 20 /* for writing snapshots when a session or the engine is closed */
#define LONG_STRETCH 512 /* tokens without a border, for which snapshots are kept in between */
#define FIRST_STEP                                                                                                                                             \
    64 /* the last snapshot of a stretch stands at a multiple of this, the one before at a multiple of four times as much, and so on: whatever the
                          * end of a long prompt is changed to, about four times the changed tokens are read again at most */

const int32_t *fm_session_tokens(const fm_session *s) { return s->line.ids; }

void fm_session_give_up(fm_session *s, int i) {
    fm_snapshots_drop(s->engine->snapshots, s->pending[i]);
    memmove(s->pending + i, s->pending + i + 1, (size_t)(--s->n_pending - i) * sizeof *s->pending);
}

void fm_session_settle(fm_session *s, bool all) {
    int done = 0;
    while (done < s->n_pending && s->pending[done]->n <= s->line.position) s->pending[done++]->ready = true;
    s->n_pending -= done;
    memmove(s->pending, s->pending + done, (size_t)s->n_pending * sizeof *s->pending);
    while (all && s->n_pending) fm_session_give_up(s, s->n_pending - 1);
}

/* Adds what is kept at position n of ids to the pending ones; what there is no room for is left out. */
static void plan_keep(fm_session *s, const int32_t *ids, int n, bool between) {
    if (n <= s->line.position || s->n_pending == FM_MAX_PENDING) return;
    fm_snapshot *x = fm_snapshots_make(s->engine->snapshots, ids, n, between);
    if (!x) return;
    int at = s->n_pending++;
    for (; at > 0 && s->pending[at - 1]->n > n; at--) s->pending[at] = s->pending[at - 1];
    s->pending[at] = x;
}

/* The last border matters most (the next turn begins there), then the first (the preamble of other conversations), then the others, backwards. */
static void plan_borders(fm_session *s, const int32_t *ids, int n, const int *borders, int n_borders) {
    int first = 0, last = n_borders - 1;
    while (first < n_borders && borders[first] <= s->line.position) first++;
    while (last >= first && borders[last] > n) last--;
    if (last < first) return;
    plan_keep(s, ids, borders[last], false);
    plan_keep(s, ids, borders[first], false);
    for (int i = last - 1; i > first; i--) plan_keep(s, ids, borders[i], true);
}

static void plan_between(fm_session *s, const int32_t *ids, int n) {
    if (n - s->line.position < LONG_STRETCH) return;
    for (int step = FIRST_STEP; step < n; step *= 4) plan_keep(s, ids, (n - 1) / step * step, true);
}

int fm_session_keep(fm_session *s, fm_error *err) {
    fm_engine *e = s->engine;
    (void)err;
    fm_turn_take(&e->turn);
    fm_snapshot *x = s->line.position ? fm_snapshots_make(e->snapshots, s->line.ids, s->line.position, false) : NULL;
    if (x && x->fixed.bytes) memcpy(x->fixed.data, e->ops->fixed(s->line.state), x->fixed.bytes);
    if (x) x->ready = true;
    fm_turn_give(&e->turn);
    return 0;
}

/* What the session can hold of the first n of ids without a snapshot. */
static int held(const fm_session *s, const int32_t *ids, int n) {
    const fm_timeline *t = &s->line;
    int same = fm_common_tokens(t->ids, ids, n < t->n_rows ? n : t->n_rows);
    if (!s->engine->snapshots->fixed_bytes) return same; /* rows are all there is */
    return same >= t->position ? t->position : 0;
}

/* From the disk, if there is a longer one than in memory. Returns its tokens, 0: none. */
static int restore(fm_session *s, const int32_t *ids, int n) {
    const fm_snapshot *x = fm_snapshots_find(s->engine->snapshots, ids, n);
    int keeps = held(s, ids, n), here = x && x->n > keeps ? x->n : keeps, before = s->line.position;
    int got = s->engine->directory && here < n ? fm_directory_restore(s->engine->directory, &s->line, ids, here, n) : 0;
    if (s->line.position != before) s->has_logits = false;
    return got;
}

static int go_back(fm_session *s, const int32_t *ids, int n) {
    int keeps = held(s, ids, n);
    fm_snapshot *x = fm_snapshots_find(s->engine->snapshots, ids, n);
    if (x && x->n > keeps) {
        fm_snapshots_restore(s->engine->snapshots, x, &s->line);
        s->has_logits = false;
    } else if (keeps != s->line.position) {
        if (!keeps) s->engine->ops->state_clear(s->line.state);
        s->line.position = keeps;
        s->has_logits = false;
    }
    return s->line.position;
}

int fm_session_rewind(fm_session *s, const int32_t *ids, int n, fm_error *err) {
    if (n < 1) return fm_fail(err, FM_EINVAL, "%d tokens are no text to go back to", n);
    n = n - 1 < s->engine->plan.context ? n - 1 : s->engine->plan.context;
    fm_turn_take(&s->engine->turn);
    int got = restore(s, ids, n);
    if (!got) got = go_back(s, ids, n);
    fm_turn_give(&s->engine->turn);
    return got;
}

static int check_sync(const fm_session *s, const int32_t *ids, int n, const int *borders, int n_borders, fm_error *err) {
    if (n < 1) return fm_fail(err, FM_EINVAL, "%d tokens are no text", n);
    if (n > s->engine->plan.context) return fm_fail(err, FM_EFULL, "%d tokens do not fit in a context of %d tokens", n, s->engine->plan.context);
    for (int i = 0; i < n_borders; i++) {
        if (borders[i] < 0 || (i && borders[i] < borders[i - 1]))
            return fm_fail(err, FM_EINVAL, "border %d at place %d is not an ascending position", borders[i], i);
    }
    return fm_session_check(s, ids, n, err);
}

static int sync(fm_session *s, const int32_t *ids, int n, const int *borders, int n_borders, fm_synced *out, fm_error *err) {
    fm_synced done = {0};
    double start = fm_now();
    int rc = check_sync(s, ids, n, borders, n_borders, err);
    if (rc < 0) return rc;
    if (s->has_logits && s->line.position == n && fm_common_tokens(s->line.ids, ids, n) == n) {
        done.n_kept = n;
    } else {
        done.n_restored = restore(s, ids, n - 1);
        if (!done.n_restored) done.n_kept = go_back(s, ids, n - 1);
        done.n_computed = n - done.n_kept - done.n_restored;
        done.restore_seconds = fm_now() - start;
        plan_borders(s, ids, n, borders, n_borders);
        plan_between(s, ids, n);
        if ((rc = fm_session_feed(s, ids + n - done.n_computed, done.n_computed, FM_LOGITS_LAST, NULL, NULL, err)) < 0) return rc;
        done.compute_seconds = fm_now() - start - done.restore_seconds;
    }
    if (out) *out = done;
    return 0;
}

int fm_session_sync(fm_session *s, const int32_t *ids, int n, const int *borders, int n_borders, fm_synced *out, fm_error *err) {
    fm_turn_take(&s->engine->turn);
    int rc = sync(s, ids, n, borders, n_borders, out, err);
    fm_turn_give(&s->engine->turn);
    return rc;
}

/* ---- on the disk ---- */

void fm_engine_open_cache(fm_engine *e) {
    const fm_engine_options *o = &e->options;
    fm_error err = {0};
    if (!o->session_cache || fm_approximation_wanders(e)) return;
    fm_directory_config config = {.path = o->session_cache,
                                  .limit_bytes = o->session_cache_bytes ? o->session_cache_bytes : DEFAULT_CACHE_BYTES,
                                  .model = e->model,
                                  .snapshots = e->snapshots,
                                  .log = o->log,
                                  .user = o->user};
    if (fm_directory_open(&e->directory, &config, &err) < 0) fm_engine_log(e, FM_LOG_WARNING, "there is no session cache: %s", err.message);
}

void fm_engine_store(fm_engine *e) {
    if (e->directory) fm_directory_store(e->directory, fm_now() + CLOSE_SECONDS);
}

int fm_engine_idle(fm_engine *e, double seconds, fm_error *err) {
    if (!(seconds >= 0)) return fm_fail(err, FM_EINVAL, "%g seconds are no time", seconds);
    fm_turn_take(&e->turn);
    double end = fm_now() + seconds;
    int left = e->directory ? fm_directory_store(e->directory, end) : 0, missing = 0;
    if (left >= 0 && e->store && fm_now() < end) missing = fm_store_fill_wait(e->store, end - fm_now());
    fm_turn_give(&e->turn);
    return left < 0 ? left : left + missing;
}
