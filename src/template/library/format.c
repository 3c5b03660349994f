/* template/library/format.c: Python's % of text, str.format, and the numbers that both write. See value.h. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "template/library/library.h"

#define MOST_DIGITS 1000 /* of a precision */

/* ---- numbers */

/* C's printf with a point whatever the locale. */
static size_t print_real(char *out, size_t size, double real, char kind, int precision, bool alternate) {
    const char format[] = {'%', alternate ? '#' : '.', alternate ? '.' : '*', alternate ? '*' : kind, alternate ? kind : 0, 0};
    int n = snprintf(out, size, format, precision, real);
    for (int i = 0; i < n; i++) {
        if (!strchr("0123456789+-eE", out[i])) out[i] = '.';
    }
    return (size_t)n;
}

void fm_format_real(fm_writer *writer, double real, char kind, int precision, bool alternate) {
    char text[MOST_DIGITS + 400];
    bool upper = kind >= 'A' && kind <= 'Z';
    if (precision > MOST_DIGITS) fm_refuse(writer->run, FM_EFULL, "a precision of more than %d digits", MOST_DIGITS);
    if (isnan(real)) {
        fm_write_literal(writer, upper ? "NAN" : "nan");
    } else if (isinf(real)) {
        fm_write_literal(writer, upper ? (real < 0 ? "-INF" : "INF") : (real < 0 ? "-inf" : "inf"));
    } else {
        fm_write(writer, text, print_real(text, sizeof text, real, kind, precision < 0 ? 6 : precision, alternate));
    }
}

/* How a field is to be written; both languages have these, with their own letters for them. */
typedef struct spec {
    const char *fill;
    size_t fill_bytes;
    char align, sign, group, kind; /* 0: not given */
    bool alternate, zero, no_negative_zero;
    int64_t width, precision; /* -1: not given */
} spec;

/* Text with its padding; n_prefix bytes of it (a sign, 0x) stay before what '=' fills in. */
static void write_padded(fm_writer *writer, const spec *s, const char *text, size_t bytes, size_t n_prefix) {
    int64_t missing = s->width - (int64_t)fm_count_points(text, bytes), left = 0;
    const char *fill = s->fill ? s->fill : " ";
    size_t fill_bytes = s->fill ? s->fill_bytes : 1;
    if (missing < 0) missing = 0;
    if (s->align == '>' || s->align == '=') left = missing;
    if (s->align == '^') left = missing / 2;
    if (s->align == '=') fm_write(writer, text, n_prefix);
    if (s->align != '=') n_prefix = 0;
    fm_write_many(writer, fill, fill_bytes, (size_t)left);
    fm_write(writer, text + n_prefix, bytes - n_prefix);
    fm_write_many(writer, fill, fill_bytes, (size_t)(missing - left));
}

/* The digits of a whole number in a base, with a separator between each `each`; at least `least` digits and separators. */
static void write_digits(fm_writer *writer, const char *digits, size_t n, const spec *s, int64_t least) {
    size_t each = s->kind == 'b' || s->kind == 'o' || s->kind == 'x' || s->kind == 'X' ? 4 : 3;
    int64_t wide = (int64_t)n;
    if (!s->group) {
        if (least > wide) fm_write_many(writer, "0", 1, (size_t)(least - wide));
        fm_write(writer, digits, n);
        return;
    }
    int64_t zeros = 0; /* added one by one until it is wide enough; a separator never comes first */
    while (wide + zeros + (wide + zeros - 1) / (int64_t)each < least) {
        fm_charge(writer->run, 0);
        zeros++;
    }
    for (int64_t left = wide + zeros; left > 0; left--) {
        fm_write(writer, left > wide ? "0" : digits + (wide - left), 1);
        if (left > 1 && (left - 1) % (int64_t)each == 0) fm_write(writer, &s->group, 1);
    }
}

static size_t digits_of(uint64_t number, unsigned base, bool upper, char out[64]) {
    char reversed[64];
    size_t n = 0;
    do {
        reversed[n++] = (upper ? "0123456789ABCDEF" : "0123456789abcdef")[number % base];
        number /= base;
    } while (number);
    for (size_t i = 0; i < n; i++) out[i] = reversed[n - 1 - i];
    return n;
}

