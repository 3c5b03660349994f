/* snapshots/directory.c: finding snapshots on the disk, reading them, and writing those that are only in memory. */
#include "snapshots/directory_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/system.h"

#define META_WINDOW ((size_t)64 << 10)

void fm_directory_log(const fm_directory *d, const char *format, ...) {
    char line[700];
    va_list args;
    if (!d->config.log) return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    d->config.log(d->config.user, FM_LOG_WARNING, line);
}

static void to_hex(char out[33], const fm_identity *id) {
    for (int i = 0; i < 16; i++) snprintf(out + 2 * i, 3, "%02x", id->bytes[i]);
}

int fm_directory_open(fm_directory **out, const fm_directory_config *config, fm_error *err) {
    char hex[33];
    fm_directory *d = *out = calloc(1, sizeof *d);
    if (!d) return fm_fail(err, FM_ENOMEM, "no memory for a session cache");
    d->config = *config;
    d->config.path = NULL;
    if (!d->config.write_bytes) d->config.write_bytes = FM_DIRECTORY_WRITE_BYTES;
    d->lock = -1;
    int rc = fm_identity_of(&d->identity, config->model, &config->snapshots->config.device, true, err);
    to_hex(hex, &d->identity);
    if (rc == 0 && snprintf(d->path, sizeof d->path, "%s", config->path) >= (int)sizeof d->path)
        rc = fm_fail(err, FM_EINVAL, "%s: the path is too long", config->path);
    if (rc == 0) rc = fm_path_join(d->own, sizeof d->own, d->path, hex, err);
    if (rc < 0) {
        fm_directory_close(out);
        return rc;
    }
    if (fm_path_exists(d->own) && fm_directory_lock(d, 0, NULL) > 0) fm_directory_unlock(d); /* what a crash left goes */
    return 0;
}

void fm_directory_close(fm_directory **directory) {
    if (*directory) fm_directory_unlock(*directory);
    free(*directory);
    *directory = NULL;
}

void fm_directory_name(const fm_directory *d, char *out, int n, const fm_identity *prefix, const char *kind) {
    char hex[33];
    to_hex(hex, prefix);
    snprintf(out, FM_DIRECTORY_PATH, "%s/%08d-%s.%s", d->own, n, hex, kind);
}

/* ---- finding ---- */

typedef struct found {
    int n;
    char hex[33];
} found;

static int by_tokens(const void *a, const void *b) { return ((const found *)a)->n - ((const found *)b)->n; }

/* Snapshots of more than `more` and at most n tokens, ascending; returns how many. */
static int list(const fm_directory *d, int more, int n, found **out) {
    DIR *dir = opendir(d->own);
    int count = 0, room = 0;
    *out = NULL;
    for (const struct dirent *entry; dir && (entry = readdir(dir));) {
        found f;
        int end = 0;
        if (sscanf(entry->d_name, "%8d-%32[0-9a-f].snapshot%n", &f.n, f.hex, &end) != 2 || !end || entry->d_name[end] || f.n <= more || f.n > n) continue;
        if (count == room) {
            found *larger = realloc(*out, (size_t)(room = room * 2 + 16) * sizeof f);
            if (!larger) break;
            *out = larger;
        }
        (*out)[count++] = f;
    }
    if (dir) closedir(dir);
    if (count) qsort(*out, (size_t)count, sizeof **out, by_tokens);
    return count;
}

/* Keeps of all [n] those that are of ids. */
static int matching(const fm_directory *d, const int32_t *ids, found *all, int n) {
    fm_prefix_hash *hash;
    char hex[33];
    int count = 0;
    if (fm_prefix_hash_open(&hash, &d->identity, ids, NULL) < 0) return 0;
    for (int i = 0; i < n; i++) {
        fm_identity prefix = fm_prefix_hash_at(hash, all[i].n);
        to_hex(hex, &prefix);
        if (strcmp(hex, all[i].hex) == 0) all[count++] = all[i];
    }
    fm_prefix_hash_close(&hash);
    return count;
}

/* ---- reading ---- */

typedef struct reading {
    fm_directory *d;
    fm_timeline *timeline;
    const int32_t *ids;
    fm_state_view view; /* of the snapshot */
    fm_state_meta meta;
    fm_file file;
    fm_identity *pages; /* [n_pages]: prefixes of the pages before the snapshot's own rows, from first_page on */
    int first_page, n_pages;
    atomic_int rc;
    int n_own;    /* units of the snapshot's file that are read */
    int bad_page; /* -1: the snapshot itself */
    fm_error error;
} reading;

static void failed(reading *r, int page, int rc, const fm_error *err) {
    int none = 0;
    if (!atomic_compare_exchange_strong(&r->rc, &none, rc)) return;
    r->bad_page = page;
    r->error = *err;
}

