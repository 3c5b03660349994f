/* experts/policy_lfu.c: the slot whose expert is used least leaves: counts that decay, kept for absent experts too, and no layer starved.
 *
 * A layer's occupied slots form a binary heap, the coldest on top; the victim is the coldest of the tops. A global order would let the layers that
 * are computed last push out the others; so a layer down to its floor gives up a slot only for an expert of its own.
 *
 * How long a count should last differs: some texts keep to the same experts, others wander. So the same uses are counted with several decays, and the slots are
 * ranked by the counts that have foretold the latest uses best. */
#include <assert.h>
#include <stdlib.h>

#include "base/math.h"
#include "experts/policy.h"

#define COUNTS 3
static const double decays[COUNTS] = {0.9, 0.97, 0.995}; /* of all counts, per pass over the layers, which is a token or a prompt's batch */
#define FORGET 0.98                                      /* the same of how well the uses were foretold */
#define MARGIN 2.0                                       /* in nats: by which others have to be better, since ranking anew costs something */
#define UNSEEN 0.1                                       /* a use so many times stands for what was not seen yet */
#define FLOOR 16                                         /* slots a layer keeps, at most: about what it needs for one token */
#define RENORM 1e200                                     /* counts are scaled back before they overflow */

typedef struct counts {
    double *heat; /* [keys] decayed count of uses, in units of what one use was worth at the beginning */
    double *sum;  /* [n_layers] of heat */
    double worth; /* of a use now: grows instead of all counts shrinking */
    double merit; /* decayed sum of the logarithms of the shares that the experts used had in their layers' heat before */
    double odds;  /* product of such shares, whose logarithm is still to be added */
} counts;

typedef struct lfu {
    fm_policy policy;
    int n_slots, n_layers, n_experts, floor;
    int heap_size;    /* room in a layer's heap: min(n_experts, n_slots) */
    int *heap;        /* [n_layers][heap_size] slots */
    int *n;           /* [n_layers] occupied slots */
    int *key, *place; /* [n_slots] what it holds, -1: nothing; its index in the layer's heap */
    counts counts[COUNTS];
    const double *heat; /* of those by which slots are ranked */
    uint64_t *last;     /* [keys] clock of the last use, which settles ties */
    uint64_t clock;     /* uses so far */
    int pass_layer, pass_uses;
} lfu;

static void lfu_close(fm_policy **policy) {
    lfu *l = (lfu *)*policy;
    if (!l) return;
    free(l->heap);
    free(l->n);
    free(l->key);
    free(l->place);
    for (int i = 0; i < COUNTS; i++) {
        free(l->counts[i].heat);
        free(l->counts[i].sum);
    }
    free(l->last);
    free(l);
    *policy = NULL;
}

static uint64_t lfu_memory_bytes(int n_slots, int n_layers, int n_experts) {
    uint64_t keys = (uint64_t)n_layers * (uint64_t)n_experts, heap = (uint64_t)n_layers * (uint64_t)(n_experts < n_slots ? n_experts : n_slots);
    return sizeof(lfu) + (heap + (uint64_t)n_layers + 2 * (uint64_t)n_slots) * sizeof(int) + keys * (COUNTS * sizeof(double) + sizeof(uint64_t)) +
           COUNTS * (uint64_t)n_layers * sizeof(double);
}

static int lfu_open(fm_policy **policy, int n_slots, int n_layers, int n_experts, fm_error *err) {
    size_t keys = (size_t)n_layers * (size_t)n_experts;
    lfu *l = calloc(1, sizeof *l);
    *policy = (fm_policy *)l;
    if (!l) goto fail;
    *l = (lfu){.policy.ops = &fm_policy_lfu, .n_slots = n_slots, .n_layers = n_layers, .n_experts = n_experts};
    l->floor = n_slots / n_layers / 2 < FLOOR ? n_slots / n_layers / 2 : FLOOR;
    l->heap_size = n_experts < n_slots ? n_experts : n_slots;
    l->heap = malloc((size_t)n_layers * (size_t)l->heap_size * sizeof *l->heap);
    l->n = calloc((size_t)n_layers, sizeof *l->n);
    l->key = malloc((size_t)n_slots * sizeof *l->key);
    l->place = malloc((size_t)n_slots * sizeof *l->place);
    l->last = calloc(keys, sizeof *l->last);
    if (!l->heap || !l->n || !l->key || !l->place || !l->last) goto fail;
    for (int i = 0; i < COUNTS; i++) {
        counts *c = &l->counts[i];
        *c = (counts){.heat = calloc(keys, sizeof *c->heat), .sum = calloc((size_t)n_layers, sizeof *c->sum), .worth = 1, .odds = 1};
        if (!c->heat || !c->sum) goto fail;
    }
    l->heat = l->counts[0].heat;
    for (int i = 0; i < n_slots; i++) l->key[i] = -1;
    return 0;
fail:
    lfu_close(policy);
    return fm_fail(err, FM_ENOMEM, "no memory for the cache policy's tables of %zu experts and %d slots", keys, n_slots);
}

