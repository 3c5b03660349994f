/* engine/info.c: what a model is, for people: sizes, formats by part, what is left out, template and tool format. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "formats/json.h"
#include "formats/quant.h"
#include "text/tool_format.h"

static void format_name(char *out, size_t size, const fm_source *s) {
    if (s->shape.kind == FM_KIND_MATRIX && s->weight->dtype == FM_F8_E4M3) {
        snprintf(out, size, "fp8");
        return;
    }
    if (s->shape.kind == FM_KIND_MATRIX && s->scales) {
        const fm_matrix_type *type = s->turned ? &s->from : &s->type;
        if (fm_is_mx(type))
            snprintf(out, size, "mxfp4");
        else
            snprintf(out, size, "%d-bit group %d", type->bits, type->group);
        return;
    }
    snprintf(out, size, "%s", fm_dtype_name(s->weight->dtype));
    for (; *out; out++) *out = (char)(*out >= 'A' && *out <= 'Z' ? *out + 32 : *out);
}

static void add_part(fm_part *parts, int *n, const char *what, const char *format, int n_tensors, uint64_t bytes) {
    int i = 0;
    while (i < *n && (strcmp(parts[i].what, what) || strcmp(parts[i].format, format))) i++;
    if (i == FM_MAX_PARTS) i = FM_MAX_PARTS - 1;
    if (i == *n) {
        (*n)++;
        snprintf(parts[i].what, sizeof parts[i].what, "%s", what);
        snprintf(parts[i].format, sizeof parts[i].format, "%s", format);
    }
    parts[i].n_tensors += n_tensors;
    parts[i].bytes += bytes;
}

static void add_dense(fm_model_info *info, const fm_model *model) {
    char format[32];
    for (int i = 0; i <= model->description.n_layers; i++) {
        for (int role = 0; role < FM_N_ROLES; role++) {
            const fm_source *s = &model->sources[i][role];
            if (!s->weight) continue;
            /* Several projections may share one tensor: count rows, not tensors. */
            uint64_t rows = s->weight->n_dims ? s->weight->shape[0] : 1, mine = s->row_map ? (uint64_t)s->shape.rows : rows;
            if (s->turned) mine = rows / (uint64_t)s->turned * (uint64_t)s->shape.cols;
            uint64_t all = s->weight->bytes + (s->scales ? s->scales->bytes : 0) + (s->biases ? s->biases->bytes : 0), bytes = all * mine / (rows ? rows : 1);
            format_name(format, sizeof format, s);
            add_part(info->parts, &info->n_parts, fm_role_part((fm_role)role), format, fm_source_parts(s), bytes);
            info->dense_bytes += bytes;
            info->n_parameters += (uint64_t)s->shape.rows * (uint64_t)s->shape.cols;
            if (role != FM_EMBED) info->n_active_parameters += (uint64_t)s->shape.rows * (uint64_t)s->shape.cols;
        }
    }
    if (model->description.tied_head) info->n_active_parameters += (uint64_t)model->description.vocab * (uint64_t)model->description.hidden;
}

static void add_experts(fm_model_info *info, const fm_model *model) {
    const fm_description *d = &model->description;
    char format[32];
    for (int i = 0; i < d->n_layers; i++) {
        if (!d->layers[i].moe) continue;
        const fm_expert_layout *layout = &model->experts[i];
        uint64_t expert = 0;
        for (int which = 0; which < FM_EXPERT_MATRICES; which++) {
            const fm_expert_matrix *m = &layout->matrix[which];
            if (!m->type.rows) continue;
            uint64_t values = (uint64_t)m->type.rows * (uint64_t)m->type.cols, bytes = 0;
            for (int part = 0; part < 3; part++) bytes += (uint64_t)m->type.rows * fm_matrix_row_bytes(&m->type, part);
            if (m->type.format == FM_FORMAT_F8) {
                bytes += (uint64_t)((m->type.rows + FM_F8_BLOCK - 1) / FM_F8_BLOCK * fm_f8_n_scales(m->type.cols)) * sizeof(float);
                if (model->pack) bytes = fm_matrix_bytes(&m->type);
            }
            if (fm_is_mx(&m->type))
                snprintf(format, sizeof format, "mxfp4");
            else if (m->type.format == FM_FORMAT_F8)
                snprintf(format, sizeof format, "fp8");
            else if (m->type.format == FM_FORMAT_R16)
                snprintf(format, sizeof format, "%d-bit group %d", m->type.bits, m->type.group);
            else
                snprintf(format, sizeof format, "%s", m->type.format == FM_FORMAT_BF16 ? "bf16" : m->type.format == FM_FORMAT_F16 ? "f16" : "f32");
            add_part(info->parts, &info->n_parts, "experts", format, m->n_tensors, bytes * (uint64_t)d->n_experts);
            expert += values;
        }
        info->n_moe_layers++;
        info->n_parameters += expert * (uint64_t)d->n_experts;
        info->n_active_parameters += expert * (uint64_t)d->top_k;
        info->experts_bytes += layout->disk_bytes * (uint64_t)d->n_experts;
        if (layout->disk_bytes > info->expert_bytes) info->expert_bytes = layout->disk_bytes;
    }
}

