/* serve/api/responses_read.c: the items of a response's input as messages of chat completions. Reasoning, text and calls of the assistant that follow each other are one message. */
#include <stdio.h>
#include <string.h>

#include "serve/api/responses.h"

typedef struct reading {
    json_t *out;
    int index; /* of the item; -1: the input is a text */
    fm_refusal *why;
} reading;

static int refuse_item(const reading *r, const char *member, const char *what) {
    char param[sizeof r->why->param];
    snprintf(param, sizeof param, "input[%d].%s", r->index, member);
    return fm_deny(r->why, 400, param, "%s: %s", param, what);
}

static int append(const reading *r, json_t *message) { return json_array_append_new(r->out, message) ? fm_no_memory(r->why) : 0; }

/* A string or a list of parts that are text, joined by line feeds. */
static int read_content(const reading *r, const json_t *content, const char *member, json_t **out) {
    fm_joined text = {0};
    *out = NULL;
    if (json_is_string(content))
        fm_joined_add_json(&text, content);
    else if (!json_is_array(content))
        return refuse_item(r, member, "neither a string nor a list");
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *part = json_array_get(content, i), *its = json_object_get(part, "text");
        const char *type = fm_member_text(part, "type");
        bool known = type && (!strcmp(type, "input_text") || !strcmp(type, "output_text") || !strcmp(type, "text") || !strcmp(type, "reasoning_text"));
        if (!known || !json_is_string(its)) {
            fm_joined_clear(&text);
            return refuse_item(r, member, "only parts of text can be read (input_text, output_text)");
        }
        if (i) fm_joined_add(&text, "\n", 1);
        fm_joined_add_json(&text, its);
    }
    *out = fm_joined_take(&text);
    return *out ? 0 : fm_no_memory(r->why);
}

/* ---- the assistant ---- */

/* The assistant's message that is going on, or a new one. */
static json_t *assistant(const reading *r) {
    json_t *last = json_array_get(r->out, json_array_size(r->out) - 1);
    const char *role = fm_member_text(last, "role");
    if (role && !strcmp(role, "assistant")) return last;
    if (append(r, json_pack("{s:s, s:s}", "role", "assistant", "content", "")) < 0) return NULL;
    return json_array_get(r->out, json_array_size(r->out) - 1);
}

static int extend(const reading *r, const char *member, json_t *more) {
    fm_joined text = {0};
    json_t *message = assistant(r);
    fm_joined_add_json(&text, json_object_get(message, member));
    fm_joined_add_json(&text, more);
    json_decref(more);
    json_t *joined = fm_joined_take(&text);
    return message && joined && !json_object_set_new(message, member, joined) ? 0 : fm_no_memory(r->why);
}

static int read_reasoning(const reading *r, const json_t *item) {
    const json_t *content = json_object_get(item, "content");
    json_t *text;
    if (!json_array_size(content)) return 0; /* a summary for people, or what only another server can read */
    if (read_content(r, content, "content", &text) < 0) return -1;
    return extend(r, "reasoning_content", text);
}

static int read_call(const reading *r, const json_t *item) {
    const char *id = fm_member_text(item, "call_id"), *name = fm_member_text(item, "name"), *arguments = fm_member_text(item, "arguments");
    if (!id) return refuse_item(r, "call_id", "it has to be there");
    if (!name) return refuse_item(r, "name", "it has to be there");
    if (!arguments) return refuse_item(r, "arguments", "it has to be there");
    json_t *message = assistant(r), *calls = json_object_get(message, "tool_calls");
    if (message && !calls) {
        json_object_set_new(message, "tool_calls", json_array());
        calls = json_object_get(message, "tool_calls");
    }
    json_t *call = json_pack("{s:s, s:s, s:{s:s, s:s}}", "id", id, "type", "function", "function", "name", name, "arguments", arguments);
    return json_array_append_new(calls, call) ? fm_no_memory(r->why) : 0;
}

/* ---- others ---- */

static bool has_call(const json_t *messages, const char *id) {
    for (size_t i = json_array_size(messages); i-- > 0;) {
        const json_t *calls = json_object_get(json_array_get(messages, i), "tool_calls");
        for (size_t k = 0; k < json_array_size(calls); k++) {
            const char *its = fm_member_text(json_array_get(calls, k), "id");
            if (its && !strcmp(its, id)) return true;
        }
    }
    return false;
}

static int read_output(const reading *r, const json_t *item) {
    const char *id = fm_member_text(item, "call_id");
    json_t *text;
    if (!id) return refuse_item(r, "call_id", "it has to be there");
    if (!has_call(r->out, id)) return fm_deny(r->why, 400, "input", "no tool call found for function call output with call_id '%.100s'", id);
    if (read_content(r, json_object_get(item, "output"), "output", &text) < 0) return -1;
    return append(r, json_pack("{s:s, s:s, s:o}", "role", "tool", "tool_call_id", id, "content", text));
}

