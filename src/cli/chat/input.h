/* cli/chat/input.h: what the user types: messages of one line or several, and short answers to questions. At a terminal through libedit, else line by line. */
#ifndef FM_CLI_CHAT_INPUT_H
#define FM_CLI_CHAT_INPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "flash_moe.h"

/* ---- a message of lines ---- */

/* All zero is an empty one. */
struct draft {
    char *text; /* malloc'd */
    size_t n;
    bool quoted, fenced; /* within """ or a ``` block */
    bool begun;
};

/* Adds a line without its newline. Returns true when the message is whole: it goes on after a line that ends in a backslash, between """ and """, and in a block of
 * code between ``` and ```. A line that begins with / is whole by itself. */
bool fm_draft_add(struct draft *message, const char *line);

/* ---- reading ---- */

struct input;

struct input_options {
    bool editor;         /* libedit: stdin and stdout are a terminal */
    bool styles;         /* the prompt may have attributes */
    bool prompts;        /* without the editor: prompts go to stderr */
    const char *history; /* file, or NULL */
    /* Called while nothing is typed; returns true while there is more to do. NULL: none. */
    bool (*idle)(void *user);
    void *user;
};

enum { INPUT_TEXT, INPUT_CLEARED /* by Ctrl-C */, INPUT_END };

int fm_input_open(struct input **out, const struct input_options *options, fm_error *err);
void fm_input_close(struct input **input);

/* The next message, malloc'd; pasted text is part of it as it was. INPUT_…; two Ctrl-C on empty lines are the end too. */
int fm_input_message(struct input *input, char **text);
/* One line as the answer to a question, malloc'd; what was typed before it was asked does not count. */
int fm_input_ask(struct input *input, const char *question, char **text);
bool fm_input_is_editor(const struct input *input);
/* During a turn: what is typed is not echoed, and is read at the next prompt. */
void fm_input_quiet(struct input *input, bool quiet);
/* A message for the up key that was not typed here. */
void fm_input_remember(struct input *input, const char *text);

#endif
