/* serve/api/turns.c: see turns.h. */
#include "serve/api/turns.h"

#include <string.h>

static json_t *last(const fm_turns *t) { return json_array_get(t->out, json_array_size(t->out) - 1); }

bool fm_turns_last_is(const fm_turns *t, const char *role) {
    const char *its = fm_member_text(last(t), "role");
    return its && !strcmp(its, role);
}

void fm_turns_clear(fm_turns *t) {
    fm_joined_clear(&t->content);
    fm_joined_clear(&t->reasoning);
    t->open = NULL;
    t->begun = false;
}

int fm_turns_finish(fm_turns *t) {
    int rc = 0;
    if (t->open) {
        bool reasoned = t->reasoning.n > 0;
        rc = json_object_set_new(t->open, "content", fm_joined_take(&t->content));
        if (rc == 0 && reasoned) rc = json_object_set_new(t->open, "reasoning_content", fm_joined_take(&t->reasoning));
    }
    fm_turns_clear(t);
    return rc ? -1 : 0;
}

int fm_turns_add(fm_turns *t, json_t *message) {
    int rc = fm_turns_finish(t);
    return json_array_append_new(t->out, message) || rc < 0 ? -1 : 0;
}

/* The message of this role that goes on, or a new one. */
static int open_turn(fm_turns *t, const char *role) {
    if (t->open && fm_turns_last_is(t, role)) return 0;
    bool again = fm_turns_last_is(t, role);
    if (fm_turns_finish(t) < 0 || (!again && json_array_append_new(t->out, json_pack("{s:s, s:s}", "role", role, "content", "")))) return -1;
    t->open = last(t);
    if (!again) return 0;
    fm_joined_add_json(&t->content, json_object_get(t->open, "content"));
    fm_joined_add_json(&t->reasoning, json_object_get(t->open, "reasoning_content"));
    t->begun = true;
    return 0;
}

int fm_turns_text(fm_turns *t, const char *role, const json_t *text, const char *between) {
    if (open_turn(t, role) < 0) return -1;
    if (t->begun) fm_joined_add(&t->content, between, strlen(between));
    fm_joined_add_json(&t->content, text);
    t->begun = true;
    return t->content.failed ? -1 : 0;
}

int fm_turns_reasoning(fm_turns *t, const json_t *text) {
    if (open_turn(t, "assistant") < 0) return -1;
    fm_joined_add_json(&t->reasoning, text);
    return t->reasoning.failed ? -1 : 0;
}

int fm_turns_call(fm_turns *t, const char *id, const char *name, json_t *arguments) {
    if (open_turn(t, "assistant") < 0) return -1;
    json_t *calls = json_object_get(t->open, "tool_calls");
    if (!calls && json_object_set_new(t->open, "tool_calls", calls = json_array())) return -1;
    return json_array_append_new(calls, json_pack("{s:s, s:s, s:{s:s, s:O}}", "id", id, "type", "function", "function", "name", name, "arguments", arguments))
               ? -1
               : 0;
}
