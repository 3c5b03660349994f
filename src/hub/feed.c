/* hub/feed.c: packing a model while it is fetched: one thread fetches the shards in the order in which packing needs them, the caller's packs what is whole. */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/file.h"
#include "hub/pull.h"
#include "hub/stage.h"
#include "prepare/pack/pack.h"

#define HEAD_BYTES ((uint64_t)65536) /* of a shard; a longer header is asked for when its length is known */
#define AHEAD 2                      /* shards that may be there before they are needed, where they are given back */
#define WAIT_SECONDS 0.1

typedef struct feed {
    fm_pull_job *job;
    fm_pack_options options;
    fm_hub_stage stage;
    int first, n; /* the shards among the job's files */
    bool *mine;   /* [n] it is in the stage, and may be given back */
    bool same_disk;

    fm_fetch_file *files; /* [n] in the order in which they are needed */
    atomic_bool stop;
    _Atomic uint64_t done; /* bytes of shards */
    uint64_t before;       /* of other files */
    uint64_t packed;

    pthread_t thread;
    bool running;
    pthread_mutex_t mutex;
    pthread_cond_t change;
    bool *arrived; /* [n] by the order of files */
    int needed;    /* all up to this one are */
    bool over;     /* the thread has nothing more to do */
    int rc;
    fm_error err;
} feed;

static fm_fetch_file *find(const feed *f, const char *name, int *at) {
    for (int i = 0; i < f->n; i++) {
        if (strcmp(f->job->files[f->first + i].file->name, name)) continue;
        if (at) *at = i;
        return &f->job->files[f->first + i];
    }
    return NULL;
}

static int tell(feed *f) { return fm_pull_tell(f->job, f->before + atomic_load(&f->done) + f->packed); }

/* ---- the fetching thread ---- */

static int stopped(void *user) { return atomic_load(&((feed *)user)->stop); }

static int on_bytes(void *user, uint64_t done) {
    atomic_store(&((feed *)user)->done, done);
    return stopped(user);
}

static bool may_begin(void *user, int file) {
    feed *f = user;
    pthread_mutex_lock(&f->mutex);
    bool yes = !f->options.delete_consumed || file <= f->needed + AHEAD;
    pthread_mutex_unlock(&f->mutex);
    return yes;
}

static int on_arrival(void *user, int file, fm_error *err) {
    feed *f = user;
    int at = -1, rc = 0;
    (void)find(f, f->files[file].file->name, &at);
    if (at >= 0 && !f->mine[at]) rc = fm_hub_cache_link(&f->job->cache, f->job->listing.commit, f->files[file].file, err);
    pthread_mutex_lock(&f->mutex);
    f->arrived[file] = true;
    pthread_cond_broadcast(&f->change);
    pthread_mutex_unlock(&f->mutex);
    return rc;
}

static void *fetch_all(void *user) {
    feed *f = user;
    fm_error err = {0};
    fm_fetch fetch = {.hub = &f->job->hub, .files = f->files, .n_files = f->n, .n_connections = f->job->options.n_connections, .user = f};
    snprintf(fetch.commit, sizeof fetch.commit, "%s", f->job->listing.commit);
    fetch.progress = on_bytes;
    fetch.may_begin = may_begin;
    fetch.arrived = on_arrival;
    int rc = fm_fetch_run(&fetch, &err);
    pthread_mutex_lock(&f->mutex);
    f->over = true;
    f->rc = rc;
    f->err = err;
    pthread_cond_broadcast(&f->change);
    pthread_mutex_unlock(&f->mutex);
    return NULL;
}

/* ---- what packing asks ---- */

static int feed_begin(void *user, const char *const *names, int n, uint64_t write_bytes, fm_error *err) {
    feed *f = user;
    if (n != f->n) return fm_fail(err, FM_EFORMAT, "%s: it has %d shards, and packing needs %d", f->job->name.repo, f->n, n);
    for (int i = 0; i < n; i++) {
        const fm_fetch_file *file = find(f, names[i], NULL);
        if (!file) return fm_fail(err, FM_EFORMAT, "%s: packing needs %s, which it does not have", f->job->name.repo, names[i]);
        f->files[i] = *file;
        f->files[i].want = file->file->bytes;
    }
    f->job->total += write_bytes;
    f->job->what = "pulling and packing";
    f->job->hub.cancelled = stopped;
    f->job->hub.user = f;
    if (pthread_create(&f->thread, NULL, fetch_all, f)) return fm_fail(err, FM_ENOMEM, "%s: no thread to fetch it", f->job->name.repo);
    f->running = true;
    return 0;
}

static void wait_a_little(feed *f) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)(WAIT_SECONDS * 1e9);
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&f->change, &f->mutex, &until);
}

