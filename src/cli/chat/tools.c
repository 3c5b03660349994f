/* cli/chat/tools.c: the table of tools, asking, and what a call's result says. How a program runs is process.c's. */
#include "cli/chat/tools.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/chat/process.h"
#include "cli/chat/signals.h"
#include "cli/cli.h"

struct tool {
    const char *name;  /* of the schema */
    json_t *command;   /* a text for the shell, or a list of words; NULL: the shell itself */
    double seconds;    /* 0: the toolbox's */
    bool ask, allowed; /* allowed: the user said always */
};

struct toolbox {
    struct tool_options options;
    json_t *list; /* OpenAI's form; in the order of tools */
    struct tool *tools;
    int n;
    json_t *programs; /* an object whose keys are programs that bash may run without asking */
};

/* ---- the table ---- */

static int add_tool(struct toolbox *box, const struct tool *tool, json_t *function, fm_error *err) {
    struct tool *grown = realloc(box->tools, (size_t)(box->n + 1) * sizeof *grown);

    if (grown) box->tools = grown;
    if (!grown || json_array_append_new(box->list, json_pack("{s:s, s:O}", "type", "function", "function", function)))
        return fm_cli_fail(err, FM_ENOMEM, "no memory for tools");
    grown[box->n] = *tool;
    grown[box->n++].name = json_string_value(json_object_get(function, "name"));
    return 0;
}

static int add_bash(struct toolbox *box, fm_error *err) {
    json_t *function = json_pack("{s:s, s:s, s:{s:s, s:{s:{s:s}}, s:[s]}}", "name", "bash", "description", "Run a shell command", "parameters", "type",
                                 "object", "properties", "command", "type", "string", "required", "command");
    struct tool bash = {.ask = true};
    int rc = function ? add_tool(box, &bash, function, err) : fm_cli_fail(err, FM_ENOMEM, "no memory for tools");

    json_decref(function);
    return rc;
}

static const struct tool *find_tool(const struct toolbox *box, const char *name) {
    for (int i = 0; i < box->n; i++)
        if (strcmp(box->tools[i].name, name) == 0) return &box->tools[i];
    return NULL;
}

/* NULL, or what is wrong with a list of words or a text. */
static const char *wrong_command(const json_t *command) {
    const json_t *word;
    size_t i;

    if (json_is_string(command)) return *json_string_value(command) ? NULL : "has an empty \"command\"";
    if (!json_is_array(command) || json_array_size(command) == 0) return "has no \"command\", a text for the shell or a list of words";
    json_array_foreach(command, i, word) if (!json_is_string(word)) return "has a \"command\" with a word that is no text";
    return NULL;
}

static const char *wrong_entry(const struct toolbox *box, const json_t *entry, const json_t *function) {
    const json_t *name = json_object_get(function, "name"), *parameters = json_object_get(function, "parameters"), *ask = json_object_get(entry, "ask");
    const json_t *timeout = json_object_get(entry, "timeout"), *description = json_object_get(function, "description");
    const char *text = json_string_value(name);

    if (!json_is_object(entry) || !json_is_object(function)) return "is no object";
    if (!text || !*text || strlen(text) > 64) return "has no \"name\" of 1 to 64 characters";
    for (; *text; text++)
        if (!isalnum((unsigned char)*text) && !strchr("_-.", *text)) return "has a \"name\" with other characters than letters, digits, _, - and .";
    if (find_tool(box, json_string_value(name))) return "has the name of another tool";
    if (description && !json_is_string(description)) return "has a \"description\" that is no text";
    if (parameters && !json_is_object(parameters)) return "has \"parameters\" that are no object";
    if (ask && !json_is_boolean(ask)) return "has an \"ask\" that is neither true nor false";
    if (timeout && !(json_is_number(timeout) && json_number_value(timeout) > 0)) return "has a \"timeout\" that is no number of seconds";
    return wrong_command(json_object_get(entry, "command"));
}

/* One entry of the file; its schema may also stand in "function", as in OpenAI's form. */
static int add_entry(struct toolbox *box, json_t *entry, size_t number, fm_error *err) {
    json_t *inner = json_object_get(entry, "function"), *function, *empty;
    const char *wrong = wrong_entry(box, entry, inner ? inner : entry), *keys[] = {"name", "description", "parameters"};
    struct tool tool = {0};
    int rc;

    if (wrong) return fm_cli_fail(err, FM_EFORMAT, "%s: tool %zu %s", box->options.file, number, wrong);
    function = json_object();
    for (int i = 0; i < 3; i++) {
        json_t *value = json_object_get(inner ? inner : entry, keys[i]);
        if (value) json_object_set(function, keys[i], value);
    }
    empty = json_pack("{s:s, s:{}}", "type", "object", "properties");
    if (!json_object_get(function, "parameters")) json_object_set(function, "parameters", empty);
    if (!json_object_get(function, "description")) json_object_set_new(function, "description", json_string(""));
    tool.command = json_incref(json_object_get(entry, "command"));
    tool.seconds = json_number_value(json_object_get(entry, "timeout"));
    tool.ask = !json_is_false(json_object_get(entry, "ask"));
    rc = add_tool(box, &tool, function, err);
    json_decref(empty);
    json_decref(function);
    return rc;
}

