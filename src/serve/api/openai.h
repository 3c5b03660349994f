/* serve/api/openai.h: what the two files of POST /v1/chat/completions share: openai_chat.c reads requests, openai_print.c writes answers. */
#ifndef FM_SERVE_API_OPENAI_H
#define FM_SERVE_API_OPENAI_H

#include "serve/api/apis.h"

typedef struct fm_openai_chat { /* fm_exchange.state */
    bool include_usage;
    json_t **logprobs; /* [n_jobs] of answers that are not streamed */
} fm_openai_chat;

void fm_openai_start(fm_exchange *x);
void fm_openai_event(fm_exchange *x, fm_job *job, const fm_event *event);
void fm_openai_end(fm_exchange *x, fm_job *job);
void fm_openai_finish(fm_exchange *x);
void fm_openai_close(fm_exchange *x);

#endif
