/* serve/api/apis.h: the APIs that there are. */
#ifndef FM_SERVE_API_APIS_H
#define FM_SERVE_API_APIS_H

#include "serve/api.h"

extern const fm_api fm_api_openai_chat; /* openai_chat.c */
extern const fm_api fm_api_completions; /* completions.c */
extern const fm_api fm_api_responses;   /* responses/responses.c */
extern const fm_api fm_api_messages;    /* anthropic/messages.c */

/* Handlers without jobs, of responses/responses.c, anthropic/messages.c and small.c. */
int fm_responses_get(fm_exchange *x, fm_refusal *why);
int fm_responses_delete(fm_exchange *x, fm_refusal *why);
int fm_messages_count(fm_exchange *x, fm_refusal *why);
int fm_small_tokenize(fm_exchange *x, fm_refusal *why);
int fm_small_detokenize(fm_exchange *x, fm_refusal *why);
int fm_small_apply_template(fm_exchange *x, fm_refusal *why);

/* OpenAI's form of errors, which everything has that is no API of others. */
json_t *fm_openai_error(const fm_refusal *why);

#endif
