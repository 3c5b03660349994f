/* template/filters/lists.c: filters of sequences and mappings. What is lazy in jinja2 is worked out at once here and then gone through once. See library.h. */
#include <string.h>

#include "template/filters/filters.h"

/* ---- attributes of items */

/* "a.b.0" as the keys to look up one after the other; an attribute that is no text is a key itself. */
static fm_list *path_of(fm_run *run, fm_value attribute) {
    fm_list *parts = fm_list_new(run, 0);
    if (!fm_given(attribute)) return parts;
    if (attribute.type != FM_STRING) {
        fm_list_add(run, parts, attribute);
        return parts;
    }
    const fm_list *names = fm_split(run, attribute.text, fm_text_borrow(run, ".", 1), -1, false);
    for (size_t i = 0; i < names->n; i++) {
        int64_t number;
        bool digits = fm_text_all(names->items[i].text, "isdigit");
        if (digits && !fm_parse_whole(run, names->items[i].text, 10, &number)) fm_refuse(run, FM_EFORMAT, "an attribute's number is too large or none");
        fm_list_add(run, parts, digits ? fm_int(number) : names->items[i]);
    }
    return parts;
}

/* What the path leads to from item; otherwise (where it is given) stands for undefined values on the way. */
static fm_value follow(fm_run *run, fm_value item, const fm_list *path, fm_value otherwise) {
    for (size_t i = 0; i < path->n; i++) {
        item = fm_item(run, item, path->items[i]);
        if (item.type == FM_UNDEFINED && fm_given(otherwise)) item = otherwise;
    }
    return item;
}

static fm_value fold(fm_run *run, fm_value value, bool case_sensitive) {
    return value.type == FM_STRING && !case_sensitive ? fm_string(fm_lower(run, value.text)) : value;
}

/* A list of its own, of what path leads to from each item, in one case unless case_sensitive. */
static fm_list *keys_of(fm_run *run, const fm_list *items, const fm_list *path, fm_value otherwise, bool case_sensitive) {
    fm_list *keys = fm_list_new(run, items->n);
    for (size_t i = 0; i < items->n; i++) fm_list_add(run, keys, fold(run, follow(run, items->items[i], path, otherwise), case_sensitive));
    return keys;
}

static fm_list *copy_of(fm_run *run, const fm_list *list) {
    fm_list *copy = fm_list_new(run, list->n);
    fm_charge(run, list->n * sizeof(fm_value));
    for (size_t i = 0; i < list->n; i++) fm_list_add(run, copy, list->items[i]);
    return copy;
}

/* ---- one item, or one value of all */

FM_CALLABLE(filter_first) {
    if (self.type == FM_ITERATOR && self.list->at < self.list->n) return self.list->items[self.list->at++];
    const fm_list *items = fm_items(run, self);
    return items->n ? items->items[0] : fm_undefined(run, "No first item, sequence was empty.");
}

FM_CALLABLE(filter_last) {
    if (self.type == FM_ITERATOR || self.type == FM_LOOP) fm_refuse(run, FM_EFORMAT, "'%s' object is not reversible", fm_type_name(self));
    const fm_list *items = fm_items(run, self);
    return items->n ? items->items[items->n - 1] : fm_undefined(run, "No last item, sequence was empty.");
}

static fm_value extreme(fm_run *run, fm_value self, const fm_value *given, const char *operator) {
    const fm_list *items = fm_items(run, self);
    if (!items->n) return fm_undefined(run, "No aggregated item, sequence was empty.");
    const fm_list *keys = keys_of(run, items, path_of(run, given[1]), fm_none(), fm_flag(given[0]));
    size_t best = 0;
    for (size_t i = 1; i < items->n; i++) {
        fm_charge(run, 0);
        if (fm_order_of(run, keys->items[i], keys->items[best], operator) == (*operator== '<' ? -1 : 1)) best = i;
    }
    return items->items[best];
}

FM_CALLABLE(filter_min) { return extreme(run, self, given, "<"); }

FM_CALLABLE(filter_max) { return extreme(run, self, given, ">"); }

FM_CALLABLE(filter_sum) {
    const fm_list *items = fm_items(run, self), *path = path_of(run, given[0]);
    fm_value sum = given[1].type == FM_MISSING ? fm_int(0) : given[1];
    if (sum.type == FM_STRING) fm_refuse(run, FM_EFORMAT, "sum() can't sum strings");
    for (size_t i = 0; i < items->n; i++) sum = fm_arithmetic(run, '+', sum, follow(run, items->items[i], path, fm_none()));
    return sum;
}

