/* chat/calls/list.c: calls as JSON behind one tag: a list of {"name": …, "arguments": …}, or such objects one after the other. Granite 3: <|tool_call|>[…]. Hunyuan and MiniMax-M1:
 * <tool_calls>…</tool_calls>. Mistral: [TOOL_CALLS][…], and newer ones [TOOL_CALLS]NAME[ARGS]{…}, with [CALL_ID]ID before [ARGS] at times, a tag for each call. */
#include <string.h>

#include "chat/calls.h"

#define MAX_NAME 256

enum { BEGIN, LIST, OBJECT, BETWEEN, CLOSING, NAME, ID, ARGUMENTS };

static const char GRANITE[] = "<|tool_call|>", HUNYUAN[] = "<tool_calls>", HUNYUAN_END[] = "</tool_calls>";
static const char MISTRAL[] = "[TOOL_CALLS]", ARGS[] = "[ARGS]", CALL_ID[] = "[CALL_ID]";

/* Behind an object that stands for itself: is there another? */
static int scan_between(fm_call_scan *s, const char *text, size_t n, bool end) {
    s->at = fm_call_skip(text, n, s->at);
    if (s->at == n && !end) return FM_CALL_WAITS;
    s->state = s->at < n && text[s->at] == '{' ? OBJECT : CLOSING;
    return FM_CALL_WAITS;
}

static int scan_step(fm_call_scan *s, const char *text, size_t n, const char *close, bool end) {
    switch (s->state) {
    case BEGIN:
        s->at = fm_call_skip(text, n, s->at);
        if (s->at == n) return FM_CALL_WAITS;
        if (text[s->at] != '[' && text[s->at] != '{') return fm_call_broken(s, s->at);
        s->state = text[s->at] == '[' ? LIST : OBJECT;
        return FM_CALL_WAITS;
    case BETWEEN: return scan_between(s, text, n, end);
    case CLOSING: return close ? fm_call_close(s, text, n, close, end) : FM_CALL_WHOLE;
    default:
        if (!fm_call_scan_json(s, text, n)) return FM_CALL_WAITS;
        s->end = s->at;
        s->state = s->state == LIST || !close ? CLOSING : BETWEEN;
        return FM_CALL_WAITS;
    }
}

static int scan_list(fm_call_scan *s, const char *text, size_t n, const char *open, const char *close, bool end) {
    int rc, state;
    if (!s->at) s->at = strlen(open);
    do {
        state = s->state;
        rc = scan_step(s, text, n, close, end);
    } while (rc == FM_CALL_WAITS && s->state != state);
    return rc;
}

/* The objects of a list, or one after the other, from `at` on. */
static bool read_objects(fm_call_list *calls, const char *text, size_t n, size_t at) {
    at = fm_call_skip(text, n, at);
    bool list = at < n && text[at] == '[';
    if (list) {
        json_t *whole = json_loadb(text + at, fm_call_json_bytes(text + at, n - at), JSON_ALLOW_NUL, NULL);
        bool good = json_array_size(whole) > 0;
        for (size_t i = 0; i < json_array_size(whole); i++) good &= json_is_object(json_array_get(whole, i));
        json_decref(whole);
        if (!good) return false;
        at++;
    }
    while (true) {
        while (at < n && (fm_is_blank(text[at]) || (list && text[at] == ','))) at++;
        if (at >= n || text[at] != '{') return calls->n > 0;
        size_t bytes = fm_call_json_bytes(text + at, n - at);
        fm_call *call = fm_call_list_add(calls);
        if (!call || !fm_call_read_json(call, text + at, bytes)) return false;
        at += bytes;
    }
}

static void force_list(fm_chars *out, const char *open, const char *name) {
    fm_chars_put(out, open);
    fm_chars_put(out, "[");
    fm_call_force_json(out, name, "arguments");
}

/* ---- Granite, Hunyuan ---- */

static int scan_granite(fm_call_scan *s, const char *text, size_t n, bool end) { return scan_list(s, text, n, GRANITE, NULL, end); }
static int scan_hunyuan(fm_call_scan *s, const char *text, size_t n, bool end) { return scan_list(s, text, n, HUNYUAN, HUNYUAN_END, end); }

static bool read_granite(fm_call_list *calls, const char *text, size_t n, const json_t *tools) {
    (void)tools;
    return read_objects(calls, text, n, sizeof GRANITE - 1);
}

static bool read_hunyuan(fm_call_list *calls, const char *text, size_t n, const json_t *tools) {
    (void)tools;
    return read_objects(calls, text, n, sizeof HUNYUAN - 1);
}

