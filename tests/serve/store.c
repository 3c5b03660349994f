/* store.c: what the server keeps of responses: found by id, under its limit of bytes, the least recently used gone first. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/api/responses/responses.h"
#include "test.h"

static fm_responses_store *store;

static bool has(const char *id) { return fm_responses_store_find(store, id, NULL, NULL); }

static void check_found(void) {
    char *messages = NULL, *response = NULL;
    store = fm_responses_store_open(1000);
    fm_responses_store_add(store, "a", "[1]", "{}");
    CHECK(fm_responses_store_find(store, "a", &messages, &response) && !strcmp(messages, "[1]") && !strcmp(response, "{}"), "a");
    free(messages);
    free(response);
    CHECK(!fm_responses_store_find(store, "b", &messages, &response) && !messages && !response, "b");
    fm_responses_store_add(store, "a", "[2]", "{}");
    CHECK(fm_responses_store_find(store, "a", &messages, NULL) && !strcmp(messages, "[2]"), "a again: %s", messages);
    free(messages);
    CHECK(fm_responses_store_remove(store, "a") && !fm_responses_store_remove(store, "a") && !has("a"), "removed");
    fm_responses_store_close(&store);
    CHECK(!store, "closed");
    fm_responses_store_close(&store);
}

/* Each takes 2 + 90 + 3 + 3 bytes: ten fit. */
static void check_bounded(void) {
    char id[8], messages[91];
    store = fm_responses_store_open(1000);
    memset(messages, 'x', 90);
    messages[90] = 0;
    for (int i = 10; i < 20; i++) {
        snprintf(id, sizeof id, "%d", i);
        fm_responses_store_add(store, id, messages, "{3}");
    }
    CHECK(has("10") && has("19"), "ten fit");
    fm_responses_store_add(store, "20", messages, "{3}");
    CHECK(has("10") && !has("11") && has("12") && has("20"), "the least recently used is gone");
    char *large = calloc(1, 1001);
    memset(large, 'y', 1000);
    fm_responses_store_add(store, "large", large, "");
    CHECK(!has("large") && has("20"), "what is larger than the limit is not kept, and nothing goes for it");
    large[700] = 0;
    fm_responses_store_add(store, "30", large, "");
    CHECK(has("30") && has("20") && has("12") && has("10") && !has("13") && !has("19"), "as many go as have to");
    free(large);
    fm_responses_store_close(&store);
}

static void check_many(void) {
    char id[16];
    store = fm_responses_store_open((size_t)1 << 20);
    for (int i = 0; i < 5000; i++) {
        snprintf(id, sizeof id, "%d", i);
        fm_responses_store_add(store, id, "[]", "{}");
    }
    CHECK(!has("0") && !has("903") && has("904") && has("4999"), "4096 at most");
    fm_responses_store_close(&store);
}

int main(void) {
    check_found();
    check_bounded();
    check_many();
    return TEST_END();
}
