/* chat/calls/json.c: calls as Hermes and Qwen3 write them: <tool_call>, {"name": NAME, "arguments": OBJECT}, </tool_call>, white space between. Without </tool_call> it ends
 * with the object. And as Llama writes them: the object alone, with "parameters", or behind <|python_tag|>. */
#include <stdlib.h>
#include <string.h>

#include "chat/calls.h"

enum { OBJECT, CLOSING };

static const char TOOL_CALL[] = "<tool_call>", TOOL_CALL_END[] = "</tool_call>";

static int scan(fm_call_scan *s, const char *text, size_t n, bool end) {
    if (!s->at) s->at = sizeof TOOL_CALL - 1;
    if (s->state == OBJECT) {
        int rc = fm_call_scan_object(s, text, n);
        if (rc != FM_CALL_WHOLE) return rc;
        s->state = CLOSING;
    }
    return fm_call_close(s, text, n, TOOL_CALL_END, end);
}

/* The text of the member `key` of the object at text [n], which is valid JSON: its value as written. */
static const char *member(const char *text, size_t n, const char *key, size_t *length) {
    size_t at = 1, wanted = strlen(key);
    while (true) {
        while (at < n && (fm_is_blank(text[at]) || text[at] == ',')) at++;
        if (at >= n || text[at] != '"') return NULL;
        size_t name = at + 1;
        for (at = name; text[at] != '"'; at++) at += text[at] == '\\';
        bool found = at - name == wanted && !memcmp(text + name, key, wanted);
        at = fm_call_skip(text, n, at + 1);
        size_t value = at = fm_call_skip(text, n, at + 1);
        fm_call_scan s = {.at = at};
        if (text[at] == '{' || text[at] == '[') {
            fm_call_scan_json(&s, text, n);
            at = s.at;
        } else if (text[at] == '"') {
            for (at++; text[at] != '"'; at++) at += text[at] == '\\';
            at++;
        } else {
            while (at < n && text[at] != ',' && text[at] != '}' && !fm_is_blank(text[at])) at++;
        }
        *length = at - value;
        if (found) return text + value;
    }
}

/* Arguments are an object, as written; or a string that holds one; or none. */
static bool read_arguments(fm_chars *out, const json_t *object, const char *text, size_t n) {
    const char *key = json_object_get(object, "arguments") ? "arguments" : "parameters";
    const json_t *arguments = json_object_get(object, key);
    size_t length;
    if (!arguments || json_is_null(arguments)) {
        fm_chars_put(out, "{}");
        return true;
    }
    if (json_is_object(arguments)) {
        const char *value = member(text, n, key, &length);
        if (value) fm_chars_add(out, value, length);
        return value != NULL;
    }
    json_t *inner = json_is_string(arguments) ? json_loadb(json_string_value(arguments), json_string_length(arguments), JSON_ALLOW_NUL, NULL) : NULL;
    bool good = json_is_object(inner);
    if (good) fm_chars_add(out, json_string_value(arguments), json_string_length(arguments));
    json_decref(inner);
    return good;
}

bool fm_call_read_json(fm_call *call, const char *text, size_t n) {
    json_t *object = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    const json_t *name = json_object_get(object, "name");
    bool good = json_is_object(object) && json_string_length(name) > 0 && strlen(json_string_value(name)) == json_string_length(name);
    if (good) {
        fm_chars_put(&call->name, json_string_value(name));
        good = read_arguments(&call->arguments, object, text, n);
    }
    json_decref(object);
    return good;
}

static bool read_call(fm_call_list *calls, const char *text, size_t n, const json_t *tools) {
    (void)tools;
    const char *begin = memchr(text, '{', n);
    fm_call *call = fm_call_list_add(calls);
    return call && fm_call_read_json(call, begin, fm_call_json_bytes(begin, n - (size_t)(begin - text)));
}

void fm_call_force_json(fm_chars *out, const char *name, const char *arguments) {
    fm_chars_put(out, "{\"name\": ");
    if (*name) {
        fm_call_string(out, name, strlen(name));
        fm_chars_put(out, ", \"");
        fm_chars_put(out, arguments);
        fm_chars_put(out, "\": ");
    } else {
        fm_chars_put(out, "\"");
    }
}

static void force(fm_chars *out, const char *name) {
    fm_chars_put(out, "<tool_call>\n");
    fm_call_force_json(out, name, "arguments");
}

const fm_call_format fm_calls_json = {.name = "hermes json", .opens = {TOOL_CALL}, .scan = scan, .read = read_call, .force = force};

/* ---- Llama's ---- */

static const char PYTHON_TAG[] = "<|python_tag|>";

static int scan_bare(fm_call_scan *s, const char *text, size_t n, bool end) {
    (void)end;
    if (!s->at && fm_tag_look(text, n, 0, PYTHON_TAG) > 0) s->at = sizeof PYTHON_TAG - 1;
    return fm_call_scan_object(s, text, n);
}

/* Without a tag it is a call only of a tool that there is. */
static bool read_bare(fm_call_list *calls, const char *text, size_t n, const json_t *tools) {
    return read_call(calls, text, n, tools) && (*text == '<' || fm_tool_find(tools, fm_chars_text(&calls->calls[0].name)));
}

static void force_bare(fm_chars *out, const char *name) { fm_call_force_json(out, name, "parameters"); }

const fm_call_format fm_calls_llama = {
    .name = "llama json", .opens = {"{\"name\":", "{ \"name\":", PYTHON_TAG}, .scan = scan_bare, .read = read_bare, .force = force_bare};
