/* tests/measure/limit.c: the arithmetic of the limits against figures worked out by hand, and the bytes of models/ember against what the engine says. */
#include "measure/limit.h"

#include <math.h>

#include "test.h"

#define NEAR(a, b) (fabs((double)(a) - (b)) <= 1e-12 * fabs((double)(b)) + 1e-300)

/* Three layers: experts of 10 bytes in memory and 8 on disk, then 20 and 16, then a dense one. */
static fm_limit_layer layers[3] = {
    {.before_bytes = 100, .after_bytes = 30, .position_bytes = 2, .slot_bytes = 10, .disk_bytes = 8},
    {.before_bytes = 200, .after_bytes = 40, .state_bytes = 50, .slot_bytes = 20, .disk_bytes = 16},
    {.before_bytes = 300, .after_bytes = 60},
};
static const fm_limit limit = {.n_layers = 3, .layers = layers, .head_bytes = 500, .token_macs = 1000, .head_macs = 400};
static const fm_limit_rates rates = {.ram = 1000, .disk = 100, .operations = 1e5};

static void token(void) {
    fm_limit_uses all_hit[3] = {{4, 0}, {4, 0}, {0, 0}}, mixed[3] = {{3, 1}, {1, 3}, {0, 0}};
    double ram, disk;
    /* Position 9: ten positions of the cache. (100 + 20) + (40 + 30), 250 + (80 + 40), 300 + 60, 500: 1420 bytes at 1000 a second. */
    CHECK(NEAR(fm_limit_token_seconds(&limit, &rates, 9, all_hit), 1.42), "all hits: %g s", fm_limit_token_seconds(&limit, &rates, 9, all_hit));
    /* 0.12 + max(60 / 1000, 8 / 100) + 0.01, 0.25 + max(60 / 1000, 48 / 100) + 0.02, 0.36, 0.5 */
    CHECK(NEAR(fm_limit_token_seconds(&limit, &rates, 9, mixed), 1.82), "misses: %.9g s", fm_limit_token_seconds(&limit, &rates, 9, mixed));
    fm_limit_rates fast = rates;
    fast.disk = 1000; /* the hits take longer than the reads: 0.12 + 0.06 + 0.01, 0.25 + max(0.06, 0.048) + 0.02, 0.36, 0.5 */
    CHECK(NEAR(fm_limit_token_seconds(&limit, &fast, 9, mixed), 1.38), "a fast disk: %.9g s", fm_limit_token_seconds(&limit, &fast, 9, mixed));
    fm_limit_token_bytes(&limit, 9, mixed, &ram, &disk);
    /* 120 + 30 + (3 + 2) * 10, 250 + 40 + (1 + 6) * 20, 360, 500; on disk 8 + 48 */
    CHECK(NEAR(ram, 1490) && NEAR(disk, 56), "%g bytes of memory and %g of the disk", ram, disk);
    fm_limit_token_bytes(&limit, 9, all_hit, &ram, &disk);
    CHECK(NEAR(ram, 1420) && disk == 0, "%g bytes of memory and %g of the disk", ram, disk);
}

static void prompt(void) {
    fm_limit_uses uses[3] = {{8, 2}, {4, 6}, {0, 0}}, resident[3] = {{10, 0}, {10, 0}, {0, 0}};
    /* n 10: disk (16 + 96) / 100 = 1.12; products 2 * (10 * 1000 + 400) / 1e5 = 0.208; memory 120 + 30 + 120, 250 + 40 + 320, 360, 500 = 1740. */
    CHECK(NEAR(fm_limit_prompt_seconds(&limit, &rates, 10, uses), 1.74), "by memory: %g", fm_limit_prompt_seconds(&limit, &rates, 10, uses));
    fm_limit_rates r = {.ram = 1e6, .disk = 100, .operations = 1e5};
    CHECK(NEAR(fm_limit_prompt_seconds(&limit, &r, 10, uses), 1.12), "by the disk: %g", fm_limit_prompt_seconds(&limit, &r, 10, uses));
    CHECK(NEAR(fm_limit_prompt_seconds(&limit, &r, 10, resident), 0.208), "by products: %g", fm_limit_prompt_seconds(&limit, &r, 10, resident));
    r.disk = 0;
    CHECK(NEAR(fm_limit_prompt_seconds(&limit, &r, 10, resident), 0.208), "without a disk: %g", fm_limit_prompt_seconds(&limit, &r, 10, resident));
}

static void ember(void) {
    fm_engine_options o = FM_ENGINE_OPTIONS_INIT;
    fm_engine *e;
    fm_limit l;
    o.n_threads = 1;
    o.memory_bytes = (uint64_t)20 << 20;
    MUST(fm_engine_open(&e, TEST_SOURCE_ROOT "/models/ember", &o, err));
    MUST(fm_limit_open(&l, e, err));
    const fm_description *d = &e->model->description;
    double weights = l.head_bytes, position = 0, state = 0, active = (double)fm_engine_info(e)->n_active_parameters;
    for (int i = 0; i < l.n_layers; i++) {
        weights += l.layers[i].before_bytes + l.layers[i].after_bytes;
        position += l.layers[i].position_bytes;
        state += l.layers[i].state_bytes;
        CHECK(l.layers[i].slot_bytes == (double)e->plan.slot_bytes && l.layers[i].disk_bytes == (double)e->plan.expert_disk_bytes, "experts of layer %d", i);
    }
    double token = (double)fm_weights_token_bytes(e->model);
    CHECK(weights <= token && weights > 0.98 * token, "%.0f bytes of weights a token, the plan says %.0f", weights, token);
    double macs = l.token_macs + l.head_macs; /* norms and the like are parameters too */
    CHECK(macs <= active && macs > 0.99 * active, "%.0f products of %.0f active parameters", macs, active);
    double kv = 0, memory = 0;
    for (int i = 0; i < d->n_layers; i++) {
        if (d->layers[i].mixer == FM_MIXER_ATTENTION)
            kv += 2.0 * d->n_kv_heads * d->head_dim;
        else
            memory += (double)d->n_value_heads * d->key_dim * d->value_dim;
    }
    /* Elements of two to four bytes; recurrent states of four, read and written, beside the convolution's. */
    CHECK(position >= 2 * kv && position <= 4 * kv, "%g bytes of cache a position, %g values", position, kv);
    CHECK(state >= 8 * memory && state < 10 * memory, "%g bytes of states, %g values", state, memory);
    fm_limit_close(&l);
    fm_engine_close(&e);
}

int main(void) {
    token();
    prompt();
    ember();
    return TEST_END();
}