static char sign_of(bool negative, char sign) { return negative ? '-' : sign == '+' || sign == ' ' ? sign : 0; }

/* What all numbers end in: sign and prefix, digits, the rest (a fraction, an exponent) and padding. */
static void write_number(fm_writer *writer, const spec *s, const char *prefix, const char *digits, size_t n_digits, const char *rest, size_t n_rest) {
    fm_writer text = {.run = writer->run};
    spec with = *s;
    size_t n_prefix = strlen(prefix);
    bool zeros = s->align == '=' && s->fill && s->fill_bytes == 1 && *s->fill == '0'; /* they are grouped as digits are */
    if (s->width > (int64_t)writer->run->left.memory) fm_refuse(writer->run, FM_EFULL, "it takes more memory than a template may");
    fm_write(&text, prefix, n_prefix);
    write_digits(&text, digits, n_digits, s, zeros ? s->width - (int64_t)n_prefix - (int64_t)n_rest : 0);
    fm_write(&text, rest, n_rest);
    if (!with.align) with.align = '>';
    write_padded(writer, &with, text.data, text.n, n_prefix);
}

/* kind: d, b, o, x, X. precision: digits at least (of % only). */
static void write_whole(fm_writer *writer, const spec *s, int64_t number) {
    char digits[64], prefix[4] = {0}, padded[MOST_DIGITS];
    unsigned base = s->kind == 'b' ? 2 : s->kind == 'o' ? 8 : s->kind == 'x' || s->kind == 'X' ? 16 : 10;
    size_t n = digits_of(number < 0 ? -(uint64_t)number : (uint64_t)number, base, s->kind == 'X', digits), at = 0;
    char sign = sign_of(number < 0, s->sign);
    if (sign) prefix[at++] = sign;
    if (s->alternate && base != 10) {
        prefix[at++] = '0';
        prefix[at] = s->kind;
    }
    if (s->precision > (int64_t)n) {
        if (s->precision > MOST_DIGITS) fm_refuse(writer->run, FM_EFULL, "a precision of more than %d digits", MOST_DIGITS);
        memset(padded, '0', (size_t)s->precision - n);
        memcpy(padded + s->precision - n, digits, n);
        write_number(writer, s, prefix, padded, (size_t)s->precision, "", 0);
        return;
    }
    write_number(writer, s, prefix, digits, n, "", 0);
}

/* A float without a kind but with a precision: as 'g', but it stays a float to look at. */
static void write_general(fm_writer *text, double real, int precision, bool alternate) {
    char e[MOST_DIGITS + 400];
    if (precision == 0) precision = 1;
    print_real(e, sizeof e, real, 'e', precision - 1, false);
    int exponent = atoi(strchr(e, 'e') + 1);
    if (exponent == precision - 1 && exponent >= -4) { /* 'g' has no digit to spare for the fraction: it is written with an exponent */
        char *end = strchr(e, 'e');
        size_t n = (size_t)(end - e);
        while (!alternate && memchr(e, '.', n) && (e[n - 1] == '0' || e[n - 1] == '.')) n -= 1;
        fm_write(text, e, n);
        fm_write_literal(text, end);
        return;
    }
    size_t from = text->n;
    fm_format_real(text, real, 'g', precision, alternate);
    if (!memchr(text->data + from, '.', text->n - from) && !memchr(text->data + from, 'e', text->n - from)) fm_write_literal(text, ".0");
}

