/* template/value/value.h: what a template computes with: Python's values as far as templates see them, and the run that owns them.
 *
 * Everything that a run makes lies in its arena and goes with it. A refusal leaves by longjmp (fm_refuse), so that no operation has an error to pass on; nothing
 * between setjmp and a refusal may own memory outside of the arena. Every operation pays for its work (fm_charge), so that a template's time is bounded. */
#ifndef FM_TEMPLATE_VALUE_H
#define FM_TEMPLATE_VALUE_H

#include <jansson.h>
#include <setjmp.h>

#include "base/error.h"

typedef struct fm_limits {
    int64_t steps; /* nodes evaluated, and bytes moved / 32 */
    size_t memory; /* bytes in the arena */
    size_t output; /* bytes of text */
    int depth;     /* of calls within calls */
} fm_limits;

typedef struct fm_chunk fm_chunk;

/* A parse or a rendering. */
typedef struct fm_run {
    jmp_buf refused;
    fm_error *err;
    int code;         /* of the refusal */
    const char *name; /* of the template, for messages */
    int line;         /* where it is */
    int64_t now;
    fm_limits left;
    fm_chunk *chunks;
    char *free; /* of the newest chunk */
    size_t n_free;
    void *interpreter; /* what evaluation keeps for itself */
} fm_run;

/* Sets the error "NAME line LINE: …" and leaves to run->refused. */
__attribute__((noreturn, format(printf, 3, 4))) void fm_refuse(fm_run *run, int code, const char *format, ...);
/* Memory of the arena, not zeroed; aligned for any value. */
void *fm_take(fm_run *run, size_t bytes);
void *fm_take_zeroed(fm_run *run, size_t bytes);
void *fm_take_more(fm_run *run, const void *old, size_t old_bytes, size_t bytes);
void fm_run_close(fm_run *run);

static inline void fm_charge(fm_run *run, size_t bytes) {
    run->left.steps -= 1 + (int64_t)(bytes / 32);
    if (run->left.steps < 0) fm_refuse(run, FM_EFULL, "more work than a template may ask for");
}
static inline void fm_enter(fm_run *run) {
    if (--run->left.depth < 0) fm_refuse(run, FM_EFULL, "nested too deeply");
}
static inline void fm_leave(fm_run *run) { run->left.depth++; }

typedef enum fm_type {
    FM_MISSING, /* no value at all: an argument that was not given */
    FM_UNDEFINED,
    FM_NONE,
    FM_BOOL,
    FM_INT,
    FM_FLOAT,
    FM_STRING,
    FM_LIST,
    FM_TUPLE,
    FM_DICT,
    FM_RANGE,
    FM_KEYS, /* views of a dict */
    FM_VALUES,
    FM_ITEMS,
    FM_ITERATOR,  /* a generator: once through */
    FM_NAMESPACE, /* a dict that can be set */
    FM_METHOD,    /* of a value, bound to it */
    FM_FUNCTION,  /* a global */
    FM_MACRO,
    FM_LOOP,
    FM_CYCLER,
    FM_JOINER,
} fm_type;

typedef struct fm_buffer fm_buffer;
typedef struct fm_list fm_list;
typedef struct fm_dict fm_dict;
typedef struct fm_span fm_span; /* of range() */
typedef struct fm_method fm_method;
typedef struct fm_function fm_function;
typedef struct fm_macro fm_macro;
typedef struct fm_loop fm_loop;
typedef struct fm_cycler fm_cycler;

/* Text: UTF-8, valid. Immutable; a long one may share its buffer with what was appended to it. */
typedef struct fm_text {
    const char *data;
    size_t bytes, points; /* points: of Unicode */
    fm_buffer *buffer;    /* that data ends in, or NULL */
    bool markup;          /* it came from `safe` or `escape` */
} fm_text;

typedef struct fm_value {
    fm_type type;
    union {
        bool truth;
        int64_t whole;
        double real;
        const fm_text *text;
        fm_list *list; /* list, tuple, iterator */
        fm_dict *dict; /* dict, its views, namespace */
        fm_span *range;
        fm_method *method;
        const fm_function *function;
        fm_macro *macro;
        fm_loop *loop;
        fm_cycler *cycler;     /* joiner too */
        const char *undefined; /* the sentence that its use gives */
    };
} fm_value;

struct fm_list {
    fm_value *items;
    size_t n, cap;
    size_t at;     /* of an iterator: how many are taken */
    bool reversed; /* an iterator made by `reverse` */
    bool group;    /* a tuple of `groupby`: .grouper and .list */
};

typedef struct fm_pair {
    fm_value key, value;
} fm_pair;

struct fm_dict {
    fm_pair *pairs; /* in order of insertion */
    size_t n, cap;
    uint32_t *slots; /* hash table of pair numbers + 1, from 9 pairs on */
    size_t n_slots;
};

