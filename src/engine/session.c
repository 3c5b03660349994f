/* engine/session.c: one timeline of tokens, and feeding pieces of several of them as batches. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

static int open_session(fm_session **out, fm_engine *e, fm_error *err) {
    if (e->n_sessions == e->options.n_sessions) return fm_fail(err, FM_ENOMEM, "the budget is for %d open sessions", e->options.n_sessions);
    fm_session *s = calloc(1, sizeof *s);
    if (!s) return fm_fail(err, FM_ENOMEM, "no memory for a session");
    s->engine = e;
    e->n_sessions++;
    s->logits = calloc((size_t)e->model->description.vocab, sizeof *s->logits);
    s->line.ids = calloc((size_t)e->plan.context, sizeof *s->line.ids);
    int rc = s->logits && s->line.ids ? e->ops->state_open(&s->line.state, e->device, err) : fm_fail(err, FM_ENOMEM, "no memory for a session's logits");
    if (rc < 0)
        fm_session_close(&s);
    else
        fm_snapshots_enter(e->snapshots, &s->line);
    *out = s;
    return rc;
}

int fm_session_open(fm_session **out, fm_engine *e, fm_error *err) {
    *out = NULL;
    fm_turn_take(&e->turn);
    int rc = open_session(out, e, err);
    fm_turn_give(&e->turn);
    return rc;
}

void fm_session_close(fm_session **session) {
    fm_session *s = *session;
    if (!s) return;
    fm_engine *e = s->engine;
    fm_turn_take(&e->turn);
    fm_session_settle(s, true);
    fm_engine_store(e); /* while its rows are there */
    fm_snapshots_leave(e->snapshots, &s->line);
    e->n_sessions--;
    e->ops->state_close(&s->line.state);
    fm_turn_give(&e->turn);
    free(s->line.ids);
    free(s->logits);
    free(s);
    *session = NULL;
}

int fm_session_position(const fm_session *s) { return s->line.position; }
const float *fm_session_logits(const fm_session *s) { return s->has_logits ? s->logits : NULL; }

void fm_session_clear(fm_session *s) {
    fm_turn_take(&s->engine->turn);
    s->line.position = 0;
    s->has_logits = false;
    s->engine->ops->state_clear(s->line.state);
    fm_turn_give(&s->engine->turn);
}

void fm_session_trace(fm_session *s, fm_trace_fn fn, void *user) {
    s->trace = fn;
    s->trace_user = user;
}

/* One batch in the making: which piece each span is of, and how far each piece is. */
typedef struct feed {
    fm_engine *e;
    const fm_piece *pieces;
    int n_pieces;
    int done[FM_MAX_SPANS];  /* tokens of each piece computed so far */
    int piece[FM_MAX_SPANS]; /* of each span */
    int n_spans, n;
    fm_logits_fn fn;
    void *user;
} feed;

int fm_session_check(const fm_session *s, const int32_t *ids, int n, fm_error *err) {
    int vocab = s->engine->model->description.vocab;
    for (int i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= vocab) return fm_fail(err, FM_EINVAL, "token id %d at place %d is outside the vocabulary of %d", (int)ids[i], i, vocab);
    }
    return 0;
}

static int check_pieces(const feed *f, fm_error *err) {
    if (f->n_pieces < 1 || f->n_pieces > FM_MAX_SPANS) return fm_fail(err, FM_EINVAL, "%d pieces is not between 1 and %d", f->n_pieces, FM_MAX_SPANS);
    for (int i = 0; i < f->n_pieces; i++) {
        const fm_piece *p = &f->pieces[i];
        for (int j = 0; j < i; j++) {
            if (f->pieces[j].session == p->session) return fm_fail(err, FM_EINVAL, "pieces %d and %d are of one session", j, i);
        }
        if (p->session->engine != f->e) return fm_fail(err, FM_EINVAL, "the session of piece %d is another engine's", i);
        if (p->n < 1) return fm_fail(err, FM_EINVAL, "piece %d has %d tokens", i, p->n);
        int position = p->session->line.position, rc;
        if (p->n > f->e->plan.context - position) {
            return fm_fail(err, FM_EFULL, "%d tokens behind the %d there are do not fit in a context of %d tokens", p->n, position, f->e->plan.context);
        }
        if ((rc = fm_session_check(p->session, p->ids, p->n, err)) < 0) return rc;
    }
    return 0;
}

/* Tokens that the session held before and that come again leave its rows as they are: computing them gives the same bits. Others write over them. */
static void write_over(fm_session *s, const int32_t *ids, int n) {
    fm_timeline *t = &s->line;
    int behind = t->n_rows - t->position, most = n < behind ? n : behind, same = fm_common_tokens(t->ids + t->position, ids, most);
    if (same < most) fm_snapshots_overwrite(s->engine->snapshots, t, t->position + same);
}

/* What of the session's pending snapshots is to be captured within its n tokens in the batch. */
static void find_captures(fm_engine *e, fm_session *s, int n) {
    const fm_timeline *t = &s->line;
    for (int i = 0; i < s->n_pending && s->pending[i]->n <= t->position + n;) {
        if (e->n_captures == FM_MAX_CAPTURES) {
            fm_session_give_up(s, i);
            continue;
        }
        fm_snapshot *x = s->pending[i++];
        e->captures[e->n_captures++] = (fm_capture){.state = t->state, .position = x->n, .to = x->fixed.data};
    }
}

