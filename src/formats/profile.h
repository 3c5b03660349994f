/* formats/profile.h: profiles as files: which experts a model's tokens used, by layer and kind of prompt, and the mean square of each column of what its matrices were
 * multiplied with. flash_moe_tools.h has what is in one.
 *
 * JSON: {"format": "flash-moe profile", "version": 1, "made_by", "model_type", "architecture", "n_layers", "n_experts", "top_k", "how": what made it,
 *  "kinds": [{"name", "n_prompts", "n_tokens", "layers": {"0": {"uses": [n_experts], "weights": [n_experts]}, …}}, …],
 *  "columns": {"head": [hidden], "0": {"mixer": [hidden], "mixer_out": […], "mlp": [hidden], "dense_down": […], "shared_down": […]}, …}}
 * Layers without experts are left out of kinds, and what a layer does not have of columns. (What an expert's down sees is not there: its columns are the expert's own.)
 *
 * Older: {"num_experts", "num_prompts", "threshold", "layers": {"0": {"universal": [ids], "activation_counts": {"id": n}}, …}}, of prompts, not of tokens. */
#ifndef FM_FORMATS_PROFILE_H
#define FM_FORMATS_PROFILE_H

#include "base/error.h"
#include "flash_moe_tools.h"

enum {
    FM_COLUMNS_MIXER,     /* normed input of a layer's mixer */
    FM_COLUMNS_MIXER_OUT, /* of its output projection */
    FM_COLUMNS_MLP,       /* normed input of router, experts, shared expert or dense MLP */
    FM_COLUMNS_DENSE_DOWN,
    FM_COLUMNS_SHARED_DOWN,
    FM_N_COLUMNS
};

struct fm_profile_columns {
    int n_head; /* 0: none */
    float *head;
    int (*n)[FM_N_COLUMNS];         /* [n_layers]; 0: none */
    float *(*square)[FM_N_COLUMNS]; /* [n_layers][…][n] mean squares */
};

/* Empty, with room for n_kinds kinds. malloc'd, as all in it; columns too. */
int fm_profile_new(fm_profile **out, int n_layers, int n_experts, int n_kinds, fm_error *err);
/* Parses a file's bytes; path is for messages. */
int fm_profile_parse(fm_profile **out, const char *path, const char *text, size_t bytes, fm_error *err);
/* Writes PATH.part, which becomes path. how: JSON object as text. FM_EIO. */
int fm_profile_write(const fm_profile *profile, const char *path, const char *how, fm_error *err);
/* Uses of all kinds together, [n_layers][n_experts], to sum. */
void fm_profile_sum(const fm_profile *profile, double *sum);

#endif
