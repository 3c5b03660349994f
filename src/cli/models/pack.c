/* cli/models/pack.c: `flash-moe pack`: makes a packed model of any that can be run, smaller if asked, and says what that cost. */
#include <stdio.h>
#include <string.h>

#include "cli/models/pack_options.h"

struct own_options {
    const char *output, *config_from;
    bool dry_run, json;
};

#define AT(field) offsetof(struct own_options, field)

static const struct cli_option table[] = {
    {"output", 'o', OPTION_TEXT, AT(output), "DIR", "the directory to write, which must not be there yet", 0, 0},
    {"config-from", 0, OPTION_TEXT, AT(config_from), "DIR", "where config.json and tokenizer.json are, if not in MODEL", 0, 0},
    {"dry-run", 0, OPTION_FLAG, AT(dry_run), NULL, "only say what would be written", 0, 0},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "one JSON object instead of the text", 0, 0},
};

static void print_plan(const fm_pack_plan *p, const char *model, const char *output) {
    struct table t = {.n_columns = 3, .n_left = 1};
    const struct {
        const char *what;
        uint64_t bytes;
    } rows[] = {{"dense part", p->dense_bytes},    {"one expert", p->expert_bytes}, {"the whole model", p->model_bytes}, {"to be read", p->source_bytes},
                {"to be written", p->write_bytes}, {"needed there", p->disk_bytes}, {"free there", p->free_bytes}};
    char size[SIZE_TEXT];

    printf("%s from %s (%s): %s, %d layers, %d with %d experts each\n", output, model, p->source, p->architecture, p->n_layers, p->n_moe_layers, p->n_experts);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fm_table_add(&t, "%s", rows[i].what);
        fm_table_add(&t, "%s", fm_disk_text(size, (double)rows[i].bytes));
        fm_table_add(&t, "%llu bytes", (unsigned long long)rows[i].bytes);
    }
    fm_table_print(&t, stdout, "  ");
    printf("  %d threads, %s of memory\n", p->n_threads, fm_memory_text(size, p->memory_bytes));
    if (p->dense_done || p->n_layers_done > 0)
        printf("  goes on: %s%d of %d layers are written already\n", p->dense_done ? "the dense part and " : "", p->n_layers_done, p->n_moe_layers);
    fflush(stdout);
}

static void print_figures(const char *title, const fm_pack_figure *figures, int n) {
    struct table t = {.n_columns = 7, .n_left = 3};

    if (n == 0) return;
    fm_table_add(&t, "%s", title), fm_table_add(&t, "from"), fm_table_add(&t, "to"), fm_table_add(&t, "weights");
    fm_table_add(&t, "RMSE"), fm_table_add(&t, "relative"), fm_table_add(&t, "cosine");
    for (int i = 0; i < n; i++) {
        const fm_pack_figure *f = &figures[i];
        fm_table_add(&t, "%s", f->what);
        fm_table_add(&t, "%s", f->from);
        fm_table_add(&t, "%s", f->to);
        fm_table_add(&t, "%llu", (unsigned long long)f->n_weights);
        fm_table_add(&t, "%.3g", f->rmse);
        fm_table_add(&t, "%.2f %%", 100 * f->relative);
        fm_table_add(&t, "%.6f", f->cosine);
    }
    fm_table_print(&t, stdout, "  ");
}

/* The share of the time that the disk alone would have taken for the same bytes, one after the other; 0: not measured. */
static double disk_share(const fm_pack_result *r) {
    double seconds = 0;

    if (!(r->disk_read_per_second > 0 && r->disk_write_per_second > 0 && r->seconds > 0)) return 0;
    seconds = (double)r->read_bytes / r->disk_read_per_second + (double)r->written_bytes / r->disk_write_per_second;
    return seconds / r->seconds;
}

void fm_pack_print(const fm_pack_result *r, const char *output) {
    char read[SIZE_TEXT], written[SIZE_TEXT];

    print_figures("what was lost", r->kinds, r->n_kinds);
    print_figures("the worst matrices", r->worst, r->n_worst);
    if (r->n_unfit > 0) printf("  kept as they were, as their columns are no whole number of groups: %d matrices of the dense part\n", r->n_unfit);
    if (r->n_kinds == 0 && r->n_unfit == 0) printf("  nothing was lost: all weights are kept bit for bit\n");
    if (r->kept_bytes > 0)
        printf("  %s of the source are not freed: its files have other names too, or are links to what may be others'\n",
               fm_disk_text(read, (double)r->kept_bytes));
    if (r->written_bytes == 0) {
        printf("%s was whole already\n", output);
        return;
    }
    printf("%s: %s read and %s written in %.1f s", output, fm_disk_text(read, (double)r->read_bytes), fm_disk_text(written, (double)r->written_bytes),
           r->seconds);
    if (disk_share(r) > 0)
        printf("; this disk, which reads %.2f GB/s and writes %.2f GB/s, would take %.0f %% of that", r->disk_read_per_second / 1e9,
               r->disk_write_per_second / 1e9, 100 * disk_share(r));
    printf("%s\n", r->direct ? "" : "; the source is read through the page cache");
}

