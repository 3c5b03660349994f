/* formats/profile.c: see profile.h. Nothing in a file is believed: every number is looked at. */
#include "formats/profile.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "formats/json.h"

#define FORMAT "flash-moe profile"
#define VERSION 1
#define FILE_LIMIT ((size_t)1 << 30)
#define MAX_LAYERS 4096
#define MAX_EXPERTS 65536
#define MAX_KINDS 256
#define MAX_KEYS (1 << 24)
#define MAX_COLUMNS (1 << 20)

static const char *const column_names[FM_N_COLUMNS] = {"mixer", "mixer_out", "mlp", "dense_down", "shared_down"};

/* ---- making and freeing ---- */

void fm_profile_close(fm_profile **profile) {
    fm_profile *p = *profile;
    if (!p) return;
    for (int i = 0; i < p->n_kinds && p->kinds; i++) {
        free((void *)p->kinds[i].uses);
        free((void *)p->kinds[i].weights);
    }
    free((void *)p->kinds);
    struct fm_profile_columns *c = p->columns;
    for (int i = 0; c && c->square && i < p->n_layers; i++) {
        for (int k = 0; k < FM_N_COLUMNS; k++) free(c->square[i][k]);
    }
    if (c) {
        free(c->head);
        free(c->n);
        free(c->square);
    }
    free(c);
    free(p);
    *profile = NULL;
}

int fm_profile_new(fm_profile **out, int n_layers, int n_experts, int n_kinds, fm_error *err) {
    size_t layers = (size_t)n_layers, n = layers * (size_t)n_experts;
    fm_profile *p = *out = calloc(1, sizeof *p);
    if (!p) return fm_fail(err, FM_ENOMEM, "no memory for a profile");
    *p = (fm_profile){.n_layers = n_layers, .n_experts = n_experts, .n_kinds = n_kinds};
    fm_profile_kind *kinds = calloc((size_t)n_kinds, sizeof *kinds);
    struct fm_profile_columns *c = p->columns = calloc(1, sizeof *c);
    bool whole = kinds && c;
    p->kinds = kinds;
    for (int i = 0; i < n_kinds && whole; i++) {
        kinds[i].uses = calloc(n, sizeof(double));
        kinds[i].weights = calloc(n, sizeof(double));
        whole = kinds[i].uses && kinds[i].weights;
    }
    if (c) {
        c->n = calloc(layers, sizeof *c->n);
        c->square = calloc(layers, sizeof *c->square);
    }
    if (whole && c->n && c->square) return 0;
    fm_profile_close(out);
    return fm_fail(err, FM_ENOMEM, "no memory for a profile of %d layers of %d experts", n_layers, n_experts);
}

/* ---- reading ---- */

typedef struct input {
    const char *path;
    fm_profile *p;
} input;

static int read_number(const char *path, const json_t *root, const char *name, const uint64_t range[2], int *out, fm_error *err) {
    uint64_t x;
    if (!fm_json_whole(json_object_get(root, name), range[1], &x) || x < range[0]) {
        return fm_fail(err, FM_EFORMAT, "%s: its %s is not a whole number from %llu to %llu", path, name, (unsigned long long)range[0],
                       (unsigned long long)range[1]);
    }
    *out = (int)x;
    return 0;
}

static int read_name(const char *path, const json_t *root, const char *name, char *out, size_t size, fm_error *err) {
    const char *text = json_string_value(json_object_get(root, name));
    if (!text || strlen(text) >= size) return fm_fail(err, FM_EFORMAT, "%s: its %s is not a text of fewer than %zu bytes", path, name, size);
    snprintf(out, size, "%s", text);
    return 0;
}

/* The layer that a key of an object names; -1: none. */
static int layer_of(const char *key, int n_layers) {
    char *end;
    long layer = key[0] >= '0' && key[0] <= '9' && (key[0] != '0' || !key[1]) ? strtol(key, &end, 10) : -1;
    return layer >= 0 && layer < n_layers && !*end ? (int)layer : -1;
}

/* list as a number of at least 0 for each expert; whole: whole ones. */
static int read_list(const input *in, const json_t *list, const char *where, bool whole, double *out, fm_error *err) {
    int n = in->p->n_experts;
    if (!json_is_array(list) || json_array_size(list) != (size_t)n) return fm_fail(err, FM_EFORMAT, "%s: %s is not a list of %d numbers", in->path, where, n);
    for (int i = 0; i < n; i++) {
        const json_t *value = json_array_get(list, (size_t)i);
        double x = json_number_value(value);
        if (!(whole ? json_is_integer(value) : json_is_number(value)) || !(x >= 0) || x > 0x1p53)
            return fm_fail(err, FM_EFORMAT, "%s: %s: number %d is not a%s number from 0 to 2^53", in->path, where, i, whole ? " whole" : "");
        out[i] = x;
    }
    return 0;
}

