/* serve/api/anthropic/messages_read.c: Anthropic's conversation as OpenAI's: messages, system and tools. A turn of the assistant becomes one message with its reasoning and calls;
 * each result of a tool becomes a message of its own; turns of one role that follow each other are one, as Anthropic has it.
 *
 * The texts of a turn of the user are joined by line feeds, those of the assistant by nothing: they are pieces of one answer. */
#include <stdio.h>
#include <string.h>

#include "serve/api/anthropic/messages.h"
#include "serve/api/turns.h"

/* Claude Code's accounting, which differs from request to request: no part of what the model is told. */
static const char ACCOUNTING[] = "x-anthropic-billing-header:";

typedef struct reading {
    fm_turns turns;
    json_t *calls; /* ids of the tool_use blocks of the assistant's turn before that have no result yet */
    int turn;      /* index of the message */
    fm_refusal *why;
} reading;

static int refuse_block(const reading *r, int block, const char *what) {
    char param[sizeof r->why->param];
    snprintf(param, sizeof param, "messages.%d.content.%d", r->turn, block);
    return fm_deny(r->why, 400, param, "%s: %s", param, what);
}

static const char *type_of(const json_t *block) {
    const char *type = fm_member_text(block, "type");
    return type ? type : "";
}

/* ---- texts ---- */

/* A string or a list of text blocks, joined. skip: texts that begin so are left out. */
static int read_text(json_t **out, const json_t *content, const char *where, const char *skip, fm_refusal *why) {
    fm_joined text = {0};
    *out = NULL;
    if (json_is_string(content))
        fm_joined_add_json(&text, content);
    else if (fm_is_given(content) && !json_is_array(content))
        return fm_deny(why, 400, where, "%s: neither a string nor a list of blocks", where);
    bool first = true;
    for (size_t i = 0; i < json_array_size(content); i++) {
        const json_t *block = json_array_get(content, i), *part = json_object_get(block, "text");
        if (strcmp(type_of(block), "text") || !json_is_string(part)) {
            fm_joined_clear(&text);
            return fm_deny(why, 400, where, "%s.%zu: a block of type '%.60s' cannot be read here, only text", where, i, type_of(block));
        }
        if (skip && !strncmp(json_string_value(part), skip, strlen(skip))) continue;
        if (!first) fm_joined_add(&text, "\n", 1);
        fm_joined_add_json(&text, part);
        first = false;
    }
    *out = fm_joined_take(&text);
    return *out ? 0 : fm_no_memory(why);
}

static int add_system(reading *r, const json_t *content, const char *where) {
    json_t *text;
    if (!fm_is_given(content)) return 0;
    if (read_text(&text, content, where, ACCOUNTING, r->why) < 0) return -1;
    if (json_string_length(text)) return fm_turns_add(&r->turns, json_pack("{s:s, s:o}", "role", "system", "content", text)) < 0 ? fm_no_memory(r->why) : 0;
    json_decref(text);
    return 0;
}

/* ---- the user's turns ---- */

static int add_user_text(reading *r, const json_t *text) { return fm_turns_text(&r->turns, "user", text, "\n") < 0 ? fm_no_memory(r->why) : 0; }

static int add_result(reading *r, const json_t *block, int index) {
    const char *id = fm_member_text(block, "tool_use_id");
    char where[sizeof r->why->param];
    json_t *text;
    if (!id) return refuse_block(r, index, "a tool_result has to have a tool_use_id");
    if (!json_object_get(r->calls, id))
        return refuse_block(r, index, "its tool_use_id is that of no tool_use block in the message before, or of one that has a result");
    snprintf(where, sizeof where, "messages.%d.content.%d.content", r->turn, index);
    if (read_text(&text, json_object_get(block, "content"), where, NULL, r->why) < 0) return -1;
    json_object_del(r->calls, id);
    json_t *message = json_pack("{s:s, s:s, s:o}", "role", "tool", "tool_call_id", id, "content", text);
    if (message && json_is_true(json_object_get(block, "is_error"))) {
        json_t *marked = json_sprintf("Error: %s", json_string_value(text));
        if (marked) json_object_set_new(message, "content", marked);
    }
    return fm_turns_add(&r->turns, message) < 0 ? fm_no_memory(r->why) : 0;
}

