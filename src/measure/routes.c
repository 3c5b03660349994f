/* measure/routes.c: see routes.h. Each layer draws from a stream of its own, so that what is drawn depends on the text's seed and the token's place alone: not
 * on threads, nor on how a prompt is cut into batches. */
#include "measure/routes.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/json.h"
#include "measure/trace.h"

#define MAX_EXPONENT 4.0
#define MAX_REJECTED 64 /* draws of experts that are picked already; then what is left is looked through */

/* Named after the published workloads that they are fitted to, experts by picks: an LRU cache over what they draw has about the published hit rates
 * (tests/measure).
 * 128x8: 256 tokens from cold, 37 / 74 / 89 / 96 % at 6 / 19 / 38 / 64 % of the experts in memory, 38 % shared with the token before.
 * 256x8: 56 / 65 / 84 / 89 % at 10 / 15 / 28 / 39 %, 29 to 41 % shared. 512x10: 300 tokens from cold, 44 / 62 / 72 / 79 / 85 % at 18 / 36 / 54 / 73 / 100 %.
 * 512x4: 200 tokens from cold, 49 / 59 / 68 / 71 % at 3 / 6 / 13 / 25 %, 26 % shared. */
static const struct preset {
    const char *name;
    double exponent, reuse;
} presets[] = {{"uniform", 0, 0}, {"128x8", 1.40, 0.05}, {"256x8", 1.20, 0.10}, {"512x10", 0.75, 0.06}, {"512x4", 1.15, 0.10}};
enum { N_PRESETS = sizeof presets / sizeof *presets };

typedef struct layer_routes {
    double reuse;
    double *sums; /* [n_experts] of the weights by rank, up to and with it */
    int *expert;  /* [n_experts] of each rank */
    int *last;    /* [top_k] picks of the token before */
    int n_last;
    uint64_t random;
    int at; /* recorded: the next token */
} layer_routes;

struct fm_routes {
    char name[256];
    int n_layers, n_experts, top_k;
    bool own; /* the model's own: nothing is drawn */
    layer_routes *layers;
    uint8_t *picked; /* [n_experts] */
    fm_trace *trace;
};

/* ---- drawing ---- */

