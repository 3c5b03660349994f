/* prepare/pack/pack.c: packing a model: what it will take, and the order of things, so that a stop at any moment loses one layer at most. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/system.h"
#include "base/write.h"
#include "families/families.h"
#include "prepare/pack/pack.h"

#define WAITING_THREADS 6                 /* more than CPUs: they wait for the disk */
#define MEASURE_BYTES ((uint64_t)1 << 30) /* less is not worth a measurement of the disk */
#define MEASURE_SECONDS 1.0
#define OTHER_BYTES ((uint64_t)48 << 20) /* the program, tables, the packer's stage */

/* ---- what the parts share ---- */

void fm_pack_stop(fm_pack_job *job, int thread, int rc) {
    job->errors[thread].code = rc;
    atomic_store(&job->failed, 1);
}

int fm_pack_first_error(const fm_pack_job *job, fm_error *err) {
    for (int i = 0; i < job->n_threads; i++) {
        if (!job->errors[i].code) continue;
        if (err) *err = job->errors[i];
        return job->errors[i].code;
    }
    return 0;
}

bool fm_pack_cancelled(const fm_pack_job *job, const char *what, uint64_t done, uint64_t total) {
    return job->options.progress && job->options.progress(job->options.user, what, done, total);
}

int fm_pack_finite(const fm_model *model, const fm_tensor *t, const uint8_t *data, uint64_t first, uint64_t n, fm_error *err) {
    if (t->dtype != FM_F32 && t->dtype != FM_F16 && t->dtype != FM_BF16 && t->dtype != FM_F8_E4M3) return 0;
    int64_t bad = fm_find_nonfinite(data, t->dtype, n);
    if (bad < 0) return 0;
    if (t->dtype == FM_F8_E4M3) return fm_model_nonfinite(model, t, first + (uint64_t)bad, NAN, err);
    const fm_matrix_type one = {.format = t->dtype == FM_F32 ? FM_FORMAT_F32 : t->dtype == FM_F16 ? FM_FORMAT_F16 : FM_FORMAT_BF16, .rows = 1, .cols = 1};
    float value;
    fm_matrix_row(&(fm_matrix){one, data + (size_t)bad * fm_dtype_bytes(t->dtype)}, 0, &value);
    return fm_model_nonfinite(model, t, first + (uint64_t)bad, value, err);
}

/* ---- what it will be ---- */

static bool is_bits(int bits) { return bits == FM_BITS_KEEP || bits == FM_BITS_BF16 || (bits >= 2 && bits <= 8 && bits != 7); }

static int complete(fm_pack_options *o, const fm_pack_options *given, fm_error *err) {
    *o = (fm_pack_options)FM_PACK_OPTIONS_INIT;
    if (given) memcpy(o, given, given->size < sizeof *o ? given->size : sizeof *o);
    if (!is_bits(o->experts)) return fm_fail(err, FM_EINVAL, "%d bits of experts are none of 2, 3, 4, 5, 6 and 8", o->experts);
    if (o->experts_too && o->experts_too != 2 && o->experts_too != 4)
        return fm_fail(err, FM_EINVAL, "%d bits of the experts' second copies are none of 2 and 4, which are read into their slots as they are",
                       o->experts_too);
    if (o->experts_too && o->experts != FM_BITS_KEEP && o->experts_too >= o->experts)
        return fm_fail(err, FM_EINVAL, "the experts' second copies have %d bits, not fewer than the %d of the first", o->experts_too, o->experts);
    if (!is_bits(o->dense)) return fm_fail(err, FM_EINVAL, "%d bits of the dense part are none of 2, 3, 4, 5, 6 and 8", o->dense);
    if (o->group && o->group != 32 && o->group != 64 && o->group != 128) return fm_fail(err, FM_EINVAL, "a group of %d is none of 32, 64 and 128", o->group);
    if (o->n_threads < 0) return fm_fail(err, FM_EINVAL, "%d threads are not at least 1", o->n_threads);
    return 0;
}

