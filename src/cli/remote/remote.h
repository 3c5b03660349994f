/* cli/remote/remote.h: a server elsewhere that has OpenAI's API, ours or another, as the terminal chat uses it. Errors are one sentence that names the server. */
#ifndef FM_CLI_REMOTE_REMOTE_H
#define FM_CLI_REMOTE_REMOTE_H

#include <stdbool.h>

#include "flash_moe.h"

struct remote;

/* url: "http://host:port", also with a path before /v1. key_from: a file with the API key, "env" for the variable FLASH_MOE_API_KEY, or NULL. Asks for the server's
 * models, so that what is wrong is said at once. FM_EINVAL: url is none, or there is no key there. */
int fm_remote_open(struct remote **out, const char *url, const char *key_from, fm_error *err);
void fm_remote_close(struct remote **remote);
const char *fm_remote_url(const struct remote *remote);
const char *fm_remote_model(const struct remote *remote);
int fm_remote_context(const struct remote *remote); /* tokens; 0: the server does not say */

struct remote_calls {
    fm_event_fn event;
    void *user;                                    /* of event */
    void (*comment)(void *user, const char *text); /* what the server says while nothing comes */
    void *comment_user;
    bool (*stop)(void); /* asked many times a second; true breaks the answer off: FM_STOP_CANCELLED, which is no error */
};

/* out->decode_seconds is by the server's clock, as what it holds back comes all at once; 0: it does not say.
 * request is the body but for model, stream and stream_options. After an error *out is empty, though events may have come. What the server has not said is -1. */
int fm_remote_answer(struct remote *remote, const char *request, const struct remote_calls *calls, fm_answered *out, fm_error *err);

#endif
