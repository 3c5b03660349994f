/* template/filters/numbers.c: filters that make or change numbers. See library.h. */
#include <math.h>
#include <string.h>
#include <utf8proc.h>

#include "template/filters/filters.h"

/* ---- reading numbers */

static int digit_of(char c) {
    char lower = (char)(c | 0x20);
    return c >= '0' && c <= '9' ? c - '0' : lower >= 'a' && lower <= 'z' ? lower - 'a' + 10 : 99;
}

/* text without spaces around it and without the underscores between two digits of base, in *out; false: another underscore, or nothing is left. Refuses digits beyond ASCII: Python reads them. */
static bool plain_number(fm_run *run, const fm_text *text, int base, const fm_text **out) {
    fm_writer writer = {.run = run};
    text = fm_strip(run, text, NULL, 3);
    for (size_t at = 0, n; at < text->bytes; at += n) {
        int32_t point = fm_point(text->data + at, text->bytes - at, &n);
        if (point >= 0x80) {
            if (utf8proc_category(point) == UTF8PROC_CATEGORY_ND) fm_refuse(run, FM_EUNSUPPORTED, "a number in digits other than 0 to 9");
            return false;
        }
        if (point != '_') {
            fm_write(&writer, text->data + at, 1);
        } else if (!at || at + 1 == text->bytes || digit_of(text->data[at - 1]) >= base || digit_of(text->data[at + 1]) >= base) {
            return false;
        }
    }
    *out = fm_written(&writer);
    return (*out)->bytes > 0;
}

bool fm_parse_whole(fm_run *run, const fm_text *text, int64_t base, int64_t *whole) {
    const fm_text *plain;
    uint64_t sum = 0;
    bool too_large = false;
    if (base != 0 && (base < 2 || base > 36)) return false; /* a ValueError in Python */
    const fm_text *prefixed = fm_strip(run, text, NULL, 3);
    if (!plain_number(run, prefixed, base ? (int)base : 36, &plain)) return false;
    size_t at = plain->data[0] == '-' || plain->data[0] == '+';
    bool negative = plain->data[0] == '-';
    if (plain->bytes >= at + 2 && plain->data[at] == '0') {
        char kind = (char)(plain->data[at + 1] | 0x20);
        int named = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 0;
        if (named && (base == 0 || base == named)) {
            base = named;
            at += 2;
        }
    }
    bool decides = base == 0; /* then a leading 0 stands for nothing but 0 */
    if (decides) base = 10;
    if (at == plain->bytes) return false;
    for (size_t i = at; i < plain->bytes; i++) {
        int digit = digit_of(plain->data[i]);
        if (digit >= base || (decides && i == at + 1 && plain->data[at] == '0' && strspn(plain->data + at, "0") < plain->bytes - at)) return false;
        too_large |= __builtin_mul_overflow(sum, (uint64_t)base, &sum) || __builtin_add_overflow(sum, (uint64_t)digit, &sum);
    }
    if (too_large || sum > (uint64_t)INT64_MAX + negative) fm_refuse(run, FM_EUNSUPPORTED, "a whole number beyond 64 bits");
    *whole = negative ? (int64_t)-sum : (int64_t)sum;
    return true;
}

static bool read_real(fm_run *run, const fm_text *text, double *real) {
    const fm_text *plain;
    return plain_number(run, text, 10, &plain) && fm_parse_real(plain->data, plain->bytes, real);
}

static fm_value truncated(fm_run *run, double real) {
    if (real >= 9223372036854775808.0 || real < -9223372036854775808.0) fm_refuse(run, FM_EUNSUPPORTED, "a whole number beyond 64 bits");
    return fm_int((int64_t)real);
}

FM_CALLABLE(filter_int) {
    fm_value otherwise = given[0].type == FM_MISSING ? fm_int(0) : given[0];
    int64_t base = 10, whole;
    double real;
    if (self.type == FM_UNDEFINED) fm_refuse_use(run, self);
    if (fm_as_whole(self, &whole)) return fm_int(whole);
    if (self.type == FM_FLOAT) {
        if (isinf(self.real)) fm_refuse(run, FM_EFORMAT, "cannot convert float infinity to integer");
        return isnan(self.real) ? otherwise : truncated(run, self.real);
    }
    if (self.type != FM_STRING) return otherwise;
    if (given[1].type == FM_UNDEFINED) fm_refuse_use(run, given[1]);
    if (given[1].type != FM_MISSING && !fm_as_whole(given[1], &base)) base = 1; /* none that int() knows */
    if (fm_parse_whole(run, self.text, base, &whole)) return fm_int(whole);
    if (!read_real(run, self.text, &real) || !isfinite(real)) return otherwise;
    return truncated(run, real);
}

FM_CALLABLE(filter_float) {
    double real;
    if (self.type == FM_UNDEFINED) fm_refuse_use(run, self);
    if (fm_is_number(self)) return fm_float(fm_to_double(self));
    if (self.type == FM_STRING && read_real(run, self.text, &real)) return fm_float(real);
    return given[0].type == FM_MISSING ? fm_float(0) : given[0];
}

/* ---- changing them */

FM_CALLABLE(filter_abs) {
    if (self.type == FM_UNDEFINED) fm_refuse_use(run, self);
    if (!fm_is_number(self)) fm_refuse(run, FM_EFORMAT, "bad operand type for abs(): '%s'", fm_type_name(self));
    if (self.type == FM_FLOAT) return fm_float(fabs(self.real));
    return fm_negative(run, self, self.type == FM_INT && self.whole < 0);
}

