/* cli/measure/prompts.c: see prompts.h. */
#include "cli/measure/prompts.h"

#include <stdlib.h>
#include <string.h>

#define KIND "--- kind: "

struct splitter {
    struct prompts *out;
    const char *path, *kind;
    char *at;             /* where the prompt begins */
    int line, first_line; /* this one's number, and that of the prompt's first */
};

static bool is_blank(const char *text) { return text[strspn(text, " \t\r\n")] == 0; }

/* Ends the prompt before stop. Blank ones are left out where that is allowed. */
static int end_prompt(struct splitter *s, char *stop, bool blank_allowed, fm_error *err) {
    if (stop > s->at && stop[-1] == '\n') stop--;
    *stop = 0;
    if (!is_blank(s->at)) {
        s->out->kinds[s->out->n] = s->kind;
        s->out->items[s->out->n++] = s->at;
    } else if (!blank_allowed) {
        return fm_cli_fail(err, FM_EFORMAT, "%s: the prompt of lines %d to %d is empty", s->path, s->first_line, s->line);
    }
    s->first_line = s->line + 1;
    return 0;
}

static int split(struct splitter *s, char *bytes, bool kinds, fm_error *err) {
    s->at = bytes;
    s->line = s->first_line = 1;
    for (char *line = bytes; line; s->line++) {
        char *end = strchr(line, '\n');
        bool named = kinds && strncmp(line, KIND, strlen(KIND)) == 0, cut = named || (strncmp(line, "---", 3) == 0 && (line[3] == '\n' || line[3] == 0));
        if (named && end) *end = 0;
        if (cut || !end) {
            int rc = end_prompt(s, cut ? line : line + strlen(line), named || !cut, err);
            if (rc < 0) return rc;
            s->at = end ? end + 1 : NULL;
        }
        if (named && is_blank(s->kind = line + strlen(KIND))) return fm_cli_fail(err, FM_EFORMAT, "%s: line %d names no kind", s->path, s->line);
        line = end ? end + 1 : NULL;
    }
    return s->out->n > 0 ? 0 : fm_cli_fail(err, FM_EFORMAT, "%s has no prompt", s->path);
}

int fm_prompts_split(struct prompts *out, struct text *text, const char *path, const char *kind, fm_error *err) {
    struct splitter s = {.out = out, .path = path, .kind = kind};
    char *bytes = text->bytes, *zero;

    *out = (struct prompts){0};
    if (!(out->items = calloc(text->n / 4 + 2, sizeof *out->items)) || !(out->kinds = calloc(text->n / 4 + 2, sizeof *out->kinds)))
        return fm_cli_fail(err, FM_ENOMEM, "%s does not fit in memory", path);
    if (strlen(bytes) < text->n) {
        zero = bytes + strlen(bytes);
        return fm_cli_fail(err, FM_EFORMAT, "%s has a byte 0 at %td, and prompts are text", path, zero - bytes);
    }
    return split(&s, bytes, kind != NULL, err);
}

void fm_prompts_free(struct prompts *prompts) {
    free(prompts->items);
    free(prompts->kinds);
    *prompts = (struct prompts){0};
}
