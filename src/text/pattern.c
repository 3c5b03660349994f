/* pattern.c: says a pre-tokeniser's pattern, written for Oniguruma, in PCRE2's words.
 *
 * Only the part of the language is taken that can be made to mean the same; anything else is refused by name. What has to be made so:
 *   \s            White_Space in Oniguruma; PCRE2 adds U+180E. Written out as ranges.
 *   \p{L} M N     Unicode 16 in the reference library, 14 in the oldest PCRE2 supported. What was added since is listed beside the property.
 *                 So for P, S, Lu, Ll, Lm and Lo; others follow PCRE2's version of Unicode.
 *   $             the end of a line: before a line feed, or where the text ends.
 *   literals      all but letters and digits by number, so that none of them is an operator. */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_parts.h"

enum { MAX_DEPTH = 32, MAX_BYTES = 1 << 14 };

typedef struct translation {
    const char *p; /* the rest of the pattern */
    const char *pattern, *path;
    fm_error *err;
    char *out;
    size_t n, capacity;
    bool no_memory;
    bool caseless[MAX_DEPTH + 1];
    int depth;
    int32_t last_literal; /* -1: what came before is none */
} translation;

__attribute__((format(printf, 2, 3))) static void put(translation *t, const char *format, ...) {
    if (t->capacity - t->n < 128) {
        size_t capacity = 2 * t->capacity + 1024;
        char *out = realloc(t->out, capacity);
        if (!out) {
            t->no_memory = true;
            return;
        }
        t->out = out;
        t->capacity = capacity;
    }
    va_list arguments;
    va_start(arguments, format);
    t->n += (size_t)vsnprintf(t->out + t->n, 128, format, arguments); /* the longest is below 40 bytes */
    va_end(arguments);
}

static int refuse(translation *t, const char *what, const char *at) {
    return fm_fail(t->err, FM_EUNSUPPORTED, "%s: the pre-tokeniser's pattern has %s at byte %td, which is not supported", t->path, what, at - t->pattern);
}

static void put_literal(translation *t, int32_t c) {
    if (c < 128 && isalnum((int)c)) {
        put(t, "%c", (int)c);
    } else {
        put(t, "\\x{%x}", (unsigned)c);
    }
}

static void put_ranges(translation *t, const fm_range *r) {
    for (; r->last >= 0; r++) put(t, "\\x{%x}-\\x{%x}", (unsigned)r->first, (unsigned)r->last);
}

/* Everything between the ranges, which ascend. */
static void put_gaps(translation *t, const fm_range *r) {
    int32_t next = 0;
    for (; r->last >= 0; r++) {
        put(t, "\\x{%x}-\\x{%x}", (unsigned)next, (unsigned)r->first - 1);
        next = r->last + 1;
    }
    put(t, "\\x{%x}-\\x{10ffff}", (unsigned)next);
}

static void put_new(translation *t, const char *name, size_t n) {
    static const struct {
        const char *name;
        const fm_range *ranges;
    } tables[] = {{"L", fm_new_letters}, {"M", fm_new_marks},  {"N", fm_new_numbers},    {"P", fm_new_punctuation},   {"S", fm_new_symbols},
                  {"Lu", fm_new_upper},  {"Ll", fm_new_lower}, {"Lm", fm_new_modifiers}, {"Lo", fm_new_other_letters}};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        if (strlen(tables[i].name) == n && !memcmp(tables[i].name, name, n)) put_ranges(t, tables[i].ranges);
    }
}

/* \p{L}, \p{Lu}, \p{^L}, \P{L}, with t->p behind the p. */
static int property(translation *t, bool negative, bool in_class) {
    const char *at = t->p - 2, *name = t->p + 1;
    if (*t->p != '{') return refuse(t, "a property without braces", at);
    if (*name == '^') {
        negative = !negative;
        name++;
    }
    const char *end = strchr(name, '}');
    ptrdiff_t n = end ? end - name : 0;
    if (n < 1 || n > 2 || !strchr("LMNPSZ", name[0]) || (n == 2 && !islower((unsigned char)name[1]))) return refuse(t, "a property that is no category", at);
    if (n == 2 && t->caseless[t->depth]) return refuse(t, "a two-letter category regardless of case", at);
    if (negative && in_class) return refuse(t, "a negated property in a class", at);
    if (!in_class) put(t, negative ? "[^" : "[");
    put(t, "\\p{%.*s}", (int)n, name);
    put_new(t, name, (size_t)n);
    if (!in_class) put(t, "]");
    t->p = end + 1;
    return 0;
}

/* A backslash and what follows, with t->p on it. *literal is the character that it stands for, or -1 for a set, which has been written. */
static int escape(translation *t, bool in_class, int32_t *literal) {
    const char *at = t->p++;
    int c = (uint8_t)*t->p;
    *literal = -1;
    if (c != 0) t->p++;
    switch (c) {
    case 'r': *literal = '\r'; return 0;
    case 'n': *literal = '\n'; return 0;
    case 't': *literal = '\t'; return 0;
    case 'f': *literal = '\f'; return 0;
    case 'v': *literal = '\v'; return 0;
    case 'p':
    case 'P': return property(t, c == 'P', in_class);
    case 'd': put(t, "\\p{Nd}"); return 0;
    case 's':
    case 'S':
        if (!in_class) put(t, "[");
        if (c == 's') {
            put_ranges(t, fm_space_ranges);
        } else {
            put_gaps(t, fm_space_ranges);
        }
        if (!in_class) put(t, "]");
        return 0;
    default:
        if (c >= 128 || !ispunct(c)) return refuse(t, "an escape", at);
        *literal = c;
        return 0;
    }
}