static int read_kind_layer(const input *in, fm_profile_kind *kind, const char *key, const json_t *value, fm_error *err) {
    int layer = layer_of(key, in->p->n_layers), n = in->p->n_experts, rc;
    char where[160];
    if (layer < 0) return fm_fail(err, FM_EFORMAT, "%s: kind %s: \"%.20s\" is none of %d layers", in->path, kind->name, key, in->p->n_layers);
    snprintf(where, sizeof where, "kind %s: uses of layer %d", kind->name, layer);
    if ((rc = read_list(in, json_object_get(value, "uses"), where, true, (double *)kind->uses + (size_t)layer * (size_t)n, err)) < 0) return rc;
    snprintf(where, sizeof where, "kind %s: weights of layer %d", kind->name, layer);
    return read_list(in, json_object_get(value, "weights"), where, false, (double *)kind->weights + (size_t)layer * (size_t)n, err);
}

static int read_kind(const input *in, fm_profile_kind *kind, const json_t *value, fm_error *err) {
    const uint64_t prompts[2] = {1, INT32_MAX};
    const char *key;
    json_t *layer, *layers = json_object_get(value, "layers");
    int rc = read_name(in->path, value, "name", kind->name, sizeof kind->name, err);
    if (rc < 0 || (rc = read_number(in->path, value, "n_prompts", prompts, &kind->n_prompts, err)) < 0) return rc;
    if (!kind->name[0]) return fm_fail(err, FM_EFORMAT, "%s: a kind has no name", in->path);
    if (!fm_json_whole(json_object_get(value, "n_tokens"), (uint64_t)1 << 53, &kind->n_tokens) || !kind->n_tokens)
        return fm_fail(err, FM_EFORMAT, "%s: kind %s: its n_tokens is not a whole number from 1 to 2^53", in->path, kind->name);
    if (!json_is_object(layers)) return fm_fail(err, FM_EFORMAT, "%s: kind %s has no layers", in->path, kind->name);
    json_object_foreach(layers, key, layer) {
        if ((rc = read_kind_layer(in, kind, key, layer, err)) < 0) return rc;
    }
    return 0;
}

/* One list of mean squares. */
static int read_square(const input *in, const json_t *list, const char *where, int *n, float **out, fm_error *err) {
    size_t size = json_array_size(list);
    if (!size || size > MAX_COLUMNS) return fm_fail(err, FM_EFORMAT, "%s: %s is not a list of 1 to %d numbers", in->path, where, MAX_COLUMNS);
    if (!(*out = malloc(size * sizeof **out))) return fm_fail(err, FM_ENOMEM, "%s: no memory for %s", in->path, where);
    for (size_t i = 0; i < size; i++) {
        double x = json_number_value(json_array_get(list, i));
        if (!json_is_number(json_array_get(list, i)) || !(x >= 0) || !(x <= 0x1p120))
            return fm_fail(err, FM_EFORMAT, "%s: %s: number %zu is not a number from 0 to 2^120", in->path, where, i);
        (*out)[i] = (float)x;
    }
    *n = (int)size;
    return 0;
}

static int read_columns(const input *in, const json_t *columns, fm_error *err) {
    struct fm_profile_columns *c = in->p->columns;
    const char *key, *name;
    json_t *value, *list;
    int rc = 0;
    json_object_foreach((json_t *)columns, key, value) {
        int layer = layer_of(key, in->p->n_layers);
        if (!strcmp(key, "head")) {
            if ((rc = read_square(in, value, "columns of head", &c->n_head, &c->head, err)) < 0) return rc;
            continue;
        }
        if (layer < 0 || !json_is_object(value)) return fm_fail(err, FM_EFORMAT, "%s: columns: \"%.20s\" is none of %d layers", in->path, key, in->p->n_layers);
        json_object_foreach(value, name, list) {
            char where[80];
            int k = 0;
            while (k < FM_N_COLUMNS && strcmp(name, column_names[k])) k++;
            if (k == FM_N_COLUMNS) return fm_fail(err, FM_EFORMAT, "%s: columns of layer %d: \"%.20s\" is not known", in->path, layer, name);
            snprintf(where, sizeof where, "columns %s of layer %d", column_names[k], layer);
            if ((rc = read_square(in, list, where, &c->n[layer][k], &c->square[layer][k], err)) < 0) return rc;
        }
    }
    return 0;
}

