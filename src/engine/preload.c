/* engine/preload.c: what is in the cache before the first token, and the file that remembers which experts were used most. A profile that the user gave goes before that
 * file: its experts come first, and those that do not come in time are read when the disk has nothing else to do.
 *
 * The file: "FMHEAT01", then as u32 the layers and the experts a layer, as u64 a hash of the model's expert files (names of the checkpoint's directory do not matter,
 * sizes and places do), as u64 the device they lie on and as u64 how many experts it wants to be read at once (0: not measured), then a f32 of each expert's uses. Of this
 * machine's byte order: it is a cache. */
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/engine.h"
#include "formats/profile.h"

#define WINDOW_BYTES ((uint64_t)8 << 20) /* being read at once, unless another size is faster by WINDOW_GAIN */
#define WINDOW_GAIN 1.1
#define TRIAL_BYTES ((uint64_t)48 << 20) /* read for each size, twice */
#define HEAT_TOKENS 200.0                /* that counts of uses last for, about */
#define FILL_SECONDS 2.0                 /* at most, for a model that does not fit: a prompt reads the rest */

typedef struct heat_header {
    char magic[8];
    uint32_t n_layers, n_experts;
    uint64_t model, device, window;
} heat_header;

static heat_header header_of(const fm_engine *e) {
    const fm_model *m = e->model;
    heat_header h = {
        .magic = {'F', 'M', 'H', 'E', 'A', 'T', '0', '1'}, .n_layers = (uint32_t)m->description.n_layers, .n_experts = (uint32_t)m->description.n_experts};
    struct stat st;
    for (int i = 0; i < m->tensors.n_files && !h.device; i++) h.device = fstat(m->tensors.files[i].fd, &st) ? 0 : (uint64_t)st.st_dev;
    h.window = (uint64_t)e->window;
    h.model = fm_pack_hash(m->extents, (size_t)h.n_layers * h.n_experts * (size_t)m->n_extents * sizeof *m->extents);
    return h;
}

/* The file's counts [n]; NULL with a warning, or without one if there is no file. malloc'd. Takes over the window if the device is the same. */
static float *read_heat(fm_engine *e, size_t n) {
    heat_header have, want = header_of(e);
    FILE *f = fopen(e->heat_path, "rb");
    float *heat = malloc(n * sizeof *heat);
    bool whole = f && heat && fread(&have, sizeof have, 1, f) == 1 && !memcmp(&have, &want, offsetof(heat_header, device)) &&
                 fread(heat, sizeof *heat, n, f) == n && fgetc(f) == EOF;
    for (size_t i = 0; i < n && whole; i++) whole = heat[i] >= 0 && isfinite(heat[i]);
    if (f && !whole) fm_engine_log(e, FM_LOG_WARNING, "%s: it is not of this model, or not whole; it is written anew at the end", e->heat_path);
    if (f) fclose(f);
    if (whole && have.device == want.device && have.window <= (uint64_t)e->plan.n_staging) e->window = (int)have.window;
    if (whole) return heat;
    free(heat);
    return NULL;
}

typedef struct ranked {
    float heat;
    int key;
} ranked;

static int hotter(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    return x->heat != y->heat ? (x->heat < y->heat) - (x->heat > y->heat) : (x->key > y->key) - (x->key < y->key);
}

/* The keys that are to be read, best first: all that have a layer of experts, or with heat those of some heat, as many as fit. Returns how many. */
static int list_keys(const fm_engine *e, const float *heat, int *keys) {
    const fm_description *d = &e->model->description;
    int n = 0, n_keys = d->n_layers * d->n_experts, most = fm_store_n_slots(e->store) - e->plan.n_guesses;
    ranked *order = heat ? malloc((size_t)n_keys * sizeof *order) : NULL;
    for (int key = 0; key < n_keys; key++) {
        if (!d->layers[key / d->n_experts].moe || (heat && heat[key] <= 0)) continue;
        keys[n] = key;
        if (heat && order) order[n] = (ranked){heat[key], key};
        n++;
    }
    if (order) qsort(order, (size_t)n, sizeof *order, hotter);
    for (int i = 0; i < n && order; i++) keys[i] = order[i].key;
    free(order);
    return n < most ? n : most;
}

