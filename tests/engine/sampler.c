/* The sampler: exact sets of candidates, exact probabilities (chi-square), penalties, ties, what it refuses. */
#include <float.h>
#include <math.h>

#include "test.h"

#define MAX_VOCAB 16

/* FM_SAMPLING_INIT with some fields set to something else. */
#pragma GCC diagnostic ignored "-Woverride-init"
#define WITH(...) ((fm_sampling){.size = sizeof(fm_sampling), .top_p = 1, .repeat_penalty = 1, .repeat_last = 64, __VA_ARGS__})

static fm_sampler *open_sampler(int vocab, fm_sampling options) {
    fm_sampler *sampler = NULL;

    MUST(fm_sampler_open(&sampler, vocab, &options, err));
    return sampler;
}

static int32_t choose(fm_sampler *sampler, const float *logits) {
    int32_t id = -1;

    MUST(id = fm_sampler_choose(sampler, logits, err));
    return id;
}

static int32_t choose_once(int vocab, fm_sampling options, const float *logits) {
    fm_sampler *sampler = open_sampler(vocab, options);
    int32_t id = choose(sampler, logits);

    fm_sampler_close(&sampler);
    CHECK(sampler == NULL, "close leaves a pointer");
    return id;
}

static void log_of(float *logits, const double *p, int n) {
    for (int i = 0; i < n; i++) logits[i] = (float)log(p[i]) + 3; /* any constant may be added */
}

/* Draws and compares with the expected probabilities; those of 0 may never be drawn. */
static void check_draws(const char *what, fm_sampler *sampler, const float *logits, const double *p, int vocab) {
    enum { DRAWS = 40000 };
    /* The 99.99 % points of the chi-square distribution with 1 … 9 degrees of freedom. */
    static const double limits[] = {0, 15.14, 18.42, 21.11, 23.51, 25.74, 27.86, 29.88, 31.83, 33.72};
    int seen[MAX_VOCAB] = {0}, freedom = -1;
    double chi = 0, total = 0;

    for (int i = 0; i < DRAWS; i++) seen[choose(sampler, logits)]++;
    for (int i = 0; i < vocab; i++) total += p[i];
    for (int i = 0; i < vocab; i++) {
        double expected = DRAWS * p[i] / total;
        if (p[i] == 0) {
            CHECK(seen[i] == 0, "%s: token %d was drawn %d times", what, i, seen[i]);
            continue;
        }
        CHECK(seen[i] > 0, "%s: token %d was never drawn, expected %.0f", what, i, expected);
        chi += (seen[i] - expected) * (seen[i] - expected) / expected;
        freedom++;
    }
    CHECK(freedom == 0 || chi < limits[freedom], "%s: chi-square %.1f with %d degrees of freedom", what, chi, freedom);
}

static void check_options(const char *what, fm_sampling options, const float *logits, const double *p, int vocab) {
    fm_sampler *sampler;

    options.seed = 20240229;
    sampler = open_sampler(vocab, options);
    check_draws(what, sampler, logits, p, vocab);
    fm_sampler_close(&sampler);
}

static void test_distributions(void) {
    static const double p[8] = {0.05, 0.30, 0.02, 0.20, 0.15, 0.10, 0.08, 0.10}; /* ranks: 1 3 4 5 7 6 0 2 */
    float logits[8];
    double expected[8];

    log_of(logits, p, 8);
    check_options("plain", WITH(.temperature = 1), logits, p, 8);

    for (int i = 0; i < 8; i++) expected[i] = p[i] * p[i];
    check_options("temperature 0.5", WITH(.temperature = 0.5f), logits, expected, 8);
    for (int i = 0; i < 8; i++) expected[i] = sqrt(p[i]);
    check_options("temperature 2", WITH(.temperature = 2), logits, expected, 8);

    check_options("top_k 3", WITH(.temperature = 1, .top_k = 3), logits, (double[8]){0, 0.30, 0, 0.20, 0.15}, 8);
    check_options("top_k 8", WITH(.temperature = 1, .top_k = 8), logits, p, 8);
    check_options("top_k 100", WITH(.temperature = 1, .top_k = 100), logits, p, 8);
    /* Tokens 5 and 7 are equal: the lower id is the better. */
    check_options("top_k 4, tie", WITH(.temperature = 1, .top_k = 4), logits, (double[8]){0, 0.30, 0, 0.20, 0.15, 0.10}, 8);

    check_options("top_p 0.6", WITH(.temperature = 1, .top_p = 0.6f), logits, (double[8]){0, 0.30, 0, 0.20, 0.15}, 8);
    check_options("top_p 0.66", WITH(.temperature = 1, .top_p = 0.66f), logits, (double[8]){0, 0.30, 0, 0.20, 0.15, 0.10}, 8);
    check_options("top_p 0.97", WITH(.temperature = 1, .top_p = 0.97f), logits, (double[8]){0.05, 0.30, 0, 0.20, 0.15, 0.10, 0.08, 0.10}, 8);
    check_options("top_p 0", WITH(.temperature = 1, .top_p = 0), logits, (double[8]){0, 1}, 8);
    check_options("top_p 0.29", WITH(.temperature = 1, .top_p = 0.29f), logits, (double[8]){0, 1}, 8);

    check_options("min_p 0.3", WITH(.temperature = 1, .min_p = 0.3f), logits, (double[8]){0, 0.30, 0, 0.20, 0.15, 0.10, 0, 0.10}, 8);
    check_options("min_p 1", WITH(.temperature = 1, .min_p = 1), logits, (double[8]){0, 1}, 8);
}

