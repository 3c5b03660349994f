/* cli/chat/visible.c: characters from bytes, and what a terminal would obey, written out. */
#include "cli/chat/visible.h"

#include <stdbool.h>
#include <wchar.h>

/* Bytes of the character that begins with c; 0: none does. */
static int length_of(unsigned char c) { return c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0; }

static void give_bytes(struct visible *v, fm_character_fn fn, void *user) {
    char text[8];

    for (int i = 0; i < v->n; i++) fn(user, text, snprintf(text, sizeof text, "\\x%02x", v->held[i]), 4);
    v->n = 0;
}

/* Turns the direction of the text around it, so that what is shown is not what is there; or hides in it. */
static bool misleads(uint32_t c) {
    return (c >= 0x202a && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0x200e || c == 0x200f || c == 0x061c || c == 0x2028 || c == 0x2029;
}

static void give_character(struct visible *v, fm_character_fn fn, void *user) {
    static const uint8_t masks[5] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint32_t c = v->held[0] & masks[v->needed];
    char text[16];
    int columns;

    for (int i = 1; i < v->needed; i++) c = c << 6 | (v->held[i] & 0x3f);
    if ((v->needed == 3 && c < 0x800) || (v->needed == 4 && (c < 0x10000 || c > 0x10ffff)) || (c >= 0xd800 && c <= 0xdfff)) {
        give_bytes(v, fn, user);
    } else if (c == '\n' || c == '\t') {
        fn(user, (const char *)v->held, 1, c == '\t' ? 8 : 0);
    } else if (c < 0x20 || (c >= 0x7f && c < 0xa0)) {
        columns = snprintf(text, sizeof text, "\\x%02x", (unsigned)c);
        fn(user, text, columns, columns);
    } else if (misleads(c)) {
        columns = snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
        fn(user, text, columns, columns);
    } else {
        columns = c < 0x80 ? 1 : wcwidth((wchar_t)c);
        fn(user, (const char *)v->held, v->needed, columns < 0 ? 1 : columns);
    }
    v->n = 0;
}

void fm_visible_feed(struct visible *v, const char *bytes, size_t n, fm_character_fn fn, void *user) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (v->n > 0 && (c & 0xc0) != 0x80) give_bytes(v, fn, user); /* the one before was cut */
        if (v->n == 0) v->needed = length_of(c);
        v->held[v->n++] = c;
        if (v->needed == 0)
            give_bytes(v, fn, user);
        else if (v->n == v->needed)
            give_character(v, fn, user);
    }
}

void fm_visible_end(struct visible *v, fm_character_fn fn, void *user) { give_bytes(v, fn, user); }

static void to_file(void *user, const char *bytes, int n, int columns) {
    (void)columns;
    fwrite(bytes, 1, (size_t)n, user);
}

void fm_visible_print(FILE *out, const char *bytes, size_t n) {
    struct visible v = {0};

    fm_visible_feed(&v, bytes, n, to_file, out);
    fm_visible_end(&v, to_file, out);
}
