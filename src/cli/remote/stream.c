/* cli/remote/stream.c: lines, events and chunks of a streamed answer. What comes from a server is checked, field by field. */
#include "cli/remote/stream.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_LINE = 16 << 20, MOST_CALLS = 256 };

void fm_stream_open(struct stream *s) {
    s->n_prompt = s->n_cached = s->n_tokens = s->n_reasoning = s->open_call = -1;
    s->calls = json_array();
    s->stop = FM_STOP_EOS;
}

void fm_stream_close(struct stream *s) {
    free(s->line.bytes);
    free(s->data.bytes);
    free(s->content.bytes);
    free(s->reasoning.bytes);
    json_decref(s->calls);
}

/* ---- events ---- */

static void give(struct stream *s, const fm_event *event) {
    s->begun = true;
    if (s->event && s->event(s->user, event)) s->stopped = true;
}

static void no_memory(struct stream *s) { fm_cli_fail(&s->error, FM_ENOMEM, "no memory for the answer"); }

static void add_text(struct stream *s, struct text *all, int type, const json_t *text) {
    fm_event event = {.type = type, .text = json_string_value(text), .bytes = json_string_length(text)};

    if (!event.bytes) return;
    if (!fm_text_add(all, event.text, event.bytes)) return no_memory(s);
    give(s, &event);
}

static void end_call(struct stream *s) {
    fm_event event = {.type = FM_EVENT_CALL_END, .text = "", .call = s->open_call};

    if (s->open_call < 0) return;
    s->open_call = -1;
    give(s, &event);
}

static void begin_call(struct stream *s, const json_t *part, const char *name) {
    const char *id = json_string_value(json_object_get(part, "id"));
    char own[16];

    end_call(s);
    s->open_call = (int)json_array_size(s->calls);
    snprintf(own, sizeof own, "call_%d", s->open_call);
    fm_event event = {.type = FM_EVENT_CALL, .text = "", .call = s->open_call, .id = id ? id : own, .name = name};
    if (json_array_append_new(s->calls, json_pack("{s:s, s:s, s:{s:s, s:s}}", "id", event.id, "type", "function", "function", "name", name, "arguments", "")))
        return no_memory(s);
    give(s, &event);
}

static void add_arguments(struct stream *s, const json_t *more) {
    json_t *function = json_object_get(json_array_get(s->calls, (size_t)s->open_call), "function");
    fm_event event = {.type = FM_EVENT_ARGUMENTS, .text = json_string_value(more), .bytes = json_string_length(more), .call = s->open_call};

    if (!event.bytes) return;
    if (json_object_set_new(function, "arguments", json_sprintf("%s%s", json_string_value(json_object_get(function, "arguments")), event.text)))
        return no_memory(s);
    give(s, &event);
}

static void add_call(struct stream *s, const json_t *part) {
    const json_t *function = json_object_get(part, "function"), *index = json_object_get(part, "index");
    const char *name = json_string_value(json_object_get(function, "name"));
    json_int_t at = json_is_integer(index) ? json_integer_value(index) : 0, n = (json_int_t)json_array_size(s->calls);

    if (at == n && name && n < MOST_CALLS) begin_call(s, part, name);
    if (s->open_call < 0 || at != s->open_call) {
        fm_cli_fail(&s->error, FM_EFORMAT, "part of tool call %lld came, of which there are %lld", (long long)at, (long long)n);
        return;
    }
    add_arguments(s, json_object_get(function, "arguments"));
}

/* ---- chunks ---- */

static int number_of(const json_t *object, const char *name) {
    const json_t *value = json_object_get(object, name);
    json_int_t n = json_integer_value(value);

    return json_is_integer(value) && n >= 0 && n <= 2147483647 ? (int)n : -1;
}

static void read_usage(struct stream *s, const json_t *usage) {
    if (!json_is_object(usage)) return;
    s->n_prompt = number_of(usage, "prompt_tokens");
    s->n_tokens = number_of(usage, "completion_tokens");
    s->n_cached = number_of(json_object_get(usage, "prompt_tokens_details"), "cached_tokens");
    s->n_reasoning = number_of(json_object_get(usage, "completion_tokens_details"), "reasoning_tokens");
}

static void read_timings(struct stream *s, const json_t *timings) {
    double speed = json_number_value(json_object_get(timings, "predicted_per_second"));

    if (speed > 0) s->tokens_per_second = speed;
}

