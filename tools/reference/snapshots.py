"""Writing a tiny model as published checkpoints and mlx-lm's conversions store theirs, and mlx-lm's own logits of it."""

import json
import os

import numpy as np
import torch
from safetensors.torch import save_file


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


def write_mlx_form(source, path, settings):
    """The same form for a model that mlx-lm does not have: its own quantisation of every matrix, experts stacked, routers in 8 bits."""
    import mlx.core as mx
    mx.set_default_device(mx.cpu)
    with open(f"{source}/config.json") as f:
        config = json.load(f)
    config["quantization"] = {"group_size": settings["group"], "bits": settings["bits"], "mode": "affine"}
    raw, out = mx.load(f"{source}/model.safetensors"), {}
    for letter, name in (("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")):
        for first in [n for n in raw if n.endswith(f".experts.0.{letter}.weight")]:
            each = [raw.pop(first.replace(".experts.0.", f".experts.{e}.")) for e in range(config["num_local_experts"])]
            raw[first.replace(f".experts.0.{letter}.", f".switch_mlp.{name}.")] = mx.stack(each)
    for name, x in raw.items():
        out[name], base = x, name.removesuffix(".weight")
        if x.ndim > 1:
            bits = 8 if name.endswith(".gate.weight") else settings["bits"]
            out[name], out[f"{base}.scales"], out[f"{base}.biases"] = mx.quantize(x, settings["group"], bits)
            if bits != settings["bits"]:
                config["quantization"][base] = {"group_size": settings["group"], "bits": bits}
    os.makedirs(path)
    mx.save_safetensors(f"{path}/model.safetensors", out, metadata={"format": "mlx"})
    with open(f"{path}/config.json", "w") as f:
        json.dump(config, f, indent=4)


def write_mlx(source, path, settings):
    """What mlx_lm.convert does, less the tokenizer."""
    if settings["own"]:
        return write_mlx_form(source, path, settings)
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
