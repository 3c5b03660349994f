/* tests/experts/policy.c: the cache policies alone: their order against a plain search, pinned slots, floors, and how good they are on a made-up trace. */
#include "experts/policy.h"

#include <math.h>

#include "test.h"

/* What a policy decides, computed the slow way. */
typedef struct model {
    int n_slots, n_layers, n_experts, floor;
    int *key;        /* [n_slots], -1: empty */
    double *heat[3]; /* [keys] by decay */
    double merit[3];
    int ranks, n_uses; /* by which heat; of this pass */
    long *last;        /* [keys] of the last use */
    long clock;
    int layer;
} model;

static model model_open(int n_slots, int n_layers, int n_experts) {
    model m = {.n_slots = n_slots, .n_layers = n_layers, .n_experts = n_experts};
    size_t keys = (size_t)n_layers * (size_t)n_experts;
    m.floor = n_slots / n_layers / 2 < 16 ? n_slots / n_layers / 2 : 16;
    m.key = calloc((size_t)n_slots, sizeof *m.key);
    for (int i = 0; i < 3; i++) m.heat[i] = calloc(keys, sizeof **m.heat);
    m.last = calloc(keys, sizeof *m.last);
    for (int i = 0; i < n_slots; i++) m.key[i] = -1;
    return m;
}

static void model_close(model *m) {
    free(m->key);
    for (int i = 0; i < 3; i++) free(m->heat[i]);
    free(m->last);
}

static void model_end_pass(model *m) {
    const double decays[] = {0.9, 0.97, 0.995};
    int best = m->ranks;
    for (int i = 0; i < 3; i++) {
        for (int key = 0; key < m->n_layers * m->n_experts; key++) m->heat[i][key] *= decays[i];
        m->merit[i] *= 0.98;
    }
    for (int i = 0; i < 3; i++) {
        if (m->merit[i] > m->merit[m->ranks] + 2 && m->merit[i] > m->merit[best]) best = i;
    }
    m->ranks = best;
}

static void model_use(model *m, int slot) {
    int key = m->key[slot], layer = key / m->n_experts;
    if (layer < m->layer || ++m->n_uses > m->n_layers * m->n_experts) {
        model_end_pass(m);
        m->n_uses = 1;
    }
    m->layer = layer;
    for (int i = 0; i < 3; i++) {
        double sum = 0;
        for (int x = 0; x < m->n_experts; x++) sum += m->heat[i][layer * m->n_experts + x] + 0.1;
        m->merit[i] += log((m->heat[i][key] + 0.1) / sum);
        m->heat[i][key] += 1;
    }
    m->last[key] = ++m->clock;
}

static int model_count(const model *m, int layer) {
    int n = 0;
    for (int i = 0; i < m->n_slots; i++) n += m->key[i] >= 0 && m->key[i] / m->n_experts == layer;
    return n;
}

static bool model_colder(const model *m, bool lfu, int a, int b) {
    double x = m->heat[m->ranks][m->key[a]], y = m->heat[m->ranks][m->key[b]];
    /* Equal but for rounding: growing worth and shrinking counts are not the same arithmetic. */
    if (lfu && (x < y * (1 - 1e-9) || y < x * (1 - 1e-9))) return x < y;
    return m->last[m->key[a]] < m->last[m->key[b]];
}

static int model_victim(const model *m, bool lfu, int key, const uint8_t *pinned) {
    int own = key < 0 ? -1 : key / m->n_experts;
    for (int floored = lfu; floored >= 0; floored--) {
        int best = -1;
        for (int i = 0; i < m->n_slots; i++) {
            if (m->key[i] < 0 || pinned[i]) continue;
            int layer = m->key[i] / m->n_experts, n = floored ? model_count(m, layer) : 0;
            if (floored && (layer == own ? n < m->floor : n <= m->floor)) continue;
            if (best < 0 || model_colder(m, lfu, i, best)) best = i;
        }
        if (best >= 0) return best;
    }
    return -1;
}

