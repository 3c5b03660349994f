/* model/resolve.h: finding tensors by name and checking them: what model.c and experts.c share while a model is being opened. */
#ifndef FM_MODEL_RESOLVE_H
#define FM_MODEL_RESOLVE_H

#include "model/model.h"

typedef struct fm_resolver {
    fm_model *model;
    const json_t *quantization; /* config.json's, NULL: none */
    const char *config_path;
} fm_resolver;

/* Finds a tensor and marks it as run; NULL if it is not there. */
const fm_tensor *fm_resolve_find(fm_resolver *r, const char *name);
/* FM_EFORMAT saying that the tensor is missing. */
int fm_resolve_missing(fm_resolver *r, const char *name, fm_error *err);
/* Path of the file a tensor lies in, for messages. */
const char *fm_resolve_path(const fm_resolver *r, const fm_tensor *tensor);

/* FM_EFORMAT saying which shape [n] was wanted. */
int fm_resolve_shape_error(const fm_resolver *r, const fm_tensor *tensor, int n, const uint64_t *wanted, fm_error *err);

/* The matrix [n_experts][rows][cols] (n_experts 0: [rows][cols]) called base + ".weight", or base itself; rows and cols are in source->shape. Fills weight, scales,
 * biases and type. With optional, returns 0 and leaves weight NULL when it is not there; 1 when it is. */
int fm_resolve_matrix(fm_resolver *r, const char *base, int n_experts, bool optional, fm_source *source, fm_error *err);

/* Experts of all layers: model->experts, extents, slot_bytes. */
int fm_resolve_experts(fm_resolver *r, fm_error *err);

/* The projection of latent attention in a layer, one tensor or two: sources of FM_LATENT_Q and FM_LATENT_OUT. */
int fm_resolve_latent(fm_resolver *r, const char *prefix, fm_source *sources, fm_error *err);

#endif