static int feed_wait(void *user, const char *name, fm_error *err) {
    feed *f = user;
    int at = 0, rc = 1;
    while (at < f->n && strcmp(f->files[at].file->name, name)) at++;
    while (rc > 0) {
        pthread_mutex_lock(&f->mutex);
        if (at > f->needed) f->needed = at;
        if (!f->arrived[at] && !f->over) wait_a_little(f);
        if (f->arrived[at]) {
            rc = 0;
        } else if (f->over) {
            rc = f->rc < 0 ? f->rc : FM_EIO;
            if (err) *err = f->err;
        }
        pthread_mutex_unlock(&f->mutex);
        if (rc > 0 && tell(f)) rc = fm_fail(err, FM_ECANCELLED, "pulling was cancelled");
    }
    return rc < 0 ? rc : fm_hub_stage_show(&f->stage, &f->files[at], err);
}

static const char *feed_hash(void *user, const char *name) {
    const fm_fetch_file *file = find(user, name, NULL);
    return file ? file->file->hash : "";
}

static uint64_t feed_missing(void *user, const char *name) {
    const feed *f = user;
    int at;
    const fm_fetch_file *file = find(f, name, &at);
    return file && (f->same_disk || f->mine[at]) ? file->file->bytes - fm_pull_here(file) : 0;
}

static bool feed_may_consume(void *user, const char *name) {
    const feed *f = user;
    int at;
    return find(f, name, &at) && f->mine[at];
}

static int on_packing(void *user, const char *what, uint64_t done, uint64_t total) {
    feed *f = user;
    (void)what, (void)total;
    f->packed = done;
    return tell(f);
}

/* ---- before packing ---- */

/* Without the cache, what is not in it goes into the stage. */
static int set_places(feed *f, fm_error *err) {
    fm_pull_job *job = f->job;
    struct stat a, b;
    for (int i = 0; i < job->listing.n_files && f->options.delete_consumed; i++) {
        fm_fetch_file *file = &job->files[i];
        if (fm_hub_has_bytes(file->whole, file->file->bytes)) continue;
        if (snprintf(file->whole, sizeof file->whole, "%s/%s", f->stage.path, file->file->name) >= (int)sizeof file->whole)
            return fm_fail(err, FM_EINVAL, "%s: the path is too long", f->stage.path);
        snprintf(file->part, sizeof file->part, "%s/%s.incomplete", f->stage.path, file->file->hash);
        file->lock[0] = '\0'; /* the stage has one */
        if (i >= f->first) f->mine[i - f->first] = true;
    }
    int rc = f->options.delete_consumed ? 0 : fm_hub_cache_make(&job->cache, job->listing.commit, err);
    f->same_disk = !f->options.delete_consumed && stat(job->cache.repo, &a) == 0 && stat(f->stage.path, &b) == 0 && a.st_dev == b.st_dev;
    return rc;
}

static int on_few_bytes(void *user, uint64_t done) {
    fm_pull_job *job = ((feed *)user)->job;
    (void)done;
    return fm_pull_tell(job, job->done);
}

static int fetch_small(feed *f, fm_error *err) {
    fm_pull_job *job = f->job;
    fm_fetch fetch = {.hub = &job->hub, .files = job->files, .n_files = f->first, .n_connections = job->options.n_connections, .user = f};
    fetch.progress = on_few_bytes;
    if (!f->options.delete_consumed) return fm_pull_fetch(job, 0, f->first, err);
    snprintf(fetch.commit, sizeof fetch.commit, "%s", job->listing.commit);
    return fm_fetch_run(&fetch, err);
}

/* The headers of all shards that are not whole. */
static int fetch_headers(feed *f, fm_error *err) {
    fm_pull_job *job = f->job;
    fm_fetch fetch = {.hub = &job->hub, .files = f->files, .n_connections = job->options.n_connections, .progress = on_few_bytes, .user = f};
    int rc = 0;
    snprintf(fetch.commit, sizeof fetch.commit, "%s", job->listing.commit);
    for (int again = 0; again < 2 && rc == 0; again++) {
        fetch.n_files = 0;
        for (int i = 0; i < f->n && rc == 0; i++) {
            fm_fetch_file *file = &job->files[f->first + i];
            uint64_t bytes = HEAD_BYTES;
            if (fm_hub_has_bytes(file->whole, file->file->bytes)) continue;
            if (again) rc = fm_hub_stage_header(file, &bytes, err);
            f->files[fetch.n_files] = *file;
            f->files[fetch.n_files++].want = bytes < file->file->bytes ? bytes : file->file->bytes;
        }
        if (rc == 0) rc = fm_fetch_run(&fetch, err);
    }
    return rc;
}

