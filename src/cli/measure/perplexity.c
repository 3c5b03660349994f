/* cli/measure/perplexity.c: `flash-moe perplexity`: how well a model predicts a text. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "flash_moe_tools.h"

struct perplexity_options {
    struct engine_choices engine;
    const char *prompt, *file, *each;
    int window, stride, tokens;
    bool json;
};

#define AT(field) offsetof(struct perplexity_options, field)

static const struct cli_option table[] = {
    {"file", 'f', OPTION_TEXT, AT(file), "FILE", "the text; - is standard input", 0, 0},
    {"prompt", 'p', OPTION_TEXT, AT(prompt), "TEXT", "the text itself", 0, 0},
    {"window", 0, OPTION_INT, AT(window), "N", "tokens that are predicted from each other (default: 512)", 2, 16777216},
    {"stride", 0, OPTION_INT, AT(stride), "N",
     "tokens from one window to the next; less than --window: windows overlap, and\nonly what is new in each is counted (default: --window)", 1, 16777216},
    {"tokens", 0, OPTION_INT, AT(tokens), "N", "how many of the text's tokens are used (default: 8192)", 2, 2147483647},
    {"each", 0, OPTION_TEXT, AT(each), "FILE", "write each token there: place, id, negative log-likelihood, text, by tabs", 0, 0},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "one JSON object instead of the text", 0, 0},
};

struct context { /* of the callbacks */
    FILE *each;  /* where every token's value goes; NULL: nowhere */
    fm_engine *engine;
    struct progress *progress;
};

static int write_token(void *user, int place, int32_t id, double nll, double nll_b) {
    const struct context *c = user;
    const char *bytes;
    int n = fm_engine_token_bytes(c->engine, id, &bytes);

    (void)nll_b;
    fprintf(c->each, "%d\t%d\t%.9g\t", place, (int)id, nll);
    for (int i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)bytes[i];
        if (byte < ' ' || byte == '\\' || byte == 127)
            fprintf(c->each, "\\x%02x", byte);
        else
            putc(byte, c->each);
    }
    putc('\n', c->each);
    return ferror(c->each) != 0;
}

static int show(void *user, const char *what, uint64_t done, uint64_t total) {
    const struct context *c = user;

    return fm_progress_show(c->progress, what, done, total);
}

static int print_result(const fm_perplexity_result *r, const struct perplexity_options *options, const char *approximation) {
    double rate = r->n_tokens / r->seconds;

    if (options->json)
        return fm_json_print(json_pack("{s:s?, s:f, s:f, s:i, s:i, s:i, s:f, s:f}", "approximation", approximation, "mean_nll", r->mean_nll, "perplexity",
                                       r->perplexity, "tokens", r->n_tokens, "window", options->window, "stride",
                                       options->stride ? options->stride : options->window, "seconds", r->seconds, "tokens_per_second", rate));
    printf("perplexity %.4f: mean negative log-likelihood %.6f over %d tokens in windows of %d (%.1f s, %.1f tokens/s)\n", r->perplexity, r->mean_nll,
           r->n_tokens, options->window, r->seconds, rate);
    if (approximation) printf("an approximation: %s\n", approximation);
    return fm_finish_output();
}

/* The file of --each is whole, or there is an error. */
static void close_each(struct context *c, const char *path, fm_error *err) {
    if (!c->each) return;
    bool failed = ferror(c->each) != 0;
    failed |= fclose(c->each) != 0;
    if (failed && (err->code == 0 || err->code == FM_ECANCELLED)) fm_cli_fail(err, FM_EIO, "%s cannot be written", path);
}

static int measure(const char *model, const struct perplexity_options *options, const struct text *text) {
    struct progress progress;
    struct context c = {.progress = &progress};
    fm_quality_options quality = FM_QUALITY_OPTIONS_INIT;
    fm_perplexity_result result;
    fm_engine_options engine_options;
    fm_error err = {0};
    int32_t *ids = NULL;
    int n, status = 0;

    fm_progress_open(&progress);
    engine_options = fm_engine_choose(&options->engine, &progress);
    if (engine_options.context == 0) engine_options.context = options->window;
    if (fm_open_engine(&c.engine, model, &engine_options, &err) < 0) goto end;
    if ((n = fm_engine_encode(c.engine, text->bytes, text->n, true, &ids, &err)) < 0) goto end;
    if (options->each && !(c.each = fopen(options->each, "w"))) {
        fm_cli_fail(&err, FM_EIO, "%s cannot be written: %s", options->each, strerror(errno));
        goto end;
    }
    quality.window = options->window;
    quality.stride = options->stride;
    quality.token = c.each ? write_token : NULL;
    quality.progress = show;
    quality.user = &c;
    (void)fm_perplexity(c.engine, ids, n < options->tokens ? n : options->tokens, &quality, &result, &err);

end:
    fm_progress_clear(&progress);
    close_each(&c, options->each, &err);
    status = err.code != 0 ? fm_report(&err) : print_result(&result, options, fm_engine_approximation(c.engine));
    fm_free(ids);
    fm_close_engine(&c.engine);
    return status;
}

static int perplexity_main(const struct cli_command *command, int argc, char **argv) {
    struct perplexity_options options = {.window = 512, .tokens = 8192};
    const struct option_group groups[] = {OPTION_GROUP("Text", table, &options), ENGINE_GROUP(&options.engine)};
    struct cli_words words;
    struct text text;
    fm_error err = {0};
    int status;

    (void)argc;
    if (fm_options_parse(command, groups, 2, 2, &words, argv, &status) != 0) return status;
    if (words.n == 2 && strcmp(words.words[1], "-") != 0) return fm_usage_error("'%s' is one word too many; a file is named with -f", words.words[1]);
    if (options.engine.context > 0 && options.engine.context < options.window)
        return fm_usage_error("--context is %d, but must be at least the --window of %d", options.engine.context, options.window);
    if (options.stride > options.window) return fm_usage_error("--stride is %d, but must be at most the --window of %d", options.stride, options.window);
    if (fm_read_text(&text, options.prompt, options.file, words.n == 2, &err) < 0) return fm_report_given(&err);
    status = measure(words.words[0], &options, &text);
    free(text.bytes);
    return status;
}

const struct cli_command fm_command_perplexity = {
    .name = "perplexity",
    .arguments = "MODEL -f FILE [options]",
    .summary = "measure how well a model predicts a text",
    .text = "The first --tokens tokens of the text are cut into windows of --window; in each, every token but\n"
            "the first is predicted from those before it. The result is exp of the mean negative\n"
            "log-likelihood: lower is better, and only the same text and windows can be compared. With --stride\n"
            "each token has more of the text before it, and reading it takes longer.\n"
            "\n"
            "Examples\n"
            "  flash-moe perplexity models/ember -f models/ember/held-out.txt\n"
            "  flash-moe perplexity models/ember -f models/ember/held-out.txt --experts-per-token 2\n"
            "  flash-moe perplexity models/ember -f models/ember/held-out.txt --activations f32 --json\n",
    .main = perplexity_main,
};
