/* cpu/cpu.c: the CPU device: its memory, sessions' states, and the verbs that are a line or two. The others have files of their own. */
#include "cpu/cpu.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/math.h"
#include "model/rope.h"

static void *carve(uint8_t *base, size_t *used, size_t bytes) {
    void *p = base ? base + *used : NULL;
    *used += fm_arena_bytes(bytes);
    return p;
}

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

/* Kinds of int8 forms that the matrices of a model ask for: each width with groups of 32 and of 64. */
static int n_act_kinds(const fm_model *model) {
    bool kinds[9][2] = {{false}};
    int n = 0;
    int copies = model->experts ? model->n_copies : 1;
    for (int layer = 0; layer <= copies * model->description.n_layers; layer++) {
        for (int i = layer > model->description.n_layers ? FM_N_ROLES : 0; i < FM_N_ROLES + 3; i++) {
            const fm_expert_layout *experts = layer && model->experts ? &model->experts[layer - 1] : NULL;
            const fm_matrix_type *t = i < FM_N_ROLES ? &model->sources[layer][i].type : experts ? &experts->matrix[i - FM_N_ROLES].type : NULL;
            if (!t || t->format != FM_FORMAT_R16) continue;
            bool *kind = &kinds[t->width][t->group >= 64];
            n += !*kind;
            *kind = true;
        }
    }
    return n;
}

typedef struct mixer_verb {
    size_t (*floats)(const fm_description *d, int n);
    void (*run)(fm_device *device, int layer);
} mixer_verb;

static const mixer_verb *mixer_of(const fm_description *d, int layer) {
    static const mixer_verb latent = {fm_mla_floats, fm_mla}, kinds[] = {[FM_MIXER_ATTENTION] = {fm_attention_floats, fm_attention},
                                                                         [FM_MIXER_DELTANET] = {fm_deltanet_floats, fm_deltanet},
                                                                         [FM_MIXER_MAMBA] = {fm_mamba_floats, fm_mamba},
                                                                         [FM_MIXER_LIGHTNING] = {fm_lightning_floats, fm_lightning},
                                                                         [FM_MIXER_CONV] = {fm_short_conv_floats, fm_short_conv}};
    fm_mixer mixer = d->layers[layer].mixer;
    return mixer == FM_MIXER_ATTENTION && d->kv_rank ? &latent : &kinds[mixer];
}

