/* cli/chat/markdown.h: Markdown that comes in pieces, shown with the terminal's attributes. What is written depends on the text alone and not on how it was cut,
 * and a text without markup comes out as it went in. Held back are only bytes whose meaning is still open: the beginning of a line as long as it may be a marker,
 * and a word or phrase between markers until the closing one comes; at the line's end, or when it gets long, an opening marker without a closing one is text. */
#ifndef FM_CLI_CHAT_MARKDOWN_H
#define FM_CLI_CHAT_MARKDOWN_H

#include <stdbool.h>
#include <stddef.h>

#include "cli/chat/visible.h"

typedef void (*fm_write_fn)(void *user, const char *bytes, size_t n);

enum { MARKDOWN_HELD = 400, MARKDOWN_OUT = 1024 };

/* To be set to zero but for write and user. */
struct markdown {
    fm_write_fn write; /* whole control sequences only */
    void *user;
    struct visible visible;
    int state;  /* enum of markdown.c */
    int base;   /* style of the line: a heading's */
    int style;  /* the terminal's now */
    char fence; /* ` or ~, and how many: of the open code block */
    int fence_length;
    char before; /* the byte before what is held; a newline at the line's beginning */
    char held[MARKDOWN_HELD + 16];
    int n_held;
    char out[MARKDOWN_OUT];
    int n_out;
};

void fm_markdown_feed(struct markdown *m, const char *bytes, size_t n);
/* The text is over: what is held is written, the style is plain. It can begin again. */
void fm_markdown_end(struct markdown *m);

#endif
