/* cli/chat/visible.h: text from outside made safe to show. Whatever the model or a tool wrote, the terminal sees characters only, never a control sequence. */
#ifndef FM_CLI_CHAT_VISIBLE_H
#define FM_CLI_CHAT_VISIBLE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* A character whose bytes come in pieces. All zero is the beginning. */
struct visible {
    unsigned char held[4];
    int n, needed;
};

/* One character, of n bytes and `columns` columns: as it is, or a control character, a bidirectional override or a broken byte as a text such as \x1b or \u202e.
 * Newlines and tabs stay. */
typedef void (*fm_character_fn)(void *user, const char *bytes, int n, int columns);

void fm_visible_feed(struct visible *v, const char *bytes, size_t n, fm_character_fn fn, void *user);
/* What is left of an unfinished character. */
void fm_visible_end(struct visible *v, fm_character_fn fn, void *user);

/* All of a text, to a file. */
void fm_visible_print(FILE *out, const char *bytes, size_t n);

#endif
