/* chat/prompt.c: a request becomes a prompt: rendered, turned into tokens, with the places where messages begin and with what the model wrote as it wrote it.
 *
 * Text of messages never becomes special tokens: where a message holds the text of one, the template is rendered a second time with a noncharacter inside of each, which shows
 * where they went. Ordinary prompts have the very ids that transformers makes. */
#include <stdlib.h>
#include <string.h>

#include "chat/chat.h"

typedef struct building {
    fm_chat *chat;
    fm_request request;
    char *plain, *marked; /* marked NULL: no message holds a special token's text */
    size_t n_plain, n_marked;
    char mark[4];
    bool any_mark;
    fm_text_ids ids;
    char *head;    /* what the template writes before an answer */
    size_t n_role; /* of head: the assistant's header, without what opens reasoning and white space behind it; 0: it is not known */
    int *answers;  /* [n_answers] specials that such a header begins with */
    int n_answers;
    fm_replay_piece *pieces; /* [n_pieces] */
    int n_pieces;
} building;

/* ---- text that looks like special tokens ---- */

/* A copy of text with the mark behind the first character of each special token's text, and of an unfinished one at the end. */
static json_t *mark_text(building *b, const char *text, size_t n) {
    const fm_tokenizer *tokenizer = b->ids.tokenizer;
    fm_chars out = {0};
    size_t end = n, done = 0;
    while (end && fm_is_blank(text[end - 1])) end--; /* a template may trim */
    for (size_t at = 0; at < end; at++) {
        if ((text[at] & 0xc0) == 0x80 || !fm_tokenizer_begins_special(tokenizer, text + at, end - at)) continue;
        size_t next = at + 1;
        while (next < end && (text[next] & 0xc0) == 0x80) next++;
        fm_chars_add(&out, text + done, next - done);
        fm_chars_put(&out, b->mark);
        done = next;
    }
    if (!done) return json_stringn(text, n);
    b->any_mark = true;
    fm_chars_add(&out, text + done, n - done);
    json_t *string = out.failed ? NULL : json_stringn(out.bytes, out.n);
    fm_chars_close(&out);
    return string;
}

static json_t *mark_value(building *b, json_t *value) {
    json_t *copy;
    if (json_is_string(value)) return mark_text(b, json_string_value(value), json_string_length(value));
    if (json_is_array(value)) {
        copy = json_array();
        for (size_t i = 0; i < json_array_size(value); i++) json_array_append_new(copy, mark_value(b, json_array_get(value, i)));
        return copy;
    }
    if (!json_is_object(value)) return json_incref(value);
    copy = json_object();
    const char *key;
    json_t *member;
    json_object_foreach(value, key, member) {
        json_t *name = mark_text(b, key, strlen(key));
        if (name) json_object_set_new(copy, json_string_value(name), mark_value(b, member));
        json_decref(name);
    }
    return copy;
}

/* A noncharacter that the text does not have. */
static int choose_mark(building *b, fm_error *err) {
    for (int c = 0x90; c <= 0xaf; c++) { /* U+FDD0 … U+FDEF */
        snprintf(b->mark, sizeof b->mark, "\xef\xb7%c", c);
        if (!strstr(b->plain, b->mark)) return 0;
    }
    return fm_fail(err, FM_EUNSUPPORTED, "the messages hold each of the 32 noncharacters of Unicode from U+FDD0 on");
}

/* Whether marked is plain with marks in it. */
static bool same_text(const building *b) {
    const char *from = b->marked, *to = b->plain, *found;
    for (; (found = strstr(from, b->mark)); from = found + 3) {
        if (strncmp(from, to, (size_t)(found - from))) return false;
        to += found - from;
    }
    return !strcmp(from, to);
}

static int render_marked(building *b, fm_error *err) {
    fm_request marked = b->request;
    json_t *messages = mark_value(b, b->request.messages);
    marked.tools = b->request.tools ? mark_value(b, b->request.tools) : NULL;
    int rc = 0;
    if (b->any_mark) {
        rc = fm_chat_render(b->chat, &marked, messages, marked.generate, &b->marked, &b->n_marked, err);
        if (rc >= 0 && !same_text(b))
            rc = fm_fail(err, FM_EUNSUPPORTED, "a message holds the text of a special token, and the template does not pass it on as it is");
    }
    json_decref(messages);
    json_decref(marked.tools);
    return rc;
}

