/* template/value/value.c: the run's memory, refusals, text and lists. See value.h. */
#include "template/value/value.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct fm_chunk {
    fm_chunk *next;
    max_align_t data[];
};

/* Bytes that several texts share: the longest may grow in place, the others are its prefixes. */
struct fm_buffer {
    size_t n, cap;
    char data[];
};

#define CHUNK_BYTES ((size_t)64 << 10)
#define MAX_NESTING 200

void fm_refuse(fm_run *run, int code, const char *format, ...) {
    char sentence[400];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    run->code = fm_fail(run->err, code, "%s line %d: %s", run->name, run->line, sentence);
    longjmp(run->refused, 1);
}

void *fm_take(fm_run *run, size_t bytes) {
    const size_t align = sizeof(max_align_t);
    if (bytes > run->left.memory) fm_refuse(run, FM_EFULL, "it takes more memory than a template may");
    bytes = (bytes + align - 1) / align * align;
    if (bytes > run->n_free) {
        size_t size = bytes > CHUNK_BYTES / 4 ? bytes : CHUNK_BYTES;
        fm_chunk *chunk = malloc(sizeof *chunk + size);
        if (!chunk) fm_refuse(run, FM_ENOMEM, "no memory for %zu bytes", size);
        chunk->next = run->chunks;
        run->chunks = chunk;
        if (size == bytes && size > CHUNK_BYTES / 4) { /* the chunk in use stays in use */
            run->left.memory -= bytes < run->left.memory ? bytes : run->left.memory;
            return chunk->data;
        }
        run->free = (char *)chunk->data;
        run->n_free = size;
    }
    void *data = run->free;
    run->free += bytes;
    run->n_free -= bytes;
    run->left.memory -= bytes < run->left.memory ? bytes : run->left.memory;
    return data;
}

void *fm_take_zeroed(fm_run *run, size_t bytes) {
    void *data = fm_take(run, bytes);
    if (bytes) memset(data, 0, bytes);
    return data;
}

void *fm_take_more(fm_run *run, const void *old, size_t old_bytes, size_t bytes) {
    fm_charge(run, bytes);
    void *data = fm_take(run, bytes);
    if (old_bytes) memcpy(data, old, old_bytes);
    return data;
}

void fm_run_close(fm_run *run) {
    while (run->chunks) {
        fm_chunk *next = run->chunks->next;
        free(run->chunks);
        run->chunks = next;
    }
}

/* ---- calls */

const fm_function *fm_find_function(const fm_function *table, size_t n, const fm_text *name) {
    for (size_t i = 0; i < n; i++) {
        if (fm_text_is(name, table[i].name)) return &table[i];
    }
    return NULL;
}

/* The number of keyword argument `name` of n bytes, or -1. */
static int keyword(const fm_arguments *arguments, const char *name, size_t n) {
    for (size_t k = 0; k < arguments->n_named; k++) {
        if (arguments->names[k]->bytes == n && memcmp(arguments->names[k]->data, name, n) == 0) return (int)k;
    }
    return -1;
}

fm_value fm_call_function(fm_run *run, const fm_function *function, fm_value self, const fm_arguments *arguments) {
    fm_value given[FM_MOST_PARAMETERS] = {0};
    size_t n = 0, used = 0;
    const char *p = function->parameters;
    bool by_name = *p != '/';
    p += !by_name;
    while (*p && *p != '*') {
        size_t length = strcspn(p, "? ");
        bool optional = p[length] == '?';
        int k = by_name ? keyword(arguments, p, length) : -1;
        if (n < arguments->n) {
            if (k >= 0) fm_refuse(run, FM_EFORMAT, "%s() got multiple values for argument '%.*s'", function->name, (int)length, p);
            given[n] = arguments->values[n];
        } else if (k >= 0) {
            given[n] = arguments->named[k];
            used++;
        } else if (!optional) {
            fm_refuse(run, FM_EFORMAT, "%s() is missing its argument '%.*s'", function->name, (int)length, p);
        }
        n++;
        p += length + optional;
        p += *p == ' ';
    }
    if (*p != '*') {
        if (arguments->n > n) fm_refuse(run, FM_EFORMAT, "%s() takes %zu arguments, %zu were given", function->name, n, arguments->n);
        if (arguments->n_named > used) {
            fm_refuse(run, FM_EFORMAT, "%s() got a keyword argument that it does not take, or two times the same, in: %.*s", function->name,
                      (int)arguments->names[arguments->n_named - 1]->bytes, arguments->names[arguments->n_named - 1]->data);
        }
        return function->call(run, self, given, NULL);
    }
    fm_arguments rest = *arguments;
    size_t taken = n < rest.n ? n : rest.n;
    if (taken) rest.values += taken;
    rest.n -= taken;
    /* cppcheck-suppress returnDanglingLifetime; what a call returns lies in the arena */
    return function->call(run, self, given, &rest);
}

