/* cli/talk/run.c: `flash-moe run`: answers a prompt or continues a text. What the model says goes to stdout as it comes, all else to stderr. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/talk/run.h"

#define AT(field) offsetof(struct run_options, field)

static const struct cli_option text_table[] = {
    {"prompt", 'p', OPTION_TEXT, AT(prompt), "TEXT", "what the user says; with --raw the text to continue", 0, 0},
    {"file", 'f', OPTION_TEXT, AT(file), "FILE", "a file with that text; - is standard input", 0, 0},
    {"raw", 0, OPTION_FLAG, AT(raw), NULL, "no chat template: the text goes to the model as it is; special tokens\nsuch as <|im_start|> in it are recognised",
     0, 0},
    {"max-tokens", 'n', OPTION_INT, AT(max_tokens), "N", "tokens to make; -1: until the model ends or the context is full\n(default: -1)", -1, 2147483647},
    {"stop", 0, OPTION_LIST, AT(stops), "TEXT", "end before this text; may be given again", 0, 0},
    {"ignore-eos", 0, OPTION_FLAG, AT(ignore_eos), NULL, "with --raw: go on after the model's end-of-text token", 0, 0},
};

static const struct cli_option chat_table[] = {
    {"system", 0, OPTION_TEXT, AT(system), "TEXT", "the system prompt, instead of one that --messages has", 0, 0},
    {"tools", 0, OPTION_TEXT, AT(tools), "FILE", "tools that the model may call: a JSON list as OpenAI's API takes it,\nor a file of flash-moe chat --tools", 0,
     0},
    {"messages", 0, OPTION_TEXT, AT(messages), "FILE",
     "a conversation to answer: a JSON list of messages as OpenAI's API takes\nthem; what -p or -f says comes behind it", 0, 0},
    {"think-budget", 0, OPTION_INT, AT(think_budget), "N", "end the model's reasoning after N tokens; -1: any (default: -1)", -1, 2147483647},
    {"reasoning", 0, OPTION_CHOICE, AT(reasoning), "auto|show|hide",
     "the model's reasoning on standard error; auto: dimmed if that is a\nterminal, else hidden (default: auto)", 0, 0},
    {"template", 0, OPTION_TEXT, AT(template_file), "FILE", "another chat template (Jinja) than the model's own", 0, 0},
    {"template-arg", 0, OPTION_LIST, AT(template_args), "KEY=VALUE",
     "a variable for the template, such as enable_thinking=false: JSON or text;\nmay be given again", 0, 0},
};

static const struct cli_option report_table[] = {
    {"heat", 0, OPTION_TEXT, AT(heat), "FILE",
     "remembers which experts were used most, for the next start; off: nowhere\n(default: a file of the model's in the user's cache directory)", 0, 0},
    {"stats", 0, OPTION_FLAG, AT(stats), NULL, "also say what memory, experts, disk and CPU did", 0, 0},
    {"timing", 0, OPTION_FLAG, AT(timing), NULL, "also say where the time went", 0, 0},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "one JSON object instead of the text and calls", 0, 0},
};

/* ---- text ---- */

void fm_run_begin(struct run *r) {
    if (r->started) return;
    fm_progress_clear(&r->progress);
    fm_engine_stats(r->engine, &r->first);
    r->started = true;
}

int fm_run_show(struct run *r, const char *text, size_t bytes) {
    fm_run_begin(r);
    if (bytes == 0) return 0;
    if (r->options->json) return fm_text_add(&r->text, text, bytes) ? 0 : fm_cli_fail(&r->err, FM_ENOMEM, "no memory for the text");
    r->end = text[bytes - 1];
    errno = 0;
    if (fwrite(text, 1, bytes, stdout) == bytes && fflush(stdout) == 0) return 0;
    r->reader_left = errno == EPIPE;
    if (!r->reader_left) fm_cli_fail(&r->err, FM_EIO, "cannot write to standard output: %s", strerror(errno));
    return 1;
}

static int show_text(void *user, const char *text, size_t bytes) { return fm_run_show(user, text, bytes); }

/* ---- running ---- */

static int generate(struct run *r, const int32_t *ids, int n) {
    const struct run_options *o = r->options;
    fm_generation generation = FM_GENERATION_INIT;
    fm_session *session = NULL;
    fm_sampler *sampler = NULL;
    fm_error err = {0};
    int rc;

    generation.max_tokens = o->max_tokens;
    generation.stops = o->stops.items;
    generation.n_stops = o->stops.n;
    generation.ignore_eos = o->ignore_eos;
    generation.text = show_text;
    generation.user = r;
    rc = fm_sampler_open(&sampler, fm_engine_info(r->engine)->vocab, &r->sampling, &err);
    if (rc >= 0) rc = fm_session_open(&session, r->engine, &err);
    if (rc >= 0) rc = fm_session_generate(session, ids, n, sampler, &generation, &r->done, &err);
    fm_progress_clear(&r->progress);
    fm_session_close(&session);
    fm_sampler_close(&sampler);
    if (rc < 0 && r->err.code == 0 && !r->reader_left) r->err = err; /* else it was show_text that stopped it */
    return rc;
}

/* The first option that only a chat template makes sense of; NULL: none is given. */
static const char *chat_option(const struct run_options *o) {
    return o->system              ? "system"
           : o->tools             ? "tools"
           : o->messages          ? "messages"
           : o->think_budget >= 0 ? "think-budget"
           : o->template_file     ? "template"
           : o->template_args.n   ? "template-arg"
                                  : NULL;
}

