/* cli/models/pull.c: `flash-moe pull`: fetches a model from the Hugging Face hub, and packs it as it arrives if asked. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/models/hub.h"
#include "cli/models/pack_options.h"

struct pull_options {
    const char *pack;
    int connections, retries;
    bool any, dry_run, json;
};

#define AT(field) offsetof(struct pull_options, field)

static const struct cli_option table[] = {
    {"dry-run", 0, OPTION_FLAG, AT(dry_run), NULL, "only say which files there are, of which sizes, and what of them is here", 0, 0},
    {"connections", 0, OPTION_INT, AT(connections), "N", "files, or parts of large ones, at once (default: 8)", 1, 64},
    {"retries", 0, OPTION_INT, AT(retries), "N", "failures in a row after which it gives up (default: 10)", 1, 1000},
    {"pack", 0, OPTION_TEXT, AT(pack), "DIR", "make a packed model in DIR, each layer as soon as it has arrived", 0, 0},
    {"any", 0, OPTION_FLAG, AT(any), NULL, "models too that this flash-moe does not run", 0, 0},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "one JSON object instead of the text", 0, 0},
};

/* What is shown of the files, and the progress line. */
struct shown {
    struct progress progress;
    struct table files;
    json_t *list;
};

static void add_file(void *user, const char *name, uint64_t bytes, uint64_t here) {
    struct shown *s = user;
    char size[SIZE_TEXT];

    if (s->list) {
        json_array_append_new(
            s->list, json_pack("{s:o, s:I, s:I}", "name", fm_json_text(name, strlen(name)), "bytes", (json_int_t)bytes, "here_bytes", (json_int_t)here));
        return;
    }
    fm_table_add(&s->files, "%s", name);
    fm_table_add(&s->files, "%s", fm_disk_text(size, (double)bytes));
    fm_table_add(&s->files, "%s", here == bytes ? "here" : here ? fm_disk_text(size, (double)here) : "");
}

static int show(void *user, const char *what, uint64_t done, uint64_t total) { return fm_progress_show(&((struct shown *)user)->progress, what, done, total); }

static json_t *plan_json(const fm_pull_plan *p, json_t *files) {
    return json_pack("{s:s, s:s, s:s, s:o, s:o, s:I, s:I, s:I, s:o*}", "name", p->name, "revision", p->revision, "commit", p->commit, "architecture",
                     fm_json_text(p->architecture, strlen(p->architecture)), "path", fm_json_text(p->path, strlen(p->path)), "bytes", (json_int_t)p->bytes,
                     "here_bytes", (json_int_t)p->here_bytes, "free_bytes", (json_int_t)p->free_bytes, "files", files);
}

static int print_plan(const fm_pull_plan *p, struct shown *s) {
    char all[SIZE_TEXT], left[SIZE_TEXT], room[SIZE_TEXT];

    if (s->list) {
        json_t *list = s->list;
        s->list = NULL;
        return fm_json_print(plan_json(p, list));
    }
    printf("%s at %s: %s\n", p->name, p->commit, p->architecture);
    fm_table_print(&s->files, stdout, "  ");
    printf("%d files, %s; to be pulled: %s; free there: %s\n", p->n_files, fm_disk_text(all, (double)p->bytes),
           fm_disk_text(left, (double)(p->bytes - p->here_bytes)), fm_disk_text(room, (double)p->free_bytes));
    return fm_finish_output();
}

static int print_result(const fm_pull_result *r, const struct pull_options *given) {
    uint64_t pulled = r->plan.bytes - r->plan.here_bytes;
    char size[SIZE_TEXT];

    if (given->json) {
        json_t *object = plan_json(&r->plan, NULL);
        json_object_set_new(object, "pulled_bytes", json_integer((json_int_t)pulled));
        json_object_set_new(object, "seconds", json_real(r->seconds));
        if (given->pack) json_object_set_new(object, "packed", fm_json_text(given->pack, strlen(given->pack)));
        return fm_json_print(object);
    }
    if (pulled > 0 && r->seconds > 0)
        fprintf(stderr, "flash-moe: %s pulled in %.0f s, %.1f MB/s\n", fm_disk_text(size, (double)pulled), r->seconds, (double)pulled / r->seconds / 1e6);
    if (given->pack)
        fm_pack_print(&r->pack, given->pack);
    else
        puts(r->plan.path);
    return fm_finish_output();
}

static int pull(const char *name, const struct pull_options *given, const fm_pull_options *wanted) {
    struct shown shown = {.files = {.n_columns = 3, .n_left = 1}, .list = given->dry_run && given->json ? json_array() : NULL};
    fm_pull_options options = *wanted;
    fm_pull_plan plan;
    fm_pull_result result;
    fm_error err = {0};
    int rc, status;

    fm_progress_open(&shown.progress);
    options.progress = show;
    options.user = &shown;
    if (given->dry_run) options.file = add_file;
    fm_catch_signals();
    rc = given->dry_run ? fm_pull_plan_make(&plan, name, &options, &err) : fm_pull(name, &options, &result, &err);
    fm_progress_clear(&shown.progress);
    if (rc < 0)
        status = fm_report_given(&err);
    else
        status = given->dry_run ? print_plan(&plan, &shown) : print_result(&result, given);
    json_decref(shown.list);
    return status;
}

static int pull_main(const struct cli_command *command, int argc, char **argv) {
    struct pull_options given = {0};
    struct pack_choices choices = PACK_CHOICES_INIT;
    const struct option_group groups[] = {OPTION_GROUP("Options", table, &given), PACK_GROUP(&choices)};
    fm_pack_options pack;
    fm_pull_options options;
    struct cli_words words;
    struct hub hub;
    fm_error err = {0};
    int status;

    (void)argc;
    if (fm_options_parse(command, groups, 2, 1, &words, argv, &status) != 0) return status;
    if (!given.pack && fm_pack_given(&choices)) return fm_usage_error("--%s is for packing: give --pack DIR too", fm_pack_given(&choices));
    if ((status = fm_pack_choose(&choices, &pack)) != 0) return status;
    if (fm_hub_read(&hub, &err) < 0) return fm_report(&err);
    if (hub.offline) return fm_usage_error("HF_HUB_OFFLINE is set: nothing may be pulled");
    options = fm_hub_options(&hub, NULL);
    options.n_connections = given.connections;
    options.n_retries = given.retries;
    options.any_model = given.any;
    options.pack = given.pack;
    options.pack_options = &pack;
    return pull(words.words[0], &given, &options);
}

const struct cli_command fm_command_pull = {
    .name = "pull",
    .arguments = "ORG/NAME[@REVISION] [options]",
    .summary = "fetch a model from the Hugging Face hub",
    .text = "Fetches what is needed to run a model into the cache that huggingface_hub uses too, and prints the\n"
            "directory; afterwards every command takes ORG/NAME. Whatever stops it, the same command goes on\n"
            "where it was. Each file's hash is checked. HF_TOKEN (or what hf auth login left) opens what is not\n"
            "public; HF_HOME and HF_HUB_CACHE say where models are kept, HF_ENDPOINT is another hub.\n"
            "\n"
            "Examples\n"
            "  flash-moe pull ORG/NAME --dry-run\n"
            "  flash-moe pull ORG/NAME && flash-moe chat ORG/NAME\n"
            "  flash-moe pull ORG/NAME --pack packed --experts 4,2 --delete-consumed\n",
    .main = pull_main,
};
