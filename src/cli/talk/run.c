/* cli/run.c: `flash-moe run`: continues a text. The text goes to stdout as it comes, all else to stderr. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/session_options.h"

#define NOT_GIVEN (-2) /* of an int option; NAN of a float: the model's own value is used */

struct run_options {
    struct engine_choices engine;
    struct session_choices session;
    const char *prompt, *file;
    struct text_list stops, biases;
    uint64_t seed;
    float temp, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
    int top_k, repeat_last, max_tokens;
    const char *heat;
    bool raw, ignore_eos, stats, timing, json;
};

#define AT(field) offsetof(struct run_options, field)

static const struct cli_option text_table[] = {
    {"prompt", 'p', OPTION_TEXT, AT(prompt), "TEXT", "the text to continue", 0, 0},
    {"file", 'f', OPTION_TEXT, AT(file), "FILE", "a file with the text to continue; - is standard input", 0, 0},
    {"raw", 0, OPTION_FLAG, AT(raw), NULL, "the text goes to the model as it is; special tokens such as\n<|im_start|> in it are recognised", 0, 0},
    {"max-tokens", 'n', OPTION_INT, AT(max_tokens), "N", "tokens to make; -1: until the model ends or the context is full\n(default: -1)", -1, 2147483647},
    {"stop", 0, OPTION_LIST, AT(stops), "TEXT", "end before this text; may be given again", 0, 0},
    {"ignore-eos", 0, OPTION_FLAG, AT(ignore_eos), NULL, "go on after the model's end-of-text token", 0, 0},
};

static const struct cli_option sampling_table[] = {
    {"temp", 0, OPTION_FLOAT, AT(temp), "T", "temperature; 0 takes the likeliest token each time", 0, 100},
    {"top-k", 0, OPTION_INT, AT(top_k), "K", "choose among the K likeliest tokens; 0: all", 0, 2147483647},
    {"top-p", 0, OPTION_FLOAT, AT(top_p), "P", "… among the likeliest that together have probability P; 1: all", 0, 1},
    {"min-p", 0, OPTION_FLOAT, AT(min_p), "P", "… among those at least P times as likely as the likeliest; 0: all", 0, 1},
    {"repeat-penalty", 0, OPTION_FLOAT, AT(repeat_penalty), "X", "divide the logits of recent tokens by X; 1: off", 0.01, 100},
    {"repeat-last", 0, OPTION_INT, AT(repeat_last), "N", "how many tokens are recent (default: 64); -1: all; 0: none", -1, 1048576},
    {"presence-penalty", 0, OPTION_FLOAT, AT(presence_penalty), "X", "subtract X from the logits of recent tokens", -100, 100},
    {"frequency-penalty", 0, OPTION_FLOAT, AT(frequency_penalty), "X", "… X for each time they occurred", -100, 100},
    {"logit-bias", 0, OPTION_LIST, AT(biases), "ID=BIAS", "add BIAS to the logit of token ID; may be given again", 0, 0},
    {"seed", 0, OPTION_SEED, AT(seed), "N", "same seed, same text (default: a new one each time; --stats shows it)", 0, 0},
};

static const struct cli_option report_table[] = {
    {"heat", 0, OPTION_TEXT, AT(heat), "FILE",
     "remembers which experts were used most, for the next start; off: nowhere\n(default: a file of the model's in the user's cache directory)", 0, 0},
    {"stats", 0, OPTION_FLAG, AT(stats), NULL, "also say what memory, experts, disk and CPU did", 0, 0},
    {"timing", 0, OPTION_FLAG, AT(timing), NULL, "also say where the time went", 0, 0},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "one JSON object instead of the text", 0, 0},
};

/* One run, while and after text is made. */
struct run {
    const struct run_options *options;
    struct progress progress;
    fm_engine *engine;
    fm_sampling sampling;
    fm_generated done;
    fm_stats first, last; /* when the first text came, and at the end */
    struct text text;     /* of --json */
    char end;             /* the last byte written */
    bool started, reader_left;
    fm_error err;
};

/* ---- text ---- */

