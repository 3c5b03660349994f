/* cli/session_options.h: --session-cache and --session-cache-size, of the commands that keep what a model has read. */
#ifndef FM_CLI_SESSION_OPTIONS_H
#define FM_CLI_SESSION_OPTIONS_H

#include "cli/options.h"

struct session_choices {
    const char *cache;
    uint64_t cache_bytes;
    char path[4200]; /* of the default */
};

extern const struct cli_option fm_session_table[];
extern const int fm_session_table_n;
#define SESSION_GROUP(choices)                                                                                                                                 \
    { "Sessions", fm_session_table, fm_session_table_n, (choices) }

/* Puts them into the library's options, which borrow from choices. */
void fm_session_choose(struct session_choices *choices, fm_engine_options *options);

#endif