FM_CALLABLE(filter_join) {
    const fm_list *items = fm_items(run, self), *path = path_of(run, given[1]);
    const fm_text *separator = given[0].type == FM_MISSING ? fm_text_borrow(run, "", 0) : fm_str(run, given[0]);
    fm_writer writer = {.run = run};
    for (size_t i = 0; i < items->n; i++) {
        if (i) fm_write_text(&writer, separator);
        fm_write_str(&writer, follow(run, items->items[i], path, fm_none()));
        fm_charge(run, 0);
    }
    return fm_written_string(&writer);
}

FM_CALLABLE(filter_length) {
    size_t n;
    if (self.type == FM_LOOP) return fm_int((int64_t)fm_loop_length(run, self.loop));
    if (!fm_has_length(self, &n)) fm_refuse(run, FM_EFORMAT, "object of type '%s' has no len()", fm_type_name(self));
    return fm_int((int64_t)n);
}

/* ---- other lists */

FM_CALLABLE(filter_list) { return fm_of_list(FM_LIST, copy_of(run, fm_items(run, self))); }

FM_CALLABLE(filter_items) {
    if (self.type == FM_UNDEFINED) return fm_of_list(FM_ITERATOR, fm_list_new(run, 0));
    if (self.type != FM_DICT) fm_refuse(run, FM_EFORMAT, "Can only get item pairs from a mapping.");
    return fm_of_list(FM_ITERATOR, fm_items(run, fm_of_dict(FM_ITEMS, self.dict)));
}

FM_CALLABLE(filter_reverse) {
    if (self.type == FM_STRING) {
        fm_value bounds[3] = {fm_none(), fm_none(), fm_int(-1)};
        return fm_slice(run, self, bounds);
    }
    const fm_list *items = fm_items(run, self);
    fm_list *reversed = fm_list_new(run, items->n);
    for (size_t i = items->n; i-- > 0;) fm_list_add(run, reversed, items->items[i]);
    fm_charge(run, items->n * sizeof(fm_value));
    reversed->reversed = self.type != FM_ITERATOR; /* reversed() knows no iterators: of one it is a list */
    return fm_of_list(self.type == FM_ITERATOR ? FM_LIST : FM_ITERATOR, reversed);
}

static bool reversed(fm_run *run, fm_value value) { return value.type != FM_MISSING && fm_whole(run, value, "'reverse'") != 0; }

FM_CALLABLE(filter_sort) {
    fm_list *items = copy_of(run, fm_items(run, self)), *keys = fm_list_new(run, items->n), *paths = fm_list_new(run, 0);
    if (given[2].type == FM_STRING) {
        const fm_list *names = fm_split(run, given[2].text, fm_text_borrow(run, ",", 1), -1, false);
        for (size_t i = 0; i < names->n; i++) fm_list_add(run, paths, fm_of_list(FM_LIST, path_of(run, names->items[i])));
    } else {
        fm_list_add(run, paths, fm_of_list(FM_LIST, path_of(run, given[2])));
    }
    for (size_t i = 0; i < items->n; i++) { /* a key is a list even of one value: what is equal is then never asked which is smaller */
        fm_list *key = fm_list_new(run, paths->n);
        for (size_t k = 0; k < paths->n; k++) {
            fm_list_add(run, key, fold(run, follow(run, items->items[i], paths->items[k].list, fm_none()), fm_flag(given[1])));
        }
        fm_list_add(run, keys, fm_of_list(FM_LIST, key));
    }
    fm_sort(run, items, keys, reversed(run, given[0]));
    return fm_of_list(FM_LIST, items);
}

FM_CALLABLE(filter_dictsort) {
    bool by_value = given[1].type == FM_STRING && fm_text_is(given[1].text, "value");
    if (given[1].type != FM_MISSING && !by_value && !(given[1].type == FM_STRING && fm_text_is(given[1].text, "key"))) {
        fm_refuse(run, FM_EFORMAT, "You can only sort by either \"key\" or \"value\"");
    }
    if (self.type == FM_UNDEFINED) fm_refuse_use(run, self);
    if (self.type != FM_DICT) fm_refuse(run, FM_EFORMAT, "dictsort takes a mapping, not a value of type %s", fm_type_name(self));
    fm_list *items = fm_items(run, fm_of_dict(FM_ITEMS, self.dict)), *path = fm_list_new(run, 1);
    fm_list_add(run, path, fm_int(by_value));
    fm_sort(run, items, keys_of(run, items, path, fm_none(), fm_flag(given[0])), reversed(run, given[2]));
    return fm_of_list(FM_LIST, items);
}

