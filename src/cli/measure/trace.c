/* cli/measure/trace.c: flash-moe trace. */
#include "cli/cli.h"

static int command_trace(const struct cli_command *command, int argc, char **argv) {
    (void)command, (void)argc, (void)argv;
    return fm_usage_error("trace is not there yet");
}

const struct cli_command fm_command_trace = {.name = "trace", .arguments = "MODEL", .summary = "to come", .text = "", .main = command_trace};