/* Another model's, or other tokens'. */
static int check_meta(const fm_directory *d, const fm_state_meta *meta, const int32_t *ids, const fm_identity *prefix, const char *path, fm_error *err) {
    if (memcmp(&meta->h.identity, &d->identity, sizeof d->identity) != 0) return fm_fail(err, FM_EINVAL, "%s: it is of another model", path);
    if (memcmp(meta->ids, ids + meta->h.first_token, (meta->h.n - meta->h.first_token) * sizeof *ids) != 0 ||
        memcmp(&meta->h.prefix, prefix, sizeof *prefix) != 0)
        return fm_fail(err, FM_EINVAL, "%s: it is of other tokens than its name says", path);
    return 0;
}

static int read_page(reading *r, int page, fm_window *window, fm_error *err) {
    char path[FM_DIRECTORY_PATH];
    fm_file file = {0};
    fm_state_meta meta = {0};
    fm_state_view view = {.snapshots = r->d->config.snapshots, .timeline = r->timeline, .first_row = page * FM_PAGE_TOKENS, .n = (page + 1) * FM_PAGE_TOKENS};
    const fm_identity *prefix = &r->pages[page - r->first_page];
    fm_directory_name(r->d, path, view.n, prefix, "page");
    int rc = fm_file_open_untested(&file, path, err);
    if (rc < 0) return rc;
    fm_window_begin(window, &file);
    rc = fm_state_read_meta(&meta, window, err);
    if (rc == 0 && ((int)meta.h.first_token != view.first_row || (int)meta.h.n != view.n)) rc = fm_fail(err, FM_EFORMAT, "%s: it is of other tokens", path);
    if (rc == 0) rc = check_meta(r->d, &meta, r->ids, prefix, path, err);
    if (rc == 0) rc = fm_state_check(&meta, &view, path, err);
    if (rc == 0) rc = fm_state_read_unit(window, &meta, &view, 0, false, err);
    fm_state_meta_close(&meta);
    fm_file_close(&file);
    return rc;
}

static void read_task(void *arg, int task, fm_window *window) {
    reading *r = arg;
    fm_error err = {0};
    int page = task < r->n_pages ? r->first_page + task : -1, rc;
    if (atomic_load(&r->rc) < 0) return;
    if (page < 0) fm_window_begin(window, &r->file);
    rc = page >= 0 ? read_page(r, page, window, &err) : fm_state_read_unit(window, &r->meta, &r->view, task - r->n_pages, false, &err);
    if (rc < 0) failed(r, page, rc, &err);
}

/* The prefixes of the pages that the timeline does not hold yet. */
static int find_pages(reading *r, int held, int n, fm_error *err) {
    fm_prefix_hash *hash;
    r->first_page = held / FM_PAGE_TOKENS;
    r->n_pages = n / FM_PAGE_TOKENS - r->first_page;
    if (r->n_pages < 0) r->n_pages = 0; /* all that is missing is behind the last whole page */
    if (!(r->pages = calloc((size_t)r->n_pages + 1, sizeof *r->pages))) return fm_fail(err, FM_ENOMEM, "no memory for a list of pages");
    int rc = fm_prefix_hash_open(&hash, &r->d->identity, r->ids, err);
    for (int i = 0; rc == 0 && i < r->n_pages; i++) r->pages[i] = fm_prefix_hash_at(hash, (r->first_page + i + 1) * FM_PAGE_TOKENS);
    fm_prefix_hash_close(&hash);
    return rc;
}

/* Reads what the snapshot's file and its pages have into the timeline. */
static int read_all(reading *r, int n, fm_error *err) {
    fm_snapshots *s = r->d->config.snapshots;
    fm_timeline *t = r->timeline;
    int held = fm_common_tokens(t->ids, r->ids, n < t->n_rows ? n : t->n_rows), rc = find_pages(r, held, n, err);
    if (rc < 0) return rc;
    r->n_own = held < n ? fm_state_n_units(&r->view) : fm_state_fixed_units(&r->view);
    if (held < n) {
        held = held / FM_PAGE_TOKENS * FM_PAGE_TOKENS;
        fm_snapshots_overwrite(s, t, held);
    }
    t->position = 0;
    rc = fm_readers_run(s->n_readers, fm_state_window_bytes(s), r->n_pages + r->n_own, read_task, r, err);
    if (rc == 0 && (rc = atomic_load(&r->rc)) < 0 && err) *err = r->error;
    if (rc < 0) {
        s->config.ops->state_clear(t->state);
        return rc;
    }
    memcpy(t->ids, r->ids, (size_t)n * sizeof *t->ids);
    if (t->n_rows < n) t->n_rows = n;
    t->position = n;
    return 0;
}

