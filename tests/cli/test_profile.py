"""`profile` with models/ember: the counts add up and do not depend on how they were made; the engine follows a profile; what is left out is named; older profiles."""
import json

import pytest

from conftest import EMBER, flash_moe

STORIES = "Once upon a time\n---\nOne morning Mia found\na small key\n"
N_LAYERS, N_EXPERTS, TOP_K = 8, 64, 6


@pytest.fixture(autouse=True)
def needs_ember(ember):
    pass


def profile(folder, *options, files=None, name="x.json"):
    files = files or {"stories.txt": STORIES}
    words = []
    for file, text in files.items():
        (folder / file).write_text(text)
        words += ["-f", folder / file]
    result = flash_moe("profile", EMBER, *words, "-o", folder / name, *options)
    assert result.returncode == 0, result.stderr
    return json.loads((folder / name).read_text()), result.stdout


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "ember"
    result = flash_moe("pack", EMBER, "-o", path)
    assert result.returncode == 0, result.stderr
    return path


def test_counts(tmp_path):
    jsonl = [{"prompt": "One morning", "kind": "stories"}, {"messages": [{"role": "user", "content": "What is the capital of Norway?"}]}, {"prompt": "List", "kind": "orders"}]
    got, said = profile(tmp_path, "-n", "9", "--seed", "3", files={"stories.txt": STORIES + "--- kind: late\nThe end", "chat.jsonl": "\n".join(map(json.dumps, jsonl))})
    assert got["format"] == "flash-moe profile" and (got["n_layers"], got["n_experts"], got["top_k"]) == (N_LAYERS, N_EXPERTS, TOP_K)
    assert [(k["name"], k["n_prompts"]) for k in got["kinds"]] == [("stories", 3), ("late", 1), ("chat", 1), ("orders", 1)]
    for kind in got["kinds"]:
        assert set(kind["layers"]) == {str(i) for i in range(N_LAYERS)} and kind["n_tokens"] > 0 and kind["name"] in said
        for layer in kind["layers"].values():
            assert sum(layer["uses"]) == TOP_K * kind["n_tokens"] and len(layer["uses"]) == N_EXPERTS
            assert sum(layer["weights"]) == pytest.approx(kind["n_tokens"], rel=1e-4)  # this model's weights are divided by their sum
            assert all((use > 0) == (weight > 0) for use, weight in zip(layer["uses"], layer["weights"]))
    config = json.loads((EMBER / "config.json").read_text())["text_config"]
    columns = got["columns"]
    assert len(columns["head"]) == config["hidden_size"]
    for i in range(N_LAYERS):
        assert {"mixer", "mixer_out", "mlp"} <= set(columns[str(i)])
        assert len(columns[str(i)]["mlp"]) == config["hidden_size"]
        assert all(x > 0 for x in columns[str(i)]["mlp"])


def test_the_same_for_any_machine(tmp_path):
    first, _ = profile(tmp_path)
    for i, options in enumerate((["--memory", "16M", "--threads", "1"], ["--threads", "3", "--policy", "lru"], ["--cpu", "scalar"])):
        assert profile(tmp_path, *options, name=f"{i}.json")[0] == first, options
    assert profile(tmp_path, "--seed", "1", "--temp", "1", name="other.json")[0] != first