static int keep_text(struct run *r, const char *text, size_t bytes) {
    char *grown = realloc(r->text.bytes, r->text.n + bytes + 1);

    if (!grown) return fm_cli_fail(&r->err, FM_ENOMEM, "no memory for the text");
    r->text.bytes = grown;
    memcpy(grown + r->text.n, text, bytes);
    r->text.n += bytes;
    return 0;
}

static int show_text(void *user, const char *text, size_t bytes) {
    struct run *r = user;

    if (!r->started) {
        fm_progress_clear(&r->progress);
        fm_engine_stats(r->engine, &r->first);
        r->started = true;
    }
    if (bytes == 0) return 0;
    if (r->options->json) return keep_text(r, text, bytes);
    r->end = text[bytes - 1];
    errno = 0;
    if (fwrite(text, 1, bytes, stdout) == bytes && fflush(stdout) == 0) return 0;
    r->reader_left = errno == EPIPE;
    if (!r->reader_left) fm_cli_fail(&r->err, FM_EIO, "cannot write to standard output: %s", strerror(errno));
    return 1;
}

/* ---- what is reported ---- */

struct rates {
    double total_seconds, tokens_per_second, prompt_tokens_per_second, hit_rate, read_bytes_per_token, disk_bytes_per_second;
};

static double ratio(double a, double b) { return b > 0 ? a / b : 0; }

/* Hits and bytes are those of the tokens after the first text, or of the prompt if there are none. */
static struct rates rates_of(const struct run *r) {
    const fm_generated *d = &r->done;
    fm_stats a = r->first, b = r->last;

    if (!r->started || b.n_tokens == a.n_tokens) a = (fm_stats){0};
    return (struct rates){
        .total_seconds = d->first_token_seconds + d->decode_seconds,
        .tokens_per_second = ratio(d->n_tokens - 1, d->decode_seconds),
        .prompt_tokens_per_second = ratio(d->n_prompt, d->prompt_seconds),
        .hit_rate = ratio((double)(b.n_hits - a.n_hits), (double)(b.n_requests - a.n_requests)),
        .read_bytes_per_token = ratio((double)(b.disk_bytes - a.disk_bytes), (double)(b.n_tokens - a.n_tokens)),
        .disk_bytes_per_second = ratio((double)(b.disk_bytes - a.disk_bytes), b.disk_seconds - a.disk_seconds),
    };
}

static void print_summary(const struct run *r) {
    const fm_generated *d = &r->done;
    struct rates x = rates_of(r);
    char size[SIZE_TEXT], kept[64] = "";

    if (d->n_kept) snprintf(kept, sizeof kept, ", %d of them from the session cache", d->n_kept);
    fprintf(
        stderr,
        "%d tokens in %.2f s, %.2f tokens/s, first token after %.3f s (prompt %d tokens%s, %.1f tokens/s), hit rate %.1f %%, %s read per token, %.2f GB/s from disk\n",
        d->n_tokens, x.total_seconds, x.tokens_per_second, d->first_token_seconds, d->n_prompt, kept, x.prompt_tokens_per_second, 100 * x.hit_rate,
        fm_disk_text(size, x.read_bytes_per_token), x.disk_bytes_per_second / 1e9);
}

