/* prepare/pack/choose.c: lists the dense part's tensors under the names and in the forms of an MLX snapshot, and decides what becomes of each matrix. */
#include <fnmatch.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "prepare/pack/pack.h"

#define NAME_BYTES 300

typedef struct chooser {
    fm_choice *choice;
    const fm_model *model;
    const fm_pack_options *options;
    fm_rules rules;
    fm_strip_fn *fn;
    char prefix[64]; /* of the packed model's names */
} chooser;

/* ---- one matrix ---- */

typedef struct asked { /* of one matrix */
    int bits, group;
    bool search, ruled;
} asked;

static void apply_rules(chooser *c, const char *name, int layer, asked *a) {
    for (int i = 0; i < c->rules.n; i++) {
        fm_rule *r = &c->rules.rules[i];
        bool all = r->first == 0 && r->last == INT_MAX;
        if ((!all && (layer < r->first || layer > r->last)) || fnmatch(r->tensors, name, 0)) continue;
        r->n_used++;
        if (r->bits >= 0) a->bits = r->bits, a->ruled = true;
        if (r->group >= 0) a->group = r->group;
        if (r->search >= 0) a->search = r->search;
    }
}

/* must: that it cannot be done is an error. */
static int decide(chooser *c, fm_target *t, const char *name, const fm_matrix_type *from, const asked *a, bool must, fm_error *err) {
    bool affine = from->format == FM_FORMAT_R16;
    int group = a->group ? a->group : affine ? from->group : 64;
    *t = (fm_target){.type = *from};
    if (a->bits == FM_BITS_KEEP || (a->bits == FM_BITS_BF16 && from->format == FM_FORMAT_BF16)) return 0;
    if (affine && !fm_is_mx(from) && from->bits == a->bits && from->group == group) return 0;
    if (a->bits == FM_BITS_BF16) {
        *t = (fm_target){{.format = FM_FORMAT_BF16, .rows = from->rows, .cols = from->cols}, true, false};
        return 0;
    }
    if (from->cols % group) {
        if (must)
            return fm_fail(err, FM_EUNSUPPORTED, "%s: %s has %d columns, which are no whole number of groups of %d", c->model->path, name, from->cols, group);
        c->choice->n_unfit++;
        return 0;
    }
    fm_dtype scales = affine && !fm_is_mx(from) ? from->scale_dtype : from->format == FM_FORMAT_F16 ? FM_F16 : FM_BF16;
    const fm_affine_shape shape = {(uint64_t)from->rows, (uint64_t)from->cols * (uint64_t)a->bits / 32, (uint64_t)(from->cols / group), scales, a->bits, group};
    *t = (fm_target){.made = true, .search = a->search, .fn = c->fn};
    return fm_matrix_type_affine(&t->type, name, &shape, err);
}

/* ---- the dense part ---- */

static bool has(const char *const *list, const char *s) {
    for (; list && *list; list++) {
        if (!strcmp(*list, s)) return true;
    }
    return false;
}

/* A raw checkpoint's text model inside another is called otherwise by MLX. */
static void find_prefix(chooser *c) {
    static const char raw[] = "model.language_model.", mlx[] = "language_model.model.";
    bool renamed = !c->model->mlx && !strcmp(c->model->prefix, raw) && has(c->model->family->prefixes, mlx);
    snprintf(c->prefix, sizeof c->prefix, "%s", renamed ? mlx : c->model->prefix);
}

static char *name_of(const chooser *c, const fm_tensor *t, fm_role role, bool matrix) {
    char name[NAME_BYTES];
    size_t before = strlen(c->model->prefix), n;
    bool renamed = strcmp(c->prefix, c->model->prefix) != 0;
    if (renamed && role == FM_HEAD)
        snprintf(name, sizeof name, "language_model.lm_head.weight");
    else if (renamed && !strncmp(t->name, c->model->prefix, before))
        snprintf(name, sizeof name, "%s%s", c->prefix, t->name + before);
    else
        snprintf(name, sizeof name, "%s", t->name);
    n = strlen(name);
    if (matrix && n > 7 && !strcmp(name + n - 7, ".weight")) name[n - 7] = 0;
    return strdup(name);
}