static uint64_t layer_bytes(const fm_pack_job *job, int layer, uint64_t *expert) {
    fm_matrix_type types[FM_EXPERT_MATRICES];
    if (!job->model->description.layers[layer % job->model->description.n_layers].moe) return 0;
    fm_target_types(job->choice.experts[layer], types);
    uint64_t bytes = fm_pack_expert_bytes(types, NULL);
    if (expert && bytes > *expert) *expert = bytes;
    return (uint64_t)job->model->description.n_experts * (bytes + 8) + 8;
}

static uint64_t layer_bytes_only(const fm_pack_job *job, int layer) { return layer_bytes(job, layer, NULL); }

/* A sentence that differs wherever the bytes of what is written would. */
static uint64_t fingerprint(const fm_pack_job *job) {
    char *config = json_dumps(job->config.root, JSON_COMPACT | JSON_SORT_KEYS), line[400];
    uint64_t hash = config ? fm_pack_hash(config, strlen(config)) : 0;
    free(config);
    for (int i = 0; i < job->choice.n_items; i++) {
        const fm_dense_item *item = &job->choice.items[i];
        char to[32] = "";
        if (item->matrix) fm_type_text(to, &item->target.type);
        int n = snprintf(line, sizeof line, "%016" PRIx64 " %s %s %d", hash, item->name, to, item->target.search);
        hash = fm_pack_hash(line, (size_t)n);
    }
    for (int i = 0; i < job->choice.n_copies * job->model->description.n_layers * FM_EXPERT_MATRICES; i++) {
        const fm_target *t = &job->choice.experts[i / FM_EXPERT_MATRICES][i % FM_EXPERT_MATRICES];
        char to[32] = "";
        if (t->type.rows) fm_type_text(to, &t->type);
        int n = snprintf(line, sizeof line, "%016" PRIx64 " %d %s %d", hash, i, to, t->search);
        hash = fm_pack_hash(line, (size_t)n);
    }
    return hash;
}

/* The same of what the search weighs by. */
static uint64_t weights_fingerprint(const fm_pack_job *job, uint64_t hash) {
    const struct fm_profile_columns *c = job->choice.profile ? job->choice.profile->columns : NULL;
    for (int i = 0; c && i < job->choice.profile->n_layers * FM_N_COLUMNS; i++) {
        int layer = i / FM_N_COLUMNS, k = i % FM_N_COLUMNS;
        if (c->n[layer][k]) hash ^= fm_pack_hash(c->square[layer][k], (size_t)c->n[layer][k] * sizeof(float)) + hash * 31;
    }
    return c && c->n_head ? hash ^ (fm_pack_hash(c->head, (size_t)c->n_head * sizeof(float)) + hash * 31) : hash;
}

static json_t *describe_job(const fm_pack_job *job) {
    char hash[20];
    snprintf(hash, sizeof hash, "%016" PRIx64, weights_fingerprint(job, fingerprint(job)));
    return json_pack("{s:s, s:i, s:s, s:o}", "by", "flash-moe " FM_VERSION, "version", FM_PACK_VERSION, "matrices", hash, "sources",
                     fm_journal_sources(job->model, job->feed));
}

/* The directory that directory is to be in. */
static int parent_of(char parent[FM_PATH_BYTES], const char *directory, fm_error *err) {
    size_t n = strlen(directory);
    if (n == 0) return fm_fail(err, FM_EINVAL, "the directory to write has no name");
    while (n > 0 && directory[n - 1] == '/') n--;
    while (n > 0 && directory[n - 1] != '/') n--;
    if (n >= FM_PATH_BYTES) return fm_fail(err, FM_EINVAL, "%s: the path is too long", directory);
    snprintf(parent, FM_PATH_BYTES, "%.*s", n ? (int)n : 1, n ? directory : ".");
    return 0;
}

static bool same_disk(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev;
}

