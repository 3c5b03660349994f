/* chat/chars.c: see chars.h. */
#include "chat/chars.h"

#include <stdlib.h>
#include <string.h>

bool fm_chars_reserve(fm_chars *c, size_t more) {
    if (c->failed) return false;
    if (more < c->capacity - c->n) return true;
    size_t wanted = c->n + more + 1;
    size_t capacity = wanted + wanted / 2 + 32;
    char *bytes = realloc(c->bytes, capacity);
    if (!bytes) {
        c->failed = true;
        return false;
    }
    c->bytes = bytes;
    c->capacity = capacity;
    c->bytes[c->n] = 0;
    return true;
}

void fm_chars_add(fm_chars *c, const char *bytes, size_t n) {
    if (!fm_chars_reserve(c, n)) return;
    if (n) memcpy(c->bytes + c->n, bytes, n);
    c->n += n;
    c->bytes[c->n] = 0;
}

void fm_chars_put(fm_chars *c, const char *text) { fm_chars_add(c, text, strlen(text)); }

void fm_chars_drop(fm_chars *c, size_t n) {
    if (!n) return;
    memmove(c->bytes, c->bytes + n, c->n - n + 1);
    c->n -= n;
}

const char *fm_chars_text(const fm_chars *c) { return c->bytes ? c->bytes : ""; }

void fm_chars_close(fm_chars *c) {
    free(c->bytes);
    *c = (fm_chars){0};
}

int fm_chars_check(const fm_chars *c, const char *what, fm_error *err) {
    return c->failed ? fm_fail(err, FM_ENOMEM, "no memory for %s, of which there are %zu bytes", what, c->n) : 0;
}
