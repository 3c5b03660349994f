/* hub/pull.c: a model from the hub: what it has, what of it is needed, whether it fits, and then fetching it. */
#include "hub/pull.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/system.h"
#include "base/write.h"
#include "families/families.h"
#include "model/model.h"

#define ANSWER_BYTES ((size_t)64 << 20)
#define CONFIG_BYTES ((size_t)4 << 20)
#define SPARE_BYTES ((uint64_t)16 << 20) /* folders, links, and what others write meanwhile */

/* ---- asking ---- */

int fm_pull_tell(fm_pull_job *job, uint64_t done) {
    job->done = done;
    return job->options.progress ? job->options.progress(job->options.user, job->what, done, job->total) : 0;
}

static int cancelled(void *user) {
    fm_pull_job *job = user;
    return fm_pull_tell(job, job->done);
}

static int complete_file(fm_pull_job *job, fm_hub_file *file, fm_error *err) {
    return file->hash[0] ? 0 : fm_hub_stat(&job->hub, job->listing.commit, file->name, &file->bytes, file->hash, err);
}

/* The text of a small file, with its hash checked. */
static int get_file(fm_pull_job *job, const char *name, size_t limit, char **text, size_t *bytes, fm_error *err) {
    fm_hub_file *file = (fm_hub_file *)fm_hub_listing_find(&job->listing, name);
    char url[FM_HUB_URL], hash[65];
    fm_hub_hash h;
    if (!file) return fm_fail(err, FM_EFORMAT, "%s: it has no %s", job->name.repo, name);
    int rc = complete_file(job, file, err);
    if (rc < 0) return rc;
    fm_hub_file_url(&job->hub, job->listing.commit, name, url);
    if ((rc = fm_hub_get(&job->hub, url, name, limit, text, bytes, err)) < 0) return rc;
    fm_hub_hash_open(&h, file->hash, *bytes);
    fm_hub_hash_feed(&h, *text, *bytes);
    fm_hub_hash_text(&h, hash);
    if (!strcmp(hash, file->hash)) return 0;
    free(*text);
    *text = NULL;
    return fm_fail(err, FM_EFORMAT, "%s/%s: what arrived has the hash %s, and the hub says %s", job->name.repo, name, hash, file->hash);
}

/* FM_EUNSUPPORTED, before anything large is fetched, for a model that could not be run. */
static int check_family(fm_pull_job *job, char architecture[96], fm_error *err) {
    char *text, place[300];
    size_t bytes;
    const fm_family *family;
    fm_description description = {0};
    fm_config config;
    int rc = get_file(job, "config.json", CONFIG_BYTES, &text, &bytes, err);
    if (rc < 0) return rc;
    snprintf(place, sizeof place, "%s/config.json", job->name.repo);
    rc = fm_config_parse(&config, text, bytes, place, err);
    free(text);
    if (rc < 0) return rc;
    rc = fm_model_find_family(&family, &description, &config, fm_families, err);
    snprintf(architecture, 96, "%s", description.architecture);
    fm_config_close(&config);
    return rc == FM_EUNSUPPORTED && job->options.any_model ? 0 : rc;
}

static int select_files(fm_pull_job *job, fm_error *err) {
    char *index = NULL;
    size_t bytes = 0;
    int rc = 0;
    if (fm_hub_listing_find(&job->listing, FM_HUB_INDEX)) rc = get_file(job, FM_HUB_INDEX, ANSWER_BYTES, &index, &bytes, err);
    if (rc == 0) rc = fm_hub_listing_select(&job->listing, job->name.repo, index, bytes, err);
    free(index);
    for (int i = 0; i < job->listing.n_files && rc == 0; i++) rc = complete_file(job, &job->listing.files[i], err);
    return rc;
}

static int list_files(fm_pull_job *job, fm_error *err) {
    char path[FM_HUB_PATH];
    if (!(job->files = calloc((size_t)job->listing.n_files, sizeof *job->files)))
        return fm_fail(err, FM_ENOMEM, "%s: no memory for %d files", job->name.repo, job->listing.n_files);
    for (int i = 0; i < job->listing.n_files; i++) {
        const fm_hub_file *file = &job->listing.files[i];
        fm_fetch_file *f = &job->files[i];
        *f = (fm_fetch_file){.file = file, .want = file->bytes};
        fm_hub_blob_path(&job->cache, file->hash, f->whole);
        if (snprintf(path, sizeof path, "%s/%s", job->snapshot, file->name) >= (int)sizeof path ||
            snprintf(f->part, sizeof f->part, "%s/blobs/%s.incomplete", job->cache.repo, file->hash) >= (int)sizeof f->part ||
            snprintf(f->lock, sizeof f->lock, "%s/%s.lock", job->cache.locks, file->hash) >= (int)sizeof f->lock)
            return fm_fail(err, FM_EINVAL, "%s: the path is too long", job->cache.repo);
        /* Where there are no links the snapshot has the contents themselves. */
        if (!fm_path_exists(f->whole) && fm_hub_has_bytes(path, file->bytes)) snprintf(f->whole, sizeof f->whole, "%s", path);
        job->total += file->bytes;
    }
    return 0;
}

static int ask_hub(fm_pull_job *job, char architecture[96], fm_error *err) {
    char url[FM_HUB_URL], *text;
    size_t bytes;
    fm_hub_api_url(&job->hub, job->name.revision, url);
    int rc = fm_hub_get(&job->hub, url, "", ANSWER_BYTES, &text, &bytes, err);
    if (rc < 0) return rc;
    rc = fm_hub_listing_parse(&job->listing, job->name.repo, text, bytes, err);
    free(text);
    if (rc == 0) rc = check_family(job, architecture, err);
    return rc == 0 ? select_files(job, err) : rc;
}