/* Points the device's buffers into base; with base NULL only counts. */
static size_t lay_out(fm_device *dev, const fm_device_config *c, uint8_t *base) {
    const fm_description *d = &c->model->description;
    size_t used = 0, n = (size_t)c->max_batch, hidden = (size_t)d->hidden, k = (size_t)c->top_k, f = sizeof(float);
    size_t piece = n < FM_PIECE_TOKENS ? n : FM_PIECE_TOKENS;
    int n_kinds = c->int8 ? n_act_kinds(c->model) : 0;
    size_t inner = most(d->kv_rank ? most((size_t)d->n_heads * (size_t)d->v_dim, (size_t)d->q_rank) : (size_t)d->n_heads * (size_t)d->head_dim,
                        most((size_t)d->n_value_heads * (size_t)d->value_dim, most((size_t)d->dense_width, (size_t)d->shared_width)));
    dev->n_rows = FM_ROW_TOKENS * c->top_k;
    dev->rope = carve(base, &used, (size_t)c->context * (size_t)d->rotary_dim * f);
    dev->x = carve(base, &used, n * hidden * f);
    dev->h = carve(base, &used, n * hidden * f);
    dev->out = carve(base, &used, n * hidden * f);
    dev->shared = carve(base, &used, (d->shared_width ? n : 0) * hidden * f);
    size_t scratch = fm_feed_forward_floats(c, (int)piece);
    for (int i = 0; i < d->n_layers; i++) {
        scratch = most(scratch, mixer_of(d, i)->floats(d, (int)piece));
        if (d->layers[i].mixer == FM_MIXER_MAMBA || d->layers[i].mixer == FM_MIXER_CONV) inner = most(inner, (size_t)fm_mixer_channels(d, d->layers[i].mixer));
    }
    dev->scratch = carve(base, &used, scratch * f);
    dev->input.memory = carve(base, &used, fm_input_bytes(n_kinds, c->max_batch, d->hidden));
    size_t inner_bytes = most(fm_input_bytes(n_kinds, (int)piece, (int)inner), fm_input_bytes(n_kinds, dev->n_rows, d->expert_width));
    if (d->kv_rank) inner_bytes = most(inner_bytes, fm_input_bytes(n_kinds, fm_mla_rows(d, (int)piece), d->kv_rank > d->nope_dim ? d->kv_rank : d->nope_dim));
    dev->inner.memory = carve(base, &used, inner_bytes);
    dev->ahead.x = carve(base, &used, FM_GUESS_TOKENS * hidden * f);
    dev->ahead.input.memory = carve(base, &used, fm_input_bytes(n_kinds, FM_GUESS_TOKENS, d->hidden));
    dev->ahead.logits = carve(base, &used, FM_GUESS_TOKENS * (size_t)fm_router_floats(d) * f);
    dev->ahead.chosen = carve(base, &used, FM_GUESS_TOKENS * k * sizeof(int));
    dev->ahead.weights = carve(base, &used, FM_GUESS_TOKENS * k * f);
    dev->router_logits = carve(base, &used, n * (size_t)fm_router_floats(d) * f);
    dev->chosen = carve(base, &used, n * k * sizeof(int));
    dev->weights = carve(base, &used, n * k * f);
    dev->rows = carve(base, &used, (size_t)dev->n_rows * hidden * f);
    dev->row_of = carve(base, &used, (size_t)dev->n_rows * sizeof(int32_t));
    dev->n_iota = c->max_batch > dev->n_rows ? c->max_batch : dev->n_rows;
    dev->iota = carve(base, &used, (size_t)dev->n_iota * sizeof(int32_t));
    dev->logits = carve(base, &used, FM_HEAD_ROWS * (size_t)d->vocab * f);
    dev->tiles = carve(base, &used, n * sizeof *dev->tiles);
    dev->partial = carve(base, &used, (d->kv_rank ? fm_mla_partial_floats(c) : fm_attention_partial_floats(c)) * f);
    return used;
}

static uint64_t device_bytes(const fm_device_config *config) {
    fm_device counted = {0};
    return lay_out(&counted, config, NULL);
}

static size_t lay_out_state(fm_state *state, const fm_device_config *c, uint8_t *base) {
    const fm_description *d = &c->model->description;
    size_t used = 0, f = sizeof(float);
    fm_layer_state *layers = carve(base, &used, (size_t)d->n_layers * sizeof *layers);
    size_t first = used;
    for (int i = 0; i < d->n_layers; i++) {
        fm_layer_state s = {0};
        size_t before = used, memory = fm_mixer_memory(d, d->layers[i].mixer), channels = (size_t)fm_mixer_channels(d, d->layers[i].mixer);
        if (memory) s.memory = carve(base, &used, memory * f);
        if (channels) s.conv = carve(base, &used, (size_t)(d->conv_taps - 1) * channels * f);
        s.fixed = base ? base + before : NULL;
        s.fixed_bytes = used - before;
        if (base) layers[i] = s;
    }
    state->fixed = base ? base + first : NULL;
    state->fixed_bytes = used - first;
    for (int i = 0; i < d->n_layers; i++) {
        if (d->layers[i].mixer != FM_MIXER_ATTENTION) continue;
        fm_kv kv = {0};
        kv.k = carve(base, &used, fm_kv_value_bytes(c));
        kv.k_scale = carve(base, &used, fm_kv_scale_bytes(c));
        if (!d->kv_rank) {
            kv.v = carve(base, &used, fm_kv_value_bytes(c));
            kv.v_scale = carve(base, &used, fm_kv_scale_bytes(c));
        }
        if (base) layers[i].kv = kv;
    }
    if (base) state->layers = layers;
    return used;
}

static uint64_t state_bytes(const fm_device_config *config) {
    fm_state counted = {0};
    return lay_out_state(&counted, config, NULL) + sizeof(fm_state);
}

static uint64_t fixed_bytes(const fm_device_config *config) {
    fm_state counted = {0};
    lay_out_state(&counted, config, NULL);
    return counted.fixed_bytes;
}

