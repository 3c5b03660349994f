/* cli/chat/chat.c: `flash-moe chat`: its options, the model, and the loop of reading a message and answering it. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/chat/chat.h"
#include "cli/chat/signals.h"

#define AT(field) offsetof(struct chat_options, field)

static const struct cli_option connect_table[] = {
    {"connect", 0, OPTION_TEXT, AT(connect), "URL", "talk to the model of a server, http://host:port, in place of MODEL", 0, 0},
    {"api-key", 0, OPTION_TEXT, AT(key), "FILE|env", "the server's key is in FILE, or in the variable FLASH_MOE_API_KEY", 0, 0},
};

static const struct cli_option chat_table[] = {
    {"resume", 0, OPTION_ID, AT(resume), "[ID]", "goes on with the last conversation, or with that of this name", 0, 0},
    {"system", 0, OPTION_TEXT, AT(system), "TEXT", "the system prompt (default: ~/.flash-moe/system.md, if it is there)", 0, 0},
    {"system-file", 0, OPTION_TEXT, AT(system_file), "FILE", "… from a file", 0, 0},
    {"template", 0, OPTION_TEXT, AT(template_file), "FILE", "a Jinja chat template instead of the model's own", 0, 0},
    {"template-arg", 0, OPTION_LIST, AT(template_arguments), "KEY=VALUE", "a variable for the template, JSON or text; may be given again", 0, 0},
    {"heat", 0, OPTION_TEXT, AT(heat), "FILE",
     "remembers which experts were used most; off: nowhere\n(default: a file of the model's in the user's cache directory)", 0, 0},
};

static const struct cli_option tools_table[] = {
    {"tool", 0, OPTION_LIST, AT(tools), "bash", "the model may run shell commands; each is shown and asked about", 0, 0},
    {"tools", 0, OPTION_TEXT, AT(tools_file), "FILE",
     "tools of your own: a JSON list of objects with name, description,\nparameters (a JSON schema), command (gets the arguments as JSON\non standard input), ask (false: without asking) and timeout",
     0, 0},
    {"tool-dir", 0, OPTION_TEXT, AT(tool_directory), "DIR", "where tools run (default: the working directory)", 0, 0},
    {"tool-output", 0, OPTION_SIZE, AT(tool_output), "SIZE", "of a tool's output; the middle of longer ones is left out\n(default: 8K)", 0, 0},
};

/* ---- opening ---- */

static int read_system(const struct chat_options *o, struct text *out, fm_error *err) {
    const char *home = getenv("HOME");
    char path[PATH_MAX];

    *out = (struct text){0};
    if (o->system && o->system_file) return fm_cli_fail(err, FM_EINVAL, "--system and --system-file are both given");
    if (o->system || o->system_file) return fm_read_text(out, o->system, o->system_file, false, err);
    if (o->resume || !home || snprintf(path, sizeof path, "%s/.flash-moe/system.md", home) >= PATH_MAX || access(path, F_OK) != 0) return 0;
    return fm_read_text(out, NULL, path, false, err);
}

/* The system prompt goes to the conversation: of a new one, or where it was given. */
static int set_system(struct chat *c, fm_error *err) {
    struct text text;
    int rc = read_system(c->options, &text, err);
    char *system = rc >= 0 && text.bytes ? strndup(text.bytes, text.n) : NULL;

    if (system && strlen(system) == text.n) {
        while (text.n > 0 && system[text.n - 1] == '\n') system[--text.n] = '\0'; /* of a file */
        rc = fm_talk_set_system(&c->talk, system, err);
    } else if (system) {
        rc = fm_cli_fail(err, FM_EINVAL, "the system prompt has a zero byte at %zu", strlen(system));
    }
    free(system);
    free(text.bytes);
    return rc;
}

static int open_tools(struct chat *c, fm_error *err) {
    const struct chat_options *o = c->options;
    struct tool_options options = {
        .file = o->tools_file, .directory = o->tool_directory, .seconds = (double)o->settings.tool_seconds, .output_bytes = o->tool_output};

    for (int i = 0; i < o->tools.n; i++) {
        if (strcmp(o->tools.items[i], "bash") != 0)
            return fm_cli_fail(err, FM_EINVAL, "--tool takes bash, not '%s'; --tools FILE names tools of your own", o->tools.items[i]);
        options.bash = true;
    }
    return fm_tools_open(&c->tools, &options, err);
}

