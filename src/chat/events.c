/* chat/events.c: see events.h. What is not settled yet lies in held; its first `gap` bytes are white space that is shown only if text follows. */
#include "chat/events.h"

#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"

enum { TEXT, REASONING, CALL, HEADER };

static const char THINK[] = "<think>", THINK_END[] = "</think>";

/* Harmony's tags. The first three end a message, the next two begin a header. */
#define MAX_HEADER 1024
static const char *const harmony_tags[] = {"<|end|>", "<|return|>", "<|call|>", "<|start|>", "<|channel|>"};
enum { N_ENDS = 3, N_TAGS = 5 };
static const char MESSAGE[] = "<|message|>";

#define ID_BYTES 32

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
    bool told;     /* what was given last is text */
    bool trimmed;  /* the white space in front belongs to nothing: it follows reasoning or a call */
    bool harmony;
    bool parted; /* Harmony: what was given last is text of a message that has ended */
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
    e->harmony = config->format && !strcmp(config->format, fm_calls_harmony.name);
    e->state = e->harmony ? HEADER : config->in_reasoning ? REASONING : TEXT;
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
bool fm_events_silent(const fm_events *e) { return (e->state == TEXT || e->state == HEADER) && !e->answered && !e->held.n && !e->utf8.n_pending; }

/* ---- giving ---- */

static void give(fm_events *e, const fm_event *event) {
    if (!e->refused && e->event) e->refused = e->event(e->user, event) != 0;
}

/* Gives the first n bytes of held as text or reasoning and removes them. */
static void give_text(fm_events *e, size_t n) {
    if (!n) return;
    if (e->parted && e->state == TEXT) give(e, &(fm_event){.type = FM_EVENT_TEXT, .text = "\n\n", .bytes = 2});
    e->parted = false;
    char next = e->held.bytes[n];
    e->held.bytes[n] = 0;
    give(e, &(fm_event){.type = e->state == REASONING ? FM_EVENT_REASONING : FM_EVENT_TEXT, .text = e->held.bytes, .bytes = n});
    e->held.bytes[n] = next;
    fm_chars_drop(&e->held, n);
    e->said = true;
    e->told = e->state != REASONING;
    e->answered |= e->told;
    e->trimmed = false;
}

static void drop(fm_events *e, size_t n) {
    fm_chars_drop(&e->held, n);
    e->gap = 0;
}

static void make_id(fm_events *e, char id[ID_BYTES]) {
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
    char made[ID_BYTES];
    const char *id = call->id.n ? fm_chars_text(&call->id) : made;
    make_id(e, made);
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
    e->parted = e->told = false;
}

/* ---- settling ---- */

enum { NOTHING, WAITS, STOP, OPENS_CALL, OPENS_REASONING, ENDS_REASONING, ENDS_MESSAGE };

/* Which of Harmony's tags stands at `at`: its index, -1 for none, -2 if it may be one as far as text goes. */
static int harmony_tag(const char *text, size_t n, size_t at, int n_tags) {
    bool waits = false;
    for (int i = 0; i < n_tags; i++) {
        int found = fm_tag_look(text, n, at, harmony_tags[i]);
        if (found > 0) return i;
        waits |= found < 0;
    }
    return waits ? -2 : -1;
}

/* What begins at `at`. A stop string goes before a tag. */
static int look(const fm_events *e, size_t at, bool end) {
    const char *text = e->held.bytes;
    size_t n = e->held.n;
    bool waits = false;
    int tag = e->harmony ? harmony_tag(text, n, at, N_TAGS) : -1;
    if (e->harmony && e->state == REASONING) return tag >= 0 ? ENDS_MESSAGE : tag == -2 && !end ? WAITS : NOTHING;
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
    if (e->harmony) return tag >= 0 ? ENDS_MESSAGE : tag == -2 && !end ? WAITS : NOTHING;
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
    case ENDS_MESSAGE:
        drop(e, e->gap);
        e->trimmed = true;
        e->parted |= e->state == TEXT && e->told;
        e->state = HEADER;
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
    fm_call_list calls = {0};
    bool good = found == FM_CALL_WHOLE && e->format->read(&calls, text, e->scan.end, e->tools);
    e->state = TEXT;
    if (fm_call_list_failed(&calls)) {
        e->held.failed = true;
    } else if (good) {
        drop(e, e->gap + e->scan.end);
        for (int i = 0; i < calls.n; i++) give_call(e, &calls.calls[i]);
        if (e->harmony) e->state = HEADER;
    }
    if (!good) {
        if (e->trimmed) drop(e, e->gap);
        give_text(e, e->gap + e->scan.end);
        e->gap = 0;
    }
    fm_call_list_close(&calls);
    return true;
}

