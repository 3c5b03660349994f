"""The families' tiny models of tests/golden: each is described as what it is, and what its config.json asks that is not implemented, or does not fit the tensors beside
it, is one sentence that names the key or the tensor. (What they compute is compared in tests/engine/golden.c.)"""
import json
import shutil

import pytest

from conftest import ROOT, flash_moe
from safetensors_file import Safetensors

GOLDEN = ROOT / "tests" / "golden"
FAMILIES = ["qwen2_moe", "mixtral", "olmoe", "granitemoe", "glm4_moe", "minimax_m2", "phimoe", "hunyuan_v1_moe", "dots1", "ernie4_5_moe", "bailing_moe", "deepseek_v2",
            "deepseek_v3", "glm4_moe_lite"]


def copy(tmp_path, case, tensors_of=None):
    path = tmp_path / "model"
    path.mkdir()
    shutil.copyfile(GOLDEN / case / "config.json", path / "config.json")
    (path / "model.safetensors").symlink_to(GOLDEN / (tensors_of or case) / "model.safetensors")
    return path


def change(path, changes):
    config = json.loads((path / "config.json").read_text())
    for key, value in changes.items():
        if value is None:
            config.pop(key)
        else:
            config[key] = value
    (path / "config.json").write_text(json.dumps(config))


