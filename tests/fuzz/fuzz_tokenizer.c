/* fuzz_tokenizer.c: any bytes as a tokenizer.json, and any text for it: the document ends at the first byte 0xff, which JSON cannot have, the rest is the
 * text. Without such a byte the document is its own text. */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void encode(const fm_tokenizer *tokenizer, const char *text, size_t n, bool special) {
    int32_t *ids;
    fm_error err = {0};
    int n_ids = fm_tokenizer_encode(tokenizer, text, n, special, &ids, &err);
    if (n_ids < 0) {
        if (err.code != n_ids || !err.message[0] || ids) abort();
        return;
    }
    fm_utf8_stream stream = {0};
    for (int i = 0; i < n_ids; i++) {
        const char *bytes;
        if (ids[i] < 0 || ids[i] > fm_tokenizer_max_id(tokenizer)) abort();
        size_t n_bytes = (size_t)fm_tokenizer_bytes(tokenizer, ids[i], &bytes);
        char *out = malloc(3 * (n_bytes + 4));
        if (out && fm_utf8_feed(&stream, bytes, n_bytes, out) > 3 * (n_bytes + 4)) abort();
        free(out);
    }
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *end = size > 0 ? memchr(data, 0xff, size) : NULL;
    size_t n_json = end ? (size_t)(end - data) : size;
    fm_tokenizer *tokenizer;
    fm_error err = {0};
    int code = fm_tokenizer_parse(&tokenizer, (const char *)data, n_json, "fuzz", &err);
    if (code) {
        if (code > 0 || err.code != code || !err.message[0] || tokenizer) abort();
        return 0;
    }
    const char *text = (const char *)(end ? end + 1 : data);
    size_t n = end ? size - n_json - 1 : size;
    if (n > 4096) n = 4096; /* so that a pattern that is slow, but within its steps, is not taken for one that hangs */
    encode(tokenizer, text, n, true);
    encode(tokenizer, text, n, false);
    if (fm_tokenizer_memory_bytes(tokenizer) > (size_t)64 << 20) abort();
    fm_tokenizer_close(&tokenizer);
    return 0;
}