static int render(building *b, fm_error *err) {
    int rc = fm_chat_render(b->chat, &b->request, b->request.messages, b->request.generate, &b->plain, &b->n_plain, err);
    if (rc < 0) return rc;
    if (strlen(b->plain) != b->n_plain) return fm_fail(err, FM_EUNSUPPORTED, "the messages hold a NUL character");
    if ((rc = choose_mark(b, err)) < 0 || (rc = render_marked(b, err)) < 0) return rc;
    b->ids.text = b->plain;
    b->ids.n_text = b->n_plain;
    return fm_text_ids_find(&b->ids, b->marked, b->n_marked, b->mark, err);
}

/* ---- where messages begin ---- */

/* The part of the head that each message of the assistant begins with; it has to begin with a special token, which nothing but the template writes. */
static size_t role_bytes(const building *b) {
    fm_special *found;
    int n = fm_tokenizer_specials(b->ids.tokenizer, b->head, strlen(b->head), &found, NULL);
    size_t bytes = n > 0 && found[0].start == 0 ? strlen(b->head) : 0;
    free(found);
    const char *opens = strstr(b->head, "<think>"), *ends = strstr(b->head, "</think>");
    if (opens && (size_t)(opens - b->head) < bytes) bytes = (size_t)(opens - b->head);
    if (ends && (size_t)(ends - b->head) < bytes) bytes = (size_t)(ends - b->head);
    while (bytes && fm_is_blank(b->head[bytes - 1])) bytes--;
    return bytes;
}

static int find_answers(building *b, fm_error *err) {
    if (!(b->head = fm_chat_head(b->chat, &b->request)) || !(b->answers = calloc((size_t)b->ids.n_specials + 1, sizeof *b->answers)))
        return fm_fail(err, FM_ENOMEM, "no memory for a prompt");
    b->n_role = role_bytes(b);
    for (int i = 0; b->n_role && i < b->ids.n_specials; i++) {
        const fm_special *s = &b->ids.specials[i];
        if (b->n_plain - s->start >= b->n_role && !memcmp(b->plain + s->start, b->head, b->n_role)) b->answers[b->n_answers++] = i;
    }
    return 0;
}

/* The place in ids where the first message behind system prompt and tools begins: 0 if there are none, or it cannot be told. A short conversation is rendered with them
 * and with a user who says something else: what both begin with is theirs, and the header of what comes then, which is taken off. */
static int system_end(const building *b) {
    json_t *messages = json_array();
    size_t n, common = 0;
    char *text;
    for (size_t i = 0; i < json_array_size(b->request.messages); i++) {
        json_t *message = json_array_get(b->request.messages, i);
        if (strcmp(json_string_value(json_object_get(message, "role")), "system")) break;
        json_array_append(messages, message);
    }
    bool any = json_array_size(messages) || b->request.tools;
    json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "user", "content", b->mark));
    if (!any || fm_chat_render(b->chat, &b->request, messages, false, &text, &n, NULL) < 0) text = NULL;
    json_decref(messages);
    if (!text) return 0;
    while (common < n && common < b->n_plain && text[common] == b->plain[common]) common++;
    free(text);
    int last = -1, header = -1;
    for (int i = 0; i < b->ids.n_specials && b->ids.specials[i].stop <= common; i++) {
        last = i;
        if (b->n_answers && b->ids.specials[i].id == b->ids.specials[b->answers[0]].id) header = i;
    }
    return header >= 0 ? b->ids.at[header] : last >= 0 ? b->ids.at[last] : 0;
}

