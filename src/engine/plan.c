/* engine/plan.c: what a model needs under a budget: how long a context, how many tokens a batch, how many experts in memory. fm_engine_open allocates exactly
 * what stands here. */
#include <assert.h>
#include <string.h>

#include "cpu/cpu.h"
#include "engine/engine.h"

#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)
#define OVERHEAD (8 * MIB)        /* the program, its libraries, heap and tables that are not counted one by one */
#define OVERHEAD_THREAD (MIB / 4) /* stack and scratch of a thread */
#define TEXT_PEAK 15              /* a tokenizer takes so many times its size while its JSON is read (150,000 entries: 83 MB of 5.8) */
#define MAX_CONTEXT 32768         /* when --context does not say */
#define MIN_CONTEXT 256
#define MAX_BATCH 4096 /* tokens whose experts are read once; the residual stream and what goes with it takes some 20 * hidden bytes for each */
#define MIN_BATCH FM_ROW_TOKENS
#define MIN_PIECE (64 << 10)
#define SNAPSHOT_OVERHEAD (16 << 10)
#define SNAPSHOT_READING (12 * MIB)
#define MAX_PIECE (2 << 20)
#define MAX_GUESSES 32
#define MAX_WINDOW_BYTES (32 * MIB) /* experts being read in place, which costs no memory: preload.c finds out what this disk wants */
#define STAGING_BYTES (8 * MIB)     /* experts being read: what one disk wants in flight */

int fm_options_read(fm_engine_options *out, const fm_engine_options *in, fm_error *err) {
    *out = (fm_engine_options)FM_ENGINE_OPTIONS_INIT;
    if (in) memcpy(out, in, in->size < sizeof *out ? in->size : sizeof *out);
    out->size = sizeof *out;
    if (out->n_threads < 0 || out->n_threads > 1024) return fm_fail(err, FM_EINVAL, "%d threads is not between 1 and 1024", out->n_threads);
    if (out->context < 0) return fm_fail(err, FM_EINVAL, "a context of %d tokens is negative", out->context);
    if (out->n_sessions < 0 || out->n_sessions > FM_MAX_SPANS)
        return fm_fail(err, FM_EINVAL, "%d sessions is not between 1 and %d", out->n_sessions, FM_MAX_SPANS);
    if (!out->n_sessions) out->n_sessions = 1;
    if (!out->n_threads) out->n_threads = fm_cpu_count();
    if (out->experts_per_token < 0) return fm_fail(err, FM_EINVAL, "%d experts a token is negative", out->experts_per_token);
    if (out->activations != FM_ACTIVATIONS_INT8 && out->activations != FM_ACTIVATIONS_F32)
        return fm_fail(err, FM_EINVAL, "there are no activations %d", out->activations);
    int rc = fm_approximation_check(out, err);
    if (rc < 0) return rc;
    if (out->kv < FM_KV_BF16 || out->kv > FM_KV_Q8) return fm_fail(err, FM_EINVAL, "there is no kind %d of KV cache", out->kv);
    return 0;
}

static int top_k_of(const fm_model *model, const fm_engine_options *o) {
    int k = model->description.top_k;
    return o->experts_per_token > 0 && o->experts_per_token < k ? o->experts_per_token : k;
}

fm_device_config fm_plan_device(const fm_plan *plan, const fm_model *model, const fm_engine_options *o) {
    return (fm_device_config){.model = model,
                              .cpu = o->cpu,
                              .int8 = o->activations == FM_ACTIVATIONS_INT8,
                              .top_k = top_k_of(model, o),
                              .max_batch = plan->batch,
                              .context = plan->context,
                              .kv = o->kv};
}

fm_store_config fm_plan_store(const fm_plan *plan, const fm_model *model, const fm_engine_options *o) {
    const fm_description *d = &model->description;
    return (fm_store_config){.n_layers = d->n_layers,
                             .n_experts = d->n_experts,
                             .slot_bytes = model->slot_bytes,
                             .n_slots = plan->n_slots,
                             .n_staging = plan->n_staging,
                             .n_guesses = plan->n_guesses,
                             .in_place = model->in_place,
                             .n_extents = model->n_extents,
                             .extents = model->extents,
                             .files = model->tensors.files,
                             .narrow = o->cold_bits && model->n_copies > 1 ? model->extents + (size_t)fm_model_narrow(model) * (size_t)model->n_extents : NULL,
                             .mirrors = model->mirrors,
                             .io_name = o->io,
                             .log = o->log,
                             .user = o->user};
}