static void force_granite(fm_chars *out, const char *name) { force_list(out, GRANITE, name); }
static void force_hunyuan(fm_chars *out, const char *name) { force_list(out, HUNYUAN, name); }

const fm_call_format fm_calls_granite = {.name = "granite", .opens = {GRANITE}, .scan = scan_granite, .read = read_granite, .force = force_granite};
const fm_call_format fm_calls_hunyuan = {.name = "hunyuan", .opens = {HUNYUAN}, .scan = scan_hunyuan, .read = read_hunyuan, .force = force_hunyuan};

/* ---- Mistral ---- */

/* A name, or an id: up to one of two tags. */
static int scan_word(fm_call_scan *s, const char *text, size_t n) {
    for (; s->at < n && text[s->at] != '['; s->at++) {
        unsigned char c = (unsigned char)text[s->at];
        if (c < 32 || c == '{' || c == '<' || s->at - s->mark >= MAX_NAME) return fm_call_broken(s, s->at);
    }
    if (s->at == n) return FM_CALL_WAITS;
    if (s->at == s->mark) return fm_call_broken(s, s->at);
    if (s->state == NAME && fm_tag_look(text, n, s->at, CALL_ID)) { /* whole or as far as it goes; [A and [C differ */
        return fm_call_expect(s, text, n, CALL_ID, ID);
    }
    int rc = fm_call_expect(s, text, n, ARGS, ARGUMENTS);
    if (s->state == ARGUMENTS) s->mark = 0;
    return rc;
}

static int scan_named(fm_call_scan *s, const char *text, size_t n) {
    int rc = FM_CALL_WAITS, state;
    do {
        state = s->state;
        if (state == ARGUMENTS && !s->mark) {
            s->at = fm_call_skip(text, n, s->at);
            if (s->at < n && text[s->at] != '{') return fm_call_broken(s, s->at);
        }
        if (state != ARGUMENTS) {
            rc = scan_word(s, text, n);
        } else if (fm_call_scan_json(s, text, n)) {
            s->end = s->at;
            return FM_CALL_WHOLE;
        }
    } while (rc == FM_CALL_WAITS && s->state != state);
    return rc;
}

static int scan_mistral(fm_call_scan *s, const char *text, size_t n, bool end) {
    if (s->state == BEGIN) {
        s->at = fm_call_skip(text, n, s->at ? s->at : sizeof MISTRAL - 1);
        if (s->at == n) return FM_CALL_WAITS;
        if (text[s->at] != '[' && text[s->at] != '{') {
            s->state = NAME;
            s->mark = s->at;
        }
    }
    return s->state >= NAME ? scan_named(s, text, n) : scan_list(s, text, n, MISTRAL, NULL, end);
}

static bool read_mistral(fm_call_list *calls, const char *text, size_t n, const json_t *tools) {
    (void)tools;
    size_t at = fm_call_skip(text, n, sizeof MISTRAL - 1);
    if (text[at] == '[' || text[at] == '{') return read_objects(calls, text, n, at);
    fm_call *call = fm_call_list_add(calls);
    if (!call) return false;
    size_t end = (size_t)((const char *)memchr(text + at, '[', n - at) - text);
    fm_chars_add(&call->name, text + at, end - at);
    const char *args = memmem(text + end, n - end, ARGS, sizeof ARGS - 1);
    if (fm_tag_look(text, n, end, CALL_ID) > 0) {
        end += sizeof CALL_ID - 1;
        fm_chars_add(&call->id, text + end, (size_t)(args - text) - end);
    }
    at = fm_call_skip(text, n, (size_t)(args - text) + sizeof ARGS - 1);
    return fm_call_take_object(&call->arguments, text + at, n - at);
}

/* Both are read as either; templates differ in which they show, and that one is forced. */
static void force_mistral(fm_chars *out, const char *name) {
    fm_chars_put(out, MISTRAL);
    if (!*name) return;
    fm_chars_put(out, name);
    fm_chars_put(out, ARGS);
}

static void force_mistral_list(fm_chars *out, const char *name) { force_list(out, MISTRAL, name); }

const fm_call_format fm_calls_mistral = {.name = "mistral", .opens = {MISTRAL}, .scan = scan_mistral, .read = read_mistral, .force = force_mistral};
const fm_call_format fm_calls_mistral_list = {
    .name = "mistral list", .opens = {MISTRAL}, .scan = scan_mistral, .read = read_mistral, .force = force_mistral_list};
