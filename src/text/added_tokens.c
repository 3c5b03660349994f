/* added_tokens.c: finding added tokens in a text: leftmost, then longest, with their rules about the text around them.
 *
 * The tokens are kept in the order of their bytes, so those that begin like the text here are one stretch, which each further byte narrows. */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_parts.h"

static int by_bytes(const void *a, const void *b) {
    const fm_added_token *x = a, *y = b;
    int order = memcmp(x->text, y->text, x->n < y->n ? x->n : y->n);
    if (order) return order;
    return x->n != y->n ? (x->n < y->n ? -1 : 1) : x->text < y->text ? -1 : x->text > y->text;
}

int fm_added_set_open(fm_added_set *set, const fm_added_token *tokens, int n, fm_error *err) {
    *set = (fm_added_set){0};
    for (int i = 0; i < n; i++) set->text_bytes += tokens[i].n;
    set->tokens = malloc(((size_t)n + 1) * sizeof *tokens);
    set->text = malloc(set->text_bytes + 1);
    if (!set->tokens || !set->text) {
        fm_added_set_close(set);
        return fm_fail(err, FM_ENOMEM, "no memory for %d added tokens", n);
    }
    char *to = set->text;
    for (int i = 0; i < n; i++) {
        set->tokens[i] = tokens[i];
        set->tokens[i].text = memcpy(to, tokens[i].text, tokens[i].n);
        to += tokens[i].n;
    }
    qsort(set->tokens, (size_t)n, sizeof *tokens, by_bytes);
    for (int i = 0; i < n; i++) {
        const fm_added_token *t = &set->tokens[i], *last = set->n_tokens > 0 ? &set->tokens[set->n_tokens - 1] : NULL;
        if (last && last->n == t->n && !memcmp(last->text, t->text, t->n)) continue;
        set->tokens[set->n_tokens++] = *t;
    }
    for (int byte = 0, at = 0; byte <= 256; byte++) {
        while (at < set->n_tokens && (uint8_t)set->tokens[at].text[0] < byte) at++;
        set->first[byte] = at;
    }
    return 0;
}

void fm_added_set_close(fm_added_set *set) {
    free(set->tokens);
    free(set->text);
    *set = (fm_added_set){0};
}

/* First of tokens [low, high) whose byte at `at` is byte or more; all of them are longer than at. */
static int narrow(const fm_added_set *set, int low, int high, size_t at, int byte) {
    while (low < high) {
        int middle = low + (high - low) / 2;
        if ((uint8_t)set->tokens[middle].text[at] < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The longest token that text [n], n > 0, begins with. */
static const fm_added_token *longest(const fm_added_set *set, const char *text, size_t n) {
    const fm_added_token *found = NULL;
    int low = set->first[(uint8_t)text[0]], high = set->first[(uint8_t)text[0] + 1];
    for (size_t at = 1; low < high; at++) {
        if (set->tokens[low].n == at) found = &set->tokens[low++]; /* the shortest comes first */
        if (at == n) break;
        int byte = (uint8_t)text[at];
        low = narrow(set, low, high, at, byte);
        high = narrow(set, low, high, at, byte + 1);
    }
    return found;
}

/* Where the character that ends before at begins; at > 0. */
static size_t before(const char *text, size_t at) {
    do at--;
    while (at > 0 && ((uint8_t)text[at] & 0xc0) == 0x80);
    return at;
}

static int32_t read_at(const char *text, size_t at) {
    int length;
    return fm_utf8_read(text + at, &length);
}

static bool word_around(const char *text, size_t n, size_t start, size_t stop) {
    return (start > 0 && fm_is_word(read_at(text, before(text, start)))) || (stop < n && fm_is_word(read_at(text, stop)));
}

const fm_added_token *fm_added_next(const fm_added_set *set, const char *text, size_t n, bool special, fm_added_cut *cut, size_t *start) {
    while (set->n_tokens > 0 && cut->scan < n) {
        const fm_added_token *token = longest(set, text + cut->scan, n - cut->scan);
        if (!token) {
            cut->scan++;
            continue;
        }
        size_t from = cut->scan, to = from + token->n;
        cut->scan = to; /* a token that is turned down still hides those inside it */
        if ((token->special && !special) || (token->single_word && word_around(text, n, from, to))) continue;
        if (token->lstrip) {
            while (from > cut->stop && fm_is_space(read_at(text, before(text, from)))) from = before(text, from);
        }
        if (token->rstrip) {
            if (to < cut->spaces_until) to = cut->spaces_until;
            int length;
            while (to < n && fm_is_space(fm_utf8_read(text + to, &length))) to += (size_t)length;
            cut->spaces_until = to;
        }
        cut->stop = to;
        *start = from;
        return token;
    }
    *start = n;
    return NULL;
}