size_t fm_plan_piece_bytes(const fm_plan *plan, const fm_engine_options *o) {
    uint64_t bytes = plan->budget_bytes / 512 / (uint64_t)o->n_threads;
    return bytes < MIN_PIECE ? MIN_PIECE : bytes > MAX_PIECE ? MAX_PIECE : (size_t)bytes;
}

size_t fm_plan_advice(const fm_model *model, int top_k) {
    size_t some = FM_GUESS_TOKENS * (size_t)top_k, all = (size_t)model->description.n_experts;
    return some > all ? some : all;
}

size_t fm_plan_table_bytes(const fm_model *model, int batch, int top_k) {
    size_t n_experts = (size_t)model->description.n_experts, choices = (size_t)batch * (size_t)top_k;
    return fm_arena_bytes(n_experts * sizeof(int)) * 2 + fm_arena_bytes((n_experts + 1) * sizeof(int)) + fm_arena_bytes(choices * sizeof(int32_t)) * 2 +
           fm_arena_bytes((size_t)batch * sizeof(int32_t)) + fm_arena_bytes(n_experts) + fm_arena_bytes(FM_GUESS_TOKENS * (size_t)top_k * sizeof(int)) +
           fm_arena_bytes(fm_plan_advice(model, top_k) * sizeof(int));
}

/* Heap of an opened model: tensor and extent tables. */
static uint64_t model_bytes(const fm_model *m) {
    uint64_t bytes = sizeof *m + ((uint64_t)m->description.n_layers + 1) * sizeof *m->sources;
    bytes += (uint64_t)m->n_copies * (uint64_t)m->description.n_layers * (uint64_t)m->description.n_experts * (uint64_t)m->n_extents * sizeof *m->extents;
    return bytes + (uint64_t)m->tensors.n_tensors * (sizeof(fm_tensor) + 96);
}

/* Everything but the slots, for the plan's context, batch and staging. */
static uint64_t fixed_bytes(fm_plan *p, const fm_model *model, const fm_engine_options *o) {
    fm_device_config device = fm_plan_device(p, model, o);
    fm_store_config store = fm_plan_store(p, model, o);
    store.n_slots = 1;
    uint64_t ids = (uint64_t)p->context * sizeof(int32_t), logits = (uint64_t)model->description.vocab * sizeof(float);
    p->session_bytes = (fm_cpu_device.state_bytes(&device) + ids + logits) * (uint64_t)o->n_sessions;
    p->buffer_bytes = fm_cpu_device.device_bytes(&device) + fm_plan_table_bytes(model, p->batch, device.top_k);
    if (model->description.n_experts) p->buffer_bytes += fm_store_memory_bytes(&store) - model->slot_bytes;
    return p->dense_bytes + p->session_bytes + p->buffer_bytes + p->text_bytes + p->overhead_bytes;
}

/* Bytes a slot adds, its bookkeeping included. */
static uint64_t slot_cost(const fm_plan *p, const fm_model *model, const fm_engine_options *o) {
    fm_store_config store = fm_plan_store(p, model, o);
    store.n_slots = 1;
    uint64_t one = fm_store_memory_bytes(&store);
    store.n_slots = 4097;
    return (fm_store_memory_bytes(&store) - one + 4095) / 4096;
}

static void find_context(fm_plan *p, const fm_model *model, const fm_engine_options *o) {
    if (o->context) {
        p->context = o->context;
        return;
    }
    fm_plan small = *p, large = *p;
    small.context = 1024;
    large.context = 2048;
    small.batch = large.batch = MIN_BATCH;
    small.n_staging = large.n_staging = 1;
    small.n_slots = large.n_slots = 1;
    uint64_t a = fixed_bytes(&small, model, o), b = fixed_bytes(&large, model, o), token = (b - a) / 1024;
    uint64_t context = token ? p->budget_bytes / 10 / token : MAX_CONTEXT;
    int most = model->description.max_position < MAX_CONTEXT ? model->description.max_position : MAX_CONTEXT;
    p->context = context > (uint64_t)most ? most : context < MIN_CONTEXT ? MIN_CONTEXT : (int)context / 64 * 64;
    if (p->context > most) p->context = most;
}

