/* chat/chat.h: the inside of a chat, private to this folder: the template and what the model wrote (memory.c), requests (request.c), and texts as tokens (ids.c). */
#ifndef FM_CHAT_CHAT_H
#define FM_CHAT_CHAT_H

#include "chat/events.h"
#include "engine/engine.h"
#include "template/template.h"

/* ---- memory.c: what the model wrote, token by token; the least recently used goes first ---- */

typedef struct fm_memory_entry {
    uint64_t message, call; /* fm_message_key, and the hash of its first call's id (0: none) */
    char *head;             /* what the template put before the answer, from the assistant's header on */
    int32_t *ids;           /* [n] without the end-of-text token */
    char *bytes;            /* [ends[n - 1]] of all tokens */
    size_t *ends;           /* [n] where each token's bytes end */
    int n;
    uint64_t used;
} fm_memory_entry;

typedef struct fm_memory { /* zeroed at first */
    fm_memory_entry *entries;
    int n, capacity;
    size_t n_tokens; /* of all */
    uint64_t clock;
} fm_memory;

/* A message of the assistant without its reasoning: content (white space around it aside), names and arguments of calls. *call: hash of the first call's id, or 0. */
uint64_t fm_message_key(const json_t *message, uint64_t *call);
/* Takes the entry's pointers, also when memory is short (then it is forgotten). */
void fm_memory_add(fm_memory *memory, fm_memory_entry *entry);
void fm_memory_entry_close(fm_memory_entry *entry);
void fm_memory_close(fm_memory *memory);

/* ---- ids.c: a rendered text as tokens ---- */

typedef struct fm_replay_piece { /* text [start, stop) is these tokens */
    size_t start, stop;
    const int32_t *ids;
    int n;
} fm_replay_piece;

typedef struct fm_text_ids {
    const fm_tokenizer *tokenizer;
    const char *text; /* valid UTF-8 */
    size_t n_text;
    fm_special *specials; /* [n_specials] in text, only those that the template wrote */
    int *at;              /* [n_specials] their places in ids */
    int n_specials;
    int32_t *ids;
    int n, capacity, n_replayed;
} fm_text_ids;

/* The special tokens of the plain rendering; marked [n_marked] (may be NULL) is the same text with mark inside of each special token's text that came from a message. */
int fm_text_ids_find(fm_text_ids *t, const char *marked, size_t n_marked, const char *mark, fm_error *err);
/* Fills ids; pieces [n_pieces], ascending, do not overlap. */
int fm_text_ids_encode(fm_text_ids *t, const fm_replay_piece *pieces, int n_pieces, fm_error *err);
void fm_text_ids_close(fm_text_ids *t); /* ids too */

/* ---- the chat ---- */

struct fm_chat {
    fm_engine *engine;
    fm_template *template, *tool_template; /* tool_template: NULL, or for requests with tools */
    fm_template_source source;             /* of both */
    json_t *tokens;                        /* bos_token and others of tokenizer_config.json */
    const char *format;                    /* of calls */
    char *think_end;                       /* what the template writes between reasoning and answer, with </think> */
    bool takes_parts;                      /* content may be a list of parts */
    bool knows_developer;                  /* the role */
    bool takes_thinking;                   /* reasoning is called thinking, not reasoning_content */
    fm_memory memory;
    uint64_t n_answers;
};

/* ---- request.c ---- */

typedef struct fm_request {
    json_t *messages; /* as templates want them: content is text (or parts of text), arguments are objects */
    json_t *tools;    /* NULL: none */
    json_t *kwargs;   /* chat_template_kwargs; NULL: none */
    bool generate;    /* the assistant's header comes last */
} fm_request;

int fm_request_read(fm_request *out, const fm_chat *chat, const char *json, fm_error *err);
void fm_request_close(fm_request *request);
/* The tools of a request's JSON, a new reference; NULL: none. */
int fm_request_tools(json_t **tools, const char *json, fm_error *err);

/* Renders messages with what else request says. *text is malloc'd. */
int fm_chat_render(const fm_chat *chat, const fm_request *request, json_t *messages, bool generate, char **text, size_t *n, fm_error *err);
/* What the template writes before an answer, for this request's arguments: "" if it writes nothing that can be told. malloc'd. */
char *fm_chat_head(const fm_chat *chat, const fm_request *request);
/* Looks how the template takes content and ends reasoning. */
int fm_chat_probe(fm_chat *chat, fm_error *err);

/* ---- message.c: an answer's events as a message ---- */

typedef struct fm_message { /* zeroed at first */
    fm_chars content, reasoning;
    json_t *calls;      /* NULL: none */
    fm_chars arguments; /* of the last call */
} fm_message;

void fm_message_add(fm_message *m, const fm_event *event);
json_t *fm_message_json(const fm_message *m); /* new; NULL: no memory */
void fm_message_close(fm_message *m);

#endif
