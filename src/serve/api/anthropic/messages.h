/* serve/api/anthropic/messages.h: Anthropic's Messages, the inside: requests (messages.c), conversations (messages_read.c) and printing (messages_print.c). */
#ifndef FM_SERVE_API_MESSAGES_H
#define FM_SERVE_API_MESSAGES_H

#include "serve/api/joined.h"

/* Anthropic's messages and system as OpenAI's messages; *out is new. */
int fm_messages_read(const json_t *body, json_t **out, fm_refusal *why);
/* Its tools as OpenAI's; NULL: none. */
int fm_messages_read_tools(const json_t *body, json_t **out, fm_refusal *why);

typedef struct fm_messages_state {
    bool omit_thinking; /* reasoning is shown as an empty block */
    const char *open;   /* type of the block that is being written; NULL: none */
    int n_blocks;       /* begun */
    json_t *blocks;     /* finished ones, if there is no stream */
    json_t *block;      /* the open one, without its text */
    fm_joined text;     /* its text */
} fm_messages_state;

void fm_messages_start(fm_exchange *x);
void fm_messages_event(fm_exchange *x, fm_job *job, const fm_event *event);
void fm_messages_finish(fm_exchange *x);
json_t *fm_messages_error(const fm_refusal *why);
void fm_messages_broken(fm_exchange *x, const fm_refusal *why);
void fm_messages_close(fm_exchange *x);

#endif
