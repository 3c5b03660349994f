/* cli/measure/replay.c: `flash-moe replay`: what a recorded routing says about caches: hit rates by policy and budget, and how alike neighbouring tokens are. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "flash_moe_tools.h"

struct replay_options {
    const char *budgets, *slots;
    int batch;
    bool json, csv;
};

#define AT(field) offsetof(struct replay_options, field)

static const struct cli_option table[] = {
    {"budget", 0, OPTION_TEXT, AT(budgets), "LIST", "caches as percentages of all experts\n(default: 5,8,10,15,20,25,33,50,75)", 0, 0},
    {"slots", 0, OPTION_TEXT, AT(slots), "LIST", "caches as numbers of experts", 0, 0},
    {"batch", 0, OPTION_INT, AT(batch), "N", "tokens of a prompt that are computed together (default: 4096)", 1, 1048576},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "one JSON object instead of the text, with hit rates by layer", 0, 0},
    {"csv", 0, OPTION_FLAG, AT(csv), NULL, "the hit rates as comma-separated values instead of the text", 0, 0},
};

static const char *const part_names[FM_REPLAY_PARTS] = {"prompt", "decoded", "later"};

static double ratio(uint64_t a, uint64_t b) { return b > 0 ? (double)a / (double)b : NAN; }
static double rate(const fm_replay *r, const fm_replay_row *row, int part) { return ratio(row->hits[part], r->n_requests[part]); }

/* ---- text ---- */

static void add_percent(struct table *t, double x) {
    if (isnan(x))
        fm_table_add(t, "-");
    else
        fm_table_add(t, "%.1f", 100 * x);
}

/* The decoded tokens' table also has the share of the default policy's misses that were predicted, the later ones' has the fixed choice. */
static void print_rates(const fm_replay *r, int part) {
    bool predicted = part == FM_REPLAY_DECODED && !isnan(r->recall), fixed = part == FM_REPLAY_LATER;
    struct table t = {.n_columns = 2 + r->n_rows + predicted + fixed};

    fm_table_add(&t, "cache");
    fm_table_add(&t, "experts");
    for (int i = 0; i < r->n_rows; i++) fm_table_add(&t, "%s%s", r->budgets[0].rows[i].policy, i == 1 ? " (default)" : "");
    if (predicted) fm_table_add(&t, "its misses predicted");
    if (fixed) fm_table_add(&t, "static");
    for (int b = 0; b < r->n_budgets; b++) {
        const fm_replay_budget *budget = &r->budgets[b];
        fm_table_add(&t, "%.1f %%", 100 * budget->share);
        fm_table_add(&t, "%d", budget->n_slots);
        for (int i = 0; i < r->n_rows; i++) add_percent(&t, rate(r, &budget->rows[i], part));
        if (predicted) add_percent(&t, ratio(budget->rows[1].n_predicted_misses, budget->rows[1].n_misses_with_forecast));
        if (fixed) add_percent(&t, ratio(budget->static_hits, r->n_requests[part]));
    }
    fm_table_print(&t, stdout, "  ");
}

/* Values by numbers, each times `by` with so many decimals. */
static void print_list(const char *title, const int *names, const double *values, int n, double by, int decimals) {
    printf("%s", title);
    for (int i = 0; i < n; i++) {
        printf("%s%d: ", i ? ", " : " ", names[i]);
        if (isnan(values[i]))
            printf("-");
        else
            printf("%.*f", decimals, by * values[i]);
    }
    printf("\n");
}

static void print_predictions(const fm_replay *r) {
    if (isnan(r->recall))
        printf("The trace has no predictions.\n");
    else
        printf("Predicted one layer ahead: %.1f %% of the experts of decoded tokens; the token before would have said %.1f %%.\n", 100 * r->recall,
               100 * r->recall_previous);
}

