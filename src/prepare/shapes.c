/* prepare/shapes.c: see shapes.h: facts of the published checkpoints, in the form of their config.json. What the engine does not read of it (vision, training) is
 * left out. */
#include "prepare/shapes.h"

#include <stddef.h>

#include "flash_moe_tools.h"

#define COMMON                                                                                                                                                 \
    "\"attention_bias\": false, \"full_attention_interval\": 4, \"head_dim\": 256, \"hidden_act\": \"silu\", \"linear_conv_kernel_dim\": 4, "                  \
    "\"linear_key_head_dim\": 128, \"linear_num_key_heads\": 16, \"linear_value_head_dim\": 128, \"max_position_embeddings\": 262144, "                        \
    "\"num_key_value_heads\": 2, \"rms_norm_eps\": 1e-06, \"tie_word_embeddings\": false, "

/* hidden, layers, query heads, value heads of the delta rule, experts, experts for a token, width of experts and of the shared one */
#define SIZES(hidden, layers, heads, value_heads, experts, top_k, width)                                                                                       \
    "\"hidden_size\": " #hidden ", \"num_hidden_layers\": " #layers ", \"num_attention_heads\": " #heads ", \"linear_num_value_heads\": " #value_heads         \
    ", \"num_experts\": " #experts ", \"num_experts_per_tok\": " #top_k ", \"moe_intermediate_size\": " #width                                                 \
    ", \"shared_expert_intermediate_size\": " #width

#define QWEN3_5(...)                                                                                                                                           \
    "{\"architectures\": [\"Qwen3_5MoeForConditionalGeneration\"], \"model_type\": \"qwen3_5_moe\", \"tie_word_embeddings\": false, "                          \
    "\"text_config\": {\"model_type\": \"qwen3_5_moe_text\", \"attn_output_gate\": true, \"dtype\": \"bfloat16\", \"mamba_ssm_dtype\": \"float32\", "          \
    "\"eos_token_id\": [248046, 248044], \"vocab_size\": 248320, \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 10000000, "                 \
    "\"partial_rotary_factor\": 0.25, \"mrope_interleaved\": true, \"mrope_section\": [11, 11, 10]}, " COMMON                                                  \
    SIZES(__VA_ARGS__) "}}"

#define QWEN3_NEXT(...)                                                                                                                                        \
    "{\"architectures\": [\"Qwen3NextForCausalLM\"], \"model_type\": \"qwen3_next\", \"torch_dtype\": \"bfloat16\", \"eos_token_id\": [151645, 151643], "      \
    "\"vocab_size\": 151936, \"rope_theta\": 5000000, \"rope_scaling\": null, \"partial_rotary_factor\": 0.25, \"decoder_sparse_step\": 1, "                   \
    "\"intermediate_size\": 5120, \"mlp_only_layers\": [], \"norm_topk_prob\": true, \"use_sliding_window\": false, " COMMON                                   \
    SIZES(__VA_ARGS__) "}"

const fm_named_shape fm_named_shapes[] = {
    {"qwen3.5-35b-a3b", "40 layers of 256 experts, 8 for a token", QWEN3_5(2048, 40, 16, 32, 256, 8, 512)},
    {"qwen3.5-122b-a10b", "48 layers of 256 experts, 8 for a token", QWEN3_5(3072, 48, 32, 64, 256, 8, 1024)},
    {"qwen3.5-397b-a17b", "60 layers of 512 experts, 10 for a token", QWEN3_5(4096, 60, 32, 64, 512, 10, 1024)},
    {"qwen3.6-35b-a3b", "the shape of qwen3.5-35b-a3b", QWEN3_5(2048, 40, 16, 32, 256, 8, 512)},
    {"qwen3-coder-next", "48 layers of 512 experts, 10 for a token", QWEN3_NEXT(2048, 48, 16, 32, 512, 10, 512)},
    {NULL, NULL, NULL},
};

const char *fm_synth_shape(int i, const char **summary) {
    for (int j = 0; fm_named_shapes[j].name; j++) {
        if (j != i) continue;
        if (summary) *summary = fm_named_shapes[j].summary;
        return fm_named_shapes[j].name;
    }
    return NULL;
}