static bool colder(const lfu *l, int a, int b) {
    int x = l->key[a], y = l->key[b];
    return l->heat[x] != l->heat[y] ? l->heat[x] < l->heat[y] : l->last[x] < l->last[y];
}

static void put(lfu *l, int *heap, int i, int slot) {
    heap[i] = slot;
    l->place[slot] = i;
}

static void sift_up(lfu *l, int *heap, int i) {
    int slot = heap[i];
    for (; i > 0 && colder(l, slot, heap[(i - 1) / 2]); i = (i - 1) / 2) put(l, heap, i, heap[(i - 1) / 2]);
    put(l, heap, i, slot);
}

static void sift_down(lfu *l, int *heap, int n, int i) {
    int slot = heap[i];
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && colder(l, heap[child + 1], heap[child])) child++;
        if (!colder(l, heap[child], slot)) break;
        put(l, heap, i, heap[child]);
    }
    put(l, heap, i, slot);
}

static void build_heaps(lfu *l) {
    for (int layer = 0; layer < l->n_layers; layer++) {
        for (int i = l->n[layer] / 2; i-- > 0;) sift_down(l, l->heap + (size_t)layer * (size_t)l->heap_size, l->n[layer], i);
    }
}

static void scale(lfu *l, counts *c, double by) {
    for (size_t i = 0; i < (size_t)l->n_layers * (size_t)l->n_experts; i++) c->heat[i] *= by;
    for (int i = 0; i < l->n_layers; i++) c->sum[i] *= by;
}

/* What lasts longest is worth keeping. */
static void lfu_heat_save(const fm_policy *policy, float *heat) {
    const lfu *l = (const lfu *)policy;
    const counts *c = &l->counts[COUNTS - 1];
    for (size_t i = 0; i < (size_t)l->n_layers * (size_t)l->n_experts; i++) heat[i] = (float)(c->heat[i] / c->worth);
}

/* Counts that decay faster would have come to less. */
static void lfu_heat_load(fm_policy *policy, const float *heat) {
    lfu *l = (lfu *)policy;
    for (int i = 0; i < COUNTS; i++) {
        counts *c = &l->counts[i];
        for (int layer = 0; layer < l->n_layers; layer++) c->sum[layer] = 0;
        for (int key = 0; key < l->n_layers * l->n_experts; key++) {
            c->heat[key] = (double)heat[key] * c->worth * (1 - decays[COUNTS - 1]) / (1 - decays[i]);
            c->sum[key / l->n_experts] += c->heat[key];
        }
    }
    build_heaps(l);
}

static void add_odds(counts *c) {
    c->merit += fm_log(c->odds);
    c->odds = 1;
}

/* After a pass: counts fade, and the slots are ranked anew if others have become better, or if scaling may have rounded small counts to 0. */
static void end_pass(lfu *l) {
    const counts *best = NULL;
    bool anew = false;
    for (int i = 0; i < COUNTS; i++) {
        counts *c = &l->counts[i];
        add_odds(c);
        c->worth /= decays[i];
        c->merit *= FORGET;
        if (c->heat == l->heat) best = c;
        if (c->worth < RENORM) continue;
        scale(l, c, 1 / c->worth);
        c->worth = 1;
        anew = true;
    }
    double least = best->merit + MARGIN;
    for (int i = 0; i < COUNTS; i++) {
        if (l->counts[i].merit > least && l->counts[i].merit > best->merit) best = &l->counts[i];
    }
    anew |= best->heat != l->heat;
    l->heat = best->heat;
    if (anew) build_heaps(l);
}

