/* serve/api/joined.c: see joined.h. */
#include "serve/api/joined.h"

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
