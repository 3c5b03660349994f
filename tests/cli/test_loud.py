"""Broken models: each is one clear sentence with the file, the tensor and the number, and exit code 1; never a crash, never fluent nonsense."""
import json
import math
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

from conftest import EMBER, PROGRAM, Copy, flash_moe

LAYER = "model.layers.4."


def sentence(result):
    """What was said, once it is certain that it was said well."""
    assert result.returncode == 1, result
    assert result.stdout == ""
    line = result.stderr.splitlines()[-1]
    assert line.startswith("flash-moe: ") and line.endswith(".") and not line.endswith(".."), result.stderr
    assert "(null)" not in line
    return line


def refused(copy, *needles, options=()):
    line = sentence(flash_moe("run", copy.path, "--raw", "-p", "Once upon a time, in a house by the bridge", "-n", 8, "--temp", 0, "--memory", "128M", "--context", 256,
                              *options))
    for needle in needles:
        assert needle in line, line
    return line


def test_the_copy_itself_runs(copy):
    copy.own("model.safetensors")
    copy.tensors(lambda file: None)
    result = flash_moe("run", copy.path, "--raw", "-p", "Once upon a time", "-n", 8, "--temp", 0, "--memory", "128M", "--context", 256)
    assert result.returncode == 0 and len(result.stdout) > 8, result.stderr


# ---- files ----

def test_no_such_directory(ember, tmp_path):
    assert "no-such" in sentence(flash_moe("run", tmp_path / "no-such", "--raw", "-p", "x"))


@pytest.mark.parametrize("command", [["info"], ["plan", "--no-measure"], ["run", "-p", "x", "--raw"], ["perplexity", "-p", "x"], ["dump", "--ids", "1", "-o", "x"]])
def test_a_directory_that_is_no_model(ember, tmp_path, command):
    (tmp_path / "notes.txt").write_text("not a model")
    line = sentence(flash_moe(command[0], tmp_path, *command[1:], cwd=tmp_path))
    assert str(tmp_path) in line and "config.json" in line


def test_a_file_instead_of_a_directory(ember):
    assert "model.safetensors" in sentence(flash_moe("run", ember / "model.safetensors", "--raw", "-p", "x"))


def test_no_weights(copy):
    (copy.path / "model.safetensors").unlink()
    (copy.path / "model.safetensors.index.json").unlink()
    refused(copy, str(copy.path))


def test_a_shard_of_the_index_is_missing(copy):
    index = json.loads((copy.path / "model.safetensors.index.json").read_text())
    name = next(name for name in index["weight_map"] if name.endswith(LAYER + "input_layernorm.weight"))
    index["weight_map"][name] = "model-00002-of-00002.safetensors"
    copy.own("model.safetensors.index.json").write_text(json.dumps(index))
    refused(copy, "model-00002-of-00002.safetensors")


def test_a_truncated_shard(copy):
    path = copy.own("model.safetensors")
    size = path.stat().st_size
    os.truncate(path, size - 1000)
    line = refused(copy, "model.safetensors")
    assert str(size - 1000) in line or str(size) in line or "1000" in line, line


def test_an_empty_shard(copy):
    path = copy.own("model.safetensors")
    os.truncate(path, 0)
    refused(copy, "model.safetensors")


def test_bytes_after_the_last_tensor_are_found(copy):
    with open(copy.own("model.safetensors"), "ab") as file:
        file.write(b"x" * 64)
    refused(copy, "model.safetensors")


def test_a_git_lfs_pointer(copy):
    copy.own("model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
                                             "size 16971296\n")
    line = refused(copy, "model.safetensors")
    assert "lfs" in line.lower(), line


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users here")
def test_an_unreadable_file(ember):
    """root may read everything, so as root the program is started as nobody."""
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root without setpriv cannot become nobody")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        copy = Copy(Path(folder))
        for file in list(copy.path.iterdir()):
            copy.own(file.name)
        program = Path(folder) / "program"
        shutil.copy(PROGRAM, program)
        command = [str(program), "run", folder, "--raw", "-p", "Once", "-n", "1", "--memory", "128M", "--context", "256"]
        if os.geteuid() == 0:
            command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
        readable = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert readable.returncode == 0, readable.stderr
        os.chmod(copy.path / "model.safetensors", 0)
        line = sentence(subprocess.run(command, capture_output=True, text=True, timeout=60))
        assert "model.safetensors" in line and "Permission denied" in line, line


# ---- headers ----

def set_header_length(copy, length):
    with open(copy.own("model.safetensors"), "r+b") as file:
        file.write(struct.pack("<Q", length))


@pytest.mark.parametrize("length", [0, 7, 1 << 27, 1 << 40, (1 << 63) + 5, (1 << 64) - 1])
def test_a_header_of_an_impossible_length(copy, length):
    set_header_length(copy, length)
    line = refused(copy, "model.safetensors")
    assert str(length) in line or length < 8, line


def test_a_header_that_is_no_json(copy):
    with open(copy.own("model.safetensors"), "r+b") as file:
        file.seek(8)
        file.write(b"{]")
    refused(copy, "model.safetensors")


