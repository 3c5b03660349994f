/* tests/measure/routes.c: what modelled routes draw: its statistics against what was asked for and against published hit rates; that it is the same each time and
 * however a prompt is cut; and what is refused. */
#include "measure/routes.h"

#include <math.h>
#include <unistd.h>

#include "measure/trace.h"
#include "test.h"

#define MAX_K 10
#define MAX_TOKENS 20000
#define N_LAYERS 3

static fm_model model;
static fm_engine engine = {.model = &model};
static int drawn[N_LAYERS][MAX_TOKENS * MAX_K];
static char directory[] = "routes-XXXXXX";

static void shape(int n_experts, int top_k) {
    model.description.n_layers = N_LAYERS;
    model.description.n_experts = n_experts;
    snprintf(model.description.model_type, sizeof model.description.model_type, "made_up");
    for (int i = 0; i < N_LAYERS; i++) model.description.layers[i].moe = true;
    engine.top_k = top_k;
}

/* n tokens of every layer, `batch` at a time; checks that each row is ascending and in range. */
static void draw(fm_routes *r, uint64_t seed, int n, int batch) {
    int k = engine.top_k;
    fm_routes_restart(r, seed);
    for (int at = 0; at < n; at += batch) {
        for (int layer = 0; layer < N_LAYERS; layer++) {
            fm_routes_draw(r, &(fm_route_event){.layer = layer, .n = n - at < batch ? n - at : batch, .top_k = k, .experts = drawn[layer] + at * k});
        }
    }
    for (int layer = 0; layer < N_LAYERS; layer++) {
        for (int i = 0; i < n * k; i++) {
            int x = drawn[layer][i], before = i % k ? drawn[layer][i - 1] : -1;
            CHECK(x > before && x < model.description.n_experts, "layer %d, token %d: expert %d after %d", layer, i / k, x, before);
        }
    }
}

static const char *write_file(const char *name, const char *text) {
    static char path[100];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "w");
    if (!f || fputs(text, f) < 0 || fclose(f)) exit(1);
    return path;
}

static fm_routes *open_zipf(double exponent, double reuse) {
    char text[100];
    fm_routes *r;
    snprintf(text, sizeof text, "{\"exponent\": %g, \"reuse\": %g}", exponent, reuse);
    MUST(fm_routes_open(&r, write_file("zipf.json", text), &engine, err));
    return r;
}

static int descending(const void *a, const void *b) { return *(const int *)b - *(const int *)a; }

/* With one pick a token the shares are those of the weights. */
static void head_share(double exponent) {
    int count[128] = {0};
    double sum = 0, head = 0, top = 0;
    shape(128, 1);
    fm_routes *r = open_zipf(exponent, 0);
    draw(r, 1, MAX_TOKENS, MAX_TOKENS);
    for (int i = 0; i < MAX_TOKENS; i++) count[drawn[0][i]]++;
    qsort(count, 128, sizeof *count, descending);
    for (int i = 0; i < 128; i++) {
        double weight = pow(i + 1, -exponent);
        sum += weight;
        if (i < 10) head += weight;
        if (i < 10) top += count[i];
    }
    CHECK(fabs(count[0] / (double)MAX_TOKENS - 1 / sum) < 0.01, "exponent %g: the first expert has %.3f, asked for %.3f", exponent,
          count[0] / (double)MAX_TOKENS, 1 / sum);
    CHECK(fabs(top / MAX_TOKENS - head / sum) < 0.015, "exponent %g: the first ten have %.3f, asked for %.3f", exponent, top / MAX_TOKENS, head / sum);
    fm_routes_close(&r);
}

/* Experts that a token shares with the one before. */
static double overlap(int n) {
    int k = engine.top_k, same = 0;
    for (int t = 1; t < n; t++) {
        for (int i = 0; i < k * k; i++) same += drawn[0][t * k + i / k] == drawn[0][(t - 1) * k + i % k];
    }
    return same / (double)((n - 1) * k);
}

/* Uniform weights repeat hardly anything by themselves: of 512 experts 8 were used before. */
static void reuse(double asked) {
    shape(512, 8);
    fm_routes *r = open_zipf(0, asked);
    draw(r, 2, 4000, 4000);
    double expected = asked + (1 - asked) * 8 * (1 - asked) / 512;
    CHECK(fabs(overlap(4000) - expected) < 0.015, "reuse %g: %.3f shared, expected %.3f", asked, overlap(4000), expected);
    fm_routes_close(&r);
}

/* Few experts with very unequal weights: the last picks are of next to no weight. */
static void steep(void) {
    shape(12, 10);
    fm_routes *r = open_zipf(4, 0.5);
    draw(r, 3, 200, 7);
    fm_routes_close(&r);
    shape(10, 10);
    r = open_zipf(4, 0);
    draw(r, 3, 20, 7);
    fm_routes_close(&r);
}