/* Reads keys [n], in order, until they are there or it is `deadline`. */
static int read_keys(fm_engine *e, const int *keys, int n, double deadline, fm_error *err) {
    int asked = 0, step = 2 * e->plan.n_staging;
    for (int taken = 0; taken < asked || (asked < n && fm_now() <= deadline); taken++) {
        fm_lease lease;
        int rc = 0, bad;
        if (asked - taken <= step / 2 && asked < n && fm_now() <= deadline)
            rc = fm_store_request(e->store, keys + asked, n - asked < step ? n - asked : step, err);
        if (rc < 0) return rc;
        asked += rc;
        if ((rc = fm_store_next(e->store, FM_ANY_KEY, &lease, err)) < 0) return rc;
        fm_arrival arrival = {lease.key, lease.data, lease.fresh ? lease.parts : NULL};
        rc = fm_experts_fill(e->model, e->pool, &arrival, 1, &bad, err);
        (rc < 0 ? fm_store_discard : fm_store_release)(e->store, &lease);
        bool stop = e->options.progress && (taken % 16 == 0 || taken + 1 == n) &&
                    e->options.progress(e->options.user, "experts", (uint64_t)(taken + 1) * e->plan.expert_disk_bytes, (uint64_t)n * e->plan.expert_disk_bytes);
        if (rc >= 0 && (stop || atomic_load(&e->cancelled))) rc = fm_fail(err, FM_ECANCELLED, "loading was cancelled");
        if (rc < 0) {
            fm_store_cancel(e->store);
            return rc;
        }
    }
    return 0;
}

static int window_of(const fm_engine *e, uint64_t bytes) {
    uint64_t n = bytes / e->plan.expert_disk_bytes;
    return n < 2 ? 2 : n > (uint64_t)e->plan.n_staging ? e->plan.n_staging : (int)n;
}

/* Finds out how many experts this disk wants to be read at once, by reading the first of keys [n] with different numbers. Returns how many it read. */
static int find_window(fm_engine *e, const int *keys, int n, fm_error *err) {
    static const int sizes[] = {8, 4, 16, 32}; /* MiB; the first is the one to beat */
    double best[4] = {0};
    int chunk = (int)(TRIAL_BYTES / e->plan.expert_disk_bytes) + 1, chosen = 0;
    if (n < 8 * chunk) return 0;
    for (int trial = 0; trial < 8; trial++) {
        fm_store_set_window(e->store, window_of(e, (uint64_t)sizes[trial % 4] << 20));
        double start = fm_now();
        int rc = read_keys(e, keys + trial * chunk, chunk, INFINITY, err);
        if (rc < 0) return rc;
        double rate = 1 / (fm_now() - start);
        if (rate > best[trial % 4]) best[trial % 4] = rate;
    }
    for (int i = 1; i < 4; i++) {
        if (best[i] > best[chosen] * (chosen ? 1 : WINDOW_GAIN)) chosen = i;
    }
    e->window = window_of(e, (uint64_t)sizes[chosen] << 20);
    return 8 * chunk;
}

/* The most used n keys, in this order, are to be in memory, and the first of them for good. */
static int follow_profile(fm_engine *e, const int *keys, int n, fm_error *err) {
    int n_pinned = (int)(e->options.pin * (float)(fm_store_n_slots(e->store) - e->plan.n_guesses));
    if (!(e->fill_keys = malloc((size_t)(n ? n : 1) * sizeof *keys))) return fm_fail(err, FM_ENOMEM, "no memory for a list of %d experts", n);
    memcpy(e->fill_keys, keys, (size_t)n * sizeof *keys);
    fm_store_pin(e->store, keys, n_pinned < n ? n_pinned : n, e->plan.min_slots + 2);
    fm_store_fill(e->store, e->fill_keys, n);
    return 0;
}

/* The cache of a model that does not fit. */
static int fill_some(fm_engine *e, const float *heat, int *keys, fm_error *err) {
    int n = list_keys(e, heat, keys), done = 0;
    double deadline = fm_now() + FILL_SECONDS;
    if (!heat) { /* any, for the trials, from all over the files */
        for (int i = 0; i < n; i++) {
            int j = i + (int)((int64_t)i * 7919 % (n - i)), key = keys[i];
            keys[i] = keys[j];
            keys[j] = key;
        }
    }
    if (e->model->in_place && e->heat_path && !e->window && (done = find_window(e, keys, n, err)) < 0) return done;
    fm_store_set_window(e->store, e->window ? e->window : window_of(e, WINDOW_BYTES));
    int rc = heat ? read_keys(e, keys + done, n - done, deadline, err) : 0;
    return rc < 0 || !e->options.profile ? rc : follow_profile(e, keys, n, err);
}