struct fm_span {
    int64_t start, stop, step;
    size_t n;
};

struct fm_macro {
    const fm_text *name; /* NULL: a call block's */
    const fm_text *const *parameters;
    size_t n_parameters;
    bool varargs, kwargs, caller; /* which it takes */
    const void *node;             /* the interpreter's */
    void *scope;
};

struct fm_cycler {
    fm_list *items;
    const fm_text *separator; /* of a joiner */
    size_t at;
};

struct fm_loop {
    fm_value *items;                          /* of the whole loop, where nothing filters them */
    size_t n;                                 /* how many are known: all of them, or as far as the filter came */
    size_t index;                             /* from 0 */
    int depth;                                /* from 0 */
    bool (*more)(fm_run *run, fm_loop *loop); /* finds the next item that passes the filter; NULL: there is none */
    void *filter;
    fm_list *changed; /* the last arguments of changed() */
    void *recursive;  /* how to call it, or NULL */
};

/* Arguments of a call. */
typedef struct fm_arguments {
    fm_value *values;
    size_t n;
    const fm_text **names; /* of the keyword arguments */
    fm_value *named;
    size_t n_named;
} fm_arguments;

/* Something that is called by name. parameters: names by spaces, '?' behind an optional one, a leading '/' if none can be given by keyword, '*' for any others (then `rest` has them). */
struct fm_function {
    const char *name;
    fm_value (*call)(fm_run *run, fm_value self, const fm_value *given, const fm_arguments *rest);
    const char *parameters;
};

struct fm_method {
    fm_value self;
    const fm_function *function;
};

#define FM_MOST_PARAMETERS 8
/* Calls function with arguments put in the order of its parameters; a missing or unknown one is refused. */
fm_value fm_call_function(fm_run *run, const fm_function *function, fm_value self, const fm_arguments *arguments);
/* The entry of a table of n that has this name, or NULL. */
const fm_function *fm_find_function(const fm_function *table, size_t n, const fm_text *name);

/* ---- making values */
static inline fm_value fm_none(void) { return (fm_value){.type = FM_NONE}; }
static inline fm_value fm_bool(bool truth) { return (fm_value){.type = FM_BOOL, .truth = truth}; }
static inline fm_value fm_int(int64_t whole) { return (fm_value){.type = FM_INT, .whole = whole}; }
static inline fm_value fm_float(double real) { return (fm_value){.type = FM_FLOAT, .real = real}; }
static inline fm_value fm_string(const fm_text *text) { return (fm_value){.type = FM_STRING, .text = text}; }
static inline fm_value fm_of_list(fm_type type, fm_list *list) { return (fm_value){.type = type, .list = list}; }
static inline fm_value fm_of_dict(fm_type type, fm_dict *dict) { return (fm_value){.type = type, .dict = dict}; }
__attribute__((format(printf, 2, 3))) fm_value fm_undefined(fm_run *run, const char *format, ...);
/* A value of JSON; strings are borrowed. */
fm_value fm_of_json(fm_run *run, const json_t *json);

/* ---- text (value.c) */
fm_text *fm_text_borrow(fm_run *run, const char *data, size_t bytes); /* valid UTF-8 that outlives the run */
fm_text *fm_text_copy(fm_run *run, const char *data, size_t bytes);
fm_text *fm_text_part(fm_run *run, const fm_text *text, size_t at, size_t bytes); /* bytes of it, whole points; shares them */
fm_value fm_string_of(fm_run *run, const char *literal);
const fm_text *fm_concat(fm_run *run, const fm_text *a, const fm_text *b);
bool fm_text_is(const fm_text *text, const char *literal);
size_t fm_count_points(const char *data, size_t bytes);
/* The byte where point number `point` begins (the end if there are fewer). */
size_t fm_text_at(fm_run *run, const fm_text *text, size_t point);

/* Text being written. */
typedef struct fm_writer {
    fm_run *run;
    char *data;
    size_t n, cap;
} fm_writer;
void fm_write(fm_writer *writer, const char *data, size_t bytes);
void fm_write_text(fm_writer *writer, const fm_text *text);
void fm_write_literal(fm_writer *writer, const char *literal);
void fm_write_point(fm_writer *writer, int32_t point);
void fm_write_many(fm_writer *writer, const char *data, size_t bytes, size_t times); /* refuses what would not fit before it writes */
const fm_text *fm_written(fm_writer *writer);
fm_value fm_written_string(fm_writer *writer);