/* ---- Harmony's headers ---- */

/* Bytes of what a header may begin with at `at`, 0 for nothing of the kind, -1 if it may be that as far as text goes. */
static int header_begins(const char *text, size_t n, size_t at) {
    static const char *const begins[] = {"<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "to="};
    bool waits = false;
    for (size_t i = 0; i < sizeof begins / sizeof *begins; i++) {
        int found = fm_tag_look(text, n, at, begins[i]);
        if (found > 0) return (int)strlen(begins[i]);
        waits |= found < 0;
    }
    return waits ? -1 : 0;
}

/* The end of the header that begins at `at` (behind its <|message|>); 0: it is none; -1: it is not there yet. It is none if another message ends or begins inside of it. */
static int header_end(const char *text, size_t n, size_t at, bool end) {
    size_t most = n - at < MAX_HEADER ? n - at : MAX_HEADER;
    const char *message = memmem(text + at, most, MESSAGE, sizeof MESSAGE - 1);
    size_t stop = message ? (size_t)(message - text) : at + most;
    for (size_t i = at + 1; i < stop; i++) {
        int tag = text[i] == '<' ? harmony_tag(text, stop, i, N_TAGS - 1) : -1;
        if (tag >= 0) return 0;
    }
    if (message) return (int)(stop + sizeof MESSAGE - 1);
    return most == MAX_HEADER || end ? 0 : -1;
}

static bool is_analysis(const char *header, size_t n) {
    static const char channel[] = "<|channel|>analysis";
    return memmem(header, n, channel, sizeof channel - 1) != NULL;
}

/* Between two messages, and at the beginning. */
static bool settle_header(fm_events *e, bool end) {
    const char *text = e->held.bytes;
    size_t n = e->held.n, at = fm_call_skip(text, n, 0);
    if (at == n) {
        if (end) drop(e, n);
        return false;
    }
    int tag = harmony_tag(text, n, at, N_ENDS), begins = header_begins(text, n, at);
    if (tag >= 0) {
        drop(e, at + strlen(harmony_tags[tag]));
        return true;
    }
    if ((tag == -2 || begins < 0) && !end) return false;
    int stop = begins > 0 ? header_end(text, n, at, end) : 0;
    if (stop < 0) return false;
    if (stop == 0) { /* what cannot be a header is text */
        e->state = TEXT;
        if (e->trimmed || begins > 0) drop(e, e->trimmed ? at : 0);
        if (begins > 0) give_text(e, (size_t)begins + (e->trimmed ? 0 : at));
        return true;
    }
    e->gap = at;
    if (e->format && fm_harmony_is_call(text + at, (size_t)stop - at - (sizeof MESSAGE - 1), e->tools)) {
        e->state = CALL;
        e->scan = (fm_call_scan){.tools = e->tools};
        return true;
    }
    e->state = is_analysis(text + at, (size_t)stop - at) ? REASONING : TEXT;
    e->trimmed = true;
    drop(e, (size_t)stop);
    return true;
}

static void settle(fm_events *e, bool end) {
    while (!e->stopped && !e->refused && !e->held.failed &&
           (e->state == CALL     ? settle_call(e, end)
            : e->state == HEADER ? settle_header(e, end)
                                 : settle_text(e, end))) {}
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
