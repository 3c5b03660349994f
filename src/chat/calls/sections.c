/* chat/calls/sections.c: calls in a section, each a name, a separator and one JSON object. DeepSeek V3.1:
 *
 *     <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>NAME<｜tool▁sep｜>{…}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
 *
 * V3 and R1: "function" in the name's place, and the name and ```json behind the separator. Kimi K2:
 *
 *     <|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}<|tool_call_end|><|tool_calls_section_end|>
 *
 * Each call is given when it is whole; the section's tags belong to the calls beside them. */
#include <string.h>

#include "chat/calls.h"

#define MAX_NAME 256

typedef struct section {
    const char *begin, *end, *call, *separator, *call_end;
    bool kimi; /* the name is functions.NAME:INDEX, and an id */
} section;

static const section deepseek = {.begin = "<｜tool▁calls▁begin｜>",
                                 .end = "<｜tool▁calls▁end｜>",
                                 .call = "<｜tool▁call▁begin｜>",
                                 .separator = "<｜tool▁sep｜>",
                                 .call_end = "<｜tool▁call▁end｜>"};
static const section kimi = {.begin = "<|tool_calls_section_begin|>",
                             .end = "<|tool_calls_section_end|>",
                             .call = "<|tool_call_begin|>",
                             .separator = "<|tool_call_argument_begin|>",
                             .call_end = "<|tool_call_end|>",
                             .kimi = true};

static const char FENCE[] = "```json", FENCE_END[] = "```";

enum { BEGIN, CALL, NAME, BODY, LINE, FENCED, FENCED_BODY, OBJECT, FENCE_CLOSE, CALL_END, CLOSING };

static int scan_name(fm_call_scan *s, const char *text, size_t n, const section *x) {
    for (; s->at < n && text[s->at] != '<'; s->at++) {
        if ((unsigned char)text[s->at] < 32 || s->at - s->mark >= MAX_NAME) return fm_call_broken(s, s->at);
    }
    if (s->at == n) return FM_CALL_WAITS;
    if (s->at == s->mark) return fm_call_broken(s, s->at);
    return fm_call_expect(s, text, n, x->separator, BODY);
}

/* The object, or a line with the name. */
static int scan_body(fm_call_scan *s, const char *text, size_t n, const section *x) {
    s->at = fm_call_skip(text, n, s->at);
    if (s->at == n) return FM_CALL_WAITS;
    if (text[s->at] == '{') {
        s->mark = 0;
        s->state = OBJECT;
        return FM_CALL_WAITS;
    }
    if (x->kimi) return fm_call_broken(s, s->at);
    s->mark = s->at;
    s->state = LINE;
    return FM_CALL_WAITS;
}

static int scan_line(fm_call_scan *s, const char *text, size_t n) {
    for (; s->at < n && text[s->at] != '\n'; s->at++) {
        if (text[s->at] == '<' || (unsigned char)text[s->at] < 32 || s->at - s->mark >= MAX_NAME) return fm_call_broken(s, s->at);
    }
    if (s->at < n) s->state = FENCED;
    return FM_CALL_WAITS;
}

static int scan_fenced_body(fm_call_scan *s, const char *text, size_t n) {
    s->at = fm_call_skip(text, n, s->at);
    if (s->at == n) return FM_CALL_WAITS;
    if (text[s->at] != '{') return fm_call_broken(s, s->at);
    s->mark = 0;
    s->escaped = s->in_string = false;
    s->state = OBJECT;
    return FM_CALL_WAITS;
}

/* A tag behind white space; without it the call ends with the text. */
static int scan_tag(fm_call_scan *s, const char *text, size_t n, const char *tag, int state, bool end) {
    s->at = fm_call_skip(text, n, s->at);
    if (end && fm_tag_look(text, n, s->at, tag) < 0) {
        s->end = n;
        return FM_CALL_WHOLE;
    }
    return s->at < n ? fm_call_expect(s, text, n, tag, state) : FM_CALL_WAITS;
}

static int scan_closing(fm_call_scan *s, const char *text, size_t n, const section *x, bool end) {
    s->end = s->mark;
    return fm_call_close(s, text, n, x->end, end);
}

static int scan_object(fm_call_scan *s, const char *text, size_t n) {
    if (fm_call_scan_json(s, text, n)) s->state = FENCE_CLOSE;
    return FM_CALL_WAITS;
}

/* A fence's end, if there is one. */
static int scan_fence_close(fm_call_scan *s, const char *text, size_t n, const section *x, bool end) {
    s->at = fm_call_skip(text, n, s->at);
    if (s->at == n && !end) return FM_CALL_WAITS;
    if (s->at < n && text[s->at] == '`' && !x->kimi) return scan_tag(s, text, n, FENCE_END, CALL_END, end);
    s->state = CALL_END;
    return FM_CALL_WAITS;
}

