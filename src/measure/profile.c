/* measure/profile.c: recording a profile: each prompt is a sequence of its own, read and then continued; the router's choices and the matrices' inputs are counted as they
 * are made. Sums are in double, so that the order in which experts come shows in no digit that is written. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "flash_moe_tools.h"
#include "formats/profile.h"

#define N_PLACES (FM_N_COLUMNS + 1) /* in a layer; the last is the head's, of the layer before the first */

typedef struct column_sum {
    double *sum; /* [n] of squares; NULL: nothing was seen */
    double n_rows;
    int n;
} column_sum;

typedef struct recorder {
    fm_engine *engine;
    fm_profile *profile;
    fm_profile_kind *kind; /* of the prompt */
    column_sum *columns;   /* [1 + n_layers][N_PLACES] */
    bool no_memory;
} recorder;

static void see_route(void *user, const fm_route_event *event) {
    recorder *r = user;
    size_t first = (size_t)event->layer * (size_t)r->profile->n_experts;
    double *uses = (double *)r->kind->uses + first, *weights = (double *)r->kind->weights + first;
    for (int i = 0; i < event->n * event->top_k; i++) {
        uses[event->experts[i]] += 1;
        weights[event->experts[i]] += (double)event->weights[i];
    }
}

static int place_of(int role) {
    switch (role) {
    case FM_FINAL_NORM: return FM_N_COLUMNS;
    case FM_NORM1: return FM_COLUMNS_MIXER;
    case FM_NORM2: return FM_COLUMNS_MLP;
    case FM_O:
    case FM_DELTA_OUT: return FM_COLUMNS_MIXER_OUT;
    case FM_DENSE_DOWN_PROJ: return FM_COLUMNS_DENSE_DOWN;
    case FM_SHARED_DOWN_PROJ: return FM_COLUMNS_SHARED_DOWN;
    default: return -1;
    }
}

static void see_input(void *user, int layer, int role, const float *x, size_t ld, int n, int cols) {
    recorder *r = user;
    int place = place_of(role);
    if (place < 0) return;
    column_sum *c = &r->columns[(layer + 1) * N_PLACES + place];
    if (!c->sum && (c->sum = calloc((size_t)cols, sizeof *c->sum))) c->n = cols;
    if (!c->sum || c->n != cols) {
        r->no_memory |= !c->sum;
        return;
    }
    c->n_rows += n;
    for (int i = 0; i < n; i++) {
        const float *row = x + (size_t)i * ld;
        for (int k = 0; k < cols; k++) c->sum[k] += (double)row[k] * (double)row[k];
    }
}

/* ---- prompts ---- */

static int record_prompt(recorder *r, fm_session *session, const fm_profile_prompt *prompt, const fm_profile_options *o, const fm_sampling *sampling,
                         fm_error *err) {
    fm_generation generation = FM_GENERATION_INIT;
    fm_sampler *sampler = NULL;
    fm_generated done = {0};
    uint64_t before = r->engine->n_tokens;
    generation.max_tokens = o->max_tokens;
    fm_session_clear(session);
    int rc = fm_sampler_open(&sampler, r->engine->info.vocab, sampling, err);
    if (rc >= 0) rc = fm_session_generate(session, prompt->ids, prompt->n, sampler, &generation, &done, err);
    fm_sampler_close(&sampler);
    if (rc < 0) return rc;
    if (done.stop == FM_STOP_CANCELLED) return fm_fail(err, FM_ECANCELLED, "cancelled");
    if (r->no_memory) return fm_fail(err, FM_ENOMEM, "no memory for sums of columns");
    r->kind->n_prompts++;
    r->kind->n_tokens += r->engine->n_tokens - before;
    return 0;
}

/* Kinds in the order in which they come first. Returns how many; kinds [n_prompts] of each prompt. */
static int find_kinds(const fm_profile_prompt *prompts, int n_prompts, int *kinds, fm_error *err) {
    int n = 0;
    for (int i = 0; i < n_prompts; i++) {
        const char *name = prompts[i].kind;
        int same = 0;
        if (prompts[i].n < 1) return fm_fail(err, FM_EINVAL, "prompt %d of %d is empty", i + 1, n_prompts);
        if (!name || !*name || strlen(name) >= sizeof((fm_profile_kind *)0)->name)
            return fm_fail(err, FM_EINVAL, "prompt %d of %d has a kind that is not a name of 1 to 63 bytes", i + 1, n_prompts);
        while (same < i && strcmp(prompts[same].kind, name)) same++;
        kinds[i] = same < i ? kinds[same] : n++;
    }
    return n;
}

static int record_prompts(recorder *r, const fm_profile_prompt *prompts, int n_prompts, const int *kinds, const fm_profile_options *o, fm_error *err) {
    fm_engine *e = r->engine;
    fm_session *session = NULL;
    fm_sampling sampling = o->sampling ? *o->sampling : e->sampling;
    int rc = fm_session_open(&session, e, err);
    for (int i = 0; i < n_prompts && rc >= 0; i++) {
        fm_error why = {0};
        r->kind = (fm_profile_kind *)&r->profile->kinds[kinds[i]];
        snprintf(r->kind->name, sizeof r->kind->name, "%s", prompts[i].kind);
        rc = record_prompt(r, session, &prompts[i], o, &sampling, &why);
        if (rc < 0) fm_fail(err, rc, "prompt %d of %d: %s", i + 1, n_prompts, why.message);
        if (rc >= 0 && e->options.progress && e->options.progress(e->options.user, "prompts", (uint64_t)i + 1, (uint64_t)n_prompts))
            rc = fm_fail(err, FM_ECANCELLED, "cancelled after prompt %d of %d", i + 1, n_prompts);
        sampling.seed++;
    }
    fm_session_close(&session);
    return rc;
}