/* kind: e f g E F G %, or 0. */
static void write_real(fm_writer *writer, const spec *s, double real) {
    fm_writer text = {.run = writer->run};
    int precision = s->precision > MOST_DIGITS ? MOST_DIGITS + 1 : (int)s->precision;
    char kind = s->kind == 'n' ? 'g' : s->kind, prefix[2] = {0};
    double size = fabs(real);
    if (precision > MOST_DIGITS) fm_refuse(writer->run, FM_EFULL, "a precision of more than %d digits", MOST_DIGITS);
    if (!isfinite(size) || (kind && kind != '%')) {
        fm_format_real(&text, size, kind && kind != '%' ? kind : 'f', precision, s->alternate);
        if (kind == '%') fm_write_literal(&text, "%");
    } else if (kind == '%') {
        fm_format_real(&text, size * 100, 'f', precision, s->alternate);
        fm_write_literal(&text, "%");
    } else if (precision >= 0) {
        write_general(&text, size, precision, s->alternate);
    } else {
        fm_write_real(&text, size);
    }
    bool negative = signbit(real) && !isnan(real);
    if (s->no_negative_zero && isfinite(real)) {
        bool zero = true;
        for (size_t i = 0; i < text.n && text.data[i] != 'e' && text.data[i] != 'E'; i++) zero &= text.data[i] < '1' || text.data[i] > '9';
        negative &= !zero;
    }
    prefix[0] = sign_of(negative, s->sign);
    size_t n = 0;
    while (n < text.n && text.data[n] >= '0' && text.data[n] <= '9') n++;
    write_number(writer, s, prefix, text.data, n, text.data + n, text.n - n);
}

static void write_character(fm_writer *writer, int64_t point) {
    if (point < 0 || point > 0x10ffff) fm_refuse(writer->run, FM_EFORMAT, "%%c arg not in range(0x110000)");
    if (point >= 0xd800 && point < 0xe000) fm_refuse(writer->run, FM_EUNSUPPORTED, "half of a surrogate pair");
    fm_write_point(writer, (int32_t)point);
}

/* repr() with escapes for what is not ASCII. */
static void write_ascii(fm_writer *writer, fm_value value) {
    fm_writer plain = {.run = writer->run};
    char escape[12];
    fm_write_repr(&plain, value);
    for (size_t at = 0, n; at < plain.n; at += n) {
        unsigned point = (unsigned)fm_point(plain.data + at, plain.n - at, &n);
        snprintf(escape, sizeof escape, point < 0x100 ? "\\x%02x" : point < 0x10000 ? "\\u%04x" : "\\U%08x", point);
        if (point < 0x80) fm_write(writer, plain.data + at, 1);
        if (point >= 0x80) fm_write_literal(writer, escape);
    }
}

/* ---- % */

typedef struct percent {
    fm_run *run;
    const fm_text *format;
    size_t at;
    fm_value arguments;
    size_t used; /* of a tuple; of another value: 1 when it is used */
    bool mapping;
} percent;

static fm_value next_argument(percent *p) {
    if (p->arguments.type == FM_TUPLE) {
        if (p->used < p->arguments.list->n) return p->arguments.list->items[p->used++];
    } else if (!p->used++) {
        return p->arguments;
    }
    fm_refuse(p->run, FM_EFORMAT, "not enough arguments for format string");
}

static char next_char(percent *p) {
    if (p->at >= p->format->bytes) fm_refuse(p->run, FM_EFORMAT, "incomplete format");
    return p->format->data[p->at++];
}

/* A number of digits from text, which ends with c, the character behind them. */
static int64_t read_number(fm_run *run, const char *data, size_t bytes, size_t *at) {
    int64_t number = 0;
    for (; *at < bytes && data[*at] >= '0' && data[*at] <= '9'; ++*at) {
        number = number * 10 + data[*at] - '0';
        if (number > INT_MAX) fm_refuse(run, FM_EFORMAT, "Too many decimal digits in format string");
    }
    return number;
}

/* A width or precision: digits, or '*' for an argument. */
static int64_t percent_number(percent *p) {
    if (p->at < p->format->bytes && p->format->data[p->at] == '*') {
        p->at++;
        int64_t number = fm_whole(p->run, next_argument(p), "*");
        if (number > INT_MAX || number < -INT_MAX) fm_refuse(p->run, FM_EFORMAT, "a width or precision is too large");
        return number;
    }
    return read_number(p->run, p->format->data, p->format->bytes, &p->at);
}

