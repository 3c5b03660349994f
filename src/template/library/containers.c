/* template/library/containers.c: methods of lists, tuples, ranges and mappings. The sandbox keeps those away that would change them (attributes.c). See library.h. */
#include "template/library/inner.h"

/* The first item of n that equals item, from number `from` on; n: none. */
static size_t find_item(fm_run *run, const fm_list *list, fm_value item, size_t from) {
    while (from < list->n && !fm_same(list->items[from], item) && !fm_equal(run, list->items[from], item)) from++;
    return from;
}

FM_CALLABLE(list_count) {
    const fm_list *list = fm_items(run, self);
    int64_t n = 0;
    for (size_t at = 0; (at = find_item(run, list, given[0], at)) < list->n; at++) n++;
    return fm_int(n);
}

FM_CALLABLE(list_index) {
    const fm_list *list = fm_items(run, self);
    int64_t bounds[2] = {0, (int64_t)list->n};
    for (int i = 0; i < 2; i++) {
        if (given[1 + i].type == FM_MISSING) continue;
        bounds[i] = fm_whole(run, given[1 + i], "a bound");
        if (bounds[i] < 0) bounds[i] = bounds[i] + (int64_t)list->n < 0 ? 0 : bounds[i] + (int64_t)list->n;
        if (bounds[i] > (int64_t)list->n) bounds[i] = (int64_t)list->n;
    }
    size_t at = find_item(run, list, given[0], (size_t)bounds[0]);
    if ((int64_t)at >= bounds[1]) fm_refuse(run, FM_EFORMAT, "the value is not in the %s", fm_type_name(self));
    return fm_int((int64_t)at);
}

FM_CALLABLE(list_copy) {
    fm_list *copy = fm_list_new(run, self.list->n);
    fm_charge(run, self.list->n * sizeof(fm_value));
    for (size_t i = 0; i < self.list->n; i++) fm_list_add(run, copy, self.list->items[i]);
    return fm_of_list(FM_LIST, copy);
}

FM_CALLABLE(dict_get) {
    const fm_value *found = fm_dict_find(run, self.dict, given[0]);
    return found ? *found : given[1].type == FM_MISSING ? fm_none() : given[1];
}

FM_CALLABLE(dict_items) { return fm_of_dict(FM_ITEMS, self.dict); }

FM_CALLABLE(dict_keys) { return fm_of_dict(FM_KEYS, self.dict); }

FM_CALLABLE(dict_values) { return fm_of_dict(FM_VALUES, self.dict); }

FM_CALLABLE(dict_copy) {
    fm_dict *copy = fm_dict_new(run);
    for (size_t i = 0; i < self.dict->n; i++) fm_dict_set(run, copy, self.dict->pairs[i].key, self.dict->pairs[i].value);
    return fm_of_dict(FM_DICT, copy);
}

FM_CALLABLE(dict_from_keys) {
    fm_dict *dict = fm_dict_new(run);
    const fm_list *keys = fm_items(run, given[0]);
    for (size_t i = 0; i < keys->n; i++) fm_dict_set(run, dict, keys->items[i], fm_given(given[1]) ? given[1] : fm_none());
    return fm_of_dict(FM_DICT, dict);
}

const fm_function fm_dict_from_keys = {"fromkeys", dict_from_keys, "/keys value?"};

static const fm_function list_methods[] = {
    {"index", list_index, "/value start? stop?"},
    {"count", list_count, "/value"},
    {"copy", list_copy, ""},
};

static const fm_function sequence_methods[] = {
    {"index", list_index, "/value start? stop?"},
    {"count", list_count, "/value"},
};

static const fm_function range_methods[] = {
    {"index", list_index, "/value"},
    {"count", list_count, "/value"},
};

static const fm_function dict_methods[] = {
    {"get", dict_get, "/key default?"}, {"items", dict_items, ""}, {"keys", dict_keys, ""},
    {"values", dict_values, ""},        {"copy", dict_copy, ""},   {"fromkeys", dict_from_keys, "/keys value?"},
};

#define TABLE(functions) ((fm_table){functions, sizeof functions / sizeof *functions})

fm_table fm_container_methods(fm_type type) {
    switch (type) {
    case FM_LIST: return TABLE(list_methods);
    case FM_TUPLE: return TABLE(sequence_methods);
    case FM_RANGE: return TABLE(range_methods);
    case FM_DICT: return TABLE(dict_methods);
    default: return (fm_table){NULL, 0};
    }
}
