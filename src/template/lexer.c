/* template/lexer.c: a template's text into tokens, with jinja2's rules of white space (trim_blocks, lstrip_blocks, no last newline). See syntax.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "template/syntax.h"

typedef struct fm_lexer {
    fm_run *run;
    const char *text;
    size_t n, at;
    bool line_starting; /* the last match ended with a newline */
    fm_token *tokens;
    size_t n_tokens, cap;
    char *balance; /* open brackets */
    size_t n_balance, cap_balance;
} fm_lexer;

static fm_token *add_token(fm_lexer *l, fm_token_kind kind, const char *text, size_t bytes) {
    if (l->n_tokens == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 256;
        l->tokens = fm_take_more(l->run, l->tokens, l->n_tokens * sizeof *l->tokens, cap * sizeof *l->tokens);
        l->cap = cap;
    }
    fm_token *token = &l->tokens[l->n_tokens++];
    *token = (fm_token){.kind = kind, .line = l->run->line, .text = text, .bytes = bytes};
    return token;
}

static void count_lines(fm_lexer *l, size_t from, size_t to) {
    for (const char *p = l->text + from, *end = l->text + to; p < end && (p = memchr(p, '\n', (size_t)(end - p))); p++) l->run->line++;
}

static size_t skip_space(const fm_lexer *l, size_t at) {
    size_t n;
    while (at < l->n && fm_point_is_space(fm_point(l->text + at, l->n - at, &n))) at += n;
    return at;
}

static bool at_literal(const fm_lexer *l, size_t at, const char *literal) {
    size_t n = strlen(literal);
    return l->n - at >= n && memcmp(l->text + at, literal, n) == 0;
}

/* Where a tag that begins to close at `at` ends: "-%}" takes the white space behind it, "%}" one newline, "+%}" nothing. 0: it does not close here. */
static size_t close_tag(const fm_lexer *l, size_t at, const char *close, bool trim) {
    char sign = at < l->n ? l->text[at] : 0;
    if (sign == '-' && at_literal(l, at + 1, close)) return skip_space(l, at + 3);
    if (sign == '+' && trim && at_literal(l, at + 1, close)) return at + 3;
    if (!at_literal(l, at, close)) return 0;
    at += 2;
    return at + (trim && at < l->n && l->text[at] == '\n');
}

/* Emits the text before a tag: its end is stripped as the tag's sign or lstrip_blocks has it. */
static void add_data(fm_lexer *l, size_t from, size_t to, char sign, bool variable) {
    size_t end = to, n;
    if (sign == '-') {
        while (end > from && fm_point_is_space(fm_point_before(l->text, end, &n))) end -= n;
    } else if (sign != '+' && !variable) {
        size_t begin = to;
        while (begin > from && fm_point_is_space(fm_point_before(l->text, begin, &n)) && l->text[begin - 1] != '\n') begin -= n;
        if (begin > from ? l->text[begin - 1] == '\n' : l->line_starting) end = begin;
    }
    if (end > from) add_token(l, FM_TOKEN_DATA, l->text + from, end - from);
    count_lines(l, from, to);
}

static char sign_at(const fm_lexer *l, size_t at) { return at < l->n && (l->text[at] == '-' || l->text[at] == '+') ? l->text[at] : 0; }

/* The end of `{% raw %}` whose inside begins at `at`, or 0. */
static size_t raw_begins(const fm_lexer *l, size_t at) {
    at = skip_space(l, at);
    if (!at_literal(l, at, "raw")) return 0;
    at = skip_space(l, at + 3);
    if (at < l->n && l->text[at] == '-' && at_literal(l, at + 1, "%}")) return skip_space(l, at + 3);
    return at_literal(l, at, "%}") ? at + 2 : 0;
}

static void lex_raw(fm_lexer *l, size_t from) {
    for (size_t at = from; at + 1 < l->n; at++) {
        const char *found = memmem(l->text + at, l->n - at, "{%", 2);
        if (!found) break;
        at = (size_t)(found - l->text);
        char sign = sign_at(l, at + 2);
        size_t inside = skip_space(l, at + 2 + (sign != 0)), end = 0;
        if (at_literal(l, inside, "endraw")) end = close_tag(l, skip_space(l, inside + 6), "%}", true);
        if (!end) continue;
        add_data(l, from, at, sign, false);
        count_lines(l, at, end);
        l->line_starting = l->text[end - 1] == '\n';
        l->at = end;
        return;
    }
    fm_refuse(l->run, FM_EFORMAT, "missing end of raw directive");
}