static int read_user(reading *r, const json_t *content) {
    int rc = json_is_string(content) ? add_user_text(r, content) : 0;
    for (size_t i = 0; i < json_array_size(content) && rc == 0; i++) {
        const json_t *block = json_array_get(content, i), *text = json_object_get(block, "text");
        const char *type = type_of(block);
        if (!strcmp(type, "text") && json_is_string(text))
            rc = add_user_text(r, text);
        else if (!strcmp(type, "tool_result"))
            rc = add_result(r, block, (int)i);
        else
            rc = refuse_block(r, (int)i, "only blocks of type text and tool_result can be read in a message of the user");
    }
    return rc;
}

/* ---- the assistant's turns ---- */

/* Each call of the turn before has to have its result. */
static int check_results(const reading *r) {
    if (!json_object_size(r->calls)) return 0;
    const char *id = json_object_iter_key(json_object_iter(r->calls));
    return fm_deny(r->why, 400, "messages", "messages.%d: the tool_use '%.80s' of the assistant's message before has no tool_result", r->turn, id);
}

static int add_use(reading *r, const json_t *block, int index) {
    const char *id = fm_member_text(block, "id"), *name = fm_member_text(block, "name");
    json_t *input = json_object_get(block, "input");
    if (!id || !name || !json_is_object(input)) return refuse_block(r, index, "a tool_use has to have an id, a name and an input");
    return fm_turns_call(&r->turns, id, name, input) < 0 || json_object_set_new(r->calls, id, json_true()) ? fm_no_memory(r->why) : 0;
}

static int add_assistant_block(reading *r, const json_t *block, int index) {
    const json_t *text = json_object_get(block, "text"), *thinking = json_object_get(block, "thinking");
    const char *type = type_of(block);
    if (!strcmp(type, "text") && json_is_string(text)) return fm_turns_text(&r->turns, "assistant", text, "") < 0 ? fm_no_memory(r->why) : 0;
    if (!strcmp(type, "thinking") && json_is_string(thinking)) return fm_turns_reasoning(&r->turns, thinking) < 0 ? fm_no_memory(r->why) : 0;
    if (!strcmp(type, "tool_use")) return add_use(r, block, index);
    return refuse_block(r, index, "only blocks of type text, thinking and tool_use can be read in a message of the assistant");
}

static int read_assistant(reading *r, const json_t *content) {
    if (!fm_turns_last_is(&r->turns, "assistant") && check_results(r) < 0) return -1;
    int rc = json_is_string(content) || !json_array_size(content) ? fm_turns_text(&r->turns, "assistant", content, "") : 0;
    if (rc < 0) return fm_no_memory(r->why);
    for (size_t i = 0; i < json_array_size(content) && rc == 0; i++) rc = add_assistant_block(r, json_array_get(content, i), (int)i);
    return rc;
}

/* ---- all ---- */

static int read_message(reading *r, const json_t *message) {
    const char *role = fm_member_text(message, "role");
    const json_t *content = json_object_get(message, "content");
    char param[48];
    snprintf(param, sizeof param, "messages.%d", r->turn);
    if (!role) return fm_deny(r->why, 400, param, "%s: a message has to have a role", param);
    snprintf(param, sizeof param, "messages.%d.content", r->turn);
    if (!json_is_string(content) && !json_is_array(content)) return fm_deny(r->why, 400, param, "%s: neither a string nor a list of blocks", param);
    if (!strcmp(role, "assistant")) return read_assistant(r, content);
    if (!strcmp(role, "user")) return read_user(r, content);
    if (!strcmp(role, "system")) return add_system(r, content, param);
    snprintf(param, sizeof param, "messages.%d.role", r->turn);
    return fm_deny(r->why, 400, param, "%s: '%.40s' is none of user, assistant, system", param, role);
}