/* To a multiple of 10^places, half to even; `more`: a fraction was cut off, so half is more than half. */
static fm_value round_whole(fm_run *run, int64_t whole, int64_t places, bool more) {
    int64_t unit = 1;
    for (; places > 0; places--) {
        if (__builtin_mul_overflow(unit, 10, &unit)) return fm_int(0); /* more than two times what 64 bits hold, or a refusal below */
    }
    int64_t down = whole / unit * unit, rest = whole - down; /* towards 0 */
    uint64_t size = rest < 0 ? -(uint64_t)rest : (uint64_t)rest, half = (uint64_t)unit / 2;
    bool up = unit > 1 && (size > half || (size == half && (more || (whole / unit) % 2 != 0)));
    if (up && __builtin_add_overflow(down, rest < 0 ? -unit : unit, &down)) fm_refuse(run, FM_EUNSUPPORTED, "a whole number beyond 64 bits");
    return fm_int(down);
}

static fm_value round_real(fm_run *run, double real, int64_t places) {
    fm_writer writer = {.run = run};
    if (!isfinite(real) || places > 323) return fm_float(real);
    if (places < 0) {
        if (places < -308) return fm_float(copysign(0, real));
        if (fabs(real) >= 0x1p62) fm_refuse(run, FM_EUNSUPPORTED, "a float that is so large rounded to tens");
        double rounded = fm_to_double(round_whole(run, (int64_t)real, places < -30 ? 30 : -places, real != trunc(real)));
        return fm_float(copysign(rounded, real));
    }
    fm_format_real(&writer, real, 'f', (int)places, false);
    const fm_text *text = fm_written(&writer);
    if (!fm_parse_real(text->data, text->bytes, &real)) fm_refuse(run, FM_EFORMAT, "the rounded number is too large");
    return fm_float(real);
}

FM_CALLABLE(filter_round) {
    bool to_int = given[0].type == FM_NONE;
    int64_t places = given[0].type == FM_MISSING || to_int ? 0 : fm_whole(run, given[0], "a precision"), whole;
    const fm_text *method = given[1].type == FM_MISSING ? NULL : fm_text_of(run, given[1], "a method of rounding");
    if (method && !fm_text_is(method, "common") && !fm_text_is(method, "ceil") && !fm_text_is(method, "floor")) {
        fm_refuse(run, FM_EFORMAT, "method must be common, ceil or floor");
    }
    if (self.type == FM_UNDEFINED) fm_refuse_use(run, self);
    if (!fm_is_number(self)) fm_refuse(run, FM_EFORMAT, "type %s doesn't define __round__ method", fm_type_name(self));
    if (!method || fm_text_is(method, "common")) {
        if (self.type == FM_FLOAT && to_int && !isfinite(self.real)) fm_refuse(run, FM_EFORMAT, "cannot convert a float that is not finite to integer");
        if (self.type == FM_FLOAT) return to_int ? truncated(run, round_real(run, self.real, 0).real) : round_real(run, self.real, places);
        fm_as_whole(self, &whole);
        return places >= 0 ? fm_int(whole) : round_whole(run, whole, places < -30 ? 30 : -places, false);
    }
    if (to_int) fm_refuse(run, FM_EFORMAT, "this method of rounding needs a precision");
    fm_value unit = fm_arithmetic(run, '^', fm_int(10), fm_int(places)), scaled = fm_arithmetic(run, '*', self, unit);
    if (scaled.type == FM_FLOAT) {
        if (!isfinite(scaled.real)) fm_refuse(run, FM_EFORMAT, "%s of a number that is not finite", method->data[0] == 'c' ? "ceil" : "floor");
        double down = method->data[0] == 'c' ? ceil(scaled.real) : floor(scaled.real);
        scaled = fm_float(down + 0.0); /* no -0: it is whole in Python */
        if (down == 0) scaled = fm_float(0);
    }
    return fm_arithmetic(run, '/', scaled, unit);
}

FM_CALLABLE(filter_filesizeformat) {
    static const char *const names[2][8] = {{"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"}, {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"}};
    fm_writer writer = {.run = run};
    bool binary = fm_flag(given[0]);
    double bytes = 0, base = binary ? 1024 : 1000, unit = base;
    if (self.type == FM_UNDEFINED) fm_refuse_use(run, self);
    if (fm_is_number(self)) {
        bytes = fm_to_double(self);
    } else if (self.type != FM_STRING || !read_real(run, self.text, &bytes)) {
        fm_refuse(run, FM_EFORMAT, "filesizeformat takes a number");
    }
    if (bytes == 1) return fm_string_of(run, "1 Byte");
    if (bytes < base) {
        if (!isfinite(bytes)) fm_refuse(run, FM_EFORMAT, "a size that is not finite");
        fm_write_repr(&writer, truncated(run, bytes));
        fm_write_literal(&writer, " Bytes");
        return fm_written_string(&writer);
    }
    int i = 0;
    for (unit *= base; i < 7 && !(bytes < unit); i++) unit *= base;
    fm_format_real(&writer, base * bytes / unit, 'f', 1, false);
    fm_write_literal(&writer, " ");
    fm_write_literal(&writer, names[binary][i]);
    return fm_written_string(&writer);
}

static const fm_function filters[] = {
    {"int", filter_int, "default? base?"},
    {"float", filter_float, "default?"},
    {"abs", filter_abs, "/"},
    {"round", filter_round, "precision? method?"},
    {"filesizeformat", filter_filesizeformat, "binary?"},
};

fm_table fm_number_filters(void) { return (fm_table){filters, sizeof filters / sizeof *filters}; }
