/* experts/store_guess.c: reading what nobody waits for: ahead, into slots that the policy does not know and request makes ordinary ones; and what is to stay, into ordinary
 * ones. And which experts are not evicted. */
#include <string.h>

#include "base/system.h"
#include "experts/store_impl.h"

#define MAX_READS 1 /* guesses in flight: with two or three what is asked for waits longer behind them than they gain */

void fm_store_drop_guess(fm_store *s, int slot) {
    fm_store_free_staging(s, slot);
    fm_store_live_state(s, s->slots[slot].key, FM_SLOT_FREE);
    s->slot_of[s->slots[slot].key] = -1;
    s->slots[slot].key = -1;
    s->slots[slot].filling = s->slots[slot].wanted = false;
    fm_store_move(s, slot, FM_SLOT_FREE, true);
}

void fm_store_drop_guesses(fm_store *s) {
    while (s->lists[FM_SLOT_GUESSING].n) fm_store_drop_guess(s, s->lists[FM_SLOT_GUESSING].first);
    while (s->lists[FM_SLOT_GUESSED].n) fm_store_drop_guess(s, s->lists[FM_SLOT_GUESSED].first);
    s->n_advice = s->advised = 0;
}

/* A slot for a guess: a free one, one more of the policy's while there are fewer than n_guesses, or that of the oldest guess. -1: none. */
static int take_slot(fm_store *s, int key) {
    if (fm_store_n_guesses(s) >= s->config.n_guesses) {
        if (!s->lists[FM_SLOT_GUESSED].n) return -1;
        fm_store_drop_guess(s, s->lists[FM_SLOT_GUESSED].first);
    }
    int slot = s->lists[FM_SLOT_FREE].first;
    if (slot >= 0) return slot;
    slot = s->policy->ops->victim(s->policy, key, s->pinned);
    if (slot >= 0) fm_store_empty(s, slot);
    return slot;
}

/* Whether one more read may be begun that nobody waits for, while there are fewer than most of them. */
static bool may_read(const fm_store *s, int most) {
    return !s->lists[FM_SLOT_QUEUED].n && !s->lists[FM_SLOT_READING].n && s->lists[FM_SLOT_GUESSING].n < most && s->free_staging >= 0 && !s->error.code &&
           !s->broken && !s->cancelling && s->io->n_in_flight + s->n_batch + fm_store_reads_a_key(&s->config) <= s->depth;
}

static void begin(fm_store *s, int slot, int key) {
    s->slots[slot].key = key;
    s->slots[slot].narrow = false;
    s->slot_of[key] = slot;
    fm_store_begin_read(s, slot);
    fm_store_move(s, slot, FM_SLOT_GUESSING, false);
}

void fm_store_begin_guesses(fm_store *s) {
    int most = s->waiting ? s->window : MAX_READS;
    while (s->advised < s->n_advice && may_read(s, MAX_READS)) {
        int key = s->advice[s->advised++], slot;
        if (s->slot_of[key] >= 0 || (slot = take_slot(s, key)) < 0) continue;
        begin(s, slot, key);
        s->stats.n_guessed++;
    }
    while (s->filled < s->n_fill && may_read(s, most)) {
        int key = s->fill[s->filled++], slot = s->lists[FM_SLOT_FREE].first;
        if (slot < 0) s->n_fill = s->filled = 0;
        if (slot < 0 || s->slot_of[key] >= 0) continue;
        begin(s, slot, key);
        fm_store_touch_ahead(s, slot);
        s->slots[slot].filling = true;
    }
}

/* A slot that was filling is an ordinary one from now on. */
void fm_store_end_fill(fm_store *s, int slot) {
    fm_slot *x = &s->slots[slot];
    s->policy->ops->fill(s->policy, slot, x->key);
    if (x->wanted) s->policy->ops->use(s->policy, slot);
    x->filling = x->wanted = false;
    x->fresh = true;
    fm_store_move(s, slot, FM_SLOT_RESIDENT, false);
}

void fm_store_fill(fm_store *s, const int *keys, int n) {
    s->fill = keys;
    s->n_fill = s->config.in_place ? n : 0;
    s->filled = 0;
}

int fm_store_fill_wait(fm_store *s, double seconds) {
    double end = fm_now() + seconds;
    s->waiting = true;
    fm_store_settle(s, false);
    while (s->lists[FM_SLOT_GUESSING].n && !s->error.code && !s->broken && fm_now() < end) fm_store_settle(s, true);
    s->waiting = false;
    return s->lists[FM_SLOT_GUESSING].n ? s->n_fill - s->filled : 0;
}

void fm_store_pin(fm_store *s, const int *keys, int n, int min_left) {
    int n_keys = s->config.n_layers * s->config.n_experts, most = fm_store_n_slots(s) - s->config.n_guesses - min_left;
    memset(s->keep, 0, (size_t)n_keys);
    for (int i = 0; i < n && i < most; i++) s->keep[keys[i]] = 1;
    s->n_kept = 0;
    for (int slot = s->lists[FM_SLOT_RESIDENT].first; slot >= 0; slot = s->slots[slot].next) {
        s->pinned[slot] = s->keep[s->slots[slot].key];
        s->n_kept += s->pinned[slot];
    }
}

void fm_store_want(fm_store *s, const int *keys, int n) {
    int most = s->config.n_guesses < 1 ? 1 : s->config.n_guesses < s->window ? s->config.n_guesses : s->window; /* requests keep room */
    s->stats.n_requests += (uint64_t)n;
    for (int i = 0; i < n && s->config.in_place && may_read(s, most); i++) {
        int slot = s->lists[FM_SLOT_FREE].first;
        if (s->slot_of[keys[i]] >= 0) continue;
        if (slot < 0 && (slot = s->policy->ops->victim(s->policy, keys[i], s->pinned)) >= 0) fm_store_empty(s, slot);
        if (slot < 0) break;
        begin(s, slot, keys[i]);
        s->slots[slot].filling = s->slots[slot].wanted = true;
    }
    fm_store_start_reads(s);
}

void fm_store_prefetch(fm_store *s, const int *keys, int n) {
    int n_keys = s->config.n_layers * s->config.n_experts;
    s->n_advice = s->advised = 0;
    for (int i = 0; i < n && s->n_advice < s->config.n_guesses; i++) {
        bool known = keys[i] >= 0 && keys[i] < n_keys && s->config.extents[(size_t)keys[i] * (size_t)s->config.n_extents].bytes;
        if (known && s->slot_of[keys[i]] < 0) s->advice[s->n_advice++] = keys[i];
    }
    fm_store_start_reads(s);
}
