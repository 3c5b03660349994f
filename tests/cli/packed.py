"""A packed model (src/formats/pack.h) written in Python from an MLX snapshot: the format once more, from its description alone.

python3 tests/cli/packed.py SNAPSHOT DIRECTORY
"""

import json
import pathlib
import re
import shutil
import sys

import numpy as np
import xxhash

from safetensors_file import Safetensors

_TYPES = {"U32": "<u4", "F32": "<f4", "BF16": "<u2", "F16": "<u2"}


def _hash(data):
    return xxhash.xxh3_64_intdigest(data)


def r16(weight, scales, biases, bits, group):
    """Rows of u32 words and u16 scales and biases as strips of 16 rows: for each group its words, then its scales, then its biases."""
    rows, groups = scales.shape
    words = group * bits // 32
    padding = -rows % 16

    def strips(x, width):
        return np.pad(x, ((0, padding), (0, 0))).reshape(-1, 16, groups, width).transpose(0, 2, 3, 1).copy()

    weight = weight.astype("<u4")
    parts = (strips(weight, words).view("<u2").reshape(-1, groups, words * 32), strips(scales, 1)[:, :, 0], strips(biases, 1)[:, :, 0])
    return np.concatenate(parts, axis=2).tobytes()


def pack(snapshot, directory):
    snapshot, directory = pathlib.Path(snapshot), pathlib.Path(directory)
    config = json.loads((snapshot / "config.json").read_text())
    text = config.get("text_config", config)
    layers, group = text["num_hidden_layers"], config.get("quantization", {}).get("group_size", 64)
    (directory / "experts").mkdir(parents=True)
    for path in snapshot.iterdir():
        if path.suffix in (".json", ".jinja") and "safetensors" not in path.name:
            shutil.copy(path, directory)
    source = Safetensors.load(snapshot / "model.safetensors")
    tensors = {}
    for name, t in source.header.items():
        if name != "__metadata__":
            begin, end = t["data_offsets"]
            tensors[name] = t["dtype"], np.frombuffer(source.data[begin:end], _TYPES[t["dtype"]]).reshape(t["shape"])
    stacked = re.compile(r"\.(switch_mlp|mlp\.experts)\.(gate|up|down)_proj\.")
    dense = {name: t for name, t in tensors.items() if not stacked.search(name)}
    header, data = {}, bytearray()
    for name, (dtype, values) in dense.items():
        header[name] = dict(dtype=dtype, shape=list(values.shape), data_offsets=[len(data), len(data) + values.nbytes])
        data += values.tobytes()
    Safetensors(header, data).save(directory / "dense.safetensors")
    table = []
    for layer in range(layers):
        prefix = next((n.rsplit(".", 2)[0] for n in tensors if f"layers.{layer}." in n and stacked.search(n)), None)
        if not prefix:
            table.append(None)
            continue
        experts = len(tensors[f"{prefix}.gate_proj.weight"][1])
        entry, blobs = {"file": f"experts/layer_{layer:02}.bin"}, [b""] * experts
        for which in ("gate", "up", "down"):
            base = f"{prefix}.{which}_proj"
            dtype, weight = tensors[base + ".weight"]
            if base + ".scales" in tensors:
                kind, scales = tensors[base + ".scales"]
                biases = tensors[base + ".biases"][1]
                cols = scales.shape[2] * group
                bits = 32 * weight.shape[2] // cols
                entry[which] = dict(rows=weight.shape[1], cols=cols, format="affine", bits=bits, group=group, scales=kind)
                made = [r16(weight[e], scales[e], biases[e], bits, group) for e in range(experts)]
            else:
                entry[which] = dict(rows=weight.shape[1], cols=weight.shape[2], format=dtype)
                made = [weight[e].tobytes() for e in range(experts)]
            blobs = [b + m + bytes(-len(m) % 64) for b, m in zip(blobs, made)]
        blobs = [b + bytes(-len(b) % 4096) for b in blobs]
        entry["expert_bytes"] = len(blobs[0])
        hashes = np.array([_hash(b) for b in blobs], "<u8").tobytes()
        (directory / entry["file"]).write_bytes(b"".join(blobs) + hashes + _hash(hashes).to_bytes(8, "little"))
        table.append(entry)
    sums = {name: f"{_hash(t[1].tobytes()):016x}" for name, t in dense.items()}
    model = dict(format="flash-moe", version=1, made_by="packed.py", dense=dict(file="dense.safetensors", tensors=sums), layers=table)
    (directory / "model.json").write_text(json.dumps(model))


if __name__ == "__main__":
    pack(*sys.argv[1:])
