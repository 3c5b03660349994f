/* chat/calls/harmony.c: calls of gpt-oss: a message to functions.NAME, the recipient in the role or in the channel, whose text is one JSON object:
 *
 *     <|start|>assistant to=functions.NAME<|channel|>commentary json<|message|>{…}<|call|>
 *     <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}<|call|>
 *
 * The messages themselves, of which reasoning and text are others, are events.c's. */
#include <string.h>

#include "chat/calls.h"

static const char MESSAGE[] = "<|message|>", FUNCTIONS[] = "functions.";

/* The recipient of a header [n]: behind to=, up to white space or a tag. */
static const char *recipient(const char *header, size_t n, size_t *length) {
    for (size_t at = 0; at + 3 < n; at++) {
        bool begins = at == 0 || fm_is_blank(header[at - 1]) || header[at - 1] == '>';
        if (!begins || memcmp(header + at, "to=", 3)) continue;
        size_t end = at += 3;
        while (end < n && !fm_is_blank(header[end]) && header[end] != '<') end++;
        *length = end - at;
        return header + at;
    }
    return NULL;
}

bool fm_harmony_is_call(const char *header, size_t n, const json_t *tools) {
    size_t length;
    const char *to = recipient(header, n, &length);
    char name[257];
    if (!to || !length || length >= sizeof name) return false;
    if (length > sizeof FUNCTIONS - 1 && !memcmp(to, FUNCTIONS, sizeof FUNCTIONS - 1)) return true;
    memcpy(name, to, length);
    name[length] = 0;
    return fm_tool_find(tools, name) != NULL;
}

static int scan(fm_call_scan *s, const char *text, size_t n, bool end) {
    (void)end;
    if (!s->at) s->at = (size_t)((const char *)memmem(text, n, MESSAGE, sizeof MESSAGE - 1) - text) + sizeof MESSAGE - 1;
    return fm_call_scan_object(s, text, n);
}

static bool read_call(fm_call_list *calls, const char *text, size_t n, const json_t *tools) {
    (void)tools;
    const char *message = memmem(text, n, MESSAGE, sizeof MESSAGE - 1);
    size_t length = 0, at = fm_call_skip(text, n, (size_t)(message - text) + sizeof MESSAGE - 1);
    const char *to = recipient(text, (size_t)(message - text), &length);
    fm_call *call = fm_call_list_add(calls);
    if (!call) return false;
    if (length > sizeof FUNCTIONS - 1 && !memcmp(to, FUNCTIONS, sizeof FUNCTIONS - 1)) {
        to += sizeof FUNCTIONS - 1;
        length -= sizeof FUNCTIONS - 1;
    }
    fm_chars_add(&call->name, to, length);
    return fm_call_take_object(&call->arguments, text + at, n - at);
}

static void force(fm_chars *out, const char *name) {
    fm_chars_put(out, "<|channel|>commentary to=functions.");
    if (!*name) return;
    fm_chars_put(out, name);
    fm_chars_put(out, " <|constrain|>json<|message|>");
}

const fm_call_format fm_calls_harmony = {.name = "harmony", .opens = {NULL}, .scan = scan, .read = read_call, .force = force};
