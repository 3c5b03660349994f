/* snapshots/snapshots.c: see snapshots.h. */
#include "snapshots/snapshots.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "snapshots/state_file.h"

int fm_common_tokens(const int32_t *a, const int32_t *b, int n) {
    int i = 0;
    while (i < n && a[i] == b[i]) i++;
    return i;
}

static int least(int a, int b) { return a < b ? a : b; }
static uint64_t least_bytes(uint64_t a, uint64_t b) { return a < b ? a : b; }

int fm_snapshots_open(fm_snapshots **out, const fm_snapshots_config *config, fm_error *err) {
    fm_snapshots *s = *out = calloc(1, sizeof *s);
    if (!s) return fm_fail(err, FM_ENOMEM, "no memory for snapshots");
    s->config = *config;
    s->fixed_bytes = config->ops->fixed_bytes(&config->device);
    s->n_parts = config->ops->n_row_parts(&config->device);
    if (!(s->parts = calloc((size_t)s->n_parts + 1, 2 * sizeof *s->parts))) {
        fm_snapshots_close(out);
        return fm_fail(err, FM_ENOMEM, "no memory for snapshots");
    }
    uint64_t window = fm_state_window_bytes(s), readers = config->limit_bytes / 8 / window;
    s->n_readers = readers > FM_MAX_READERS ? FM_MAX_READERS : readers ? (int)readers : 1;
    s->config.limit_bytes -= least_bytes((uint64_t)s->n_readers * window, config->limit_bytes);
    return 0;
}

void fm_snapshots_close(fm_snapshots **snapshots) {
    fm_snapshots *s = *snapshots;
    if (!s) return;
    assert(!s->timeline);
    while (s->first) fm_snapshots_drop(s, s->first);
    free(s->parts);
    free(s);
    *snapshots = NULL;
}

/* ---- memory ---- */

#define REGION_SLACK 4096 /* a region ends within a page of the system */

/* What a snapshot takes without pages. */
static uint64_t own_bytes(const fm_snapshots *s, int n) {
    return s->fixed_bytes + (uint64_t)n * sizeof(int32_t) + sizeof(fm_snapshot) + (uint64_t)fm_page_count(n) * sizeof(fm_page *) + REGION_SLACK;
}

static uint64_t page_bytes(const fm_snapshots *s, int n) { return s->config.ops->row_sizes(&s->config.device, n, NULL) + sizeof(fm_page) + REGION_SLACK; }

static void release_page(fm_snapshots *s, fm_page *page) {
    if (!page || --page->n_users) return;
    s->used_bytes -= page_bytes(s, page->n);
    fm_region_close(&page->rows);
    free(page);
}

void fm_snapshots_drop(fm_snapshots *s, fm_snapshot *x) {
    fm_snapshot **at = &s->first;
    while (*at != x) at = &(*at)->next;
    *at = x->next;
    for (int i = 0; x->pages && i < fm_page_count(x->n); i++) release_page(s, x->pages[i]);
    s->used_bytes -= own_bytes(s, x->n);
    if (x->between) s->between_bytes -= own_bytes(s, x->n);
    fm_region_close(&x->fixed);
    free(x->pages);
    free(x->ids);
    free(x);
}

/* The least recently used that was last used before stamp; of those between alone, if so wanted. */
static fm_snapshot *oldest(const fm_snapshots *s, uint64_t stamp, bool between) {
    fm_snapshot *found = NULL;
    for (fm_snapshot *x = s->first; x; x = x->next) {
        if (x->ready && x->used < stamp && (!between || x->between) && (!found || x->used < found->used)) found = x;
    }
    return found;
}

/* Drops what was used before stamp until bytes fit. */
static bool make_room(fm_snapshots *s, uint64_t bytes, uint64_t stamp) {
    while (bytes > s->config.limit_bytes - s->used_bytes) {
        fm_snapshot *x = oldest(s, stamp, false);
        if (!x) return false;
        fm_snapshots_drop(s, x);
    }
    return true;
}

