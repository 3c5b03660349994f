/* cli/models/synth.c: flash-moe synth. */
#include "cli/cli.h"

static int command_synth(const struct cli_command *command, int argc, char **argv) {
    (void)command, (void)argc, (void)argv;
    return fm_usage_error("synth is not there yet");
}

const struct cli_command fm_command_synth = {.name = "synth", .arguments = "MODEL", .summary = "to come", .text = "", .main = command_synth};
