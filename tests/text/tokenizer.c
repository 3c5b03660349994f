/* tokenizer.c: the demo model's tokenizer by literal cases: ids, what its entries are, text there and back, several threads at once. */
#include <pthread.h>

#include "base/file.h"
#include "test.h"
#include "text/tokenizer.h"

#define EMBER TEST_SOURCE_ROOT "/models/ember/tokenizer.json"

enum { MAX_IDS = 20 };

static const struct {
    const char *text;
    bool special;
    int n, ids[MAX_IDS];
} cases[] = {
    {"", true, 0, {0}},
    {" ", true, 1, {223}},
    {"Hello, world!", true, 4, {936, 14, 1360, 3}},
    {"<|im_start|>user\nHi<|im_end|>\n", true, 6, {1, 331, 201, 1573, 2, 201}},
    {"<|im_start|>user\nHi<|im_end|>\n", false, 18, {30, 94, 1545, 65, 272, 1080, 94, 32, 331, 201, 1573, 30, 94, 1545, 65, 340, 94, 299}},
    {"<tool_call>{}</tool_call>", true, 4, {4090, 93, 95, 4091}},
    {"<tool_call>{}</tool_call>", false, 4, {4090, 93, 95, 4091}}, /* not marked special */
    {"<|im_start", true, 6, {30, 94, 1545, 65, 272, 1080}},
    {"it's 2024\r\n\n  x", true, 11, {604, 1160, 223, 20, 18, 20, 22, 204, 282, 223, 1945}},
    {"e\xcc\x81 \xc3\xa9", true, 5, {130, 105, 223, 130, 105}}, /* both forms of the letter */
    {"\xe4\xbd\xa0\xf0\x9f\x98\x80", true, 7, {163, 124, 257, 175, 256, 249, 225}},
};

static void check_encode(const fm_tokenizer *tokenizer, const char *text, size_t n_text, bool special, const int *expected, int n_expected) {
    int32_t *ids;
    int n;
    MUST(n = fm_tokenizer_encode(tokenizer, text, n_text, special, &ids, err));
    CHECK(n == n_expected, "'%s' gives %d ids, not %d", text, n, n_expected);
    for (int i = 0; i < n && i < n_expected; i++) CHECK(ids[i] == expected[i], "'%s': id %d is %d, not %d", text, i, ids[i], expected[i]);
    free(ids);
}

static void check_bytes(const fm_tokenizer *tokenizer, int32_t id, const char *expected) {
    const char *bytes = NULL;
    int n = fm_tokenizer_bytes(tokenizer, id, &bytes);
    CHECK(n == (int)strlen(expected) && bytes && !memcmp(bytes, expected, (size_t)n), "id %d is '%.*s', not '%s'", id, n, bytes, expected);
}

static void check_entries(const fm_tokenizer *tokenizer) {
    CHECK(fm_tokenizer_n_entries(tokenizer) == 4096, "%d entries", fm_tokenizer_n_entries(tokenizer));
    CHECK(fm_tokenizer_max_id(tokenizer) == 4095, "largest id %d", fm_tokenizer_max_id(tokenizer));
    size_t bytes = fm_tokenizer_memory_bytes(tokenizer);
    CHECK(bytes > 4096 * 4 + 3831 * 16 && bytes < 400000, "%zu bytes", bytes);
    check_bytes(tokenizer, 0, "<|endoftext|>");
    check_bytes(tokenizer, 1360, " world");
    check_bytes(tokenizer, 282, "\n\n");
    check_bytes(tokenizer, 175, "\xf0"); /* not a whole character */
    check_bytes(tokenizer, 4095, "</think>");
    check_bytes(tokenizer, 4096, "");
    check_bytes(tokenizer, -1, "");
    check_bytes(tokenizer, INT32_MAX, "");
    static const struct {
        const char *text;
        int id;
    } found[] = {{"<|im_end|>", 2}, {"<think>", 4094},     {" world", 1360},      {"\n\n", 282},
                 {"", -1},          {"no such entry", -1}, {"\xc4\xa0world", -1}, {"<|im_end", -1}};
    for (size_t i = 0; i < sizeof found / sizeof *found; i++) {
        int id = fm_tokenizer_find(tokenizer, found[i].text);
        CHECK(id == found[i].id, "'%s' is %d, not %d", found[i].text, id, found[i].id);
    }
}

/* The bytes of the ids are the text, whatever the text is cut at. */
static void check_back(const fm_tokenizer *tokenizer, const char *text, size_t n_text) {
    int32_t *ids;
    size_t at = 0;
    int n;
    MUST(n = fm_tokenizer_encode(tokenizer, text, n_text, true, &ids, err));
    for (int i = 0; i < n; i++) {
        const char *bytes;
        size_t n_bytes = (size_t)fm_tokenizer_bytes(tokenizer, ids[i], &bytes);
        CHECK(n_bytes > 0 && at + n_bytes <= n_text && !memcmp(text + at, bytes, n_bytes), "id %d of %d, byte %zu", i, n, at);
        at += n_bytes;
    }
    CHECK(at == n_text, "%zu bytes of %zu come back", at, n_text);
    CHECK(n > 0 && (size_t)n < n_text / 2, "%d ids of %zu bytes", n, n_text);
    free(ids);
}

typedef struct work {
    const fm_tokenizer *tokenizer;
    const char *text;
    size_t n_text;
    uint64_t hash;
} work;

static void *encode_pieces(void *argument) {
    work *w = argument;
    w->hash = 0;
    for (size_t at = 0; at < w->n_text; at += 997) {
        int32_t *ids;
        int n = fm_tokenizer_encode(w->tokenizer, w->text + at, w->n_text - at < 997 ? w->n_text - at : 997, true, &ids, NULL);
        for (int i = 0; i < n; i++) w->hash = (w->hash ^ (uint64_t)ids[i]) * 0x100000001b3u;
        free(ids);
    }
    return NULL;
}

static void check_threads(const fm_tokenizer *tokenizer, const char *text, size_t n_text) {
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    work alone = {tokenizer, text, n_text, 0}, works[THREADS];
    encode_pieces(&alone);
    for (int i = 0; i < THREADS; i++) {
        works[i] = alone;
        if (pthread_create(&threads[i], NULL, encode_pieces, &works[i])) exit(1);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK(works[i].hash == alone.hash && alone.hash != 0, "thread %d has other ids", i);
    }
}

int main(void) {
    fm_tokenizer *tokenizer;
    char *text;
    size_t n_text;
    MUST(fm_tokenizer_open(&tokenizer, EMBER, err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_encode(tokenizer, cases[i].text, strlen(cases[i].text), cases[i].special, cases[i].ids, cases[i].n);
    }
    check_encode(tokenizer, "\0", 1, true, (int[]){191}, 1);
    check_encode(tokenizer, NULL, 0, true, NULL, 0);
    check_entries(tokenizer);
    MUST(fm_file_read_text(&text, &n_text, TEST_SOURCE_ROOT "/models/ember/held-out.txt", 1 << 24, err));
    check_back(tokenizer, text, n_text);
    check_threads(tokenizer, text, n_text);
    free(text);
    fm_error error = {0};
    int32_t *ids;
    CHECK(fm_tokenizer_encode(tokenizer, "a", (size_t)1 << 40, true, &ids, &error) == FM_EINVAL && !ids, "%s", error.message);
    fm_tokenizer_close(&tokenizer);
    CHECK(tokenizer == NULL, "not set to NULL");
    fm_tokenizer_close(&tokenizer);
    return TEST_END();
}
