/* template/library/methods.c: methods of text, as Python's str has them. See library.h. */
#include <string.h>
#include <utf8proc.h>

#include "template/library/inner.h"

#define NONE ((size_t)-1)

/* What Python's Markup gives back as Markup. */
static fm_value like(fm_run *run, fm_value self, const fm_text *text) { return fm_marked(run, text, self.text->markup); }

static const fm_text *text_or_null(fm_run *run, fm_value value, const char *what) { return fm_given(value) ? fm_text_of(run, value, what) : NULL; }

/* ---- case and kinds of characters */

#define CHANGE(name, function)                                                                                                                                 \
    FM_CALLABLE(name) { return like(run, self, function(run, self.text)); }
CHANGE(text_upper, fm_upper)
CHANGE(text_lower, fm_lower)
CHANGE(text_title, fm_title)
CHANGE(text_capitalize, fm_capitalize)
CHANGE(text_swapcase, fm_swapcase)
CHANGE(text_casefold, fm_casefold)

#define KIND(name)                                                                                                                                             \
    FM_CALLABLE(text_##name) {                                                                                                                                 \
        fm_charge(run, self.text->bytes);                                                                                                                      \
        return fm_bool(fm_text_all(self.text, #name));                                                                                                         \
    }
KIND(isalnum)
KIND(isalpha)
KIND(isascii)
KIND(isdecimal)
KIND(isdigit)
KIND(islower)
KIND(isnumeric)
KIND(isspace)
KIND(istitle)
KIND(isupper)

FM_CALLABLE(text_isprintable) {
    fm_charge(run, self.text->bytes);
    for (size_t at = 0, n; at < self.text->bytes; at += n) {
        int32_t point = fm_point(self.text->data + at, self.text->bytes - at, &n);
        utf8proc_category_t c = utf8proc_category(point);
        if (point != ' ' && (c == UTF8PROC_CATEGORY_CN || (c >= UTF8PROC_CATEGORY_ZS && c <= UTF8PROC_CATEGORY_CO))) return fm_bool(false);
    }
    return fm_bool(true);
}

FM_CALLABLE(text_isidentifier) {
    fm_charge(run, self.text->bytes);
    for (size_t at = 0, n; at < self.text->bytes; at += n) {
        int32_t point = fm_point(self.text->data + at, self.text->bytes - at, &n);
        utf8proc_category_t c = utf8proc_category(point);
        bool begins = point == '_' || (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) || c == UTF8PROC_CATEGORY_NL;
        bool goes_on = c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_PC || point == 0xb7;
        if (!begins && (!at || !goes_on)) return fm_bool(false);
    }
    return fm_bool(self.text->bytes > 0);
}

/* ---- find */

/* The bytes of text between the points start and end, as Python reads bounds; false: they lie outside of it or the wrong way round. */
static bool window(fm_run *run, const fm_text *text, const fm_value *bounds, size_t *from, size_t *to) {
    int64_t n = (int64_t)text->points, at[2] = {0, n};
    for (int i = 0; i < 2; i++) {
        if (!fm_given(bounds[i])) continue;
        at[i] = fm_whole(run, bounds[i], "a bound");
        if (at[i] < 0) at[i] = at[i] < -n ? 0 : at[i] + n;
    }
    if (at[1] > n) at[1] = n;
    if (at[0] > at[1]) return false;
    *from = fm_text_at(run, text, (size_t)at[0]);
    *to = fm_text_at(run, text, (size_t)at[1]);
    fm_charge(run, *to - *from);
    return true;
}

static size_t find_last(const char *data, size_t bytes, const char *what, size_t n) {
    for (size_t at = bytes >= n ? bytes - n + 1 : 0; at-- > 0;) {
        if (memcmp(data + at, what, n) == 0) return at;
    }
    return NONE;
}

static int64_t find_point(fm_run *run, fm_value self, const fm_value *given, bool last) {
    const fm_text *text = self.text, *what = fm_text_of(run, given[0], "what is looked for");
    size_t from, to;
    if (!window(run, text, given + 1, &from, &to)) return -1;
    if (last) fm_charge(run, (to - from) * 8);
    size_t at = last ? find_last(text->data + from, to - from, what->data, what->bytes) : fm_find(text->data + from, to - from, what->data, what->bytes);
    return at == NONE ? -1 : (int64_t)fm_count_points(text->data, from + at);
}

FM_CALLABLE(text_find) { return fm_int(find_point(run, self, given, false)); }

FM_CALLABLE(text_rfind) { return fm_int(find_point(run, self, given, true)); }

FM_CALLABLE(text_index) {
    fm_value at = text_find(run, self, given, rest);
    if (at.whole < 0) fm_refuse(run, FM_EFORMAT, "substring not found");
    return at;
}

FM_CALLABLE(text_rindex) {
    fm_value at = text_rfind(run, self, given, rest);
    if (at.whole < 0) fm_refuse(run, FM_EFORMAT, "substring not found");
    return at;
}

FM_CALLABLE(text_count) {
    const fm_text *what = fm_text_of(run, given[0], "what is counted");
    size_t from, to;
    int64_t n = 0;
    if (!window(run, self.text, given + 1, &from, &to)) return fm_int(0);
    if (!what->bytes) return fm_int((int64_t)fm_count_points(self.text->data + from, to - from) + 1);
    for (size_t at; (at = fm_find(self.text->data + from, to - from, what->data, what->bytes)) != NONE; n++) from += at + what->bytes;
    return fm_int(n);
}

static bool stands_at(const char *data, size_t bytes, const fm_text *what, bool end) {
    return what->bytes <= bytes && memcmp(end ? data + bytes - what->bytes : data, what->data, what->bytes) == 0;
}

/* startswith and endswith: of one text or of any in a tuple. */
static fm_value stands(fm_run *run, fm_value self, const fm_value *given, bool end) {
    size_t from = 0, to = 0;
    bool inside = window(run, self.text, given + 1, &from, &to);
    const fm_list one = {.items = &(fm_value){0}, .n = 1}, *all = given[0].type == FM_TUPLE ? given[0].list : &one;
    one.items[0] = given[0];
    for (size_t i = 0; i < all->n; i++) {
        const fm_text *what = fm_text_of(run, all->items[i], end ? "a suffix" : "a prefix");
        fm_charge(run, 0);
        if (inside && stands_at(self.text->data + from, to - from, what, end)) return fm_bool(true);
    }
    return fm_bool(false);
}

FM_CALLABLE(text_startswith) { return stands(run, self, given, false); }

FM_CALLABLE(text_endswith) { return stands(run, self, given, true); }

/* ---- strip and replace */

FM_CALLABLE(text_strip) { return like(run, self, fm_strip(run, self.text, text_or_null(run, given[0], "strip()'s argument"), 3)); }

FM_CALLABLE(text_lstrip) { return like(run, self, fm_strip(run, self.text, text_or_null(run, given[0], "lstrip()'s argument"), 1)); }

FM_CALLABLE(text_rstrip) { return like(run, self, fm_strip(run, self.text, text_or_null(run, given[0], "rstrip()'s argument"), 2)); }

FM_CALLABLE(text_removeprefix) {
    const fm_text *text = self.text, *what = fm_text_of(run, given[0], "a prefix");
    return stands_at(text->data, text->bytes, what, false) ? fm_string(fm_text_part(run, text, what->bytes, text->bytes - what->bytes)) : self;
}

FM_CALLABLE(text_removesuffix) {
    const fm_text *text = self.text, *what = fm_text_of(run, given[0], "a suffix");
    return stands_at(text->data, text->bytes, what, true) ? fm_string(fm_text_part(run, text, 0, text->bytes - what->bytes)) : self;
}

FM_CALLABLE(text_replace) {
    const fm_text *from = fm_text_of(run, given[0], "what is replaced"), *to = fm_text_of(run, given[1], "what it is replaced with");
    if (self.text->markup) to = fm_escape(run, given[1]);
    return like(run, self, fm_replace(run, self.text, from, to, given[2].type == FM_MISSING ? -1 : fm_whole(run, given[2], "a count")));
}

/* ---- split and join */

static fm_value split(fm_run *run, fm_value self, const fm_value *given, bool from_right) {
    const fm_text *separator = text_or_null(run, given[0], "a separator");
    int64_t most = given[1].type == FM_MISSING ? -1 : fm_whole(run, given[1], "the number of splits");
    return fm_of_list(FM_LIST, fm_split(run, self.text, separator, most, from_right));
}

FM_CALLABLE(text_split) { return split(run, self, given, false); }

FM_CALLABLE(text_rsplit) { return split(run, self, given, true); }

FM_CALLABLE(text_splitlines) {
    return fm_of_list(FM_LIST, fm_split_lines(run, self.text, given[0].type != FM_MISSING && fm_whole(run, given[0], "'keepends'")));
}

static fm_value partition(fm_run *run, fm_value self, fm_value separator, bool last) {
    const fm_text *text = self.text, *what = fm_text_of(run, separator, "a separator");
    if (!what->bytes) fm_refuse(run, FM_EFORMAT, "empty separator");
    fm_charge(run, last ? text->bytes * 8 : text->bytes);
    size_t at = last ? find_last(text->data, text->bytes, what->data, what->bytes) : fm_find(text->data, text->bytes, what->data, what->bytes);
    bool found = at != NONE;
    fm_list *list = fm_list_new(run, 3);
    if (!found) at = last ? 0 : text->bytes;
    fm_list_add(run, list, fm_string(fm_text_part(run, text, 0, at)));
    fm_list_add(run, list, like(run, self, found ? what : fm_text_part(run, text, 0, 0)));
    fm_list_add(run, list, fm_string(fm_text_part(run, text, found ? at + what->bytes : at, found ? text->bytes - at - what->bytes : text->bytes - at)));
    return fm_of_list(FM_TUPLE, list);
}

FM_CALLABLE(text_partition) { return partition(run, self, given[0], false); }

FM_CALLABLE(text_rpartition) { return partition(run, self, given[0], true); }

FM_CALLABLE(text_join) {
    const fm_list *items = fm_items(run, given[0]);
    fm_writer writer = {.run = run};
    for (size_t i = 0; i < items->n; i++) {
        if (i) fm_write_text(&writer, self.text);
        fm_write_text(&writer, self.text->markup ? fm_escape(run, items->items[i]) : fm_text_of(run, items->items[i], "an item that is joined"));
    }
    return like(run, self, fm_written(&writer));
}

/* ---- widths */

/* text between `left` and `right` times the character fill (missing: a space). */
static fm_value pad(fm_run *run, fm_value self, fm_value fill, int64_t left, int64_t right) {
    fm_writer writer = {.run = run};
    const fm_text *character = fill.type == FM_MISSING ? fm_text_borrow(run, " ", 1) : fm_text_of(run, fill, "the fill character");
    if (self.text->markup) character = fm_escape(run, fm_string(character));
    if (character->points != 1) fm_refuse(run, FM_EFORMAT, "The fill character must be exactly one character long");
    if (left > 0) fm_write_many(&writer, character->data, character->bytes, (size_t)left);
    fm_write_text(&writer, self.text);
    if (right > 0) fm_write_many(&writer, character->data, character->bytes, (size_t)right);
    return like(run, self, fm_written(&writer));
}

static int64_t missing_width(fm_run *run, fm_value self, fm_value width) {
    int64_t n = fm_whole(run, width, "a width");
    return n > (int64_t)self.text->points ? n - (int64_t)self.text->points : 0;
}

FM_CALLABLE(text_center) {
    int64_t n = missing_width(run, self, given[0]), left = n / 2 + (n & given[0].whole & 1);
    return pad(run, self, given[1], left, n - left);
}

FM_CALLABLE(text_ljust) { return pad(run, self, given[1], 0, missing_width(run, self, given[0])); }

FM_CALLABLE(text_rjust) { return pad(run, self, given[1], missing_width(run, self, given[0]), 0); }

FM_CALLABLE(text_zfill) {
    fm_writer writer = {.run = run};
    int64_t n = missing_width(run, self, given[0]);
    bool sign = self.text->bytes && (self.text->data[0] == '-' || self.text->data[0] == '+');
    fm_write(&writer, self.text->data, sign);
    if (n > 0) fm_write_many(&writer, "0", 1, (size_t)n);
    fm_write(&writer, self.text->data + sign, self.text->bytes - sign);
    return like(run, self, fm_written(&writer));
}

FM_CALLABLE(text_expandtabs) {
    fm_writer writer = {.run = run};
    int64_t tab = given[0].type == FM_MISSING ? 8 : fm_whole(run, given[0], "a tab's size"), column = 0;
    for (size_t at = 0, n; at < self.text->bytes; at += n) {
        int32_t point = fm_point(self.text->data + at, self.text->bytes - at, &n);
        if (point == '\t') {
            if (tab > 0) fm_write_many(&writer, " ", 1, (size_t)(tab - column % tab));
            column = 0;
        } else {
            fm_write(&writer, self.text->data + at, n);
            column = point == '\n' || point == '\r' ? 0 : tab > 0 ? (column + 1) % tab : 0;
        }
    }
    return like(run, self, fm_written(&writer));
}

/* ---- format */

FM_CALLABLE(text_format) { return fm_format_text(run, self.text, rest); }

FM_CALLABLE(text_format_map) {
    if (given[0].type != FM_DICT) fm_refuse(run, FM_EFORMAT, "format_map() takes a mapping, not a value of type %s", fm_type_name(given[0]));
    const fm_dict *dict = given[0].dict;
    fm_arguments arguments = {.names = fm_take(run, (dict->n + 1) * sizeof *arguments.names), .named = fm_take(run, (dict->n + 1) * sizeof *arguments.named)};
    for (size_t i = 0; i < dict->n; i++) {
        if (dict->pairs[i].key.type != FM_STRING) continue; /* a field's name is a string */
        arguments.names[arguments.n_named] = dict->pairs[i].key.text;
        arguments.named[arguments.n_named++] = dict->pairs[i].value;
    }
    return fm_format_text(run, self.text, &arguments);
}

static const fm_function methods[] = {
    {"startswith", text_startswith, "/prefix start? end?"},
    {"endswith", text_endswith, "/suffix start? end?"},
    {"strip", text_strip, "/chars?"},
    {"lstrip", text_lstrip, "/chars?"},
    {"rstrip", text_rstrip, "/chars?"},
    {"split", text_split, "sep? maxsplit?"},
    {"rsplit", text_rsplit, "sep? maxsplit?"},
    {"replace", text_replace, "/old new count?"},
    {"upper", text_upper, ""},
    {"lower", text_lower, ""},
    {"title", text_title, ""},
    {"capitalize", text_capitalize, ""},
    {"swapcase", text_swapcase, ""},
    {"casefold", text_casefold, ""},
    {"join", text_join, "/iterable"},
    {"find", text_find, "/sub start? end?"},
    {"rfind", text_rfind, "/sub start? end?"},
    {"index", text_index, "/sub start? end?"},
    {"rindex", text_rindex, "/sub start? end?"},
    {"count", text_count, "/sub start? end?"},
    {"splitlines", text_splitlines, "keepends?"},
    {"partition", text_partition, "/sep"},
    {"rpartition", text_rpartition, "/sep"},
    {"removeprefix", text_removeprefix, "/prefix"},
    {"removesuffix", text_removesuffix, "/suffix"},
    {"center", text_center, "/width fillchar?"},
    {"ljust", text_ljust, "/width fillchar?"},
    {"rjust", text_rjust, "/width fillchar?"},
    {"zfill", text_zfill, "/width"},
    {"expandtabs", text_expandtabs, "tabsize?"},
    {"format", text_format, "*"},
    {"format_map", text_format_map, "/mapping"},
    {"isalnum", text_isalnum, ""},
    {"isalpha", text_isalpha, ""},
    {"isascii", text_isascii, ""},
    {"isdecimal", text_isdecimal, ""},
    {"isdigit", text_isdigit, ""},
    {"isidentifier", text_isidentifier, ""},
    {"islower", text_islower, ""},
    {"isnumeric", text_isnumeric, ""},
    {"isprintable", text_isprintable, ""},
    {"isspace", text_isspace, ""},
    {"istitle", text_istitle, ""},
    {"isupper", text_isupper, ""},
};

fm_table fm_text_methods(void) { return (fm_table){methods, sizeof methods / sizeof *methods}; }
