/* formats/packed_experts.h: tables of tensors from a directory as the flash-moe programs make it: packed_experts/layer_NN.bin
 * with layout.json, model_weights.bin with model_weights.json.
 *
 * Expert tensors are added under the names an MLX snapshot gives them (model.layers.N.mlp.switch_mlp.gate_proj.weight …, shape
 * [experts][rows][columns], strided by the expert's size), the others under their names in the manifest. */
#ifndef FM_FORMATS_PACKED_EXPERTS_H
#define FM_FORMATS_PACKED_EXPERTS_H

#include "formats/tensors.h"

/* Whether directory is to be read as one: it has model_weights.json, or packed_experts/layout.json and no safetensors model beside it (the programs put
 * packed_experts/ into the snapshot that it was made from). */
bool fm_packed_experts_here(const char *directory);
/* FM_EFORMAT, with path and number: a layer file of the wrong size, components or manifest entries that overlap, do not fit their shapes or leave the
 * expert or model_weights.bin. FM_EIO: a file is missing; a layer without a file is fine if the manifest has a dense MLP for it. FM_EUNSUPPORTED: a type
 * that is not known. */
int fm_packed_experts_add(fm_tensors *tensors, const char *directory, fm_error *err);

#endif