/* A snapshot whose page is not there is of no use, unless somebody removes both just now. */
static bool is_missing(const reading *r, const char *path, const char *page) {
    int lock = fm_directory_share(r->d);
    bool missing = lock >= 0 && fm_path_exists(path) && !fm_path_exists(page);
    if (missing) (void)unlink(path);
    if (lock >= 0) close(lock);
    return missing;
}

/* What is damaged goes. */
static void blame(const reading *r, const char *path, int rc, const fm_error *err) {
    char page[FM_DIRECTORY_PATH];
    const char *bad = path;
    if (r->bad_page >= 0) {
        fm_directory_name(r->d, page, (r->bad_page + 1) * FM_PAGE_TOKENS, &r->pages[r->bad_page - r->first_page], "page");
        bad = page;
    }
    if (!fm_path_exists(bad)) { /* of no account if somebody made room just now */
        if (bad == path || !is_missing(r, path, page)) return;
    } else if (rc == FM_EFORMAT) {
        (void)unlink(bad);
        (void)unlink(path);
    }
    fm_directory_log(r->d, "a snapshot of the session cache is ignored: %s", err->message);
}

/* The snapshot's meta, through a window of its own. */
static void meta_task(void *arg, int task, fm_window *window) {
    reading *r = arg;
    (void)task;
    fm_window_begin(window, &r->file);
    int rc = fm_state_read_meta(&r->meta, window, &r->error);
    atomic_store(&r->rc, rc);
}

static int read_meta(reading *r, fm_error *err) {
    int rc = fm_readers_run(1, META_WINDOW, 1, meta_task, r, err);
    if (rc == 0 && (rc = atomic_load(&r->rc)) < 0 && err) *err = r->error;
    return rc;
}

static int read_snapshot(reading *r, const char *path, int n, const fm_identity *prefix, fm_error *err) {
    fm_timeline *t = r->timeline;
    int rc = fm_file_open_untested(&r->file, path, err);
    if (rc == 0) rc = read_meta(r, err);
    if (rc == 0 && (r->meta.h.first_token || (int)r->meta.h.n != n)) rc = fm_fail(err, FM_EFORMAT, "%s: it is of other tokens", path);
    if (rc == 0) rc = check_meta(r->d, &r->meta, r->ids, prefix, path, err);
    r->view = (fm_state_view){.snapshots = r->d->config.snapshots, .timeline = t, .n = n, .first_row = n / FM_PAGE_TOKENS * FM_PAGE_TOKENS};
    r->view.fixed = r->view.snapshots->config.ops->fixed(t->state);
    if (rc == 0) rc = fm_state_check(&r->meta, &r->view, path, err);
    return rc == 0 ? read_all(r, n, err) : rc;
}

/* It has been used now; under the lock, so that who makes room sees the times of all or none. If somebody else has it, this use does not count. */
static void touch_all(const reading *r, const char *path, int n) {
    char page[FM_DIRECTORY_PATH];
    fm_prefix_hash *hash;
    struct timespec now;
    int lock = fm_directory_share(r->d);
    if (lock < 0) return;
    if (clock_gettime(CLOCK_REALTIME, &now) || fm_prefix_hash_open(&hash, &r->d->identity, r->ids, NULL) < 0) {
        close(lock);
        return;
    }
    for (int end = FM_PAGE_TOKENS; end <= n; end += FM_PAGE_TOKENS) {
        fm_identity prefix = fm_prefix_hash_at(hash, end);
        fm_directory_name(r->d, page, end, &prefix, "page");
        fm_directory_touch(page, &now);
    }
    fm_prefix_hash_close(&hash);
    fm_directory_touch(path, &now);
    close(lock);
}

static bool try_one(fm_directory *d, fm_timeline *t, const int32_t *ids, const found *f) {
    char path[FM_DIRECTORY_PATH];
    fm_error err = {0};
    fm_prefix_hash *hash;
    reading r = {.d = d, .timeline = t, .ids = ids, .bad_page = -1};
    if (fm_prefix_hash_open(&hash, &d->identity, ids, NULL) < 0) return false;
    fm_identity prefix = fm_prefix_hash_at(hash, f->n);
    fm_prefix_hash_close(&hash);
    fm_directory_name(d, path, f->n, &prefix, "snapshot");
    int rc = read_snapshot(&r, path, f->n, &prefix, &err);
    if (rc < 0)
        blame(&r, path, rc, &err);
    else
        touch_all(&r, path, f->n);
    fm_state_meta_close(&r.meta);
    fm_file_close(&r.file);
    free(r.pages);
    return rc == 0;
}

int fm_directory_restore(fm_directory *d, fm_timeline *t, const int32_t *ids, int more, int n) {
    found *all;
    int count = list(d, more, n, &all), restored = 0;
    count = matching(d, ids, all, count);
    while (count-- > 0 && !restored) restored = try_one(d, t, ids, &all[count]) ? all[count].n : 0;
    free(all);
    return restored;
}
