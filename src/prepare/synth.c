/* prepare/synth.c: writes a model of random weights: numbers are made by all threads while others wait for the disk. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/memory.h"
#include "base/pool.h"
#include "base/system.h"
#include "base/write.h"
#include "formats/safetensors.h"
#include "prepare/recipe.h"
#include "text/tokenizer.h"

#define PATH_BYTES 1300
#define MAX_PIECES 16 /* of the dense part that are made at once */

typedef struct progress {
    int (*fn)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;
} progress;

typedef struct times { /* of one thread */
    _Alignas(64) double random_seconds, writing_seconds;
} times;

typedef struct synth {
    const fm_recipe *recipe;
    fm_packer *packer;
    fm_pool *pool;
    progress progress;
    times *clocks;    /* [n_threads] */
    fm_error *errors; /* [n_threads] */
    atomic_int failed;

    /* The dense part: pieces are made in one half of the buffer while those in the other are written. */
    uint8_t *half[2];
    struct dense_piece {
        const fm_recipe_tensor *tensor;
        uint64_t index;
        size_t bytes;
    } pieces[2][MAX_PIECES];
    int n_pieces[2], making;

    /* Experts. */
    uint8_t *experts; /* [n_threads][expert_bytes] */
    uint64_t expert_bytes, offsets[FM_EXPERT_MATRICES], total;
    _Atomic uint64_t done;
    int layer;
} synth;

/* Notes what a thread met; the others stop. */
static void stop(synth *s, int thread, int rc) {
    s->errors[thread].code = rc;
    atomic_store(&s->failed, 1);
}

static int first_error(const synth *s, fm_error *err) {
    for (int i = 0; i < fm_pool_n_threads(s->pool); i++) {
        if (!s->errors[i].code) continue;
        if (err) *err = s->errors[i];
        return s->errors[i].code;
    }
    return 0;
}

static bool cancelled(const synth *s, const char *what, uint64_t done, uint64_t total) {
    return s->progress.fn && s->progress.fn(s->progress.user, what, done, total);
}

static int cancel(fm_error *err) { return fm_fail(err, FM_ECANCELLED, "writing the model was cancelled"); }

/* ---- the dense part ---- */

static void write_half(synth *s, int thread) {
    int which = !s->making, rc = 0;
    double before = fm_now();
    for (int i = 0; i < s->n_pieces[which] && rc == 0; i++) {
        rc = fm_packer_dense_write(s->packer, s->half[which] + (size_t)i * FM_RANDOM_PIECE, s->pieces[which][i].bytes, &s->errors[thread]);
    }
    if (rc < 0) stop(s, thread, rc);
    s->clocks[thread].writing_seconds += fm_now() - before;
}

/* Task 0 writes what was made in the run before; the others make a piece each. */
static void dense_task(void *arg, int task, int thread) {
    synth *s = arg;
    if (task == 0) {
        write_half(s, thread);
        return;
    }
    const struct dense_piece *p = &s->pieces[s->making][task - 1];
    double before = fm_now();
    fm_random_piece(s->half[s->making] + (size_t)(task - 1) * FM_RANDOM_PIECE, &p->tensor->values, p->index, p->bytes);
    s->clocks[thread].random_seconds += fm_now() - before;
}

/* The next pieces after (tensor, index), which move on. */
static void list_pieces(synth *s, int *tensor, uint64_t *index) {
    int n = 0;
    for (; n < MAX_PIECES && *tensor < s->recipe->n_tensors;) {
        const fm_recipe_tensor *t = &s->recipe->tensors[*tensor];
        uint64_t at = *index * FM_RANDOM_PIECE;
        if (at >= t->bytes) {
            ++*tensor;
            *index = 0;
            continue;
        }
        s->pieces[s->making][n++] = (struct dense_piece){t, (*index)++, t->bytes - at < FM_RANDOM_PIECE ? (size_t)(t->bytes - at) : FM_RANDOM_PIECE};
    }
    s->n_pieces[s->making] = n;
}

