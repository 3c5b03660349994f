/* cli/options.h: the command line as tables. A table says which options there are, where their values go, which are allowed, and how --help explains them, so
 * that what is accepted and what is explained cannot differ. */
#ifndef FM_CLI_OPTIONS_H
#define FM_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "flash_moe.h"

enum option_kind {
    OPTION_FLAG,    /* bool; takes no value */
    OPTION_TEXT,    /* const char * */
    OPTION_LIST,    /* struct text_list; may be given more than once */
    OPTION_INT,     /* int */
    OPTION_FLOAT,   /* float */
    OPTION_PERCENT, /* float from 0 to 1: 20% or 20 */
    OPTION_SEED,    /* uint64_t, 0 … 2^63-1 */
    OPTION_SIZE,    /* uint64_t of bytes: 800M, 1.5G (powers of 1024, as MiB and GiB), 12GB (powers of 1000), or plain bytes */
    OPTION_ID,      /* const char *; "" without a value, which is of digits, a … f and dashes and begins with a digit, unless = stands before it */
    OPTION_CHOICE,  /* int: which of the words of `argument`, "f32|int8", counted from 0 */
};

struct text_list {
    const char **items; /* malloc'd; the texts are argv's */
    int n;
};

struct cli_option {
    const char *name; /* without the dashes */
    char letter;      /* of the short form, or 0 */
    int kind;
    size_t offset;        /* of the value in the group's struct */
    const char *argument; /* what --help calls the value; OPTION_CHOICE: the choices */
    const char *help;     /* one line, or several with \n */
    double least, most;   /* of numbers */
};

/* Options that belong together under one heading of --help; their values lie in *values, which holds the defaults before. */
struct option_group {
    const char *title;
    const struct cli_option *options;
    int n;
    void *values;
};
#define OPTION_GROUP(title, table, values)                                                                                                                     \
    { (title), (table), (int)(sizeof(table) / sizeof *(table)), (values) }

/* A command, as main.c lists it and its --help shows it. */
struct cli_command {
    const char *name;
    const char *arguments; /* "MODEL -p TEXT" */
    const char *summary;
    const char *text;                                                      /* paragraphs and examples of --help */
    int (*main)(const struct cli_command *command, int argc, char **argv); /* argv[0] is the first word after the command; the exit code */
};

#define MAX_WORDS 4
#define MODEL_PATH 2304

struct cli_words { /* what is not an option, such as MODEL */
    const char *words[MAX_WORDS];
    int n;
    char models[2][MODEL_PATH]; /* where words point that were names of models on the hub */
};

/* Reads the words after the command's name. 0: go on; else the command is over with exit code *status, because help was asked for and printed, or something
 * was wrong and said on stderr. At most n_words words that are not options are taken; MODEL, the first, must be there, unless n_words is negative. MODEL, OTHER and DIR may be a model's name on the hub and become the path of its snapshot; *words is not to be copied. */
int fm_options_parse(const struct cli_command *command, const struct option_group *groups, int n_groups, int n_words, struct cli_words *words, char **argv,
                     int *status);

/* Sets the option of that name. FM_EINVAL if there is none, or the value is none for it; flags take none and cannot be set. */
int fm_options_set(const struct option_group *groups, int n_groups, const char *name, const char *text, fm_error *err);

/* Strict numbers: the whole text, finite, in range. what is named in the message, such as "--temp". 0 or FM_EINVAL. */
int fm_parse_int(const char *what, const char *text, double least, double most, int *out, fm_error *err);
int fm_parse_float(const char *what, const char *text, double least, double most, float *out, fm_error *err);
int fm_parse_size(const char *what, const char *text, uint64_t *out, fm_error *err);

/* The word of names[n] closest to `word`, or NULL if none is close. */
const char *fm_closest(const char *word, const char *const *names, int n);

#endif
