/* cli/models/pack.c: `flash-moe pack`: makes a packed model of any that can be run, smaller if asked, and says what that cost. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "flash_moe_tools.h"

struct pack_options {
    const char *output, *rules, *config_from, *profile, *experts;
    int dense, group, threads;
    uint64_t memory;
    bool search, delete_consumed, dry_run, json;
};

#define AT(field) offsetof(struct pack_options, field)

static const struct cli_option table[] = {
    {"output", 'o', OPTION_TEXT, AT(output), "DIR", "the directory to write, which must not be there yet", 0, 0},
    {"experts", 0, OPTION_TEXT, AT(experts), "keep|2|3|4|5|6|8|bf16[,2|4]",
     "\nbits of the experts' weights (default: keep, bit for bit), and of a second\ncopy of each, for run --cold-bits", 0, 0},
    {"dense", 0, OPTION_CHOICE, AT(dense), "keep|2|3|4|5|6|8|bf16", "\nthe same of all other matrices; routers keep 8 at least (default: keep)", 0, 0},
    {"group", 0, OPTION_CHOICE, AT(group), "32|64|128", "weights that share a scale in what is quantised\n(default: as in the source, else 64)", 0, 0},
    {"search", 0, OPTION_FLAG, AT(search), NULL, "look for scales with less error than MLX's rule gives: slower", 0, 0},
    {"profile", 0, OPTION_TEXT, AT(profile), "FILE", "weigh the search's errors by what flash-moe profile saw", 0, 0},
    {"rules", 0, OPTION_TEXT, AT(rules), "FILE",
     "other bits for some matrices, as JSON:\n[{\"tensors\": \"*.down_proj\", \"layers\": \"0-3\", \"bits\": 6}, …]", 0, 0},
    {"delete-consumed", 0, OPTION_FLAG, AT(delete_consumed), NULL,
     "give the source's weights back to the disk as they are packed;\nits files are gone at the end", 0, 0},
    {"memory", 'm', OPTION_SIZE, AT(memory), "SIZE", "memory that packing may use (default: half of what is free, at most 2G)", 0, 0},
    {"threads", 't', OPTION_INT, AT(threads), "N", "threads that read, convert and write\n(default: one per CPU and six more)", 1, 1024},
    {"config-from", 0, OPTION_TEXT, AT(config_from), "DIR", "where config.json and tokenizer.json are, if not in MODEL", 0, 0},
    {"dry-run", 0, OPTION_FLAG, AT(dry_run), NULL, "only say what would be written", 0, 0},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "one JSON object instead of the text", 0, 0},
};

static const int bits[] = {FM_BITS_KEEP, 2, 3, 4, 5, 6, 8, FM_BITS_BF16}, groups[] = {32, 64, 128};

/* "4,2": bits of the experts and of their second copies. */
static int parse_experts(const char *text, fm_pack_options *options) {
    static const char *const names[] = {"keep", "2", "3", "4", "5", "6", "8", "bf16"};
    const char *comma = text ? strchr(text, ',') : NULL;
    size_t n = !text ? 0 : comma ? (size_t)(comma - text) : strlen(text);
    int found = text ? -1 : 0;

    for (int i = 0; i < 8 && text; i++) {
        if (strlen(names[i]) == n && strncmp(names[i], text, n) == 0) found = i;
    }
    if (found < 0 || (comma && strcmp(comma, ",2") != 0 && strcmp(comma, ",4") != 0))
        return fm_usage_error("--experts is one of keep, 2, 3, 4, 5, 6, 8 and bf16, and may end in ,2 or ,4, not '%s'", text);
    options->experts = bits[found];
    options->experts_too = comma ? comma[1] - '0' : 0;
    return 0;
}

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
    return fm_json_print(json_pack("{s:o, s:o, s:o, s:i, s:I, s:I, s:f, s:f, s:f, s:f}", "plan", plan_json(&r->plan), "kinds",
                                   figures_json(r->kinds, r->n_kinds), "worst", figures_json(r->worst, r->n_worst), "unfit", r->n_unfit, "read_bytes",
                                   (json_int_t)r->read_bytes, "written_bytes", (json_int_t)r->written_bytes, "seconds", r->seconds, "disk_read_per_second",
                                   r->disk_read_per_second, "disk_write_per_second", r->disk_write_per_second, "disk_share", disk_share(r)));
}

static int pack(const char *model, const struct pack_options *given, const fm_pack_options *options) {
    fm_pack_options shown = *options;
    struct progress progress;
    fm_pack_plan plan;
    fm_pack_result result;
    fm_error err = {0};
    int rc = fm_pack_plan_make(&plan, model, given->output, options, &err);

    if (rc == FM_EINVAL) return fm_usage_error("%s", err.message);
    if (rc < 0) return fm_report(&err);
    if (given->dry_run && given->json) return fm_json_print(plan_json(&plan));
    if (!given->json) print_plan(&plan, model, given->output);
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
    struct pack_options given = {.group = -1};
    const struct option_group group[] = {OPTION_GROUP("Options", table, &given)};
    fm_pack_options options = FM_PACK_OPTIONS_INIT;
    struct cli_words words;
    int status;

    (void)argc;
    if (fm_options_parse(command, group, 1, 1, &words, argv, &status) != 0) return status;
    if (!given.output) return fm_usage_error("pack needs -o DIR, the directory to write");
    options.config_from = given.config_from;
    if ((status = parse_experts(given.experts, &options)) != 0) return status;
    options.dense = bits[given.dense];
    options.group = given.group < 0 ? 0 : groups[given.group];
    options.search = given.search;
    options.delete_consumed = given.delete_consumed;
    options.profile = given.profile;
    options.rules = given.rules;
    options.memory_bytes = given.memory;
    options.n_threads = given.threads;
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