static void the_same_again(void) {
    static int first[N_LAYERS][500 * MAX_K];
    size_t bytes = 500 * 8 * sizeof(int);
    shape(256, 8);
    fm_routes *r;
    MUST(fm_routes_open(&r, "256x8", &engine, err));
    draw(r, 7, 500, 500);
    for (int i = 0; i < N_LAYERS; i++) memcpy(first[i], drawn[i], bytes);
    CHECK(memcmp(first[0], first[1], bytes) != 0, "two layers draw the same");
    draw(r, 8, 500, 500);
    CHECK(memcmp(first[0], drawn[0], bytes) != 0, "two texts are the same");
    static const int batches[] = {1, 7, 32};
    for (int i = 0; i < 3; i++) {
        draw(r, 7, 500, batches[i]);
        for (int layer = 0; layer < N_LAYERS; layer++)
            CHECK(memcmp(first[layer], drawn[layer], bytes) == 0, "layer %d drawn %d tokens at a time is another", layer, batches[i]);
    }
    fm_routes_close(&r);
}

static void own(void) {
    static const char *const names[] = {NULL, "model"};
    shape(64, 2);
    for (int i = 0; i < 2; i++) {
        int experts[4] = {3, 5, 7, 9};
        fm_routes *r;
        MUST(fm_routes_open(&r, names[i], &engine, err));
        fm_routes_draw(r, &(fm_route_event){.layer = 0, .n = 2, .top_k = 2, .experts = experts});
        CHECK(experts[0] == 3 && experts[1] == 5 && experts[2] == 7 && experts[3] == 9, "the model's own choice was changed");
        CHECK(strcmp(fm_routes_name(r), "the model's own") == 0, "%s", fm_routes_name(r));
        fm_routes_close(&r);
    }
}

/* A model that synth made says so, and so does its routing. */
static void random_weights(void) {
    static const char *const made_by[] = {"flash-moe 0.1.0 synth, seed 0", "flash-moe 0.1.0 pack"};
    shape(64, 2);
    snprintf(model.path, sizeof model.path, "%s", directory);
    for (int i = 0; i < 2; i++) {
        char text[100];
        fm_routes *r;
        snprintf(text, sizeof text, "{\"made_by\": \"%s\"}", made_by[i]);
        const char *path = write_file("model.json", text);
        MUST(fm_routes_open(&r, NULL, &engine, err));
        CHECK((strstr(fm_routes_name(r), "random weights") != NULL) == (i == 0), "%s: %s", made_by[i], fm_routes_name(r));
        fm_routes_close(&r);
        unlink(path);
    }
    *model.path = 0;
}

/* An LRU cache of `slots` experts of one layer over n tokens: hits in percent. */
static double lru_hits(const int *experts, int n, int slots) {
    int stack[512], used = 0, hits = 0, total = n * engine.top_k;
    for (int i = 0; i < total; i++) {
        int at = 0;
        while (at < used && stack[at] != experts[i]) at++;
        hits += at < used && at < slots;
        used += at == used;
        memmove(stack + 1, stack, (size_t)at * sizeof *stack);
        stack[0] = experts[i];
    }
    return 100.0 * hits / total;
}

/* The presets against the figures that they are fitted to (routes.c). Two parameters cannot follow every curve: 9 points are the worst, and the order stands. */
static void presets(void) {
    static const struct {
        const char *name;
        int n_experts, top_k, n_tokens, n;
        double share[5], hits[5];
    } known[] = {{"128x8", 128, 8, 256, 4, {6, 19, 38, 64}, {36.6, 74.1, 89.4, 96.2}},
                 {"256x8", 256, 8, 500, 4, {10, 15, 27.6, 39.2}, {56, 65, 83.5, 89}},
                 {"512x10", 512, 10, 300, 5, {18, 36, 54, 73, 100}, {43.5, 62, 72, 79, 85}},
                 {"512x4", 512, 4, 200, 4, {3.125, 6.25, 12.5, 25}, {49, 59, 68, 71}}};
    for (int i = 0; i < 4; i++) {
        fm_routes *r;
        shape(known[i].n_experts, known[i].top_k);
        MUST(fm_routes_open(&r, known[i].name, &engine, err));
        CHECK(strstr(fm_routes_name(r), known[i].name) && strstr(fm_routes_name(r), "zipf"), "%s", fm_routes_name(r));
        for (int s = 0; s < known[i].n; s++) {
            int slots = (int)(known[i].share[s] / 100 * known[i].n_experts + 0.5);
            double hits = 0;
            for (uint64_t text = 0; text < 8; text++) {
                draw(r, text, known[i].n_tokens, 64);
                for (int layer = 0; layer < N_LAYERS; layer++) hits += lru_hits(drawn[layer], known[i].n_tokens, slots) / (8 * N_LAYERS);
            }
            CHECK(fabs(hits - known[i].hits[s]) < 9.5, "%s with %g %% in memory: %.1f %% hits, published %.1f %%", known[i].name, known[i].share[s], hits,
                  known[i].hits[s]);
        }
        fm_routes_close(&r);
    }
}

static void refuse(const char *name, int code, const char *part) {
    fm_routes *r;
    fm_error error = {0};
    int rc = fm_routes_open(&r, name, &engine, &error);
    CHECK(rc == code && !r && strstr(error.message, part), "%s: %d, %s", name, rc, error.message);
}

