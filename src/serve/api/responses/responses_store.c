/* serve/api/responses/responses_store.c: answered responses by their id, for previous_response_id. Each holds its whole conversation as text, so that none depends on another. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "serve/api/responses/responses.h"

#define MOST_ENTRIES 4096

typedef struct entry {
    char *id, *messages, *response;
    size_t bytes;
    unsigned long long used;
} entry;

struct fm_responses_store {
    pthread_mutex_t lock;
    entry *entries; /* [n] */
    int n;
    size_t bytes, most_bytes;
    unsigned long long clock;
};

fm_responses_store *fm_responses_store_open(size_t most_bytes) {
    fm_responses_store *s = calloc(1, sizeof *s);
    if (s && !(s->entries = calloc(MOST_ENTRIES, sizeof *s->entries))) {
        free(s);
        return NULL;
    }
    if (!s) return NULL;
    s->most_bytes = most_bytes;
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

static void drop(fm_responses_store *s, int i) {
    s->bytes -= s->entries[i].bytes;
    free(s->entries[i].id);
    free(s->entries[i].messages);
    free(s->entries[i].response);
    s->entries[i] = s->entries[--s->n];
}

void fm_responses_store_close(fm_responses_store **store) {
    fm_responses_store *s = *store;
    if (!s) return;
    while (s->n) drop(s, s->n - 1);
    pthread_mutex_destroy(&s->lock);
    free(s->entries);
    free(s);
    *store = NULL;
}

static int find(const fm_responses_store *s, const char *id) {
    for (int i = 0; i < s->n; i++)
        if (!strcmp(s->entries[i].id, id)) return i;
    return -1;
}

static int oldest(const fm_responses_store *s) {
    int found = 0;
    for (int i = 1; i < s->n; i++)
        if (s->entries[i].used < s->entries[found].used) found = i;
    return found;
}

void fm_responses_store_add(fm_responses_store *s, const char *id, const char *messages, const char *response) {
    entry e = {.bytes = strlen(id) + strlen(messages) + strlen(response) + 3};
    if (e.bytes > s->most_bytes) return;
    e.id = strdup(id);
    e.messages = strdup(messages);
    e.response = strdup(response);
    if (!e.id || !e.messages || !e.response) { /* no memory: it is not kept, as one that had to go */
        free(e.id);
        free(e.messages);
        free(e.response);
        return;
    }
    pthread_mutex_lock(&s->lock);
    int before = find(s, id);
    if (before >= 0) drop(s, before);
    while (s->n && (s->n == MOST_ENTRIES || s->bytes + e.bytes > s->most_bytes)) drop(s, oldest(s));
    e.used = ++s->clock;
    s->entries[s->n++] = e;
    s->bytes += e.bytes;
    pthread_mutex_unlock(&s->lock);
}

bool fm_responses_store_find(fm_responses_store *s, const char *id, char **messages, char **response) {
    pthread_mutex_lock(&s->lock);
    int i = find(s, id);
    if (i >= 0) s->entries[i].used = ++s->clock;
    if (messages) *messages = i >= 0 ? strdup(s->entries[i].messages) : NULL;
    if (response) *response = i >= 0 ? strdup(s->entries[i].response) : NULL;
    pthread_mutex_unlock(&s->lock);
    return i >= 0;
}

bool fm_responses_store_remove(fm_responses_store *s, const char *id) {
    pthread_mutex_lock(&s->lock);
    int i = find(s, id);
    if (i >= 0) drop(s, i);
    pthread_mutex_unlock(&s->lock);
    return i >= 0;
}
