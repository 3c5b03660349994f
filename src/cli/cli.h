/* cli/cli.h: what the commands share. One file a command; each uses flash_moe.h as any other program would. */
#ifndef FM_CLI_CLI_H
#define FM_CLI_CLI_H

#include "cli/options.h"
#include "cli/output.h"
#include "flash_moe_tools.h"

enum { EXIT_USAGE = 2, EXIT_CANCELLED = 130 };

extern const struct cli_command fm_command_run, fm_command_chat, fm_command_info, fm_command_plan, fm_command_perplexity, fm_command_compare;
extern const struct cli_command fm_command_dump, fm_command_pack, fm_command_verify, fm_command_pull;
extern const struct cli_command fm_command_synth, fm_command_bench, fm_command_trace, fm_command_replay;
extern const struct cli_command fm_command_serve, fm_command_profile;

/* The options of the model and the machine, which most commands have. */
struct engine_choices {
    const char *config_from, *io, *policy, *cpu, *mirror, *profile;
    uint64_t memory;
    int threads, context, experts_per_token, activations, prefetch, kv;
    int missing, cold_bits;
    float pin, cold_below;
    bool no_verify;
};

extern const struct cli_option fm_engine_table[];
extern const int fm_engine_table_n;
#define ENGINE_GROUP(choices)                                                                                                                                  \
    { "Model and machine", fm_engine_table, fm_engine_table_n, (choices) }

/* The library's options for these; log and progress go to stderr through *progress. */
fm_engine_options fm_engine_choose(const struct engine_choices *choices, struct progress *progress);

/* "bf16", "f32" or "q8". */
const char *fm_kv_text(int kv);

/* "DIR/flash-moe/NAME" with the directories above it made: DIR is what the environment's variable names, else in_home below the home directory. NULL: there is no such directory,
 * or it cannot be made. */
struct user_folder {
    const char *variable, *in_home;
    unsigned mode;
};
const char *fm_user_path(char *path, size_t size, const struct user_folder *folder, const char *name);

/* The file of --heat: asked itself, NULL for "off", or with NULL one of the model's in the user's cache directory, which is made (NULL if that cannot be). */
const char *fm_heat_path(char *path, size_t size, const char *asked, const char *model);

/* The value of a JSON file; NULL after an error. */
int fm_json_read(json_t **out, const char *path, fm_error *err);

/* KEY=VALUE of --template-arg as members of object: VALUE is JSON, or text where it is none. */
int fm_template_args(json_t *object, const struct text_list *list, fm_error *err);
/* FM_EINVAL if the template mentions no variable of one of these names. */
int fm_template_check(const fm_chat *chat, const json_t *object, fm_error *err);

/* The directory of --session-cache, in the same way: one for all models. */
const char *fm_session_cache_path(char *path, size_t size, const char *asked);

/* Catches Ctrl-C and SIGTERM, once each: fm_cancelled says so, and fm_progress_show, while there is no engine, asks to stop. */
void fm_catch_signals(void);
/* Opens the engine, or a second one beside it, with Ctrl-C and SIGTERM caught: they cancel what is computed, and fm_cancelled says so; the second one kills. */
int fm_open_engine(fm_engine **out, const char *model, const fm_engine_options *options, fm_error *err);
/* Closes it and lets go of the signals. */
void fm_close_engine(fm_engine **engine);
bool fm_cancelled(void);
/* Cancelled while there was no engine yet that could be told. */
bool fm_stop_loading(void);

/* A model that is named as on the Hugging Face hub, ORG/NAME, where there is no such directory: *model becomes path, its snapshot in the cache. What is not there may be pulled by
 * someone at a terminal who agrees; else FM_EIO. models/hub.c */
int fm_find_model(const char **model, char path[MODEL_PATH], fm_error *err);

/* What packing into output has lost, read and written, as text. models/pack.c */
void fm_pack_print(const fm_pack_result *result, const char *output);

/* "flash-moe: message." on stderr; returns the exit code that belongs to it: EXIT_CANCELLED for FM_ECANCELLED, else 1. */
int fm_report(const fm_error *err);
/* The same, but FM_EINVAL is a mistake on the command line: EXIT_USAGE. */
int fm_report_given(const fm_error *err);
/* Such a mistake in words of its own. */
__attribute__((format(printf, 1, 2))) int fm_usage_error(const char *format, ...);
/* Fills *err and returns code. */
__attribute__((format(printf, 3, 4))) int fm_cli_fail(fm_error *err, int code, const char *format, ...);

struct text {    /* that grows; zeroed at first */
    char *bytes; /* malloc'd, with a 0 behind the n; NULL: nothing was added yet */
    size_t n, room;
};

/* False: no memory. */
bool fm_text_add(struct text *text, const char *bytes, size_t n);

/* The text that exactly one of -p, -f and - gives; "-" as path is standard input too. 0, or FM_EINVAL (none or several), or FM_EIO. */
int fm_read_text(struct text *out, const char *prompt, const char *path, bool standard_input, fm_error *err);

#endif
