/* prepare/pack/verify.c: reads all of a packed model and checks every hash. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/system.h"
#include "families/families.h"
#include "formats/json.h"
#include "prepare/pack/pack.h"

#define WAITING_THREADS 6
#define MEASURE_BYTES ((uint64_t)1 << 30)
#define MEASURE_SECONDS 1.0
#define RUN 64 /* experts between two looks at the progress callback */

typedef struct verifier {
    fm_model *model;
    json_t *hashes; /* of the dense part's tensors */
    fm_pool *pool;
    fm_region buffers;
    size_t thread_bytes;
    fm_error *errors; /* [n_threads] that stop it */
    atomic_int failed;
    fm_error *wrong; /* [tasks of a run] code 0: right */
    const int *tensors;
    int layer, first;
} verifier;

static int read_hash(const verifier *v, const char *name, uint64_t *hash, fm_error *err) {
    const char *text = json_string_value(json_object_get(v->hashes, name));
    char *end;
    if (!text) return fm_fail(err, FM_EFORMAT, "%s/model.json: it has no hash of tensor %s", v->model->path, name);
    *hash = strtoull(text, &end, 16);
    return strlen(text) == 16 && !*end ? 0 : fm_fail(err, FM_EFORMAT, "%s/model.json: the hash of tensor %s is %.40s", v->model->path, name, text);
}

static void fail(verifier *v, int thread, int rc) {
    v->errors[thread].code = rc;
    atomic_store(&v->failed, 1);
}

/* One tensor of the dense part: its bytes are one stream, so one thread reads them. */
static void tensor_task(void *arg, int task, int thread) {
    verifier *v = arg;
    const fm_tensor *t = &v->model->tensors.tensors[v->tensors[v->first + task]];
    const fm_file *file = &v->model->tensors.files[t->file];
    uint8_t *buffer = v->buffers.data + (size_t)thread * v->thread_bytes;
    size_t piece = v->thread_bytes - 2 * FM_FILE_PAGE;
    uint64_t want = 0;
    int rc = read_hash(v, t->name, &want, &v->wrong[task]);
    if (rc < 0 || atomic_load_explicit(&v->failed, memory_order_relaxed)) return;
    fm_pack_hasher *hasher = fm_pack_hasher_open();
    if (!hasher) rc = fm_fail(&v->errors[thread], FM_ENOMEM, "no memory for a hash");
    for (uint64_t at = 0; at < t->bytes && rc == 0; at += piece) {
        size_t n = t->bytes - at < piece ? (size_t)(t->bytes - at) : piece;
        const uint8_t *data;
        if ((rc = fm_file_read_direct(file, buffer, t->offset + at, n, &data, &v->errors[thread])) == 0) fm_pack_hasher_feed(hasher, data, n);
    }
    if (rc < 0) {
        fail(v, thread, rc);
    } else if (fm_pack_hasher_value(hasher) != want) {
        fm_fail(&v->wrong[task], FM_EFORMAT, "%s: tensor %s, %" PRIu64 " bytes at %" PRIu64 ": the hash is %016" PRIx64 " and should be %016" PRIx64,
                file->path, t->name, t->bytes, t->offset, fm_pack_hasher_value(hasher), want);
    }
    fm_pack_hasher_close(hasher);
}

static void expert_task(void *arg, int task, int thread) {
    verifier *v = arg;
    const fm_pack_layer *l = &v->model->pack->layers[v->layer];
    int expert = v->first + task;
    const uint8_t *data;
    if (atomic_load_explicit(&v->failed, memory_order_relaxed)) return;
    int rc = fm_file_read_direct(&v->model->tensors.files[l->file], v->buffers.data + (size_t)thread * v->thread_bytes, (uint64_t)expert * l->bytes, l->bytes,
                                 &data, &v->errors[thread]);
    if (rc < 0)
        fail(v, thread, rc);
    else
        (void)fm_expert_verify(v->model, v->layer * v->model->description.n_experts + expert, data, &v->wrong[task]);
}

typedef struct watch {
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;
    uint64_t total;
} watch;

/* Runs n tasks and gathers what they found. */
static int run(verifier *v, int n, fm_task_fn fn, const watch *w, fm_verify_result *out, fm_error *err) {
    memset(v->wrong, 0, (size_t)n * sizeof *v->wrong);
    fm_pool_run(v->pool, n, fn, v);
    for (int i = 0; i < fm_pool_n_threads(v->pool); i++) {
        if (!v->errors[i].code) continue;
        if (err) *err = v->errors[i];
        return v->errors[i].code;
    }
    for (int i = 0; i < n; i++) {
        if (!v->wrong[i].code) continue;
        if (out->n_wrong < FM_VERIFY_WRONG) snprintf(out->wrong[out->n_wrong], sizeof out->wrong[0], "%.299s", v->wrong[i].message);
        out->n_wrong++;
    }
    if (w->progress && w->progress(w->user, "verifying", out->bytes, w->total)) return fm_fail(err, FM_ECANCELLED, "verifying was cancelled");
    return 0;
}

