/* cpu/attention.c: softmax attention with grouped heads, optional q/k norms, clipping, partial rotary embedding, window and output gate. Keys are taken in
 * blocks at absolute positions that are merged in order, so that the result does not depend on how tokens are batched or blocks divided among threads. Mathematics: the attention
 * class of transformers' modeling files that families/ names. */
#include <string.h>

#include "cpu/cpu.h"

typedef struct attention_work {
    fm_device *device;
    const fm_layer_weights *w;
    float *q, *k, *v; /* [n][q_cols], [n][kv_cols] twice */
    float *out;       /* [n][n_heads * head_dim] */
    size_t q_cols, kv_cols, out_cols;
    int layer;
} attention_work;

size_t fm_attention_floats(const fm_description *d, int n) {
    size_t q = (size_t)d->n_heads * (size_t)d->head_dim * (d->query_gate ? 2 : 1), kv = (size_t)d->n_kv_heads * (size_t)d->head_dim;
    return (size_t)n * (q + 2 * kv + (size_t)d->n_heads * (size_t)d->head_dim);
}

size_t fm_attention_partial_floats(const fm_device_config *c) {
    const fm_description *d = &c->model->description;
    return (size_t)d->n_heads * (((size_t)c->context + FM_ATTENTION_BLOCK - 1) / FM_ATTENTION_BLOCK) * (fm_kv_columns(d->head_dim) + 2);
}

int fm_attention_tiles(fm_device *dev) {
    int count = 0;
    for (int s = 0; s < dev->batch.n_spans; s++) {
        const fm_span *span = &dev->batch.spans[s];
        for (int done = 0, n; done < span->n; done += n) {
            int position = span->position + done, room = FM_KV_TILE - position % FM_KV_TILE, left = span->n - done;
            n = left < room ? left : room;
            dev->tiles[count++] = (fm_token_tile){.span = span, .first = span->first + done, .n = n, .position = position};
        }
    }
    return count;
}

static void add_bias(float *x, const float *bias, size_t n) {
    for (size_t i = 0; bias && i < n; i++) x[i] += bias[i];
}