/* What may be planned with: a 256th stays free, for page tables and whatever else the kernel charges a cgroup for. */
static uint64_t usable(const fm_plan *p) { return p->budget_bytes - p->budget_bytes / 256; }

/* The floor: the smallest batch, one expert being read, one layer's choice of slots; or reading the tokenizer, which comes first. */
static void find_floor(fm_plan *p, const fm_model *model, const fm_engine_options *o, uint64_t slot) {
    fm_plan least = *p;
    least.batch = MIN_BATCH;
    least.n_staging = 1;
    if (!o->context && least.context > MIN_CONTEXT) least.context = MIN_CONTEXT;
    p->floor_bytes = fixed_bytes(&least, model, o) + slot * (uint64_t)p->min_slots;
    uint64_t reading = p->overhead_bytes + TEXT_PEAK * p->text_bytes;
    if (p->floor_bytes < reading) p->floor_bytes = reading;
    p->floor_bytes += p->floor_bytes / 255 + 1;
}

static int refuse(const fm_plan *p, const fm_model *model, const fm_engine_options *o, fm_error *err) {
    const double m = 1.0 / MIB;
    return fm_fail(
        err, FM_ENOMEM,
        "%s does not fit in %.0f MiB: it needs at least %.0f MiB (dense weights %.0f, KV cache and states %.0f for %d tokens, buffers %.0f, tokenizer %.0f, "
        "program %.0f, %d experts of %.2f); try --memory %.0fM%s",
        model->path, (double)p->budget_bytes * m, (double)p->floor_bytes * m, (double)p->dense_bytes * m, (double)p->session_bytes * m, p->context,
        (double)p->buffer_bytes * m, (double)p->text_bytes * m, (double)p->overhead_bytes * m, p->min_slots, (double)p->slot_bytes * m,
        (double)(p->floor_bytes + MIB) * m, o->context ? " or a smaller --context" : "");
}

/* Shrinks batch and staging until what does not hold experts is a small part of the budget, or as small as it gets. */
static void find_buffers(fm_plan *p, const fm_model *model, const fm_engine_options *o, uint64_t slot) {
    uint64_t disk = p->expert_disk_bytes ? p->expert_disk_bytes : 1, want = (model->in_place ? MAX_WINDOW_BYTES : STAGING_BYTES) / disk;
    p->n_staging = want < 4 ? 4 : want > 64 ? 64 : (int)want;
    for (p->batch = MAX_BATCH; p->batch > MIN_BATCH; p->batch /= 2) {
        uint64_t fixed = fixed_bytes(p, model, o), variable = fixed - p->dense_bytes - p->session_bytes - p->text_bytes - p->overhead_bytes;
        bool resident = fixed + slot * (uint64_t)p->n_experts_total <= usable(p);
        if (resident || (variable <= p->budget_bytes / 20 && fixed + slot * (uint64_t)p->min_slots <= usable(p))) break;
        if (p->n_staging > 4) p->n_staging = p->n_staging / 2 < 4 ? 4 : p->n_staging / 2;
    }
    while (p->n_staging > 1 && fixed_bytes(p, model, o) + slot * (uint64_t)p->min_slots > usable(p)) p->n_staging--;
}

static void find_budget(fm_plan *p, const fm_engine_options *o) {
    uint64_t mine = fm_memory_resident(), free_now = fm_memory_available();
    p->available_bytes = free_now + mine;
    p->budget_given = o->memory_bytes > 0;
    p->kv = o->kv;
    uint64_t reserve = p->available_bytes / 10 < GIB ? p->available_bytes / 10 : GIB;
    p->budget_bytes = p->budget_given ? o->memory_bytes : p->available_bytes - reserve;
    p->reserve_bytes = p->budget_given ? 0 : reserve;
}

/* Of the bytes that are left for experts, what snapshots of sessions may take: of a model that fits what it leaves, up to an eighth of the budget; else a 16th, and room
 * for two if a fourth is that much. */
