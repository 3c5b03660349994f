/* template/filters/text.c: filters of text. See library.h. */
#include <string.h>

#include "template/filters/filters.h"

static fm_value plain(fm_run *run, const fm_text *text) { return fm_marked(run, text, false); }

/* A number of the arguments, or what it is when left out. */
static int64_t number_or(fm_run *run, fm_value value, int64_t otherwise, const char *what) {
    return value.type == FM_MISSING ? otherwise : fm_whole(run, value, what);
}

#define CHANGE(name, function)                                                                                                                                 \
    FM_CALLABLE(name) {                                                                                                                                        \
        const fm_text *text = fm_str(run, self);                                                                                                               \
        return fm_marked(run, function(run, text), text->markup);                                                                                              \
    }
CHANGE(filter_upper, fm_upper)
CHANGE(filter_lower, fm_lower)
CHANGE(filter_capitalize, fm_capitalize)

FM_CALLABLE(filter_trim) { return fm_string(fm_strip(run, fm_str(run, self), fm_given(given[0]) ? fm_text_of(run, given[0], "what is trimmed") : NULL, 3)); }

static bool splits_words(int32_t point) { return fm_point_is_space(point) || (point < 0x80 && point && strchr("-({[<", point) != NULL); }

FM_CALLABLE(filter_title) {
    const fm_text *text = plain(run, fm_str(run, self)).text;
    fm_writer writer = {.run = run};
    for (size_t at = 0, n; at < text->bytes;) {
        int32_t point = fm_point(text->data + at, text->bytes - at, &n);
        if (splits_words(point)) {
            fm_write(&writer, text->data + at, n);
            at += n;
            continue;
        }
        size_t end = at + n, length;
        while (end < text->bytes && !splits_words(fm_point(text->data + end, text->bytes - end, &length))) end += length;
        fm_write_text(&writer, fm_upper(run, fm_text_part(run, text, at, n)));
        fm_write_text(&writer, fm_lower(run, fm_text_part(run, text, at + n, end - at - n)));
        at = end;
    }
    return fm_written_string(&writer);
}

FM_CALLABLE(filter_replace) {
    int64_t most = fm_given(given[2]) ? fm_whole(run, given[2], "a count") : -1;
    return plain(run, fm_replace(run, fm_str(run, self), fm_str(run, given[0]), fm_str(run, given[1]), most));
}

FM_CALLABLE(filter_center) {
    const fm_text *text = fm_str(run, self);
    int64_t width = number_or(run, given[0], 80, "a width"), n = width - (int64_t)text->points, left;
    fm_writer writer = {.run = run};
    if (n <= 0) return fm_string(text);
    left = n / 2 + (n & width & 1);
    fm_write_many(&writer, " ", 1, (size_t)left);
    fm_write_text(&writer, text);
    fm_write_many(&writer, " ", 1, (size_t)(n - left));
    return fm_marked(run, fm_written(&writer), text->markup);
}

FM_CALLABLE(filter_indent) {
    const fm_text *text = fm_text_of(run, self, "what is indented"), *indent;
    bool first = fm_flag(given[1]), blank = fm_flag(given[2]);
    fm_writer spaces = {.run = run}, writer = {.run = run}, ended = {.run = run};
    if (given[0].type == FM_STRING) {
        indent = given[0].text;
    } else {
        int64_t width = number_or(run, given[0], 4, "an indent's width");
        if (width > 0) fm_write_many(&spaces, " ", 1, (size_t)width);
        indent = fm_written(&spaces);
    }
    fm_write_text(&ended, text); /* a line's end, so that the last line is one whatever it is */
    fm_write_literal(&ended, "\n");
    const fm_list *lines = fm_split_lines(run, fm_written(&ended), false);
    for (size_t i = 0; i < lines->n; i++) {
        const fm_text *line = lines->items[i].text;
        if (i) fm_write_literal(&writer, "\n");
        if (i ? blank || line->bytes : first) fm_write_text(&writer, indent);
        fm_write_text(&writer, line);
    }
    return fm_marked(run, fm_written(&writer), text->markup);
}

FM_CALLABLE(filter_truncate) {
    size_t length;
    int64_t most = number_or(run, given[0], 255, "a length"), leeway = fm_given(given[3]) ? fm_whole(run, given[3], "a leeway") : 5;
    const fm_text *end = given[2].type == FM_MISSING ? fm_text_borrow(run, "...", 3) : fm_text_of(run, given[2], "what a truncated text ends with");
    if (most < (int64_t)end->points) fm_refuse(run, FM_EFORMAT, "expected length >= %zu, got %lld", end->points, (long long)most);
    if (leeway < 0) fm_refuse(run, FM_EFORMAT, "expected leeway >= 0, got %lld", (long long)leeway);
    if (fm_has_length(self, &length) && (leeway > INT64_MAX - most || (int64_t)length <= most + leeway)) return self;
    const fm_text *text = fm_text_of(run, self, "what is truncated"), *part = fm_text_part(run, text, 0, fm_text_at(run, text, (size_t)most - end->points));
    if (!fm_flag(given[1])) part = fm_split(run, part, fm_text_borrow(run, " ", 1), 1, true)->items[0].text;
    return fm_arithmetic(run, '+', fm_string(part), fm_string(end));
}

