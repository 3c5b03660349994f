/* cli/remote/stream.h: the server-sent events of an answer of /v1/chat/completions, in pieces as they come, to events and a message as of the library. No network here. */
#ifndef FM_CLI_REMOTE_STREAM_H
#define FM_CLI_REMOTE_STREAM_H

#include "cli/cli.h"

struct stream {
    fm_event_fn event;
    void *user;                                    /* of event */
    void (*comment)(void *user, const char *text); /* what the server says while it is silent; NULL: dropped */
    void *comment_user;
    /* What is known so far: */
    bool begun;                                    /* something of the answer has come */
    bool whole;                                    /* it was said how the answer ended, or that nothing more comes */
    int stop;                                      /* FM_STOP_… */
    int n_prompt, n_cached, n_tokens, n_reasoning; /* -1: the server has not said */
    double tokens_per_second;                      /* by the server's own clock; 0: it has not said */
    fm_error error;                                /* code != 0: what is wrong; the rest is dropped */
    bool stopped;                                  /* event asked for it */
    /* Its own: */
    struct text line, data, content, reasoning;
    json_t *calls; /* list */
    int open_call; /* -1: none */
};

void fm_stream_open(struct stream *stream);
void fm_stream_close(struct stream *stream);
/* Bytes of the answer. Non-zero when no more are wanted: error or stopped says why. */
int fm_stream_feed(struct stream *stream, const char *bytes, size_t n);
/* Nothing more comes. FM_EFORMAT if that is too early. Ends the call that is open. */
int fm_stream_end(struct stream *stream, fm_error *err);
/* The message so far, as fm_answer_message; malloc'd, NULL without memory. */
char *fm_stream_message(const struct stream *stream);

/* The sentence in an error's body; false: there is none. */
bool fm_stream_refusal(char *out, size_t size, const char *body, size_t n);

#endif
