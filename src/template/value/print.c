/* template/value/print.c: values as Python's str() and repr() write them, and escaped for HTML. See value.h. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "template/value/value.h"

/* printf's digits with a point whatever the locale. */
static size_t print_digits(char *out, size_t size, int precision, double real) {
    int n = snprintf(out, size, "%.*e", precision, real);
    for (int i = 0; i < n; i++) {
        if (!strchr("0123456789+-e", out[i])) out[i] = '.';
    }
    return (size_t)n;
}

static bool gives(const char *e, size_t length, double real) {
    double back;
    return fm_parse_real(e, length, &back) && back == real;
}

/* The shortest digits with an exponent that give `real` again. */
static void print_shortest(char *e, size_t size, double real) {
    for (int precision = real < 0x1p-1022 ? 0 : 14; precision < 16; precision++) { /* the smallest numbers have fewer digits */
        if (gives(e, print_digits(e, size, precision, real), real)) return;
    }
    size_t length = strlen(e), last = (size_t)(strchr(e, 'e') - e) - 1;
    for (; last > 0 && (e[last] == '9' || e[last] == '.'); last--) {
        if (e[last] == '9') e[last] = '0';
    }
    e[last]++; /* above a power of two the next 16 digits may do where the nearest do not */
    if (e[last] <= '9' && gives(e, length, real)) return;
    print_digits(e, size, 16, real);
}

/* As Python's repr. */
void fm_write_real(fm_writer *writer, double real) {
    char e[40], digits[20];
    if (isnan(real)) {
        fm_write_literal(writer, "nan");
        return;
    }
    if (signbit(real)) fm_write_literal(writer, "-");
    real = fabs(real);
    if (isinf(real)) {
        fm_write_literal(writer, "inf");
        return;
    }
    print_shortest(e, sizeof e, real);
    int n = 0, exponent = atoi(strchr(e, 'e') + 1);
    for (const char *c = e; *c != 'e'; c++) {
        if (*c != '.') digits[n++] = *c;
    }
    while (n > 1 && digits[n - 1] == '0') n--;
    if (exponent < -4 || exponent >= 16) {
        char tail[16];
        fm_write(writer, digits, 1);
        if (n > 1) fm_write_literal(writer, ".");
        fm_write(writer, digits + 1, (size_t)n - 1);
        snprintf(tail, sizeof tail, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        fm_write_literal(writer, tail);
    } else if (exponent < 0) {
        fm_write(writer, "0.0000", (size_t)(1 - exponent));
        fm_write(writer, digits, (size_t)n);
    } else {
        for (int i = 0; i <= exponent || i < n; i++) {
            if (i == exponent + 1) fm_write_literal(writer, ".");
            fm_write(writer, i < n ? digits + i : "0", 1);
        }
        if (n <= exponent + 1) fm_write_literal(writer, ".0");
    }
}

static bool printable(int32_t point) {
    utf8proc_category_t c = utf8proc_category(point);
    return point == ' ' || !(c == UTF8PROC_CATEGORY_CN || (c >= UTF8PROC_CATEGORY_ZS && c <= UTF8PROC_CATEGORY_CO));
}

static void write_quoted(fm_writer *writer, const fm_text *text) {
    char quote = memchr(text->data, '\'', text->bytes) && !memchr(text->data, '"', text->bytes) ? '"' : '\'', escape[12];
    if (text->markup) fm_write_literal(writer, "Markup(");
    fm_write(writer, &quote, 1);
    for (size_t at = 0, n; at < text->bytes; at += n) {
        int32_t point = fm_point(text->data + at, text->bytes - at, &n);
        if (point == quote || point == '\\') {
            snprintf(escape, sizeof escape, "\\%c", (char)point);
        } else if (point == '\n' || point == '\r' || point == '\t') {
            snprintf(escape, sizeof escape, "\\%c", point == '\n' ? 'n' : point == '\r' ? 'r' : 't');
        } else if (point < 0x7f ? point >= ' ' : printable(point)) {
            fm_write(writer, text->data + at, n);
            continue;
        } else {
            snprintf(escape, sizeof escape, point < 0x100 ? "\\x%02x" : point < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)point);
        }
        fm_write_literal(writer, escape);
    }
    fm_write(writer, &quote, 1);
    if (text->markup) fm_write_literal(writer, ")");
}

static void write_items(fm_writer *writer, const fm_list *list, const char *open, const char *close) {
    fm_write_literal(writer, open);
    for (size_t i = 0; i < list->n; i++) {
        if (i) fm_write_literal(writer, ", ");
        fm_write_repr(writer, list->items[i]);
    }
    fm_write_literal(writer, close);
}

