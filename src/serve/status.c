/* serve/status.c: /health, /metrics, /props and /v1/models. On the HTTP thread, also while the model is loaded; they read what the engine's thread leaves under the lock. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "serve/server.h"
#include "serve/status.h"

int fm_status_health(fm_exchange *x, fm_refusal *why) {
    fm_server *s = x->wire->server;
    (void)why;
    pthread_mutex_lock(&s->lock);
    int state = s->stopping ? FM_SERVER_STOPPED : s->state;
    double part = s->load_total ? (double)s->loaded / (double)s->load_total : 0;
    pthread_mutex_unlock(&s->lock);
    if (state == FM_SERVER_READY)
        fm_reply_json(x, 200, json_pack("{s:s}", "status", "ok"));
    else if (state == FM_SERVER_LOADING)
        fm_reply_json(x, 503, json_pack("{s:s, s:f}", "status", "loading", "progress", part));
    else
        fm_reply_json(x, 503, json_pack("{s:s}", "status", "stopping"));
    return 0;
}

/* ---- models ---- */

static json_t *model(const fm_exchange *x) {
    const fm_facts *f = x->facts;
    fm_server *s = x->wire->server;
    json_t *json = json_pack("{s:o, s:s, s:I, s:s}", "id", fm_utf8_json(f->alias, strlen(f->alias)), "object", "model", "created", (json_int_t)f->created,
                             "owned_by", "flash-moe");
    if (json && fm_server_ready(s)) json_object_set_new(json, "context_length", json_integer(f->context));
    return json;
}

int fm_status_models(fm_exchange *x, fm_refusal *why) {
    (void)why;
    fm_reply_json(x, 200, json_pack("{s:s, s:[o]}", "object", "list", "data", model(x)));
    return 0;
}

int fm_status_model(fm_exchange *x, fm_refusal *why) {
    if (strcmp(x->rest, x->facts->alias)) {
        fm_deny(why, 404, "model", "there is no model '%.100s' here, but '%.100s'", x->rest, x->facts->alias);
        snprintf(why->code, sizeof why->code, "model_not_found");
        return -1;
    }
    fm_reply_json(x, 200, model(x));
    return 0;
}

/* ---- props ---- */

int fm_status_props(fm_exchange *x, fm_refusal *why) {
    fm_server *s = x->wire->server;
    const fm_facts *f = x->facts;
    const fm_sampling *p = &f->sampling;
    (void)why;
    bool ready = fm_server_ready(s);
    json_t *json = json_pack("{s:s, s:o, s:s, s:i, s:i, s:I}", "version", FM_VERSION, "model", fm_utf8_json(f->alias, strlen(f->alias)), "status",
                             ready ? "ok" : "loading", "parallel", s->o.parallel, "queue", s->o.queue, "body_bytes", (json_int_t)s->most_body);
    if (json && ready) {
        json_object_set_new(json, "context", json_integer(f->context));
        json_object_set_new(json, "vocab", json_integer(f->vocab));
        json_object_set_new(json, "tool_format", json_string(f->tool_format));
        json_object_set_new(json, "chat_template", json_boolean(f->has_chat));
        json_object_set_new(json, "sampling",
                            json_pack("{s:f, s:i, s:f, s:f, s:f, s:f, s:f, s:i}", "temperature", (double)p->temperature, "top_k", p->top_k, "top_p",
                                      (double)p->top_p, "min_p", (double)p->min_p, "repeat_penalty", (double)p->repeat_penalty, "presence_penalty",
                                      (double)p->presence_penalty, "frequency_penalty", (double)p->frequency_penalty, "repeat_last", p->repeat_last));
    }
    fm_reply_json(x, 200, json);
    return 0;
}

/* ---- metrics ---- */

typedef struct metrics_page {
    char text[8192];
    size_t n;
} metrics_page;

