/* template/value/number.c: arithmetic as Python has it, but whole numbers are of 64 bits and what does not fit is refused. See value.h. */
#include <math.h>
#include <string.h>

#include "template/value/value.h"

bool fm_parse_real(const char *data, size_t bytes, double *real) {
    char text[400]; /* jansson reads numbers in any locale, but JSON's numbers only; so a leading + or point is mended */
    size_t n = 0, at = 0;
    bool negative = bytes && data[0] == '-';
    if (!bytes || bytes > sizeof text - 8) return false;
    at += data[0] == '-' || data[0] == '+';
    if (bytes - at == 3 && (strncasecmp(data + at, "inf", 3) == 0 || strncasecmp(data + at, "nan", 3) == 0)) {
        *real = (data[at] | 32) == 'n' ? NAN : negative ? -INFINITY : INFINITY;
        return true;
    }
    if (bytes - at == 8 && strncasecmp(data + at, "infinity", 8) == 0) {
        *real = negative ? -INFINITY : INFINITY;
        return true;
    }
    size_t digits = strspn(data + at, "0123456789"); /* data may go on behind bytes, but only with what ends a number */
    while (at + 1 < bytes && data[at] == '0' && digits > 1) {
        at++;
        digits--;
    }
    if (!digits && (at == bytes || data[at] != '.')) return false;
    if (negative) text[n++] = '-';
    if (!digits) text[n++] = '0';
    for (; at < bytes; at++) {
        bool point = data[at] == '.';
        bool next_digit = at + 1 < bytes && data[at + 1] >= '0' && data[at + 1] <= '9';
        if (!strchr("0123456789.eE+-", data[at]) || !data[at] || (point && !digits && !next_digit)) return false;
        text[n++] = data[at];
        if (point && !next_digit) text[n++] = '0';
    }
    if (!memchr(text, '.', n) && !memchr(text, 'e', n) && !memchr(text, 'E', n)) {
        memcpy(text + n, ".0", 2);
        n += 2;
    }
    json_error_t error;
    json_t *json = json_loadb(text, n, JSON_DECODE_ANY, &error);
    if (!json && json_error_code(&error) == json_error_numeric_overflow) {
        *real = negative ? -INFINITY : INFINITY;
        return true;
    }
    bool ok = json_is_real(json);
    if (ok) *real = json_real_value(json);
    json_decref(json);
    return ok;
}

static __attribute__((noreturn)) void overflow(fm_run *run) { fm_refuse(run, FM_EUNSUPPORTED, "a whole number beyond 64 bits"); }

static __attribute__((noreturn)) void refuse_types(fm_run *run, const char *operator, fm_value a, fm_value b) {
    if (a.type == FM_UNDEFINED || b.type == FM_UNDEFINED) fm_refuse_use(run, a.type == FM_UNDEFINED ? a : b);
    fm_refuse(run, FM_EFORMAT, "unsupported operand type(s) for %s: '%s' and '%s'", operator, fm_type_name(a), fm_type_name(b));
}

static int64_t whole_power(fm_run *run, int64_t base, int64_t exponent) {
    int64_t result = 1;
    if (base == 0 || base == 1) return exponent ? base : 1;
    if (base == -1) return exponent & 1 ? -1 : 1;
    for (; exponent > 0; exponent >>= 1) {
        if (exponent & 1 && __builtin_mul_overflow(result, base, &result)) overflow(run);
        if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) overflow(run);
    }
    return result;
}

static double real_power(fm_run *run, double a, double b) {
    double result = pow(a, b);
    if (a == 0 && b < 0) fm_refuse(run, FM_EFORMAT, "0.0 cannot be raised to a negative power");
    if (isnan(result) && !isnan(a) && !isnan(b)) fm_refuse(run, FM_EUNSUPPORTED, "a complex number");
    if (isinf(result) && isfinite(a) && isfinite(b)) fm_refuse(run, FM_EFORMAT, "a power is too large");
    return result;
}

/* Python's // and %: the quotient rounds down, the remainder has the divisor's sign. */
static void divide_reals(double a, double b, double *quotient, double *remainder) {
    double mod = fmod(a, b), div = (a - mod) / b;
    if (mod != 0) {
        if ((b < 0) != (mod < 0)) {
            mod += b;
            div -= 1;
        }
    } else {
        mod = copysign(0, b);
    }
    double down = div != 0 ? floor(div) : copysign(0, a / b);
    if (div - down > 0.5) down += 1;
    *quotient = down;
    *remainder = mod;
}

static fm_value real_arithmetic(fm_run *run, char operator, double a, double b) {
    double quotient, remainder;
    switch (operator) {
    case '+': return fm_float(a + b);
    case '-': return fm_float(a - b);
    case '*': return fm_float(a * b);
    case '^': return fm_float(real_power(run, a, b));
    default: break;
    }
    if (b == 0) fm_refuse(run, FM_EFORMAT, "division by zero");
    if (operator== '/') return fm_float(a / b);
    divide_reals(a, b, &quotient, &remainder);
    return fm_float(operator== '%' ? remainder : quotient);
}

