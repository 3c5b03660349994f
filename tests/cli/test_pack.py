"""flash-moe pack: the same bits as the source, whatever it is; MLX's own values when it quantises; and whatever stops it, the same bytes in the end."""
import errno
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import EMBER, PROGRAM, ROOT, flash_moe
from packed import pack as pack_in_python
from raw_model import write as write_raw
from safetensors_file import Safetensors
from small_disk import as_nobody, full, on_small_disk, pause
from test_loud import sentence
from test_synth import affine, bf16, experts_of, values

GOLDEN = sorted(p.name for p in (ROOT / "tests" / "golden").iterdir() if (p / "config.json").exists())
IDS = ",".join(str(1 + i * 7 % 90) for i in range(40))


def pack(source, target, *options, **more):
    result = flash_moe("pack", source, "-o", target, *options, **more)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert not list(target.parent.glob(target.name + ".part*"))
    return result.stdout


def dump(model, path, *options):
    result = flash_moe("dump", model, "--ids", IDS, "-o", path, "--context", 512, *options)
    assert result.returncode == 0, result.stderr
    return path.read_bytes()


def refused(*arguments, **more):
    """The sentence in which a pack ends, which may come after the plan was printed."""
    result = flash_moe("pack", *arguments, **more)
    assert result.returncode == 1 and result.stderr.startswith("flash-moe: ") and result.stderr.count("\n") == 1, result
    return result.stderr


def same_bits(packed, source, tmp_path):
    for options in (["--activations", "f32"], []):
        assert dump(packed, tmp_path / "a", *options) == dump(source, tmp_path / "b", *options), options


def tree(directory):
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def tensors(path):
    file = Safetensors.load(path)
    types = {"U32": "<u4", "F32": "<f4", "BF16": "<u2", "F16": "<u2"}
    return {name: np.frombuffer(bytes(file.data[slice(*t["data_offsets"])]), types[t["dtype"]]).reshape(t["shape"])
            for name, t in file.header.items() if name != "__metadata__"}


# ---- nothing is lost ----

@pytest.mark.parametrize("name", GOLDEN)
def test_every_source_keeps_its_bits(name, tmp_path):
    source = ROOT / "tests" / "golden" / name
    assert "nothing was lost" in pack(source, tmp_path / "packed")
    same_bits(tmp_path / "packed", source, tmp_path)
    assert "all as they were written" in flash_moe("verify", tmp_path / "packed").stdout


@pytest.mark.parametrize("name", [n for n in GOLDEN if "mlx-" in n and (ROOT / "tests" / "golden" / n / "model.safetensors").exists()])
def test_experts_are_those_of_another_writer(name, tmp_path):
    source = ROOT / "tests" / "golden" / name
    pack(source, tmp_path / "ours")
    pack_in_python(source, tmp_path / "python")
    ours, python = tree(tmp_path / "ours"), tree(tmp_path / "python")
    layers = [n for n in python if n.startswith("experts/")]
    assert layers and all(ours[n] == python[n] for n in layers)
    assert ours["config.json"] == python["config.json"]
    a, b = tensors(tmp_path / "ours" / "dense.safetensors"), tensors(tmp_path / "python" / "dense.safetensors")
    assert all(np.array_equal(a[n], b[n]) for n in a)
    a, b = json.loads(ours["model.json"]), json.loads(python["model.json"])
    assert a["layers"] == b["layers"] and all(b["dense"]["tensors"][n] == h for n, h in a["dense"]["tensors"].items())


def test_ember_keeps_its_bits_and_its_words(ember, tmp_path):
    pack(ember, tmp_path / "packed", "--threads", 3, "--memory", "90M")
    same_bits(tmp_path / "packed", ember, tmp_path)
    arguments = ["--raw", "-p", "Once upon a time", "-n", 30, "--temp", 0, "--context", 256, "--heat", "off"]
    assert flash_moe("run", tmp_path / "packed", *arguments, "--memory", "14M").stdout == flash_moe("run", ember, *arguments).stdout
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "config.json"):
        assert (tmp_path / "packed" / name).read_bytes() == (ember / name).read_bytes(), name


def test_threads_and_memory_do_not_change_a_byte(ember, tmp_path):
    pack(ember, tmp_path / "a", "--experts", 3, "--dense", 8)
    pack(ember, tmp_path / "b", "--experts", 3, "--dense", 8, "--threads", 1, "--memory", "90M")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_packed_model_is_a_source(ember, tmp_path):
    pack(ember, tmp_path / "kept")
    pack(tmp_path / "kept", tmp_path / "again")
    assert tree(tmp_path / "kept") == tree(tmp_path / "again")
    pack(tmp_path / "kept", tmp_path / "two", "--experts", 2)
    pack(ember, tmp_path / "two-at-once", "--experts", 2)
    assert tree(tmp_path / "two") == tree(tmp_path / "two-at-once")
    with open(tmp_path / "kept" / "experts" / "layer_03.bin", "r+b") as f:
        f.seek(5 * 28672 + 77)
        f.write(b"?!")
    assert "layer 3, expert 5" in refused(tmp_path / "kept", "-o", tmp_path / "never", "--experts", 2)


