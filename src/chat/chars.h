/* chat/chars.h: bytes that grow. Running out of memory is remembered, so that it is asked for once at the end of what is built. */
#ifndef FM_CHAT_CHARS_H
#define FM_CHAT_CHARS_H

#include "base/error.h"

typedef struct fm_chars { /* zeroed at first */
    char *bytes;          /* 0-terminated once anything was added; NULL before */
    size_t n, capacity;
    bool failed; /* memory ran out: what was added then is missing */
} fm_chars;

/* Room for more bytes behind the n there are, and a 0; false: none. */
bool fm_chars_reserve(fm_chars *chars, size_t more);
void fm_chars_add(fm_chars *chars, const char *bytes, size_t n);
void fm_chars_put(fm_chars *chars, const char *text);
/* Removes the first n bytes. */
void fm_chars_drop(fm_chars *chars, size_t n);
/* The text, "" for none. */
const char *fm_chars_text(const fm_chars *chars);
/* Frees and zeroes. */
void fm_chars_close(fm_chars *chars);
/* 0, or FM_ENOMEM if memory ran out. what it is for: "the message". */
int fm_chars_check(const fm_chars *chars, const char *what, fm_error *err);

/* Space, tab, line feed, carriage return. */
static inline bool fm_is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

#endif
