/* template/value/compare.c: truth, equality, order, membership, iteration, indexing and slicing as Python has them. See value.h. */
#include <math.h>
#include <string.h>

#include "template/value/value.h"

const char *fm_type_name(fm_value value) {
    static const char *const names[] = {"missing",
                                        "Undefined",
                                        "NoneType",
                                        "bool",
                                        "int",
                                        "float",
                                        "str",
                                        "list",
                                        "tuple",
                                        "dict",
                                        "range",
                                        "dict_keys",
                                        "dict_values",
                                        "dict_items",
                                        "generator",
                                        "Namespace",
                                        "builtin_function_or_method",
                                        "function",
                                        "Macro",
                                        "LoopContext",
                                        "Cycler",
                                        "Joiner"};
    return names[value.type];
}

void fm_refuse_use(fm_run *run, fm_value undefined) { fm_refuse(run, FM_EFORMAT, "%s", undefined.undefined ? undefined.undefined : "a value is undefined"); }

bool fm_is_number(fm_value value) { return value.type == FM_BOOL || value.type == FM_INT || value.type == FM_FLOAT; }

bool fm_as_whole(fm_value value, int64_t *whole) {
    if (value.type != FM_INT && value.type != FM_BOOL) return false;
    *whole = value.type == FM_INT ? value.whole : value.truth;
    return true;
}

int64_t fm_whole(fm_run *run, fm_value value, const char *what) {
    int64_t whole = 0;
    if (value.type == FM_UNDEFINED) fm_refuse_use(run, value);
    if (!fm_as_whole(value, &whole)) fm_refuse(run, FM_EFORMAT, "%s is a whole number, not of type %s", what, fm_type_name(value));
    return whole;
}

double fm_to_double(fm_value number) { return number.type == FM_FLOAT ? number.real : number.type == FM_INT ? (double)number.whole : number.truth; }

bool fm_has_length(fm_value value, size_t *n) {
    switch (value.type) {
    case FM_UNDEFINED: *n = 0; return true;
    case FM_STRING: *n = value.text->points; return true;
    case FM_LIST:
    case FM_TUPLE: *n = value.list->n; return true;
    case FM_DICT:
    case FM_KEYS:
    case FM_VALUES:
    case FM_ITEMS: *n = value.dict->n; return true;
    case FM_RANGE: *n = value.range->n; return true;
    case FM_LOOP: *n = value.loop->n; return true;
    default: return false;
    }
}

bool fm_true(const fm_value *value) {
    size_t n;
    switch (value->type) {
    case FM_NONE:
    case FM_MISSING: return false;
    case FM_BOOL: return value->truth;
    case FM_INT: return value->whole != 0;
    case FM_FLOAT: return value->real != 0;
    default: return !fm_has_length(*value, &n) || n > 0;
    }
}

bool fm_is_iterable(fm_value value) {
    size_t n;
    return value.type == FM_ITERATOR || fm_has_length(value, &n);
}

bool fm_same(fm_value a, fm_value b) {
    if (a.type != b.type) return false;
    switch (a.type) {
    case FM_NONE:
    case FM_MISSING: return true;
    case FM_BOOL: return a.truth == b.truth;
    case FM_FLOAT: return memcmp(&a.real, &b.real, sizeof a.real) == 0;
    default: return a.whole == b.whole; /* pointers too: the union's members are of one size */
    }
}

/* a < b, a == b, a > b as -1, 0, 1; 2 with a NaN. Exact, also where an int is no double. */
static int compare_numbers(fm_value a, fm_value b) {
    int64_t x = 0, y;
    if (a.type == FM_FLOAT && b.type == FM_FLOAT) return isnan(a.real) || isnan(b.real) ? 2 : (a.real > b.real) - (a.real < b.real);
    if (a.type == FM_FLOAT) {
        int c = compare_numbers(b, a);
        return c == 2 ? 2 : -c;
    }
    fm_as_whole(a, &x);
    if (fm_as_whole(b, &y)) return (x > y) - (x < y);
    if (isnan(b.real)) return 2;
    if (b.real >= 0x1p63) return -1;
    if (b.real < -0x1p63) return 1;
    y = (int64_t)b.real;
    if (x != y) return x > y ? 1 : -1;
    double rest = b.real - (double)y;
    return (rest < 0) - (rest > 0);
}

