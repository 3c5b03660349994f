/* serve/exchange.c: a request and its answer: memory, what is written, and the two who hold it, the connection and the engine. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "serve/api/apis.h"
#include "serve/server.h"

double fm_serve_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- refusals ---- */

int fm_deny(fm_refusal *why, int status, const char *param, const char *format, ...) {
    va_list arguments;
    *why = (fm_refusal){.status = status};
    if (param) snprintf(why->param, sizeof why->param, "%s", param);
    va_start(arguments, format);
    vsnprintf(why->message, sizeof why->message - 1, format, arguments);
    va_end(arguments);
    size_t n = strlen(why->message);
    if (n && !strchr(".?!", why->message[n - 1])) strcat(why->message, ".");
    return -1;
}

int fm_deny_error(fm_refusal *why, const fm_error *err) {
    bool theirs = err->code == FM_EINVAL || err->code == FM_EFORMAT || err->code == FM_EUNSUPPORTED || err->code == FM_EFULL;
    return fm_deny(why, theirs ? 400 : 500, NULL, "%s", *err->message ? err->message : "an error without a message");
}

/* ---- memory ---- */

typedef struct block {
    struct block *next;
    max_align_t bytes[];
} block;

void *fm_exchange_alloc(fm_exchange *x, size_t bytes) {
    block *b = calloc(1, sizeof *b + bytes);
    if (!b) return NULL;
    b->next = x->wire->blocks;
    x->wire->blocks = b;
    return b->bytes;
}

char *fm_exchange_text(fm_exchange *x, const char *text, size_t bytes) {
    char *copy = fm_exchange_alloc(x, bytes + 1);
    return copy ? memcpy(copy, text, bytes) : NULL;
}

char *fm_exchange_dump(fm_exchange *x, json_t *json) {
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL, *copy = text ? fm_exchange_text(x, text, strlen(text)) : NULL;
    free(text);
    json_decref(json);
    return copy;
}

static uint64_t new_seed(void) {
    uint32_t seed = 0;
    return getentropy(&seed, sizeof seed) == 0 ? seed : 0;
}

int fm_exchange_jobs(fm_exchange *x, int n, fm_refusal *why) {
    const fm_facts *f = x->facts;
    if (!(x->jobs = fm_exchange_alloc(x, (size_t)n * sizeof *x->jobs))) return fm_deny(why, 500, NULL, "there is no memory for %d answers", n);
    x->n_jobs = n;
    for (int i = 0; i < n; i++) {
        x->jobs[i] =
            (fm_job){.exchange = x, .index = i, .sampling = f->sampling, .max_tokens = f->max_tokens, .think_budget = f->think_budget, .n_logprobs = -1};
        x->jobs[i].sampling.seed = new_seed();
    }
    return 0;
}

/* ---- opening, closing ---- */

static void new_id(char id[33]) {
    unsigned char bytes[16] = {0};
    if (getentropy(bytes, sizeof bytes)) memcpy(bytes, &(double){fm_serve_now()}, sizeof(double));
    for (int i = 0; i < 16; i++) snprintf(id + 2 * i, 3, "%02x", bytes[i]);
}

fm_exchange *fm_exchange_open(fm_server *s, struct MHD_Connection *connection, const fm_route *route) {
    fm_exchange *x = calloc(1, sizeof *x);
    fm_wire *w = calloc(1, sizeof *w);
    if (!x || !w) {
        free(x);
        free(w);
        return NULL;
    }
    *w = (fm_wire){.exchange = x, .server = s, .connection = connection, .fd = -1, .route = route, .opened = fm_serve_now(), .doing = "waiting"};
    w->written = w->opened;
    *x = (fm_exchange){.facts = &s->facts, .rest = "", .created = (int64_t)time(NULL), .wire = w};
    new_id(x->id);
    pthread_mutex_lock(&s->lock);
    w->next = s->exchanges;
    if (w->next) w->next->wire->previous = x;
    s->exchanges = x;
    pthread_mutex_unlock(&s->lock);
    return x;
}

