/* model/resolve.c: see resolve.h. */
#include "model/resolve.h"

#include <string.h>

const fm_tensor *fm_resolve_find(fm_resolver *r, const char *name) {
    const fm_tensor *t = fm_tensors_find(&r->model->tensors, name);
    if (t) r->model->used[t - r->model->tensors.tensors] = FM_USED_RUN;
    return t;
}

int fm_resolve_missing(fm_resolver *r, const char *name, fm_error *err) { return fm_fail(err, FM_EFORMAT, "%s: tensor %s is missing", r->model->path, name); }

const char *fm_resolve_path(const fm_resolver *r, const fm_tensor *tensor) { return r->model->tensors.files[tensor->file].path; }

/* bits and group of the tensor called base by config.json's quantization: its own entry, under its name with or without the `language_model.` that some
 * programs strip, else the general one. 0: it says nothing. */
static int quantization_of(const fm_resolver *r, const char *base, int *bits, int *group, fm_error *err) {
    static const char strip[] = "language_model.";
    char longer[300];
    snprintf(longer, sizeof longer, "%s%s", strip, base);
    *bits = *group = 0;
    if (!r->quantization) return 0;
    const json_t *q = json_object_get(r->quantization, base);
    if (!q) q = json_object_get(r->quantization, longer);
    if (!q && !strncmp(base, strip, sizeof strip - 1)) q = json_object_get(r->quantization, base + sizeof strip - 1);
    if (json_is_false(q)) return 0;
    if (!json_is_object(q)) q = r->quantization;
    const char *mode = json_string_value(json_object_get(q, "mode"));
    if (mode && strcmp(mode, "affine"))
        return fm_fail(err, FM_EUNSUPPORTED, "%s: %s is quantised by mode %s, which is not supported", r->config_path, base, mode);
    *bits = (int)json_integer_value(json_object_get(q, "bits"));
    *group = (int)json_integer_value(json_object_get(q, "group_size"));
    return 0;
}

int fm_resolve_shape_error(const fm_resolver *r, const fm_tensor *t, int n, const uint64_t *wanted, fm_error *err) {
    char text[2][128] = {"", ""};
    for (int which = 0; which < 2; which++) {
        size_t at = 0;
        for (int i = 0; i < (which ? n : t->n_dims); i++) {
            unsigned long long x = which ? wanted[i] : t->shape[i];
            at += (size_t)snprintf(text[which] + at, sizeof text[which] - at, i ? ", %llu" : "%llu", x);
        }
    }
    return fm_fail(err, FM_EFORMAT, "%s: tensor %s has shape [%s], but config.json asks for [%s]", fm_resolve_path(r, t), t->name, text[0], text[1]);
}

static int shape_error(const fm_resolver *r, const fm_tensor *t, int n_experts, uint64_t rows, uint64_t cols, fm_error *err) {
    const uint64_t wanted[3] = {(uint64_t)n_experts, rows, cols};
    return fm_resolve_shape_error(r, t, n_experts ? 3 : 2, wanted + !n_experts, err);
}

/* Whether t is [n_experts][rows][cols], cols 0: any. */
static bool shape_is(const fm_tensor *t, int n_experts, uint64_t rows, uint64_t cols) {
    int lead = n_experts > 0;
    if (t->n_dims != 2 + lead || (lead && t->shape[0] != (uint64_t)n_experts)) return false;
    return t->shape[lead] == rows && (!cols || t->shape[lead + 1] == cols);
}