static int set_borders(const building *b, fm_prompt *out, fm_error *err) {
    out->borders = calloc((size_t)b->n_answers + 1, sizeof *out->borders);
    if (!out->borders) return fm_fail(err, FM_ENOMEM, "no memory for a prompt");
    int first = system_end(b), n = 0;
    for (int i = 0; i <= b->n_answers; i++) {
        int at = i < b->n_answers ? b->ids.at[b->answers[i]] : first, k = n;
        while (k > 0 && out->borders[k - 1] > at) k--;
        if (at <= 0 || at >= b->ids.n || (k > 0 && out->borders[k - 1] == at)) continue;
        memmove(out->borders + k + 1, out->borders + k, (size_t)(n++ - k) * sizeof *out->borders);
        out->borders[k] = at;
    }
    out->n_borders = n;
    return 0;
}

/* ---- replay ---- */

/* As many tokens from `token` on, whose bytes begin at from, as stand at text [at, stop), up to the end of a character. */
static fm_replay_piece match(const building *b, const fm_memory_entry *e, int token, size_t at, size_t stop) {
    fm_replay_piece piece = {.start = at, .stop = at, .ids = e->ids + token};
    size_t begin = token ? e->ends[token - 1] : 0, from = begin;
    for (int i = token; i < e->n; i++) {
        size_t n = e->ends[i] - from;
        if (n > stop - at - (from - begin) || memcmp(e->bytes + from, b->plain + at + (from - begin), n)) break;
        from = e->ends[i];
        size_t end = at + (from - begin);
        if (end < b->n_plain && (b->plain[end] & 0xc0) == 0x80) continue;
        piece.stop = end;
        piece.n = i + 1 - token;
    }
    return piece;
}

static const char ASSISTANT[] = "<|start|>assistant";

/* Where an answer's bytes begin to be its text: behind reasoning and white space; 0 without reasoning. */
static size_t visible(const fm_memory_entry *e, bool harmony) {
    size_t n = e->n ? e->ends[e->n - 1] : 0, at = 0, last = 0;
    for (const char *next; harmony && (next = memmem(e->bytes + last, n - last, ASSISTANT, sizeof ASSISTANT - 1));
         last = (size_t)(next - e->bytes) + sizeof ASSISTANT - 1) {}
    if (last) return last; /* Harmony's last message */
    bool opened = strstr(e->head, "<think>") && !strstr(e->head, "</think>");
    while (!opened && at < n && fm_is_blank(e->bytes[at])) at++;
    if (!opened && (n - at < 7 || memcmp(e->bytes + at, "<think>", 7))) return 0;
    const char *end = memmem(e->bytes, n, "</think>", 8);
    if (!end) return n;
    for (at = (size_t)(end - e->bytes) + 8; at < n && fm_is_blank(e->bytes[at]);) at++;
    return at;
}

/* The best that an entry gives for the message whose header begins at text [start, stop): the whole answer from its beginning, or, where its reasoning was dropped or
 * changed, what comes behind that. */
static int match_entry(const building *b, const fm_memory_entry *e, size_t start, size_t stop, fm_replay_piece pieces[2]) {
    size_t head = strlen(e->head), at = start + b->n_role, from = visible(e, !strcmp(b->chat->format, fm_calls_harmony.name));
    bool same_head = stop - start >= head && !memcmp(b->plain + start, e->head, head);
    int n = 0, token = 0;
    if (same_head) {
        pieces[0] = match(b, e, 0, start + head, stop);
        n = pieces[0].n > 0;
        if (pieces[0].n == e->n || !from) return n;
    }
    while (at < stop && fm_is_blank(b->plain[at])) at++;
    if (stop - at >= 7 && !memcmp(b->plain + at, "<think>", 7)) {
        const char *end = memmem(b->plain + at, stop - at, "</think>", 8);
        at = end ? (size_t)(end - b->plain) + 8 : stop;
        while (at < stop && fm_is_blank(b->plain[at])) at++;
    }
    while (token < e->n && (token ? e->ends[token - 1] : 0) < from) token++;
    size_t skip = (token ? e->ends[token - 1] : 0) - from; /* to the next token: text that is encoded */
    if (token == e->n || skip > stop - at || memcmp(e->bytes + from, b->plain + at, skip)) return n;
    pieces[n] = match(b, e, token, at + skip, stop);
    if (pieces[n].n && (!n || pieces[0].stop <= pieces[n].start)) n++;
    return n;
}