static void print_stats(const struct run *r) {
    const fm_plan *p = fm_engine_plan(r->engine);
    const fm_stats *s = &r->last;
    char a[SIZE_TEXT], b[SIZE_TEXT], c[SIZE_TEXT], d[SIZE_TEXT];

    fprintf(stderr, "memory: budget %s; dense weights %s, sessions %s (%d tokens, %s), experts %s", fm_memory_text(a, p->budget_bytes),
            fm_memory_text(b, p->dense_bytes), fm_memory_text(c, p->session_bytes), p->context, fm_kv_text(p->kv), fm_memory_text(d, p->cache_bytes));
    fprintf(stderr, ", buffers %s, tokenizer %s, program %s; peak %s\n", fm_memory_text(a, p->buffer_bytes), fm_memory_text(b, p->text_bytes),
            fm_memory_text(c, p->overhead_bytes), fm_memory_text(d, fm_peak_memory()));
    fprintf(stderr, "experts: %d of %d fit (%.1f %%), %s each; %llu requests, %.1f %% hits; %llu slots given back\n", p->n_slots, p->n_experts_total,
            100 * ratio(p->n_slots, p->n_experts_total), fm_memory_text(a, p->slot_bytes), (unsigned long long)s->n_requests,
            100 * ratio((double)s->n_hits, (double)s->n_requests), (unsigned long long)s->slots_given_back);
    fprintf(stderr, "disk: %s, %s read in %.2f s, waited for %.2f s\n", fm_engine_io(r->engine), fm_disk_text(a, (double)s->disk_bytes), s->disk_seconds,
            s->stall_seconds);
    if (s->n_guessed) {
        fprintf(stderr, "read ahead: %llu experts, %.1f %% of them were asked for\n", (unsigned long long)s->n_guessed,
                100 * ratio((double)s->n_guesses_used, (double)s->n_guessed));
    }
    fprintf(stderr, "cpu: %s, %d threads\n", fm_engine_cpu(r->engine), fm_engine_n_threads(r->engine));
    fprintf(stderr, "sampling: temperature %g, top-k %d, top-p %g, min-p %g, repeat penalty %g, seed %llu\n", (double)r->sampling.temperature,
            r->sampling.top_k, (double)r->sampling.top_p, (double)r->sampling.min_p, (double)r->sampling.repeat_penalty, (unsigned long long)r->sampling.seed);
}

static void add_timing(struct table *t, const char *name, double seconds, double total, double tokens) {
    fm_table_add(t, "%s", name);
    fm_table_add(t, "%.3f s", seconds);
    fm_table_add(t, "%.1f %%", 100 * ratio(seconds, total));
    fm_table_add(t, "%.3f ms", 1e3 * ratio(seconds, tokens));
}

static void print_timing(const struct run *r) {
    struct table t = {.n_columns = 4, .n_left = 1};
    double total = 0, tokens = (double)r->last.n_tokens;

    for (int i = 0; i < FM_N_PHASES; i++) total += r->last.phase_seconds[i];
    fm_table_add(&t, "phase");
    fm_table_add(&t, "time");
    fm_table_add(&t, "share");
    fm_table_add(&t, "per token");
    for (int i = 0; i < FM_N_PHASES; i++) add_timing(&t, fm_phase_name(i), r->last.phase_seconds[i], total, tokens);
    add_timing(&t, "all", total, total, tokens);
    fm_table_print(&t, stderr, "  ");
}

static const char *stop_name(int stop) {
    switch (stop) {
    case FM_STOP_EOS: return "eos";
    case FM_STOP_LENGTH: return "length";
    case FM_STOP_STRING: return "string";
    default: return "cancelled";
    }
}

static int print_json(const struct run *r) {
    const fm_generated *d = &r->done;
    const fm_stats *s = &r->last;
    const fm_plan *p = fm_engine_plan(r->engine);
    struct rates x = rates_of(r);
    json_t *phases = json_object(), *object, *rest;

    for (int i = 0; i < FM_N_PHASES; i++) json_object_set_new(phases, fm_phase_name(i), json_real(s->phase_seconds[i]));
    object = json_pack("{s:o, s:i, s:i, s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "text", fm_json_text(r->text.bytes ? r->text.bytes : "", r->text.n), "tokens",
                       d->n_tokens, "prompt_tokens", d->n_prompt, "stop", stop_name(d->stop), "seed", (json_int_t)r->sampling.seed, "total_seconds",
                       x.total_seconds, "prompt_seconds", d->prompt_seconds, "first_token_seconds", d->first_token_seconds, "decode_seconds", d->decode_seconds,
                       "tokens_per_second", x.tokens_per_second, "prompt_tokens_per_second", x.prompt_tokens_per_second);
    rest = json_pack("{s:f, s:f, s:f, s:I, s:f, s:f, s:I, s:I, s:I, s:s, s:i, s:i, s:s, s:s, s:i, s:o}", "hit_rate", x.hit_rate, "read_bytes_per_token",
                     x.read_bytes_per_token, "disk_bytes_per_second", x.disk_bytes_per_second, "disk_bytes", (json_int_t)s->disk_bytes, "disk_seconds",
                     s->disk_seconds, "stall_seconds", s->stall_seconds, "memory_peak_bytes", (json_int_t)fm_peak_memory(), "memory_budget_bytes",
                     (json_int_t)p->budget_bytes, "session_bytes", (json_int_t)p->session_bytes, "kv", fm_kv_text(p->kv), "n_slots", p->n_slots,
                     "n_experts_total", p->n_experts_total, "cpu", fm_engine_cpu(r->engine), "io", fm_engine_io(r->engine), "n_threads",
                     fm_engine_n_threads(r->engine), "phase_seconds", phases);
    json_object_update(object, rest);
    json_decref(rest);
    json_object_set_new(object, "prompt_kept", json_integer(d->n_kept));
    json_object_set_new(object, "n_guessed", json_integer((json_int_t)s->n_guessed));
    json_object_set_new(object, "n_guesses_used", json_integer((json_int_t)s->n_guesses_used));
    return fm_json_print(object);
}

