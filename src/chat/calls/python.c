/* chat/calls/python.c: calls as LFM2 writes them, as Python would: <|tool_call_start|>[f(a="b", c=[1, None]), g()]<|tool_call_end|>. Arguments are literals, by name; they become
 * JSON. */
#include <stdlib.h>
#include <string.h>

#include "chat/calls.h"

#define MAX_DEPTH 64

enum { BEGIN, BODY, SINGLE, DOUBLE, CLOSING };

static const char START[] = "<|tool_call_start|>", END[] = "<|tool_call_end|>";

/* Moves behind the bracket that closes the list; mark counts open ones. */
static bool scan_list(fm_call_scan *s, const char *text, size_t n) {
    while (s->at < n) {
        char c = text[s->at++];
        if (s->escaped)
            s->escaped = false;
        else if (s->state != BODY)
            c == '\\' ? (s->escaped = true) : c == (s->state == SINGLE ? '\'' : '"') ? (s->state = BODY) : 0;
        else if (c == '\'' || c == '"')
            s->state = c == '"' ? DOUBLE : SINGLE;
        else if (strchr("([{", c) && c)
            s->mark++;
        else if (strchr(")]}", c) && c && --s->mark == 0)
            return true;
    }
    return false;
}

static int scan(fm_call_scan *s, const char *text, size_t n, bool end) {
    if (s->state == BEGIN) {
        s->at = fm_call_skip(text, n, s->at ? s->at : sizeof START - 1);
        if (s->at == n) return FM_CALL_WAITS;
        if (text[s->at] != '[') return fm_call_broken(s, s->at);
        s->state = BODY;
    }
    if (s->state != CLOSING) {
        if (!scan_list(s, text, n)) return FM_CALL_WAITS;
        s->state = CLOSING;
        s->end = s->at;
    }
    return fm_call_close(s, text, n, END, end);
}

/* ---- literals ---- */

typedef struct reader {
    const char *text;
    size_t at, n;
    fm_chars *out;
} reader;

static void skip(reader *r) { r->at = fm_call_skip(r->text, r->n, r->at); }

/* Whether c stands here, behind white space; passes over it. */
static bool take(reader *r, char c) {
    skip(r);
    bool found = r->at < r->n && r->text[r->at] == c;
    r->at += found;
    return found;
}

static void add_code(fm_chars *out, unsigned c) {
    char bytes[4];
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char first[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; c >>= 6) bytes[i] = (char)(0x80 | (c & 63));
    bytes[0] = (char)(first[n] | c);
    fm_chars_add(out, bytes, n);
}

/* What stands behind a backslash. */
static bool read_escape(reader *r, fm_chars *out) {
    static const char letters[] = "\\'\"abfnrtv", meant[] = "\\'\"\a\b\f\n\r\t\v";
    char c = r->text[r->at++];
    const char *plain = c ? strchr(letters, c) : NULL;
    size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (plain) {
        fm_chars_add(out, &meant[plain - letters], 1);
        return true;
    }
    if (c == '\n') return true; /* the line goes on */
    if (!digits) {              /* Python keeps what it does not know */
        fm_chars_put(out, "\\");
        r->at--;
        return true;
    }
    char hex[9] = {0}, *end;
    if (r->n - r->at < digits) return false;
    memcpy(hex, r->text + r->at, digits);
    unsigned long code = strtoul(hex, &end, 16);
    r->at += digits;
    if (end != hex + digits || hex[0] == '-' || hex[0] == '+' || fm_is_blank(hex[0])) return false;
    if (code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
    add_code(out, (unsigned)code);
    return true;
}

/* The string that begins here, without its quotes. */
static bool read_string(reader *r, fm_chars *out) {
    char quote = r->text[r->at++];
    while (r->at < r->n && r->text[r->at] != quote) {
        if (r->text[r->at] != '\\') {
            fm_chars_add(out, r->text + r->at++, 1);
            continue;
        }
        r->at++;
        if (r->at >= r->n || !read_escape(r, out)) return false;
    }
    return r->at++ < r->n;
}

static bool add_string(reader *r) {
    fm_chars string = {0};
    bool good = read_string(r, &string);
    if (good) fm_call_string(r->out, fm_chars_text(&string), string.n);
    r->out->failed |= string.failed;
    fm_chars_close(&string);
    return good;
}

/* A number as JSON has them, or one of Python's words. */
static bool add_word(reader *r) {
    static const char *const words[][2] = {{"True", "true"}, {"False", "false"}, {"None", "null"}, {"true", "true"}, {"false", "false"}, {"null", "null"}};
    size_t start = r->at;
    while (r->at < r->n && !strchr(",()[]{}=:'\" \t\r\n", r->text[r->at])) r->at++;
    size_t n = r->at - start;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (n != strlen(words[i][0]) || memcmp(r->text + start, words[i][0], n)) continue;
        fm_chars_put(r->out, words[i][1]);
        return true;
    }
    json_t *value = n ? json_loadb(r->text + start, n, JSON_DECODE_ANY, NULL) : NULL;
    bool good = json_is_number(value);
    if (good) fm_chars_add(r->out, r->text + start, n);
    json_decref(value);
    return good;
}