static int read_message(const reading *r, const json_t *item) {
    const char *role = fm_member_text(item, "role");
    json_t *text;
    bool known = role && (!strcmp(role, "user") || !strcmp(role, "system") || !strcmp(role, "developer") || !strcmp(role, "assistant"));
    if (!known) return refuse_item(r, "role", "it is none of user, assistant, system, developer");
    if (read_content(r, json_object_get(item, "content"), "content", &text) < 0) return -1;
    if (!strcmp(role, "assistant")) return extend(r, "content", text);
    return append(r, json_pack("{s:s, s:o}", "role", role, "content", text));
}

static int read_item(const reading *r, const json_t *item) {
    const char *type = fm_member_text(item, "type");
    if (!json_is_object(item)) return refuse_item(r, "type", "the item is not an object");
    if (!type || !strcmp(type, "message")) return read_message(r, item);
    if (!strcmp(type, "function_call")) return read_call(r, item);
    if (!strcmp(type, "function_call_output")) return read_output(r, item);
    if (!strcmp(type, "reasoning")) return read_reasoning(r, item);
    return refuse_item(r, "type", "items of this type are not supported by this server, only message, function_call, function_call_output and reasoning");
}

int fm_responses_read(const json_t *input, json_t *messages, fm_refusal *why) {
    reading r = {.out = messages, .why = why};
    if (json_is_string(input)) return append(&r, json_pack("{s:s, s:O}", "role", "user", "content", input));
    if (!json_is_array(input)) return fm_deny(why, 400, "input", "input: neither a string nor a list of items");
    int rc = 0;
    for (size_t i = 0; i < json_array_size(input) && rc == 0; i++) {
        r.index = (int)i;
        rc = read_item(&r, json_array_get(input, i));
    }
    return rc;
}

/* ---- tools ---- */

static const fm_field TOOL[] = {
    {"type", FM_FIELD_ONLY, "\"function\""}, {"name", FM_FIELD_USED},
    {"description", FM_FIELD_USED},          {"parameters", FM_FIELD_USED},
    {"strict", FM_FIELD_ADVISORY}, /* the response says false */
    {"output_schema", FM_FIELD_ADVISORY},    {"defer_loading", FM_FIELD_ONLY, "false"},
    {"async", FM_FIELD_ONLY, "false"},       {"allowed_callers", FM_FIELD_ONLY, "[\"direct\"]"},
};

static bool is_allowed(const json_t *allowed, const char *name) {
    if (!allowed) return true;
    for (size_t i = 0; i < json_array_size(allowed); i++) {
        const char *its = fm_member_text(json_array_get(allowed, i), "name");
        if (its && !strcmp(its, name)) return true;
    }
    return false;
}

static int read_tool(const json_t *tool, int index, const json_t *allowed, json_t *out, fm_refusal *why) {
    json_t *name = json_object_get(tool, "name"), *description = json_object_get(tool, "description"), *parameters = json_object_get(tool, "parameters");
    char where[sizeof why->param], param[sizeof why->param];
    snprintf(where, sizeof where, "tools[%d]", index);
    snprintf(param, sizeof param, "tools[%d].name", index);
    const char *type = fm_member_text(tool, "type");
    if (type && strcmp(type, "function")) {
        snprintf(param, sizeof param, "tools[%d].type", index);
        return fm_deny(why, 400, param, "%s: tools of type '%.60s' are not supported by this server, only functions", param, type);
    }
    if (fm_denied_inside(where, fm_fields_check(tool, TOOL, FM_COUNT(TOOL), why), why) < 0) return -1;
    if (!type || !json_string_length(name)) return fm_deny(why, 400, param, "%s: a tool has to have a type and a name", param);
    if (!is_allowed(allowed, json_string_value(name))) return 0;
    json_t *function = json_pack("{s:O}", "name", name);
    if (json_is_string(description)) json_object_set(function, "description", description);
    if (json_is_object(parameters)) json_object_set(function, "parameters", parameters);
    return json_array_append_new(out, json_pack("{s:s, s:o}", "type", "function", "function", function)) ? fm_no_memory(why) : 0;
}

int fm_responses_read_tools(const json_t *body, const json_t *allowed, json_t **out, fm_refusal *why) {
    const json_t *tools = json_object_get(body, "tools");
    *out = NULL;
    if (!fm_is_given(tools)) return 0;
    if (!json_is_array(tools)) return fm_deny(why, 400, "tools", "tools: not a list");
    int rc = (*out = json_array()) ? 0 : fm_no_memory(why);
    for (size_t i = 0; i < json_array_size(tools) && rc == 0; i++) rc = read_tool(json_array_get(tools, i), (int)i, allowed, *out, why);
    if (rc < 0) {
        json_decref(*out);
        *out = NULL;
    }
    return rc;
}
