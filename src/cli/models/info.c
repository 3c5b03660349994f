/* cli/models/info.c: `flash-moe info`: what a model is, part by part. Nothing is loaded. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

struct info_options {
    const char *config_from;
    bool json;
};

#define AT(field) offsetof(struct info_options, field)

static const struct cli_option table[] = {
    {"config-from", 0, OPTION_TEXT, AT(config_from), "DIR", "where config.json and tokenizer.json are, if not in MODEL", 0, 0},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "one JSON object instead of the text", 0, 0},
};

static json_t *parts_json(const fm_part *parts, int n) {
    json_t *list = json_array();

    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:I}", "what", parts[i].what, "format", parts[i].format, "n_tensors", parts[i].n_tensors,
                                              "bytes", (json_int_t)parts[i].bytes));
    return list;
}

static int print_json(const fm_model_info *m) {
    json_t *object = json_pack("{s:o, s:s, s:o, s:o, s:s, s:s}", "path", fm_json_text(m->path, strlen(m->path)), "source", m->source, "architecture",
                               fm_json_text(m->architecture, strlen(m->architecture)), "model_type", fm_json_text(m->model_type, strlen(m->model_type)),
                               "family", m->family, "recurrent", m->recurrent);
    json_t *numbers =
        json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I}", "hidden", m->hidden, "vocab", m->vocab, "n_layers",
                  m->n_layers, "n_attention_layers", m->n_attention_layers, "n_recurrent_layers", m->n_recurrent_layers, "n_moe_layers", m->n_moe_layers,
                  "n_experts", m->n_experts, "experts_per_token", m->experts_per_token, "expert_width", m->expert_width, "shared_width", m->shared_width,
                  "max_position", m->max_position, "n_parameters", (json_int_t)m->n_parameters, "n_active_parameters", (json_int_t)m->n_active_parameters,
                  "dense_bytes", (json_int_t)m->dense_bytes, "expert_bytes", (json_int_t)m->expert_bytes, "experts_bytes", (json_int_t)m->experts_bytes);
    json_t *rest =
        json_pack("{s:o, s:o, s:i, s:o, s:s}", "parts", parts_json(m->parts, m->n_parts), "left_out", parts_json(m->left_out, m->n_left_out), "vocab_entries",
                  m->vocab_entries, "chat_template", fm_json_text(m->chat_template, strlen(m->chat_template)), "tool_format", m->tool_format);

    json_object_set_new(numbers, "narrow",
                        m->narrow_bits ? json_pack("{s:i, s:I, s:I}", "bits", m->narrow_bits, "expert_bytes", (json_int_t)m->narrow_expert_bytes,
                                                   "experts_bytes", (json_int_t)m->narrow_bytes)
                                       : json_null());
    json_object_update(object, numbers);
    json_object_update(object, rest);
    json_decref(numbers);
    json_decref(rest);
    return fm_json_print(object);
}

static void print_parts(const char *title, const fm_part *parts, int n) {
    struct table t = {.n_columns = 4, .n_left = 2};
    char size[SIZE_TEXT];

    if (n == 0) return;
    printf("\n%s\n", title);
    for (int i = 0; i < n; i++) {
        fm_table_add(&t, "%s", parts[i].what);
        fm_table_add(&t, "%s", parts[i].format);
        fm_table_add(&t, "%d tensor%s", parts[i].n_tensors, parts[i].n_tensors == 1 ? "" : "s");
        fm_table_add(&t, "%s", fm_memory_text(size, parts[i].bytes));
    }
    fm_table_print(&t, stdout, "  ");
}

/* "35.1 B", "5.3 M" */
static const char *count_text(char text[SIZE_TEXT], uint64_t n) {
    if (n >= 1000000000)
        snprintf(text, SIZE_TEXT, "%.1f billion", (double)n / 1e9);
    else
        snprintf(text, SIZE_TEXT, "%.1f million", (double)n / 1e6);
    return text;
}

static int print_text(const fm_model_info *m) {
    char a[SIZE_TEXT], b[SIZE_TEXT], c[SIZE_TEXT];

    printf("%s\n", m->path);
    printf("  architecture   %s (%s, family %s), read as %s\n", m->architecture, m->model_type, m->family, m->source);
    printf("  parameters     %s, %s active for a token\n", count_text(a, m->n_parameters), count_text(b, m->n_active_parameters));
    printf("  layers         %d: %d attention", m->n_layers, m->n_attention_layers);
    if (m->n_recurrent_layers > 0) printf(", %d %s", m->n_recurrent_layers, m->recurrent);
    printf("; %d with experts\n", m->n_moe_layers);
    printf("  hidden         %d, vocabulary %d\n", m->hidden, m->vocab);
    printf("  experts        %d a layer, %d for a token, %d wide; ", m->n_experts, m->experts_per_token, m->expert_width);
    if (m->shared_width > 0)
        printf("shared expert %d wide\n", m->shared_width);
    else
        printf("no shared expert\n");
    printf("  context        trained for %d tokens\n", m->max_position);
    printf("  on disk        dense %s, one expert %s, all experts %s\n", fm_memory_text(a, m->dense_bytes), fm_memory_text(b, m->expert_bytes),
           fm_memory_text(c, m->experts_bytes));
    if (m->narrow_bits > 0)
        printf("  narrow copies  of %d bits, one %s, all %s besides, for --cold-bits\n", m->narrow_bits, fm_memory_text(a, m->narrow_expert_bytes),
               fm_memory_text(b, m->narrow_bytes));
    if (m->vocab_entries > 0)
        printf("  tokenizer      %d entries\n", m->vocab_entries);
    else
        printf("  tokenizer      none found\n");
    printf("  chat template  %s\n", m->chat_template[0] ? m->chat_template : "none found");
    printf("  tool format    %s\n", m->tool_format[0] ? m->tool_format : "none");
    print_parts("What is run", m->parts, m->n_parts);
    print_parts("In the files and not run", m->left_out, m->n_left_out);
    return fm_finish_output();
}

static int info_main(const struct cli_command *command, int argc, char **argv) {
    struct info_options options = {0};
    const struct option_group groups[] = {OPTION_GROUP("Options", table, &options)};
    fm_engine_options engine_options = FM_ENGINE_OPTIONS_INIT;
    struct cli_words words;
    fm_model_info info = {0};
    fm_error err = {0};
    int status;

    (void)argc;
    if (fm_options_parse(command, groups, 1, 1, &words, argv, &status) != 0) return status;
    engine_options.config_from = options.config_from;
    if (fm_model_info_read(&info, words.words[0], &engine_options, &err) < 0) return fm_report(&err);
    return options.json ? print_json(&info) : print_text(&info);
}

const struct cli_command fm_command_info = {
    .name = "info",
    .arguments = "MODEL [options]",
    .summary = "say what a model is: architecture, sizes, number formats",
    .text = "Reads headers only, so it is quick for a model of any size.\n"
            "\n"
            "Examples\n"
            "  flash-moe info models/ember\n"
            "  flash-moe info models/ember --json | jq .expert_bytes\n",
    .main = info_main,
};
