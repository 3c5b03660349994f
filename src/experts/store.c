/* experts/store.c: the store's slots: who holds which expert, who may leave, what is handed out. How bytes come is store_read.c's affair.
 *
 * A slot goes FREE or (evicted) RESIDENT → QUEUED → READING → READY → LEASED → RESIDENT for a miss, RESIDENT → HIT → LEASED → RESIDENT for a hit. A miss
 * has its slot from the request on, so two misses never share one, and the policy sees requests, not the order in which reads end. */
#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/system.h"
#include "experts/store_impl.h"

#define MAX_DEPTH 4096
#define TOUCH_AHEAD ((size_t)64 << 20)
#define TOUCH_STEP ((size_t)4 << 20)
#define LARGEST_PAGE ((size_t)64 << 10)    /* of any system, huge pages aside */
#define BACK_END_BYTES ((uint64_t)1 << 19) /* stacks of a back end's threads, or the kernel's rings, and the toucher's stack */

/* ---- lists of slots ---- */

static void unlink_slot(fm_store *s, int slot) {
    fm_slot *x = &s->slots[slot];
    fm_slot_list *list = &s->lists[x->state];
    if (x->prev >= 0)
        s->slots[x->prev].next = x->next;
    else
        list->first = x->next;
    if (x->next >= 0)
        s->slots[x->next].prev = x->prev;
    else
        list->last = x->prev;
    list->n--;
    s->n_kept -= x->state == FM_SLOT_RESIDENT && x->key >= 0 && s->keep[x->key];
}

static void link_slot(fm_store *s, int slot, fm_slot_state state, bool first) {
    fm_slot *x = &s->slots[slot];
    fm_slot_list *list = &s->lists[state];
    x->state = state;
    x->prev = first ? -1 : list->last;
    x->next = first ? list->first : -1;
    if (x->prev >= 0)
        s->slots[x->prev].next = slot;
    else
        list->first = slot;
    if (x->next >= 0)
        s->slots[x->next].prev = slot;
    else
        list->last = slot;
    list->n++;
    s->pinned[slot] = state != FM_SLOT_RESIDENT || s->keep[x->key];
    s->n_kept += state == FM_SLOT_RESIDENT && s->keep[x->key];
    if (x->key >= 0) fm_store_live_state(s, x->key, state);
}

void fm_store_move(fm_store *s, int slot, fm_slot_state state, bool first) {
    unlink_slot(s, slot);
    link_slot(s, slot, state, first);
}

void fm_store_empty(fm_store *s, int slot) {
    fm_slot *x = &s->slots[slot];
    fm_store_free_staging(s, slot);
    s->policy->ops->empty(s->policy, slot);
    fm_store_live_state(s, x->key, FM_SLOT_FREE);
    s->slot_of[x->key] = -1;
    unlink_slot(s, slot);
    x->key = -1;
    x->fresh = x->narrow = false;
    link_slot(s, slot, FM_SLOT_FREE, true);
}

static int n_requested(const fm_store *s) {
    return s->lists[FM_SLOT_QUEUED].n + s->lists[FM_SLOT_READING].n + s->lists[FM_SLOT_READY].n + s->lists[FM_SLOT_HIT].n;
}

/* ---- touching slots ahead ---- */

/* First writes to fresh memory are slow (the system clears it), so a thread does them a bounded way ahead of the slots taken. */
static void *touch_loop(void *arg) {
    fm_store *s = arg;
    fm_toucher *t = &s->toucher;
    size_t at = 0, total = s->slot_region.bytes;
    bool works = true;
    pthread_mutex_lock(&t->mutex);
    while (works && at < total) {
        while (at >= t->target && !t->stop) pthread_cond_wait(&t->cond, &t->mutex);
        if (t->stop) break;
        size_t step = total - at < TOUCH_STEP ? total - at : TOUCH_STEP;
        pthread_mutex_unlock(&t->mutex);
        works = fm_region_touch(&s->slot_region, at, step);
        at += step;
        pthread_mutex_lock(&t->mutex);
    }
    pthread_mutex_unlock(&t->mutex);
    return NULL;
}