static fm_dense_item *add_item(chooser *c, fm_error *err) {
    fm_choice *choice = c->choice;
    if (choice->n_items == choice->room) {
        int room = choice->room ? 2 * choice->room : 256;
        fm_dense_item *items = realloc(choice->items, (size_t)room * sizeof *items);
        if (!items) {
            fm_fail(err, FM_ENOMEM, "%s: no memory for %d tensors", c->model->path, room);
            return NULL;
        }
        choice->items = items;
        choice->room = room;
    }
    return &choice->items[choice->n_items++];
}

static int add_source(chooser *c, int layer, fm_role role, const fm_source *s, fm_error *err) {
    const fm_model *model = c->model;
    fm_dense_item *item = add_item(c, err);
    if (!item) return FM_ENOMEM;
    *item = (fm_dense_item){.source = *s, .role = role, .layer = layer, .matrix = s->shape.kind == FM_KIND_MATRIX};
    item->plus_one = s->shape.kind == FM_KIND_NORM && model->description.norm_stored_less_one && !model->mlx;
    item->source.row_map = NULL;
    if (!(item->name = name_of(c, s->weight, role, item->matrix))) return fm_fail(err, FM_ENOMEM, "%s: no memory for its names", model->path);
    /* What several roles share is one tensor. */
    if (s->shape.kind == FM_KIND_VECTOR) item->source.shape.cols = (int)s->weight->shape[s->weight->n_dims - 1];
    if (!item->matrix) return 0;
    int rows = 1;
    for (int i = 0; i + 1 < s->weight->n_dims; i++) rows *= (int)s->weight->shape[i];
    item->source.type.rows = item->source.shape.rows = rows;
    bool router = role == FM_ROUTER || role == FM_SHARED_GATE;
    asked a = {c->options->dense, c->options->group, c->options->search, false};
    if (router && a.bits != FM_BITS_KEEP && a.bits < 8) a.bits = 8, a.group = 0;
    apply_rules(c, item->name, layer, &a);
    int rc = decide(c, &item->target, item->name, &item->source.type, &a, a.ruled, err);
    c->choice->requantised |= item->target.made;
    return rc;
}

static int add_layer(chooser *c, int layer, fm_error *err) {
    const fm_source *sources = c->model->sources[layer + 1];
    for (int role = 0; role < FM_N_ROLES; role++) {
        bool listed = false;
        for (int before = 0; before < role; before++) listed |= sources[before].weight == sources[role].weight;
        if (!sources[role].weight || listed) continue;
        int rc = add_source(c, layer, (fm_role)role, &sources[role], err);
        if (rc < 0) return rc;
    }
    return 0;
}

/* ---- experts ---- */

static int add_experts(chooser *c, int layer, fm_error *err) {
    const fm_expert_layout *layout = &c->model->experts[layer];
    for (int which = FM_GATE_BIAS; which < FM_EXPERT_MATRICES; which++) {
        for (int copy = 0; copy < c->choice->n_copies; copy++)
            c->choice->experts[copy * c->model->description.n_layers + layer][which] = (fm_target){.type = layout->matrix[which].type};
    }
    for (int which = 0; which < 3; which++) {
        char name[NAME_BYTES];
        asked a = {c->options->experts, c->options->group, c->options->search, false};
        snprintf(name, sizeof name, "%slayers.%d.%s", c->prefix, layer, c->model->family->stacked_experts[which]);
        apply_rules(c, name, layer, &a);
        int rc = decide(c, &c->choice->experts[layer][which], name, &layout->matrix[which].type, &a, true, err);
        if (rc < 0) return rc;
        if (c->choice->n_copies < 2) continue;
        a = (asked){c->options->experts_too, c->options->group, c->options->search, false};
        if ((rc = decide(c, &c->choice->experts[c->model->description.n_layers + layer][which], name, &layout->matrix[which].type, &a, true, err)) < 0)
            return rc;
    }
    return 0;
}

/* ---- importance ---- */

