/* cli/measure/profile.c: `flash-moe profile`: records which experts a model's tokens use, by kind of prompt, and says what a profile shows. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/measure/prompts.h"
#include "flash_moe_tools.h"

struct profile_options {
    struct engine_choices engine;
    struct text_list files;
    const char *output;
    uint64_t seed;
    float temp;
    int max_tokens;
    bool json;
};

#define AT(field) offsetof(struct profile_options, field)

static const struct cli_option table[] = {
    {"file", 'f', OPTION_LIST, AT(files), "PROMPTS",
     "the prompts: text with lines that are just --- between prompts, and\n\"--- kind: NAME\" before those of a kind (else the file's name); or\n"
     "NAME.jsonl with objects on lines: {\"prompt\" or \"messages\", \"kind\"}.\nMay be given more than once",
     0, 0},
    {"output", 'o', OPTION_TEXT, AT(output), "FILE", "the profile to write", 0, 0},
    {"max-tokens", 'n', OPTION_INT, AT(max_tokens), "N",
     "tokens to make after each prompt; 0: none; -1: until the model ends or\nthe context is full (default: 64)", -1, 2147483647},
    {"temp", 0, OPTION_FLOAT, AT(temp), "T", "temperature; 0 takes the likeliest token each time\n(default: the model's own sampling)", 0, 100},
    {"seed", 0, OPTION_SEED, AT(seed), "N", "of the first prompt, and one more for each that follows (default: 0)", 0, 0},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "one JSON object instead of the tables", 0, 0},
};

/* ---- what a profile shows ---- */

static const double shares[] = {0.5, 0.8, 0.9};

static int n_used_layers(const fm_profile *p) {
    int n = 0;
    for (int i = 0; i < p->n_layers; i++) n += fm_profile_needed(p, FM_PROFILE_ALL, i, 1) > 0;
    return n;
}

static void add_needed(struct table *t, const fm_profile *p, int kind, int layer, int n_experts) {
    for (int i = 0; i < 3; i++) {
        int n = fm_profile_needed(p, kind, layer, shares[i]);
        fm_table_add(t, "%d (%.0f %%)", n, 100.0 * n / n_experts);
    }
    fm_table_add(t, "%d", fm_profile_needed(p, kind, layer, 1));
}

static void print_concentration(const fm_profile *p) {
    struct table t = {.n_columns = 6, .n_left = 1};
    int all = n_used_layers(p) * p->n_experts;

    fm_table_add(&t, "%s", ""), fm_table_add(&t, "tokens"), fm_table_add(&t, "50 %% of uses"), fm_table_add(&t, "80 %%"), fm_table_add(&t, "90 %%"),
        fm_table_add(&t, "ever used");
    for (int k = 0; k < p->n_kinds; k++) {
        fm_table_add(&t, "%s", p->kinds[k].name);
        fm_table_add(&t, "%llu", (unsigned long long)p->kinds[k].n_tokens);
        add_needed(&t, p, k, FM_PROFILE_ALL, all);
    }
    fm_table_add(&t, "all"), fm_table_add(&t, "%s", "");
    add_needed(&t, p, FM_PROFILE_ALL, FM_PROFILE_ALL, all);
    for (int i = 0; i < p->n_layers; i++) {
        if (!fm_profile_needed(p, FM_PROFILE_ALL, i, 1)) continue;
        fm_table_add(&t, "layer %d", i), fm_table_add(&t, "%s", "");
        add_needed(&t, p, FM_PROFILE_ALL, i, p->n_experts);
    }
    fm_table_print(&t, stdout, "  ");
}

static void print_overlap(const fm_profile *p) {
    struct table t = {.n_columns = p->n_kinds + 1, .n_left = 1};

    fm_table_add(&t, "%s", "");
    for (int k = 0; k < p->n_kinds; k++) fm_table_add(&t, "%s", p->kinds[k].name);
    for (int a = 0; a < p->n_kinds; a++) {
        fm_table_add(&t, "%s", p->kinds[a].name);
        for (int b = 0; b < p->n_kinds; b++) fm_table_add(&t, "%.1f", 100 * fm_profile_overlap(p, a, b));
    }
    fm_table_print(&t, stdout, "  ");
}

