/* serve/api/responses/responses_read.c: the items of a response's input as messages of chat completions. Reasoning, text and calls of the assistant that follow each other are one message. */
#include <stdio.h>
#include <string.h>

#include "serve/api/responses/responses.h"
#include "serve/api/turns.h"

typedef struct reading {
    fm_turns turns;
    json_t *calls; /* ids of the calls so far */
    int index;     /* of the item; -1: the input is a text */
    fm_refusal *why;
} reading;

static int refuse_item(reading *r, const char *member, const char *what) {
    char param[sizeof r->why->param];
    snprintf(param, sizeof param, "input[%d].%s", r->index, member);
    return fm_deny(r->why, 400, param, "%s: %s", param, what);
}

static int append(reading *r, json_t *message) { return fm_turns_add(&r->turns, message) < 0 ? fm_no_memory(r->why) : 0; }

/* A string or a list of parts that are text, joined by line feeds. */
static int read_content(reading *r, const json_t *content, const char *member, json_t **out) {
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

static int read_reasoning(reading *r, const json_t *item) {
    const json_t *content = json_object_get(item, "content");
    json_t *text;
    if (!json_array_size(content)) return 0; /* a summary for people, or what only another server can read */
    if (read_content(r, content, "content", &text) < 0) return -1;
    int rc = fm_turns_reasoning(&r->turns, text);
    json_decref(text);
    return rc < 0 ? fm_no_memory(r->why) : 0;
}

static int read_call(reading *r, const json_t *item) {
    const char *id = fm_member_text(item, "call_id"), *name = fm_member_text(item, "name");
    json_t *arguments = json_object_get(item, "arguments");
    if (!id) return refuse_item(r, "call_id", "it has to be there");
    if (!name) return refuse_item(r, "name", "it has to be there");
    if (!json_is_string(arguments)) return refuse_item(r, "arguments", "it has to be there, as a text");
    return fm_turns_call(&r->turns, id, name, arguments) < 0 || json_object_set_new(r->calls, id, json_true()) ? fm_no_memory(r->why) : 0;
}

/* ---- others ---- */

static int read_output(reading *r, const json_t *item) {
    const char *id = fm_member_text(item, "call_id");
    json_t *text;
    if (!id) return refuse_item(r, "call_id", "it has to be there");
    if (!json_object_get(r->calls, id)) return fm_deny(r->why, 400, "input", "no tool call found for function call output with call_id '%.100s'", id);
    if (read_content(r, json_object_get(item, "output"), "output", &text) < 0) return -1;
    return append(r, json_pack("{s:s, s:s, s:o}", "role", "tool", "tool_call_id", id, "content", text));
}

static int read_message(reading *r, const json_t *item) {
    const char *role = fm_member_text(item, "role");
    json_t *text;
    bool known = role && (!strcmp(role, "user") || !strcmp(role, "system") || !strcmp(role, "developer") || !strcmp(role, "assistant"));
    if (!known) return refuse_item(r, "role", "it is none of user, assistant, system, developer");
    if (read_content(r, json_object_get(item, "content"), "content", &text) < 0) return -1;
    if (!strcmp(role, "assistant")) {
        int rc = fm_turns_text(&r->turns, "assistant", text, "");
        json_decref(text);
        return rc < 0 ? fm_no_memory(r->why) : 0;
    }
    return append(r, json_pack("{s:s, s:o}", "role", role, "content", text));
}

static int read_item(reading *r, const json_t *item) {
    const char *type = fm_member_text(item, "type");
    if (!json_is_object(item)) return refuse_item(r, "type", "the item is not an object");
    if (!type || !strcmp(type, "message")) return read_message(r, item);
    if (!strcmp(type, "function_call")) return read_call(r, item);
    if (!strcmp(type, "function_call_output")) return read_output(r, item);
    if (!strcmp(type, "reasoning")) return read_reasoning(r, item);
    return refuse_item(r, "type", "items of this type are not supported by this server, only message, function_call, function_call_output and reasoning");
}

/* The calls of a conversation that goes on. */
static int note_calls(reading *r) {
    for (size_t i = 0; i < json_array_size(r->turns.out); i++) {
        const json_t *calls = json_object_get(json_array_get(r->turns.out, i), "tool_calls");
        for (size_t k = 0; k < json_array_size(calls); k++) {
            const char *id = fm_member_text(json_array_get(calls, k), "id");
            if (id && json_object_set_new(r->calls, id, json_true())) return fm_no_memory(r->why);
        }
    }
    return 0;
}

static int read_items(reading *r, const json_t *input) {
    size_t n = json_array_size(input);
    if (json_is_string(input)) return append(r, json_pack("{s:s, s:O}", "role", "user", "content", input));
    if (!json_is_array(input)) return fm_deny(r->why, 400, "input", "input: neither a string nor a list of items");
    if (n > FM_MOST_TURNS) return fm_deny(r->why, 400, "input", "input: %zu items, and there may be at most %d", n, FM_MOST_TURNS);
    int rc = note_calls(r);
    for (size_t i = 0; i < n && rc == 0; i++) {
        r->index = (int)i;
        rc = read_item(r, json_array_get(input, i));
    }
    return rc == 0 && fm_turns_finish(&r->turns) < 0 ? fm_no_memory(r->why) : rc;
}

int fm_responses_read(const json_t *input, json_t *messages, fm_refusal *why) {
    reading r = {.turns.out = messages, .calls = json_object(), .why = why};
    int rc = r.calls ? read_items(&r, input) : fm_no_memory(why);
    fm_turns_clear(&r.turns);
    json_decref(r.calls);
    return rc;
}

/* ---- tools ---- */

/* Nothing is strict: the response says so. */
static const fm_field TOOL[] = {
    {"type", FM_FIELD_ONLY, "\"function\""},
    {"name", FM_FIELD_USED},
    {"description", FM_FIELD_USED},
    {"parameters", FM_FIELD_USED},
    {"strict", FM_FIELD_ADVISORY},
    {"output_schema", FM_FIELD_ADVISORY},
    {"defer_loading", FM_FIELD_ONLY, "false"},
    {"async", FM_FIELD_ONLY, "false"},
    {"allowed_callers", FM_FIELD_ONLY, "[\"direct\"]"},
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
    if (json_is_object(parameters))
        json_object_set(function, "parameters", parameters);
    else
        json_object_set_new(function, "parameters", json_pack("{s:s, s:{}}", "type", "object", "properties"));
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
