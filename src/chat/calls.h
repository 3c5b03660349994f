/* chat/calls.h: the ways in which models write tool calls: one small parser a file of calls/ behind fm_call_format.
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

typedef struct fm_call {
    fm_chars name;
    fm_chars arguments; /* one JSON object */
    fm_chars id;        /* as the model wrote it; empty: it did not */
} fm_call;

typedef struct fm_call_list { /* zeroed before */
    fm_call *calls;           /* [n] */
    int n, capacity;
    bool failed; /* memory ran out */
} fm_call_list;

/* A new one, zeroed; NULL: no memory. */
fm_call *fm_call_list_add(fm_call_list *list);
bool fm_call_list_failed(const fm_call_list *list); /* also of what is in its calls */
void fm_call_list_close(fm_call_list *list);

typedef struct fm_call_format {
    const char *name;     /* as fm_tool_format_name says it */
    const char *opens[4]; /* texts that a call may begin with, ended by NULL */
    /* Looks at text [n], which begins with one of opens and grows from one look to the next; end: it will not grow any more. The answer depends on
     * the text only, not on how it came. Linear in all looks together. */
    int (*scan)(fm_call_scan *scan, const char *text, size_t n, bool end);
    /* Takes name and arguments from a WHOLE call, or of each if it is a list of them; false: it is malformed. */
    bool (*read)(fm_call_list *calls, const char *text, size_t n, const json_t *tools);
    /* What a model has to begin with to call name ("": any). NULL: a call cannot be forced. */
    void (*force)(fm_chars *out, const char *name);
} fm_call_format;

/* By name; NULL: "none", or a format without a parser. */
const fm_call_format *fm_call_format_find(const char *name);
extern const fm_call_format fm_calls_xml, fm_calls_json, fm_calls_llama, fm_calls_granite, fm_calls_hunyuan, fm_calls_mistral, fm_calls_mistral_list,
    fm_calls_glm, fm_calls_minimax, fm_calls_deepseek, fm_calls_kimi, fm_calls_lfm2, fm_calls_harmony;

/* Whether a message of Harmony with this header [n], of what stands before its <|message|>, is a call. */
bool fm_harmony_is_call(const char *header, size_t n, const json_t *tools);

/* The function of a tool in OpenAI's form with this name ({"type", "function": {"name", "parameters"}} or the function itself); NULL: none. */
const json_t *fm_tool_find(const json_t *tools, const char *name);

/* Appends value [n], which a model wrote as plain text, as JSON of a type that schema (may be NULL) allows: as it stands where it is JSON of that type, else
 * as a string. */
void fm_call_value(fm_chars *out, const char *value, size_t n, const json_t *schema);
/* Appends text [n] as a JSON string. */
void fm_call_string(fm_chars *out, const char *text, size_t n);

/* Where white space from `at` on ends. */
size_t fm_call_skip(const char *text, size_t n, size_t at);
/* For `scan`: the call is BROKEN at `at`. */
int fm_call_broken(fm_call_scan *scan, size_t at);
/* For `scan`, at a tag that must stand at scan->at: moves behind it and into state; WAITS or BROKEN. */
int fm_call_expect(fm_call_scan *scan, const char *text, size_t n, const char *tag, int state);
/* For `scan`, behind a call that ends at scan->end: a closing tag that follows, white space between, belongs to it; WAITS or WHOLE. */
int fm_call_close(fm_call_scan *scan, const char *text, size_t n, const char *tag, bool end);
/* For `scan`, where a JSON object from scan->at on, behind white space, is the rest of the call. */
int fm_call_scan_object(fm_call_scan *scan, const char *text, size_t n);
/* Moves scan->at behind the JSON object or list that begins or goes on there; mark counts open brackets. False: text ends before. */
bool fm_call_scan_json(fm_call_scan *scan, const char *text, size_t n);
/* Bytes of the JSON object or list that text [n] begins with; 0: it does not end. */
size_t fm_call_json_bytes(const char *text, size_t n);
/* Appends text [n], a JSON object, as it is; false: it is none. */
bool fm_call_take_object(fm_chars *out, const char *text, size_t n);
/* For `force`: {"name": NAME, "ARGUMENTS": as far as it has to be given. */
void fm_call_force_json(fm_chars *out, const char *name, const char *arguments);
/* Takes a call from text [n], {"name": …, "arguments" or "parameters": …}; false: it is none. */
bool fm_call_read_json(fm_call *call, const char *text, size_t n);

/* How text [n] at `at` compares with tag: whole, none, or -1 as far as text goes. */
int fm_tag_look(const char *text, size_t n, size_t at, const char *tag);

#endif
