/* cli/measure/replay.c: flash-moe replay. */
#include "cli/cli.h"

static int command_replay(const struct cli_command *command, int argc, char **argv) {
    (void)command, (void)argc, (void)argv;
    return fm_usage_error("replay is not there yet");
}

const struct cli_command fm_command_replay = {.name = "replay", .arguments = "MODEL", .summary = "to come", .text = "", .main = command_replay};
