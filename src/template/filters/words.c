/* template/filters/words.c: filters that lay text out anew: wordwrap, striptags, pprint. See library.h. */
#include <string.h>
#include <utf8proc.h>

#include "template/filters/filters.h"

/* ---- wordwrap: Python's textwrap, line by line */

static bool is_wrap_space(int32_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
static bool is_letter(int32_t c) {
    utf8proc_category_t k = utf8proc_category(c);
    return fm_point_is_word(c) && k != UTF8PROC_CATEGORY_ND;
}
static bool ends_word(int32_t c) { return fm_point_is_word(c) || (c < 0x80 && c && strchr("!\"'&.,?", c)); }

/* A line as points, with 0 behind its end and three before its begin. */
typedef struct line {
    const int32_t *points;
    size_t n;
} line;

/* A dash of two or more hyphens between words begins at `at`: its length, or 0. */
static size_t dash_at(const line *l, size_t at) {
    size_t n = 0;
    if (!at || l->points[at] != '-' || !ends_word(l->points[at - 1])) return 0;
    while (l->points[at + n] == '-') n++;
    return n >= 2 && fm_point_is_word(l->points[at + n]) ? n : 0;
}

static bool breaks_after_hyphen(const line *l, size_t at) {
    const int32_t *p = l->points + at;
    bool before = is_letter(p[-1]) && (is_letter(p[-2]) || (p[-2] == '-' && is_letter(p[-3])));
    return *p == '-' && before && is_letter(p[1]) && (is_letter(p[2]) || (p[2] == '-' && is_letter(p[3])));
}

/* Where the piece that begins at `at` ends: spaces, a dash, or a word to where it may be broken. */
static size_t piece_end(const line *l, size_t at, bool hyphens) {
    size_t end = at;
    if (is_wrap_space(l->points[at])) {
        while (end < l->n && is_wrap_space(l->points[end])) end++;
        return end;
    }
    if (hyphens && dash_at(l, at)) return at + dash_at(l, at);
    for (end = at + 1; end < l->n && !is_wrap_space(l->points[end]); end++) {
        if (hyphens && breaks_after_hyphen(l, end)) return end + 1;
        if (hyphens && dash_at(l, end)) return end;
    }
    return end;
}

/* How many of a piece's n points stay on a line with room for `room`, when it is to be broken. */
static size_t broken(const line *l, size_t at, size_t n, size_t room, bool hyphens) {
    if (!hyphens || n <= room) return n < room ? n : room;
    size_t hyphen = room;
    while (hyphen > 0 && l->points[at + hyphen - 1] != '-') hyphen--; /* one more than its place; 0: there is none */
    for (size_t i = 0; hyphen > 1 && i < hyphen - 1; i++) {
        if (l->points[at + i] != '-') return hyphen;
    }
    return room;
}

static bool is_blank(const line *l, size_t from, size_t to) {
    while (from < to && fm_point_is_space(l->points[from])) from++;
    return from == to;
}

/* Wraps one line and writes it, with `between` before all but the first of all lines. */
static void wrap_line(fm_writer *writer, const line *l, size_t width, const bool options[2], const fm_text *between) {
    bool break_words = options[0], hyphens = options[1], first = true;
    size_t at = 0, end = l->n ? piece_end(l, 0, hyphens) : 0; /* of the piece at `at`, or what was left of it */
    while (at < l->n) {
        if (!first && is_blank(l, at, end)) {
            at = end;
            if (at == l->n) break;
            end = piece_end(l, at, hyphens);
        }
        size_t from = at, last = at, used = 0; /* last: where the line's last piece begins */
        fm_charge(writer->run, width < l->n ? width : l->n);
        while (at < l->n && used + (end - at) <= width) {
            used += end - at;
            last = at;
            at = end;
            if (at < l->n) end = piece_end(l, at, hyphens);
            fm_charge(writer->run, 8 * (end - at));
        }
        if (at < l->n && end - at > width && (break_words || at == from)) {
            last = at;
            at += break_words ? broken(l, at, end - at, width - used, hyphens) : end - at;
            if (at == end && at < l->n) end = piece_end(l, at, hyphens);
        }
        size_t stop = at > from && is_blank(l, last, at) ? last : at;
        if (stop == from) continue;
        if (!first) fm_write_text(writer, between);
        first = false;
        for (size_t i = from; i < stop; i++) fm_write_point(writer, l->points[i]);
    }
}

FM_CALLABLE(filter_wordwrap) {
    const fm_text *text = fm_text_of(run, self, "what is wrapped"),
                  *between = fm_given(given[2]) ? fm_text_of(run, given[2], "wrapstring") : fm_text_borrow(run, "\n", 1);
    int64_t width = given[0].type == FM_MISSING ? 79 : fm_whole(run, given[0], "a width");
    bool options[2] = {given[1].type == FM_MISSING || fm_flag(given[1]), given[3].type == FM_MISSING || fm_flag(given[3])};
    const fm_list *lines = fm_split_lines(run, text, false);
    fm_writer writer = {.run = run};
    if (lines->n && width <= 0) fm_refuse(run, FM_EFORMAT, "invalid width %lld (must be > 0)", (long long)width);
    for (size_t i = 0; i < lines->n; i++) {
        const fm_text *one = lines->items[i].text;
        int32_t *points = fm_take_zeroed(run, (one->points + 7) * sizeof *points);
        line l = {points + 3, 0};
        for (size_t at = 0, n; at < one->bytes; at += n) points[3 + l.n++] = fm_point(one->data + at, one->bytes - at, &n);
        if (i) fm_write_text(&writer, between);
        wrap_line(&writer, &l, (size_t)width, options, between);
    }
    return fm_written_string(&writer);
}

/* ---- striptags */

/* HTML's names that need no semicolon: of the characters from 160 on, then of others with the character first. */
static const char latin_names[] =
    "nbsp iexcl cent pound curren yen brvbar sect uml copy ordf laquo not shy reg macr deg plusmn sup2 sup3 acute micro para middot "
    "cedil sup1 ordm raquo frac14 frac12 frac34 iquest Agrave Aacute Acirc Atilde Auml Aring AElig Ccedil Egrave Eacute Ecirc Euml "
    "Igrave Iacute Icirc Iuml ETH Ntilde Ograve Oacute Ocirc Otilde Ouml times Oslash Ugrave Uacute Ucirc Uuml Yacute THORN szlig "
    "agrave aacute acirc atilde auml aring aelig ccedil egrave eacute ecirc euml igrave iacute icirc iuml eth ntilde ograve oacute "
    "ocirc otilde ouml divide oslash ugrave uacute ucirc uuml yacute thorn yuml ";
static const struct {
    int32_t point;
    const char *name;
} other_names[] = {{'&', "amp"}, {'<', "lt"}, {'>', "gt"}, {'"', "quot"}, {'&', "AMP"}, {'<', "LT"}, {'>', "GT"}, {'"', "QUOT"}, {0xa9, "COPY"}, {0xae, "REG"}};

static int32_t named_point(const char *name, size_t n) {
    for (size_t i = 0; i < sizeof other_names / sizeof *other_names; i++) {
        if (strlen(other_names[i].name) == n && memcmp(other_names[i].name, name, n) == 0) return other_names[i].point;
    }
    int32_t point = 0xa0;
    for (const char *p = latin_names; *p; p = strchr(p, ' ') + 1, point++) {
        if (strcspn(p, " ") == n && memcmp(p, name, n) == 0) return point;
    }
    return 0;
}

/* &#…: what HTML has browsers show for a number. */
static void write_numbered(fm_writer *writer, uint32_t number) {
    static const uint16_t windows[] = {0x20ac, 0x81,   0x201a, 0x192,  0x201e, 0x2026, 0x2020, 0x2021, 0x2c6, 0x2030, 0x160, 0x2039, 0x152, 0x8d, 0x17d, 0x8f,
                                       0x90,   0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x2dc, 0x2122, 0x161, 0x203a, 0x153, 0x9d, 0x17e, 0x178};
    if (number >= 0x80 && number < 0xa0) {
        fm_write_point(writer, windows[number - 0x80]);
    } else if (number == 0 || number > 0x10ffff || (number >= 0xd800 && number < 0xe000)) {
        fm_write_point(writer, 0xfffd);
    } else if (number == '\t' || number == '\n' || number == '\f' || number == '\r' ||
               (number >= ' ' && number != 0x7f && (number < 0xfdd0 || number > 0xfdef) && (number & 0xfffe) != 0xfffe)) {
        fm_write_point(writer, (int32_t)number);
    }
}

/* The reference behind & at data; returns how many bytes it has, 0: it is none. */
static size_t write_reference(fm_writer *writer, const char *data, size_t bytes) {
    size_t n = 0;
    if (bytes > 1 && data[0] == '#') {
        bool hex = (data[1] | 0x20) == 'x';
        uint32_t number = 0;
        for (n = 1 + hex; n < bytes; n++) {
            char c = (char)(data[n] | 0x20);
            int digit = data[n] >= '0' && data[n] <= '9' ? data[n] - '0' : hex && c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
            if (digit < 0) break;
            if (number <= 0x10ffff) number = number * (hex ? 16 : 10) + (uint32_t)digit;
        }
        if (n == (size_t)1 + hex) return 0;
        write_numbered(writer, number);
        return n + (n < bytes && data[n] == ';');
    }
    while (n < bytes && n < 32 && ((data[n] >= '0' && data[n] <= '9') || ((data[n] | 0x20) >= 'a' && (data[n] | 0x20) <= 'z'))) n++;
    bool closed = n && n < bytes && data[n] == ';';
    int32_t point = closed ? named_point(data, n) : 0;
    if (closed && !point) fm_refuse(writer->run, FM_EUNSUPPORTED, "the character reference '&%.*s;'", (int)n, data);
    size_t used = n + closed;
    for (size_t k = n; !point && k > 1; k--) { /* the longest name that it begins with */
        point = named_point(data, k);
        used = k;
    }
    if (!point) return 0;
    fm_write_point(writer, point);
    return used;
}

FM_CALLABLE(filter_striptags) {
    const fm_text *text = fm_marked(run, fm_str(run, self), false).text;
    fm_writer bare = {.run = run}, spaced = {.run = run}, writer = {.run = run};
    size_t at = 0;
    for (const char *open; (open = memchr(text->data + at, '<', text->bytes - at));) {
        size_t from = (size_t)(open - text->data), left = text->bytes - from, end;
        bool comment = left >= 4 && memcmp(open, "<!--", 4) == 0;
        end = comment ? fm_find(open + 4, left - 4, "-->", 3) : fm_find(open, left, ">", 1);
        if (end == SIZE_MAX) break;
        fm_write(&bare, text->data + at, from - at);
        fm_charge(run, end);
        at = from + end + (comment ? 7 : 1);
    }
    fm_write(&bare, text->data + at, text->bytes - at);
    const fm_list *words = fm_split(run, fm_written(&bare), NULL, -1, false);
    for (size_t i = 0; i < words->n; i++) {
        if (i) fm_write_literal(&spaced, " ");
        fm_write_text(&spaced, words->items[i].text);
    }
    for (size_t i = 0; i < spaced.n;) {
        const char *amp = memchr(spaced.data + i, '&', spaced.n - i);
        size_t plain = (amp ? (size_t)(amp - spaced.data) : spaced.n) - i;
        fm_write(&writer, spaced.data + i, plain);
        i += plain;
        if (!amp) break;
        size_t n = write_reference(&writer, amp + 1, spaced.n - i - 1);
        if (!n) fm_write_literal(&writer, "&");
        i += 1 + n;
    }
    return fm_written_string(&writer);
}

static const fm_function filters[] = {
    {"wordwrap", filter_wordwrap, "width? break_long_words? wrapstring? break_on_hyphens?"},
    {"striptags", filter_striptags, ""},
};

fm_table fm_word_filters(void) { return (fm_table){filters, sizeof filters / sizeof *filters}; }
