"""`trace` and `replay` with models/ember: the file does not depend on how it was made, the table adds up, and what is no trace is refused by name."""
import csv
import io
import json

import pytest

from conftest import EMBER, ROOT, flash_moe

PROMPTS = "Once upon a time\n---\nOne morning Mia found\na small key\n"


@pytest.fixture(autouse=True)
def needs_ember(ember):
    pass


def trace(folder, *options, prompts=PROMPTS, name="x.trace"):
    """The trace's path, and what was said."""
    (folder / "prompts.txt").write_text(prompts)
    result = flash_moe("trace", EMBER, "--raw", "-f", folder / "prompts.txt", "-o", folder / name, *options)
    assert result.returncode == 0, result.stderr
    return folder / name, result.stderr


def replay(path, *options):
    result = flash_moe("replay", path, *options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def header(path):
    data = path.read_bytes()
    assert data.startswith(b"flash-moe trace1")
    return json.loads(data[16:data.index(b"\n")])


def test_header_and_counts(tmp_path):
    path, said = trace(tmp_path, "-n", "20", "--ignore-eos", "--seed", "7", "--temp", "0.5")
    config = json.loads((EMBER / "config.json").read_text())
    text = config["text_config"]
    head = header(path)
    assert head["model_type"] == config["model_type"] and head["architecture"] == config["architectures"][0]
    assert head["n_layers"] == text["num_hidden_layers"] and head["n_experts"] == text["num_experts"] and head["top_k"] == text["num_experts_per_tok"]
    assert head["moe"] == list(range(head["n_layers"]))
    assert head["how"]["prompts"] == "prompts.txt" and head["how"]["n_prompts"] == 2 and head["how"]["max_tokens"] == 20
    assert head["how"]["sampling"]["seed"] == 7 and head["how"]["sampling"]["temperature"] == 0.5
    got = json.loads(replay(path, "--json"))
    # The last of the 20 tokens of each prompt is chosen but not computed.
    assert got["n_sequences"] == 2 and got["decoded_tokens"] == 2 * 19 and got["prompt_tokens"] + got["decoded_tokens"] == head["n_tokens"]
    assert f"2 prompts of {got['prompt_tokens']} tokens, 38 tokens decoded" in said
    assert not list(tmp_path.glob("*.part"))


def test_the_same_for_any_machine(tmp_path):
    long = PROMPTS + "---\n" + (ROOT / "models/ember/held-out.txt").read_text()[:3000].replace("\n---\n", "\n")
    first, _ = trace(tmp_path, "-n", "30", prompts=long, name="first.trace")
    data = first.read_bytes()
    assert len(data) > 30000
    for i, options in enumerate((["--memory", "16M"], ["--memory", "24M", "--policy", "lru", "--threads", "1"], ["--threads", "3", "--io", "pread"], ["--cpu", "scalar"])):
        again, _ = trace(tmp_path, "-n", "30", *options, prompts=long, name=f"{i}.trace")
        assert again.read_bytes() == data, options
    other, _ = trace(tmp_path, "-n", "30", "--seed", "1", prompts=long, name="other.trace")
    assert other.read_bytes() != data


def test_prompts_are_independent(tmp_path):
    """A prompt's routing is that of the same prompt alone; --- lines and the line break before them belong to none."""
    both, _ = trace(tmp_path, "-n", "0", prompts="Once upon a time\n---\n--- is no separator here\n\n---\n \n", name="both")
    first, _ = trace(tmp_path, "-n", "0", prompts="Once upon a time", name="first")
    second, _ = trace(tmp_path, "-n", "0", prompts="--- is no separator here\n\n", name="second")
    body = [path.read_bytes() for path in (both, first, second)]
    body = [data[data.index(b"\n") + 1:-8] for data in body]
    assert body[0] == body[1] + body[2] and body[1]


def test_replay_adds_up(tmp_path):
    path, _ = trace(tmp_path, "-n", "40", "--ignore-eos")
    got = json.loads(replay(path, "--json"))
    assert got["decoded_tokens"] == 78 and got["requests"]["decoded"] == 78 * 8 * 6
    assert [b["experts"] for b in got["budgets"]] == [round(512 * s) for s in (0.05, 0.08, 0.1, 0.15, 0.2, 0.25, 0.33, 0.5, 0.75)]
    assert got["default_policy"] in got["budgets"][0]["policies"]
    before = {}
    for budget in got["budgets"]:
        assert {"belady", "lfu", "lru"} <= set(budget["policies"])
        for policy, row in budget["policies"].items():
            for part in ("prompt", "decoded", "later"):
                assert 0 <= row[part] <= budget["policies"]["belady"][part] <= 1
            assert row["decoded"] == pytest.approx(sum(row["decoded_by_layer"]) / 8)
        assert budget["policies"]["belady"]["decoded"] >= before.get("belady", 0)
        before = {policy: row["decoded"] for policy, row in budget["policies"].items()}
    assert got["budgets"][0]["policies"]["lru"]["decoded"] == 0  # 26 experts, and a token uses 48
    assert 1 < got["union"]["2"] < got["union"]["4"] < got["union"]["8"] < 8
    assert all(0 < x < 1 for x in got["overlap"].values())
    table = list(csv.DictReader(io.StringIO(replay(path, "--csv"))))
    assert len(table) == 9 * (3 * len(got["budgets"][0]["policies"]) + 1)
    for row in table:
        budget = next(b for b in got["budgets"] if b["experts"] == int(row["experts"]))
        expected = budget["static_later"] if row["policy"] == "static" else budget["policies"][row["policy"]][row["part"]]
        assert float(row["hit_rate"]) == pytest.approx(expected, abs=1e-6) == pytest.approx(int(row["hits"]) / int(row["requests"]), abs=1e-6)
    text = replay(path)
    assert f"{100 * got['budgets'][4]['policies']['belady']['decoded']:.1f}" in text and "belady" in text and "2 sequences" in text


def test_budgets(tmp_path):
    path, _ = trace(tmp_path, "-n", "5")
    got = json.loads(replay(path, "--json", "--slots", "512,6", "--budget", "50"))
    assert [b["experts"] for b in got["budgets"]] == [6, 256, 512]
    for options, word in ((["--slots", "5"], "5 experts"), (["--slots", "513"], "513"), (["--slots", "6.5"], "6.5"), (["--budget", "101"], "101"), (["--budget", "5,,6"], "--budget"),
                          (["--batch", "0"], "--batch"), (["--json", "--csv"], "--csv")):
        result = flash_moe("replay", path, *options)
        assert result.returncode in (1, 2) and word in result.stderr and not result.stdout, (options, result.stderr)


def test_no_decoded_tokens(tmp_path):
    path, _ = trace(tmp_path, "-n", "0")
    got = json.loads(replay(path, "--json"))
    assert got["decoded_tokens"] == 0 and got["overlap"]["1"] is None and got["union"]["2"] is None and got["recall"] is None
    assert got["budgets"][0]["policies"]["lru"]["decoded"] is None and got["budgets"][0]["policies"]["lru"]["prompt"] is not None
    assert " - " in replay(path)


def test_broken_files_are_refused(tmp_path):
    path, _ = trace(tmp_path, "-n", "5")
    data = path.read_bytes()
    broken = tmp_path / "broken.trace"
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for contents, word in ((data[:-1], "cut short or damaged"), (bytes(flipped), "cut short or damaged"), (data + b"\0", "cut short or damaged"),
                           (data[:15] + b"2" + data[16:], "version"), (b"", "no trace"), (b"{}", "no trace")):
        broken.write_bytes(contents)
        result = flash_moe("replay", broken)
        assert result.returncode == 1 and str(broken) in result.stderr and word in result.stderr and not result.stdout, result.stderr
    result = flash_moe("replay", tmp_path / "missing.trace")
    assert result.returncode == 1 and "missing.trace" in result.stderr
    assert "FILE" in flash_moe("replay").stderr and "MODEL" in flash_moe("trace").stderr


def test_what_trace_refuses(tmp_path):
    prompts, output = tmp_path / "p.txt", tmp_path / "x.trace"
    cases = (("", "no prompt"), ("---\nx\n", "lines 1 to 1"), ("a\n---\n\n---\nb\n", "lines 3 to 4"), ("a\0b", "byte 0"))
    for text, word in cases:
        prompts.write_text(text)
        result = flash_moe("trace", EMBER, "-f", prompts, "-o", output)
        assert result.returncode == 1 and word in result.stderr and str(prompts) in result.stderr, result.stderr
    prompts.write_text("fine\n---\n" + "word " * 300)
    result = flash_moe("trace", EMBER, "-f", prompts, "-o", output, "--context", "256")
    assert result.returncode == 1 and "prompt 2 of 2" in result.stderr and "256" in result.stderr
    result = flash_moe("trace", EMBER, "-f", prompts, "-o", tmp_path / "no" / "x.trace")
    assert result.returncode == 1 and "x.trace" in result.stderr
    assert flash_moe("trace", EMBER, "-f", prompts).returncode == 2
    assert flash_moe("trace", EMBER, "-o", output).returncode == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.txt"]


@pytest.mark.parametrize("kind", ["stories", "questions", "tools"])
def test_committed_traces(kind):
    """They are whole, of this model, and of the prompts that lie beside them."""
    folder = ROOT / "bench" / "traces"
    got = json.loads(replay(folder / f"ember-{kind}.trace", "--json", "--budget", "25"))
    info = json.loads(flash_moe("info", EMBER, "--json").stdout)
    assert got["model_type"] == info["model_type"] and got["n_experts"] == info["n_experts"] and got["n_layers"] == info["n_layers"]
    assert got["made"]["prompts"] == f"prompts-{kind}.txt"
    assert got["n_sequences"] == got["made"]["n_prompts"] == (folder / f"prompts-{kind}.txt").read_text().count("\n---\n") + 1
    policies = got["budgets"][0]["policies"]
    assert 0.4 < policies["lru"]["decoded"] < policies["lfu"]["decoded"] < policies["belady"]["decoded"] < 0.8
    assert 0.6 < got["recall"] < 0.8
