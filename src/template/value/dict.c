/* template/value/dict.c: Python's dict: pairs in order of insertion, found by hash; 1, 1.0 and True are one key. See value.h. */
#include <math.h>
#include <string.h>
#include <xxhash.h>

#include "template/value/value.h"

#define FEW 8 /* so many pairs are compared one by one */

static uint64_t hash(fm_run *run, fm_value key) {
    uint64_t h = 0;
    fm_charge(run, key.type == FM_STRING ? key.text->bytes : 0);
    switch (key.type) {
    case FM_STRING: return XXH3_64bits(key.text->data, key.text->bytes);
    case FM_BOOL: key = fm_int(key.truth); /* fall through */
    case FM_INT: return XXH3_64bits(&key.whole, sizeof key.whole);
    case FM_FLOAT:
        if (key.real >= -9.2e18 && key.real <= 9.2e18 && floor(key.real) == key.real) {
            int64_t whole = (int64_t)key.real;
            return XXH3_64bits(&whole, sizeof whole);
        }
        return XXH3_64bits(&key.real, sizeof key.real);
    case FM_TUPLE:
        fm_enter(run);
        for (size_t i = 0; i < key.list->n; i++) h = (h ^ hash(run, key.list->items[i])) * 0x9e3779b97f4a7c15u + 1;
        fm_leave(run);
        return h;
    case FM_LIST:
    case FM_DICT:
    case FM_ITEMS:
    case FM_KEYS: fm_refuse(run, FM_EFORMAT, "unhashable type: '%s'", fm_type_name(key));
    default: return (uint64_t)key.type; /* rare: compared one by one */
    }
}

fm_dict *fm_dict_new(fm_run *run) { return fm_take_zeroed(run, sizeof(fm_dict)); }

fm_value *fm_dict_find_text(const fm_dict *dict, const fm_text *key) {
    if (!dict->slots) {
        for (size_t i = 0; i < dict->n; i++) {
            const fm_value *k = &dict->pairs[i].key;
            if (k->type == FM_STRING && k->text->bytes == key->bytes && memcmp(k->text->data, key->data, key->bytes) == 0) return &dict->pairs[i].value;
        }
        return NULL;
    }
    for (uint64_t h = XXH3_64bits(key->data, key->bytes);; h++) {
        uint32_t slot = dict->slots[h & (dict->n_slots - 1)];
        if (!slot) return NULL;
        const fm_value *k = &dict->pairs[slot - 1].key;
        if (k->type == FM_STRING && k->text->bytes == key->bytes && memcmp(k->text->data, key->data, key->bytes) == 0) return &dict->pairs[slot - 1].value;
    }
}

fm_value *fm_dict_find(fm_run *run, const fm_dict *dict, fm_value key) {
    uint64_t h = hash(run, key);
    if (key.type == FM_STRING) return fm_dict_find_text(dict, key.text);
    if (!dict->slots) {
        for (size_t i = 0; i < dict->n; i++) {
            if (fm_same(dict->pairs[i].key, key) || fm_equal(run, dict->pairs[i].key, key)) return &dict->pairs[i].value;
        }
        return NULL;
    }
    for (;; h++) {
        uint32_t slot = dict->slots[h & (dict->n_slots - 1)];
        if (!slot) return NULL;
        fm_charge(run, 0);
        if (fm_same(dict->pairs[slot - 1].key, key) || fm_equal(run, dict->pairs[slot - 1].key, key)) return &dict->pairs[slot - 1].value;
    }
}

static void put_slot(fm_run *run, fm_dict *dict, size_t pair) {
    uint64_t h = hash(run, dict->pairs[pair].key);
    while (dict->slots[h & (dict->n_slots - 1)]) {
        fm_charge(run, 0);
        h++;
    }
    dict->slots[h & (dict->n_slots - 1)] = (uint32_t)pair + 1;
}

void fm_dict_set(fm_run *run, fm_dict *dict, fm_value key, fm_value value) {
    fm_value *found = fm_dict_find(run, dict, key);
    if (found) {
        *found = value;
        return;
    }
    if (dict->n == dict->cap) {
        size_t cap = dict->cap ? 2 * dict->cap : 4;
        if (cap > UINT32_MAX / 2) fm_refuse(run, FM_EFULL, "a mapping of more than %u items", UINT32_MAX / 4);
        dict->pairs = fm_take_more(run, dict->pairs, dict->n * sizeof *dict->pairs, cap * sizeof *dict->pairs);
        dict->cap = cap;
    }
    dict->pairs[dict->n++] = (fm_pair){key, value};
    if (dict->n > FEW && 2 * dict->n > dict->n_slots) {
        dict->n_slots = dict->n_slots ? 2 * dict->n_slots : 32;
        dict->slots = fm_take_zeroed(run, dict->n_slots * sizeof *dict->slots);
        for (size_t i = 0; i < dict->n; i++) put_slot(run, dict, i);
    } else if (dict->slots) {
        put_slot(run, dict, dict->n - 1);
    }
}
