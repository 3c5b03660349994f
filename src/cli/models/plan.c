/* cli/models/plan.c: `flash-moe plan`: will a model fit, and what can this machine's disk and memory give? The formulas are an upper bound: they know the bytes that a
 * token has to move and the speeds measured here, and no arithmetic. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

#define MEASURE_SECONDS 2.0

struct plan_options {
    struct engine_choices engine;
    bool no_measure, json;
};

#define AT(field) offsetof(struct plan_options, field)

static const struct cli_option table[] = {
    {"no-measure", 0, OPTION_FLAG, AT(no_measure), NULL, "do not measure the disk and the memory, which takes 2 seconds", 0, 0},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "one JSON object instead of the text", 0, 0},
};

static const double hit_rates[] = {0, 0.30, 0.50, 0.70, 0.85, 0.95, 1};
enum { N_HIT_RATES = sizeof hit_rates / sizeof *hit_rates };

struct rate {
    double read_bytes; /* per token */
    double serial_tokens_per_second, overlapped_tokens_per_second;
};

/* A missed expert's bytes cross the memory twice: written by the disk, then read. */
static struct rate rate_at(const fm_plan *plan, const fm_machine_speed *speed, double hit_rate) {
    double experts = (double)plan->token_expert_bytes, ram, io;
    struct rate r = {.read_bytes = (1 - hit_rate) * experts};

    if (!speed || speed->ram_bytes_per_second <= 0 || speed->disk_bytes_per_second <= 0) return r;
    ram = ((double)plan->token_dense_bytes + experts * (2 - hit_rate)) / speed->ram_bytes_per_second;
    io = r.read_bytes / speed->disk_bytes_per_second;
    r.serial_tokens_per_second = 1 / (ram + io);
    r.overlapped_tokens_per_second = 1 / (ram > io ? ram : io);
    return r;
}

/* ---- JSON ---- */

static json_t *rates_json(const fm_plan *plan, const fm_machine_speed *speed) {
    json_t *list = json_array();

    for (int i = 0; i < N_HIT_RATES; i++) {
        struct rate r = rate_at(plan, speed, hit_rates[i]);
        json_t *row = json_pack("{s:f, s:I}", "hit_rate", hit_rates[i], "read_bytes_per_token", (json_int_t)r.read_bytes);
        if (speed) {
            json_object_set_new(row, "serial_tokens_per_second", json_real(r.serial_tokens_per_second));
            json_object_set_new(row, "overlapped_tokens_per_second", json_real(r.overlapped_tokens_per_second));
        }
        json_array_append_new(list, row);
    }
    return list;
}

/* What --cold-bits saves at most: all of a token's experts come as narrow copies. */
static json_t *narrow_json(const fm_plan *p) {
    if (!p->narrow_bits) return json_null();
    return json_pack("{s:i, s:I, s:I, s:I, s:I}", "bits", p->narrow_bits, "expert_disk_bytes", (json_int_t)p->narrow_expert_bytes, "disk_bytes",
                     (json_int_t)p->narrow_bytes, "token_expert_bytes", (json_int_t)p->token_narrow_bytes, "token_saves_bytes",
                     (json_int_t)(p->token_expert_bytes - p->token_narrow_bytes));
}

