/* cpu/mla.c: latent attention in the absorbed form: what is cached of a token is its latent, normed, and one rotated key for all heads. A head's query is taken to the
 * latent, attends to latents, and what it gathers is taken to the head's output; so the heads are query heads of one kv head whose values are the first columns of its
 * keys. Blocks of keys lie at absolute positions and are merged in order, as in attention.c. Mathematics: the attention class of
 * transformers' modeling files that families/ names, whose expanded form gives the same but for rounding. */
#include <string.h>

#include "cpu/cpu.h"

#define SUB_TOKENS 32 /* of a piece whose queries in the latent's columns lie in memory at once */
#define RUN_BLOCKS 8  /* whose values do */
#define RUN_ROWS 256  /* whose sums over these blocks do */
#define HEADS_AT_ONCE FM_MAX_PRODUCTS

typedef struct mla_work {
    fm_device *device;
    const fm_layer_weights *w;
    int layer;
    size_t heads, q_dim, kv_dim, rank; /* columns of a head's query, of a key, of a latent */
    float *q_latent;                   /* [n][q_rank] */
    float *q, *kv, *out;               /* [n][heads][q_dim], [n][kv_dim], [n][heads][v_dim] */
    float *absorbed, *gathered;        /* [sub][heads][kv_dim], [sub][heads][rank] */
    float *marks;                      /* [sub][heads] of M and L */
    int32_t *rows;                     /* [heads][sub]: rows of a head among those */
    void *values;                      /* of a run of blocks */
    float *sums, *sum_marks;           /* [blocks][rows][rank], and of m and l */
    /* The sub-piece, and in it a tile and a run of its rows and of blocks. */
    int first, n; /* rows of the batch */
    const fm_token_tile *tile;
    int first_row, n_rows; /* token by token, head by head */
    int from, to;          /* blocks */
    bool last;             /* there are no more */
} mla_work;

static int sub_tokens(int n) { return n < SUB_TOKENS ? n : SUB_TOKENS; }

static size_t run_blocks(const fm_device_config *c) {
    int n = (c->context + FM_ATTENTION_BLOCK - 1) / FM_ATTENTION_BLOCK;
    return (size_t)(n < RUN_BLOCKS ? n : RUN_BLOCKS);
}

static size_t run_rows(const fm_description *d) { return (size_t)(d->n_heads * FM_KV_TILE < RUN_ROWS ? d->n_heads * FM_KV_TILE : RUN_ROWS); }

int fm_mla_rows(const fm_description *d, int n) { return sub_tokens(n) * d->n_heads; }

size_t fm_mla_floats(const fm_description *d, int n) {
    size_t heads = (size_t)d->n_heads, rank = (size_t)d->kv_rank, rows = (size_t)fm_mla_rows(d, n);
    return (size_t)n * ((size_t)d->q_rank + heads * (size_t)(d->nope_dim + d->rotary_dim + d->v_dim) + (size_t)d->head_dim) +
           rows * ((size_t)d->head_dim + rank + 3);
}

static size_t values_floats(const fm_device_config *c) { return run_blocks(c) * FM_ATTENTION_BLOCK * (size_t)c->model->description.kv_rank; }

size_t fm_mla_partial_floats(const fm_device_config *c) {
    const fm_description *d = &c->model->description;
    return values_floats(c) + run_blocks(c) * run_rows(d) * ((size_t)d->kv_rank + 2);
}

/* ---- what comes before: latents to the cache, queries to the latent's columns ---- */

static void norm_task(void *arg, int token, int thread) {
    (void)thread;
    const mla_work *w = arg;
    const fm_description *d = w->device->d;
    float *x = w->q_latent + (size_t)token * (size_t)d->q_rank;
    w->device->k->rms_norm(x, w->w->vector[FM_Q_A_NORM], d->q_rank, d->latent_eps, x);
}

