/* cli/chat/view.h: an answer's events on the screen. The answer itself goes to stdout; what is said about it, reasoning and tools go to stderr if stdout is no
 * terminal. Without a terminal, with NO_COLOR or TERM=dumb there are no attributes; on a terminal there are never control characters of the model's. */
#ifndef FM_CLI_CHAT_VIEW_H
#define FM_CLI_CHAT_VIEW_H

#include <stdbool.h>
#include <stdio.h>

#include "cli/chat/markdown.h"
#include "cli/cli.h"

enum { REASONING_SHOW, REASONING_FOLD, REASONING_HIDE };
enum { WINDOW_ROWS = 6, ROW_BYTES = 1024 };

/* The last rows of reasoning that is being folded, as they stand on the screen. */
struct window {
    char rows[WINDOW_ROWS][ROW_BYTES];
    int bytes[WINDOW_ROWS], n_rows, columns; /* columns used in the last row */
    int width;                               /* of the terminal when it began */
};

struct view {
    bool terminal, styles;           /* stdout is one; and has attributes */
    bool note_terminal, note_styles; /* stderr */
    int reasoning;                   /* REASONING_… */
    struct progress *progress;       /* its line is removed before anything is shown */
    const fm_engine *engine;         /* counts tokens of reasoning; NULL: characters are counted */
    struct markdown markdown;
    struct visible visible;
    struct window window;
    int part;            /* enum of view.c: what is being shown */
    bool text_begun;     /* of this answer */
    char last;           /* byte of text */
    int failed;          /* errno of writing stdout; 0: none */
    struct text thought; /* the last answer's reasoning */
};

void fm_view_open(struct view *view, struct progress *progress, const fm_engine *engine);
void fm_view_close(struct view *view);

void fm_view_begin(struct view *view); /* an answer begins */
/* An fm_event_fn with a view as user. Non-zero if stdout cannot be written any more. */
int fm_view_event(void *user, const fm_event *event);
void fm_view_end(struct view *view); /* it is over: the cursor stands at a line's beginning, attributes are off */

/* A line, or several, about the conversation, on stderr; dim where there are attributes. */
__attribute__((format(printf, 2, 3))) void fm_view_note(struct view *view, const char *format, ...);
/* Text from outside in such lines, each after a margin. */
void fm_view_quote(struct view *view, const char *text, size_t n);
/* The last answer's reasoning in full. */
void fm_view_thought(struct view *view);

#endif