static int check_size(const char *path, int n_layers, int n_experts, size_t n_kinds, fm_error *err) {
    if ((uint64_t)n_layers * (uint64_t)n_experts * n_kinds <= MAX_KEYS) return 0;
    return fm_fail(err, FM_EUNSUPPORTED, "%s: %zu kinds of %d layers of %d experts are more than this version takes", path, n_kinds, n_layers, n_experts);
}

static int read_new(fm_profile **out, const char *path, const json_t *root, fm_error *err) {
    const uint64_t versions[2] = {1, INT32_MAX}, layers[2] = {1, MAX_LAYERS}, experts[2] = {1, MAX_EXPERTS};
    const json_t *kinds = json_object_get(root, "kinds"), *columns = json_object_get(root, "columns");
    size_t n_kinds = json_array_size(kinds);
    int version = 0, n_layers = 0, n_experts = 0, rc;
    if ((rc = read_number(path, root, "version", versions, &version, err)) < 0) return rc;
    if (version != VERSION)
        return fm_fail(err, FM_EUNSUPPORTED, "%s: it is a profile of version %d, and this program reads version %d", path, version, VERSION);
    if ((rc = read_number(path, root, "n_layers", layers, &n_layers, err)) < 0 || (rc = read_number(path, root, "n_experts", experts, &n_experts, err)) < 0)
        return rc;
    const uint64_t top_k[2] = {1, (uint64_t)n_experts};
    if (n_kinds < 1 || n_kinds > MAX_KINDS) return fm_fail(err, FM_EFORMAT, "%s: its kinds is not a list of 1 to %d", path, MAX_KINDS);
    if ((rc = check_size(path, n_layers, n_experts, n_kinds, err)) < 0) return rc;
    if ((rc = fm_profile_new(out, n_layers, n_experts, (int)n_kinds, err)) < 0) return rc;
    input in = {path, *out};
    if ((rc = read_number(path, root, "top_k", top_k, &in.p->top_k, err)) < 0) return rc;
    if ((rc = read_name(path, root, "model_type", in.p->model_type, sizeof in.p->model_type, err)) < 0) return rc;
    if ((rc = read_name(path, root, "architecture", in.p->architecture, sizeof in.p->architecture, err)) < 0) return rc;
    for (size_t i = 0; i < n_kinds; i++) {
        if ((rc = read_kind(&in, (fm_profile_kind *)&in.p->kinds[i], json_array_get(kinds, i), err)) < 0) return rc;
    }
    if (columns && !json_is_object(columns)) return fm_fail(err, FM_EFORMAT, "%s: its columns is no object", path);
    return columns ? read_columns(&in, columns, err) : 0;
}

/* ---- older files ---- */

static int read_older_layer(const input *in, int layer, const json_t *value, double least, fm_error *err) {
    double *uses = (double *)in->p->kinds[0].uses + (size_t)layer * (size_t)in->p->n_experts;
    const json_t *universal = json_object_get(value, "universal");
    const char *key;
    json_t *count;
    uint64_t x;
    json_object_foreach(json_object_get(value, "activation_counts"), key, count) {
        int expert = layer_of(key, in->p->n_experts);
        if (expert < 0 || !fm_json_whole(count, (uint64_t)1 << 53, &x))
            return fm_fail(err, FM_EFORMAT, "%s: layer %d: activation_counts: \"%.20s\" is no expert of %d with a count", in->path, layer, key,
                           in->p->n_experts);
        uses[expert] = (double)x;
    }
    for (size_t i = 0; i < json_array_size(universal); i++) {
        if (!fm_json_whole(json_array_get(universal, i), (uint64_t)in->p->n_experts - 1, &x))
            return fm_fail(err, FM_EFORMAT, "%s: layer %d: universal: number %zu is no expert of %d", in->path, layer, i, in->p->n_experts);
        if (uses[x] < least) uses[x] = least; /* counts may be left out of it */
    }
    return 0;
}