def change_tensor(copy, end, change):
    """change(tensor) alters the header's entry of a tensor; the name is returned."""
    names = []

    def alter(file):
        names.append(file.name(end))
        change(file.header[names[0]])
    copy.tensors(alter)
    return names[0]


def test_offsets_beyond_the_file(copy):
    name = change_tensor(copy, LAYER + "mlp.gate.scales", lambda t: t.update(data_offsets=[x + (1 << 30) for x in t["data_offsets"]]))
    refused(copy, "model.safetensors", name)


def test_offsets_that_overlap(copy):
    name = change_tensor(copy, LAYER + "mlp.gate.scales", lambda t: t.update(data_offsets=[x - 8 for x in t["data_offsets"]]))
    line = refused(copy, "model.safetensors")
    assert "overlap" in line or name in line, line


@pytest.mark.parametrize("offsets", [[512, 0], [-1, 511], [0, 1 << 64], [0.5, 512.5], [0], "0-512", None])
def test_offsets_that_are_none(copy, offsets):
    name = change_tensor(copy, LAYER + "mlp.gate.scales", lambda t: t.update(data_offsets=offsets))
    line = refused(copy, "model.safetensors")
    assert name in line or "JSON" in line or "integer" in line or "real number" in line or "number" in line, line


def test_bytes_that_do_not_fit_the_shape(copy):
    name = change_tensor(copy, LAYER + "mlp.gate.scales", lambda t: t.update(shape=[63, 4]))
    refused(copy, "model.safetensors", name)


@pytest.mark.parametrize("shape", [[1 << 62, 4, 4], [-64, -4], [1 << 32, 1 << 32], "64x4", [64, 4.5]])
def test_shapes_that_are_none(copy, shape):
    name = change_tensor(copy, LAYER + "mlp.gate.scales", lambda t: t.update(shape=shape))
    refused(copy, "model.safetensors", name)


# ---- tensors ----

@pytest.mark.parametrize("end", ["input_layernorm.weight", "mlp.gate.weight", "mlp.gate.scales", "mlp.shared_expert.up_proj.biases", "mlp.switch_mlp.down_proj.weight",
                                 "mlp.switch_mlp.up_proj.scales"])
def test_a_missing_tensor(copy, end):
    copy.tensors(lambda file: file.remove(LAYER + end))
    line = refused(copy, str(copy.path), LAYER + end.rsplit(".", 1)[0])
    assert "missing" in line or end.endswith(("scales", "biases")), line


@pytest.mark.parametrize("end", ["model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"])
def test_a_missing_tensor_outside_the_layers(copy, end):
    copy.tensors(lambda file: file.remove(end))
    refused(copy, str(copy.path))


@pytest.mark.parametrize("end, shape", [("input_layernorm.weight", [2, 128]), ("mlp.gate.scales", [32, 8]), ("mlp.shared_expert.up_proj.weight", [32, 64]),
                                        ("mlp.switch_mlp.up_proj.weight", [32, 128, 32]), ("mlp.switch_mlp.down_proj.biases", [256, 64, 1])])
def test_a_wrong_shape(copy, end, shape):
    change_tensor(copy, LAYER + end, lambda t: t.update(shape=shape))
    refused(copy, "model.safetensors", LAYER + end.rsplit(".", 1)[0], str(shape[0]))


@pytest.mark.parametrize("end, dtype", [("input_layernorm.weight", "I16"), ("mlp.gate.scales", "U16"), ("mlp.switch_mlp.up_proj.weight", "I32"),
                                        ("mlp.switch_mlp.up_proj.weight", "F32"), ("mlp.gate.scales", "Q7")])
def test_a_wrong_type(copy, end, dtype):
    change_tensor(copy, LAYER + end, lambda t: t.update(dtype=dtype))
    refused(copy, "model.safetensors", LAYER + end.rsplit(".", 1)[0])


# ---- numbers that are none ----

@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("end, place", [(LAYER + "input_layernorm.weight", 77), (LAYER + "mlp.gate.scales", 5), (LAYER + "mlp.shared_expert.down_proj.biases", 3),
                                        ("model.norm.weight", 255), ("lm_head.scales", 0), ("embed_tokens.biases", 16383)])
def test_a_dense_weight_that_is_no_number(copy, end, place, value):
    copy.tensors(lambda file: file.set_bf16(end, value, place))
    line = refused(copy, "model.safetensors", end)
    assert "nan" in line or "inf" in line, line


@pytest.mark.parametrize("end", ["up_proj.scales", "down_proj.biases", "gate_proj.scales"])
def test_an_expert_weight_that_is_no_number(copy, end):
    """One number in each expert of a layer, so that whichever is chosen has one."""
    def poison(file):
        shape = file.header[file.name(LAYER + "mlp.switch_mlp." + end)]["shape"]
        for expert in range(shape[0]):
            file.set_bf16(LAYER + "mlp.switch_mlp." + end, math.nan, expert * shape[1] * shape[2] + 17)
    copy.tensors(poison)
    refused(copy, "model.safetensors", "switch_mlp." + end, "layer 4", "expert ", "nan")


