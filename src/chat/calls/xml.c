/* chat/calls/xml.c: calls as Qwen3-Coder and Qwen3.5 write them:
 *
 *     <tool_call>
 *     <function=NAME>
 *     <parameter=NAME>
 *     VALUE
 *     </parameter>
 *     </function>
 *     </tool_call>
 *
 * A value is plain text that may hold anything, tags too: it ends at a </parameter> behind which the next parameter begins or the function ends. Models leave the outer tags
 * out at times: without <tool_call> it is a call only if there is a tool of that name, without </tool_call> it ends with </function>. */
#include <string.h>

#include "chat/calls.h"

#define MAX_NAME 256

enum { OUTER, FUNCTION, FUNCTION_NAME, BODY, PARAMETER_NAME, VALUE, AFTER_VALUE, CLOSING };

static const char TOOL_CALL[] = "<tool_call>", TOOL_CALL_END[] = "</tool_call>", FUNCTION_TAG[] = "<function=", FUNCTION_END[] = "</function>";
static const char PARAMETER_TAG[] = "<parameter=", PARAMETER_END[] = "</parameter>";

/* A name up to '>'. */
static int scan_name(fm_call_scan *s, const char *text, size_t n, int state) {
    for (; s->at < n && text[s->at] != '>'; s->at++) {
        unsigned char c = (unsigned char)text[s->at];
        if (c < 32 || c == '<' || s->at - s->mark >= MAX_NAME) return fm_call_broken(s, s->at);
    }
    if (s->at == n) return FM_CALL_WAITS;
    if (s->at == s->mark) return fm_call_broken(s, s->at);
    s->at++;
    s->state = state;
    return FM_CALL_WAITS;
}

/* One of two tags behind white space. */
static int scan_body(fm_call_scan *s, const char *text, size_t n) {
    s->at = fm_call_skip(text, n, s->at);
    if (s->at == n) return FM_CALL_WAITS;
    if (fm_tag_look(text, n, s->at, PARAMETER_TAG)) return fm_call_expect(s, text, n, PARAMETER_TAG, PARAMETER_NAME);
    return fm_call_expect(s, text, n, FUNCTION_END, CLOSING);
}

static void scan_value(fm_call_scan *s, const char *text, size_t n) {
    const char *tag;
    while ((tag = memchr(text + s->at, '<', n - s->at))) {
        s->at = (size_t)(tag - text);
        int found = fm_tag_look(text, n, s->at, PARAMETER_END);
        if (found < 0) return;
        if (found > 0) {
            s->mark = s->at += sizeof PARAMETER_END - 1;
            s->state = AFTER_VALUE;
            return;
        }
        s->at++;
    }
    s->at = n;
}

/* Behind </parameter>, which stands before s->mark: does the value end there? */
static void scan_after_value(fm_call_scan *s, const char *text, size_t n) {
    s->at = fm_call_skip(text, n, s->at);
    if (s->at == n) return;
    int parameter = fm_tag_look(text, n, s->at, PARAMETER_TAG), function = fm_tag_look(text, n, s->at, FUNCTION_END);
    if (parameter > 0 || function > 0)
        s->state = BODY;
    else if (!parameter && !function)
        s->at = s->mark, s->state = VALUE;
}

/* Behind </function>: </tool_call> belongs to the call if it follows. */
static int scan_closing(fm_call_scan *s, const char *text, size_t n, bool end) {
    s->at = fm_call_skip(text, n, s->at); /* s->mark is behind </function> */
    int found = fm_tag_look(text, n, s->at, TOOL_CALL_END);
    if (found < 0 && !end) return FM_CALL_WAITS;
    s->end = found > 0 ? s->at + sizeof TOOL_CALL_END - 1 : s->mark;
    return FM_CALL_WHOLE;
}

static int scan_function_name(fm_call_scan *s, const char *text, size_t n) {
    size_t start = s->mark;
    int rc = scan_name(s, text, n, BODY);
    if (s->state != BODY || fm_tag_look(text, n, 0, TOOL_CALL) > 0) return rc;
    char name[MAX_NAME + 1];
    size_t length = s->at - 1 - start;
    memcpy(name, text + start, length);
    name[length] = 0;
    return fm_tool_find(s->tools, name) ? rc : fm_call_broken(s, s->at);
}