# ---- what is quantised ----

def mlx_rule(w, bits, group):
    """MLX's affine rule once more, in numpy: rows of f32 to what they are read back as."""
    f32 = np.float32
    w = w.reshape(-1, group).astype(f32)
    low, high, n = w.min(1), w.max(1), f32(2 ** bits - 1)
    scale = np.maximum((high - low) / n, f32(1e-7))
    below = np.abs(low) > np.abs(high)
    scale = np.where(below, scale, -scale)
    edge = np.where(below, low, high)
    steps = np.rint(edge / scale)
    zero = steps == 0
    scale = np.where(zero, scale, edge / np.where(zero, f32(1), steps))
    bias = np.where(zero, f32(0), edge)
    return np.clip(np.rint((w - bias[:, None]) / scale[:, None]), 0, n).astype(np.uint8), to_bf16(scale), to_bf16(bias)


def to_bf16(x):
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def unpacked(weight, bits):
    stream = np.unpackbits(np.ascontiguousarray(weight).view(np.uint8).reshape(len(weight), -1), axis=1, bitorder="little").reshape(len(weight), -1, bits)
    return (stream * (1 << np.arange(bits, dtype=np.uint8))).sum(2).astype(np.uint8)


@pytest.mark.parametrize("bits, group", [(2, 64), (3, 32), (4, 64), (5, 64), (6, 32), (8, 64)])
def test_a_raw_model_becomes_what_mlx_makes_of_it(bits, group, tmp_path):
    source = write_raw(tmp_path / "raw")
    pack(source, tmp_path / "packed", "--experts", bits, "--dense", bits, "--group", group)
    raw = {}
    for path in source.glob("model-*.safetensors"):
        raw.update(tensors(path))
    model = json.loads((tmp_path / "packed" / "model.json").read_text())
    seen = 0
    for index, layer in enumerate(model["layers"]):
        gate_up, down = (raw[f"model.language_model.layers.{index}.mlp.experts.{n}_proj"] for n in ("gate_up", "down"))
        half = gate_up.shape[1] // 2
        for which, (name, matrices) in enumerate(zip(("gate", "up", "down"), (gate_up[:, :half], gate_up[:, half:], down))):
            assert (layer[name]["bits"], layer[name]["group"]) == (bits, group)
            for (weight, scales, biases), w in zip(experts_of(tmp_path / "packed", layer)[which], matrices):
                q, s, b = mlx_rule(bf16(w), bits, group)
                assert np.array_equal(unpacked(weight, bits).reshape(q.shape), q)
                assert np.array_equal(scales.reshape(-1), s) and np.array_equal(biases.reshape(-1), b)
                seen += 1
    dense = tensors(tmp_path / "packed" / "dense.safetensors")
    config = json.loads((tmp_path / "packed" / "config.json").read_text())["quantization"]
    for base in [n[:-7] for n in dense if n.endswith(".scales")]:
        own = config.get(base, config)
        router = base.endswith(("mlp.gate", "shared_expert_gate"))
        assert (own["bits"], own["group_size"]) == ((8, 64) if router and (bits < 8) else (bits, group)), base
        w = raw[base.replace("language_model.model.", "model.language_model.").replace("language_model.lm_head", "lm_head") + ".weight"]
        q, s, b = mlx_rule(bf16(w), own["bits"], own["group_size"])
        assert np.array_equal(unpacked(dense[base + ".weight"], own["bits"]).reshape(q.shape), q), base
        assert np.array_equal(dense[base + ".scales"].reshape(-1), s) and np.array_equal(dense[base + ".biases"].reshape(-1), b), base
        seen += 1
    assert seen > 20
    dump(tmp_path / "packed", tmp_path / "x")