static fm_value whole_arithmetic(fm_run *run, char operator, int64_t a, int64_t b) {
    int64_t result;
    bool too_large = false;
    switch (operator) {
    case '+': too_large = __builtin_add_overflow(a, b, &result); break;
    case '-': too_large = __builtin_sub_overflow(a, b, &result); break;
    case '*': too_large = __builtin_mul_overflow(a, b, &result); break;
    case '^':
        if (b < 0) return fm_float(real_power(run, (double)a, (double)b));
        result = whole_power(run, a, b);
        break;
    default:
        if (b == 0) fm_refuse(run, FM_EFORMAT, "division by zero");
        if (operator== '/') return fm_float((double)((long double)a / (long double)b));
        if (b == -1) {
            too_large = operator!= '%' && a == INT64_MIN;
            result = operator== '%' || too_large ? 0 : - a;
        } else {
            bool down = a % b != 0 && (a % b < 0) != (b < 0);
            result = operator== '%' ? a % b + (down ? b : 0) : a / b - down;
        }
    }
    if (too_large) overflow(run);
    return fm_int(result);
}

static fm_value repeat(fm_run *run, fm_value sequence, int64_t times) {
    size_t n = 0;
    fm_has_length(sequence, &n);
    if (times < 0 || !n) times = 0;
    if (sequence.type == FM_STRING) {
        fm_writer writer = {.run = run};
        fm_write_many(&writer, sequence.text->data, sequence.text->bytes, (size_t)times);
        fm_text *text = fm_take(run, sizeof *text);
        *text = *fm_written(&writer);
        text->markup = sequence.text->markup;
        return fm_string(text);
    }
    if ((uint64_t)times > run->left.memory / sizeof(fm_value) / (n ? n : 1)) fm_refuse(run, FM_EFULL, "it takes more memory than a template may");
    fm_list *list = fm_list_new(run, n * (size_t)times);
    for (int64_t i = 0; i < times; i++) {
        for (size_t k = 0; k < n; k++) fm_list_add(run, list, sequence.list->items[k]);
    }
    return fm_of_list(sequence.type, list);
}

static fm_value add_sequences(fm_run *run, fm_value a, fm_value b) {
    if (a.type == FM_STRING) {
        bool markup = a.text->markup || b.text->markup;
        if (!markup) return fm_string(fm_concat(run, a.text, b.text));
        fm_text *text = fm_take(run, sizeof *text);
        *text = *fm_concat(run, fm_escape(run, a), fm_escape(run, b));
        text->markup = true;
        return fm_string(text);
    }
    fm_list *list = fm_list_new(run, a.list->n + b.list->n);
    fm_charge(run, list->cap * sizeof(fm_value));
    for (size_t i = 0; i < a.list->n; i++) fm_list_add(run, list, a.list->items[i]);
    for (size_t i = 0; i < b.list->n; i++) fm_list_add(run, list, b.list->items[i]);
    return fm_of_list(a.type, list);
}

static bool repeatable(fm_value value) { return value.type == FM_STRING || value.type == FM_LIST || value.type == FM_TUPLE; }

fm_value fm_arithmetic(fm_run *run, char operator, fm_value a, fm_value b) {
    int64_t x, y;
    char sign[4] = {operator, 0 };
    if (operator== '^' || operator== 'i') memcpy(sign, operator== '^' ? "**" : "//", 3);
    if (fm_as_whole(a, &x) && fm_as_whole(b, &y)) return whole_arithmetic(run, operator, x, y);
    if (fm_is_number(a) && fm_is_number(b)) return real_arithmetic(run, operator, fm_to_double(a), fm_to_double(b));
    if (operator== '%' && a.type == FM_STRING) return fm_percent(run, a.text, b);
    if (operator== '+' && a.type == b.type && repeatable(a)) return add_sequences(run, a, b);
    if (operator== '*' && repeatable(a) && fm_as_whole(b, &y)) return repeat(run, a, y);
    if (operator== '*' && repeatable(b) && fm_as_whole(a, &x)) return repeat(run, b, x);
    refuse_types(run, sign, a, b);
}

fm_value fm_negative(fm_run *run, fm_value a, bool negative) {
    int64_t x;
    if (a.type == FM_UNDEFINED) fm_refuse_use(run, a);
    if (!fm_is_number(a)) fm_refuse(run, FM_EFORMAT, "bad operand type for unary %c: '%s'", negative ? '-' : '+', fm_type_name(a));
    if (a.type == FM_FLOAT) return fm_float(negative ? -a.real : a.real);
    fm_as_whole(a, &x);
    if (negative && x == INT64_MIN) overflow(run);
    return fm_int(negative ? -x : x);
}
