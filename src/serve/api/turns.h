/* serve/api/turns.h: messages of chat completions made of the pieces that other APIs have: what one role says in several pieces becomes one message. Linear in the text, however
 * many pieces there are. Functions return 0, or -1 if memory is short. */
#ifndef FM_SERVE_API_TURNS_H
#define FM_SERVE_API_TURNS_H

#include "serve/api/joined.h"

enum { FM_MOST_TURNS = 4096 }; /* messages or items of a request */

typedef struct fm_turns { /* zeroed at first, but for out */
    json_t *out;          /* the messages, of which the last may be open */
    json_t *open;         /* borrowed from out; NULL: none */
    fm_joined content, reasoning;
    bool begun; /* content */
} fm_turns;

/* Text of the user or the assistant, behind what the same role has said before; between: what stands between the two. */
int fm_turns_text(fm_turns *turns, const char *role, const json_t *text, const char *between);
int fm_turns_reasoning(fm_turns *turns, const json_t *text);
/* A call of the assistant; arguments is a text or an object. */
int fm_turns_call(fm_turns *turns, const char *id, const char *name, json_t *arguments);
/* A message of its own; it is decref'd. */
int fm_turns_add(fm_turns *turns, json_t *message);
/* To be called before out is used. */
int fm_turns_finish(fm_turns *turns);
void fm_turns_clear(fm_turns *turns); /* not out */
/* Whether the last message is of this role. */
bool fm_turns_last_is(const fm_turns *turns, const char *role);

#endif
