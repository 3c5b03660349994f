/* families/keys.h: the keys of config.json that families share, read into a description. Each names what it refuses. */
#ifndef FM_FAMILIES_KEYS_H
#define FM_FAMILIES_KEYS_H

#include "model/config.h"
#include "model/description.h"

/* vocab_size, hidden_size, num_hidden_layers, max_position_embeddings, rms_norm_eps (absent: default_eps), tie_word_embeddings; refuses a hidden_act other than silu. */
int fm_keys_body(fm_description *d, const fm_config *config, double default_eps, fm_error *err);
/* num_attention_heads, num_key_value_heads, head_dim (absent: default_head_dim, or hidden / heads if that is 0), attention_bias (of q, k, v and o). */
int fm_keys_attention(fm_description *d, const fm_config *config, int default_head_dim, fm_error *err);
/* sliding_window; 0 if it is null or what `use` names (NULL: nothing does; absent: false) is false. */
int fm_keys_window(const fm_config *config, const char *use, int *window, fm_error *err);
/* layer_types ("sliding_attention", "full_attention"), if it is there, says which layers have the window. */
int fm_keys_windows(fm_description *d, const fm_config *config, int window, fm_error *err);
/* rope_theta, partial_rotary_factor, and the variants of model/rope.h, in rope_parameters, rope_scaling or at the top; refuses others by name. */
int fm_keys_rope(fm_description *d, const fm_config *config, double default_theta, double default_fraction, fm_error *err);
/* num_attention_heads, q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim, rope_interleave, and the rope with what it does to the scale. */
int fm_keys_latent(fm_description *d, const fm_config *config, double default_theta, fm_error *err);
/* linear_num_key_heads, linear_num_value_heads, linear_key_head_dim, linear_value_head_dim, linear_conv_kernel_dim. */
int fm_keys_delta(fm_description *d, const fm_config *config, fm_error *err);
/* layer_types ("linear_attention", "full_attention"), else full_attention_interval (default 4): every interval-th layer is attention. */
int fm_keys_mixers(fm_description *d, const fm_config *config, fm_error *err);
/* layer_types ("full_attention", and `other`, which means that mixer). */
int fm_keys_layer_types(fm_description *d, const fm_config *config, const char *other, fm_mixer mixer, fm_error *err);
/* The norms' epsilon under another key. */
int fm_keys_epsilon(fm_description *d, const fm_config *config, const char *key, double fallback, fm_error *err);
/* num_experts, num_experts_per_tok, moe_intermediate_size, shared_expert_intermediate_size (when shared). */
int fm_keys_experts(fm_description *d, const fm_config *config, bool shared, fm_error *err);
/* The same where the keys have other names; n_shared (NULL: none): shared experts, each as wide as a routed one. */
typedef struct fm_moe_keys {
    const char *n_experts, *top_k, *width, *n_shared;
} fm_moe_keys;
int fm_keys_moe(fm_description *d, const fm_config *config, const fm_moe_keys *keys, fm_error *err);
/* A number from 0 to a billion. */
int fm_keys_float(const fm_config *config, const char *key, double fallback, float *out, fm_error *err);
/* n shared experts as one of n times the width. */
int fm_keys_shared(fm_description *d, const fm_config *config, int n, int width, fm_error *err);
/* As fm_config_int, or a list with that number for each layer. */
int fm_keys_same(const fm_config *config, const char *key, int fallback, int low, int high, int *out, fm_error *err);
/* FM_EUNSUPPORTED unless the number, or each of a list, is the wanted one or the key is absent. */
int fm_keys_expect(const fm_config *config, const char *key, int wanted, fm_error *err);
/* FM_EUNSUPPORTED unless each of the keys (NULL-terminated) is absent, null or false. */
int fm_keys_expect_false(const fm_config *config, const char *const *keys, fm_error *err);
/* first_k_dense_replace (absent: fallback) and intermediate_size; num_nextn_predict_layers. */
int fm_keys_first_dense(fm_description *d, const fm_config *config, int fallback, fm_error *err);
/* intermediate_size, if a layer is dense. */
int fm_keys_dense_width(fm_description *d, const fm_config *config, fm_error *err);
/* n_group, topk_group (by the two best of a group), routed_scaling_factor. */
int fm_keys_groups(fm_description *d, const fm_config *config, fm_error *err);
/* The router of DeepSeek-V3: sigmoid scores, in those groups, with a bias in the choice; norm_topk_prob (absent: true); refuses another scoring_func or topk_method. */
int fm_keys_sigmoid_router(fm_description *d, const fm_config *config, fm_error *err);
/* decoder_sparse_step, mlp_only_layers and intermediate_size: which layers are dense. */
int fm_keys_sparse_layers(fm_description *d, const fm_config *config, fm_error *err);

#endif
