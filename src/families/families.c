/* families/families.c: the list of families; adding one is a file and a line here. */
#include "families/families.h"

/* clang-format off */
#define FAMILIES(X) \
    X(qwen3_5_moe) \
    X(qwen3_next) \
    X(qwen3_moe) \
    X(qwen2_moe) \
    X(mixtral) \
    X(olmoe) \
    X(granitemoe) \
    X(glm4_moe) \
    X(minimax_m2) \
    X(phimoe) \
    X(hunyuan_v1_moe) \
    X(dots1) \
    X(ernie4_5_moe) \
    X(bailing_moe) \
    X(deepseek_v2) \
    X(deepseek_v3) \
    X(glm4_moe_lite)
/* clang-format on */

#define DECLARE(name) extern const fm_family fm_family_##name;
FAMILIES(DECLARE)

#define ADDRESS(name) &fm_family_##name,
const fm_family *const fm_families[] = {FAMILIES(ADDRESS) NULL};
