"""Make tests/golden: tiny models with random weights, stored as the published
checkpoints and mlx-lm's conversions store theirs, each with what transformers
computes from them in float32.

    make_golden.py [--only NAME...]

A case is one entry of CASES. Its directory is a model directory, and beside the
model lie expected.safetensors and expected.json (see README.md).
"""

import argparse
import json
import os
import shutil
import tempfile
import zlib

import numpy as np
import torch
from safetensors.torch import save_file

import common
import families
import latent

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "golden")
N_PROMPT, N_GREEDY = 40, 64
ROWS = list(range(8)) + list(range(N_PROMPT + N_GREEDY - 24, N_PROMPT + N_GREEDY))

# Wider margins than rounding can cross, so that a choice made differently is a
# fault and not a tie: between the last expert taken and the first left out
# (router logits), and between the two best tokens (logits).
ROUTER_MARGIN, TOKEN_MARGIN = 3e-4, 2e-3
# Weights that amplify rounding would ask for loose tolerances: the two ways of
# running, which add in different orders, must lie this close, and embeddings
# that are off by a part in a million may move nothing by more than this.
AGREE, STEADY = 6e-5, 5e-4


# ---- configurations, with the keys of the published ones -------------------

def qwen3_5_moe(layers=4, interval=4, tied=False, theta=10000000, rotary=0.25, drop=(), **dims):
    text = {
        "attention_bias": False, "attention_dropout": 0.0, "attn_output_gate": True, "dtype": "bfloat16", "eos_token_id": 0,
        "full_attention_interval": interval, "head_dim": 16, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
        "layer_types": ["linear_attention" if (i + 1) % interval else "full_attention" for i in range(layers)],
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 12, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_value_head_dim": 16, "max_position_embeddings": 4096, "mlp_only_layers": [], "model_type": "qwen3_5_moe_text",
        "moe_intermediate_size": 16, "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False, "num_attention_heads": 4,
        "num_experts": 6, "num_experts_per_tok": 3, "num_hidden_layers": layers, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 16, "tie_word_embeddings": tied, "use_cache": True,
        "vocab_size": 96, "mamba_ssm_dtype": "float32", **dims}
    pairs = int(text["head_dim"] * rotary) // 2
    text["rope_parameters"] = {"mrope_interleaved": True, "mrope_section": [pairs - 2 * (pairs // 3), pairs // 3, pairs // 3],
                               "rope_type": "default", "rope_theta": theta, "partial_rotary_factor": rotary}
    for key in drop:
        del text[key]
    return {"architectures": ["Qwen3_5MoeForConditionalGeneration"], "image_token_id": 90, "model_type": "qwen3_5_moe",
            "text_config": text, "tie_word_embeddings": tied, "transformers_version": "4.57.0.dev0"}


def qwen3_next(layers=4, interval=4, **dims):
    return {
        "architectures": ["Qwen3NextForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "decoder_sparse_step": 1,
        "eos_token_id": 0, "full_attention_interval": interval, "head_dim": 16, "hidden_act": "silu", "hidden_size": 64,
        "initializer_range": 0.02, "intermediate_size": 48, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 12,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_value_head_dim": 16, "max_position_embeddings": 4096,
        "mlp_only_layers": [], "model_type": "qwen3_next", "moe_intermediate_size": 16, "norm_topk_prob": True,
        "num_attention_heads": 4, "num_experts": 6, "num_experts_per_tok": 3, "num_hidden_layers": layers, "num_key_value_heads": 2,
        "output_router_logits": False, "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 5000000, "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 16, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False, "vocab_size": 96, **dims}


def qwen3_moe(layers=4, **dims):
    return {
        "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "decoder_sparse_step": 1,
        "eos_token_id": 0, "head_dim": 16, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
        "intermediate_size": 48, "max_position_embeddings": 4096, "max_window_layers": layers, "mlp_only_layers": [],
        "model_type": "qwen3_moe", "moe_intermediate_size": 16, "norm_topk_prob": True, "num_attention_heads": 4,
        "num_experts": 8, "num_experts_per_tok": 4, "num_hidden_layers": layers, "num_key_value_heads": 2,
        "output_router_logits": False, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.001, "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "use_cache": True, "use_sliding_window": False, "vocab_size": 96, **dims}


def plain(architecture, model_type, layers, **keys):
    """What the other families' configurations have in common."""
    return {"architectures": [architecture], "attention_dropout": 0.0, "bos_token_id": None, "eos_token_id": 0, "hidden_act": "silu", "hidden_size": 64,
            "initializer_range": 0.02, "intermediate_size": 16, "max_position_embeddings": 4096, "model_type": model_type,
            "num_attention_heads": 4, "num_hidden_layers": layers, "num_key_value_heads": 2, "pad_token_id": None, "rms_norm_eps": 1e-05,
            "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True,
            "vocab_size": 96, **keys}


def qwen2_moe(layers=3, **keys):
    return plain("Qwen2MoeForCausalLM", "qwen2_moe", layers, **{
        "decoder_sparse_step": 1, "intermediate_size": 48, "max_window_layers": layers, "mlp_only_layers": [], "moe_intermediate_size": 16,
        "norm_topk_prob": False, "num_experts": 8, "num_experts_per_tok": 4, "qkv_bias": True, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "shared_expert_intermediate_size": 24, "sliding_window": 4096, "use_sliding_window": False, **keys})


def mixtral(layers=3, **keys):
    return plain("MixtralForCausalLM", "mixtral", layers, **{
        "num_experts_per_tok": 2, "num_local_experts": 6, "rope_theta": 1000000.0, "router_jitter_noise": 0.0, "sliding_window": None, **keys})


def olmoe(layers=3, **keys):
    return plain("OlmoeForCausalLM", "olmoe", layers, **{
        "attention_bias": False, "clip_qkv": None, "norm_topk_prob": False, "num_experts": 8, "num_experts_per_tok": 3, "num_key_value_heads": 4, **keys})


def granitemoe(layers=3, **keys):
    return plain("GraniteMoeForCausalLM", "granitemoe", layers, **{
        "attention_bias": False, "attention_multiplier": 0.11, "embedding_multiplier": 3.0, "logits_scaling": 1.7, "num_experts_per_tok": 3,
        "num_local_experts": 6, "residual_multiplier": 0.6, "rms_norm_eps": 1e-06, "tie_word_embeddings": True, **keys})


def glm4_moe(layers=3, **keys):
    return plain("Glm4MoeForCausalLM", "glm4_moe", layers, **{
        "attention_bias": True, "first_k_dense_replace": 1, "head_dim": 24, "intermediate_size": 40, "moe_intermediate_size": 16, "n_group": 1,
        "n_routed_experts": 8, "n_shared_experts": 1, "norm_topk_prob": True, "num_experts_per_tok": 3, "num_nextn_predict_layers": 1,
        "partial_rotary_factor": 0.5, "rope_theta": 1000000, "routed_scaling_factor": 1.3, "topk_group": 1, "use_qk_norm": True, **keys})


def minimax_m2(layers=3, **keys):
    return plain("MiniMaxM2ForCausalLM", "minimax_m2", layers, **{
        "attn_type_list": [1] * layers, "head_dim": 24, "num_experts_per_tok": 3, "num_local_experts": 8, "num_mtp_modules": 3,
        "qk_norm_type": "per_layer", "rms_norm_eps": 1e-06, "rope_theta": 5000000, "rotary_dim": 12, "scoring_func": "sigmoid",
        "shared_intermediate_size": 0, "use_mtp": True, "use_qk_norm": True, "use_routing_bias": True, **keys})


def phimoe(layers=3, original=4096, short=None, long=None, **keys):
    """Factors of pairs, and other scales for short texts than for long ones."""
    short, long = short or [1, 1.02, 1.1, 1.3, 1.5, 1.6, 2, 3], long or [1.5, 2, 2.5, 3, 4, 8, 16, 20]
    return plain("PhiMoEForCausalLM", "phimoe", layers, **{
        "attention_bias": True, "hidden_dropout": 0.0, "input_jitter_noise": 0.01, "lm_head_bias": True, "num_experts_per_tok": 2,
        "num_local_experts": 6, "original_max_position_embeddings": original, "rope_theta": 10000.0, "router_jitter_noise": 0.01,
        "rope_scaling": {"type": "longrope", "short_factor": short, "long_factor": long, "short_mscale": 1.25, "long_mscale": 1.4,
                         "original_max_position_embeddings": original}, "sliding_window": None, **keys})


def dots1(layers=3, **keys):
    return plain("Dots1ForCausalLM", "dots1", layers, **{
        "attention_bias": False, "first_k_dense_replace": 1, "head_dim": 16, "intermediate_size": 40, "max_window_layers": 62, "moe_intermediate_size": 16,
        "n_group": 1, "n_routed_experts": 8, "n_shared_experts": 2, "norm_topk_prob": True, "num_experts_per_tok": 3, "rms_norm_eps": 1e-06,
        "rope_theta": 10000000, "routed_scaling_factor": 2.5, "scoring_func": "noaux_tc", "sliding_window": None, "topk_group": 1, **keys})


def hunyuan(layers=3, **keys):
    return plain("HunYuanMoEV1ForCausalLM", "hunyuan_v1_moe", layers, **{
        "attention_bias": False, "cla_share_factor": 2, "head_dim": 16, "moe_intermediate_size": 16, "moe_topk": 3, "num_experts": 6,
        "num_shared_expert": 1, "rope_scaling": {"alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0, "type": "dynamic"},
        "use_cla": False, "use_mixed_mlp_moe": True, "use_qk_norm": True, **keys})


def ernie4_5_moe(layers=3, **keys):
    return plain("Ernie4_5_MoeForCausalLM", "ernie4_5_moe", layers, **{
        "intermediate_size": 40, "moe_gate_act": "softmax", "moe_intermediate_size": 16, "moe_k": 3, "moe_layer_end_index": layers - 1,
        "moe_layer_interval": 1, "moe_layer_start_index": 1, "moe_num_experts": 8, "moe_num_shared_experts": 2, "moe_use_aux_free": True,
        "rope_theta": 500000.0, "tie_word_embeddings": True, "use_bias": False, **keys})


def bailing_moe(layers=3, **keys):
    """Ling 1."""
    return plain("BailingMoeForCausalLM", "bailing_moe", layers, **{
        "first_k_dense_replace": 0, "head_dim": 16, "intermediate_size": 40, "moe_intermediate_size": 16, "norm_head": False, "norm_topk_prob": True,
        "num_experts": 8, "num_experts_per_tok": 3, "num_shared_experts": 2, "partial_rotary_factor": 1.0, "rms_norm_eps": 1e-06,
        "rope_theta": 600000, "use_bias": False, "use_qkv_bias": False, **keys})


def bailing_moe_v2(layers=3, **keys):
    """Ling 2."""
    return bailing_moe(layers, **{
        "architectures": ["BailingMoeV2ForCausalLM"], "first_k_dense_replace": 1, "moe_router_enable_expert_bias": True, "n_group": 4,
        "num_shared_experts": 1, "partial_rotary_factor": 0.5, "routed_scaling_factor": 2.5, "score_function": "sigmoid", "topk_group": 2,
        "use_qk_norm": True, **keys})


# ---- the cases --------------------------------------------------------------

def raw(config, dtype=torch.bfloat16, fused=False, shards=1, extra=None, steps=True):
    return {"config": config, "dtype": dtype, "fused": fused or config["model_type"] in families.FUSED, "shards": shards, "extra": extra, "mlx": None, "steps": steps, "keep": lambda name: config.get("moe_use_aux_free", True) or not name.endswith("e_score_correction_bias")}


def mlx(config, bits=4, group=64, dtype="bfloat16", predicate=None, index=False, same=True, change=None):
    """Through mlx-lm's own quantise and save. bits None: MLX's form, unquantised.
    same False: mlx-lm computes something else there, so its logits are not kept.
    change: of the config that it is given."""
    return {**raw(config, fused=config["model_type"] == "qwen3_5_moe"),
            "mlx": {"bits": bits, "group": group, "dtype": dtype, "predicate": predicate, "index": index, "same": same, "change": change or {}}}


def mixed_bits(path, module):
    """Several widths and groups in one model, and tensors left as they are.
    down_proj has more bits in some layers only, as mlx-lm's mixed recipes do."""
    def width(bits, group=64):
        return {"group_size": group, "bits": bits, "mode": "affine"}
    if path.endswith(("in_proj_a", "in_proj_b")):
        return False
    if path.endswith(("mlp.gate", "shared_expert_gate")):
        return width(8)
    if "down_proj" in path:
        return width(4) if ".layers.0." in path else width(6)
    if path.endswith("v_proj"):
        return width(8)
    if path.endswith("o_proj"):
        return width(5, 32)
    if path.endswith("lm_head"):
        return width(6)
    if path.endswith("embed_tokens"):
        return width(3, 32)
    return True


# What real checkpoints carry beside the language model; to be ignored.
VISUAL = {"model.visual.patch_embed.proj.weight": (16, 3, 2, 4, 4), "model.visual.blocks.0.norm1.weight": (16,),
          "model.visual.blocks.0.attn.qkv.weight": (48, 16), "model.visual.merger.norm.weight": (16,)}
MTP = {"mtp.fc.weight": (8, 128), "mtp.norm.weight": (64,), "mtp.layers.0.input_layernorm.weight": (64,),
       "mtp.layers.0.mlp.experts.0.up_proj.weight": (16, 64), "mtp.layers.0.mlp.gate.weight": (8, 64),
       "mtp.layers.0.self_attn.q_norm.weight": (32,)}

# Layers for speculation, behind the last: to be ignored.
BEHIND = {"model.layers.3.eh_proj.weight": (64, 128), "model.layers.3.enorm.weight": (64,), "model.layers.3.mlp.experts.0.up_proj.weight": (16, 64)}

# Rope variants. Twelve positions were trained, so that the ramps lie within the few pairs that these heads have.
YARN = {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 12, "beta_fast": 4.0, "beta_slow": 0.5}

PAIRS = [1.0, 1.02, 1.1, 1.3, 1.5, 1.6, 2.0, 3.0]

WIDE = {"moe_intermediate_size": 64, "shared_expert_intermediate_size": 64, "num_experts": 5}   # whole groups of 64 in down_proj's input
SMALL = {"layers": 2, "interval": 2}
NARROW = {"linear_value_head_dim": 8}

CASES = {
    "qwen3_5_moe-bf16": raw(qwen3_5_moe(**NARROW, head_dim=32, num_experts=7), fused=True, shards=3, extra=VISUAL),
    "qwen3_5_moe-bf16-odd-heads": raw(qwen3_5_moe(
        layers=3, interval=2, theta=10000, drop=["layer_types"], num_attention_heads=6, num_key_value_heads=2, head_dim=24,
        linear_num_key_heads=3, linear_num_value_heads=6, linear_key_head_dim=20, linear_value_head_dim=12,
        num_experts=5, num_experts_per_tok=1, rms_norm_eps=1e-5)),
    "qwen3_5_moe-f32-tied": raw(qwen3_5_moe(**SMALL, **NARROW, tied=True, rotary=0.5, theta=100000, num_experts=4, num_experts_per_tok=2), dtype=torch.float32, fused=True),
    "qwen3_5_moe-f16": raw(qwen3_5_moe(**SMALL, **NARROW, num_experts=10, num_experts_per_tok=4), dtype=torch.float16, fused=True),
    "qwen3_5_moe-bf16-attention-first": raw(qwen3_5_moe(
        layers=3, theta=10000, layer_types=["full_attention", "linear_attention", "full_attention"], vocab_size=107,
        moe_intermediate_size=40, shared_expert_intermediate_size=24, num_experts=4, num_experts_per_tok=2, **NARROW), fused=True),
    "qwen3_next-bf16": raw(qwen3_next(layers=3, interval=3, **NARROW, shared_expert_intermediate_size=32), shards=2, extra=MTP),
    "qwen3_next-bf16-three-to-one": raw(qwen3_next(layers=3, interval=3, linear_num_key_heads=2, linear_num_value_heads=6,
                                                   linear_value_head_dim=12, mlp_only_layers=[1])),
    "qwen3_next-bf16-one-to-one": raw(qwen3_next(interval=2, linear_num_key_heads=3, linear_num_value_heads=3,
                                                 decoder_sparse_step=2, norm_topk_prob=False, **NARROW)),
    "qwen3_moe-bf16": raw(qwen3_moe(layers=3)),
    "qwen3_moe-bf16-tied": raw(qwen3_moe(layers=3, norm_topk_prob=False, tie_word_embeddings=True, mlp_only_layers=[0],
                                         num_experts_per_tok=3, num_key_value_heads=1)),
    "qwen3_moe-bf16-attention-bias": raw(qwen3_moe(layers=2, attention_bias=True, num_attention_heads=6, num_key_value_heads=3, head_dim=24)),

    "qwen3_5_moe-mlx-4bit": mlx(qwen3_5_moe(**{**WIDE, "num_experts": 6}, head_dim=32), index=True),
    "qwen3_5_moe-mlx-2bit": mlx(qwen3_5_moe(**SMALL, **WIDE), bits=2),
    "qwen3_5_moe-mlx-3bit": mlx(qwen3_5_moe(**SMALL, **WIDE), bits=3),
    "qwen3_5_moe-mlx-5bit": mlx(qwen3_5_moe(**SMALL, **WIDE), bits=5),
    "qwen3_5_moe-mlx-6bit-tied": mlx(qwen3_5_moe(**SMALL, **WIDE, tied=True), bits=6),
    "qwen3_5_moe-mlx-8bit": mlx(qwen3_5_moe(**{**SMALL, **WIDE, "num_experts": 4, "num_experts_per_tok": 2}), bits=8),
    "qwen3_5_moe-mlx-4bit-group32": mlx(qwen3_5_moe(layers=3, interval=3, moe_intermediate_size=32, shared_expert_intermediate_size=32), group=32),
    "qwen3_5_moe-mlx-4bit-group128": mlx(qwen3_5_moe(
        **SMALL, hidden_size=128, head_dim=32, moe_intermediate_size=128, shared_expert_intermediate_size=128,
        linear_value_head_dim=32, num_experts=4, num_experts_per_tok=2), group=128),
    "qwen3_5_moe-mlx-mixed-bits": mlx(qwen3_5_moe(layers=3, interval=3, **WIDE), predicate=mixed_bits),
    "qwen3_5_moe-mlx-4bit-f16": mlx(qwen3_5_moe(**SMALL, **WIDE), dtype="float16"),
    "qwen3_5_moe-mlx-bf16": mlx(qwen3_5_moe(**SMALL), bits=None),
    "qwen3_next-mlx-4bit": mlx(qwen3_next(**SMALL, **WIDE)),
    "qwen3_moe-mlx-4bit": mlx(qwen3_moe(layers=2, num_experts=5, num_experts_per_tok=3, moe_intermediate_size=64)),

    "qwen3_moe-bf16-window": raw(qwen3_moe(layers=2, use_sliding_window=True, sliding_window=11, num_experts_per_tok=3)),
    "qwen2_moe-bf16": raw(qwen2_moe(mlp_only_layers=[1])),
    "qwen2_moe-bf16-window": raw(qwen2_moe(use_sliding_window=True, sliding_window=9, max_window_layers=2, norm_topk_prob=True, num_experts=6,
                                           num_experts_per_tok=3)),
    "qwen2_moe-mlx-4bit": mlx(qwen2_moe(layers=2, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=64,
                                        shared_expert_intermediate_size=64)),
    "mixtral-bf16": raw(mixtral()),
    "mixtral-bf16-window": raw(mixtral(layers=2, sliding_window=17, head_dim=24, rope_scaling={"type": "linear", "factor": 2.5})),
    "mixtral-mlx-4bit": mlx(mixtral(layers=2, intermediate_size=64, num_local_experts=5)),
    "olmoe-bf16": raw(olmoe(norm_topk_prob=True, num_key_value_heads=2)),
    "olmoe-bf16-clip": raw(olmoe(layers=2, clip_qkv=1.1, attention_bias=True, rope_scaling=YARN | {"truncate": False})),
    "olmoe-mlx-4bit": mlx(olmoe(layers=2, intermediate_size=64, num_experts=5)),
    "granitemoe-bf16": raw(granitemoe()),
    "granitemoe-bf16-bias": raw(granitemoe(layers=2, attention_bias=True, tie_word_embeddings=False, embedding_multiplier=0.5, residual_multiplier=1.0)),
    "qwen3_moe-bf16-dynamic": raw(qwen3_moe(layers=2, num_experts_per_tok=3, max_position_embeddings=30, rope_theta=10000.0,
                                            rope_scaling={"rope_type": "dynamic", "factor": 3.0}), steps=False),
    "mixtral-bf16-banded-rope": raw(mixtral(layers=2, rope_theta=500.0, rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 60})),
    "qwen2_moe-bf16-longrope": raw(qwen2_moe(layers=2, num_experts=6, max_position_embeddings=128, rope_scaling={
        "type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1, 1.5, 2, 2.5, 3, 4, 8, 16], "original_max_position_embeddings": 32})),
    "glm4_moe-bf16": raw(glm4_moe(), extra=BEHIND),
    "glm4_moe-bf16-groups": raw(glm4_moe(layers=2, n_group=4, topk_group=2, use_qk_norm=False, rope_scaling=YARN | {"mscale": 1.0, "mscale_all_dim": 0.7})),
    "glm4_moe-mlx-4bit": mlx(glm4_moe(layers=2, num_nextn_predict_layers=0, n_routed_experts=5, moe_intermediate_size=64, intermediate_size=64, head_dim=32)),
    "minimax_m2-bf16": raw(minimax_m2()),
    "minimax_m2-mlx-4bit": mlx(minimax_m2(layers=2, intermediate_size=64, num_local_experts=5, head_dim=32, rotary_dim=16)),
    "phimoe-bf16": raw(phimoe(router_jitter_noise=0.06)),
    "phimoe-bf16-no-bias": raw(phimoe(layers=2, attention_bias=False, lm_head_bias=False, sliding_window=20, rope_scaling=None)),
    # Longer than what was trained; mlx-lm takes the long factors whatever the length, transformers the short ones, so here they are the same.
    "phimoe-mlx-4bit": mlx(phimoe(layers=2, intermediate_size=64, num_local_experts=5, original=32, short=PAIRS, long=PAIRS)),
    "dots1-bf16": raw(dots1(n_group=2, topk_group=1)),
    "dots1-bf16-window": raw(dots1(layers=2, attention_bias=True, sliding_window=14, max_window_layers=1, norm_topk_prob=False, n_shared_experts=1)),
    "dots1-mlx-4bit": mlx(dots1(layers=2, moe_intermediate_size=64, intermediate_size=64, n_routed_experts=5, n_shared_experts=1)),
    "hunyuan_v1_moe-bf16": raw(hunyuan()),
    "hunyuan_v1_moe-bf16-bias": raw(hunyuan(layers=2, attention_bias=True, tie_word_embeddings=True, head_dim=24, rope_scaling=None)),
    "hunyuan_v1_moe-mlx-4bit": mlx(hunyuan(layers=2, tie_word_embeddings=True, intermediate_size=64, moe_intermediate_size=64, num_experts=5), same=False,
                                   change={"model_type": "hunyuan"}),
    "ernie4_5_moe-bf16": raw(ernie4_5_moe()),
    "ernie4_5_moe-bf16-interval": raw(ernie4_5_moe(layers=4, moe_layer_interval=2, tie_word_embeddings=False, moe_num_shared_experts=0, moe_k=4)),
    "ernie4_5_moe-mlx-4bit": mlx(ernie4_5_moe(layers=2, moe_intermediate_size=64, intermediate_size=64, moe_num_experts=5, moe_num_shared_experts=1,
                                              moe_use_aux_free=False)),
    "bailing_moe-bf16": raw(bailing_moe()),
    "bailing_moe-bf16-bias": raw(bailing_moe(layers=2, use_qkv_bias=True, norm_topk_prob=False, num_shared_experts=1)),
    "bailing_moe-mlx-4bit": mlx(bailing_moe(layers=2, moe_intermediate_size=64, num_experts=5, num_shared_experts=1)),
    "bailing_moe-v2-bf16": raw(bailing_moe_v2(num_nextn_predict_layers=1), extra=BEHIND),
    "bailing_moe-v2-mlx-4bit": mlx(bailing_moe_v2(layers=2, moe_intermediate_size=64, intermediate_size=64, num_experts=4, n_group=1, topk_group=1)),
    "granitemoe-mlx-4bit": mlx(granitemoe(layers=2, intermediate_size=64, num_local_experts=5, num_experts_per_tok=2)),
}
CASES |= latent.cases(plain, raw, mlx, BEHIND) | latent.fp8_cases(minimax_m2, raw)


# ---- weights ----------------------------------------------------------------

def random_weight(name, shape, rng, config):
    """By role, so that everything matters: nothing zero or one, no softmax or
    gate saturated, decays from about 0.1 to 0.99, logits of some units."""
    normal = torch.randn(shape, generator=rng)
    fan_in = normal.shape[-1] ** -0.5
    if name.endswith("A_log"):
        return torch.empty(shape).uniform_(-3, 0.7, generator=rng)
    if name.endswith("dt_bias"):
        return 0.7 * normal
    if name.endswith("conv1d.weight"):
        return 0.5 * normal
    if name.endswith("norm.weight"):
        plain = config["model_type"] not in ("qwen3_5_moe", "qwen3_next") or name.endswith("linear_attn.norm.weight")
        return 0.25 * normal + (1 if plain else 0) + (0.4 if name.endswith(("q_norm.weight", "k_norm.weight")) else 0)
    if name.endswith("e_score_correction_bias"):
        return 0.1 * normal
    if name.endswith(".bias"):
        return 0.3 * normal
    if name.endswith("embed_tokens.weight"):
        return normal * (2 * fan_in if config.get("tie_word_embeddings") else 1)
    if name.endswith(("mlp.gate.weight", "router.weight", "gate.wg.weight")):
        return 2 * fan_in * normal
    return {"lm_head.weight": 1.8, "in_proj_a.weight": 1, "in_proj_ba.weight": 1.2}.get(name.split("linear_attn.")[-1], 1.4) * fan_in * normal


def published_tensors(case, rng):
    """Random tensors under the names that the family's checkpoints have."""
    config, tensors = case["config"], {}
    prefix = "model.language_model." if config["model_type"] == "qwen3_5_moe" else "model."
    for name, p in common.empty_model(config).state_dict().items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        if p.dtype != torch.float32 or not case["keep"](name):
            continue
        x = random_weight(name, p.shape, rng, config)
        # Qwen3.5 publishes these two in float32; Qwen3-Next all in bf16.
        wide = config["model_type"] == "qwen3_5_moe" and name.endswith(("A_log", "linear_attn.norm.weight"))
        wide = wide or name.endswith(("e_score_correction_bias", "gate.wg.weight"))
        x = x.to(torch.float32 if wide else case["dtype"])
        name = name.replace("model.", prefix, 1) if name.startswith("model.") else name
        if ".experts." in name and not case["fused"]:
            tensors.update(one_by_one(families.to_published(config, name), x, families.EXPERT_NAMES.get(config["model_type"])))
        else:
            tensors[name if config["model_type"] == "bailing_moe" else families.to_published(config, name)] = x
    if config["model_type"] == "bailing_moe":
        families.join_qkv(tensors)
        tensors = {families.to_published(config, name): x for name, x in tensors.items()}
    if "quantization_config" in config:
        tensors = common.quantise_fp8(tensors)
    for name, shape in (case["extra"] or {}).items():
        tensors[name] = torch.randn(shape, generator=rng).to(case["dtype"])
    return tensors


def one_by_one(name, x, names):
    stem, kind = name.rsplit(".", 1)
    gate_name, up_name, down_name = names or ("gate_proj", "up_proj", "down_proj")
    for e in range(x.shape[0]):
        if kind == "gate_up_proj":
            gate, up = x[e].chunk(2)
            yield f"{stem}.{e}.{gate_name}.weight", gate.contiguous()
            yield f"{stem}.{e}.{up_name}.weight", up.contiguous()
        else:
            yield f"{stem}.{e}.{down_name}.weight", x[e].contiguous()


# ---- snapshots --------------------------------------------------------------

def write_snapshot(path, config, tensors, n_shards):
    os.makedirs(path)
    with open(f"{path}/config.json", "w") as f:
        json.dump(config, f, indent=1)
    if n_shards == 1:
        save_file(tensors, f"{path}/model.safetensors", metadata={"format": "pt"})
        return
    total, sofar, shards = sum(x.nbytes for x in tensors.values()), 0, [{} for _ in range(n_shards)]
    for name, x in tensors.items():
        shards[sofar * n_shards // total][name] = x
        sofar += x.nbytes
    index = {"metadata": {"total_size": total}, "weight_map": {}}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{n_shards:05d}.safetensors"
        save_file(shard, f"{path}/{file}", metadata={"format": "pt"})
        index["weight_map"].update({name: file for name in shard})
    with open(f"{path}/model.safetensors.index.json", "w") as f:
        json.dump(index, f, indent=1)


def write_mlx(source, path, settings):
    """What mlx_lm.convert does, less the tokenizer."""
    from pathlib import Path
    import mlx.core as mx
    from mlx.utils import tree_map_with_path
    from mlx_lm import utils
    mx.set_default_device(mx.cpu)
    with open(f"{source}/config.json") as f:
        config = json.load(f)
    with open(f"{source}/config.json", "w") as f:
        json.dump(config | settings["change"], f)
    model, config = utils.load_model(Path(source), lazy=True)
    keep_type = getattr(model, "cast_predicate", lambda _: True)
    dtype = getattr(mx, settings["dtype"])
    model.update(tree_map_with_path(
        lambda k, v: v.astype(dtype) if keep_type(k) and mx.issubdtype(v.dtype, mx.floating) else v, model.parameters()))
    if settings["bits"]:
        model, config = utils.quantize_model(model, config, settings["group"], settings["bits"], quant_predicate=settings["predicate"])
    utils.save_model(path, model)
    utils.save_config(config, f"{path}/config.json")
    if not settings["index"]:       # says nothing where there is one file; the baseline keeps it
        os.remove(f"{path}/model.safetensors.index.json")


def mlx_logits(path, ids):
    """mlx-lm's own logits of the stored snapshot, all floating tensors cast to
    float32 first, since its kernels otherwise sum in bf16."""
    from pathlib import Path
    import mlx.core as mx
    from mlx.utils import tree_map
    from mlx_lm import utils
    mx.set_default_device(mx.cpu)
    model, _ = utils.load_model(Path(path))
    model.update(tree_map(lambda v: v.astype(mx.float32) if mx.issubdtype(v.dtype, mx.floating) else v, model.parameters()))
    return torch.from_numpy(np.array(model(mx.array(ids.tolist())[None])[0]))


# ---- the reference ----------------------------------------------------------

class Recorder:
    """Every layer's output and every router's logits, as they are computed."""

    def __init__(self, model):
        self.seen = {}
        scale = getattr(model.config, "embedding_multiplier", 1)
        self.watch("embed", model.model.embed_tokens, lambda x: x * scale)
        for i, layer in enumerate(model.model.layers):
            self.watch(f"layer.{i}", layer)
            if families.router_of(layer) is not None:
                self.watch(f"router.{i}", families.router_of(layer))

    def watch(self, name, module, change=lambda x: x):
        def hook(module, args, out):
            x = change(out[0] if isinstance(out, tuple) else out)
            self.seen.setdefault(name, []).append(x.detach().reshape(-1, x.shape[-1]).clone())
        module.register_forward_hook(hook)

    def take(self):
        seen, self.seen = {k: torch.cat(v) for k, v in self.seen.items()}, {}
        return seen


@torch.no_grad()
def run(model, prompt):
    """The greedy sequence, and everything computed on it: by the prompt and one
    token at a time with a cache, and by one pass without."""
    from transformers import DynamicCache
    recorder, cache = Recorder(model), DynamicCache(config=model.config)
    logits = [model(input_ids=prompt[None], past_key_values=cache, use_cache=True).logits[0]]
    ids = prompt
    for _ in range(N_GREEDY):
        ids = torch.cat([ids, logits[-1][-1:].argmax(-1)])
        logits.append(model(input_ids=ids[None, -1:], past_key_values=cache, use_cache=True).logits[0])
    cached = {**recorder.take(), "logits": torch.cat(logits)}
    logits = model(input_ids=ids[None], use_cache=False).logits[0]
    return ids, {**recorder.take(), "logits": logits}, cached


def quality(full, cached, config, model, steps=True):
    """What makes a case worth comparing with. steps: that steps with a cache
    give the same; not where transformers' frequencies change as a text grows."""
    text = config.get("text_config", config)
    k, choices = families.top_k(text), [families.choice(text, model, int(n[7:]), x) for n, x in full.items() if n.startswith("router.")]
    routers, before = [x for x, _ in choices], min(margin for _, margin in choices)
    ranked = [x.sort(-1, descending=True).values for x in routers]
    best = full["logits"][N_PROMPT - 1:-1].sort(-1, descending=True).values
    q = {"full_and_cached": max(difference(full[k], cached[k]) for k in full),
         "router_margin": min(before, min((r[:, k - 1] - r[:, k]).min().item() for r in ranked)),
         "token_margin": (best[:, 0] - best[:, 1]).min().item(),
         "experts_used": min(x.topk(k).indices.unique().numel() for x in routers) / families.count(text),
         "logits_std": full["logits"].std().item()}
    if not steps:
        q["full_and_cached"] = 0.0
    good = q["full_and_cached"] < AGREE and q["router_margin"] > ROUTER_MARGIN and q["token_margin"] > TOKEN_MARGIN and q["experts_used"] > 0.7
    return good, q


@torch.no_grad()
def unsteadiness(model, ids, full, rng):
    """The largest change of anything when embeddings are off by a part in a million."""
    recorder, table, worst = Recorder(model), model.model.embed_tokens.weight, 0
    exact = table.clone()
    for _ in range(4):
        table.copy_(exact * (1 + 1e-6 * torch.randn(table.shape, generator=rng)))
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        worst = max(worst, *(difference(x, full[k]) for k, x in {**recorder.take(), "logits": logits}.items()))
    table.copy_(exact)
    return worst


def difference(a, b):
    return (a - b).abs().max().item()


def make(name, case, path):
    """One attempt after another until the weights are good to compare with."""
    for attempt in range(1000):
        rng = torch.Generator().manual_seed(zlib.crc32(name.encode()) + attempt)
        shutil.rmtree(path, ignore_errors=True)
        tensors = published_tensors(case, rng)
        if case["mlx"]:
            with tempfile.TemporaryDirectory() as scratch:
                write_snapshot(f"{scratch}/raw", case["config"], tensors, 1)
                write_mlx(f"{scratch}/raw", path, case["mlx"])
        else:
            write_snapshot(path, case["config"], tensors, case["shards"])
        config = common.read_config(path)
        vocab = config.get("text_config", config)["vocab_size"]
        prompt = torch.randint(vocab, (N_PROMPT,), generator=rng)
        model = common.load_reference(path)
        ids, full, cached = run(model, prompt)
        good, q = quality(full, cached, config, model, case["steps"])
        if good and unsteadiness(model, ids, full, rng) < STEADY:
            return write_expected(name, path, ids, full, {"attempt": attempt, **q}, case["mlx"] and case["mlx"]["same"])
    raise SystemExit(f"{name}: no attempt kept the margins")


def write_expected(name, path, ids, full, q, is_mlx):
    differences = {"full_and_cached": q.pop("full_and_cached")}
    out = {k: x[ROWS].contiguous() for k, x in full.items() if not k.startswith("router.")}
    out |= {"ids": ids.to(torch.int32), "n_prompt": torch.tensor([N_PROMPT], dtype=torch.int32), "rows": torch.tensor(ROWS, dtype=torch.int32)}
    if is_mlx:
        logits = mlx_logits(path, ids)
        differences["transformers_and_mlx_logits"] = difference(full["logits"], logits)
        out["mlx.logits"] = logits[ROWS].contiguous()
    save_file(out, f"{path}/expected.safetensors")
    with open(f"{path}/expected.json", "w") as f:
        json.dump({"source": "transformers, float32, experts and attention in their plain forms, one pass without a cache",
                   "versions": common.versions(), "largest_difference": differences, "made": q}, f, indent=1)
    for file in os.listdir(path):
        os.chmod(f"{path}/{file}", 0o644)
    size = sum(os.path.getsize(f"{path}/{file}") for file in os.listdir(path))
    print(f"{name:40s} {size / 1024:6.0f} KiB  {differences}  {q}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", metavar="NAME", nargs="+", help="some cases")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    for name, case in CASES.items():
        if only is None or name in only:
            make(name, case, os.path.normpath(os.path.join(ROOT, name)))


if __name__ == "__main__":
    main()