static int check_profile(const fm_engine *e, const fm_profile *p, fm_error *err) {
    const fm_description *d = &e->model->description;
    const char *path = e->options.profile;
    bool layers = p->older ? p->n_layers <= d->n_layers : p->n_layers == d->n_layers;
    if (!layers || p->n_experts != d->n_experts) {
        return fm_fail(err, FM_EFORMAT, "%s: it is of a model with %d layers of %d experts, and %s has %d of %d", path, p->n_layers, p->n_experts,
                       e->model->path, d->n_layers, d->n_experts);
    }
    if (!p->older && strcmp(p->model_type, d->model_type))
        return fm_fail(err, FM_EFORMAT, "%s: it is of a model of type %s, and %s is of type %s", path, p->model_type, e->model->path, d->model_type);
    return 0;
}

/* The profile's uses as what heat would be had they gone on for long: the sum of a layer is that of HEAT_TOKENS tokens. malloc'd. */
static int read_profile(fm_engine *e, float **heat, fm_error *err) {
    const fm_description *d = &e->model->description;
    size_t n_experts = (size_t)d->n_experts, n = (size_t)d->n_layers * n_experts;
    fm_profile *p;
    int rc = fm_profile_open(&p, e->options.profile, err);
    if (rc < 0) return rc;
    double *sum = calloc(n, sizeof *sum);
    float *out = malloc(n * sizeof *out);
    rc = sum && out ? check_profile(e, p, err) : fm_fail(err, FM_ENOMEM, "no memory for a list of %zu experts", n);
    if (rc == 0) fm_profile_sum(p, sum);
    for (size_t layer = 0; layer < (size_t)d->n_layers && rc == 0; layer++) {
        double all = 0;
        for (size_t i = 0; i < n_experts; i++) all += sum[layer * n_experts + i];
        if (all > 0 && !d->layers[layer].moe) rc = fm_fail(err, FM_EFORMAT, "%s: layer %zu has no experts in %s", e->options.profile, layer, e->model->path);
        for (size_t i = 0; i < n_experts; i++) out[layer * n_experts + i] = all > 0 ? (float)(sum[layer * n_experts + i] / all * e->top_k * HEAT_TOKENS) : 0;
    }
    fm_profile_close(&p);
    free(sum);
    if (rc < 0) free(out);
    *heat = rc < 0 ? NULL : out;
    return rc;
}

int fm_preload(fm_engine *e, fm_error *err) {
    const fm_description *d = &e->model->description;
    size_t n_keys = (size_t)d->n_layers * (size_t)d->n_experts;
    float *heat = e->heat_path ? read_heat(e, n_keys) : NULL;
    int *keys = malloc(n_keys * sizeof *keys), rc = 0;
    if (e->options.profile) {
        free(heat);
        heat = NULL;
        rc = read_profile(e, &heat, err);
    }
    if (rc < 0) {
        free(keys);
        return rc;
    }
    if (!keys) {
        rc = fm_fail(err, FM_ENOMEM, "no memory for a list of %zu experts", n_keys);
    } else if (e->plan.resident) {
        rc = read_keys(e, keys, list_keys(e, NULL, keys), INFINITY, err);
    } else {
        rc = fill_some(e, heat, keys, err);
    }
    if (heat && rc >= 0) fm_store_heat_load(e->store, heat);
    fm_store_stats_clear(e->store);
    free(heat);
    free(keys);
    return rc;
}

void fm_preload_save(fm_engine *e) {
    heat_header header = header_of(e);
    size_t n = (size_t)header.n_layers * header.n_experts;
    char part[1100];
    float *heat = e->heat_path && e->store && e->n_tokens ? malloc(n * sizeof *heat) : NULL;
    if (!heat || !fm_store_heat_save(e->store, heat) || snprintf(part, sizeof part, "%s.%ld.part", e->heat_path, (long)getpid()) >= (int)sizeof part) {
        free(heat);
        return;
    }
    FILE *f = fopen(part, "wb");
    bool whole = f && fwrite(&header, sizeof header, 1, f) == 1 && fwrite(heat, sizeof *heat, n, f) == n;
    if (f) whole &= fclose(f) == 0;
    if (!whole || rename(part, e->heat_path)) {
        fm_engine_log(e, FM_LOG_WARNING, "%s: cannot be written: %s", e->heat_path, strerror(errno));
        (void)unlink(part);
    }
    free(heat);
}
