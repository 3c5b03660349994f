/* experts/store_read.c: the store's reads: which ranges of which files, into which staging buffers, and what becomes of each that ends. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>

#include "base/system.h"
#include "experts/store_impl.h"

#define STAGING_ALIGNMENT 4096
#define MAX_EXTENT_BYTES (1u << 30)
#define MAX_TRIES 100 /* of a read that the system asks to repeat, without a byte of progress */

bool fm_store_reads_direct(const fm_file *file) { return file->direct_fd >= 0 && file->alignment <= STAGING_ALIGNMENT; }

static uint64_t alignment_of(const fm_file *file) { return fm_store_reads_direct(file) ? file->alignment : 1; }

static uint64_t round_up(uint64_t n, uint64_t alignment) { return (n + alignment - 1) / alignment * alignment; }

static const fm_extent *extents_of(const fm_store_config *c, int key) { return c->extents + (size_t)key * (size_t)c->n_extents; }

static int check_bounds(const fm_store_config *c, int key, const fm_extent *x, fm_error *err) {
    const fm_file *file = &c->files[x->file];
    int layer = key / c->n_experts, expert = key % c->n_experts;
    if (x->bytes > MAX_EXTENT_BYTES) {
        return fm_fail(err, FM_EUNSUPPORTED, "%s: a part of expert %d of layer %d has %" PRIu32 " bytes, more than 1 GiB", file->path, expert, layer, x->bytes);
    }
    if (x->offset <= file->size && x->bytes <= file->size - x->offset) return 0;
    return fm_fail(err, FM_EFORMAT, "%s: expert %d of layer %d lies at %" PRIu64 " with %" PRIu32 " bytes, but the file has %" PRIu64, file->path, expert,
                   layer, x->offset, x->bytes, file->size);
}

/* In place also that it is whole pages and fits into a slot. */
static int check_extent(const fm_store_config *c, int key, const fm_extent *x, fm_error *err) {
    int rc = check_bounds(c, key, x, err);
    if (rc < 0 || !c->in_place || !(x->offset % STAGING_ALIGNMENT || x->bytes % STAGING_ALIGNMENT || x->bytes > c->slot_bytes)) return rc;
    return fm_fail(err, FM_EINVAL, "%s: %" PRIu32 " bytes at %" PRIu64 " cannot be read into a slot of %zu", c->files[x->file].path, x->bytes, x->offset,
                   c->slot_bytes);
}

int fm_store_staging_bytes(const fm_store_config *c, size_t *bytes, fm_error *err) {
    *bytes = c->in_place ? 0 : STAGING_ALIGNMENT;
    for (int key = 0; key < c->n_layers * c->n_experts; key++) {
        const fm_extent *x = extents_of(c, key);
        size_t sum = 0;
        int rc = c->narrow && c->narrow[key].bytes ? check_extent(c, key, &c->narrow[key], err) : 0;
        if (rc < 0) return rc;
        for (int i = 0; i < c->n_extents && x[i].bytes; i++) {
            uint64_t a = alignment_of(&c->files[x[i].file]);
            if ((rc = check_extent(c, key, &x[i], err)) < 0) return rc;
            if (c->in_place) continue;
            sum += round_up(round_up(x[i].offset + x[i].bytes, a) - x[i].offset / a * a, STAGING_ALIGNMENT);
        }
        if (sum > *bytes) *bytes = sum;
    }
    return 0;
}

/* Where the copy that a slot is to hold lies. */
static const fm_extent *extents_for(const fm_store *s, int slot) {
    int key = s->slots[slot].key;
    return s->slots[slot].narrow ? &s->config.narrow[key] : extents_of(&s->config, key);
}

/* Lays the reads of a slot's key out in its staging buffer, those that touch in one. Returns how many. */
static int plan_reads(fm_store *s, int slot, int staging) {
    const fm_extent *x = extents_for(s, slot);
    fm_staging *t = &s->staging[staging];
    fm_reading *r = NULL;
    int n = 0;
    for (int i = 0; i < s->config.n_extents && x[i].bytes; i++) {
        const fm_file *file = &s->config.files[x[i].file];
        uint64_t a = alignment_of(file), start = x[i].offset / a * a, end = round_up(x[i].offset + x[i].bytes, a);
        if (r && r->file == file && start >= r->start && start <= r->start + r->bytes && end - r->start <= MAX_EXTENT_BYTES) {
            if (end > r->start + r->bytes) r->bytes = (uint32_t)(end - r->start);
        } else {
            uint8_t *data = r ? t->data + round_up((uint64_t)(r->data - t->data) + r->bytes, STAGING_ALIGNMENT) : t->data;
            r = &t->reads[n++];
            *r = (fm_reading){.file = file, .data = data, .start = start, .bytes = (uint32_t)(end - start), .staging = staging};
        }
        t->parts[i] = r->data + (x[i].offset - r->start);
    }
    if (s->config.mirrors && t->reads[0].bytes >= 2 * STAGING_ALIGNMENT) { /* in place: one extent of whole pages */
        uint32_t half = (uint32_t)round_up(t->reads[0].bytes / 2, STAGING_ALIGNMENT);
        t->reads[n++] = (fm_reading){.file = &s->config.mirrors[x[0].file],
                                     .data = t->reads[0].data + half,
                                     .start = t->reads[0].start + half,
                                     .bytes = t->reads[0].bytes - half,
                                     .staging = staging};
        t->reads[0].bytes = half;
    }
    for (int i = 0; i < n; i++) {
        r = &t->reads[i];
        uint64_t left = r->file->size - r->start;
        r->expected = left < r->bytes ? (uint32_t)left : r->bytes;
    }
    return n;
}