static int print_json(const fm_plan *p, const fm_machine_speed *speed, bool fits) {
    json_t *object = json_pack("{s:b, s:I, s:I, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "fits", fits, "budget_bytes", (json_int_t)p->budget_bytes,
                               "available_bytes", (json_int_t)p->available_bytes, "budget_given", p->budget_given, "dense_bytes", (json_int_t)p->dense_bytes,
                               "session_bytes", (json_int_t)p->session_bytes, "buffer_bytes", (json_int_t)p->buffer_bytes, "text_bytes",
                               (json_int_t)p->text_bytes, "overhead_bytes", (json_int_t)p->overhead_bytes, "slot_bytes", (json_int_t)p->slot_bytes,
                               "cache_bytes", (json_int_t)p->cache_bytes, "floor_bytes", (json_int_t)p->floor_bytes);
    json_t *rest = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:b, s:I, s:I, s:I, s:o}", "kv", fm_kv_text(p->kv), "n_slots", p->n_slots, "n_experts_total",
                             p->n_experts_total, "min_slots", p->min_slots, "context", p->context, "batch", p->batch, "resident", p->resident,
                             "expert_disk_bytes", (json_int_t)p->expert_disk_bytes, "token_expert_bytes", (json_int_t)p->token_expert_bytes,
                             "token_dense_bytes", (json_int_t)p->token_dense_bytes, "rates", rates_json(p, speed));

    json_object_set_new(object, "narrow", narrow_json(p));
    json_object_update(object, rest);
    json_decref(rest);
    if (speed)
        json_object_set_new(object, "machine",
                            json_pack("{s:f, s:f, s:i, s:I, s:b}", "ram_bytes_per_second", speed->ram_bytes_per_second, "disk_bytes_per_second",
                                      speed->disk_bytes_per_second, "n_threads", speed->n_threads, "read_bytes", (json_int_t)speed->read_bytes, "direct",
                                      speed->direct));
    return fm_json_print(object);
}

/* ---- text ---- */

static void print_memory(const fm_plan *p) {
    const struct {
        const char *what;
        uint64_t bytes;
    } rows[] = {{"dense weights", p->dense_bytes}, {"sessions", p->session_bytes},     {"buffers", p->buffer_bytes},
                {"tokenizer", p->text_bytes},      {"the program", p->overhead_bytes}, {"experts", p->cache_bytes}};
    struct table t = {.n_columns = 2, .n_left = 1};
    char size[SIZE_TEXT], other[SIZE_TEXT];

    printf("Memory: %s %s, %s free on this machine\n", fm_memory_text(size, p->budget_bytes), p->budget_given ? "asked for" : "to be used",
           fm_memory_text(other, p->available_bytes));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fm_table_add(&t, "%s", rows[i].what);
        fm_table_add(&t, "%s", fm_memory_text(size, rows[i].bytes));
    }
    fm_table_print(&t, stdout, "  ");
    printf("  %d of %d experts fit, %s each; context %d tokens in %s, prompts are read %d tokens at a time\n", p->n_slots, p->n_experts_total,
           fm_memory_text(size, p->slot_bytes), p->context, fm_kv_text(p->kv), p->batch);
    printf("  the least that runs at this context is %s, with %d experts\n", fm_memory_text(size, p->floor_bytes), p->min_slots);
}

static void print_rates(const fm_plan *p, const fm_machine_speed *speed) {
    struct table t = {.n_columns = speed ? 4 : 2, .n_left = 1};
    char size[SIZE_TEXT], other[SIZE_TEXT];

    printf("\nA token uses %s of dense weights and %s of experts.\n", fm_disk_text(size, (double)p->token_dense_bytes),
           fm_disk_text(other, (double)p->token_expert_bytes));
    if (p->narrow_bits)
        printf("Narrow copies of %d bits take %s of the disk; --cold-bits %d reads at most %s a token less than the table says (not exact).\n", p->narrow_bits,
               fm_disk_text(size, (double)p->narrow_bytes), p->narrow_bits, fm_disk_text(other, (double)(p->token_expert_bytes - p->token_narrow_bytes)));
    if (p->resident) printf("The whole model fits in memory: after it is loaded, nothing is read.\n");
    if (speed)
        printf("This machine: memory %.1f GB/s with %d threads, disk %.2f GB/s in %s reads of %s.\n", speed->ram_bytes_per_second / 1e9, speed->n_threads,
               speed->disk_bytes_per_second / 1e9, speed->direct ? "direct" : "buffered", fm_disk_text(size, (double)speed->read_bytes));
    fm_table_add(&t, "found in memory");
    fm_table_add(&t, "read per token");
    if (speed) fm_table_add(&t, "one after the other"), fm_table_add(&t, "at the same time");
    for (int i = 0; i < N_HIT_RATES; i++) {
        struct rate r = rate_at(p, speed, hit_rates[i]);
        fm_table_add(&t, "%.0f %%", 100 * hit_rates[i]);
        fm_table_add(&t, "%s", fm_disk_text(size, r.read_bytes));
        if (!speed) continue;
        fm_table_add(&t, "%.2f tokens/s", r.serial_tokens_per_second);
        fm_table_add(&t, "%.2f tokens/s", r.overlapped_tokens_per_second);
    }
    fm_table_print(&t, stdout, "  ");
    if (speed) printf("The last columns are bounds: reading and computing one after the other, and at the same time, if computing were free.\n");
}

