/* template/library/globals.c: the functions that every template has, and calls by value. See library.h. */
#include <locale.h>
#include <string.h>
#include <time.h>

#include "template/library/inner.h"

#define MAX_RANGE 100000 /* as the sandbox has it */

const fm_text *fm_text_of(fm_run *run, fm_value value, const char *what) {
    if (value.type == FM_UNDEFINED) fm_refuse_use(run, value);
    if (value.type != FM_STRING) fm_refuse(run, FM_EFORMAT, "%s is a string, not of type %s", what, fm_type_name(value));
    return value.text;
}

fm_value fm_marked(fm_run *run, const fm_text *text, bool markup) {
    if (text->markup == markup) return fm_string(text);
    fm_text *copy = fm_take(run, sizeof *copy);
    *copy = *text;
    copy->markup = markup;
    return fm_string(copy);
}

/* ---- range, dict, namespace */

FM_CALLABLE(make_range) {
    int64_t first = fm_whole(run, given[0], "a bound of range()"), start = 0, stop = first, step = 1;
    if (given[1].type != FM_MISSING) {
        start = first;
        stop = fm_whole(run, given[1], "a bound of range()");
    }
    if (given[2].type != FM_MISSING) step = fm_whole(run, given[2], "a step of range()");
    if (step == 0) fm_refuse(run, FM_EFORMAT, "range() with a step of 0");
    uint64_t distance = step > 0 ? (uint64_t)stop - (uint64_t)start : (uint64_t)start - (uint64_t)stop, by = step > 0 ? (uint64_t)step : -(uint64_t)step;
    uint64_t n = (step > 0 ? start < stop : start > stop) ? (distance - 1) / by + 1 : 0;
    if (n > MAX_RANGE) fm_refuse(run, FM_EFORMAT, "range() of more than %d items", MAX_RANGE);
    fm_span *span = fm_take(run, sizeof *span);
    *span = (fm_span){start, stop, step, (size_t)n};
    return (fm_value){.type = FM_RANGE, .range = span};
}

fm_dict *fm_make_dict(fm_run *run, const fm_arguments *arguments) {
    fm_dict *dict = fm_dict_new(run);
    if (arguments->n > 1) fm_refuse(run, FM_EFORMAT, "a mapping is made of one argument at most, %zu were given", arguments->n);
    if (arguments->n && arguments->values[0].type == FM_DICT) {
        const fm_dict *from = arguments->values[0].dict;
        for (size_t i = 0; i < from->n; i++) fm_dict_set(run, dict, from->pairs[i].key, from->pairs[i].value);
    } else if (arguments->n) {
        const fm_list *pairs = fm_items(run, arguments->values[0]);
        for (size_t i = 0; i < pairs->n; i++) {
            const fm_list *pair = fm_items(run, pairs->items[i]);
            if (pair->n != 2) fm_refuse(run, FM_EFORMAT, "item %zu of what a mapping is made of has %zu values instead of 2", i, pair->n);
            fm_dict_set(run, dict, pair->items[0], pair->items[1]);
        }
    }
    for (size_t i = 0; i < arguments->n_named; i++) fm_dict_set(run, dict, fm_string(arguments->names[i]), arguments->named[i]);
    return dict;
}

FM_CALLABLE(make_dict) { return fm_of_dict(FM_DICT, fm_make_dict(run, rest)); }

FM_CALLABLE(make_namespace) {
    fm_dict *dict = fm_make_dict(run, rest);
    for (size_t i = 0; i < dict->n; i++) {
        fm_value name = dict->pairs[i].key;
        if (name.type == FM_STRING && name.text->bytes && name.text->data[0] == '_')
            fm_refuse(run, FM_EFORMAT, "a namespace stores no name that begins with an underscore");
    }
    return fm_of_dict(FM_NAMESPACE, dict);
}

/* ---- cycler, joiner */

FM_CALLABLE(make_cycler) {
    if (!rest->n) fm_refuse(run, FM_EFORMAT, "a cycler needs at least one item");
    if (rest->n_named) fm_refuse(run, FM_EFORMAT, "cycler() takes no keyword arguments");
    fm_cycler *cycler = fm_take_zeroed(run, sizeof *cycler);
    cycler->items = fm_list_new(run, rest->n);
    for (size_t i = 0; i < rest->n; i++) fm_list_add(run, cycler->items, rest->values[i]);
    return (fm_value){.type = FM_CYCLER, .cycler = cycler};
}

