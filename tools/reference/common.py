"""What the reference scripts share: reading the tensors of a snapshot, raw or
in MLX form, and putting them in float32 into transformers' own models. It owns
the only Python statement of how MLX packs a quantised matrix; nothing of MLX is
used here, so that the two references stay independent of each other."""

import glob
import json
import re

import numpy as np
import torch
from safetensors.torch import load_file

import families

# Norms that the published checkpoints store as w - 1 and MLX conversions as w.
# qwen3_moe stores w in both; linear_attn.norm is w everywhere.
SHIFTED = ("input_layernorm.weight", "post_attention_layernorm.weight", "model.norm.weight", "q_norm.weight", "k_norm.weight")


def read_config(path):
    with open(f"{path}/config.json") as f:
        return json.load(f)


def read_tensors(path):
    tensors = {}
    for file in sorted(glob.glob(f"{path}/model*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def unpack(words, bits):
    """u32 words of a row, one stream of values, least significant bit first."""
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, bitorder="little")
    values = stream.reshape(*words.shape[:-1], -1, bits).astype(np.int32)
    return values @ (1 << np.arange(bits, dtype=np.int32))


def dequantise(tensors, quantization):
    """q * scale + bias, in float32 from the stored scales and biases: never
    rounded to the type of the scales, as a float32 engine sees the weights."""
    out = {}
    for name, x in tensors.items():
        if name.endswith((".scales", ".biases")):
            continue
        path = name.removesuffix(".weight")
        if f"{path}.scales" in tensors:
            scales, biases = (tensors[f"{path}.{kind}"].float() for kind in ("scales", "biases"))
            settings = quantization.get(path, quantization)
            columns = scales.shape[-1] * settings["group_size"]
            bits = 32 * x.shape[-1] // columns
            assert bits == settings["bits"], f"{path}: {bits} bits by its shape, {settings['bits']} by config.json"
            q = torch.from_numpy(unpack(x.view(torch.int32).numpy().view(np.uint32), bits)).float()
            q = q.reshape(*scales.shape, settings["group_size"])
            x = (q * scales[..., None] + biases[..., None]).flatten(-2)
        out[name] = x
    return out


def quantise_fp8(tensors):
    """As fp8 checkpoints are published: matrices but for the embedding, the head and routers as e4m3, with a float32 scale a block of 128 by 128."""
    out = {}
    for name, x in tensors.items():
        if x.dim() != 2 or not ("_proj" in name or ".experts." in name):
            out[name] = x
            continue
        rows, cols = ((n + 127) // 128 for n in x.shape)
        scale = torch.tensor([[x[i * 128:i * 128 + 128, j * 128:j * 128 + 128].float().abs().max() / 448 for j in range(cols)] for i in range(rows)])
        out[name] = (x.float() / spread(scale, x.shape)).to(torch.float8_e4m3fn)
        out[name.replace(".weight", ".weight_scale_inv")] = scale
    return out


def spread(scale, shape):
    """A block's scale at each of its places."""
    return scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:shape[0], :shape[1]]


def dequantise_fp8(tensors):
    """value * scale, in float32."""
    out = {}
    for name, x in tensors.items():
        if x.dtype == torch.float8_e4m3fn:
            x = x.float() * spread(tensors[name.replace(".weight", ".weight_scale_inv")], x.shape)
        if not name.endswith(".weight_scale_inv"):
            out[name] = x
    return out


def published_state(tensors, config):
    """The state dict of transformers' ForCausalLM, in float32, from tensors in
    any of the stored forms."""
    text = config.get("text_config", config)
    if "quantization" in config:
        tensors = dequantise(tensors, config["quantization"])
    tensors = dequantise_fp8(tensors)
    named = {}
    for name, x in tensors.items():
        if name.startswith(("model.visual.", "vision_tower.")) or "mtp." in name:
            continue
        if (layer := re.match(r"model\.layers\.(\d+)\.", name)) and int(layer[1]) >= text["num_hidden_layers"]:
            continue
        name = name.replace("model.language_model.", "model.").removeprefix("language_model.")
        named[families.from_published(config, name)] = x.float()

    mlx = any("conv1d.weight" in n and x.shape[-1] == 1 for n, x in named.items())
    for name, x in named.items():
        if mlx and name.endswith("conv1d.weight"):
            named[name] = x.movedim(1, 2).contiguous()
        if mlx and name.endswith(SHIFTED):
            named[name] = x - 1
    join_experts(named, text)
    families.split_qkv(named, text)
    families.join_latent(named, text)
    families.complete(named, text)
    if text.get("tie_word_embeddings", False):
        named["lm_head.weight"] = named["model.embed_tokens.weight"]
    return named


def join_experts(named, config):
    """To the fused form, in place: from a tensor per expert or MLX's stacked ones."""
    one_by_one = families.EXPERT_NAMES.get(families.kind(config), ("gate_proj", "up_proj", "down_proj"))
    layers = {m[1]: m[2] for n in named if (m := re.match(r"(model\.layers\.\d+\.\w+)\.(experts\.0|experts(?=\.up_proj)|switch_mlp)\.", n))}
    for layer, form in layers.items():
        if form == "experts.0":
            gate, up, down = (torch.stack([named.pop(f"{layer}.experts.{e}.{p}.weight") for e in range(families.count(config))]) for p in one_by_one)
        else:
            gate, up, down = (named.pop(f"{layer}.{form}.{p}_proj.weight") for p in ("gate", "up", "down"))
        named[f"{layer}.experts.gate_up_proj"] = torch.cat([gate, up], dim=1)
        named[f"{layer}.experts.down_proj"] = down


def empty_model(config):
    """transformers' model of a config.json, float32, experts and attention in
    their plain forms."""
    from transformers import AutoConfig
    model_type, text = families.settings(config)
    model = families.model_class(config)._from_config(AutoConfig.for_model(model_type, **text), dtype=torch.float32,
                                                      experts_implementation="eager", attn_implementation="eager").eval()
    families.adjust(model, config)
    return model


def load_reference(path):
    """A snapshot as transformers' model, in float32. Every tensor must be used
    and none may be missing."""
    torch.set_float32_matmul_precision("highest")
    config = read_config(path)
    model = empty_model(config)
    model.load_state_dict(published_state(read_tensors(path), config), strict=True)
    return model


def versions():
    from importlib.metadata import version
    return {name: version(name) for name in ("transformers", "torch", "mlx", "mlx-lm")}
