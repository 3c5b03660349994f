/* serve/api/joined.c: see joined.h. */
#include "serve/api/joined.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void fm_joined_add(fm_joined *j, const char *bytes, size_t n) {
    if (j->failed || !n) return;
    if (n > j->room - j->n) {
        size_t room = 2 * (j->n + n) + 64;
        char *grown = realloc(j->bytes, room);
        if (!grown) {
            j->failed = true;
            return;
        }
        j->bytes = grown;
        j->room = room;
    }
    memcpy(j->bytes + j->n, bytes, n);
    j->n += n;
}

void fm_joined_add_json(fm_joined *j, const json_t *string) { fm_joined_add(j, json_string_value(string), json_string_length(string)); }

json_t *fm_joined_take(fm_joined *j) {
    json_t *string = j->failed ? NULL : fm_utf8_json(j->n ? j->bytes : "", j->n);
    fm_joined_clear(j);
    return string;
}

void fm_joined_clear(fm_joined *j) {
    free(j->bytes);
    *j = (fm_joined){0};
}

int fm_denied_inside(const char *where, int rc, fm_refusal *why) {
    if (rc >= 0) return rc;
    const fm_refusal inner = *why;
    char param[sizeof why->param + 64];
    snprintf(param, sizeof param, "%.60s%s%s", where, *inner.param ? "." : "", inner.param);
    fm_deny(why, inner.status, param, "%s: %s", param, inner.message);
    memcpy(why->code, inner.code, sizeof why->code);
    return rc;
}

int fm_no_memory(fm_refusal *why) { return fm_deny(why, 500, NULL, "there is no memory for this request"); }

bool fm_has_tool(const json_t *tools, const char *name) {
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const char *its = fm_member_text(json_object_get(json_array_get(tools, i), "function"), "name");
        if (!*name || (its && !strcmp(its, name))) return true;
    }
    return false;
}

const char *fm_member_text(const json_t *object, const char *member) { return json_string_value(json_object_get(object, member)); }

bool fm_is_given(const json_t *value) { return value && !json_is_null(value); }