static json_t *figures_json(const fm_pack_figure *figures, int n) {
    json_t *list = json_array();

    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:I, s:f, s:f, s:f}", "what", figures[i].what, "from", figures[i].from, "to", figures[i].to,
                                              "weights", (json_int_t)figures[i].n_weights, "rmse", figures[i].rmse, "relative", figures[i].relative, "cosine",
                                              figures[i].cosine));
    return list;
}

static json_t *plan_json(const fm_pack_plan *p) {
    return json_pack("{s:s, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "source", p->source, "threads", p->n_threads, "layers_done", p->n_layers_done,
                     "dense_bytes", (json_int_t)p->dense_bytes, "expert_bytes", (json_int_t)p->expert_bytes, "model_bytes", (json_int_t)p->model_bytes,
                     "source_bytes", (json_int_t)p->source_bytes, "write_bytes", (json_int_t)p->write_bytes, "disk_bytes", (json_int_t)p->disk_bytes,
                     "free_bytes", (json_int_t)p->free_bytes, "memory_bytes", (json_int_t)p->memory_bytes);
}

static int print_json(const fm_pack_result *r) {
    return fm_json_print(json_pack("{s:o, s:o, s:o, s:i, s:I, s:I, s:I, s:f, s:f, s:f, s:f}", "plan", plan_json(&r->plan), "kinds",
                                   figures_json(r->kinds, r->n_kinds), "worst", figures_json(r->worst, r->n_worst), "unfit", r->n_unfit, "read_bytes",
                                   (json_int_t)r->read_bytes, "written_bytes", (json_int_t)r->written_bytes, "kept_bytes", (json_int_t)r->kept_bytes, "seconds",
                                   r->seconds, "disk_read_per_second", r->disk_read_per_second, "disk_write_per_second", r->disk_write_per_second, "disk_share",
                                   disk_share(r)));
}

static int pack(const char *model, const struct own_options *given, const fm_pack_options *options) {
    fm_pack_options shown = *options;
    struct progress progress;
    fm_pack_plan plan;
    fm_pack_result result;
    fm_error err = {0};
    int rc = fm_pack_plan_make(&plan, model, given->output, options, &err);

    if (rc < 0) return fm_report_given(&err);
    if (given->dry_run && given->json) return fm_json_print(plan_json(&plan));
    if (!given->json && plan.model_bytes > 0) print_plan(&plan, model, given->output);
    if (given->dry_run) return fm_finish_output();
    fm_progress_open(&progress);
    shown.progress = fm_progress_show;
    shown.user = &progress;
    fm_catch_signals();
    rc = fm_pack_model(model, given->output, &shown, &result, &err);
    fm_progress_clear(&progress);
    if (rc < 0) return fm_report(&err);
    if (given->json) return print_json(&result);
    fm_pack_print(&result, given->output);
    return fm_finish_output();
}

static int pack_main(const struct cli_command *command, int argc, char **argv) {
    struct own_options given = {0};
    struct pack_choices choices = PACK_CHOICES_INIT;
    const struct option_group groups[] = {OPTION_GROUP("Options", table, &given), PACK_GROUP(&choices)};
    fm_pack_options options;
    struct cli_words words;
    int status;

    (void)argc;
    if (fm_options_parse(command, groups, 2, 1, &words, argv, &status) != 0) return status;
    if (!given.output) return fm_usage_error("pack needs -o DIR, the directory to write");
    if ((status = fm_pack_choose(&choices, &options)) != 0) return status;
    options.config_from = given.config_from;
    return pack(words.words[0], &given, &options);
}

const struct cli_command fm_command_pack = {
    .name = "pack",
    .arguments = "MODEL -o DIR [options]",
    .summary = "make a packed model, which is read faster, and smaller if asked",
    .text = "Writes a packed model of any that can be run: each expert in one piece, with checksums. Without\n"
            "--experts and --dense its answers are the same to the bit. What is quantised follows MLX's rule, or\n"
            "with --search a better one, and what was lost is printed. Whatever stops it, the same command goes\n"
            "on where it was; DIR appears when it is whole, and is DIR.part until then.\n"
            "\n"
            "Examples\n"
            "  flash-moe pack models/ember -o /tmp/ember\n"
            "  flash-moe pack my-model -o packed --experts 4 --dense 8 --search\n"
            "  flash-moe pack my-model -o packed --experts 4,2 --search\n"
            "  flash-moe pack my-model -o packed --experts 3 --rules rules.json --delete-consumed\n",
    .main = pack_main,
};
