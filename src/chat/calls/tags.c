/* chat/calls/tags.c: calls of which every argument stands between tags of its own. GLM-4.5 and later:
 *
 *     <tool_call>NAME
 *     <arg_key>KEY</arg_key>
 *     <arg_value>VALUE</arg_value>
 *     </tool_call>
 *
 * and without the line feeds; Qwen3-Coder and Qwen3.5:
 *
 *     <tool_call>
 *     <function=NAME>
 *     <parameter=KEY>
 *     VALUE
 *     </parameter>
 *     </function>
 *     </tool_call>
 *
 * MiniMax-M2:
 *
 *     <minimax:tool_call>
 *     <invoke name="NAME">
 *     <parameter name="KEY">VALUE</parameter>
 *     </invoke>
 *     </minimax:tool_call>
 *
 * A value is plain text that may hold anything: it ends at its closing tag behind which the next argument begins or the call ends. Several calls may stand in one outer tag; one
 * without it, as models leave it out at times, is a call only if there is a tool of that name; without the outer end tag the call ends with its own. */
#include <string.h>

#include "chat/calls.h"

#define MAX_NAME 256

typedef struct tags {
    const char *outer, *outer_end; /* around calls; NULL: none */
    const char *call, *call_end;
    const char *name_end; /* NULL: a line feed, or where a tag begins */
    const char *key, *key_end;
    const char *value; /* NULL: key_end opens it */
    const char *value_end;
    bool lines; /* values stand on lines of their own, whose line feeds are not theirs; names are taken with the spaces around them */
} tags;

static const tags glm = {
    .call = "<tool_call>", .call_end = "</tool_call>", .key = "<arg_key>", .key_end = "</arg_key>", .value = "<arg_value>", .value_end = "</arg_value>"};
static const tags qwen = {.outer = "<tool_call>",
                          .outer_end = "</tool_call>",
                          .call = "<function=",
                          .name_end = ">",
                          .call_end = "</function>",
                          .key = "<parameter=",
                          .key_end = ">",
                          .value_end = "</parameter>",
                          .lines = true};
static const tags minimax = {.outer = "<minimax:tool_call>",
                             .outer_end = "</minimax:tool_call>",
                             .call = "<invoke name=\"",
                             .name_end = "\">",
                             .call_end = "</invoke>",
                             .key = "<parameter name=\"",
                             .key_end = "\">",
                             .value_end = "</parameter>"};

enum { BEGIN, CALL, NAME, BODY, KEY, VALUE_TAG, VALUE, AFTER_VALUE, CLOSING };

/* A name or key from s->mark up to end (NULL: a line feed or '<'), which is passed over if it is a tag. */
static int scan_name(fm_call_scan *s, const char *text, size_t n, const tags *t, const char *end, int state) {
    for (; s->at < n; s->at++) {
        unsigned char c = (unsigned char)text[s->at];
        if (end ? c == (unsigned char)*end : c == '\n' || c == '<') break;
        if (c < 32 || c == '<' || s->at - s->mark >= MAX_NAME) return fm_call_broken(s, s->at);
    }
    if (s->at == n) return FM_CALL_WAITS;
    if (s->at == (t->lines ? s->mark : fm_call_skip(text, s->at, s->mark))) return fm_call_broken(s, s->at);
    if (end) return fm_call_expect(s, text, n, end, state);
    s->state = state;
    return FM_CALL_WAITS;
}

static int scan_call_name(fm_call_scan *s, const char *text, size_t n, const tags *t) {
    size_t start = s->mark;
    int rc = scan_name(s, text, n, t, t->name_end, BODY);
    if (s->state != BODY || !t->outer || fm_tag_look(text, n, 0, t->outer) > 0) return rc;
    char name[MAX_NAME + 1];
    size_t length = s->at - strlen(t->name_end) - start;
    memcpy(name, text + start, length);
    name[length] = 0;
    return fm_tool_find(s->tools, name) ? rc : fm_call_broken(s, s->at);
}