static void write_dict(fm_writer *writer, const fm_dict *dict) {
    fm_write_literal(writer, "{");
    for (size_t i = 0; i < dict->n; i++) {
        if (i) fm_write_literal(writer, ", ");
        fm_write_repr(writer, dict->pairs[i].key);
        fm_write_literal(writer, ": ");
        fm_write_repr(writer, dict->pairs[i].value);
    }
    fm_write_literal(writer, "}");
}

static void write_number(fm_writer *writer, const char *format, int64_t number) {
    char digits[40];
    snprintf(digits, sizeof digits, format, (long long)number);
    fm_write_literal(writer, digits);
}

static void write_object(fm_writer *writer, fm_value value) {
    fm_run *run = writer->run;
    switch (value.type) {
    case FM_RANGE:
        write_number(writer, "range(%lld", value.range->start);
        write_number(writer, ", %lld", value.range->stop);
        if (value.range->step != 1) write_number(writer, ", %lld", value.range->step);
        fm_write_literal(writer, ")");
        break;
    case FM_NAMESPACE:
        fm_write_literal(writer, "<Namespace ");
        write_dict(writer, value.dict);
        fm_write_literal(writer, ">");
        break;
    case FM_MACRO:
        fm_write_literal(writer, "<Macro ");
        if (value.macro->name) write_quoted(writer, value.macro->name);
        fm_write_literal(writer, value.macro->name ? ">" : "anonymous>");
        break;
    case FM_LOOP:
        while (value.loop->more && value.loop->more(run, value.loop)) continue;
        write_number(writer, "<LoopContext %lld", (int64_t)value.loop->index + 1);
        write_number(writer, "/%lld>", (int64_t)value.loop->n);
        break;
    default: fm_refuse(run, FM_EUNSUPPORTED, "a %s has no text of its own", fm_type_name(value));
    }
}

void fm_write_repr(fm_writer *writer, fm_value value) {
    fm_run *run = writer->run;
    fm_charge(run, 0);
    fm_enter(run);
    switch (value.type) {
    case FM_MISSING:
    case FM_UNDEFINED: fm_write_literal(writer, "Undefined"); break;
    case FM_NONE: fm_write_literal(writer, "None"); break;
    case FM_BOOL: fm_write_literal(writer, value.truth ? "True" : "False"); break;
    case FM_INT: write_number(writer, "%lld", value.whole); break;
    case FM_FLOAT: fm_write_real(writer, value.real); break;
    case FM_STRING: write_quoted(writer, value.text); break;
    case FM_LIST: write_items(writer, value.list, "[", "]"); break;
    case FM_TUPLE: write_items(writer, value.list, "(", value.list->n == 1 ? ",)" : ")"); break;
    case FM_DICT: write_dict(writer, value.dict); break;
    case FM_KEYS: write_items(writer, fm_items(run, value), "dict_keys([", "])"); break;
    case FM_VALUES: write_items(writer, fm_items(run, value), "dict_values([", "])"); break;
    case FM_ITEMS: write_items(writer, fm_items(run, value), "dict_items([", "])"); break;
    default: write_object(writer, value);
    }
    fm_leave(run);
}

void fm_write_str(fm_writer *writer, fm_value value) {
    if (value.type == FM_STRING) {
        fm_write_text(writer, value.text);
    } else if (value.type != FM_UNDEFINED) {
        fm_write_repr(writer, value);
    }
}

const fm_text *fm_str(fm_run *run, fm_value value) {
    fm_writer writer = {.run = run};
    if (value.type == FM_STRING) return value.text;
    fm_write_str(&writer, value);
    return fm_written(&writer);
}

const fm_text *fm_escape(fm_run *run, fm_value value) {
    fm_writer writer = {.run = run};
    const fm_text *text = fm_str(run, value);
    if (text->markup) return text;
    for (size_t i = 0; i < text->bytes; i++) {
        switch (text->data[i]) {
        case '&': fm_write_literal(&writer, "&amp;"); break;
        case '<': fm_write_literal(&writer, "&lt;"); break;
        case '>': fm_write_literal(&writer, "&gt;"); break;
        case '"': fm_write_literal(&writer, "&#34;"); break;
        case '\'': fm_write_literal(&writer, "&#39;"); break;
        default: fm_write(&writer, text->data + i, 1);
        }
    }
    fm_text *escaped = fm_take(run, sizeof *escaped);
    *escaped = *fm_written(&writer);
    escaped->markup = true;
    return escaped;
}
