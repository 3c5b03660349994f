/* cli/talk/conversation.c: `flash-moe run` with the model's chat template: the request that the options make, and its answer's events for people and scripts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/talk/run.h"

/* ---- the request ---- */

static int read_json(json_t **out, const char *option, const char *path, fm_error *err) {
    struct text text;
    json_error_t at;
    int rc = fm_read_text(&text, NULL, path, false, err);

    if (rc < 0) return rc;
    *out = json_loadb(text.bytes ? text.bytes : "", text.n, 0, &at);
    free(text.bytes);
    if (*out) return 0;
    return fm_cli_fail(err, FM_EFORMAT, "%s of %s is not JSON: line %d, column %d: %s", path, option, at.line, at.column, at.text);
}

/* A list of messages, or a whole request with them. */
static int add_messages(json_t *request, const char *path, fm_error *err) {
    json_t *read;
    int rc = read_json(&read, "--messages", path, err);

    if (rc < 0) return rc;
    if (json_is_object(read) && json_is_array(json_object_get(read, "messages")))
        json_object_update(request, read);
    else if (json_is_array(read))
        json_object_set(request, "messages", read);
    else
        rc = fm_cli_fail(err, FM_EFORMAT, "%s of --messages is neither a JSON list of messages nor an object that has one", path);
    json_decref(read);
    return rc;
}

/* A list of tools as OpenAI's API takes them, or as `flash-moe chat --tools` does, whose commands are none of the model's business. */
static int add_tools(json_t *request, const char *path, fm_error *err) {
    static const char *const keys[] = {"name", "description", "parameters", "strict"};
    json_t *read, *list = json_array(), *entry;
    size_t i;
    int rc = read_json(&read, "--tools", path, err);

    json_object_set_new(request, "tools", list);
    if (rc < 0) return rc;
    if (!json_is_array(read)) rc = fm_cli_fail(err, FM_EFORMAT, "%s of --tools is not a JSON list", path);
    json_array_foreach(read, i, entry) {
        json_t *inner = json_object_get(entry, "function"), *from = inner ? inner : entry, *function;
        const char *name = json_string_value(json_object_get(from, "name"));
        if (rc < 0) break;
        if (!name || !*name) {
            rc = fm_cli_fail(err, FM_EFORMAT, "tool %zu of %s is no object with a \"name\"", i + 1, path);
        } else if (inner && !json_object_get(entry, "command")) {
            json_array_append(list, entry);
        } else {
            function = json_object();
            for (int k = 0; k < 4; k++) {
                json_t *value = json_object_get(from, keys[k]);
                if (value) json_object_set(function, keys[k], value);
            }
            json_array_append_new(list, json_pack("{s:s, s:o}", "type", "function", "function", function));
        }
    }
    json_decref(read);
    return rc;
}

static json_t *message(const char *role, const char *text, size_t n) { return json_pack("{s:s, s:o}", "role", role, "content", fm_json_text(text, n)); }

static int fill_request(json_t *request, const struct run_options *o, const struct text *prompt, fm_error *err) {
    json_t *kwargs = json_object(), *messages;
    int rc = 0;

    json_object_set_new(request, "chat_template_kwargs", kwargs);
    if (o->messages && (rc = add_messages(request, o->messages, err)) < 0) return rc;
    if (!json_is_object(kwargs = json_object_get(request, "chat_template_kwargs"))) return fm_cli_fail(err, FM_EFORMAT, "chat_template_kwargs is no object");
    if ((rc = fm_template_args(kwargs, &o->template_args, err)) < 0) return rc;
    if (o->tools && (rc = add_tools(request, o->tools, err)) < 0) return rc;
    if (!(messages = json_object_get(request, "messages"))) json_object_set_new(request, "messages", messages = json_array());
    const char *first = json_string_value(json_object_get(json_array_get(messages, 0), "role"));
    if (o->system && first && strcmp(first, "system") == 0) json_array_remove(messages, 0);
    if (o->system) json_array_insert_new(messages, 0, message("system", o->system, strlen(o->system)));
    if (prompt) json_array_append_new(messages, message("user", prompt->bytes ? prompt->bytes : "", prompt->n));
    return 0;
}

int fm_run_request(char **out, const struct run_options *options, const struct text *prompt, fm_error *err) {
    json_t *request;
    int rc;

    *out = NULL;
    if (options->raw) return 0;
    request = json_object();
    rc = fill_request(request, options, prompt, err);
    if (rc >= 0 && !(*out = json_dumps(request, 0))) rc = fm_cli_fail(err, FM_ENOMEM, "no memory for the request");
    json_decref(request);
    return rc;
}

/* ---- the answer ---- */