static void lex_comment(fm_lexer *l, size_t from) {
    for (size_t at = from; at < l->n; at++) {
        size_t end = 0;
        const char *found = memmem(l->text + at, l->n - at, "#}", 2);
        if (!found) break;
        at = (size_t)(found - l->text);
        if (at > from && (l->text[at - 1] == '-' || l->text[at - 1] == '+')) at--;
        end = close_tag(l, at, "#}", true);
        count_lines(l, from, end);
        l->line_starting = l->text[end - 1] == '\n';
        l->at = end;
        return;
    }
    fm_refuse(l->run, FM_EFORMAT, "missing end of comment tag");
}

/* ---- inside of a tag */

static __attribute__((noreturn)) void bad_string(fm_lexer *l, const char *what) { fm_refuse(l->run, FM_EFORMAT, "%s in a string", what); }

static size_t escaped_point(fm_lexer *l, fm_writer *writer, size_t at, size_t end, size_t digits) {
    uint32_t point = 0;
    for (size_t i = 0; i < digits; i++) {
        char c = at + i < end ? l->text[at + i] : 0;
        const char *hex = "0123456789abcdef", *found = c ? strchr(hex, c >= 'A' && c <= 'F' ? c | 32 : c) : NULL;
        if (!found) bad_string(l, "a truncated escape");
        point = point << 4 | (uint32_t)(found - hex);
    }
    if (point > 0x10ffff) bad_string(l, "an illegal Unicode character");
    if (point >= 0xd800 && point < 0xe000) fm_refuse(l->run, FM_EUNSUPPORTED, "half of a surrogate pair in a string");
    fm_write_point(writer, (int32_t)point);
    return at + digits;
}

/* One escape behind a backslash, at `at`; the end of it. */
static size_t lex_escape(fm_lexer *l, fm_writer *writer, size_t at, size_t end) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    char c = l->text[at];
    const char *found = c ? strchr(from, c) : NULL;
    if (c == '\n') return at + 1;
    if (found) {
        fm_write(writer, &to[found - from], 1);
        return at + 1;
    }
    if (c >= '0' && c <= '7') {
        int32_t point = 0;
        for (size_t i = 0; i < 3 && at < end && l->text[at] >= '0' && l->text[at] <= '7'; i++) point = point * 8 + l->text[at++] - '0';
        fm_write_point(writer, point);
        return at;
    }
    if (c == 'x' || c == 'u' || c == 'U') return escaped_point(l, writer, at + 1, end, c == 'x' ? 2 : c == 'u' ? 4 : 8);
    if (c == 'N') fm_refuse(l->run, FM_EUNSUPPORTED, "\\N in a string");
    fm_write_literal(writer, "\\");
    if ((uint8_t)c < 0x80) return at; /* not an escape: both stand */
    char code[12];
    size_t n;
    int32_t point = fm_point(l->text + at, end - at, &n); /* Python escapes it first, and so its own backslash is the escape's second */
    snprintf(code, sizeof code, point < 0x100 ? "x%02x" : point < 0x10000 ? "u%04x" : "U%08x", (unsigned)point);
    fm_write_literal(writer, code);
    return at + n;
}

static void lex_string(fm_lexer *l) {
    char quote = l->text[l->at];
    size_t begin = l->at + 1, end = begin;
    while (end < l->n && l->text[end] != quote) end += 1 + (l->text[end] == '\\');
    if (end >= l->n) fm_refuse(l->run, FM_EFORMAT, "a string does not end");
    fm_token *token = add_token(l, FM_TOKEN_STRING, l->text + begin, end - begin);
    fm_writer writer = {.run = l->run};
    for (size_t at = begin; at < end;) {
        const char *backslash = memchr(l->text + at, '\\', end - at);
        size_t stop = backslash ? (size_t)(backslash - l->text) : end;
        fm_write(&writer, l->text + at, stop - at);
        at = stop < end ? lex_escape(l, &writer, stop + 1, end) : end;
    }
    token->value = fm_written_string(&writer);
    count_lines(l, begin, end);
    l->at = end + 1;
}

