/* unicode.c: UTF-8 (strict, a stream of it, repair) and normalisation form C.
 *
 * utf8proc has the tables. The loop around them is ours, because its own sorts a long run of marks in quadratic time and composes by the newest Unicode,
 * where the reference library's NFC stands at Unicode 9 (fm_inert_ranges). */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/tokenizer_parts.h"

/* ---- UTF-8 ---- */

/* The second byte's range depends on the first (no overlong forms, surrogates or numbers above U+10FFFF); the others' is 80 to BF. */
int fm_utf8_look(const char *text, size_t n, int *length) {
    const uint8_t *b = (const uint8_t *)text;
    int low = 0x80, high = 0xbf, want;
    *length = 1;
    if (b[0] < 0x80) return FM_UTF8_VALID;
    if (b[0] < 0xc2 || b[0] > 0xf4) return FM_UTF8_INVALID;
    if (b[0] < 0xe0) {
        want = 2;
    } else if (b[0] < 0xf0) {
        want = 3;
        if (b[0] == 0xe0) low = 0xa0;
        if (b[0] == 0xed) high = 0x9f;
    } else {
        want = 4;
        if (b[0] == 0xf0) low = 0x90;
        if (b[0] == 0xf4) high = 0x8f;
    }
    for (; *length < want; ++*length, low = 0x80, high = 0xbf) {
        if ((size_t)*length == n) return FM_UTF8_UNFINISHED;
        if (b[*length] < low || b[*length] > high) return FM_UTF8_INVALID;
    }
    return FM_UTF8_VALID;
}

int32_t fm_utf8_read(const char *text, int *length) {
    const uint8_t *b = (const uint8_t *)text;
    if (b[0] < 0x80) {
        *length = 1;
        return b[0];
    }
    if (b[0] < 0xe0) {
        *length = 2;
        return (b[0] & 0x1f) << 6 | (b[1] & 0x3f);
    }
    if (b[0] < 0xf0) {
        *length = 3;
        return (b[0] & 0x0f) << 12 | (b[1] & 0x3f) << 6 | (b[2] & 0x3f);
    }
    *length = 4;
    return (b[0] & 0x07) << 18 | (b[1] & 0x3f) << 12 | (b[2] & 0x3f) << 6 | (b[3] & 0x3f);
}

int fm_utf8_write(int32_t c, char *out) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    int n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((0xf00 >> n) | c);
    return n;
}

/* Text [n] with U+FFFD for what is invalid into out; stops before an unfinished character at the end. *used: bytes of text read. */
static size_t replace_invalid(const char *text, size_t n, char *out, size_t *used) {
    size_t at = 0, n_out = 0;
    while (at < n) {
        int length, verdict = fm_utf8_look(text + at, n - at, &length);
        if (verdict == FM_UTF8_UNFINISHED) break;
        if (verdict == FM_UTF8_VALID) {
            memmove(out + n_out, text + at, (size_t)length);
            n_out += (size_t)length;
        } else {
            n_out += (size_t)fm_utf8_write(0xfffd, out + n_out);
        }
        at += (size_t)length;
    }
    *used = at;
    return n_out;
}

int fm_utf8_repair(const char *text, size_t n, const char **out, size_t *n_out, char **owned, fm_error *err) {
    size_t at = 0, used;
    int length;
    *owned = NULL;
    while (at < n && fm_utf8_look(text + at, n - at, &length) == FM_UTF8_VALID) at += (size_t)length;
    *out = text;
    *n_out = n;
    if (at == n) return 0;
    char *copy = malloc(3 * n + 3);
    if (!copy) return fm_fail(err, FM_ENOMEM, "no memory for %zu bytes of text", 3 * n);
    size_t written = replace_invalid(text, n, copy, &used);
    if (used < n) written += (size_t)fm_utf8_write(0xfffd, copy + written);
    *out = *owned = copy;
    *n_out = written;
    return 0;
}

size_t fm_utf8_feed(fm_utf8_stream *stream, const char *bytes, size_t n, char *out) {
    size_t n_out = 0, at = 0, used;
    char joined[4];
    /* What was pending is completed, or found invalid, byte by byte. */
    while (stream->n_pending > 0 && at < n) {
        size_t n_joined = (size_t)stream->n_pending + 1;
        memcpy(joined, stream->pending, (size_t)stream->n_pending);
        joined[stream->n_pending] = bytes[at++];
        n_out += replace_invalid(joined, n_joined, out + n_out, &used);
        stream->n_pending = (int)(n_joined - used);
        memcpy(stream->pending, joined + used, n_joined - used);
    }
    if (at == n) return n_out;
    n_out += replace_invalid(bytes + at, n - at, out + n_out, &used);
    stream->n_pending = (int)(n - at - used);
    memcpy(stream->pending, bytes + at + used, n - at - used);
    return n_out;
}

size_t fm_utf8_finish(fm_utf8_stream *stream, char *out) {
    if (stream->n_pending == 0) return 0;
    stream->n_pending = 0;
    return (size_t)fm_utf8_write(0xfffd, out);
}

/* ---- characters ---- */

static bool in_ranges(const fm_range *ranges, int32_t c) {
    while (ranges->last >= 0 && ranges->last < c) ranges++;
    return ranges->last >= 0 && ranges->first <= c;
}

bool fm_is_space(int32_t c) { return c < 128 ? c == ' ' || (c >= '\t' && c <= '\r') : in_ranges(fm_space_ranges, c); }

bool fm_is_word(int32_t c) {
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    case UTF8PROC_CATEGORY_SO: /* the circled and squared letters are alphabetic */
        return (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
    default: return c == 0x200c || c == 0x200d || in_ranges(fm_new_letters, c) || in_ranges(fm_new_marks, c);
    }
}