/* What follows a norm sees column c with a mean square of the norm's weight c, squared: the rest is the same for all columns. */
static int read_importance(fm_choice *choice, const fm_model *model, int index, const fm_source *s, fm_error *err) {
    const fm_tensor *t = s->weight;
    size_t n = (size_t)model->description.hidden;
    float *out = choice->importance + (size_t)index * n;
    double sum = 0;
    uint8_t *data = malloc(t->bytes + 1);
    if (!data) return fm_fail(err, FM_ENOMEM, "%s: no memory for tensor %s", model->path, t->name);
    int rc = fm_file_read(&model->tensors.files[t->file], data, t->bytes, t->offset, err);
    if (rc == 0) rc = fm_pack_finite(model, t, data, 0, n, err);
    for (size_t i = 0; i < n && rc == 0; i++) {
        const fm_matrix_type type = {.format = t->dtype == FM_F32 ? FM_FORMAT_F32 : t->dtype == FM_F16 ? FM_FORMAT_F16 : FM_FORMAT_BF16, .rows = 1, .cols = 1};
        float w;
        fm_matrix_row(&(fm_matrix){type, data + i * fm_dtype_bytes(t->dtype)}, 0, &w);
        w += model->description.norm_stored_less_one && !model->mlx ? 1 : 0;
        out[i] = w * w;
        sum += (double)out[i];
    }
    for (size_t i = 0; i < n && rc == 0; i++) out[i] = sum > 0 ? (float)((double)out[i] / sum * (double)n + 1e-3) : 1;
    free(data);
    return rc;
}

int fm_choice_weigh(fm_choice *choice, const fm_model *model, int layer, fm_error *err) {
    const fm_description *d = &model->description;
    size_t n = (size_t)(1 + 2 * d->n_layers) * (size_t)d->hidden;
    if (!choice->searched) return 0;
    if (!choice->importance && !(choice->importance = calloc(n, sizeof(float))))
        return fm_fail(err, FM_ENOMEM, "%s: no memory for %zu weights of columns", model->path, n);
    if (layer >= 0) return read_importance(choice, model, 2 + 2 * layer, &model->sources[layer + 1][FM_NORM2], err);
    int rc = read_importance(choice, model, 0, &model->sources[0][FM_FINAL_NORM], err);
    for (int i = 0; i < d->n_layers && rc == 0; i++) {
        rc = read_importance(choice, model, 1 + 2 * i, &model->sources[i + 1][FM_NORM1], err);
        if (rc == 0) rc = read_importance(choice, model, 2 + 2 * i, &model->sources[i + 1][FM_NORM2], err);
    }
    return rc;
}

/* Mean squares relative to their mean, none quite 0: what was not seen may come. */
static void level(float *x, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)x[i];
    for (int i = 0; i < n; i++) x[i] = sum > 0 ? (float)((double)x[i] / sum * n + 1e-3) : 1;
}

static int read_profile(chooser *c, fm_error *err) {
    const char *path = c->options->profile;
    const fm_description *d = &c->model->description;
    int rc = path ? fm_profile_open(&c->choice->profile, path, err) : 0;
    if (rc < 0 || !path) return rc;
    fm_profile *p = c->choice->profile;
    if (p->n_layers != d->n_layers || p->n_experts != d->n_experts || strcmp(p->model_type, d->model_type)) {
        return fm_fail(err, FM_EFORMAT, "%s: it is of a model of type %s with %d layers of %d experts, and %s is of type %s with %d of %d", path, p->model_type,
                       p->n_layers, p->n_experts, c->model->path, d->model_type, d->n_layers, d->n_experts);
    }
    if (!p->columns) return fm_fail(err, FM_EFORMAT, "%s: it has no columns, so nothing can be weighed by it", path);
    level(p->columns->head, p->columns->n_head);
    for (int i = 0; i < p->n_layers; i++) {
        for (int k = 0; k < FM_N_COLUMNS; k++) level(p->columns->square[i][k], p->columns->n[i][k]);
    }
    return 0;
}