static int read_file(struct toolbox *box, fm_error *err) {
    const char *path = box->options.file;
    json_t *file, *entry;
    size_t i;
    int rc = fm_json_read(&file, path, err);

    if (rc >= 0 && !json_is_array(file)) rc = fm_cli_fail(err, FM_EFORMAT, "%s: tools are a JSON list, [{\"name\": …, \"command\": …}, …]", path);
    json_array_foreach(file, i, entry) if (rc >= 0) rc = add_entry(box, entry, i + 1, err);
    json_decref(file);
    return rc;
}

int fm_tools_open(struct toolbox **out, const struct tool_options *options, fm_error *err) {
    struct toolbox *box = calloc(1, sizeof *box);
    int rc = 0;

    *out = box;
    if (!box || !(box->list = json_array()) || !(box->programs = json_object())) {
        fm_tools_close(out);
        return fm_cli_fail(err, FM_ENOMEM, "no memory for tools");
    }
    box->options = *options;
    if (options->directory && access(options->directory, X_OK))
        rc = fm_cli_fail(err, FM_EIO, "%s, where tools are to run, cannot be entered: %s", options->directory, strerror(errno));
    if (rc >= 0 && options->bash) rc = add_bash(box, err);
    if (rc >= 0 && options->file) rc = read_file(box, err);
    if (rc < 0) fm_tools_close(out);
    return rc;
}

void fm_tools_close(struct toolbox **out) {
    struct toolbox *box = *out;

    *out = NULL;
    if (!box) return;
    for (int i = 0; i < box->n; i++) json_decref(box->tools[i].command);
    free(box->tools);
    json_decref(box->list);
    json_decref(box->programs);
    free(box);
}

json_t *fm_tools_list(const struct toolbox *box) { return box->n ? box->list : NULL; }

void fm_tools_set_seconds(struct toolbox *box, double seconds) { box->options.seconds = seconds; }

void fm_tools_describe(const struct toolbox *box, struct view *view) {
    const char *program;
    json_t *value;

    if (box->n == 0) fm_view_note(view, "no tools; --tool bash offers a shell, --tools FILE programs of your own");
    for (int i = 0; i < box->n; i++) {
        const struct tool *t = &box->tools[i];
        const json_t *function = json_object_get(json_array_get(box->list, (size_t)i), "function");
        fm_view_note(view, "%s: %s (%s, at most %g s)", t->name, json_string_value(json_object_get(function, "description")),
                     t->ask && !t->allowed ? "asks before each run" : "runs without asking", t->seconds > 0 ? t->seconds : box->options.seconds);
    }
    json_object_foreach(box->programs, program, value) fm_view_note(view, "bash runs %s without asking", program);
}

/* ---- asking ---- */

/* The first word of a command that runs one program and nothing else; "" if that is not sure. */
static void program_of(char word[64], const char *command) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+-";
    size_t n = strspn(command, letters);

    word[0] = '\0';
    if (n == 0 || n >= 64 || (command[n] && command[n] != ' ') || command[strcspn(command, ";|&$`<>(){}!\n\r\\")]) return;
    memcpy(word, command, n);
    word[n] = '\0';
}

enum { NO, YES, ALWAYS };

/* always: what "always" stands for; "" if it is not offered. */
static int ask(const char *always, struct input *input) {
    char question[160], *answer, first;
    int rc;

    if (*always)
        snprintf(question, sizeof question, "Run it? y = yes, n = no, a = always for %s: ", always);
    else
        snprintf(question, sizeof question, "Run it? y = yes, n = no: ");
    for (;;) {
        rc = fm_input_ask(input, question, &answer);
        if (rc != INPUT_TEXT) return NO;
        first = (char)tolower((unsigned char)answer[strspn(answer, " \t")]);
        free(answer);
        if (first == 'y') return YES;
        if (first == 'a' && *always) return ALWAYS;
        if (first == 'n' || !fm_input_is_editor(input)) return NO;
    }
}

/* ---- running ---- */

static char *say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static char *say(const char *format, ...) {
    va_list arguments;
    char *text;

    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0) abort();
    va_end(arguments);
    return text;
}

