"""Packed models, written by packed.py from the format's description: the same bits as their source under every budget; broken ones are one clear sentence."""
import json
import shutil
import struct

import pytest

from conftest import EMBER, ROOT, flash_moe
from packed import pack
from test_loud import sentence

GOLDEN = sorted(p.name for p in (ROOT / "tests" / "golden").glob("*mlx-*") if (p / "model.safetensors").exists())
IDS = ",".join(str(1 + i * 7 % 90) for i in range(40))


@pytest.fixture(scope="module")
def packed_ember(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "ember"
    pack(EMBER, path)
    return path


@pytest.fixture
def broken(packed_ember, tmp_path):
    """A copy to break."""
    path = tmp_path / "model"
    shutil.copytree(packed_ember, path)
    return path


def dump(model, path, *options):
    result = flash_moe("dump", model, "--ids", IDS, "-o", path, "--context", 512, *options)
    assert result.returncode == 0, result.stderr
    return path.read_bytes()


@pytest.mark.parametrize("name", GOLDEN)
def test_every_width_gives_the_bits_of_its_source(name, tmp_path):
    source = ROOT / "tests" / "golden" / name
    pack(source, tmp_path / "packed")
    for options in (["--activations", "f32"], [], ["--threads", 1, "--io", "pread"]):
        assert dump(tmp_path / "packed", tmp_path / "a", *options) == dump(source, tmp_path / "b", *options), options


@pytest.mark.parametrize("options", [["--memory", "64M"], ["--memory", "20M"], ["--memory", "14M"], ["--memory", "14M", "--prefetch", "off"],
                                     ["--memory", "14M", "--io", "pread", "--policy", "lru", "--threads", 3]], ids=lambda o: " ".join(map(str, o)))
def test_no_budget_changes_a_text(packed_ember, options):
    arguments = ["--raw", "-p", "Once upon a time, in a house by the bridge", "-n", 60, "--temp", 0, "--context", 256, "--heat", "off"]
    want, have = flash_moe("run", EMBER, *arguments), flash_moe("run", packed_ember, *arguments, *options, "--json")
    assert have.returncode == 0, have.stderr
    result = json.loads(have.stdout)
    assert result["text"] == want.stdout.rstrip("\n") or result["text"] == want.stdout, have.stdout
    if options == ["--memory", "14M"]:
        assert 0 < result["n_guesses_used"] <= result["n_guessed"], result
    if "off" in options:
        assert result["n_guessed"] == 0


def test_info_and_plan_know_it(packed_ember):
    info = json.loads(flash_moe("info", packed_ember, "--json").stdout)
    assert info["source"] == "packed", info
    assert info["experts_bytes"] == sum((packed_ember / "experts" / f"layer_{i:02}.bin").stat().st_size - 65 * 8 for i in range(8))


def refused(model, *needles):
    line = sentence(flash_moe("run", model, "--raw", "-p", "Once upon a time", "-n", 8, "--temp", 0, "--memory", "64M", "--context", 256, "--heat", "off"))
    for needle in needles:
        assert needle in line, line


def change_json(model, change):
    path = model / "model.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 16]))


def test_a_flipped_bit_of_an_expert_is_found_when_it_is_read(broken):
    flip(broken / "experts" / "layer_03.bin", 5 * 28672 + 1000)
    refused(broken, "layer_03.bin", "layer 3, expert 5", "28672 bytes at 143360", "the hash is")


def test_a_flipped_bit_of_the_hashes(broken):
    flip(broken / "experts" / "layer_03.bin", 64 * 28672 + 9)
    refused(broken, "layer_03.bin", "table of hashes")


def test_no_verify_reads_what_is_there(broken):
    for expert in range(64):
        flip(broken / "experts" / "layer_02.bin", expert * 28672 + 1000)
    arguments = ["run", broken, "--raw", "-p", "Once upon a time", "-n", 4, "--temp", 0, "--context", 256, "--heat", "off"]
    assert "layer 2, expert" in sentence(flash_moe(*arguments))
    assert flash_moe(*arguments, "--no-verify").returncode == 0


def test_a_cut_layer_file(broken):
    path = broken / "experts" / "layer_02.bin"
    size = path.stat().st_size
    with open(path, "r+b") as f:
        f.truncate(size - 4096)
    refused(broken, "layer_02.bin", str(size - 4096), str(size))


def test_a_missing_layer_file(broken):
    (broken / "experts" / "layer_07.bin").unlink()
    refused(broken, "layer_07.bin")


def test_no_dense_file(broken):
    (broken / "dense.safetensors").unlink()
    refused(broken, "dense.safetensors")


def test_a_missing_dense_tensor(broken):
    from safetensors_file import Safetensors
    file = Safetensors.load(broken / "dense.safetensors")
    file.remove("model.layers.4.input_layernorm.weight")
    file.save(broken / "dense.safetensors")
    refused(broken, "model.layers.4.input_layernorm.weight", "missing")


def test_a_value_of_a_dense_tensor_that_is_not_finite(broken):
    from safetensors_file import Safetensors
    file = Safetensors.load(broken / "dense.safetensors")
    file.set_bf16("model.layers.4.input_layernorm.weight", struct.unpack("<f", bytes.fromhex("0000c07f"))[0], first=3)
    file.save(broken / "dense.safetensors")
    refused(broken, "dense.safetensors", "model.layers.4.input_layernorm.weight", "nan")


def layer(change):
    return lambda model: change(model["layers"][1])


@pytest.mark.parametrize("change, needle", [
    (lambda m: m.update(version=2), "version 2"),
    (lambda m: m.update(format="other"), "not of a packed model"),
    (lambda m: m["layers"].pop(), "7 layers"),
    (lambda m: m.update(layers=[]), "layers"),
    (lambda m: m.pop("dense"), "dense.file"),
    (lambda m: m["layers"].__setitem__(1, None), "no experts for layer 1"),
    (layer(lambda x: x.update(expert_bytes=4096)), "experts of 4096 bytes"),
    (layer(lambda x: x["gate"].update(bits=7)), "7"),
    (layer(lambda x: x["gate"].update(bits=8)), "layer 1"),
    (layer(lambda x: x["gate"].update(rows=128)), "layer 1"),
    (layer(lambda x: x["up"].update(group=0)), "layer 1, up"),
    (layer(lambda x: x["down"].update(format="Q4_K")), "layer 1, down"),
    (layer(lambda x: x["down"].pop("scales")), "layer 1, down"),
    (layer(lambda x: x.update(file="../x")), "not below"),
    (layer(lambda x: x.update(file="/etc/passwd")), "not below"),
    (layer(lambda x: x.pop("file")), "layer 1"),
], ids=range(16))
def test_a_model_json_that_is_wrong(broken, change, needle):
    change_json(broken, change)
    refused(broken, needle)


def test_heat_fills_the_cache_and_changes_nothing_else(packed_ember, tmp_path):
    heat = tmp_path / "ember.heat"
    arguments = ["--raw", "-p", "Once upon a time, in a house by the bridge", "-n", 40, "--temp", 0, "--context", 256, "--memory", "14M", "--heat", heat, "--json"]
    first = json.loads(flash_moe("run", packed_ember, *arguments).stdout)
    size = heat.stat().st_size
    assert size == 8 + 8 + 24 + 4 * 8 * 64
    second = json.loads(flash_moe("run", packed_ember, *arguments).stdout)
    assert second["text"] == first["text"] and heat.stat().st_size == size
    assert second["hit_rate"] >= first["hit_rate"]
    heat.write_bytes(heat.read_bytes()[:-1])
    third = flash_moe("run", packed_ember, *arguments)
    assert "not of this model, or not whole" in third.stderr and json.loads(third.stdout)["text"] == first["text"]
    assert heat.stat().st_size == size


def test_heat_lies_in_the_cache_directory(packed_ember, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = flash_moe("run", packed_ember, "--raw", "-p", "Once", "-n", 3, "--context", 256)
    assert result.returncode == 0
    assert [p.suffix for p in (tmp_path / "cache" / "flash-moe").iterdir()] == [".heat"]


def test_a_mirror_gives_half_of_each_expert(packed_ember, broken):
    arguments = ["run", packed_ember, "--raw", "-p", "Once upon a time", "-n", 20, "--temp", 0, "--context", 256, "--memory", "14M", "--heat", "off"]
    want = flash_moe(*arguments).stdout
    assert flash_moe(*arguments, "--mirror", broken).stdout == want
    flip(broken / "experts" / "layer_00.bin", 100)  # in the half that is not read from it
    assert flash_moe(*arguments, "--mirror", broken).stdout == want
    for expert in range(64):
        flip(broken / "experts" / "layer_00.bin", expert * 28672 + 20000)
    assert "layer 0, expert" in sentence(flash_moe(*arguments, "--mirror", broken))
    with open(broken / "experts" / "layer_05.bin", "r+b") as f:
        f.truncate(4096)
    assert "it has 4096 bytes" in sentence(flash_moe(*arguments, "--mirror", broken))
    (broken / "experts" / "layer_05.bin").unlink()
    assert "layer_05.bin" in sentence(flash_moe(*arguments, "--mirror", broken))


def test_a_mirror_is_for_packed_models(ember):
    assert "packed" in sentence(flash_moe("run", ember, "--raw", "-p", "Once", "-n", 2, "--mirror", ember))
