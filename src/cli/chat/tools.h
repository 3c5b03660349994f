/* cli/chat/tools.h: what the model may call: a shell, and programs of the user's that a JSON file names. Each call is asked about first, unless the file says not. */
#ifndef FM_CLI_CHAT_TOOLS_H
#define FM_CLI_CHAT_TOOLS_H

#include <jansson.h>

#include "cli/chat/input.h"
#include "cli/chat/view.h"

struct tool_options {
    bool bash;
    const char *file;      /* JSON: a list of {"name", "description", "parameters", "command", "ask", "timeout"}; NULL: none */
    const char *directory; /* they run in; NULL: ours */
    double seconds;        /* time limit, where the file says none */
    size_t output_bytes;   /* of a result */
};

struct toolbox;

/* FM_EIO or FM_EFORMAT, naming the file, the tool's number and what is wrong. */
int fm_tools_open(struct toolbox **out, const struct tool_options *options, fm_error *err);
void fm_tools_close(struct toolbox **box);

/* In OpenAI's form, for a request; borrowed. NULL: there are no tools. */
json_t *fm_tools_list(const struct toolbox *box);
void fm_tools_describe(const struct toolbox *box, struct view *view);
/* The time limit for tools that have none of their own. */
void fm_tools_set_seconds(struct toolbox *box, double seconds);

/* Runs one call {"id", "function": {"name", "arguments"}} and returns what is told to the model, malloc'd: its output, or why there is none (unknown, refused,
 * stopped …). *stopped: the user pressed Ctrl-C. */
char *fm_tools_call(struct toolbox *box, const json_t *call, struct view *view, struct input *input, bool *stopped);

#endif
