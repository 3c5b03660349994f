/* serve/server.h: the inside of the server, private to serve: http.c (connections), guard.c (who may ask), exchange.c (requests and what is written), routes.c,
 * status.c, server.c; and in answers/: jobs.c (the queue), scheduler.c (the engine's thread), work.c (one answer).
 *
 * One lock covers everything that two threads see: exchanges, their output, the queue, the counters. It is never held while something is computed or written to a client. */
#ifndef FM_SERVE_SERVER_H
#define FM_SERVE_SERVER_H

#include <microhttpd.h>
#include <pthread.h>

#include "serve/api.h"
#include "serve/serve.h"

enum {
    FM_OUT_PAUSE = 256 << 10,   /* bytes of a stream that its client has not taken: the answer pauses */
    FM_MOST_DEPTH = 64,         /* of JSON */
    FM_MOST_HEADERS = 16 << 10, /* bytes */
    FM_MOST_PIECES = 64,        /* sessions */
};

/* ---- exchange.c ---- */

typedef struct fm_header {
    char *name, *value;
    struct fm_header *next;
} fm_header;

typedef struct fm_wire {
    fm_exchange *exchange;
    struct fm_server *server;
    struct MHD_Connection *connection; /* NULL: closed */
    int fd;
    const fm_route *route;
    fm_refusal refusal; /* status 0: none */
    const char *origin; /* of a page that may ask; NULL */
    bool head;          /* HEAD */
    /* what came in */
    char *in;
    size_t n_in, room_in;
    bool dispatched;
    /* what goes out */
    char *out; /* [n_out], of which at_out are sent */
    size_t n_out, at_out, room_out;
    int status;
    char type[64];
    fm_header *headers;
    bool ready;     /* the response can be queued */
    bool streaming; /* it is a stream */
    bool finished;  /* nothing more will be written */
    bool broken;    /* the stream ends with an error of the connection */
    bool suspended; /* the connection waits for us */
    bool gone;      /* the client has left */
    bool engine_holds;
    double opened, written, full_since; /* full_since: 0, or since when more than FM_OUT_PAUSE bytes wait */
    const char *doing;                  /* for keep-alives: "waiting", "reading the prompt" … */
    int done, total;                    /* of doing */
    void *blocks;                       /* memory of the exchange */
    fm_exchange *previous, *next;       /* of the server's list */
} fm_wire;

fm_exchange *fm_exchange_open(struct fm_server *s, struct MHD_Connection *connection, const fm_route *route);
/* The connection, or the engine, lets go; the last one frees. Locks. */
void fm_exchange_leave(fm_exchange *x, bool engine);
/* The body's JSON: an object. 0, or -1. */
int fm_exchange_read(fm_exchange *x, const char *body, size_t n, fm_refusal *why);
/* The refusal in the API's form: as the whole answer or, in a stream, as its last event. */
void fm_exchange_refuse(fm_exchange *x, const fm_refusal *why);
/* From here on what is written is a stream. */
void fm_exchange_begin_stream(fm_exchange *x);
void fm_exchange_finish(fm_exchange *x);
/* The client takes no more, or has gone: the connection is cut. */
void fm_exchange_cut(fm_exchange *x);
/* With the lock held: resumes the connection if it waits. */
void fm_wire_wake(fm_wire *w);
void fm_exchange_alive(fm_exchange *x, double now);

typedef struct fm_connection {
    int fd;
    double since;  /* it has no request */
    fm_wire *wire; /* its request; NULL: none */
    struct fm_connection *previous, *next;
} fm_connection;

/* ---- the queue and the counters ---- */

typedef struct fm_counters {
    uint64_t n_requests, n_refused, n_cancelled,
        n_failed; /* requests that made jobs; refused ones of any kind; given up as the client left; that ended with our error */
    uint64_t n_prompt, n_cached, n_answered, n_reasoning, n_finished; /* tokens, tokens, tokens, tokens, jobs */
    uint64_t n_steps, n_batched;                                      /* steps of the engine, and the answers that each took part of, summed */
    double step_seconds;
} fm_counters;

typedef struct fm_slot {
    fm_session *session;
    fm_job *job; /* NULL: free */
    double used;
} fm_slot;

enum { FM_SERVER_LOADING, FM_SERVER_READY, FM_SERVER_STOPPED };