static uint8_t *fixed(fm_state *state) { return state->fixed; }

static int n_attention_layers(const fm_description *d) {
    int n = 0;
    for (int i = 0; i < d->n_layers; i++) n += d->layers[i].mixer == FM_MIXER_ATTENTION;
    return n;
}

static int n_row_parts(const fm_device_config *c) { return n_attention_layers(&c->model->description) * fm_kv_n_parts(c); }

static uint64_t row_sizes(const fm_device_config *c, int n, fm_bytes *parts) {
    uint64_t sum = 0;
    for (int i = 0; i < n_attention_layers(&c->model->description); i++) sum += fm_kv_part_sizes(c, n, parts ? parts + i * fm_kv_n_parts(c) : NULL);
    return sum;
}

static void rows(fm_state *state, int from, int to, fm_bytes *parts) {
    const fm_device *dev = state->device;
    for (int i = 0; i < dev->d->n_layers; i++) {
        if (dev->d->layers[i].mixer != FM_MIXER_ATTENTION) continue;
        fm_kv_parts(dev, &state->layers[i].kv, from, to, parts);
        parts += fm_kv_n_parts(&dev->config);
    }
}

static void rows_clear(fm_state *state, int from) {
    const fm_device *dev = state->device;
    for (int i = 0; i < dev->d->n_layers; i++) {
        if (dev->d->layers[i].mixer != FM_MIXER_ATTENTION) continue;
        for (int position = from; position % FM_KV_TILE; position++) fm_kv_clear(dev, &state->layers[i].kv, position);
    }
}

typedef struct rope_work {
    fm_device *device;
    float frequency[FM_MAX_HEAD_DIM / 2], attention;
} rope_work;

/* Cosines and sines of a position, in transformers' roundings: frequencies and angles are f32. */
static void rope_task(void *arg, int position, int thread) {
    (void)thread;
    const rope_work *w = arg;
    fm_device *dev = w->device;
    int dims = dev->d->rotary_dim, half = dims / 2;
    float *cosine = dev->rope + (size_t)position * (size_t)dims;
    for (int i = 0; i < half; i++) {
        double c, s;
        fm_sincos((double)((float)position * w->frequency[i]), &s, &c);
        cosine[i] = (float)c * w->attention;
        cosine[half + i] = (float)s * w->attention;
    }
}

static int open_device(fm_device **out, const fm_device_config *config, fm_error *err) {
    *out = NULL;
    const fm_kernels *kernels = fm_kernels_find(config->cpu, err);
    if (!kernels) return FM_EINVAL;
    fm_device *dev = calloc(1, sizeof *dev);
    if (!dev) return fm_fail(err, FM_ENOMEM, "no memory for the device");
    *dev = (fm_device){.ops = &fm_cpu_device, .config = *config, .d = &config->model->description, .k = kernels};
    int rc = fm_region_open(&dev->arena.region, lay_out(dev, config, NULL), "activations", err);
    if (rc < 0) {
        free(dev);
        return rc;
    }
    lay_out(dev, config, dev->arena.region.data);
    for (int i = 0; i < dev->n_iota; i++) dev->iota[i] = i;
    rope_work rope = {.device = dev};
    if (dev->d->rotary_dim) {
        fm_rope_frequencies(dev->d, config->context, rope.frequency, &rope.attention);
        fm_pool_run(config->pool, config->context, rope_task, &rope);
    }
    *out = dev;
    return 0;
}

static void close_device(fm_device **device) {
    if (!*device) return;
    fm_region_close(&(*device)->arena.region);
    free(*device);
    *device = NULL;
}

static int open_state(fm_state **out, fm_device *dev, fm_error *err) {
    *out = NULL;
    fm_state *state = calloc(1, sizeof *state);
    if (!state) return fm_fail(err, FM_ENOMEM, "no memory for a session");
    int rc = fm_region_open(&state->arena.region, lay_out_state(state, &dev->config, NULL), "KV cache and states", err);
    if (rc < 0) {
        free(state);
        return rc;
    }
    state->device = dev;
    lay_out_state(state, &dev->config, state->arena.region.data);
    *out = state;
    return 0;
}

