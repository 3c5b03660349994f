/* template/filters/pretty.c: the filter pprint: Python's pprint.pformat, of 80 columns. See library.h. */
#include <string.h>

#include "template/filters/filters.h"

#define WIDTH 80

typedef struct printer {
    fm_writer out;
    fm_run *run;
} printer;

/* value with its mappings in the order of their keys, where numbers come before strings as the names of their types do. */
static fm_value sorted(fm_run *run, fm_value value) {
    fm_enter(run);
    if (value.type == FM_LIST || (value.type == FM_TUPLE && !value.list->group)) {
        fm_list *list = fm_list_new(run, value.list->n);
        for (size_t i = 0; i < value.list->n; i++) fm_list_add(run, list, sorted(run, value.list->items[i]));
        value = fm_of_list(value.type, list);
    } else if (value.type == FM_DICT) {
        fm_list *pairs = fm_items(run, fm_of_dict(FM_ITEMS, value.dict)), *keys = fm_list_new(run, pairs->n);
        fm_dict *dict = fm_dict_new(run);
        for (size_t i = 0; i < pairs->n; i++) {
            fm_value key = pairs->items[i].list->items[0];
            fm_list_add(run, keys, fm_pair_of(run, fm_string_of(run, fm_is_number(key) ? "int" : fm_type_name(key)), key));
        }
        fm_sort(run, pairs, keys, false);
        for (size_t i = 0; i < pairs->n; i++) fm_dict_set(run, dict, pairs->items[i].list->items[0], sorted(run, pairs->items[i].list->items[1]));
        value = fm_of_dict(FM_DICT, dict);
    }
    fm_leave(run);
    return value;
}

static const fm_text *repr(fm_run *run, fm_value value) {
    fm_writer writer = {.run = run};
    fm_write_repr(&writer, value);
    return fm_written(&writer);
}

static void new_line(printer *p, int64_t indent) {
    fm_write_literal(&p->out, "\n");
    if (indent > 0) fm_write_many(&p->out, " ", 1, (size_t)indent);
}

static void print(printer *p, fm_value value, int64_t indent, int64_t allowance, bool top);

static void print_items(printer *p, const fm_list *list, int64_t indent, int64_t allowance) {
    for (size_t i = 0; i < list->n; i++) {
        bool last = i + 1 == list->n;
        if (i) {
            fm_write_literal(&p->out, ",");
            new_line(p, indent + 1);
        }
        print(p, list->items[i], indent + 1, last ? allowance : 1, false);
    }
}

static void print_dict(printer *p, const fm_dict *dict, int64_t indent, int64_t allowance) {
    for (size_t i = 0; i < dict->n; i++) {
        const fm_text *key = repr(p->run, dict->pairs[i].key);
        if (i) {
            fm_write_literal(&p->out, ",");
            new_line(p, indent + 1);
        }
        fm_write_text(&p->out, key);
        fm_write_literal(&p->out, ": ");
        print(p, dict->pairs[i].value, indent + 3 + (int64_t)key->points, i + 1 == dict->n ? allowance : 1, false);
    }
}

/* The words of a line, each with the spaces behind it, as many to a piece as fit; the last piece of all leaves `allowance`. */
static void add_words(fm_run *run, fm_list *pieces, const fm_text *line, int64_t width, int64_t allowance) {
    size_t from = 0;
    for (size_t at = 0, n; at < line->bytes;) {
        size_t word = at;
        while (at < line->bytes && !fm_point_is_space(fm_point(line->data + at, line->bytes - at, &n))) at += n;
        while (at < line->bytes && fm_point_is_space(fm_point(line->data + at, line->bytes - at, &n))) at += n;
        if (at == line->bytes) width -= allowance;
        bool fits = (int64_t)repr(run, fm_string(fm_text_part(run, line, from, at - from)))->points <= width;
        if (!fits && word > from) fm_list_add(run, pieces, fm_string(repr(run, fm_string(fm_text_part(run, line, from, word - from)))));
        if (!fits) from = word;
    }
    if (from < line->bytes) fm_list_add(run, pieces, fm_string(repr(run, fm_string(fm_text_part(run, line, from, line->bytes - from)))));
}

static void print_text(printer *p, const fm_text *text, int64_t indent, int64_t allowance, bool top) {
    fm_run *run = p->run;
    const fm_list *lines = fm_split_lines(run, text, true);
    fm_list *pieces = fm_list_new(run, 0);
    indent += top;
    allowance += top;
    for (size_t i = 0; i < lines->n; i++) {
        const fm_text *whole = repr(run, lines->items[i]);
        int64_t rest = i + 1 == lines->n ? allowance : 0;
        if ((int64_t)whole->points <= WIDTH - indent - rest) {
            fm_list_add(run, pieces, fm_string(whole));
        } else {
            add_words(run, pieces, lines->items[i].text, WIDTH - indent, rest);
        }
    }
    bool parentheses = top && pieces->n > 1;
    if (parentheses) fm_write_literal(&p->out, "(");
    for (size_t i = 0; i < pieces->n; i++) {
        if (i) new_line(p, indent);
        fm_write_text(&p->out, pieces->items[i].text);
    }
    if (parentheses) fm_write_literal(&p->out, ")");
}

/* allowance: columns that what follows on the last line takes. */
static void print(printer *p, fm_value value, int64_t indent, int64_t allowance, bool top) {
    const fm_text *whole = repr(p->run, value);
    bool plain_text = value.type == FM_STRING && !value.text->markup && value.text->bytes;
    if ((int64_t)whole->points <= WIDTH - indent - allowance) {
        fm_write_text(&p->out, whole);
    } else if (plain_text) {
        print_text(p, value.text, indent, allowance, top);
    } else if (value.type == FM_DICT) {
        fm_write_literal(&p->out, "{");
        print_dict(p, value.dict, indent, allowance + 1);
        fm_write_literal(&p->out, "}");
    } else if (value.type == FM_LIST || (value.type == FM_TUPLE && !value.list->group)) {
        const char *end = value.type == FM_LIST ? "]" : value.list->n == 1 ? ",)" : ")";
        fm_write_literal(&p->out, value.type == FM_LIST ? "[" : "(");
        print_items(p, value.list, indent, allowance + (int64_t)strlen(end));
        fm_write_literal(&p->out, end);
    } else {
        fm_write_text(&p->out, whole);
    }
}

fm_value fm_pretty(fm_run *run, fm_value value) {
    printer p = {.out = {.run = run}, .run = run};
    print(&p, sorted(run, value), 0, 0, true);
    return fm_written_string(&p.out);
}