/* A pass over the layers ends where a use is of an earlier layer than the one before. A model with one such layer has passes of n_experts uses. */
static void count_pass(lfu *l, int layer) {
    bool ends = layer < l->pass_layer || ++l->pass_uses > l->n_layers * l->n_experts;
    l->pass_layer = layer;
    if (!ends) return;
    l->pass_uses = 1;
    end_pass(l);
}

static void count_use(counts *c, int key, int layer, int n_experts) {
    double unseen = UNSEEN * c->worth;
    c->odds *= (c->heat[key] + unseen) / (c->sum[layer] + n_experts * unseen);
    if (c->odds < 1 / RENORM) add_odds(c);
    c->heat[key] += c->worth;
    c->sum[layer] += c->worth;
}

static void lfu_fill(fm_policy *policy, int slot, int key) {
    lfu *l = (lfu *)policy;
    int layer = key / l->n_experts, *heap = l->heap + (size_t)layer * (size_t)l->heap_size;
    assert(l->key[slot] < 0 && l->n[layer] < l->heap_size);
    l->key[slot] = key;
    put(l, heap, l->n[layer], slot);
    sift_up(l, heap, l->n[layer]++);
}

static void lfu_use(fm_policy *policy, int slot) {
    lfu *l = (lfu *)policy;
    int key = l->key[slot], layer = key / l->n_experts;
    assert(key >= 0);
    count_pass(l, layer);
    for (int i = 0; i < COUNTS; i++) count_use(&l->counts[i], key, layer, l->n_experts);
    l->last[key] = ++l->clock;
    sift_down(l, l->heap + (size_t)layer * (size_t)l->heap_size, l->n[layer], l->place[slot]);
}

static void lfu_empty(fm_policy *policy, int slot) {
    lfu *l = (lfu *)policy;
    assert(l->key[slot] >= 0);
    int layer = l->key[slot] / l->n_experts, *heap = l->heap + (size_t)layer * (size_t)l->heap_size, i = l->place[slot];
    int moved = heap[--l->n[layer]];
    l->key[slot] = -1;
    if (moved == slot) return;
    put(l, heap, i, moved);
    sift_up(l, heap, i);
    sift_down(l, heap, l->n[layer], l->place[moved]);
}

/* The coldest unpinned slot at or below place i of a heap, or -1: below an unpinned one nothing is colder, so only pinned ones are looked through.
 * best: the coldest so far, or -1. The depth is that of the heap. */
static int coldest(const lfu *l, const int *heap, int n, int i, const uint8_t *pinned, int best) {
    if (i >= n || (best >= 0 && !colder(l, heap[i], best))) return best;
    if (!pinned[heap[i]]) return heap[i];
    best = coldest(l, heap, n, 2 * i + 1, pinned, best);
    return coldest(l, heap, n, 2 * i + 2, pinned, best);
}

/* Where a layer may lose a slot to an expert of layer own (-1: to nobody) and keep its floor; own itself stays as it is by that. */
static bool may_give(const lfu *l, int layer, int own) { return layer == own ? l->n[layer] >= l->floor : l->n[layer] > l->floor; }

static int lfu_victim(fm_policy *policy, int key, const uint8_t *pinned) {
    lfu *l = (lfu *)policy;
    int own = key < 0 ? -1 : key / l->n_experts;
    for (int floored = 1; floored >= 0; floored--) {
        int best = -1;
        for (int layer = 0; layer < l->n_layers; layer++) {
            if (floored && !may_give(l, layer, own)) continue;
            best = coldest(l, l->heap + (size_t)layer * (size_t)l->heap_size, l->n[layer], 0, pinned, best);
        }
        if (best >= 0) return best;
    }
    return -1;
}

const fm_policy_ops fm_policy_lfu = {.name = "lfu",
                                     .open = lfu_open,
                                     .close = lfu_close,
                                     .fill = lfu_fill,
                                     .use = lfu_use,
                                     .empty = lfu_empty,
                                     .victim = lfu_victim,
                                     .heat_save = lfu_heat_save,
                                     .heat_load = lfu_heat_load,
                                     .memory_bytes = lfu_memory_bytes};