static bool make_room_between(fm_snapshots *s, uint64_t bytes) {
    while (s->between_bytes + bytes > s->config.limit_bytes / 2) {
        fm_snapshot *x = oldest(s, UINT64_MAX, true);
        if (!x) return false;
        fm_snapshots_drop(s, x);
    }
    return true;
}

fm_snapshot *fm_snapshots_make(fm_snapshots *s, const int32_t *ids, int n, bool between) {
    for (fm_snapshot *x = s->first; x; x = x->next) {
        if (x->n != n || fm_common_tokens(x->ids, ids, n) < n) continue;
        x->used = ++s->stamp;
        if (x->between && !between) {
            x->between = false;
            s->between_bytes -= own_bytes(s, n);
        }
        return NULL;
    }
    uint64_t bytes = own_bytes(s, n);
    if (bytes > s->config.limit_bytes || (between && !make_room_between(s, bytes)) || !make_room(s, bytes, UINT64_MAX)) return NULL;
    fm_snapshot *x = calloc(1, sizeof *x);
    if (!x) return NULL;
    x->n = n;
    x->between = between;
    x->used = ++s->stamp;
    x->next = s->first;
    s->first = x;
    s->used_bytes += bytes;
    if (between) s->between_bytes += bytes;
    x->ids = malloc(((size_t)n + 1) * sizeof *x->ids);
    x->pages = calloc((size_t)fm_page_count(n) + 1, sizeof(fm_page *));
    if (!x->ids || !x->pages || fm_region_open(&x->fixed, s->fixed_bytes, "a snapshot", NULL) < 0) {
        fm_snapshots_drop(s, x);
        return NULL;
    }
    memcpy(x->ids, ids, (size_t)n * sizeof *ids);
    return x;
}

/* ---- where rows are ---- */

/* Another timeline than `but` that holds the first n of ids' rows. */
static fm_timeline *holder(const fm_snapshots *s, const int32_t *ids, int n, const fm_timeline *but) {
    for (fm_timeline *t = s->timeline; t; t = t->next) {
        if (t != but && t->n_rows >= n && fm_common_tokens(t->ids, ids, n) == n) return t;
    }
    return NULL;
}

/* A page of another snapshot that has the rows of x's. */
static fm_page *shared_page(const fm_snapshots *s, const fm_snapshot *x, int page) {
    int end = fm_page_end(x->n, page);
    for (const fm_snapshot *y = s->first; y; y = y->next) {
        const fm_page *p = y != x && page < fm_page_count(y->n) ? y->pages[page] : NULL;
        if (p && page * FM_PAGE_TOKENS + p->n >= end && fm_common_tokens(x->ids, y->ids, end) == end) return y->pages[page];
    }
    return NULL;
}

/* The parts of the first n tokens of page, as they lie in its memory. */
static void page_parts(const fm_snapshots *s, const fm_page *page, int n, fm_bytes *parts) {
    uint8_t *at = page->rows.data;
    s->config.ops->row_sizes(&s->config.device, page->n, parts);
    for (int i = 0; i < s->n_parts; i++) {
        parts[i].data = at;
        at += parts[i].bytes;
    }
    s->config.ops->row_sizes(&s->config.device, n, parts);
}

bool fm_snapshots_rows(const fm_snapshots *s, const fm_snapshot *x, int page, fm_bytes *parts) {
    int end = fm_page_end(x->n, page), first = page * FM_PAGE_TOKENS;
    const fm_timeline *t = x->pages[page] ? NULL : holder(s, x->ids, end, NULL);
    if (x->pages[page])
        page_parts(s, x->pages[page], end - first, parts);
    else if (t)
        s->config.ops->rows(t->state, first, end, parts);
    return x->pages[page] || t;
}

/* ---- copies ---- */

static void copy_parts(const fm_snapshots *s, const fm_bytes *to, const fm_bytes *from) {
    for (int i = 0; i < s->n_parts; i++) memmove(to[i].data, from[i].data, to[i].bytes);
}