void fm_store_touch_ahead(fm_store *s, int slot) {
    fm_toucher *t = &s->toucher;
    size_t target = ((size_t)slot + 1) * s->config.slot_bytes + TOUCH_AHEAD;
    if (!t->running) return;
    pthread_mutex_lock(&t->mutex);
    if (target > t->target) {
        t->target = target;
        pthread_cond_signal(&t->cond);
    }
    pthread_mutex_unlock(&t->mutex);
}

static void stop_touching(fm_store *s) {
    fm_toucher *t = &s->toucher;
    if (!t->running) return;
    pthread_mutex_lock(&t->mutex);
    t->stop = true;
    pthread_cond_signal(&t->cond);
    pthread_mutex_unlock(&t->mutex);
    pthread_join(t->thread, NULL);
    pthread_cond_destroy(&t->cond);
    pthread_mutex_destroy(&t->mutex);
    t->running = false;
}

/* Without the thread everything works, only slower at first. */
static void start_touching(fm_store *s) {
    fm_toucher *t = &s->toucher;
    sigset_t all, before;
    pthread_mutex_init(&t->mutex, NULL);
    pthread_cond_init(&t->cond, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    t->running = pthread_create(&t->thread, NULL, touch_loop, s) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (t->running) return;
    pthread_cond_destroy(&t->cond);
    pthread_mutex_destroy(&t->mutex);
}

/* ---- open and close ---- */

static int check_config(const fm_store_config *c, fm_error *err) {
    if (c->n_layers < 1 || c->n_experts < 1 || (int64_t)c->n_layers * c->n_experts > 1 << 24) {
        return fm_fail(err, FM_EINVAL, "%d layers of %d experts are not a store's", c->n_layers, c->n_experts);
    }
    if (c->n_slots < 1 || c->n_staging < 1 || c->n_extents < 1 || c->n_extents > FM_MAX_EXTENTS) {
        return fm_fail(err, FM_EINVAL, "a store of %d slots, %d staging buffers and %d extents a key", c->n_slots, c->n_staging, c->n_extents);
    }
    if (!c->slot_bytes || c->slot_bytes % 64 || (uint64_t)c->slot_bytes > (SIZE_MAX >> 1) / (uint64_t)c->n_slots) {
        return fm_fail(err, FM_EINVAL, "%d slots of %zu bytes: not a multiple of 64, or too many", c->n_slots, c->slot_bytes);
    }
    if (c->in_place && (c->n_extents != 1 || c->slot_bytes % 4096)) {
        return fm_fail(err, FM_EINVAL, "%d extents a key cannot be read into slots of %zu bytes", c->n_extents, c->slot_bytes);
    }
    if (c->narrow && (!c->in_place || c->mirrors)) return fm_fail(err, FM_EINVAL, "narrow copies are for experts that are read in place, without mirrors");
    if (c->mirrors && !c->in_place) return fm_fail(err, FM_EINVAL, "only experts that are read in place have mirrors");
    if (c->n_guesses < 0 || c->n_guesses >= c->n_slots) return fm_fail(err, FM_EINVAL, "%d guesses among %d slots", c->n_guesses, c->n_slots);
    return 0;
}

static int depth_of(const fm_store_config *c) {
    int reads = fm_store_reads_a_key(c);
    return c->n_staging < MAX_DEPTH / reads ? c->n_staging * reads : MAX_DEPTH;
}

/* Whole huge pages: the end of a region is not to lie on small ones, into which reading is slower by a quarter. */
static size_t region_bytes(size_t bytes) {
    size_t page = bytes < FM_HUGE_PAGE ? 4096 : FM_HUGE_PAGE;
    return (bytes + page - 1) / page * page;
}

uint64_t fm_store_memory_bytes(const fm_store_config *c) {
    const fm_policy_ops *policy = c->policy ? c->policy : fm_policy_find(NULL, NULL);
    size_t staging_bytes = 0;
    if (check_config(c, NULL) < 0) return 0;
    fm_store_staging_bytes(c, &staging_bytes, NULL); /* a file that is too short: open says so */
    uint64_t n_slots = (uint64_t)c->n_slots, n_staging = (uint64_t)c->n_staging, depth = (uint64_t)depth_of(c),
             keys = (uint64_t)c->n_layers * (uint64_t)c->n_experts;
    uint64_t bytes = sizeof(fm_store) + n_slots * (sizeof(fm_slot) + 1) + keys * (sizeof(int) + 1 + sizeof *((fm_store *)0)->live.keys) +
                     n_staging * sizeof(fm_staging) + 2 * depth * sizeof(fm_read *);
    bytes += (uint64_t)c->n_guesses * sizeof(int) + region_bytes((size_t)n_slots * c->slot_bytes) + region_bytes((size_t)n_staging * staging_bytes);
    return bytes + policy->memory_bytes(c->n_slots, c->n_layers, c->n_experts) + BACK_END_BYTES + 256 * depth;
}

static int open_tables(fm_store *s, size_t staging_bytes, fm_error *err) {
    const fm_store_config *c = &s->config;
    size_t n_slots = (size_t)c->n_slots, n_staging = (size_t)c->n_staging, depth = (size_t)s->depth, keys = (size_t)c->n_layers * (size_t)c->n_experts;
    s->slots = calloc(n_slots, sizeof *s->slots);
    s->slot_of = malloc(keys * sizeof *s->slot_of);
    s->pinned = calloc(n_slots, sizeof *s->pinned);
    s->keep = calloc(keys, sizeof *s->keep);
    s->staging = calloc(n_staging, sizeof *s->staging);
    s->batch = calloc(depth, sizeof(fm_read *));
    s->done = calloc(depth, sizeof(fm_read *));
    s->advice = calloc((size_t)c->n_guesses + 1, sizeof *s->advice);
    if (!s->advice || !s->slots || !s->slot_of || !s->pinned || !s->keep || !s->staging || !s->batch || !s->done) {
        return fm_fail(err, FM_ENOMEM, "no memory for the tables of %d expert slots", c->n_slots);
    }
    int rc = fm_store_live_open(s, err);
    if (rc >= 0) rc = fm_region_open(&s->slot_region, region_bytes(n_slots * c->slot_bytes), "the expert slots", err);
    if (rc >= 0 && staging_bytes) rc = fm_region_open(&s->staging_region, region_bytes(n_staging * staging_bytes), "experts being read", err);
    if (rc < 0) return rc;
    for (int i = 0; i < FM_N_SLOT_STATES; i++) s->lists[i] = (fm_slot_list){.first = -1, .last = -1};
    for (int i = 0; i < c->n_slots; i++) {
        s->slots[i] = (fm_slot){.key = -1, .staging = -1};
        link_slot(s, i, FM_SLOT_FREE, false);
    }
    for (size_t i = 0; i < keys; i++) s->slot_of[i] = -1;
    for (int i = 0; i < c->n_staging; i++) {
        s->staging[i].data = staging_bytes ? s->staging_region.data + (size_t)i * staging_bytes : NULL;
        s->staging[i].slot = -1;
        s->staging[i].next_free = i + 1 < c->n_staging ? i + 1 : -1;
    }
    return 0;
}

static int open_io(fm_store *s, fm_error *err) {
    const fm_store_config *c = &s->config;
    const char *note = NULL;
    int rc = c->io ? c->io->open(&s->io, s->depth, err) : fm_io_open(&s->io, c->io_name, s->depth, &note, err), n_direct = 0, n_buffered = 0;
    if (rc < 0) return rc;
    if (note && c->log) c->log(c->user, FM_LOG_WARNING, note);
    const fm_file *refused = NULL;
    for (size_t i = 0; i < (size_t)c->n_layers * (size_t)c->n_experts * (size_t)c->n_extents; i++) {
        if (!c->extents[i].bytes) continue;
        const fm_file *file = &c->files[c->extents[i].file];
        fm_store_reads_direct(file) ? n_direct++ : n_buffered++;
        if (!refused && !fm_store_reads_direct(file)) refused = file;
    }
    if (refused && c->log) {
        char line[1200];
        snprintf(line, sizeof line, "%s: direct I/O is refused here, so experts are read through the page cache", refused->path);
        c->log(c->user, FM_LOG_WARNING, line);
    }
    snprintf(s->name, sizeof s->name, "%s %s", s->io->ops->name, !n_buffered ? "direct" : n_direct ? "partly direct" : "buffered");
    return 0;
}

int fm_store_open(fm_store **store, const fm_store_config *config, fm_error *err) {
    size_t staging_bytes;
    *store = NULL;
    int rc = check_config(config, err);
    if (rc >= 0) rc = fm_store_staging_bytes(config, &staging_bytes, err);
    if (rc < 0) return rc;
    fm_store *s = *store = calloc(1, sizeof *s);
    if (!s) return fm_fail(err, FM_ENOMEM, "no memory for an expert store");
    s->config = *config;
    s->depth = depth_of(config);
    s->window = config->n_staging;
    if (!config->in_place) s->config.n_guesses = 0;
    const fm_policy_ops *policy = config->policy ? config->policy : fm_policy_find(NULL, NULL);
    if ((rc = open_tables(s, staging_bytes, err)) < 0) goto fail;
    if ((rc = policy->open(&s->policy, config->n_slots, config->n_layers, config->n_experts, err)) < 0) goto fail;
    if ((rc = open_io(s, err)) < 0) goto fail;
    start_touching(s);
    return 0;
fail:
    fm_store_close(store);
    return rc;
}

void fm_store_close(fm_store **store) {
    fm_store *s = *store;
    if (!s) return;
    stop_touching(s);
    if (s->io) s->io->ops->close(&s->io);
    if (s->policy) s->policy->ops->close(&s->policy);
    fm_region_close(&s->slot_region);
    fm_region_close(&s->staging_region);
    free(s->slots);
    free(s->slot_of);
    free(s->pinned);
    free(s->keep);
    free(s->staging);
    free(s->advice);
    free(s->batch);
    free(s->done);
    fm_store_live_close(s);
    free(s);
    *store = NULL;
}

const char *fm_store_io_name(const fm_store *store) { return store->name; }
int fm_store_n_slots(const fm_store *s) { return s->config.n_slots - s->lists[FM_SLOT_GONE].n; }

void fm_store_stats_clear(fm_store *s) {
    s->stats = (fm_store_stats){0};
    fm_store_live_clear(s);
}

bool fm_store_heat_save(const fm_store *s, float *heat) {
    if (s->policy->ops->heat_save) s->policy->ops->heat_save(s->policy, heat);
    return s->policy->ops->heat_save;
}

bool fm_store_heat_load(fm_store *s, const float *heat) {
    if (s->policy->ops->heat_load) s->policy->ops->heat_load(s->policy, heat);
    return s->policy->ops->heat_load;
}

void fm_store_set_window(fm_store *s, int n) { s->window = n < 1 ? 1 : n > s->config.n_staging ? s->config.n_staging : n; }

void fm_store_poll(fm_store *s) {
    if (s->io->n_in_flight && !s->error.code) fm_store_settle(s, false);
}

void fm_store_stats_read(const fm_store *store, fm_store_stats *out) { *out = store->stats; }

/* ---- request and next ---- */

void fm_store_cancel(fm_store *s) {
    fm_store_drain(s);
    while (s->lists[FM_SLOT_HIT].n) fm_store_move(s, s->lists[FM_SLOT_HIT].first, FM_SLOT_RESIDENT, false);
    const fm_slot_state absent[] = {FM_SLOT_QUEUED, FM_SLOT_READING, FM_SLOT_READY};
    for (int i = 0; i < 3; i++) {
        while (s->lists[absent[i]].n) fm_store_empty(s, s->lists[absent[i]].first);
    }
    fm_store_drop_guesses(s);
    s->error.code = 0;
}

/* Reports what was found while settling. */
static int fail_requested(fm_store *s, fm_error *err) {
    fm_error found = s->error;
    fm_store_cancel(s);
    if (err) *err = found;
    return found.code;
}

/* Pins those of the keys that are resident, before any slot is chosen for the others. */
static int pin_hits(fm_store *s, const int *keys, const uint8_t *cold, int n, fm_error *err) {
    int n_keys = s->config.n_layers * s->config.n_experts;
    for (int i = 0; i < n; i++) {
        if (keys[i] < 0 || keys[i] >= n_keys) return fm_fail(err, FM_EINVAL, "there is no expert %d among %d", keys[i], n_keys);
        int slot = s->slot_of[keys[i]], layer = keys[i] / s->config.n_experts, expert = keys[i] % s->config.n_experts;
        if (!s->config.extents[(size_t)keys[i] * (size_t)s->config.n_extents].bytes) return fm_fail(err, FM_EINVAL, "layer %d has no expert %d", layer, expert);
        if (slot < 0) continue;
        fm_slot_state state = s->slots[slot].state;
        if (state == FM_SLOT_GUESSED || state == FM_SLOT_GUESSING) {
            s->policy->ops->fill(s->policy, slot, keys[i]);
            fm_store_move(s, slot, state == FM_SLOT_GUESSED ? FM_SLOT_READY : FM_SLOT_READING, false);
            s->stats.n_guesses_used += !s->slots[slot].filling;
            s->slots[slot].filling = false;
            continue;
        }
        if (state != FM_SLOT_RESIDENT) return fm_fail(err, FM_EINVAL, "expert %d of layer %d is requested or leased already", expert, layer);
        if (s->slots[slot].narrow && !(cold && cold[i]))
            fm_store_empty(s, slot);
        else
            fm_store_move(s, slot, FM_SLOT_HIT, false);
    }
    return 0;
}

/* A slot for a key that is not in memory: a free one as long as there are any. */
static void queue_miss(fm_store *s, int key, bool narrow) {
    int slot = s->lists[FM_SLOT_FREE].first;
    if (slot < 0) {
        slot = s->policy->ops->victim(s->policy, key, s->pinned);
        assert(slot >= 0 && s->slots[slot].state == FM_SLOT_RESIDENT);
        fm_store_empty(s, slot);
    }
    s->slots[slot].key = key;
    s->slots[slot].narrow = narrow;
    s->slot_of[key] = slot;
    s->policy->ops->fill(s->policy, slot, key);
    fm_store_move(s, slot, FM_SLOT_QUEUED, false);
    fm_store_touch_ahead(s, slot);
}

int fm_store_request(fm_store *s, const int *keys, int n, fm_error *err) { return fm_store_request_cold(s, keys, NULL, n, err); }

int fm_store_request_cold(fm_store *s, const int *keys, const uint8_t *cold, int n, fm_error *err) {
    int room, n_hits = 0;
    assert(n >= 0);
    if (fm_store_n_guesses(s)) fm_store_settle(s, false); /* guesses that have arrived meanwhile are hits */
    room = fm_store_n_slots(s) - n_requested(s) - s->lists[FM_SLOT_LEASED].n - fm_store_n_guesses(s) - s->n_kept;
    if (s->broken && !s->error.code) fm_fail(&s->error, FM_EIO, "reading experts failed before and cannot go on");
    if (s->error.code) return fail_requested(s, err);
    if (!s->config.narrow) cold = NULL;
    if (n > room) n = room < 0 ? 0 : room;
    int rc = pin_hits(s, keys, cold, n, err);
    for (int i = 0; i < n && rc >= 0; i++) {
        int slot = s->slot_of[keys[i]];
        if (slot >= 0 && s->slots[slot].state == FM_SLOT_QUEUED)
            rc = fm_fail(err, FM_EINVAL, "expert %d is requested twice at once", keys[i]);
        else if (slot >= 0)
            n_hits += s->slots[slot].state == FM_SLOT_HIT; /* what was read ahead is no hit of the cache */
        else
            queue_miss(s, keys[i], cold && cold[i]);
        if (rc < 0) break;
        s->policy->ops->use(s->policy, s->slot_of[keys[i]]);
        fm_store_live_used(s, keys[i]);
    }
    if (rc < 0) {
        fm_store_cancel(s);
        return rc;
    }
    s->stats.n_requests += (uint64_t)n;
    s->stats.n_hits += (uint64_t)n_hits;
    fm_store_live_sums(s);
    fm_store_start_reads(s);
    return n;
}

/* The slot to hand out, or -1: none is ready yet. */
static int pick(const fm_store *s, int key) {
    if (key == FM_ANY_KEY) return s->lists[FM_SLOT_HIT].n ? s->lists[FM_SLOT_HIT].first : s->lists[FM_SLOT_READY].first;
    int slot = s->slot_of[key];
    return s->slots[slot].state == FM_SLOT_HIT || s->slots[slot].state == FM_SLOT_READY ? slot : -1;
}

/* Lets the key that the caller waits for be read next, by taking the staging buffer of one that it has not asked for yet, if there is no other way. */
static void hurry(fm_store *s, int slot) {
    if (s->slots[slot].state != FM_SLOT_QUEUED) return;
    fm_store_move(s, slot, FM_SLOT_QUEUED, true);
    int last = s->lists[FM_SLOT_READY].last;
    if (s->free_staging < 0 && last >= 0 && !s->config.in_place) {
        fm_store_free_staging(s, last);
        fm_store_move(s, last, FM_SLOT_QUEUED, false);
    }
    fm_store_start_reads(s);
}

static void hand_out(fm_store *s, int slot, fm_lease *lease) {
    fm_slot *x = &s->slots[slot];
    *lease = (fm_lease){.key = x->key, .slot = slot, .narrow = x->narrow, .data = fm_store_slot_data(s, slot), .fresh = x->state == FM_SLOT_READY || x->fresh};
    x->fresh = false;
    if (lease->fresh && s->config.in_place) lease->parts[0] = lease->data;
    if (lease->fresh && !s->config.in_place) {
        const fm_extent *extents = s->config.extents + (size_t)x->key * (size_t)s->config.n_extents;
        for (int i = 0; i < s->config.n_extents && extents[i].bytes; i++) lease->parts[i] = s->staging[x->staging].parts[i];
    }
    fm_store_move(s, slot, FM_SLOT_LEASED, false);
}

static bool is_requested(const fm_store *s, int key) {
    int slot = key >= 0 && key < s->config.n_layers * s->config.n_experts ? s->slot_of[key] : -1;
    return slot >= 0 && s->slots[slot].state >= FM_SLOT_QUEUED && s->slots[slot].state <= FM_SLOT_HIT;
}

int fm_store_next(fm_store *s, int key, fm_lease *lease, fm_error *err) {
    fm_store_settle(s, false);
    for (;;) {
        if (s->error.code) return fail_requested(s, err);
        if (!n_requested(s) && key == FM_ANY_KEY) return 0;
        if (key != FM_ANY_KEY && !is_requested(s, key)) {
            fm_fail(&s->error, FM_EINVAL, "expert %d is waited for and was not requested", key);
            continue;
        }
        int slot = pick(s, key);
        if (slot >= 0) {
            hand_out(s, slot, lease);
            return 1;
        }
        if (key != FM_ANY_KEY) hurry(s, s->slot_of[key]);
        if (!s->io->n_in_flight && !s->error.code) {
            fm_fail(&s->error, FM_EINVAL, "no expert can be read: the %d handed out hold all staging buffers", s->lists[FM_SLOT_LEASED].n);
            continue;
        }
        double start = fm_now();
        fm_store_settle(s, true);
        s->stats.stall_seconds += fm_now() - start;
    }
}

bool fm_store_ready(fm_store *s) {
    fm_store_settle(s, false);
    return s->error.code || !n_requested(s) || pick(s, FM_ANY_KEY) >= 0;
}

bool fm_store_ready_key(fm_store *s, int key) {
    fm_store_settle(s, false);
    return s->error.code || (is_requested(s, key) && pick(s, key) >= 0);
}

static void end_lease(fm_store *s, fm_lease *lease) {
    assert(s->slots[lease->slot].state == FM_SLOT_LEASED && s->slots[lease->slot].key == lease->key);
    fm_store_free_staging(s, lease->slot);
    memset(lease, 0, sizeof *lease);
    lease->slot = -1;
}

void fm_store_release(fm_store *s, fm_lease *lease) {
    int slot = lease->slot;
    end_lease(s, lease);
    fm_store_move(s, slot, FM_SLOT_RESIDENT, false);
    fm_store_start_reads(s);
}

void fm_store_discard(fm_store *s, fm_lease *lease) {
    int slot = lease->slot;
    end_lease(s, lease);
    fm_store_empty(s, slot);
    fm_store_start_reads(s);
}

/* ---- clear and shrink ---- */

int fm_store_clear(fm_store *s, fm_error *err) {
    if (n_requested(s) || s->lists[FM_SLOT_LEASED].n) {
        return fm_fail(err, FM_EINVAL, "%d experts are requested and %d handed out: the cache cannot be emptied", n_requested(s), s->lists[FM_SLOT_LEASED].n);
    }
    fm_store_cancel(s); /* what is read unasked */
    int n = s->lists[FM_SLOT_RESIDENT].n;
    while (s->lists[FM_SLOT_RESIDENT].n) fm_store_empty(s, s->lists[FM_SLOT_RESIDENT].first);
    return n;
}

bool fm_store_holds(const fm_store *s, int key) {
    int slot = s->slot_of[key];
    return slot >= 0 && s->slots[slot].state == FM_SLOT_RESIDENT;
}

bool fm_store_at_hand(const fm_store *s, int key) {
    int slot = s->slot_of[key];
    return slot >= 0 && !s->slots[slot].narrow && (s->slots[slot].state == FM_SLOT_RESIDENT || s->slots[slot].state == FM_SLOT_GUESSED);
}

/* Drops a slot's memory, and with it that of its neighbours which are gone too as far as they share a page. */
static void drop_slot(fm_store *s, int slot) {
    size_t bytes = s->config.slot_bytes, from = (size_t)slot * bytes, to = from + bytes;
    for (int i = slot - 1; i >= 0 && s->slots[i].state == FM_SLOT_GONE && (size_t)slot * bytes - from < LARGEST_PAGE; i--) from -= bytes;
    for (int i = slot + 1; i < s->config.n_slots && s->slots[i].state == FM_SLOT_GONE && to - (size_t)slot * bytes < LARGEST_PAGE + bytes; i++) to += bytes;
    fm_region_drop(&s->slot_region, from, to - from);
}

int fm_store_shrink(fm_store *s, int n, int min_left) {
    int given = 0;
    if (min_left < 1) min_left = 1;
    /* No more guesses. */
    s->config.n_guesses = s->n_advice = s->n_fill = 0;
    fm_store_pin(s, NULL, 0, 0);
    while (s->lists[FM_SLOT_GUESSED].n) fm_store_drop_guess(s, s->lists[FM_SLOT_GUESSED].first);
    stop_touching(s); /* memory is short: what was not touched yet waits until it is used */
    for (; given < n && fm_store_n_slots(s) > min_left; given++) {
        int slot = s->lists[FM_SLOT_FREE].last;
        if (slot < 0 && (slot = s->policy->ops->victim(s->policy, -1, s->pinned)) < 0) break;
        if (s->slots[slot].state == FM_SLOT_RESIDENT) fm_store_empty(s, slot);
        fm_store_move(s, slot, FM_SLOT_GONE, false);
        drop_slot(s, slot);
    }
    return given;
}
