/* cli/measure/bench.c: `flash-moe bench`: this machine, a model on it, and which share of the hardware's limit it reached. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "flash_moe_tools.h"

struct bench_options {
    struct engine_choices engine;
    const char *prefill, *routing, *commit;
    int runs, tokens;
    bool json, csv;
};

#define AT(field) offsetof(struct bench_options, field)

static const struct cli_option table[] = {
    {"runs", 0, OPTION_INT, AT(runs), "N", "runs of each case, of which the median counts (default: 5)", 1, FM_BENCH_MAX_RUNS},
    {"tokens", 'n', OPTION_INT, AT(tokens), "N", "tokens decoded in a run (default: 64)", 1, 1000000},
    {"prefill", 0, OPTION_TEXT, AT(prefill), "N,N,…", "lengths of prompts (default: 128,512,2048, as far as they fit in the context)", 0, 0},
    {"routing", 0, OPTION_TEXT, AT(routing), "NAME|FILE",
     "where the choice of experts comes from: model, uniform, 128x8, 256x8,\n512x10, 512x4, a trace, or a JSON file (default: model)", 0, 0},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "one JSON object instead of the text", 0, 0},
    {"csv", 0, OPTION_FLAG, AT(csv), NULL, "a line of names and a line a case instead of the text", 0, 0},
    {"commit", 0, OPTION_TEXT, AT(commit), "TEXT", "what stands in the commit column of --csv", 0, 0},
};

/* "128,512" into options. */
static int parse_prefill(const char *list, fm_bench_options *options, fm_error *err) {
    char *copy = strdup(list), *rest = copy, *word;
    int rc = copy ? 0 : fm_cli_fail(err, FM_ENOMEM, "no memory for the list");

    while (rc == 0 && (word = strsep(&rest, ","))) {
        if (options->n_prefill == FM_BENCH_PREFILLS)
            rc = fm_cli_fail(err, FM_EINVAL, "--prefill takes at most %d lengths", FM_BENCH_PREFILLS);
        else
            rc = fm_parse_int("a length of --prefill", word, 1, 16777216, &options->prefill[options->n_prefill++], err);
    }
    free(copy);
    return rc;
}

/* ---- JSON ---- */

static json_t *spread_json(const fm_spread *s, double unit) {
    return json_pack("{s:f, s:f, s:f}", "median", s->median / unit, "min", s->least / unit, "max", s->most / unit);
}

static json_t *rates_json(const fm_bench_rate *rates, int n, const char *level) {
    json_t *list = json_array();

    for (int i = 0; i < n; i++) {
        json_t *rate = spread_json(&rates[i].bytes_per_second, 1e9);
        json_object_set_new(rate, level, json_integer(rates[i].level));
        json_array_append_new(list, rate);
    }
    return list;
}

static json_t *decode_json(const fm_bench_case *c) {
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:i, s:i, s:{s:o, s:o, s:o}}", "tokens_per_second", c->tokens_per_second.median, "hit_rate",
                     c->hit_rate, "disk_bytes_per_token", c->disk_bytes_per_token, "ram_bytes_per_token", c->ram_bytes_per_token, "stall_seconds",
                     c->stall_seconds, "compute_seconds", c->compute_seconds, "share_of_limit", c->share_of_limit.median, "share_of_ideal",
                     c->share_of_ideal.median, "tokens", c->n_tokens, "runs", c->n_runs, "spread", "tokens_per_second", spread_json(&c->tokens_per_second, 1),
                     "share_of_limit", spread_json(&c->share_of_limit, 1), "share_of_ideal", spread_json(&c->share_of_ideal, 1));
}

static json_t *prefill_json(const fm_bench *b) {
    json_t *list = json_array();

    for (int i = 0; i < b->n_prefill; i++) {
        const fm_bench_case *c = &b->prefill[i];
        json_array_append_new(list, json_pack("{s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:i, s:{s:o, s:o}}", "tokens", c->n_tokens, "tokens_per_second",
                                              c->tokens_per_second.median, "share_of_limit", c->share_of_limit.median, "hit_rate", c->hit_rate,
                                              "disk_bytes_per_token", c->disk_bytes_per_token, "ram_bytes_per_token", c->ram_bytes_per_token, "stall_seconds",
                                              c->stall_seconds, "compute_seconds", c->compute_seconds, "runs", c->n_runs, "spread", "tokens_per_second",
                                              spread_json(&c->tokens_per_second, 1), "share_of_limit", spread_json(&c->share_of_limit, 1)));
    }
    return list;
}

