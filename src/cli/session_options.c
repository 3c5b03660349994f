/* cli/session_options.c: see session_options.h. */
#include "cli/session_options.h"

#include "cli/cli.h"

#define AT(field) offsetof(struct session_choices, field)

const struct cli_option fm_session_table[] = {
    {"session-cache", 0, OPTION_TEXT, AT(cache), "DIR",
     "where the states behind long prompts are kept, so that the next start does\nnot read them again; off: nowhere\n(default: in the user's cache directory)",
     0, 0},
    {"session-cache-size", 0, OPTION_SIZE, AT(cache_bytes), "SIZE", "how much of the disk they may take; the least recently used go\n(default: 20G)", 1, 0},
};
const int fm_session_table_n = sizeof fm_session_table / sizeof *fm_session_table;

void fm_session_choose(struct session_choices *choices, fm_engine_options *options) {
    options->session_cache = fm_session_cache_path(choices->path, sizeof choices->path, choices->cache);
    options->session_cache_bytes = choices->cache_bytes;
}
