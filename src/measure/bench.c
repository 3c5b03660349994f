/* measure/bench.c: timing a model, and which share of the machine's limit it reached. Bursts that measure the machine lie between the runs, so that
 * both see the same neighbours. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "measure/limit.h"
#include "measure/machine.h"
#include "measure/routes.h"

#define PROMPT 32          /* tokens before decoding */
#define BURST_SECONDS 0.04 /* of each rate that is sampled */
#define IDLE_SECONDS 0.3
#define WIDE 0.25 /* (most - least) / median from which on a spread is a warning */
#define IDLE 0.80
#define MAX_PREFILL_RUNS 3

enum { WARM, COLD, ROTATING, N_DECODE };

/* What one run took and moved; its shares are known when the machine is. */
typedef struct bench_run {
    int position, n; /* of the first token, and tokens */
    double seconds;
    fm_stats stats;      /* differences */
    fm_limit_uses *uses; /* decode: [n][n_layers]; prefill: [n_layers], of distinct experts */
} bench_run;

typedef struct bench {
    fm_engine *e;
    fm_bench *out;
    fm_bench_options options;
    int n_runs;
    fm_session *session;
    fm_routes *routes;
    fm_machine *machine;
    fm_limit limit;
    int32_t *ids;
    uint64_t text; /* number of the text, its seed */
    int done, total;
    bool cache_stayed;

    bench_run *run;     /* in progress; NULL: not recorded */
    int token, layer;   /* decode: the token, and the last layer that was routed, -1: none */
    fm_store_stats met; /* when that layer was routed */
    uint8_t *experts;   /* prefill: [n_layers][n_experts] 1: in memory when the prompt began, 2: used; NULL: decode */
} bench;

/* ---- what each layer asked for ---- */

static void read_store(const bench *b, fm_store_stats *stats) {
    memset(stats, 0, sizeof *stats);
    if (b->e->store) fm_store_stats_read(b->e->store, stats);
}

/* What the store has counted since a layer was routed is that layer's. */
static void settle_layer(bench *b) {
    fm_store_stats now;
    read_store(b, &now);
    if (b->layer >= 0) {
        fm_limit_uses *u = &b->run->uses[(size_t)b->token * (size_t)b->limit.n_layers + (size_t)b->layer];
        u->hits = (uint16_t)(now.n_hits - b->met.n_hits);
        u->misses = (uint16_t)(now.n_requests - b->met.n_requests - u->hits);
    }
    b->met = now;
}

static void on_route(void *user, const fm_route_event *event) {
    bench *b = user;
    fm_routes_draw(b->routes, event);
    if (!b->run) return;
    if (!b->experts) {
        settle_layer(b);
        b->layer = event->layer;
        return;
    }
    uint8_t *row = b->experts + (size_t)event->layer * (size_t)b->e->model->description.n_experts;
    for (int i = 0; i < event->n * event->top_k; i++) row[event->experts[i]] |= 2;
}

/* ---- one run ---- */

static int check_cancelled(const bench *b, fm_error *err) {
    return atomic_load(&b->e->cancelled) ? fm_fail(err, FM_ECANCELLED, "the bench was cancelled after %d of %d runs", b->done, b->total) : 0;
}

static void random_ids(bench *b, int n) {
    uint64_t state = b->text * 0x9e3779b97f4a7c15u + (uint64_t)fm_session_position(b->session);
    for (int i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        b->ids[i] = (int32_t)((state >> 33) % (uint64_t)b->e->model->description.vocab);
    }
}

/* Another text: its prompt of n tokens is not recorded; 0: none yet. */
static int begin_text(bench *b, int n, fm_error *err) {
    fm_session_clear(b->session);
    fm_routes_restart(b->routes, ++b->text);
    random_ids(b, n);
    return n ? fm_session_feed(b->session, b->ids, n, FM_LOGITS_LAST, NULL, NULL, err) : 0;
}

static fm_stats difference(const fm_stats *a, const fm_stats *b) {
    fm_stats d = {.n_requests = b->n_requests - a->n_requests,
                  .n_hits = b->n_hits - a->n_hits,
                  .disk_bytes = b->disk_bytes - a->disk_bytes,
                  .stall_seconds = b->stall_seconds - a->stall_seconds};
    for (int i = 0; i < FM_N_PHASES; i++) d.phase_seconds[i] = b->phase_seconds[i] - a->phase_seconds[i];
    return d;
}

