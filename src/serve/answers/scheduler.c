/* serve/answers/scheduler.c: the engine's thread: which tokens are computed together, and what comes of them. Everything that needs the engine happens here, between two steps. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "serve/server.h"

enum { PIECE = 128 }; /* tokens of prompts that are read in one step while others are answered */

/* ---- exchanges that end ---- */

static void free_slots(fm_server *s, const fm_exchange *x) {
    for (int i = 0; i < s->o.parallel; i++) {
        fm_slot *slot = &s->slots[i];
        if (!slot->job || slot->job->exchange != x) continue;
        slot->job = NULL;
        slot->used = fm_serve_now();
        s->n_running--;
    }
}

/* The engine is done with it. */
static void let_go(fm_server *s, fm_exchange *x) {
    pthread_mutex_lock(&s->lock);
    free_slots(s, x);
    fm_jobs_drop(s, x);
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < x->n_jobs; i++) fm_work_close(&x->jobs[i]);
    fm_exchange_leave(x, true);
}

static void fail(fm_server *s, fm_exchange *x, const fm_refusal *why) {
    fm_exchange_refuse(x, why);
    let_go(s, x);
}

static void fail_error(fm_server *s, fm_exchange *x, const fm_error *err) {
    fm_refusal why;
    fm_deny_error(&why, err);
    why.status = 500; /* the request was fine: it has been accepted */
    if (s->o.engine.log) s->o.engine.log(s->o.engine.user, FM_LOG_WARNING, err->message);
    fail(s, x, &why);
}

/* One answer of it has ended. */
static void end_job(fm_server *s, fm_slot *slot) {
    fm_job *job = slot->job;
    fm_exchange *x = job->exchange;
    bool all = true;
    fm_session_keep(slot->session, NULL);
    if (x->api->end) x->api->end(x, job);
    pthread_mutex_lock(&s->lock);
    slot->job = NULL;
    slot->used = fm_serve_now();
    s->n_running--;
    s->job_seconds += (s->job_seconds > 0 ? 0.2 : 1) * (slot->used - job->run->began - s->job_seconds);
    s->counters.n_finished++;
    s->counters.n_prompt += (uint64_t)job->n_prompt;
    s->counters.n_cached += (uint64_t)job->n_cached;
    s->counters.n_answered += (uint64_t)job->n_tokens;
    s->counters.n_reasoning += (uint64_t)job->n_reasoning;
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < x->n_jobs; i++) all &= x->jobs[i].run->ended;
    if (!all) return;
    if (x->api->finish) x->api->finish(x);
    if (x->stream) fm_exchange_finish(x);
    let_go(s, x);
}

/* ---- exchanges that come ---- */

static void open_jobs(fm_server *s, fm_exchange *x) {
    fm_refusal why;
    int rc = 0;
    for (int i = 0; i < x->n_jobs && rc == 0; i++) rc = fm_work_open(s, &x->jobs[i], &why);
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < x->n_jobs && rc == 0; i++)
        if ((rc = fm_jobs_wait(s, &x->jobs[i])) < 0) fm_deny(&why, 500, NULL, "there is no memory for an answer");
    s->n_coming -= x->n_jobs;
    pthread_mutex_unlock(&s->lock);
    if (rc < 0) {
        fail(s, x, &why);
        return;
    }
    if (x->stream) fm_exchange_begin_stream(x);
    if (x->api->start) x->api->start(x);
}

static void open_exchange(fm_server *s, fm_exchange *x) {
    fm_refusal why;
    if (x->wire->route->kind == FM_ROUTE_JOBS) {
        open_jobs(s, x);
        return;
    }
    if (x->wire->route->handle(x, &why) < 0) fm_exchange_refuse(x, &why);
    let_go(s, x);
}