static uint64_t snapshot_share(const fm_plan *p, const fm_model *model, const fm_engine_options *o, uint64_t left, uint64_t slot) {
    fm_device_config device = fm_plan_device(p, model, o);
    uint64_t least = slot * (uint64_t)p->min_slots, all = slot * (uint64_t)p->n_experts_total;
    uint64_t two = 2 * (fm_cpu_device.fixed_bytes(&device) + (uint64_t)p->context * sizeof(int32_t) + SNAPSHOT_OVERHEAD) + SNAPSHOT_READING;
    if (left >= all) return left - all < p->budget_bytes / 8 ? left - all : p->budget_bytes / 8;
    left -= least;
    return left / 16 > two ? left / 16 : two < left / 4 ? two : left / 4;
}

int fm_plan_compute(fm_plan *p, const fm_model *model, const fm_tokenizer *tokenizer, const fm_engine_options *o, fm_error *err) {
    const fm_description *d = &model->description;
    memset(p, 0, sizeof *p);
    find_budget(p, o);
    p->dense_bytes = fm_weights_bytes(model);
    p->token_dense_bytes = fm_weights_token_bytes(model);
    p->text_bytes = tokenizer ? fm_tokenizer_memory_bytes(tokenizer) : 0;
    p->overhead_bytes = OVERHEAD + OVERHEAD_THREAD * (uint64_t)o->n_threads + model_bytes(model);
    p->slot_bytes = model->slot_bytes;
    for (int i = 0; i < d->n_layers; i++) {
        if (!d->layers[i].moe) continue;
        p->n_experts_total += d->n_experts;
        p->token_expert_bytes += (uint64_t)top_k_of(model, o) * model->experts[i].disk_bytes;
        if (model->experts[i].disk_bytes > p->expert_disk_bytes) p->expert_disk_bytes = model->experts[i].disk_bytes;
        if (model->n_copies > 1) p->token_narrow_bytes += (uint64_t)top_k_of(model, o) * model->experts[d->n_layers + i].disk_bytes;
    }
    p->narrow_bits = fm_info_narrow(model, &p->narrow_expert_bytes, &p->narrow_bytes);
    p->min_slots = p->n_experts_total ? top_k_of(model, o) : 0;
    p->n_slots = 1;
    p->n_staging = 1;
    uint64_t slot = p->n_experts_total ? slot_cost(p, model, o) : 0;
    find_context(p, model, o);
    find_floor(p, model, o, slot);
    if (p->floor_bytes > p->budget_bytes) {
        p->batch = MIN_BATCH;
        fixed_bytes(p, model, o);
        return refuse(p, model, o, err);
    }
    find_buffers(p, model, o, slot);
    uint64_t fixed = fixed_bytes(p, model, o);
    while (fixed + slot * (uint64_t)p->min_slots > usable(p) && !o->context && p->context > MIN_CONTEXT) {
        p->context = p->context / 2 < MIN_CONTEXT ? MIN_CONTEXT : p->context / 2;
        fixed = fixed_bytes(p, model, o);
    }
    assert(fixed + slot * (uint64_t)p->min_slots <= usable(p));
    p->snapshot_bytes = snapshot_share(p, model, o, usable(p) - fixed, slot);
    uint64_t slots = slot ? (usable(p) - fixed - p->snapshot_bytes) / slot : 0;
    p->resident = slots >= (uint64_t)p->n_experts_total;
    p->n_slots = p->resident ? p->n_experts_total : (int)slots;
    int spare = (p->n_slots - p->min_slots) / 8;
    if (model->in_place && !p->resident && o->prefetch == FM_PREFETCH_ON) p->n_guesses = spare < MAX_GUESSES ? spare : MAX_GUESSES;
    p->cache_bytes = (uint64_t)p->n_slots * p->slot_bytes;
    return 0;
}

int fm_plan_make(fm_plan *out, const char *directory, const fm_engine_options *options, fm_error *err) {
    fm_engine_options o;
    fm_model *model = NULL;
    fm_tokenizer *tokenizer = NULL;
    memset(out, 0, sizeof *out);
    int rc = fm_options_read(&o, options, err);
    if (rc < 0 || (rc = fm_model_open(&model, directory, o.config_from, fm_families, err)) < 0) return rc;
    rc = fm_info_tokenizer(&tokenizer, directory, o.config_from, err);
    if (rc >= 0) rc = fm_plan_compute(out, model, tokenizer, &o, err);
    fm_tokenizer_close(&tokenizer);
    fm_model_close(&model);
    return rc;
}
