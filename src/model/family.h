/* model/family.h: the interface of a model family: data that says which checkpoints it reads, how config.json becomes a description, and what the
 * tensors are called. None of its code runs while tokens are made. */
#ifndef FM_MODEL_FAMILY_H
#define FM_MODEL_FAMILY_H

#include "model/config.h"
#include "model/roles.h"

typedef struct fm_family {
    const char *name;
    const char *const *architectures; /* config.json's architectures[0], NULL-terminated */
    const char *const *model_types;   /* config.json's model_type, NULL-terminated */
    int (*describe)(fm_description *d, const fm_config *config, fm_error *err);

    /* Names. What stands before `embed_tokens.weight`: the first prefix under which that tensor is there. */
    const char *const *prefixes;
    /* Full names of the head, NULL-terminated, tried in order (without .weight). */
    const char *const *heads;
    /* By role: below the prefix ("embed_tokens", "norm") or below prefix + "layers.N." ; without ".weight" for matrices, norms and conv, whole for biases,
     * A_log and dt_bias. NULL: this family never has it. */
    const char *const *names; /* [FM_N_ROLES] */
    /* Tried where the tensor of names is not there; NULL, or NULL for a role: none. */
    const char *const *other_names; /* [FM_N_ROLES] */
    /* q, k and v as one matrix, rows in this order, which stands in their place with its .bias in that of theirs; NULL: they are three. */
    const char *fused_qkv;
    /* Both parts of latent attention's projection as one matrix: rows by head, nope_dim for the query and v_dim for the output; NULL: never. */
    const char *latent_kv;
    /* Experts, below the layer: one tensor with all experts each for gate, up, down ("mlp.switch_mlp.gate_proj"), the fused pair
     * ("mlp.experts.gate_up_proj", "mlp.experts.down_proj"), and one tensor per expert ("mlp.experts.%d.gate_proj"). */
    const char *const *stacked_experts; /* [3] gate, up, down */
    const char *const *fused_experts;   /* [2] gate_up [E][2I][H], down [E][H][I]; no .weight */
    const char *const *each_expert;     /* [3] */
    /* Rows of the grouped projections of the delta rule, when description.grouped_projection. */
    const char *grouped_qkvz, *grouped_ba;
    /* Tensors whose names contain this are left out, with what `info` calls them; NULL-terminated pairs. */
    const char *const *left_out;
} fm_family;

#endif
