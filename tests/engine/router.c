/* tests/engine/router.c: the choice of experts and their weights, in every form that a description can ask for, against what transformers' routers (dots1, phimoe,
 * deepseek_v2) give; ties go to the lower index. */
#include <math.h>

#include "cpu/cpu.h"
#include "test.h"

#define N 12

static const float logits[N] = {1, 0.25f, 0.125f, -0.75f, 0, -1.75f, 0.375f, 1.25f, -1.75f, 1.25f, 0.625f, 1.5f};
static const float bias[N] = {-0.21875f, 0.078125f, 0.109375f, -0.015625f, 0.234375f, 0.203125f, 0.125f, -0.046875f, -0.171875f, -0.265625f, 0.1875f, 0.0625f};

typedef struct router_case {
    const char *name;
    fm_router router;
    int experts[3];
    double weights[3];
} router_case;

#define SIGMOID .score = FM_SCORE_SIGMOID, .bias = true, .best_of = 2, .add = 1e-20f

static const router_case cases[] = {
    {"two of four groups", {SIGMOID, .n_groups = 4, .n_chosen = 2, .renormalise = true, .scale = 2.5f}, {7, 10, 11}, {0.86511642, 0.72494262, 0.90994108}},
    {"one of four groups", {SIGMOID, .n_groups = 4, .n_chosen = 1}, {9, 10, 11}, {0.77729988, 0.65135491, 0.81757444}},
    {"one group", {SIGMOID, .n_groups = 1, .n_chosen = 1, .renormalise = true}, {4, 10, 11}, {0.25394514, 0.33081681, 0.41523808}},
    {"two of three groups", {SIGMOID, .n_groups = 3, .n_chosen = 2, .renormalise = true}, {4, 10, 11}, {0.25394514, 0.33081681, 0.41523808}},
    {"groups by their best", {.n_groups = 4, .n_chosen = 2, .best_of = 1, .scale = 16}, {7, 9, 11}, {2.56867361, 2.56867361, 3.29824209}},
    {"a least sum", {.renormalise = true, .least = 2, .scale = 32}, {7, 9, 11}, {2.56867361, 2.56867361, 3.29824209}},
};

static void check_cases(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const router_case *c = &cases[i];
        fm_description d = {.n_experts = N, .top_k = 3, .router = c->router};
        float x[2 * N], weights[3];
        int chosen[3];
        memcpy(x, logits, sizeof logits);
        CHECK(fm_router_floats(&d) <= 2 * N, "%d floats", fm_router_floats(&d));
        fm_choose(&d, &fm_kernels_scalar, bias, 3, x, chosen, weights);
        for (int k = 0; k < 3; k++) {
            CHECK(chosen[k] == c->experts[k], "%s: choice %d is %d, expected %d", c->name, k, chosen[k], c->experts[k]);
            CHECK(fabs((double)weights[k] - c->weights[k]) < 1e-6, "%s: weight %d is %.8g, expected %.8g", c->name, k, (double)weights[k], c->weights[k]);
        }
    }
}

static void check_sparsemixer(void) {
    static const struct {
        float logits[5];
        int n, experts[2];
        double weights[2];
    } mixed[] = {{{2, 1, 1.99f, 0.5f, -1}, 5, {0, 2}, {0.5025, 1}},
                 {{3, 1, 0.99f, 0.5f, -1}, 5, {0, 1}, {1, 0.5025}},
                 {{-0.5f, -1, -0.505f, -2}, 4, {0, 2}, {0.50125, 1}},
                 {{0, 0, -0.1f, 0}, 4, {0, 1}, {1.0 / 3, 0.5}}};
    for (size_t i = 0; i < sizeof mixed / sizeof *mixed; i++) {
        fm_description d = {.n_experts = mixed[i].n, .router = {.score = FM_SCORE_SPARSEMIXER, .margin = 0.01f}};
        float x[5], weights[2];
        int chosen[2];
        memcpy(x, mixed[i].logits, sizeof x);
        fm_choose(&d, &fm_kernels_scalar, NULL, 2, x, chosen, weights);
        for (int k = 0; k < 2; k++) {
            CHECK(chosen[k] == mixed[i].experts[k], "sparsemixer %zu: choice %d is %d", i, k, chosen[k]);
            CHECK(fabs((double)weights[k] - mixed[i].weights[k]) < 1e-6, "sparsemixer %zu: weight %d is %.8g", i, k, (double)weights[k]);
        }
    }
}

int main(void) {
    check_cases();
    check_sparsemixer();
    return TEST_END();
}