/* After the text: what happened, and the exit code. */
static int finish(struct run *r) {
    int status = 0;

    fm_engine_stats(r->engine, &r->last);
    if (r->reader_left) return 0;
    if (r->options->json)
        status = print_json(r);
    else if (isatty(STDOUT_FILENO) && r->end != '\n')
        putchar('\n'), status = fm_finish_output();
    print_summary(r);
    if (r->options->stats) print_stats(r);
    if (r->options->timing) print_timing(r);
    return fm_cancelled() ? EXIT_CANCELLED : status;
}

/* ---- running ---- */

/* The model's own sampling, changed by what was given. */
static void choose_sampling(struct run *r, const fm_logit_bias *bias) {
    const struct run_options *o = r->options;
    fm_sampling *s = &r->sampling;

    *s = (fm_sampling)FM_SAMPLING_INIT;
    fm_engine_sampling(r->engine, s);
    if (!isnan(o->temp)) s->temperature = o->temp;
    if (!isnan(o->top_p)) s->top_p = o->top_p;
    if (!isnan(o->min_p)) s->min_p = o->min_p;
    if (!isnan(o->repeat_penalty)) s->repeat_penalty = o->repeat_penalty;
    if (!isnan(o->presence_penalty)) s->presence_penalty = o->presence_penalty;
    if (!isnan(o->frequency_penalty)) s->frequency_penalty = o->frequency_penalty;
    if (o->top_k != NOT_GIVEN) s->top_k = o->top_k;
    if (o->repeat_last != NOT_GIVEN) s->repeat_last = o->repeat_last;
    s->seed = o->seed;
    s->bias = bias;
    s->n_bias = o->biases.n;
}

static int generate(struct run *r, const int32_t *ids, int n, const fm_logit_bias *bias) {
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
    choose_sampling(r, bias);
    rc = fm_sampler_open(&sampler, fm_engine_info(r->engine)->vocab, &r->sampling, &err);
    if (rc >= 0) rc = fm_session_open(&session, r->engine, &err);
    if (rc >= 0) rc = fm_session_generate(session, ids, n, sampler, &generation, &r->done, &err);
    fm_progress_clear(&r->progress);
    fm_session_close(&session);
    fm_sampler_close(&sampler);
    if (rc < 0 && r->err.code == 0 && !r->reader_left) r->err = err; /* else it was show_text that stopped it */
    return rc;
}

static int run(const char *model, struct run_options *options, const struct text *prompt, const fm_logit_bias *bias) {
    struct run r = {.options = options};
    fm_engine_options engine_options;
    int32_t *ids = NULL;
    int status, n;
    char heat[4200];

    fm_progress_open(&r.progress);
    if (!options->raw)
        fm_progress_log(&r.progress, FM_LOG_INFO, "note: the text goes to the model as it is, without a chat template; --raw says that this is meant");
    engine_options = fm_engine_choose(&options->engine, &r.progress);
    fm_session_choose(&options->session, &engine_options);
    engine_options.heat = fm_heat_path(heat, sizeof heat, options->heat, model);
    if (fm_open_engine(&r.engine, model, &engine_options, &r.err) < 0) goto end;
    if ((n = fm_engine_encode(r.engine, prompt->bytes, prompt->n, true, &ids, &r.err)) < 0) goto end;
    if (n == 0)
        fm_cli_fail(&r.err, FM_EINVAL, "the text to continue is empty");
    else
        generate(&r, ids, n, bias);

end:
    fm_progress_clear(&r.progress);
    if (r.err.code == 0) {
        status = finish(&r);
    } else {
        if (r.end && r.end != '\n' && isatty(STDERR_FILENO)) fputc('\n', stderr);
        status = fm_report(&r.err);
    }
    free(r.text.bytes);
    fm_free(ids);
    fm_close_engine(&r.engine);
    return status;
}

