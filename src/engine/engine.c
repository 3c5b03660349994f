/* engine/engine.c: opening and closing a loaded model, in the order that keeps its memory under the budget. */
#include "engine/engine.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/cpu.h"

void fm_engine_log(const fm_engine *e, int level, const char *format, ...) {
    char line[600];
    va_list args;
    if (!e->options.log) return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    e->options.log(e->options.user, level, line);
}

/* generation_config.json's sampling: greedy unless it says do_sample. */
static int read_sampling(fm_engine *e, fm_error *err) {
    char path[1100];
    fm_config config = {0};
    bool sample = false;
    e->sampling = (fm_sampling)FM_SAMPLING_INIT;
    if (!fm_model_find_file(path, sizeof path, e->model->path, e->options.config_from, "generation_config.json")) return 0;
    int rc = fm_config_open(&config, path, err);
    if (rc < 0) return rc;
    double temperature, top_p, min_p, repeat;
    int top_k;
    if ((rc = fm_config_bool(&config, "do_sample", false, &sample, err)) < 0 || (rc = fm_config_double(&config, "temperature", 1, &temperature, err)) < 0 ||
        (rc = fm_config_double(&config, "top_p", 1, &top_p, err)) < 0 || (rc = fm_config_double(&config, "min_p", 0, &min_p, err)) < 0 ||
        (rc = fm_config_double(&config, "repetition_penalty", 1, &repeat, err)) < 0 ||
        (rc = fm_config_int(&config, "top_k", 0, 0, INT32_MAX, &top_k, err)) < 0) {
        fm_config_close(&config);
        return rc;
    }
    fm_config_close(&config);
    e->sampling.temperature = sample ? (float)temperature : 0;
    e->sampling.top_k = top_k;
    e->sampling.top_p = (float)top_p;
    e->sampling.min_p = (float)min_p;
    e->sampling.repeat_penalty = (float)repeat;
    return 0;
}

static int open_tables(fm_engine *e, fm_error *err) {
    size_t n_experts = (size_t)e->model->description.n_experts, choices = (size_t)e->plan.batch * (size_t)e->top_k;
    int rc = fm_region_open(&e->tables.region, fm_plan_table_bytes(e->model, e->plan.batch, e->top_k), "tables", err);
    if (rc < 0) return rc;
    e->uses.keys = fm_arena_take(&e->tables, n_experts * sizeof(int));
    e->uses.count = fm_arena_take(&e->tables, n_experts * sizeof(int));
    e->uses.start = fm_arena_take(&e->tables, (n_experts + 1) * sizeof(int));
    e->uses.tokens = fm_arena_take(&e->tables, choices * sizeof(int32_t));
    e->uses.choices = fm_arena_take(&e->tables, choices * sizeof(int32_t));
    e->advice = fm_arena_take(&e->tables, fm_plan_advice(e->model, e->top_k) * sizeof(int));
    e->cold = fm_arena_take(&e->tables, n_experts);
    e->dropped = fm_arena_take(&e->tables, FM_GUESS_TOKENS * (size_t)e->top_k * sizeof(int));
    e->ids = fm_arena_take(&e->tables, (size_t)e->plan.batch * sizeof(int32_t));
    return 0;
}

static int open_store(fm_engine *e, fm_error *err) {
    if (!e->plan.n_experts_total) return 0;
    fm_store_config config = fm_plan_store(&e->plan, e->model, &e->options);
    config.io = e->io;
    config.policy = fm_policy_find(e->options.policy, err);
    return config.policy ? fm_store_open(&e->store, &config, err) : FM_EINVAL;
}

static void poll_store(void *user) {
    fm_engine *e = user;
    if (e->store) fm_store_poll(e->store);
}

/* What the user should know before the first token. */
static void announce(fm_engine *e) {
    const fm_engine_options *o = &e->options;
    if (e->plan.budget_given && o->memory_bytes > e->plan.available_bytes) {
        fm_engine_log(e, FM_LOG_WARNING, "the budget of %.0f MiB is more than the %.0f MiB that are free here", (double)o->memory_bytes / 1048576,
                      (double)e->plan.available_bytes / 1048576);
    }
    if (e->plan.context > e->model->description.max_position) {
        fm_engine_log(e, FM_LOG_WARNING, "a context of %d tokens is longer than the %d this model was trained for", e->plan.context,
                      e->model->description.max_position);
    }
}