def test_an_expert_weight_that_is_no_number_while_experts_come_and_go(copy):
    """The same where the cache is small and reads are in flight: no hang, one sentence."""
    copy.tensors(lambda file: file.set_bf16(LAYER + "mlp.switch_mlp.up_proj.scales", math.nan, 0, 64 * 64 * 4))
    floor = json.loads(flash_moe("plan", copy.path, "--json", "--no-measure", "--context", 256).stdout)["floor_bytes"]
    refused(copy, "switch_mlp.up_proj.scales", "layer 4", options=["--memory", floor])


def test_a_logit_that_is_no_number(copy):
    """Every weight is finite, but a sum overflows: token 0's scales are near the largest number."""
    copy.tensors(lambda file: [file.set_bf16("lm_head.scales", 3e38, place) for place in range(4)])
    refused(copy, str(copy.path), "logit of token id 0 ")


# ---- config and tokenizer ----

def test_an_unknown_architecture(copy):
    copy.config(lambda c: c.update(architectures=["FooForCausalLM"], model_type="foo"))
    refused(copy, "config.json", "FooForCausalLM", "not supported")


def edit_quantisation(config, **changes):
    for key in ("quantization", "quantization_config"):
        if key in config:
            config[key].update(changes)


@pytest.mark.parametrize("changes, needle", [({"mode": "mxfp4"}, "mxfp4"), ({"bits": 7}, "7"), ({"group_size": 48}, "48"), ({"quant_method": "gptq"}, "gptq")])
def test_an_unsupported_quantisation(copy, changes, needle):
    copy.config(lambda c: edit_quantisation(c, **changes))
    refused(copy, needle)


def test_bits_that_contradict_the_shapes(copy):
    copy.config(lambda c: edit_quantisation(c, bits=8))
    refused(copy, "8")


def text_config(config):
    return config.get("text_config", config)


@pytest.mark.parametrize("key, value", [("hidden_size", 128), ("num_hidden_layers", 9), ("num_experts", 32), ("num_experts", 0), ("num_experts_per_tok", 65),
                                        ("moe_intermediate_size", 65), ("vocab_size", 4095), ("num_attention_heads", 3), ("hidden_size", "many"), ("hidden_size", -256),
                                        ("num_hidden_layers", 1e12), ("rms_norm_eps", "small")])
def test_a_config_that_contradicts_the_weights(copy, key, value):
    copy.config(lambda c: text_config(c).update({key: value}))
    refused(copy, str(copy.path))


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_experts", "num_experts_per_tok", "vocab_size"])
def test_a_config_without_a_key(copy, key):
    copy.config(lambda c: text_config(c).pop(key))
    refused(copy, "config.json", key)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"architectures": 5}', "\0" * 100, '{"a": ' * 5000])
def test_a_config_that_is_none(copy, text):
    copy.own("config.json").write_text(text)
    refused(copy, "config.json")


def test_no_tokenizer(copy):
    (copy.path / "tokenizer.json").unlink()
    refused(copy, str(copy.path), "tokenizer.json")


@pytest.mark.parametrize("name, needle", [("tiktoken.model", "TikTokenConverter"), ("tokenizer.model", "AutoTokenizer")])
def test_another_kind_of_tokenizer(copy, name, needle):
    (copy.path / "tokenizer.json").unlink()
    (copy.path / name).write_text("x")
    refused(copy, name, "no tokenizer.json", needle)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"model": {"type": "WordPiece"}}', '{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}'])
def test_a_tokenizer_that_is_none(copy, text):
    copy.own("tokenizer.json").write_text(text)
    refused(copy, "tokenizer.json")


# ---- requests that cannot be met ----

def ember_refuses(*options):
    return sentence(flash_moe("run", EMBER, "--raw", *options))


def test_a_prompt_longer_than_the_context(ember):
    line = ember_refuses("-p", "Once upon a time " * 100, "--context", 64)
    assert "64" in line, line


def test_an_empty_prompt(ember):
    assert "empty" in ember_refuses("-p", "")


def test_a_prompt_file_that_is_not_there(ember, tmp_path):
    assert "no-such.txt cannot be opened: No such file or directory" in ember_refuses("-f", tmp_path / "no-such.txt")
    assert "Is a directory" in ember_refuses("-f", tmp_path)


def test_too_little_memory(ember):
    line = ember_refuses("-p", "x", "--memory", "1M")
    assert "1048576" in line or "1.0 MiB" in line or "1 MiB" in line or "1.00 MiB" in line, line


@pytest.mark.parametrize("option, value", [("--io", "carrier-pigeon"), ("--policy", "fifo"), ("--cpu", "abacus"), ("--experts-per-token", "99"), ("--stop", ""),
                                           ("--logit-bias", "4096000=1"), ("--config-from", "/no/such/place")])
def test_options_that_only_the_library_can_refuse(ember, option, value):
    line = ember_refuses("-p", "Once", "-n", 2, option, value)
    assert value.split("=")[0] in line, line