int fm_messages_read(const json_t *body, json_t **out, fm_refusal *why) {
    const json_t *messages = json_object_get(body, "messages");
    reading r = {.turns.out = json_array(), .calls = json_object(), .why = why};
    size_t n = json_array_size(messages);
    int rc = r.turns.out && r.calls ? 0 : fm_no_memory(why);
    if (rc == 0 && !n) rc = fm_deny(why, 400, "messages", "messages: at least one message is required");
    if (rc == 0 && n > FM_MOST_TURNS) rc = fm_deny(why, 400, "messages", "messages: %zu of them, and there may be at most %d", n, FM_MOST_TURNS);
    if (rc == 0) rc = add_system(&r, json_object_get(body, "system"), "system");
    for (size_t i = 0; i < n && rc == 0; i++) {
        r.turn = (int)i;
        rc = read_message(&r, json_array_get(messages, i));
    }
    if (rc == 0) rc = check_results(&r);
    if (rc == 0 && fm_turns_last_is(&r.turns, "assistant"))
        rc = fm_deny(why, 400, "messages",
                     "messages: the last one is the assistant's, and going on with it (prefill) is not supported: it has to be the user's");
    if (rc == 0 && fm_turns_finish(&r.turns) < 0) rc = fm_no_memory(why);
    fm_turns_clear(&r.turns);
    json_decref(r.calls);
    if (rc < 0) json_decref(r.turns.out);
    *out = rc < 0 ? NULL : r.turns.out;
    return rc;
}

/* ---- tools ---- */

static const fm_field TOOL[] = {
    {"name", FM_FIELD_USED},
    {"description", FM_FIELD_USED},
    {"input_schema", FM_FIELD_USED},
    {"type", FM_FIELD_ONLY, "\"custom\""},
    {"cache_control", FM_FIELD_ADVISORY},
    {"eager_input_streaming", FM_FIELD_ADVISORY},
    {"strict", FM_FIELD_ADVISORY}, /* calls are as the model writes them */
    {"defer_loading", FM_FIELD_ONLY, "false"},
    {"allowed_callers", FM_FIELD_ONLY, "[\"direct\"]"},
    {"input_examples", FM_FIELD_ONLY, "[]"},
};

static int read_tool(json_t *out, const json_t *tool, int index, fm_refusal *why) {
    json_t *name = json_object_get(tool, "name"), *description = json_object_get(tool, "description"), *schema = json_object_get(tool, "input_schema");
    char where[32], param[sizeof why->param];
    snprintf(where, sizeof where, "tools.%d", index);
    if (fm_denied_inside(where, fm_fields_check(tool, TOOL, FM_COUNT(TOOL), why), why) < 0) return -1;
    snprintf(param, sizeof param, "%s.name", where);
    if (!json_string_length(name)) return fm_deny(why, 400, param, "%s: a tool has to have a name", param);
    snprintf(param, sizeof param, "%s.input_schema", where);
    if (!json_is_object(schema)) return fm_deny(why, 400, param, "%s: a tool has to have a schema of its input", param);
    json_t *function = json_pack("{s:O}", "name", name);
    if (json_is_string(description)) json_object_set(function, "description", description);
    json_object_set(function, "parameters", schema);
    return json_array_append_new(out, json_pack("{s:s, s:o}", "type", "function", "function", function)) ? fm_no_memory(why) : 0;
}

int fm_messages_read_tools(const json_t *body, json_t **out, fm_refusal *why) {
    const json_t *tools = json_object_get(body, "tools");
    *out = NULL;
    if (!fm_is_given(tools)) return 0;
    if (!json_is_array(tools)) return fm_deny(why, 400, "tools", "tools: not a list");
    int rc = (*out = json_array()) ? 0 : fm_no_memory(why);
    for (size_t i = 0; i < json_array_size(tools) && rc == 0; i++) rc = read_tool(*out, json_array_get(tools, i), (int)i, why);
    if (rc < 0) {
        json_decref(*out);
        *out = NULL;
    }
    return rc;
}
