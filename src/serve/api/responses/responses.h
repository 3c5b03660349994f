/* serve/api/responses/responses.h: OpenAI's Responses, the inside: requests (responses.c), conversations (responses_read.c), printing (responses_print.c) and what is kept
 * (responses_store.c). */
#ifndef FM_SERVE_API_RESPONSES_H
#define FM_SERVE_API_RESPONSES_H

#include "serve/api/joined.h"

/* ---- responses_read.c ---- */

/* Adds `input`, a text or a list of items, to messages in the form of chat completions. */
int fm_responses_read(const json_t *input, json_t *messages, fm_refusal *why);
/* The tools in that form, only those that allowed names (a list of {"type", "name"}; NULL: all); NULL: none. */
int fm_responses_read_tools(const json_t *body, const json_t *allowed, json_t **out, fm_refusal *why);

/* ---- responses_store.c: what previous_response_id finds. Under a limit of bytes, the least recently used goes first. Any thread. ---- */

typedef struct fm_responses_store fm_responses_store;

fm_responses_store *fm_responses_store_open(size_t most_bytes);
void fm_responses_store_close(fm_responses_store **store);
/* Copies. What is larger than the limit is not kept. */
void fm_responses_store_add(fm_responses_store *store, const char *id, const char *messages, const char *response);
/* New copies, to be freed; either may be NULL. False: there is none of this id. */
bool fm_responses_store_find(fm_responses_store *store, const char *id, char **messages, char **response);
bool fm_responses_store_remove(fm_responses_store *store, const char *id);

/* ---- responses_print.c ---- */

typedef struct fm_responses_state {
    json_t *conversation; /* messages without instructions, to be kept; NULL: store is false */
    const char *effort;   /* NULL: none given */
    bool top_logprobs;    /* probabilities are shown */
    int sequence;         /* of the stream's next event */
    json_t *output;       /* items, the last of which is open if `open` */
    json_t *open;         /* borrowed from output */
    fm_joined text;       /* of the open item */
    json_t *logprobs;     /* of the open item; NULL: none */
} fm_responses_state;

void fm_responses_start(fm_exchange *x);
void fm_responses_event(fm_exchange *x, fm_job *job, const fm_event *event);
void fm_responses_finish(fm_exchange *x);
void fm_responses_broken(fm_exchange *x, const fm_refusal *why);
void fm_responses_close(fm_exchange *x);

#endif