FM_CALLABLE(filter_unique) {
    const fm_list *items = fm_items(run, self), *keys = keys_of(run, items, path_of(run, given[1]), fm_none(), fm_flag(given[0]));
    fm_list *unique = fm_list_new(run, 0);
    fm_dict *seen = fm_dict_new(run);
    for (size_t i = 0; i < items->n; i++) {
        if (fm_dict_find(run, seen, keys->items[i])) continue;
        fm_dict_set(run, seen, keys->items[i], fm_none());
        fm_list_add(run, unique, items->items[i]);
    }
    return fm_of_list(FM_ITERATOR, unique);
}

FM_CALLABLE(filter_groupby) {
    fm_list *items = copy_of(run, fm_items(run, self)), *path = path_of(run, given[0]), *groups = fm_list_new(run, 0), *group = NULL;
    bool case_sensitive = fm_flag(given[2]);
    fm_sort(run, items, keys_of(run, items, path, given[1], case_sensitive), false);
    const fm_list *keys = keys_of(run, items, path, given[1], case_sensitive);
    for (size_t i = 0, first = 0; i < items->n; i++) {
        if (!group || (!fm_same(keys->items[first], keys->items[i]) && !fm_equal(run, keys->items[first], keys->items[i]))) {
            group = fm_list_new(run, 0);
            fm_value pair = fm_pair_of(run, follow(run, items->items[i], path, given[1]), fm_of_list(FM_LIST, group));
            pair.list->group = true;
            fm_list_add(run, groups, pair);
        }
        fm_list_add(run, group, items->items[i]);
        first = i; /* equal to those before it */
    }
    return fm_of_list(FM_LIST, groups);
}

FM_CALLABLE(filter_batch) {
    const fm_list *items = fm_items(run, self);
    fm_list *batches = fm_list_new(run, 0), *batch = fm_list_new(run, 0);
    int64_t size = fm_whole(run, given[0], "a batch's size");
    for (size_t i = 0; i < items->n; i++) {
        if ((int64_t)batch->n == size) {
            fm_list_add(run, batches, fm_of_list(FM_LIST, batch));
            batch = fm_list_new(run, 0);
        }
        fm_list_add(run, batch, items->items[i]);
    }
    if (batch->n) {
        while (fm_given(given[1]) && (int64_t)batch->n < size) {
            fm_charge(run, 0);
            fm_list_add(run, batch, given[1]);
        }
        fm_list_add(run, batches, fm_of_list(FM_LIST, batch));
    }
    return fm_of_list(FM_ITERATOR, batches);
}

FM_CALLABLE(filter_slice) {
    const fm_list *items = fm_items(run, self);
    fm_list *slices = fm_list_new(run, 0);
    int64_t n = fm_whole(run, given[0], "the number of slices"), at = 0;
    if (n == 0) fm_refuse(run, FM_EFORMAT, "integer division or modulo by zero");
    for (int64_t i = 0; i < n; i++) { /* the first ones have one more where it does not divide */
        int64_t size = (int64_t)items->n / n + (i < (int64_t)items->n % n);
        fm_list *slice = fm_list_new(run, (size_t)size + 1);
        fm_charge(run, (size_t)size * sizeof(fm_value));
        for (int64_t k = 0; k < size; k++) fm_list_add(run, slice, items->items[at++]);
        if (fm_given(given[1]) && i >= (int64_t)items->n % n) fm_list_add(run, slice, given[1]);
        fm_list_add(run, slices, fm_of_list(FM_LIST, slice));
    }
    return fm_of_list(FM_ITERATOR, slices);
}

/* ---- filters and tests on every item */

/* The filter or test that is named first in rest; its arguments are the others. */
static const fm_function *named(fm_run *run, fm_value name, bool is_test) {
    const char *kind = is_test ? "test" : "filter";
    if (name.type == FM_UNDEFINED) fm_refuse_use(run, name);
    if (name.type != FM_STRING) fm_refuse(run, FM_EFORMAT, "No %s named by a value of type %s", kind, fm_type_name(name));
    const fm_function *function = is_test ? fm_test(name.text) : fm_filter(name.text);
    if (!function) fm_refuse(run, FM_EUNSUPPORTED, "No %s named '%.*s'", kind, (int)(name.text->bytes < 100 ? name.text->bytes : 100), name.text->data);
    return function;
}