static int show_reasoning(struct run *r, const char *text, size_t bytes) {
    bool terminal = isatty(STDERR_FILENO);

    fm_run_begin(r);
    if (r->options->json || r->options->reasoning == REASONING_HIDE || (r->options->reasoning == REASONING_AUTO && !terminal)) return 0;
    if (!r->dim && terminal && !getenv("NO_COLOR")) fputs("\033[2m", stderr);
    r->dim = true;
    fwrite(text, 1, bytes, stderr);
    fflush(stderr);
    return 0;
}

static void end_reasoning(struct run *r) {
    if (!r->dim) return;
    fputs(isatty(STDERR_FILENO) && !getenv("NO_COLOR") ? "\033[0m\n" : "\n", stderr);
    r->dim = false;
}

/* {"tool_call": {"id": …, "name": …, "arguments": …}} on a line of its own. */
static int show_call(struct run *r, const fm_event *event) {
    json_t *arguments = json_loadb(r->arguments.bytes ? r->arguments.bytes : "{}", r->arguments.bytes ? r->arguments.n : 2, JSON_ALLOW_NUL, NULL);
    json_t *call = json_pack("{s:{s:s, s:s, s:o}}", "tool_call", "id", event->id, "name", event->name, "arguments", arguments);
    char *line = call ? json_dumps(call, 0) : NULL;
    int rc = 0;

    if (!line) rc = fm_cli_fail(&r->err, FM_ENOMEM, "no memory for a call");
    if (rc == 0 && !r->options->json) {
        if (r->end && r->end != '\n') rc = fm_run_show(r, "\n", 1);
        if (rc == 0) rc = fm_run_show(r, line, strlen(line));
        if (rc == 0) rc = fm_run_show(r, "\n", 1);
    }
    free(line);
    json_decref(call);
    return rc;
}

static int show_event(void *user, const fm_event *event) {
    struct run *r = user;

    if (event->type != FM_EVENT_REASONING) end_reasoning(r);
    switch (event->type) {
    case FM_EVENT_TEXT: return fm_run_show(r, event->text, event->bytes);
    case FM_EVENT_REASONING: return show_reasoning(r, event->text, event->bytes);
    case FM_EVENT_CALL: r->arguments.n = 0; return 0;
    case FM_EVENT_ARGUMENTS:
        if (fm_text_add(&r->arguments, event->text, event->bytes)) return 0;
        return fm_cli_fail(&r->err, FM_ENOMEM, "no memory for a call's arguments");
    case FM_EVENT_CALL_END: return show_call(r, event);
    default: return 0;
    }
}

static int check_chat(struct run *r, const fm_chat *chat, fm_error *err) {
    const struct run_options *o = r->options;
    json_t *object = json_object();
    int rc = fm_template_args(object, &o->template_args, err);

    if (rc >= 0) rc = fm_template_check(chat, object, err);
    if (rc >= 0 && o->tools && strcmp(fm_chat_tool_format(chat), "none") == 0)
        fm_progress_log(&r->progress, FM_LOG_INFO, "note: how this model writes tool calls is not known: they stay text");
    json_decref(object);
    return rc;
}

int fm_run_answer(struct run *r, const char *request) {
    const struct run_options *o = r->options;
    fm_chat_options chat_options = FM_CHAT_OPTIONS_INIT;
    fm_answer_options options = FM_ANSWER_OPTIONS_INIT;
    fm_session *session = NULL;
    fm_chat *chat = NULL;
    fm_error err = {0};
    int rc;

    r->templated = true;
    chat_options.template_file = o->template_file;
    options.max_tokens = o->max_tokens;
    options.think_budget = o->think_budget;
    options.stops = o->stops.items;
    options.n_stops = o->stops.n;
    options.event = show_event;
    options.user = r;
    rc = fm_chat_open(&chat, r->engine, &chat_options, &err);
    if (rc >= 0) rc = check_chat(r, chat, &err);
    if (rc >= 0) rc = fm_session_open(&session, r->engine, &err);
    if (rc >= 0) rc = fm_chat_answer(chat, session, request, &r->sampling, &options, &r->answered, &err);
    fm_progress_clear(&r->progress);
    end_reasoning(r);
    fm_session_close(&session);
    fm_chat_close(&chat);
    const fm_answered *a = &r->answered;
    r->done = (fm_generated){.stop = a->stop, .n_prompt = a->n_prompt, .n_tokens = a->n_tokens, .first_token_seconds = a->first_token_seconds};
    r->done.decode_seconds = a->decode_seconds;
    r->done.n_kept = a->synced.n_kept + a->synced.n_restored;
    r->done.prompt_seconds = a->synced.restore_seconds + a->synced.compute_seconds;
    if (rc < 0 && r->err.code == 0 && !r->reader_left) r->err = err;
    return rc;
}
