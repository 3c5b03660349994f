/* serve/api/responses/responses_print.c: an answer as OpenAI's response: items in the order in which the model wrote them, and the events of its stream. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "serve/api/responses/responses.h"

/* ---- the response ---- */

/* A member of the request as it was, or what it is when it is not given (new). */
static json_t *given(const fm_exchange *x, const char *name, json_t *otherwise) {
    json_t *value = json_object_get(x->body, name);
    if (!fm_is_given(value)) return otherwise;
    json_decref(otherwise);
    return json_incref(value);
}

/* The tools as they are served: nothing is strict. */
static json_t *tools_of(const fm_exchange *x) {
    json_t *tools = json_deep_copy(json_object_get(x->body, "tools"));
    for (size_t i = 0; i < json_array_size(tools); i++) {
        json_object_set_new(json_array_get(tools, i), "strict", json_false());
        if (!json_object_get(json_array_get(tools, i), "parameters")) json_object_set_new(json_array_get(tools, i), "parameters", json_null());
    }
    return json_is_array(tools) ? tools : json_array();
}

static json_t *usage_of(const fm_job *job) {
    return json_pack("{s:i, s:{s:i, s:i}, s:i, s:{s:i}, s:i}", "input_tokens", job->n_prompt, "input_tokens_details", "cached_tokens", job->n_cached,
                     "cache_write_tokens", 0, "output_tokens", job->n_tokens, "output_tokens_details", "reasoning_tokens", job->n_reasoning, "total_tokens",
                     job->n_prompt + job->n_tokens);
}

static json_t *response_of(const fm_exchange *x, const char *status) {
    const fm_responses_state *state = x->state;
    const fm_job *job = x->jobs;
    json_t *r =
        json_pack("{s:o, s:s, s:I, s:s, s:o, s:n, s:n}", "id", json_sprintf("resp_%s", x->id), "object", "response", "created_at", (json_int_t)x->created,
                  "status", status, "model", fm_utf8_json(x->facts->alias, strlen(x->facts->alias)), "error", "incomplete_details");
    json_object_set_new(r, "output", state->output ? json_copy(state->output) : json_array());
    json_object_set_new(r, "instructions", given(x, "instructions", json_null()));
    json_object_set_new(r, "max_output_tokens", given(x, "max_output_tokens", json_null()));
    json_object_set_new(r, "max_tool_calls", given(x, "max_tool_calls", json_null()));
    json_object_set_new(r, "metadata", given(x, "metadata", json_object()));
    json_object_set_new(r, "parallel_tool_calls", given(x, "parallel_tool_calls", json_true()));
    json_object_set_new(r, "previous_response_id", given(x, "previous_response_id", json_null()));
    json_object_set_new(r, "reasoning", json_pack("{s:s?, s:n}", "effort", state->effort, "summary"));
    json_object_set_new(r, "safety_identifier", given(x, "safety_identifier", json_null()));
    json_object_set_new(r, "service_tier", json_string("default"));
    json_object_set_new(r, "background", json_false());
    json_object_set_new(r, "temperature", given(x, "temperature", json_real((double)job->sampling.temperature)));
    json_object_set_new(r, "top_p", given(x, "top_p", json_real((double)job->sampling.top_p)));
    json_object_set_new(r, "text", json_pack("{s:{s:s}}", "format", "type", "text"));
    json_object_set_new(r, "tool_choice", given(x, "tool_choice", json_string("auto")));
    json_object_set_new(r, "tools", tools_of(x));
    json_object_set_new(r, "top_logprobs", given(x, "top_logprobs", json_integer(0)));
    json_object_set_new(r, "truncation", json_string("disabled"));
    json_object_set_new(r, "user", given(x, "user", json_null()));
    json_object_set_new(r, "usage", json_null());
    return r;
}

/* ---- events of the stream ---- */

static void send_event(fm_exchange *x, const char *type, json_t *members) {
    fm_responses_state *state = x->state;
    json_object_set_new(members, "type", json_string(type));
    json_object_set_new(members, "sequence_number", json_integer(state->sequence++));
    if (x->stream)
        fm_sse(x, type, members);
    else
        json_decref(members);
}

/* Where a part of the open item is. */
static json_t *place(const fm_responses_state *state, bool in_part) {
    json_t *at = json_pack("{s:O, s:i}", "item_id", json_object_get(state->open, "id"), "output_index", (int)json_array_size(state->output) - 1);
    if (in_part) json_object_set_new(at, "content_index", json_integer(0));
    return at;
}

