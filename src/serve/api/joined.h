/* serve/api/joined.h: what APIs beside chat completions share: texts put together, and refusals of what lies inside of a field. */
#ifndef FM_SERVE_API_JOINED_H
#define FM_SERVE_API_JOINED_H

#include "serve/api/fields.h"

typedef struct fm_joined { /* zeroed at first */
    char *bytes;
    size_t n, room;
    bool failed; /* no memory */
} fm_joined;

void fm_joined_add(fm_joined *joined, const char *bytes, size_t n);
void fm_joined_add_json(fm_joined *joined, const json_t *string); /* nothing if it is none */
/* A new JSON string of it, NULL if memory was short; clears it. What is no UTF-8 becomes U+FFFD. */
json_t *fm_joined_take(fm_joined *joined);
void fm_joined_clear(fm_joined *joined);

/* If rc is a refusal, it is about something inside of `where`: its field's name and its sentence say so. Returns rc. */
int fm_denied_inside(const char *where, int rc, fm_refusal *why);
int fm_no_memory(fm_refusal *why); /* status 500 */
/* Whether these tools, in OpenAI's form, have one of this name; "": any at all. */
bool fm_has_tool(const json_t *tools, const char *name);
/* The string that a member of an object is, or NULL. */
const char *fm_member_text(const json_t *object, const char *member);
bool fm_is_given(const json_t *value); /* neither missing nor null */

#define FM_COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

#endif