/* Asks the hub and fills everything; nothing is written. */
static int open_job(fm_pull_job *job, const char *name, const fm_pull_options *options, char architecture[96], fm_error *err) {
    *job = (fm_pull_job){.options = FM_PULL_OPTIONS_INIT, .what = "asking the hub"};
    if (options) memcpy(&job->options, options, options->size < sizeof job->options ? options->size : sizeof job->options);
    int rc = fm_hub_name_read(&job->name, name, err);
    if (rc < 0 || (rc = fm_hub_open(&job->hub, job->options.endpoint, job->options.token, job->name.repo, err)) < 0) return rc;
    if ((rc = fm_hub_cache_open(&job->cache, job->options.cache, job->name.repo, err)) < 0) return rc;
    job->hub.n_retries = job->options.n_retries > 0 ? job->options.n_retries : 10;
    job->hub.cancelled = cancelled;
    job->hub.user = job;
    if (job->options.n_connections <= 0) job->options.n_connections = 8;
    if ((rc = ask_hub(job, architecture, err)) < 0) return rc;
    fm_hub_snapshot_path(&job->cache, job->listing.commit, job->snapshot);
    job->what = "pulling";
    return list_files(job, err);
}

static void close_job(fm_pull_job *job) {
    fm_hub_listing_close(&job->listing);
    free(job->files);
    fm_hub_close(&job->hub);
    *job = (fm_pull_job){0};
}

/* ---- what it will take ---- */

uint64_t fm_pull_here(const fm_fetch_file *f) {
    struct stat st;
    if (fm_hub_has_bytes(f->whole, f->file->bytes)) return f->file->bytes;
    return stat(f->part, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size <= f->file->bytes ? (uint64_t)st.st_size : 0;
}

/* Free bytes where path is, or would be. */
static int free_bytes(const char *path, uint64_t *bytes, fm_error *err) {
    char at[FM_HUB_PATH];
    snprintf(at, sizeof at, "%s", path);
    while (!fm_path_exists(at)) {
        char *slash = strrchr(at, '/');
        if (!slash || slash == at) {
            snprintf(at, sizeof at, "%s", slash ? "/" : ".");
            break;
        }
        *slash = '\0';
    }
    return fm_disk_free(at, bytes, err);
}

static int make_plan(const fm_pull_job *job, fm_pull_plan *p, fm_error *err) {
    snprintf(p->name, sizeof p->name, "%s", job->name.repo);
    snprintf(p->revision, sizeof p->revision, "%s", job->name.revision);
    snprintf(p->commit, sizeof p->commit, "%s", job->listing.commit);
    snprintf(p->path, sizeof p->path, "%s", job->snapshot);
    p->n_files = job->listing.n_files;
    for (int i = 0; i < p->n_files; i++) {
        uint64_t here = fm_pull_here(&job->files[i]);
        p->bytes += job->files[i].file->bytes;
        p->here_bytes += here;
        if (job->options.file) job->options.file(job->options.user, job->files[i].file->name, job->files[i].file->bytes, here);
    }
    return free_bytes(job->cache.repo, &p->free_bytes, err);
}

int fm_pull_plan_make(fm_pull_plan *out, const char *name, const fm_pull_options *options, fm_error *err) {
    fm_pull_job job;
    *out = (fm_pull_plan){0};
    int rc = open_job(&job, name, options, out->architecture, err);
    if (rc == 0) rc = make_plan(&job, out, err);
    close_job(&job);
    return rc;
}

/* ---- doing it ---- */

static int arrived(void *user, int file, fm_error *err) {
    fm_pull_job *job = user;
    return fm_hub_cache_link(&job->cache, job->listing.commit, job->files[job->first + file].file, err);
}

static int tell(void *user, uint64_t done) { return fm_pull_tell(user, done); }

int fm_pull_fetch(fm_pull_job *job, int first, int n, fm_error *err) {
    fm_fetch fetch = {.hub = &job->hub, .files = job->files + first, .n_files = n, .n_connections = job->options.n_connections, .user = job};
    snprintf(fetch.commit, sizeof fetch.commit, "%s", job->listing.commit);
    fetch.progress = tell;
    fetch.arrived = arrived;
    job->first = first;
    return fm_fetch_run(&fetch, err);
}

int fm_pull(const char *name, const fm_pull_options *options, fm_pull_result *result, fm_error *err) {
    fm_pull_job job;
    fm_pull_result none, *r = result ? result : &none;
    *r = (fm_pull_result){0};
    int rc = open_job(&job, name, options, r->plan.architecture, err);
    if (rc == 0) rc = make_plan(&job, &r->plan, err);
    double begin = fm_now();
    if (rc == 0 && job.options.pack) {
        rc = fm_pull_pack(&job, r, err);
    } else if (rc == 0) {
        uint64_t missing = r->plan.bytes - r->plan.here_bytes;
        if (missing && missing + SPARE_BYTES > r->plan.free_bytes)
            rc = fm_fail(err, FM_EIO, "%s: it needs %" PRIu64 " bytes, but only %" PRIu64 " are free there", job.cache.repo, missing + SPARE_BYTES,
                         r->plan.free_bytes);
        if (rc == 0) rc = fm_hub_cache_make(&job.cache, job.listing.commit, err);
        if (rc == 0) rc = fm_pull_fetch(&job, 0, job.listing.n_files, err);
        if (rc == 0) rc = fm_hub_cache_note(&job.cache, job.name.revision, job.listing.commit, err);
    }
    r->seconds = fm_now() - begin;
    close_job(&job);
    return rc;
}