/* Puts what is left of a read into the batch. A direct read goes on at a multiple of the alignment; from anywhere else the rest is read buffered. */
static void add_read(fm_store *s, fm_reading *r) {
    bool direct = fm_store_reads_direct(r->file) && r->done % r->file->alignment == 0;
    r->io = (fm_read){.fd = direct ? r->file->direct_fd : r->file->fd,
                      .data = r->data + r->done,
                      .offset = r->start + r->done,
                      .bytes = (direct ? r->bytes : r->expected) - r->done,
                      .user = r};
    assert(s->n_batch < s->depth);
    s->batch[s->n_batch++] = &r->io;
}

/* Reads that are not begun, or not continued, leave their slot READING: with an error or in a cancel all such slots are emptied. */
static void submit_batch(fm_store *s) {
    int n = s->n_batch;
    s->n_batch = 0;
    if (!n || s->error.code || s->cancelling || s->broken) return;
    if (!s->io->n_in_flight) s->busy_since = fm_now();
    s->broken = s->io->ops->submit(s->io, s->batch, n, &s->error) < 0;
}

void fm_store_begin_read(fm_store *s, int slot) {
    int staging = s->free_staging;
    fm_staging *t = &s->staging[staging];
    s->free_staging = t->next_free;
    s->slots[slot].staging = staging;
    t->slot = slot;
    if (s->config.in_place) t->data = fm_store_slot_data(s, slot);
    t->n_left = plan_reads(s, slot, staging);
    for (int i = 0; i < t->n_left; i++) add_read(s, &t->reads[i]);
}

void fm_store_start_reads(fm_store *s) {
    while (s->lists[FM_SLOT_QUEUED].n && s->free_staging >= 0 && s->lists[FM_SLOT_READING].n + s->lists[FM_SLOT_GUESSING].n < s->window && !s->error.code &&
           !s->broken) {
        if (s->io->n_in_flight + s->n_batch + fm_store_reads_a_key(&s->config) > s->depth) break;
        int slot = s->lists[FM_SLOT_QUEUED].first;
        fm_store_begin_read(s, slot);
        fm_store_move(s, slot, FM_SLOT_READING, false);
    }
    fm_store_begin_guesses(s);
    submit_batch(s);
}

/* All reads of a slot are whole. */
static void read_done(fm_store *s, int slot) {
    bool guess = s->slots[slot].state == FM_SLOT_GUESSING;
    fm_store_live_was_read(s, s->slots[slot].key);
    if (s->config.in_place) fm_store_free_staging(s, slot);
    if (guess && s->slots[slot].filling) {
        fm_store_end_fill(s, slot);
        return;
    }
    fm_store_move(s, slot, guess ? FM_SLOT_GUESSED : FM_SLOT_READY, false);
    if (guess && !s->config.n_guesses) fm_store_drop_guess(s, slot);
}

static void read_failed(fm_store *s, const fm_reading *r, int result) {
    int slot = s->staging[r->staging].slot;
    if (s->slots[slot].state == FM_SLOT_GUESSING) { /* whoever asks for it is told */
        fm_store_drop_guess(s, slot);
        return;
    }
    const char *path = r->file->path;
    int key = s->slots[slot].key, layer = key / s->config.n_experts, expert = key % s->config.n_experts;
    if (result < 0) {
        fm_fail_errno(&s->error, FM_EIO, -result, "%s: reading %" PRIu32 " bytes at %" PRIu64 " (expert %d of layer %d) failed", path, r->io.bytes,
                      r->io.offset, expert, layer);
    } else {
        fm_fail(&s->error, FM_EIO, "%s: expert %d of layer %d: %" PRIu32 " bytes at %" PRIu64 " end after %" PRIu32 ": was the file cut since it was opened?",
                path, expert, layer, r->expected, r->start, r->done);
    }
}

/* One read has ended: whole, to be continued, or failed. */
static void settle_read(fm_store *s, fm_reading *r) {
    int result = r->io.result;
    bool again = result == -EINTR || result == -EAGAIN || result == -ECANCELED; /* cancelled: the thread that submitted it has exited */
    if (result > 0) {
        s->stats.disk_bytes += (uint64_t)result;
        s->stats.n_reads++;
        r->done += (uint32_t)result;
        r->n_tries = 0;
        if (r->done >= r->expected) {
            fm_staging *t = &s->staging[r->staging];
            if (--t->n_left == 0) read_done(s, t->slot);
            return;
        }
        again = true;
    }
    if (s->error.code || s->cancelling) return;
    if (again && r->n_tries++ < MAX_TRIES)
        add_read(s, r);
    else
        read_failed(s, r, result);
}

void fm_store_settle(fm_store *s, bool wait) {
    int n = s->io->n_in_flight && !s->broken ? s->io->ops->reap(s->io, s->done, s->depth, wait, &s->error) : 0;
    s->broken |= n < 0;
    for (int i = 0; i < n; i++) settle_read(s, s->done[i]->user);
    if (n > 0) fm_store_live_sums(s);
    if (n > 0 && !s->io->n_in_flight) s->stats.disk_seconds += fm_now() - s->busy_since;
    submit_batch(s);
    if (!s->cancelling) fm_store_start_reads(s);
}

void fm_store_drain(fm_store *s) {
    s->cancelling = true;
    while (s->io->n_in_flight && !s->broken) fm_store_settle(s, true);
    s->cancelling = false;
}

void fm_store_free_staging(fm_store *s, int slot) {
    int staging = s->slots[slot].staging;
    if (staging < 0) return;
    s->slots[slot].staging = -1;
    s->staging[staging].slot = -1;
    s->staging[staging].next_free = s->free_staging;
    s->free_staging = staging;
}
