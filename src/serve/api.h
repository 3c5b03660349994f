/* serve/api.h: the seam between the server's body and its APIs.
 *
 * An API turns a request's JSON into jobs, each of which is one answer, and prints what happens to them. To add one:
 *
 *   1. a file in serve/api with an fm_api: parse (JSON to jobs) and the printers start, event, end, finish;
 *   2. its address in serve/api/apis.h, its line in the table of serve/routes.c and in meson.build.
 *
 * A request without jobs (a list of models, tokens of a text, the page) is a route with a `handle` instead.
 *
 * Threads. parse runs on the HTTP thread and may use only the exchange and its facts. Handlers of FM_ROUTE_NOW run there too, also while the model is loaded. Everything
 * else runs on the engine's thread, between two steps of all answers, so it has to be quick. Each fm_sse, fm_put and fm_reply… is whole by itself: the keep-alive of a stream,
 * which comes from a third thread, falls between two calls. Nothing here blocks on a client.
 *
 * What is refused is said with fm_deny, which returns -1: a status, the field's name and a sentence; `error` of the API gives it its form. */
#ifndef FM_SERVE_API_H
#define FM_SERVE_API_H

#include <jansson.h>

#include "flash_moe.h"

typedef struct fm_exchange fm_exchange;

/* ---- refusals -------------------------------------------------------------------------------------------------------- */

typedef struct fm_refusal {
    int status;        /* HTTP's: 400 a mistake of the client's, 401, 403, 404, 405, 413, 429, 500 ours, 503 */
    int retry_seconds; /* 0: no Retry-After */
    char param[64];    /* the field it is about, "" */
    char code[48];     /* "context_length_exceeded", "" */
    char message[640]; /* a sentence */
} fm_refusal;

/* param may be NULL. The message gets its full stop. Returns -1. */
__attribute__((format(printf, 4, 5))) int fm_deny(fm_refusal *why, int status, const char *param, const char *format, ...);
/* The library's error as a refusal: 400 for what a request can be guilty of, else 500. Returns -1. */
int fm_deny_error(fm_refusal *why, const fm_error *err);

/* ---- jobs ------------------------------------------------------------------------------------------------------------ */

enum { FM_MOST_LOGPROBS = 20 };

typedef struct fm_logprob {
    int32_t id;
    float logprob;
} fm_logprob;

typedef struct fm_token { /* a token of the answer with its probability under the model */
    fm_logprob chosen;
    fm_logprob top[FM_MOST_LOGPROBS]; /* [job.n_logprobs], the likeliest first */
} fm_token;

/* One answer. What parse fills, it borrows from the exchange (its body, fm_exchange_alloc). */
typedef struct fm_job {
    fm_exchange *exchange;
    int index; /* of the exchange's */
    /* What to answer: */
    const char *request; /* as fm_chat_prompt and fm_answer_open take it (OpenAI's form); NULL: */
    const char *text;    /* a text to continue as it is, without the chat template; special tokens in it are recognised. NULL: */
    const int32_t *ids;  /* [n_ids] tokens to continue */
    int n_ids;
    /* How: fm_exchange_jobs sets the server's defaults. */
    fm_sampling sampling; /* its seed is a new one for each job */
    int max_tokens, think_budget;
    const char *const *stops;
    int n_stops;
    const char *force_call; /* as in fm_answer_options */
    bool one_call;          /* the answer ends after its first tool call */
    int n_logprobs;         /* likeliest tokens wanted beside the chosen one, 0 … FM_MOST_LOGPROBS; -1: no probabilities */
    /* What became of it, for printers: */
    int n_prompt, n_cached, n_tokens, n_reasoning; /* n_cached: of n_prompt, tokens that were not computed */
    double prompt_seconds, answer_seconds;         /* from its beginning to the first token; of the tokens after that one */
    int stop;                                      /* FM_STOP_…, at `end` */
    const char *stopped_by;                        /* at `end`, of stops the one that ended it; NULL: none */
    const char *message;                           /* at `end`, with request: fm_answer_message, JSON in OpenAI's form */
    const fm_token *tokens;                        /* [n_new], in `event`: of a text event the tokens that it is made of. n_logprobs < 0: none */
    int n_new;
    void *state;         /* the API's own */
    struct fm_work *run; /* the scheduler's */
} fm_job;

/* ---- exchanges: a request and its answer ------------------------------------------------------------------------------ */