static int print_text(const fm_profile *p, const char *path) {
    printf("%s: %s, %d layers with %d experts each%s\n\nHow few experts have so much of the uses (of the experts there are)\n", path,
           p->older ? "an older program's profile, of prompts" : p->model_type, n_used_layers(p), p->n_experts,
           p->columns ? ", with the columns' mean squares" : "");
    print_concentration(p);
    if (p->n_kinds > 1) {
        printf("\nUses that two kinds of prompts have in common, %%\n");
        print_overlap(p);
    }
    return fm_finish_output();
}

static json_t *needed_json(const fm_profile *p, int kind, int layer) {
    return json_pack("{s:i, s:i, s:i, s:i}", "50", fm_profile_needed(p, kind, layer, 0.5), "80", fm_profile_needed(p, kind, layer, 0.8), "90",
                     fm_profile_needed(p, kind, layer, 0.9), "100", fm_profile_needed(p, kind, layer, 1));
}

static int print_json(const fm_profile *p) {
    json_t *kinds = json_array(), *layers = json_array();

    for (int a = 0; a < p->n_kinds; a++) {
        json_t *overlap = json_array();
        for (int b = 0; b < p->n_kinds; b++) json_array_append_new(overlap, json_real(fm_profile_overlap(p, a, b)));
        json_array_append_new(kinds, json_pack("{s:s, s:i, s:I, s:o, s:o}", "name", p->kinds[a].name, "n_prompts", p->kinds[a].n_prompts, "n_tokens",
                                               (json_int_t)p->kinds[a].n_tokens, "needed", needed_json(p, a, FM_PROFILE_ALL), "overlap", overlap));
    }
    for (int i = 0; i < p->n_layers; i++) json_array_append_new(layers, needed_json(p, FM_PROFILE_ALL, i));
    return fm_json_print(json_pack("{s:s, s:b, s:i, s:i, s:i, s:b, s:o, s:o, s:o}", "model_type", p->model_type, "older", p->older, "n_layers", p->n_layers,
                                   "n_experts", p->n_experts, "experts_per_token", p->top_k, "columns", p->columns != NULL, "needed",
                                   needed_json(p, FM_PROFILE_ALL, FM_PROFILE_ALL), "kinds", kinds, "layers", layers));
}

static int show(const char *path, bool json) {
    fm_profile *profile;
    fm_error err = {0};
    int status;

    if (fm_profile_open(&profile, path, &err) < 0) return fm_report(&err);
    status = json ? print_json(profile) : print_text(profile, path);
    fm_profile_close(&profile);
    return status;
}

/* ---- prompts ---- */

struct job {
    const struct profile_options *options;
    fm_engine *engine;
    fm_chat *chat; /* opened for the first messages */
    fm_profile_prompt *prompts;
    struct prompts *texts; /* [options->files.n] whose memory the kinds lie in */
    struct text *files;    /* the same */
    json_t *lines;         /* of JSONL, whose memory the kinds lie in */
    char (*names)[64];     /* [files] kinds that are the file's name */
    int n, room;
};

/* ids: malloc'd, owned from now on. */
static int add_prompt(struct job *job, int32_t *ids, int n, const char *kind, fm_error *err) {
    if (job->n == job->room) {
        int room = job->room ? 2 * job->room : 64;
        fm_profile_prompt *more = realloc(job->prompts, (size_t)room * sizeof *more);
        if (!more) {
            fm_free(ids);
            return fm_cli_fail(err, FM_ENOMEM, "no memory for %d prompts", room);
        }
        job->prompts = more;
        job->room = room;
    }
    job->prompts[job->n++] = (fm_profile_prompt){ids, n, kind};
    return 0;
}

static int add_text(struct job *job, const char *text, size_t bytes, const char *kind, fm_error *err) {
    int32_t *ids = NULL;
    int n = fm_engine_encode(job->engine, text, bytes, true, &ids, err);

    return n < 0 ? n : add_prompt(job, ids, n, kind, err);
}