static int resolve_quantised(fm_resolver *r, const char *base, int n_experts, int rows, int cols, fm_source *s, fm_error *err) {
    char name[300];
    const fm_tensor **parts[2] = {&s->scales, &s->biases};
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s.%s", base, i ? "biases" : "scales");
        *parts[i] = fm_resolve_find(r, name);
        if (!*parts[i]) return fm_resolve_missing(r, name, err);
    }
    int last = s->weight->n_dims - 1, bits, group;
    if (!shape_is(s->weight, n_experts, (uint64_t)rows, 0)) return shape_error(r, s->weight, n_experts, (uint64_t)rows, s->weight->shape[last], err);
    if (!shape_is(s->scales, n_experts, (uint64_t)rows, 0))
        return shape_error(r, s->scales, n_experts, (uint64_t)rows, s->scales->shape[s->scales->n_dims - 1], err);
    uint64_t weight_cols = s->weight->shape[last], scale_cols = s->scales->shape[last];
    if (!shape_is(s->biases, n_experts, (uint64_t)rows, scale_cols)) return shape_error(r, s->biases, n_experts, (uint64_t)rows, scale_cols, err);
    if (s->biases->dtype != s->scales->dtype) {
        return fm_fail(err, FM_EUNSUPPORTED, "%s: %s.scales are %s, but the biases are %s", fm_resolve_path(r, s->scales), base,
                       fm_dtype_name(s->scales->dtype), fm_dtype_name(s->biases->dtype));
    }
    int rc = quantization_of(r, base, &bits, &group, err);
    if (rc < 0) return rc;
    /* Where config.json is silent (a directory of the flash-moe programs beside the original's config), the shapes alone decide. */
    if (!group && scale_cols) group = cols / (int)scale_cols;
    if (!bits) bits = (int)(weight_cols * 32 / (uint64_t)cols);
    fm_error why = {0};
    rc = fm_matrix_type_affine(&s->type, s->weight->name, &(fm_affine_shape){(uint64_t)rows, weight_cols, scale_cols, s->scales->dtype, bits, group}, &why);
    if (rc < 0) return fm_fail(err, rc, "%s: %s", fm_resolve_path(r, s->weight), why.message);
    if (s->type.cols == cols) return 0;
    return fm_fail(err, FM_EFORMAT, "%s: tensor %s has %d columns of %d bits, but config.json asks for %d", fm_resolve_path(r, s->weight), s->weight->name,
                   s->type.cols, bits, cols);
}

/* fp8: a byte a weight, and in base.weight_scale_inv a scale a block. */
static int resolve_f8(fm_resolver *r, const char *base, int n_experts, fm_source *s, fm_error *err) {
    char name[310];
    int rows = s->shape.rows, cols = s->shape.cols;
    uint64_t scale_rows = (uint64_t)(rows + FM_F8_BLOCK - 1) / FM_F8_BLOCK, scale_cols = (uint64_t)fm_f8_n_scales(cols);
    snprintf(name, sizeof name, "%s.weight_scale_inv", base);
    if (!(s->scales = fm_resolve_find(r, name))) return fm_resolve_missing(r, name, err);
    if (s->scales->dtype != FM_F32) {
        return fm_fail(err, FM_EUNSUPPORTED, "%s: tensor %s is of type %s, and scales of fp8 are F32", fm_resolve_path(r, s->scales), name,
                       fm_dtype_name(s->scales->dtype));
    }
    if (!shape_is(s->scales, n_experts, scale_rows, scale_cols)) return shape_error(r, s->scales, n_experts, scale_rows, scale_cols, err);
    s->type = (fm_matrix_type){.format = FM_FORMAT_F8, .rows = rows, .cols = cols};
    return 1;
}

int fm_resolve_matrix(fm_resolver *r, const char *base, int n_experts, bool optional, fm_source *s, fm_error *err) {
    char name[300];
    int rows = s->shape.rows, cols = s->shape.cols;
    snprintf(name, sizeof name, "%s.weight", base);
    s->weight = fm_resolve_find(r, name);
    if (!s->weight) s->weight = fm_resolve_find(r, base);
    if (!s->weight) return optional ? 0 : fm_resolve_missing(r, name, err);
    if (s->weight->dtype == FM_U32) {
        int rc = resolve_quantised(r, base, n_experts, rows, cols, s, err);
        return rc < 0 ? rc : 1;
    }
    snprintf(name, sizeof name, "%s.scales", base);
    if (fm_tensors_find(&r->model->tensors, name)) {
        return fm_fail(err, FM_EFORMAT, "%s: tensor %s is of type %s, but as it has scales it should be of type U32", fm_resolve_path(r, s->weight),
                       s->weight->name, fm_dtype_name(s->weight->dtype));
    }
    if (!shape_is(s->weight, n_experts, (uint64_t)rows, (uint64_t)cols)) return shape_error(r, s->weight, n_experts, (uint64_t)rows, (uint64_t)cols, err);
    fm_format format = FM_FORMAT_BF16;
    if (s->weight->dtype == FM_F8_E4M3) return resolve_f8(r, base, n_experts, s, err);
    switch (s->weight->dtype) {
    case FM_BF16: break;
    case FM_F16: format = FM_FORMAT_F16; break;
    case FM_F32: format = FM_FORMAT_F32; break;
    default:
        return fm_fail(err, FM_EUNSUPPORTED, "%s: tensor %s is of type %s, which is not supported for a matrix", fm_resolve_path(r, s->weight), s->weight->name,
                       fm_dtype_name(s->weight->dtype));
    }
    s->type = (fm_matrix_type){.format = format, .rows = rows, .cols = cols};
    return 1;
}
