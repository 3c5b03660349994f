/* experts/store_guess.c: reading ahead: slots with experts that nobody asked for yet. The policy does not know them; request makes them ordinary ones. */
#include <string.h>

#include "experts/store_impl.h"

#define MAX_READS 1 /* guesses in flight: with two or three what is asked for waits longer behind them than they gain */

void fm_store_drop_guess(fm_store *s, int slot) {
    fm_store_free_staging(s, slot);
    fm_store_live_state(s, s->slots[slot].key, FM_SLOT_FREE);
    s->slot_of[s->slots[slot].key] = -1;
    s->slots[slot].key = -1;
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

void fm_store_begin_guesses(fm_store *s) {
    while (s->advised < s->n_advice && !s->lists[FM_SLOT_QUEUED].n && !s->lists[FM_SLOT_READING].n && s->lists[FM_SLOT_GUESSING].n < MAX_READS &&
           s->free_staging >= 0 && !s->error.code && !s->broken && !s->cancelling) {
        int key = s->advice[s->advised++], slot;
        if (s->slot_of[key] >= 0 || (slot = take_slot(s, key)) < 0) continue;
        s->slots[slot].key = key;
        s->slot_of[key] = slot;
        fm_store_begin_read(s, slot);
        fm_store_move(s, slot, FM_SLOT_GUESSING, false);
        s->stats.n_guessed++;
    }
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
