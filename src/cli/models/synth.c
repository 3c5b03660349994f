/* cli/models/synth.c: `flash-moe synth`: writes a model of random weights at a real shape, so that speed can be known before anything is downloaded. */
#include <stdio.h>

#include "cli/cli.h"
#include "flash_moe_tools.h"

struct synth_options {
    const char *output, *tokenizer;
    int layers, bits, group, share_layers, threads;
    uint64_t seed;
    bool list;
};

#define AT(field) offsetof(struct synth_options, field)

static const struct cli_option table[] = {
    {"output", 'o', OPTION_TEXT, AT(output), "DIR", "the directory to write, which must not be there yet", 0, 0},
    {"layers", 'l', OPTION_INT, AT(layers), "N", "layers of the model (default: as many as CONFIG says)", 1, 512},
    {"bits", 0, OPTION_CHOICE, AT(bits), "2|3|4|5|6|8", "of a weight (default: 4); routers have 8", 0, 0},
    {"group", 0, OPTION_CHOICE, AT(group), "32|64|128", "weights that share a scale (default: 64)", 0, 0},
    {"share-layers", 0, OPTION_INT, AT(share_layers), "M",
     "write the experts of M layers only, which the layers take in turn: the disk\nholds less, and a token reads as much (default: each has its own)", 1, 512},
    {"seed", 0, OPTION_SEED, AT(seed), "N", "of the random numbers: the same seed writes the same bytes (default: 0)", 0, 0},
    {"threads", 't', OPTION_INT, AT(threads), "N", "threads that make numbers and write (default: one per CPU and one more)", 1, 1024},
    {"tokenizer", 0, OPTION_TEXT, AT(tokenizer), "DIR", "copy tokenizer and chat template from there (default: the model has none)", 0, 0},
    {"list", 0, OPTION_FLAG, AT(list), NULL, "say which shapes are known by name", 0, 0},
};

static const int bits[] = {2, 3, 4, 5, 6, 8}, groups[] = {32, 64, 128};
enum { DEFAULT_BITS = 2, DEFAULT_GROUP = 1 }; /* indexes */

static int list_shapes(void) {
    struct table t = {.n_columns = 4, .n_left = 2};
    char size[SIZE_TEXT];
    const char *name, *summary;

    fm_table_add(&t, "CONFIG"), fm_table_add(&t, "%s", ""), fm_table_add(&t, "dense"), fm_table_add(&t, "experts");
    for (int i = 0; (name = fm_synth_shape(i, &summary)); i++) {
        fm_synth_plan plan;
        fm_error err;
        if (fm_synth_plan_make(&plan, name, NULL, NULL, &err) < 0) return fm_report(&err);
        fm_table_add(&t, "%s", name);
        fm_table_add(&t, "%s", summary);
        fm_table_add(&t, "%s", fm_disk_text(size, (double)plan.dense_bytes));
        fm_table_add(&t, "%s", fm_disk_text(size, (double)plan.bank_bytes));
    }
    fm_table_print(&t, stdout, "  ");
    printf("Sizes at 4 bits.\n");
    return fm_finish_output();
}

static void print_plan(const fm_synth_plan *p, const fm_synth_options *options, const char *output) {
    struct table t = {.n_columns = 3, .n_left = 1};
    const struct {
        const char *what;
        uint64_t bytes;
    } rows[] = {{"dense part", p->dense_bytes},           {"one expert", p->expert_bytes},  {"experts of a layer", p->file_bytes},
                {"experts of all layers", p->bank_bytes}, {"to be written", p->disk_bytes}, {"free there", p->free_bytes}};
    char size[SIZE_TEXT];

    printf("%s: %s, %d layers, %d with %d experts each, %d bits in groups of %d\n", output, p->architecture, p->n_layers, p->n_moe_layers, p->n_experts,
           options->bits, options->group);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fm_table_add(&t, "%s", rows[i].what);
        fm_table_add(&t, "%s", fm_disk_text(size, (double)rows[i].bytes));
        fm_table_add(&t, "%llu bytes", (unsigned long long)rows[i].bytes);
    }
    fm_table_print(&t, stdout, "  ");
    if (p->n_files < p->n_moe_layers) printf("  %d layers take the experts of %d files in turn\n", p->n_moe_layers, p->n_files);
    fflush(stdout);
}