static uint64_t next_random(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static double next_unit(uint64_t *state) { return (double)(next_random(state) >> 11) * 0x1p-53; }

static int rank_of(const double *sums, int n, double at) {
    int low = 0, high = n - 1;
    while (low < high) {
        int middle = (low + high) / 2;
        if (sums[middle] > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* One of the experts not picked yet, by weight. */
static int draw_new(fm_routes *r, layer_routes *l) {
    for (int i = 0; i < MAX_REJECTED; i++) {
        int x = l->expert[rank_of(l->sums, r->n_experts, next_unit(&l->random) * l->sums[r->n_experts - 1])];
        if (!r->picked[x]) return x;
    }
    double left = 0;
    int found = -1;
    for (int i = 0; i < r->n_experts; i++) left += r->picked[l->expert[i]] ? 0 : l->sums[i] - (i ? l->sums[i - 1] : 0);
    left *= next_unit(&l->random);
    for (int i = 0; i < r->n_experts && (found < 0 || left >= 0); i++) {
        if (r->picked[l->expert[i]]) continue;
        found = l->expert[i];
        left -= l->sums[i] - (i ? l->sums[i - 1] : 0);
    }
    return found;
}

/* One of the last token's experts that this one has not picked, or -1. */
static int draw_again(const fm_routes *r, layer_routes *l) {
    int n = 0, left;
    for (int i = 0; i < l->n_last; i++) n += !r->picked[l->last[i]];
    if (!n) return -1;
    left = (int)(next_random(&l->random) % (uint64_t)n);
    for (int i = 0;; i++) {
        if (!r->picked[l->last[i]] && left-- == 0) return l->last[i];
    }
}

static void draw_token(fm_routes *r, layer_routes *l, int *experts, int k) {
    for (int n = 0; n < k; n++) {
        int x = next_unit(&l->random) < l->reuse ? draw_again(r, l) : -1, at = n;
        if (x < 0) x = draw_new(r, l);
        r->picked[x] = 1;
        for (; at > 0 && experts[at - 1] > x; at--) experts[at] = experts[at - 1];
        experts[at] = x;
    }
    for (int i = 0; i < k; i++) r->picked[experts[i]] = 0;
    memcpy(l->last, experts, (size_t)k * sizeof *experts);
    l->n_last = k;
}

static void replay_token(const fm_routes *r, int layer, layer_routes *l, int *experts, int k) {
    const int16_t *recorded = r->trace->experts + ((size_t)l->at * (size_t)r->n_layers + (size_t)layer) * (size_t)r->top_k;
    for (int i = 0; i < k; i++) experts[i] = recorded[i];
    l->at = (l->at + 1) % r->trace->n_tokens;
}

void fm_routes_draw(void *user, const fm_route_event *event) {
    fm_routes *r = user;
    layer_routes *l = &r->layers[event->layer];
    for (int i = 0; i < event->n && !r->own; i++) {
        int *experts = event->experts + (size_t)i * (size_t)event->top_k;
        if (r->trace)
            replay_token(r, event->layer, l, experts, event->top_k);
        else
            draw_token(r, l, experts, event->top_k);
    }
}

/* A text of a trace begins where a recorded one begins; with a single one in it, anywhere. */
static int first_token(const fm_trace *t, uint64_t seed) {
    int n = 0;
    for (int i = 0; i < t->n_tokens; i++) n += t->kind[i] & FM_TRACE_FIRST;
    if (n < 2) return (int)(next_random(&seed) % (uint64_t)t->n_tokens);
    n = (int)(seed % (uint64_t)n);
    for (int i = 0;; i++) {
        if (t->kind[i] & FM_TRACE_FIRST && n-- == 0) return i;
    }
}

void fm_routes_restart(fm_routes *r, uint64_t seed) {
    int at = r->trace ? first_token(r->trace, seed) : 0;
    for (int i = 0; i < r->n_layers; i++) {
        uint64_t mixed = seed ^ (uint64_t)i << 32;
        r->layers[i].random = next_random(&mixed);
        r->layers[i].n_last = 0;
        r->layers[i].at = at;
    }
}

/* ---- opening ---- */

const char *fm_routes_name(const fm_routes *routes) { return routes->name; }

bool fm_routes_drawn(const fm_routes *routes) { return !routes->own; }

void fm_routes_close(fm_routes **routes) {
    fm_routes *r = *routes;
    if (!r) return;
    for (int i = 0; i < r->n_layers && r->layers; i++) {
        free(r->layers[i].sums);
        free(r->layers[i].expert);
        free(r->layers[i].last);
    }
    free(r->layers);
    free(r->picked);
    fm_trace_close(&r->trace);
    free(r);
    *routes = NULL;
}

/* exponents and reuses [n_layers]. */
static int open_model(fm_routes *r, const double *exponents, const double *reuses, fm_error *err) {
    r->picked = calloc((size_t)r->n_experts + 1, 1);
    for (int i = 0; i < r->n_layers; i++) {
        layer_routes *l = &r->layers[i];
        uint64_t random = (uint64_t)i + 1; /* the order of a layer's experts is the same in every text */
        double sum = 0;
        l->reuse = reuses[i];
        l->sums = malloc((size_t)r->n_experts * sizeof *l->sums);
        l->expert = calloc((size_t)r->n_experts, sizeof *l->expert);
        l->last = malloc((size_t)r->top_k * sizeof *l->last);
        if (!r->picked || !l->sums || !l->expert || !l->last) return fm_fail(err, FM_ENOMEM, "no memory for the routing of %d experts", r->n_experts);
        for (int x = 0; x < r->n_experts; x++) {
            int other = (int)(next_random(&random) % (uint64_t)(x + 1));
            l->sums[x] = sum += pow(x + 1, -exponents[i]);
            l->expert[x] = l->expert[other];
            l->expert[other] = x;
        }
    }
    return 0;
}

static int open_preset(fm_routes *r, const struct preset *preset, fm_error *err) {
    double exponents[FM_MAX_LAYERS], reuses[FM_MAX_LAYERS];
    for (int i = 0; i < r->n_layers; i++) {
        exponents[i] = preset->exponent;
        reuses[i] = preset->reuse;
    }
    snprintf(r->name, sizeof r->name, "zipf %.2f, reuse %.2f (preset %s)", preset->exponent, preset->reuse, preset->name);
    return open_model(r, exponents, reuses, err);
}

/* A number, or one for each layer, from 0 to most. */
static int read_numbers(const json_t *root, const char *key, double most, const fm_routes *r, const char *path, double *out, fm_error *err) {
    const json_t *value = json_object_get(root, key);
    if (!value) return fm_fail(err, FM_EFORMAT, "%s: there is no \"%s\"", path, key);
    if (json_is_array(value) && json_array_size(value) != (size_t)r->n_layers)
        return fm_fail(err, FM_EINVAL, "%s: \"%s\" has %zu numbers, but the model %d layers", path, key, json_array_size(value), r->n_layers);
    for (int i = 0; i < r->n_layers; i++) {
        const json_t *number = json_is_array(value) ? json_array_get(value, (size_t)i) : value;
        out[i] = json_is_number(number) ? json_number_value(number) : NAN;
        if (!(out[i] >= 0 && out[i] <= most)) return fm_fail(err, FM_EFORMAT, "%s: \"%s\" of layer %d is not a number from 0 to %g", path, key, i, most);
    }
    return 0;
}

static void range_text(char text[32], const double *x, int n) {
    double least = x[0], most = x[0];
    for (int i = 1; i < n; i++) {
        least = fmin(least, x[i]);
        most = fmax(most, x[i]);
    }
    if (least < most)
        snprintf(text, 32, "%.2f to %.2f", least, most);
    else
        snprintf(text, 32, "%.2f", least);
}

static int open_json(fm_routes *r, const char *path, fm_error *err) {
    double exponents[FM_MAX_LAYERS], reuses[FM_MAX_LAYERS];
    char texts[2][32];
    const char *key;
    json_t *root, *value;
    int rc = fm_json_open(&root, path, err);
    if (rc < 0) return rc;
    json_object_foreach(root, key, value) {
        if (strcmp(key, "exponent") && strcmp(key, "reuse") && rc >= 0)
            rc = fm_fail(err, FM_EFORMAT, "%s: \"%s\" is neither \"exponent\" nor \"reuse\"", path, key);
    }
    if (rc >= 0) rc = read_numbers(root, "exponent", MAX_EXPONENT, r, path, exponents, err);
    if (rc >= 0) rc = read_numbers(root, "reuse", 1, r, path, reuses, err);
    json_decref(root);
    if (rc < 0) return rc;
    range_text(texts[0], exponents, r->n_layers);
    range_text(texts[1], reuses, r->n_layers);
    snprintf(r->name, sizeof r->name, "zipf %s, reuse %s (%.150s)", texts[0], texts[1], path);
    return open_model(r, exponents, reuses, err);
}

static int check_trace(const fm_routes *r, const fm_model *model, const char *path, fm_error *err) {
    const fm_trace *t = r->trace;
    const fm_description *d = &model->description;
    if (strcmp(t->model_type, d->model_type) || t->n_layers != r->n_layers || t->n_experts != r->n_experts || t->top_k != r->top_k) {
        return fm_fail(err, FM_EINVAL, "%s: a trace of another model: %s with %d layers, %d experts and %d a token, this one is %s with %d, %d and %d", path,
                       t->model_type, t->n_layers, t->n_experts, t->top_k, d->model_type, r->n_layers, r->n_experts, r->top_k);
    }
    if (t->n_tokens < 1) return fm_fail(err, FM_EFORMAT, "%s: a trace without tokens", path);
    for (int i = 0; i < r->n_layers; i++) {
        if (!t->moe[i] != !d->layers[i].moe)
            return fm_fail(err, FM_EINVAL, "%s: a trace of another model: in this one layer %d has %s", path, i, d->layers[i].moe ? "experts" : "no experts");
    }
    return 0;
}

static int open_trace(fm_routes *r, const char *path, const fm_model *model, fm_error *err) {
    int rc = fm_trace_open(&r->trace, path, err);
    if (rc >= 0) rc = check_trace(r, model, path, err);
    if (rc >= 0) snprintf(r->name, sizeof r->name, "recorded, %d tokens (%.180s)", r->trace->n_tokens, path);
    return rc;
}

/* Whether `synth` made the model, as a packed model says of itself. */
static bool random_weights(const fm_model *model) {
    char path[1100];
    json_t *root;
    if (fm_path_join(path, sizeof path, model->path, "model.json", NULL) < 0 || !fm_path_exists(path) || fm_json_open(&root, path, NULL) < 0) return false;
    const char *made_by = json_string_value(json_object_get(root, "made_by"));
    bool random = made_by && strstr(made_by, " synth");
    json_decref(root);
    return random;
}

static int open_named(fm_routes *r, const char *name, const fm_engine *e, fm_error *err) {
    char list[160] = "model";
    size_t n = name ? strlen(name) : 0;
    for (int i = 0; i < N_PRESETS && name; i++) {
        if (strcmp(name, presets[i].name) == 0) return open_preset(r, &presets[i], err);
        snprintf(list + strlen(list), sizeof list - strlen(list), ", %s", presets[i].name);
    }
    if (!name || strcmp(name, "model") == 0) {
        r->own = true;
        snprintf(r->name, sizeof r->name, "the model's own%s", random_weights(e->model) ? " (random weights: no locality)" : "");
        return 0;
    }
    if (!fm_path_exists(name)) return fm_fail(err, FM_EINVAL, "there is no routing '%s': it is the path of a file, or one of %s", name, list);
    return n > 5 && strcmp(name + n - 5, ".json") == 0 ? open_json(r, name, err) : open_trace(r, name, e->model, err);
}

int fm_routes_open(fm_routes **routes, const char *name, const fm_engine *e, fm_error *err) {
    const fm_description *d = &e->model->description;
    fm_routes *r = *routes = calloc(1, sizeof *r);
    if (!r) return fm_fail(err, FM_ENOMEM, "no memory for routes");
    *r = (fm_routes){.n_layers = d->n_layers, .n_experts = d->n_experts, .top_k = e->top_k, .layers = calloc((size_t)d->n_layers, sizeof *r->layers)};
    int rc = r->layers ? open_named(r, name, e, err) : fm_fail(err, FM_ENOMEM, "no memory for the routes of %d layers", d->n_layers);
    if (rc < 0)
        fm_routes_close(routes);
    else
        fm_routes_restart(r, 0);
    return rc < 0 ? rc : 0;
}
