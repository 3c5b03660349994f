/* cli/models/verify.c: `flash-moe verify`: checks every checksum of a packed model. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "flash_moe_tools.h"

struct verify_options {
    int threads;
    bool json;
};

#define AT(field) offsetof(struct verify_options, field)

static const struct cli_option table[] = {
    {"threads", 't', OPTION_INT, AT(threads), "N", "threads that read (default: one per CPU and six more)", 1, 1024},
    {"json", 0, OPTION_FLAG, AT(json), NULL, "one JSON object instead of the text", 0, 0},
};

static int print_json(const fm_verify_result *r) {
    json_t *wrong = json_array();

    for (int i = 0; i < r->n_wrong && i < FM_VERIFY_WRONG; i++) json_array_append_new(wrong, fm_json_text(r->wrong[i], strlen(r->wrong[i])));
    return fm_json_print(json_pack("{s:i, s:i, s:i, s:I, s:f, s:f, s:i, s:o}", "files", r->n_files, "tensors", r->n_tensors, "experts", r->n_experts, "bytes",
                                   (json_int_t)r->bytes, "seconds", r->seconds, "disk_per_second", r->disk_per_second, "n_wrong", r->n_wrong, "wrong", wrong));
}

static int print_result(const fm_verify_result *r) {
    char size[SIZE_TEXT];
    double rate = r->seconds > 0 ? (double)r->bytes / r->seconds : 0;

    printf("%d tensors and %d experts in %d files: %s in %.1f s, %.2f GB/s", r->n_tensors, r->n_experts, r->n_files, fm_disk_text(size, (double)r->bytes),
           r->seconds, rate / 1e9);
    if (r->disk_per_second > 0) printf(", %.0f %% of the %.2f GB/s that this disk reads", 100 * rate / r->disk_per_second, r->disk_per_second / 1e9);
    printf(r->n_wrong ? "\n" : ": all as they were written\n");
    return fm_finish_output();
}

static int verify_main(const struct cli_command *command, int argc, char **argv) {
    struct verify_options given = {0};
    const struct option_group group[] = {OPTION_GROUP("Options", table, &given)};
    struct progress progress;
    struct cli_words words;
    fm_verify_result result;
    fm_error err = {0};
    int status;

    (void)argc;
    if (fm_options_parse(command, group, 1, 1, &words, argv, &status) != 0) return status;
    fm_progress_open(&progress);
    fm_catch_signals();
    int n = fm_verify_model(words.words[0], given.threads, fm_progress_show, &progress, &result, &err);
    fm_progress_clear(&progress);
    if (n < 0) return fm_report(&err);
    status = given.json ? print_json(&result) : print_result(&result);
    for (int i = 0; i < n && i < FM_VERIFY_WRONG; i++) fprintf(stderr, "flash-moe: %s.\n", result.wrong[i]);
    if (n > FM_VERIFY_WRONG) fprintf(stderr, "flash-moe: %d checksums are wrong in all.\n", n);
    return n > 0 ? 1 : status;
}

const struct cli_command fm_command_verify = {
    .name = "verify",
    .arguments = "DIR [options]",
    .summary = "check every checksum of a packed model",
    .text = "Reads all of a packed model, as fast as the disk can, and names what is not as it was written: the\n"
            "file, the layer and the expert, or the tensor. Exits with 1 if anything is wrong.\n"
            "\n"
            "Examples\n"
            "  flash-moe verify /data/packed\n"
            "  flash-moe verify /data/packed --json\n",
    .main = verify_main,
};