static int scan_section(fm_call_scan *s, const char *text, size_t n, const section *x, bool end) {
    int rc = FM_CALL_WAITS, state;
    do {
        state = s->state;
        switch (state) {
        case BEGIN:
            s->at = fm_tag_look(text, n, 0, x->begin) > 0 ? strlen(x->begin) : 0;
            s->state = CALL;
            break;
        case CALL:
            s->at = fm_call_skip(text, n, s->at);
            if (s->at < n) rc = fm_call_expect(s, text, n, x->call, NAME);
            break;
        case NAME: rc = scan_name(s, text, n, x); break;
        case BODY: rc = scan_body(s, text, n, x); break;
        case LINE: rc = scan_line(s, text, n); break;
        case FENCED:
            s->at = fm_call_skip(text, n, s->at);
            if (s->at < n) rc = fm_call_expect(s, text, n, FENCE, FENCED_BODY);
            break;
        case FENCED_BODY: rc = scan_fenced_body(s, text, n); break;
        case OBJECT: rc = scan_object(s, text, n); break;
        case FENCE_CLOSE: rc = scan_fence_close(s, text, n, x, end); break;
        case CALL_END: rc = scan_tag(s, text, n, x->call_end, CLOSING, end); break;
        default: rc = scan_closing(s, text, n, x, end);
        }
    } while (rc == FM_CALL_WAITS && s->state != state);
    return rc;
}

/* ---- reading ---- */

static void add_trimmed(fm_chars *out, const char *text, size_t n) {
    size_t at = fm_call_skip(text, n, 0);
    while (n > at && fm_is_blank(text[n - 1])) n--;
    fm_chars_add(out, text + at, n - at);
}

/* functions.NAME:INDEX is all of it an id. */
static void add_kimi_name(fm_call *call, const char *name, size_t n) {
    static const char functions[] = "functions.";
    add_trimmed(&call->id, name, n);
    const char *text = fm_chars_text(&call->id), *colon = strrchr(text, ':');
    if (!strncmp(text, functions, sizeof functions - 1)) text += sizeof functions - 1;
    bool index = colon && colon > text && colon[1] && strspn(colon + 1, "0123456789") == strlen(colon + 1);
    fm_chars_add(&call->name, text, index ? (size_t)(colon - text) : strlen(text));
}

static bool read_section(fm_call_list *calls, const char *text, size_t n, const section *x) {
    fm_call *call = fm_call_list_add(calls);
    if (!call) return false;
    const char *name = (const char *)memmem(text, n, x->call, strlen(x->call)) + strlen(x->call);
    const char *separator = memmem(name, n - (size_t)(name - text), x->separator, strlen(x->separator));
    size_t at = fm_call_skip(text, n, (size_t)(separator - text) + strlen(x->separator));
    if (text[at] != '{') { /* the line is the name */
        const char *line = text + at;
        at = (size_t)((const char *)memchr(line, '\n', n - at) - text);
        add_trimmed(&call->name, line, (size_t)(text + at - line));
        at = (size_t)((const char *)memchr(text + at, '{', n - at) - text);
    } else if (x->kimi) {
        add_kimi_name(call, name, (size_t)(separator - name));
    } else {
        add_trimmed(&call->name, name, (size_t)(separator - name));
    }
    return call->name.n && fm_call_take_object(&call->arguments, text + at, fm_call_json_bytes(text + at, n - at));
}

static int scan_deepseek(fm_call_scan *s, const char *text, size_t n, bool end) { return scan_section(s, text, n, &deepseek, end); }
static int scan_kimi(fm_call_scan *s, const char *text, size_t n, bool end) { return scan_section(s, text, n, &kimi, end); }

static bool read_deepseek(fm_call_list *calls, const char *text, size_t n, const json_t *tools) {
    (void)tools;
    return read_section(calls, text, n, &deepseek);
}

static bool read_kimi(fm_call_list *calls, const char *text, size_t n, const json_t *tools) {
    (void)tools;
    return read_section(calls, text, n, &kimi);
}

static void force_deepseek(fm_chars *out, const char *name) {
    fm_chars_put(out, deepseek.begin);
    fm_chars_put(out, deepseek.call);
    if (!*name) return;
    fm_chars_put(out, name);
    fm_chars_put(out, deepseek.separator);
}

static void force_kimi(fm_chars *out, const char *name) {
    fm_chars_put(out, kimi.begin);
    fm_chars_put(out, kimi.call);
    fm_chars_put(out, "functions.");
    if (!*name) return;
    fm_chars_put(out, name);
    fm_chars_put(out, ":0");
    fm_chars_put(out, kimi.separator);
}

const fm_call_format fm_calls_deepseek = {
    .name = "deepseek", .opens = {"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"}, .scan = scan_deepseek, .read = read_deepseek, .force = force_deepseek};
const fm_call_format fm_calls_kimi = {
    .name = "kimi", .opens = {"<|tool_calls_section_begin|>", "<|tool_call_begin|>"}, .scan = scan_kimi, .read = read_kimi, .force = force_kimi};