/* Random passes over the layers with random pins: each victim is the one that the slow search finds. */
static void compare(const fm_policy_ops *ops, int n_slots, int n_layers, int n_experts, uint64_t seed) {
    model m = model_open(n_slots, n_layers, n_experts);
    bool lfu = ops == &fm_policy_lfu;
    uint8_t *pinned = calloc((size_t)n_slots, 1);
    fm_policy *p = NULL;
    int n_victims = 0;
    MUST(ops->open(&p, n_slots, n_layers, n_experts, err));
    for (int step = 0; step < 60 * n_layers; step++) {
        int layer = step % n_layers, k = 1 + (int)(test_random(&seed) % 4);
        for (int i = 0; i < n_slots; i++) pinned[i] = test_random(&seed) % 8 == 0;
        for (int i = 0; i < k; i++) {
            int key = layer * n_experts + (int)(test_random(&seed) % (uint64_t)n_experts), slot = -1, empty = -1;
            for (int j = 0; j < n_slots; j++) {
                if (m.key[j] == key) slot = j;
                if (m.key[j] < 0) empty = j;
            }
            if (slot < 0 && empty < 0) {
                slot = ops->victim(p, key, pinned);
                int expected = model_victim(&m, lfu, key, pinned);
                CHECK(slot == expected, "%s, %d slots: victim %d, expected %d", ops->name, n_slots, slot, expected);
                n_victims++;
                if (slot < 0) continue;
                ops->empty(p, slot);
                m.key[slot] = -1;
                empty = slot;
                slot = -1;
            }
            if (slot < 0) {
                slot = empty;
                ops->fill(p, slot, key);
                m.key[slot] = key;
            }
            ops->use(p, slot);
            model_use(&m, slot);
            pinned[slot] = 1;
        }
        int drop = (int)(test_random(&seed) % (uint64_t)(8 * n_slots)); /* now and then one is emptied for another reason */
        if (drop < n_slots && m.key[drop] >= 0) {
            ops->empty(p, drop);
            m.key[drop] = -1;
        }
    }
    int any = ops->victim(p, -1, pinned), expected = model_victim(&m, lfu, -1, pinned);
    CHECK(any == expected, "%s for nobody: %d, expected %d", ops->name, any, expected);
    CHECK(n_victims > 10 || n_slots > n_layers * n_experts / 2, "only %d victims", n_victims);
    memset(pinned, 1, (size_t)n_slots);
    CHECK(ops->victim(p, 0, pinned) == -1, "%s: a pinned victim", ops->name);
    ops->close(&p);
    CHECK(!p, "close leaves the pointer");
    free(pinned);
    model_close(&m);
}

enum { LAYERS = 12, EXPERTS = 32, K = 4 };

/* A skewed choice, which is another one every `lasts` tokens. */
static int choose(uint64_t *seed, int layer, int token, int lasts) {
    uint64_t a = test_random(seed) % EXPERTS, b = test_random(seed) % EXPERTS;
    return layer * EXPERTS + ((int)(a * b / EXPERTS * (layer % 3 ? 1 : 2)) + token / lasts * 11) % EXPERTS;
}

/* A cache driven as the store drives it: returns hits of n_passes tokens, K experts a layer; *least: the fewest slots of a layer. */
static double replay(const fm_policy_ops *ops, int n_slots, int n_passes, int lasts, int *least) {
    uint64_t seed = 1;
    int slot_of[LAYERS * EXPERTS], key_of[LAYERS * EXPERTS], n_used = 0, n_hits = 0, n = 0, count[LAYERS] = {0};
    uint8_t pinned[LAYERS * EXPERTS] = {0};
    fm_policy *p = NULL;
    memset(slot_of, -1, sizeof slot_of);
    MUST(ops->open(&p, n_slots, LAYERS, EXPERTS, err));
    for (int t = 0; t < n_passes; t++) {
        for (int layer = 0; layer < LAYERS; layer++) {
            for (int i = 0; i < K; i++) {
                int key = choose(&seed, layer, t, lasts), slot = slot_of[key];
                n++;
                n_hits += slot >= 0;
                if (slot < 0 && n_used < n_slots)
                    slot = n_used++;
                else if (slot < 0) {
                    slot = ops->victim(p, key, pinned);
                    slot_of[key_of[slot]] = -1;
                    ops->empty(p, slot);
                }
                if (slot_of[key] < 0) ops->fill(p, slot, key);
                slot_of[key] = slot;
                key_of[slot] = key;
                ops->use(p, slot);
            }
        }
    }
    *least = EXPERTS;
    for (int i = 0; i < n_used; i++) count[key_of[i] / EXPERTS]++;
    for (int layer = 0; layer < LAYERS; layer++) *least = count[layer] < *least ? count[layer] : *least;
    ops->close(&p);
    return (double)n_hits / n;
}