static int print_json(const fm_bench *b, const fm_engine *engine) {
    const fm_plan *p = fm_engine_plan(engine);
    json_t *warnings = json_array(), *object;

    for (int i = 0; i < b->n_warnings; i++) json_array_append_new(warnings, fm_json_text(b->warnings[i], strlen(b->warnings[i])));
    object = json_pack("{s:f, s:f, s:o, s:{s:o, s:o, s:o}, s:o}", "ram_gb_per_s", b->ram_bytes_per_second.median / 1e9, "disk_gb_per_s",
                       b->disk_bytes_per_second.median / 1e9, "routing", fm_json_text(b->routing, strlen(b->routing)), "decode", "warm",
                       decode_json(&b->decode[0]), "cold", decode_json(&b->decode[1]), "rotating", decode_json(&b->decode[2]), "prefill", prefill_json(b));
    json_object_set_new(object, "machine",
                        json_pack("{s:o, s:o, s:f, s:I, s:b, s:i, s:s, s:s}", "ram_gb_per_s_by_threads", rates_json(b->ram, b->n_ram, "threads"),
                                  "disk_gb_per_s_by_reads", rates_json(b->disk, b->n_disk, "reads_in_flight"), "kernel_gop_per_s",
                                  b->operations_per_second.median / 1e9, "read_bytes", (json_int_t)b->expert_bytes, "direct", b->direct, "threads",
                                  b->n_threads, "cpu", fm_engine_cpu(engine), "io", fm_engine_io(engine)));
    json_object_set_new(object, "model",
                        json_pack("{s:o, s:I, s:i, s:i, s:i, s:I, s:b}", "path",
                                  fm_json_text(fm_engine_info(engine)->path, strlen(fm_engine_info(engine)->path)), "memory_bytes", (json_int_t)p->budget_bytes,
                                  "context", p->context, "n_slots", p->n_slots, "n_experts_total", p->n_experts_total, "expert_disk_bytes",
                                  (json_int_t)p->expert_disk_bytes, "resident", p->resident));
    json_object_set_new(object, "approximation", fm_engine_approximation(engine) ? json_string(fm_engine_approximation(engine)) : json_null());
    json_object_set_new(object, "version", json_string(FM_VERSION));
    json_object_set_new(object, "warnings", warnings);
    return fm_json_print(object);
}

/* ---- CSV ---- */

/* In quotes, as names may have commas. */
static void print_quoted(const char *text) {
    putchar('"');
    for (; *text; text++) printf(*text == '"' ? "\"\"" : "%c", *text);
    printf("\",");
}

static const char *model_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static void print_row(const fm_bench *b, const fm_engine *engine, const char *commit, const fm_bench_case *c) {
    const fm_spread *speed = &c->tokens_per_second;
    bool prompt = strcmp(c->name, "prefill") == 0;

    print_quoted(commit ? commit : "");
    printf("%s,", FM_VERSION);
    print_quoted(model_name(fm_engine_info(engine)->path));
    printf("%llu,%d,", (unsigned long long)fm_engine_plan(engine)->budget_bytes, b->n_threads);
    print_quoted(b->routing);
    printf(prompt ? "%s %d," : "%s,", c->name, c->n_tokens);
    printf("%d,%d,%.6g,%.6g,%.6g,", c->n_tokens, c->n_runs, speed->median, speed->least, speed->most);
    printf("%.6g,%.8g,%.8g,%.6g,%.6g,%.6g,", c->hit_rate, c->disk_bytes_per_token, c->ram_bytes_per_token, c->stall_seconds, c->compute_seconds,
           c->share_of_limit.median);
    if (!prompt) printf("%.6g", c->share_of_ideal.median);
    printf(",%.6g,%.6g\n", b->ram_bytes_per_second.median / 1e9, b->disk_bytes_per_second.median / 1e9);
}