/* What the model is told of a run. */
static char *result_text(const struct process_result *r, double seconds) {
    size_t n = r->n;
    char end[96] = "", cut[64] = "";

    if (n > 0 && r->output[n - 1] == '\n') n--;
    if (r->stopped)
        snprintf(end, sizeof end, "\n[stopped by the user]");
    else if (r->timed_out)
        snprintf(end, sizeof end, "\n[killed after %g seconds]", seconds);
    else if (r->exit_status < 0)
        snprintf(end, sizeof end, "\n[ended by signal %d]", r->signal);
    else if (r->exit_status > 0)
        snprintf(end, sizeof end, "\n[exit status %d]", r->exit_status);
    if (r->left_out) snprintf(cut, sizeof cut, "\n[… %llu bytes left out …]\n", (unsigned long long)r->left_out);
    size_t head = r->left_out ? r->head : n;
    return say("%.*s%s%.*s%s", (int)head, r->output, cut, (int)(n - head), r->output + head, n ? end : end + (*end != 0));
}

static char *run(const struct toolbox *box, const struct tool *tool, const char *const *argv, const char *input, struct view *view, bool *stopped) {
    struct process_limits limits = {.seconds = tool->seconds > 0 ? tool->seconds : box->options.seconds,
                                    .output_bytes = box->options.output_bytes,
                                    .directory = box->options.directory,
                                    .stop = fm_signals_interrupted};
    struct process_result result;
    fm_error err = {0};
    char *text;

    fm_signals_forget();
    if (fm_process_run(argv, input, strlen(input), &limits, &result, &err) < 0) {
        text = say("error: %s", err.message);
    } else {
        for (size_t i = 0; i < result.n; i++)
            if (result.output[i] == '\0') result.output[i] = ' '; /* the model is given a text */
        text = result_text(&result, limits.seconds);
        *stopped = result.stopped;
    }
    free(result.output);
    fm_view_quote(view, text, strlen(text));
    return text;
}

static const char *shell(void) { return access("/bin/bash", X_OK) == 0 ? "/bin/bash" : "/bin/sh"; }

static char *call_bash(struct toolbox *box, struct tool *tool, const json_t *arguments, struct view *view, struct input *input, bool *stopped) {
    const char *command = json_string_value(json_object_get(arguments, "command"));
    const char *const argv[] = {shell(), "-c", command, NULL};
    char program[64];
    int answer = YES;

    if (!command || !*command) return say("error: bash needs the argument \"command\", a text");
    program_of(program, command);
    fm_view_note(view, "bash%s%s:", box->options.directory ? ", in " : "", box->options.directory ? box->options.directory : "");
    fm_view_quote(view, command, strlen(command));
    if (!*program || !json_object_get(box->programs, program)) answer = ask(program, input);
    if (answer == NO) return say("the user refused");
    if (answer == ALWAYS) json_object_set_new(box->programs, program, json_true());
    return run(box, tool, argv, "", view, stopped);
}

static char *call_own(struct toolbox *box, struct tool *tool, const json_t *arguments, struct view *view, struct input *input, bool *stopped) {
    size_t n = json_is_array(tool->command) ? json_array_size(tool->command) : 0;
    const char **argv = calloc(n + 4, sizeof *argv);
    char *text = json_dumps(arguments, JSON_COMPACT), *result = NULL;
    int answer = YES;

    if (!argv || !text) abort();
    if (n == 0) {
        argv[0] = shell();
        argv[1] = "-c";
        argv[2] = json_string_value(tool->command);
    }
    for (size_t i = 0; i < n; i++) argv[i] = json_string_value(json_array_get(tool->command, i));
    if (tool->ask && !tool->allowed) {
        fm_view_note(view, "%s:", tool->name);
        fm_view_quote(view, text, strlen(text));
        answer = ask(tool->name, input);
    }
    if (answer == ALWAYS) tool->allowed = true;
    result = answer == NO ? say("the user refused") : run(box, tool, argv, text, view, stopped);
    free(text);
    free(argv);
    return result;
}

static char *unknown_tool(const struct toolbox *box, const char *name) {
    char names[512] = "";

    for (int i = 0; i < box->n; i++) {
        size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", box->tools[i].name);
    }
    return say("error: there is no tool %s; the tools are: %s", name, box->n ? names : "none");
}

char *fm_tools_call(struct toolbox *box, const json_t *call, struct view *view, struct input *input, bool *stopped) {
    const json_t *function = json_object_get(call, "function"), *given = json_object_get(function, "arguments");
    const char *name = json_string_value(json_object_get(function, "name"));
    struct tool *tool = (struct tool *)find_tool(box, name ? name : "");
    json_t *arguments = json_is_string(given) ? json_loads(json_string_value(given), 0, NULL) : json_incref((json_t *)given);
    char *result;

    *stopped = false;
    if (!tool)
        result = unknown_tool(box, name ? name : "without a name");
    else if (!json_is_object(arguments))
        result = say("error: the arguments of %s are no JSON object", name);
    else
        result = (tool->command ? call_own : call_bash)(box, tool, arguments, view, input, stopped);
    if (!tool || !json_is_object(arguments)) fm_view_quote(view, result, strlen(result));
    json_decref(arguments);
    return result;
}
