"""Make tests/golden: tiny models with random weights, stored as the published
checkpoints and mlx-lm's conversions store theirs, each with what transformers
computes from them in float32.

    make_golden.py [--only NAME]

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


# ---- the cases --------------------------------------------------------------

def raw(config, dtype=torch.bfloat16, fused=False, shards=1, extra=None):
    return {"config": config, "dtype": dtype, "fused": fused, "shards": shards, "extra": extra, "mlx": None}


def mlx(config, bits=4, group=64, dtype="bfloat16", predicate=None, index=False):
    """Through mlx-lm's own quantise and save. bits None: MLX's form, unquantised."""
    return {**raw(config, fused=config["model_type"] == "qwen3_5_moe"),
            "mlx": {"bits": bits, "group": group, "dtype": dtype, "predicate": predicate, "index": index}}


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
}


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
        plain = config["model_type"] == "qwen3_moe" or name.endswith("linear_attn.norm.weight")
        return 0.25 * normal + (1 if plain else 0) + (0.4 if name.endswith(("q_norm.weight", "k_norm.weight")) else 0)
    if name.endswith(".bias"):
        return 0.3 * normal
    if name.endswith("embed_tokens.weight"):
        return normal * (2 * fan_in if config.get("tie_word_embeddings") else 1)
    if name.endswith("mlp.gate.weight"):
        return 2 * fan_in * normal
    return {"lm_head.weight": 1.8, "in_proj_a.weight": 1, "in_proj_ba.weight": 1.2}.get(name.split("linear_attn.")[-1], 1.4) * fan_in * normal


def published_tensors(case, rng):
    """Random tensors under the names that the family's checkpoints have."""
    config, tensors = case["config"], {}
    prefix = "model.language_model." if config["model_type"] == "qwen3_5_moe" else "model."
    for name, p in common.empty_model(config).state_dict().items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        x = random_weight(name, p.shape, rng, config)
        # Qwen3.5 publishes these two in float32; Qwen3-Next all in bf16.
        wide = config["model_type"] == "qwen3_5_moe" and name.endswith(("A_log", "linear_attn.norm.weight"))
        x = x.to(torch.float32 if wide else case["dtype"])
        name = name.replace("model.", prefix, 1) if name.startswith("model.") else name
        if ".experts." in name and not case["fused"]:
            tensors.update(one_by_one(name, x))
        else:
            tensors[name] = x
    for name, shape in (case["extra"] or {}).items():
        tensors[name] = torch.randn(shape, generator=rng).to(case["dtype"])
    return tensors


def one_by_one(name, x):
    stem, kind = name.rsplit(".", 1)
    for e in range(x.shape[0]):
        if kind == "gate_up_proj":
            gate, up = x[e].chunk(2)
            yield f"{stem}.{e}.gate_proj.weight", gate.contiguous()
            yield f"{stem}.{e}.up_proj.weight", up.contiguous()
        else:
            yield f"{stem}.{e}.{kind}.weight", x[e].contiguous()


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
        self.watch("embed", model.model.embed_tokens)
        for i, layer in enumerate(model.model.layers):
            self.watch(f"layer.{i}", layer)
            if hasattr(layer.mlp, "gate"):
                self.watch(f"router.{i}", layer.mlp.gate)

    def watch(self, name, module):
        def hook(module, args, out):
            x = out[0] if isinstance(out, tuple) else out
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


def quality(full, cached, config):
    """What makes a case worth comparing with."""
    text = config.get("text_config", config)
    k, routers = text["num_experts_per_tok"], [x for n, x in full.items() if n.startswith("router.")]
    ranked = [x.sort(-1, descending=True).values for x in routers]
    best = full["logits"][N_PROMPT - 1:-1].sort(-1, descending=True).values
    q = {"full_and_cached": max(difference(full[k], cached[k]) for k in full),
         "router_margin": min((r[:, k - 1] - r[:, k]).min().item() for r in ranked),
         "token_margin": (best[:, 0] - best[:, 1]).min().item(),
         "experts_used": min(x.topk(k).indices.unique().numel() for x in routers) / text["num_experts"],
         "logits_std": full["logits"].std().item()}
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
        good, q = quality(full, cached, config)
        if good and unsteadiness(model, ids, full, rng) < STEADY:
            return write_expected(name, path, ids, full, {"attempt": attempt, **q}, case["mlx"])
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
    parser.add_argument("--only", metavar="NAME", help="one case")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    for name, case in CASES.items():
        if only in (None, name):
            make(name, case, os.path.normpath(os.path.join(ROOT, name)))


if __name__ == "__main__":
    main()