FM_CALLABLE(filter_wordcount) {
    const fm_text *text = fm_str(run, self);
    int64_t words = 0;
    bool in_word = false;
    fm_charge(run, text->bytes * 4);
    for (size_t at = 0, n; at < text->bytes; at += n) {
        bool word = fm_point_is_word(fm_point(text->data + at, text->bytes - at, &n));
        words += word && !in_word;
        in_word = word;
    }
    return fm_int(words);
}

FM_CALLABLE(filter_format) {
    const fm_text *text = fm_str(run, self);
    fm_list *values = fm_list_new(run, rest->n);
    if (rest->n && rest->n_named) fm_refuse(run, FM_EFORMAT, "can't handle positional and keyword arguments at the same time");
    const fm_arguments named = {.names = rest->names, .named = rest->named, .n_named = rest->n_named};
    if (rest->n_named) return fm_percent(run, text, fm_of_dict(FM_DICT, fm_make_dict(run, &named)));
    for (size_t i = 0; i < rest->n; i++) fm_list_add(run, values, rest->values[i]);
    return fm_percent(run, text, fm_of_list(FM_TUPLE, values));
}

/* ---- URLs and XML */

static void write_quoted(fm_writer *writer, const fm_text *text, bool query) {
    for (size_t i = 0; i < text->bytes; i++) {
        unsigned char c = (unsigned char)text->data[i];
        bool plain_letter = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
        if (plain_letter || (c && strchr("_.-~", c)) || (c == '/' && !query)) {
            fm_write(writer, text->data + i, 1);
        } else if (c == ' ' && query) {
            fm_write_literal(writer, "+");
        } else {
            const char *digits = "0123456789ABCDEF", escape[3] = {'%', digits[c >> 4], digits[c & 15]};
            fm_write(writer, escape, 3);
        }
    }
}

FM_CALLABLE(filter_urlencode) {
    fm_writer writer = {.run = run};
    if (self.type == FM_STRING || !fm_is_iterable(self)) {
        write_quoted(&writer, fm_str(run, self), false);
        return fm_written_string(&writer);
    }
    const fm_list *pairs = fm_items(run, self.type == FM_DICT ? fm_of_dict(FM_ITEMS, self.dict) : self);
    for (size_t i = 0; i < pairs->n; i++) {
        const fm_list *pair = fm_items(run, pairs->items[i]);
        if (pair->n != 2) fm_refuse(run, FM_EFORMAT, "urlencode takes pairs, and item %zu has %zu values", i, pair->n);
        if (i) fm_write_literal(&writer, "&");
        write_quoted(&writer, fm_str(run, pair->items[0]), true);
        fm_write_literal(&writer, "=");
        write_quoted(&writer, fm_str(run, pair->items[1]), true);
    }
    return fm_written_string(&writer);
}

FM_CALLABLE(filter_xmlattr) {
    fm_writer writer = {.run = run};
    bool space = given[0].type == FM_MISSING || fm_flag(given[0]);
    if (self.type == FM_UNDEFINED) fm_refuse_use(run, self);
    if (self.type != FM_DICT) fm_refuse(run, FM_EFORMAT, "xmlattr takes a mapping, not a value of type %s", fm_type_name(self));
    for (size_t i = 0; i < self.dict->n; i++) {
        fm_value value = self.dict->pairs[i].value;
        if (value.type == FM_NONE || value.type == FM_UNDEFINED) continue;
        const fm_text *key = fm_text_of(run, self.dict->pairs[i].key, "an attribute's name");
        for (size_t k = 0; k < key->bytes; k++) {
            if (key->data[k] && strchr(" \t\n\r\f\v/>=", key->data[k])) fm_refuse(run, FM_EFORMAT, "Invalid character in attribute name");
        }
        if (writer.n || space) fm_write_literal(&writer, " ");
        fm_write_text(&writer, fm_escape(run, fm_string(key)));
        fm_write_literal(&writer, "=\"");
        fm_write_text(&writer, fm_escape(run, value));
        fm_write_literal(&writer, "\"");
    }
    return fm_written_string(&writer);
}

static const fm_function filters[] = {
    {"trim", filter_trim, "chars?"},
    {"upper", filter_upper, ""},
    {"lower", filter_lower, ""},
    {"capitalize", filter_capitalize, ""},
    {"title", filter_title, ""},
    {"replace", filter_replace, "old new count?"},
    {"indent", filter_indent, "width? first? blank?"},
    {"format", filter_format, "*"},
    {"center", filter_center, "width?"},
    {"truncate", filter_truncate, "length? killwords? end? leeway?"},
    {"wordcount", filter_wordcount, ""},
    {"urlencode", filter_urlencode, ""},
    {"xmlattr", filter_xmlattr, "autospace?"},
};

fm_table fm_text_filters(void) { return (fm_table){filters, sizeof filters / sizeof *filters}; }