static json_t *with(json_t *object, const char *name, json_t *value) {
    json_object_set_new(object, name, value);
    return object;
}

static json_t *item_event(const fm_responses_state *state) {
    return json_pack("{s:i, s:o}", "output_index", (int)json_array_size(state->output) - 1, "item", json_deep_copy(state->open));
}

void fm_responses_start(fm_exchange *x) {
    if (!x->stream) return;
    send_event(x, "response.created", json_pack("{s:o}", "response", response_of(x, "in_progress")));
    send_event(x, "response.in_progress", json_pack("{s:o}", "response", response_of(x, "in_progress")));
}

/* ---- items ---- */

static const char *type_of(const json_t *item) { return item ? json_string_value(json_object_get(item, "type")) : ""; }

/* A part of the open item: of text with its annotations, or of reasoning. */
static json_t *part_of(const fm_responses_state *state, const char *text, size_t n) {
    if (!strcmp(type_of(state->open), "reasoning")) return json_pack("{s:s, s:o}", "type", "reasoning_text", "text", fm_utf8_json(text, n));
    json_t *part = json_pack("{s:s, s:o, s:[]}", "type", "output_text", "text", fm_utf8_json(text, n), "annotations");
    return with(part, "logprobs", state->logprobs && n ? json_incref(state->logprobs) : json_array());
}

/* Probabilities as the stream has them: without bytes. */
static json_t *without_bytes(const json_t *logprobs) {
    json_t *list = json_deep_copy(logprobs);
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *each = json_array_get(list, i), *top = json_object_get(each, "top_logprobs");
        json_object_del(each, "bytes");
        for (size_t k = 0; k < json_array_size(top); k++) json_object_del(json_array_get(top, k), "bytes");
    }
    return list;
}

/* The text of the open part and the part have ended. */
static void end_part(fm_exchange *x) {
    fm_responses_state *state = x->state;
    bool reasoning = !strcmp(type_of(state->open), "reasoning");
    json_t *part = part_of(state, state->text.n ? state->text.bytes : "", state->text.n),
           *done = with(place(state, true), "text", json_incref(json_object_get(part, "text")));
    if (!reasoning) json_object_set_new(done, "logprobs", without_bytes(json_object_get(part, "logprobs")));
    send_event(x, reasoning ? "response.reasoning_text.done" : "response.output_text.done", done);
    send_event(x, "response.content_part.done", with(place(state, true), "part", json_incref(part)));
    json_object_set_new(state->open, "content", json_pack("[o]", part));
}

static void end_item(fm_exchange *x, const char *status) {
    fm_responses_state *state = x->state;
    if (!state->open) return;
    if (!strcmp(type_of(state->open), "function_call")) {
        json_t *arguments = fm_utf8_json(state->text.n ? state->text.bytes : "", state->text.n);
        send_event(x, "response.function_call_arguments.done", with(place(state, false), "arguments", json_incref(arguments)));
        json_object_set_new(state->open, "arguments", arguments);
    } else {
        end_part(x);
    }
    json_object_set_new(state->open, "status", json_string(status));
    send_event(x, "response.output_item.done", item_event(state));
    fm_joined_clear(&state->text);
    json_decref(state->logprobs);
    state->logprobs = NULL;
    state->open = NULL;
}

/* Begins an item of this type, unless it is the open one. */
static void begin_item(fm_exchange *x, const char *type, const char *prefix, json_t *item) {
    fm_responses_state *state = x->state;
    if (state->open && !strcmp(type_of(state->open), type)) {
        json_decref(item);
        return;
    }
    end_item(x, "completed");
    if (!state->output) state->output = json_array();
    json_object_set_new(item, "id", json_sprintf("%s_%s%zu", prefix, x->id, json_array_size(state->output)));
    json_object_set_new(item, "type", json_string(type));
    json_object_set_new(item, "status", json_string("in_progress"));
    json_array_append_new(state->output, item);
    state->open = item;
    send_event(x, "response.output_item.added", item_event(state));
    if (strcmp(type, "function_call")) send_event(x, "response.content_part.added", with(place(state, true), "part", part_of(state, "", 0)));
}

/* ---- probabilities ---- */

static json_t *logprob_of(const fm_exchange *x, const fm_logprob *logprob) {
    const char *bytes;
    int n = fm_engine_token_bytes(fm_exchange_engine(x), logprob->id, &bytes);
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, json_integer((unsigned char)bytes[i]));
    return json_pack("{s:o, s:o, s:f}", "token", fm_utf8_json(bytes, (size_t)n), "bytes", list, "logprob", (double)logprob->logprob);
}