/* The tag that text begins with. */
static void scan_outer(fm_call_scan *s, const char *text, size_t n) {
    bool outer = fm_tag_look(text, n, 0, TOOL_CALL) > 0;
    s->mark = s->at = outer ? sizeof TOOL_CALL - 1 : sizeof FUNCTION_TAG - 1;
    s->state = outer ? FUNCTION : FUNCTION_NAME;
}

static int scan(fm_call_scan *s, const char *text, size_t n, bool end) {
    int rc = FM_CALL_WAITS, state;
    do {
        state = s->state;
        switch (state) {
        case OUTER: scan_outer(s, text, n); break;
        case FUNCTION:
            s->at = fm_call_skip(text, n, s->at);
            if (s->at < n) rc = fm_call_expect(s, text, n, FUNCTION_TAG, FUNCTION_NAME);
            break;
        case FUNCTION_NAME: rc = scan_function_name(s, text, n); break;
        case BODY: rc = scan_body(s, text, n); break;
        case PARAMETER_NAME: rc = scan_name(s, text, n, VALUE); break;
        case VALUE: scan_value(s, text, n); break;
        case AFTER_VALUE: scan_after_value(s, text, n); break;
        default: rc = scan_closing(s, text, n, end);
        }
    } while (rc == FM_CALL_WAITS && s->state != state);
    return rc;
}

/* ---- reading ---- */

/* Finds where the value at `at` ends (at its </parameter>); text is whole. */
static size_t value_end(const char *text, size_t n, size_t at) {
    fm_call_scan s = {.state = VALUE, .at = at, .mark = at};
    do { s.state == VALUE ? scan_value(&s, text, n) : scan_after_value(&s, text, n); } while (s.state != BODY);
    return s.mark;
}

static bool add_parameter(fm_chars *out, json_t *seen, const char *name, size_t n_name, const char *value, size_t n, const json_t *properties) {
    char key[MAX_NAME + 1];
    memcpy(key, name, n_name);
    key[n_name] = 0;
    if (json_object_get(seen, key) || json_object_set_new(seen, key, json_true()) < 0) return false; /* twice: which one is meant? */
    if (n && value[0] == '\n') value++, n--;
    if (n && value[n - 1] == '\n') n--;
    if (out->n > 1) fm_chars_put(out, ", ");
    fm_call_string(out, name, n_name);
    fm_chars_put(out, ": ");
    fm_call_value(out, value, n, json_object_get(properties, key));
    return true;
}

static bool read_call(fm_call_list *calls, const char *text, size_t n, const json_t *tools) {
    fm_call *call = fm_call_list_add(calls);
    if (!call) return false;
    const char *name = memmem(text, n, FUNCTION_TAG, sizeof FUNCTION_TAG - 1);
    name += sizeof FUNCTION_TAG - 1;
    size_t at = (size_t)((const char *)memchr(name, '>', n - (size_t)(name - text)) - text);
    fm_chars_add(&call->name, name, at - (size_t)(name - text));
    const json_t *function = fm_tool_find(tools, fm_chars_text(&call->name));
    const json_t *properties = json_object_get(json_object_get(function, "parameters"), "properties");
    json_t *seen = json_object();
    bool good = true;
    fm_chars_put(&call->arguments, "{");
    at = fm_call_skip(text, n, at + 1);
    while (good && fm_tag_look(text, n, at, PARAMETER_TAG) > 0) {
        const char *key = text + at + sizeof PARAMETER_TAG - 1;
        const char *value = (const char *)memchr(key, '>', n - (size_t)(key - text)) + 1;
        size_t end = value_end(text, n, (size_t)(value - text));
        size_t n_value = end - (sizeof PARAMETER_END - 1) - (size_t)(value - text);
        good = add_parameter(&call->arguments, seen, key, (size_t)(value - 1 - key), value, n_value, properties);
        at = fm_call_skip(text, n, end);
    }
    fm_chars_put(&call->arguments, "}");
    json_decref(seen);
    return good;
}

static void force(fm_chars *out, const char *name) {
    fm_chars_put(out, "<tool_call>\n<function=");
    if (!*name) return;
    fm_chars_put(out, name);
    fm_chars_put(out, ">\n");
}

const fm_call_format fm_calls_xml = {.name = "qwen3-coder xml", .opens = {TOOL_CALL, FUNCTION_TAG}, .scan = scan, .read = read_call, .force = force};
