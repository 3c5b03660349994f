/* chat/events.h: bytes of tokens become events. A small state machine: text, reasoning, or a call that is held back until it is whole.
 *
 * The events, adjacent pieces joined, depend on the bytes only and not on how they were cut. White space between reasoning, text and calls belongs to none of them. <think> counts
 * where nothing was said before. Text that may be the beginning of a tag or of a stop string waits. A call that turns out malformed, or is unfinished at the end,
 * becomes text, byte by byte as the model wrote it (invalid UTF-8 as U+FFFD). Calls are looked for only if the request has tools.
 *
 * In Harmony an answer is a sequence of messages, each with a header: analysis is reasoning, a message to a function is a call, the others are text, with an empty line between
 * two of them. The prompt ended inside of the first header. */
#ifndef FM_CHAT_EVENTS_H
#define FM_CHAT_EVENTS_H

#include "chat/calls.h"

typedef struct fm_events fm_events;

typedef struct fm_events_config {
    const char *format;       /* of calls: fm_tool_format_name */
    json_t *tools;            /* of the request; kept */
    bool in_reasoning;        /* the template opened it in the prompt */
    const char *const *stops; /* [n_stops] copied */
    int n_stops;
    uint64_t seed;     /* of the calls' ids */
    fm_event_fn event; /* NULL: none */
    void *user;
} fm_events_config;

enum { FM_EVENTS_GO, FM_EVENTS_STRING, FM_EVENTS_REFUSED };

/* FM_EINVAL for a stop string that is empty. */
int fm_events_open(fm_events **out, const fm_events_config *config, fm_error *err);
void fm_events_close(fm_events **events);
/* GO, STRING when a stop string was found (the rest is dropped), REFUSED when the event function asked to stop; FM_ENOMEM. After anything but GO only finish. */
int fm_events_feed(fm_events *events, const char *bytes, size_t n, fm_error *err);
/* What was held back, then FM_EVENT_STOP: FM_STOP_EOS becomes FM_STOP_CALLS if there were calls, and any stop FM_STOP_STRING if what was held back had one. Returns the stop, or
 * FM_ENOMEM. */
int fm_events_finish(fm_events *events, int stop, fm_error *err);

bool fm_events_in_reasoning(const fm_events *events);
bool fm_events_in_character(const fm_events *events); /* some bytes of one are there */
bool fm_events_silent(const fm_events *events);       /* nothing was said or called yet, and nothing is held back */

#endif
