/* chat/message.c: an answer's events as a message in OpenAI's form. */
#include "chat/chat.h"

void fm_message_add(fm_message *m, const fm_event *event) {
    switch (event->type) {
    case FM_EVENT_TEXT: fm_chars_add(&m->content, event->text, event->bytes); break;
    case FM_EVENT_REASONING: fm_chars_add(&m->reasoning, event->text, event->bytes); break;
    case FM_EVENT_CALL: m->arguments.n = 0; break;
    case FM_EVENT_ARGUMENTS: fm_chars_add(&m->arguments, event->text, event->bytes); break;
    case FM_EVENT_CALL_END:
        if (!m->calls) m->calls = json_array();
        if (json_array_append_new(m->calls, json_pack("{s:s, s:s, s:{s:s, s:o}}", "id", event->id, "type", "function", "function", "name", event->name,
                                                      "arguments", json_stringn(fm_chars_text(&m->arguments), m->arguments.n))) < 0)
            m->content.failed = true;
        break;
    default: break;
    }
}

json_t *fm_message_json(const fm_message *m) {
    if (m->content.failed || m->reasoning.failed || m->arguments.failed) return NULL;
    json_t *message = json_pack("{s:s}", "role", "assistant");
    json_t *content = m->calls && !m->content.n ? json_null() : json_stringn(fm_chars_text(&m->content), m->content.n);
    int rc = json_object_set_new(message, "content", content);
    if (m->reasoning.n) rc |= json_object_set_new(message, "reasoning_content", json_stringn(m->reasoning.bytes, m->reasoning.n));
    if (m->calls) rc |= json_object_set_new(message, "tool_calls", json_deep_copy(m->calls));
    if (rc == 0) return message;
    json_decref(message);
    return NULL;
}

void fm_message_close(fm_message *m) {
    fm_chars_close(&m->content);
    fm_chars_close(&m->reasoning);
    fm_chars_close(&m->arguments);
    json_decref(m->calls);
    m->calls = NULL;
}