/* Temperature comes before min-p and top-p, top-k renormalises for top-p, min-p too. */
static void test_order(void) {
    static const double p[5] = {0.4, 0.3, 0.1, 0.1, 0.1};
    float logits[5];

    log_of(logits, p, 5);
    /* Of the three best, 0.8: 0.7 / 0.8 = 0.875 >= 0.85. Without renormalisation a third would be needed. */
    check_options("top_k before top_p", WITH(.temperature = 1, .top_k = 3, .top_p = 0.85f), logits, (double[5]){0.4, 0.3}, 5);
    /* At temperature 0.5 the shares are 16:9:1:1:1, and the two best have 25/28 = 0.89. */
    check_options("temperature before top_p", WITH(.temperature = 0.5f, .top_p = 0.85f), logits, (double[5]){16, 9}, 5);
    /* … and 1/16 of the best fails a min_p of 0.1, which 0.1/0.4 would pass. */
    check_options("temperature before min_p", WITH(.temperature = 0.5f, .min_p = 0.1f), logits, (double[5]){16, 9}, 5);
    /* min_p leaves 0.4 and 0.3; the best alone has 0.571 of that, and of everything only 0.4. */
    check_options("min_p before top_p", WITH(.temperature = 1, .min_p = 0.5f, .top_p = 0.55f), logits, (double[5]){1}, 5);
}

static void test_ties(void) {
    float logits[6] = {1, 1, 1, 1, 1, 1};

    check_options("equal, top_k 2", WITH(.temperature = 1, .top_k = 2), logits, (double[6]){1, 1}, 6);
    check_options("equal, top_p 0.5", WITH(.temperature = 1, .top_p = 0.49f), logits, (double[6]){1, 1, 1}, 6);
    check_options("equal", WITH(.temperature = 1), logits, (double[6]){1, 1, 1, 1, 1, 1}, 6);
    CHECK(choose_once(6, (fm_sampling)FM_SAMPLING_INIT, logits) == 0, "greedy takes another than the first of equals");
    logits[3] = logits[5] = 2;
    CHECK(choose_once(6, (fm_sampling)FM_SAMPLING_INIT, logits) == 3, "greedy takes another than the first maximum");
    CHECK(choose_once(6, WITH(.temperature = 1, .top_k = 1), logits) == 3, "top_k 1 takes another than the first maximum");
    logits[0] = -0.0f;
    logits[1] = 0.0f;
    CHECK(choose_once(2, (fm_sampling)FM_SAMPLING_INIT, logits) == 0, "-0 is less than 0");
}

static void test_minus_infinity(void) {
    float logits[4] = {-INFINITY, 1, -INFINITY, 1}, banned[2] = {-INFINITY, -INFINITY};
    fm_logit_bias bias[] = {{1, -INFINITY}, {0, 100}};
    fm_sampler *sampler;
    fm_error err = {0};

    check_options("-inf", WITH(.temperature = 1), logits, (double[4]){0, 1, 0, 1}, 4);
    check_options("-inf, top_k 3", WITH(.temperature = 1, .top_k = 3), logits, (double[4]){0, 1, 0, 1}, 4);
    check_options("-inf, top_p 0.9", WITH(.temperature = 1, .top_p = 0.9f), logits, (double[4]){0, 1, 0, 1}, 4);
    check_options("-inf and bias", WITH(.temperature = 1, .bias = bias, .n_bias = 2), logits, (double[4]){0, 0, 0, 1}, 4);
    CHECK(choose_once(4, WITH(.bias = bias, .n_bias = 2), logits) == 3, "greedy takes a banned token");

    for (int t = 0; t < 2; t++) {
        sampler = open_sampler(2, WITH(.temperature = (float)t));
        CHECK(fm_sampler_choose(sampler, banned, &err) == FM_ENAN && strstr(err.message, "all 2 tokens"), "all banned at temperature %d: %s", t, err.message);
        fm_sampler_close(&sampler);
    }
}

