/* cli/measure/bench.c: flash-moe bench. */
#include "cli/cli.h"

static int command_bench(const struct cli_command *command, int argc, char **argv) {
    (void)command, (void)argc, (void)argv;
    return fm_usage_error("bench is not there yet");
}

const struct cli_command fm_command_bench = {.name = "bench", .arguments = "MODEL", .summary = "to come", .text = "", .main = command_bench};
