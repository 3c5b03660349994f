/* cli/talk/run.h: one run of `flash-moe run`, which its files share: run.c (options, and a text as it is), conversation.c (the chat template), report.c (what is said
 * at the end). */
#ifndef FM_CLI_TALK_RUN_H
#define FM_CLI_TALK_RUN_H

#include "cli/cli.h"
#include "cli/sampling.h"
#include "cli/session_options.h"

enum { REASONING_AUTO, REASONING_SHOW, REASONING_HIDE };

struct run_options {
    struct engine_choices engine;
    struct session_choices session;
    const char *prompt, *file;
    const char *system, *tools, *messages, *template_file; /* with the chat template */
    struct text_list template_args;
    int think_budget, reasoning;
    struct sampling_choices sampling;
    struct text_list stops;
    int max_tokens;
    const char *heat;
    bool raw, ignore_eos, stats, timing, json;
};

/* One run, while and after text is made. */
struct run {
    const struct run_options *options;
    struct progress progress;
    fm_engine *engine;
    fm_sampling sampling;
    fm_generated done;
    fm_answered answered; /* with the chat template */
    bool templated;
    fm_stats first, last;  /* when the first text came, and at the end */
    struct text text;      /* of --json */
    char end;              /* the last byte written */
    bool dim;              /* reasoning is on the screen */
    struct text arguments; /* of the call that is being made */
    bool started, reader_left;
    fm_error err;
};

/* Text of the model: to stdout, or kept for --json. Non-zero: stop. */
int fm_run_show(struct run *r, const char *text, size_t bytes);
/* The first text is about to come: the progress line goes, and the statistics of what comes are counted from here. */
void fm_run_begin(struct run *r);

/* conversation.c: the request that the options make, as JSON, malloc'd: prompt may be NULL with --messages. Mistakes in files are FM_EFORMAT and FM_EIO, others FM_EINVAL. */
int fm_run_request(char **request, const struct run_options *options, const struct text *prompt, fm_error *err);
/* The answer to it. */
int fm_run_answer(struct run *r, const char *request);

/* report.c: after the text: what happened, and the exit code. */
int fm_run_finish(struct run *r);

#endif
