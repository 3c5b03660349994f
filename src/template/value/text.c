/* template/value/text.c: Python's operations on strings of Unicode: classes of characters, case, strip, find, replace, split. See value.h. */
#include <string.h>
#include <utf8proc.h>

#include "template/value/value.h"

int32_t fm_point(const char *data, size_t bytes, size_t *length) {
    const uint8_t *p = (const uint8_t *)data;
    *length = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (*length > bytes) *length = bytes; /* it is valid: this does not happen */
    if (*length == 1) return p[0];
    int32_t point = p[0] & (0xff >> (*length + 1));
    for (size_t i = 1; i < *length; i++) point = point << 6 | (p[i] & 0x3f);
    return point;
}

int32_t fm_point_before(const char *data, size_t end, size_t *length) {
    size_t at = end - 1;
    while (at > 0 && ((uint8_t)data[at] & 0xc0) == 0x80) at--;
    return fm_point(data + at, end - at, length);
}

bool fm_point_is_space(int32_t c) {
    if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static bool is_alpha(int32_t c) {
    utf8proc_category_t k = utf8proc_category(c);
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

/* Letters that are numbers: of Chinese. */
static bool is_numeral(int32_t c) {
    static const int32_t numerals[] = {
        0x3405,  0x3483,  0x382a,  0x3b4d,  0x4e00,  0x4e03,  0x4e07,  0x4e09,  0x4e5d,  0x4e8c,  0x4e94,  0x4e96,  0x4ebf, 0x4ec0, 0x4edf,  0x4ee8,  0x4f0d,
        0x4f70,  0x5104,  0x5146,  0x5169,  0x516b,  0x516d,  0x5341,  0x5343,  0x5344,  0x5345,  0x534c,  0x53c1,  0x53c2, 0x53c3, 0x53c4,  0x56db,  0x58f1,
        0x58f9,  0x5e7a,  0x5efe,  0x5eff,  0x5f0c,  0x5f0d,  0x5f0e,  0x5f10,  0x62fe,  0x634c,  0x67d2,  0x6f06,  0x7396, 0x767e, 0x8086,  0x842c,  0x8cae,
        0x8cb3,  0x8d30,  0x9621,  0x9646,  0x964c,  0x9678,  0x96f6,  0xf96b,  0xf973,  0xf978,  0xf9b2,  0xf9d1,  0xf9d3, 0xf9fd, 0x20001, 0x20064, 0x200e2,
        0x20121, 0x2092a, 0x20983, 0x2098c, 0x2099c, 0x20aea, 0x20afd, 0x20b19, 0x22390, 0x22998, 0x23b1b, 0x2626d, 0x2f890};
    for (size_t i = 0; i < sizeof numerals / sizeof *numerals; i++) {
        if (c == numerals[i]) return true;
    }
    return false;
}

static bool is_numeric(int32_t c) {
    utf8proc_category_t k = utf8proc_category(c);
    return (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO) || (k == UTF8PROC_CATEGORY_LO && is_numeral(c));
}

/* Superscripts and the like: digits, though not decimal. */
static bool is_digit(int32_t c) {
    return utf8proc_category(c) == UTF8PROC_CATEGORY_ND || c == 0xb2 || c == 0xb3 || c == 0xb9 || (c >= 0x1369 && c <= 0x1371) || c == 0x19da || c == 0x2070 ||
           (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) || (c >= 0x2460 && c <= 0x2468) || (c >= 0x2474 && c <= 0x247c) ||
           (c >= 0x2488 && c <= 0x2490) || c == 0x24ea || (c >= 0x24f5 && c <= 0x24fd) || c == 0x24ff || (c >= 0x2776 && c <= 0x277e) ||
           (c >= 0x2780 && c <= 0x2788) || (c >= 0x278a && c <= 0x2792) || (c >= 0x10a40 && c <= 0x10a43) || (c >= 0x10e60 && c <= 0x10e68) ||
           (c >= 0x11052 && c <= 0x1105a) || (c >= 0x1f100 && c <= 0x1f10a);
}

bool fm_point_is_word(int32_t c) { return c == '_' || is_alpha(c) || is_numeric(c); }

static bool is_upper(int32_t c) {
    return utf8proc_category(c) == UTF8PROC_CATEGORY_LU || (c >= 0x2160 && c <= 0x216f) || (c >= 0x24b6 && c <= 0x24cf) || (c >= 0x1f130 && c <= 0x1f149) ||
           (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}
static bool is_title(int32_t c) { return utf8proc_category(c) == UTF8PROC_CATEGORY_LT; }
static bool is_lower(int32_t c) { return utf8proc_islower(c) || c == 0xaa || c == 0xba; }
static bool is_cased(int32_t c) { return is_upper(c) || is_lower(c) || is_title(c); }

static bool is_ignorable(int32_t c) {
    utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_SK ||
           (c < 0x80 ? c && strchr("'.:", c) != NULL : c == 0xb7 || c == 0x2018 || c == 0x2019 || c == 0x2024 || c == 0x2027);
}

/* ---- case. Where a character's capital is several, they are the capitals of its folded form (ß: ss: SS). */

static void write_capital(fm_writer *writer, int32_t c, bool title) {
    int32_t simple = title ? utf8proc_totitle(c) : utf8proc_toupper(c), folded[8];
    int n = 1;
    if (title && c == 0x149) { /* the one whose title form has its capital in the second place */
        fm_write_literal(writer, "\xca\xbcN");
        return;
    }
    if (c >= 0x80 && (simple == c || !title || c == 0xdf) && !is_upper(c) && !(title && is_title(c)))
        n = (int)utf8proc_decompose_char(c, folded, 8, UTF8PROC_CASEFOLD, NULL);
    if (n < 2 || n > 8) {
        fm_write_point(writer, simple);
        return;
    }
    bool greek = title && c >= 0x1f80 && c < 0x2000; /* its small iota goes below the capital */
    for (int i = 0; i < n; i++) fm_write_point(writer, greek && i && folded[i] == 0x3b9 ? 0x345 : i && title ? folded[i] : utf8proc_toupper(folded[i]));
}

/* A capital sigma is a final one behind a letter and before none. */
static bool is_final(const fm_text *text, size_t at) {
    size_t n, end = at + 2;
    int32_t c = 0;
    bool before = false;
    while (at > 0) {
        c = fm_point_before(text->data, at, &n);
        at -= n;
        if (!is_ignorable(c)) {
            before = is_cased(c);
            break;
        }
    }
    for (; before && end < text->bytes; end += n) {
        c = fm_point(text->data + end, text->bytes - end, &n);
        if (!is_ignorable(c)) return !is_cased(c);
    }
    return before;
}

static void write_small(fm_writer *writer, const fm_text *text, size_t at, int32_t c) {
    if (c == 0x3a3) {
        fm_write_point(writer, is_final(text, at) ? 0x3c2 : 0x3c3);
    } else if (c == 0x130) {
        fm_write_literal(writer, "i\xcc\x87");
    } else {
        fm_write_point(writer, utf8proc_tolower(c));
    }
}

typedef enum fm_case { UPPER, LOWER, TITLE, CAPITALIZE, SWAP, FOLD } fm_case;

static const fm_text *change_case(fm_run *run, const fm_text *text, fm_case how) {
    fm_writer writer = {.run = run};
    bool in_word = false;
    fm_charge(run, text->bytes * 4);
    for (size_t at = 0, n; at < text->bytes; at += n) {
        int32_t c = fm_point(text->data + at, text->bytes - at, &n), folded[8];
        if (how == FOLD) {
            int k = (int)utf8proc_decompose_char(c, folded, 8, UTF8PROC_CASEFOLD, NULL);
            for (int i = 0; i < k && i < 8; i++) fm_write_point(&writer, folded[i]);
        } else if (how == UPPER || (how == SWAP && is_lower(c))) {
            write_capital(&writer, c, false);
        } else if (how == LOWER || in_word || (how == SWAP && is_upper(c))) {
            write_small(&writer, text, at, c);
        } else if (how == SWAP) {
            fm_write(&writer, text->data + at, n);
        } else {
            write_capital(&writer, c, true);
        }
        in_word = (how == CAPITALIZE) || (how == TITLE && is_cased(c));
    }
    fm_text *changed = fm_take(run, sizeof *changed);
    *changed = *fm_written(&writer);
    changed->markup = text->markup;
    return changed;
}

const fm_text *fm_upper(fm_run *run, const fm_text *text) { return change_case(run, text, UPPER); }
const fm_text *fm_lower(fm_run *run, const fm_text *text) { return change_case(run, text, LOWER); }
const fm_text *fm_title(fm_run *run, const fm_text *text) { return change_case(run, text, TITLE); }
const fm_text *fm_capitalize(fm_run *run, const fm_text *text) { return change_case(run, text, CAPITALIZE); }
const fm_text *fm_swapcase(fm_run *run, const fm_text *text) { return change_case(run, text, SWAP); }
const fm_text *fm_casefold(fm_run *run, const fm_text *text) { return change_case(run, text, FOLD); }

/* islower, isupper and istitle: some cased characters, and none of the wrong kind. */
static bool all_case(const fm_text *text, const char *kind) {
    bool found = false, in_word = false, title = strcmp(kind, "istitle") == 0, lower = strcmp(kind, "islower") == 0;
    for (size_t at = 0, n; at < text->bytes; at += n) {
        int32_t c = fm_point(text->data + at, text->bytes - at, &n);
        bool small = is_lower(c), capital = is_upper(c), titled = is_title(c);
        if (title ? ((capital || titled) && in_word) || (small && !in_word) : titled || (lower ? capital : small)) return false;
        in_word = small || capital || titled;
        found |= in_word;
    }
    return found;
}

bool fm_text_all(const fm_text *text, const char *kind) {
    bool letters = strcmp(kind, "isalpha") == 0, both = strcmp(kind, "isalnum") == 0, decimal = strcmp(kind, "isdecimal") == 0;
    bool digit = strcmp(kind, "isdigit") == 0, numeric = strcmp(kind, "isnumeric") == 0, space = strcmp(kind, "isspace") == 0;
    bool ascii = strcmp(kind, "isascii") == 0;
    if (ascii) return text->bytes == text->points;
    if (!letters && !both && !decimal && !digit && !numeric && !space) return all_case(text, kind);
    for (size_t at = 0, n; at < text->bytes; at += n) {
        int32_t c = fm_point(text->data + at, text->bytes - at, &n);
        bool ok = (letters || both) && is_alpha(c);
        ok |= !ok && (both || numeric) && is_numeric(c);
        ok |= decimal && utf8proc_category(c) == UTF8PROC_CATEGORY_ND;
        ok |= (digit && is_digit(c)) || (space && fm_point_is_space(c));
        if (!ok) return false;
    }
    return text->bytes > 0;
}

/* ---- strip, find, replace */

static bool among(int32_t c, const fm_text *chars) {
    if (!chars) return fm_point_is_space(c);
    for (size_t at = 0, n; at < chars->bytes; at += n) {
        if (fm_point(chars->data + at, chars->bytes - at, &n) == c) return true;
    }
    return false;
}

const fm_text *fm_strip(fm_run *run, const fm_text *text, const fm_text *chars, int sides) {
    size_t from = 0, to = text->bytes, n;
    while (sides & 1 && from < to && among(fm_point(text->data + from, to - from, &n), chars)) {
        from += n;
        if (chars) fm_charge(run, chars->bytes);
    }
    while (sides & 2 && from < to && among(fm_point_before(text->data, to, &n), chars)) {
        to -= n;
        if (chars) fm_charge(run, chars->bytes);
    }
    return fm_text_part(run, text, from, to - from);
}

size_t fm_find(const char *data, size_t bytes, const char *what, size_t n) {
    if (!n) return 0;
    const char *found = bytes >= n ? memmem(data, bytes, what, n) : NULL;
    return found ? (size_t)(found - data) : SIZE_MAX;
}

const fm_text *fm_replace(fm_run *run, const fm_text *text, const fm_text *from, const fm_text *to, int64_t most) {
    fm_writer writer = {.run = run};
    size_t at = 0, n;
    fm_charge(run, text->bytes);
    if (most < 0) most = INT64_MAX;
    if (!from->bytes) { /* before each point and at the end */
        for (; most > 0; most--) {
            fm_write_text(&writer, to);
            if (at == text->bytes) return fm_written(&writer);
            fm_point(text->data + at, text->bytes - at, &n);
            fm_write(&writer, text->data + at, n);
            at += n;
        }
    }
    for (; most > 0; most--) {
        size_t found = fm_find(text->data + at, text->bytes - at, from->data, from->bytes);
        if (found == SIZE_MAX) break;
        fm_write(&writer, text->data + at, found);
        fm_write_text(&writer, to);
        at += found + from->bytes;
    }
    fm_write(&writer, text->data + at, text->bytes - at);
    return fm_written(&writer);
}

/* ---- split */

static void add_part(fm_run *run, fm_list *list, const fm_text *text, size_t from, size_t to) {
    fm_list_add(run, list, fm_string(fm_text_part(run, text, from, to - from)));
}

static void reverse_list(fm_list *list) {
    for (size_t i = 0; i < list->n / 2; i++) {
        fm_value t = list->items[i];
        list->items[i] = list->items[list->n - 1 - i];
        list->items[list->n - 1 - i] = t;
    }
}

static void split_at_spaces(fm_run *run, fm_list *list, const fm_text *text, int64_t most) {
    size_t at = 0, n;
    for (;; most--) {
        while (at < text->bytes && fm_point_is_space(fm_point(text->data + at, text->bytes - at, &n))) at += n;
        if (at == text->bytes) return;
        if (most == 0) break;
        size_t from = at;
        while (at < text->bytes && !fm_point_is_space(fm_point(text->data + at, text->bytes - at, &n))) at += n;
        add_part(run, list, text, from, at);
    }
    add_part(run, list, text, at, text->bytes); /* the rest as it is, to its last space */
}

static void split_at_spaces_from_right(fm_run *run, fm_list *list, const fm_text *text, int64_t most) {
    size_t end = text->bytes, n;
    for (;; most--) {
        while (end > 0 && fm_point_is_space(fm_point_before(text->data, end, &n))) end -= n;
        if (end == 0) return;
        if (most == 0) break;
        size_t to = end;
        while (end > 0 && !fm_point_is_space(fm_point_before(text->data, end, &n))) end -= n;
        add_part(run, list, text, end, to);
    }
    add_part(run, list, text, 0, end);
}

fm_list *fm_split(fm_run *run, const fm_text *text, const fm_text *separator, int64_t most, bool from_right) {
    fm_list *list = fm_list_new(run, 0);
    size_t at = 0, end = text->bytes;
    fm_charge(run, text->bytes);
    if (most < 0) most = INT64_MAX;
    if (separator && !separator->bytes) fm_refuse(run, FM_EFORMAT, "empty separator");
    if (!separator) {
        if (from_right) {
            split_at_spaces_from_right(run, list, text, most);
            reverse_list(list);
        } else {
            split_at_spaces(run, list, text, most);
        }
        return list;
    }
    if (from_right) {
        for (size_t from = end; most > 0 && from >= separator->bytes; from--) {
            size_t found = from - separator->bytes;
            if (memcmp(text->data + found, separator->data, separator->bytes) != 0) continue;
            add_part(run, list, text, from, end);
            end = found;
            from = found + 1;
            most--;
        }
        add_part(run, list, text, 0, end);
        reverse_list(list);
        return list;
    }
    for (; most > 0; most--) {
        size_t found = fm_find(text->data + at, end - at, separator->data, separator->bytes);
        if (found == SIZE_MAX) break;
        add_part(run, list, text, at, at + found);
        at += found + separator->bytes;
    }
    add_part(run, list, text, at, end);
    return list;
}

fm_list *fm_split_lines(fm_run *run, const fm_text *text, bool keep) {
    fm_list *list = fm_list_new(run, 0);
    size_t from = 0;
    fm_charge(run, text->bytes);
    for (size_t at = 0, n; at < text->bytes; at += n) {
        int32_t c = fm_point(text->data + at, text->bytes - at, &n);
        if (!((c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029)) continue;
        size_t to = at;
        if (c == '\r' && at + 1 < text->bytes && text->data[at + 1] == '\n') n = 2;
        add_part(run, list, text, from, keep ? at + n : to);
        from = at + n;
    }
    if (from < text->bytes) add_part(run, list, text, from, text->bytes);
    return list;
}
