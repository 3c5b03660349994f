/* chat/request.c: a request in OpenAI's form as what a template expects, and rendering it. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "chat/chat.h"

/* ---- messages ---- */

static int parse(json_t **root, const char *json, fm_error *err) {
    json_error_t at;
    *root = json_loads(json, JSON_ALLOW_NUL, &at);
    if (json_is_object(*root)) return 0;
    int rc = *root ? fm_fail(err, FM_EFORMAT, "the request is not a JSON object")
                   : fm_fail(err, FM_EFORMAT, "the request is not JSON: line %d, column %d: %s", at.line, at.column, at.text);
    json_decref(*root);
    *root = NULL;
    return rc;
}

/* Content that is a list of parts: of text only, joined by line feeds for a template that wants text. */
static int fix_parts(json_t *message, int i, bool takes_parts, fm_error *err) {
    const json_t *content = json_object_get(message, "content");
    fm_chars joined = {0};
    int rc = 0;
    for (size_t k = 0; k < json_array_size(content) && rc == 0; k++) {
        const json_t *part = json_array_get(content, k), *text = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (type && strcmp(type, "text") && strcmp(type, "input_text") && strcmp(type, "output_text"))
            rc = fm_fail(err, FM_EUNSUPPORTED, "message %d has a part of type '%.60s', but only text can be read", i, type);
        else if (!json_is_string(text))
            rc = fm_fail(err, FM_EFORMAT, "message %d has a part without text", i);
        else if (k)
            fm_chars_put(&joined, "\n");
        if (rc == 0) fm_chars_add(&joined, json_string_value(text), json_string_length(text));
    }
    if (rc == 0 && !takes_parts) {
        rc = fm_chars_check(&joined, "a message", err);
        json_object_set_new(message, "content", json_stringn(fm_chars_text(&joined), joined.n));
    }
    fm_chars_close(&joined);
    return rc;
}

/* Arguments as text become the object that they are; what is no object stays. */
static int fix_calls(json_t *message, int i, fm_error *err) {
    const json_t *calls = json_object_get(message, "tool_calls");
    if (json_is_null(calls)) return json_object_del(message, "tool_calls");
    if (calls && !json_is_array(calls)) return fm_fail(err, FM_EFORMAT, "tool_calls of message %d is no list", i);
    for (size_t k = 0; k < json_array_size(calls); k++) {
        json_t *call = json_array_get(calls, k), *function = json_object_get(call, "function");
        if (!function) function = call;
        if (!json_is_string(json_object_get(function, "name"))) return fm_fail(err, FM_EFORMAT, "call %zu of message %d has no name", k, i);
        const json_t *arguments = json_object_get(function, "arguments");
        json_t *object = json_is_string(arguments) ? json_loadb(json_string_value(arguments), json_string_length(arguments), JSON_ALLOW_NUL, NULL) : NULL;
        if (json_is_object(object)) json_object_set(function, "arguments", object);
        json_decref(object);
    }
    return 0;
}

/* Reasoning under the name that the template has. Such templates want either text or reasoning beside calls; text was said to the user. */
static void fix_reasoning(json_t *message) {
    json_t *reasoning = json_object_get(message, "reasoning_content");
    bool both = json_array_size(json_object_get(message, "tool_calls")) && json_string_length(json_object_get(message, "content"));
    if (json_is_string(reasoning) && !json_object_get(message, "thinking") && !both) json_object_set(message, "thinking", reasoning);
}

static int fix_message(const fm_chat *chat, json_t *message, int i, fm_error *err) {
    const json_t *role = json_object_get(message, "role"), *content = json_object_get(message, "content");
    if (!json_is_object(message)) return fm_fail(err, FM_EFORMAT, "message %d is not a JSON object", i);
    if (!json_is_string(role)) return fm_fail(err, FM_EFORMAT, "message %d has no role", i);
    if (!strcmp(json_string_value(role), "developer") && !chat->knows_developer) json_object_set_new(message, "role", json_string("system"));
    if (!content || json_is_null(content))
        json_object_set_new(message, "content", json_string(""));
    else if (json_is_array(content)) {
        int rc = fix_parts(message, i, chat->takes_parts, err);
        if (rc < 0) return rc;
    } else if (!json_is_string(content))
        return fm_fail(err, FM_EFORMAT, "the content of message %d is neither text nor a list of parts", i);
    if (chat->takes_thinking) fix_reasoning(message);
    return fix_calls(message, i, err);
}

static int read_tools(json_t **tools, const json_t *root, fm_error *err) {
    json_t *value = json_object_get(root, "tools");
    *tools = NULL;
    if (!value || json_is_null(value)) return 0;
    if (!json_is_array(value)) return fm_fail(err, FM_EFORMAT, "tools is no list");
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *tool = json_array_get(value, i), *function = json_object_get(tool, "function");
        if (!json_is_string(json_object_get(function ? function : tool, "name"))) return fm_fail(err, FM_EFORMAT, "tool %zu has no name", i);
    }
    if (json_array_size(value)) *tools = json_incref(value);
    return 0;
}