/* ---- the file ---- */

static int keep_columns(recorder *r, fm_error *err) {
    struct fm_profile_columns *c = r->profile->columns;
    for (int i = 0; i < (r->profile->n_layers + 1) * N_PLACES; i++) {
        const column_sum *s = &r->columns[i];
        int layer = i / N_PLACES - 1, place = i % N_PLACES;
        if (!s->sum) continue;
        float *square = malloc((size_t)s->n * sizeof *square);
        if (!square) return fm_fail(err, FM_ENOMEM, "no memory for %d columns", s->n);
        for (int k = 0; k < s->n; k++) square[k] = (float)(s->sum[k] / s->n_rows);
        if (layer < 0) {
            c->head = square;
            c->n_head = s->n;
        } else {
            c->square[layer][place] = square;
            c->n[layer][place] = s->n;
        }
    }
    return 0;
}

static char *describe(const recorder *r, const fm_profile_options *o) {
    const fm_sampling *s = o->sampling ? o->sampling : &r->engine->sampling;
    json_t *how = json_pack("{s:s, s:i, s:f, s:I, s:s}", "prompts", o->name ? o->name : "", "max_tokens", o->max_tokens, "temperature", (double)s->temperature,
                            "seed", (json_int_t)s->seed, "activations", r->engine->options.activations == FM_ACTIVATIONS_INT8 ? "int8" : "f32");
    char *text = how ? json_dumps(how, JSON_COMPACT | JSON_REAL_PRECISION(7)) : NULL;
    json_decref(how);
    return text;
}

static int open_recorder(recorder *r, int n_kinds, fm_error *err) {
    const fm_description *d = &r->engine->model->description;
    int rc = fm_profile_new(&r->profile, d->n_layers, d->n_experts, n_kinds, err);
    if (rc < 0) return rc;
    r->profile->top_k = r->engine->top_k;
    snprintf(r->profile->model_type, sizeof r->profile->model_type, "%s", d->model_type);
    snprintf(r->profile->architecture, sizeof r->profile->architecture, "%s", d->architecture);
    r->columns = calloc((size_t)(d->n_layers + 1) * N_PLACES, sizeof *r->columns);
    return r->columns ? 0 : fm_fail(err, FM_ENOMEM, "no memory for a profile");
}

static void close_recorder(recorder *r) {
    for (int i = 0; r->columns && i < (r->profile->n_layers + 1) * N_PLACES; i++) free(r->columns[i].sum);
    free(r->columns);
    fm_profile_close(&r->profile);
}

int fm_profile_record(fm_engine *e, const fm_profile_prompt *prompts, int n_prompts, const char *path, const fm_profile_options *options, fm_error *err) {
    fm_profile_options o = FM_PROFILE_OPTIONS_INIT;
    recorder r = {.engine = e};
    if (options) memcpy(&o, options, options->size < sizeof o ? options->size : sizeof o);
    if (!e->model->description.n_experts) return fm_fail(err, FM_EUNSUPPORTED, "%s: the model has no experts, so there is nothing to profile", e->model->path);
    if (!e->ops->observe) return fm_fail(err, FM_EUNSUPPORTED, "the device %s does not show what its matrices see, so a profile needs another", e->ops->name);
    if (n_prompts < 1) return fm_fail(err, FM_EINVAL, "there is no prompt");
    if (o.max_tokens < -1) return fm_fail(err, FM_EINVAL, "%d tokens to decode is fewer than none", o.max_tokens);
    int *kinds = malloc((size_t)n_prompts * sizeof *kinds);
    fm_route_hook hook = e->route_hook;
    void *user = e->route_user;
    int rc = kinds ? find_kinds(prompts, n_prompts, kinds, err) : fm_fail(err, FM_ENOMEM, "no memory for %d prompts", n_prompts);
    if (rc >= 0) rc = open_recorder(&r, rc, err);
    if (rc >= 0) {
        e->route_hook = see_route;
        e->route_user = &r;
        e->ops->observe(e->device, see_input, &r);
        rc = record_prompts(&r, prompts, n_prompts, kinds, &o, err);
        e->ops->observe(e->device, NULL, NULL);
        e->route_hook = hook;
        e->route_user = user;
    }
    if (rc >= 0) rc = keep_columns(&r, err);
    char *how = rc >= 0 ? describe(&r, &o) : NULL;
    if (rc >= 0) rc = how ? fm_profile_write(r.profile, path, how, err) : fm_fail(err, FM_ENOMEM, "%s: no memory for it", path);
    free(how);
    close_recorder(&r);
    free(kinds);
    return rc < 0 ? rc : 0;
}