/* What is to be written and read from here on; the layers and the dense part that state names are done. */
static int plan_bytes(const fm_pack_job *job, fm_pack_plan *p, const json_t *state, const char *parent, fm_error *err) {
    const fm_description *d = &job->model->description;
    int64_t now = 0, most = 0;
    bool gives = job->options.delete_consumed && same_disk(job->model->tensors.files[0].path, parent);
    int rc = fm_dense_bytes(&job->choice, &p->dense_bytes, err);
    if (rc < 0) return rc;
    p->dense_done = json_is_object(json_object_get(state, "tensors"));
    p->model_bytes = p->dense_bytes;
    if (!p->dense_done) {
        p->source_bytes = fm_dense_source_bytes(&job->choice);
        p->write_bytes = p->dense_bytes;
        most = now = (int64_t)p->dense_bytes;
    }
    for (int i = 0; i < d->n_layers * job->choice.n_copies; i++) {
        int layer = fm_experts_layer(job, i), wide = layer % d->n_layers;
        uint64_t bytes = layer_bytes(job, layer, &p->expert_bytes);
        bool done = json_is_object(json_array_get(json_object_get(state, "layers"), (size_t)layer)), moe = d->layers[wide].moe;
        p->n_moe_layers += moe && layer == wide;
        p->n_layers_done += moe && done && layer == wide;
        p->model_bytes += bytes;
        if (!moe || done) continue;
        p->source_bytes += (uint64_t)d->n_experts * job->model->experts[wide].disk_bytes;
        p->write_bytes += bytes;
        now += (int64_t)bytes;
        if (now > most) most = now;
        if (gives && layer == wide) now -= (int64_t)fm_consume_bytes(job, wide);
    }
    p->disk_bytes = job->feed ? fm_uses_peak(job, state, p->dense_done ? 0 : p->dense_bytes, layer_bytes_only) : (uint64_t)most;
    return 0;
}

/* As many threads as were asked for and fit. */
static int plan_threads(fm_pack_job *job, fm_pack_plan *p, fm_error *err) {
    uint64_t budget = job->options.memory_bytes, shared = OTHER_BYTES + fm_dense_shared_bytes(&job->choice) + fm_dense_side_bytes(&job->choice);
    size_t dense = fm_dense_thread_bytes(&job->choice), experts = job->model->description.n_experts ? fm_experts_thread_bytes(job) : 0;
    int n = job->options.n_threads ? job->options.n_threads : fm_cpu_count() + WAITING_THREADS;
    if (!budget) budget = fm_memory_available() / 2 < ((uint64_t)2 << 30) ? fm_memory_available() / 2 : (uint64_t)2 << 30;
    job->thread_bytes = dense > experts ? dense : experts;
    if (job->thread_bytes < FM_DISK_PIECE) job->thread_bytes = FM_DISK_PIECE;
    job->thread_bytes = (job->thread_bytes + FM_FILE_PAGE - 1) / FM_FILE_PAGE * FM_FILE_PAGE;
    while (n > 1 && shared + (uint64_t)n * job->thread_bytes > budget) n--;
    job->n_threads = p->n_threads = n;
    p->memory_bytes = shared + (uint64_t)n * job->thread_bytes;
    if (p->memory_bytes <= budget) return 0;
    return fm_fail(err, FM_ENOMEM, "%s: packing it takes %" PRIu64 " MiB of memory at least, more than the %" PRIu64 " MiB it may use", job->model->path,
                   p->memory_bytes / 1048576 + 1, budget / 1048576);
}

static int check_model(const fm_model *model, fm_error *err) {
    if (!model->description.n_experts) return fm_fail(err, FM_EUNSUPPORTED, "%s: it has no experts to pack", model->path);
    return 0;
}