def refused(path, *needles):
    result = flash_moe("info", path)
    assert result.returncode == 1 and result.stdout == "", result
    line = result.stderr.splitlines()[-1]
    assert line.startswith("flash-moe: ") and line.endswith(".") and "(null)" not in line, result.stderr
    for needle in needles:
        assert needle in line, line


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("form", ["bf16", "mlx-4bit"])
def test_each_family_is_known(family, form):
    result = flash_moe("info", GOLDEN / f"{family}-{form}", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["family"] == family


@pytest.mark.parametrize("config", FAMILIES)
@pytest.mark.parametrize("tensors", FAMILIES)
def test_a_config_of_one_family_with_tensors_of_another(tmp_path, config, tensors):
    if config != tensors:
        refused(copy(tmp_path, f"{config}-bf16", f"{tensors}-bf16"), "tensor ")


@pytest.mark.parametrize("case, bias", [("glm4_moe-bf16", "layers.1.mlp.gate.e_score_correction_bias"), ("dots1-mlx-4bit", "layers.1.mlp.gate.e_score_correction_bias"),
                                        ("minimax_m2-bf16", "layers.2.block_sparse_moe.e_score_correction_bias"),
                                        ("ernie4_5_moe-bf16", "layers.1.mlp.moe_statics.e_score_correction_bias"), ("bailing_moe-v2-bf16", "layers.1.mlp.gate.expert_bias"),
                                        ("deepseek_v3-bf16", "layers.1.mlp.gate.e_score_correction_bias"), ("glm4_moe_lite-bf16", "layers.0.mlp.gate.e_score_correction_bias"),
                                        ("qwen2_moe-bf16", "layers.0.self_attn.k_proj.bias"), ("phimoe-bf16", "lm_head.bias"), ("phimoe-bf16", "model.norm.bias"),
                                        ("bailing_moe-bf16-bias", "layers.0.attention.query_key_value.bias")])
def test_a_missing_bias(tmp_path, case, bias):
    path = copy(tmp_path, case)
    file = Safetensors.load(path / "model.safetensors")
    file.remove(bias)
    (path / "model.safetensors").unlink()
    file.save(path / "model.safetensors")
    refused(path, bias, "missing")


def test_an_mlx_conversion_without_the_bias_that_chooses(tmp_path):
    """mlx-lm leaves ERNIE's bias out, though the model was trained with it."""
    path = copy(tmp_path, "ernie4_5_moe-mlx-4bit")
    change(path, {"moe_use_aux_free": True})
    refused(path, "mlp.moe_statics.e_score_correction_bias", "missing")


@pytest.mark.parametrize("case, changes, needle", [
    ("mixtral-bf16", {"attention_bias": True}, "attention_bias"),
    ("mixtral-bf16", {"hidden_act": "gelu"}, "hidden_act"),
    ("mixtral-bf16", {"sliding_window": -3}, "sliding_window"),
    ("mixtral-bf16", {"hidden_size": 65536}, "heads of 16384"),
    ("qwen2_moe-bf16", {"layer_types": ["full_attention", "linear_attention", "full_attention"]}, "layer_types[1]"),
    ("qwen2_moe-bf16", {"layer_types": ["full_attention"]}, "layer_types"),
    ("qwen2_moe-bf16", {"layer_types": ["sliding_attention"] * 3}, "sliding_window"),
    ("qwen2_moe-bf16", {"use_sliding_window": "yes"}, "use_sliding_window"),
    ("olmoe-bf16", {"sliding_window": 64}, "sliding_window"),
    ("olmoe-bf16", {"clip_qkv": -1}, "clip_qkv"),
    ("granitemoe-bf16", {"residual_multiplier": 0}, "residual_multiplier"),
    ("granitemoe-bf16", {"logits_scaling": "large"}, "logits_scaling"),
    ("glm4_moe-bf16", {"scoring_func": "softmax"}, "scoring_func"),
    ("glm4_moe-bf16", {"topk_method": "greedy"}, "topk_method"),
    ("glm4_moe-bf16", {"n_group": 3}, "n_group"),
    ("glm4_moe-bf16", {"n_group": 4, "topk_group": 1}, "topk_group"),
    ("glm4_moe-bf16", {"num_nextn_predict_layers": None}, "model.layers.3."),
    ("glm4_moe-bf16", {"first_k_dense_replace": 9}, "first_k_dense_replace"),
    ("minimax_m2-bf16", {"scoring_func": "softmax"}, "scoring_func"),
    ("minimax_m2-bf16", {"attn_type_list": [1, 0, 1]}, "attn_type_list"),
    ("minimax_m2-bf16", {"shared_intermediate_size": 16}, "shared_intermediate_size"),
    ("minimax_m2-bf16", {"use_routing_bias": False}, "use_routing_bias"),
    ("minimax_m2-bf16", {"use_qk_norm": False}, "use_qk_norm"),
    ("minimax_m2-bf16", {"rotary_dim": 25}, "rotary_dim"),
    ("minimax_m2-bf16", {"quantization_config": {"quant_method": "fp8"}}, "fp8"),
    ("phimoe-bf16", {"num_experts_per_tok": 1}, "num_experts_per_tok"),
    ("phimoe-bf16", {"attention_bias": False}, "self_attn.k_proj.bias"),
    ("phimoe-bf16", {"lm_head_bias": False}, "lm_head.bias"),
    ("minimax_m2-bf16", {"layernorm_mlp_alpha": 3.5}, "layernorm_mlp_alpha"),
    ("granitemoe-bf16", {"position_embedding_type": "nope"}, "position_embedding_type"),
    ("granitemoe-bf16", {"shared_intermediate_size": 16}, "shared_intermediate_size"),
    ("dots1-bf16", {"moe_layer_freq": 2}, "moe_layer_freq"),
    ("dots1-bf16", {"mlp_bias": True}, "mlp_bias"),
    ("hunyuan_v1_moe-bf16", {"use_cla": True}, "use_cla"),
    ("hunyuan_v1_moe-bf16", {"group_limited_greedy": True}, "group_limited_greedy"),
    ("hunyuan_v1_moe-bf16", {"norm_topk_prob": False}, "norm_topk_prob"),
    ("hunyuan_v1_moe-bf16", {"moe_topk": [3, 2, 3]}, "moe_topk"),
    ("hunyuan_v1_moe-bf16", {"architectures": ["HunYuanForCausalLM"]}, "HunYuanForCausalLM"),
    ("dots1-bf16", {"scoring_func": "softmax"}, "scoring_func"),
    ("ernie4_5_moe-bf16", {"use_bias": True}, "use_bias"),
    ("ernie4_5_moe-bf16", {"moe_gate_act": "sigmoid"}, "moe_gate_act"),
    ("bailing_moe-bf16", {"norm_head": True}, "norm_head"),
    ("bailing_moe-v2-bf16", {"use_sliding_window": True}, "use_sliding_window"),
    ("bailing_moe-bf16", {"use_bias": True}, "use_bias"),
    ("bailing_moe-bf16", {"score_function": "sigmoid"}, "score_function"),
    ("bailing_moe-v2-bf16", {"norm_topk_prob": False}, "norm_topk_prob"),
    ("bailing_moe-bf16", {"architectures": []}, "architectures"),
    ("deepseek_v2-bf16", {"attention_bias": True}, "attention_bias"),
    ("deepseek_v2-bf16", {"num_key_value_heads": 2}, "num_key_value_heads"),
    ("deepseek_v2-bf16", {"kv_lora_rank": 40}, "kv_lora_rank 40"),
    ("deepseek_v2-bf16", {"v_head_dim": 24}, "v_head_dim 24"),
    ("deepseek_v2-bf16", {"kv_lora_rank": 640}, "640 together"),
    ("deepseek_v2-bf16", {"qk_rope_head_dim": 11}, "11 rotary dimensions"),
    ("deepseek_v2-bf16", {"q_lora_rank": None}, "q_lora_rank"),
    ("deepseek_v2-bf16", {"norm_topk_prob": True}, "norm_topk_prob"),
    ("deepseek_v2-bf16", {"topk_method": "noaux_tc"}, "topk_method"),
    ("deepseek_v2-bf16", {"scoring_func": "sigmoid"}, "scoring_func"),
    ("deepseek_v2-bf16", {"moe_layer_freq": 2}, "moe_layer_freq"),
    ("deepseek_v2-bf16", {"mlp_bias": True}, "mlp_bias"),
    ("deepseek_v2-bf16", {"rope_interleave": False}, "rope_interleave"),
    ("deepseek_v2-bf16", {"topk_group": 1, "num_experts_per_tok": 3}, "topk_group"),
    ("deepseek_v2-bf16", {"rope_scaling": {"type": "yarn", "factor": 40, "mscale_all_dim": "all"}}, "mscale_all_dim"),
    ("deepseek_v3-bf16", {"n_group": None}, "n_group"),
    ("deepseek_v3-bf16", {"routed_scaling_factor": None}, "routed_scaling_factor"),
    ("deepseek_v3-bf16", {"topk_method": "greedy"}, "topk_method"),
    ("deepseek_v3-bf16", {"scoring_func": "softmax"}, "scoring_func"),
    ("deepseek_v3-bf16", {"num_nextn_predict_layers": 0}, "model.layers.3."),
    ("deepseek_v3-bf16", {"model_type": "deepseek_v32", "architectures": ["DeepseekV32ForCausalLM"]}, "DeepseekV32ForCausalLM"),
    ("deepseek_v3-bf16", {"v_head_dim": 32}, "o_proj.weight"),
    ("glm4_moe_lite-bf16", {"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ("glm4_moe_lite-bf16", {"mlp_layer_types": ["dense", "sparse"]}, "mlp_layer_types"),
    ("glm4_moe_lite-bf16", {"mlp_layer_types": ["sparse", "thin", "sparse"]}, "mlp_layer_types[1]"),
    ("glm4_moe_lite-bf16", {"topk_method": "greedy"}, "topk_method"),
])
def test_what_is_not_implemented_is_named(tmp_path, case, changes, needle):
    path = copy(tmp_path, case)
    change(path, changes)
    refused(path, needle)


LONG = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


@pytest.mark.parametrize("rope, needle", [
    ({"full_attention": {"rope_type": "default", "rope_theta": 1e4}}, "full_attention"), ({"type": "spiral", "factor": 2.0}, "spiral"), ({"rope_type": "proportional"}, "proportional"), ({"factor": 2.0}, "factor"), ({"type": "linear"}, "factor"),
    ({"type": "linear", "factor": "two"}, "factor"), ({"type": "dynamic"}, "factor"), ({"type": "yarn", "factor": -1}, "factor"),
    ({"type": "yarn", "factor": 4, "original_max_position_embeddings": 0}, "original_max_position_embeddings"),
    ({**LONG, "short_factor": [1.0] * 7}, "short_factor"), ({**LONG, "long_factor": [2.0] * 7 + ["x"]}, "long_factor[7]"), ({**LONG, "long_factor": None}, "long_factor"),
    ({"type": "llama3", "factor": 8, "high_freq_factor": 4}, "low_freq_factor"), ({"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}, "high_freq_factor")])
def test_a_rope_that_is_none(tmp_path, rope, needle):
    path = copy(tmp_path, "mixtral-bf16")
    change(path, {"rope_scaling": rope})
    refused(path, "config.json", needle)


@pytest.mark.parametrize("case", [f"{family}-mlx-4bit" for family in FAMILIES] + ["bailing_moe-v2-mlx-4bit", "qwen2_moe-bf16-window", "olmoe-bf16-clip", "deepseek_v3-bf16-half-rope"])
def test_threads_and_instruction_sets_change_no_bit(tmp_path, case):
    ids = ",".join(str(i * 37 % 96) for i in range(60))
    dumps = []
    for options in ([], ["--threads", 3, "--cpu", "scalar"]):
        path = tmp_path / f"{len(dumps)}.safetensors"
        result = flash_moe("dump", GOLDEN / case, "--ids", ids, "--context", 64, "--memory", "64M", "-o", path, *options)
        assert result.returncode == 0, result.stderr
        dumps.append(Safetensors.load(path))
    assert dumps[0].header.keys() == dumps[1].header.keys() and dumps[0].data == dumps[1].data and len(dumps[0].data) > 60 * 4 * 96