/* A tile, because its keys lie side by side and share cache lines. */
static void cache_task(void *arg, int task, int thread) {
    (void)thread;
    const mla_work *w = arg;
    fm_device *dev = w->device;
    const fm_token_tile *tile = &dev->tiles[task];
    for (int t = 0; t < tile->n; t++) {
        int position = tile->position + t;
        float *kv = w->kv + (size_t)(tile->first + t) * w->kv_dim, *q = w->q + (size_t)(tile->first + t) * w->heads * w->q_dim;
        dev->k->rms_norm(kv, w->w->vector[FM_KV_A_NORM], dev->d->kv_rank, dev->d->latent_eps, kv);
        fm_rotate(dev, kv + w->rank, position);
        fm_kv_store(dev, &tile->span->state->layers[w->layer].kv, position, kv, NULL);
        for (size_t h = 0; h < w->heads; h++) fm_rotate(dev, q + h * w->q_dim + dev->d->nope_dim, position);
    }
}

/* y[t][head] = the head's part of a matrix of all heads' rows, times row t of the inner input that is the head's; y's rows are ld apart. */
static void by_head(const mla_work *w, fm_role role, size_t rows, float *y, size_t ld) {
    fm_device *dev = w->device;
    const fm_matrix *all = &w->w->matrix[role];
    fm_product products[HEADS_AT_ONCE];
    fm_matrix parts[HEADS_AT_ONCE];
    for (size_t first = 0, n; first < w->heads; first += n) {
        n = w->heads - first < HEADS_AT_ONCE ? w->heads - first : HEADS_AT_ONCE;
        for (size_t i = 0; i < n; i++) {
            size_t head = first + i;
            parts[i].type = all->type;
            parts[i].type.rows = (int)rows;
            parts[i].data = (const uint8_t *)all->data + head * fm_matrix_bytes(&parts[i].type);
            products[i] = (fm_product){.matrix = &parts[i], .input = &dev->inner, .tokens = w->rows + head * (size_t)w->n, .n = w->n, .y = y + head * ld};
            products[i].ldy = w->heads * ld;
        }
        fm_multiply(dev, products, (int)n);
    }
}

static void rotary_task(void *arg, int token, int thread) {
    (void)thread;
    const mla_work *w = arg;
    size_t nope = (size_t)w->device->d->nope_dim;
    for (size_t h = 0; h < w->heads; h++) {
        const float *q = w->q + ((size_t)(w->first + token) * w->heads + h) * w->q_dim + nope;
        memcpy(w->absorbed + ((size_t)token * w->heads + h) * w->kv_dim + w->rank, q, (w->q_dim - nope) * sizeof *q);
    }
}

static void absorb(mla_work *w) {
    fm_device *dev = w->device;
    int rows = w->n * (int)w->heads;
    for (size_t h = 0; h < w->heads; h++) {
        for (size_t t = 0; t < (size_t)w->n; t++) w->rows[h * (size_t)w->n + t] = (int32_t)(t * w->heads + h);
    }
    fm_input_set(&dev->inner, w->q + (size_t)w->first * w->heads * w->q_dim, w->q_dim, rows, dev->d->nope_dim);
    by_head(w, FM_LATENT_Q, w->rank, w->absorbed, w->kv_dim);
    fm_pool_run(dev->config.pool, w->n, rotary_task, w);
}

/* ---- attention ---- */

static int blocks_of(const fm_token_tile *t) { return (t->position + t->n + FM_ATTENTION_BLOCK - 1) / FM_ATTENTION_BLOCK; }

static fm_kv_block block_at(const mla_work *w, int block) {
    size_t values = (size_t)(block - w->from) * FM_ATTENTION_BLOCK * w->rank *
                    (w->device->config.kv == FM_KV_F32    ? 4
                     : w->device->config.kv == FM_KV_BF16 ? 2
                                                          : 1);
    fm_kv_block b = fm_kv_at(w->device, &w->tile->span->state->layers[w->layer].kv, 0, block * FM_ATTENTION_BLOCK);
    b.value_dim = (int)w->rank;
    b.v = (uint8_t *)w->values + values;
    b.v_scale = b.k_scale;
    return b;
}

