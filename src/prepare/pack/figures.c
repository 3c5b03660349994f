/* prepare/pack/figures.c: what was lost by quantising: by kind of matrix, and the matrices that lost most. */
#include <math.h>
#include <string.h>

#include "prepare/pack/pack.h"

#define LANES 16
#define FEW 128 /* numbers whose sums are exact enough in float */

void fm_deviation_add(fm_deviation *to, const fm_deviation *more) {
    to->n += more->n;
    to->error += more->error;
    to->before += more->before;
    to->after += more->after;
    to->product += more->product;
}

static inline float sum_of(const float lanes[LANES]) {
    float sum = 0;
    for (int l = 0; l < LANES; l++) sum += lanes[l];
    return sum;
}

void fm_deviation_measure(fm_deviation *to, const float *w, const float *v, size_t n) {
    for (size_t first = 0; first < n; first += FEW) {
        size_t end = n - first < FEW ? n : first + FEW, i = first;
        float error[LANES] = {0}, before[LANES] = {0}, after[LANES] = {0}, product[LANES] = {0};
        for (; i + LANES <= end; i += LANES) {
            for (size_t l = 0; l < LANES; l++) {
                float d = w[i + l] - v[i + l];
                error[l] += d * d;
                before[l] += w[i + l] * w[i + l];
                after[l] += v[i + l] * v[i + l];
                product[l] += w[i + l] * v[i + l];
            }
        }
        for (size_t l = 0; i < end; i++, l++) {
            float d = w[i] - v[i];
            error[l] += d * d;
            before[l] += w[i] * w[i];
            after[l] += v[i] * v[i];
            product[l] += w[i] * v[i];
        }
        fm_deviation_add(to,
                         &(fm_deviation){(double)(end - first), (double)sum_of(error), (double)sum_of(before), (double)sum_of(after), (double)sum_of(product)});
    }
}

static double relative(const fm_deviation *d) { return d->before > 0 ? sqrt(d->error / d->before) : 0; }

static void fill(fm_figure *f, const char *what, const fm_matrix_type *from, const fm_matrix_type *to, const fm_deviation *sum) {
    *f = (fm_figure){.sum = *sum};
    snprintf(f->what, sizeof f->what, "%s", what);
    fm_type_text(f->from, from);
    fm_type_text(f->to, to);
}

void fm_figures_add(fm_figures *f, const char *kind, const char *name, const fm_matrix_type *from, const fm_matrix_type *to, const fm_deviation *sum) {
    int i = 0;
    while (i < f->n_kinds && strcmp(f->kinds[i].what, kind)) i++;
    if (i < f->n_kinds)
        fm_deviation_add(&f->kinds[i].sum, sum);
    else if (i < FM_PACK_KINDS)
        fill(&f->kinds[f->n_kinds++], kind, from, to, sum);
    for (i = 0; i < f->n_worst && relative(&f->worst[i].sum) >= relative(sum);) i++;
    if (i == FM_PACK_WORST) return;
    if (f->n_worst < FM_PACK_WORST) f->n_worst++;
    memmove(&f->worst[i + 1], &f->worst[i], (size_t)(f->n_worst - 1 - i) * sizeof f->worst[0]);
    fill(&f->worst[i], name, from, to, sum);
}

static json_t *list_json(const fm_figure *list, int n) {
    json_t *array = json_array();
    for (int i = 0; i < n; i++) {
        const fm_figure *f = &list[i];
        json_array_append_new(array, json_pack("{s:s, s:s, s:s, s:[f,f,f,f,f]}", "what", f->what, "from", f->from, "to", f->to, "sums", f->sum.n, f->sum.error,
                                               f->sum.before, f->sum.after, f->sum.product));
    }
    return array;
}

json_t *fm_figures_json(const fm_figures *f) {
    return json_pack("{s:o, s:o}", "kinds", list_json(f->kinds, f->n_kinds), "worst", list_json(f->worst, f->n_worst));
}

static int read_list(fm_figure *list, int most, const json_t *array) {
    int n = 0;
    for (size_t i = 0; i < json_array_size(array) && n < most; i++) {
        const char *what, *from, *to;
        double x[5];
        if (json_unpack(json_array_get(array, i), "{s:s, s:s, s:s, s:[F,F,F,F,F]}", "what", &what, "from", &from, "to", &to, "sums", &x[0], &x[1], &x[2], &x[3],
                        &x[4]))
            continue;
        list[n] = (fm_figure){.sum = {x[0], x[1], x[2], x[3], x[4]}};
        snprintf(list[n].what, sizeof list[n].what, "%s", what);
        snprintf(list[n].from, sizeof list[n].from, "%s", from);
        snprintf(list[n].to, sizeof list[n].to, "%s", to);
        n++;
    }
    return n;
}

void fm_figures_read(fm_figures *f, const json_t *json) {
    f->n_kinds = read_list(f->kinds, FM_PACK_KINDS, json_object_get(json, "kinds"));
    f->n_worst = read_list(f->worst, FM_PACK_WORST, json_object_get(json, "worst"));
}

static int results(fm_pack_figure *out, const fm_figure *list, int n) {
    for (int i = 0; i < n; i++) {
        const fm_deviation *d = &list[i].sum;
        double lengths = sqrt(d->before * d->after);
        out[i] = (fm_pack_figure){.n_weights = (uint64_t)d->n, .rmse = d->n > 0 ? sqrt(d->error / d->n) : 0, .relative = relative(d)};
        out[i].cosine = lengths > 0 ? d->product / lengths : 1;
        memcpy(out[i].what, list[i].what, sizeof out[i].what);
        memcpy(out[i].from, list[i].from, sizeof out[i].from);
        memcpy(out[i].to, list[i].to, sizeof out[i].to);
    }
    return n;
}

void fm_figures_result(const fm_figures *f, fm_pack_result *out) {
    out->n_kinds = results(out->kinds, f->kinds, f->n_kinds);
    out->n_worst = results(out->worst, f->worst, f->n_worst);
}
