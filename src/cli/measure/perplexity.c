/* cli/perplexity.c: `flash-moe perplexity`: how well a model predicts a text. Windows are independent: each begins with an empty session. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

struct perplexity_options {
    struct engine_choices engine;
    const char *prompt, *file;
    int window, tokens;
    bool json;
};

#define AT(field) offsetof(struct perplexity_options, field)

static const struct cli_option table[] = {
    {"file", 'f', OPTION_TEXT, AT(file), "FILE", "the text; - is standard input", 0, 0},
    {"prompt", 'p', OPTION_TEXT, AT(prompt), "TEXT", "the text itself", 0, 0},
    {"window", 0, OPTION_INT, AT(window), "N", "tokens that are predicted from each other (default: 512)", 2, 16777216},
    {"tokens", 0, OPTION_INT, AT(tokens), "N", "how many of the text's tokens are used (default: 8192)", 2, 2147483647},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "one JSON object instead of the text", 0, 0},
};

struct score {
    const int32_t *ids; /* of this window */
    int vocab, first;   /* of the window in the text */
    double nll;         /* sum over what was predicted */
    int n;              /* tokens predicted */
    fm_error err;
};

/* -log p(id), stable: the greatest logit is taken out of the exponent. */
static double negative_log_likelihood(const float *logits, int vocab, int32_t id) {
    double most = -INFINITY, sum = 0;

    for (int i = 0; i < vocab; i++) {
        if (isnan(logits[i])) return NAN;
        if ((double)logits[i] > most) most = (double)logits[i];
    }
    for (int i = 0; i < vocab; i++) sum += exp((double)logits[i] - most);
    return log(sum) + most - (double)logits[id];
}

static int add_position(void *user, int position, const float *logits) {
    struct score *s = user;
    int32_t next = s->ids[position + 1];
    double nll = negative_log_likelihood(logits, s->vocab, next);

    if (!isfinite(nll)) return fm_cli_fail(&s->err, FM_ENAN, "the likelihood of token %d of the text, id %d, is not a number", s->first + position + 1, next);
    s->nll += nll;
    s->n++;
    return 0;
}

static int score_windows(struct score *s, fm_engine *engine, const int32_t *ids, int n, const struct perplexity_options *options, struct progress *progress) {
    fm_session *session = NULL;
    int rc = fm_session_open(&session, engine, &s->err);

    for (int first = 0; rc >= 0 && n - first >= 2; first += options->window) {
        int length = n - first < options->window ? n - first : options->window, expected = s->n + length - 1;
        fm_error err = {0};
        fm_progress_show(progress, "tokens", (uint64_t)first, (uint64_t)n);
        s->ids = ids + first;
        s->first = first;
        fm_session_clear(session);
        rc = fm_session_feed(session, s->ids, length - 1, FM_LOGITS_ALL, add_position, s, &err);
        if (rc < 0 && s->err.code == 0) s->err = err; /* else it was add_position that stopped it, and said why */
        if (rc >= 0 && s->n != expected) rc = fm_cli_fail(&s->err, FM_EINVAL, "%d tokens were predicted instead of %d", s->n, expected);
    }
    fm_progress_clear(progress);
    fm_session_close(&session);
    return rc;
}

static int print_result(const struct score *s, double seconds, const struct perplexity_options *options) {
    double mean = s->nll / s->n;

    if (options->json)
        return fm_json_print(json_pack("{s:f, s:f, s:i, s:i, s:f, s:f}", "mean_nll", mean, "perplexity", exp(mean), "tokens", s->n, "window", options->window,
                                       "seconds", seconds, "tokens_per_second", s->n / seconds));
    printf("perplexity %.4f: mean negative log-likelihood %.6f over %d tokens in windows of %d (%.1f s, %.1f tokens/s)\n", exp(mean), mean, s->n,
           options->window, seconds, s->n / seconds);
    return fm_finish_output();
}

static int measure(const char *model, const struct perplexity_options *options, const struct text *text) {
    struct progress progress;
    fm_engine_options engine_options;
    fm_engine *engine = NULL;
    struct score s = {0};
    int32_t *ids = NULL;
    double start;
    int n, status = 0;

    fm_progress_open(&progress);
    engine_options = fm_engine_choose(&options->engine, &progress);
    if (engine_options.context == 0) engine_options.context = options->window;
    if (fm_open_engine(&engine, model, &engine_options, &s.err) < 0) goto end;
    s.vocab = fm_engine_info(engine)->vocab;
    if ((n = fm_engine_encode(engine, text->bytes, text->n, true, &ids, &s.err)) < 0) goto end;
    if (n < 2) {
        fm_cli_fail(&s.err, FM_EINVAL, "the text has %d token%s, and 2 is the least that can be predicted", n, n == 1 ? "" : "s");
        goto end;
    }
    start = fm_seconds();
    if (score_windows(&s, engine, ids, n < options->tokens ? n : options->tokens, options, &progress) >= 0)
        status = print_result(&s, fm_seconds() - start, options);

end:
    fm_progress_clear(&progress);
    if (s.err.code != 0) status = fm_report(&s.err);
    fm_free(ids);
    fm_close_engine(&engine);
    return status;
}

static int perplexity_main(const struct cli_command *command, int argc, char **argv) {
    struct perplexity_options options = {.window = 512, .tokens = 8192};
    const struct option_group groups[] = {OPTION_GROUP("Text", table, &options), ENGINE_GROUP(&options.engine)};
    struct cli_words words;
    struct text text;
    fm_error err = {0};
    int status, rc;

    (void)argc;
    if (fm_options_parse(command, groups, 2, 2, &words, argv, &status) != 0) return status;
    if (words.n == 2 && strcmp(words.words[1], "-") != 0) return fm_usage_error("'%s' is one word too many; a file is named with -f", words.words[1]);
    if (options.engine.context > 0 && options.engine.context < options.window)
        return fm_usage_error("--context is %d, but must be at least the --window of %d", options.engine.context, options.window);
    if ((rc = fm_read_text(&text, options.prompt, options.file, words.n == 2, &err)) < 0)
        return rc == FM_EINVAL ? fm_usage_error("%s", err.message) : fm_report(&err);
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
            "log-likelihood: lower is better, and only the same text and windows can be compared.\n"
            "\n"
            "Examples\n"
            "  flash-moe perplexity models/ember -f models/ember/held-out.txt\n"
            "  flash-moe perplexity models/ember -f models/ember/held-out.txt --experts-per-token 2\n"
            "  flash-moe perplexity models/ember -f models/ember/held-out.txt --activations f32 --json\n",
    .main = perplexity_main,
};
