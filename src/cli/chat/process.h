/* cli/chat/process.h: runs another program for the model: for a time, with so much output, and apart from the terminal. */
#ifndef FM_CLI_CHAT_PROCESS_H
#define FM_CLI_CHAT_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "flash_moe.h"

struct process_limits {
    double seconds;        /* then it is killed */
    size_t output_bytes;   /* kept: the first half and the last half */
    const char *directory; /* it runs in; NULL: ours */
    bool (*stop)(void);    /* asked now and then; true: it is killed. NULL: never */
};

struct process_result {
    char *output; /* what it wrote to stdout and stderr, cut; malloc'd, 0-terminated */
    size_t n;
    uint64_t left_out; /* bytes between the two halves */
    size_t head;       /* bytes of the first half, if left_out */
    int exit_status;   /* or -1: it ended by a signal */
    int signal;
    bool timed_out, stopped;
    double seconds;
};

/* Runs argv, found on the PATH, with input [input_bytes] as its standard input. It has a session of its own, thus no terminal, and whatever it leaves running in its
 * process group is killed when it ends. FM_EIO if it cannot be started. Free out->output. */
int fm_process_run(const char *const *argv, const char *input, size_t input_bytes, const struct process_limits *limits, struct process_result *out,
                   fm_error *err);

/* Runs $VISUAL or $EDITOR, or vi, on a file, at our terminal. FM_EIO if it cannot be run or says that it failed. */
int fm_process_edit(const char *path, fm_error *err);

#endif
