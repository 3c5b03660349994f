/* long.c: a megabyte of one thing takes no time: what grows with the square of the text runs into the time limit of the suite. Their ids are checked by
 * what must hold: their bytes are the text. */
#include "test.h"
#include "text/tokenizer.h"

enum { BYTES = 1000000 };

static const char *const units[] = {
    "a",
    "ab",
    " ",
    "\n",
    " \n",
    "\r\n",
    "  x",
    "1",
    "!",
    "'s",
    "<",
    "<|im_start",
    "<|im_start|>",
    "the ",
    "\xe4\xbd\xa0",
    "\xf0\x9f\x98\x80",
    "\xc2\xa0",
    "\xcc\x81",
    "\xe1\x86\xa8",
};

static void check_unit(const fm_tokenizer *tokenizer, const char *unit) {
    size_t n_unit = strlen(unit), n = BYTES / n_unit * n_unit, at = 0;
    char *text = malloc(n);
    int32_t *ids;
    int n_ids;
    for (size_t i = 0; i < n; i += n_unit) memcpy(text + i, unit, n_unit);
    MUST(n_ids = fm_tokenizer_encode(tokenizer, text, n, true, &ids, err));
    for (int i = 0; i < n_ids && at <= n; i++) {
        const char *bytes;
        size_t n_bytes = (size_t)fm_tokenizer_bytes(tokenizer, ids[i], &bytes);
        if (n_bytes > n - at || memcmp(text + at, bytes, n_bytes)) break;
        at += n_bytes;
    }
    CHECK(at == n, "'%s': %zu bytes of %zu come back", unit, at, n);
    free(ids);
    free(text);
}

/* What is not valid becomes three bytes each. */
static void check_invalid(const fm_tokenizer *tokenizer) {
    char *text = malloc(BYTES), *same = malloc(3 * BYTES);
    int32_t *ids, *same_ids;
    int n, n_same;
    memset(text, 0xff, BYTES);
    for (int i = 0; i < BYTES; i++) memcpy(same + 3 * i, "\xef\xbf\xbd", 3);
    MUST(n = fm_tokenizer_encode(tokenizer, text, BYTES, true, &ids, err));
    MUST(n_same = fm_tokenizer_encode(tokenizer, same, 3 * BYTES, true, &same_ids, err));
    CHECK(n == n_same && n > 0 && !memcmp(ids, same_ids, (size_t)n * sizeof *ids), "%d and %d ids", n, n_same);
    free(ids);
    free(same_ids);
    free(text);
    free(same);
}

int main(void) {
    fm_tokenizer *tokenizer;
    MUST(fm_tokenizer_open(&tokenizer, TEST_SOURCE_ROOT "/models/ember/tokenizer.json", err));
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) check_unit(tokenizer, units[i]);
    check_invalid(tokenizer);
    fm_tokenizer_close(&tokenizer);
    return TEST_END();
}