static size_t replayed_bytes(const fm_replay_piece *pieces, int n) {
    size_t bytes = 0;
    for (int i = 0; i < n; i++) bytes += pieces[i].stop - pieces[i].start;
    return bytes;
}

static void replay_message(building *b, const json_t *message, size_t start, size_t stop) {
    fm_memory *m = &b->chat->memory;
    fm_replay_piece best[2], some[2];
    int n_best = 0, found = -1;
    uint64_t call, key = fm_message_key(message, &call);
    for (int i = 0; i < m->n; i++) {
        const fm_memory_entry *e = &m->entries[i];
        if (e->message != key && !(call && e->call == call)) continue;
        int n = match_entry(b, e, start, stop, some);
        size_t bytes = replayed_bytes(some, n), most = replayed_bytes(best, n_best);
        if (bytes < most || (bytes == most && found >= 0 && e->used < m->entries[found].used)) continue;
        memcpy(best, some, sizeof best);
        n_best = n;
        found = i;
    }
    if (found >= 0) m->entries[found].used = ++m->clock;
    for (int i = 0; i < n_best; i++) b->pieces[b->n_pieces++] = best[i];
}

/* The headers and the messages of the assistant belong together if there are as many. */
static int find_replay(building *b, fm_error *err) {
    int n = 0;
    for (size_t i = 0; i < json_array_size(b->request.messages); i++)
        n += !strcmp(json_string_value(json_object_get(json_array_get(b->request.messages, i), "role")), "assistant");
    b->pieces = calloc((size_t)n * 2 + 1, sizeof *b->pieces);
    if (!b->pieces) return fm_fail(err, FM_ENOMEM, "no memory for a prompt");
    if (n + b->request.generate != b->n_answers || !b->chat->memory.n) return 0;
    for (size_t i = 0, k = 0; i < json_array_size(b->request.messages); i++) {
        const json_t *message = json_array_get(b->request.messages, i);
        if (strcmp(json_string_value(json_object_get(message, "role")), "assistant")) continue;
        size_t start = b->ids.specials[b->answers[k++]].start;
        replay_message(b, message, start, (int)k < b->n_answers ? b->ids.specials[b->answers[k]].start : b->n_plain);
    }
    return 0;
}

/* ---- the prompt ---- */

static bool opens_reasoning(const char *text, size_t n) {
    while (n && fm_is_blank(text[n - 1])) n--;
    return n >= 7 && !memcmp(text + n - 7, "<think>", 7);
}

static void close_building(building *b) {
    fm_request_close(&b->request);
    free(b->plain);
    free(b->marked);
    free(b->head);
    free(b->answers);
    free(b->pieces);
    fm_text_ids_close(&b->ids);
}

int fm_chat_prompt(fm_chat *chat, const char *request, fm_prompt *out, fm_error *err) {
    building b = {.chat = chat, .ids.tokenizer = chat->engine->tokenizer};
    *out = (fm_prompt){0};
    int rc = fm_request_read(&b.request, chat, request, err);
    if (rc >= 0) rc = render(&b, err);
    if (rc >= 0) rc = find_answers(&b, err);
    if (rc >= 0) rc = find_replay(&b, err);
    if (rc >= 0) rc = fm_text_ids_encode(&b.ids, b.pieces, b.n_pieces, err);
    if (rc >= 0 && b.ids.n == 0) rc = fm_fail(err, FM_EINVAL, "the template made an empty prompt of the messages");
    if (rc >= 0) rc = set_borders(&b, out, err);
    if (rc >= 0) {
        *out = (fm_prompt){.text = b.plain, .text_bytes = b.n_plain, .ids = b.ids.ids, .n_ids = b.ids.n, .borders = out->borders, .n_borders = out->n_borders};
        out->n_replayed = b.ids.n_replayed;
        out->in_reasoning = b.request.generate && opens_reasoning(b.plain, b.n_plain);
        b.plain = NULL;
        b.ids.ids = NULL;
    }
    close_building(&b);
    return rc < 0 ? rc : 0;
}

void fm_prompt_clear(fm_prompt *prompt) {
    free(prompt->text);
    free(prompt->ids);
    free(prompt->borders);
    *prompt = (fm_prompt){0};
}