static int make_view(feed *f, fm_error *err) {
    int rc = fm_hub_stage_clear(&f->stage, err);
    for (int i = 0; i < f->job->listing.n_files && rc == 0; i++) {
        const fm_fetch_file *file = &f->job->files[i];
        bool whole = fm_hub_has_bytes(file->whole, file->file->bytes);
        rc = whole ? fm_hub_stage_show(&f->stage, file, err) : fm_hub_stage_ghost(&f->stage, file, err);
        if (i < f->first) f->before += file->file->bytes;
    }
    return rc;
}

/* Where the cache is on another disk than what is packed. */
static int check_room(const feed *f, const fm_pull_plan *p, fm_error *err) {
    uint64_t missing = p->bytes - p->here_bytes;
    if (f->options.delete_consumed || f->same_disk || missing <= p->free_bytes) return 0;
    return fm_fail(err, FM_EIO, "%s: it needs %" PRIu64 " bytes, but only %" PRIu64 " are free there", f->job->cache.repo, missing, p->free_bytes);
}

/* ---- all of it ---- */

static int open_feed(feed *f, fm_pull_job *job, fm_error *err) {
    const fm_pack_options *given = job->options.pack_options;
    *f = (feed){.job = job, .options = FM_PACK_OPTIONS_INIT, .stage = {.lock = -1}, .needed = -1};
    pthread_mutex_init(&f->mutex, NULL);
    pthread_cond_init(&f->change, NULL);
    if (given) memcpy(&f->options, given, given->size < sizeof f->options ? given->size : sizeof f->options);
    if (f->options.config_from) return fm_fail(err, FM_EINVAL, "%s: config_from is not for a model from the hub", job->name.repo);
    f->options.progress = on_packing;
    f->options.user = f;
    while (f->first < job->listing.n_files && !job->listing.files[f->first].weights) {
        if (!strcmp(job->listing.files[f->first++].name, "model.json"))
            return fm_fail(err, FM_EUNSUPPORTED, "%s: it is packed already: pull it as it is", job->name.repo);
    }
    f->n = job->listing.n_files - f->first;
    f->mine = calloc((size_t)f->n + 1, sizeof *f->mine);
    f->arrived = calloc((size_t)f->n + 1, sizeof *f->arrived);
    f->files = calloc((size_t)f->n + 1, sizeof *f->files);
    if (!f->mine || !f->arrived || !f->files) return fm_fail(err, FM_ENOMEM, "%s: no memory for %d files", job->name.repo, f->n);
    return fm_hub_stage_open(&f->stage, job->options.pack, job->name.repo, job->listing.commit, err);
}

static void close_feed(feed *f) {
    atomic_store(&f->stop, true);
    if (f->running) pthread_join(f->thread, NULL);
    fm_hub_stage_close(&f->stage);
    pthread_cond_destroy(&f->change);
    pthread_mutex_destroy(&f->mutex);
    free(f->mine);
    free(f->arrived);
    free(f->files);
}

int fm_pull_pack(fm_pull_job *job, fm_pull_result *result, fm_error *err) {
    char journal[FM_HUB_PATH];
    feed f;
    bool there = fm_path_exists(job->options.pack), mine = fm_hub_stage_here(job->options.pack);
    size_t n = strlen(job->options.pack);
    while (n > 1 && job->options.pack[n - 1] == '/') n--;
    snprintf(journal, sizeof journal, "%.*s.part.json", (int)n, job->options.pack);
    if (there && !mine) return fm_fail(err, FM_EIO, "%s: it is there already", job->options.pack);
    int rc = open_feed(&f, job, err);
    /* It became whole, and then the run was stopped before everything was put away. */
    bool whole = rc == 0 && there && !fm_path_exists(journal);
    if (rc == 0 && !whole) {
        fm_pack_feed asks = {feed_begin, feed_wait, feed_hash, feed_missing, feed_may_consume, f.options.delete_consumed ? AHEAD : f.n, &f};
        if ((rc = set_places(&f, err)) == 0 && (rc = check_room(&f, &result->plan, err)) == 0 && (rc = fetch_small(&f, err)) == 0 &&
            (rc = fetch_headers(&f, err)) == 0 && (rc = make_view(&f, err)) == 0)
            rc = fm_pack_model_fed(f.stage.view, job->options.pack, &f.options, &asks, &result->pack, err);
        if (rc == 0 && !f.options.delete_consumed) rc = fm_hub_cache_note(&job->cache, job->name.revision, job->listing.commit, err);
    }
    if (rc == 0) fm_hub_stage_remove(&f.stage);
    close_feed(&f);
    return rc;
}