static int add_messages(struct job *job, json_t *line, const char *kind, fm_error *err) {
    fm_prompt prompt = {0};
    char *request = json_dumps(line, JSON_COMPACT);
    int32_t *ids;
    int rc = request ? 0 : fm_cli_fail(err, FM_ENOMEM, "no memory for a conversation");

    if (rc == 0 && !job->chat) rc = fm_chat_open(&job->chat, job->engine, NULL, err);
    if (rc >= 0) rc = fm_chat_prompt(job->chat, request, &prompt, err);
    if (rc >= 0) {
        ids = prompt.ids;
        prompt.ids = NULL;
        rc = add_prompt(job, ids, prompt.n_ids, kind, err);
    }
    fm_prompt_clear(&prompt);
    free(request);
    return rc;
}

static int add_line(struct job *job, json_t *line, const char *file_kind, fm_error *err) {
    const json_t *prompt = json_object_get(line, "prompt"), *named = json_object_get(line, "kind");
    const char *kind = named ? json_string_value(named) : file_kind;

    if (!kind) return fm_cli_fail(err, FM_EFORMAT, "its kind is no text");
    if (json_array_append(job->lines, line) < 0) return fm_cli_fail(err, FM_ENOMEM, "no memory for it");
    if (json_object_get(line, "messages")) return add_messages(job, line, kind, err);
    if (!json_is_string(prompt)) return fm_cli_fail(err, FM_EFORMAT, "it has neither messages nor a prompt that is a text");
    return add_text(job, json_string_value(prompt), json_string_length(prompt), kind, err);
}

static int add_lines(struct job *job, const struct text *text, const char *path, const char *kind, fm_error *err) {
    const char *end = text->bytes + text->n;
    int number = 1, rc = 0;

    for (const char *line = text->bytes; line < end && rc >= 0; number++) {
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        size_t n = (size_t)((stop ? stop : end) - line);
        json_error_t at;
        fm_error why = {0};
        json_t *object = json_loadb(line, n, 0, &at);
        bool blank = strspn(line, " \t\r\n") >= n;
        if (!blank && !json_is_object(object))
            rc = fm_cli_fail(err, FM_EFORMAT, "%s:%d: it is no JSON object: %s", path, number, object ? "something else" : at.text);
        if (!blank && rc >= 0 && (rc = add_line(job, object, kind, &why)) < 0) fm_cli_fail(err, rc, "%s:%d: %s", path, number, why.message);
        json_decref(object);
        line += n + 1;
    }
    return rc;
}

/* The file's name without folder and ending. */
static void name_of(char name[64], const char *path) {
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path, *dot = strrchr(base, '.');

    snprintf(name, 64, "%.*s", (int)(dot && dot > base ? dot - base : (ptrdiff_t)strlen(base)), base);
    if (!*name || strcmp(path, "-") == 0) snprintf(name, 64, "prompts");
}

static int read_file(struct job *job, int i, fm_error *err) {
    const char *path = job->options->files.items[i];
    size_t n = strlen(path);
    int rc = fm_read_text(&job->files[i], NULL, path, false, err);

    name_of(job->names[i], path);
    if (rc < 0) return rc;
    if (n > 6 && strcmp(path + n - 6, ".jsonl") == 0) return add_lines(job, &job->files[i], path, job->names[i], err);
    rc = fm_prompts_split(&job->texts[i], &job->files[i], path, job->names[i], err);
    for (int k = 0; k < job->texts[i].n && rc >= 0; k++)
        rc = add_text(job, job->texts[i].items[k], strlen(job->texts[i].items[k]), job->texts[i].kinds[k], err);
    return rc;
}

static int read_files(struct job *job, fm_error *err) {
    size_t n = (size_t)job->options->files.n;
    int rc = 0;

    job->texts = calloc(n, sizeof *job->texts);
    job->files = calloc(n, sizeof *job->files);
    job->names = calloc(n, sizeof *job->names);
    job->lines = json_array();
    if (!job->texts || !job->files || !job->names || !job->lines) return fm_cli_fail(err, FM_ENOMEM, "no memory for %zu files", n);
    for (size_t i = 0; i < n && rc >= 0; i++) rc = read_file(job, (int)i, err);
    if (rc >= 0 && job->n == 0) rc = fm_cli_fail(err, FM_EFORMAT, "%s has no prompt", job->options->files.items[0]);
    return rc;
}

