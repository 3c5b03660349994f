/* chat/events.c: see events.h. What is not settled yet lies in held; its first `gap` bytes are white space that is shown only if text follows. */
#include "chat/events.h"

#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"

enum { TEXT, REASONING, CALL };

static const char THINK[] = "<think>", THINK_END[] = "</think>";

struct fm_events {
    const fm_call_format *format; /* NULL: no calls */
    json_t *tools;
    char **stops; /* [n_stops] */
    int n_stops;
    uint64_t random;
    fm_event_fn event;
    void *user;
    fm_utf8_stream utf8;
    fm_chars held;
    size_t gap;
    int state;
    bool said;     /* anything but white space */
    bool answered; /* with text or calls */
    bool trimmed;  /* the white space in front belongs to nothing: it follows reasoning or a call */
    int n_calls;
    fm_call_scan scan;
    const char *stopped; /* the stop string that ended the text */
    bool refused;
};

int fm_events_open(fm_events **out, const fm_events_config *config, fm_error *err) {
    fm_events *e = *out = calloc(1, sizeof *e);
    if (!e || !(e->stops = calloc((size_t)config->n_stops + 1, sizeof *e->stops))) goto memory;
    e->format = json_array_size(config->tools) ? fm_call_format_find(config->format) : NULL;
    e->tools = json_incref(config->tools);
    e->random = config->seed;
    e->event = config->event;
    e->user = config->user;
    e->state = config->in_reasoning ? REASONING : TEXT;
    e->trimmed = config->in_reasoning;
    for (; e->n_stops < config->n_stops; e->n_stops++) {
        if (!*config->stops[e->n_stops]) {
            fm_events_close(out);
            return fm_fail(err, FM_EINVAL, "a stop string is empty");
        }
        if (!(e->stops[e->n_stops] = strdup(config->stops[e->n_stops]))) goto memory;
    }
    return 0;
memory:
    fm_events_close(out);
    return fm_fail(err, FM_ENOMEM, "no memory for an answer");
}

void fm_events_close(fm_events **events) {
    fm_events *e = *events;
    if (!e) return;
    for (int i = 0; i < e->n_stops; i++) free(e->stops[i]);
    free(e->stops);
    json_decref(e->tools);
    fm_chars_close(&e->held);
    free(e);
    *events = NULL;
}

bool fm_events_in_reasoning(const fm_events *e) { return e->state == REASONING; }
bool fm_events_in_character(const fm_events *e) { return e->utf8.n_pending > 0; }
bool fm_events_silent(const fm_events *e) { return e->state == TEXT && !e->answered && !e->held.n && !e->utf8.n_pending; }

/* ---- giving ---- */

static void give(fm_events *e, const fm_event *event) {
    if (!e->refused && e->event) e->refused = e->event(e->user, event) != 0;
}

/* Gives the first n bytes of held as text or reasoning and removes them. */
static void give_text(fm_events *e, size_t n) {
    if (!n) return;
    char next = e->held.bytes[n];
    e->held.bytes[n] = 0;
    give(e, &(fm_event){.type = e->state == REASONING ? FM_EVENT_REASONING : FM_EVENT_TEXT, .text = e->held.bytes, .bytes = n});
    e->held.bytes[n] = next;
    fm_chars_drop(&e->held, n);
    e->said = true;
    e->answered |= e->state != REASONING;
    e->trimmed = false;
}

static void drop(fm_events *e, size_t n) {
    fm_chars_drop(&e->held, n);
    e->gap = 0;
}

static void make_id(fm_events *e, char id[32]) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    strcpy(id, "call_");
    for (int i = 0; i < 24; i++) {
        uint64_t z = (e->random += 0x9e3779b97f4a7c15u); /* splitmix64 */
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        id[5 + i] = letters[(z ^ (z >> 31)) % 62];
    }
    id[29] = 0;
}

static void give_call(fm_events *e, const fm_call *call) {
    char id[32];
    make_id(e, id);
    fm_event event = {.type = FM_EVENT_CALL, .text = "", .call = e->n_calls++, .id = id, .name = fm_chars_text(&call->name)};
    give(e, &event);
    event.type = FM_EVENT_ARGUMENTS;
    event.text = fm_chars_text(&call->arguments);
    event.bytes = call->arguments.n;
    give(e, &event);
    event.type = FM_EVENT_CALL_END;
    event.text = "";
    event.bytes = 0;
    give(e, &event);
    e->said = e->answered = e->trimmed = true;
}

/* ---- settling ---- */

enum { NOTHING, WAITS, STOP, OPENS_CALL, OPENS_REASONING, ENDS_REASONING };

/* What begins at `at`. A stop string goes before a tag. */
static int look(const fm_events *e, size_t at, bool end) {
    const char *text = e->held.bytes;
    size_t n = e->held.n;
    bool waits = false;
    if (e->state == REASONING) {
        int found = fm_tag_look(text, n, at, THINK_END);
        return found > 0 ? ENDS_REASONING : found < 0 && !end ? WAITS : NOTHING;
    }
    for (int i = 0; i < e->n_stops; i++) {
        int found = fm_tag_look(text, n, at, e->stops[i]);
        if (found > 0) return STOP;
        waits |= found < 0;
    }
    if (waits && !end) return WAITS;
    for (int i = 0; e->format && e->format->opens[i]; i++) {
        int found = fm_tag_look(text, n, at, e->format->opens[i]);
        if (found > 0) return OPENS_CALL;
        waits |= found < 0;
    }
    if (!e->said && at == e->gap) {
        int found = fm_tag_look(text, n, at, THINK);
        if (found > 0) return OPENS_REASONING;
        waits |= found < 0;
    }
    return waits && !end ? WAITS : NOTHING;
}

