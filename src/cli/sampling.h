/* cli/sampling.h: the options of sampling, which several commands have. */
#ifndef FM_CLI_SAMPLING_H
#define FM_CLI_SAMPLING_H

#include <math.h>

#include "cli/options.h"

#define NOT_GIVEN (-2) /* of an int option; NAN of a float: the model's own value is used */

struct sampling_choices {
    struct text_list biases;
    uint64_t seed;
    float temp, top_p, min_p, repeat_penalty, presence_penalty, frequency_penalty;
    int top_k, repeat_last;
};

#define SAMPLING_CHOICES_INIT                                                                                                                                  \
    {                                                                                                                                                          \
        .temp = NAN, .top_p = NAN, .min_p = NAN, .repeat_penalty = NAN, .presence_penalty = NAN, .frequency_penalty = NAN, .top_k = NOT_GIVEN,                 \
        .repeat_last = NOT_GIVEN                                                                                                                               \
    }

extern const struct cli_option fm_sampling_table[];
extern const int fm_sampling_table_n;
#define SAMPLING_GROUP(choices)                                                                                                                                \
    { "Sampling (default: what the model's generation_config.json says)", fm_sampling_table, fm_sampling_table_n, (choices) }

uint64_t fm_sampling_new_seed(void);
/* The biases of --logit-bias, [biases.n], malloc'd. */
int fm_sampling_biases(fm_logit_bias **out, const struct sampling_choices *choices, fm_error *err);
/* The model's own sampling, changed by what was given. bias is borrowed. */
void fm_sampling_choose(fm_sampling *out, const fm_engine *engine, const struct sampling_choices *choices, const fm_logit_bias *bias);

#endif