static int compare_texts(const fm_text *a, const fm_text *b) {
    size_t n = a->bytes < b->bytes ? a->bytes : b->bytes;
    int c = n ? memcmp(a->data, b->data, n) : 0;
    return c ? (c > 0) - (c < 0) : (a->bytes > b->bytes) - (a->bytes < b->bytes);
}

static bool equal_dicts(fm_run *run, const fm_dict *a, const fm_dict *b, bool values) {
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++) {
        fm_value *other = fm_dict_find(run, b, a->pairs[i].key);
        if (!other || (values && !fm_equal(run, a->pairs[i].value, *other))) return false;
    }
    return true;
}

static bool equal_lists(fm_run *run, const fm_list *a, const fm_list *b) {
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++) {
        if (!fm_equal(run, a->items[i], b->items[i])) return false;
    }
    return true;
}

bool fm_equal(fm_run *run, fm_value a, fm_value b) {
    bool equal;
    fm_charge(run, a.type == FM_STRING && b.type == FM_STRING && a.text->bytes == b.text->bytes ? a.text->bytes : 0);
    if (fm_is_number(a) && fm_is_number(b)) return compare_numbers(a, b) == 0;
    if (a.type != b.type) return false;
    fm_enter(run);
    switch (a.type) {
    case FM_UNDEFINED:
    case FM_NONE: equal = true; break;
    case FM_STRING: equal = a.text->bytes == b.text->bytes && compare_texts(a.text, b.text) == 0; break;
    case FM_LIST:
    case FM_TUPLE: equal = equal_lists(run, a.list, b.list); break;
    case FM_DICT:
    case FM_ITEMS: equal = equal_dicts(run, a.dict, b.dict, true); break;
    case FM_KEYS: equal = equal_dicts(run, a.dict, b.dict, false); break;
    case FM_RANGE:
        equal = a.range->n == b.range->n && (!a.range->n || (a.range->start == b.range->start && (a.range->n == 1 || a.range->step == b.range->step)));
        break;
    case FM_METHOD: equal = a.method->function == b.method->function && fm_same(a.method->self, b.method->self); break;
    default: equal = fm_same(a, b);
    }
    fm_leave(run);
    return equal;
}

int fm_order_of(fm_run *run, fm_value a, fm_value b, const char *operator) {
    int c = 0;
    if (fm_is_number(a) && fm_is_number(b)) return compare_numbers(a, b);
    if (a.type == FM_UNDEFINED || b.type == FM_UNDEFINED) fm_refuse_use(run, a.type == FM_UNDEFINED ? a : b);
    if (a.type == FM_STRING && b.type == FM_STRING) {
        fm_charge(run, a.text->bytes < b.text->bytes ? a.text->bytes : b.text->bytes);
        return compare_texts(a.text, b.text);
    }
    if (a.type != b.type || (a.type != FM_LIST && a.type != FM_TUPLE)) {
        fm_refuse(run, FM_EFORMAT, "'%s' not supported between '%s' and '%s'", operator, fm_type_name(a), fm_type_name(b));
    }
    fm_enter(run);
    for (size_t i = 0; i < a.list->n && i < b.list->n; i++) {
        fm_value x = a.list->items[i], y = b.list->items[i];
        if (fm_same(x, y) || fm_equal(run, x, y)) continue;
        c = fm_order_of(run, x, y, operator);
        fm_leave(run);
        return c;
    }
    fm_leave(run);
    return (a.list->n > b.list->n) - (a.list->n < b.list->n);
}

static bool in_range(const fm_span *range, fm_value item) {
    if (!fm_is_number(item)) return false;
    for (size_t i = 0; i < range->n; i++) { /* a range is short: the sandbox sees to it */
        if (compare_numbers(fm_int(range->start + (int64_t)i * range->step), item) == 0) return true;
    }
    return false;
}

bool fm_contains(fm_run *run, fm_value container, fm_value item) {
    switch (container.type) {
    case FM_STRING:
        if (item.type != FM_STRING) fm_refuse(run, FM_EFORMAT, "'in <string>' requires string as left operand, not %s", fm_type_name(item));
        fm_charge(run, container.text->bytes);
        return fm_find(container.text->data, container.text->bytes, item.text->data, item.text->bytes) != SIZE_MAX;
    case FM_DICT:
    case FM_KEYS: return fm_dict_find(run, container.dict, item) != NULL;
    case FM_RANGE: fm_charge(run, container.range->n * 8); return in_range(container.range, item);
    default: break;
    }
    if (!fm_is_iterable(container)) fm_refuse(run, FM_EFORMAT, "argument of type '%s' is not iterable", fm_type_name(container));
    if (container.type == FM_ITERATOR) { /* which then has gone as far as what was found */
        fm_list *list = container.list;
        while (list->at < list->n) {
            fm_value next = list->items[list->at++];
            if (fm_same(next, item) || fm_equal(run, next, item)) return true;
        }
        return false;
    }
    fm_list *list = fm_items(run, container);
    for (size_t i = 0; i < list->n; i++) {
        if (fm_same(list->items[i], item) || fm_equal(run, list->items[i], item)) return true;
    }
    return false;
}