static int write_dense(synth *s, fm_error *err) {
    const fm_recipe *r = s->recipe;
    fm_region buffer = {0};
    fm_pack_tensor *tensors = calloc((size_t)r->n_tensors + 1, sizeof *tensors);
    uint64_t total = 0, done = 0, index = 0;
    int tensor = 0, rc = tensors ? 0 : fm_fail(err, FM_ENOMEM, "no memory for %d tensors", r->n_tensors);
    for (int i = 0; i < r->n_tensors && tensors; i++) {
        tensors[i] = r->tensors[i].tensor;
        total += r->tensors[i].bytes;
    }
    if (rc < 0 || (rc = fm_packer_dense(s->packer, tensors, r->n_tensors, err)) < 0) goto done;
    if ((rc = fm_region_open(&buffer, 2 * MAX_PIECES * FM_RANDOM_PIECE, "random numbers", err)) < 0) goto done;
    s->half[0] = buffer.data;
    s->half[1] = buffer.data + MAX_PIECES * FM_RANDOM_PIECE;
    do {
        list_pieces(s, &tensor, &index);
        fm_pool_run(s->pool, 1 + s->n_pieces[s->making], dense_task, s);
        for (int i = 0; i < s->n_pieces[!s->making]; i++) done += s->pieces[!s->making][i].bytes;
        if ((rc = first_error(s, err)) < 0) goto done;
        if (cancelled(s, "writing the dense part", done, total)) rc = cancel(err);
        s->making = !s->making;
    } while (rc == 0 && s->n_pieces[!s->making]);
    if (rc == 0) rc = fm_packer_dense_end(s->packer, err);
done:
    fm_region_close(&buffer);
    free(tensors);
    return rc;
}

/* ---- experts ---- */

static void expert_task(void *arg, int expert, int thread) {
    synth *s = arg;
    if (atomic_load_explicit(&s->failed, memory_order_relaxed)) return;
    uint8_t *data = s->experts + (size_t)thread * s->expert_bytes;
    double begin = fm_now(), made;
    for (int i = 0; i < 3; i++) {
        uint64_t seed = fm_random_seed(fm_random_seed(s->recipe->seed, (uint64_t)s->layer), (uint64_t)expert * 3 + (uint64_t)i);
        fm_random_r16(data + s->offsets[i], &s->recipe->expert[i], 1, seed);
    }
    for (int i = 3; i < FM_EXPERT_MATRICES; i++) memset(data + s->offsets[i], 0, fm_pack_matrix_bytes(&s->recipe->expert[i]));
    made = fm_now();
    int rc = fm_packer_expert(s->packer, expert, data, &s->errors[thread]);
    s->clocks[thread].random_seconds += made - begin;
    s->clocks[thread].writing_seconds += fm_now() - made;
    uint64_t done = atomic_fetch_add(&s->done, s->expert_bytes) + s->expert_bytes;
    /* Thread 0 is the caller's, the only one that may call back. */
    if (rc == 0 && thread == 0 && cancelled(s, "writing experts", done, s->total)) rc = cancel(&s->errors[thread]);
    if (rc < 0) stop(s, thread, rc);
}

static int write_experts(synth *s, int n_files, fm_error *err) {
    const fm_description *d = &s->recipe->description;
    int files[FM_MAX_LAYERS], n = 0, rc = 0;
    fm_region buffers = {0};
    s->expert_bytes = fm_pack_expert_bytes(s->recipe->expert, s->offsets);
    s->total = (uint64_t)n_files * (uint64_t)d->n_experts * s->expert_bytes;
    if ((rc = fm_region_open(&buffers, (size_t)fm_pool_n_threads(s->pool) * s->expert_bytes, "random experts", err)) < 0) return rc;
    s->experts = buffers.data; /* zeros between the matrices stay */
    for (int layer = 0; layer < d->n_layers && rc == 0; layer++) {
        if (!d->layers[layer].moe) continue;
        if (n >= n_files) {
            rc = fm_packer_layer_like(s->packer, layer, files[n++ % n_files], err);
            continue;
        }
        files[n++] = s->layer = layer;
        if ((rc = fm_packer_layer(s->packer, layer, s->recipe->expert, err)) < 0) break;
        fm_pool_run(s->pool, d->n_experts, expert_task, s);
        if ((rc = first_error(s, err)) == 0) rc = fm_packer_layer_end(s->packer, err);
    }
    fm_region_close(&buffers);
    return rc;
}

/* ---- files beside them ---- */

static const char *const tokenizer_files[] = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json"};
enum { N_TOKENIZER_FILES = sizeof tokenizer_files / sizeof *tokenizer_files };

/* FM_EINVAL unless the directory's tokenizer can serve the model. */
static int check_tokenizer(const fm_recipe *r, const char *directory, fm_error *err) {
    char path[PATH_BYTES];
    fm_tokenizer *tokenizer;
    int rc = fm_path_join(path, sizeof path, directory, tokenizer_files[0], err);
    if (rc < 0 || (rc = fm_tokenizer_open(&tokenizer, path, err)) < 0) return rc;
    int last = fm_tokenizer_max_id(tokenizer);
    fm_tokenizer_close(&tokenizer);
    if (last < r->description.vocab) return 0;
    return fm_fail(err, FM_EINVAL, "%s: it has token id %d, but %s only %d rows", path, last, r->config.path, r->description.vocab);
}

