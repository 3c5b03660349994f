/* measure/trace_record.c: recording a model's routing: each prompt is a sequence of its own, read and then continued. What the hook sees of a batch waits in one
 * buffer until the batch is over, because it comes layer by layer and is written token by token. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/engine.h"
#include "measure/trace.h"

typedef struct recorder {
    fm_engine *engine;
    fm_trace_writer *writer;
    fm_states_writer *states; /* NULL: none */
    fm_trace shape;
    int16_t *experts, *predicted; /* [batch][n_layers][top_k] */
    int n, layer;                 /* tokens of the batch being computed, and the last layer of it that was seen */
    bool forecast;                /* predicted holds something of this batch; else its memory is not touched */
    int n_prompt, position;       /* of the sequence: its prompt's tokens; tokens written */
    int rc;                       /* of writing */
    fm_error err;
    fm_traced *out;
} recorder;

static size_t row_of(const recorder *r) { return (size_t)r->shape.n_layers * (size_t)r->shape.top_k; }

/* The batch is over: its tokens go into the file. How a prompt falls into batches depends on the budget, and with it what is predicted: so that is left out. */
static void flush_batch(recorder *r) {
    for (int i = 0; i < r->n && r->rc >= 0; i++, r->position++) {
        bool prompt = r->position < r->n_prompt, forecast = r->forecast && !prompt;
        int kind = (r->position == 0 ? FM_TRACE_FIRST : 0) | (prompt ? FM_TRACE_PROMPT : 0);
        size_t row = (size_t)i * row_of(r);
        r->rc = fm_trace_writer_add(r->writer, kind, r->experts + row, forecast ? r->predicted + row : NULL, &r->err);
        *(prompt ? &r->out->n_prompt : &r->out->n_decoded) += 1;
        r->out->predicted |= forecast;
    }
    r->n = 0;
    r->forecast = false;
}

static void see_route(void *user, const fm_route_event *event) {
    recorder *r = user;
    if (event->layer <= r->layer) flush_batch(r);
    if (r->n == 0) {
        r->n = event->n;
        memset(r->experts, 0xff, (size_t)r->n * row_of(r) * sizeof *r->experts);
    }
    if (event->predicted && !r->forecast) {
        memset(r->predicted, 0xff, (size_t)r->n * row_of(r) * sizeof *r->predicted);
        r->forecast = true;
    }
    r->layer = event->layer;
    for (int i = 0; i < event->n; i++) {
        size_t to = (size_t)i * row_of(r) + (size_t)event->layer * (size_t)event->top_k, from = (size_t)i * (size_t)event->top_k;
        for (int k = 0; k < event->top_k; k++) {
            r->experts[to + (size_t)k] = (int16_t)event->experts[from + (size_t)k];
            if (event->predicted) r->predicted[to + (size_t)k] = (int16_t)event->predicted[from + (size_t)k];
        }
    }
}

/* A router's input comes before its choice, so a new batch may begin here. */
static void see_input(void *user, int layer, int role, const float *x, size_t ld, int n, int cols) {
    recorder *r = user;
    int moe = 0;
    (void)cols;
    if (role != FM_NORM2 || layer < 0 || !r->shape.moe[layer]) return;
    if (layer <= r->layer) flush_batch(r);
    for (int i = 0; i < layer; i++) moe += r->shape.moe[i];
    if (r->rc >= 0) r->rc = fm_states_writer_add(r->states, (uint64_t)r->out->n_prompt + (uint64_t)r->out->n_decoded, moe, x, ld, n, &r->err);
}

/* Stops when nothing can be written any more. */
static int check_writing(void *user, const char *text, size_t bytes) {
    (void)text, (void)bytes;
    return ((const recorder *)user)->rc < 0;
}

static int record_sequence(recorder *r, fm_session *session, const int32_t *ids, int n, const fm_trace_options *o, fm_error *err) {
    fm_generation generation = FM_GENERATION_INIT;
    fm_sampling sampling = *o->sampling;
    fm_sampler *sampler = NULL;
    fm_generated done = {0};
    generation.max_tokens = o->max_tokens;
    generation.ignore_eos = o->ignore_eos;
    generation.text = check_writing;
    generation.user = r;
    sampling.seed += (uint64_t)r->out->n_sequences;
    r->n = r->position = 0;
    r->layer = -1;
    r->forecast = false;
    r->n_prompt = n;
    fm_session_clear(session);
    int rc = fm_sampler_open(&sampler, r->engine->info.vocab, &sampling, err);
    if (rc >= 0) rc = fm_session_generate(session, ids, n, sampler, &generation, &done, err);
    fm_sampler_close(&sampler);
    if (rc < 0) return rc;
    flush_batch(r);
    if (r->rc < 0 && err) *err = r->err;
    if (r->rc < 0) return r->rc;
    if (done.stop == FM_STOP_CANCELLED) return fm_fail(err, FM_ECANCELLED, "cancelled");
    r->out->n_sequences++;
    return 0;
}

static int record_prompts(recorder *r, const char *const *prompts, int n_prompts, const fm_trace_options *o, fm_error *err) {
    fm_engine *e = r->engine;
    fm_session *session = NULL;
    int rc = fm_session_open(&session, e, err);
    for (int i = 0; i < n_prompts && rc >= 0; i++) {
        int32_t *ids = NULL;
        fm_error why = {0};
        rc = fm_engine_encode(e, prompts[i], strlen(prompts[i]), true, &ids, &why);
        if (rc == 0) rc = fm_fail(&why, FM_EINVAL, "it is empty");
        if (rc > 0) rc = record_sequence(r, session, ids, rc, o, &why);
        fm_free(ids);
        if (rc < 0) fm_fail(err, rc, "prompt %d of %d: %s", i + 1, n_prompts, why.message);
        if (rc >= 0 && e->options.progress && e->options.progress(e->options.user, "prompts", (uint64_t)i + 1, (uint64_t)n_prompts))
            rc = fm_fail(err, FM_ECANCELLED, "cancelled after prompt %d of %d", i + 1, n_prompts);
    }
    fm_session_close(&session);
    return rc;
}