/* The characters of text. Those of what is safe are plain text, as Python has it. */
static fm_list *points_of(fm_run *run, const fm_text *safe) {
    fm_text plain = *safe, *text = &plain;
    fm_list *list = fm_list_new(run, text->points);
    text->markup = false;
    for (size_t at = 0, n; at < text->bytes; at += n) {
        fm_point(text->data + at, text->bytes - at, &n);
        fm_list_add(run, list, fm_string(fm_text_part(run, text, at, n)));
    }
    return list;
}

fm_list *fm_items(fm_run *run, fm_value value) {
    fm_list *list;
    switch (value.type) {
    case FM_LIST:
    case FM_TUPLE: return value.list;
    case FM_ITERATOR:
        list = fm_list_new(run, 0);
        if (value.list->at < value.list->n) list->items = value.list->items + value.list->at;
        list->n = list->cap = value.list->n - value.list->at;
        value.list->at = value.list->n;
        return list;
    case FM_UNDEFINED: return fm_list_new(run, 0);
    case FM_STRING: return points_of(run, value.text);
    case FM_RANGE:
        list = fm_list_new(run, value.range->n);
        for (size_t i = 0; i < value.range->n; i++) fm_list_add(run, list, fm_int(value.range->start + (int64_t)i * value.range->step));
        return list;
    case FM_DICT:
    case FM_KEYS:
    case FM_VALUES:
    case FM_ITEMS:
        list = fm_list_new(run, value.dict->n);
        for (size_t i = 0; i < value.dict->n; i++) {
            const fm_pair *pair = &value.dict->pairs[i];
            fm_list_add(run, list, value.type == FM_ITEMS ? fm_pair_of(run, pair->key, pair->value) : value.type == FM_VALUES ? pair->value : pair->key);
        }
        return list;
    default: fm_refuse(run, FM_EFORMAT, "'%s' object is not iterable", fm_type_name(value));
    }
}

fm_value fm_index(fm_run *run, fm_value container, fm_value key, bool *found) {
    size_t n = 0;
    int64_t i;
    *found = false;
    if (container.type == FM_UNDEFINED) fm_refuse_use(run, container);
    if (container.type == FM_DICT) {
        if (key.type == FM_LIST || key.type == FM_DICT || key.type == FM_ITEMS || key.type == FM_KEYS) return fm_none();
        fm_value *value = fm_dict_find(run, container.dict, key);
        *found = value != NULL;
        return value ? *value : fm_none();
    }
    if (container.type != FM_STRING && container.type != FM_LIST && container.type != FM_TUPLE && container.type != FM_RANGE) return fm_none();
    fm_has_length(container, &n);
    if (!fm_as_whole(key, &i) || i >= (int64_t)n || i < -(int64_t)n) return fm_none();
    if (i < 0) i += (int64_t)n;
    *found = true;
    if (container.type == FM_RANGE) return fm_int(container.range->start + i * container.range->step);
    if (container.type != FM_STRING) return container.list->items[i];
    size_t at = fm_text_at(run, container.text, (size_t)i), length;
    fm_point(container.text->data + at, container.text->bytes - at, &length);
    return fm_string(fm_text_part(run, container.text, at, length));
}

/* A bound of a slice as Python reads it: default if none, else from the end if negative, within [low, high]. */
static int64_t bound(fm_run *run, fm_value value, int64_t n, const int64_t range[2], int64_t otherwise) {
    int64_t i;
    if (value.type == FM_MISSING || value.type == FM_NONE) return otherwise;
    if (value.type == FM_UNDEFINED) fm_refuse_use(run, value);
    if (!fm_as_whole(value, &i)) fm_refuse(run, FM_EFORMAT, "slice indices must be integers or None, not %s", fm_type_name(value));
    if (i < 0) i = i < -n ? range[0] : i + n;
    return i < range[0] ? range[0] : i > range[1] ? range[1] : i;
}