/* Takes as many tokens of the pieces as fit in a batch, the short pieces (somebody's next token) first. */
static void fill_batch(feed *f) {
    fm_engine *e = f->e;
    f->n_spans = f->n = e->n_captures = 0;
    for (int longs = 0; longs < 2; longs++) {
        for (int i = 0; i < f->n_pieces; i++) {
            const fm_piece *p = &f->pieces[i];
            int left = p->n - f->done[i], room = e->plan.batch - f->n, n = left < room ? left : room;
            if ((p->n > 1) != longs || n <= 0) continue;
            memcpy(e->ids + f->n, p->ids + f->done[i], (size_t)n * sizeof *e->ids);
            e->spans[f->n_spans] = (fm_span){.state = p->session->line.state, .first = f->n, .n = n, .position = p->session->line.position};
            write_over(p->session, p->ids + f->done[i], n);
            find_captures(e, p->session, n);
            e->sessions[f->n_spans] = p->session;
            f->piece[f->n_spans++] = i;
            f->n += n;
        }
    }
}

/* The logits that span s of the batch owes. */
static int give_logits(feed *f, int s, fm_error *err) {
    fm_engine *e = f->e;
    const fm_span *span = &e->spans[s];
    const fm_piece *p = &f->pieces[f->piece[s]];
    size_t vocab = (size_t)e->model->description.vocab;
    bool last = f->done[f->piece[s]] + span->n == p->n;
    int first = p->which == FM_LOGITS_ALL ? 0 : p->which == FM_LOGITS_LAST && last ? span->n - 1 : span->n;
    for (int i = first; i < span->n; i += FM_HEAD_ROWS) {
        int n = span->n - i < FM_HEAD_ROWS ? span->n - i : FM_HEAD_ROWS, rc;
        const float *logits;
        if ((rc = e->ops->head(e->device, span->first + i, n, &logits, err)) < 0) return rc;
        for (int j = 0; j < n && f->fn; j++) {
            if (f->fn(f->user, span->position + i + j, logits + (size_t)j * vocab)) return fm_fail(err, FM_ECANCELLED, "cancelled by the caller");
        }
        if (i + n == span->n && last) {
            memcpy(p->session->logits, logits + (size_t)(n - 1) * vocab, vocab * sizeof(float));
            p->session->has_logits = true;
        }
    }
    return 0;
}

/* Under memory pressure the cache gives slots back, down to what one layer needs. */
static void relieve(fm_engine *e) {
    uint64_t bytes = e->store ? fm_pressure_poll(e->pressure) : 0;
    if (!bytes) return;
    int n = fm_store_shrink(e->store, (int)(bytes / e->plan.slot_bytes) + 1, e->plan.min_slots);
    if (!n) return;
    e->slots_given_back += (uint64_t)n;
    fm_engine_log(e, FM_LOG_WARNING, "memory is short: gave back %d of the expert cache's slots, %d are left", n, fm_store_n_slots(e->store));
}

/* n more tokens are in the session. */
static void advance(fm_session *s, const int32_t *ids, int n) {
    fm_timeline *t = &s->line;
    memcpy(t->ids + t->position, ids, (size_t)n * sizeof *ids);
    t->position += n;
    if (t->n_rows < t->position) t->n_rows = t->position;
    if (s->n_pending) fm_session_settle(s, false);
}

static int feed_batches(feed *f, fm_error *err) {
    fm_engine *e = f->e;
    uint64_t total = 0, done = 0;
    for (int i = 0; i < f->n_pieces; i++) total += (uint64_t)f->pieces[i].n;
    while (done < total) {
        fill_batch(f);
        int rc = fm_forward(e, f->n_spans, f->n, err);
        if (rc < 0) return rc;
        double t = fm_now();
        for (int s = 0; s < f->n_spans; s++) {
            if ((rc = give_logits(f, s, err)) < 0) return rc;
            f->done[f->piece[s]] += e->spans[s].n;
            advance(e->sessions[s], e->ids + e->spans[s].first, e->spans[s].n);
        }
        e->phase_seconds[FM_PHASE_HEAD] += fm_now() - t;
        done += (uint64_t)f->n;
        relieve(e);
        bool stop = total > 1 && e->options.progress && e->options.progress(e->options.user, "prompt", done, total);
        if (done < total && (stop || atomic_load(&e->cancelled)))
            return fm_fail(err, FM_ECANCELLED, "cancelled after %llu of %llu tokens", (unsigned long long)done, (unsigned long long)total);
        if (done < total) fm_turn_pass(&e->turn);
    }
    return 0;
}

static int feed_pieces(feed *f, fm_error *err) {
    const fm_piece *pieces = f->pieces;
    int n_pieces = f->n_pieces, rc = check_pieces(f, err), n = 0;
    if (rc < 0) return rc;
    for (int i = 0; i < n_pieces; i++) {
        pieces[i].session->has_logits = false;
        n += pieces[i].n;
    }
    unsigned long mode = fm_pool_enter();
    rc = feed_batches(f, err);
    fm_pool_leave(mode);
    for (int i = 0; i < n_pieces; i++) {
        fm_session_settle(pieces[i].session, true);
        if (rc < 0) fm_session_clear(pieces[i].session);
    }
    return rc < 0 ? rc : n;
}

int fm_engine_feed(fm_engine *e, const fm_piece *pieces, int n_pieces, fm_logits_fn fn, void *user, fm_error *err) {
    feed f = {.e = e, .pieces = pieces, .n_pieces = n_pieces, .fn = fn, .user = user};
    fm_turn_take(&e->turn);
    int rc = feed_pieces(&f, err);
    fm_turn_give(&e->turn);
    return rc;
}

int fm_session_feed(fm_session *s, const int32_t *ids, int n, int which, fm_logits_fn fn, void *user, fm_error *err) {
    fm_piece piece = {.session = s, .ids = ids, .n = n, .which = which};
    return fm_engine_feed(s->engine, &piece, 1, fn, user, err);
}