static bool is_digit(char c, int base) {
    if (base == 16 && ((c | 32) >= 'a' && (c | 32) <= 'f')) return true;
    return c >= '0' && c < '0' + (base < 10 ? base : 10);
}

/* Behind (_?digit)* of base from `at`. */
static size_t digits(const fm_lexer *l, size_t at, int base) {
    for (;;) {
        size_t next = at + (at < l->n && l->text[at] == '_');
        if (next >= l->n || !is_digit(l->text[next], base)) return at;
        at = next + 1;
    }
}

/* The end of a float that begins at `at`, or 0. */
static size_t float_end(const fm_lexer *l, size_t at) {
    if (at > 0 && l->text[at - 1] == '.') return 0;
    size_t whole = digits(l, at, 10), end = whole;
    if (end + 1 < l->n && l->text[end] == '.' && is_digit(l->text[end + 1], 10)) end = digits(l, end + 1, 10);
    size_t e = end;
    if (e < l->n && (l->text[e] | 32) == 'e') {
        e++;
        e += e < l->n && (l->text[e] == '+' || l->text[e] == '-');
        if (e < l->n && is_digit(l->text[e], 10)) return digits(l, e, 10);
    }
    return end > whole ? end : 0;
}

static void lex_number(fm_lexer *l) {
    size_t from = l->at, end = float_end(l, from), n = 0;
    char plain[400];
    int base = 10;
    bool real = end > 0;
    if (!real && l->text[from] == '0') {
        char kind = from + 1 < l->n ? (char)(l->text[from + 1] | 32) : 0;
        base = kind == 'b' ? 2 : kind == 'o' ? 8 : kind == 'x' ? 16 : 10;
        end = base != 10 ? digits(l, from + 2, base) : 0;
        if (base == 10 || end == from + 2) { /* only zeros go on behind a zero */
            base = 10;
            end = digits(l, from, 1);
        }
    } else if (!real) {
        end = digits(l, from, 10);
    }
    fm_token *token = add_token(l, FM_TOKEN_NUMBER, l->text + from, end - from);
    for (size_t i = from + (base != 10 ? 2 : 0); i < end; i++) {
        if (l->text[i] == '_') continue;
        if (n == sizeof plain - 1) fm_refuse(l->run, FM_EUNSUPPORTED, "a number of more than %zu digits", n);
        plain[n++] = l->text[i];
    }
    if (real) {
        double value;
        if (!fm_parse_real(plain, n, &value)) value = INFINITY; /* the lexer let nothing else through */
        token->value = fm_float(value);
    } else {
        int64_t value = 0;
        for (size_t i = 0; i < n; i++) {
            int digit = plain[i] <= '9' ? plain[i] - '0' : (plain[i] | 32) - 'a' + 10;
            if (__builtin_mul_overflow(value, base, &value) || __builtin_add_overflow(value, digit, &value)) {
                fm_refuse(l->run, FM_EUNSUPPORTED, "a whole number beyond 64 bits");
            }
        }
        token->value = fm_int(value);
    }
    l->at = end;
}

static void lex_operator(fm_lexer *l) {
    static const char *const two[] = {"//", "**", "==", "!=", ">=", "<="};
    char c = l->text[l->at];
    size_t n = 0;
    for (size_t i = 0; i < sizeof two / sizeof *two; i++) n = at_literal(l, l->at, two[i]) ? 2 : n;
    if (!n) {
        if (!c || !strchr("+-/*%~[](){}><=.:|,;", c)) {
            size_t length;
            int32_t point = fm_point(l->text + l->at, l->n - l->at, &length);
            fm_refuse(l->run, FM_EFORMAT, "unexpected char U+%04X", (unsigned)point);
        }
        n = 1;
    }
    if (strchr("{([", c)) {
        if (l->n_balance == l->cap_balance) {
            size_t cap = l->cap_balance ? 2 * l->cap_balance : 64;
            l->balance = fm_take_more(l->run, l->balance, l->n_balance, cap);
            l->cap_balance = cap;
        }
        l->balance[l->n_balance++] = c == '{' ? '}' : c == '(' ? ')' : ']';
    } else if (strchr("})]", c)) {
        if (!l->n_balance) fm_refuse(l->run, FM_EFORMAT, "unexpected '%c'", c);
        if (l->balance[--l->n_balance] != c) fm_refuse(l->run, FM_EFORMAT, "unexpected '%c', expected '%c'", c, l->balance[l->n_balance]);
    }
    add_token(l, FM_TOKEN_OPERATOR, l->text + l->at, n);
    l->at += n;
}