static json_t *logprobs_of(const fm_exchange *x, const fm_job *job) {
    json_t *all = json_array();
    for (int i = 0; i < job->n_new; i++) {
        json_t *top = json_array();
        for (int k = 0; k < job->n_logprobs; k++) json_array_append_new(top, logprob_of(x, &job->tokens[i].top[k]));
        json_array_append_new(all, with(logprob_of(x, &job->tokens[i].chosen), "top_logprobs", top));
    }
    return all;
}

/* ---- the answer ---- */

static void add_text(fm_exchange *x, const fm_job *job, const char *type, const fm_event *event) {
    fm_responses_state *state = x->state;
    bool text = event->type == FM_EVENT_TEXT;
    json_t *delta = with(place(state, event->type != FM_EVENT_ARGUMENTS), "delta", fm_utf8_json(event->text, event->bytes));
    fm_joined_add(&state->text, event->text, event->bytes);
    if (text) {
        json_t *logprobs = state->top_logprobs ? logprobs_of(x, job) : json_array();
        if (!state->logprobs) state->logprobs = json_array();
        json_array_extend(state->logprobs, logprobs);
        json_object_set_new(delta, "logprobs", without_bytes(logprobs));
        json_decref(logprobs);
    }
    send_event(x, type, delta);
}

void fm_responses_event(fm_exchange *x, fm_job *job, const fm_event *event) {
    switch (event->type) {
    case FM_EVENT_TEXT:
        begin_item(x, "message", "msg", json_pack("{s:s, s:[]}", "role", "assistant", "content"));
        add_text(x, job, "response.output_text.delta", event);
        break;
    case FM_EVENT_REASONING:
        begin_item(x, "reasoning", "rs", json_pack("{s:[], s:[]}", "summary", "content"));
        add_text(x, job, "response.reasoning_text.delta", event);
        break;
    case FM_EVENT_CALL:
        begin_item(x, "function_call", "fc",
                   json_pack("{s:s, s:o, s:s}", "call_id", event->id, "name", fm_utf8_json(event->name, strlen(event->name)), "arguments", ""));
        break;
    case FM_EVENT_ARGUMENTS: add_text(x, job, "response.function_call_arguments.delta", event); break;
    case FM_EVENT_CALL_END: end_item(x, "completed"); break;
    default: break;
    }
}

static void keep(fm_exchange *x, const json_t *response) {
    fm_responses_state *state = x->state;
    json_t *message = x->jobs[0].message ? json_loads(x->jobs[0].message, JSON_ALLOW_NUL, NULL) : NULL;
    if (!message || !state->conversation || !x->shared) {
        json_decref(message);
        return;
    }
    json_array_append_new(state->conversation, message);
    char *messages = json_dumps(state->conversation, JSON_COMPACT), *text = json_dumps(response, JSON_COMPACT);
    if (messages && text) fm_responses_store_add(x->shared, json_string_value(json_object_get(response, "id")), messages, text);
    free(messages);
    free(text);
}

void fm_responses_finish(fm_exchange *x) {
    const fm_job *job = x->jobs;
    bool whole = job->stop == FM_STOP_EOS || job->stop == FM_STOP_STRING || job->stop == FM_STOP_CALLS;
    const char *status = whole ? "completed" : "incomplete";
    end_item(x, status);
    json_t *response = response_of(x, status);
    if (whole)
        json_object_set_new(response, "completed_at", json_integer((json_int_t)time(NULL)));
    else
        json_object_set_new(response, "incomplete_details", json_pack("{s:s}", "reason", "max_output_tokens"));
    json_object_set_new(response, "usage", usage_of(job));
    keep(x, response);
    if (x->stream)
        send_event(x, whole ? "response.completed" : "response.incomplete", json_pack("{s:o}", "response", response));
    else
        fm_reply_json(x, 200, response);
}

void fm_responses_broken(fm_exchange *x, const fm_refusal *why) {
    end_item(x, "incomplete");
    json_t *response = response_of(x, "failed");
    json_object_set_new(response, "error",
                        json_pack("{s:s, s:o}", "code", why->status == 429 ? "rate_limit_exceeded" : "server_error", "message",
                                  fm_utf8_json(why->message, strlen(why->message))));
    send_event(x, "response.failed", json_pack("{s:o}", "response", response));
}

void fm_responses_close(fm_exchange *x) {
    fm_responses_state *state = x->state;
    if (!state) return;
    json_decref(state->conversation);
    json_decref(state->output);
    json_decref(state->logprobs);
    fm_joined_clear(&state->text);
}
