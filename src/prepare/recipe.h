/* prepare/recipe.h: what a model of random weights consists of, before any of it is made: its config, its dense tensors, its experts' types. */
#ifndef FM_PREPARE_RECIPE_H
#define FM_PREPARE_RECIPE_H

#include "flash_moe_tools.h"
#include "formats/pack.h"
#include "model/family.h"
#include "prepare/random.h"

typedef struct fm_recipe_tensor {
    fm_pack_tensor tensor; /* name: malloc'd */
    uint64_t bytes;
    fm_random_values values;
} fm_recipe_tensor;

typedef struct fm_recipe {
    fm_config config; /* as it is to be written */
    const fm_family *family;
    fm_description description;
    int bits, group, n_moe_layers;
    uint64_t seed;
    fm_matrix_type expert[FM_EXPERT_MATRICES];
    fm_recipe_tensor *tensors;
    int n_tensors, room;
} fm_recipe;

/* From a known name or a path (see fm_synth_plan_make); options are complete. Errors name the config and its key, or the matrix and the number. */
int fm_recipe_open(fm_recipe *recipe, const char *config, const fm_synth_options *options, fm_error *err);
void fm_recipe_close(fm_recipe *recipe);

#endif
