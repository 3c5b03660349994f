"""Golden cases of the families with latent attention, for make_golden.py: their
configurations, with the keys of the published ones, and what is made of them."""

# Twelve positions were trained, so that the ramp lies within the few pairs that these heads have.
YARN = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 12, "beta_fast": 4.0, "beta_slow": 0.5}
# Whole groups of 64, or of 32, in the input of each matrix that is quantised.
WIDE = {"kv_lora_rank": 64, "moe_intermediate_size": 64, "intermediate_size": 64, "n_group": 2, "n_routed_experts": 4, "num_attention_heads": 2,
        "num_experts_per_tok": 2, "num_key_value_heads": 2, "q_lora_rank": 64, "qk_nope_head_dim": 64, "topk_group": 1, "v_head_dim": 32}

FP8 = {"quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}}


def fp8_cases(minimax_m2, raw):
    """More than one block each way."""
    return {"minimax_m2-fp8": raw(minimax_m2(layers=2, intermediate_size=132, num_local_experts=3, num_experts_per_tok=2, **FP8))}


def cases(plain, raw, mlx, behind):
    def deepseek_v2(layers=3, **keys):
        """Heads, latents and parts of heads of different sizes."""
        return plain("DeepseekV2ForCausalLM", "deepseek_v2", layers) | {
            "attention_bias": False, "aux_loss_alpha": 0.001, "first_k_dense_replace": 1, "intermediate_size": 40, "kv_lora_rank": 32,
            "moe_intermediate_size": 16, "moe_layer_freq": 1, "n_group": 4, "n_routed_experts": 8, "n_shared_experts": 2, "norm_topk_prob": False,
            "num_attention_heads": 4, "num_experts_per_tok": 3, "num_key_value_heads": 4, "q_lora_rank": 24, "qk_nope_head_dim": 20,
            "qk_rope_head_dim": 12, "rms_norm_eps": 1e-06, "rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}, "rope_theta": 10000,
            "routed_scaling_factor": 1.6, "scoring_func": "softmax", "seq_aux": True, "topk_group": 2, "topk_method": "group_limited_greedy",
            "v_head_dim": 16, **keys}

    def deepseek_v3(layers=3, **keys):
        return deepseek_v2(layers, **{
            "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "ep_size": 1, "n_shared_experts": 1, "norm_topk_prob": True,
            "num_nextn_predict_layers": 0, "rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}, "routed_scaling_factor": 2.5,
            "scoring_func": "sigmoid", "topk_method": "noaux_tc", **keys})

    def glm4_moe_lite(layers=3, **keys):
        """Values wider than keys, as GLM-4.7-Flash has them."""
        return deepseek_v3(layers, **{
            "architectures": ["Glm4MoeLiteForCausalLM"], "model_type": "glm4_moe_lite", "n_group": 1, "num_attention_heads": 5, "num_key_value_heads": 5,
            "partial_rotary_factor": 1.0, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "rms_norm_eps": 1e-05, "rope_scaling": None,
            "rope_theta": 1000000, "routed_scaling_factor": 1.8, "topk_group": 1, "v_head_dim": 32, **keys})

    # mlx-lm gives experts of groups that are left out the score 0, which is above that of a chosen group's if the bias is negative: so groups have one
    # expert more than are chosen. Its norms of latents have rms_norm_eps in glm4_moe_lite, transformers' 1e-6: so that is the same here.
    return {
        "deepseek_v2-bf16": raw(deepseek_v2()),
        "deepseek_v2-bf16-lite": raw(deepseek_v2(
            layers=2, q_lora_rank=None, topk_method="greedy", n_group=1, topk_group=1, routed_scaling_factor=1.0, n_shared_experts=1,
            rope_scaling=YARN | {"mscale": 1.0, "mscale_all_dim": 0.6})),
        "deepseek_v2-mlx-4bit": mlx(deepseek_v2(layers=2, n_shared_experts=1, **WIDE)),
        "deepseek_v3-bf16": raw(deepseek_v3(num_nextn_predict_layers=1), extra=behind),
        "deepseek_v3-bf16-half-rope": raw(deepseek_v3(
            layers=2, q_lora_rank=None, rope_interleave=False, norm_topk_prob=False, n_group=1, topk_group=1, rope_scaling=None)),
        "deepseek_v3-bf16-kimi": raw(deepseek_v3(
            layers=2, model_type="kimi_k2", n_group=1, topk_group=1, rope_theta=50000.0, rms_norm_eps=1e-5,
            rope_scaling=YARN | {"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0, "mscale": 1.0, "mscale_all_dim": 1.0})),
        "deepseek_v3-mlx-4bit": mlx(deepseek_v3(layers=2, **WIDE | {"n_routed_experts": 6})),
        "deepseek_v3-fp8": raw(deepseek_v3(layers=2, hidden_size=176, intermediate_size=132, n_routed_experts=6, n_group=1, topk_group=1, **FP8)),
        # Heads of whole blocks in the latent's projection.
        "deepseek_v3-fp8-whole-blocks": raw(deepseek_v3(
            layers=2, kv_lora_rank=144, num_attention_heads=2, num_key_value_heads=2, qk_nope_head_dim=160, v_head_dim=96, **FP8)),
        "glm4_moe_lite-bf16": raw(glm4_moe_lite(num_nextn_predict_layers=1, mlp_layer_types=["sparse", "dense", "sparse"]), extra=behind),
        "glm4_moe_lite-mlx-4bit": mlx(glm4_moe_lite(layers=2, **WIDE | {"n_group": 1, "v_head_dim": 64, "rms_norm_eps": 1e-6})),
    }