static int print_text(const fm_replay *r, const char *path) {
    printf("%s: %s, %d layers with %d experts each, %d for a token; %d sequences of %d prompt and %d decoded tokens\n", path, r->model_type, r->n_moe_layers,
           r->n_experts, r->top_k, r->n_sequences, r->n_prompt, r->n_decoded);
    printf("A token uses %d experts, which is %.1f %% of all %d.\n\n", r->n_moe_layers * r->top_k, 100.0 * r->top_k / r->n_experts, r->n_experts_total);
    printf("Hit rate of decoded tokens, %%. belady: the most that any cache without prefetching can reach.\n");
    print_rates(r, FM_REPLAY_DECODED);
    printf("\nThe same in the second half of the trace. static: what was used most in the first half stays for good.\n");
    print_rates(r, FM_REPLAY_LATER);
    printf("\nHit rate of prompts, %%\n");
    print_rates(r, FM_REPLAY_PROMPT);
    printf("\n");
    print_list("Experts in common with the token so many before, %:", r->lags, r->overlaps, FM_REPLAY_LAGS, 100, 1);
    print_list("Experts of so many tokens together, relative to one:", r->windows, r->unions, FM_REPLAY_UNIONS, 1, 2);
    print_predictions(r);
    return fm_finish_output();
}

/* ---- CSV ---- */

static void print_csv_line(const fm_replay *r, const fm_replay_budget *b, const char *policy, int part, uint64_t hits) {
    printf("%d,%.6g,%s,%s,%llu,%llu,", b->n_slots, b->share, policy, part_names[part], (unsigned long long)hits, (unsigned long long)r->n_requests[part]);
    if (r->n_requests[part])
        printf("%.6f\n", ratio(hits, r->n_requests[part]));
    else
        printf("\n");
}

static int print_csv(const fm_replay *r) {
    printf("experts,share,policy,part,hits,requests,hit_rate\n");
    for (int b = 0; b < r->n_budgets; b++) {
        for (int i = 0; i < r->n_rows; i++) {
            const fm_replay_row *row = &r->budgets[b].rows[i];
            for (int part = 0; part < FM_REPLAY_PARTS; part++) print_csv_line(r, &r->budgets[b], row->policy, part, row->hits[part]);
        }
        print_csv_line(r, &r->budgets[b], "static", FM_REPLAY_LATER, r->budgets[b].static_hits);
    }
    return fm_finish_output();
}

/* ---- JSON ---- */

static json_t *number(double x) { return isnan(x) ? json_null() : json_real(x); }

static json_t *numbers(const int *names, const double *values, int n) {
    json_t *object = json_object();
    char name[16];

    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "%d", names[i]);
        json_object_set_new(object, name, number(values[i]));
    }
    return object;
}

static json_t *row_json(const fm_replay *r, const fm_replay_row *row) {
    json_t *object = json_object(), *layers = json_array();

    for (int part = 0; part < FM_REPLAY_PARTS; part++) json_object_set_new(object, part_names[part], number(rate(r, row, part)));
    for (int i = 0; i < r->n_layers; i++) json_array_append_new(layers, number(ratio(row->hits_by_layer[i], r->n_requests_by_layer[i])));
    json_object_set_new(object, "decoded_by_layer", layers);
    json_object_set_new(object, "predicted_misses", number(ratio(row->n_predicted_misses, row->n_misses_with_forecast)));
    return object;
}

static int print_json(const fm_replay *r) {
    json_t *budgets = json_array(), *requests = json_object(), *object;

    for (int b = 0; b < r->n_budgets; b++) {
        const fm_replay_budget *budget = &r->budgets[b];
        json_t *policies = json_object();
        for (int i = 0; i < r->n_rows; i++) json_object_set_new(policies, budget->rows[i].policy, row_json(r, &budget->rows[i]));
        json_array_append_new(budgets, json_pack("{s:i, s:f, s:o, s:o}", "experts", budget->n_slots, "share", budget->share, "policies", policies,
                                                 "static_later", number(ratio(budget->static_hits, r->n_requests[FM_REPLAY_LATER]))));
    }
    for (int part = 0; part < FM_REPLAY_PARTS; part++) json_object_set_new(requests, part_names[part], json_integer((json_int_t)r->n_requests[part]));
    object = json_pack("{s:s, s:s, s:o, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:s}", "model_type", r->model_type, "architecture", r->architecture, "made",
                       json_loads(r->how, 0, NULL), "n_layers", r->n_layers, "n_moe_layers", r->n_moe_layers, "n_experts", r->n_experts, "experts_per_token",
                       r->top_k, "n_sequences", r->n_sequences, "prompt_tokens", r->n_prompt, "decoded_tokens", r->n_decoded, "default_policy",
                       r->budgets[0].rows[1].policy);
    json_object_set_new(object, "requests", requests);
    json_object_set_new(object, "budgets", budgets);
    json_object_set_new(object, "overlap", numbers(r->lags, r->overlaps, FM_REPLAY_LAGS));
    json_object_set_new(object, "union", numbers(r->windows, r->unions, FM_REPLAY_UNIONS));
    json_object_set_new(object, "recall", number(r->recall));
    json_object_set_new(object, "recall_previous_token", number(r->recall_previous));
    return fm_json_print(object);
}