/* A tile of keys, to the place of its values. */
static void turn_task(void *arg, int task, int thread) {
    (void)thread;
    const mla_work *w = arg;
    enum { TILES = FM_ATTENTION_BLOCK / FM_KV_TILE };
    fm_kv_block b = block_at(w, w->from + task / TILES);
    fm_kv_turn(&b, task % TILES, (void *)(uintptr_t)b.v);
}

static size_t row_at(const mla_work *w, int row) { return (size_t)(w->tile->first - w->first) * w->heads + (size_t)(w->first_row + row); }

/* Up to FM_ATTENTION_ROWS rows over one block. */
static void attend_task(void *arg, int task, int thread) {
    (void)thread;
    const mla_work *w = arg;
    const fm_device *dev = w->device;
    int n_parts = (w->n_rows + FM_ATTENTION_ROWS - 1) / FM_ATTENTION_ROWS, block = w->from + task / n_parts, first = task % n_parts * FM_ATTENTION_ROWS;
    int n = w->n_rows - first < FM_ATTENTION_ROWS ? w->n_rows - first : FM_ATTENTION_ROWS, keys[FM_ATTENTION_ROWS];
    const float *q[FM_ATTENTION_ROWS];
    float m[FM_ATTENTION_ROWS], l[FM_ATTENTION_ROWS];
    size_t at = (size_t)(block - w->from) * (size_t)w->n_rows + (size_t)first;
    fm_kv_block b = block_at(w, block);
    for (int i = 0; i < n; i++) {
        int sees = w->tile->position + (w->first_row + first + i) / (int)w->heads + 1 - block * FM_ATTENTION_BLOCK;
        keys[i] = sees < FM_ATTENTION_BLOCK ? sees : FM_ATTENTION_BLOCK;
        q[i] = w->absorbed + row_at(w, first + i) * w->kv_dim;
    }
    dev->k->attend(&b, q, n, keys, dev->d->attention_scale, m, l, w->sums + at * w->rank, w->rank);
    for (size_t i = 0; i < (size_t)n; i++) {
        w->sum_marks[2 * (at + i)] = m[i];
        w->sum_marks[2 * (at + i) + 1] = l[i];
    }
}

static void merge_task(void *arg, int row, int thread) {
    (void)thread;
    const mla_work *w = arg;
    const fm_kernels *k = w->device->k;
    size_t to = row_at(w, row);
    float *out = w->gathered + to * w->rank, *M = w->marks + 2 * to, *L = M + 1;
    for (int block = w->from; block < w->to; block++) {
        size_t at = (size_t)(block - w->from) * (size_t)w->n_rows + (size_t)row;
        k->attend_merge(M, L, out, w->sum_marks[2 * at], w->sum_marks[2 * at + 1], w->sums + at * w->rank, (int)w->rank);
    }
    if (w->last) k->attend_finish(*L, out, (int)w->rank, out);
}

/* Blocks go to memory as values a run at a time, which stays in a cache near the CPU; the rows of a tile see the same blocks. */
static void attend_tile(mla_work *w) {
    fm_device *dev = w->device;
    int n_blocks = blocks_of(w->tile), n_rows = w->tile->n * (int)w->heads, n_keys = w->tile->position + w->tile->n, run = (int)run_blocks(&dev->config);
    int most = (int)run_rows(dev->d);
    for (w->from = 0; w->from < n_blocks; w->from = w->to) {
        w->to = w->from + run < n_blocks ? w->from + run : n_blocks;
        w->last = w->to == n_blocks;
        int keys = (w->last ? n_keys : w->to * FM_ATTENTION_BLOCK) - w->from * FM_ATTENTION_BLOCK;
        fm_pool_run(dev->config.pool, (keys + FM_KV_TILE - 1) / FM_KV_TILE, turn_task, w);
        for (w->first_row = 0; w->first_row < n_rows; w->first_row += w->n_rows) {
            w->n_rows = n_rows - w->first_row < most ? n_rows - w->first_row : most;
            fm_pool_run(dev->config.pool, (w->to - w->from) * ((w->n_rows + FM_ATTENTION_ROWS - 1) / FM_ATTENTION_ROWS), attend_task, w);
            fm_pool_run(dev->config.pool, w->n_rows, merge_task, w);
        }
        if (dev->config.poll) dev->config.poll(dev->config.poll_user);
    }
}

