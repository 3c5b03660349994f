/* cli/chat/chat.h: what the files of `flash-moe chat` share: the conversation that is going on, and how it is answered. */
#ifndef FM_CLI_CHAT_CHAT_H
#define FM_CLI_CHAT_CHAT_H

#include "cli/chat/input.h"
#include "cli/chat/store.h"
#include "cli/chat/tools.h"
#include "cli/chat/view.h"
#include "cli/cli.h"
#include "cli/remote/remote.h"
#include "cli/sampling.h"
#include "cli/session_options.h"

enum { MOST_TOOL_TURNS = 20 };

/* What /set changes; also options of the command line. */
struct settings {
    int max_tokens, think_budget; /* -1: no limit */
    int reasoning;                /* REASONING_…; NOT_GIVEN: as the terminal allows */
    int thinking;                 /* 0: as the template likes, 1: on, 2: off */
    float tool_seconds;
};

struct chat_options {
    struct engine_choices engine;
    struct session_choices session;
    struct sampling_choices sampling;
    struct settings settings;
    const char *connect, *key; /* a server, and where its API key is */
    const char *system, *system_file, *resume, *template_file, *heat;
    struct text_list tools, template_arguments;
    const char *tools_file, *tool_directory;
    uint64_t tool_output;
};

struct chat {
    struct chat_options *options;
    struct progress progress;
    struct view view;
    struct input *input;
    struct toolbox *tools;
    struct remote *remote; /* a server that answers; NULL: */
    fm_engine *engine;
    fm_chat *chat;
    fm_session *session;
    fm_logit_bias *bias;
    json_t *template_arguments;
    struct talk talk;
    int n_answers;
    fm_answered last; /* without its message */
    bool failed;      /* something could not be answered: the exit code of a script */
};

/* turn.c: */

/* Says what is wrong, on stderr; returns err->code. */
int fm_chat_complain(struct chat *chat, const fm_error *err);
/* Answers the conversation, whose last message is the user's or a tool's, and runs the tools that the model calls, until it has said something. Keeps the
 * conversation on disk. Errors are said here. */
void fm_chat_turn(struct chat *chat);
/* Adds the user's message and answers. */
void fm_chat_say(struct chat *chat, const char *text);
/* The session is brought to the conversation as far as that costs no computation; says how far. */
void fm_chat_restore(struct chat *chat);

/* The conversation is left, for another or for good: its file is written, and the state after its last answer is kept. */
void fm_chat_leave(struct chat *chat);

/* elsewhere.c: what answers in place of an engine of this process is a server. */

/* Connects. FM_EINVAL, too, for options that are the server's affair. */
int fm_chat_connect(struct chat *chat, fm_error *err);
/* Answers the conversation in request (as fm_chat_answer takes it), with the settings. */
int fm_chat_ask(struct chat *chat, json_t *request, fm_answered *out, fm_error *err);
/* The line after an answer. */
void fm_chat_asked(struct chat *chat, const fm_answered *answered);
/* Says that a command needs the model here; true: there is none. */
bool fm_chat_is_elsewhere(struct chat *chat, const char *what);

/* commands.c: */

extern const struct cli_option fm_settings_table[];
extern const int fm_settings_table_n;

/* Obeys a line that begins with /. Returns true when the program is to end. */
bool fm_chat_obey(struct chat *chat, const char *line);
/* Takes up a kept conversation; id as of fm_talk_find. */
int fm_chat_resume(struct chat *chat, const char *id, fm_error *err);

#endif