static void close_state(fm_state **state) {
    if (!*state) return;
    fm_region_close(&(*state)->arena.region);
    free(*state);
    *state = NULL;
}

/* Keys and values need no clearing: positions past the session's end are never read. */
static void clear_state(fm_state *state) { memset(state->fixed, 0, state->fixed_bytes); }

static void embed_task(void *arg, int i, int thread) {
    (void)thread;
    fm_device *dev = arg;
    float *x = dev->x + (size_t)i * (size_t)dev->d->hidden, scale = dev->d->embedding_scale;
    fm_matrix_row(&dev->config.weights->model.matrix[FM_EMBED], dev->batch.ids[i], x);
    for (int c = 0; scale != 0 && c < dev->d->hidden; c++) x[c] *= scale;
}

static void embed(fm_device *dev, const fm_batch *batch) {
    dev->batch = *batch;
    fm_pool_run(dev->config.pool, batch->n, embed_task, dev);
}

void fm_add_row(fm_device *dev, int layer, fm_part_of_layer part, int row) {
    size_t at = (size_t)row * (size_t)dev->d->hidden;
    const fm_layer *l = &dev->d->layers[layer];
    float scale = dev->d->residual_scale;
    if (l->keep[part] != 0)
        for (size_t i = at; i < at + (size_t)dev->d->hidden; i++) dev->x[i] = l->keep[part] * dev->h[i] + l->add[part] * dev->out[i];
    else if (scale != 0)
        dev->k->axpy(scale, dev->out + at, dev->d->hidden, dev->x + at);
    else
        dev->k->add(dev->out + at, dev->d->hidden, dev->x + at);
}

typedef struct add_work {
    fm_device *device;
    int layer;
    fm_part_of_layer part;
} add_work;

static void add_task(void *arg, int i, int thread) {
    (void)thread;
    const add_work *w = arg;
    fm_add_row(w->device, w->layer, w->part, i);
}

void fm_add_out(fm_device *dev, int layer, fm_part_of_layer part) {
    add_work w = {dev, layer, part};
    fm_pool_run(dev->config.pool, dev->batch.n, add_task, &w);
}

void fm_add_bias(fm_device *dev, float *x, size_t cols, const float *bias) {
    for (size_t i = 0; bias && i < (size_t)dev->batch.n; i++) dev->k->add(bias, (int)cols, x + i * cols);
}

/* The tokens [first, first + n) of whole become the batch; x and out are theirs. */
static void take_piece(fm_device *dev, const fm_batch *whole, int first, int n) {
    int n_spans = 0;
    for (int i = 0; i < whole->n_spans; i++) {
        fm_span s = whole->spans[i];
        int from = s.first < first ? first : s.first, to = s.first + s.n < first + n ? s.first + s.n : first + n;
        if (from < to) dev->piece[n_spans++] = (fm_span){.state = s.state, .first = from - first, .n = to - from, .position = s.position + from - s.first};
    }
    dev->batch = (fm_batch){.ids = whole->ids + first, .n = n, .spans = dev->piece, .n_spans = n_spans};
}

/* The row of whole behind those that a capture is to have seen. */
static int capture_row(const fm_batch *whole, const fm_capture *capture) {
    const fm_span *span = whole->spans;
    while (span->state != capture->state) span++;
    return span->first + capture->position - span->position;
}

/* Tokens of the piece that begins at first: it ends where a state is to be captured. */
static int piece_tokens(const fm_batch *whole, int first) {
    int n = whole->n - first < FM_PIECE_TOKENS ? whole->n - first : FM_PIECE_TOKENS;
    for (int i = 0; i < whole->n_captures; i++) {
        int row = capture_row(whole, &whole->captures[i]);
        if (row > first && row < first + n) n = row - first;
    }
    return n;
}

/* The layer's part of the states that are to be captured before row `end`. */
static void capture(const fm_batch *whole, int layer, int end) {
    for (int i = 0; i < whole->n_captures; i++) {
        const fm_capture *c = &whole->captures[i];
        const fm_layer_state *s = &c->state->layers[layer];
        if (s->fixed_bytes && capture_row(whole, c) == end) memcpy(c->to + (s->fixed - c->state->fixed), s->fixed, s->fixed_bytes);
    }
}