static int verify_dense(verifier *v, const int *tensors, int n, const watch *w, fm_verify_result *out, fm_error *err) {
    int rc = 0;
    v->tensors = tensors;
    for (v->first = 0; v->first < n && rc == 0; v->first += RUN) {
        int count = n - v->first < RUN ? n - v->first : RUN;
        for (int i = 0; i < count; i++) out->bytes += v->model->tensors.tensors[tensors[v->first + i]].bytes;
        out->n_tensors += count;
        rc = run(v, count, tensor_task, w, out, err);
    }
    return rc;
}

static int verify_experts(verifier *v, const watch *w, fm_verify_result *out, fm_error *err) {
    const fm_description *d = &v->model->description;
    int rc = 0;
    for (int layer = 0; layer < v->model->n_copies * d->n_layers && rc == 0; layer++) {
        const fm_pack_layer *l = &v->model->pack->layers[layer];
        bool again = l->file < 0;
        for (int before = 0; before < layer; before++) again |= v->model->pack->layers[before].file == l->file;
        v->layer = layer;
        for (v->first = 0; !again && v->first < d->n_experts && rc == 0; v->first += RUN) {
            int count = d->n_experts - v->first < RUN ? d->n_experts - v->first : RUN;
            out->bytes += (uint64_t)count * l->bytes;
            out->n_experts += count;
            rc = run(v, count, expert_task, w, out, err);
        }
    }
    return rc;
}

static int open_verifier(verifier *v, const char *directory, int n_threads, fm_error *err) {
    char path[FM_PATH_BYTES];
    json_t *root;
    int rc = fm_path_join(path, sizeof path, directory, "model.json", err);
    if (rc < 0) return rc;
    if (!fm_pack_here(directory)) return fm_fail(err, FM_EFORMAT, "%s: it has no model.json, so it is no packed model, and only these have hashes", directory);
    if ((rc = fm_model_open(&v->model, directory, NULL, fm_families, err)) < 0 || (rc = fm_json_open(&root, path, err)) < 0) return rc;
    v->hashes = json_incref(json_object_get(json_object_get(root, "dense"), "tensors"));
    json_decref(root);
    if (n_threads < 0) return fm_fail(err, FM_EINVAL, "%d threads are not at least 1", n_threads);
    if ((rc = fm_pool_open(&v->pool, n_threads ? n_threads : fm_cpu_count() + WAITING_THREADS, err)) < 0) return rc;
    v->thread_bytes = FM_DISK_PIECE;
    for (int i = 0; i < v->model->n_copies * v->model->pack->n_layers; i++) {
        if (v->model->pack->layers[i].bytes > v->thread_bytes) v->thread_bytes = (size_t)v->model->pack->layers[i].bytes;
    }
    v->thread_bytes += 2 * FM_FILE_PAGE;
    v->errors = calloc((size_t)fm_pool_n_threads(v->pool), sizeof *v->errors);
    v->wrong = calloc(RUN, sizeof *v->wrong);
    if (!v->errors || !v->wrong) return fm_fail(err, FM_ENOMEM, "no memory for %d threads", fm_pool_n_threads(v->pool));
    return fm_region_open(&v->buffers, (size_t)fm_pool_n_threads(v->pool) * v->thread_bytes, "verifying", err);
}

static int verify(verifier *v, const watch *w, fm_verify_result *out, fm_error *err) {
    const fm_tensors *t = &v->model->tensors;
    int *dense = malloc(((size_t)t->n_tensors + 1) * sizeof *dense), n = t->n_tensors, rc;
    if (!dense) return fm_fail(err, FM_ENOMEM, "no memory for %d tensors", n);
    for (int i = 0; i < n; i++) dense[i] = i;
    if (w->total >= MEASURE_BYTES) out->disk_per_second = fm_disk_read_rate(v->pool, t->files, t->n_files, v->buffers.data, MEASURE_SECONDS);
    double begin = fm_now();
    if ((rc = verify_dense(v, dense, n, w, out, err)) == 0) rc = verify_experts(v, w, out, err);
    out->seconds = fm_now() - begin;
    out->n_files = t->n_files;
    free(dense);
    return rc;
}

int fm_verify_model(const char *directory, int n_threads, int (*progress)(void *user, const char *what, uint64_t done, uint64_t total), void *user,
                    fm_verify_result *out, fm_error *err) {
    verifier v = {0};
    watch w = {progress, user, 0};
    *out = (fm_verify_result){0};
    int rc = open_verifier(&v, directory, n_threads, err);
    for (int i = 0; rc == 0 && i < v.model->tensors.n_files; i++) w.total += v.model->tensors.files[i].size;
    if (rc == 0) rc = verify(&v, &w, out, err);
    fm_region_close(&v.buffers);
    fm_pool_close(&v.pool);
    free(v.errors);
    free(v.wrong);
    json_decref(v.hashes);
    fm_model_close(&v.model);
    return rc < 0 ? rc : out->n_wrong;
}