/* What to do where it does not fit. */
static int refuse(const fm_synth_plan *p, const char *output) {
    char need[SIZE_TEXT], have[SIZE_TEXT], advice[80] = "fewer --layers need less";
    uint64_t files = p->free_bytes > p->dense_bytes ? (p->free_bytes - p->dense_bytes) / p->file_bytes : 0;
    fm_error err = {0};

    if (files > 0) snprintf(advice, sizeof advice, "--share-layers %d would fit, or fewer --layers", (int)files);
    fm_cli_fail(&err, FM_EIO, "%s: it needs %s, but only %s are free there; %s", output, fm_disk_text(need, (double)p->disk_bytes),
                fm_disk_text(have, (double)p->free_bytes), advice);
    return fm_report(&err);
}

static void print_result(const fm_synth_result *r) {
    double work = r->random_seconds + r->writing_seconds;
    char size[SIZE_TEXT];

    printf("written: %s in %.1f s, %.2f GB/s; of the time of %d threads, %.0f %% made numbers and %.0f %% wrote them\n",
           fm_disk_text(size, (double)r->written_bytes), r->seconds, (double)r->written_bytes / r->seconds / 1e9, r->n_threads,
           work > 0 ? 100 * r->random_seconds / work : 0, work > 0 ? 100 * r->writing_seconds / work : 0);
}

static int synth(const char *config, const char *output, const fm_synth_options *options) {
    fm_synth_options shown = *options;
    struct progress progress;
    fm_synth_plan plan;
    fm_synth_result result;
    fm_error err = {0};
    int rc;

    rc = fm_synth_plan_make(&plan, config, output, options, &err);
    if (rc < 0) return fm_report_given(&err);
    print_plan(&plan, options, output);
    if (plan.disk_bytes > plan.free_bytes) {
        fm_finish_output();
        return refuse(&plan, output);
    }
    fm_progress_open(&progress);
    shown.progress = fm_progress_show;
    shown.user = &progress;
    fm_catch_signals();
    rc = fm_synth(config, output, &shown, &result, &err);
    fm_progress_clear(&progress);
    if (rc < 0) return fm_report(&err);
    print_result(&result);
    return fm_finish_output();
}

static int synth_main(const struct cli_command *command, int argc, char **argv) {
    struct synth_options given = {.bits = DEFAULT_BITS, .group = DEFAULT_GROUP};
    const struct option_group group[] = {OPTION_GROUP("Options", table, &given)};
    fm_synth_options options = FM_SYNTH_OPTIONS_INIT;
    struct cli_words words;
    int status;

    (void)argc;
    if (fm_options_parse(command, group, 1, -1, &words, argv, &status) != 0) return status;
    if (given.list) return words.n > 0 ? fm_usage_error("--list stands alone, without '%s'", words.words[0]) : list_shapes();
    if (words.n == 0) return fm_usage_error("synth needs CONFIG, a shape's name or a config.json; flash-moe synth --list names the known ones");
    if (!given.output) return fm_usage_error("synth needs -o DIR, the directory to write");
    options.n_layers = given.layers;
    options.bits = bits[given.bits];
    options.group = groups[given.group];
    options.share_layers = given.share_layers;
    options.seed = given.seed;
    options.n_threads = given.threads;
    options.tokenizer = given.tokenizer;
    return synth(words.words[0], given.output, &options);
}

const struct cli_command fm_command_synth = {
    .name = "synth",
    .arguments = "CONFIG -o DIR [options]",
    .summary = "write a model of random weights, to measure speed with",
    .text = "Writes a packed model in the shape of a published one with random weights: it takes the memory, the\n"
            "disk and the time of the real model and says nothing sensible. CONFIG is a name of --list, or a\n"
            "config.json, or a directory with one. Says what it will write, and refuses what does not fit.\n"
            "\n"
            "Examples\n"
            "  flash-moe synth --list\n"
            "  flash-moe synth models/ember -o /tmp/ember --tokenizer models/ember\n"
            "  flash-moe synth config.json -o /data/model --bits 2 --share-layers 8\n",
    .main = synth_main,
};
