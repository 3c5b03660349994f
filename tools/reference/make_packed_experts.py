"""Make a model directory as the existing flash-moe programs lay it out, from a
4-bit MLX snapshot: packed_experts/ with a headerless file a layer, and
model_weights.bin and .json with everything else.

    make_packed_experts.py [SRC OUT]        default: of the golden case NAME
"""

import json
import os
import shutil
import sys

import torch

import common

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "golden")
NAME, SAME_AS = "qwen3_5_moe-packed-experts", "qwen3_5_moe-mlx-4bit"

COMPONENTS = [f"{p}_proj.{kind}" for p in ("gate", "up", "down") for kind in ("weight", "scales", "biases")]
ALIGNMENT = 64
DTYPES = {torch.uint32: "U32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
CONFIG = ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "rms_norm_eps",
          "num_experts", "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size", "full_attention_interval",
          "linear_num_value_heads", "linear_num_key_heads", "linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim"]


def raw_bytes(x):
    return x.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def write_experts(tensors, text, out):
    """Expert E at E * expert_size, its nine components one after another."""
    os.makedirs(f"{out}/packed_experts")
    for layer in range(text["num_hidden_layers"]):
        parts = [tensors[f"language_model.model.layers.{layer}.mlp.switch_mlp.{c}"] for c in COMPONENTS]
        components, offset = [], 0
        for name, x in zip(COMPONENTS, parts):
            components.append({"name": name, "offset": offset, "size": x[0].nbytes, "dtype": DTYPES[x.dtype], "shape": list(x.shape[1:])})
            offset += x[0].nbytes
        with open(f"{out}/packed_experts/layer_{layer:02d}.bin", "wb") as f:
            for e in range(text["num_experts"]):
                f.write(b"".join(raw_bytes(x[e]) for x in parts))
    layout = {"expert_size": offset, "num_layers": text["num_hidden_layers"], "num_experts": text["num_experts"], "components": components}
    with open(f"{out}/packed_experts/layout.json", "w") as f:
        json.dump(layout, f, indent=2)


def write_weights(tensors, text, out):
    rope = text["rope_parameters"]
    names = sorted(n for n in tensors if ".switch_mlp." not in n)
    manifest = {"model": SAME_AS, "num_tensors": len(names), "tensors": {},
                "config": {**{k: text[k] for k in CONFIG}, "partial_rotary_factor": rope["partial_rotary_factor"],
                           "rope_theta": rope["rope_theta"], "layer_types": text["layer_types"]}}
    with open(f"{out}/model_weights.bin", "wb") as f:
        for name in names:
            f.write(bytes(-f.tell() % ALIGNMENT))
            x = tensors[name]
            manifest["tensors"][name.removeprefix("language_model.")] = {
                "offset": f.tell(), "size": x.nbytes, "shape": list(x.shape), "dtype": DTYPES[x.dtype]}
            f.write(raw_bytes(x))
    with open(f"{out}/model_weights.json", "w") as f:
        json.dump(manifest, f, indent=2)


def main():
    src, out = sys.argv[1:] or (os.path.join(GOLDEN, SAME_AS), os.path.join(GOLDEN, NAME))
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    config, tensors = common.read_config(src), common.read_tensors(src)
    text = config["text_config"]
    write_experts(tensors, text, out)
    write_weights(tensors, text, out)
    # Those programs put packed_experts into the snapshot's own directory, so
    # its config.json, with the bits of each tensor, lies beside it.
    shutil.copyfile(f"{src}/config.json", f"{out}/config.json")
    with open(f"{out}/expected.json", "w") as f:
        json.dump({"same_as": os.path.basename(os.path.normpath(src))}, f)


if __name__ == "__main__":
    main()