/* What a profile calls the inputs of a role's matrix; FM_N_COLUMNS: the head's; -1: nothing. */
static int columns_of(int role) {
    if (role == FM_HEAD) return FM_N_COLUMNS;
    if ((role >= FM_Q && role <= FM_V) || role == FM_Q_A || role == FM_KV_A || (role >= FM_DELTA_QKV && role <= FM_DELTA_A) || role == FM_MIX_IN ||
        role == FM_LIGHTNING_GATE)
        return FM_COLUMNS_MIXER;
    if (role == FM_ROUTER || role == FM_SHARED_GATE || role == FM_SHARED_GATE_PROJ || role == FM_SHARED_UP_PROJ || role == FM_DENSE_GATE_PROJ ||
        role == FM_DENSE_UP_PROJ || role == FM_ROLE_EXPERT_IN)
        return FM_COLUMNS_MLP;
    if (role == FM_O || role == FM_DELTA_OUT) return FM_COLUMNS_MIXER_OUT;
    if (role == FM_DENSE_DOWN_PROJ) return FM_COLUMNS_DENSE_DOWN;
    if (role == FM_SHARED_DOWN_PROJ) return FM_COLUMNS_SHARED_DOWN;
    return -1;
}

const float *fm_choice_importance(const fm_choice *choice, const fm_model *model, int layer, int role, int n) {
    const struct fm_profile_columns *seen = choice->profile ? choice->profile->columns : NULL;
    int columns = columns_of(role), hidden = model->description.hidden;
    if (seen && columns == FM_N_COLUMNS && seen->n_head == n) return seen->head;
    if (seen && columns >= 0 && columns < FM_N_COLUMNS && seen->n[layer][columns] == n) return seen->square[layer][columns];
    int index = columns == FM_N_COLUMNS ? 0 : columns == FM_COLUMNS_MIXER ? 1 + 2 * layer : columns == FM_COLUMNS_MLP ? 2 + 2 * layer : -1;
    return choice->importance && index >= 0 && n == hidden ? choice->importance + (size_t)index * (size_t)hidden : NULL;
}

/* ---- all ---- */

static int check_rules(const chooser *c, fm_error *err) {
    for (int i = 0; i < c->rules.n; i++) {
        if (!c->rules.rules[i].n_used)
            return fm_fail(err, FM_EINVAL, "%s: rule %d: no matrix of these layers is called %.80s", c->rules.path, i + 1, c->rules.rules[i].tensors);
    }
    return 0;
}

int fm_choice_make(fm_choice *choice, const fm_model *model, const fm_pack_options *options, fm_error *err) {
    const fm_description *d = &model->description;
    chooser c = {.choice = choice, .model = model, .options = options, .fn = fm_strip_best()};
    *choice = (fm_choice){0};
    int rc = fm_rules_open(&c.rules, options->rules, err);
    if (rc < 0) return rc;
    find_prefix(&c);
    choice->n_copies = options->experts_too ? 2 : 1;
    if (!(choice->experts = calloc((size_t)(choice->n_copies * d->n_layers), sizeof *choice->experts)))
        rc = fm_fail(err, FM_ENOMEM, "%s: no memory for it", model->path);
    for (int i = -1; i < d->n_layers && rc == 0; i++) {
        rc = add_layer(&c, i, err);
        if (rc == 0 && i >= 0 && d->layers[i].moe) rc = add_experts(&c, i, err);
        for (int w = 0; w < 3 * choice->n_copies && i >= 0; w++) choice->searched |= choice->experts[i + w / 3 * d->n_layers][w % 3].search;
    }
    for (int i = 0; i < choice->n_items; i++) choice->searched |= choice->items[i].target.search;
    if (rc == 0) rc = check_rules(&c, err);
    if (rc == 0) rc = read_profile(&c, err);
    if (rc == 0 && options->profile && !choice->searched) rc = fm_fail(err, FM_EINVAL, "a profile weighs errors of the search, which is not asked for");
    fm_rules_close(&c.rules);
    if (rc < 0) fm_choice_close(choice);
    return rc;
}

void fm_choice_close(fm_choice *choice) {
    for (int i = 0; i < choice->n_items; i++) {
        free(choice->items[i].name);
        free(choice->items[i].side[0]);
        free(choice->items[i].side[1]);
    }
    free(choice->items);
    free(choice->experts);
    free(choice->importance);
    fm_profile_close(&choice->profile);
    *choice = (fm_choice){0};
}
