/* families/families.c: the list of families; adding one is a file and a line here. */
#include "families/families.h"

extern const fm_family fm_family_qwen3_5_moe, fm_family_qwen3_next, fm_family_qwen3_moe;

const fm_family *const fm_families[] = {&fm_family_qwen3_5_moe, &fm_family_qwen3_next, &fm_family_qwen3_moe, NULL};