static void test_not_a_number(void) {
    for (int t = 0; t < 2; t++) {
        fm_sampler *sampler = open_sampler(5, WITH(.temperature = (float)t, .top_k = 2));
        float logits[5] = {9, 1, 2, -NAN, NAN};
        fm_error err = {0};

        CHECK(fm_sampler_choose(sampler, logits, &err) == FM_ENAN, "NaN passes at temperature %d", t);
        CHECK(err.code == FM_ENAN && strstr(err.message, "token 3") && strstr(err.message, "not a number"), "%s", err.message);
        CHECK(fm_sampler_choose(sampler, logits, NULL) == FM_ENAN, "NaN passes without an fm_error");
        logits[3] = INFINITY;
        CHECK(fm_sampler_choose(sampler, logits, &err) == FM_ENAN && strstr(err.message, "token 3") && strstr(err.message, "infinite"), "%s", err.message);
        logits[3] = logits[4] = 0;
        CHECK(fm_sampler_choose(sampler, logits, &err) >= 0, "after an error: %s", err.message);
        fm_sampler_close(&sampler);
    }
}

/* Huge logits and tiny temperatures must not overflow into NaN. */
static void test_extremes(void) {
    float logits[3] = {FLT_MAX, -FLT_MAX, 0}, near[3] = {1, 1.0000001f, 0};

    CHECK(choose_once(3, WITH(.temperature = 1), logits) == 0, "FLT_MAX is not the best");
    CHECK(choose_once(3, WITH(.temperature = FLT_MIN, .top_p = 0.9f), near) == 1, "temperature FLT_MIN is not greedy");
    CHECK(choose_once(1, WITH(.temperature = 1, .top_p = 0.5f, .top_k = 1), logits) == 0, "a vocabulary of one");

    fm_sampler *sampler = open_sampler(3, WITH(.temperature = 1, .repeat_penalty = 0.5f));
    fm_sampler_feed(sampler, 0);
    fm_sampler_feed(sampler, 1);
    logits[0] = -FLT_MAX;
    logits[1] = FLT_MAX;
    CHECK(choose(sampler, logits) == 1, "a boosted FLT_MAX is not the best");
    fm_sampler_close(&sampler);
}

/* The adjusted logits are seen through the probabilities. */
static void check_penalties(const char *what, fm_sampling options, const float *logits, const float *adjusted) {
    fm_sampler *sampler;
    double p[4];

    options.temperature = 1;
    options.seed = 7;
    sampler = open_sampler(4, options);
    /* 0 once, 1 three times, 2 never, 3 twice; the last two are 3 and 1. */
    for (const char *c = "3011"
                         "31";
         *c; c++)
        fm_sampler_feed(sampler, *c - '0');
    fm_sampler_feed(sampler, -1); /* ids outside the vocabulary are ignored */
    fm_sampler_feed(sampler, 4);
    for (int i = 0; i < 4; i++) p[i] = exp((double)adjusted[i]);
    check_draws(what, sampler, logits, p, 4);
    fm_sampler_close(&sampler);
}

