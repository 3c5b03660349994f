/* cli/models/pack_options.h: how a model is packed, as pack and pull --pack are told it. */
#ifndef FM_CLI_MODELS_PACK_OPTIONS_H
#define FM_CLI_MODELS_PACK_OPTIONS_H

#include "cli/cli.h"

struct pack_choices {
    const char *rules, *profile, *experts;
    int dense, group, threads;
    uint64_t memory;
    bool search, delete_consumed;
};

#define PACK_CHOICES_INIT                                                                                                                                      \
    { .group = -1 }

extern const struct cli_option fm_pack_table[];
extern const int fm_pack_table_n;
#define PACK_GROUP(choices)                                                                                                                                    \
    { "Packing", fm_pack_table, fm_pack_table_n, (choices) }

/* The library's options for these. 0, or the exit code after a mistake was named. */
int fm_pack_choose(const struct pack_choices *choices, fm_pack_options *options);
/* The first option that was given; NULL: none. */
const char *fm_pack_given(const struct pack_choices *choices);

#endif
