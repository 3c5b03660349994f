/* chat/calls/calls.c: the table of formats, what their parsers share, and values that a schema gives a type. */
#include "chat/calls.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const fm_call_format *const formats[] = {&fm_calls_xml,     &fm_calls_json,         &fm_calls_llama,  &fm_calls_granite, &fm_calls_hunyuan,
                                                &fm_calls_mistral, &fm_calls_mistral_list, &fm_calls_glm,    &fm_calls_minimax, &fm_calls_deepseek,
                                                &fm_calls_kimi,    &fm_calls_lfm2,         &fm_calls_harmony};

const fm_call_format *fm_call_format_find(const char *name) {
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (!strcmp(formats[i]->name, name)) return formats[i];
    }
    return NULL;
}

fm_call *fm_call_list_add(fm_call_list *list) {
    if (list->n == list->capacity) {
        int capacity = 2 * list->capacity + 4;
        fm_call *calls = realloc(list->calls, (size_t)capacity * sizeof *calls);
        if (!calls) {
            list->failed = true;
            return NULL;
        }
        list->calls = calls;
        list->capacity = capacity;
    }
    fm_call *call = &list->calls[list->n++];
    *call = (fm_call){0};
    return call;
}

bool fm_call_list_failed(const fm_call_list *list) {
    bool failed = list->failed;
    for (int i = 0; i < list->n; i++) failed |= list->calls[i].name.failed || list->calls[i].arguments.failed || list->calls[i].id.failed;
    return failed;
}

void fm_call_list_close(fm_call_list *list) {
    for (int i = 0; i < list->n; i++) {
        fm_chars_close(&list->calls[i].name);
        fm_chars_close(&list->calls[i].arguments);
        fm_chars_close(&list->calls[i].id);
    }
    free(list->calls);
    *list = (fm_call_list){0};
}

const json_t *fm_tool_find(const json_t *tools, const char *name) {
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *tool = json_array_get(tools, i), *function = json_object_get(tool, "function");
        if (!function) function = tool;
        const char *its = json_string_value(json_object_get(function, "name"));
        if (its && !strcmp(its, name)) return function;
    }
    return NULL;
}

int fm_tag_look(const char *text, size_t n, size_t at, const char *tag) {
    size_t length = strlen(tag), left = n - at;
    if (memcmp(text + at, tag, left < length ? left : length)) return 0;
    return left < length ? -1 : 1;
}

size_t fm_call_skip(const char *text, size_t n, size_t at) {
    while (at < n && fm_is_blank(text[at])) at++;
    return at;
}

int fm_call_broken(fm_call_scan *s, size_t at) {
    s->end = at;
    return FM_CALL_BROKEN;
}

int fm_call_expect(fm_call_scan *s, const char *text, size_t n, const char *tag, int state) {
    int found = fm_tag_look(text, n, s->at, tag);
    if (found == 0) return fm_call_broken(s, s->at);
    if (found > 0) {
        s->at += strlen(tag);
        s->mark = s->at;
        s->state = state;
    }
    return FM_CALL_WAITS;
}

int fm_call_close(fm_call_scan *s, const char *text, size_t n, const char *tag, bool end) {
    s->at = fm_call_skip(text, n, s->at);
    int found = fm_tag_look(text, n, s->at, tag);
    if (found < 0 && !end) return FM_CALL_WAITS;
    if (found > 0) s->end = s->at + strlen(tag);
    return FM_CALL_WHOLE;
}

/* ---- JSON ---- */

int fm_call_scan_object(fm_call_scan *s, const char *text, size_t n) {
    if (!s->mark) { /* it has not begun */
        s->at = fm_call_skip(text, n, s->at);
        if (s->at == n) return FM_CALL_WAITS;
        if (text[s->at] != '{') return fm_call_broken(s, s->at);
    }
    if (!fm_call_scan_json(s, text, n)) return FM_CALL_WAITS;
    s->end = s->at;
    return FM_CALL_WHOLE;
}

bool fm_call_scan_json(fm_call_scan *s, const char *text, size_t n) {
    while (s->at < n) {
        char c = text[s->at++];
        if (s->escaped)
            s->escaped = false;
        else if (s->in_string)
            c == '\\' ? (s->escaped = true) : c == '"' ? (s->in_string = false) : false;
        else if (c == '"')
            s->in_string = true;
        else if (c == '{' || c == '[')
            s->mark++;
        else if ((c == '}' || c == ']') && --s->mark == 0)
            return true;
    }
    return false;
}

size_t fm_call_json_bytes(const char *text, size_t n) {
    fm_call_scan s = {0};
    return fm_call_scan_json(&s, text, n) ? s.at : 0;
}

