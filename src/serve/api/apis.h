/* serve/api/apis.h: the APIs that there are. */
#ifndef FM_SERVE_API_APIS_H
#define FM_SERVE_API_APIS_H

#include "serve/api.h"

extern const fm_api fm_api_openai_chat; /* openai_chat.c */

/* OpenAI's form of errors, which everything has that is no API of others. */
json_t *fm_openai_error(const fm_refusal *why);

#endif
