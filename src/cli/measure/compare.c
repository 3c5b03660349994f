/* cli/measure/compare.c: `flash-moe compare`: how far one model, or one way to run it, is from another. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "flash_moe_tools.h"

struct compare_options {
    struct engine_choices engine;
    const char *prompt, *file;
    int window, stride, tokens, decode;
    bool json;
};

#define AT(field) offsetof(struct compare_options, field)

static const struct cli_option table[] = {
    {"file", 'f', OPTION_TEXT, AT(file), "FILE", "the text; - is standard input", 0, 0},
    {"prompt", 'p', OPTION_TEXT, AT(prompt), "TEXT", "the text itself", 0, 0},
    {"window", 0, OPTION_INT, AT(window), "N", "tokens that are predicted from each other (default: 512)", 2, 16777216},
    {"stride", 0, OPTION_INT, AT(stride), "N", "tokens from one window to the next (default: --window)", 1, 16777216},
    {"tokens", 0, OPTION_INT, AT(tokens), "N", "how many of the text's tokens are used (default: 8192)", 2, 2147483647},
    {"decode", 0, OPTION_INT, AT(decode), "N", "tokens that each is given one at a time, to compare speeds (default: 64)", 0, 65536},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "one JSON object instead of the table", 0, 0},
};

/* What the two have in common; the rest of the settings is B's alone. */
static struct engine_choices settings_of_a(const struct engine_choices *b) {
    return (struct engine_choices){.memory = b->memory,
                                   .threads = b->threads,
                                   .context = b->context,
                                   .io = b->io,
                                   .policy = b->policy,
                                   .config_from = b->config_from,
                                   .no_verify = b->no_verify};
}

static bool differ(const struct engine_choices *b) {
    return b->experts_per_token || b->activations || b->prefetch || b->kv || b->cpu || b->mirror || b->missing || b->cold_bits;
}

/* Each gets half of what may be used. */
static int open_both(fm_engine *engines[2], const char *const models[2], const struct compare_options *options, struct progress *progress, fm_error *err) {
    struct engine_choices choices[2] = {settings_of_a(&options->engine), options->engine};
    fm_engine_options both[2];
    fm_plan plan;
    int rc;

    for (int i = 0; i < 2; i++) {
        both[i] = fm_engine_choose(&choices[i], progress);
        if (both[i].context == 0) both[i].context = options->window;
    }
    if (both[0].memory_bytes == 0) {
        if ((rc = fm_plan_make(&plan, models[0], &both[0], err)) < 0) return rc;
        both[0].memory_bytes = both[1].memory_bytes = plan.budget_bytes;
    }
    for (int i = 0; i < 2; i++) {
        both[i].memory_bytes /= 2;
        if ((rc = fm_open_engine(&engines[i], models[i], &both[i], err)) < 0) return rc;
    }
    return 0;
}

static json_t *side_json(const char *model, const fm_engine *engine, const fm_perplexity_result *r, double decode) {
    return json_pack("{s:o, s:s?, s:f, s:f, s:f, s:f, s:f}", "model", fm_json_text(model, strlen(model)), "approximation", fm_engine_approximation(engine),
                     "perplexity", r->perplexity, "mean_nll", r->mean_nll, "seconds", r->seconds, "tokens_per_second", r->n_tokens / r->seconds,
                     "decoded_per_second", decode);
}

static double ratio(double a, double b) { return a > 0 ? b / a : 0; }

static int print_json(const char *const models[2], fm_engine *const engines[2], const fm_compare_result *r, const struct compare_options *options) {
    return fm_json_print(json_pack("{s:o, s:o, s:i, s:i, s:{s:f, s:f, s:f, s:f, s:f}, s:f, s:f, s:f, s:f}", "a",
                                   side_json(models[0], engines[0], &r->a, r->decode_a), "b", side_json(models[1], engines[1], &r->b, r->decode_b), "tokens",
                                   r->a.n_tokens, "window", options->window, "kl", "mean", r->kl_mean, "median", r->kl_median, "p90", r->kl_p90, "p99",
                                   r->kl_p99, "most", r->kl_most, "same_top", r->same_top, "perplexity_ratio", ratio(r->a.perplexity, r->b.perplexity),
                                   "speed_ratio", ratio(r->b.seconds, r->a.seconds), "decode_ratio", ratio(r->decode_a, r->decode_b)));
}