/* ---- containers (value.c, dict.c) */
fm_list *fm_list_new(fm_run *run, size_t cap);
void fm_list_add(fm_run *run, fm_list *list, fm_value value);
fm_dict *fm_dict_new(fm_run *run);
fm_value *fm_dict_find(fm_run *run, const fm_dict *dict, fm_value key); /* NULL: not there; refuses a key that has no hash */
fm_value *fm_dict_find_text(const fm_dict *dict, const fm_text *key);
void fm_dict_set(fm_run *run, fm_dict *dict, fm_value key, fm_value value);
fm_value fm_pair_of(fm_run *run, fm_value a, fm_value b); /* a tuple */

/* ---- what Python does with values (compare.c, number.c) */
bool fm_true(const fm_value *value);
bool fm_equal(fm_run *run, fm_value a, fm_value b);
bool fm_same(fm_value a, fm_value b);                                       /* `is` */
int fm_order_of(fm_run *run, fm_value a, fm_value b, const char *operator); /* -1, 0, 1; 2: not ordered (NaN). Refuses what has no order */
bool fm_contains(fm_run *run, fm_value container, fm_value item);
bool fm_is_iterable(fm_value value);
bool fm_is_number(fm_value value); /* bool too */
bool fm_has_length(fm_value value, size_t *n);
/* All items of an iterable as a list (an iterator's are then gone). Not a copy: do not change it. Refuses what cannot be iterated. */
fm_list *fm_items(fm_run *run, fm_value value);
/* Sorts in place, stable; keys (of the same number) are what is compared, NULL: the items themselves. */
void fm_sort(fm_run *run, fm_list *list, const fm_list *keys, bool reverse);
const char *fm_type_name(fm_value value);                                   /* Python's */
fm_value fm_arithmetic(fm_run *run, char operator, fm_value a, fm_value b); /* + - * / i (//) % ^ (**) */
fm_value fm_negative(fm_run *run, fm_value a, bool negative);
fm_value fm_index(fm_run *run, fm_value container, fm_value key, bool *found); /* container[key] where it has it */
fm_value fm_slice(fm_run *run, fm_value container, const fm_value *bounds);    /* start, stop, step; MISSING or none for what is not given */
double fm_to_double(fm_value number);
bool fm_as_whole(fm_value value, int64_t *whole); /* an int or bool */
int64_t fm_whole(fm_run *run, fm_value value, const char *what);
bool fm_parse_real(const char *data, size_t bytes, double *real); /* all of it, as Python's float() without spaces */
__attribute__((noreturn)) void fm_refuse_use(fm_run *run, fm_value undefined);

/* ---- as text (print.c, json.c) */
const fm_text *fm_str(fm_run *run, fm_value value);
void fm_write_str(fm_writer *writer, fm_value value);
void fm_write_repr(fm_writer *writer, fm_value value);
void fm_write_real(fm_writer *writer, double real);
typedef struct fm_json_style {
    bool ascii, sort;
    const fm_text *indent, *item, *colon; /* indent: of one level, or NULL */
} fm_json_style;
void fm_write_json(fm_writer *writer, fm_value value, const fm_json_style *style);
const fm_text *fm_escape(fm_run *run, fm_value value); /* HTML's */

/* ---- printf and str.format (library/format.c) */
fm_value fm_percent(fm_run *run, const fm_text *format, fm_value arguments);
fm_value fm_format_text(fm_run *run, const fm_text *format, const fm_arguments *arguments);
void fm_format_real(fm_writer *writer, double real, char kind, int precision, bool alternate);

/* ---- Unicode (text.c) */
bool fm_point_is_space(int32_t point);
bool fm_point_is_word(int32_t point); /* \w of a regular expression */
int32_t fm_point(const char *data, size_t bytes, size_t *length);
int32_t fm_point_before(const char *data, size_t end, size_t *length);
const fm_text *fm_upper(fm_run *run, const fm_text *text);
const fm_text *fm_lower(fm_run *run, const fm_text *text);
const fm_text *fm_title(fm_run *run, const fm_text *text);
const fm_text *fm_capitalize(fm_run *run, const fm_text *text);
const fm_text *fm_swapcase(fm_run *run, const fm_text *text);
const fm_text *fm_casefold(fm_run *run, const fm_text *text);
/* chars NULL: white space. sides: 1 left, 2 right, 3 both. */
const fm_text *fm_strip(fm_run *run, const fm_text *text, const fm_text *chars, int sides);
size_t fm_find(const char *data, size_t bytes, const char *what, size_t n); /* (size_t)-1: not there */
const fm_text *fm_replace(fm_run *run, const fm_text *text, const fm_text *from, const fm_text *to, int64_t most);
fm_list *fm_split(fm_run *run, const fm_text *text, const fm_text *separator, int64_t most, bool from_right);
fm_list *fm_split_lines(fm_run *run, const fm_text *text, bool keep);
/* isalpha and the like by name; 0 also for empty text. */
bool fm_text_all(const fm_text *text, const char *kind);

#endif