static bool add_value(reader *r, int depth);

/* Behind what opens a list, tuple or dictionary, up to what closes it. */
static bool add_items(reader *r, char close, int depth) {
    bool dictionary = close == '}';
    fm_chars_put(r->out, dictionary ? "{" : "[");
    for (bool first = true; !take(r, close); first = false) {
        if (!first && !take(r, ',')) return false;
        if (!first && take(r, close)) break; /* a comma behind the last */
        if (!first) fm_chars_put(r->out, ", ");
        skip(r);
        if (r->at >= r->n) return false;
        if (dictionary) {
            if ((r->text[r->at] != '"' && r->text[r->at] != '\'') || !add_string(r) || !take(r, ':')) return false;
            fm_chars_put(r->out, ": ");
        }
        if (!add_value(r, depth + 1)) return false;
    }
    fm_chars_put(r->out, dictionary ? "}" : "]");
    return true;
}

static bool add_value(reader *r, int depth) {
    skip(r);
    if (r->at >= r->n || depth > MAX_DEPTH) return false;
    char c = r->text[r->at];
    if (c == '"' || c == '\'') return add_string(r);
    if (c != '[' && c != '(' && c != '{') return add_word(r);
    r->at++;
    return add_items(r, c == '[' ? ']' : c == '(' ? ')' : '}', depth);
}

/* ---- calls ---- */

/* A name, dots inside of it too. */
static bool read_name(reader *r, fm_chars *out) {
    skip(r);
    size_t start = r->at;
    while (r->at < r->n && !strchr(",()[]{}=:'\" \t\r\n", r->text[r->at])) r->at++;
    fm_chars_add(out, r->text + start, r->at - start);
    return r->at > start && !memchr(r->text + start, 0, r->at - start);
}

static bool read_one(fm_call *call, reader *r) {
    r->out = &call->arguments;
    if (!read_name(r, &call->name) || !take(r, '(')) return false;
    fm_chars_put(r->out, "{");
    for (bool first = true; !take(r, ')'); first = false) {
        fm_chars key = {0};
        if (!first && !take(r, ',')) return false;
        if (!first && take(r, ')')) break;
        bool good = read_name(r, &key) && take(r, '=');
        if (!first) fm_chars_put(r->out, ", ");
        if (good) fm_call_string(r->out, fm_chars_text(&key), key.n);
        r->out->failed |= key.failed;
        fm_chars_close(&key);
        fm_chars_put(r->out, ": ");
        if (!good || !add_value(r, 0)) return false;
    }
    fm_chars_put(r->out, "}");
    /* A name twice: which one is meant? */
    json_t *object = json_loadb(fm_chars_text(r->out), r->out->n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    json_decref(object);
    return object != NULL;
}

static bool read_calls(fm_call_list *calls, const char *text, size_t n, const json_t *tools) {
    (void)tools;
    reader r = {.text = text, .at = sizeof START - 1, .n = n};
    if (!take(&r, '[')) return false;
    for (bool first = true; !take(&r, ']'); first = false) {
        if (!first && !take(&r, ',')) return false;
        if (!first && take(&r, ']')) break;
        fm_call *call = fm_call_list_add(calls);
        if (!call || !read_one(call, &r)) return false;
    }
    return calls->n > 0;
}

static void force(fm_chars *out, const char *name) {
    fm_chars_put(out, START);
    fm_chars_put(out, "[");
    if (!*name) return;
    fm_chars_put(out, name);
    fm_chars_put(out, "(");
}

const fm_call_format fm_calls_lfm2 = {.name = "lfm2", .opens = {START}, .scan = scan, .read = read_calls, .force = force};