FM_CALLABLE(filter_map) {
    fm_list *mapped = fm_list_new(run, 0), *path = NULL;
    fm_value otherwise = fm_none();
    const fm_function *function = NULL;
    if (!fm_true(&self)) return fm_of_list(FM_ITERATOR, mapped);
    fm_arguments arguments = *rest;
    for (size_t i = 0; !rest->n && i < rest->n_named; i++) {
        if (fm_text_is(rest->names[i], "attribute")) path = path_of(run, rest->named[i]);
    }
    for (size_t i = 0; path && i < rest->n_named; i++) {
        if (fm_text_is(rest->names[i], "default")) otherwise = rest->named[i];
        if (fm_text_is(rest->names[i], "default") || fm_text_is(rest->names[i], "attribute")) continue;
        fm_refuse(run, FM_EFORMAT, "Unexpected keyword argument '%.*s'", (int)rest->names[i]->bytes, rest->names[i]->data);
    }
    if (!path) {
        if (!rest->n) fm_refuse(run, FM_EFORMAT, "map requires a filter argument");
        function = named(run, rest->values[0], false);
        arguments.values++;
        arguments.n--;
    }
    const fm_list *items = fm_items(run, self);
    for (size_t i = 0; i < items->n; i++) {
        fm_charge(run, 0);
        fm_list_add(run, mapped, path ? follow(run, items->items[i], path, otherwise) : fm_call_function(run, function, items->items[i], &arguments));
    }
    return fm_of_list(FM_ITERATOR, mapped);
}

static fm_value choose(fm_run *run, fm_value self, const fm_arguments *rest, bool by_attribute, bool wanted) {
    fm_list *chosen = fm_list_new(run, 0), *path = path_of(run, fm_none());
    const fm_function *test = NULL;
    size_t used = by_attribute;
    if (!fm_true(&self)) return fm_of_list(FM_ITERATOR, chosen);
    if (rest->n < used) fm_refuse(run, FM_EFORMAT, "Missing parameter for attribute name");
    if (by_attribute) path = path_of(run, rest->values[0]);
    if (rest->n > used) test = named(run, rest->values[used++], true);
    fm_arguments arguments = *rest;
    if (arguments.n) arguments.values += used;
    arguments.n -= used;
    const fm_list *items = fm_items(run, self);
    for (size_t i = 0; i < items->n; i++) {
        fm_value value = follow(run, items->items[i], path, fm_none());
        fm_charge(run, 0);
        if (test) value = fm_call_function(run, test, value, &arguments);
        if (fm_true(&value) == wanted) fm_list_add(run, chosen, items->items[i]);
    }
    return fm_of_list(FM_ITERATOR, chosen);
}

FM_CALLABLE(filter_select) { return choose(run, self, rest, false, true); }

FM_CALLABLE(filter_reject) { return choose(run, self, rest, false, false); }

FM_CALLABLE(filter_selectattr) { return choose(run, self, rest, true, true); }

FM_CALLABLE(filter_rejectattr) { return choose(run, self, rest, true, false); }

static const fm_function filters[] = {
    {"length", filter_length, "/"},
    {"count", filter_length, "/"},
    {"join", filter_join, "d? attribute?"},
    {"first", filter_first, ""},
    {"last", filter_last, ""},
    {"list", filter_list, ""},
    {"items", filter_items, ""},
    {"map", filter_map, "*"},
    {"select", filter_select, "*"},
    {"reject", filter_reject, "*"},
    {"selectattr", filter_selectattr, "*"},
    {"rejectattr", filter_rejectattr, "*"},
    {"reverse", filter_reverse, ""},
    {"sort", filter_sort, "reverse? case_sensitive? attribute?"},
    {"dictsort", filter_dictsort, "case_sensitive? by? reverse?"},
    {"unique", filter_unique, "case_sensitive? attribute?"},
    {"groupby", filter_groupby, "attribute default? case_sensitive?"},
    {"min", filter_min, "case_sensitive? attribute?"},
    {"max", filter_max, "case_sensitive? attribute?"},
    {"sum", filter_sum, "attribute? start?"},
    {"batch", filter_batch, "linecount fill_with?"},
    {"slice", filter_slice, "slices fill_with?"},
};

fm_table fm_list_filters(void) { return (fm_table){filters, sizeof filters / sizeof *filters}; }
