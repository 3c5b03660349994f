"""fp8 checkpoints (e4m3 with a scale a block of 128 by 128): what packing makes of them, from numpy's own dequantisation; what is refused. (What they compute is compared in
tests/engine/golden.c, and that packing without other widths keeps their bits in test_pack.py.)"""
import json
import shutil
import struct

import numpy as np
import pytest

from conftest import ROOT, flash_moe
from safetensors_file import Safetensors
from test_families import change, refused

GOLDEN = ROOT / "tests" / "golden"
CASES = ["deepseek_v3-fp8", "deepseek_v3-fp8-whole-blocks", "minimax_m2-fp8"]
IDS = ",".join(str(i * 29 % 96) for i in range(50))

# All values of e4m3: 4 bits of exponent, 3 of mantissa, no infinity.
_E, _M = np.arange(128) >> 3, np.arange(128) & 7
_POSITIVE = np.where(_E > 0, (8.0 + _M) * 2.0 ** (_E - 10.0), _M * 2.0 ** -9)
E4M3 = np.concatenate([_POSITIVE, -_POSITIVE]).astype(np.float32)


def copy(tmp_path, case):
    path = tmp_path / "model"
    shutil.copytree(GOLDEN / case, path, ignore=shutil.ignore_patterns("expected*"))
    return path, Safetensors.load(path / "model.safetensors")


def array(file, name):
    tensor = file.header[name]
    kind = {"F32": "<f4", "F8_E4M3": "u1", "BF16": "<u2"}[tensor["dtype"]]
    return np.frombuffer(bytes(file.data[slice(*tensor["data_offsets"])]), kind).reshape(tensor["shape"])


def in_f32(tmp_path, case):
    """The same model with its fp8 weights as f32."""
    path, file = copy(tmp_path, case)
    header, data = {}, bytearray()
    for name in file.header:
        if name == "__metadata__" or name.endswith(".weight_scale_inv"):
            continue
        x, dtype = array(file, name), file.header[name]["dtype"]
        if dtype == "F8_E4M3":
            scale = array(file, name + "_scale_inv")
            x = E4M3[x] * scale.repeat(128, 0).repeat(128, 1)[:x.shape[0], :x.shape[1]]
            dtype = "F32"
        header[name] = dict(dtype=dtype, shape=list(x.shape), data_offsets=[len(data), len(data) + x.nbytes])
        data += x.tobytes()
    (path / "model.safetensors").unlink()
    Safetensors(header, data).save(path / "model.safetensors")
    change(path, {"quantization_config": None})
    return path


def dump(model, path, *options):
    result = flash_moe("dump", model, "--ids", IDS, "--context", 64, "--memory", "64M", "-o", path, *options)
    assert result.returncode == 0, result.stderr
    return Safetensors.load(path).data


@pytest.mark.parametrize("case", CASES)
def test_as_f32(tmp_path, case):
    """value * scale is exact enough in f32 to be the same weight, so it is the same sum of products."""
    assert dump(GOLDEN / case, tmp_path / "a") == dump(in_f32(tmp_path, case), tmp_path / "b")


@pytest.mark.parametrize("case", CASES)
def test_threads_and_instruction_sets_change_no_bit(tmp_path, case):
    assert dump(GOLDEN / case, tmp_path / "a", "--threads", 1) == dump(GOLDEN / case, tmp_path / "b", "--threads", 3, "--cpu", "scalar")


def tree(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}



@pytest.mark.parametrize("case, options", [("minimax_m2-fp8", ["--dense", "bf16"]), ("deepseek_v3-fp8", ["--dense", "bf16"]),
                                           ("deepseek_v3-fp8-whole-blocks", ["--experts", "bf16", "--dense", 4, "--group", 32]),
                                           ("deepseek_v3-fp8", ["--experts", "bf16", "--dense", 4, "--group", 32, "--search"])])
def test_packing_to_other_widths(tmp_path, case, options):
    """The same bytes as from f32."""
    for source, target in ((GOLDEN / case, "ours"), (in_f32(tmp_path, case), "f32")):
        experts = [] if "--experts" in options else ["--experts", "bf16"]
        result = flash_moe("pack", source, "-o", tmp_path / target, *options, *experts)
        assert result.returncode == 0, result.stderr
        assert "all as they were written" in flash_moe("verify", tmp_path / target).stdout
    ours, f32 = tree(tmp_path / "ours"), tree(tmp_path / "f32")
    assert any(name.startswith("experts/") for name in ours) and ours.keys() == f32.keys()
    for name in ours:
        if name.startswith("experts/"):
            assert ours[name] == f32[name], name
    a, b = (Safetensors.load(tmp_path / target / "dense.safetensors") for target in ("ours", "f32"))
    made = [name for name, tensor in a.header.items() if name != "__metadata__" and tensor["dtype"] in ("U32", "BF16") and name in b.header and b.header[name]["dtype"] == tensor["dtype"]]
    assert len(made) > 10
    for name in made:
        assert a.data[slice(*a.header[name]["data_offsets"])] == b.data[slice(*b.header[name]["data_offsets"])], name
    dump(tmp_path / "ours", tmp_path / "d")


