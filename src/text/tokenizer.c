/* tokenizer.c: the way from text to ids, and what the vocabulary answers. Reading tokenizer.json is tokenizer_json.c's. */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_parts.h"

/* Three bytes for each invalid one, and again for each that NFC makes longer, stay below 2^31 ids and positions. */
#define MAX_TEXT_BYTES ((size_t)1 << 27)

typedef struct encoder {
    const fm_tokenizer *tokenizer;
    bool special;
    fm_split split[FM_MAX_SPLITTERS + 1];
    fm_bpe_work work;
    const char *first, *first_plain; /* the text as a whole, and where the plain text at its beginning begins */
    int32_t *ids;
    size_t n, capacity;
    fm_error *err;
} encoder;

void fm_tokenizer_close(fm_tokenizer **tokenizer) {
    fm_tokenizer *t = *tokenizer;
    if (!t) return;
    free(t->vocabulary.text);
    free(t->vocabulary.offsets);
    free(t->vocabulary.slots);
    fm_bpe_close(&t->bpe);
    fm_added_set_close(&t->raw);
    fm_added_set_close(&t->normalized);
    for (int i = 0; i < t->n_splitters; i++) fm_splitter_close(&t->splitters[i]);
    free(t);
    *tokenizer = NULL;
}

/* ---- the vocabulary ---- */

static uint32_t hash(const char *bytes, size_t n) {
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)bytes[i]) * 0x100000001b3u;
    return (uint32_t)(h >> 32) ^ (uint32_t)h;
}

/* The id of the vocabulary entry with these bytes, by slots; -1: none. */
static int32_t find_entry(const fm_vocabulary *v, const char *bytes, size_t n) {
    for (uint32_t at = hash(bytes, n) & v->mask; v->slots[at]; at = (at + 1) & v->mask) {
        uint32_t id = v->slots[at] - 1;
        if (v->offsets[id + 1] - v->offsets[id] == n && !memcmp(v->text + v->offsets[id], bytes, n)) return (int32_t)id;
    }
    return -1;
}

int fm_vocabulary_index(fm_vocabulary *v, const bool *in, fm_error *err) {
    uint32_t capacity = 16;
    while (capacity < 2 * (uint32_t)v->n_entries) capacity *= 2;
    v->slots = calloc(capacity, sizeof *v->slots);
    if (!v->slots) return fm_fail(err, FM_ENOMEM, "no memory for an index of %d vocabulary entries", v->n_entries);
    v->mask = capacity - 1;
    for (int id = 0; id <= v->max_id; id++) {
        if (!in[id]) continue;
        uint32_t at = hash(v->text + v->offsets[id], v->offsets[id + 1] - v->offsets[id]) & v->mask;
        while (v->slots[at]) at = (at + 1) & v->mask;
        v->slots[at] = (uint32_t)id + 1;
    }
    return 0;
}

int fm_tokenizer_n_entries(const fm_tokenizer *tokenizer) { return tokenizer->vocabulary.n_entries; }

int fm_tokenizer_max_id(const fm_tokenizer *tokenizer) { return tokenizer->vocabulary.max_id; }

static size_t added_bytes(const fm_added_set *set) { return (size_t)set->n_tokens * sizeof *set->tokens + set->text_bytes; }

size_t fm_tokenizer_memory_bytes(const fm_tokenizer *t) {
    const fm_vocabulary *v = &t->vocabulary;
    size_t n = (size_t)v->max_id + 2, more = t->bpe.chars ? ((size_t)t->bpe.char_mask + 1) * sizeof *t->bpe.chars : 0;
    for (int i = 0; i < t->n_splitters; i++) more += fm_splitter_memory_bytes(t->splitters[i]);
    return sizeof *t + v->offsets[n - 1] + n * sizeof *v->offsets + (v->slots ? ((size_t)v->mask + 1) * sizeof *v->slots : 0) +
           ((size_t)t->bpe.mask + 1) * sizeof *t->bpe.merges + added_bytes(&t->raw) + added_bytes(&t->normalized) + more;
}

int fm_tokenizer_bytes(const fm_tokenizer *tokenizer, int32_t id, const char **bytes) {
    const fm_vocabulary *v = &tokenizer->vocabulary;
    *bytes = v->text;
    if (id < 0 || id > v->max_id) return 0;
    *bytes = v->text + v->offsets[id];
    return (int)(v->offsets[id + 1] - v->offsets[id]);
}