static void free_job(struct job *job) {
    for (int i = 0; i < job->n; i++) fm_free((void *)job->prompts[i].ids);
    for (int i = 0; i < job->options->files.n; i++) {
        if (job->texts) fm_prompts_free(&job->texts[i]);
        if (job->files) free(job->files[i].bytes);
    }
    free(job->prompts);
    free(job->texts);
    free(job->files);
    free(job->names);
    json_decref(job->lines);
    fm_chat_close(&job->chat);
    fm_close_engine(&job->engine);
}

/* ---- the command ---- */

static int record(const char *model, const struct profile_options *options) {
    struct progress progress;
    struct job job = {.options = options};
    fm_profile_options profile_options = FM_PROFILE_OPTIONS_INIT;
    fm_engine_options engine_options;
    fm_sampling sampling = FM_SAMPLING_INIT;
    fm_error err = {0};
    char name[64];
    int rc;

    fm_progress_open(&progress);
    engine_options = fm_engine_choose(&options->engine, &progress);
    rc = fm_open_engine(&job.engine, model, &engine_options, &err);
    if (rc >= 0) rc = read_files(&job, &err);
    if (rc >= 0) {
        fm_engine_sampling(job.engine, &sampling);
        if (!isnan(options->temp)) sampling.temperature = options->temp;
        sampling.seed = options->seed;
        name_of(name, options->files.items[0]);
        profile_options.max_tokens = options->max_tokens;
        profile_options.sampling = &sampling;
        profile_options.name = name;
        rc = fm_profile_record(job.engine, job.prompts, job.n, options->output, &profile_options, &err);
    }
    fm_progress_clear(&progress);
    free_job(&job);
    return rc < 0 ? fm_report(&err) : show(options->output, options->json);
}

static int profile_main(const struct cli_command *command, int argc, char **argv) {
    struct profile_options options = {.temp = NAN, .max_tokens = 64};
    const struct option_group groups[] = {OPTION_GROUP("Prompts and file", table, &options), ENGINE_GROUP(&options.engine)};
    struct cli_words words;
    struct stat st;
    int status;

    (void)argc;
    if (fm_options_parse(command, groups, 2, 1, &words, argv, &status) != 0) goto end;
    bool file = stat(words.words[0], &st) == 0 && S_ISREG(st.st_mode);
    if (file && !options.output && options.files.n == 0)
        status = show(words.words[0], options.json);
    else if (!options.output)
        status = fm_usage_error("profile needs -o FILE, the profile to write");
    else if (options.files.n == 0)
        status = fm_usage_error("profile needs -f PROMPTS, a file of prompts");
    else
        status = record(words.words[0], &options);
end:
    free(options.files.items);
    return status;
}

const struct cli_command fm_command_profile = {
    .name = "profile",
    .arguments = "MODEL -f PROMPTS -o FILE [options] | FILE",
    .summary = "record which experts a model's tokens use",
    .text = "Each prompt is read into an empty session and continued. The profile says how often each expert was\n"
            "used and with what weight, by layer and by kind of prompt; and the mean square of every column of\n"
            "what matrices are multiplied with, by which pack --search weighs errors. With a profile alone, also of\n"
            "older programs (JSON with universal and activation_counts), it is shown: how few experts have 50, 80\n"
            "and 90 % of the uses, and what kinds of prompts have in common. tools/plot.py draws it.\n"
            "\n"
            "Examples\n"
            "  flash-moe profile models/ember -f bench/traces/prompts-stories.txt -o stories.json\n"
            "  flash-moe profile MODEL -f code.txt -f chat.jsonl -o mine.json\n"
            "  flash-moe run MODEL -p \"Hello\" --memory 12G --profile mine.json --pin 20%\n"
            "  flash-moe pack MODEL -o DIR --experts 3 --search --profile mine.json\n",
    .main = profile_main,
};