/* Indices from, to and step of a range's items, as a range of count items. */
static fm_value slice_of_range(fm_run *run, const fm_span *range, const int64_t *indices, size_t count) {
    fm_span *span = fm_take(run, sizeof *span);
    int64_t bounds[2];
    bool too_large = __builtin_mul_overflow(range->step, indices[2], &span->step);
    for (int i = 0; i < 2; i++) {
        too_large |= __builtin_mul_overflow(indices[i], range->step, &bounds[i]) || __builtin_add_overflow(range->start, bounds[i], &bounds[i]);
    }
    if (too_large) fm_refuse(run, FM_EUNSUPPORTED, "a whole number beyond 64 bits");
    span->start = bounds[0];
    span->stop = bounds[1];
    span->n = count;
    return (fm_value){.type = FM_RANGE, .range = span};
}

fm_value fm_slice(fm_run *run, fm_value container, const fm_value *bounds) {
    size_t length = 0;
    int64_t step = 1;
    if (bounds[2].type != FM_MISSING && bounds[2].type != FM_NONE) step = fm_whole(run, bounds[2], "a slice's step");
    if (step == 0) fm_refuse(run, FM_EFORMAT, "slice step cannot be zero");
    if (container.type == FM_UNDEFINED) fm_refuse_use(run, container);
    if (container.type != FM_STRING && container.type != FM_LIST && container.type != FM_TUPLE && container.type != FM_RANGE) {
        fm_refuse(run, FM_EFORMAT, "a slice of a value of type %s", fm_type_name(container));
    }
    fm_has_length(container, &length);
    int64_t n = (int64_t)length, range[2] = {step < 0 ? -1 : 0, step < 0 ? n - 1 : n};
    int64_t from = bound(run, bounds[0], n, range, step < 0 ? n - 1 : 0), to = bound(run, bounds[1], n, range, step < 0 ? -1 : n);
    size_t count =
        step > 0 ? (to > from ? (size_t)((to - from - 1) / step + 1) : 0) : (from > to ? (size_t)((from - to - 1) / -(step + (step == INT64_MIN)) + 1) : 0);
    if (container.type == FM_RANGE) return slice_of_range(run, container.range, (int64_t[3]){from, to, step}, count);
    if (count < 2) step = 1; /* it may be larger than any product with it */
    if (container.type == FM_STRING && step == 1) {
        size_t begin = fm_text_at(run, container.text, (size_t)from), end = count ? fm_text_at(run, container.text, (size_t)from + count) : begin;
        return fm_string(fm_text_part(run, container.text, begin, end - begin));
    }
    fm_list *all = fm_items(run, container), *list = fm_list_new(run, count);
    fm_charge(run, count * sizeof(fm_value));
    for (size_t i = 0; i < count; i++) list->items[i] = all->items[from + (int64_t)i * step];
    list->n = count;
    if (container.type != FM_STRING) return fm_of_list(container.type, list);
    fm_writer writer = {.run = run};
    for (size_t i = 0; i < count; i++) fm_write_text(&writer, list->items[i].text);
    fm_text *text = fm_take(run, sizeof *text);
    *text = *fm_written(&writer);
    text->markup = container.text->markup;
    return fm_string(text);
}

void fm_sort(fm_run *run, fm_list *list, const fm_list *keys, bool reverse) {
    size_t n = list->n;
    fm_value *item = fm_take(run, 4 * (n + 1) * sizeof *item), *key = item + n, *item2 = key + n, *key2 = item2 + n;
    for (size_t i = 0; i < n; i++) {
        item[i] = list->items[i];
        key[i] = keys ? keys->items[i] : list->items[i];
    }
    for (size_t width = 1; width < n; width *= 2) { /* merging from the bottom: stable, and so is it reversed */
        for (size_t from = 0; from < n; from += 2 * width) {
            size_t middle = from + width < n ? from + width : n, to = middle + width < n ? middle + width : n, a = from, b = middle;
            for (size_t i = from; i < to; i++) {
                bool second = a == middle;
                fm_charge(run, 0);
                if (!second && b < to) second = reverse ? fm_order_of(run, key[a], key[b], "<") == -1 : fm_order_of(run, key[b], key[a], "<") == -1;
                size_t take = second ? b++ : a++;
                item2[i] = item[take];
                key2[i] = key[take];
            }
        }
        fm_value *t = item;
        item = item2, item2 = t, t = key, key = key2, key2 = t;
    }
    for (size_t i = 0; i < n; i++) list->items[i] = item[i];
}
