/* hub/fetch.c: which connection asks for which piece, and what becomes of its answer. One thread does all of it. */
#include "hub/fetch.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/system.h"
#include "hub/fetch_file.h"

#define POLL_MS 100
#define JUNK_BYTES ((size_t)1 << 20)
#define MOST_MOVES 8 /* from address to address, for one request */
#define BUFFER_BYTES 262144L
#define LOCK_SECONDS 0.2 /* between two looks at a lock that another program has */

typedef struct link { /* a connection */
    struct fetcher *f;
    CURL *easy;
    fm_transfer *t; /* NULL: idle */
    fm_fetch_piece *piece;
    uint64_t from; /* first byte that is asked for */
    bool looked;   /* at the head */
    size_t junk;   /* bytes of an answer that is none */
    int rc;        /* of what was done with the bytes */
    char url[FM_HUB_URL];
    fm_hub_head head;
    struct curl_slist *headers;
} link;

typedef struct fetcher {
    const fm_fetch *fetch;
    CURLM *multi;
    link *links;
    fm_transfer *transfers;
    int n_links, n_done, first; /* first: of the transfers that is not done */
    double hub_not_before;      /* the hub has asked to be left alone */
    double reported;
    fm_error *err;
} fetcher;

/* ---- bytes ---- */

/* Whether the answer's first byte is the one that was asked for, of a file of the right size. */
static int look_at_head(link *l) {
    fm_transfer *t = l->t;
    const fm_hub_file *file = t->to->file;
    const char *repo = l->f->fetch->hub->repo;
    int64_t total = l->head.status == 206 ? l->head.total : l->head.length;
    l->looked = true;
    t->n_moves = 0;
    if (total >= 0 && (uint64_t)total != file->bytes)
        return fm_fail(l->f->err, FM_EFORMAT, "%s/%.200s: the hub says it has %" PRIu64 " bytes, but what it sends has %" PRId64, repo, file->name, file->bytes,
                       total);
    if (l->head.status == 206) {
        t->known = true;
        if (l->head.first == (int64_t)l->from) return 0;
        return fm_fail(l->f->err, FM_EFORMAT, "%s/%.200s: the server was asked for byte %" PRIu64 " and sends from %" PRId64 " on", repo, file->name, l->from,
                       l->head.first);
    }
    if (l->from == 0 && l->piece->end == file->bytes) {
        t->known = true;
        return 0;
    }
    /* It sends all of it, whatever it was asked for. */
    if (t->no_ranges) return fm_fail(l->f->err, FM_EUNSUPPORTED, "%s/%.200s: the server sends no parts of files", repo, file->name);
    t->no_ranges = t->restart = true;
    return FM_EUNSUPPORTED;
}

static size_t on_bytes(char *data, size_t size, size_t n, void *user) {
    link *l = user;
    n *= size;
    if (l->rc < 0) return 0;
    if (l->head.status != 200 && l->head.status != 206) return (l->junk += n) < JUNK_BYTES ? n : 0; /* a page for people */
    if (!l->looked && (l->rc = look_at_head(l)) < 0) return 0;
    /* What the server sends of a whole file beyond a part that is wanted. */
    if ((l->rc = fm_transfer_take(l->t, l->piece, data, n, l->f->err)) < 0) return 0;
    l->t->failures = 0;
    return n;
}

/* ---- asking ---- */

static int ask(link *l, fm_transfer *t, fm_fetch_piece *p, fm_error *err) {
    const fm_fetch *fetch = l->f->fetch;
    const fm_curl *curl = &fetch->hub->curl;
    char range[64];
    l->t = t;
    l->piece = p;
    l->from = p->begin + p->got;
    l->looked = false;
    l->junk = 0;
    l->rc = 0;
    if (t->url)
        snprintf(l->url, sizeof l->url, "%s", t->url);
    else
        fm_hub_file_url(fetch->hub, fetch->commit, t->to->file->name, l->url);
    p->asked = true;
    t->n_asked++;
    if (!fm_hub_ask(fetch->hub, l->easy, l->url, &l->head, &l->headers)) return fm_fail(err, FM_ENOMEM, "%s: no memory for a request", fetch->hub->repo);
    snprintf(range, sizeof range, "%" PRIu64 "-%" PRIu64, l->from, p->end - 1);
    if (l->from > 0 || p->end < t->to->file->bytes) curl->easy_setopt(l->easy, CURLOPT_RANGE, range);
    curl->easy_setopt(l->easy, CURLOPT_BUFFERSIZE, BUFFER_BYTES);
    curl->easy_setopt(l->easy, CURLOPT_WRITEFUNCTION, on_bytes);
    curl->easy_setopt(l->easy, CURLOPT_WRITEDATA, l);
    curl->easy_setopt(l->easy, CURLOPT_PRIVATE, l);
    return curl->multi_add_handle(l->f->multi, l->easy) == CURLM_OK ? 0 : fm_fail(err, FM_ENOMEM, "%s: no memory for a request", fetch->hub->repo);
}

