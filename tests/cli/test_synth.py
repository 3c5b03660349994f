"""flash-moe synth: what it writes to the last byte, that the engine runs it, what it refuses, and that it leaves nothing behind."""
import json
import math
import os
import re
import signal
import subprocess
import time

import numpy as np
import pytest

from conftest import EMBER, PROGRAM, flash_moe
from safetensors_file import Safetensors

TEXT = dict(vocab_size=300, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=32, hidden_act="silu",
            max_position_embeddings=4096, rms_norm_eps=1e-6, tie_word_embeddings=False, linear_num_key_heads=2, linear_num_value_heads=4,
            linear_key_head_dim=16, linear_value_head_dim=16, linear_conv_kernel_dim=4, num_experts=5, num_experts_per_tok=2, moe_intermediate_size=64,
            shared_expert_intermediate_size=64, full_attention_interval=2, eos_token_id=0)
ROPE = dict(rope_type="default", rope_theta=1e7, partial_rotary_factor=0.25)
QWEN3_5 = dict(architectures=["Qwen3_5MoeForConditionalGeneration"], model_type="qwen3_5_moe",
               text_config=dict(TEXT, rope_parameters=ROPE, mamba_ssm_dtype="float32",
                                layer_types=["linear_attention", "full_attention", "linear_attention", "full_attention"]))
QWEN3_NEXT = dict(TEXT, architectures=["Qwen3NextForCausalLM"], model_type="qwen3_next", rope_theta=1e6, partial_rotary_factor=0.25, intermediate_size=192,
                  mlp_only_layers=[1, 3], norm_topk_prob=True)
QWEN3_MOE = dict(TEXT, architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", rope_theta=1e6, norm_topk_prob=True, attention_bias=True,
                 tie_word_embeddings=True, quantization=dict(group_size=32, bits=8), quantization_config=dict(quant_method="fp8"))
CONFIGS = {"qwen3_5_moe": QWEN3_5, "qwen3_next": QWEN3_NEXT, "qwen3_moe": QWEN3_MOE}


def write_config(path, config):
    path.write_text(json.dumps(config))
    return path


def synth(tmp_path, config, *options, name="out"):
    """The directory that synth makes of config."""
    result = flash_moe("synth", write_config(tmp_path / "the-config.json", config), "-o", tmp_path / name, *options)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert not (tmp_path / f"{name}.part").exists()
    return tmp_path / name, result.stdout


def announced(stdout, what):
    return int(re.search(rf"^  {what} .* (\d+) bytes$", stdout, re.M)[1])


def bf16(x):
    return (x.astype(np.uint32) << 16).view(np.float32)