/* Opens everything but the packer, and plans. */
static int open_job(fm_pack_job *job, const char *model, const char *directory, const fm_pack_options *options, const fm_pack_feed *feed, fm_pack_plan *p,
                    fm_error *err) {
    char path[FM_PATH_BYTES], parent[FM_PATH_BYTES];
    int rc;
    *job = (fm_pack_job){.feed = feed};
    *p = (fm_pack_plan){0};
    if ((rc = complete(&job->options, options, err)) < 0) return rc;
    if ((rc = parent_of(parent, directory, err)) < 0) return rc;
    rc = feed ? fm_model_open(&job->model, model, job->options.config_from, fm_families, err)
              : fm_consumed_open(&job->model, model, directory, job->options.config_from, err);
    if (rc < 0 || (rc = check_model(job->model, err)) < 0) return rc;
    if (!fm_model_find_file(path, sizeof path, model, job->options.config_from, "config.json")) return fm_fail(err, FM_EIO, "%s: it has no config.json", model);
    if ((rc = fm_config_open(&job->config, path, err)) < 0 || (rc = fm_choice_make(&job->choice, job->model, &job->options, err)) < 0) return rc;
    if ((rc = fm_uses_make(job, err)) < 0 || (!feed && (rc = fm_choice_weigh(&job->choice, job->model, -1, err)) < 0)) return rc;
    if (job->options.delete_consumed && !feed && (rc = fm_consume_check(job, err)) < 0) return rc;
    const fm_description *d = &job->model->description;
    snprintf(p->source, sizeof p->source, "%s", job->model->source);
    snprintf(p->architecture, sizeof p->architecture, "%s", d->architecture);
    p->n_layers = d->n_layers;
    p->n_experts = d->n_experts;
    job->direct = true;
    for (int i = 0; i < job->model->tensors.n_files; i++) job->direct &= job->model->tensors.files[i].direct_fd >= 0;
    if ((rc = fm_journal_open(&job->journal, directory, describe_job(job), &job->figures, feed, err)) < 0) return rc;
    if ((rc = plan_bytes(job, p, job->journal.state, parent, err)) < 0 || (rc = plan_threads(job, p, err)) < 0) return rc;
    return fm_disk_free(parent, &p->free_bytes, err);
}

static void close_job(fm_pack_job *job) {
    fm_packer_close(&job->packer);
    fm_pool_close(&job->pool);
    fm_region_close(&job->buffers);
    free(job->errors);
    fm_journal_close(&job->journal);
    fm_choice_close(&job->choice);
    fm_config_close(&job->config);
    fm_uses_close(&job->uses);
    fm_model_close(&job->model);
}

/* A run that was stopped while it removed the files of a source that is packed; r: removes the rest. 1: so it was. */
static int consume_rest(const char *model, const char *directory, const fm_pack_options *given, fm_pack_result *r, fm_error *err) {
    fm_pack_options o;
    fm_figures figures;
    fm_journal journal;
    if (complete(&o, given, NULL) < 0 || !o.delete_consumed) return 0;
    const json_t *files = fm_journal_removing(&journal, model, directory, &figures);
    int rc = files ? 1 : 0;
    if (files && r) {
        fm_figures_result(&figures, r);
        int removed = fm_consume_rest(&journal, model, files, &r->kept_bytes, err);
        if (removed < 0) rc = removed;
    }
    fm_journal_close(&journal);
    return rc;
}

int fm_pack_plan_make(fm_pack_plan *out, const char *model, const char *directory, const fm_pack_options *options, fm_error *err) {
    fm_pack_job job;
    struct stat st;
    *out = (fm_pack_plan){0};
    if (consume_rest(model, directory, options, NULL, err)) return 0;
    int rc = open_job(&job, model, directory, options, NULL, out, err);
    if (rc == 0 && lstat(directory, &st) == 0 && !fm_path_exists(job.journal.path)) rc = fm_fail(err, FM_EIO, "%s: it is there already", directory);
    close_job(&job);
    return rc;
}

/* ---- files beside the weights ---- */

