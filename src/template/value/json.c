/* template/value/json.c: values as Python's json.dumps writes them. See value.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "template/value/value.h"

static void write_json_string(fm_writer *writer, const fm_text *text, bool ascii) {
    char escape[16];
    size_t from = 0; /* of what needs no escape */
    fm_write_literal(writer, "\"");
    for (size_t at = 0, n; at < text->bytes; at += n) {
        const char *named = "\"\\\n\r\t\f\b", *found;
        int32_t point = fm_point(text->data + at, text->bytes - at, &n);
        if (point && point < 0x80 && (found = strchr(named, point))) {
            snprintf(escape, sizeof escape, "\\%c", "\"\\nrtfb"[found - named]);
        } else if (point >= ' ' && (!ascii || point < 0x7f)) {
            continue;
        } else if (point < 0x10000) {
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)point);
        } else {
            snprintf(escape, sizeof escape, "\\u%04x\\u%04x", 0xd800u + ((unsigned)(point - 0x10000) >> 10), 0xdc00u + ((unsigned)point & 0x3ff));
        }
        fm_write(writer, text->data + from, at - from);
        fm_write_literal(writer, escape);
        from = at + n;
    }
    fm_write(writer, text->data + from, text->bytes - from);
    fm_write_literal(writer, "\"");
}

/* What json.dumps writes of a value that is no container; false for one that it has no form for. */
static bool write_json_plain(fm_writer *writer, fm_value value, bool ascii) {
    switch (value.type) {
    case FM_STRING: write_json_string(writer, value.text, ascii); return true;
    case FM_NONE: fm_write_literal(writer, "null"); return true;
    case FM_BOOL: fm_write_literal(writer, value.truth ? "true" : "false"); return true;
    case FM_INT: fm_write_repr(writer, value); return true;
    case FM_FLOAT:
        if (isfinite(value.real)) {
            fm_write_real(writer, value.real);
        } else {
            fm_write_literal(writer, isnan(value.real) ? "NaN" : value.real < 0 ? "-Infinity" : "Infinity");
        }
        return true;
    default: return false;
    }
}

static void write_json_line(fm_writer *writer, const fm_json_style *style, int level) {
    if (!style->indent) return;
    fm_write_literal(writer, "\n");
    fm_write_many(writer, style->indent->data, style->indent->bytes, (size_t)level);
}

static void write_json_value(fm_writer *writer, fm_value value, const fm_json_style *style, int level);

static void write_json_dict(fm_writer *writer, const fm_dict *dict, const fm_json_style *style, int level) {
    fm_run *run = writer->run;
    fm_list *order = fm_list_new(run, dict->n);
    for (size_t i = 0; i < dict->n; i++) fm_list_add(run, order, fm_pair_of(run, dict->pairs[i].key, dict->pairs[i].value));
    if (style->sort) fm_sort(run, order, NULL, false);
    fm_write_literal(writer, "{");
    for (size_t i = 0; i < order->n; i++) {
        fm_value key = order->items[i].list->items[0];
        if (i) fm_write_text(writer, style->item);
        write_json_line(writer, style, level + 1);
        if (key.type != FM_STRING) fm_write_literal(writer, "\"");
        if (!write_json_plain(writer, key, style->ascii)) fm_refuse(run, FM_EFORMAT, "keys of JSON are no %s", fm_type_name(key));
        if (key.type != FM_STRING) fm_write_literal(writer, "\"");
        fm_write_text(writer, style->colon);
        write_json_value(writer, order->items[i].list->items[1], style, level + 1);
    }
    if (dict->n) write_json_line(writer, style, level);
    fm_write_literal(writer, "}");
}

static void write_json_value(fm_writer *writer, fm_value value, const fm_json_style *style, int level) {
    fm_run *run = writer->run;
    fm_charge(run, 0);
    fm_enter(run);
    if (value.type == FM_DICT) {
        write_json_dict(writer, value.dict, style, level);
    } else if (value.type == FM_LIST || value.type == FM_TUPLE) {
        fm_write_literal(writer, "[");
        for (size_t i = 0; i < value.list->n; i++) {
            if (i) fm_write_text(writer, style->item);
            write_json_line(writer, style, level + 1);
            write_json_value(writer, value.list->items[i], style, level + 1);
        }
        if (value.list->n) write_json_line(writer, style, level);
        fm_write_literal(writer, "]");
    } else if (!write_json_plain(writer, value, style->ascii)) {
        fm_refuse(run, FM_EFORMAT, "a value of type %s is not JSON serializable", fm_type_name(value));
    }
    fm_leave(run);
}

void fm_write_json(fm_writer *writer, fm_value value, const fm_json_style *style) { write_json_value(writer, value, style, 0); }
