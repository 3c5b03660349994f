/* template/library/inner.h: what the library's own files and the filters share. */
#ifndef FM_TEMPLATE_LIBRARY_INNER_H
#define FM_TEMPLATE_LIBRARY_INNER_H

#include "template/library/library.h"

/* A table of functions, and how many. */
typedef struct fm_table {
    const fm_function *functions;
    size_t n;
} fm_table;

/* A function that templates call, as fm_function has it: FM_CALLABLE(filter_first) { … }. Few use all of their arguments. */
#define FM_UNUSED __attribute__((unused))
#define FM_CALLABLE(name)                                                                                                                                      \
    static fm_value name(FM_UNUSED fm_run *run, FM_UNUSED fm_value self, FM_UNUSED const fm_value *given, FM_UNUSED const fm_arguments *rest)

/* methods.c, containers.c: of text and of containers; n 0: the type has none. */
fm_table fm_text_methods(void);
fm_table fm_container_methods(fm_type type);
/* globals.c: what `dict` makes of its arguments. */
fm_dict *fm_make_dict(fm_run *run, const fm_arguments *arguments);
extern const fm_function fm_dict_from_keys;

/* attributes.c: value's attribute in Python's sense, without a look at its items. Unsafe ones are undefined values. */
bool fm_member(fm_run *run, fm_value value, const fm_text *name, fm_value *member);
/* How many items a loop has, all of them found. */
size_t fm_loop_length(fm_run *run, fm_loop *loop);
/* What Python's repr has for its type in "'dict object' has no attribute 'x'". */
const char *fm_object_name(fm_value value);

/* Arguments. `given`: neither left out nor none. */
static inline bool fm_given(fm_value value) { return value.type != FM_MISSING && value.type != FM_NONE; }
static inline bool fm_flag(fm_value value) { return fm_true(&value); }
/* The text of a string; refuses other types. `what` names it in the refusal. */
const fm_text *fm_text_of(fm_run *run, fm_value value, const char *what);
/* text as a string value that is, or is not, marked as safe. */
fm_value fm_marked(fm_run *run, const fm_text *text, bool markup);
/* A string of an ASCII number of any base as int() reads it, a sign and spaces around it; false: it is none. */
bool fm_parse_whole(fm_run *run, const fm_text *text, int64_t base, int64_t *whole);

#endif