/* What config.json has to say of the dense part's matrices: what most of those that were made have, and whatever differs from it. */
static int set_quantization(const fm_pack_job *job, json_t *root, fm_error *err) {
    const fm_choice *choice = &job->choice;
    const fm_matrix_type *most = NULL;
    json_object_del(root, "quantization_config");
    json_object_del(root, "quantization");
    for (int i = 0; i < choice->n_items; i++) {
        const fm_dense_item *item = &choice->items[i];
        bool router = item->role == FM_ROUTER || item->role == FM_SHARED_GATE;
        if (item->matrix && item->target.type.format == FM_FORMAT_R16 && (!most || (item->target.made && !router))) most = &item->target.type;
        if (most && item->target.made && !router) break;
    }
    if (!most) return 0;
    json_t *q = json_pack("{s:i, s:i, s:s}", "group_size", most->group, "bits", most->bits, "mode", fm_is_mx(most) ? "mxfp4" : "affine");
    int rc = json_object_set_new(root, "quantization", q);
    for (int i = 0; i < choice->n_items && rc == 0; i++) {
        const fm_matrix_type *t = &choice->items[i].target.type;
        if (!choice->items[i].matrix || t->format != FM_FORMAT_R16 || (t->bits == most->bits && t->group == most->group && fm_is_mx(t) == fm_is_mx(most)))
            continue;
        rc = json_object_set_new(q, choice->items[i].name,
                                 json_pack("{s:i, s:i, s:s}", "group_size", t->group, "bits", t->bits, "mode", fm_is_mx(t) ? "mxfp4" : "affine"));
    }
    return rc ? fm_fail(err, FM_ENOMEM, "%s: no memory for its config.json", job->model->path) : 0;
}

static int write_config(fm_pack_job *job, fm_error *err) {
    if (!job->choice.requantised) return fm_packer_copy(job->packer, "config.json", job->config.path, err);
    json_t *root = json_deep_copy(job->config.root);
    int rc = root ? set_quantization(job, root, err) : FM_ENOMEM;
    char *text = rc == 0 ? json_dumps(root, JSON_INDENT(4)) : NULL;
    json_decref(root);
    if (text) rc = fm_packer_file(job->packer, "config.json", text, strlen(text), err);
    if (rc == 0 && !text) rc = fm_fail(err, FM_ENOMEM, "%s: no memory for its config.json", job->model->path);
    free(text);
    return rc;
}

static int write_texts(fm_pack_job *job, fm_error *err) {
    static const char *const names[] = {
        "generation_config.json", "tokenizer.json",    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
        "chat_template.jinja",    "chat_template.json"};
    char path[FM_PATH_BYTES];
    int rc = write_config(job, err);
    for (size_t i = 0; i < sizeof names / sizeof *names && rc == 0; i++) {
        if (fm_model_find_file(path, sizeof path, job->model->path, job->options.config_from, names[i])) rc = fm_packer_copy(job->packer, names[i], path, err);
    }
    return rc;
}

/* ---- doing it ---- */

static int save_journal(fm_pack_job *job, fm_error *err) {
    json_t *state = fm_packer_state(job->packer);
    int rc = state ? fm_journal_save(&job->journal, state, &job->figures, err) : fm_fail(err, FM_ENOMEM, "no memory for a journal");
    json_decref(state);
    return rc;
}

/* After the journal is there, so that DIR.part without one is never ours. */
static int open_output(fm_pack_job *job, const char *directory, fm_pack_result *r, fm_error *err) {
    const fm_description *d = &job->model->description;
    const int shape[3] = {d->n_layers, d->n_experts, job->choice.n_copies};
    char parent[FM_PATH_BYTES];
    int rc;
    if (!job->journal.state && (rc = fm_journal_save(&job->journal, NULL, &job->figures, err)) < 0) return rc;
    if ((rc = fm_packer_open_copies(&job->packer, directory, shape, job->journal.state, err)) < 0) return rc;
    if ((rc = parent_of(parent, directory, err)) < 0 || (rc = fm_disk_free(parent, &r->plan.free_bytes, err)) < 0) return rc;
    if (r->plan.disk_bytes <= r->plan.free_bytes) return 0;
    return fm_fail(err, FM_EIO, "%s: it needs %" PRIu64 " bytes, but only %" PRIu64 " are free there", directory, r->plan.disk_bytes, r->plan.free_bytes);
}