static int32_t find_added(const fm_added_set *set, const char *text, size_t n) {
    for (int i = 0; i < set->n_tokens; i++) {
        if (set->tokens[i].n == n && !memcmp(set->tokens[i].text, text, n)) return set->tokens[i].id;
    }
    return -1;
}

int32_t fm_tokenizer_find(const fm_tokenizer *tokenizer, const char *text) {
    const fm_vocabulary *v = &tokenizer->vocabulary;
    size_t n = strlen(text);
    int32_t id = find_added(&tokenizer->raw, text, n);
    if (id < 0) id = find_added(&tokenizer->normalized, text, n);
    for (int32_t i = 0; n > 0 && id < 0 && i <= v->max_id; i++) {
        if (v->offsets[i + 1] - v->offsets[i] == n && !memcmp(v->text + v->offsets[i], text, n)) id = i;
    }
    return id;
}

/* ---- special tokens ---- */

typedef struct specials {
    fm_special *found;
    int n, capacity;
    bool failed;
} specials;

static void note_special(specials *s, const fm_added_token *token, size_t start, size_t stop) {
    if (s->n == s->capacity) {
        int capacity = 2 * s->capacity + 16;
        fm_special *found = realloc(s->found, (size_t)capacity * sizeof *found);
        if (!found) {
            s->failed = true;
            return;
        }
        s->found = found;
        s->capacity = capacity;
    }
    s->found[s->n++] = (fm_special){.start = start, .stop = stop, .id = token->id};
}

/* Those of tokens that are cut out after normalisation, in text [from, to) between others. */
static void find_normalized(const fm_tokenizer *t, specials *s, const char *text, size_t from, size_t to) {
    fm_added_cut cut = {0};
    const fm_added_token *token;
    size_t start;
    while (from < to && (token = fm_added_next(&t->normalized, text + from, to - from, true, &cut, &start))) {
        if (token->special) note_special(s, token, from + start, from + cut.stop);
    }
}

int fm_tokenizer_specials(const fm_tokenizer *t, const char *text, size_t n, fm_special **found, fm_error *err) {
    specials s = {0};
    fm_added_cut cut = {0};
    const fm_added_token *token;
    do {
        size_t plain = cut.stop, start;
        token = fm_added_next(&t->raw, text, n, true, &cut, &start);
        find_normalized(t, &s, text, plain, start);
        if (token && token->special) note_special(&s, token, start, cut.stop);
    } while (token);
    *found = s.found;
    if (!s.failed) return s.n;
    free(s.found);
    *found = NULL;
    return fm_fail(err, FM_ENOMEM, "no memory for the special tokens of a text");
}

static bool begins(const fm_added_set *set, const char *text, size_t n) {
    for (int i = set->first[(uint8_t)text[0]]; i < set->first[(uint8_t)text[0] + 1]; i++) {
        const fm_added_token *token = &set->tokens[i];
        if (token->special && !memcmp(token->text, text, n < token->n ? n : token->n)) return true;
    }
    return false;
}

bool fm_tokenizer_begins_special(const fm_tokenizer *t, const char *text, size_t n) { return begins(&t->raw, text, n) || begins(&t->normalized, text, n); }

/* ---- encoding ---- */

static int reserve(encoder *e, size_t n) {
    if (e->capacity - e->n >= n) return 0;
    size_t capacity = e->capacity + e->capacity / 2 + n + 64;
    int32_t *ids = realloc(e->ids, capacity * sizeof *ids);
    if (!ids) return fm_fail(e->err, FM_ENOMEM, "no memory for %zu token ids", capacity);
    e->ids = ids;
    e->capacity = capacity;
    return 0;
}

static int encode_piece(encoder *e, const char *piece, size_t n) {
    const fm_tokenizer *t = e->tokenizer;
    int code = reserve(e, n);
    if (code) return code;
    int32_t whole = t->vocabulary.slots ? find_entry(&t->vocabulary, piece, n) : -1;
    if (whole >= 0) {
        e->ids[e->n++] = whole;
        return 0;
    }
    int n_ids = fm_bpe_merge(&t->bpe, &e->work, piece, n, e->ids + e->n, e->err);
    if (n_ids < 0) return n_ids;
    e->n += (size_t)n_ids;
    return 0;
}