/* ---- all of it ---- */

static void project(mla_work *w) {
    fm_device *dev = w->device;
    const fm_description *d = dev->d;
    size_t q_rank = (size_t)d->q_rank, q_cols = w->heads * w->q_dim;
    fm_product products[2] = {
        {.matrix = &w->w->matrix[FM_KV_A], .input = &dev->input, .n = dev->batch.n, .y = w->kv, .ldy = w->kv_dim},
        {.matrix = &w->w->matrix[q_rank ? FM_Q_A : FM_Q],
         .input = &dev->input,
         .n = dev->batch.n,
         .y = q_rank ? w->q_latent : w->q,
         .ldy = q_rank ? q_rank : q_cols},
    };
    fm_multiply(dev, products, 2);
    if (!q_rank) return;
    fm_pool_run(dev->config.pool, dev->batch.n, norm_task, w);
    fm_input_set(&dev->inner, w->q_latent, q_rank, dev->batch.n, d->q_rank);
    fm_linear(dev, &w->w->matrix[FM_Q_B], &dev->inner, w->q, q_cols);
}

static void lay_out(mla_work *w) {
    fm_device *dev = w->device;
    const fm_description *d = dev->d;
    size_t n = (size_t)dev->batch.n, rows = (size_t)fm_mla_rows(d, dev->batch.n);
    w->heads = (size_t)d->n_heads;
    w->q_dim = (size_t)(d->nope_dim + d->rotary_dim);
    w->kv_dim = (size_t)d->head_dim;
    w->rank = (size_t)d->kv_rank;
    w->q_latent = dev->scratch;
    w->q = w->q_latent + n * (size_t)d->q_rank;
    w->kv = w->q + n * w->heads * w->q_dim;
    w->out = w->kv + n * w->kv_dim;
    w->absorbed = w->out + n * w->heads * (size_t)d->v_dim;
    w->gathered = w->absorbed + rows * w->kv_dim;
    w->marks = w->gathered + rows * w->rank;
    w->rows = (int32_t *)(void *)(w->marks + 2 * rows);
    w->values = dev->partial;
    w->sums = dev->partial + values_floats(&dev->config);
    w->sum_marks = w->sums + run_blocks(&dev->config) * run_rows(d) * w->rank;
}

void fm_mla(fm_device *dev, int layer) {
    const fm_description *d = dev->d;
    mla_work w = {.device = dev, .w = &dev->config.weights->layers[layer], .layer = layer};
    size_t out_cols = (size_t)d->n_heads * (size_t)d->v_dim;
    int n_tiles = fm_attention_tiles(dev);
    lay_out(&w);
    project(&w);
    fm_pool_run(dev->config.pool, n_tiles, cache_task, &w);
    for (int i = 0, next; i < n_tiles; i = next) {
        w.first = dev->tiles[i].first;
        w.n = 0;
        for (next = i; next < n_tiles && w.n + dev->tiles[next].n <= SUB_TOKENS; next++) w.n += dev->tiles[next].n;
        absorb(&w);
        memset(w.marks, 0, 2 * (size_t)w.n * w.heads * sizeof *w.marks);
        for (int t = i; t < next; t++) {
            w.tile = &dev->tiles[t];
            attend_tile(&w);
        }
        fm_input_set(&dev->inner, w.gathered, w.rank, w.n * d->n_heads, d->kv_rank);
        by_head(&w, FM_LATENT_OUT, (size_t)d->v_dim, w.out + (size_t)w.first * out_cols, (size_t)d->v_dim);
    }
    fm_input_set(&dev->inner, w.out, out_cols, dev->batch.n, (int)out_cols);
    fm_observe(dev, layer, FM_O, &dev->inner);
    fm_linear(dev, &w.w->matrix[FM_O], &dev->inner, dev->out, (size_t)d->hidden);
}