/* Below one pass of all layers a global LRU never hits across tokens; with a floor a layer keeps what it needs most. */
static void starvation(void) {
    int least;
    double lru = replay(&fm_policy_lru, 36, 300, 300, &least), lfu = replay(&fm_policy_lfu, 36, 300, 300, &least);
    CHECK(least >= 1, "a layer has %d slots of 36", least);
    CHECK(lfu > lru + 0.1, "hits of 36 slots: lfu %.3f, lru %.3f", lfu, lru);
    lru = replay(&fm_policy_lru, 192, 300, 300, &least), lfu = replay(&fm_policy_lfu, 192, 300, 300, &least);
    CHECK(least >= 8, "a layer has %d slots of 192", least);
    CHECK(lfu > lru - 0.01, "hits of 192 slots: lfu %.3f, lru %.3f", lfu, lru);
}

static int more(const void *a, const void *b) { return *(const int *)b - *(const int *)a; }

/* Hits if the n_slots experts that are used most, all in all, were always there. */
static double fixed(int n_slots, int n_passes) {
    uint64_t seed = 1;
    int uses[LAYERS * EXPERTS] = {0}, n = 0;
    for (int i = 0; i < n_passes * LAYERS * K; i++) uses[choose(&seed, i / K % LAYERS, 0, 1)]++;
    qsort(uses, LAYERS * EXPERTS, sizeof *uses, more);
    for (int i = 0; i < n_slots; i++) n += uses[i];
    return (double)n / (n_passes * LAYERS * K);
}

/* Counts last long where the choice stays the same, and not where it changes. */
static void lasting_and_changing(void) {
    int least;
    double best = fixed(96, 3000), lfu = replay(&fm_policy_lfu, 96, 3000, 3000, &least), lru;
    CHECK(lfu > best - 0.005, "hits of 96 slots: lfu %.3f, of the best fixed choice %.3f", lfu, best);
    for (int lasts = 20; lasts <= 80; lasts *= 2) {
        lfu = replay(&fm_policy_lfu, 96, 3000, lasts, &least);
        lru = replay(&fm_policy_lru, 96, 3000, lasts, &least);
        CHECK(lfu > lru + (lasts > 20 ? 0.04 : -0.01), "a choice that lasts %d tokens: lfu %.3f, lru %.3f", lasts, lfu, lru);
    }
}

/* A layer that is used only once in a while keeps its floor against all others, and one that has none gets it. */
static void floors(void) {
    fm_policy *p = NULL;
    uint8_t pinned[40] = {0};
    int n[4] = {0}, layer_of[40];
    MUST(fm_policy_lfu.open(&p, 40, 4, 64, err)); /* the floor is 5 */
    for (int i = 0; i < 40; i++) {
        layer_of[i] = i < 20 ? 0 : 1;
        fm_policy_lfu.fill(p, i, layer_of[i] * 64 + i);
        for (int j = 0; j < 50; j++) fm_policy_lfu.use(p, i);
        n[layer_of[i]]++;
    }
    for (int i = 0; i < 200; i++) {
        int layer = i < 100 ? 2 : 3, key = layer * 64 + i % 64, slot = fm_policy_lfu.victim(p, key, pinned);
        fm_policy_lfu.empty(p, slot);
        n[layer_of[slot]]--;
        layer_of[slot] = layer;
        fm_policy_lfu.fill(p, slot, key);
        fm_policy_lfu.use(p, slot);
        n[layer]++;
        int grown = i < 100 ? i + 1 : i - 99;
        if (grown >= 5)
            CHECK(n[layer] >= 5, "layer %d has %d slots after %d requests", layer, n[layer], grown);
        else
            CHECK(n[layer] == grown, "layer %d has %d slots after %d requests", layer, n[layer], grown);
    }
    CHECK(n[2] == 5 && n[0] >= 5 && n[1] >= 5, "slots of the layers: %d %d %d %d", n[0], n[1], n[2], n[3]);
    fm_policy_lfu.close(&p);
}