/* ---- text */

size_t fm_count_points(const char *data, size_t bytes) {
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++) n += ((uint8_t)data[i] & 0xc0) != 0x80;
    return n;
}

static fm_text *new_text(fm_run *run, const char *data, size_t bytes, size_t points) {
    fm_text *text = fm_take(run, sizeof *text);
    *text = (fm_text){.data = data, .bytes = bytes, .points = points};
    return text;
}

fm_text *fm_text_borrow(fm_run *run, const char *data, size_t bytes) { return new_text(run, data, bytes, fm_count_points(data, bytes)); }

fm_text *fm_text_copy(fm_run *run, const char *data, size_t bytes) { return fm_text_borrow(run, fm_take_more(run, data, bytes, bytes), bytes); }

fm_text *fm_text_part(fm_run *run, const fm_text *text, size_t at, size_t bytes) {
    fm_charge(run, bytes);
    fm_text *part = new_text(run, text->data + at, bytes, text->points == text->bytes ? bytes : fm_count_points(text->data + at, bytes));
    part->markup = text->markup;
    return part;
}

fm_value fm_string_of(fm_run *run, const char *literal) { return fm_string(fm_text_borrow(run, literal, strlen(literal))); }

bool fm_text_is(const fm_text *text, const char *literal) { return strlen(literal) == text->bytes && memcmp(text->data, literal, text->bytes) == 0; }

size_t fm_text_at(fm_run *run, const fm_text *text, size_t point) {
    if (point >= text->points) return text->bytes;
    if (text->points == text->bytes) return point;
    size_t at = 0;
    for (size_t n = 0;; at++) {
        if (((uint8_t)text->data[at] & 0xc0) != 0x80 && n++ == point) break;
    }
    fm_charge(run, at);
    return at;
}

const fm_text *fm_concat(fm_run *run, const fm_text *a, const fm_text *b) {
    size_t n = a->bytes + b->bytes;
    fm_buffer *buffer = a->buffer;
    if (!b->bytes && !b->markup) return a;
    fm_charge(run, b->bytes);
    if (!buffer || a->data + a->bytes != buffer->data + buffer->n || b->bytes > buffer->cap - buffer->n) {
        size_t cap = n > 200 ? 2 * n : n; /* a short one is seldom appended to */
        buffer = fm_take(run, sizeof *buffer + cap);
        buffer->cap = cap;
        buffer->n = a->bytes;
        fm_charge(run, a->bytes);
        if (a->bytes) memcpy(buffer->data, a->data, a->bytes);
    }
    const char *data = a->buffer == buffer ? a->data : buffer->data;
    if (b->bytes) memcpy(buffer->data + buffer->n, b->data, b->bytes);
    buffer->n += b->bytes;
    fm_text *text = new_text(run, data, n, a->points + b->points);
    text->buffer = buffer;
    return text;
}

/* ---- writing */

static void need(fm_writer *writer, size_t bytes) {
    fm_run *run = writer->run;
    if (bytes > run->left.memory || writer->n + bytes > run->left.memory) fm_refuse(run, FM_EFULL, "it takes more memory than a template may");
    if (bytes <= writer->cap - writer->n) return;
    size_t cap = 2 * writer->cap > writer->n + bytes ? 2 * writer->cap : writer->n + bytes;
    if (cap < 64) cap = 64;
    writer->data = fm_take_more(run, writer->data, writer->n, cap);
    writer->cap = cap;
}

void fm_write(fm_writer *writer, const char *data, size_t bytes) {
    if (!bytes) return;
    need(writer, bytes);
    fm_charge(writer->run, bytes);
    memcpy(writer->data + writer->n, data, bytes);
    writer->n += bytes;
}

