/* chat/ids.c: a rendered text as tokens. Special tokens are those that the template wrote; what came from a message is plain text, whatever it looks like. Tokens that the
 * model wrote stand where they are known, the rest is encoded between. */
#include <stdlib.h>
#include <string.h>

#include "chat/chat.h"

int fm_text_ids_find(fm_text_ids *t, const char *marked, size_t n_marked, const char *mark, fm_error *err) {
    int rc = fm_tokenizer_specials(t->tokenizer, marked ? marked : t->text, marked ? n_marked : t->n_text, &t->specials, err);
    if (rc < 0) return rc;
    t->n_specials = rc;
    t->at = calloc((size_t)rc + 1, sizeof *t->at);
    if (!t->at) return fm_fail(err, FM_ENOMEM, "no memory for the special tokens of a prompt");
    size_t n_mark = marked ? strlen(mark) : 0, removed = 0;
    const char *next = marked ? strstr(marked, mark) : NULL;
    for (int i = 0; i < t->n_specials && next; i++) { /* places in the text without marks */
        while (next && (size_t)(next - marked) < t->specials[i].start) removed += n_mark, next = strstr(next + n_mark, mark);
        t->specials[i].start -= removed;
        while (next && (size_t)(next - marked) < t->specials[i].stop) removed += n_mark, next = strstr(next + n_mark, mark);
        t->specials[i].stop -= removed;
        if (next) continue;
        for (i++; i < t->n_specials; i++) t->specials[i].start -= removed, t->specials[i].stop -= removed;
    }
    return 0;
}

static int add(fm_text_ids *t, const int32_t *ids, int n, fm_error *err) {
    if (t->capacity - t->n < n) {
        int capacity = t->capacity + t->capacity / 2 + n + 256;
        int32_t *grown = realloc(t->ids, (size_t)capacity * sizeof *grown);
        if (!grown) return fm_fail(err, FM_ENOMEM, "no memory for %d token ids", capacity);
        t->ids = grown;
        t->capacity = capacity;
    }
    memcpy(t->ids + t->n, ids, (size_t)n * sizeof *ids);
    t->n += n;
    return 0;
}

static int add_text(fm_text_ids *t, size_t start, size_t stop, fm_error *err) {
    int32_t *ids;
    if (start >= stop) return 0;
    int n = fm_tokenizer_encode(t->tokenizer, t->text + start, stop - start, false, &ids, err);
    if (n < 0) return n;
    int rc = add(t, ids, n, err);
    free(ids);
    return rc;
}

int fm_text_ids_encode(fm_text_ids *t, const fm_replay_piece *pieces, int n_pieces, fm_error *err) {
    size_t at = 0;
    int rc = 0, s = 0, p = 0;
    while (rc >= 0 && (s < t->n_specials || p < n_pieces)) {
        if (p < n_pieces && (s == t->n_specials || pieces[p].start <= t->specials[s].start)) {
            rc = add_text(t, at, pieces[p].start, err);
            if (rc >= 0) rc = add(t, pieces[p].ids, pieces[p].n, err);
            t->n_replayed += pieces[p].n;
            for (at = pieces[p++].stop; s < t->n_specials && t->specials[s].start < at; s++) t->at[s] = t->n; /* inside: the model wrote it */
        } else {
            rc = add_text(t, at, t->specials[s].start, err);
            t->at[s] = t->n;
            if (rc >= 0) rc = add(t, &t->specials[s].id, 1, err);
            at = t->specials[s++].stop;
        }
    }
    return rc < 0 ? rc : add_text(t, at, t->n_text, err);
}

void fm_text_ids_close(fm_text_ids *t) {
    free(t->specials);
    free(t->at);
    free(t->ids);
    *t = (fm_text_ids){0};
}