static void mixer_piece(fm_device *dev, int layer) {
    fm_norm_input(dev, &dev->config.weights->layers[layer], FM_NORM1, FM_NORM1_BIAS);
    mixer_of(dev->d, layer)->run(dev, layer);
    fm_add_out(dev, layer, FM_OF_MIXER);
}

/* verb for all tokens, a piece at a time. */
static void in_pieces(fm_device *dev, int layer, void (*verb)(fm_device *, int)) {
    fm_batch whole = dev->batch;
    float *x = dev->x, *out = dev->out;
    for (int first = 0, n; first < whole.n; first += n) {
        size_t at = (size_t)first * (size_t)dev->d->hidden;
        take_piece(dev, &whole, first, n = piece_tokens(&whole, first));
        dev->x = x + at;
        dev->out = out + at;
        verb(dev, layer);
        if (verb == mixer_piece) capture(&whole, layer, first + n);
    }
    dev->batch = whole;
    dev->x = x;
    dev->out = out;
}

static void mixer(fm_device *dev, int layer) { in_pieces(dev, layer, mixer_piece); }
static void dense(fm_device *dev, int layer) { in_pieces(dev, layer, fm_dense); }

static bool any_order(const fm_device *dev) { return dev->batch.n <= FM_ROW_TOKENS; }

static int head(fm_device *dev, int first, int n, const float **logits, fm_error *err) {
    size_t hidden = (size_t)dev->d->hidden, vocab = (size_t)dev->d->vocab;
    const fm_layer_weights *w = &dev->config.weights->model;
    for (int i = 0; i < n; i++) { fm_norm_row(dev, w, FM_FINAL_NORM, FM_FINAL_NORM_BIAS, dev->x + (size_t)(first + i) * hidden, dev->h + (size_t)i * hidden); }
    fm_input_set(&dev->input, dev->h, hidden, n, dev->d->hidden);
    fm_observe(dev, -1, FM_FINAL_NORM, &dev->input);
    fm_linear(dev, &w->matrix[FM_HEAD], &dev->input, dev->logits, vocab);
    if (w->vector[FM_HEAD_BIAS]) {
        for (size_t i = 0; i < (size_t)n; i++) dev->k->add(w->vector[FM_HEAD_BIAS], dev->d->vocab, dev->logits + i * vocab);
    }
    for (size_t i = 0; dev->d->logit_divisor != 0 && i < (size_t)n * vocab; i++) dev->logits[i] /= dev->d->logit_divisor;
    *logits = dev->logits;
    int64_t bad = fm_find_nonfinite(dev->logits, FM_F32, (uint64_t)n * vocab);
    if (bad < 0) return 0;
    return fm_fail(err, FM_ENAN, "%s: the logit of token id %d after row %d of the batch is %g", dev->config.model->path, (int)((size_t)bad % vocab),
                   first + (int)((size_t)bad / vocab), (double)dev->logits[bad]);
}

static const float *residual(fm_device *dev) { return dev->x; }
static const char *kernels(const fm_device *dev) { return dev->k->name; }

static void observe(fm_device *dev, fm_observe_fn fn, void *user) {
    dev->observe = fn;
    dev->observe_user = user;
}

const fm_device_ops fm_cpu_device = {
    .name = "cpu",
    .device_bytes = device_bytes,
    .state_bytes = state_bytes,
    .open = open_device,
    .close = close_device,
    .state_open = open_state,
    .state_close = close_state,
    .state_clear = clear_state,
    .fixed_bytes = fixed_bytes,
    .fixed = fixed,
    .n_row_parts = n_row_parts,
    .row_sizes = row_sizes,
    .rows = rows,
    .rows_clear = rows_clear,
    .embed = embed,
    .mixer = mixer,
    .dense = dense,
    .route = fm_route,
    .predict = fm_predict,
    .shared = fm_shared,
    .any_order = any_order,
    .expert = fm_expert,
    .combine = fm_combine,
    .head = head,
    .residual = residual,
    .kernels = kernels,
    .observe = observe,
};
