/* cli/measure/dump.c: `flash-moe dump`: writes every layer's output and the logits, for comparing with another program. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

struct dump_options {
    struct engine_choices engine;
    const char *ids, *prompt, *file, *output;
};

#define AT(field) offsetof(struct dump_options, field)

static const struct cli_option table[] = {
    {"ids", 0, OPTION_TEXT, AT(ids), "ID,ID,…", "the tokens", 0, 0},
    {"prompt", 'p', OPTION_TEXT, AT(prompt), "TEXT", "the text; special tokens in it are recognised", 0, 0},
    {"file", 'f', OPTION_TEXT, AT(file), "FILE", "the text; - is standard input", 0, 0},
    {"output", 'o', OPTION_TEXT, AT(output), "FILE", "the safetensors file to write", 0, 0},
};

/* "1,2,3" to *ids, malloc'd; returns their number. */
static int parse_ids(const char *list, int32_t **ids, fm_error *err) {
    char *copy = strdup(list), *rest = copy, *word;
    int n = 0, rc = 0;

    *ids = calloc(strlen(list) / 2 + 1, sizeof **ids);
    if (!copy || !*ids) rc = fm_cli_fail(err, FM_ENOMEM, "no memory for the ids");
    while (rc == 0 && (word = strsep(&rest, ","))) rc = fm_parse_int("a token id", word, 0, 2147483647, &(*ids)[n++], err);
    free(copy);
    return rc < 0 ? rc : n;
}

/* Of ids [n], or if n is 0 of the text. */
static int dump(const char *model, const struct dump_options *options, const int32_t *ids, int n, const struct text *text, fm_error *err) {
    struct progress progress;
    fm_engine_options engine_options;
    fm_engine *engine = NULL;
    int32_t *encoded = NULL;
    int rc;

    fm_progress_open(&progress);
    engine_options = fm_engine_choose(&options->engine, &progress);
    if (engine_options.context == 0 && n > 0) engine_options.context = n;
    rc = fm_open_engine(&engine, model, &engine_options, err);
    if (rc >= 0 && n == 0) rc = n = fm_engine_encode(engine, text->bytes, text->n, true, &encoded, err);
    if (rc >= 0 && n == 0) rc = fm_cli_fail(err, FM_EINVAL, "the text has no tokens");
    if (rc >= 0) rc = fm_dump(engine, encoded ? encoded : ids, n, options->output, err);
    fm_progress_clear(&progress);
    fm_free(encoded);
    fm_close_engine(&engine);
    if (rc >= 0) fprintf(stderr, "%d tokens, written to %s\n", n, options->output);
    return rc;
}

static int dump_main(const struct cli_command *command, int argc, char **argv) {
    struct dump_options options = {0};
    const struct option_group groups[] = {OPTION_GROUP("Tokens and file", table, &options), ENGINE_GROUP(&options.engine)};
    struct cli_words words;
    struct text text = {0};
    fm_error err = {0};
    int32_t *ids = NULL;
    int status, rc, n = 0;

    (void)argc;
    if (fm_options_parse(command, groups, 2, 1, &words, argv, &status) != 0) return status;
    if (!options.output) return fm_usage_error("dump needs -o FILE, the file to write");
    if (options.ids && (options.prompt || options.file)) return fm_usage_error("give one of --ids, -p TEXT and -f FILE");
    if (options.ids)
        rc = n = parse_ids(options.ids, &ids, &err);
    else
        rc = fm_read_text(&text, options.prompt, options.file, false, &err);
    if (rc == FM_EINVAL) {
        status = fm_usage_error("%s", err.message);
    } else {
        if (rc >= 0) rc = dump(words.words[0], &options, ids, n, &text, &err);
        status = rc < 0 ? fm_report(&err) : 0;
    }
    free(ids);
    free(text.bytes);
    return status;
}

const struct cli_command fm_command_dump = {
    .name = "dump",
    .arguments = "MODEL --ids 1,2,3 | -p TEXT | -f FILE -o FILE.safetensors [options]",
    .summary = "write every layer's output and the logits to a file",
    .text = "The file has the tensors ids (i32 [n]), embed and layer.0, layer.1, … (f32 [n][hidden]) and logits\n"
            "(f32 [n][vocab]), to be compared with what another program computes for the same tokens.\n"
            "\n"
            "Examples\n"
            "  flash-moe dump models/ember --ids 1,2,3 -o out.safetensors\n"
            "  flash-moe dump models/ember -p \"Once upon a time\" --activations f32 -o out.safetensors\n",
    .main = dump_main,
};
