/* formats/packed_experts.h: tables of tensors from a directory as the flash-moe programs make it: packed_experts/layer_NN.bin
 * with layout.json, model_weights.bin with model_weights.json.
 *
 * Expert tensors are added under the names an MLX snapshot gives them (model.layers.N.mlp.switch_mlp.gate_proj.weight …, shape
 * [experts][rows][columns], strided by the expert's size), the others under their names in the manifest. */
#ifndef FM_FORMATS_PACKED_EXPERTS_H
#define FM_FORMATS_PACKED_EXPERTS_H

#include "formats/tensors.h"

/* Whether directory looks like one (has packed_experts/layout.json or model_weights.json). */
bool fm_packed_experts_here(const char *directory);
/* FM_EFORMAT, with path and number: a layer file missing or of the wrong size, components that overlap or leave the expert,
 * a manifest entry outside model_weights.bin. */
int fm_packed_experts_add(fm_tensors *tensors, const char *directory, fm_error *err);

#endif