static int write_texts(synth *s, const char *tokenizer, fm_error *err) {
    char path[PATH_BYTES];
    char *text = json_dumps(s->recipe->config.root, JSON_INDENT(4));
    int rc = text ? fm_packer_file(s->packer, "config.json", text, strlen(text), err) : fm_fail(err, FM_ENOMEM, "no memory for config.json");
    free(text);
    for (int i = 0; tokenizer && i < N_TOKENIZER_FILES && rc == 0; i++) {
        if ((rc = fm_path_join(path, sizeof path, tokenizer, tokenizer_files[i], err)) < 0) break;
        if (fm_path_exists(path)) rc = fm_packer_copy(s->packer, tokenizer_files[i], path, err);
    }
    return rc;
}

/* ---- from the outside ---- */

static int complete(fm_synth_options *o, const fm_synth_options *given, fm_error *err) {
    *o = (fm_synth_options)FM_SYNTH_OPTIONS_INIT;
    if (given) memcpy(o, given, given->size < sizeof *o ? given->size : sizeof *o);
    if (!o->bits) o->bits = 4;
    if (!o->group) o->group = 64;
    if (o->n_layers < 0 || o->n_layers > FM_MAX_LAYERS) return fm_fail(err, FM_EINVAL, "%d layers are not from 1 to %d", o->n_layers, FM_MAX_LAYERS);
    if (o->bits < 2 || o->bits > 8 || o->bits == 7) return fm_fail(err, FM_EINVAL, "%d bits are none of 2, 3, 4, 5, 6 and 8", o->bits);
    if (o->group != 32 && o->group != 64 && o->group != 128) return fm_fail(err, FM_EINVAL, "a group of %d is none of 32, 64 and 128", o->group);
    if (o->share_layers < 0) return fm_fail(err, FM_EINVAL, "%d files of experts are not at least 1", o->share_layers);
    if (o->n_threads < 0) return fm_fail(err, FM_EINVAL, "%d threads are not at least 1", o->n_threads);
    if (!o->n_threads) o->n_threads = fm_cpu_count() + 1;
    return 0;
}

/* Bytes of dense.safetensors. */
static int dense_bytes(const fm_recipe *r, uint64_t *bytes, fm_error *err) {
    fm_safetensors_entry *entries = calloc((size_t)r->n_tensors + 1, sizeof *entries);
    char *header = NULL;
    *bytes = 8;
    if (!entries) return fm_fail(err, FM_ENOMEM, "no memory for %d tensors", r->n_tensors);
    for (int i = 0; i < r->n_tensors; i++) {
        const fm_pack_tensor *t = &r->tensors[i].tensor;
        entries[i] = (fm_safetensors_entry){.name = t->name, .dtype = t->dtype, .n_dims = t->n_dims};
        memcpy(entries[i].shape, t->shape, sizeof t->shape);
        *bytes += r->tensors[i].bytes;
    }
    int rc = fm_safetensors_header(&header, "dense.safetensors", entries, r->n_tensors, err);
    if (header) *bytes += strlen(header);
    free(header);
    free(entries);
    return rc;
}

/* FM_EIO if directory is there or where it is to be is nowhere. */
static int check_place(const char *directory, uint64_t *free_bytes, fm_error *err) {
    char parent[PATH_BYTES];
    struct stat st;
    size_t n = strlen(directory);
    if (n == 0) return fm_fail(err, FM_EINVAL, "the directory to write has no name");
    if (lstat(directory, &st) == 0) return fm_fail(err, FM_EIO, "%s: it is there already", directory);
    while (n > 0 && directory[n - 1] == '/') n--;
    while (n > 0 && directory[n - 1] != '/') n--;
    if (n >= sizeof parent) return fm_fail(err, FM_EINVAL, "%s: the path is too long", directory);
    memcpy(parent, n ? directory : ".", n ? n : 1);
    parent[n ? n : 1] = 0;
    return fm_disk_free(parent, free_bytes, err);
}

