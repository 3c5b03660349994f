/* serve/server.c: the server as a whole: opening, loading, ticking, stopping, closing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "serve/server.h"

#define MIB ((uint64_t)1 << 20)

/* ---- loading ---- */

static int on_progress(void *user, const char *what, uint64_t done, uint64_t total) {
    fm_server *s = user;
    const fm_engine_options *o = &s->o.engine;
    pthread_mutex_lock(&s->lock);
    s->loaded = done;
    s->load_total = total;
    bool stop = s->stopping && s->state == FM_SERVER_LOADING;
    bool loading = s->state == FM_SERVER_LOADING;
    pthread_mutex_unlock(&s->lock);
    return stop || (loading && o->progress && o->progress(o->user, what, done, total));
}

static void on_log(void *user, int level, const char *line) {
    const fm_engine_options *o = &((fm_server *)user)->o.engine;
    if (o->log) o->log(o->user, level, line);
}

static int open_engine(fm_server *s, fm_error *err) {
    fm_engine_options o = s->o.engine;
    o.n_sessions = s->o.parallel;
    o.progress = on_progress;
    o.log = on_log;
    o.user = s;
    uint64_t own = 3 * s->most_bodies + (uint64_t)s->o.connections * FM_MOST_HEADERS; /* requests, answers, what is kept, connections: of the budget too */
    o.memory_bytes -= own < o.memory_bytes / 16 ? own : o.memory_bytes / 16;
    fm_engine *engine;
    int rc = fm_engine_open(&engine, s->o.model, &o, err);
    if (rc < 0) return rc;
    pthread_mutex_lock(&s->lock);
    s->engine = engine;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static int open_chat(fm_server *s, fm_error *err) {
    fm_chat_options o = FM_CHAT_OPTIONS_INIT;
    o.template_file = s->o.template_file;
    if (!o.template_file && !*fm_engine_info(s->engine)->chat_template) return 0;
    return fm_chat_open(&s->chat, s->engine, &o, err);
}

/* What is much longer than the context holds would only keep everybody waiting for its tokens. */
static void limit_body(fm_server *s) {
    uint64_t most = MIB + 64 * (uint64_t)s->facts.context;
    if (!s->o.body_bytes && s->most_body > most) s->most_body = most;
}

static void set_facts(fm_server *s) {
    fm_facts *f = &s->facts;
    const fm_model_info *info = fm_engine_info(s->engine);
    f->vocab = info->vocab;
    f->context = fm_engine_plan(s->engine)->context;
    f->path = info->path;
    f->has_chat = s->chat != NULL;
    f->tool_format = s->chat ? fm_chat_tool_format(s->chat) : "none";
    f->uses_thinking = s->chat && fm_chat_template_uses(s->chat, "enable_thinking");
    f->uses_effort = s->chat && fm_chat_template_uses(s->chat, "reasoning_effort");
    f->sampling = (fm_sampling)FM_SAMPLING_INIT;
    fm_engine_sampling(s->engine, &f->sampling);
    if (s->o.sampling) s->o.sampling(s->o.user, s->engine, &f->sampling);
}

int fm_server_load(fm_server *s, fm_error *err) {
    int rc = open_engine(s, err);
    if (rc >= 0) rc = open_chat(s, err);
    for (int i = 0; i < s->o.parallel && rc >= 0; i++) rc = fm_session_open(&s->slots[i].session, s->engine, err);
    if (rc < 0) return rc;
    set_facts(s);
    limit_body(s);
    pthread_mutex_lock(&s->lock);
    fm_engine_stats(s->engine, &s->stats);
    s->state = FM_SERVER_READY;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

void fm_server_unload(fm_server *s) {
    fm_chat_close(&s->chat);
    for (int i = 0; i < s->o.parallel; i++) fm_session_close(&s->slots[i].session);
    fm_engine *engine = s->engine;
    pthread_mutex_lock(&s->lock);
    s->engine = NULL; /* fm_server_stop tells it to cancel */
    pthread_mutex_unlock(&s->lock);
    fm_engine_close(&engine);
    pthread_mutex_lock(&s->lock);
    s->unloaded = true;
    pthread_mutex_unlock(&s->lock);
}

/* ---- opening ---- */

static void set_limits(fm_server *s) {
    uint64_t memory = s->o.engine.memory_bytes, share = memory / 64;
    s->most_bodies = !memory || share > 32 * MIB ? 32 * MIB : share < MIB ? MIB : share;
    s->most_body = s->o.body_bytes ? s->o.body_bytes : s->most_bodies < 8 * MIB ? s->most_bodies : 8 * MIB;
    if (s->most_bodies < s->most_body) s->most_bodies = s->most_body;
}

static void set_alias(fm_server *s) {
    const char *path = s->o.model;
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t from = n;
    while (from > 0 && path[from - 1] != '/') from--;
    if (s->o.alias)
        snprintf(s->alias, sizeof s->alias, "%s", s->o.alias);
    else
        snprintf(s->alias, sizeof s->alias, "%.*s", (int)(n - from), path + from);
    s->facts = (fm_facts){.alias = s->alias,
                          .strict_model = s->o.strict_model,
                          .parallel = s->o.parallel,
                          .most_jobs = s->o.parallel + s->o.queue,
                          .created = (int64_t)time(NULL),
                          .max_tokens = s->o.max_tokens,
                          .think_budget = s->o.think_budget,
                          .path = s->o.model};
}

/* Routes of one API share what it shares. */
static void open_shared(fm_server *s) {
    for (int i = 0; i < fm_n_routes; i++) {
        const fm_api *api = fm_routes[i].api;
        if (!api || !api->open_shared) continue;
        for (int k = 0; k < i && !s->shared[i]; k++)
            if (fm_routes[k].api && fm_routes[k].api->open_shared == api->open_shared) s->shared[i] = s->shared[k];
        if (!s->shared[i]) s->shared[i] = api->open_shared(s->most_bodies);
    }
}

static void close_shared(fm_server *s) {
    for (int i = 0; s->shared && i < fm_n_routes; i++) {
        void *shared = s->shared[i];
        if (!shared) continue;
        for (int k = i; k < fm_n_routes; k++)
            if (s->shared[k] == shared) s->shared[k] = NULL;
        if (fm_routes[i].api->close_shared) fm_routes[i].api->close_shared(shared);
    }
    free(s->shared);
}

static int no_memory(fm_error *err) {
    if (err) *err = (fm_error){.code = FM_ENOMEM, .message = "no memory for a server"};
    return FM_ENOMEM;
}

int fm_server_open(fm_server **out, const fm_server_options *options, fm_error *err) {
    fm_server *s = *out = calloc(1, sizeof *s);
    int rc = 0;
    if (!s) return no_memory(err);
    s->o = *options;
    json_object_seed(0); /* before there are two threads */
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    set_limits(s);
    set_alias(s);
    s->slots = calloc((size_t)s->o.parallel, sizeof *s->slots);
    s->shared = calloc((size_t)fm_n_routes + 1, sizeof *s->shared);
    if (!s->slots || !s->shared) rc = no_memory(err);
    if (rc == 0) open_shared(s);
    if (rc == 0) rc = fm_http_open(s, err);
    if (rc == 0 && !(s->thread_runs = pthread_create(&s->thread, NULL, fm_scheduler_main, s) == 0)) rc = no_memory(err);
    if (rc < 0) fm_server_close(out);
    return rc;
}

int fm_server_port(const fm_server *s) { return s->port; }

bool fm_server_ready(fm_server *s) {
    pthread_mutex_lock(&s->lock);
    bool ready = s->state == FM_SERVER_READY;
    pthread_mutex_unlock(&s->lock);
    return ready;
}

/* ---- running ---- */

int fm_server_tick(fm_server *s, fm_error *err) {
    double now = fm_serve_now();
    pthread_mutex_lock(&s->lock);
    for (fm_exchange *x = s->exchanges; x; x = x->wire->next) fm_exchange_alive(x, now);
    bool ended = s->state == FM_SERVER_STOPPED && s->unloaded;
    int rc = s->state == FM_SERVER_STOPPED ? s->error.code : 0;
    if (rc < 0 && err) *err = s->error;
    pthread_mutex_unlock(&s->lock);
    fm_http_idle(s, now);
    return rc < 0 ? rc : !ended;
}

void fm_server_stop(fm_server *s) {
    pthread_mutex_lock(&s->lock);
    int before = s->stopping;
    s->stopping = before ? 2 : 1;
    if (!before) s->stop_at = fm_serve_now() + s->o.grace_seconds;
    if (before && s->engine) fm_engine_cancel(s->engine, true);
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    if (!before) fm_http_quiesce(s);
}

/* What was written has a moment to reach its clients. */
static void drain(fm_server *s) {
    double until = fm_serve_now() + 2;
    bool any = true;
    while (any && fm_serve_now() < until) {
        any = false;
        pthread_mutex_lock(&s->lock);
        for (fm_exchange *x = s->exchanges; x && !any; x = x->wire->next) any = x->wire->connection && (x->wire->finished || x->wire->broken);
        pthread_mutex_unlock(&s->lock);
        if (any) nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    }
}

void fm_server_close(fm_server **server) {
    fm_server *s = *server;
    if (!s) return;
    if (s->thread_runs) {
        pthread_mutex_lock(&s->lock);
        s->stopping = 2;
        pthread_cond_signal(&s->work);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
        drain(s);
    }
    fm_http_close(s);
    close_shared(s);
    pthread_cond_destroy(&s->work);
    pthread_mutex_destroy(&s->lock);
    free(s->fresh);
    free(s->waiting);
    free(s->slots);
    free(s);
    *server = NULL;
}
