/* experts/policy.c: the list of cache policies. */
#include "experts/policy.h"

#include <string.h>

/* The first is the default. */
static const fm_policy_ops *const policies[] = {&fm_policy_lfu, &fm_policy_lru};

const fm_policy_ops *fm_policy_at(int index) { return (size_t)index < sizeof policies / sizeof *policies ? policies[index] : NULL; }

const fm_policy_ops *fm_policy_find(const char *name, fm_error *err) {
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        if (!name || !strcmp(name, policies[i]->name)) return policies[i];
    }
    fm_fail(err, FM_EINVAL, "there is no cache policy \"%s\": use lfu or lru", name);
    return NULL;
}