static int print_csv(const fm_bench *b, const fm_engine *engine, const char *commit) {
    puts("commit,version,model,memory_bytes,threads,routing,case,tokens,runs,tokens_per_second,tokens_per_second_min,tokens_per_second_max,hit_rate,"
         "disk_bytes_per_token,ram_bytes_per_token,stall_seconds,compute_seconds,share_of_limit,share_of_ideal,ram_gb_per_s,disk_gb_per_s");
    for (int i = 0; i < 3; i++) print_row(b, engine, commit, &b->decode[i]);
    for (int i = 0; i < b->n_prefill; i++) print_row(b, engine, commit, &b->prefill[i]);
    return fm_finish_output();
}

/* ---- text ---- */

static void print_machine(const fm_bench *b, const fm_engine *engine) {
    struct table t = {.n_columns = 4, .n_left = 2};
    char size[SIZE_TEXT];

    printf("This machine\n");
    for (int i = 0; i < b->n_ram; i++) {
        const fm_spread *s = &b->ram[i].bytes_per_second;
        fm_table_add(&t, "memory");
        fm_table_add(&t, "%d thread%s", b->ram[i].level, b->ram[i].level == 1 ? "" : "s");
        fm_table_add(&t, "%.1f GB/s", s->median / 1e9);
        fm_table_add(&t, "%.1f to %.1f", s->least / 1e9, s->most / 1e9);
    }
    for (int i = 0; i < b->n_disk; i++) {
        const fm_spread *s = &b->disk[i].bytes_per_second;
        fm_table_add(&t, i ? "" : b->direct ? "disk, direct" : "disk, through the page cache");
        fm_table_add(&t, "%s in flight", fm_disk_text(size, (double)b->expert_bytes * b->disk[i].level));
        fm_table_add(&t, "%.2f GB/s", s->median / 1e9);
        fm_table_add(&t, "%.2f to %.2f", s->least / 1e9, s->most / 1e9);
    }
    fm_table_add(&t, "%s kernel", fm_engine_cpu(engine));
    fm_table_add(&t, "%d thread%s", b->n_threads, b->n_threads == 1 ? "" : "s");
    fm_table_add(&t, "%.0f Gop/s", b->operations_per_second.median / 1e9);
    fm_table_add(&t, "%.0f to %.0f", b->operations_per_second.least / 1e9, b->operations_per_second.most / 1e9);
    fm_table_print(&t, stdout, "  ");
}

static void add_case(struct table *t, const fm_bench_case *c) {
    char size[SIZE_TEXT];
    bool prompt = strcmp(c->name, "prefill") == 0;

    if (prompt)
        fm_table_add(t, "prefill of %d", c->n_tokens);
    else
        fm_table_add(t, "decode, %s", c->name);
    fm_table_add(t, "%.2f", c->tokens_per_second.median);
    fm_table_add(t, "%.2f to %.2f", c->tokens_per_second.least, c->tokens_per_second.most);
    fm_table_add(t, "%.1f %%", 100 * c->hit_rate);
    fm_table_add(t, "%s", fm_disk_text(size, c->disk_bytes_per_token));
    fm_table_add(t, "%s", fm_disk_text(size, c->ram_bytes_per_token));
    fm_table_add(t, "%.3f s", c->stall_seconds);
    fm_table_add(t, "%.3f s", c->compute_seconds);
    fm_table_add(t, "%.0f %%", 100 * c->share_of_limit.median);
    if (prompt)
        fm_table_add(t, "%s", "");
    else
        fm_table_add(t, "%.0f %%", 100 * c->share_of_ideal.median);
}