/* What APIs may know of the server and the model; it does not change once the model is loaded. */
typedef struct fm_facts {
    const char *alias;                         /* what the model is called */
    bool strict_model;                         /* no other name is served */
    int vocab, context, parallel, most_jobs;   /* most_jobs: of one request */
    int64_t created;                           /* when the server started, seconds since 1970 */
    fm_sampling sampling;                      /* defaults: the model's own, changed by the command line; its bias stays */
    int max_tokens, think_budget;              /* defaults, -1: any */
    bool has_chat, uses_thinking, uses_effort; /* there is a chat template; it knows enable_thinking, reasoning_effort */
    const char *path, *tool_format;
} fm_facts;

struct fm_exchange {
    const fm_facts *facts;
    const struct fm_api *api;
    json_t *body;     /* an object; NULL: the request had none */
    const char *rest; /* what stood for * in the route's path; "" */
    fm_job *jobs;     /* [n_jobs] */
    int n_jobs;
    bool stream;          /* parse sets it: the answer is server-sent events */
    int64_t created;      /* seconds since 1970 */
    char id[33];          /* hexadecimal digits, random */
    void *state;          /* the API's own */
    void *shared;         /* of the API, one for the server (fm_api.open_shared) */
    struct fm_wire *wire; /* the server's */
};

/* Memory that lives as long as the exchange, zeroed. NULL: there is none. */
void *fm_exchange_alloc(fm_exchange *x, size_t bytes);
char *fm_exchange_text(fm_exchange *x, const char *text, size_t bytes);
/* json as text that lives as long as the exchange; it is decref'd. */
char *fm_exchange_dump(fm_exchange *x, json_t *json);
/* Makes n jobs with the server's defaults, each with a new seed. */
int fm_exchange_jobs(fm_exchange *x, int n, fm_refusal *why);
/* On the engine's thread only. The chat is NULL if the model has no template. */
fm_engine *fm_exchange_engine(const fm_exchange *x);
fm_chat *fm_exchange_chat(const fm_exchange *x);

/* ---- writing --------------------------------------------------------------------------------------------------------- */

/* Bytes as a JSON string; what is no UTF-8 becomes U+FFFD. */
json_t *fm_utf8_json(const char *bytes, size_t n);

/* One server-sent event: "event: NAME" (NULL: without) and "data: JSON"; json is decref'd. */
void fm_sse(fm_exchange *x, const char *name, json_t *json);
/* Bytes of a stream as they are, such as "data: [DONE]\n\n". */
void fm_put(fm_exchange *x, const char *bytes, size_t n);
/* The whole answer, once. json is decref'd. In handlers and, without stream, in finish. */
void fm_reply_json(fm_exchange *x, int status, json_t *json);
void fm_reply_bytes(fm_exchange *x, int status, const char *type, const void *bytes, size_t n);
/* A header more, before the answer. name and value are copied. */
void fm_reply_header(fm_exchange *x, const char *name, const char *value);

/* ---- APIs ------------------------------------------------------------------------------------------------------------ */

typedef struct fm_api {
    const char *name;
    /* Body to jobs, and x->stream. 0, or -1 by fm_deny. */
    int (*parse)(fm_exchange *x, fm_refusal *why);
    /* Each of these but error may be NULL. */
    void (*start)(fm_exchange *x);                                     /* the prompts are made (n_prompt is known) and will be answered */
    void (*event)(fm_exchange *x, fm_job *job, const fm_event *event); /* never FM_EVENT_STOP */
    void (*end)(fm_exchange *x, fm_job *job);                          /* the job has ended: stop, n_tokens, message … */
    void (*finish)(fm_exchange *x);                                    /* all have */
    json_t *(*error)(const fm_refusal *why);                           /* a refusal as the body of an answer, or in the stream */
    void (*broken)(fm_exchange *x, const fm_refusal *why);             /* in the middle of a stream; NULL: an event of `error` without a name */
    const char *alive;                                                 /* what keeps a silent stream alive; NULL: a comment that says what is being done */
    void (*close)(fm_exchange *x);                                     /* frees what is not the exchange's memory */
    void *(*open_shared)(uint64_t most_bytes);                         /* shared of all its exchanges; it locks by itself */
    void (*close_shared)(void *shared);
} fm_api;

/* ---- routes ---------------------------------------------------------------------------------------------------------- */

enum {
    FM_ROUTE_JOBS,   /* api makes jobs */
    FM_ROUTE_NOW,    /* handle on the HTTP thread, also while the model is loaded */
    FM_ROUTE_ENGINE, /* handle on the engine's thread */
};

typedef struct fm_route {
    const char *method, *path; /* a path may end with *, for one or more characters without / */
    int kind;
    const fm_api *api; /* also of handlers: whose form errors have; NULL: OpenAI's */
    /* Replies, or refuses: -1. */
    int (*handle)(fm_exchange *x, fm_refusal *why);
    bool open; /* needs no API key */
} fm_route;

extern const fm_route fm_routes[];
extern const int fm_n_routes;

#endif
