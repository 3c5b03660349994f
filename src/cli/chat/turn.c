/* cli/chat/turn.c: one turn of the conversation: the request, the answer, the tools it calls, what is said about it, and what is kept. */
#include <stdlib.h>
#include <string.h>

#include "cli/chat/chat.h"
#include "cli/chat/signals.h"

int fm_chat_complain(struct chat *c, const fm_error *err) {
    fm_progress_clear(&c->progress);
    fflush(stdout);
    fm_report(err);
    c->failed = true;
    return err->code;
}

/* Writes the conversation's file, if there is anything in it. */
static void keep_file(struct chat *c) {
    char name[64], path[PATH_MAX];
    fm_error err = {0};

    if (fm_talk_n_turns(&c->talk) == 0) return;
    snprintf(name, sizeof name, "sessions/%s.json", c->talk.id);
    if (!fm_data_path(path, sizeof path, name)) fm_cli_fail(&err, FM_EIO, "this conversation is not kept: there is no directory for it");
    if (err.code || fm_talk_save(&c->talk, path, &err) < 0) fm_chat_complain(c, &err);
}

void fm_chat_leave(struct chat *c) {
    fm_error err = {0};

    keep_file(c);
    if (c->session && fm_session_position(c->session) > 0 && fm_session_keep(c->session, &err) < 0) fm_chat_complain(c, &err);
}

/* ---- the request ---- */

/* JSON for fm_chat_answer. NULL: no memory. */
static json_t *make_request(const struct chat *c) {
    json_t *request = json_pack("{s:O}", "messages", c->talk.messages), *arguments;

    if (request && (arguments = json_copy(c->template_arguments))) {
        if (c->options->settings.thinking) json_object_set_new(arguments, "enable_thinking", json_boolean(c->options->settings.thinking == 1));
        if (json_object_size(arguments)) json_object_set(request, "chat_template_kwargs", arguments);
        if (fm_tools_list(c->tools)) json_object_set(request, "tools", fm_tools_list(c->tools));
        json_decref(arguments);
    }
    return request;
}

/* As text, malloc'd; request is decref'd. */
static char *request_text(json_t *request, bool generation) {
    char *text = NULL;

    if (request && !json_object_set_new(request, "add_generation_prompt", json_boolean(generation))) text = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    return text;
}

/* ---- what is said about it ---- */

static double ratio(double a, double b) { return b > 0 ? a / b : 0; }

/* The line after an answer; why it took long to begin, if it did. */
static void show_status(struct chat *c, const fm_answered *a, const fm_stats *before) {
    int held = fm_session_position(c->session), context = fm_engine_plan(c->engine)->context, known = a->synced.n_kept + a->synced.n_restored;
    double speed = a->n_tokens > 1 ? ratio(a->n_tokens - 1, a->decode_seconds) : ratio(a->n_tokens, a->first_token_seconds);
    const char *how = a->stop == FM_STOP_CANCELLED ? "stopped: " : a->stop == FM_STOP_LENGTH ? "cut at the limit: " : "";
    char hits[40] = "", wait[96] = "";
    fm_stats after;

    fm_engine_stats(c->engine, &after);
    if (after.n_requests > before->n_requests)
        snprintf(hits, sizeof hits, ", hit rate %.1f %%",
                 100 * ratio((double)(after.n_hits - before->n_hits), (double)(after.n_requests - before->n_requests)));
    if (a->first_token_seconds >= 1)
        snprintf(wait, sizeof wait, "\nbegan after %.1f s: prompt of %d tokens, %d of them known%s", a->first_token_seconds, a->n_prompt, known,
                 a->synced.n_restored ? " from the session cache" : "");
    fm_view_note(&c->view, "%s%d tokens, %.1f tokens/s%s, context %d of %d (%.0f %%)%s", how, a->n_tokens, speed, hits, held, context,
                 100 * ratio(held, context), wait);
}

/* ---- the answer ---- */

/* By the engine of this process. */
static int answer_here(struct chat *c, json_t *json, fm_answered *out, fm_error *err) {
    fm_answer_options options = FM_ANSWER_OPTIONS_INIT;
    char *request = request_text(json_incref(json), true);
    fm_sampling sampling;
    int rc;

    if (!request) return fm_cli_fail(err, FM_ENOMEM, "no memory for the conversation");
    options.max_tokens = c->options->settings.max_tokens;
    options.think_budget = c->options->settings.think_budget;
    options.event = fm_view_event;
    options.user = &c->view;
    fm_sampling_choose(&sampling, c->engine, &c->options->sampling, c->bias);
    sampling.seed += (uint64_t)c->n_answers++; /* /retry gives another answer */
    rc = fm_chat_answer(c->chat, c->session, request, &sampling, &options, out, err);
    free(request);
    return rc;
}

static int answer(struct chat *c, fm_answered *out, fm_error *err) {
    json_t *request = make_request(c);
    int rc;

    *out = (fm_answered){0};
    if (!request) return fm_cli_fail(err, FM_ENOMEM, "no memory for the conversation");
    fm_view_begin(&c->view);
    fm_signals_begin();
    rc = (c->remote ? fm_chat_ask : answer_here)(c, request, out, err);
    fm_signals_end();
    fm_view_end(&c->view);
    json_decref(request);
    return rc;
}