static int print_text(const fm_bench *b, const fm_engine *engine) {
    static const char *const heads[] = {"", "tokens/s", "from … to", "hits", "disk/token", "memory/token", "stall", "compute", "of limit", "of ideal"};
    struct table t = {.n_columns = 10, .n_left = 1};
    const fm_plan *p = fm_engine_plan(engine);
    char size[SIZE_TEXT];

    print_machine(b, engine);
    printf("\n%s in %s, %d of %d experts fit; routing: %s\n", fm_engine_info(engine)->path, fm_memory_text(size, p->budget_bytes), p->n_slots,
           p->n_experts_total, b->routing);
    if (fm_engine_approximation(engine)) printf("An approximation: %s.\n", fm_engine_approximation(engine));
    for (int i = 0; i < 10; i++) fm_table_add(&t, "%s", heads[i]);
    for (int i = 0; i < 3; i++) add_case(&t, &b->decode[i]);
    for (int i = 0; i < b->n_prefill; i++) add_case(&t, &b->prefill[i]);
    fm_table_print(&t, stdout, "  ");
    printf("Medians of %d runs of %d tokens%s. Stall and compute are of one run.\n", b->decode[0].n_runs, b->decode[0].n_tokens,
           b->n_prefill ? "; of a prompt, at most 3 runs" : "");
    printf("Limit: layer by layer, what has to be read before the experts are known, then the larger of memory and disk,\n"
           "then the last missed expert; of a prompt, the largest of disk, memory and products, at the speed of this\n"
           "kernel for 32 tokens in the caches. Ideal: the larger of all bytes of memory and all bytes of the disk.\n");
    return fm_finish_output();
}

/* ---- the command ---- */

static int bench(const char *model, const struct bench_options *options, const fm_bench_options *asked) {
    struct progress progress;
    fm_engine_options engine_options;
    fm_engine *engine = NULL;
    fm_error err = {0};
    fm_bench result;
    int rc, status;

    fm_progress_open(&progress);
    engine_options = fm_engine_choose(&options->engine, &progress);
    rc = fm_open_engine(&engine, model, &engine_options, &err);
    if (rc >= 0) rc = fm_bench_run(&result, engine, asked, &err);
    fm_progress_clear(&progress);
    if (rc < 0) {
        status = fm_report_given(&err);
    } else {
        for (int i = 0; i < result.n_warnings; i++) fprintf(stderr, "flash-moe: warning: %s\n", result.warnings[i]);
        status = options->json ? print_json(&result, engine) : options->csv ? print_csv(&result, engine, options->commit) : print_text(&result, engine);
    }
    fm_close_engine(&engine);
    return status;
}

static int bench_main(const struct cli_command *command, int argc, char **argv) {
    struct bench_options options = {0};
    const struct option_group groups[] = {OPTION_GROUP("Bench", table, &options), ENGINE_GROUP(&options.engine)};
    fm_bench_options asked = FM_BENCH_OPTIONS_INIT;
    struct cli_words words;
    fm_error err = {0};
    int status;

    (void)argc;
    if (fm_options_parse(command, groups, 2, 1, &words, argv, &status) != 0) return status;
    if (options.json && options.csv) return fm_usage_error("give one of --json and --csv");
    if (options.commit && !options.csv) return fm_usage_error("--commit is a column of --csv");
    if (options.prefill && parse_prefill(options.prefill, &asked, &err) < 0) return fm_usage_error("%s", err.message);
    asked.n_runs = options.runs;
    asked.n_tokens = options.tokens;
    asked.routing = options.routing;
    return bench(words.words[0], &options, &asked);
}

const struct cli_command fm_command_bench = {
    .name = "bench",
    .arguments = "MODEL [options]",
    .summary = "measure the machine, a model's speed, and the share of the limit",
    .text = "Measures memory and disk, and in turns with that the model: decoding warm (a text goes on), cold (the\n"
            "cache is emptied before each run) and rotating (another text each run), and reading prompts, all with\n"
            "random tokens. The share of the limit says how much of what these bytes allow on this hardware was\n"
            "reached. Where experts are read through the page cache it is dropped before each run. Measuring takes\n"
            "memory beside --memory: up to 256 MiB when the dense weights are smaller than that.\n"
            "\n"
            "Random weights route without locality. --routing lets experts be drawn instead: from a trace that\n"
            "`trace` recorded, a preset with the hit rates of a published workload (experts x picks), or a JSON\n"
            "file {\"exponent\": 1.1, \"reuse\": 0.2} (Zipf weights, and the chance that a pick repeats one of the\n"
            "token before; each a number, or a list with one for each layer).\n"
            "\n"
            "Examples\n"
            "  flash-moe bench models/ember --memory 20M\n"
            "  flash-moe bench MODEL --memory 16G --routing 512x10 --json\n"
            "  flash-moe bench MODEL --memory 16G --csv --commit $(git rev-parse --short HEAD) >>bench/this-machine.csv\n",
    .main = bench_main,
};
