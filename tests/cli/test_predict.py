"""tools/predict.py on a small trace with the routers' states: what the trace says comes out, with or without PyTorch; and `trace --states`."""
import json
import subprocess
import sys

import numpy as np
import pytest

from conftest import EMBER, ROOT, flash_moe

sys.path.insert(0, str(ROOT / "tools"))
PROMPTS = "\n---\n".join(("Once upon a time", "One morning Mia", "The bridge", "A hungry girl", "In a house"))


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    if not (EMBER / "model.safetensors").exists():
        pytest.skip("models/ember has no model.safetensors")
    folder = tmp_path_factory.mktemp("traced")
    (folder / "prompts.txt").write_text(PROMPTS)
    for name, words in (("x", []), ("y", ["--memory", "16M", "--threads", "1"])):
        result = flash_moe("trace", EMBER, "--raw", "-f", folder / "prompts.txt", "-n", "30", "-o", folder / f"{name}.trace", "--states", folder / f"{name}.npy", *words)
        assert result.returncode == 0, result.stderr
    return folder


def predict(*words):
    return subprocess.run([sys.executable, ROOT / "tools" / "predict.py", *map(str, words)], capture_output=True, text=True, timeout=300)


def test_states(traced):
    states = np.load(traced / "x.npy")
    head = json.loads((traced / "x.trace").read_bytes()[16:].split(b"\n")[0])
    assert states.dtype == np.float32 and states.shape == (head["n_tokens"], 8, 256) and np.isfinite(states).all() and (np.abs(states).sum(axis=2) > 0).all()
    assert (traced / "x.npy").read_bytes() == (traced / "y.npy").read_bytes() and not list(traced.glob("*.part"))


def test_figures(traced):
    import predict as module
    result = predict(traced / "x.trace", "--states", traced / "x.npy", "--json", "--epochs", "1", "--test", "40")
    assert result.returncode == 0, result.stderr
    rows = {row["predictor"]: row for row in json.loads(result.stdout.splitlines()[-1])["rows"]}
    assert set(rows) >= {"none", "frequency", "previous token", "next router", "linear", "perfect"}
    assert rows["perfect"]["recall_at_k"] == 1 and rows["none"]["gain"] == 0
    assert all(0 <= row["gain"] <= rows["perfect"]["gain"] + 1e-9 for row in rows.values())
    trace = module.Trace(traced / "x.trace")
    train, test = module.split(trace, 0.4)
    assert set(trace.sequence[train]).isdisjoint(trace.sequence[test]) and trace.decoded[test].all()
    same = [len(set(trace.experts[t, layer]) & set(trace.predicted[t, layer])) / trace.k for t in test for layer in range(1, trace.n_layers)]
    assert rows["next router"]["recall_at_k"] == pytest.approx(np.mean(same)) and rows["next router"]["recall_at_k"] > rows["frequency"]["recall_at_k"]
    if module.torch is None:
        assert "PyTorch is not there" in result.stdout and "mlp" not in rows
    alone = predict(traced / "x.trace", "--test", "40")
    assert alone.returncode == 0 and "Without --states" in alone.stdout and "linear" not in alone.stdout


def test_refuses(traced):
    (traced / "bad.npy").write_bytes(b"x")
    np.save(traced / "short.npy", np.zeros((3, 8, 256), np.float32))
    for words, word in (([traced / "x.npy"], "no trace"), ([traced / "none"], "none"), ([traced / "x.trace", "--states", traced / "short.npy"], "(3, 8, 256)"),
                        ([traced / "x.trace", "--states", traced / "bad.npy"], "predict.py"), ([traced / "x.trace", "--disk", "0"], "above 0"), ([traced / "x.trace", "--test", "5"], "")):
        result = predict(*words)
        assert "Traceback" not in result.stderr and (result.returncode == 1 and word in result.stderr or not word), (words, result.stderr)