def test_packing_from_a_packed_one(tmp_path):
    """Kept first, and then to other widths: as at once."""
    for source, target, more in ((GOLDEN / "minimax_m2-fp8", "kept", []), (tmp_path / "kept", "twice", ["--experts", "bf16"]), (GOLDEN / "minimax_m2-fp8", "once", ["--experts", "bf16"])):
        result = flash_moe("pack", source, "-o", tmp_path / target, *more)
        assert result.returncode == 0, result.stderr
    once, twice = tree(tmp_path / "once"), tree(tmp_path / "twice")
    assert all(once[name] == twice[name] for name in once if name.startswith("experts/"))


def put(path, file, name, at, value):
    begin = file.header[name]["data_offsets"][0]
    raw = bytes([value]) if isinstance(value, int) else struct.pack("<f", value)
    file.data[begin + at * len(raw):begin + (at + 1) * len(raw)] = raw
    file.save(path / "model.safetensors")


EXPERT, DENSE = "model.layers.1.mlp.experts.4.up_proj.weight", "model.layers.0.mlp.down_proj.weight"


@pytest.mark.parametrize("name, at, value, needles", [
    (EXPERT, 176 + 5, 0x7f, ["expert 4", "value 181", "nan"]), (EXPERT, 3, 0xff, ["expert 4", "value 3", "nan"]), (EXPERT + "_scale_inv", 1, float("inf"), ["expert 4", "value 1", "inf"]),
    (DENSE, 132 * 2 + 7, 0x7f, ["down_proj.weight", "row 2, column 7", "nan"]), (DENSE + "_scale_inv", 3, float("nan"), ["down_proj.weight_scale_inv", "row 1, column 1", "nan"]),
    ("model.layers.1.self_attn.kv_b_proj.weight", 5, 0x7f, ["kv_b_proj.weight", "row 0, column 5", "nan"])])
def test_what_is_not_a_number(tmp_path, name, at, value, needles):
    path, file = copy(tmp_path, "deepseek_v3-fp8")
    put(path, file, name, at, value)
    for command in (["dump", path, "--ids", IDS, "--context", 64, "-o", tmp_path / "d"], ["pack", path, "-o", tmp_path / "p"], ["pack", path, "-o", tmp_path / "q", "--dense", "bf16", "--experts", "bf16"]):
        result = flash_moe(*command)
        assert result.returncode == 1, result
        line = result.stderr.splitlines()[-1].lower()
        for needle in needles:
            assert needle in line, line


def test_a_missing_scale(tmp_path):
    for name in (EXPERT, DENSE):
        path, file = copy(tmp_path / name, "deepseek_v3-fp8")
        file.remove(name + "_scale_inv")
        file.save(path / "model.safetensors")
        refused(path, name + "_scale_inv", "missing")


def test_scales_of_another_shape_or_type(tmp_path):
    path, file = copy(tmp_path, "deepseek_v3-fp8")
    file.header[DENSE + "_scale_inv"]["shape"] = [4, 1]
    file.save(path / "model.safetensors")
    refused(path, DENSE + "_scale_inv", "[4, 1]", "[2, 2]")
    file.header[DENSE + "_scale_inv"] |= {"shape": [2, 2], "dtype": "I32"}
    file.save(path / "model.safetensors")
    refused(path, DENSE + "_scale_inv", "I32")


FP8 = json.loads((GOLDEN / CASES[0] / "config.json").read_text())["quantization_config"]


@pytest.mark.parametrize("key, value", [("quant_method", "gptq"), ("fmt", "e5m2"), ("activation_scheme", "static"), ("weight_block_size", [64, 128]), ("weight_block_size", [128]),
                                        ("weight_block_size", None)])
def test_other_forms_are_named(tmp_path, key, value):
    path, _ = copy(tmp_path, CASES[0])
    change(path, {"quantization_config": FP8 | {key: value}})
    refused(path, "quantization_config", key if value is None else str(value) if isinstance(value, str) else "weight_block_size")