FM_CALLABLE(make_joiner) {
    fm_cycler *joiner = fm_take_zeroed(run, sizeof *joiner);
    joiner->separator = given[0].type == FM_MISSING ? fm_text_borrow(run, ", ", 2) : fm_text_of(run, given[0], "a joiner's separator");
    return (fm_value){.type = FM_JOINER, .cycler = joiner};
}

FM_CALLABLE(refuse_lipsum) { fm_refuse(run, FM_EUNSUPPORTED, "lipsum() is random and not known here"); }

/* ---- what chat templates have beyond jinja2 */

FM_CALLABLE(raise_exception) {
    const fm_text *message = fm_str(run, given[0]);
    fm_refuse(run, FM_EINVAL, "%.*s", (int)(message->bytes < 390 ? message->bytes : 390), message->data);
}

/* One directive, %…, as C's strftime has it with English names; a time without a zone has no text for %z and %Z. Returns its length in the format. */
static size_t write_directive(fm_writer *writer, const char *format, size_t bytes, const struct tm *time) {
    char one[16], text[256];
    size_t n = 1;
    while (n < bytes && n < 10 && (strchr("_-0^#EO+", format[n]) || (format[n] >= '0' && format[n] <= '9')) && format[n]) n++;
    if (n == bytes || !format[n]) {
        fm_write(writer, format, n);
        return n;
    }
    n++;
    char kind = format[n - 1];
    if (kind == 'f') fm_write_literal(writer, "000000");
    if (kind == 'f' || kind == 'z' || kind == 'Z') return n;
    memcpy(one, format, n);
    one[n] = 0;
    locale_t english = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    size_t length = english ? strftime_l(text, sizeof text, one, time, english) : 0;
    if (english) freelocale(english); /* before anything may be refused */
    fm_write(writer, text, length);
    return n;
}

FM_CALLABLE(strftime_now) {
    const fm_text *format = fm_text_of(run, given[0], "the format of strftime_now()");
    fm_writer writer = {.run = run};
    time_t seconds = (time_t)run->now;
    struct tm time;
    if (!localtime_r(&seconds, &time)) fm_refuse(run, FM_EFORMAT, "the time %lld has no date", (long long)run->now);
    for (size_t at = 0; at < format->bytes;) {
        const char *next = memchr(format->data + at, '%', format->bytes - at);
        size_t plain = next ? (size_t)(next - format->data) - at : format->bytes - at;
        fm_write(&writer, format->data + at, plain);
        at += plain;
        if (next) at += write_directive(&writer, next, format->bytes - at, &time);
        fm_charge(run, 256);
    }
    return fm_written_string(&writer);
}

static const fm_function functions[] = {
    {"namespace", make_namespace, "*"},
    {"raise_exception", raise_exception, "message"},
    {"strftime_now", strftime_now, "format"},
    {"range", make_range, "/start stop? step?"},
    {"dict", make_dict, "*"},
    {"cycler", make_cycler, "*"},
    {"joiner", make_joiner, "sep?"},
    {"lipsum", refuse_lipsum, "*"},
};

bool fm_global(const fm_text *name, fm_value *value) {
    const fm_function *function = fm_find_function(functions, sizeof functions / sizeof *functions, name);
    if (function) *value = (fm_value){.type = FM_FUNCTION, .function = function};
    return function != NULL;
}

fm_value fm_call_object(fm_run *run, fm_value callee, const fm_arguments *arguments) {
    fm_charge(run, 0);
    switch (callee.type) {
    case FM_UNDEFINED: fm_refuse_use(run, callee);
    case FM_METHOD: return fm_call_function(run, callee.method->function, callee.method->self, arguments);
    case FM_FUNCTION: return fm_call_function(run, callee.function, (fm_value){0}, arguments);
    case FM_JOINER:
        if (arguments->n || arguments->n_named) fm_refuse(run, FM_EFORMAT, "a joiner takes no arguments");
        return callee.cycler->at++ ? fm_string(callee.cycler->separator) : fm_string_of(run, "");
    default: fm_refuse(run, FM_EFORMAT, "'%s' object is not callable", fm_type_name(callee));
    }
}