static int open_threads(fm_pack_job *job, fm_error *err) {
    int rc = fm_pool_open(&job->pool, job->n_threads, err);
    if (rc < 0) return rc;
    if (!(job->errors = calloc((size_t)job->n_threads, sizeof *job->errors))) return fm_fail(err, FM_ENOMEM, "no memory for %d threads", job->n_threads);
    return fm_region_open(&job->buffers, (size_t)job->n_threads * job->thread_bytes + fm_dense_shared_bytes(&job->choice), "packing", err);
}

static void measure_disk(fm_pack_job *job, const char *directory, fm_pack_result *r) {
    char path[FM_PATH_BYTES];
    if (r->plan.write_bytes < MEASURE_BYTES || snprintf(path, sizeof path, "%s.part/measured", directory) >= (int)sizeof path) return;
    r->disk_read_per_second = fm_disk_read_rate(job->pool, job->model->tensors.files, job->model->tensors.n_files, job->buffers.data, MEASURE_SECONDS);
    r->disk_write_per_second = fm_disk_write_rate(job->pool, path, job->buffers.data, MEASURE_SECONDS);
}

static int write_dense(fm_pack_job *job, fm_error *err) {
    uint64_t before = job->done;
    int rc = fm_packer_has_dense(job->packer) ? 1 : fm_feed_wait(job, -1, err);
    if (rc != 0) return rc < 0 ? rc : 0;
    if ((rc = fm_dense_write(job, err)) < 0 || (rc = fm_journal_check(&job->journal, job->model, err)) < 0) return rc;
    job->written_bytes += job->done - before;
    return save_journal(job, err);
}

/* The dense part lies in all files: of what arrives it comes last. */
static int write_model(fm_pack_job *job, fm_error *err) {
    int rc = write_texts(job, err);
    if (rc < 0 || (!job->feed && (rc = write_dense(job, err)) < 0)) return rc;
    if ((rc = fm_experts_write(job, err)) < 0 || (rc = write_dense(job, err)) < 0) return rc;
    return fm_packer_finish(job->packer, "flash-moe " FM_VERSION " pack", err);
}

static int run_job(fm_pack_job *job, const char *directory, fm_pack_result *r, fm_error *err) {
    struct stat st;
    int rc;
    if (lstat(directory, &st) == 0) {
        /* It became whole, and then the run was stopped before it could say so. */
        if (!job->journal.state) return fm_fail(err, FM_EIO, "%s: it is there already", directory);
    } else {
        if ((rc = open_threads(job, err)) < 0 || (rc = open_output(job, directory, r, err)) < 0) return rc;
        if (!job->feed) measure_disk(job, directory, r);
        if (job->feed && (rc = fm_feed_begin(job, r->plan.write_bytes, err)) < 0) return rc;
        double begin = fm_now();
        job->total = r->plan.write_bytes;
        if ((rc = write_model(job, err)) < 0) return rc;
        r->seconds = fm_now() - begin;
    }
    if (job->options.delete_consumed && !job->feed) return fm_consume_files(job, &r->kept_bytes, err);
    fm_journal_remove(&job->journal);
    return 0;
}

int fm_pack_model_fed(const char *model, const char *directory, const fm_pack_options *options, const fm_pack_feed *feed, fm_pack_result *result,
                      fm_error *err) {
    fm_pack_job job;
    fm_pack_result none, *r = result ? result : &none;
    *r = (fm_pack_result){0};
    int rc = feed ? 0 : consume_rest(model, directory, options, r, err);
    if (rc != 0) return rc < 0 ? rc : 0;
    rc = open_job(&job, model, directory, options, feed, &r->plan, err);
    if (rc == 0) rc = run_job(&job, directory, r, err);
    fm_figures_result(&job.figures, r);
    r->n_unfit = job.choice.n_unfit;
    r->read_bytes = atomic_load(&job.read_bytes);
    r->written_bytes = job.written_bytes;
    r->direct = job.direct;
    close_job(&job);
    return rc;
}

int fm_pack_model(const char *model, const char *directory, const fm_pack_options *options, fm_pack_result *result, fm_error *err) {
    return fm_pack_model_fed(model, directory, options, NULL, result, err);
}