static const char *find_stop(const fm_events *e, size_t at) {
    int i = 0;
    while (i < e->n_stops - 1 && fm_tag_look(e->held.bytes, e->held.n, at, e->stops[i]) <= 0) i++;
    return e->stops[i];
}

/* Text or reasoning: gives what is settled; true if something else has begun and it goes on. */
static bool settle_text(fm_events *e, bool end) {
    size_t settled = 0, at = e->gap;
    int found = NOTHING;
    for (; at < e->held.n; at++) {
        char c = e->held.bytes[at];
        if ((c & 0xc0) == 0x80) { /* inside of a character */
            settled = at + 1;
            continue;
        }
        if (!settled) e->gap = at;
        if ((found = look(e, at, end)) != NOTHING) break;
        if (fm_is_blank(c)) continue;
        if (!settled && e->trimmed) {
            fm_chars_drop(&e->held, at);
            at = 0;
        }
        settled = at + 1;
    }
    if (found == STOP && !(e->trimmed && !settled)) settled = at;
    give_text(e, settled);
    e->gap = at - settled;
    switch (found) {
    case STOP: e->stopped = find_stop(e, at - settled); break;
    case OPENS_CALL:
        e->state = CALL;
        e->scan = (fm_call_scan){.tools = e->tools};
        return true;
    case OPENS_REASONING:
        drop(e, e->gap + sizeof THINK - 1);
        e->said = e->trimmed = true;
        e->state = REASONING;
        return true;
    case ENDS_REASONING:
        drop(e, e->gap + sizeof THINK_END - 1);
        e->trimmed = true;
        e->state = TEXT;
        return true;
    default: break;
    }
    return false;
}

/* A call that stands behind the gap. */
static bool settle_call(fm_events *e, bool end) {
    const char *text = e->held.bytes + e->gap;
    size_t n = e->held.n - e->gap;
    int found = e->format->scan(&e->scan, text, n, end);
    if (found == FM_CALL_WAITS && !end) return false;
    if (found == FM_CALL_WAITS) e->scan.end = n;
    fm_call call = {0};
    bool good = found == FM_CALL_WHOLE && e->format->read(&call, text, e->scan.end, e->tools);
    if (call.name.failed || call.arguments.failed) {
        e->held.failed = true;
    } else if (good) {
        drop(e, e->gap + e->scan.end);
        give_call(e, &call);
    }
    e->state = TEXT;
    if (!good) {
        if (e->trimmed) drop(e, e->gap);
        give_text(e, e->gap + e->scan.end);
        e->gap = 0;
    }
    fm_call_close(&call);
    return true;
}

static void settle(fm_events *e, bool end) {
    while (!e->stopped && !e->refused && !e->held.failed && (e->state == CALL ? settle_call(e, end) : settle_text(e, end))) {}
}

int fm_events_feed(fm_events *e, const char *bytes, size_t n, fm_error *err) {
    /* In portions: a character grows to 3 bytes at most, and what is called text in between is given soon. */
    for (size_t at = 0; at < n && !e->stopped && !e->refused; at += 4096) {
        size_t portion = n - at < 4096 ? n - at : 4096;
        if (!fm_chars_reserve(&e->held, 3 * (portion + 4))) break;
        e->held.n += fm_utf8_feed(&e->utf8, bytes + at, portion, e->held.bytes + e->held.n);
        e->held.bytes[e->held.n] = 0;
        settle(e, false);
    }
    int rc = fm_chars_check(&e->held, "an answer's text", err);
    return rc < 0 ? rc : e->stopped ? FM_EVENTS_STRING : e->refused ? FM_EVENTS_REFUSED : FM_EVENTS_GO;
}

int fm_events_finish(fm_events *e, int stop, fm_error *err) {
    if (!e->stopped && !e->refused && fm_chars_reserve(&e->held, 4)) {
        e->held.n += fm_utf8_finish(&e->utf8, e->held.bytes + e->held.n);
        e->held.bytes[e->held.n] = 0;
        settle(e, true);
        if (!e->stopped && !e->refused && !e->held.failed && !e->trimmed) give_text(e, e->held.n); /* white space at the end */
    }
    int rc = fm_chars_check(&e->held, "an answer's text", err);
    if (rc < 0) return rc;
    if (e->stopped) stop = FM_STOP_STRING;
    if (stop == FM_STOP_EOS && e->n_calls) stop = FM_STOP_CALLS;
    fm_event event = {.type = FM_EVENT_STOP, .text = e->stopped ? e->stopped : "", .bytes = e->stopped ? strlen(e->stopped) : 0, .stop = stop};
    if (e->event) e->event(e->user, &event); /* also after it refused: it may want to know */
    return stop;
}
