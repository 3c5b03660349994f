/* serve/answers/raw.c: a text that goes on without a chat template: tokens in, whole characters out, up to a stop string. */
#include <stdlib.h>
#include <string.h>

#include "serve/server.h"

struct fm_raw {
    fm_event_fn event;
    void *user;
    const char *const *stops;
    int n_stops, max_tokens, n_tokens;
    char *held; /* [n_held] bytes that are no whole character yet, or may be the beginning of a stop string; 0-terminated */
    size_t n_held, room;
    bool ended;
};

fm_raw *fm_raw_open(const fm_job *job, fm_event_fn event, void *user) {
    fm_raw *r = calloc(1, sizeof *r);
    if (r) *r = (fm_raw){.event = event, .user = user, .stops = job->stops, .n_stops = job->n_stops, .max_tokens = job->max_tokens};
    return r;
}

int fm_raw_n_tokens(const fm_raw *r) { return r->n_tokens; }

/* Bytes of the character that begins at p [n]: 0, it is not whole yet; -k: k bytes are no character. */
static int character(const unsigned char *p, size_t n) {
    int length = p[0] < 0x80 ? 1 : p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : p[0] >= 0xe0 && p[0] < 0xf0 ? 3 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : 0;
    if (!length) return -1;
    for (int i = 1; i < length; i++) {
        if ((size_t)i == n) return 0;
        unsigned char low = 0x80, high = 0xbf;
        if (i == 1 && p[0] == 0xe0) low = 0xa0;
        if (i == 1 && p[0] == 0xed) high = 0x9f;
        if (i == 1 && p[0] == 0xf0) low = 0x90;
        if (i == 1 && p[0] == 0xf4) high = 0x8f;
        if (p[i] < low || p[i] > high) return -i;
    }
    return length;
}

/* The first n bytes as text that is UTF-8 and without NUL for sure; malloc'd. *used: less than n if the last character is not whole. */
static char *to_text(const char *bytes, size_t n, bool end, size_t *used, size_t *n_text) {
    char *text = malloc(3 * n + 1);
    size_t at = 0, to = 0;
    while (text && at < n) {
        int length = character((const unsigned char *)bytes + at, n - at);
        if (length == 0 && !end) break;
        if (length > 0) {
            memcpy(text + to, bytes + at, (size_t)length);
            to += (size_t)length;
            at += (size_t)length;
        } else {
            memcpy(text + to, "\xef\xbf\xbd", 3);
            to += 3;
            at += length ? (size_t)-length : n - at;
        }
    }
    if (text) text[to] = '\0';
    *used = at;
    *n_text = to;
    return text;
}

json_t *fm_utf8_json(const char *bytes, size_t n) {
    size_t used, n_text;
    char *text = to_text(bytes, n, true, &used, &n_text);
    json_t *json = text ? json_stringn_nocheck(text, n_text) : NULL;
    free(text);
    return json;
}

static int emit(fm_raw *r, size_t n, bool end) {
    size_t used, n_text;
    char *text = to_text(r->held, n, end, &used, &n_text);
    if (!text) return FM_ENOMEM;
    if (n_text) r->event(r->user, &(fm_event){.type = FM_EVENT_TEXT, .text = text, .bytes = n_text});
    free(text);
    memmove(r->held, r->held + used, r->n_held - used);
    r->n_held -= used;
    return 0;
}

/* Gives what can no longer be part of a stop string. 1: there is one. */
static int settle(fm_raw *r, bool end) {
    for (size_t at = 0; at < r->n_held; at++) {
        for (int i = 0; i < r->n_stops; i++) {
            size_t n = strlen(r->stops[i]), left = r->n_held - at;
            if (memcmp(r->held + at, r->stops[i], n < left ? n : left) || (n > left && end)) continue;
            if (emit(r, at, n <= left) < 0) return FM_ENOMEM;
            return n <= left;
        }
    }
    return emit(r, r->n_held, end);
}

static int put(fm_raw *r, const char *bytes, size_t n) {
    if (r->n_held + n > r->room) {
        size_t room = 2 * (r->n_held + n) + 64;
        char *held = realloc(r->held, room);
        if (!held) return FM_ENOMEM;
        r->held = held;
        r->room = room;
    }
    memcpy(r->held + r->n_held, bytes, n);
    r->n_held += n;
    return settle(r, false);
}

void fm_raw_end(fm_raw *r, int stop) {
    if (r->ended) return;
    r->ended = true;
    if (stop != FM_STOP_STRING && r->n_held && settle(r, true) == 1) stop = FM_STOP_STRING;
    r->event(r->user, &(fm_event){.type = FM_EVENT_STOP, .stop = stop});
}

static int ends(fm_raw *r, int stop) {
    fm_raw_end(r, stop);
    return 1;
}

int fm_raw_next(fm_raw *r, const fm_engine *engine, fm_sampler *sampler, const float *logits, int32_t *id, fm_error *err) {
    const char *bytes;
    if (r->ended) return 1;
    if ((*id = fm_sampler_choose(sampler, logits, err)) < 0) return *id;
    fm_sampler_feed(sampler, *id);
    r->n_tokens++;
    if (fm_engine_token_is_eos(engine, *id)) return ends(r, FM_STOP_EOS);
    int n = fm_engine_token_bytes(engine, *id, &bytes), rc = n > 0 ? put(r, bytes, (size_t)n) : 0;
    if (rc < 0) {
        if (err) *err = (fm_error){.code = rc, .message = "no memory for an answer's text"};
        return rc;
    }
    if (rc == 1) return ends(r, FM_STOP_STRING);
    return r->max_tokens >= 0 && r->n_tokens >= r->max_tokens ? ends(r, FM_STOP_LENGTH) : 0;
}

void fm_raw_close(fm_raw *r) {
    if (!r) return;
    free(r->held);
    free(r);
}
