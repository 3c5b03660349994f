/* cli/models/hub.h: what the environment says about the Hugging Face hub, as huggingface_hub reads it: HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE and others. */
#ifndef FM_CLI_MODELS_HUB_H
#define FM_CLI_MODELS_HUB_H

#include "cli/cli.h"
#include "flash_moe_tools.h"

struct hub {
    char cache[1024], token[1024];
    const char *endpoint; /* NULL: the usual one */
    bool offline;         /* the hub must not be asked */
};

/* FM_EINVAL: a path or a token is too long, or there is no home directory to keep models in. */
int fm_hub_read(struct hub *hub, fm_error *err);
fm_pull_options fm_hub_options(const struct hub *hub, struct progress *progress);

#endif