int fm_info_narrow(const fm_model *model, uint64_t *expert, uint64_t *all) {
    const fm_description *d = &model->description;
    int bits = 0;
    *expert = *all = 0;
    for (int i = 0; i < d->n_layers && model->n_copies > 1; i++) {
        const fm_expert_layout *layout = &model->experts[d->n_layers + i];
        if (!d->layers[i].moe) continue;
        bits = layout->matrix[FM_GATE].type.bits;
        *all += layout->disk_bytes * (uint64_t)d->n_experts;
        if (layout->disk_bytes > *expert) *expert = layout->disk_bytes;
    }
    return bits;
}

static void add_left_out(fm_model_info *info, const fm_model *model) {
    for (int i = 0; i < model->tensors.n_tensors; i++) {
        const fm_tensor *t = &model->tensors.tensors[i];
        const char *what = model->used[i] == FM_USED_LEFT_OUT ? fm_model_left_out(model, t->name) : NULL;
        if (what) add_part(info->left_out, &info->n_left_out, what, fm_dtype_name(t->dtype), 1, t->bytes);
    }
}

/* ---- the chat template ---- */

/* One of a list of {"name", "template"}, or the text itself for any name but tool_use; malloc'd. NULL: it is not there. */
static char *template_named(const json_t *value, const char *name) {
    if (json_is_string(value)) return strcmp(name, "tool_use") ? strdup(json_string_value(value)) : NULL;
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *entry = json_array_get(value, i);
        const char *its = json_string_value(json_object_get(entry, "name")), *text = json_string_value(json_object_get(entry, "template"));
        if (its && text && !strcmp(its, name)) return strdup(text);
    }
    return NULL;
}

static int template_of_json(fm_template_source *out, const char *path, fm_error *err) {
    json_t *root;
    int rc = fm_json_open(&root, path, err);
    if (rc < 0) return rc;
    const json_t *value = json_object_get(root, "chat_template");
    if (value && !json_is_null(value)) {
        out->text = template_named(value, "default");
        out->tool_text = template_named(value, "tool_use");
        if (!out->text && out->tool_text) out->text = strdup(out->tool_text);
        if (!out->text) rc = fm_fail(err, FM_EFORMAT, "%s: chat_template is neither text nor a list with a template named default", path);
    }
    json_decref(root);
    return rc;
}

int fm_info_template(fm_template_source *out, const char *directory, const char *config_from, fm_error *err) {
    static const char *const files[] = {"chat_template.jinja", "chat_template.json", "tokenizer_config.json"};
    *out = (fm_template_source){0};
    for (int i = 0; i < 3 && !out->text; i++) {
        char path[1100];
        size_t bytes;
        if (!fm_model_find_file(path, sizeof path, directory, config_from, files[i])) continue;
        int rc = i == 0 ? fm_file_read_text(&out->text, &bytes, path, (size_t)4 << 20, err) : template_of_json(out, path, err);
        if (rc < 0) return rc;
        if (out->text) snprintf(out->file, sizeof out->file, "%s", files[i]);
    }
    return 0;
}