static int read_older(fm_profile **out, const char *path, const json_t *root, fm_error *err) {
    const uint64_t experts[2] = {1, MAX_EXPERTS}, prompts[2] = {1, INT32_MAX};
    const json_t *layers = json_object_get(root, "layers");
    int n_layers = 0, n_experts = 0, n_prompts = 0, rc;
    double threshold = json_number_value(json_object_get(root, "threshold"));
    const char *key;
    json_t *value;
    if ((rc = read_number(path, root, "num_experts", experts, &n_experts, err)) < 0) return rc;
    if ((rc = read_number(path, root, "num_prompts", prompts, &n_prompts, err)) < 0) return rc;
    json_object_foreach((json_t *)layers, key, value) {
        int layer = layer_of(key, MAX_LAYERS);
        if (layer < 0 || !json_is_object(value)) return fm_fail(err, FM_EFORMAT, "%s: layers: \"%.20s\" is no layer", path, key);
        n_layers = layer >= n_layers ? layer + 1 : n_layers;
    }
    if (!n_layers) return fm_fail(err, FM_EFORMAT, "%s: it has no layers", path);
    if ((rc = check_size(path, n_layers, n_experts, 1, err)) < 0 || (rc = fm_profile_new(out, n_layers, n_experts, 1, err)) < 0) return rc;
    input in = {path, *out};
    fm_profile_kind *kind = (fm_profile_kind *)&in.p->kinds[0];
    in.p->older = true;
    kind->n_prompts = n_prompts;
    snprintf(kind->name, sizeof kind->name, "all");
    double least = threshold > 0 && threshold <= 1 ? ceil(threshold * n_prompts) : 1;
    json_object_foreach((json_t *)layers, key, value) {
        if ((rc = read_older_layer(&in, layer_of(key, MAX_LAYERS), value, least, err)) < 0) return rc;
    }
    return 0;
}

/* ---- both ---- */

int fm_profile_parse(fm_profile **out, const char *path, const char *text, size_t bytes, fm_error *err) {
    json_t *root;
    *out = NULL;
    int rc = fm_json_parse(&root, path, NULL, text, bytes, err);
    if (rc < 0) return rc;
    const char *format = json_string_value(json_object_get(root, "format"));
    if (format && !strcmp(format, FORMAT))
        rc = read_new(out, path, root, err);
    else if (!format && json_object_get(root, "num_experts") && json_is_object(json_object_get(root, "layers")))
        rc = read_older(out, path, root, err);
    else
        rc = fm_fail(err, FM_EFORMAT, "%s: it is no profile: its format is not \"" FORMAT "\"", path);
    json_decref(root);
    if (rc >= 0 && !(*out)->columns->n_head) { /* what has no columns says so */
        bool any = false;
        for (int i = 0; i < (*out)->n_layers; i++)
            for (int k = 0; k < FM_N_COLUMNS; k++) any |= (*out)->columns->n[i][k] > 0;
        if (!any) {
            free((*out)->columns->n);
            free((*out)->columns->square);
            free((*out)->columns);
            (*out)->columns = NULL;
        }
    }
    if (rc < 0) fm_profile_close(out);
    return rc < 0 ? rc : 0;
}

int fm_profile_open(fm_profile **out, const char *path, fm_error *err) {
    char *text;
    size_t bytes;
    *out = NULL;
    int rc = fm_file_read_text(&text, &bytes, path, FILE_LIMIT, err);
    if (rc < 0) return rc;
    rc = fm_profile_parse(out, path, text, bytes, err);
    free(text);
    return rc;
}

/* ---- writing ---- */

static json_t *list_of(const double *x, int n, bool whole) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, whole ? json_integer((json_int_t)x[i]) : json_real(x[i]));
    return list;
}

static json_t *squares_of(const float *x, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, json_real((double)x[i]));
    return list;
}

static json_t *kind_json(const fm_profile *p, const fm_profile_kind *kind) {
    json_t *layers = json_object();
    char key[16];
    for (int i = 0; i < p->n_layers; i++) {
        const double *uses = kind->uses + (size_t)i * (size_t)p->n_experts, *weights = kind->weights + (size_t)i * (size_t)p->n_experts;
        double any = 0;
        for (int e = 0; e < p->n_experts; e++) any += uses[e];
        snprintf(key, sizeof key, "%d", i);
        if (any > 0)
            json_object_set_new(layers, key,
                                json_pack("{s:o, s:o}", "uses", list_of(uses, p->n_experts, true), "weights", list_of(weights, p->n_experts, false)));
    }
    return json_pack("{s:s, s:i, s:I, s:o}", "name", kind->name, "n_prompts", kind->n_prompts, "n_tokens", (json_int_t)kind->n_tokens, "layers", layers);
}