static int check_options(const fm_engine *e, fm_error *err) {
    int k = e->model->description.top_k, asked = e->options.experts_per_token;
    if (asked > k) return fm_fail(err, FM_EINVAL, "%d experts a token is more than the %d this model was trained with", asked, k);
    int max_id = e->tokenizer ? fm_tokenizer_max_id(e->tokenizer) : -1, vocab = e->model->description.vocab;
    if (max_id >= vocab) return fm_fail(err, FM_EFORMAT, "%s: the tokenizer has token id %d, but the model only %d rows", e->model->path, max_id, vocab);
    return 0;
}

/* The tokenizer is read first, because reading it takes more memory than it keeps; slots come last, because they take what is left. */
static int open_parts(fm_engine *e, const char *directory, fm_error *err) {
    fm_engine_options *o = &e->options;
    int rc;
    if ((rc = fm_model_open(&e->model, directory, o->config_from, fm_families, err)) < 0) return rc;
    if (o->no_verify && e->model->pack) memset(e->model->pack->verified, 1, (size_t)e->model->n_copies * (size_t)fm_model_narrow(e->model));
    if (o->mirror && (rc = fm_model_mirror(e->model, o->mirror, err)) < 0) return rc;
    if ((rc = fm_info_tokenizer(&e->tokenizer, directory, o->config_from, err)) < 0) return rc;
    if ((rc = fm_info_fill(&e->info, e->model, e->tokenizer, o->config_from, err)) < 0) return rc;
    if ((rc = check_options(e, err)) < 0 || (rc = read_sampling(e, err)) < 0) return rc;
    if ((rc = fm_plan_compute(&e->plan, e->model, e->tokenizer, o, err)) < 0) return rc;
    announce(e);
    if ((rc = fm_approximation_open(e, err)) < 0) return rc;
    e->ops = &fm_cpu_device;
    if (!fm_kernels_find(o->cpu, err) || !fm_policy_find(o->policy, err)) return FM_EINVAL;
    if ((rc = fm_pool_open(&e->pool, o->n_threads, err)) < 0) return rc;
    fm_progress progress = {o->progress, o->user};
    if ((rc = fm_weights_load(&e->weights, e->model, e->pool, fm_plan_piece_bytes(&e->plan, o), &progress, err)) < 0) return rc;
    fm_device_config device = fm_plan_device(&e->plan, e->model, o);
    device.weights = &e->weights;
    device.pool = e->pool;
    device.poll = poll_store;
    device.poll_user = e;
    e->top_k = device.top_k;
    if ((rc = e->ops->open(&e->device, &device, err)) < 0) return rc;
    if ((rc = open_tables(e, err)) < 0) return rc;
    if ((rc = fm_snapshots_open(&e->snapshots, &(fm_snapshots_config){.ops = e->ops, .device = device, .limit_bytes = e->plan.snapshot_bytes}, err)) < 0)
        return rc;
    if ((rc = open_store(e, err)) < 0) return rc;
    if (e->store && (rc = fm_preload(e, err)) < 0) return rc;
    return fm_pressure_open(&e->pressure, err);
}

int fm_engine_open(fm_engine **out, const char *directory, const fm_engine_options *options, fm_error *err) {
    return fm_engine_open_io(out, directory, options, NULL, err);
}

int fm_engine_open_io(fm_engine **out, const char *directory, const fm_engine_options *options, const fm_io_ops *io, fm_error *err) {
    *out = NULL;
    fm_engine *e = calloc(1, sizeof *e);
    if (!e) return fm_fail(err, FM_ENOMEM, "no memory for an engine");
    e->io = io;
    unsigned long mode = fm_pool_enter();
    int rc = fm_turn_open(&e->turn, err);
    if (rc >= 0) rc = fm_options_read(&e->options, options, err);
    if (rc >= 0 && e->options.heat && !(e->heat_path = strdup(e->options.heat))) rc = fm_fail(err, FM_ENOMEM, "no memory for a path");
    if (rc >= 0) rc = open_parts(e, directory, err);
    fm_pool_leave(mode);
    if (rc < 0) {
        fm_engine_close(&e);
        return rc;
    }
    fm_engine_open_cache(e);
    e->opened = true;
    /* Strings of the caller are not kept. */
    e->options.profile = e->options.heat = e->options.session_cache = e->options.mirror = e->options.config_from = e->options.io = e->options.policy =
        e->options.cpu = NULL;
    *out = e;
    return 0;
}