int fm_request_tools(json_t **tools, const char *json, fm_error *err) {
    json_t *root;
    *tools = NULL;
    int rc = parse(&root, json, err);
    if (rc >= 0) rc = read_tools(tools, root, err);
    json_decref(root);
    return rc;
}

int fm_request_read(fm_request *out, const fm_chat *chat, const char *json, fm_error *err) {
    json_t *root;
    *out = (fm_request){.generate = true};
    int rc = parse(&root, json, err);
    if (rc < 0) return rc;
    json_t *messages = json_object_get(root, "messages"), *kwargs = json_object_get(root, "chat_template_kwargs"),
           *generate = json_object_get(root, "add_generation_prompt");
    if (!json_array_size(messages))
        rc = fm_fail(err, FM_EFORMAT, "the request has no messages");
    else if (kwargs && !json_is_null(kwargs) && !json_is_object(kwargs))
        rc = fm_fail(err, FM_EFORMAT, "chat_template_kwargs is not a JSON object");
    else if (generate && !json_is_boolean(generate))
        rc = fm_fail(err, FM_EFORMAT, "add_generation_prompt is neither true nor false");
    else
        rc = read_tools(&out->tools, root, err);
    for (size_t i = 0; i < json_array_size(messages) && rc >= 0; i++) rc = fix_message(chat, json_array_get(messages, i), (int)i, err);
    if (rc >= 0) {
        out->messages = json_incref(messages);
        out->kwargs = json_is_object(kwargs) ? json_incref(kwargs) : NULL;
        out->generate = !json_is_false(generate);
    }
    json_decref(root);
    if (rc < 0) fm_request_close(out);
    return rc;
}

void fm_request_close(fm_request *r) {
    json_decref(r->messages);
    json_decref(r->tools);
    json_decref(r->kwargs);
    *r = (fm_request){0};
}

/* ---- rendering ---- */

int fm_chat_render(const fm_chat *chat, const fm_request *request, json_t *messages, bool generate, char **text, size_t *n, fm_error *err) {
    json_t *variables = json_object();
    *text = NULL;
    int bad = json_object_update(variables, chat->tokens);
    bad |= json_object_set(variables, "messages", messages);
    bad |= json_object_set_new(variables, "tools", request->tools ? json_incref(request->tools) : json_null());
    bad |= json_object_set_new(variables, "documents", json_null());
    bad |= json_object_set_new(variables, "add_generation_prompt", json_boolean(generate));
    if (request->kwargs) bad |= json_object_update(variables, request->kwargs);
    int rc = bad ? fm_fail(err, FM_ENOMEM, "no memory for a prompt") : 0;
    if (rc >= 0)
        rc = fm_template_render(request->tools && chat->tool_template ? chat->tool_template : chat->template, variables, (int64_t)time(NULL), text, n, err);
    json_decref(variables);
    return rc;
}

/* Renders a small conversation, malloc'd; NULL: the template refuses it. */
static void render_small(char **text, const fm_chat *chat, const fm_request *request, json_t *messages, bool generate) {
    fm_request small = {.kwargs = request ? request->kwargs : NULL};
    size_t n;
    if (fm_chat_render(chat, &small, messages, generate, text, &n, NULL) < 0) *text = NULL;
}

char *fm_chat_head(const fm_chat *chat, const fm_request *request) {
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", "x");
    char *without, *with, *head = NULL;
    render_small(&without, chat, request, messages, false);
    render_small(&with, chat, request, messages, true);
    if (with && without && !strncmp(with, without, strlen(without))) head = strdup(with + strlen(without));
    free(with);
    free(without);
    json_decref(messages);
    return head ? head : strdup("");
}

static char *find_think_end(const fm_chat *chat) {
    json_t *messages =
        json_pack("[{s:s, s:s}, {s:s, s:s, s:s}]", "role", "user", "content", "x", "role", "assistant", "content", "zebra", "reasoning_content", "quagga");
    char *text, *end = NULL;
    render_small(&text, chat, NULL, messages, false);
    char *reasoning = text ? strstr(text, "quagga") : NULL, *content = reasoning ? strstr(reasoning, "zebra") : NULL;
    if (content && memmem(reasoning, (size_t)(content - reasoning), "</think>", 8)) end = strndup(reasoning + 6, (size_t)(content - reasoning - 6));
    free(text);
    json_decref(messages);
    return end ? end : strdup("\n</think>\n\n");
}

int fm_chat_probe(fm_chat *chat, fm_error *err) {
    json_t *plain = json_pack("[{s:s, s:s}]", "role", "user", "content", "zebra");
    json_t *parts = json_pack("[{s:s, s:[{s:s, s:s}]}]", "role", "user", "content", "type", "text", "text", "zebra");
    char *a, *b;
    render_small(&a, chat, NULL, plain, true);
    render_small(&b, chat, NULL, parts, true);
    chat->takes_parts = a && b && !strcmp(a, b);
    free(a);
    free(b);
    json_decref(plain);
    json_decref(parts);
    chat->think_end = strcmp(chat->format, fm_calls_harmony.name) ? find_think_end(chat) : strdup("<|end|><|start|>assistant<|channel|>final<|message|>");
    return chat->think_end ? 0 : fm_fail(err, FM_ENOMEM, "no memory for a chat");
}