static void refusals(void) {
    shape(64, 6);
    refuse("128x9", FM_EINVAL, "'128x9'");
    refuse("128x9", FM_EINVAL, "model, uniform, 128x8, 256x8, 512x10, 512x4");
    refuse(write_file("a.json", "{\"exponent\": 1}"), FM_EFORMAT, "\"reuse\"");
    refuse(write_file("a.json", "{\"exponent\": -1, \"reuse\": 0}"), FM_EFORMAT, "\"exponent\" of layer 0");
    refuse(write_file("a.json", "{\"exponent\": 1, \"reuse\": 1.5}"), FM_EFORMAT, "\"reuse\" of layer 0");
    refuse(write_file("a.json", "{\"exponent\": \"1\", \"reuse\": 0}"), FM_EFORMAT, "from 0 to 4");
    refuse(write_file("a.json", "{\"exponent\": [1, 1], \"reuse\": 0}"), FM_EINVAL, "2 numbers, but the model 3 layers");
    refuse(write_file("a.json", "{\"exponent\": [1, 1, 9], \"reuse\": 0}"), FM_EFORMAT, "layer 2");
    refuse(write_file("a.json", "{\"exponent\": 1, \"reuse\": 0, \"drift\": 1}"), FM_EFORMAT, "\"drift\"");
    refuse(write_file("a.json", "{\"exponent\": 1, \"reuse\": 0"), FM_EFORMAT, "a.json");
    refuse(write_file("a.json", "[1]"), FM_EFORMAT, "a.json");
    refuse(write_file("no-trace", "{}"), FM_EFORMAT, "no-trace");
    fm_routes *r;
    MUST(fm_routes_open(&r, write_file("a.json", "{\"exponent\": [1, 1, 0.5], \"reuse\": [0, 0.25, 1]}"), &engine, err));
    CHECK(strstr(fm_routes_name(r), "zipf 0.50 to 1.00, reuse 0.00 to 1.00"), "%s", fm_routes_name(r));
    fm_routes_close(&r);
}

/* A trace of two texts of five tokens: token t of layer l chose t + l, t + 20 and 60 - l. */
static const char *write_trace(void) {
    static char path[100];
    uint8_t moe[N_LAYERS] = {1, 1, 1};
    fm_trace like = {.model_type = "made_up", .n_layers = N_LAYERS, .n_experts = 64, .top_k = 3, .moe = moe};
    fm_trace_writer *writer;
    snprintf(path, sizeof path, "%s/trace", directory);
    MUST(fm_trace_writer_open(&writer, path, &like, err));
    for (int t = 0; t < 10; t++) {
        int16_t experts[N_LAYERS][3];
        for (int l = 0; l < N_LAYERS; l++) memcpy(experts[l], (int16_t[]){(int16_t)(t + l), (int16_t)(t + 20), (int16_t)(60 - l)}, sizeof experts[l]);
        MUST(fm_trace_writer_add(writer, t % 5 ? 0 : FM_TRACE_FIRST, experts[0], NULL, err));
    }
    MUST(fm_trace_writer_save(writer, err));
    fm_trace_writer_close(&writer);
    return path;
}

static void recorded(void) {
    const char *path = write_trace();
    fm_routes *r;
    shape(64, 3);
    MUST(fm_routes_open(&r, path, &engine, err));
    CHECK(strstr(fm_routes_name(r), "recorded, 10 tokens") && strstr(fm_routes_name(r), path), "%s", fm_routes_name(r));
    for (uint64_t seed = 0; seed < 4; seed++) {
        draw(r, seed, 12, seed < 2 ? 12 : 5); /* past its end it begins again */
        for (int l = 0; l < N_LAYERS; l++) {
            for (int i = 0; i < 12; i++) {
                int t = (int)(seed % 2 * 5 + (uint64_t)i) % 10, *x = drawn[l] + i * 3;
                CHECK(x[0] == t + l && x[1] == t + 20 && x[2] == 60 - l, "text %d, layer %d, token %d: %d, %d, %d", (int)seed, l, i, x[0], x[1], x[2]);
            }
        }
    }
    fm_routes_close(&r);
    shape(64, 2);
    refuse(path, FM_EINVAL, "another model");
    shape(128, 3);
    refuse(path, FM_EINVAL, "64 experts and 3 a token, this one is made_up with 3, 128 and 3");
    shape(64, 3);
    snprintf(model.description.model_type, sizeof model.description.model_type, "other");
    refuse(path, FM_EINVAL, "another model");
    shape(64, 3);
    model.description.layers[1].moe = false;
    refuse(path, FM_EINVAL, "layer 1 has no experts");
    shape(64, 3);
    unlink(path);
}

int main(void) {
    char path[100];
    if (!mkdtemp(directory)) return 1;
    head_share(1);
    head_share(0.5);
    reuse(0);
    reuse(0.38);
    reuse(0.8);
    steep();
    the_same_again();
    own();
    random_weights();
    presets();
    refusals();
    recorded();
    static const char *const files[] = {"zipf.json", "a.json", "no-trace"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, files[i]);
        unlink(path);
    }
    rmdir(directory);
    return TEST_END();
}
