/* bpe.c: byte-pair merging of one piece of text: the merge of the lowest rank first, the leftmost of equal ones. It begins with bytes or with characters.
 *
 * A binary heap of (rank, position) keys over a linked list of symbols. A key is stale when the symbol at its position has another rank by now: ranks
 * belong to one pair each, so the rank is enough to tell. Owns no text and no vocabulary. */
#include <stdlib.h>

#include "text/tokenizer_parts.h"

int fm_bpe_open(fm_bpe *bpe, size_t n, fm_error *err) {
    size_t capacity = 16;
    while (capacity < n + n / 2) capacity *= 2;
    bpe->merges = malloc(capacity * sizeof *bpe->merges);
    if (!bpe->merges) return fm_fail(err, FM_ENOMEM, "no memory for a table of %zu merges", n);
    bpe->mask = (uint32_t)(capacity - 1);
    for (size_t i = 0; i < capacity; i++) bpe->merges[i].rank = FM_NO_RANK;
    return 0;
}

void fm_bpe_close(fm_bpe *bpe) {
    free(bpe->merges);
    free(bpe->chars);
    bpe->merges = NULL;
    bpe->chars = NULL;
}

/* The place of the pair, or the empty one where it belongs. */
static fm_merge *find(const fm_bpe *bpe, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    key *= 0x9e3779b97f4a7c15u;
    uint32_t at = (uint32_t)(key >> 32) & bpe->mask;
    while (bpe->merges[at].rank != FM_NO_RANK && (bpe->merges[at].left != left || bpe->merges[at].right != right)) at = (at + 1) & bpe->mask;
    return &bpe->merges[at];
}

void fm_bpe_add(fm_bpe *bpe, fm_merge merge) { *find(bpe, merge.left, merge.right) = merge; }

int fm_bpe_open_chars(fm_bpe *bpe, size_t n, fm_error *err) {
    size_t capacity = 16;
    while (capacity < n + n / 2 + 1) capacity *= 2;
    bpe->chars = malloc(capacity * sizeof *bpe->chars);
    if (!bpe->chars) return fm_fail(err, FM_ENOMEM, "no memory for a table of %zu characters", n);
    bpe->char_mask = (uint32_t)(capacity - 1);
    for (size_t i = 0; i < capacity; i++) bpe->chars[i].c = -1;
    return 0;
}

/* The place of the character, or the empty one where it belongs. */
static fm_char_id *find_char(const fm_bpe *bpe, int32_t c) {
    uint32_t at = ((uint32_t)c * 0x9e3779b1u >> 8) & bpe->char_mask;
    while (bpe->chars[at].c >= 0 && bpe->chars[at].c != c) at = (at + 1) & bpe->char_mask;
    return &bpe->chars[at];
}

void fm_bpe_add_char(fm_bpe *bpe, int32_t c, int32_t id) { *find_char(bpe, c) = (fm_char_id){c, id}; }

void fm_bpe_work_close(fm_bpe_work *work) {
    free(work->symbols);
    free(work->heap);
    *work = (fm_bpe_work){0};
}

/* A merge takes one key out and puts at most two in, so 2n keys are the most. */
static int reserve(fm_bpe_work *work, size_t n, fm_error *err) {
    if (n <= work->capacity) return 0;
    fm_bpe_work_close(work);
    size_t capacity = 256;
    while (capacity < n) capacity *= 2;
    work->symbols = malloc(capacity * sizeof *work->symbols);
    work->heap = malloc(2 * capacity * sizeof *work->heap);
    if (!work->symbols || !work->heap) return fm_fail(err, FM_ENOMEM, "no memory to merge a piece of %zu bytes", n);
    work->capacity = capacity;
    return 0;
}

static void push(fm_bpe_work *work, uint64_t key) {
    uint64_t *heap = work->heap;
    size_t at = work->n_heap++;
    for (; at > 0 && heap[(at - 1) / 2] > key; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
    heap[at] = key;
}

static uint64_t pop(fm_bpe_work *work) {
    uint64_t *heap = work->heap, top = heap[0], last = heap[--work->n_heap];
    size_t n = work->n_heap, at = 0;
    for (size_t child = 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= last) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

/* Looks up the merge of the symbol at `at` with the one after it. */
static void consider(const fm_bpe *bpe, fm_bpe_work *work, int32_t at) {
    fm_symbol *s = &work->symbols[at];
    s->rank = FM_NO_RANK;
    if (s->next < 0) return;
    const fm_merge *merge = find(bpe, s->id, work->symbols[s->next].id);
    if (merge->rank == FM_NO_RANK) return;
    s->rank = merge->rank;
    s->merged = merge->id;
    push(work, (uint64_t)s->rank << 32 | (uint32_t)at);
}

static void merge_at(const fm_bpe *bpe, fm_bpe_work *work, int32_t at) {
    fm_symbol *symbols = work->symbols, *s = &symbols[at];
    s->id = s->merged;
    symbols[s->next].rank = FM_NO_RANK; /* gone: its keys are stale */
    s->next = symbols[s->next].next;
    if (s->next >= 0) symbols[s->next].prev = at;
    if (s->prev >= 0) consider(bpe, work, s->prev);
    consider(bpe, work, at);
}

/* What merging begins with; returns how many. */
static size_t begin(const fm_bpe *bpe, fm_symbol *symbols, const char *bytes, size_t n) {
    size_t count = 0;
    int length = 1;
    for (size_t at = 0; at < n; at += (size_t)length) {
        const fm_char_id *found = bpe->chars ? find_char(bpe, fm_utf8_read(bytes + at, &length)) : NULL;
        if (found && found->c >= 0) {
            symbols[count++].id = found->id;
            continue;
        }
        for (int i = 0; i < length; i++) symbols[count++].id = bpe->byte_ids[(uint8_t)bytes[at + (size_t)i]];
    }
    return count;
}

int fm_bpe_merge(const fm_bpe *bpe, fm_bpe_work *work, const char *bytes, size_t n, int32_t *ids, fm_error *err) {
    if (n > INT32_MAX / 2) return fm_fail(err, FM_EINVAL, "a piece of %zu bytes is too long to merge", n);
    int code = reserve(work, n, err);
    if (code) return code;
    n = begin(bpe, work->symbols, bytes, n);
    for (size_t i = 0; i < n; i++) {
        work->symbols[i] = (fm_symbol){.id = work->symbols[i].id, .prev = (int32_t)i - 1, .next = i + 1 < n ? (int32_t)i + 1 : -1, .rank = FM_NO_RANK};
    }
    work->n_heap = 0;
    for (size_t i = 0; i < n; i++) consider(bpe, work, (int32_t)i);
    while (work->n_heap > 0) {
        uint64_t key = pop(work);
        int32_t at = (int32_t)(uint32_t)key;
        if (work->symbols[at].rank == (uint32_t)(key >> 32)) merge_at(bpe, work, at);
    }
    int count = 0;
    for (int32_t at = n > 0 ? 0 : -1; at >= 0; at = work->symbols[at].next) ids[count++] = work->symbols[at].id;
    return count;
}