def test_shows(tmp_path):
    got, said = profile(tmp_path, files={"a.txt": STORIES, "b.txt": "{\"command\": \"ls\"}"})
    shown = flash_moe("profile", tmp_path / "x.json")
    assert shown.returncode == 0 and shown.stdout == said
    figures = json.loads(flash_moe("profile", tmp_path / "x.json", "--json").stdout)
    total = [sum(k["layers"][str(i // N_EXPERTS)]["uses"][i % N_EXPERTS] for k in got["kinds"]) for i in range(N_LAYERS * N_EXPERTS)]
    uses = sorted(total, reverse=True)
    for share in 50, 80, 90, 100:
        n = next(n for n in range(len(uses) + 1) if sum(uses[:n]) >= share / 100 * sum(uses))
        assert figures["needed"][str(share)] == n
    a, b = ([[u / sum(layer["uses"]) for u in layer["uses"]] for layer in k["layers"].values()] for k in got["kinds"])
    overlap = sum(min(x, y) for p, q in zip(a, b) for x, y in zip(p, q)) / N_LAYERS
    assert figures["kinds"][0]["overlap"] == pytest.approx([1, overlap]) and 0 < overlap < 1


def run(model, *options):
    result = flash_moe("run", model, "--raw", "-p", "Once upon a time", "-n", "40", "--temp", "0", "--json", "--heat", "off", "--session-cache", "off", "--memory", "18M", *options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), result.stderr


def test_the_engine_follows(tmp_path, packed):
    profile(tmp_path)
    path = tmp_path / "x.json"
    plain, _ = run(packed)
    warm, _ = run(packed, "--profile", path)
    pinned, _ = run(packed, "--profile", path, "--pin", "40%")
    assert plain["text"] == warm["text"] == pinned["text"] and plain["approximation"] is None
    assert warm["hit_rate"] > plain["hit_rate"] + 0.05
    result = flash_moe("chat", packed, "--profile", path, "--pin", "20%", "--heat", "off", input="")
    assert result.returncode == 0, result.stderr


def test_dropped_is_named(tmp_path, packed):
    profile(tmp_path)
    exact, _ = run(packed)
    dropped, said = run(packed, "--missing", "drop", "--profile", tmp_path / "x.json")
    assert dropped["n_left_out"] > 0 and exact["n_left_out"] == 0 and dropped["text"] != exact["text"]
    assert "left out" in dropped["approximation"] and "left out" in said and "approximation" in said
    everything, _ = run(packed, "--missing", "drop", "--memory", "64M")
    assert everything["n_left_out"] == 0 and everything["text"] == exact["text"]
    text = ("-f", EMBER / "held-out.txt", "--tokens", "100", "--window", "50", "--memory", "36M", "--missing", "drop")
    result = flash_moe("compare", packed, *text, "--decode", "0")
    assert result.returncode == 0 and "an approximation: experts that are not in memory are left out" in result.stdout and "one at a time" in result.stdout
    result = flash_moe("perplexity", packed, "-f", EMBER / "held-out.txt", "--tokens", "100", "--missing", "drop", "--memory", "18M", "--json")
    assert "left out" in json.loads(result.stdout)["approximation"]
    result = flash_moe("run", EMBER, "-p", "x", "--missing", "drop")
    assert result.returncode == 1 and "packed" in result.stderr


def test_older(tmp_path, packed):
    older = {"model": "x", "num_prompts": 4, "threshold": 0.5, "capacity": 20, "num_experts": N_EXPERTS, "moe_layers": N_LAYERS, "prompt_preset": "mixed",
             "layers": {str(i): {"universal": [1, 2, 63], "activation_counts": {"1": 4, "2": 3, "5": 1}, "total_unique": 3} for i in range(N_LAYERS)}}
    path = tmp_path / "older.json"
    path.write_text(json.dumps(older))
    figures = json.loads(flash_moe("profile", path, "--json").stdout)
    assert figures["older"] and figures["n_experts"] == N_EXPERTS and figures["needed"]["100"] == 4 * N_LAYERS and figures["layers"][0] == {"50": 2, "80": 3, "90": 3, "100": 4}
    assert run(packed, "--profile", path, "--pin", "10%")[0]["text"] == run(packed)[0]["text"]


@pytest.mark.parametrize("change, word", [({"n_experts": 32}, "32"), ({"n_layers": 9}, "9 layers"), ({"model_type": "other"}, "other"), ({"version": 7}, "version 7"), ({"format": "x"}, "profile")])
def test_wrong_profiles(tmp_path, packed, change, word):
    got, _ = profile(tmp_path, "-n", "0")
    if "n_experts" in change:
        for kind in got["kinds"]:
            for layer in kind["layers"].values():
                layer["uses"], layer["weights"] = layer["uses"][:32], layer["weights"][:32]
    (tmp_path / "y.json").write_text(json.dumps({**got, **change}))
    result = flash_moe("run", packed, "-p", "x", "--memory", "18M", "--profile", tmp_path / "y.json")
    assert result.returncode == 1 and word in result.stderr and "y.json" in result.stderr, result.stderr


def test_wrong_options(tmp_path, packed):
    (tmp_path / "p.txt").write_text("x")
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x"}\n{"prompt": 3}\n')
    (tmp_path / "cut.jsonl").write_text('{"prompt": "x"\n')
    (tmp_path / "empty.txt").write_text("\n")
    for words, word in ((["profile", EMBER, "-f", tmp_path / "p.txt"], "-o FILE"), (["profile", EMBER, "-o", "x"], "-f PROMPTS"), (["profile", tmp_path / "p.txt"], "not JSON"),
                        (["profile", EMBER, "-f", tmp_path / "bad.jsonl", "-o", tmp_path / "x"], "bad.jsonl:2"), (["profile", EMBER, "-f", tmp_path / "cut.jsonl", "-o", tmp_path / "x"], "cut.jsonl:1"),
                        (["profile", EMBER, "-f", tmp_path / "empty.txt", "-o", tmp_path / "x"], "no prompt"), (["profile", EMBER, "-f", tmp_path / "p.txt", "-o", tmp_path / "no" / "x"], "no/x"),
                        (["run", packed, "-p", "x", "--pin", "10%"], "none is given"), (["run", packed, "-p", "x", "--pin", "95%"], "--pin"), (["run", packed, "-p", "x", "--pin", "some"], "--pin"),
                        (["run", packed, "-p", "x", "--profile", tmp_path / "none"], "none")):
        result = flash_moe(*words)
        assert result.returncode in (1, 2) and word in result.stderr, (words, result.stderr)
    assert not (tmp_path / "x").exists() and not list(tmp_path.glob("*.part"))


def test_pack_weighs_by_it(tmp_path):
    got, _ = profile(tmp_path)
    (tmp_path / "y.json").write_text(json.dumps({k: v for k, v in got.items() if k != "columns"}))
    bytes_of = {}
    for name, words in (("plain", []), ("weighed", ["--profile", tmp_path / "x.json"]), ("again", ["--profile", tmp_path / "x.json", "--threads", "1"])):
        result = flash_moe("pack", EMBER, "-o", tmp_path / name, "--experts", "3", "--dense", "3", "--search", *words)
        assert result.returncode == 0, result.stderr
        bytes_of[name] = [(tmp_path / name / file).read_bytes() for file in ("dense.safetensors", "experts/layer_00.bin")]
    assert bytes_of["weighed"] == bytes_of["again"] and all(a != b for a, b in zip(bytes_of["plain"], bytes_of["weighed"]))
    for words, word in ((["--profile", tmp_path / "x.json"], "search"), (["--search", "--experts", "3", "--profile", tmp_path / "y.json"], "no columns")):
        result = flash_moe("pack", EMBER, "-o", tmp_path / "no", *words)
        assert result.returncode in (1, 2) and word in result.stderr and not (tmp_path / "no").exists(), result.stderr