/* Pieces that wait in memory, of all files. */
static int n_waiting(const fetcher *f) {
    int n = 0;
    for (int i = f->first; i < f->fetch->n_files; i++) {
        for (const fm_fetch_piece *p = f->transfers[i].pieces; p; p = p->next) n += p->data != NULL;
    }
    return n;
}

static int end_transfer(fetcher *f, int i, fm_error *err) {
    f->n_done++;
    while (f->first < f->fetch->n_files && f->transfers[f->first].state == FM_TRANSFER_DONE) f->first++;
    return f->fetch->arrived ? f->fetch->arrived(f->fetch->user, i, err) : 0;
}

/* Checks a file of which all is there. */
static int finish(fetcher *f, fm_transfer *t, fm_error *err) {
    int rc = fm_transfer_finish(t, f->fetch->hub->repo, err);
    return rc == 0 ? end_transfer(f, (int)(t - f->transfers), err) : rc < 0 ? rc : 0;
}

/* Opens a file that waits. */
static int begin(fetcher *f, int i, double now, fm_error *err) {
    fm_transfer *t = &f->transfers[i];
    if (f->fetch->may_begin && !f->fetch->may_begin(f->fetch->user, i)) return 0;
    int rc = fm_transfer_open(t, f->fetch->hub, err);
    if (rc < 0) return rc;
    if (rc == 0) t->not_before = now + LOCK_SECONDS;
    if (t->state == FM_TRANSFER_DONE) return end_transfer(f, i, err);
    /* Bytes that are there may be all; an empty file needs none. */
    return t->state == FM_TRANSFER_OPEN && t->at >= t->to->want ? finish(f, t, err) : 0;
}

/* Gives idle connections pieces, of the earliest files first. */
static int hand_out(fetcher *f, fm_error *err) {
    int room = 2 * f->n_links - n_waiting(f), rc = 0, idle = 0;
    double now = fm_now();
    for (int i = f->first; i < f->fetch->n_files; i++) {
        fm_transfer *t = &f->transfers[i];
        while (idle < f->n_links && f->links[idle].t) idle++;
        if (idle == f->n_links) break;
        if (t->state == FM_TRANSFER_DONE || t->not_before > now) continue;
        if (t->state == FM_TRANSFER_WAITING && (rc = begin(f, i, now, err)) < 0) return rc;
        if (!t->url && f->hub_not_before > now) continue;
        for (fm_fetch_piece *p; idle < f->n_links && (p = fm_transfer_piece(t, room, &rc, err));) {
            room -= p->data && !p->got;
            if ((rc = ask(&f->links[idle], t, p, err)) < 0) return rc;
            while (idle < f->n_links && f->links[idle].t) idle++;
        }
        if (rc < 0) return rc;
    }
    return 0;
}

/* ---- answers ---- */

/* After a request that failed and may work later. */
static int again(fetcher *f, link *l, fm_transfer *t, bool expired, const fm_error *why) {
    t->n_moves = 0;
    /* Connections that are cut together are one failure. */
    bool counts = fm_now() >= t->not_before;
    if (counts && ++t->failures > f->fetch->hub->n_retries) {
        if (f->err) *f->err = *why;
        return why->code;
    }
    if (expired || t->failures > 1) { /* the hub may know a better address */
        free(t->url);
        t->url = NULL;
        t->known = false;
    }
    if (counts) t->not_before = fm_now() + fm_hub_delay(&l->head, t->failures);
    if (l->head.status == 429 && !t->url) f->hub_not_before = t->not_before;
    return 0;
}

static int move(fetcher *f, link *l, fm_transfer *t) {
    const fm_hub *hub = f->fetch->hub;
    char hash[65];
    fm_hub_etag(l->head.linked_etag, hash);
    if (fm_hub_is_hash(hash, 64) && strcmp(hash, t->to->file->hash))
        return fm_fail(f->err, FM_EFORMAT, "%s/%.200s: the hub lists it with the hash %s, and then says %s", hub->repo, t->to->file->name, t->to->file->hash,
                       hash);
    if (l->head.commit[0] && strcmp(l->head.commit, f->fetch->commit))
        return fm_fail(f->err, FM_EFORMAT, "%s/%.200s: it was asked of commit %s, and the hub sends it of %s", hub->repo, t->to->file->name, f->fetch->commit,
                       l->head.commit);
    if (l->head.linked_bytes >= 0 && (uint64_t)l->head.linked_bytes != t->to->file->bytes)
        return fm_fail(f->err, FM_EFORMAT, "%s/%.200s: the hub lists it with %" PRIu64 " bytes, and then says %" PRId64, hub->repo, t->to->file->name,
                       t->to->file->bytes, l->head.linked_bytes);
    if (++t->n_moves > MOST_MOVES) return fm_fail(f->err, FM_EIO, "%s/%.200s: the server sends on and on", hub->repo, t->to->file->name);
    free(t->url);
    if (!(t->url = strdup(l->head.location))) return fm_fail(f->err, FM_ENOMEM, "%s: no memory for an address", hub->repo);
    return 0;
}