static int plan(fm_synth_plan *p, const fm_recipe *r, const char *directory, const fm_synth_options *o, fm_error *err) {
    const fm_description *d = &r->description;
    *p = (fm_synth_plan){.n_layers = d->n_layers, .n_moe_layers = r->n_moe_layers, .n_experts = d->n_experts};
    memcpy(p->architecture, d->architecture, sizeof p->architecture);
    if (o->share_layers > r->n_moe_layers) {
        return fm_fail(err, FM_EINVAL, "%d files of experts are more than the %d layers of %s that have experts", o->share_layers, r->n_moe_layers,
                       r->config.path);
    }
    p->n_files = o->share_layers ? o->share_layers : r->n_moe_layers;
    int rc = dense_bytes(r, &p->dense_bytes, err);
    if (rc < 0) return rc;
    p->expert_bytes = fm_pack_expert_bytes(r->expert, NULL);
    p->file_bytes = (uint64_t)d->n_experts * (p->expert_bytes + 8) + 8;
    p->bank_bytes = (uint64_t)r->n_moe_layers * p->file_bytes;
    p->disk_bytes = p->dense_bytes + (uint64_t)p->n_files * p->file_bytes;
    return directory ? check_place(directory, &p->free_bytes, err) : 0;
}

int fm_synth_plan_make(fm_synth_plan *out, const char *config, const char *directory, const fm_synth_options *options, fm_error *err) {
    fm_synth_options o;
    fm_recipe recipe;
    *out = (fm_synth_plan){0};
    int rc = complete(&o, options, err);
    if (rc < 0 || (rc = fm_recipe_open(&recipe, config, &o, err)) < 0) return rc;
    if (o.tokenizer) rc = check_tokenizer(&recipe, o.tokenizer, err);
    if (rc == 0) rc = plan(out, &recipe, directory, &o, err);
    fm_recipe_close(&recipe);
    return rc;
}

/* Everything between the packer's opening and its closing. */
static int write_model(synth *s, const char *directory, const fm_synth_options *o, int n_files, fm_error *err) {
    char made_by[100];
    int rc = fm_packer_open(&s->packer, directory, s->recipe->description.n_layers, s->recipe->description.n_experts, err);
    if (rc < 0 || (rc = write_texts(s, o->tokenizer, err)) < 0 || (rc = write_dense(s, err)) < 0 || (rc = write_experts(s, n_files, err)) < 0) return rc;
    if (cancelled(s, "writing experts", s->total, s->total)) return cancel(err);
    snprintf(made_by, sizeof made_by, "flash-moe %s synth, seed %" PRIu64, FM_VERSION, o->seed);
    return fm_packer_finish(s->packer, made_by, err);
}

int fm_synth(const char *config, const char *directory, const fm_synth_options *options, fm_synth_result *result, fm_error *err) {
    fm_synth_options o;
    fm_recipe recipe;
    fm_synth_plan p;
    double begin = fm_now();
    int rc = complete(&o, options, err);
    if (rc < 0 || (rc = fm_recipe_open(&recipe, config, &o, err)) < 0) return rc;
    synth s = {.recipe = &recipe, .progress = {o.progress, o.user}};
    if (o.tokenizer && (rc = check_tokenizer(&recipe, o.tokenizer, err)) < 0) goto done;
    if ((rc = plan(&p, &recipe, directory, &o, err)) < 0) goto done;
    if (p.disk_bytes > p.free_bytes) {
        rc = fm_fail(err, FM_EIO, "%s: it needs %" PRIu64 " bytes, but only %" PRIu64 " are free there", directory, p.disk_bytes, p.free_bytes);
        goto done;
    }
    if ((rc = fm_pool_open(&s.pool, o.n_threads, err)) < 0) goto done;
    s.errors = calloc((size_t)o.n_threads, sizeof *s.errors);
    s.clocks = aligned_alloc(64, (size_t)o.n_threads * sizeof *s.clocks);
    if (!s.errors || !s.clocks) {
        rc = fm_fail(err, FM_ENOMEM, "no memory for %d threads", o.n_threads);
        goto done;
    }
    memset(s.clocks, 0, (size_t)o.n_threads * sizeof *s.clocks);
    rc = write_model(&s, directory, &o, p.n_files, err);
    fm_packer_close(&s.packer);
    if (rc < 0 || !result) goto done;
    *result = (fm_synth_result){.n_threads = o.n_threads, .written_bytes = p.disk_bytes, .seconds = fm_now() - begin};
    for (int i = 0; i < o.n_threads; i++) {
        result->random_seconds += s.clocks[i].random_seconds;
        result->writing_seconds += s.clocks[i].writing_seconds;
    }
done:
    fm_pool_close(&s.pool);
    free(s.errors);
    free(s.clocks);
    fm_recipe_close(&recipe);
    return rc;
}