/* %(key): the argument of that name is the only one. */
static void percent_key(percent *p) {
    size_t from = p->at, depth = 1;
    if (p->mapping && p->arguments.type != FM_DICT) fm_refuse(p->run, FM_EFORMAT, "format requires a mapping that can be looked up by names");
    if (!p->mapping) fm_refuse(p->run, FM_EFORMAT, "format requires a mapping");
    while (depth) {
        char c = p->at < p->format->bytes ? p->format->data[p->at++] : 0;
        if (!c) fm_refuse(p->run, FM_EFORMAT, "incomplete format key");
        depth += (c == '(') - (c == ')');
    }
    const fm_text *key = fm_text_part(p->run, p->format, from, p->at - 1 - from);
    const fm_value *found = fm_dict_find_text(p->arguments.dict, key);
    if (!found) fm_refuse(p->run, FM_EFORMAT, "format has a key that the mapping has not: '%.*s'", (int)key->bytes, key->data);
    fm_list *one = fm_list_new(p->run, 1);
    fm_list_add(p->run, one, *found);
    p->arguments = fm_of_list(FM_TUPLE, one);
    p->used = 0;
}

static void percent_text(percent *p, fm_writer *writer, const spec *s, fm_value value) {
    fm_writer text = {.run = p->run};
    if (s->kind == 'c') {
        if (value.type == FM_STRING && value.text->points != 1) fm_refuse(p->run, FM_EFORMAT, "%%c requires int or char");
        if (value.type == FM_STRING) fm_write_text(&text, value.text);
        if (value.type != FM_STRING) write_character(&text, fm_whole(p->run, value, "%c"));
    } else if (s->kind == 'r') {
        fm_write_repr(&text, value);
    } else if (s->kind == 'a') {
        write_ascii(&text, value);
    } else {
        fm_write_str(&text, value);
    }
    const fm_text *written = fm_written(&text);
    if (p->format->markup) written = fm_escape(p->run, s->kind == 's' && value.type == FM_STRING ? value : fm_string(written));
    size_t bytes = s->precision >= 0 && s->kind != 'c' ? fm_text_at(p->run, written, (size_t)s->precision) : written->bytes;
    write_padded(writer, s, written->data, bytes, 0);
}

static void percent_field(percent *p, fm_writer *writer, spec *s, fm_value value) {
    fm_run *run = p->run;
    char *align = &s->align;
    bool left = *align == '<';
    int64_t whole;
    if (!left) *align = '>';
    if (strchr("srac", s->kind)) {
        percent_text(p, writer, s, value);
        return;
    }
    if (value.type == FM_UNDEFINED) fm_refuse_use(run, value);
    if (!fm_is_number(value)) fm_refuse(run, FM_EFORMAT, "%%%c format: a real number is required, not %s", s->kind, fm_type_name(value));
    if (s->zero && !left) {
        *align = '=';
        s->fill = "0";
        s->fill_bytes = 1;
    }
    if (strchr("eEfFgG", s->kind)) {
        write_real(writer, s, fm_to_double(value));
        return;
    }
    if (s->kind == 'i' || s->kind == 'u') s->kind = 'd';
    if (value.type == FM_FLOAT) {
        if (s->kind != 'd') fm_refuse(run, FM_EFORMAT, "%%%c format: an integer is required, not float", s->kind);
        if (!(value.real < 9223372036854775808.0 && value.real >= -9223372036854775808.0)) fm_refuse(run, FM_EUNSUPPORTED, "a whole number beyond 64 bits");
        value = fm_int((int64_t)value.real);
    }
    fm_as_whole(value, &whole);
    write_whole(writer, s, whole);
}