/* A request is over. */
static int end_request(fetcher *f, link *l, CURLcode result) {
    const fm_curl *curl = &f->fetch->hub->curl;
    fm_transfer *t = l->t;
    fm_fetch_piece *p = l->piece;
    fm_error why = {0};
    int rc = 0;
    curl->multi_remove_handle(f->multi, l->easy);
    curl->slist_free_all(l->headers);
    l->headers = NULL;
    l->t = NULL;
    p->asked = false;
    t->n_asked--;
    if (l->rc < 0 && !t->restart) return l->rc;
    if (t->restart) return t->n_asked ? 0 : fm_transfer_restart(t, f->err);
    bool whole = p->got == p->end - p->begin;
    fm_hub_verdict verdict = whole && l->looked ? FM_HUB_GOOD : fm_hub_judge(f->fetch->hub, result, &l->head, l->url, t->to->file->name, &why);
    if (verdict == FM_HUB_GOOD && !whole) {
        fm_fail(&why, FM_EIO, "%s/%.200s: the server sends fewer bytes than it was asked for", f->fetch->hub->repo, t->to->file->name);
        verdict = FM_HUB_AGAIN;
    }
    if (verdict == FM_HUB_MOVED) rc = move(f, l, t);
    if (verdict == FM_HUB_AGAIN || verdict == FM_HUB_EXPIRED) rc = again(f, l, t, verdict == FM_HUB_EXPIRED, &why);
    if (verdict == FM_HUB_FAILED) {
        if (f->err) *f->err = why;
        rc = why.code;
    }
    if (rc < 0 || (rc = fm_transfer_settle(t, f->err)) <= 0) return rc;
    return finish(f, t, f->err);
}

static int report(fetcher *f) {
    uint64_t done = 0;
    if (fm_now() < f->reported + 1e-3 * POLL_MS) return 0;
    f->reported = fm_now();
    for (int i = 0; i < f->fetch->n_files; i++) done += fm_transfer_bytes(&f->transfers[i]);
    return f->fetch->progress ? f->fetch->progress(f->fetch->user, done) : 0;
}

static int loop(fetcher *f, fm_error *err) {
    const fm_curl *curl = &f->fetch->hub->curl;
    while (f->n_done < f->fetch->n_files) {
        int running, left, rc = hand_out(f, err);
        CURLMsg *message;
        if (rc < 0) return rc;
        if (f->n_done == f->fetch->n_files) break;
        if (curl->multi_perform(f->multi, &running) != CURLM_OK || curl->multi_poll(f->multi, NULL, 0, POLL_MS, NULL) != CURLM_OK)
            return fm_fail(err, FM_ENOMEM, "%s: no memory for connections", f->fetch->hub->repo);
        while ((message = curl->multi_info_read(f->multi, &left))) {
            link *l;
            CURLcode result = message->data.result;
            if (message->msg != CURLMSG_DONE || curl->easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&l) != CURLE_OK) continue;
            if ((rc = end_request(f, l, result)) < 0) return rc;
        }
        if (report(f)) return fm_fail(err, FM_ECANCELLED, "pulling was cancelled");
    }
    return 0;
}

static int open_fetcher(fetcher *f, fm_error *err) {
    const fm_curl *curl = &f->fetch->hub->curl;
    int n = f->fetch->n_files;
    f->n_links = f->fetch->n_connections < 1 ? 1 : f->fetch->n_connections > FM_FETCH_CONNECTIONS ? FM_FETCH_CONNECTIONS : f->fetch->n_connections;
    f->multi = curl->multi_init();
    f->links = calloc((size_t)f->n_links, sizeof *f->links);
    f->transfers = calloc((size_t)n + 1, sizeof *f->transfers);
    if (!f->multi || !f->links || !f->transfers) goto fail;
    for (int i = 0; i < n; i++) f->transfers[i] = (fm_transfer){.to = &f->fetch->files[i], .fd = -1, .lock = -1};
    for (int i = 0; i < f->n_links; i++) {
        f->links[i].f = f;
        if (!(f->links[i].easy = curl->easy_init())) goto fail;
    }
    return 0;
fail:
    return fm_fail(err, FM_ENOMEM, "%s: no memory to fetch %d files", f->fetch->hub->repo, n);
}

int fm_fetch_run(const fm_fetch *fetch, fm_error *err) {
    fm_error own;
    const fm_curl *curl = &fetch->hub->curl;
    fetcher f = {.fetch = fetch, .err = err ? err : &own};
    int rc = open_fetcher(&f, f.err);
    if (rc == 0) rc = loop(&f, f.err);
    for (int i = 0; i < f.n_links && f.links; i++) {
        if (f.links[i].t) curl->multi_remove_handle(f.multi, f.links[i].easy);
        curl->slist_free_all(f.links[i].headers);
        if (f.links[i].easy) curl->easy_cleanup(f.links[i].easy);
    }
    for (int i = 0; i < fetch->n_files && f.transfers; i++) fm_transfer_close(&f.transfers[i]);
    if (f.multi) curl->multi_cleanup(f.multi);
    free(f.links);
    free(f.transfers);
    return rc;
}