static int print_result(const char *const models[2], fm_engine *const engines[2], const fm_compare_result *r, const struct compare_options *options) {
    struct table t = {.n_columns = 4, .n_left = 1};

    for (int i = 0; i < 2; i++) {
        const char *approximation = fm_engine_approximation(engines[i]);
        printf("%c  %s%s%s\n", 'A' + i, models[i], approximation ? ": an approximation: " : "", approximation ? approximation : "");
    }
    printf("%d tokens in windows of %d%s\n\n", r->a.n_tokens, options->window, fm_engine_cache_matters(engines[1]) ? ", given one at a time" : "");
    fm_table_add(&t, "%s", ""), fm_table_add(&t, "A"), fm_table_add(&t, "B"), fm_table_add(&t, "B / A");
    fm_table_add(&t, "perplexity"), fm_table_add(&t, "%.4f", r->a.perplexity), fm_table_add(&t, "%.4f", r->b.perplexity);
    fm_table_add(&t, "%.4f", ratio(r->a.perplexity, r->b.perplexity));
    fm_table_add(&t, "tokens/s of the text"), fm_table_add(&t, "%.1f", r->a.n_tokens / r->a.seconds), fm_table_add(&t, "%.1f", r->b.n_tokens / r->b.seconds);
    fm_table_add(&t, "%.2f", ratio(r->b.seconds, r->a.seconds));
    if (r->decode_a > 0) {
        fm_table_add(&t, "tokens/s one at a time"), fm_table_add(&t, "%.1f", r->decode_a), fm_table_add(&t, "%.1f", r->decode_b);
        fm_table_add(&t, "%.2f", ratio(r->decode_a, r->decode_b));
    }
    fm_table_print(&t, stdout, "  ");
    printf("\n  KL divergence of B from A, in nats: mean %.3g, median %.3g, 90 %% below %.3g, 99 %% below %.3g, most %.3g\n", r->kl_mean, r->kl_median,
           r->kl_p90, r->kl_p99, r->kl_most);
    printf("  the same likeliest token: %.2f %%\n", 100 * r->same_top);
    return fm_finish_output();
}

static int compare(const char *const models[2], const struct compare_options *options, const struct text *text) {
    struct progress progress;
    fm_quality_options quality = FM_QUALITY_OPTIONS_INIT;
    fm_compare_result result;
    fm_engine *engines[2] = {0};
    fm_error err = {0};
    int32_t *ids = NULL;
    int n, status;

    fm_progress_open(&progress);
    quality.window = options->window;
    quality.stride = options->stride;
    quality.decode = options->decode;
    quality.progress = fm_progress_show;
    quality.user = &progress;
    if (open_both(engines, models, options, &progress, &err) == 0 && (n = fm_engine_encode(engines[0], text->bytes, text->n, true, &ids, &err)) >= 0)
        (void)fm_compare(engines[0], engines[1], ids, n < options->tokens ? n : options->tokens, &quality, &result, &err);
    fm_progress_clear(&progress);
    status = err.code != 0 ? fm_report(&err) : options->json ? print_json(models, engines, &result, options) : print_result(models, engines, &result, options);
    fm_free(ids);
    fm_close_engine(&engines[1]);
    fm_close_engine(&engines[0]);
    return status;
}

static int compare_main(const struct cli_command *command, int argc, char **argv) {
    struct compare_options options = {.window = 512, .tokens = 8192, .decode = 64};
    const struct option_group groups[] = {OPTION_GROUP("Text", table, &options), ENGINE_GROUP(&options.engine)};
    struct cli_words words;
    struct text text;
    fm_error err = {0};
    int status;

    (void)argc;
    if (fm_options_parse(command, groups, 2, 2, &words, argv, &status) != 0) return status;
    const char *const models[2] = {words.words[0], words.n > 1 ? words.words[1] : words.words[0]};
    if (words.n < 2 && !differ(&options.engine))
        return fm_usage_error("one model alone is compared with itself under another setting, such as --experts-per-token 4");
    if (options.engine.context > 0 && options.engine.context < options.window)
        return fm_usage_error("--context is %d, but must be at least the --window of %d", options.engine.context, options.window);
    if (options.stride > options.window) return fm_usage_error("--stride is %d, but must be at most the --window of %d", options.stride, options.window);
    if (fm_read_text(&text, options.prompt, options.file, false, &err) < 0) return fm_report_given(&err);
    status = compare(models, &options, &text);
    free(text.bytes);
    return status;
}

const struct cli_command fm_command_compare = {
    .name = "compare",
    .arguments = "MODEL [OTHER] -f FILE [options]",
    .summary = "measure how far one model, or setting, is from another",
    .text = "Both predict every token of the text, in windows, and each prediction of the second (B) is compared\n"
            "with that of the first (A): KL divergence, the likeliest token, perplexity and speed. With one MODEL,\n"
            "B is the same under the settings given. --memory is for both together, and --threads, --context, --io,\n"
            "--policy and --config-from are of both; all other settings of model and machine are B's.\n"
            "\n"
            "Examples\n"
            "  flash-moe compare models/ember /tmp/ember-3-bit -f models/ember/held-out.txt\n"
            "  flash-moe compare models/ember -f models/ember/held-out.txt --experts-per-token 4\n"
            "  flash-moe compare models/ember -f models/ember/held-out.txt --cpu scalar --tokens 512\n",
    .main = compare_main,
};
