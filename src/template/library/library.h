/* template/library/library.h: what templates call by name: filters, tests, methods of values, global functions and variables. */
#ifndef FM_TEMPLATE_LIBRARY_H
#define FM_TEMPLATE_LIBRARY_H

#include "template/value/value.h"

/* The filter or test of this name, or NULL. `self` of its call is what stands before the bar or `is`. */
const fm_function *fm_filter(const fm_text *name);
const fm_function *fm_test(const fm_text *name);
/* Sets *value to the global of this name (range, dict, namespace, cycler, joiner, lipsum refused, raise_exception, strftime_now, …); false: there is none. */
bool fm_global(const fm_text *name, fm_value *value);

/* value.name and value['name'] in this order, as jinja2's getattr: methods of text, lists and mappings, members of a mapping or namespace, a loop's and a group's members.
 * Undefined if it has none; refuses (FM_EUNSUPPORTED, by name) what Python's type has and this interpreter does not, and what the sandbox would not let through. */
fm_value fm_attribute(fm_run *run, fm_value value, const fm_text *name);
/* value[key], jinja2's getitem: an item, else an attribute of that name, else undefined. */
fm_value fm_item(fm_run *run, fm_value value, fm_value key);

/* Calls what is callable by value: functions, methods, cycler.next, joiner. Macros and recursive loops are the interpreter's (fm_call in interpreter.h comes here for the rest). Refuses what is not callable. */
fm_value fm_call_object(fm_run *run, fm_value callee, const fm_arguments *arguments);

#endif