static void read_choice(struct stream *s, const json_t *choice) {
    const json_t *delta = json_object_get(choice, "delta"), *part;
    const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
    size_t i;

    add_text(s, &s->reasoning, FM_EVENT_REASONING, json_object_get(delta, "reasoning_content"));
    add_text(s, &s->content, FM_EVENT_TEXT, json_object_get(delta, "content"));
    json_array_foreach(json_object_get(delta, "tool_calls"), i, part) {
        if (!s->error.code && !s->stopped) add_call(s, part);
    }
    if (!finish) return;
    s->whole = true;
    s->stop = json_array_size(s->calls) ? FM_STOP_CALLS : strcmp(finish, "length") == 0 ? FM_STOP_LENGTH : FM_STOP_EOS;
}

static void read_event(struct stream *s, const char *text, size_t n) {
    char message[400];
    json_t *event;

    if (n == 6 && memcmp(text, "[DONE]", 6) == 0) {
        s->whole = true;
        return;
    }
    if (fm_stream_refusal(message, sizeof message, text, n)) {
        fm_cli_fail(&s->error, FM_EIO, "the answer was broken off: %s", message);
        return;
    }
    if (!(event = json_loadb(text, n, 0, NULL))) {
        fm_cli_fail(&s->error, FM_EFORMAT, "an event of the answer is no JSON");
        return;
    }
    read_usage(s, json_object_get(event, "usage"));
    read_timings(s, json_object_get(event, "timings"));
    read_choice(s, json_array_get(json_object_get(event, "choices"), 0));
    json_decref(event);
}

/* ---- lines ---- */

static void read_line(struct stream *s, const char *line, size_t n) {
    if (n && line[n - 1] == '\r') n--;
    if (n == 0) {
        if (s->data.n) read_event(s, s->data.bytes, s->data.n);
        s->data.n = 0;
    } else if (*line == ':') {
        char text[160];
        size_t from = 1 + strspn(line + 1, " ");
        snprintf(text, sizeof text, "%.*s", (int)(n - from < 159 ? n - from : 159), line + from);
        if (s->comment && *text) s->comment(s->comment_user, text);
    } else if (n >= 5 && memcmp(line, "data:", 5) == 0) {
        size_t from = n > 5 && line[5] == ' ' ? 6 : 5;
        if ((s->data.n && !fm_text_add(&s->data, "\n", 1)) || !fm_text_add(&s->data, line + from, n - from)) no_memory(s);
    }
}

int fm_stream_feed(struct stream *s, const char *bytes, size_t n) {
    for (size_t at = 0, end; at < n && !s->error.code && !s->stopped; at = end) {
        const char *newline = memchr(bytes + at, '\n', n - at);
        end = newline ? (size_t)(newline - bytes) + 1 : n;
        if (!fm_text_add(&s->line, bytes + at, end - at - (newline != NULL))) no_memory(s);
        if (s->line.n + s->data.n > MOST_LINE) fm_cli_fail(&s->error, FM_EFORMAT, "an event of the answer has more than 16 MiB");
        if (!newline || s->error.code) continue;
        read_line(s, s->line.bytes, s->line.n);
        s->line.n = 0;
    }
    return s->error.code || s->stopped;
}

int fm_stream_end(struct stream *s, fm_error *err) {
    if (s->data.n && !s->error.code && !s->stopped) read_event(s, s->data.bytes, s->data.n); /* its empty line is missing */
    if (!s->error.code && !s->stopped && !s->whole) fm_cli_fail(&s->error, FM_EFORMAT, "the connection ended in the middle of the answer");
    end_call(s);
    if (s->error.code && err) *err = s->error;
    return s->error.code;
}

char *fm_stream_message(const struct stream *s) {
    json_t *message = json_pack("{s:s, s:s}", "role", "assistant", "content", s->content.bytes ? s->content.bytes : "");
    char *text;

    if (s->reasoning.n) json_object_set_new(message, "reasoning_content", json_string(s->reasoning.bytes));
    if (json_array_size(s->calls)) json_object_set(message, "tool_calls", s->calls);
    text = json_dumps(message, JSON_COMPACT);
    json_decref(message);
    return text;
}

bool fm_stream_refusal(char *out, size_t size, const char *body, size_t n) {
    json_t *json = json_loadb(body, n, 0, NULL), *error = json_object_get(json, "error");
    const char *message = json_string_value(json_is_string(error) ? error : json_object_get(error, "message"));
    size_t length = message ? strlen(message) : 0;

    if (error) snprintf(out, size, "%.*s", (int)(length && message[length - 1] == '.' ? length - 1 : length), message ? message : "an error without a message");
    json_decref(json);
    return error != NULL;
}