/* All that can be wrong without a model. */
static int open_cheap_parts(struct chat *c, const char *model, fm_error *err) {
    int rc = fm_sampling_biases(&c->bias, &c->options->sampling, err);

    if (rc >= 0 && !(c->template_arguments = json_object())) rc = fm_cli_fail(err, FM_ENOMEM, "no memory for the template's variables");
    if (rc >= 0) rc = fm_template_args(c->template_arguments, &c->options->template_arguments, err);
    if (rc >= 0) rc = open_tools(c, err);
    if (rc >= 0) rc = fm_talk_open(&c->talk, model, err);
    return rc < 0 ? rc : set_system(c, err);
}

static int open_model(struct chat *c, const char *model, fm_error *err) {
    const struct chat_options *o = c->options;
    fm_engine_options options = fm_engine_choose(&o->engine, &c->progress);
    fm_chat_options chat = FM_CHAT_OPTIONS_INIT;
    char heat[4200];
    int rc;

    if (o->connect) return fm_chat_connect(c, err);
    options.heat = fm_heat_path(heat, sizeof heat, o->heat, model);
    fm_session_choose(&c->options->session, &options);
    chat.template_file = o->template_file;
    rc = fm_open_engine(&c->engine, model, &options, err);
    if (rc >= 0) rc = fm_chat_open(&c->chat, c->engine, &chat, err);
    if (rc >= 0) rc = fm_template_check(c->chat, c->template_arguments, err);
    if (rc >= 0) rc = fm_session_open(&c->session, c->engine, err);
    return rc;
}

/* ---- the conversation ---- */

/* Snapshots go to the disk while the user thinks. */
static bool work_while_idle(void *user) {
    struct chat *c = user;

    return c->engine && fm_engine_idle(c->engine, 0.1, NULL) > 0;
}

static int open_input(struct chat *c, fm_error *err) {
    const char *term = getenv("TERM");
    bool terminal = isatty(STDIN_FILENO) == 1, dumb = !term || !*term || strcmp(term, "dumb") == 0;
    char history[PATH_MAX];
    struct input_options options = {.editor = terminal && c->view.terminal && !dumb,
                                    .styles = c->view.styles,
                                    .prompts = terminal,
                                    .history = fm_data_path(history, sizeof history, "history"),
                                    .idle = work_while_idle,
                                    .user = c};

    return fm_input_open(&c->input, &options, err);
}

static void greet(struct chat *c) {
    char size[SIZE_TEXT];

    if (!fm_input_is_editor(c->input)) return;
    if (c->remote) {
        fm_view_note(&c->view, "%s at %s\n/help lists the commands", fm_remote_model(c->remote), fm_remote_url(c->remote));
        return;
    }
    const fm_model_info *info = fm_engine_info(c->engine);
    const fm_plan *plan = fm_engine_plan(c->engine);
    const char *name = strrchr(c->talk.model, '/');
    fm_view_note(&c->view, "%s: %s of %d experts, memory %s, context %d tokens\n/help lists the commands", name ? name + 1 : c->talk.model, info->family,
                 info->n_experts, fm_memory_text(size, plan->budget_bytes), plan->context);
}

static void talk(struct chat *c) {
    bool over = false;

    while (!over && !fm_signals_ended() && !c->view.failed) {
        char *text = NULL;
        int rc = fm_input_message(c->input, &text);
        if (rc == INPUT_END) return;
        if (rc == INPUT_TEXT && *text == '/' && text[1] != '/')
            over = fm_chat_obey(c, text);
        else if (rc == INPUT_TEXT && text[strspn(text, " \t\n")])
            fm_chat_say(c, text + (*text == '/')); /* of two, the first only says that this is no command */
        free(text);
    }
}

static void close_chat(struct chat *c) {
    fm_input_close(&c->input);
    fm_session_close(&c->session);
    fm_chat_close(&c->chat);
    fm_progress_clear(&c->progress);
    if (c->engine || c->remote) fm_signals_close();
    fm_remote_close(&c->remote);
    fm_close_engine(&c->engine);
    fm_tools_close(&c->tools);
    fm_talk_close(&c->talk);
    fm_view_close(&c->view);
    json_decref(c->template_arguments);
    free(c->bias);
}