/* One of two tags behind white space. */
static int scan_body(fm_call_scan *s, const char *text, size_t n, const tags *t) {
    s->at = fm_call_skip(text, n, s->at);
    if (s->at == n) return FM_CALL_WAITS;
    if (fm_tag_look(text, n, s->at, t->key)) return fm_call_expect(s, text, n, t->key, KEY);
    return fm_call_expect(s, text, n, t->call_end, CLOSING);
}

static void scan_value(fm_call_scan *s, const char *text, size_t n, const tags *t) {
    const char *tag;
    while ((tag = memchr(text + s->at, '<', n - s->at))) {
        s->at = (size_t)(tag - text);
        int found = fm_tag_look(text, n, s->at, t->value_end);
        if (found < 0) return;
        if (found > 0) {
            s->mark = s->at += strlen(t->value_end);
            s->state = AFTER_VALUE;
            return;
        }
        s->at++;
    }
    s->at = n;
}

/* Behind a closing tag, which stands before s->mark: does the value end there? */
static void scan_after_value(fm_call_scan *s, const char *text, size_t n, const tags *t) {
    s->at = fm_call_skip(text, n, s->at);
    if (s->at == n) return;
    int key = fm_tag_look(text, n, s->at, t->key), end = fm_tag_look(text, n, s->at, t->call_end);
    if (key > 0 || end > 0)
        s->state = BODY;
    else if (!key && !end)
        s->at = s->mark, s->state = VALUE;
}

/* Behind the call: the outer tag's end belongs to it if it follows. */
static int scan_closing(fm_call_scan *s, const char *text, size_t n, const tags *t, bool end) {
    s->end = s->mark;
    return t->outer ? fm_call_close(s, text, n, t->outer_end, end) : FM_CALL_WHOLE;
}

static int scan_tags(fm_call_scan *s, const char *text, size_t n, const tags *t, bool end) {
    int rc = FM_CALL_WAITS, state;
    do {
        state = s->state;
        switch (state) {
        case BEGIN:
            s->at = t->outer && fm_tag_look(text, n, 0, t->outer) > 0 ? strlen(t->outer) : 0;
            s->state = CALL;
            break;
        case CALL:
            s->at = fm_call_skip(text, n, s->at);
            if (s->at < n) rc = fm_call_expect(s, text, n, t->call, NAME);
            break;
        case NAME: rc = scan_call_name(s, text, n, t); break;
        case BODY: rc = scan_body(s, text, n, t); break;
        case KEY: rc = scan_name(s, text, n, t, t->key_end, t->value ? VALUE_TAG : VALUE); break;
        case VALUE_TAG:
            s->at = fm_call_skip(text, n, s->at);
            if (s->at < n) rc = fm_call_expect(s, text, n, t->value, VALUE);
            break;
        case VALUE: scan_value(s, text, n, t); break;
        case AFTER_VALUE: scan_after_value(s, text, n, t); break;
        default: rc = scan_closing(s, text, n, t, end);
        }
    } while (rc == FM_CALL_WAITS && s->state != state);
    return rc;
}

/* ---- reading ---- */

/* Behind the value at `at`, its closing tag included; text is whole. */
static size_t value_end(const char *text, size_t n, size_t at, const tags *t) {
    fm_call_scan s = {.state = VALUE, .at = at, .mark = at};
    do { s.state == VALUE ? scan_value(&s, text, n, t) : scan_after_value(&s, text, n, t); } while (s.state != BODY);
    return s.mark;
}

static bool add_argument(fm_chars *out, json_t *seen, const char *key, const char *value, size_t n, const json_t *properties) {
    if (json_object_get(seen, key) || json_object_set_new(seen, key, json_true()) < 0) return false; /* twice: which one is meant? */
    if (out->n > 1) fm_chars_put(out, ", ");
    fm_call_string(out, key, strlen(key));
    fm_chars_put(out, ": ");
    fm_call_value(out, value, n, json_object_get(properties, key));
    return true;
}