static void test_penalties(void) {
    static const float logits[4] = {1.5f, 1, 0.5f, -0.5f};
    fm_logit_bias bias[] = {{3, 1.5f}, {0, -1}, {0, 0.5f}};

    check_penalties("none", WITH(.seed = 0), logits, logits);
    check_penalties("repeat 2", WITH(.repeat_penalty = 2), logits, (float[4]){0.75f, 0.5f, 0.5f, -1});
    check_penalties("presence 1", WITH(.presence_penalty = 1), logits, (float[4]){0.5f, 0, 0.5f, -1.5f});
    check_penalties("frequency 0.5", WITH(.frequency_penalty = 0.5f), logits, (float[4]){1, -0.5f, 0.5f, -1.5f});
    check_penalties("frequency -0.25", WITH(.frequency_penalty = -0.25f), logits, (float[4]){1.75f, 1.75f, 0.5f, 0});
    check_penalties("all three", WITH(.repeat_penalty = 2, .presence_penalty = 0.25f, .frequency_penalty = 0.25f), logits,
                    (float[4]){0.25f, -0.5f, 0.5f, -1.75f});
    check_penalties("last 2", WITH(.presence_penalty = 1, .repeat_last = 2), logits, (float[4]){1.5f, 0, 0.5f, -1.5f});
    check_penalties("last 3", WITH(.frequency_penalty = 0.5f, .repeat_last = 3), logits, (float[4]){1.5f, 0, 0.5f, -1});
    check_penalties("last 0", WITH(.presence_penalty = 1, .repeat_last = 0), logits, logits);
    check_penalties("last -1", WITH(.frequency_penalty = 0.5f, .repeat_last = -1), logits, (float[4]){1, -0.5f, 0.5f, -1.5f});
    check_penalties("bias", WITH(.bias = bias, .n_bias = 3), logits, (float[4]){1, 1, 0.5f, 1});
    /* The bias is added first: it makes token 3 positive, so that the penalty divides. */
    check_penalties("bias before penalty", WITH(.bias = bias, .n_bias = 3, .repeat_penalty = 2), logits, (float[4]){0.5f, 0.5f, 0.5f, 0.5f});
}

/* A ring of 64, fed with more. */
static void test_window(void) {
    fm_sampler *sampler = open_sampler(3, WITH(.presence_penalty = 10));
    float logits[3] = {2, 1, 0};

    fm_sampler_feed(sampler, 0);
    for (int i = 0; i < 63; i++) fm_sampler_feed(sampler, 2);
    CHECK(choose(sampler, logits) == 1, "64 tokens ago is not seen");
    fm_sampler_feed(sampler, 2);
    CHECK(choose(sampler, logits) == 0, "65 tokens ago is seen");
    fm_sampler_feed(sampler, 0);
    CHECK(choose(sampler, logits) == 1, "the newest is not seen");
    fm_sampler_close(&sampler);
}

static void test_seeds(void) {
    enum { N = 4000, VOCAB = 1000 };
    static float logits[VOCAB];
    fm_sampling options = WITH(.temperature = 1, .seed = 1);
    fm_sampler *a = open_sampler(VOCAB, options), *b = open_sampler(VOCAB, options), *c;
    int same = 0, equal = 0;

    options.seed = 2;
    c = open_sampler(VOCAB, options);
    for (int i = 0; i < N; i++) {
        int32_t id = choose(a, logits);
        same += id == choose(b, logits);
        equal += id == choose(c, logits);
    }
    CHECK(same == N, "the same seed gives other tokens: %d of %d are equal", same, N);
    /* Of 4000 pairs of independent draws of 1 in 1000 4 are equal, and more than 20 hardly ever. */
    CHECK(equal < 20, "seeds 1 and 2 give %d of %d equal tokens", equal, N);
    fm_sampler_close(&a);
    fm_sampler_close(&b);
    fm_sampler_close(&c);
    fm_sampler_close(&a); /* closing NULL is fine */
}

/* What is drawn from a big vocabulary is what a full sort would leave. */
static int by_logit(const void *a, const void *b) {
    const float *x = *(const float *const *)a, *y = *(const float *const *)b;
    return *x > *y ? -1 : *x < *y ? 1 : x < y ? -1 : 1;
}

static void test_big_vocabulary(void) {
    enum { VOCAB = 250000, DRAWS = 300 };
    static float logits[VOCAB];
    static const float *order[VOCAB];
    static bool allowed[VOCAB], drawn[VOCAB];
    uint64_t random = 5;
    double total = 0, mass = 0;
    fm_sampling options = WITH(.temperature = 1, .top_p = 0.9f);
    fm_sampler *sampler;
    int kept = 0, distinct = 0;

    for (int i = 0; i < VOCAB; i++) logits[i] = (float)(test_random(&random) % 2000) / 100; /* many ties */
    for (int i = 0; i < VOCAB; i++) order[i] = &logits[i], total += exp((double)logits[i] - 20);
    qsort(order, VOCAB, sizeof *order, by_logit);
    while (mass < 0.9f * total) mass += exp((double)*order[kept] - 20), allowed[order[kept++] - logits] = true;
    sampler = open_sampler(VOCAB, options);
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = choose(sampler, logits);
        CHECK(allowed[id], "top_p: token %d with logit %g was drawn, the last allowed has %g", id, (double)logits[id], (double)*order[kept - 1]);
    }
    fm_sampler_close(&sampler);

    memset(allowed, 0, sizeof allowed);
    for (int i = 0; i < 40; i++) allowed[order[i] - logits] = true;
    options.top_p = 1;
    options.top_k = 40;
    sampler = open_sampler(VOCAB, options);
    for (int i = 0; i < DRAWS * 4; i++) {
        int32_t id = choose(sampler, logits);
        CHECK(allowed[id], "top_k: token %d with logit %g was drawn", id, (double)logits[id]);
        distinct += !drawn[id];
        drawn[id] = true;
    }
    CHECK(distinct == 40, "top_k 40 drew %d of 40 tokens", distinct);
    fm_sampler_close(&sampler);
}