static json_t *columns_json(const fm_profile *p) {
    const struct fm_profile_columns *c = p->columns;
    json_t *all = json_object();
    char key[16];
    if (c->n_head) json_object_set_new(all, "head", squares_of(c->head, c->n_head));
    for (int i = 0; i < p->n_layers; i++) {
        json_t *layer = json_object();
        for (int k = 0; k < FM_N_COLUMNS; k++) {
            if (c->n[i][k]) json_object_set_new(layer, column_names[k], squares_of(c->square[i][k], c->n[i][k]));
        }
        snprintf(key, sizeof key, "%d", i);
        json_object_set_new(all, key, layer);
    }
    return all;
}

int fm_profile_write(const fm_profile *p, const char *path, const char *how, fm_error *err) {
    char part[1300];
    json_t *kinds = json_array(), *root;
    if (snprintf(part, sizeof part, "%s.%ld.part", path, (long)getpid()) >= (int)sizeof part) {
        json_decref(kinds);
        return fm_fail(err, FM_EINVAL, "%s: the path is too long", path);
    }
    for (int i = 0; i < p->n_kinds; i++) json_array_append_new(kinds, kind_json(p, &p->kinds[i]));
    root = json_pack("{s:s, s:i, s:s, s:s, s:s, s:i, s:i, s:i, s:o*, s:o, s:o*}", "format", FORMAT, "version", VERSION, "made_by", "flash-moe " FM_VERSION,
                     "model_type", p->model_type, "architecture", p->architecture, "n_layers", p->n_layers, "n_experts", p->n_experts, "top_k", p->top_k, "how",
                     json_loads(how, 0, NULL), "kinds", kinds, "columns", p->columns ? columns_json(p) : NULL);
    if (!root) return fm_fail(err, FM_ENOMEM, "%s: no memory for its JSON", path);
    int rc = json_dump_file(root, part, JSON_COMPACT | JSON_REAL_PRECISION(7));
    json_decref(root);
    if (rc == 0 && rename(part, path) == 0) return 0;
    rc = fm_fail_errno(err, FM_EIO, errno, "%s cannot be written", path);
    (void)unlink(part);
    return rc;
}

/* ---- figures ---- */

void fm_profile_sum(const fm_profile *p, double *sum) {
    size_t n = (size_t)p->n_layers * (size_t)p->n_experts;
    memset(sum, 0, n * sizeof *sum);
    for (int k = 0; k < p->n_kinds; k++) {
        for (size_t i = 0; i < n; i++) sum[i] += p->kinds[k].uses[i];
    }
}

static int more(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

int fm_profile_needed(const fm_profile *p, int kind, int layer, double share) {
    size_t all = (size_t)p->n_layers * (size_t)p->n_experts, n = layer < 0 ? all : (size_t)p->n_experts, first = layer < 0 ? 0 : (size_t)layer * n;
    double *uses = malloc(all * sizeof *uses), total = 0, got = 0;
    int needed = 0;
    if (!uses || kind >= p->n_kinds || layer >= p->n_layers) {
        free(uses);
        return 0;
    }
    if (kind < 0)
        fm_profile_sum(p, uses);
    else
        memcpy(uses, p->kinds[kind].uses, all * sizeof *uses);
    qsort(uses + first, n, sizeof *uses, more);
    for (size_t i = 0; i < n; i++) total += uses[first + i];
    while ((size_t)needed < n && got < share * total) got += uses[first + (size_t)needed++];
    free(uses);
    return needed;
}

double fm_profile_overlap(const fm_profile *p, int a, int b) {
    double sum = 0;
    int n_layers = 0;
    if (a < 0 || a >= p->n_kinds || b < 0 || b >= p->n_kinds) return 0;
    for (int layer = 0; layer < p->n_layers; layer++) {
        const double *x = p->kinds[a].uses + (size_t)layer * (size_t)p->n_experts, *y = p->kinds[b].uses + (size_t)layer * (size_t)p->n_experts;
        double all_x = 0, all_y = 0;
        for (int e = 0; e < p->n_experts; e++) all_x += x[e], all_y += y[e];
        if (all_x <= 0 || all_y <= 0) continue;
        for (int e = 0; e < p->n_experts; e++) sum += fmin(x[e] / all_x, y[e] / all_y);
        n_layers++;
    }
    return n_layers ? sum / n_layers : 0;
}
