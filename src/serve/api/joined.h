/* serve/api/joined.h: texts put together from pieces, as JSON strings. */
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

#endif