static void refuse(const char *what, fm_sampling options, const char *expected) {
    fm_sampler *sampler = (fm_sampler *)&options;
    fm_error err = {0};

    CHECK(fm_sampler_open(&sampler, 10, &options, &err) == FM_EINVAL && err.code == FM_EINVAL, "%s is accepted", what);
    CHECK(strstr(err.message, expected), "%s: \"%s\" does not say \"%s\"", what, err.message, expected);
    CHECK(sampler == NULL, "%s: a refused sampler is not NULL", what);
}

static void test_refusals(void) {
    fm_logit_bias high[] = {{3, 1}, {10, 1}}, low[] = {{-1, 1}}, nan[] = {{3, NAN}}, infinite[] = {{3, INFINITY}};
    fm_sampling old = FM_SAMPLING_INIT;
    fm_sampler *sampler;

    refuse("temperature -0.1", WITH(.temperature = -0.1f), "temperature is -0.1");
    refuse("temperature NaN", WITH(.temperature = NAN), "temperature is nan");
    refuse("temperature inf", WITH(.temperature = INFINITY), "temperature is inf");
    refuse("top_k -1", WITH(.top_k = -1), "top_k is -1, but must be from 0 to 2147483647");
    refuse("top_p 1.5", WITH(.top_p = 1.5f), "top_p is 1.5, but must be from 0 to 1");
    refuse("top_p -0.5", WITH(.top_p = -0.5f), "top_p");
    refuse("top_p NaN", WITH(.top_p = NAN), "top_p");
    refuse("min_p 2", WITH(.min_p = 2), "min_p is 2");
    refuse("repeat_penalty 0", WITH(.repeat_penalty = 0), "repeat_penalty is 0");
    refuse("repeat_penalty -1", WITH(.repeat_penalty = -1), "repeat_penalty is -1");
    refuse("presence_penalty 101", WITH(.presence_penalty = 101), "presence_penalty is 101");
    refuse("frequency_penalty inf", WITH(.frequency_penalty = INFINITY), "frequency_penalty is inf");
    refuse("repeat_last -2", WITH(.repeat_last = -2), "repeat_last is -2, but must be from -1 to 1048576");
    refuse("bias of 10", WITH(.bias = high, .n_bias = 2), "token 10, but the vocabulary has 10 tokens");
    refuse("bias of -1", WITH(.bias = low, .n_bias = 1), "token -1");
    refuse("bias NaN", WITH(.bias = nan, .n_bias = 1), "bias of token 3 is nan");
    refuse("bias +inf", WITH(.bias = infinite, .n_bias = 1), "bias of token 3 is inf");
    refuse("no bias", WITH(.n_bias = 1), "n_bias is 1");
    old.size = 8;
    refuse("size 8", old, "fm_sampling.size is 8");
    old.size = sizeof old;
    CHECK(fm_sampler_open(&sampler, 0, &old, NULL) == FM_EINVAL && !sampler, "a vocabulary of 0 is accepted");
    CHECK(fm_sampler_open(&sampler, -5, &old, NULL) == FM_EINVAL && !sampler, "a vocabulary of -5 is accepted");
}

/* The options are copied: the caller's bias may go. */
static void test_ownership(void) {
    fm_logit_bias bias[] = {{1, 5}};
    fm_sampling options = WITH(.bias = bias, .n_bias = 1);
    fm_sampler *sampler = open_sampler(3, options);
    float logits[3] = {0, 0, 0};

    bias[0] = (fm_logit_bias){2, 100};
    options.temperature = 1;
    CHECK(choose(sampler, logits) == 1, "the sampler looks at the caller's bias");
    CHECK(logits[1] == 0, "the logits were changed");
    fm_sampler_close(&sampler);
}

int main(void) {
    test_distributions();
    test_order();
    test_ties();
    test_minus_infinity();
    test_not_a_number();
    test_extremes();
    test_penalties();
    test_window();
    test_seeds();
    test_big_vocabulary();
    test_refusals();
    test_ownership();
    return TEST_END();
}