void fm_engine_close(fm_engine **engine) {
    fm_engine *e = *engine;
    if (!e) return;
    if (e->opened) fm_preload_save(e);
    fm_engine_store(e);
    fm_directory_close(&e->directory);
    free(e->heat_path);
    free(e->fill_keys);
    fm_pressure_close(&e->pressure);
    fm_store_close(&e->store);
    fm_snapshots_close(&e->snapshots);
    if (e->ops) e->ops->close(&e->device);
    fm_region_close(&e->tables.region);
    fm_weights_close(&e->weights);
    fm_pool_close(&e->pool);
    fm_tokenizer_close(&e->tokenizer);
    fm_model_close(&e->model);
    fm_turn_close(&e->turn);
    free(e);
    *engine = NULL;
}

const fm_plan *fm_engine_plan(const fm_engine *e) { return &e->plan; }
const fm_model_info *fm_engine_info(const fm_engine *e) { return &e->info; }
const char *fm_engine_cpu(const fm_engine *e) { return e->ops->kernels(e->device); }
const char *fm_engine_io(const fm_engine *e) { return e->store ? fm_store_io_name(e->store) : "none"; }
int fm_engine_n_threads(const fm_engine *e) { return fm_pool_n_threads(e->pool); }
void fm_engine_cancel(fm_engine *e, bool cancel) { atomic_store(&e->cancelled, cancel); }
void fm_engine_sampling(const fm_engine *e, fm_sampling *out) { *out = e->sampling; }
void fm_free(void *p) { free(p); }

void fm_engine_stats(const fm_engine *engine, fm_stats *out) {
    fm_engine *e = (fm_engine *)engine; /* its lock changes */
    fm_store_stats s = {0};
    fm_turn_take(&e->turn);
    if (e->store) fm_store_stats_read(e->store, &s);
    *out = (fm_stats){.n_tokens = e->n_tokens,
                      .n_requests = s.n_requests,
                      .n_hits = s.n_hits,
                      .disk_bytes = s.disk_bytes,
                      .n_guessed = s.n_guessed,
                      .n_guesses_used = s.n_guesses_used,
                      .stall_seconds = s.stall_seconds,
                      .disk_seconds = s.disk_seconds,
                      .slots_given_back = e->slots_given_back,
                      .n_left_out = e->n_left_out,
                      .n_narrow = e->n_narrow};
    memcpy(out->phase_seconds, e->phase_seconds, sizeof e->phase_seconds);
    fm_turn_give(&e->turn);
}

void fm_engine_spent(fm_engine *e, int phase, double seconds) {
    fm_turn_take(&e->turn);
    e->phase_seconds[phase] += seconds;
    fm_turn_give(&e->turn);
}

int fm_engine_live(const fm_engine *e, fm_live *out, fm_live_expert *experts, int n) {
    *out = (fm_live){.n_tokens = e->n_tokens};
    return e->store ? fm_store_live_read(e->store, out, experts, n) : 0;
}

const char *fm_phase_name(int phase) {
    static const char *const names[FM_N_PHASES] = {"embed", "mixer", "router", "shared", "expert wait", "expert compute", "combine", "head", "sampler"};
    return phase >= 0 && phase < FM_N_PHASES ? names[phase] : "";
}

int fm_engine_encode(const fm_engine *e, const char *text, size_t bytes, bool special, int32_t **ids, fm_error *err) {
    *ids = NULL;
    if (!e->tokenizer) return fm_info_no_tokenizer(e->model->path, e->options.config_from, err);
    return fm_tokenizer_encode(e->tokenizer, text, bytes, special, ids, err);
}

int fm_engine_token_bytes(const fm_engine *e, int32_t id, const char **bytes) {
    *bytes = "";
    return e->tokenizer ? fm_tokenizer_bytes(e->tokenizer, id, bytes) : 0;
}

bool fm_engine_token_is_eos(const fm_engine *e, int32_t id) {
    for (int i = 0; i < e->model->n_eos; i++) {
        if (e->model->eos[i] == id) return true;
    }
    return false;
}