/* ---- the command line ---- */

#define MAX_BUDGETS 64

/* "5,10" to numbers from least to most; returns how many. */
static int parse_list(const char *what, const char *list, double least, double most, float out[MAX_BUDGETS], fm_error *err) {
    char *copy = list ? strdup(list) : NULL, *rest = copy, *word;
    int n = 0, rc = 0;

    if (list && !copy) return fm_cli_fail(err, FM_ENOMEM, "no memory for the command line");
    while (rc == 0 && (word = strsep(&rest, ","))) {
        if (n == MAX_BUDGETS)
            rc = fm_cli_fail(err, FM_EINVAL, "%s has more than %d numbers", what, MAX_BUDGETS);
        else
            rc = fm_parse_float(what, word, least, most, &out[n++], err);
    }
    free(copy);
    return rc < 0 ? rc : n;
}

static int choose_budgets(const struct replay_options *o, fm_replay_options *out, int slots[MAX_BUDGETS], double shares[MAX_BUDGETS], fm_error *err) {
    float percent[MAX_BUDGETS], count[MAX_BUDGETS];
    int n_percent = parse_list("--budget", o->budgets, 0.01, 100, percent, err);
    int n_count = n_percent < 0 ? n_percent : parse_list("--slots", o->slots, 1, 1 << 24, count, err);

    if (n_count < 0) return n_count;
    for (int i = 0; i < n_percent; i++) shares[i] = (double)percent[i] / 100;
    for (int i = 0; i < n_count; i++) {
        slots[i] = (int)count[i];
        if ((float)slots[i] != count[i]) return fm_cli_fail(err, FM_EINVAL, "--slots needs whole numbers, not %g", (double)count[i]);
    }
    out->shares = shares;
    out->n_shares = n_percent;
    out->slots = slots;
    out->n_slots = n_count;
    out->batch = o->batch;
    return 0;
}

static int replay_main(const struct cli_command *command, int argc, char **argv) {
    struct replay_options options = {0};
    const struct option_group groups[] = {OPTION_GROUP("Caches and report", table, &options)};
    fm_replay_options replay_options = FM_REPLAY_OPTIONS_INIT;
    struct cli_words words;
    fm_replay *replay = NULL;
    fm_error err = {0};
    int slots[MAX_BUDGETS], status;
    double shares[MAX_BUDGETS];

    (void)argc;
    if (fm_options_parse(command, groups, 1, 1, &words, argv, &status) != 0) return status;
    if (options.json && options.csv) return fm_usage_error("give one of --json and --csv");
    if (choose_budgets(&options, &replay_options, slots, shares, &err) < 0) return fm_usage_error("%s", err.message);
    if (fm_replay_open(&replay, words.words[0], &replay_options, &err) < 0) return fm_report(&err);
    status = options.json ? print_json(replay) : options.csv ? print_csv(replay) : print_text(replay, words.words[0]);
    fm_replay_close(&replay);
    return status;
}

const struct cli_command fm_command_replay = {
    .name = "replay",
    .arguments = "FILE [options]",
    .summary = "what a recorded routing says about caches",
    .text = "FILE is a trace that flash-moe trace wrote. It is replayed through the cache policies, as the engine\n"
            "would use them: prompts fill the cache too, and it stays as it is from one prompt to the next.\n"
            "\n"
            "Examples\n"
            "  flash-moe replay bench/traces/ember-stories.trace\n"
            "  flash-moe replay stories.trace --budget 10,20,40 --csv\n"
            "  flash-moe replay stories.trace --json | python3 tools/plot_replay.py - -o stories\n",
    .main = replay_main,
};
