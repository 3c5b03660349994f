/* chat/calls.h: the ways in which models write tool calls: one small parser a file behind fm_call_format.
 *
 * A call is held back until it is whole: what a front end is given is always a call with all its arguments as the model wrote them, and what is malformed or
 * unfinished is text. So a command that was cut in the middle is never run. */
#ifndef FM_CHAT_CALLS_H
#define FM_CHAT_CALLS_H

#include <jansson.h>

#include "chat/chars.h"

enum { FM_CALL_WAITS, FM_CALL_WHOLE, FM_CALL_BROKEN };

typedef struct fm_call_scan { /* one call being looked at; zeroed before */
    const json_t *tools;      /* the request's; NULL: none */
    int state;
    size_t at;      /* looked at up to here */
    size_t mark;    /* the format's own */
    size_t end;     /* WHOLE: bytes of the call, its closing tags included; BROKEN: it cannot be a call because of what stands here (> 0) */
    bool in_string; /* the format's own, as is: */
    bool escaped;
} fm_call_scan;

typedef struct fm_call { /* zeroed before */
    fm_chars name;
    fm_chars arguments; /* one JSON object */
} fm_call;

typedef struct fm_call_format {
    const char *name;     /* as fm_tool_format_name says it */
    const char *opens[3]; /* texts that a call may begin with, ended by NULL */
    /* Looks at text [n], which begins with one of opens and grows from one look to the next; end: it will not grow any more. The answer depends on
     * the text only, not on how it came. Linear in all looks together. */
    int (*scan)(fm_call_scan *scan, const char *text, size_t n, bool end);
    /* Takes name and arguments from a WHOLE call; false: it is malformed. */
    bool (*read)(fm_call *call, const char *text, size_t n, const json_t *tools);
    /* What a model has to begin with to call name ("": any). */
    void (*force)(fm_chars *out, const char *name);
} fm_call_format;

/* By name; NULL: "none", or a format without a parser. */
const fm_call_format *fm_call_format_find(const char *name);
extern const fm_call_format fm_calls_xml, fm_calls_json;

void fm_call_close(fm_call *call);

/* The function of a tool in OpenAI's form with this name ({"type", "function": {"name", "parameters"}} or the function itself); NULL: none. */
const json_t *fm_tool_find(const json_t *tools, const char *name);

/* Appends value [n], which a model wrote as plain text, as JSON of a type that schema (may be NULL) allows: as it stands where it is JSON of that type, else
 * as a string. */
void fm_call_value(fm_chars *out, const char *value, size_t n, const json_t *schema);
/* Appends text [n] as a JSON string. */
void fm_call_string(fm_chars *out, const char *text, size_t n);

/* How text [n] at `at` compares with tag: whole, none, or -1 as far as text goes. */
int fm_tag_look(const char *text, size_t n, size_t at, const char *tag);

#endif