/* ---- the command ---- */

/* The longest context of a half, a quarter, … that fits this budget; 0: none. */
static int context_that_fits(const char *model, const struct engine_choices *choices, int context) {
    fm_plan plan;

    for (context /= 2; context >= 256; context /= 2) {
        struct engine_choices less = *choices;
        fm_engine_options options;
        less.context = context;
        options = fm_engine_choose(&less, NULL);
        options.log = NULL;
        options.progress = NULL;
        if (fm_plan_make(&plan, model, &options, NULL) == 0) return context;
    }
    return 0;
}

static int refuse(const struct plan_options *options, const char *model, const fm_plan *plan, const fm_error *err) {
    uint64_t mib = (plan->floor_bytes + (1 << 20) - 1) >> 20;
    int context;

    if (plan->floor_bytes == 0) return fm_report(err);
    context = context_that_fits(model, &options->engine, plan->context);
    if (options->json) {
        print_json(plan, NULL, false);
    } else {
        print_memory(plan);
        printf("\nWhat would fit: --memory %lluM", (unsigned long long)mib);
        if (context > 0) printf(", or --context %d", context);
        printf("\n");
        fm_finish_output();
    }
    return fm_report(err);
}

static int plan_main(const struct cli_command *command, int argc, char **argv) {
    struct plan_options options = {0};
    const struct option_group groups[] = {OPTION_GROUP("Options", table, &options), ENGINE_GROUP(&options.engine)};
    struct cli_words words;
    struct progress progress;
    fm_engine_options engine_options;
    fm_machine_speed speed = {0};
    fm_plan plan = {0};
    fm_error err = {0};
    int status, rc;

    (void)argc;
    if (fm_options_parse(command, groups, 2, 1, &words, argv, &status) != 0) return status;
    fm_progress_open(&progress);
    engine_options = fm_engine_choose(&options.engine, &progress);
    rc = fm_plan_make(&plan, words.words[0], &engine_options, &err);
    if (rc == FM_ENOMEM) return refuse(&options, words.words[0], &plan, &err);
    if (rc < 0) return fm_report(&err);
    if (!options.no_measure && fm_machine_speed_measure(&speed, words.words[0], &engine_options, MEASURE_SECONDS, &err) < 0) {
        fm_progress_clear(&progress);
        return fm_report(&err);
    }
    fm_progress_clear(&progress);
    if (options.json) return print_json(&plan, options.no_measure ? NULL : &speed, true);
    print_memory(&plan);
    print_rates(&plan, options.no_measure ? NULL : &speed);
    return fm_finish_output();
}

const struct cli_command fm_command_plan = {
    .name = "plan",
    .arguments = "MODEL [options]",
    .summary = "say whether a model fits, and how fast it can be on this machine",
    .text = "Loads nothing. Says how the memory would be divided, what a token reads from the disk at several\n"
            "hit rates, and which speed the disk and the memory allow, both measured now.\n"
            "It refuses, with exit code 1, what `run` would refuse, and says what would fit.\n"
            "\n"
            "Examples\n"
            "  flash-moe plan models/ember\n"
            "  flash-moe plan models/ember --memory 24M --context 4096\n"
            "  flash-moe plan models/ember --memory 24M --no-measure --json\n",
    .main = plan_main,
};
