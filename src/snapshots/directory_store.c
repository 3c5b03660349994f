/* snapshots/directory_store.c: writing snapshots to a session cache. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/system.h"
#include "base/write.h"
#include "snapshots/directory_files.h"

typedef struct storing {
    fm_directory *d;
    const fm_snapshot *snapshot;
    struct timespec now;
    double deadline;
} storing;

/* Under another name first. */
static int write_file(storing *st, const char *path, const fm_state_view *view, int first_token, fm_error *err) {
    fm_directory *d = st->d;
    char part[FM_DIRECTORY_PATH + 32];
    uint64_t bytes = fm_state_file_bytes(view, first_token);
    fm_directory_make_room(d, bytes, &st->now);
    snprintf(part, sizeof part, "%s/%ld.part", d->own, (long)getpid());
    (void)unlink(part);
    int rc = fm_state_write(part, view, &d->identity, st->snapshot->ids, first_token, &bytes, err);
    if (rc == 0) {
        struct timespec times[2] = {st->now, st->now}; /* the same for all files of a snapshot, though it was written later */
        (void)utimensat(AT_FDCWD, part, times, 0);
        if (rename(part, path)) rc = fm_fail(err, FM_EIO, "%s: it cannot be renamed", part);
    }
    if (rc < 0) {
        (void)unlink(part);
        return rc;
    }
    d->total_bytes += bytes;
    d->wrote_bytes += bytes;
    return 0;
}

/* All that a snapshot takes on the disk. */
static uint64_t disk_bytes(const fm_snapshots *s, const fm_snapshot *x) {
    fm_state_view view = {.snapshots = s, .snapshot = x, .fixed = x->fixed.data, .n = x->n, .first_row = x->n / FM_PAGE_TOKENS * FM_PAGE_TOKENS};
    fm_state_view page = {.snapshots = s, .snapshot = x, .n = FM_PAGE_TOKENS};
    return fm_state_file_bytes(&view, 0) + (uint64_t)(x->n / FM_PAGE_TOKENS) * fm_state_file_bytes(&page, 0);
}

/* Making room for some of a snapshot's pages may have removed others, which somebody used meanwhile, so that their time is another. */
static bool all_there(const storing *st) {
    fm_prefix_hash *hash;
    char path[FM_DIRECTORY_PATH];
    bool all = true;
    if (fm_prefix_hash_open(&hash, &st->d->identity, st->snapshot->ids, NULL) < 0) return false;
    for (int end = FM_PAGE_TOKENS; end <= st->snapshot->n && all; end += FM_PAGE_TOKENS) {
        fm_identity prefix = fm_prefix_hash_at(hash, end);
        fm_directory_name(st->d, path, end, &prefix, "page");
        all = fm_path_exists(path);
    }
    fm_prefix_hash_close(&hash);
    return all;
}

/* Its pages, then itself: each is there or is written. 0; 1: the deadline has come; FM_E…. */
static int write_files(storing *st, fm_prefix_hash *hash, fm_error *err) {
    fm_directory *d = st->d;
    const fm_snapshot *x = st->snapshot;
    char path[FM_DIRECTORY_PATH];
    int rc;
    for (int end = FM_PAGE_TOKENS; end <= x->n; end += FM_PAGE_TOKENS) {
        fm_identity prefix = fm_prefix_hash_at(hash, end);
        fm_state_view view = {.snapshots = d->config.snapshots, .snapshot = x, .first_row = end - FM_PAGE_TOKENS, .n = end};
        fm_directory_name(d, path, end, &prefix, "page");
        if (fm_directory_touch(path, &st->now)) continue;
        if (fm_now() >= st->deadline) return 1;
        if ((rc = write_file(st, path, &view, view.first_row, err)) < 0) return rc;
    }
    if (fm_now() >= st->deadline || !all_there(st)) return 1;
    fm_identity prefix = fm_prefix_hash_at(hash, x->n);
    fm_state_view view = {
        .snapshots = d->config.snapshots, .snapshot = x, .fixed = x->fixed.data, .n = x->n, .first_row = x->n / FM_PAGE_TOKENS * FM_PAGE_TOKENS};
    fm_directory_name(d, path, x->n, &prefix, "snapshot");
    if (!fm_directory_touch(path, &st->now) && (rc = write_file(st, path, &view, 0, err)) < 0) return rc;
    return fm_directory_sync(d->own, err);
}

static int store_one(storing *st, fm_snapshot *x, fm_error *err) {
    fm_directory *d = st->d;
    fm_prefix_hash *hash;
    if (disk_bytes(d->config.snapshots, x) > d->config.limit_bytes) {
        fm_directory_log(d, "a snapshot of %d tokens is not kept: its %llu bytes are more than the session cache may have", x->n,
                         (unsigned long long)disk_bytes(d->config.snapshots, x));
        x->stored = true;
        return 0;
    }
    int rc = fm_prefix_hash_open(&hash, &d->identity, x->ids, err);
    if (rc < 0) return rc;
    st->snapshot = x;
    rc = write_files(st, hash, err);
    fm_prefix_hash_close(&hash);
    if (rc == 0) x->stored = true;
    return rc;
}

/* What was asked for goes first, then the latest. */
static fm_snapshot *next_to_store(const fm_snapshots *s, int *left) {
    fm_snapshot *found = NULL;
    *left = 0;
    for (fm_snapshot *x = s->first; x; x = x->next) {
        if (!x->ready || x->stored) continue;
        ++*left;
        if (!found || (x->between == found->between ? x->used > found->used : found->between)) found = x;
    }
    return found;
}

static bool may_write(fm_directory *d) {
    bool may = d->wrote_bytes < d->config.write_bytes;
    if (!may && !d->limited)
        fm_directory_log(d, "the session cache has been written much lately, %.1f GiB: the rest waits", (double)d->wrote_bytes / 1073741824);
    d->limited = !may;
    return may;
}

int fm_directory_store(fm_directory *d, double deadline) {
    fm_snapshots *s = d->config.snapshots;
    fm_error err = {0};
    int left, rc = 1;
    if (!next_to_store(s, &left)) return 0;
    storing st = {.d = d, .deadline = deadline};
    if ((rc = fm_directory_lock(d, deadline, &err)) > 0) {
        fm_snapshots_tidy(s);
        for (fm_snapshot *x; (x = next_to_store(s, &left)) && may_write(d);) {
            clock_gettime(CLOCK_REALTIME, &st.now);
            if ((rc = store_one(&st, x, &err))) break;
        }
    }
    fm_directory_unlock(d);
    if (rc < 0 && !d->refused) {
        fm_directory_log(d, "the session cache is not written: %s", err.message);
        d->refused = true;
    }
    next_to_store(s, &left);
    return left;
}