/* What made the trace, without anything that differs from machine to machine. */
static char *describe(const recorder *r, const fm_trace_options *o, int n_prompts) {
    const fm_sampling *s = o->sampling;
    json_t *how =
        json_pack("{s:s, s:s, s:i, s:i, s:b, s:s}", "program", "flash-moe " FM_VERSION, "prompts", o->name ? o->name : "", "n_prompts", n_prompts, "max_tokens",
                  o->max_tokens, "ignore_eos", o->ignore_eos, "activations", r->engine->options.activations == FM_ACTIVATIONS_INT8 ? "int8" : "f32");
    json_t *sampling = json_pack("{s:f, s:i, s:f, s:f, s:f, s:I}", "temperature", (double)s->temperature, "top_k", s->top_k, "top_p", (double)s->top_p, "min_p",
                                 (double)s->min_p, "repeat_penalty", (double)s->repeat_penalty, "seed", (json_int_t)s->seed);
    if (how && sampling) json_object_set(how, "sampling", sampling);
    char *text = how && sampling ? json_dumps(how, JSON_COMPACT | JSON_REAL_PRECISION(7)) : NULL;
    json_decref(how);
    json_decref(sampling);
    return text;
}

static int open_recorder(recorder *r, const char *path, const fm_trace_options *o, int n_prompts, fm_error *err) {
    const fm_description *d = &r->engine->model->description;
    r->shape = (fm_trace){.n_layers = d->n_layers, .n_experts = d->n_experts, .top_k = r->engine->top_k};
    snprintf(r->shape.model_type, sizeof r->shape.model_type, "%s", d->model_type);
    snprintf(r->shape.architecture, sizeof r->shape.architecture, "%s", d->architecture);
    size_t values = (size_t)r->engine->plan.batch * row_of(r);
    r->shape.moe = calloc((size_t)d->n_layers, 1);
    r->shape.how = describe(r, o, n_prompts);
    r->experts = malloc(values * sizeof *r->experts);
    r->predicted = malloc(values * sizeof *r->predicted);
    if (!r->shape.moe || !r->shape.how || !r->experts || !r->predicted) return fm_fail(err, FM_ENOMEM, "%s: no memory for recording a trace", path);
    int n_moe = 0, rc;
    for (int i = 0; i < d->n_layers; i++) n_moe += r->shape.moe[i] = d->layers[i].moe;
    if (o->states && (rc = fm_states_writer_open(&r->states, o->states, n_moe, d->hidden, err)) < 0) return rc;
    return fm_trace_writer_open(&r->writer, path, &r->shape, err);
}

static void close_recorder(recorder *r) {
    fm_trace_writer_close(&r->writer);
    fm_states_writer_close(&r->states);
    free(r->shape.moe);
    free(r->shape.how);
    free(r->experts);
    free(r->predicted);
}

int fm_trace_record(fm_engine *e, const char *const *prompts, int n_prompts, const char *path, const fm_trace_options *options, fm_traced *out, fm_error *err) {
    fm_trace_options o = FM_TRACE_OPTIONS_INIT;
    fm_traced ignored;
    fm_sampling sampling;
    struct stat st;
    if (options) memcpy(&o, options, options->size < sizeof o ? options->size : sizeof o);
    recorder r = {.engine = e, .out = out ? out : &ignored};
    *r.out = (fm_traced){0};
    if (!e->model->description.n_experts) return fm_fail(err, FM_EUNSUPPORTED, "%s: the model has no experts, so there is no routing", e->model->path);
    if (o.states && !e->ops->observe) return fm_fail(err, FM_EUNSUPPORTED, "the device %s does not show what its routers see", e->ops->name);
    if (n_prompts < 1) return fm_fail(err, FM_EINVAL, "there is no prompt");
    if (o.max_tokens < -1) return fm_fail(err, FM_EINVAL, "%d tokens to decode is fewer than none", o.max_tokens);
    sampling = e->sampling;
    if (!o.sampling) o.sampling = &sampling;
    fm_route_hook hook = e->route_hook;
    void *user = e->route_user;
    bool predict_always = e->predict_always;
    int rc = open_recorder(&r, path, &o, n_prompts, err);
    if (rc >= 0) {
        e->route_hook = see_route;
        e->route_user = &r;
        e->predict_always = true;
        if (r.states) e->ops->observe(e->device, see_input, &r);
        rc = record_prompts(&r, prompts, n_prompts, &o, err);
        if (r.states) e->ops->observe(e->device, NULL, NULL);
        e->route_hook = hook;
        e->route_user = user;
        e->predict_always = predict_always;
    }
    if (rc >= 0 && r.states) rc = fm_states_writer_save(r.states, (uint64_t)r.out->n_prompt + (uint64_t)r.out->n_decoded, err);
    if (rc >= 0) rc = fm_trace_writer_save(r.writer, err);
    if (rc >= 0 && stat(path, &st) == 0) r.out->file_bytes = (uint64_t)st.st_size;
    close_recorder(&r);
    return rc < 0 ? rc : 0;
}
