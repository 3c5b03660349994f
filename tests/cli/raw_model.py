"""A raw bf16 snapshot whose matrices are wide enough to be quantised: the tiny model of tests/golden with other widths and random weights, in three shards."""
import json

import numpy as np

from conftest import ROOT
from safetensors_file import Safetensors

SOURCE = ROOT / "tests" / "golden" / "qwen3_5_moe-bf16"
HIDDEN, WIDTH = 128, 64


def shape(name, old):
    if name.endswith("experts.gate_up_proj"):
        return [old[0], 2 * WIDTH, HIDDEN]
    if name.endswith("experts.down_proj"):
        return [old[0], HIDDEN, WIDTH]
    if "shared_expert." in name:
        return [HIDDEN, WIDTH] if "down_proj" in name else [WIDTH, HIDDEN]
    if name.endswith(("out_proj.weight", "o_proj.weight")):
        return [HIDDEN, old[1]]
    if len(old) == 2 or name.endswith(("layernorm.weight", "model.norm.weight")):
        return old[:-1] + [HIDDEN]
    return old


def write(path):
    path.mkdir()
    config = json.loads((SOURCE / "config.json").read_text())
    config["text_config"].update(hidden_size=HIDDEN, moe_intermediate_size=WIDTH, shared_expert_intermediate_size=WIDTH)
    (path / "config.json").write_text(json.dumps(config))
    generator, index = np.random.default_rng(3), {}
    for shard in sorted(SOURCE.glob("model-*.safetensors")):
        header, data = {}, bytearray()
        for name, t in Safetensors.load(shard).header.items():
            if name == "__metadata__" or "visual" in name or "mtp" in name:
                continue
            dims = shape(name.replace("language_model.norm", "model.norm"), t["shape"])
            values = (generator.standard_normal(dims) * 0.1).astype("<f4")
            raw = values.tobytes() if t["dtype"] == "F32" else (values.view("<u4") >> 16).astype("<u2").tobytes()
            header[name] = dict(dtype=t["dtype"], shape=dims, data_offsets=[len(data), len(data) + len(raw)])
            data += raw
            index[name] = shard.name
        Safetensors(header, data).save(path / shard.name)
    (path / "model.safetensors.index.json").write_text(json.dumps(dict(metadata={}, weight_map=index)))
    return path