/* Tokens are random, so that no sampler is timed; the head is. */
static int decode(bench *b, bench_run *run, int n, fm_error *err) {
    fm_stats before, after;
    int rc = check_cancelled(b, err);
    random_ids(b, n);
    *run = (bench_run){.position = fm_session_position(b->session), .n = n, .uses = calloc((size_t)n * (size_t)b->limit.n_layers, sizeof *run->uses)};
    if (!run->uses) return fm_fail(err, FM_ENOMEM, "no memory for the record of %d tokens", n);
    b->run = run;
    fm_engine_stats(b->e, &before);
    double start = fm_now();
    for (b->token = 0; b->token < n && rc >= 0; b->token++) {
        b->layer = -1;
        rc = fm_session_feed(b->session, b->ids + b->token, 1, FM_LOGITS_LAST, NULL, NULL, err);
        settle_layer(b);
        if (rc >= 0) rc = check_cancelled(b, err);
    }
    run->seconds = fm_now() - start;
    fm_engine_stats(b->e, &after);
    run->stats = difference(&before, &after);
    b->run = NULL;
    return rc < 0 ? rc : 0;
}

static int prefill(bench *b, bench_run *run, int n, fm_error *err) {
    const fm_description *d = &b->e->model->description;
    size_t n_keys = (size_t)d->n_layers * (size_t)d->n_experts;
    fm_stats before, after;
    int rc = check_cancelled(b, err);
    if (rc < 0 || (rc = begin_text(b, 0, err)) < 0) return rc;
    random_ids(b, n);
    *run = (bench_run){.n = n, .uses = calloc((size_t)d->n_layers, sizeof *run->uses)};
    b->experts = calloc(n_keys + 1, 1);
    if (!run->uses || !b->experts) return fm_fail(err, FM_ENOMEM, "no memory for the record of %zu experts", n_keys);
    for (size_t key = 0; key < n_keys && b->e->store; key++) b->experts[key] = fm_store_holds(b->e->store, (int)key);
    b->run = run;
    fm_engine_stats(b->e, &before);
    double start = fm_now();
    rc = fm_session_feed(b->session, b->ids, n, FM_LOGITS_LAST, NULL, NULL, err);
    run->seconds = fm_now() - start;
    fm_engine_stats(b->e, &after);
    run->stats = difference(&before, &after);
    for (size_t key = 0; key < n_keys; key++) {
        fm_limit_uses *u = &run->uses[key / (size_t)d->n_experts];
        if (b->experts[key] & 2) b->experts[key] & 1 ? u->hits++ : u->misses++;
    }
    free(b->experts);
    b->experts = NULL;
    b->run = NULL;
    return rc < 0 ? rc : 0;
}

/* ---- the runs ---- */