/* By splitter `stage` and those after it. */
static int encode_split(encoder *e, int stage, const char *text, size_t n) {
    const char *piece;
    size_t n_piece;
    int found, code;
    if (stage >= e->tokenizer->n_splitters) return n ? encode_piece(e, text, n) : 0;
    fm_split_begin(&e->split[stage], text, n);
    while ((found = fm_split_next(&e->split[stage], &piece, &n_piece, e->err)) > 0) {
        if ((code = encode_split(e, stage + 1, piece, n_piece))) return code;
    }
    return found;
}

/* Normalised text without added tokens. */
static int encode_plain(encoder *e, const char *text, size_t n) {
    const fm_tokenizer *t = e->tokenizer;
    char *owned = NULL;
    int code = 0, prefix = t->piece_prefix && (!t->first_only || text == e->first_plain) ? FM_PREFIX_NEED : FM_PREFIX_NONE;
    if (t->characters && !t->marks_spaces) code = fm_spaces_mark(text, n, prefix, &text, &n, &owned, e->err);
    for (int i = 0; i < t->n_splitters; i++) fm_split_allow(&e->split[i], n);
    if (!code) code = encode_split(e, 0, text, n);
    free(owned);
    return code;
}

/* Cuts the added tokens of set out of text; what lies between goes to next. */
static int encode_around(encoder *e, const fm_added_set *set, const char *text, size_t n, int (*next)(encoder *, const char *, size_t)) {
    fm_added_cut cut = {0};
    const fm_added_token *token;
    int code = 0;
    do {
        size_t plain = cut.stop, start;
        token = fm_added_next(set, text, n, e->special, &cut, &start);
        if (plain < start) code = next(e, text + plain, start - plain);
        if (!code && token) code = reserve(e, 1);
        if (!code && token) e->ids[e->n++] = token->id;
    } while (!code && token);
    return code;
}

static int encode_raw(encoder *e, const char *text, size_t n) {
    char *owned = NULL;
    bool first = text == e->first;
    int code = fm_tokenizer_normalize(e->tokenizer, text, n, &text, &n, &owned, e->err);
    e->first_plain = first ? text : NULL;
    if (!code) code = encode_around(e, &e->tokenizer->normalized, text, n, encode_plain);
    free(owned);
    return code;
}

int fm_tokenizer_normalize(const fm_tokenizer *t, const char *text, size_t n, const char **out, size_t *n_out, char **owned, fm_error *err) {
    char *composed = NULL;
    *owned = NULL;
    *out = text;
    *n_out = n;
    int code = t->nfc ? fm_nfc(text, n, out, n_out, &composed, err) : 0;
    if (!code && t->marks_spaces) code = fm_spaces_mark(*out, *n_out, t->normal_prefix, out, n_out, owned, err);
    if (*owned || code)
        free(composed);
    else
        *owned = composed;
    return code;
}

int fm_tokenizer_encode(const fm_tokenizer *tokenizer, const char *text, size_t text_bytes, bool special, int32_t **ids, fm_error *err) {
    encoder e = {.tokenizer = tokenizer, .special = special, .err = err};
    char *owned = NULL;
    *ids = NULL;
    if (text_bytes > MAX_TEXT_BYTES) return fm_fail(err, FM_EINVAL, "a text of %zu bytes is too long to encode: at most %zu", text_bytes, MAX_TEXT_BYTES);
    int code = 0;
    for (int i = 0; i < tokenizer->n_splitters && !code; i++) code = fm_split_open(&e.split[i], tokenizer->splitters[i], err);
    if (!code) code = reserve(&e, 1);
    if (!code) code = fm_utf8_repair(text, text_bytes, &text, &text_bytes, &owned, err);
    e.first = text;
    if (!code) code = encode_around(&e, &tokenizer->raw, text, text_bytes, encode_raw);
    free(owned);
    for (int i = 0; i < tokenizer->n_splitters; i++) fm_split_close(&e.split[i]);
    fm_bpe_work_close(&e.work);
    if (code) {
        free(e.ids);
        return code;
    }
    *ids = realloc(e.ids, (e.n + 1) * sizeof **ids);
    if (!*ids) *ids = e.ids;
    return (int)e.n;
}