fm_value fm_percent(fm_run *run, const fm_text *format, fm_value arguments) {
    fm_writer writer = {.run = run};
    percent p = {.run = run, .format = format, .arguments = arguments};
    p.mapping = arguments.type == FM_DICT || arguments.type == FM_LIST || arguments.type == FM_RANGE || arguments.type == FM_UNDEFINED;
    while (p.at < format->bytes) {
        const char *next = memchr(format->data + p.at, '%', format->bytes - p.at);
        size_t plain = next ? (size_t)(next - format->data) - p.at : format->bytes - p.at;
        fm_write(&writer, format->data + p.at, plain);
        p.at += plain;
        if (!next) break;
        p.at++;
        fm_charge(run, 0);
        spec s = {.precision = -1};
        char c = next_char(&p);
        if (c == '%') {
            fm_write_literal(&writer, "%");
            continue;
        }
        if (c == '(') {
            if (p.mapping) p.arguments = arguments;
            percent_key(&p);
            c = next_char(&p);
        }
        for (; strchr("-+ #0", c); c = next_char(&p)) {
            if (c == '-') s.align = '<';
            if (c == '+' || (c == ' ' && !s.sign)) s.sign = c;
            s.alternate |= c == '#';
            s.zero |= c == '0';
        }
        p.at--;
        s.width = percent_number(&p);
        if (s.width < 0) {
            s.align = '<';
            s.width = -s.width;
        }
        c = next_char(&p);
        if (c == '.') {
            s.precision = percent_number(&p);
            if (s.precision < 0) s.precision = 0;
            c = next_char(&p);
        }
        if (c == 'h' || c == 'l' || c == 'L') c = next_char(&p);
        s.kind = c;
        if (!c || !strchr("sradiuoxXeEfFgGc", c)) fm_refuse(run, FM_EFORMAT, "unsupported format character '%c'", (unsigned char)c < 0x80 && c ? c : '?');
        percent_field(&p, &writer, &s, next_argument(&p));
    }
    size_t n = arguments.type == FM_TUPLE ? arguments.list->n : 1;
    if (!p.mapping && p.used < n) fm_refuse(run, FM_EFORMAT, "not all arguments converted during string formatting");
    fm_text *text = fm_take(run, sizeof *text);
    *text = *fm_written(&writer);
    text->markup = format->markup;
    return fm_string(text);
}

/* ---- str.format, as the sandbox has it: attributes and items are looked up as templates do */

typedef struct fields {
    fm_run *run;
    const fm_arguments *arguments;
    bool markup;
    int64_t next; /* of fields without a name; -1: they have numbers */
} fields;

static bool is_align(char c) { return c == '<' || c == '>' || c == '^' || c == '='; }

/* [[fill]align][sign][z][#][0][width][grouping][.precision][kind] */
static spec parse_spec(fm_run *run, const fm_text *text, bool number) {
    spec s = {.precision = -1};
    const char *data = text->data;
    size_t at = 0, n = text->bytes, first = 0;
    if (n) fm_point(data, n, &first);
    if (first < n && is_align(data[first])) {
        s.fill = data;
        s.fill_bytes = first;
        s.align = data[first];
        at = first + 1;
    } else if (n && is_align(data[0])) {
        s.align = data[at++];
    }
    if (at < n && (data[at] == '+' || data[at] == '-' || data[at] == ' ')) s.sign = data[at++];
    if (at < n && data[at] == 'z') s.no_negative_zero = data[at++];
    if (at < n && data[at] == '#') s.alternate = data[at++];
    if (at < n && data[at] == '0' && !s.fill) {
        s.fill = data + at++;
        s.fill_bytes = 1;
        if (!s.align && number) s.align = '=';
    }
    s.width = read_number(run, data, n, &at);
    if (at < n && (data[at] == ',' || data[at] == '_')) s.group = data[at++];
    if (at < n && data[at] == '.') {
        size_t from = ++at;
        s.precision = read_number(run, data, n, &at);
        if (at == from) fm_refuse(run, FM_EFORMAT, "Format specifier missing precision");
    }
    if (at < n) s.kind = data[at++];
    if (at < n) fm_refuse(run, FM_EFORMAT, "Invalid format specifier '%.*s'", (int)(n < 100 ? n : 100), data);
    return s;
}

static void format_text(fm_writer *writer, spec *s, const fm_text *text) {
    fm_run *run = writer->run;
    if (s->kind && s->kind != 's') fm_refuse(run, FM_EFORMAT, "Unknown format code '%c' for object of type 'str'", s->kind > 0 ? s->kind : '?');
    if (s->align == '=' || s->sign || s->alternate || s->group || s->no_negative_zero)
        fm_refuse(run, FM_EFORMAT, "this format of a string is for numbers only");
    write_padded(writer, s, text->data, s->precision >= 0 ? fm_text_at(run, text, (size_t)s->precision) : text->bytes, 0);
}