__attribute__((format(printf, 5, 6))) static void metric(metrics_page *p, const char *name, const char *type, const char *help, const char *format, ...) {
    va_list arguments;
    size_t room = sizeof p->text - p->n;
    int n = snprintf(p->text + p->n, room, "# HELP flash_moe_%s %s\n# TYPE flash_moe_%s %s\nflash_moe_%s ", name, help, name, type, name);
    p->n += n > 0 && (size_t)n < room ? (size_t)n : 0;
    room = sizeof p->text - p->n;
    va_start(arguments, format);
    n = vsnprintf(p->text + p->n, room, format, arguments);
    va_end(arguments);
    p->n += n > 0 && (size_t)n < room ? (size_t)n : 0;
    if (p->n < sizeof p->text - 1) p->text[p->n++] = '\n';
}

#define COUNT(name, help, value) metric(p, name, "counter", help, "%llu", (unsigned long long)(value))
#define GAUGE(name, help, value) metric(p, name, "gauge", help, "%d", (int)(value))
#define SECONDS(name, help, value) metric(p, name, "counter", help, "%.6f", (double)(value))

static void count_served(metrics_page *p, const fm_counters *c) {
    COUNT("requests_total", "Requests for answers that were taken.", c->n_requests);
    COUNT("refused_total", "Requests that were answered with an error.", c->n_refused);
    COUNT("failed_total", "Requests that failed by an error of the server.", c->n_failed);
    COUNT("cancelled_total", "Requests whose client left before the end.", c->n_cancelled);
    COUNT("answers_total", "Answers that were made to their end.", c->n_finished);
    COUNT("prompt_tokens_total", "Tokens of prompts of these answers.", c->n_prompt);
    COUNT("cached_tokens_total", "Of them, tokens that were not computed again.", c->n_cached);
    COUNT("answer_tokens_total", "Tokens of these answers.", c->n_answered);
    COUNT("reasoning_tokens_total", "Of them, tokens of reasoning.", c->n_reasoning);
    COUNT("steps_total", "Batches that were computed.", c->n_steps);
    COUNT("batched_total", "Answers that each batch was for, summed.", c->n_batched);
    SECONDS("step_seconds_total", "Time of these batches.", c->step_seconds);
}

static void count_engine(metrics_page *p, const fm_stats *t) {
    COUNT("tokens_total", "Tokens computed, prompts included.", t->n_tokens);
    COUNT("expert_requests_total", "Experts asked for.", t->n_requests);
    COUNT("expert_hits_total", "Of them, found in memory.", t->n_hits);
    metric(p, "expert_hit_rate", "gauge", "Share of them.", "%.6f", t->n_requests ? (double)t->n_hits / (double)t->n_requests : 0.0);
    COUNT("disk_bytes_total", "Bytes read for experts.", t->disk_bytes);
    SECONDS("disk_seconds_total", "Time with a read of an expert in flight.", t->disk_seconds);
    SECONDS("stall_seconds_total", "Time that computing waited for the disk.", t->stall_seconds);
}

int fm_status_metrics(fm_exchange *x, fm_refusal *why) {
    fm_server *s = x->wire->server;
    metrics_page page = {.n = 0}, *p = &page;
    (void)why;
    pthread_mutex_lock(&s->lock);
    fm_counters counters = s->counters;
    fm_stats stats = s->stats;
    int ready = s->state == FM_SERVER_READY, running = s->n_running, waiting = s->n_waiting + s->n_coming, connections = (int)s->n_connections;
    uint64_t bodies = s->body_bytes;
    int paused = 0;
    for (const fm_exchange *each = s->exchanges; each; each = each->wire->next) paused += each->wire->full_since > 0;
    pthread_mutex_unlock(&s->lock);
    GAUGE("ready", "The model is loaded.", ready);
    GAUGE("running", "Answers that are being made.", running);
    GAUGE("waiting", "Answers that wait for that.", waiting);
    GAUGE("paused", "Streams whose clients take nothing.", paused);
    GAUGE("parallel", "Answers that can be made at once.", s->o.parallel);
    GAUGE("connections", "Connections that are open.", connections);
    metric(p, "body_bytes", "gauge", "Bytes of requests that are in memory.", "%llu", (unsigned long long)bodies);
    count_served(p, &counters);
    count_engine(p, &stats);
    fm_reply_bytes(x, 200, "text/plain; version=0.0.4; charset=utf-8", p->text, p->n);
    return 0;
}