/* Pairs (i, i + rotary_dim / 2), in the operations and order of x * cos + rotate_half(x) * sin. */
static void rotate(const fm_device *dev, float *x, int position) {
    int half = dev->d->rotary_dim / 2;
    const float *cosine = dev->rope + (size_t)position * (size_t)dev->d->rotary_dim, *sine = cosine + half;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

/* Pairs (2i, 2i + 1). */
static void rotate_adjacent(const fm_device *dev, float *x, int position) {
    int half = dev->d->rotary_dim / 2;
    const float *cosine = dev->rope + (size_t)position * (size_t)dev->d->rotary_dim, *sine = cosine + half;
    for (int i = 0; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cosine[i] - b * sine[i];
        x[2 * i + 1] = b * cosine[i] + a * sine[i];
    }
}

void fm_rotate(const fm_device *dev, float *x, int position) { (dev->d->rope_adjacent ? rotate_adjacent : rotate)(dev, x, position); }

static void clip(float *x, size_t n, float limit) {
    for (size_t i = 0; i < n; i++) x[i] = x[i] > limit ? limit : x[i] < -limit ? -limit : x[i]; /* NaN stays */
}

/* What is done to q, k and v of a token before they are divided into heads. */
static void prepare_whole(const attention_work *w, float *q, float *k, float *v) {
    const fm_description *d = w->device->d;
    if (d->qk_norm == FM_QK_NORM_WHOLE) {
        w->device->k->rms_norm(q, w->w->vector[FM_Q_NORM], (int)w->q_cols, d->norm_eps, q);
        w->device->k->rms_norm(k, w->w->vector[FM_K_NORM], (int)w->kv_cols, d->norm_eps, k);
    }
    if (d->clip_qkv == 0) return;
    clip(q, w->q_cols, d->clip_qkv);
    clip(k, w->kv_cols, d->clip_qkv);
    clip(v, w->kv_cols, d->clip_qkv);
}

static void prepare_head(const attention_work *w, fm_role norm, float *x, int position) {
    const fm_device *dev = w->device;
    const fm_description *d = dev->d;
    const float *weight = w->w->vector[norm];
    if (d->qk_norm == FM_QK_NORM_HEAD) dev->k->rms_norm(x, weight, d->head_dim, d->norm_eps, x);
    fm_rotate(dev, x, position);
    if (d->qk_norm == FM_QK_NORM_HEAD_AFTER_ROPE) dev->k->rms_norm(x, weight, d->head_dim, d->norm_eps, x);
}

/* Biases, norms and rope of a tile's q and k; k and v go to the cache. A tile, because its keys lie side by side and share cache lines. */
static void prepare_task(void *arg, int task, int thread) {
    (void)thread;
    const attention_work *w = arg;
    fm_device *dev = w->device;
    const fm_description *d = dev->d;
    const fm_token_tile *tile = &dev->tiles[task];
    int head = d->head_dim, stride = d->query_gate ? 2 * head : head;
    for (int t = 0; t < tile->n; t++) {
        int token = tile->first + t, position = tile->position + t;
        float *q = w->q + (size_t)token * w->q_cols, *k = w->k + (size_t)token * w->kv_cols, *v = w->v + (size_t)token * w->kv_cols;
        add_bias(q, w->w->vector[FM_Q_BIAS], w->q_cols);
        add_bias(k, w->w->vector[FM_K_BIAS], w->kv_cols);
        add_bias(v, w->w->vector[FM_V_BIAS], w->kv_cols);
        prepare_whole(w, q, k, v);
        for (int i = 0; i < d->n_heads; i++) prepare_head(w, FM_Q_NORM, q + i * stride, position);
        for (int i = 0; i < d->n_kv_heads; i++) prepare_head(w, FM_K_NORM, k + i * head, position);
        fm_kv_store(dev, &tile->span->state->layers[w->layer].kv, position, k, v);
    }
}

/* ---- attention proper ----
 *
 * Rows are queries: of the tokens of a tile, the heads that share a kv head, token by token. A block's keys and values are read once for all of them. */

#define PART_ROWS 64 /* of a task in a prompt */
#define MOST_RUN 8   /* blocks of a task for few tokens */

typedef struct attend_work {
    fm_device *device;
    const float *q; /* [n][q_cols] */
    float *out;     /* [n][n_heads * head_dim] */
    size_t q_cols, q_stride, hd, columns;
    int layer, group; /* query heads of a kv head */
    int window;       /* of the layer; 0: none */
    float scale;
    const float *sinks;   /* [n_heads], or NULL */
    int n_tiles, n_parts; /* parts of a tile's rows */
    /* Where single blocks are tasks: of one tile. */
    fm_token_tile tile;
    int n_rows, n_blocks;
    int n_runs, run;     /* tasks of a kv head, and blocks of each */
    float *sums, *marks; /* [n_kv_heads][n_blocks][n_rows] of [columns] and of m and l */
} attend_work;

static int blocks_of(const fm_token_tile *t) { return (t->position + t->n + FM_ATTENTION_BLOCK - 1) / FM_ATTENTION_BLOCK; }

/* The first key that a row sees. */
static int first_key(const attend_work *w, const fm_token_tile *t, int row) {
    int first = t->position + row / w->group + 1 - w->window;
    return w->window && first > 0 ? first : 0;
}

static int first_block(const attend_work *w, const fm_token_tile *t, int row) { return first_key(w, t, row) / FM_ATTENTION_BLOCK; }

static size_t row_token(const attend_work *w, const fm_token_tile *t, int row) { return (size_t)(t->first + row / w->group); }
static size_t row_head(const attend_work *w, int kv_head, int row) { return (size_t)(kv_head * w->group + row % w->group); }

static const float *query(const attend_work *w, const fm_token_tile *t, int kv_head, int row) {
    return w->q + row_token(w, t, row) * w->q_cols + row_head(w, kv_head, row) * w->q_stride;
}

static float *output(const attend_work *w, const fm_token_tile *t, int kv_head, int row) {
    return w->out + row_token(w, t, row) * (size_t)w->device->d->n_heads * w->hd + row_head(w, kv_head, row) * w->hd;
}

typedef struct row_range {
    const fm_token_tile *tile;
    int kv_head, first, n; /* n at most FM_ATTENTION_ROWS */
} row_range;

/* Rows over one block: m, l [n], acc [n][columns]. What comes out for a row whose first block is a later one is of no use. */
static void attend_block(const attend_work *w, row_range r, int block, float *m, float *l, float *acc) {
    const fm_token_tile *t = r.tile;
    const fm_kv *kv = &t->span->state->layers[w->layer].kv;
    fm_kv_block b = fm_kv_at(w->device, kv, r.kv_head, block * FM_ATTENTION_BLOCK);
    const float *q[FM_ATTENTION_ROWS];
    int keys[FM_ATTENTION_ROWS], from[FM_ATTENTION_ROWS];
    if ((block + 1) * FM_ATTENTION_BLOCK < t->position + t->n) b.next = fm_kv_at(w->device, kv, r.kv_head, (block + 1) * FM_ATTENTION_BLOCK).k;
    for (int i = 0; i < r.n; i++) {
        int sees = t->position + (r.first + i) / w->group + 1 - block * FM_ATTENTION_BLOCK;
        keys[i] = sees < FM_ATTENTION_BLOCK ? sees : FM_ATTENTION_BLOCK;
        q[i] = query(w, t, r.kv_head, r.first + i);
    }
    for (int i = 0; i < r.n && w->window; i++) {
        int first = first_key(w, t, r.first + i) - block * FM_ATTENTION_BLOCK;
        from[i] = first < 0 || first >= keys[i] ? 0 : first;
    }
    if (w->window) b.from = from;
    w->device->k->attend(&b, q, r.n, keys, w->scale, m, l, acc, w->columns);
}

/* M and L of all blocks. A sink is a block of one key without a value, the last. */
static void finish_row(const attend_work *w, const fm_token_tile *t, int kv_head, int row, float M, float L) {
    static const float nothing[FM_MAX_HEAD_DIM];
    float *out = output(w, t, kv_head, row);
    if (w->sinks) w->device->k->attend_merge(&M, &L, out, w->sinks[row_head(w, kv_head, row)], 1, nothing, (int)w->hd);
    w->device->k->attend_finish(L, out, (int)w->hd, out);
    if (w->device->d->query_gate) w->device->k->sigmoid_mul(out, query(w, t, kv_head, row) + w->hd, (int)w->hd, out);
}

/* All blocks of up to PART_ROWS rows, one after the other. */
static void part_task(void *arg, int task, int thread) {
    (void)thread;
    const attend_work *w = arg;
    int n_kv_heads = w->device->d->n_kv_heads, part = task % w->n_parts, kv_head = task / w->n_parts % n_kv_heads;
    /* Late tokens have the most keys: they go first, so that the threads end together. */
    const fm_token_tile *t = &w->device->tiles[w->n_tiles - 1 - task / w->n_parts / n_kv_heads];
    int first = part * PART_ROWS, last = t->n * w->group < first + PART_ROWS ? t->n * w->group : first + PART_ROWS;
    float M[PART_ROWS] = {0}, L[PART_ROWS] = {0}, m[FM_ATTENTION_ROWS], l[FM_ATTENTION_ROWS], acc[FM_ATTENTION_ROWS * FM_MAX_HEAD_DIM];
    for (int block = first_block(w, t, first); block < blocks_of(t); block++) {
        for (int row = first, n; row < last; row += n) {
            n = last - row < FM_ATTENTION_ROWS ? last - row : FM_ATTENTION_ROWS;
            attend_block(w, (row_range){t, kv_head, row, n}, block, m, l, acc);
            for (int i = 0; i < n; i++) {
                int r = row - first + i;
                if (block < first_block(w, t, row + i)) continue;
                w->device->k->attend_merge(&M[r], &L[r], output(w, t, kv_head, row + i), m[i], l[i], acc + (size_t)i * w->columns, (int)w->hd);
            }
        }
    }
    for (int row = first; row < last; row++) finish_row(w, t, kv_head, row, M[row - first], L[row - first]);
}

/* A run of blocks, because one's keys are fetched while another is computed. */
static void run_task(void *arg, int task, int thread) {
    (void)thread;
    const attend_work *w = arg;
    int kv_head = task / w->n_runs, first = task % w->n_runs * w->run, last = first + w->run < w->n_blocks ? first + w->run : w->n_blocks;
    if (first < first_block(w, &w->tile, 0)) first = first_block(w, &w->tile, 0);
    for (int block = first; block < last; block++) {
        for (int row = 0, n; row < w->n_rows; row += n) {
            size_t at = ((size_t)kv_head * (size_t)w->n_blocks + (size_t)block) * (size_t)w->n_rows + (size_t)row;
            float m[FM_ATTENTION_ROWS], l[FM_ATTENTION_ROWS];
            n = w->n_rows - row < FM_ATTENTION_ROWS ? w->n_rows - row : FM_ATTENTION_ROWS;
            attend_block(w, (row_range){&w->tile, kv_head, row, n}, block, m, l, w->sums + at * w->columns);
            for (int i = 0; i < n; i++) {
                w->marks[2 * (at + (size_t)i)] = m[i];
                w->marks[2 * (at + (size_t)i) + 1] = l[i];
            }
        }
    }
}

static void merge_task(void *arg, int task, int thread) {
    (void)thread;
    const attend_work *w = arg;
    int kv_head = task / w->n_rows, row = task % w->n_rows;
    float M = 0, L = 0, *out = output(w, &w->tile, kv_head, row);
    for (int block = first_block(w, &w->tile, row); block < w->n_blocks; block++) {
        size_t at = ((size_t)kv_head * (size_t)w->n_blocks + (size_t)block) * (size_t)w->n_rows + (size_t)row;
        w->device->k->attend_merge(&M, &L, out, w->marks[2 * at], w->marks[2 * at + 1], w->sums + at * w->columns, (int)w->hd);
    }
    finish_row(w, &w->tile, kv_head, row, M, L);
}

/* Few tokens: the blocks are tasks, and are merged when all are there. As many of a tile's tokens at a time as there is room for. */
static void attend_by_block(attend_work *w, const fm_token_tile *tile) {
    fm_device *dev = w->device;
    size_t room = fm_attention_partial_floats(&dev->config) / (w->columns + 2);
    for (int done = 0; done < tile->n; done += w->tile.n) {
        w->tile = *tile;
        w->n_blocks = blocks_of(tile);
        w->run = w->n_blocks * dev->d->n_kv_heads / (4 * fm_pool_n_threads(dev->config.pool));
        w->run = w->run < 1 ? 1 : w->run > MOST_RUN ? MOST_RUN : w->run;
        w->n_runs = (w->n_blocks + w->run - 1) / w->run;
        int fit = (int)(room / ((size_t)w->n_blocks * (size_t)dev->d->n_heads)), left = tile->n - done;
        w->tile.first += done;
        w->tile.position += done;
        w->tile.n = left < fit ? left : fit;
        w->n_rows = w->tile.n * w->group;
        w->sums = dev->partial;
        w->marks = dev->partial + room * w->columns;
        fm_pool_run(dev->config.pool, dev->d->n_kv_heads * w->n_runs, run_task, w);
        fm_pool_run(dev->config.pool, dev->d->n_kv_heads * w->n_rows, merge_task, w);
    }
}

void fm_attend(fm_device *dev, int layer, const float *q, float *out) {
    const fm_description *d = dev->d;
    attend_work w = {.device = dev, .q = q, .out = out, .layer = layer, .hd = (size_t)d->head_dim, .columns = fm_kv_columns(d->head_dim)};
    w.q_stride = w.hd * (d->query_gate ? 2 : 1);
    w.q_cols = (size_t)d->n_heads * w.q_stride;
    w.group = d->n_heads / d->n_kv_heads;
    w.scale = d->attention_scale;
    w.window = d->layers[layer].window;
    w.sinks = d->sinks ? dev->config.weights->layers[layer].vector[FM_SINKS] : NULL;
    w.n_tiles = fm_attention_tiles(dev);
    int most = 0;
    for (int i = 0; i < w.n_tiles; i++) most = dev->tiles[i].n > most ? dev->tiles[i].n : most;
    w.n_parts = (most * w.group + PART_ROWS - 1) / PART_ROWS;
    int n_tasks = w.n_tiles * d->n_kv_heads * w.n_parts;
    if (dev->batch.n > FM_ROW_TOKENS || n_tasks >= 4 * fm_pool_n_threads(dev->config.pool)) {
        fm_pool_run(dev->config.pool, n_tasks, part_task, &w);
        return;
    }
    for (int i = 0; i < w.n_tiles; i++) attend_by_block(&w, &dev->tiles[i]);
}

void fm_attention(fm_device *dev, int layer) {
    const fm_description *d = dev->d;
    const fm_layer_weights *lw = &dev->config.weights->layers[layer];
    size_t n = (size_t)dev->batch.n, hd = (size_t)d->head_dim;
    attention_work w = {.device = dev, .w = lw, .layer = layer};
    w.q_cols = (size_t)d->n_heads * hd * (d->query_gate ? 2 : 1);
    w.kv_cols = (size_t)d->n_kv_heads * hd;
    w.out_cols = (size_t)d->n_heads * hd;
    w.q = dev->scratch;
    w.k = w.q + n * w.q_cols;
    w.v = w.k + n * w.kv_cols;
    w.out = w.v + n * w.kv_cols;
    fm_product products[3] = {
        {.matrix = &lw->matrix[FM_Q], .input = &dev->input, .n = dev->batch.n, .y = w.q, .ldy = w.q_cols},
        {.matrix = &lw->matrix[FM_K], .input = &dev->input, .n = dev->batch.n, .y = w.k, .ldy = w.kv_cols},
        {.matrix = &lw->matrix[FM_V], .input = &dev->input, .n = dev->batch.n, .y = w.v, .ldy = w.kv_cols},
    };
    fm_multiply(dev, products, 3);
    fm_pool_run(dev->config.pool, fm_attention_tiles(dev), prepare_task, &w);
    fm_attend(dev, layer, w.q, w.out);
    fm_input_set(&dev->inner, w.out, w.out_cols, dev->batch.n, (int)w.out_cols);
    fm_observe(dev, layer, FM_O, &dev->inner);
    fm_linear(dev, &lw->matrix[FM_O], &dev->inner, dev->out, (size_t)d->hidden);
    for (size_t i = 0; i < n && lw->vector[FM_O_BIAS]; i++) add_bias(dev->out + i * (size_t)d->hidden, lw->vector[FM_O_BIAS], (size_t)d->hidden);
}
