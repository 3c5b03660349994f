/* families/keys.h: the keys of config.json that families share, read into a description. Each names what it refuses. */
#ifndef FM_FAMILIES_KEYS_H
#define FM_FAMILIES_KEYS_H

#include "model/config.h"
#include "model/description.h"

/* vocab_size, hidden_size, num_hidden_layers, max_position_embeddings, rms_norm_eps, tie_word_embeddings; refuses a hidden_act other than silu. */
int fm_keys_body(fm_description *d, const fm_config *config, fm_error *err);
/* num_attention_heads, num_key_value_heads, head_dim (absent: default_head_dim, or hidden / heads if that is 0), attention_bias; refuses sliding windows. */
int fm_keys_attention(fm_description *d, const fm_config *config, int default_head_dim, fm_error *err);
/* rope_theta and partial_rotary_factor, in rope_parameters or at the top; refuses, by name, rope types other than the default. */
int fm_keys_rope(fm_description *d, const fm_config *config, double default_theta, double default_fraction, fm_error *err);
/* linear_num_key_heads, linear_num_value_heads, linear_key_head_dim, linear_value_head_dim, linear_conv_kernel_dim. */
int fm_keys_delta(fm_description *d, const fm_config *config, fm_error *err);
/* layer_types ("linear_attention", "full_attention"), else full_attention_interval (default 4): every interval-th layer is attention. */
int fm_keys_mixers(fm_description *d, const fm_config *config, fm_error *err);
/* num_experts, num_experts_per_tok, moe_intermediate_size, shared_expert_intermediate_size (when shared). */
int fm_keys_experts(fm_description *d, const fm_config *config, bool shared, fm_error *err);
/* decoder_sparse_step, mlp_only_layers and intermediate_size: which layers are dense. */
int fm_keys_sparse_layers(fm_description *d, const fm_config *config, fm_error *err);

#endif