def disk_bytes(m):
    return math.ceil(m["rows"] / 16) * 16 * (m["cols"] // m["group"]) * (m["group"] * m["bits"] // 8 + 4)


def affine(data, m):
    """An r16 matrix as MLX stores it: words [rows][cols * bits / 32], scales and biases [rows][groups]."""
    groups, words = m["cols"] // m["group"], m["group"] * m["bits"] // 32
    strips = math.ceil(m["rows"] / 16)
    blocks = np.frombuffer(data, "<u4").reshape(strips, groups, words + 1, 16)
    weight = blocks[:, :, :words].transpose(0, 3, 1, 2).reshape(strips * 16, groups * words)
    halves = np.ascontiguousarray(blocks[:, :, words]).view("<u2").reshape(strips, groups, 2, 16).transpose(2, 0, 3, 1).reshape(2, strips * 16, groups)
    return [np.ascontiguousarray(x[:m["rows"]]) for x in (weight, halves[0], halves[1])]


def values(weight, scales, biases, bits, group):
    """What such a matrix means. Values lie in a stream of bits, the least significant first."""
    stream = np.unpackbits(weight.view(np.uint8).reshape(len(weight), -1), axis=1, bitorder="little").reshape(len(weight), -1, bits)
    q = (stream.astype(np.float32) * 2.0 ** np.arange(bits)).sum(2)
    return q * np.repeat(bf16(scales), group, 1) + np.repeat(bf16(biases), group, 1)


def experts_of(model, layer):
    """gate, up and down of each expert of a layer: [3][E] of (weight, scales, biases)."""
    data = (model / layer["file"]).read_bytes()
    n = (len(data) - 8) // (layer["expert_bytes"] + 8)
    matrices, at = [], 0
    for name in ("gate", "up", "down"):
        m, begin = layer[name], at
        at += math.ceil(disk_bytes(m) / 64) * 64
        matrices.append([affine(data[e * layer["expert_bytes"] + begin:][:disk_bytes(m)], m) for e in range(n)])
    for e in range(n):
        assert not any(data[e * layer["expert_bytes"] + at:(e + 1) * layer["expert_bytes"]]), "zeros follow an expert"
    return matrices


def unpack(model, to):
    """The same model as an MLX snapshot."""
    to.mkdir()
    (to / "config.json").write_bytes((model / "config.json").read_bytes())
    file = Safetensors.load(model / "dense.safetensors")
    prefix = next(name for name in file.header if name.endswith("embed_tokens.weight"))[:-len("embed_tokens.weight")]
    for i, layer in enumerate(json.loads((model / "model.json").read_text())["layers"]):
        for name, experts in zip(("gate", "up", "down"), experts_of(model, layer) if layer else ()):
            for j, part in enumerate(("weight", "scales", "biases")):
                x = np.stack([e[j] for e in experts])
                file.header[f"{prefix}layers.{i}.mlp.switch_mlp.{name}_proj.{part}"] = {
                    "dtype": "BF16" if j else "U32", "shape": list(x.shape), "data_offsets": [len(file.data), len(file.data) + x.nbytes]}
                file.data += x.tobytes()
    file.save(to / "model.safetensors")
    return to


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("bits, group", [(2, 64), (3, 32), (4, 64), (5, 64), (6, 32), (8, 64)])
def test_the_engine_runs_it(tmp_path, family, bits, group):
    """Unpacked into an MLX snapshot: every tensor is there under its name, in its form, and the numbers stay of one size from layer to layer."""
    model, _ = synth(tmp_path, CONFIGS[family], "--bits", bits, "--group", group)
    snapshot = unpack(model, tmp_path / "snapshot")
    result = flash_moe("dump", snapshot, "--ids", "1,2,3,299,7", "--activations", "f32", "-o", tmp_path / "dump.safetensors")
    assert result.returncode == 0, result.stderr
    dump = Safetensors.load(tmp_path / "dump.safetensors")
    for name in ("embed", "layer.0", "layer.3", "logits"):
        begin, end = dump.header[name]["data_offsets"]
        x = np.frombuffer(dump.data[begin:end], np.float32)
        assert np.isfinite(x).all() and 0.05 < x.std() < 20, (name, x.std())
    logits = x.reshape(5, -1)
    assert len({int(row.argmax()) for row in logits}) > 1, "tokens differ"


def test_sizes_are_as_announced(tmp_path):
    model, said = synth(tmp_path, QWEN3_NEXT, "--share-layers", 1)
    layers = json.loads((model / "model.json").read_text())["layers"]
    assert [layer and layer["file"] for layer in layers] == ["experts/layer_00.bin", None, "experts/layer_02.bin", None]
    for layer in layers[::2]:
        assert layer["expert_bytes"] == announced(said, "one expert") == math.ceil(3 * disk_bytes(layer["gate"]) / 4096) * 4096
        assert (model / layer["file"]).stat().st_size == announced(said, "experts of a layer") == 5 * (layer["expert_bytes"] + 8) + 8
    assert (model / "dense.safetensors").stat().st_size == announced(said, "dense part")
    assert announced(said, "experts of all layers") == 2 * announced(said, "experts of a layer")
    assert announced(said, "to be written") == announced(said, "dense part") + announced(said, "experts of a layer")
    assert sorted(p.name for p in model.iterdir()) == ["config.json", "dense.safetensors", "experts", "model.json"]
    assert re.search(r"^written: \S+ \wB in \S+ s, \S+ GB/s; of the time of \d+ threads, \d+ % made numbers and \d+ % wrote them$", said, re.M), said
    assert "2 layers take the experts of 1 files in turn" in said


def test_shared_files_are_one_file(tmp_path):
    config = json.loads(json.dumps(QWEN3_5))
    del config["text_config"]["layer_types"]
    model, _ = synth(tmp_path, config, "--layers", 7, "--share-layers", 3)
    files = sorted((model / "experts").iterdir())
    assert [f.name for f in files] == [f"layer_{i:02}.bin" for i in range(7)]
    assert [f.stat().st_ino for f in files] == [files[i % 3].stat().st_ino for i in range(7)]
    assert len({f.stat().st_ino for f in files}) == 3
    assert [layer["file"] for layer in json.loads((model / "model.json").read_text())["layers"]] == [f"experts/{f.name}" for f in files]
    assert files[0].read_bytes() != files[1].read_bytes()


def test_fewer_layers(tmp_path):
    model, said = synth(tmp_path, QWEN3_5, "--layers", 3)
    text = json.loads((model / "config.json").read_text())["text_config"]
    assert (text["num_hidden_layers"], text["layer_types"]) == (3, QWEN3_5["text_config"]["layer_types"][:3])
    assert ", 3 layers, 3 with 5 experts each, 4 bits in groups of 64\n" in said
    result = flash_moe("synth", tmp_path / "the-config.json", "--layers", 5, "-o", tmp_path / "more")
    assert (result.returncode, result.stdout) == (1, "") and result.stderr.endswith("layer_types has 4 entries, but there are 5 layers.\n")
    model, _ = synth(tmp_path, QWEN3_NEXT, "--layers", 2, name="other")
    assert json.loads((model / "config.json").read_text())["mlp_only_layers"] == [1]


@pytest.mark.parametrize("bits, group", [(2, 128), (3, 64), (4, 32), (5, 32), (6, 64), (8, 32)])
def test_experts_are_sane_and_differ(tmp_path, bits, group):
    config = json.loads(json.dumps(QWEN3_5))
    config["text_config"].update(moe_intermediate_size=128, shared_expert_intermediate_size=128, num_hidden_layers=1, layer_types=["full_attention"])
    model, _ = synth(tmp_path, config, "--bits", bits, "--group", group)
    layer = json.loads((model / "model.json").read_text())["layers"][0]
    seen = set()
    for name, experts in zip(("gate", "up", "down"), experts_of(model, layer)):
        assert layer[name] == {"rows": 128, "cols": 128, "format": "affine", "bits": bits, "group": group, "scales": "BF16"}
        for weight, scales, biases in experts:
            w = values(weight, scales, biases, bits, group)
            assert w.shape == (128, 128) and np.isfinite(w).all()
            # Uniform about 0: outputs are about as large as inputs, none of the values is preferred, and no two rows have the same scales.
            assert 0.4 < w.std() * math.sqrt(128) < 0.8 and abs(w.mean()) < 0.1 * w.std(), (w.std(), w.mean())
            assert len(np.unique(scales)) > 10 and bf16(scales).min() > 0 and bf16(biases).max() < 0
            assert abs(np.corrcoef(w[:-1].ravel(), w[1:].ravel())[0, 1]) < 0.05
            seen.add(weight.tobytes())
    assert len(seen) == 15


def test_dense_tensors(tmp_path):
    """Under MLX's names, in MLX's forms; routers and gates of 8 bits, which config.json says."""
    model, _ = synth(tmp_path, QWEN3_5, "--bits", 2)
    file = Safetensors.load(model / "dense.safetensors")
    shapes = {name: (x["dtype"], x["shape"]) for name, x in file.header.items()}
    layer = "language_model.model.layers.0."
    assert shapes[layer + "linear_attn.conv1d.weight"] == ("BF16", [128, 4, 1])
    assert shapes[layer + "linear_attn.A_log"] == ("F32", [4])
    assert shapes[layer + "mlp.gate.weight"] == ("U32", [5, 32])
    assert shapes[layer + "mlp.shared_expert.down_proj.weight"] == ("U32", [128, 4])
    assert shapes["language_model.lm_head.scales"] == ("BF16", [300, 2])
    assert not any("switch_mlp" in name for name in shapes)
    quantization = json.loads((model / "config.json").read_text())["quantization"]
    eight = {name: x for name, x in quantization.items() if isinstance(x, dict)}
    assert (quantization["bits"], quantization["group_size"], len(eight)) == (2, 64, 8)
    assert eight["language_model.model.layers.3.mlp.shared_expert_gate"] == {"group_size": 64, "bits": 8}

    def tensor(name, dtype):
        begin, end = file.header[name]["data_offsets"]
        return np.frombuffer(file.data[begin:end], dtype).reshape(file.header[name]["shape"])

    a_log = tensor(layer + "linear_attn.A_log", "<f4")
    assert a_log.min() >= -2 and a_log.max() <= 1
    norm = bf16(tensor("language_model.model.norm.weight", "<u2"))
    assert 0.79 < norm.min() < 0.85 and 1.15 < norm.max() < 1.21
    router = values(*(tensor(f"{layer}mlp.gate.{part}", dtype) for part, dtype in (("weight", "<u4"), ("scales", "<u2"), ("biases", "<u2"))), 8, 64)
    assert 1.2 < router.std() * math.sqrt(128) < 2.4


def test_same_seed_same_bytes(tmp_path):
    files = ("config.json", "model.json", "dense.safetensors", "experts/layer_00.bin", "experts/layer_03.bin")
    one, _ = synth(tmp_path, QWEN3_5, "--seed", 7, "--threads", 1, name="one")
    two, _ = synth(tmp_path, QWEN3_5, "--seed", 7, "--threads", 5, name="two")
    other, _ = synth(tmp_path, QWEN3_5, "--seed", 8, name="other")
    for name in files:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
        assert (one / name).read_bytes() != (other / name).read_bytes() or name == "config.json", name


def test_tokenizer_is_copied(tmp_path, ember):
    config = dict(QWEN3_MOE, vocab_size=4096)
    model, _ = synth(tmp_path, config, "--tokenizer", ember)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (model / name).read_bytes() == (ember / name).read_bytes()
    assert not (model / "generation_config.json").exists()


def test_known_shapes():
    result = flash_moe("synth", "--list")
    assert (result.returncode, result.stderr) == (0, "")
    # Experts of all layers as the published 4-bit conversions have them.
    for name, experts in (("qwen3.5-35b-a3b", "18.1 GB"), ("qwen3.5-122b-a10b", "65.2 GB"), ("qwen3.5-397b-a17b", "217.4 GB"), ("qwen3.6-35b-a3b", "18.1 GB"),
                          ("qwen3-coder-next", "43.5 GB")):
        assert re.search(rf"^  {re.escape(name)} .* {experts}$", result.stdout, re.M), result.stdout


def test_names_in_any_case_and_no_room(tmp_path):
    """A model larger than any test machine's disk is refused before anything is written."""
    result = flash_moe("synth", "Qwen3.5-397B-A17B", "--layers", 512, "--bits", 8, "-o", tmp_path / "out")
    assert result.returncode == 1
    assert announced(result.stdout, "one expert") == 13369344 and announced(result.stdout, "to be written") > 3e12
    free = announced(result.stdout, "free there")
    assert abs(free - os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize) < 5e9
    assert re.search(r"/out: it needs 3\.\d\d TB, but only \S+ \wB are free there; "
                     r"(--share-layers \d+ would fit, or fewer --layers|fewer --layers need less)\.$", result.stderr), result.stderr
    assert list(tmp_path.iterdir()) == []
    fits = re.search(r"--share-layers (\d+) would fit", result.stderr)
    if fits:
        dense, file = announced(result.stdout, "dense part"), announced(result.stdout, "experts of a layer")
        assert dense + int(fits[1]) * file <= free < dense + (int(fits[1]) + 1) * file


@pytest.mark.parametrize("options, message", [
    ([], "synth needs CONFIG, a shape's name or a config.json; flash-moe synth --list names the known ones."),
    (["C"], "synth needs -o DIR, the directory to write."),
    (["C", "D", "-o", "O"], "'D' is one word too many; a text of several words is put in quotes."),
    (["--list", "C"], "--list stands alone, without 'C'."),
    (["C", "-o", "O", "--bits", "7"], "--bits is one of 2|3|4|5|6|8, not '7'."),
    (["C", "-o", "O", "--group", "16"], "--group is one of 32|64|128, not '16'."),
    (["C", "-o", "O", "--share-layers", "0"], "--share-layers is 0, but must be from 1 to 512."),
    (["C", "-o", "O", "--layers", "0"], "--layers is 0, but must be from 1 to 512."),
    (["C", "-o", "O", "--share-layers", "5"], "5 files of experts are more than the 4 layers of C that have experts."),
    (["nonesuch", "-o", "O"], "there is no known shape and no file called nonesuch; the shapes are qwen3.5-35b-a3b, qwen3.5-122b-a10b, "
                              "qwen3.5-397b-a17b, qwen3.6-35b-a3b, qwen3-coder-next."),
    (["C", "-o", "O", "--tokenizer", str(EMBER)], f"{EMBER}/tokenizer.json: it has token id 4095, but C only 300 rows."),
    (["C", "-o", ""], "the directory to write has no name."),
])
def test_mistakes(tmp_path, options, message):
    write_config(tmp_path / "C", QWEN3_5)
    result = flash_moe("synth", *options, cwd=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"flash-moe: {message}\n")
    assert [p.name for p in tmp_path.iterdir()] == ["C"]


@pytest.mark.parametrize("change, options, message", [
    (dict(architectures=["T5ForConditionalGeneration"], model_type="t5"), [],
     'C: architecture "T5ForConditionalGeneration" with model_type "t5" is not supported.'),
    (dict(architectures=["MixtralForCausalLM"], model_type="mixtral"), [], "C: the key num_local_experts is missing."),
    (dict(moe_intermediate_size=96), [], "C: mlp.switch_mlp.down_proj has 96 columns, which are no whole number of groups of 64."),
    (dict(hidden_size=96), ["--group", 32], "C: model.layers.0.mlp.gate has 96 columns, which are no whole number of groups of 64."),
    (dict(num_experts=None), [], "C: the key num_experts is missing."),
    (dict(mlp_only_layers=[0, 1, 2, 3], intermediate_size=64), [], "C: none of the 4 layers has experts."),
    (dict(hidden_size=1 << 23, moe_intermediate_size=1 << 10, num_experts=2), [], "C: an expert of 14495514624 bytes is more than the 4 GiB that one can have."),
    (dict(layer_types=["full_attention"] * 2), [], None),
    ({}, ["-o", "C"], "C: it is there already."),
    ({}, ["-o", "none/O"], "none/: No such file or directory."),
    ({}, ["--tokenizer", "none"], "none/tokenizer.json: No such file or directory."),
])
def test_refused(tmp_path, change, options, message):
    write_config(tmp_path / "C", dict(QWEN3_MOE, **change))
    result = flash_moe("synth", "C", "-o", "O", *options, cwd=tmp_path)
    if message is None:  # a key that the family does not read
        assert result.returncode == 0
        return
    assert (result.returncode, result.stdout, result.stderr) == (1, "", f"flash-moe: {message}\n")
    assert [p.name for p in tmp_path.iterdir()] == ["C"]


def test_no_such_config_in_a_directory(tmp_path):
    result = flash_moe("synth", tmp_path, "-o", tmp_path / "O")
    assert (result.returncode, result.stderr) == (1, f"flash-moe: {tmp_path}/config.json: No such file or directory.\n")


def test_what_a_stopped_program_left_is_not_touched(tmp_path):
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part" / "x").write_text("mine")
    result = flash_moe("synth", write_config(tmp_path / "C", QWEN3_5), "-o", tmp_path / "out")
    assert result.returncode == 1 and result.stderr.endswith("/out.part: it is there already, left by a program that was stopped or still writes; remove it first.\n")
    assert (tmp_path / "out.part" / "x").read_text() == "mine" and not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["dense", "experts"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing(tmp_path, part, number):
    """Stopped as soon as it has begun with a part that takes long, told to end, and let go on."""
    change = dict(vocab_size=1 << 20) if part == "dense" else dict(num_experts=4096)
    config = write_config(tmp_path / "C", dict(QWEN3_MOE, num_hidden_layers=1, **change))
    wait_for = tmp_path / "out.part" / ("dense.safetensors" if part == "dense" else "experts/layer_00.bin")
    process = subprocess.Popen([PROGRAM, "synth", config, "-o", tmp_path / "out", "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not wait_for.exists() and process.poll() is None:
        time.sleep(0.0005)
    process.send_signal(signal.SIGSTOP)
    assert wait_for.exists(), "it was over too soon"
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "flash-moe: stopped.\n")
    assert [p.name for p in tmp_path.iterdir()] == ["C"]


def test_a_full_disk_leaves_nothing(tmp_path):
    """Files may not be larger than a limit, which is how a disk that fills up meanwhile looks."""
    import resource

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    config = write_config(tmp_path / "C", dict(QWEN3_MOE, num_experts=500))
    result = flash_moe("synth", config, "-o", tmp_path / "out", preexec_fn=limit)
    assert result.returncode == 1
    assert re.search(r"/out\.part/experts/layer_00\.bin: it cannot be written, .*: File too large\.$", result.stderr), result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["C"]


def test_help():
    result = flash_moe("synth", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("flash-moe synth: ") and "\n  flash-moe synth CONFIG -o DIR" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 110
    assert flash_moe("help", "synth").stdout == result.stdout == flash_moe("synth", "x", "-h").stdout




@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("bits, group", [(2, 64), (3, 32), (4, 64), (5, 64), (6, 32), (8, 64)])
def test_packed_and_unpacked_are_one_model(tmp_path, family, bits, group):
    """Bit for bit the same numbers, from the packed model and from the MLX snapshot that was made of it."""
    model, _ = synth(tmp_path, CONFIGS[family], "--bits", bits, "--group", group, "--share-layers", 2)
    snapshot = unpack(model, tmp_path / "snapshot")
    for name, path in (("packed", model), ("unpacked", snapshot)):
        result = flash_moe("dump", path, "--ids", "1,2,3,299,7", "-o", tmp_path / name)
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "packed").read_bytes() == (tmp_path / "unpacked").read_bytes()


def test_synth_runs(tmp_path, ember):
    model, _ = synth(tmp_path, dict(QWEN3_MOE, vocab_size=4096), "--tokenizer", ember)
    result = flash_moe("run", model, "--raw", "-p", "Once upon a time", "-n", 8, "--temp", 0, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["tokens"] == 8
