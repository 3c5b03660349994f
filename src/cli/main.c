/* cli/main.c: the list of commands, and which one is meant. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static const struct cli_command *const commands[] = {&fm_command_run,        &fm_command_chat,    &fm_command_info,  &fm_command_plan,
                                                     &fm_command_perplexity, &fm_command_compare, &fm_command_dump,  &fm_command_pack,
                                                     &fm_command_verify,     &fm_command_synth,   &fm_command_bench, &fm_command_trace,
                                                     &fm_command_replay,     &fm_command_pull,    &fm_command_serve, &fm_command_profile};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_help(FILE *out) {
    fputs("flash-moe runs mixture-of-experts language models that are larger than memory.\n"
          "\n"
          "  flash-moe COMMAND MODEL [options]\n"
          "\n"
          "MODEL is a directory, a snapshot as downloaded from Hugging Face, or packed; or a model's name there,\n"
          "ORG/NAME, after flash-moe pull ORG/NAME.\n"
          "\n"
          "Commands\n",
          out);
    for (int i = 0; i < N_COMMANDS; i++) fprintf(out, "  %-12s %s\n", commands[i]->name, commands[i]->summary);
    fputs("\n"
          "Examples\n"
          "  flash-moe plan models/ember --memory 24M       will it fit, and how fast will it be?\n"
          "  flash-moe run models/ember -p \"Once upon a time\" -n 100\n"
          "  flash-moe chat models/ember\n"
          "  flash-moe serve models/ember                   an API for other programs\n"
          "  flash-moe run models/ember --raw -f prompt.txt --temp 0 --stats\n"
          "\n"
          "flash-moe COMMAND --help explains a command, flash-moe --version says which version this is.\n",
          out);
}

static const struct cli_command *find_command(const char *name) {
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    return NULL;
}

static int unknown_command(const char *name) {
    const char *names[N_COMMANDS], *closest;

    for (int i = 0; i < N_COMMANDS; i++) names[i] = commands[i]->name;
    if (name[0] == '-') return fm_usage_error("unknown option %s; the command comes first, as in flash-moe run MODEL", name);
    if ((closest = fm_closest(name, names, N_COMMANDS))) return fm_usage_error("unknown command '%s'; did you mean %s?", name, closest);
    return fm_usage_error("unknown command '%s'; flash-moe --help lists them", name);
}

int main(int argc, char **argv) {
    const struct cli_command *command;
    const char *word = argc > 1 ? argv[1] : NULL;

    signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of write like others */
    if (!word) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(word, "--version") == 0) {
        puts("flash-moe " FM_VERSION);
        return fm_finish_output();
    }
    if (strcmp(word, "help") == 0 && argc > 2) {
        static char *const help[] = {"--help", NULL};
        return (command = find_command(argv[2])) ? command->main(command, 1, (char **)help) : unknown_command(argv[2]);
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        print_help(stdout);
        return fm_finish_output();
    }
    command = find_command(word);
    return command ? command->main(command, argc - 2, argv + 2) : unknown_command(word);
}