bool fm_call_take_object(fm_chars *out, const char *text, size_t n) {
    json_t *object = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    bool good = json_is_object(object);
    if (good) fm_chars_add(out, text, n);
    json_decref(object);
    return good;
}

/* ---- types ---- */

enum { STRING = 1, INTEGER = 2, NUMBER = 4, BOOLEAN = 8, OBJECT = 16, ARRAY = 32, NONE = 64 };

static int type_of_name(const char *name) {
    static const struct {
        const char *name;
        int type;
    } names[] = {{"string", STRING}, {"str", STRING},    {"integer", INTEGER}, {"int", INTEGER}, {"number", NUMBER}, {"float", NUMBER}, {"boolean", BOOLEAN},
                 {"bool", BOOLEAN},  {"object", OBJECT}, {"dict", OBJECT},     {"array", ARRAY}, {"list", ARRAY},    {"null", NONE},    {"double", NUMBER}};
    for (size_t i = 0; name && i < sizeof names / sizeof *names; i++) {
        if (!strcasecmp(name, names[i].name)) return names[i].type;
    }
    return 0;
}

static int type_of_value(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT: return OBJECT;
    case JSON_ARRAY: return ARRAY;
    case JSON_STRING: return STRING;
    case JSON_INTEGER: return INTEGER;
    case JSON_REAL: return NUMBER;
    case JSON_TRUE:
    case JSON_FALSE: return BOOLEAN;
    default: return NONE;
    }
}

/* The types that schema allows, as far as it says them plainly; 0: it does not. */
static int schema_types(const json_t *schema, int depth) {
    static const char *const unions[] = {"anyOf", "oneOf", "allOf"};
    const json_t *type = json_object_get(schema, "type"), *values = json_object_get(schema, "enum"), *constant = json_object_get(schema, "const");
    int types = type_of_name(json_string_value(type));
    if (depth > 8) return 0;
    for (size_t i = 0; i < json_array_size(type); i++) types |= type_of_name(json_string_value(json_array_get(type, i)));
    for (int u = 0; u < 3; u++) {
        const json_t *list = json_object_get(schema, unions[u]);
        for (size_t i = 0; i < json_array_size(list); i++) types |= schema_types(json_array_get(list, i), depth + 1);
    }
    if (types) return types;
    for (size_t i = 0; i < json_array_size(values); i++) types |= type_of_value(json_array_get(values, i));
    return constant ? types | type_of_value(constant) : types;
}

/* ---- values ---- */

void fm_call_string(fm_chars *out, const char *text, size_t n) {
    json_t *string = json_stringn(text, n);
    char *dumped = string ? json_dumps(string, JSON_ENCODE_ANY) : NULL;
    if (dumped)
        fm_chars_put(out, dumped);
    else
        out->failed = true;
    free(dumped);
    json_decref(string);
}

static bool word(const char *text, size_t n, const char *wanted) { return n == strlen(wanted) && !strncasecmp(text, wanted, n); }

/* JSON of one of types, as the model wrote it; Python's words for true, false and null as well, which is how templates show them to a model. */
static bool add_typed(fm_chars *out, const char *text, size_t n, int types) {
    while (n && fm_is_blank(*text)) text++, n--;
    while (n && fm_is_blank(text[n - 1])) n--;
    if ((types & BOOLEAN) && (word(text, n, "true") || word(text, n, "false"))) {
        fm_chars_put(out, word(text, n, "true") ? "true" : "false");
        return true;
    }
    if ((types & NONE) && (word(text, n, "null") || word(text, n, "none"))) {
        fm_chars_put(out, "null");
        return true;
    }
    json_t *value = json_loadb(text, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (!value) return false;
    int type = type_of_value(value);
    bool fits = type != STRING && ((types & type) || (type == INTEGER && (types & NUMBER)));
    if (type == NUMBER && !fits && (types & INTEGER)) { /* 3.0 where 3 is meant */
        double x = json_real_value(value);
        if ((fits = x == floor(x) && fabs(x) < 0x1p53)) {
            char number[32];
            snprintf(number, sizeof number, "%.0f", x);
            fm_chars_put(out, x == 0 ? "0" : number);
            json_decref(value);
            return true;
        }
    }
    json_decref(value);
    if (fits) fm_chars_add(out, text, n);
    return fits;
}

void fm_call_value(fm_chars *out, const char *value, size_t n, const json_t *schema) {
    int types = schema ? schema_types(schema, 0) : 0;
    if ((types & ~STRING) && add_typed(out, value, n, types)) return;
    fm_call_string(out, value, n);
}