/* The exit code; a script has to know that something was not answered. */
static int finish(struct chat *c) {
    fm_error err = {0};

    if (c->view.failed == EPIPE) return 0; /* nobody reads it any more */
    if (c->view.failed) {
        fm_cli_fail(&err, FM_EIO, "cannot write to standard output: %s", strerror(c->view.failed));
        return fm_report(&err);
    }
    if (fm_cancelled() || fm_signals_ended()) return EXIT_CANCELLED;
    return c->failed && !fm_input_is_editor(c->input) ? 1 : fm_finish_output();
}

static int chat(const char *model, struct chat_options *options) {
    struct chat c = {.options = options};
    fm_error err = {0};
    int status = 0, rc;

    fm_progress_open(&c.progress);
    rc = open_cheap_parts(&c, model, &err);
    if (rc >= 0 && options->connect) rc = open_model(&c, model, &err);
    if (rc == FM_EINVAL) {
        status = fm_usage_error("%s", err.message);
    } else {
        if (rc >= 0 && !options->connect) rc = open_model(&c, model, &err);
        fm_progress_clear(&c.progress);
        fm_view_open(&c.view, &c.progress, c.engine);
        if (options->settings.reasoning != NOT_GIVEN) c.view.reasoning = options->settings.reasoning;
        if (rc >= 0) rc = open_input(&c, &err);
        if (rc >= 0) fm_signals_open(c.engine);
        if (rc >= 0) greet(&c);
        if (rc >= 0 && options->resume && (rc = fm_chat_resume(&c, *options->resume ? options->resume : NULL, &err)) >= 0) rc = set_system(&c, &err);
        if (rc >= 0 && !fm_cancelled()) talk(&c);
        if (rc >= 0) fm_chat_leave(&c);
        status = rc < 0 ? fm_report(&err) : finish(&c);
    }
    close_chat(&c);
    return status;
}

/* ---- the command line ---- */

static int chat_main(const struct cli_command *command, int argc, char **argv) {
    struct chat_options options = {
        .sampling = SAMPLING_CHOICES_INIT, .settings = {.max_tokens = -1, .think_budget = -1, .reasoning = NOT_GIVEN, .tool_seconds = 60}, .tool_output = 8192};
    const struct option_group groups[] = {OPTION_GROUP("Server", connect_table, &options),
                                          OPTION_GROUP("Conversation", chat_table, &options),
                                          {"Answers", fm_settings_table, fm_settings_table_n, &options.settings},
                                          OPTION_GROUP("Tools", tools_table, &options),
                                          SAMPLING_GROUP(&options.sampling),
                                          ENGINE_GROUP(&options.engine),
                                          SESSION_GROUP(&options.session)};
    struct cli_words words;
    int status;

    (void)argc;
    options.sampling.seed = fm_sampling_new_seed();
    if (fm_options_parse(command, groups, 7, -1, &words, argv, &status) == 0) {
        if (words.n == 0 && !options.connect)
            status = fm_usage_error("chat needs MODEL, the directory of a model, or --connect URL: flash-moe chat %s", command->arguments);
        else if (words.n && options.connect)
            status = fm_usage_error("with --connect the model is the server's: '%s' is one too many", words.words[0]);
        else if (options.key && !options.connect)
            status = fm_usage_error("--api-key is for --connect URL");
        else
            status = chat(options.connect ? options.connect : words.words[0], &options);
    }
    free(options.tools.items);
    free(options.template_arguments.items);
    free(options.sampling.biases.items);
    return status;
}

const struct cli_command fm_command_chat = {
    .name = "chat",
    .arguments = "MODEL | --connect URL [options]",
    .summary = "talk to a model",
    .text = "At a terminal: a line editor with history, Markdown, Ctrl-C that stops an answer, and commands, which\n"
            "/help lists. Conversations are kept in the user's data directory and their states in the session cache,\n"
            "so that --resume goes on at once. Without a terminal each line of standard input is a message; answers go\n"
            "to standard output, everything else to standard error.\n"
            "\n"
            "Examples\n"
            "  flash-moe chat models/ember\n"
            "  flash-moe chat models/ember --tool bash --tool-dir /tmp\n"
            "  flash-moe chat models/ember --resume\n"
            "  flash-moe chat --connect http://127.0.0.1:8080\n"
            "  printf 'What is the capital of Norway?\\n' | flash-moe chat models/ember --temp 0\n",
    .main = chat_main,
};
