/* cli/measure/prompts.h: files of prompts, for trace and profile. */
#ifndef FM_CLI_MEASURE_PROMPTS_H
#define FM_CLI_MEASURE_PROMPTS_H

#include "cli/cli.h"

struct prompts {
    const char **items; /* malloc'd, of the text */
    const char **kinds; /* malloc'd, of the text or of the caller */
    int n;
};

/* Cuts the text, which is written to, at lines that are just ---. The line break before such a line, and the last one of the text, belong to no prompt. What follows the last
 * such line may be blank. kind: of the prompts until a line "--- kind: NAME" says another, which is one of these lines too; NULL: there are no such lines. FM_EFORMAT. */
int fm_prompts_split(struct prompts *out, struct text *text, const char *path, const char *kind, fm_error *err);
void fm_prompts_free(struct prompts *prompts);

#endif