static bool name_point(int32_t c, bool first) {
    if (c < 0x80) return c == '_' || ((c | 32) >= 'a' && (c | 32) <= 'z') || (!first && c >= '0' && c <= '9');
    utf8proc_category_t k = utf8proc_category(c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) || k == UTF8PROC_CATEGORY_NL ||
           (!first && (k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_PC));
}

/* Tokens up to the end of a {{ }} or {% %}. */
static void lex_inside(fm_lexer *l, bool variable) {
    while (l->at < l->n) {
        size_t end = l->n_balance ? 0 : close_tag(l, l->at, variable ? "}}" : "%}", !variable), n;
        if (end) {
            add_token(l, variable ? FM_TOKEN_CLOSE_VARIABLE : FM_TOKEN_CLOSE_BLOCK, l->text + l->at, 2);
            count_lines(l, l->at, end);
            l->line_starting = l->text[end - 1] == '\n';
            l->at = end;
            return;
        }
        int32_t c = fm_point(l->text + l->at, l->n - l->at, &n);
        if (fm_point_is_space(c)) {
            end = skip_space(l, l->at);
            count_lines(l, l->at, end);
            l->at = end;
        } else if (c >= '0' && c <= '9') {
            lex_number(l);
        } else if (name_point(c, true)) {
            for (end = l->at + n; end < l->n && name_point(fm_point(l->text + end, l->n - end, &n), false);) end += n;
            add_token(l, FM_TOKEN_NAME, l->text + l->at, end - l->at);
            l->at = end;
        } else if (c == '\'' || c == '"') {
            lex_string(l);
        } else {
            lex_operator(l);
        }
    }
}

static void lex_root(fm_lexer *l) {
    size_t tag = l->at;
    for (;; tag++) {
        const char *found = tag < l->n ? memchr(l->text + tag, '{', l->n - tag) : NULL;
        tag = found ? (size_t)(found - l->text) : l->n;
        if (tag + 1 >= l->n) {
            add_data(l, l->at, l->n, '+', true);
            l->at = l->n;
            return;
        }
        if (strchr("%{#", l->text[tag + 1]) && l->text[tag + 1]) break;
    }
    char kind = l->text[tag + 1], sign = sign_at(l, tag + 2);
    size_t inside = tag + 2 + (sign != 0), raw = kind == '%' ? raw_begins(l, inside) : 0;
    add_data(l, l->at, tag, sign, kind == '{');
    l->line_starting = false;
    if (raw) {
        count_lines(l, tag, raw);
        l->line_starting = l->text[raw - 1] == '\n';
        lex_raw(l, raw);
    } else if (kind == '#') {
        lex_comment(l, inside);
    } else {
        add_token(l, kind == '{' ? FM_TOKEN_OPEN_VARIABLE : FM_TOKEN_OPEN_BLOCK, l->text + tag, 2);
        l->at = inside;
        lex_inside(l, kind == '{');
    }
}

fm_token *fm_lex(fm_run *run, const char *source, size_t bytes) {
    fm_lexer l = {.run = run, .line_starting = true};
    char *text = fm_take(run, bytes + 1);
    for (size_t i = 0; i < bytes; i++) { /* \r\n and \r are newlines too */
        if (source[i] == '\r' && i + 1 < bytes && source[i + 1] == '\n') continue;
        text[l.n++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (l.n && text[l.n - 1] == '\n') l.n--;
    text[l.n] = 0;
    l.text = text;
    run->line = 1;
    while (l.at < l.n) lex_root(&l);
    add_token(&l, FM_TOKEN_END, "", 0);
    return l.tokens;
}
