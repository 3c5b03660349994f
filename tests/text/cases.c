/* cases.c: texts with the ids that the reference library gives them (tools/reference/make_tokenizer_cases.py): cases TOKENIZER.JSON CASES.BIN.
 * Both are paths from the root of the sources. */
#include <inttypes.h>

#include "base/file.h"
#include "test.h"
#include "text/tokenizer.h"

static void print_text(const char *text, size_t n) {
    for (size_t i = 0; i < n && i < 400; i++) {
        uint8_t c = (uint8_t)text[i];
        if (c > 32 && c < 127 && c != '\\') {
            fputc(c, stderr);
        } else {
            fprintf(stderr, "\\x%02x", c);
        }
    }
    fputc('\n', stderr);
}

static void print_ids(const fm_tokenizer *tokenizer, const int32_t *ids, int n, int from) {
    for (int i = from; i < n && i < from + 8; i++) {
        const char *bytes;
        int n_bytes = fm_tokenizer_bytes(tokenizer, ids[i], &bytes);
        fprintf(stderr, " %" PRId32 " ", ids[i]);
        print_text(bytes, (size_t)n_bytes);
    }
}

static void check_case(const fm_tokenizer *tokenizer, const char *text, size_t n_text, bool special, const int32_t *expected, int n_expected) {
    fm_error err = {0};
    int32_t *ids;
    int n = fm_tokenizer_encode(tokenizer, text, n_text, special, &ids, &err), at = 0;
    CHECK(n >= 0, "%s", err.message);
    while (at < n && at < n_expected && ids[at] == expected[at]) at++;
    CHECK(at == n && at == n_expected, "%d ids, not %d; the first that differs is number %d%s", n, n_expected, at, special ? "" : ", special off");
    if ((at != n || at != n_expected) && test_failures < 20) {
        print_text(text, n_text);
        fprintf(stderr, " here:\n");
        print_ids(tokenizer, ids, n, at);
        fprintf(stderr, " reference:\n");
        print_ids(tokenizer, expected, n_expected, at);
    }
    free(ids);
}

int main(int argc, char **argv) {
    char path[1024], *data;
    size_t bytes, at = 0;
    fm_tokenizer *tokenizer;
    int n_cases = 0;
    if (argc != 3) return 2;
    MUST(fm_path_join(path, sizeof path, TEST_SOURCE_ROOT, argv[1], err));
    MUST(fm_tokenizer_open(&tokenizer, path, err));
    MUST(fm_path_join(path, sizeof path, TEST_SOURCE_ROOT, argv[2], err));
    MUST(fm_file_read_text(&data, &bytes, path, 1 << 24, err));
    for (; at + 8 <= bytes; n_cases++) {
        uint32_t n_text, n_ids;
        memcpy(&n_text, data + at, 4);
        memcpy(&n_ids, data + at + 4, 4);
        bool special = n_ids >> 31;
        n_ids &= 0x7fffffff;
        at += 8;
        if (n_text + 2 * (uint64_t)n_ids > bytes - at) break;
        int32_t *expected = malloc(4 * (size_t)n_ids + 4);
        for (uint32_t i = 0; expected && i < n_ids; i++) {
            uint16_t id;
            memcpy(&id, data + at + n_text + 2 * i, 2);
            expected[i] = id;
        }
        check_case(tokenizer, data + at, n_text, special, expected, (int)n_ids);
        free(expected);
        at += n_text + 2 * n_ids;
    }
    CHECK(at == bytes && n_cases > 300, "%d cases end at byte %zu of %zu", n_cases, at, bytes);
    fprintf(stderr, "%d cases\n", n_cases);
    fm_tokenizer_close(&tokenizer);
    free(data);
    return TEST_END();
}
