/* hub/fetch_file.c: see fetch_file.h. */
#include "hub/fetch_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

#define READ_BYTES ((size_t)1 << 20)

/* ---- opening ---- */

/* Reads what is there into the hash. */
static int hash_again(fm_transfer *t, const fm_hub *hub, fm_error *err) {
    uint8_t *buffer = malloc(READ_BYTES);
    int rc = buffer ? 0 : fm_fail(err, FM_ENOMEM, "%s: no memory to read it", t->to->part);
    for (uint64_t at = 0; at < t->at && rc == 0;) {
        size_t n = t->at - at < READ_BYTES ? (size_t)(t->at - at) : READ_BYTES;
        ssize_t got = pread(t->fd, buffer, n, (off_t)at);
        if (got <= 0) {
            if (got < 0 && errno == EINTR) continue;
            rc = fm_fail_errno(err, FM_EIO, got < 0 ? errno : EIO, "%s: it cannot be read", t->to->part);
            break;
        }
        fm_hub_hash_feed(&t->hash, buffer, (size_t)got);
        at += (uint64_t)got;
        if (hub->cancelled && hub->cancelled(hub->user)) rc = fm_fail(err, FM_ECANCELLED, "pulling was cancelled");
    }
    free(buffer);
    return rc;
}

/* 1: it is ours; 0: another program's. Where there can be no lock, nobody has one. */
static int take_lock(fm_transfer *t) {
    if (!t->to->lock[0] || t->lock >= 0) return 1;
    t->lock = open(t->to->lock, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (t->lock < 0 || flock(t->lock, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return 1;
    close(t->lock);
    t->lock = -1;
    return 0;
}

int fm_transfer_open(fm_transfer *t, const fm_hub *hub, fm_error *err) {
    const fm_hub_file *file = t->to->file;
    struct stat st;
    if (fm_hub_has_bytes(t->to->whole, file->bytes)) {
        t->state = FM_TRANSFER_DONE;
        return 1;
    }
    if (!take_lock(t)) return 0;
    if (fm_hub_has_bytes(t->to->whole, file->bytes)) { /* while it was waited for */
        t->state = FM_TRANSFER_DONE;
        fm_transfer_close(t);
        return 1;
    }
    t->fd = open(t->to->part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (t->fd < 0 || fstat(t->fd, &st)) return fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be written", t->to->part);
    if (!S_ISREG(st.st_mode)) return fm_fail(err, FM_EIO, "%s: it is no file", t->to->part);
    t->state = FM_TRANSFER_OPEN;
    t->at = t->next = (uint64_t)st.st_size;
    t->resumed = t->at > 0;
    if (t->at > file->bytes) {
        int rc = fm_transfer_restart(t, err);
        return rc < 0 ? rc : 1;
    }
    fm_hub_hash_open(&t->hash, file->hash, file->bytes);
    int rc = t->to->want < file->bytes ? 0 : hash_again(t, hub, err);
    return rc < 0 ? rc : 1;
}

/* ---- pieces ---- */

static fm_fetch_piece *add_piece(fm_transfer *t, fm_error *err) {
    fm_fetch_piece *p = calloc(1, sizeof *p), **end = &t->pieces;
    if (!p) goto fail;
    uint64_t left = t->to->want - t->next;
    p->begin = t->next;
    p->end = t->next + (left < FM_PIECE_BYTES || t->no_ranges ? left : FM_PIECE_BYTES);
    if (t->pieces && !(p->data = malloc((size_t)(p->end - p->begin)))) goto fail;
    while (*end) end = &(*end)->next;
    *end = p;
    t->next = p->end;
    return p;
fail:
    free(p);
    fm_fail(err, FM_ENOMEM, "%s: no memory for what arrives", t->to->part);
    return NULL;
}

fm_fetch_piece *fm_transfer_piece(fm_transfer *t, int room, int *rc, fm_error *err) {
    *rc = 0;
    if (t->state != FM_TRANSFER_OPEN || t->restart || (t->n_asked && (!t->known || t->no_ranges))) return NULL;
    for (fm_fetch_piece *p = t->pieces; p; p = p->next) {
        if (!p->asked && p->got < p->end - p->begin) return p;
    }
    if (t->next >= t->to->want || (t->pieces && room <= 0)) return NULL;
    fm_fetch_piece *p = add_piece(t, err);
    if (!p) *rc = FM_ENOMEM;
    return p;
}

static int write_bytes(fm_transfer *t, const void *data, size_t bytes, fm_error *err) {
    const uint8_t *from = data;
    fm_hub_hash_feed(&t->hash, data, bytes);
    while (bytes) {
        ssize_t n = pwrite(t->fd, from, bytes, (off_t)t->at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return fm_fail_errno(err, FM_EIO, n < 0 ? errno : EIO, "%s: it cannot be written beyond its %" PRIu64 " bytes", t->to->part, t->at);
        t->at += (uint64_t)n;
        from += n;
        bytes -= (size_t)n;
    }
    return 0;
}

int fm_transfer_take(fm_transfer *t, fm_fetch_piece *p, const void *data, size_t bytes, fm_error *err) {
    if (bytes > p->end - p->begin - p->got) return fm_fail(err, FM_EFORMAT, "%s: the server sends more bytes than it was asked for", t->to->file->name);
    if (p->data)
        memcpy(p->data + p->got, data, bytes);
    else if (write_bytes(t, data, bytes, err) < 0)
        return FM_EIO;
    p->got += bytes;
    return 0;
}

int fm_transfer_settle(fm_transfer *t, fm_error *err) {
    while (t->pieces && !t->restart) {
        fm_fetch_piece *p = t->pieces;
        if (p->data) { /* it has become the first */
            int rc = write_bytes(t, p->data, (size_t)p->got, err);
            if (rc < 0) return rc;
            free(p->data);
            p->data = NULL;
        }
        if (p->got < p->end - p->begin || p->asked) break;
        t->pieces = p->next;
        free(p);
    }
    return !t->pieces && !t->restart && t->at >= t->to->want;
}

static void drop_pieces(fm_transfer *t) {
    for (fm_fetch_piece *p = t->pieces, *next; p; p = next) {
        next = p->next;
        free(p->data);
        free(p);
    }
    t->pieces = NULL;
}

int fm_transfer_restart(fm_transfer *t, fm_error *err) {
    drop_pieces(t);
    t->at = t->next = 0;
    t->restart = t->resumed = false;
    fm_hub_hash_open(&t->hash, t->to->file->hash, t->to->file->bytes);
    if (ftruncate(t->fd, 0)) return fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be written", t->to->part);
    return 0;
}

uint64_t fm_transfer_bytes(const fm_transfer *t) {
    uint64_t bytes = t->at;
    for (const fm_fetch_piece *p = t->pieces; p; p = p->next) bytes += p->data ? p->got : 0;
    return t->state == FM_TRANSFER_DONE ? t->to->want : bytes < t->to->want ? bytes : t->to->want;
}

/* ---- the end ---- */

int fm_transfer_finish(fm_transfer *t, const char *repo, fm_error *err) {
    const fm_hub_file *file = t->to->file;
    char hash[65];
    if (t->to->want == file->bytes) {
        fm_hub_hash_text(&t->hash, hash);
        if (strcmp(hash, file->hash)) {
            if (t->resumed) {
                int rc = fm_transfer_restart(t, err);
                return rc < 0 ? rc : 1;
            }
            (void)unlink(t->to->part);
            return fm_fail(err, FM_EFORMAT, "%s/%.200s: what arrived has the hash %s, and the hub says %s; it is removed", repo, file->name, hash, file->hash);
        }
        if (fsync(t->fd)) return fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be written", t->to->part);
        if (rename(t->to->part, t->to->whole)) return fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be given this name", t->to->whole);
    }
    fm_transfer_close(t);
    t->state = FM_TRANSFER_DONE;
    return 0;
}

void fm_transfer_close(fm_transfer *t) {
    drop_pieces(t);
    free(t->url);
    t->url = NULL;
    if (t->fd >= 0) close(t->fd);
    if (t->lock >= 0) close(t->lock);
    t->fd = t->lock = -1;
}
