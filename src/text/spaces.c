/* spaces.c: text as SentencePiece's vocabularies have it: U+2581 for each space, and one before the text. */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_parts.h"

static const char mark[] = FM_SPACE_MARK;
enum { MARK = sizeof mark - 1 };

static bool begins_with_mark(const char *text, size_t n) { return n && (*text == ' ' || (n >= MARK && !memcmp(text, mark, MARK))); }

int fm_spaces_mark(const char *text, size_t n, int prefix, const char **out, size_t *n_out, char **owned, fm_error *err) {
    size_t n_spaces = 0;
    bool before = n && (prefix == FM_PREFIX_ADD || (prefix == FM_PREFIX_NEED && !begins_with_mark(text, n)));
    for (size_t i = 0; i < n; i++) n_spaces += text[i] == ' ';
    *out = text;
    *n_out = n;
    *owned = NULL;
    if (!n_spaces && !before) return 0;
    char *to = *owned = malloc(n + (MARK - 1) * n_spaces + MARK + 1);
    if (!to) return fm_fail(err, FM_ENOMEM, "no memory for %zu bytes of text with its spaces marked", n);
    if (before) {
        memcpy(to, mark, MARK);
        to += MARK;
    }
    for (size_t i = 0; i < n; i++) {
        if (text[i] != ' ') {
            *to++ = text[i];
            continue;
        }
        memcpy(to, mark, MARK);
        to += MARK;
    }
    *out = *owned;
    *n_out = (size_t)(to - *owned);
    return 0;
}

static int hex_digit(char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1; }

size_t fm_spaces_plain(const char *text, size_t n, char *out) {
    if (n == 6 && !memcmp(text, "<0x", 3) && text[5] == '>' && hex_digit(text[3]) >= 0 && hex_digit(text[4]) >= 0) {
        *out = (char)(hex_digit(text[3]) * 16 + hex_digit(text[4]));
        return 1;
    }
    size_t n_out = 0;
    for (size_t i = 0; i < n;) {
        bool space = n - i >= MARK && !memcmp(text + i, mark, MARK);
        out[n_out++] = space ? ' ' : text[i];
        i += space ? MARK : 1;
    }
    return n_out;
}