/* A turn that came to nothing: the user's message is taken back, so that the conversation is as before. */
static void take_back(struct chat *c) {
    int last = (int)json_array_size(c->talk.messages) - 1;

    if (last < 0 || fm_talk_last(&c->talk, "user") != last) return;
    fm_input_remember(c->input, fm_talk_text(json_array_get(c->talk.messages, (size_t)last)));
    fm_talk_cut(&c->talk, last);
    if (fm_input_is_editor(c->input)) fm_view_note(&c->view, "your message is taken back; the up key has it");
}

/* The message of an answer goes into the conversation. Of one that was stopped, only the text does: calls need their results. Returns 0 if there is nothing. */
static int add_answer(struct chat *c, const fm_answered *a, fm_error *err) {
    int rc = fm_talk_add_json(&c->talk, a->message ? a->message : "{\"role\": \"assistant\", \"content\": \"\"}", err);
    size_t last = json_array_size(c->talk.messages) - 1;
    json_t *message = json_array_get(c->talk.messages, last);

    if (rc < 0) return rc;
    if (a->stop == FM_STOP_CANCELLED) {
        json_object_del(message, "tool_calls");
        if (!*fm_talk_text(message)) {
            fm_talk_cut(&c->talk, (int)last);
            return 0;
        }
    }
    return 1;
}

/* ---- tools ---- */

/* Runs the calls of the last message in order. Returns true if the model is to go on. */
static bool run_calls(struct chat *c, fm_error *err) {
    size_t last = json_array_size(c->talk.messages) - 1, i;
    json_t *calls = json_incref(json_object_get(json_array_get(c->talk.messages, last), "tool_calls")), *call;
    bool stopped = false;
    int rc = 0;

    json_array_foreach(calls, i, call) {
        const char *id = json_string_value(json_object_get(call, "id"));
        char *result = stopped ? strdup("the user stopped before this was run") : fm_tools_call(c->tools, call, &c->view, c->input, &stopped);
        rc = result ? fm_talk_add(&c->talk, "tool", result, strlen(result), err) : fm_cli_fail(err, FM_ENOMEM, "no memory for a result");
        free(result);
        if (rc < 0) break;
        json_object_set_new(json_array_get(c->talk.messages, last + 1 + i), "tool_call_id", json_string(id ? id : ""));
    }
    i = json_array_size(calls);
    json_decref(calls);
    return rc >= 0 && i > 0 && !stopped && !fm_signals_ended();
}

void fm_chat_turn(struct chat *c) {
    fm_error err = {0};
    fm_answered answered;
    fm_stats before = {0};
    int rc = 0, added = 0, n = 0;
    bool more = true;

    fm_input_quiet(c->input, true);
    for (; more && rc >= 0 && n < MOST_TOOL_TURNS; n++) {
        if (c->engine) fm_engine_stats(c->engine, &before);
        if ((rc = answer(c, &answered, &err)) < 0) break;
        rc = added = add_answer(c, &answered, &err);
        if (rc >= 0 && answered.stop != FM_STOP_CALLS) c->remote ? fm_chat_asked(c, &answered) : show_status(c, &answered, &before);
        c->last = answered;
        c->last.message = NULL;
        more = rc > 0 && answered.stop == FM_STOP_CALLS && run_calls(c, &err);
        if (err.code) rc = err.code;
        fm_free(answered.message);
        keep_file(c);
    }
    fm_input_quiet(c->input, false);
    if (rc < 0) fm_chat_complain(c, &err);
    if (rc == FM_EFULL) fm_view_note(&c->view, "/clear begins a new conversation; --context N makes room for longer ones");
    if (rc < 0 || !added) take_back(c);
    if (more && rc >= 0 && n == MOST_TOOL_TURNS) fm_view_note(&c->view, "stopped after %d turns of tools; say something to go on", n);
}

void fm_chat_say(struct chat *c, const char *text) {
    fm_error err = {0};

    if (fm_talk_add(&c->talk, "user", text, strlen(text), &err) < 0)
        fm_chat_complain(c, &err);
    else
        fm_chat_turn(c);
}

/* ---- restoring ---- */

void fm_chat_restore(struct chat *c) {
    char *request = c->remote ? NULL : request_text(make_request(c), false);
    double begun = fm_seconds();
    fm_prompt prompt;
    fm_error err = {0};
    int held;

    if (request && fm_talk_n_turns(&c->talk) > 0 && fm_chat_prompt(c->chat, request, &prompt, &err) >= 0) {
        held = fm_session_rewind(c->session, prompt.ids, prompt.n_ids, &err);
        if (held >= 0) fm_view_note(&c->view, "%d of its %d tokens restored in %.2f s", held, prompt.n_ids, fm_seconds() - begun);
        fm_prompt_clear(&prompt);
    }
    fm_progress_clear(&c->progress);
    if (err.code < 0) fm_chat_complain(c, &err);
    free(request);
}
