/* chat/memory.c: what the model wrote, found by its message or by its first call's id. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "chat/chat.h"

#define MAX_TOKENS ((size_t)1 << 20) /* some 30 MB */
#define MAX_ENTRIES 4096

static void add_arguments(fm_chars *out, const json_t *arguments) {
    json_t *parsed = json_is_string(arguments) ? json_loadb(json_string_value(arguments), json_string_length(arguments), JSON_ALLOW_NUL, NULL) : NULL;
    char *text = json_dumps(parsed ? parsed : arguments, JSON_SORT_KEYS | JSON_COMPACT | JSON_ENCODE_ANY);
    if (text) fm_chars_put(out, text);
    free(text);
    json_decref(parsed);
}

static void add_content(fm_chars *out, const json_t *content) {
    const char *text = json_string_value(content);
    size_t n = json_string_length(content);
    for (size_t i = 0; i < json_array_size(content); i++) add_content(out, json_object_get(json_array_get(content, i), "text"));
    if (!text) return;
    while (n && fm_is_blank(*text)) text++, n--;
    while (n && fm_is_blank(text[n - 1])) n--;
    fm_chars_add(out, text, n);
}

uint64_t fm_message_key(const json_t *message, uint64_t *call) {
    const json_t *calls = json_object_get(message, "tool_calls");
    fm_chars text = {0};
    *call = 0;
    add_content(&text, json_object_get(message, "content"));
    for (size_t i = 0; i < json_array_size(calls); i++) {
        const json_t *entry = json_array_get(calls, i), *function = json_object_get(entry, "function"), *id = json_object_get(entry, "id");
        if (!function) function = entry;
        if (i == 0 && json_string_length(id)) *call = XXH3_64bits(json_string_value(id), json_string_length(id)) | 1;
        const char *name = json_string_value(json_object_get(function, "name"));
        fm_chars_add(&text, "", 1);
        fm_chars_put(&text, name ? name : "");
        fm_chars_add(&text, "", 1);
        add_arguments(&text, json_object_get(function, "arguments"));
    }
    uint64_t key = XXH3_64bits(fm_chars_text(&text), text.n);
    fm_chars_close(&text);
    return key;
}

void fm_memory_entry_close(fm_memory_entry *e) {
    free(e->head);
    free(e->ids);
    free(e->bytes);
    free(e->ends);
    *e = (fm_memory_entry){0};
}

static void forget(fm_memory *m, int i) {
    m->n_tokens -= (size_t)m->entries[i].n;
    fm_memory_entry_close(&m->entries[i]);
    m->entries[i] = m->entries[--m->n];
}

static int oldest(const fm_memory *m) {
    int found = 0;
    for (int i = 1; i < m->n; i++) {
        if (m->entries[i].used < m->entries[found].used) found = i;
    }
    return found;
}

void fm_memory_add(fm_memory *m, fm_memory_entry *entry) {
    for (int i = m->n - 1; i >= 0; i--) { /* the same again */
        const fm_memory_entry *e = &m->entries[i];
        if (e->message == entry->message && e->n == entry->n && !strcmp(e->head, entry->head) && !memcmp(e->ids, entry->ids, (size_t)e->n * sizeof *e->ids))
            forget(m, i);
    }
    while (m->n && (m->n >= MAX_ENTRIES || m->n_tokens + (size_t)entry->n > MAX_TOKENS)) forget(m, oldest(m));
    if (m->n == m->capacity) {
        int capacity = 2 * m->capacity + 16;
        fm_memory_entry *entries = realloc(m->entries, (size_t)capacity * sizeof *entries);
        if (!entries) {
            fm_memory_entry_close(entry);
            return;
        }
        m->entries = entries;
        m->capacity = capacity;
    }
    entry->used = ++m->clock;
    m->n_tokens += (size_t)entry->n;
    m->entries[m->n++] = *entry;
    *entry = (fm_memory_entry){0};
}

void fm_memory_close(fm_memory *m) {
    while (m->n) forget(m, m->n - 1);
    free(m->entries);
    *m = (fm_memory){0};
}
