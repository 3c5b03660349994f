/* serve/api/anthropic/messages_print.c: an answer as Anthropic's message: blocks in the order in which the model wrote them, each begun, continued and ended in a stream. */
#include <stdlib.h>
#include <string.h>

#include "serve/api/anthropic/messages.h"

/* What clients hand back with a block of thinking; the text itself is what counts here. */
static const char SIGNATURE[] = "unsigned";

static json_t *message_of(const fm_exchange *x, json_t *content, json_t *stop_reason, json_t *stop_sequence, json_t *usage) {
    return json_pack("{s:o, s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "id", json_sprintf("msg_%s", x->id), "type", "message", "role", "assistant", "model",
                     fm_utf8_json(x->facts->alias, strlen(x->facts->alias)), "content", content, "stop_reason", stop_reason, "stop_sequence", stop_sequence,
                     "usage", usage);
}

/* Anthropic counts what came from its cache apart. */
static json_t *usage_of(const fm_job *job, bool in_message) {
    json_t *usage =
        json_pack("{s:i, s:i, s:i, s:i, s:{s:i}}", "input_tokens", job->n_prompt - job->n_cached, "cache_creation_input_tokens", 0, "cache_read_input_tokens",
                  job->n_cached, "output_tokens", job->n_tokens, "output_tokens_details", "thinking_tokens", job->n_reasoning);
    if (in_message) json_object_set_new(usage, "service_tier", json_string("standard"));
    return usage;
}

void fm_messages_start(fm_exchange *x) {
    if (!x->stream) return;
    json_t *message = message_of(x, json_array(), json_null(), json_null(), usage_of(x->jobs, true));
    fm_sse(x, "message_start", json_pack("{s:s, s:o}", "type", "message_start", "message", message));
}

/* ---- blocks ---- */

static void send_delta(fm_exchange *x, const fm_messages_state *state, json_t *delta) {
    fm_sse(x, "content_block_delta", json_pack("{s:s, s:i, s:o}", "type", "content_block_delta", "index", state->n_blocks - 1, "delta", delta));
}

static void end_block(fm_exchange *x) {
    fm_messages_state *state = x->state;
    if (!state->open) return;
    bool thinking = !strcmp(state->open, "thinking");
    if (x->stream) {
        if (thinking) send_delta(x, state, json_pack("{s:s, s:s}", "type", "signature_delta", "signature", SIGNATURE));
        fm_sse(x, "content_block_stop", json_pack("{s:s, s:i}", "type", "content_block_stop", "index", state->n_blocks - 1));
    } else {
        json_t *text = fm_joined_take(&state->text);
        if (!state->blocks) state->blocks = json_array();
        if (!strcmp(state->open, "tool_use")) {
            json_t *input = text ? json_loadb(json_string_value(text), json_string_length(text), JSON_ALLOW_NUL, NULL) : NULL;
            json_object_set_new(state->block, "input", input ? input : json_object());
            json_decref(text);
        } else if (text) {
            json_object_set_new(state->block, state->open, text);
        }
        if (thinking) json_object_set_new(state->block, "signature", json_string(SIGNATURE));
        json_array_append_new(state->blocks, state->block);
        state->block = NULL;
    }
    state->open = NULL;
}

/* Begins a block of this type, unless it is the open one; block is the block without text, and is decref'd. */
static void begin_block(fm_exchange *x, const char *type, json_t *block) {
    fm_messages_state *state = x->state;
    if (state->open && !strcmp(state->open, type)) {
        json_decref(block);
        return;
    }
    end_block(x);
    state->open = type;
    state->n_blocks++;
    if (x->stream)
        fm_sse(x, "content_block_start", json_pack("{s:s, s:i, s:o}", "type", "content_block_start", "index", state->n_blocks - 1, "content_block", block));
    else
        state->block = block;
}