static void format_number(fm_writer *writer, spec *s, fm_value value) {
    fm_run *run = writer->run;
    int64_t whole = 0;
    bool is_whole = fm_as_whole(value, &whole), as_real = s->kind && strchr("eEfFgG%", s->kind);
    if (s->kind && !strchr(is_whole ? "bcdoxXneEfFgG%" : "eEfFgGn%", s->kind)) {
        fm_refuse(run, FM_EFORMAT, "Unknown format code '%c' for object of type '%s'", s->kind > 0 ? s->kind : '?', fm_type_name(value));
    }
    if (s->group && s->kind && (strchr("cn", s->kind) || (s->group == ',' && strchr("boxX", s->kind))))
        fm_refuse(run, FM_EFORMAT, "Cannot specify '%c' with '%c'.", s->group, s->kind);
    if (!is_whole || as_real) {
        write_real(writer, s, fm_to_double(value));
        return;
    }
    if (s->precision >= 0) fm_refuse(run, FM_EFORMAT, "Precision not allowed in integer format specifier");
    if (s->no_negative_zero) fm_refuse(run, FM_EFORMAT, "Negative zero coercion (z) not allowed in format specifier with integer");
    if (s->kind == 'c') {
        fm_writer text = {.run = run};
        if (s->sign || s->alternate) fm_refuse(run, FM_EFORMAT, "Sign or alternate form not allowed with integer format specifier 'c'");
        write_character(&text, whole);
        if (!s->align) s->align = '>';
        write_padded(writer, s, text.data, text.n, 0);
        return;
    }
    write_whole(writer, s, whole);
}

/* format(value, spec), escaped in text that is markup. */
static void format_value(fields *f, fm_writer *writer, fm_value value, const fm_text *how) {
    fm_run *run = f->run;
    fm_writer text = {.run = run};
    bool number = fm_is_number(value);
    if (f->markup && value.type == FM_STRING && value.text->markup) {
        if (how->bytes) fm_refuse(run, FM_EFORMAT, "Unsupported format specification for Markup.");
        fm_write_text(writer, value.text);
        return;
    }
    if (!how->bytes) {
        fm_write_str(&text, value);
    } else if (number || value.type == FM_STRING) {
        spec s = parse_spec(run, how, number);
        if (number) format_number(&text, &s, value);
        if (!number) format_text(&text, &s, value.text);
    } else {
        fm_refuse(run, FM_EFORMAT, "unsupported format string passed to %s.__format__", fm_type_name(value));
    }
    const fm_text *written = fm_written(&text);
    fm_write_text(writer, f->markup ? fm_escape(run, fm_string(written)) : written);
}

static bool all_digits(const char *data, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (data[i] < '0' || data[i] > '9') return false;
    }
    return n > 0;
}

static fm_value find_argument(fields *f, const char *name, size_t n) {
    const fm_arguments *arguments = f->arguments;
    size_t at = 0;
    if (all_digits(name, n)) {
        int64_t number = read_number(f->run, name, n, &at);
        if ((size_t)number < arguments->n) return arguments->values[number];
        fm_refuse(f->run, FM_EFORMAT, "Replacement index %lld out of range for positional args tuple", (long long)number);
    }
    for (size_t i = arguments->n_named; i-- > 0;) {
        if (arguments->names[i]->bytes == n && memcmp(arguments->names[i]->data, name, n) == 0) return arguments->named[i];
    }
    fm_refuse(f->run, FM_EFORMAT, "format() has no argument '%.*s'", (int)(n < 100 ? n : 100), name);
}