static void warn(bench *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void warn(bench *b, const char *format, ...) {
    va_list args;
    if (b->out->n_warnings == FM_BENCH_WARNINGS) return;
    va_start(args, format);
    vsnprintf(b->out->warnings[b->out->n_warnings++], sizeof b->out->warnings[0], format, args);
    va_end(args);
}

/* Between two runs: the machine, and what earlier runs left in the page cache. */
static int between(bench *b, fm_error *err) {
    const fm_engine_options *o = &b->e->options;
    if (o->progress && o->progress(o->user, "runs", (uint64_t)b->done, (uint64_t)b->total)) return fm_fail(err, FM_ECANCELLED, "the bench was cancelled");
    int rc = fm_machine_sample(b->machine, BURST_SECONDS, err);
    uint64_t left = fm_machine_drop_cache(b->machine);
    if (left > ((uint64_t)1 << 20) && !b->cache_stayed) {
        b->cache_stayed = true;
        if (left == UINT64_MAX)
            warn(b, "whether the experts left the page cache cannot be known here, so \"cold\" may not be cold");
        else
            warn(b, "%.0f MB of the experts' files could not be dropped from the page cache, so \"cold\" is not cold", (double)left / 1e6);
    }
    b->done++;
    return rc < 0 ? rc : check_cancelled(b, err);
}

static int empty_cache(bench *b, fm_error *err) { return b->e->store ? fm_store_clear(b->e->store, err) : 0; }

/* Brings session and cache to where a run of this kind begins. */
static int prepare(bench *b, int kind, int i, fm_error *err) {
    int n = b->options.n_tokens, rc = 0;
    bench_run first;
    if (kind == WARM && i > 0 && fm_session_position(b->session) + n <= b->e->plan.context) return 0;
    if ((rc = begin_text(b, PROMPT, err)) < 0 || kind == ROTATING) return rc;
    if (kind == COLD) return empty_cache(b, err);
    if (i > 0 || fm_session_position(b->session) + 2 * n > b->e->plan.context) return 0;
    rc = decode(b, &first, n, err);
    free(first.uses);
    return rc;
}

static int decode_runs(bench *b, int kind, bench_run *runs, fm_error *err) {
    int rc = 0;
    for (int i = 0; i < b->n_runs && rc >= 0; i++) {
        if ((rc = prepare(b, kind, i, err)) < 0 || (rc = between(b, err)) < 0) return rc;
        rc = decode(b, &runs[i], b->options.n_tokens, err);
    }
    return rc;
}

static int n_prefill_runs(const bench *b) { return b->n_runs < MAX_PREFILL_RUNS ? b->n_runs : MAX_PREFILL_RUNS; }

static int prefill_runs(bench *b, int n, bench_run *runs, fm_error *err) {
    int rc = 0;
    for (int i = 0; i < n_prefill_runs(b) && rc >= 0; i++) {
        if ((rc = between(b, err)) >= 0) rc = prefill(b, &runs[i], n, err);
    }
    return rc;
}

/* ---- results ---- */

static fm_limit_rates rates(const bench *b) {
    return (fm_limit_rates){b->out->ram_bytes_per_second.median, b->out->disk_bytes_per_second.median, b->out->operations_per_second.median};
}

/* Floor, ideal, and bytes of memory of a run. */
static void limits(const bench *b, const bench_run *run, bool prompt, double out[3]) {
    fm_limit_rates r = rates(b);
    double disk = 0;
    out[0] = out[1] = out[2] = 0;
    if (prompt) {
        fm_limit_token_bytes(&b->limit, run->n - 1, run->uses, &out[2], &disk);
        out[0] = fm_limit_prompt_seconds(&b->limit, &r, run->n, run->uses);
        return;
    }
    for (int t = 0; t < run->n; t++) {
        const fm_limit_uses *uses = run->uses + (size_t)t * (size_t)b->limit.n_layers;
        double token_ram, token_disk;
        fm_limit_token_bytes(&b->limit, run->position + t, uses, &token_ram, &token_disk);
        out[0] += fm_limit_token_seconds(&b->limit, &r, run->position + t, uses);
        out[2] += token_ram;
        disk += token_disk;
    }
    out[1] = out[2] / r.ram;
    if (r.disk > 0 && disk / r.disk > out[1]) out[1] = disk / r.disk;
}

static int summarise(const bench *b, const char *name, const bench_run *runs, int n_runs, fm_bench_case *c, fm_error *err) {
    enum { SPEED, HIT_RATE, DISK, RAM, STALL, COMPUTE, LIMIT, IDEAL, N_FIGURES };
    fm_samples *s = calloc(N_FIGURES, sizeof *s);
    fm_spread spread[N_FIGURES];
    if (!s) return fm_fail(err, FM_ENOMEM, "no memory for the figures of %d runs", n_runs);
    for (int i = 0; i < n_runs; i++) {
        const bench_run *run = &runs[i];
        const fm_stats *x = &run->stats;
        double limit[3], compute = -x->phase_seconds[FM_PHASE_EXPERT_WAIT];
        for (int phase = 0; phase < FM_N_PHASES; phase++) compute += x->phase_seconds[phase];
        limits(b, run, *name == 'p', limit);
        fm_samples_add(&s[SPEED], run->n / run->seconds);
        fm_samples_add(&s[HIT_RATE], x->n_requests ? (double)x->n_hits / (double)x->n_requests : 1);
        fm_samples_add(&s[DISK], (double)x->disk_bytes / run->n);
        fm_samples_add(&s[RAM], limit[2] / run->n);
        fm_samples_add(&s[STALL], x->stall_seconds);
        fm_samples_add(&s[COMPUTE], compute);
        fm_samples_add(&s[LIMIT], limit[0] / run->seconds);
        fm_samples_add(&s[IDEAL], limit[1] / run->seconds);
    }
    for (int i = 0; i < N_FIGURES; i++) spread[i] = fm_samples_spread(&s[i]);
    free(s);
    *c = (fm_bench_case){.n_runs = n_runs,
                         .n_tokens = runs[0].n,
                         .tokens_per_second = spread[SPEED],
                         .hit_rate = spread[HIT_RATE].median,
                         .disk_bytes_per_token = spread[DISK].median,
                         .ram_bytes_per_token = spread[RAM].median,
                         .stall_seconds = spread[STALL].median,
                         .compute_seconds = spread[COMPUTE].median,
                         .share_of_limit = spread[LIMIT],
                         .share_of_ideal = spread[IDEAL]};
    snprintf(c->name, sizeof c->name, "%s", name);
    return 0;
}

static int copy_rates(fm_bench_rate *to, const fm_machine_rate *from, int n) {
    for (int i = 0; i < n; i++) to[i] = (fm_bench_rate){from[i].level, fm_samples_spread(&from[i].per_second)};
    return n;
}

static void machine_result(bench *b) {
    const fm_machine_rate *list, *best = fm_machine_best_disk(b->machine);
    fm_bench *out = b->out;
    out->n_ram = fm_machine_ram(b->machine, &list);
    copy_rates(out->ram, list, out->n_ram);
    out->ram_bytes_per_second = out->ram[out->n_ram - 1].bytes_per_second;
    out->n_disk = fm_machine_disk(b->machine, &list);
    copy_rates(out->disk, list, out->n_disk);
    if (best) out->disk_bytes_per_second = fm_samples_spread(&best->per_second);
    out->operations_per_second = fm_samples_spread(fm_machine_operations(b->machine));
    out->expert_bytes = fm_machine_read_bytes(b->machine);
    out->direct = fm_machine_direct(b->machine);
}

static void warn_spread(bench *b, const char *what, const fm_spread *s) {
    double wide = s->median > 0 ? (s->most - s->least) / s->median : 0;
    if (wide > WIDE) warn(b, "a busy machine? %s varied by %.0f %% of its median between the runs", what, 100 * wide);
}

static void warn_busy(bench *b, double idle) {
    double load = 0;
    int cpus = fm_cpu_count();
    if (idle >= 0 && idle < IDLE) warn(b, "a busy machine: only %.0f %% of the CPUs' time was idle before the bench", 100 * idle);
    if (getloadavg(&load, 1) == 1 && b->done == 0 && load > 0.5 * cpus) warn(b, "a busy machine: the load before the bench was %.1f on %d CPUs", load, cpus);
}

static void warn_small(bench *b) {
#ifdef _SC_LEVEL3_CACHE_SIZE
    double cache = (double)sysconf(_SC_LEVEL3_CACHE_SIZE), token = b->out->decode[WARM].ram_bytes_per_token;
    if (token < cache)
        warn(b, "what a token moves, %.1f MB, fits in this CPU's caches of %.0f MB: a limit from memory's speed can be passed", token / 1e6, cache / 1e6);
#else
    (void)b;
#endif
}

/* ---- the order of things ---- */

static int open_bench(bench *b, fm_error *err) {
    fm_engine *e = b->e;
    uint64_t buffers = e->plan.budget_bytes / 64 < ((uint64_t)64 << 20) ? e->plan.budget_bytes / 64 : (uint64_t)64 << 20, two = 2 * e->plan.expert_disk_bytes;
    char io[40];
    int most = PROMPT > b->options.n_tokens ? PROMPT : b->options.n_tokens, rc;
    snprintf(io, sizeof io, "%.*s", (int)strcspn(fm_engine_io(e), " "), fm_engine_io(e));
    for (int i = 0; i < b->options.n_prefill; i++) most = b->options.prefill[i] > most ? b->options.prefill[i] : most;
    fm_machine_config config = {.model = e->model,
                                .cpu = fm_engine_cpu(e),
                                .io = e->store ? io : NULL,
                                .n_threads = fm_engine_n_threads(e),
                                .int8 = e->options.activations == FM_ACTIVATIONS_INT8,
                                .memory = e->weights.arena.region.data,
                                .memory_bytes = e->weights.arena.region.bytes,
                                .buffer_bytes = buffers > two ? buffers : two};
    if ((rc = fm_routes_open(&b->routes, b->options.routing, e, err)) < 0) return rc;
    if ((rc = fm_machine_open(&b->machine, &config, err)) < 0 || (rc = fm_limit_open(&b->limit, e, err)) < 0) return rc;
    b->ids = malloc((size_t)most * sizeof *b->ids);
    if (!b->ids) return fm_fail(err, FM_ENOMEM, "no memory for %d token ids", most);
    snprintf(b->out->routing, sizeof b->out->routing, "%s", fm_routes_name(b->routes));
    b->out->n_threads = fm_engine_n_threads(e);
    return fm_session_open(&b->session, e, err);
}

static int run_all(bench *b, bench_run *runs, fm_error *err) {
    static const char *const names[N_DECODE] = {"warm", "cold", "rotating"};
    static const int first[] = {WARM, ROTATING};
    fm_bench *out = b->out;
    bench_run *prompts = runs + N_DECODE * FM_BENCH_MAX_RUNS;
    int rc = 0;
    for (int i = 0; i < 2 && rc >= 0; i++) rc = decode_runs(b, first[i], runs + first[i] * FM_BENCH_MAX_RUNS, err);
    for (int i = 0; i < b->options.n_prefill && rc >= 0; i++) rc = prefill_runs(b, b->options.prefill[i], prompts + i * MAX_PREFILL_RUNS, err);
    if (rc >= 0) rc = decode_runs(b, COLD, runs + COLD * FM_BENCH_MAX_RUNS, err);
    if (rc >= 0) rc = between(b, err);
    if (rc < 0) return rc;
    machine_result(b);
    for (int i = 0; i < N_DECODE && rc >= 0; i++) rc = summarise(b, names[i], runs + i * FM_BENCH_MAX_RUNS, b->n_runs, &out->decode[i], err);
    for (int i = 0; i < b->options.n_prefill && rc >= 0; i++)
        rc = summarise(b, "prefill", prompts + i * MAX_PREFILL_RUNS, n_prefill_runs(b), &out->prefill[out->n_prefill++], err);
    warn_spread(b, "the memory's speed", &out->ram_bytes_per_second);
    warn_spread(b, "warm decoding", &out->decode[WARM].tokens_per_second);
    warn_spread(b, "rotating decoding", &out->decode[ROTATING].tokens_per_second);
    warn_small(b);
    return rc;
}

static int read_options(bench *b, const fm_bench_options *in, fm_error *err) {
    static const int lengths[] = {128, 512, 2048};
    int context = b->e->plan.context;
    fm_bench_options *o = &b->options;
    *o = (fm_bench_options)FM_BENCH_OPTIONS_INIT;
    if (in) memcpy(o, in, in->size < sizeof *o ? in->size : sizeof *o);
    bool lengths_given = o->n_prefill != 0;
    if (!o->n_runs) o->n_runs = 5;
    if (!o->n_tokens) o->n_tokens = 64;
    if (o->n_runs < 1 || o->n_runs > FM_BENCH_MAX_RUNS) return fm_fail(err, FM_EINVAL, "%d runs is not from 1 to %d", o->n_runs, FM_BENCH_MAX_RUNS);
    if (o->n_tokens < 1 || o->n_tokens > context - PROMPT)
        return fm_fail(err, FM_EINVAL, "%d tokens behind a prompt of %d do not fit in a context of %d tokens", o->n_tokens, PROMPT, context);
    if (o->n_prefill < 0 || o->n_prefill > FM_BENCH_PREFILLS)
        return fm_fail(err, FM_EINVAL, "%d lengths of prompts is not from 0 to %d", o->n_prefill, FM_BENCH_PREFILLS);
    for (int i = 0; i < o->n_prefill; i++) {
        if (o->prefill[i] < 1 || o->prefill[i] > context)
            return fm_fail(err, FM_EINVAL, "a prompt of %d tokens does not fit in a context of %d tokens", o->prefill[i], context);
    }
    for (int i = 0; i < 3 && !lengths_given; i++) {
        if (lengths[i] <= context) o->prefill[o->n_prefill++] = lengths[i];
    }
    b->n_runs = o->n_runs;
    b->total = N_DECODE * b->n_runs + o->n_prefill * n_prefill_runs(b) + 1;
    return 0;
}

int fm_bench_run(fm_bench *out, fm_engine *engine, const fm_bench_options *options, fm_error *err) {
    enum { N_RUNS = N_DECODE * FM_BENCH_MAX_RUNS + FM_BENCH_PREFILLS * MAX_PREFILL_RUNS };
    bench b = {.e = engine, .out = out};
    fm_route_hook hook = engine->route_hook;
    void *user = engine->route_user;
    memset(out, 0, sizeof *out);
    int rc = read_options(&b, options, err);
    if (rc < 0) return rc;
    bench_run *runs = calloc(N_RUNS, sizeof *runs);
    warn_busy(&b, fm_machine_idle(IDLE_SECONDS));
    rc = runs ? open_bench(&b, err) : fm_fail(err, FM_ENOMEM, "no memory for the record of the runs");
    if (rc >= 0) {
        engine->route_hook = on_route;
        engine->route_user = &b;
        engine->routes_drawn = fm_routes_drawn(b.routes);
        rc = run_all(&b, runs, err);
        engine->route_hook = hook;
        engine->route_user = user;
        engine->routes_drawn = false;
    }
    for (int i = 0; i < N_RUNS && runs; i++) free(runs[i].uses);
    free(runs);
    free(b.experts);
    free(b.ids);
    fm_session_close(&b.session);
    fm_limit_close(&b.limit);
    fm_machine_close(&b.machine);
    fm_routes_close(&b.routes);
    return rc < 0 ? rc : 0;
}