def test_figures_are_those_of_the_bytes(tmp_path):
    """RMSE, cosine and the worst matrix, computed once more from the packed model."""
    source, raw, errors, worst = write_raw(tmp_path / "raw"), {}, {}, (0, "")
    result = json.loads(pack(source, tmp_path / "packed", "--experts", 3, "--json"))
    for path in source.glob("model-*.safetensors"):
        raw.update(tensors(path))
    for index, layer in enumerate(json.loads((tmp_path / "packed" / "model.json").read_text())["layers"]):
        for which, name in enumerate(("gate", "up", "down")):
            for e, parts in enumerate(experts_of(tmp_path / "packed", layer)[which]):
                w = bf16(raw[f"model.language_model.layers.{index}.mlp.experts.{'down' if name == 'down' else 'gate_up'}_proj"][e]).astype(float)
                w = w if name == "down" else np.split(w, 2)[which]
                v = values(*parts, 3, layer[name]["group"]).astype(float)
                errors.setdefault(name, []).append((((w - v) ** 2).sum(), (w * w).sum(), (v * v).sum(), (w * v).sum(), w.size))
                worst = max(worst, (np.sqrt(((w - v) ** 2).sum() / (w * w).sum()), f"layer {index}, expert {e}, {name}"))
    for kind in result["kinds"]:
        error, before, after, product, n = map(sum, zip(*errors[kind["what"].split()[-1]]))
        assert kind["weights"] == n
        assert kind["rmse"] == pytest.approx(np.sqrt(error / n), rel=1e-4)
        assert kind["relative"] == pytest.approx(np.sqrt(error / before), rel=1e-4)
        assert kind["cosine"] == pytest.approx(product / np.sqrt(before * after), rel=1e-6)
    assert [k["what"] for k in result["kinds"]] == ["experts gate", "experts up", "experts down"]
    assert result["worst"][0]["what"] == worst[1] and result["worst"][0]["relative"] == pytest.approx(worst[0], rel=1e-4)
    assert len(result["worst"]) == 8


def test_the_search_loses_less(tmp_path):
    source = write_raw(tmp_path / "raw")
    plain = json.loads(pack(source, tmp_path / "a", "--experts", 2, "--json"))
    search = json.loads(pack(source, tmp_path / "b", "--experts", 2, "--search", "--json"))
    for a, b in zip(plain["kinds"], search["kinds"]):
        assert b["rmse"] < a["rmse"] * 0.9, (a, b)


def test_rules(tmp_path):
    source = write_raw(tmp_path / "raw")
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps([{"tensors": "*.down_proj", "bits": 6, "group": 32}, {"tensors": "*.switch_mlp.*", "layers": "1", "bits": "keep"},
                                 {"tensors": "*lm_head", "bits": 8}, {"tensors": "*.q_proj", "bits": 3}]))
    pack(source, tmp_path / "packed", "--experts", 4, "--rules", rules)
    model = json.loads((tmp_path / "packed" / "model.json").read_text())
    for i, layer in enumerate(model["layers"]):
        assert [layer[n].get("bits") for n in ("gate", "up", "down")] == ([None] * 3 if i == 1 else [4, 4, 6]), i
    assert model["layers"][0]["down"]["group"] == 32 and model["layers"][0]["gate"]["group"] == 64
    quantised = {n[:-7] for n in tensors(tmp_path / "packed" / "dense.safetensors") if n.endswith(".scales")}
    assert "language_model.lm_head" in quantised and any(n.endswith("q_proj") for n in quantised)
    assert not any(n.endswith(("k_proj", "gate_proj", "embed_tokens")) for n in quantised)
    dump(tmp_path / "packed", tmp_path / "x")


@pytest.mark.parametrize("text, needle", [
    ("{}", "no list"), ("[", "line 1"), ("[{}]", "rule 1"), ('[{"tensors": "*", "bits": 7}]', "bits is none of"), ('[{"tensors": "*", "layers": "3-1"}]', "layers"),
    ('[{"tensors": "*", "layers": 3}]', "layers"), ('[{"tensors": "*", "bit": 4}]', "it has bit"), ('[{"tensors": "*", "group": 48}]', "group"),
    ('[{"tensors": "*", "search": 1}]', "search"), ('[{"tensors": "*"}, {"tensors": "*.donw_proj", "bits": 4}]', "rule 2: no matrix"),
    ('[{"tensors": "*", "bits": 4, "bits": 5}]', "duplicate"), ('[{"tensors": "*.conv1d*", "bits": 4}]', "no matrix"),
])
def test_rules_that_are_wrong(text, needle, tmp_path):
    (tmp_path / "rules.json").write_text(text)
    result = flash_moe("pack", ROOT / "tests" / "golden" / "qwen3_5_moe-bf16", "-o", tmp_path / "out", "--rules", tmp_path / "rules.json")
    assert result.returncode in (1, 2) and result.stderr.count("\n") == 1 and needle in result.stderr and "rules.json" in result.stderr, result.stderr
    assert not list(tmp_path.glob("out*"))


# ---- other things ----

@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """A model that takes a second or so to pack."""
    path = tmp_path_factory.mktemp("bank") / "model"
    config = json.loads((EMBER / "config.json").read_text())
    config["text_config"]["num_experts"] = 32
    config["text_config"]["moe_intermediate_size"] = 192
    (path.parent / "config.json").write_text(json.dumps(config))
    result = flash_moe("synth", path.parent / "config.json", "-o", path, "--tokenizer", EMBER)
    assert result.returncode == 0, result.stderr
    return path