struct fm_server {
    fm_server_options o;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct MHD_Daemon *daemon;
    int port;
    fm_connection *connections;
    _Atomic uint64_t most_body;                      /* bytes of a request */
    uint64_t n_connections, body_bytes, most_bodies; /* body_bytes: of all requests that came and are not done */
    void **shared;                                   /* [fm_n_routes] by route's API */
    /* the engine's thread */
    pthread_t thread;
    bool thread_runs, unloaded;
    int state; /* FM_SERVER_… */
    uint64_t loaded, load_total;
    fm_error error;
    fm_engine *engine;
    fm_chat *chat;
    fm_facts facts;
    char alias[256];
    fm_slot *slots;         /* [parallel] */
    fm_exchange *exchanges; /* all */
    fm_exchange **fresh;    /* [n_fresh] for the engine to look at, by arrival */
    int n_fresh, room_fresh;
    fm_job **waiting;                   /* [n_waiting] by arrival; engine's thread, but for the number */
    int n_waiting, n_running, n_coming; /* n_coming: jobs of fresh exchanges */
    double job_seconds;                 /* what an answer took lately */
    double piece_until;                 /* no pieces of prompts before then: those who are answered have their turn */
    fm_stats stats;                     /* copied after each step */
    fm_counters counters;
    uint64_t n_looks;    /* of GET /live */
    double looked;       /* for clients that have left */
    int turn, n_unsaved; /* whose prompt is first in a step; snapshots that are not on the disk */
    int stopping;        /* 1: finish what runs; 2: at once */
    double stop_at;
};
double fm_serve_now(void);

/* ---- jobs.c ---- */

/* HTTP thread, after parse: hands the exchange to the engine, or refuses: 429, 503. */
int fm_jobs_submit(fm_server *s, fm_exchange *x, fm_refusal *why);
/* The next job that gets a slot, taken from the waiting ones; NULL: none. Engine's thread. */
fm_job *fm_jobs_next(fm_server *s);
int fm_jobs_wait(fm_server *s, fm_job *job); /* adds one */
void fm_jobs_drop(fm_server *s, const fm_exchange *x);

/* ---- server.c ---- */

/* On the engine's thread: the model, and everything that depends on it. */
int fm_server_load(fm_server *s, fm_error *err);
void fm_server_unload(fm_server *s);

/* ---- scheduler.c ---- */

void *fm_scheduler_main(void *server);

/* ---- work.c: one answer ---- */

typedef struct fm_work {
    fm_job *job;
    fm_answer *answer;  /* with a request */
    struct fm_raw *raw; /* without */
    fm_sampler *sampler;
    int32_t *ids; /* [n_ids] prompt and answer so far */
    int n_ids, n_prompt, room_ids;
    int *borders, n_borders;
    fm_session *session; /* NULL: it waits */
    struct fm_held_event *events;
    int n_events, room_events;
    fm_token *tokens; /* [n_tokens] whose text has not come out */
    int n_tokens, room_tokens;
    bool alone; /* a batch with it failed: it goes on by itself, until it has caught up */
    bool begun, calls_end, ended;
    double began, first; /* first: its first token was made */
} fm_work;

/* Makes the prompt. 0, or -1. */
int fm_work_open(fm_server *s, fm_job *job, fm_refusal *why);
/* Takes a session: what it holds of the prompt is kept. */
int fm_work_begin(fm_work *r, fm_session *session, fm_error *err);
/* While all tokens are computed: chooses the next and tells the API. 1: the answer has ended. */
int fm_work_next(fm_server *s, fm_work *r, fm_error *err);
void fm_work_close(fm_job *job);

/* ---- raw.c: a text that goes on without a template ---- */

typedef struct fm_raw fm_raw;
fm_raw *fm_raw_open(const fm_job *job, fm_event_fn event, void *user);
/* Chooses, as fm_answer_next. */
int fm_raw_next(fm_raw *raw, const fm_engine *engine, fm_sampler *sampler, const float *logits, int32_t *id, fm_error *err);
void fm_raw_end(fm_raw *raw, int stop);
int fm_raw_n_tokens(const fm_raw *raw);
void fm_raw_close(fm_raw *raw);

/* ---- logprobs.c ---- */

/* The token's probability and the n likeliest ones, from logits [vocab]. */
void fm_token_probabilities(fm_token *out, int32_t id, int n, const float *logits, int vocab);

/* ---- guard.c: who may ask ---- */

typedef struct fm_asked { /* headers; NULL: it has none */
    const char *host, *origin, *authorization, *x_api_key;
} fm_asked;

/* 0, or -1: 401, 403. *origin: the page's origin if it may ask and has to be told. */
int fm_guard_check(const fm_server_options *o, const fm_asked *asked, bool open, const char **origin, fm_refusal *why);
/* 0, or -1 with why: JSON nested too deeply. */
int fm_guard_depth(const char *json, size_t n, fm_refusal *why);

/* ---- http.c ---- */

int fm_http_open(fm_server *s, fm_error *err);
void fm_http_idle(fm_server *s, double now);
void fm_http_quiesce(fm_server *s);
void fm_http_close(fm_server *s);

/* ---- routes.c ---- */

/* The route for it. NULL, with why: 404, 405. *rest: what stands for the *. */
const fm_route *fm_route_find(const char *method, const char *path, const char **rest, const fm_api **api, fm_refusal *why);

#endif
