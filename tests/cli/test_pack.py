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


# ---- whatever stops it ----

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


def test_kill_9_at_any_moment(bank, tmp_path):
    begin, options = time.monotonic(), ["--experts", "3,2", "--dense", 8, "--threads", 2]
    pack(bank, tmp_path / "whole", *options)
    seconds = time.monotonic() - begin
    want, kills = tree(tmp_path / "whole"), 0
    generator = random.Random(5)
    moments = int(os.environ.get("FLASH_MOE_KILLS", "12"))
    while kills < moments:
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        for attempt in range(40):
            process = subprocess.Popen([PROGRAM, "pack", bank, "-o", out, *map(str, options)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            try:
                process.wait(generator.uniform(0, seconds * (0.4 if attempt < 3 else 1.6)))
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
            stderr = process.communicate()[1].decode()
            assert process.returncode in (0, -signal.SIGKILL) or (out.exists() and "it is there already" in stderr), stderr
            if out.exists():
                assert (out / "model.json").exists()
            if process.returncode == 0 or "there already" in stderr:
                break
        else:
            pytest.fail("it never ends")
        if list(tmp_path.glob("out.part*")):  # killed between the last rename and the end
            flash_moe("pack", bank, "-o", out, *options)
        assert tree(out) == want
        assert not list(tmp_path.glob("out.part*"))


def test_it_goes_on_after_the_last_layer(bank, tmp_path):
    """A continued run has less to do, and says so; its figures are of all layers."""
    whole = json.loads(pack(bank, tmp_path / "whole", *OPTIONS, "--json"))
    out = tmp_path / "out"
    process = subprocess.Popen([PROGRAM, "pack", bank, "-o", out, *map(str, OPTIONS)], stdout=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "out.part" / "experts" / "layer_03.bin").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130
    done = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out.part" / "experts").iterdir()}
    rest = json.loads(pack(bank, out, *OPTIONS, "--json"))
    assert rest["plan"]["layers_done"] >= 3 and rest["written_bytes"] < whole["written_bytes"] * 0.8
    assert rest["kinds"] == whole["kinds"] and rest["worst"] == whole["worst"]
    assert (out / "experts" / "layer_01.bin").stat().st_mtime_ns == done["layer_01.bin"]
    assert tree(out) == tree(tmp_path / "whole")


def stopped(bank, out, *options):
    """A pack that was killed after its first layer."""
    process = subprocess.Popen([PROGRAM, "pack", bank, "-o", out, *map(str, options or OPTIONS)], stdout=subprocess.DEVNULL)
    while process.poll() is None and not (out.parent / (out.name + ".part") / "experts" / "layer_01.bin").exists():
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not out.exists()


def test_another_job_does_not_go_on(bank, tmp_path):
    stopped(bank, tmp_path / "out")
    line = refused(bank, "-o", tmp_path / "out", "--experts", 4)
    assert "out.part" in line and "other options" in line
    pack(bank, tmp_path / "out", *OPTIONS)


def test_a_source_that_changes_between(bank, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(bank, source)
    stopped(source, tmp_path / "out")
    file = source / "experts" / "layer_05.bin"
    os.utime(file, ns=(1, file.stat().st_mtime_ns + 1))
    line = refused(source, "-o", tmp_path / "out", *OPTIONS)
    assert "layer_05.bin" in line and "changed" in line
    assert not (tmp_path / "out").exists()


def grow(path):
    with open(path, "ab") as f:
        f.write(b"more")


def touch(path):
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))


def overwrite(path):
    """Other bytes, and as many: of a matrix of experts, with which packing goes on."""
    time.sleep(0.02)  # a clock of files may have steps of a few milliseconds
    with open(path, "r+b") as f:
        f.seek(-2000, os.SEEK_END)
        f.write(bytes(1000))


def replace(path):
    shutil.copyfile(path, path.with_name("new"))
    path.with_name("new").rename(path)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("change", [grow, touch, overwrite, replace, cut, Path.unlink], ids=lambda f: f.__name__)
@pytest.mark.parametrize("packed", [False, True], ids=["raw", "packed"])
def test_a_source_that_changes_underneath(bank, tmp_path, change, packed):
    source = tmp_path / "source"
    shutil.copytree(bank, source) if packed else write_raw(source)
    file = source / ("experts/layer_05.bin" if packed else "model-00003-of-00003.safetensors")
    process = subprocess.Popen([PROGRAM, "pack", source, "-o", tmp_path / "out", *TWO_WIDTHS, "--search"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    pause(process, (tmp_path / "out.part" / "experts" / "narrow_00.bin").exists)
    change(file)
    process.send_signal(signal.SIGCONT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and stderr.startswith("flash-moe: ") and stderr.count("\n") == 1 and file.name in stderr, stderr
    assert "changed" in stderr or change in (cut, overwrite), stderr  # it may end sooner, or what was read has another hash
    assert not (tmp_path / "out").exists()
    line = refused(source, "-o", tmp_path / "out", *TWO_WIDTHS, "--search")
    assert file.name in line and not (tmp_path / "out").exists(), line


def test_two_at_once(bank, tmp_path):
    first = subprocess.Popen([PROGRAM, "pack", bank, "-o", tmp_path / "out", *map(str, OPTIONS)], stdout=subprocess.DEVNULL)
    while first.poll() is None and not (tmp_path / "out.part" / "experts").exists():
        time.sleep(0.002)
    second = flash_moe("pack", bank, "-o", tmp_path / "out", *OPTIONS)
    assert first.wait() == 0
    assert second.returncode == 1 and ("another program is writing it" in second.stderr or "there already" in second.stderr), second
    assert "all as they were" in flash_moe("verify", tmp_path / "out").stdout


def test_a_full_disk(bank, tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    line = refused(bank, "-o", tmp_path / "out", *OPTIONS, preexec_fn=limit)
    assert "cannot be written" in line and "out.part" in line
    assert not (tmp_path / "out").exists()
    pack(bank, tmp_path / "out", *OPTIONS)


def test_it_says_before_that_it_does_not_fit(bank, tmp_path):
    def small(disk):
        assert "are free there" in refused(bank, "-o", disk / "out", *OPTIONS)
        assert not (disk / "out").exists()
    on_small_disk(tmp_path / "small", 3, small)


@pytest.fixture(scope="module")
def whole(bank):
    pack(bank, bank.parent / "whole", *TWO_WIDTHS)
    return tree(bank.parent / "whole")


@pytest.mark.parametrize("when", ["dense.safetensors", "experts/narrow_05.bin"])
def test_a_disk_that_becomes_full(bank, whole, tmp_path, when):
    options = TWO_WIDTHS

    def small(disk):
        command = [PROGRAM, "pack", bank, "-o", disk / "out", *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        pause(process, (disk / "out.part" / when).exists)
        with full(disk):
            process.send_signal(signal.SIGCONT)
            stderr = process.communicate(timeout=60)[1]
            assert process.returncode == 1 and stderr.startswith(f"flash-moe: {disk}/out.part") and stderr.count("\n") == 1, stderr
            assert "it cannot be written" in stderr and stderr.endswith(": No space left on device.\n"), stderr
            assert not (disk / "out").exists()
            again = refused(bank, "-o", disk / "out", *options)
            assert "are free there" in again or again.endswith(": No space left on device.\n"), again
            assert not (disk / "out").exists()
        pack(bank, disk / "out", *options)
        assert tree(disk / "out") == whole
    on_small_disk(tmp_path / "small", sum(map(len, whole.values())) // 1000000 + 2, small)


def test_a_disk_without_a_byte(bank, tmp_path):
    """Nothing is begun, and nothing left."""
    def small(disk):
        with full(disk):
            assert refused(bank, "-o", disk / "out", *OPTIONS).endswith("No space left on device.\n")
            assert [p.name for p in disk.iterdir()] == ["filler"]
    on_small_disk(tmp_path / "small", 3, small)


def test_places_that_refuse(bank, ember, tmp_path):
    (tmp_path / "there").mkdir()
    assert "there already" in refused(bank, "-o", tmp_path / "there")
    assert "nowhere" in refused(bank, "-o", tmp_path / "nowhere" / "out")
    (tmp_path / "left.part").mkdir()
    assert "without a journal" in refused(bank, "-o", tmp_path / "left")
    (tmp_path / "file").write_text("")
    assert "file" in refused(bank, "-o", tmp_path / "file" / "out")
    assert "no such directory" in refused(tmp_path / "none", "-o", tmp_path / "out")
    assert "MiB of memory" in refused(ember, "-o", tmp_path / "out", "--memory", "30M")
    if os.geteuid() != 0:
        os.chmod(tmp_path / "there", 0o500)
        assert "ermission" in refused(bank, "-o", tmp_path / "there" / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def nobody():
    with as_nobody(PROGRAM) as both:
        yield both


def denied(result, name):
    """The sentence, which may come after the plan was printed."""
    assert result.returncode == 1 and result.stderr.startswith("flash-moe: ") and result.stderr.count("\n") == 1, result
    assert str(name) in result.stderr and "ermission denied" in result.stderr, result.stderr


def test_permission_denied(nobody):
    """As another user, who may not write there, not read a file of the source, not remove it, or not go on with what someone else began."""
    folder, run = nobody
    source, own = write_raw(folder / "source"), folder / "own"
    own.mkdir()
    os.chown(own, 65534, 65534)
    denied(run("pack", source, "-o", folder / "out"), folder / "out.part")
    assert sorted(p.name for p in folder.iterdir()) == ["own", "program", "source"]
    before = tree(source)
    denied(run("pack", source, "-o", own / "out", "--delete-consumed"), source)
    assert tree(source) == before and not list(own.iterdir())
    shard = source / "model-00002-of-00003.safetensors"
    shard.chmod(0)
    denied(run("pack", source, "-o", own / "out"), shard)
    assert not list(own.iterdir())
    shard.chmod(0o644)
    assert run("pack", source, "-o", own / "out", "--experts", "4").returncode == 0
    for name in ("experts/layer_02.bin", "dense.safetensors", "model.json"):
        (own / "out" / name).chmod(0)
        denied(run("verify", own / "out"), own / "out" / name)
        (own / "out" / name).chmod(0o644)
    assert run("verify", own / "out").returncode == 0


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


# ---- the source is given back ----

def test_delete_consumed(tmp_path):
    """Files of the model's own are gone; where a link leads to, or another name of a file, is left whole, and said."""
    source = write_raw(tmp_path / "source")
    pack(source, tmp_path / "want", "--experts", 4, "--search")
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    whole = {name: (source / name).read_bytes() for name in names}
    (source / names[1]).rename(tmp_path / "linked")
    (source / names[1]).symlink_to(tmp_path / "linked")
    os.link(source / names[2], tmp_path / "named twice")
    said = pack(source, tmp_path / "out", "--experts", 4, "--search", "--delete-consumed")
    assert tree(tmp_path / "out") == tree(tmp_path / "want")
    assert not list(source.glob("*.safetensors")) and (source / "config.json").exists()
    assert (tmp_path / "linked").read_bytes() == whole[names[1]] and (tmp_path / "named twice").read_bytes() == whole[names[2]]
    kept = len(whole[names[1]]) + len(whole[names[2]])
    assert f"{kept / 1e6:.2f} MB of the source are not freed" in said, said


def as_cache(source, top, commit="a" * 40):
    """A model in huggingface_hub's cache: links to blobs."""
    repo = top / "models--org--name"
    snapshot = repo / "snapshots" / commit
    (repo / "blobs").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        name = path.relative_to(source)
        blob = repo / "blobs" / hashlib.sha256(str(name).encode()).hexdigest()
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blob)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    return snapshot


def add_snapshot(snapshot, *names):
    """Another snapshot that has some of the files too."""
    other = snapshot.parent / ("b" * 40)
    for name in names:
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(os.readlink(snapshot / name), other / name)
    return other


def test_delete_consumed_of_the_hubs_cache(tmp_path):
    """Blobs that no other snapshot has are gone with their links; one that is shared stays as it was."""
    raw = write_raw(tmp_path / "raw")
    pack(raw, tmp_path / "want", "--experts", "4,2")
    snapshot = as_cache(raw, tmp_path / "hub")
    names = sorted(p.name for p in snapshot.glob("*.safetensors"))
    other = add_snapshot(snapshot, "config.json", names[1])
    result = json.loads(pack(snapshot, tmp_path / "out", "--experts", "4,2", "--delete-consumed", "--json"))
    assert tree(tmp_path / "out") == tree(tmp_path / "want")
    assert result["kept_bytes"] == (raw / names[1]).stat().st_size
    assert sorted(p.name for p in snapshot.iterdir()) == sorted(p.name for p in raw.iterdir() if p.name not in names)
    assert (other / names[1]).read_bytes() == (raw / names[1]).read_bytes()
    blobs = {os.readlink(p).split("/")[-1] for s in (snapshot, other) for p in s.iterdir()}
    assert {p.name for p in (snapshot.parents[1] / "blobs").iterdir()} == blobs
    hub = pytest.importorskip("huggingface_hub")
    for name in names:
        assert hub.try_to_load_from_cache("org/name", name, cache_dir=tmp_path / "hub", revision="a" * 40) is None
    assert hub.try_to_load_from_cache("org/name", names[1], cache_dir=tmp_path / "hub", revision="b" * 40) == str(other / names[1])
    seen = hub.scan_cache_dir(tmp_path / "hub")
    assert not seen.warnings and len(next(iter(seen.repos)).revisions) == 2


def test_a_snapshot_that_comes_to_share_what_is_consumed(bank, tmp_path):
    """Between two runs: what has holes is no blob any more, and what became shared stays."""
    pack(bank, tmp_path / "want", *OPTIONS)
    snapshot = as_cache(bank, tmp_path / "hub")
    words = [PROGRAM, "pack", snapshot, "-o", tmp_path / "out", *map(str, OPTIONS), "--delete-consumed"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while process.poll() is None and (snapshot / "experts" / "layer_00.bin").is_symlink():
        time.sleep(0.001)
    process.kill()
    process.wait()
    if not (tmp_path / "out").exists():
        blobs = {p.name for p in (snapshot.parents[1] / "blobs").iterdir()}
        taken = [p for p in snapshot.rglob("*") if p.is_file() and not p.is_symlink()]
        assert taken and all(hashlib.sha256(str(p.relative_to(snapshot)).encode()).hexdigest() not in blobs for p in taken)
        left = [str(p.relative_to(snapshot)) for p in snapshot.rglob("*.bin") if p.is_symlink()]
        other = add_snapshot(snapshot, *left[-1:])
        result = json.loads(pack(snapshot, tmp_path / "out", *OPTIONS, "--delete-consumed", "--json"))
        assert result["kept_bytes"] == sum((bank / name).stat().st_size for name in left[-1:])
        assert all((other / name).read_bytes() == (bank / name).read_bytes() for name in left[-1:])
    assert tree(tmp_path / "out") == tree(tmp_path / "want")
    assert not list(snapshot.rglob("*.bin")) and not list(tmp_path.glob("out.*"))


def test_removing_goes_on(bank, tmp_path):
    """A run that was killed after it had removed some of the files, without which the model cannot be opened."""
    source = tmp_path / "source"
    shutil.copytree(bank, source)
    pack(bank, tmp_path / "out", *OPTIONS)
    files = [str(p.relative_to(source)) for p in sorted(source.rglob("*")) if p.suffix in (".bin", ".safetensors")]
    for name in files[:4]:
        (source / name).unlink()
    journal = tmp_path / "out.part.json"

    def begun(model, *more):
        journal.write_text(json.dumps({"job": {}, "consumed": [], "removing": {"model": str(model), "files": files + list(more)}, "figures": {"kinds": [], "worst": []}}))
    (tmp_path / "precious").write_text("x")
    begun(bank)
    refused(source, "-o", tmp_path / "out", *OPTIONS, "--delete-consumed")
    begun(source, "../precious")
    assert "outside" in refused(source, "-o", tmp_path / "out", *OPTIONS, "--delete-consumed") and (tmp_path / "precious").exists()
    begun(source)
    assert "was whole already" in pack(source, tmp_path / "out", *OPTIONS, "--delete-consumed")
    assert not list(source.rglob("*.bin")) and not list(source.rglob("*.safetensors")) and (source / "config.json").exists()


def test_delete_consumed_goes_on_after_kill_9(tmp_path):
    source, options = tmp_path / "source", ["--experts", "3,2", "--dense", 8, "--threads", 2]
    for attempt in range(4):
        shutil.rmtree(source, ignore_errors=True)
        flash_moe("synth", EMBER, "-o", source, "--tokenizer", EMBER)
        if attempt == 0:
            pack(source, tmp_path / "want", *options)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        process = subprocess.Popen([PROGRAM, "pack", source, "-o", tmp_path / "out", *map(str, options), "--delete-consumed"], stdout=subprocess.DEVNULL)
        kind = "narrow" if attempt % 2 else "layer"  # a file may go when both copies of what is in it are written
        while process.poll() is None and not (tmp_path / "out.part" / "experts" / f"{kind}_0{attempt + 1}.bin").exists():
            time.sleep(0.001)
        process.kill()
        process.wait()
        if not (tmp_path / "out").exists():
            pack(source, tmp_path / "out", *options, "--delete-consumed")
        assert tree(tmp_path / "out") == tree(tmp_path / "want")
        assert not list(source.rglob("*.bin")) and not list(source.rglob("*.safetensors"))


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