OPTIONS = ["--experts", 3, "--dense", 8, "--threads", 2]
TWO_WIDTHS = ["--experts", "3,2", "--dense", "8", "--threads", "1"]


def test_weights_that_are_not_finite(copy, tmp_path_factory):
    nan = float("nan")
    copy.tensors(lambda f: f.set_bf16("language_model.model.layers.4.mlp.switch_mlp.down_proj.scales", nan, first=70))
    out = tmp_path_factory.mktemp("out") / "out"
    line = refused(copy.path, "-o", out)
    assert "switch_mlp.down_proj.scales" in line and "nan" in line and "layer 4" in line


def test_the_memory_it_may_use(bank, tmp_path):
    for threads, budget in ((2, 110), (64, 140)):
        out = tmp_path / f"out{threads}"
        command = [PROGRAM, "pack", bank, "-o", out, "--experts", "4", "--threads", str(threads), "--memory", f"{budget}M"]
        # A program begins with the high-water mark of whoever started it: a small one has to.
        measure = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=2, check=True); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        kilobytes = int(subprocess.run([sys.executable, "-c", measure, *map(str, command)], check=True, capture_output=True).stdout)
        if os.environ.get("FLASH_MOE_SANITIZE", "none") == "none":
            assert kilobytes < budget * 1024, (threads, kilobytes)


def test_a_bar_for_a_person(bank, tmp_path):
    primary, secondary = os.openpty()
    process = subprocess.Popen([PROGRAM, "pack", bank, "-o", tmp_path / "out", "--experts", "2", "--search", "--threads", "1"], stdout=subprocess.DEVNULL, stderr=secondary)
    os.close(secondary)
    shown = b""
    try:
        while chunk := os.read(primary, 65536):
            if not shown:  # a rate is known after a second, and it does not take one
                process.send_signal(signal.SIGSTOP)
                time.sleep(1.2)
                process.send_signal(signal.SIGCONT)
            shown += chunk
    except OSError:
        pass
    os.close(primary)
    assert process.wait() == 0
    assert b"writing experts: [#" in shown and b" MB of " in shown and b" left" in shown


# ---- verify ----

def test_verify_names_what_is_wrong(ember, tmp_path):
    pack(ember, tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "broken")
    for name, at in (("experts/layer_02.bin", 28672 * 9 + 5), ("experts/layer_06.bin", 28672 * 63 + 28671), ("dense.safetensors", 1_500_000)):
        with open(tmp_path / "broken" / name, "r+b") as f:
            f.seek(at)
            byte = f.read(1)[0]
            f.seek(at)
            f.write(bytes([byte ^ 64]))
    result = flash_moe("verify", tmp_path / "broken")
    assert result.returncode == 1
    assert "layer 2, expert 9," in result.stderr and "layer 6, expert 63," in result.stderr and "dense.safetensors: tensor " in result.stderr
    assert result.stderr.count("\n") == 3
    result = json.loads(flash_moe("verify", tmp_path / "model", "--json").stdout)
    assert result["n_wrong"] == 0 and result["experts"] == 512
    assert result["bytes"] == 512 * 28672 + sum(t.nbytes for t in tensors(tmp_path / "model" / "dense.safetensors").values())
    assert "no packed model" in sentence(flash_moe("verify", ember))
    model = json.loads((tmp_path / "broken" / "model.json").read_text())
    model["dense"]["tensors"].popitem()
    (tmp_path / "broken" / "model.json").write_text(json.dumps(model))
    assert "no hash of tensor" in flash_moe("verify", tmp_path / "broken").stderr


def test_verify_names_what_is_cut(ember, tmp_path):
    """A file that is shorter than it was written is no model, whatever else is in it."""
    pack(ember, tmp_path / "model", "--experts", "keep,2")
    for name in ("experts/layer_05.bin", "dense.safetensors", "experts/narrow_07.bin"):
        file = tmp_path / "model" / name
        whole = file.read_bytes()
        for size in (len(whole) - 1, len(whole) // 2, 0):
            os.truncate(file, size)
            assert str(file) in sentence(flash_moe("verify", tmp_path / "model"))
        file.write_bytes(whole)

    def copied(disk):
        copies = {p: disk / "copy" / p.relative_to(tmp_path / "model") for p in sorted((tmp_path / "model").rglob("*"), key=lambda p: (p.suffix == ".bin", p)) if p.is_file()}
        for path, copy in copies.items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(path, copy)
            except OSError as error:
                assert error.errno == errno.ENOSPC and path.suffix == ".bin" and copy.stat().st_size < path.stat().st_size
                break
        assert str(copy) in sentence(flash_moe("verify", disk / "copy"))
    on_small_disk(tmp_path / "small", 12, copied)