static int32_t read_literal(translation *t) {
    int length;
    int32_t c = fm_utf8_read(t->p, &length);
    t->p += length;
    return c;
}

/* One end of a range or a set, with t->p on it. */
static int class_item(translation *t, int32_t *literal) {
    if (*t->p == 0) return refuse(t, "a class without an end", t->p);
    if (*t->p == '[') return refuse(t, "a class inside a class", t->p);
    if (t->p[0] == '&' && t->p[1] == '&') return refuse(t, "an intersection of classes", t->p);
    if (*t->p == '\\') return escape(t, true, literal);
    *literal = read_literal(t);
    return 0;
}

static int class(translation *t) {
    put(t, "[");
    t->p++;
    if (*t->p == '^') {
        put(t, "^");
        t->p++;
    }
    if (*t->p == ']') return refuse(t, "an empty class", t->p);
    for (bool first = true; *t->p != ']'; first = false) {
        const char *at = t->p;
        int32_t low, high;
        if (*t->p == '-' && !first && t->p[1] != ']') return refuse(t, "a '-' between sets", at);
        int code = class_item(t, &low);
        if (code) return code;
        if (low >= 0) put_literal(t, low);
        if (low < 0 || t->p[0] != '-' || t->p[1] == ']') continue;
        t->p++;
        if (t->p[0] == '\\' && t->p[1] && strchr("sSdpP", t->p[1])) return refuse(t, "a range up to a set", at);
        code = class_item(t, &high);
        if (code) return code;
        if (high < low) return refuse(t, "a range that runs backwards", at);
        put(t, "-");
        put_literal(t, high);
    }
    t->p++;
    put(t, "]");
    return 0;
}

/* "(", with what kind of group it is. Groups capture nothing here. */
static int group(translation *t) {
    static const char *const kinds[] = {"(?:", "(?i:", "(?=", "(?!"};
    if (t->depth == MAX_DEPTH) return refuse(t, "groups nested too deep", t->p);
    const char *kind = "(?:";
    size_t n = 1;
    if (t->p[1] == '?') {
        kind = NULL;
        for (int i = 0; i < 4; i++) {
            n = strlen(kinds[i]);
            if (!strncmp(t->p, kinds[i], n)) {
                kind = kinds[i];
                break;
            }
        }
        if (!kind) return refuse(t, "a kind of group", t->p);
    }
    t->caseless[t->depth + 1] = t->caseless[t->depth] || kind == kinds[1];
    t->depth++;
    put(t, "%s", kind);
    t->p += n;
    return 0;
}

/* {n}, {n,} or {n,m}; Oniguruma reads a sign after it in a way of its own. */
static int interval(translation *t) {
    const char *at = t->p++;
    size_t n = strspn(t->p, "0123456789");
    size_t all = n;
    if (t->p[all] == ',') all += 1 + strspn(t->p + all + 1, "0123456789");
    if (n == 0 || all > 12 || t->p[all] != '}' || (t->p[all + 1] && strchr("+?*{", t->p[all + 1]))) return refuse(t, "such a '{'", at);
    put(t, "{%.*s}", (int)all, t->p);
    t->p += all + 1;
    return 0;
}

static int literal(translation *t, int32_t c, const char *at) {
    if (t->caseless[t->depth]) {
        /* Oniguruma lets one character match several, such as the sharp s for "ss"; PCRE2 does not. */
        static const char *const folded[] = {"ss", "ff", "fi", "fl", "st"};
        if (c >= 128) return refuse(t, "a character outside ASCII regardless of case", at);
        for (int i = 0; i < 5; i++) {
            if (t->last_literal >= 0 && tolower((int)t->last_literal) == folded[i][0] && tolower((int)c) == folded[i][1])
                return refuse(t, "a sequence that folds to one character, regardless of case", at);
        }
    }
    put_literal(t, c);
    t->last_literal = c;
    return 0;
}

static int element(translation *t) {
    const char *at = t->p;
    int32_t c = -1, last = t->last_literal;
    int code = 0;
    t->last_literal = -1;
    switch (*t->p) {
    case '\\':
        code = escape(t, false, &c);
        if (code || c < 0) return code;
        t->last_literal = last;
        return literal(t, c, at);
    case '[': return class(t);
    case '(': return group(t);
    case '{': return interval(t);
    case '^':
    case ']':
    case '}': return refuse(t, "an unescaped ^, ] or }", at);
    case '$': put(t, "(?=\\x{a}|\\z)"); break; /* the end of a line */
    case '.': put(t, "[^\\x{a}]"); break;
    case ')':
        if (t->depth == 0) return refuse(t, "a ')' too many", at);
        t->depth--;
        put(t, ")");
        break;
    case '|':
    case '*':
    case '+':
    case '?': put(t, "%c", *t->p); break;
    default: t->last_literal = last; return literal(t, read_literal(t), at);
    }
    t->p++;
    return 0;
}

int fm_pattern_translate(char **out, const char *pattern, const char *path, fm_error *err) {
    translation t = {.p = pattern, .pattern = pattern, .path = path, .err = err, .last_literal = -1};
    int code = 0;
    *out = NULL;
    if (strlen(pattern) > MAX_BYTES) return fm_fail(err, FM_EUNSUPPORTED, "%s: the pre-tokeniser's pattern has more than %d bytes", path, MAX_BYTES);
    put(&t, "%s", "");
    while (*t.p && !code && !t.no_memory) code = element(&t);
    if (!code && t.depth > 0) code = refuse(&t, "a group without an end", t.p);
    if (t.no_memory) code = fm_fail(err, FM_ENOMEM, "%s: no memory for the pre-tokeniser's pattern", path);
    if (code) {
        free(t.out);
        return code;
    }
    *out = t.out;
    return 0;
}
