"""A model of random weights in MLX 4-bit form, as large as one likes: for tests of memory and speed, where the words do not matter.

python3 tests/cli/big_model.py DIRECTORY --layers 16 --experts 128 --hidden 2048 --width 512
"""

import argparse
import json
import pathlib

import numpy as np


def _bf16(values):
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


class _Writer:
    """A safetensors file whose tensors are made when they are written, so that only one is in memory."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.entries = []

    def add(self, name, dtype, shape, make):
        self.entries.append((name, dtype, shape, make))

    def vector(self, name, shape, low, high, dtype="BF16"):
        def make():
            x = self.rng.uniform(low, high, shape)
            return x.astype("<f4") if dtype == "F32" else _bf16(x)

        self.add(name, dtype, list(shape), make)

    def matrix(self, name, rows, cols, lead=(), bits=4, spread=1.0):
        step = spread * 2 / (2**bits * np.sqrt(cols))  # outputs of about the inputs' size
        scales = (*lead, rows, cols // 64)
        self.add(name + ".weight", "U32", [*lead, rows, cols * bits // 32], lambda: self.rng.integers(0, 2**32, (*lead, rows, cols * bits // 32), dtype="<u4"))
        self.add(name + ".scales", "BF16", list(scales), lambda: _bf16(np.full(scales, step)))
        self.add(name + ".biases", "BF16", list(scales), lambda: _bf16(np.full(scales, -step * (2**bits - 1) / 2)))

    def write(self, path):
        header, at = {}, 0
        for name, dtype, shape, _ in self.entries:
            size = int(np.prod(shape)) * {"U32": 4, "F32": 4, "BF16": 2}[dtype]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(header).encode()
        with open(path, "wb") as f:
            f.write(len(text).to_bytes(8, "little") + text)
            for _, _, _, make in self.entries:
                f.write(make().tobytes())
        return at


def make(directory, tokenizer, layers=8, experts=128, top_k=8, hidden=512, width=256, seed=1):
    """Writes the model; returns the bytes of its tensors. tokenizer: directory whose tokenizer files are linked to (vocabulary 4,096)."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    heads, kv, dim, keys, values, kdim = 4, 2, 64, 4, 8, 64
    text = dict(vocab_size=4096, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv, head_dim=dim, hidden_act="silu",
                max_position_embeddings=32768, rms_norm_eps=1e-6, tie_word_embeddings=False, linear_num_key_heads=keys, linear_num_value_heads=values,
                linear_key_head_dim=kdim, linear_value_head_dim=kdim, linear_conv_kernel_dim=4, num_experts=experts, num_experts_per_tok=top_k,
                moe_intermediate_size=width, shared_expert_intermediate_size=width, full_attention_interval=4, eos_token_id=0,
                rope_parameters=dict(rope_type="default", rope_theta=1e7, partial_rotary_factor=0.25))
    quantization = dict(group_size=64, bits=4)
    w = _Writer(seed)
    w.matrix("language_model.model.embed_tokens", 4096, hidden, spread=20)
    w.vector("language_model.model.norm.weight", (hidden,), 0.8, 1.2)
    w.matrix("language_model.lm_head", 4096, hidden)
    for i in range(layers):
        p = f"language_model.model.layers.{i}."
        w.vector(p + "input_layernorm.weight", (hidden,), 0.8, 1.2)
        w.vector(p + "post_attention_layernorm.weight", (hidden,), 0.8, 1.2)
        if (i + 1) % 4 == 0:
            for name, rows, cols in (("q", 2 * heads * dim, hidden), ("k", kv * dim, hidden), ("v", kv * dim, hidden), ("o", hidden, heads * dim)):
                w.matrix(f"{p}self_attn.{name}_proj", rows, cols)
            for name in "qk":
                w.vector(f"{p}self_attn.{name}_norm.weight", (dim,), 0.8, 1.2)
        else:
            channels = 2 * keys * kdim + values * kdim
            for name, rows in (("qkv", channels), ("z", values * kdim), ("b", values), ("a", values)):
                w.matrix(f"{p}linear_attn.in_proj_{name}", rows, hidden)
            w.matrix(p + "linear_attn.out_proj", hidden, values * kdim)
            w.vector(p + "linear_attn.conv1d.weight", (channels, 4, 1), -0.5, 0.5)
            w.vector(p + "linear_attn.A_log", (values,), -2, 1, "F32")
            w.vector(p + "linear_attn.dt_bias", (values,), -1, 1)
            w.vector(p + "linear_attn.norm.weight", (kdim,), 0.8, 1.2)
        for name in ("mlp.gate", "mlp.shared_expert_gate"):
            quantization["language_model.model.layers.%d.%s" % (i, name)] = dict(group_size=64, bits=8)
        w.matrix(p + "mlp.gate", experts, hidden, bits=8, spread=3)
        w.matrix(p + "mlp.shared_expert_gate", 1, hidden, bits=8)
        for name, rows, cols in (("gate", width, hidden), ("up", width, hidden), ("down", hidden, width)):
            w.matrix(f"{p}mlp.shared_expert.{name}_proj", rows, cols)
            w.matrix(f"{p}mlp.switch_mlp.{name}_proj", rows, cols, lead=(experts,))
    size = w.write(directory / "model.safetensors")
    config = dict(architectures=["Qwen3_5MoeForConditionalGeneration"], model_type="qwen3_5_moe", text_config=text, quantization=quantization)
    (directory / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (directory / name).exists():
            (directory / name).symlink_to(pathlib.Path(tokenizer).resolve() / name)
    return size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    for name, value in (("layers", 8), ("experts", 128), ("top_k", 8), ("hidden", 512), ("width", 256)):
        parser.add_argument("--" + name, type=int, default=value)
    options = vars(parser.parse_args())
    print(make(options.pop("directory"), pathlib.Path(__file__).resolve().parents[2] / "models" / "ember", **options), "bytes")