/* A field's name: an argument, then .attributes and [items]. */
static fm_value find_field(fields *f, const char *name, size_t n) {
    char number[24];
    size_t first = 0, end;
    bool is_number = all_digits(name, n);
    if ((!n && f->next < 0) || (is_number && f->next > 0)) fm_refuse(f->run, FM_EFORMAT, "cannot switch between manual and automatic field numbering");
    if (!n) {
        snprintf(number, sizeof number, "%lld", (long long)f->next++);
        return find_argument(f, number, strlen(number));
    }
    if (is_number) f->next = -1;
    while (first < n && name[first] != '.' && name[first] != '[') first++;
    fm_value value = find_argument(f, name, first);
    for (size_t at = first; at < n; at = end) {
        bool item = name[at] == '[';
        if (!item && name[at] != '.') fm_refuse(f->run, FM_EFORMAT, "Only '.' or '[' may follow ']' in format field specifier");
        for (end = ++at; end < n && (item ? name[end] != ']' : name[end] != '.' && name[end] != '['); end++) continue;
        if (item && end == n) fm_refuse(f->run, FM_EFORMAT, "Missing ']' in format string");
        if (end == at) fm_refuse(f->run, FM_EFORMAT, "Empty attribute in format string");
        size_t digit = 0;
        const fm_text *key = fm_text_copy(f->run, name + at, end - at);
        if (!item) {
            value = fm_attribute(f->run, value, key);
        } else {
            value = fm_item(f->run, value, all_digits(key->data, key->bytes) ? fm_int(read_number(f->run, key->data, key->bytes, &digit)) : fm_string(key));
        }
        end += item;
    }
    return value;
}

static void format_fields(fields *f, fm_writer *writer, const fm_text *format, int depth);

/* What stands between { and }. */
static void format_field(fields *f, fm_writer *writer, const fm_text *format, size_t from, size_t to, int depth) {
    const char *data = format->data;
    size_t end = from;
    for (bool in_item = false; end < to && (in_item || (data[end] != '!' && data[end] != ':')); end++) {
        if (data[end] == '[') in_item = true;
        if (data[end] == ']') in_item = false;
        if (data[end] == '{' && !in_item) fm_refuse(f->run, FM_EFORMAT, "unexpected '{' in field name");
    }
    fm_value value = find_field(f, data + from, end - from);
    if (end < to && data[end] == '!') {
        fm_writer text = {.run = f->run};
        char conversion = end + 1 < to ? data[end + 1] : 0;
        if (end + 2 < to && data[end + 2] != ':') fm_refuse(f->run, FM_EFORMAT, "expected ':' after conversion specifier");
        if (conversion != 's' && conversion != 'r' && conversion != 'a') fm_refuse(f->run, FM_EFORMAT, "Unknown conversion specifier in a format");
        if (conversion == 'r') fm_write_repr(&text, value);
        if (conversion == 's') fm_write_str(&text, value);
        if (conversion == 'a') write_ascii(&text, value);
        value = fm_written_string(&text);
        end += 2;
    }
    fm_writer how = {.run = f->run};
    if (end < to) format_fields(f, &how, fm_text_part(f->run, format, end + 1, to - end - 1), depth - 1);
    format_value(f, writer, value, fm_written(&how));
}

static void format_fields(fields *f, fm_writer *writer, const fm_text *format, int depth) {
    const char *data = format->data;
    size_t n = format->bytes;
    if (depth < 0) fm_refuse(f->run, FM_EFORMAT, "Max string recursion exceeded");
    for (size_t at = 0; at < n;) {
        size_t end = at;
        while (end < n && data[end] != '{' && data[end] != '}') end++;
        fm_write(writer, data + at, end - at);
        if (end == n) return;
        if (end + 1 < n && data[end + 1] == data[end]) {
            fm_write(writer, data + end, 1);
            at = end + 2;
            continue;
        }
        if (data[end] == '}' || end + 1 == n) fm_refuse(f->run, FM_EFORMAT, "Single '%c' encountered in format string", data[end]);
        size_t from = end + 1, close = from;
        for (int nesting = 1; close < n; close++) {
            nesting += (data[close] == '{') - (data[close] == '}');
            if (!nesting) break;
        }
        if (close == n) fm_refuse(f->run, FM_EFORMAT, "expected '}' before end of string");
        fm_charge(f->run, 0);
        format_field(f, writer, format, from, close, depth);
        at = close + 1;
    }
}

fm_value fm_format_text(fm_run *run, const fm_text *format, const fm_arguments *arguments) {
    fm_writer writer = {.run = run};
    fields f = {.run = run, .arguments = arguments, .markup = format->markup};
    format_fields(&f, &writer, format, 1);
    fm_text *text = fm_take(run, sizeof *text);
    *text = *fm_written(&writer);
    text->markup = format->markup;
    return fm_string(text);
}