/* ---- the command line ---- */

/* "42=-100" */
static int parse_biases(const struct text_list *list, fm_logit_bias *bias, fm_error *err) {
    for (int i = 0; i < list->n; i++) {
        const char *equals = strchr(list->items[i], '=');
        char id[16] = "";
        int rc;

        if (!equals) return fm_cli_fail(err, FM_EINVAL, "--logit-bias takes ID=BIAS such as 42=-100, not '%s'", list->items[i]);
        snprintf(id, sizeof id, "%.*s", (int)(equals - list->items[i]), list->items[i]);
        if ((rc = fm_parse_int("the ID of --logit-bias", id, 0, 2147483647, &bias[i].id, err)) < 0) return rc;
        if ((rc = fm_parse_float("the BIAS of --logit-bias", equals + 1, -1e9, 1e9, &bias[i].bias, err)) < 0) return rc;
    }
    return 0;
}

static int run_main(const struct cli_command *command, int argc, char **argv) {
    struct run_options options = {.temp = NAN,
                                  .top_p = NAN,
                                  .min_p = NAN,
                                  .repeat_penalty = NAN,
                                  .presence_penalty = NAN,
                                  .frequency_penalty = NAN,
                                  .top_k = NOT_GIVEN,
                                  .repeat_last = NOT_GIVEN,
                                  .max_tokens = -1};
    const struct option_group groups[] = {OPTION_GROUP("Text", text_table, &options),
                                          OPTION_GROUP("Sampling (default: what the model's generation_config.json says)", sampling_table, &options),
                                          ENGINE_GROUP(&options.engine), SESSION_GROUP(&options.session), OPTION_GROUP("Report", report_table, &options)};
    struct cli_words words;
    struct text prompt = {0};
    fm_logit_bias *bias = NULL;
    fm_error err = {0};
    uint32_t seed = 0;
    int status, rc;

    (void)argc;
    if (getentropy(&seed, sizeof seed) == 0) options.seed = seed;
    if (fm_options_parse(command, groups, 5, 2, &words, argv, &status) != 0) goto end;
    if (words.n == 2 && strcmp(words.words[1], "-") != 0) {
        status = fm_usage_error("'%s' is one word too many; the text to continue follows -p, in quotes", words.words[1]);
        goto end;
    }
    bias = calloc((size_t)options.biases.n + 1, sizeof *bias);
    rc = bias ? parse_biases(&options.biases, bias, &err) : fm_cli_fail(&err, FM_ENOMEM, "no memory for the command line");
    if (rc >= 0) rc = fm_read_text(&prompt, options.prompt, options.file, words.n == 2, &err);
    if (rc >= 0)
        status = run(words.words[0], &options, &prompt, bias);
    else
        status = rc == FM_EINVAL ? fm_usage_error("%s", err.message) : fm_report(&err);

end:
    free(prompt.bytes);
    free(bias);
    free(options.stops.items);
    free(options.biases.items);
    return status;
}

const struct cli_command fm_command_run = {
    .name = "run",
    .arguments = "MODEL -p TEXT | -f FILE | - [options]",
    .summary = "continue a text",
    .text = "The text comes to standard output as it is made, everything else to standard error.\n"
            "Ctrl-C ends it cleanly.\n"
            "\n"
            "Examples\n"
            "  flash-moe run models/ember -p \"Once upon a time\" -n 100\n"
            "  flash-moe run models/ember --raw -f prompt.txt --temp 0 --memory 24M --stats\n"
            "  echo \"One day a small robot\" | flash-moe run models/ember - --seed 7 --stop \".\"\n"
            "  flash-moe run models/ember -p \"Once\" -n 20 --json | jq -r .text\n",
    .main = run_main,
};