static void add_text(fm_exchange *x, const char *delta, const char *member, const fm_event *event) {
    fm_messages_state *state = x->state;
    if (x->stream)
        send_delta(x, state, json_pack("{s:s, s:o}", "type", delta, member, fm_utf8_json(event->text, event->bytes)));
    else
        fm_joined_add(&state->text, event->text, event->bytes);
}

void fm_messages_event(fm_exchange *x, fm_job *job, const fm_event *event) {
    const fm_messages_state *state = x->state;
    (void)job;
    switch (event->type) {
    case FM_EVENT_TEXT:
        begin_block(x, "text", json_pack("{s:s, s:s}", "type", "text", "text", ""));
        add_text(x, "text_delta", "text", event);
        break;
    case FM_EVENT_REASONING:
        begin_block(x, "thinking", json_pack("{s:s, s:s, s:s}", "type", "thinking", "thinking", "", "signature", ""));
        if (!state->omit_thinking) add_text(x, "thinking_delta", "thinking", event);
        break;
    case FM_EVENT_CALL:
        begin_block(x, "tool_use",
                    json_pack("{s:s, s:s, s:o, s:{}}", "type", "tool_use", "id", event->id, "name", fm_utf8_json(event->name, strlen(event->name)), "input"));
        break;
    case FM_EVENT_ARGUMENTS: add_text(x, "input_json_delta", "partial_json", event); break;
    case FM_EVENT_CALL_END: end_block(x); break;
    default: break;
    }
}

/* ---- the end ---- */

static const char *stop_reason(const fm_job *job) {
    switch (job->stop) {
    case FM_STOP_EOS: return "end_turn";
    case FM_STOP_STRING: return "stop_sequence";
    case FM_STOP_CALLS: return "tool_use";
    case FM_STOP_LENGTH: return job->n_tokens >= job->max_tokens ? "max_tokens" : "model_context_window_exceeded";
    default: return "max_tokens"; /* cut short by us */
    }
}

void fm_messages_finish(fm_exchange *x) {
    fm_messages_state *state = x->state;
    const fm_job *job = x->jobs;
    end_block(x);
    json_t *reason = json_string(stop_reason(job));
    json_t *stop = job->stop == FM_STOP_STRING && job->stopped_by ? fm_utf8_json(job->stopped_by, strlen(job->stopped_by)) : json_null();
    if (!x->stream) {
        fm_reply_json(x, 200, message_of(x, state->blocks ? state->blocks : json_array(), reason, stop, usage_of(job, true)));
        state->blocks = NULL;
        return;
    }
    fm_sse(
        x, "message_delta",
        json_pack("{s:s, s:{s:o, s:o}, s:o}", "type", "message_delta", "delta", "stop_reason", reason, "stop_sequence", stop, "usage", usage_of(job, false)));
    fm_sse(x, "message_stop", json_pack("{s:s}", "type", "message_stop"));
}

void fm_messages_close(fm_exchange *x) {
    fm_messages_state *state = x->state;
    if (!state) return;
    json_decref(state->blocks);
    json_decref(state->block);
    fm_joined_clear(&state->text);
}

/* ---- errors ---- */

static const char *error_type(int status) {
    switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 408: return "timeout_error";
    case 413: return "request_too_large";
    case 429: return "rate_limit_error";
    case 503: return "overloaded_error";
    default: return status >= 500 ? "api_error" : "invalid_request_error";
    }
}

json_t *fm_messages_error(const fm_refusal *why) {
    json_t *error = json_pack("{s:s, s:o}", "type", error_type(why->status), "message", fm_utf8_json(why->message, strlen(why->message)));
    bool thread = !strcmp(why->code, "thread_unsupported_request");
    if (*why->code)
        json_object_set_new(error, "details",
                            thread ? json_pack("{s:s, s:[s]}", "error_code", why->code, "unsupported", "thread") : json_pack("{s:s}", "error_code", why->code));
    return json_pack("{s:s, s:o}", "type", "error", "error", error);
}

void fm_messages_broken(fm_exchange *x, const fm_refusal *why) { fm_sse(x, "error", fm_messages_error(why)); }
