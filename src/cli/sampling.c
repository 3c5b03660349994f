/* cli/sampling.c: the options of sampling, and what they change of the model's own. */
#include "cli/sampling.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "cli/cli.h"

#define AT(field) offsetof(struct sampling_choices, field)

const struct cli_option fm_sampling_table[] = {
    {"temp", 0, OPTION_FLOAT, AT(temp), "T", "temperature; 0 takes the likeliest token each time", 0, 100},
    {"top-k", 0, OPTION_INT, AT(top_k), "K", "choose among the K likeliest tokens; 0: all", 0, 2147483647},
    {"top-p", 0, OPTION_FLOAT, AT(top_p), "P", "… among the likeliest that together have probability P; 1: all", 0, 1},
    {"min-p", 0, OPTION_FLOAT, AT(min_p), "P", "… among those at least P times as likely as the likeliest; 0: all", 0, 1},
    {"repeat-penalty", 0, OPTION_FLOAT, AT(repeat_penalty), "X", "divide the logits of recent tokens by X; 1: off", 0.01, 100},
    {"repeat-last", 0, OPTION_INT, AT(repeat_last), "N", "how many tokens are recent (default: 64); -1: all; 0: none", -1, 1048576},
    {"presence-penalty", 0, OPTION_FLOAT, AT(presence_penalty), "X", "subtract X from the logits of recent tokens", -100, 100},
    {"frequency-penalty", 0, OPTION_FLOAT, AT(frequency_penalty), "X", "… X for each time they occurred", -100, 100},
    {"logit-bias", 0, OPTION_LIST, AT(biases), "ID=BIAS", "add BIAS to the logit of token ID; may be given again", 0, 0},
    {"seed", 0, OPTION_SEED, AT(seed), "N", "same seed, same text (default: a new one each time; --stats shows it)", 0, 0},
};
const int fm_sampling_table_n = sizeof fm_sampling_table / sizeof *fm_sampling_table;

uint64_t fm_sampling_new_seed(void) {
    uint32_t seed = 0;

    return getentropy(&seed, sizeof seed) == 0 ? seed : 0;
}

/* "42=-100" */
static int parse_biases(const struct text_list *list, fm_logit_bias *bias, fm_error *err) {
    for (int i = 0; i < list->n; i++) {
        const char *equals = strchr(list->items[i], '=');
        char id[16] = "";
        int rc;

        if (!equals) return fm_cli_fail(err, FM_EINVAL, "--logit-bias takes ID=BIAS such as 42=-100, not '%s'", list->items[i]);
        snprintf(id, sizeof id, "%.*s", (int)(equals - list->items[i]), list->items[i]);
        if ((rc = fm_parse_int("the ID of --logit-bias", id, 0, 2147483647, &bias[i].id, err)) < 0) return rc;
        if ((rc = fm_parse_float("the BIAS of --logit-bias", equals + 1, -1e9, 1e9, &bias[i].bias, err)) < 0) return rc;
    }
    return 0;
}

int fm_sampling_biases(fm_logit_bias **out, const struct sampling_choices *choices, fm_error *err) {
    int rc;

    if (!(*out = calloc((size_t)choices->biases.n + 1, sizeof **out))) return fm_cli_fail(err, FM_ENOMEM, "no memory for the command line");
    if ((rc = parse_biases(&choices->biases, *out, err)) < 0) {
        free(*out);
        *out = NULL;
    }
    return rc;
}

void fm_sampling_choose(fm_sampling *s, const fm_engine *engine, const struct sampling_choices *o, const fm_logit_bias *bias) {
    *s = (fm_sampling)FM_SAMPLING_INIT;
    fm_engine_sampling(engine, s);
    if (!isnan(o->temp)) s->temperature = o->temp;
    if (!isnan(o->top_p)) s->top_p = o->top_p;
    if (!isnan(o->min_p)) s->min_p = o->min_p;
    if (!isnan(o->repeat_penalty)) s->repeat_penalty = o->repeat_penalty;
    if (!isnan(o->presence_penalty)) s->presence_penalty = o->presence_penalty;
    if (!isnan(o->frequency_penalty)) s->frequency_penalty = o->frequency_penalty;
    if (o->top_k != NOT_GIVEN) s->top_k = o->top_k;
    if (o->repeat_last != NOT_GIVEN) s->repeat_last = o->repeat_last;
    s->seed = o->seed;
    s->bias = bias;
    s->n_bias = o->biases.n;
}