void fm_write_text(fm_writer *writer, const fm_text *text) { fm_write(writer, text->data, text->bytes); }
void fm_write_literal(fm_writer *writer, const char *literal) { fm_write(writer, literal, strlen(literal)); }

void fm_write_point(fm_writer *writer, int32_t point) {
    char c[4];
    size_t n = 1;
    if (point < 0x80) {
        c[0] = (char)point;
    } else {
        n = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
        for (size_t i = n; i-- > 1; point >>= 6) c[i] = (char)(0x80 | (point & 0x3f));
        c[0] = (char)((0xf00 >> n & 0xff) | point);
    }
    fm_write(writer, c, n);
}

void fm_write_many(fm_writer *writer, const char *data, size_t bytes, size_t times) {
    if (!bytes || !times) return;
    if (times > writer->run->left.memory / bytes) fm_refuse(writer->run, FM_EFULL, "it takes more memory than a template may");
    need(writer, bytes * times);
    for (size_t i = 0; i < times; i++) fm_write(writer, data, bytes);
}

const fm_text *fm_written(fm_writer *writer) { return fm_text_borrow(writer->run, writer->data ? writer->data : "", writer->n); }
fm_value fm_written_string(fm_writer *writer) { return fm_string(fm_written(writer)); }

/* ---- values */

fm_value fm_undefined(fm_run *run, const char *format, ...) {
    char sentence[300];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    size_t n = strlen(sentence) + 1;
    return (fm_value){.type = FM_UNDEFINED, .undefined = fm_take_more(run, sentence, n, n)};
}

fm_list *fm_list_new(fm_run *run, size_t cap) {
    fm_list *list = fm_take_zeroed(run, sizeof *list);
    if (cap > run->left.memory / sizeof(fm_value)) fm_refuse(run, FM_EFULL, "it takes more memory than a template may");
    list->items = cap ? fm_take(run, cap * sizeof(fm_value)) : NULL;
    list->cap = cap;
    return list;
}

void fm_list_add(fm_run *run, fm_list *list, fm_value value) {
    if (list->n == list->cap) {
        size_t cap = list->cap ? 2 * list->cap : 4;
        list->items = fm_take_more(run, list->items, list->n * sizeof(fm_value), cap * sizeof(fm_value));
        list->cap = cap;
    }
    list->items[list->n++] = value;
}

fm_value fm_pair_of(fm_run *run, fm_value a, fm_value b) {
    fm_list *list = fm_list_new(run, 2);
    list->items[0] = a;
    list->items[1] = b;
    list->n = 2;
    return fm_of_list(FM_TUPLE, list);
}

static fm_value of_json_object(fm_run *run, const json_t *json) {
    fm_dict *dict = fm_dict_new(run);
    json_t *object = (json_t *)(uintptr_t)json; /* jansson's iterators take no const; nothing is changed */
    for (void *at = json_object_iter(object); at; at = json_object_iter_next(object, at)) {
        const char *key = json_object_iter_key(at);
        fm_dict_set(run, dict, fm_string(fm_text_borrow(run, key, strlen(key))), fm_of_json(run, json_object_iter_value(at)));
    }
    return fm_of_dict(FM_DICT, dict);
}

fm_value fm_of_json(fm_run *run, const json_t *json) {
    fm_value value = fm_none();
    fm_charge(run, 0);
    fm_enter(run);
    switch (json_typeof(json)) {
    case JSON_TRUE: value = fm_bool(true); break;
    case JSON_FALSE: value = fm_bool(false); break;
    case JSON_NULL: break;
    case JSON_INTEGER: value = fm_int(json_integer_value(json)); break;
    case JSON_REAL: value = fm_float(json_real_value(json)); break;
    case JSON_STRING: value = fm_string(fm_text_borrow(run, json_string_value(json), json_string_length(json))); break;
    case JSON_ARRAY: {
        fm_list *list = fm_list_new(run, json_array_size(json));
        for (size_t i = 0; i < json_array_size(json); i++) fm_list_add(run, list, fm_of_json(run, json_array_get(json, i)));
        value = fm_of_list(FM_LIST, list);
        break;
    }
    case JSON_OBJECT: value = of_json_object(run, json); break;
    }
    fm_leave(run);
    return value;
}