static bool read_arguments(fm_call *call, const char *text, size_t n, size_t at, const tags *t, const json_t *tools) {
    const json_t *function = fm_tool_find(tools, fm_chars_text(&call->name));
    const json_t *properties = json_object_get(json_object_get(function, "parameters"), "properties");
    json_t *seen = json_object();
    bool good = true;
    fm_chars_put(&call->arguments, "{");
    at = fm_call_skip(text, n, at);
    while (good && fm_tag_look(text, n, at, t->key) > 0) {
        char key[MAX_NAME + 1];
        const char *name = text + at + strlen(t->key), *end = memmem(name, n - (size_t)(name - text), t->key_end, strlen(t->key_end));
        memcpy(key, name, (size_t)(end - name));
        key[end - name] = 0;
        size_t value = (size_t)(end - text) + strlen(t->key_end);
        if (t->value) value = fm_call_skip(text, n, value) + strlen(t->value);
        at = value_end(text, n, value, t);
        size_t n_value = at - strlen(t->value_end) - value;
        if (t->lines && n_value && text[value] == '\n') value++, n_value--;
        if (t->lines && n_value && text[value + n_value - 1] == '\n') n_value--;
        good = add_argument(&call->arguments, seen, key, text + value, n_value, properties);
        at = fm_call_skip(text, n, at);
    }
    fm_chars_put(&call->arguments, "}");
    json_decref(seen);
    return good;
}

static bool read_tags(fm_call_list *calls, const char *text, size_t n, const tags *t, const json_t *tools) {
    fm_call *call = fm_call_list_add(calls);
    if (!call) return false;
    size_t at = (size_t)((const char *)memmem(text, n, t->call, strlen(t->call)) - text) + strlen(t->call), end = at;
    while (t->name_end ? text[end] != *t->name_end : text[end] != '\n' && text[end] != '<') end++;
    size_t behind = t->name_end ? end + strlen(t->name_end) : end;
    if (!t->lines) at = fm_call_skip(text, end, at);
    while (!t->lines && end > at && fm_is_blank(text[end - 1])) end--;
    fm_chars_add(&call->name, text + at, end - at);
    return read_arguments(call, text, n, behind, t, tools);
}

/* The outer tag, if there is one, the call's and the name. */
static void force_tags(fm_chars *out, const char *name, const tags *t) {
    if (t->outer) fm_chars_put(out, t->outer);
    if (t->outer) fm_chars_put(out, "\n");
    fm_chars_put(out, t->call);
    if (!*name) return;
    fm_chars_put(out, name);
    if (t->name_end) fm_chars_put(out, t->name_end);
    fm_chars_put(out, "\n");
}

/* The three functions of a format: those above with its tags. */
#define FORMAT(x)                                                                                                                                              \
    static int scan_##x(fm_call_scan *s, const char *text, size_t n, bool end) { return scan_tags(s, text, n, &(x), end); }                                    \
    static bool read_##x(fm_call_list *calls, const char *text, size_t n, const json_t *tools) { return read_tags(calls, text, n, &(x), tools); }              \
    static void force_##x(fm_chars *out, const char *name) { force_tags(out, name, &(x)); }

FORMAT(glm)
FORMAT(qwen)
FORMAT(minimax)

const fm_call_format fm_calls_glm = {.name = "glm", .opens = {"<tool_call>"}, .scan = scan_glm, .read = read_glm, .force = force_glm};
const fm_call_format fm_calls_xml = {
    .name = "qwen3-coder xml", .opens = {"<tool_call>", "<function="}, .scan = scan_qwen, .read = read_qwen, .force = force_qwen};
const fm_call_format fm_calls_minimax = {
    .name = "minimax", .opens = {"<minimax:tool_call>", "<invoke name=\""}, .scan = scan_minimax, .read = read_minimax, .force = force_minimax};