/* Heat outlives absence: of two returning experts the one that was used more stays. */
static void memory_of_absent(void) {
    fm_policy *p = NULL;
    uint8_t pinned[2] = {0};
    MUST(fm_policy_lfu.open(&p, 2, 1, 8, err));
    fm_policy_lfu.fill(p, 0, 5);
    for (int i = 0; i < 4; i++) fm_policy_lfu.use(p, 0);
    fm_policy_lfu.empty(p, 0);
    fm_policy_lfu.fill(p, 0, 5);
    fm_policy_lfu.use(p, 0);
    fm_policy_lfu.fill(p, 1, 6);
    for (int i = 0; i < 3; i++) fm_policy_lfu.use(p, 1);
    int victim = fm_policy_lfu.victim(p, 7, pinned);
    CHECK(victim == 1, "slot %d leaves: the count of key 5 was forgotten", victim);
    fm_policy_lfu.close(&p);
}

/* Counts grow beyond what a double holds after some 23,000 passes, unless they are scaled back: old heat fades, and who is used twice as often stays. */
static void long_run(void) {
    fm_policy *p = NULL;
    uint8_t pinned[4] = {0};
    const int keys[] = {0, 1, 8, 9};
    MUST(fm_policy_lfu.open(&p, 4, 2, 8, err));
    for (int i = 0; i < 4; i++) fm_policy_lfu.fill(p, i, keys[i]);
    for (int i = 0; i < 1000; i++) fm_policy_lfu.use(p, 0);
    for (int pass = 0; pass < 60000; pass++) {
        fm_policy_lfu.use(p, 1);
        fm_policy_lfu.use(p, 2);
        if (pass % 2 == 0) fm_policy_lfu.use(p, 3);
        if (pass % 2 || pass < 1000) continue;
        pinned[0] = 0;
        int victim = fm_policy_lfu.victim(p, 2, pinned);
        CHECK(victim == 0, "pass %d: slot %d leaves, not the one that is not used any more", pass, victim);
        pinned[0] = 1;
        victim = fm_policy_lfu.victim(p, 2, pinned);
        CHECK(victim == 3, "pass %d: slot %d leaves, not the one that is used every other time", pass, victim);
    }
    fm_policy_lfu.close(&p);
}

static void names(void) {
    fm_error e = {0};
    CHECK(fm_policy_find("lru", &e) == &fm_policy_lru && fm_policy_find("lfu", &e) == &fm_policy_lfu, "by name");
    CHECK(fm_policy_find(NULL, &e) == &fm_policy_lfu, "the default");
    CHECK(!fm_policy_find("arc", &e) && e.code == FM_EINVAL && strstr(e.message, "arc") && strstr(e.message, "lfu"), "\"%s\"", e.message);
}

int main(void) {
    const fm_policy_ops *policies[] = {&fm_policy_lru, &fm_policy_lfu};
    for (int p = 0; p < 2; p++) {
        for (uint64_t seed = 0; seed < 10; seed++) {
            compare(policies[p], 1, 1, 6, seed);
            compare(policies[p], 7, 3, 8, seed);
            compare(policies[p], 40, 4, 32, seed);
            compare(policies[p], 97, 5, 64, seed);
        }
    }
    starvation();
    lasting_and_changing();
    floors();
    memory_of_absent();
    long_run();
    names();
    return TEST_END();
}