static void take_fresh(fm_server *s) {
    while (true) {
        pthread_mutex_lock(&s->lock);
        fm_exchange *x = s->n_fresh ? s->fresh[0] : NULL;
        if (x) memmove(s->fresh, s->fresh + 1, (size_t)--s->n_fresh * sizeof *s->fresh);
        pthread_mutex_unlock(&s->lock);
        if (!x) return;
        open_exchange(s, x);
    }
}

/* ---- clients that have left ---- */

static bool has_left(const fm_wire *w) {
    char byte;
    if (w->gone || w->fd < 0) return w->gone;
    ssize_t n = recv(w->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

/* The next exchange whose client has gone, or takes too long to take what it was sent; NULL: none. */
static fm_exchange *find_gone(fm_server *s, double now) {
    fm_exchange *found = NULL;
    pthread_mutex_lock(&s->lock);
    for (fm_exchange *x = s->exchanges; x && !found; x = x->wire->next) {
        fm_wire *w = x->wire;
        if (!w->engine_holds || !x->n_jobs || !x->jobs[0].run) continue;
        if (has_left(w) || w->broken || (w->full_since > 0 && now - w->full_since > s->o.stall_seconds)) {
            w->gone = true;
            found = x;
        }
    }
    if (found) s->counters.n_cancelled++;
    pthread_mutex_unlock(&s->lock);
    return found;
}

static void drop_gone(fm_server *s) {
    double now = fm_serve_now();
    if (now - s->looked < 0.005) return;
    s->looked = now;
    for (fm_exchange *x; (x = find_gone(s, now));) {
        fm_exchange_cut(x);
        let_go(s, x);
    }
}

/* ---- sessions ---- */

static int common(const fm_session *session, const fm_work *r) {
    const int32_t *ids = fm_session_tokens(session);
    int n = fm_session_position(session), same = 0;
    while (same < n && same < r->n_ids && ids[same] == r->ids[same]) same++;
    return same;
}

/* The free session that has most of the prompt, if that is most of what it has; else the one that was not used for longest. */
static fm_slot *choose_slot(fm_server *s, const fm_work *r) {
    fm_slot *best = NULL, *oldest = NULL;
    int most = 0;
    for (int i = 0; i < s->o.parallel; i++) {
        fm_slot *slot = &s->slots[i];
        if (slot->job) continue;
        int same = common(slot->session, r);
        if (same > most && 2 * same >= fm_session_position(slot->session)) {
            most = same;
            best = slot;
        }
        if (!oldest || slot->used < oldest->used) oldest = slot;
    }
    return best ? best : oldest;
}

static void admit(fm_server *s) {
    while (s->n_running < s->o.parallel) {
        fm_error err = {0};
        pthread_mutex_lock(&s->lock);
        fm_job *job = fm_jobs_next(s);
        fm_slot *slot = job ? choose_slot(s, job->run) : NULL;
        if (slot) {
            slot->job = job;
            s->n_running++;
            job->exchange->wire->doing = "reading the prompt";
        }
        pthread_mutex_unlock(&s->lock);
        if (!slot) return;
        if (fm_work_begin(job->run, slot->session, &err) < 0) fail_error(s, job->exchange, &err);
    }
}

/* ---- a step ---- */

typedef struct step {
    fm_piece pieces[FM_MOST_PIECES];
    fm_slot *slots[FM_MOST_PIECES];
    int n, n_decoding, n_reading; /* reading: answers whose prompt is read */
} step;

static bool paused(fm_server *s, const fm_job *job) {
    pthread_mutex_lock(&s->lock);
    bool full = job->exchange->wire->full_since > 0;
    pthread_mutex_unlock(&s->lock);
    return full;
}

static int left(const fm_work *r) { return r->n_ids - fm_session_position(r->session); }

/* Answers whose tokens are all computed choose their next ones. */
static void choose(fm_server *s) {
    for (int i = 0; i < s->o.parallel; i++) {
        fm_slot *slot = &s->slots[i];
        fm_error err = {0};
        if (!slot->job || paused(s, slot->job) || left(slot->job->run) > 0) continue;
        slot->job->run->alone = false;
        int rc = fm_work_next(s, slot->job->run, &err);
        if (rc < 0)
            fail_error(s, slot->job->exchange, &err);
        else if (rc == 1)
            end_job(s, slot);
    }
}

/* n tokens of the run at most, up to where a snapshot is kept. */
static void add_piece(step *t, fm_slot *slot, int n) {
    const fm_work *r = slot->job->run;
    int position = fm_session_position(r->session), end = position + (n < left(r) ? n : left(r));
    for (int i = 0; i < r->n_borders; i++) {
        if (r->borders[i] <= position || r->borders[i] >= end) continue;
        end = r->borders[i];
        break;
    }
    t->slots[t->n] = slot;
    t->pieces[t->n++] =
        (fm_piece){.session = slot->session, .ids = r->ids + position, .n = end - position, .which = end == r->n_ids ? FM_LOGITS_LAST : FM_LOGITS_NONE};
}

/* The next token of everyone who is answered, and pieces of prompts: as much as fits if nobody is, else one small piece's worth, and none while those who are answered make up
 * for the last one. Prompts share it. */
static void compose(fm_server *s, step *t) {
    int batch = fm_engine_plan(s->engine)->batch, room = batch;
    *t = (step){.n = 0};
    for (int i = 0; i < s->o.parallel; i++) {
        fm_slot *slot = &s->slots[i];
        if (!slot->job || slot->job->run->alone || paused(s, slot->job)) continue;
        if (left(slot->job->run) == 1 && slot->job->n_tokens) {
            add_piece(t, slot, 1);
            t->n_decoding++;
        } else {
            t->n_reading++;
        }
    }
    if (!t->n_reading || (t->n_decoding && fm_serve_now() < s->piece_until)) return;
    if (t->n_decoding) room = PIECE < batch - t->n_decoding ? PIECE : batch - t->n_decoding;
    int share = room / t->n_reading > 0 ? room / t->n_reading : 1;
    for (int i = 0; i < s->o.parallel && room > 0; i++) {
        fm_slot *slot = &s->slots[(s->turn + i) % s->o.parallel];
        if (!slot->job || slot->job->run->alone || paused(s, slot->job) || (left(slot->job->run) == 1 && slot->job->n_tokens)) continue;
        add_piece(t, slot, share < room ? share : room);
        room -= t->pieces[t->n - 1].n;
    }
    s->turn++;
}

static void keep(fm_server *s, const fm_slot *slot) {
    const fm_work *r = slot->job->run;
    int position = fm_session_position(slot->session);
    for (int i = 0; i < r->n_borders; i++)
        if (r->borders[i] == position) fm_session_keep(slot->session, NULL);
    pthread_mutex_lock(&s->lock);
    fm_wire *w = slot->job->exchange->wire;
    w->doing = position < r->n_prompt ? "reading the prompt" : "answering";
    w->done = position;
    w->total = position < r->n_prompt ? r->n_prompt : 0;
    pthread_mutex_unlock(&s->lock);
}

/* Something failed in a batch, and its sessions are empty: each goes on by itself, so that only those fail that have to. */
static void part(fm_server *s, const step *t, const fm_error *why) {
    if (why->code == FM_ECANCELLED) return; /* the server is told to stop at once, and does */
    for (int i = 0; i < t->n; i++) {
        fm_error err = {0};
        fm_slot *slot = t->slots[i];
        if (!slot->job) continue; /* it was another answer of a request that has failed */
        slot->job->run->alone = true;
        if (t->n == 1)
            fail_error(s, slot->job->exchange, why);
        else if (fm_work_begin(slot->job->run, slot->session, &err) < 0)
            fail_error(s, slot->job->exchange, &err);
    }
}

static void compute(fm_server *s, const step *t) {
    fm_error err = {0};
    if (t->n == 0) return;
    double start = fm_serve_now();
    int rc = fm_engine_feed(s->engine, t->pieces, t->n, NULL, NULL, &err);
    double took = fm_serve_now() - start;
    pthread_mutex_lock(&s->lock);
    fm_engine_stats(s->engine, &s->stats);
    s->counters.n_steps++;
    s->counters.n_batched += (uint64_t)t->n;
    s->counters.step_seconds += took;
    pthread_mutex_unlock(&s->lock);
    if (t->n_decoding && t->n > t->n_decoding && took > 0.25) s->piece_until = start + 1.5 * took;
    if (rc < 0) {
        part(s, t, &err);
        return;
    }
    for (int i = 0; i < t->n; i++) keep(s, t->slots[i]);
}

/* Returns whether anything was to do. */
static bool do_step(fm_server *s) {
    step t;
    bool any = false;
    choose(s);
    for (int i = 0; i < s->o.parallel; i++) {
        fm_slot *slot = &s->slots[i];
        if (!slot->job || !slot->job->run->alone || left(slot->job->run) == 0 || paused(s, slot->job)) continue;
        t = (step){.n = 0};
        add_piece(&t, slot, PIECE);
        compute(s, &t);
        any = true;
    }
    compose(s, &t);
    compute(s, &t);
    return any || t.n > 0;
}

/* ---- the thread ---- */

/* Nothing is to do: snapshots are written, or somebody is waited for. */
static void idle(fm_server *s) {
    struct timespec until;
    int before = s->n_unsaved;
    if (s->n_running == 0) s->n_unsaved = fm_engine_idle(s->engine, 0.1, NULL);
    if (s->n_unsaved > 0 && s->n_unsaved != before && s->n_running == 0) return;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += s->n_running || s->n_waiting ? 10000000 : 250000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&s->lock);
    if (!s->n_fresh && !s->stopping) pthread_cond_timedwait(&s->work, &s->lock, &until);
    pthread_mutex_unlock(&s->lock);
}

/* Whether any answer of it has begun. */
static bool has_begun(const fm_exchange *x) {
    for (int i = 0; i < x->n_jobs; i++)
        if (x->jobs[i].run->begun) return true;
    return false;
}

/* When the server stops, requests of which nothing has begun; and all when it must. */
static void fail_stopped(fm_server *s, bool all) {
    fm_refusal why;
    fm_deny(&why, 503, NULL, "the server is shutting down");
    for (int i = 0; i < s->n_waiting;) {
        if (all || !has_begun(s->waiting[i]->exchange)) {
            fail(s, s->waiting[i]->exchange, &why);
            i = 0;
        } else {
            i++;
        }
    }
    for (int i = 0; all && i < s->o.parallel; i++)
        if (s->slots[i].job) fail(s, s->slots[i].job->exchange, &why);
}

/* Whether the thread may end. */
static bool stop(fm_server *s) {
    pthread_mutex_lock(&s->lock);
    int stopping = s->stopping;
    pthread_mutex_unlock(&s->lock);
    if (!stopping) return false;
    fail_stopped(s, stopping > 1 || fm_serve_now() > s->stop_at);
    return s->n_running == 0 && s->n_waiting == 0;
}

static void serve(fm_server *s) {
    while (true) {
        take_fresh(s);
        if (stop(s)) return;
        drop_gone(s);
        admit(s);
        if (!do_step(s)) idle(s);
    }
}

void *fm_scheduler_main(void *server) {
    fm_server *s = server;
    fm_error err = {0};
    int rc = fm_server_load(s, &err);
    if (rc >= 0) serve(s);
    pthread_mutex_lock(&s->lock);
    s->error = err;
    s->state = FM_SERVER_STOPPED;
    pthread_mutex_unlock(&s->lock);
    fm_refusal why;
    fm_deny(&why, 503, NULL, "the server is shutting down");
    for (int i = 0; i < s->n_fresh; i++) fail(s, s->fresh[i], &why); /* no more come */
    fm_server_unload(s);
    return NULL;
}