static void free_exchange(fm_exchange *x) {
    fm_wire *w = x->wire;
    if (x->api && x->api->close) x->api->close(x);
    for (fm_header *h = w->headers, *next; h; h = next) {
        next = h->next;
        free(h->name);
        free(h->value);
        free(h);
    }
    for (block *b = w->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    json_decref(x->body);
    free(w->in);
    free(w->out);
    free(w);
    free(x);
}

void fm_exchange_leave(fm_exchange *x, bool engine) {
    fm_wire *w = x->wire;
    fm_server *s = w->server;
    pthread_mutex_lock(&s->lock);
    if (engine) {
        w->engine_holds = false;
    } else {
        w->connection = NULL;
        w->fd = -1;
        if (w->engine_holds) w->gone = true;
        pthread_cond_signal(&s->work); /* its slot is wanted */
    }
    bool last = !w->connection && !w->engine_holds;
    if (last) {
        if (w->previous)
            w->previous->wire->next = w->next;
        else
            s->exchanges = w->next;
        if (w->next) w->next->wire->previous = w->previous;
        s->body_bytes -= w->room_in;
    }
    pthread_mutex_unlock(&s->lock);
    if (last) free_exchange(x);
}

fm_engine *fm_exchange_engine(const fm_exchange *x) { return x->wire->server->engine; }
fm_chat *fm_exchange_chat(const fm_exchange *x) { return x->wire->server->chat; }

int fm_exchange_read(fm_exchange *x, const char *body, size_t n, fm_refusal *why) {
    json_error_t at;
    if (n == 0) return fm_deny(why, 400, NULL, "the request has no body");
    if (fm_guard_depth(body, n, why) < 0) return -1;
    x->body = json_loadb(body, n, JSON_REJECT_DUPLICATES, &at);
    if (!x->body) return fm_deny(why, 400, NULL, "the body is not JSON: line %d, column %d: %s", at.line, at.column, at.text);
    if (!json_is_object(x->body)) return fm_deny(why, 400, NULL, "the body is not a JSON object");
    return 0;
}

/* ---- writing ---- */

void fm_wire_wake(fm_wire *w) {
    if (!w->suspended || !w->connection) return;
    w->suspended = false;
    MHD_resume_connection(w->connection);
}

/* With the lock held. */
static void append(fm_wire *w, const void *bytes, size_t n) {
    if (w->finished || w->gone || w->broken || n == 0) return;
    if (w->at_out && w->at_out == w->n_out) w->at_out = w->n_out = 0;
    if (w->at_out > FM_OUT_PAUSE) {
        memmove(w->out, w->out + w->at_out, w->n_out - w->at_out);
        w->n_out -= w->at_out;
        w->at_out = 0;
    }
    if (w->n_out + n > w->room_out) {
        size_t room = 2 * (w->n_out + n) + 1024;
        char *out = realloc(w->out, room);
        if (!out) {
            w->broken = true;
            fm_wire_wake(w);
            return;
        }
        w->out = out;
        w->room_out = room;
    }
    memcpy(w->out + w->n_out, bytes, n);
    w->n_out += n;
    w->written = fm_serve_now();
    if (w->n_out - w->at_out > FM_OUT_PAUSE && w->full_since == 0) w->full_since = w->written;
    fm_wire_wake(w);
}

void fm_put(fm_exchange *x, const char *bytes, size_t n) {
    fm_server *s = x->wire->server;
    pthread_mutex_lock(&s->lock);
    append(x->wire, bytes, n);
    pthread_mutex_unlock(&s->lock);
}

void fm_sse(fm_exchange *x, const char *name, json_t *json) {
    fm_server *s = x->wire->server;
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    pthread_mutex_lock(&s->lock);
    if (!text) {
        x->wire->broken = true;
        fm_wire_wake(x->wire);
    } else {
        if (name) {
            append(x->wire, "event: ", 7);
            append(x->wire, name, strlen(name));
            append(x->wire, "\n", 1);
        }
        append(x->wire, "data: ", 6);
        append(x->wire, text, strlen(text));
        append(x->wire, "\n\n", 2);
    }
    pthread_mutex_unlock(&s->lock);
    free(text);
}

static void reply(fm_exchange *x, int status, const char *type, const void *bytes, size_t n) {
    fm_wire *w = x->wire;
    pthread_mutex_lock(&w->server->lock);
    if (!w->ready) {
        w->status = status;
        snprintf(w->type, sizeof w->type, "%s", type);
        append(w, bytes, n);
        w->ready = w->finished = true;
        fm_wire_wake(w);
    }
    pthread_mutex_unlock(&w->server->lock);
}

void fm_reply_bytes(fm_exchange *x, int status, const char *type, const void *bytes, size_t n) { reply(x, status, type, bytes, n); }

void fm_reply_json(fm_exchange *x, int status, json_t *json) {
    static const char memory[] = "{\"error\":{\"message\":\"there is no memory for the answer.\",\"type\":\"server_error\",\"param\":null,\"code\":null}}";
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    reply(x, text ? status : 500, "application/json", text ? text : memory, text ? strlen(text) : sizeof memory - 1);
    free(text);
}

void fm_reply_header(fm_exchange *x, const char *name, const char *value) {
    fm_header *h = calloc(1, sizeof *h);
    if (!h) return;
    *h = (fm_header){.name = strdup(name), .value = strdup(value), .next = x->wire->headers};
    x->wire->headers = h;
}

void fm_exchange_begin_stream(fm_exchange *x) {
    fm_wire *w = x->wire;
    pthread_mutex_lock(&w->server->lock);
    w->streaming = w->ready = true;
    w->status = 200;
    snprintf(w->type, sizeof w->type, "text/event-stream");
    fm_wire_wake(w);
    pthread_mutex_unlock(&w->server->lock);
}

void fm_exchange_finish(fm_exchange *x) {
    fm_wire *w = x->wire;
    pthread_mutex_lock(&w->server->lock);
    w->finished = true;
    fm_wire_wake(w);
    pthread_mutex_unlock(&w->server->lock);
}

void fm_exchange_cut(fm_exchange *x) {
    fm_wire *w = x->wire;
    pthread_mutex_lock(&w->server->lock);
    w->broken = w->ready = true;
    if (!w->status) w->status = 500;
    fm_wire_wake(w);
    pthread_mutex_unlock(&w->server->lock);
}

void fm_exchange_refuse(fm_exchange *x, const fm_refusal *why) {
    const fm_api *api = x->api ? x->api : &fm_api_openai_chat;
    fm_wire *w = x->wire;
    char seconds[16];
    pthread_mutex_lock(&w->server->lock);
    w->server->counters.n_refused++;
    w->server->counters.n_failed += why->status == 500;
    bool streaming = w->streaming;
    pthread_mutex_unlock(&w->server->lock);
    if (streaming) {
        if (api->broken)
            api->broken(x, why);
        else
            fm_sse(x, NULL, api->error(why));
        fm_exchange_finish(x);
        return;
    }
    if (why->retry_seconds) {
        snprintf(seconds, sizeof seconds, "%d", why->retry_seconds);
        fm_reply_header(x, "Retry-After", seconds);
    }
    if (why->status == 401) fm_reply_header(x, "WWW-Authenticate", "Bearer");
    fm_reply_json(x, why->status, api->error(why));
}

/* A stream that has been silent for a while says that it lives, and what it is waiting for. */
void fm_exchange_alive(fm_exchange *x, double now) {
    fm_wire *w = x->wire;
    char line[128];
    if (!w->streaming || w->finished || now - w->written < w->server->o.alive_seconds || w->n_out > w->at_out) return;
    if (x->api && x->api->alive) {
        append(w, x->api->alive, strlen(x->api->alive));
        return;
    }
    int n =
        w->total ? snprintf(line, sizeof line, ": %s, %d of %d tokens\n\n", w->doing, w->done, w->total) : snprintf(line, sizeof line, ": %s\n\n", w->doing);
    append(w, line, (size_t)n);
}
