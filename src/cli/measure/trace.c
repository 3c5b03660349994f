/* cli/measure/trace.c: `flash-moe trace`: records which experts a model's tokens are routed to, over prompts from a file. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/measure/prompts.h"
#include "flash_moe_tools.h"

struct trace_options {
    struct engine_choices engine;
    const char *file, *output, *states;
    uint64_t seed;
    float temp;
    int max_tokens;
    bool raw, ignore_eos;
};

#define AT(field) offsetof(struct trace_options, field)

static const struct cli_option table[] = {
    {"file", 'f', OPTION_TEXT, AT(file), "PROMPTS", "the prompts, each a sequence of its own, with lines that are just ---\nbetween them; - is standard input",
     0, 0},
    {"output", 'o', OPTION_TEXT, AT(output), "FILE", "the trace to write", 0, 0},
    {"states", 0, OPTION_TEXT, AT(states), "FILE",
     "also write what the routers see there: a NumPy array of float32,\n[tokens][layers with experts][hidden] (for tools/predict.py)", 0, 0},
    {"max-tokens", 'n', OPTION_INT, AT(max_tokens), "N",
     "tokens to make after each prompt; 0: none; -1: until the model ends or\nthe context is full (default: 128)", -1, 2147483647},
    {"ignore-eos", 0, OPTION_FLAG, AT(ignore_eos), NULL, "go on after the model's end-of-text token", 0, 0},
    {"temp", 0, OPTION_FLOAT, AT(temp), "T", "temperature; 0 takes the likeliest token each time\n(default: the model's own sampling)", 0, 100},
    {"seed", 0, OPTION_SEED, AT(seed), "N", "of the first prompt, and one more for each that follows (default: 0)", 0, 0},
    {"raw", 0, OPTION_FLAG, AT(raw), NULL, "prompts go to the model as they are; special tokens such as\n<|im_start|> in them are recognised", 0, 0},
};

static void print_result(const fm_traced *done, const char *output) {
    char size[SIZE_TEXT];

    fprintf(stderr, "%d prompts of %d tokens, %d tokens decoded, %s predictions; %s written to %s\n", done->n_sequences, done->n_prompt, done->n_decoded,
            done->predicted ? "with" : "no", fm_disk_text(size, (double)done->file_bytes), output);
}

static int record(const char *model, const struct trace_options *options, const struct prompts *prompts) {
    const char *slash = strrchr(options->file, '/');
    struct progress progress;
    fm_engine_options engine_options;
    fm_trace_options trace_options = FM_TRACE_OPTIONS_INIT;
    fm_sampling sampling = FM_SAMPLING_INIT;
    fm_engine *engine = NULL;
    fm_traced done;
    fm_error err = {0};
    int rc;

    fm_progress_open(&progress);
    if (!options->raw)
        fm_progress_log(&progress, FM_LOG_INFO, "note: prompts go to the model as they are, without a chat template; --raw says that this is meant");
    engine_options = fm_engine_choose(&options->engine, &progress);
    rc = fm_open_engine(&engine, model, &engine_options, &err);
    if (rc >= 0) {
        fm_engine_sampling(engine, &sampling);
        if (!isnan(options->temp)) sampling.temperature = options->temp;
        sampling.seed = options->seed;
        trace_options.max_tokens = options->max_tokens;
        trace_options.ignore_eos = options->ignore_eos;
        trace_options.states = options->states;
        trace_options.sampling = &sampling;
        trace_options.name = slash ? slash + 1 : options->file;
        rc = fm_trace_record(engine, prompts->items, prompts->n, options->output, &trace_options, &done, &err);
    }
    fm_progress_clear(&progress);
    fm_close_engine(&engine);
    if (rc < 0) return fm_report(&err);
    print_result(&done, options->output);
    return 0;
}

static int trace_main(const struct cli_command *command, int argc, char **argv) {
    struct trace_options options = {.temp = NAN, .max_tokens = 128};
    const struct option_group groups[] = {OPTION_GROUP("Prompts and file", table, &options), ENGINE_GROUP(&options.engine)};
    struct cli_words words;
    struct text text = {0};
    struct prompts prompts = {0};
    fm_error err = {0};
    int status, rc;

    (void)argc;
    if (fm_options_parse(command, groups, 2, 1, &words, argv, &status) != 0) return status;
    if (!options.output) return fm_usage_error("trace needs -o FILE, the trace to write");
    if (!options.file) return fm_usage_error("trace needs -f PROMPTS, a file of prompts");
    rc = fm_read_text(&text, NULL, options.file, false, &err);
    if (rc >= 0) rc = fm_prompts_split(&prompts, &text, options.file, NULL, &err);
    status = rc < 0 ? fm_report(&err) : record(words.words[0], &options, &prompts);
    fm_prompts_free(&prompts);
    free(text.bytes);
    return status;
}

const struct cli_command fm_command_trace = {
    .name = "trace",
    .arguments = "MODEL -f PROMPTS -o FILE [options]",
    .summary = "record which experts tokens are routed to",
    .text = "Each prompt is read into an empty session and continued. For every token and layer the file says\n"
            "which experts were chosen and which were predicted one layer ahead. It is the same for any memory,\n"
            "policy and number of threads.\n"
            "\n"
            "Prompts may have several lines; a line that is just --- ends one. The line break before it, and the\n"
            "last one of the file, are not part of a prompt.\n"
            "\n"
            "Examples\n"
            "  flash-moe trace models/ember -f bench/traces/prompts-stories.txt -o stories.trace\n"
            "  flash-moe trace models/ember --raw -f prompts.txt -n 500 --temp 0 -o greedy.trace\n"
            "  flash-moe replay stories.trace\n",
    .main = trace_main,
};