/* Without a template there is no turn to answer. */
static void check_template(struct run *r) {
    const struct run_options *o = r->options;

    if (o->raw || o->template_file || *fm_engine_info(r->engine)->chat_template) return;
    fm_cli_fail(&r->err, FM_EUNSUPPORTED, "%s: it has no chat template; --raw continues the text as it is, --template FILE gives it one",
                fm_engine_info(r->engine)->path);
}

static int run(const char *model, struct run_options *options, const struct text *prompt, const char *request, const fm_logit_bias *bias) {
    struct run r = {.options = options};
    fm_engine_options engine_options;
    int32_t *ids = NULL;
    int status, n;
    char heat[4200];

    fm_progress_open(&r.progress);
    engine_options = fm_engine_choose(&options->engine, &r.progress);
    fm_session_choose(&options->session, &engine_options);
    engine_options.heat = fm_heat_path(heat, sizeof heat, options->heat, model);
    if (fm_open_engine(&r.engine, model, &engine_options, &r.err) < 0) goto end;
    fm_sampling_choose(&r.sampling, r.engine, &options->sampling, bias);
    check_template(&r);
    if (r.err.code) goto end;
    if (!options->raw) {
        fm_run_answer(&r, request);
        goto end;
    }
    if ((n = fm_engine_encode(r.engine, prompt->bytes, prompt->n, true, &ids, &r.err)) < 0) goto end;
    if (n == 0)
        fm_cli_fail(&r.err, FM_EINVAL, "the text to continue is empty");
    else
        generate(&r, ids, n);

end:
    fm_progress_clear(&r.progress);
    if (r.err.code == 0) {
        status = fm_run_finish(&r);
    } else {
        if (r.end && r.end != '\n' && isatty(STDERR_FILENO)) fputc('\n', stderr);
        status = fm_report(&r.err);
    }
    free(r.text.bytes);
    free(r.arguments.bytes);
    fm_free(r.answered.message);
    fm_free(ids);
    fm_close_engine(&r.engine);
    return status;
}

/* ---- the command line ---- */

static int check_options(const struct run_options *o, fm_error *err) {
    if (o->raw && chat_option(o)) return fm_cli_fail(err, FM_EINVAL, "--%s is for the chat template, which --raw leaves out", chat_option(o));
    if (o->ignore_eos && !o->raw) return fm_cli_fail(err, FM_EINVAL, "--ignore-eos needs --raw: an answer ends where the model ends it");
    return 0;
}

static int run_main(const struct cli_command *command, int argc, char **argv) {
    struct run_options options = {.sampling = SAMPLING_CHOICES_INIT, .max_tokens = -1, .think_budget = -1};
    const struct option_group groups[] = {OPTION_GROUP("Text", text_table, &options),
                                          OPTION_GROUP("Conversation (not with --raw)", chat_table, &options),
                                          SAMPLING_GROUP(&options.sampling),
                                          ENGINE_GROUP(&options.engine),
                                          SESSION_GROUP(&options.session),
                                          OPTION_GROUP("Report", report_table, &options)};
    struct cli_words words;
    struct text prompt = {0};
    fm_logit_bias *bias = NULL;
    char *request = NULL;
    fm_error err = {0};
    int status, rc;

    (void)argc;
    options.sampling.seed = fm_sampling_new_seed();
    if (fm_options_parse(command, groups, 6, 2, &words, argv, &status) != 0) goto end;
    if (words.n == 2 && strcmp(words.words[1], "-") != 0) {
        status = fm_usage_error("'%s' is one word too many; the text to continue follows -p, in quotes", words.words[1]);
        goto end;
    }
    rc = fm_sampling_biases(&bias, &options.sampling, &err);
    if (rc >= 0) rc = check_options(&options, &err);
    bool text = !options.messages || options.prompt || options.file || words.n == 2;
    if (rc >= 0 && text) rc = fm_read_text(&prompt, options.prompt, options.file, words.n == 2, &err);
    if (rc >= 0) rc = fm_run_request(&request, &options, text ? &prompt : NULL, &err);
    if (rc >= 0)
        status = run(words.words[0], &options, &prompt, request, bias);
    else
        status = fm_report_given(&err);

end:
    free(prompt.bytes);
    free(bias);
    free(request);
    free(options.stops.items);
    free(options.template_args.items);
    free(options.sampling.biases.items);
    return status;
}

const struct cli_command fm_command_run = {
    .name = "run",
    .arguments = "MODEL -p TEXT | -f FILE | - [options]",
    .summary = "answer a prompt, or continue a text",
    .text = "The model's chat template makes a turn of the text, and the answer comes to standard output\n"
            "as it is made; a tool call is a line of its own there: {\"tool_call\": {\"id\", \"name\",\n"
            "\"arguments\"}}. Nothing is run. Everything else goes to standard error. With --raw the text is\n"
            "continued as it is. Ctrl-C ends it cleanly.\n"
            "\n"
            "Examples\n"
            "  flash-moe run models/ember -p \"What is the capital of Norway?\"\n"
            "  flash-moe run models/ember --tools tools.json -p \"List the files in src.\"\n"
            "  flash-moe run models/ember --messages conversation.json --json | jq .message\n"
            "  flash-moe run models/ember --raw -p \"Once upon a time\" -n 100\n"
            "  flash-moe run models/ember --raw -f prompt.txt --temp 0 --memory 24M --stats\n"
            "  echo \"One day a small robot\" | flash-moe run models/ember --raw - --seed 7 --stop \".\"\n",
    .main = run_main,
};