/* ---- NFC ---- */

/* Stretches of characters that NFC leaves alone whatever stands beside them: none decomposes, none is reordered, none composes with what is before it. */
static const fm_range plain[] = {
    {0x0000, 0x02ff}, {0x0400, 0x0482}, {0x048a, 0x052f}, {0x0561, 0x0587}, {0x05d0, 0x05ea}, {0x0620, 0x064a},   {0x0904, 0x0939}, {0x0e01, 0x0e37},
    {0x10d0, 0x10ff}, {0x1e00, 0x1e99}, {0x1ea0, 0x1ef9}, {0x2010, 0x205e}, {0x20a0, 0x20c0}, {0x2190, 0x2328},   {0x232b, 0x2adb}, {0x3000, 0x3029},
    {0x3030, 0x3098}, {0x309b, 0x31ff}, {0x4e00, 0x9fff}, {0xac00, 0xd7a3}, {0xff00, 0xffef}, {0x1f000, 0x1faff}, {0, -1},
};

static bool is_plain(const char *text, size_t n) {
    int length;
    for (size_t at = 0; at < n; at += (size_t)length) {
        int32_t c = fm_utf8_read(text + at, &length);
        if (c >= 0x300 && !in_ranges(plain, c)) return false;
    }
    return true;
}

static bool inert(int32_t c) { return c >= 0x5c8 && in_ranges(fm_inert_ranges, c); }

static int combining_class(int32_t c) { return c < 0x300 || inert(c) ? 0 : (int)utf8proc_get_property(c)->combining_class; }

/* The canonical decomposition of text into c, which has room; returns the number of characters. */
static size_t decompose(const char *text, size_t n, int32_t *c) {
    size_t n_c = 0;
    int length, boundary = UTF8PROC_BOUNDCLASS_START;
    for (size_t at = 0; at < n; at += (size_t)length) {
        int32_t x = fm_utf8_read(text + at, &length);
        if (x < 0xc0 || inert(x)) {
            c[n_c++] = x;
            continue;
        }
        int32_t parts[8];
        utf8proc_ssize_t n_parts = utf8proc_decompose_char(x, parts, 8, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &boundary);
        if (n_parts < 1 || n_parts > 4) { /* Unicode has none longer than 4 */
            n_parts = 1;
            parts[0] = x;
        }
        for (int i = 0; i < n_parts; i++) c[n_c++] = parts[i];
    }
    return n_c;
}

/* Sorts c [n], marks of classes above 0, by class, equal ones in their order. */
static void sort_marks(int32_t *c, size_t n, int32_t *spare) {
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++) start[combining_class(c[i]) + 1]++;
    for (int i = 1; i <= 256; i++) start[i] += start[i - 1];
    for (size_t i = 0; i < n; i++) spare[start[combining_class(c[i])]++] = c[i];
    memcpy(c, spare, n * sizeof *c);
}

static void order(int32_t *c, size_t n, int32_t *spare) {
    for (size_t i = 0; i < n;) {
        size_t start = i;
        bool sorted = true;
        for (int class, last = 0; i < n && (class = combining_class(c[i])) > 0; last = class, i++) sorted = sorted && class >= last;
        if (!sorted) sort_marks(c + start, i - start, spare);
        if (i == start) i++;
    }
}

/* What a and b compose to, or -1. utf8proc has no such question, but normalises a text of two characters. It loses U+11A7, which it takes for a trailing
 * consonant. */
static int32_t pair(int32_t a, int32_t b) {
    int32_t both[2] = {a, b};
    if (b < 0x300 || b == 0x11a7 || utf8proc_normalize_utf32(both, 2, UTF8PROC_COMPOSE | UTF8PROC_STABLE) != 1 || inert(both[0])) return -1;
    return both[0];
}

static size_t compose(int32_t *c, size_t n) {
    size_t starter = SIZE_MAX, n_out = 0;
    int last = 0; /* class of the character before, as far as it is kept since the starter; 0: none */
    for (size_t i = 0; i < n; i++) {
        int class = combining_class(c[i]);
        bool adjacent = starter != SIZE_MAX && starter + 1 == n_out;
        if (starter != SIZE_MAX && (adjacent || last < class)) {
            int32_t composed = pair(c[starter], c[i]);
            if (composed >= 0) {
                c[starter] = composed;
                continue;
            }
        }
        if (class == 0) starter = n_out;
        last = class;
        c[n_out++] = c[i];
    }
    return n_out;
}

int fm_nfc(const char *text, size_t n, const char **out, size_t *n_out, char **owned, fm_error *err) {
    *out = text;
    *n_out = n;
    *owned = NULL;
    if (is_plain(text, n)) return 0;
    /* A character of 2 bytes or more decomposes to at most 4, so 2 for each byte; and at most 3 bytes for each byte. */
    int32_t *c = malloc((2 * n + 4) * sizeof *c), *spare = malloc((2 * n + 4) * sizeof *c);
    char *written = malloc(3 * n + 4);
    int code = 0;
    if (c && spare && written) {
        size_t n_c = decompose(text, n, c), at = 0;
        order(c, n_c, spare);
        n_c = compose(c, n_c);
        for (size_t i = 0; i < n_c; i++) at += (size_t)fm_utf8_write(c[i], written + at);
        char *fit = realloc(written, at + 1);
        *out = *owned = fit ? fit : written;
        *n_out = at;
    } else {
        code = fm_fail(err, FM_ENOMEM, "no memory to normalise %zu bytes of text", n);
        free(written);
    }
    free(c);
    free(spare);
    return code;
}