void fm_template_source_close(fm_template_source *source) {
    free(source->text);
    free(source->tool_text);
    *source = (fm_template_source){0};
}

/* Its text tells how the model writes tool calls. A damaged file is no template here. */
static void find_template(fm_model_info *info, const char *directory, const char *config_from) {
    fm_template_source source;
    const char *text = "";
    if (fm_info_template(&source, directory, config_from, NULL) >= 0 && source.text) text = source.tool_text ? source.tool_text : source.text;
    snprintf(info->chat_template, sizeof info->chat_template, "%s", source.file);
    snprintf(info->tool_format, sizeof info->tool_format, "%s", fm_tool_format_name(text));
    fm_template_source_close(&source);
}

int fm_info_tokenizer(fm_tokenizer **tokenizer, const char *directory, const char *config_from, fm_error *err) {
    char path[1100];
    *tokenizer = NULL;
    return fm_model_find_file(path, sizeof path, directory, config_from, "tokenizer.json") ? fm_tokenizer_open(tokenizer, path, err) : 0;
}

int fm_info_no_tokenizer(const char *directory, const char *config_from, fm_error *err) {
    static const char *const others[][2] = {
        {"tiktoken.model", "transformers' TikTokenConverter makes one of it and of the pattern in the model's tokenization file"},
        {"tokenizer.model", "transformers' AutoTokenizer makes one of it and saves it"},
    };
    char path[1100];
    for (int i = 0; i < 2; i++) {
        if (!fm_model_find_file(path, sizeof path, directory, config_from, others[i][0])) continue;
        return fm_fail(err, FM_EUNSUPPORTED, "%s: it has %s but no tokenizer.json; %s", directory, others[i][0], others[i][1]);
    }
    return fm_fail(err, FM_EFORMAT, "%s: it has no tokenizer.json", directory);
}

int fm_info_fill(fm_model_info *info, const fm_model *model, const fm_tokenizer *tokenizer, const char *config_from, fm_error *err) {
    const fm_description *d = &model->description;
    (void)err;
    memset(info, 0, sizeof *info);
    snprintf(info->path, sizeof info->path, "%s", model->path);
    snprintf(info->source, sizeof info->source, "%s", model->source);
    snprintf(info->architecture, sizeof info->architecture, "%s", d->architecture);
    snprintf(info->model_type, sizeof info->model_type, "%s", d->model_type);
    snprintf(info->family, sizeof info->family, "%s", model->family->name);
    info->hidden = d->hidden;
    info->vocab = d->vocab;
    info->n_layers = d->n_layers;
    for (int i = 0; i < d->n_layers; i++) {
        bool attention = d->layers[i].mixer == FM_MIXER_ATTENTION;
        *(attention ? &info->n_attention_layers : &info->n_recurrent_layers) += 1;
        if (!attention) snprintf(info->recurrent, sizeof info->recurrent, "%s", fm_mixer_name(d->layers[i].mixer));
    }
    info->n_experts = d->n_experts;
    info->experts_per_token = d->top_k;
    info->expert_width = d->expert_width;
    info->shared_width = d->shared_width;
    info->max_position = d->max_position;
    info->vocab_entries = tokenizer ? fm_tokenizer_n_entries(tokenizer) : 0;
    add_dense(info, model);
    add_experts(info, model);
    info->narrow_bits = fm_info_narrow(model, &info->narrow_expert_bytes, &info->narrow_bytes);
    add_left_out(info, model);
    find_template(info, model->path, config_from);
    return 0;
}

int fm_model_info_read(fm_model_info *out, const char *directory, const fm_engine_options *options, fm_error *err) {
    fm_engine_options o;
    fm_model *model = NULL;
    fm_tokenizer *tokenizer = NULL;
    memset(out, 0, sizeof *out);
    int rc = fm_options_read(&o, options, err);
    if (rc < 0 || (rc = fm_model_open(&model, directory, o.config_from, fm_families, err)) < 0) return rc;
    rc = fm_info_tokenizer(&tokenizer, directory, o.config_from, err);
    if (rc >= 0) rc = fm_info_fill(out, model, tokenizer, o.config_from, err);
    fm_tokenizer_close(&tokenizer);
    fm_model_close(&model);
    return rc;
}