/* A copy of a page of x, whose rows t holds. */
static bool copy_page(fm_snapshots *s, fm_snapshot *x, int page, const fm_timeline *t) {
    fm_bytes *from = s->parts, *to = s->parts + s->n_parts;
    int first = page * FM_PAGE_TOKENS, end = fm_page_end(x->n, page);
    fm_page *p = shared_page(s, x, page);
    if (!p) {
        uint64_t bytes = page_bytes(s, end - first);
        if (!make_room(s, bytes, x->used) || !(p = calloc(1, sizeof *p))) return false;
        p->n = end - first;
        if (fm_region_open(&p->rows, s->config.ops->row_sizes(&s->config.device, p->n, to), "a snapshot", NULL) < 0) {
            free(p);
            return false;
        }
        s->used_bytes += bytes;
        page_parts(s, p, p->n, to);
        s->config.ops->rows(t->state, first, end, from);
        copy_parts(s, to, from);
    }
    p->n_users++;
    x->pages[page] = p;
    return true;
}

void fm_snapshots_tidy(fm_snapshots *s) {
    for (fm_timeline *t = s->timeline; t; t = t->next) s->config.ops->rows_clear(t->state, t->n_rows);
}

/* Copies what of x lies behind `from` in t and nowhere else. */
static bool detach(fm_snapshots *s, fm_snapshot *x, const fm_timeline *t, int from) {
    int held = fm_common_tokens(x->ids, t->ids, least(x->n, t->n_rows));
    for (int page = from / FM_PAGE_TOKENS; page < fm_page_count(x->n) && held > from; page++) {
        int end = fm_page_end(x->n, page);
        if (end > held) break;
        if (!x->pages[page] && !holder(s, x->ids, end, t) && !copy_page(s, x, page, t)) return false;
    }
    return true;
}

void fm_snapshots_overwrite(fm_snapshots *s, fm_timeline *t, int from) {
    if (from >= t->n_rows) return;
    fm_snapshots_tidy(s);
    /* The latest first, as making room for one drops those before it. */
    for (uint64_t before = UINT64_MAX;;) {
        fm_snapshot *next = NULL;
        for (fm_snapshot *x = s->first; x; x = x->next) {
            if (x->ready && x->used < before && (!next || x->used > next->used)) next = x;
        }
        if (!next) break;
        before = next->used;
        if (!detach(s, next, t, from)) fm_snapshots_drop(s, next);
    }
    t->n_rows = from;
}

void fm_snapshots_enter(fm_snapshots *s, fm_timeline *t) {
    t->next = s->timeline;
    s->timeline = t;
}

void fm_snapshots_leave(fm_snapshots *s, fm_timeline *t) {
    fm_timeline **at = &s->timeline;
    while (*at && *at != t) at = &(*at)->next;
    if (!*at) return;
    fm_snapshots_overwrite(s, t, 0);
    *at = t->next;
}

/* ---- use ---- */

fm_snapshot *fm_snapshots_find(const fm_snapshots *s, const int32_t *ids, int n) {
    fm_snapshot *found = NULL;
    for (fm_snapshot *x = s->first; x; x = x->next) {
        if (x->ready && x->n <= n && (!found || x->n > found->n) && fm_common_tokens(x->ids, ids, x->n) == x->n) found = x;
    }
    return found;
}

void fm_snapshots_restore(fm_snapshots *s, fm_snapshot *x, fm_timeline *t) {
    fm_bytes *from = s->parts, *to = s->parts + s->n_parts;
    int held = fm_common_tokens(x->ids, t->ids, least(x->n, t->n_rows));
    x->used = ++s->stamp; /* it stays while others take copies */
    if (held < x->n) {
        x->ready = false;
        fm_snapshots_overwrite(s, t, held);
        x->ready = true;
        for (int page = held / FM_PAGE_TOKENS; page < fm_page_count(x->n); page++) {
            bool found = fm_snapshots_rows(s, x, page, from);
            assert(found);
            (void)found;
            s->config.ops->rows(t->state, page * FM_PAGE_TOKENS, fm_page_end(x->n, page), to);
            copy_parts(s, to, from);
        }
        memcpy(t->ids + held, x->ids + held, (size_t)(x->n - held) * sizeof *t->ids);
        t->n_rows = x->n;
    }
    if (s->fixed_bytes) memcpy(s->config.ops->fixed(t->state), x->fixed.data, s->fixed_bytes);
    t->position = x->n;
}
