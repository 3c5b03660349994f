"""`info`, `plan`, `perplexity` and `dump` with models/ember."""
import json
import math

import numpy as np
import pytest

from conftest import EMBER, flash_moe
from safetensors_file import Safetensors


@pytest.fixture(autouse=True)
def needs_ember(ember):
    pass


def output(*arguments, **more):
    result = flash_moe(*arguments, **more)
    assert result.returncode == 0, result.stderr
    return result.stdout


def output_json(*arguments, **more):
    return json.loads(output(*arguments, "--json", **more))


# ---- info ----

def test_info_agrees_with_the_files():
    info = output_json("info", EMBER)
    config = json.loads((EMBER / "config.json").read_text())
    text = config.get("text_config", config)
    file = Safetensors.load(EMBER / "model.safetensors")
    tensors = {name: tensor for name, tensor in file.header.items() if name != "__metadata__"}
    experts = sum(t["data_offsets"][1] - t["data_offsets"][0] for name, t in tensors.items() if ".switch_mlp." in name)

    assert info["architecture"] == config["architectures"][0]
    assert info["model_type"] == config["model_type"]
    assert info["source"] == "mlx"
    assert info["hidden"] == text["hidden_size"]
    assert info["vocab"] == text["vocab_size"]
    assert info["n_layers"] == text["num_hidden_layers"] == info["n_attention_layers"] + info["n_recurrent_layers"]
    assert info["n_experts"] == text["num_experts"]
    assert info["experts_per_token"] == text["num_experts_per_tok"]
    assert info["expert_width"] == text["moe_intermediate_size"]
    assert info["experts_bytes"] == experts
    assert info["expert_bytes"] * info["n_experts"] * info["n_moe_layers"] == experts
    assert info["dense_bytes"] + experts + sum(part["bytes"] for part in info["left_out"]) == len(file.data)
    assert sum(part["bytes"] for part in info["parts"]) == info["dense_bytes"] + experts
    assert sum(part["n_tensors"] for part in info["parts"] + info["left_out"]) == len(tensors)
    assert any(part["what"] == "experts" and part["format"].startswith("4-bit") for part in info["parts"]), info["parts"]
    assert info["n_active_parameters"] < info["n_parameters"]
    assert info["chat_template"] == "chat_template.jinja"
    assert 0 < info["vocab_entries"] <= info["vocab"]


def test_info_text():
    text = output("info", EMBER)
    info = output_json("info", EMBER)
    for expected in (info["architecture"], f"hidden         {info['hidden']}", f"{info['n_experts']} a layer", "What is run", info["tool_format"]):
        assert expected in text, expected


# ---- plan ----

def test_plan_adds_up():
    plan = output_json("plan", EMBER, "--memory", "96M", "--context", 2048, "--no-measure")
    assert plan["fits"] is True and plan["budget_given"] is True
    assert plan["budget_bytes"] == 96 << 20
    assert plan["context"] == 2048
    used = sum(plan[part + "_bytes"] for part in ("dense", "session", "buffer", "text", "overhead", "cache"))
    assert used <= plan["budget_bytes"]
    assert plan["cache_bytes"] == plan["n_slots"] * plan["slot_bytes"]
    assert plan["min_slots"] <= plan["n_slots"] <= plan["n_experts_total"]
    assert "machine" not in plan
    for rate in plan["rates"]:
        assert rate["read_bytes_per_token"] == pytest.approx((1 - rate["hit_rate"]) * plan["token_expert_bytes"], abs=1)
    assert [rate["hit_rate"] for rate in plan["rates"]] == [0, 0.3, 0.5, 0.7, 0.85, 0.95, 1]
    info = output_json("info", EMBER)
    assert plan["token_expert_bytes"] == pytest.approx(info["n_moe_layers"] * info["experts_per_token"] * info["expert_bytes"], rel=0.1)


def test_plan_uses_what_it_measured():
    plan = output_json("plan", EMBER, "--memory", "96M")
    ram, disk = plan["machine"]["ram_bytes_per_second"], plan["machine"]["disk_bytes_per_second"]
    assert 1e8 < ram < 1e13 and 1e5 < disk < 1e12
    for rate in plan["rates"]:
        h, experts = rate["hit_rate"], plan["token_expert_bytes"]
        t_ram = (plan["token_dense_bytes"] + experts * (2 - h)) / ram
        t_io = (1 - h) * experts / disk
        assert rate["serial_tokens_per_second"] == pytest.approx(1 / (t_ram + t_io), rel=1e-6)
        assert rate["overlapped_tokens_per_second"] == pytest.approx(1 / max(t_ram, t_io), rel=1e-6)


def test_more_memory_holds_more_experts_and_a_context_costs():
    def slots(memory, context):
        return output_json("plan", EMBER, "--memory", memory, "--context", context, "--no-measure")["n_slots"]
    floor = output_json("plan", EMBER, "--context", 2048, "--no-measure")["floor_bytes"]
    few = slots(floor + (1 << 20), 2048)
    assert few < slots(floor + (3 << 20), 2048)
    assert output_json("plan", EMBER, "--context", 8192, "--no-measure")["floor_bytes"] > floor


def test_smaller_numbers_in_the_kv_cache_leave_more_memory():
    def plan(kv, *arguments):
        result = output_json("plan", EMBER, "--memory", "24M", "--no-measure", "--kv", kv, *arguments)
        assert result["kv"] == kv
        return result
    f32, bf16, q8 = (plan(kv, "--context", 2048) for kv in ("f32", "bf16", "q8"))
    layers = output_json("info", EMBER)["n_attention_layers"]
    text = json.loads((EMBER / "config.json").read_text())["text_config"]
    values = 2 * layers * 2048 * text["num_key_value_heads"] * text["head_dim"]
    assert f32["session_bytes"] - bf16["session_bytes"] == 2 * values
    assert bf16["session_bytes"] - q8["session_bytes"] == values - 4 * values // min(64, text["head_dim"])
    assert q8["n_slots"] > bf16["n_slots"] > f32["n_slots"]
    assert plan("q8")["context"] > plan("bf16")["context"] > plan("f32")["context"]
    assert output_json("plan", EMBER, "--memory", "24M", "--no-measure")["kv"] == "bf16"


def test_plan_refuses_as_run_does():
    floor = output_json("plan", EMBER, "--context", 1024, "--no-measure")["floor_bytes"]
    assert flash_moe("plan", EMBER, "--context", 1024, "--memory", floor, "--no-measure").returncode == 0
    arguments = [EMBER, "--context", 1024, "--memory", floor - 1]
    plan = flash_moe("plan", *arguments, "--no-measure")
    run = flash_moe("run", *arguments, "--raw", "-p", "x", "-n", 1)
    assert plan.returncode == run.returncode == 1
    assert plan.stderr == run.stderr != ""
    assert "What would fit: --memory" in plan.stdout
    assert flash_moe("run", EMBER, "--context", 1024, "--memory", floor, "--raw", "-p", "x", "-n", 1).returncode == 0
    refused = flash_moe("plan", *arguments, "--no-measure", "--json")
    assert refused.returncode == 1 and json.loads(refused.stdout)["fits"] is False
    # What it proposes does fit.
    proposal = plan.stdout.split("What would fit: ")[1].split(",")[0].split()
    assert flash_moe("plan", EMBER, "--context", 1024, "--no-measure", *proposal).returncode == 0


# ---- dump and perplexity ----

def read(path):
    file = Safetensors.load(path)
    types = {"I32": np.int32, "F32": np.float32}
    return {name: np.frombuffer(file.data[t["data_offsets"][0]:t["data_offsets"][1]], types[t["dtype"]]).reshape(t["shape"])
            for name, t in file.header.items() if name != "__metadata__"}


def test_dump(tmp_path):
    ids = list(range(100, 117))
    path = tmp_path / "out.safetensors"
    result = flash_moe("dump", EMBER, "--ids", ",".join(map(str, ids)), "-o", path)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert result.stderr == f"17 tokens, written to {path}\n"
    info = output_json("info", EMBER)
    tensors = read(path)
    assert set(tensors) == {"ids", "embed", "logits"} | {f"layer.{i}" for i in range(info["n_layers"])}
    assert tensors["ids"].tolist() == ids
    assert tensors["logits"].shape == (17, info["vocab"])
    for name in set(tensors) - {"ids", "logits"}:
        assert tensors[name].shape == (17, info["hidden"]), name
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    assert not np.array_equal(tensors["layer.0"], tensors["layer.1"])


def test_dump_refuses_ids_outside_the_vocabulary(tmp_path):
    result = flash_moe("dump", EMBER, "--ids", "1,2,4000000", "-o", tmp_path / "x")
    assert result.returncode == 1 and "4000000" in result.stderr
    assert not (tmp_path / "x").exists()
    result = flash_moe("dump", EMBER, "--ids", "1,2", "-o", tmp_path / "no" / "x")
    assert result.returncode == 1 and str(tmp_path / "no" / "x") in result.stderr


def test_perplexity_is_that_of_the_dumped_logits(tmp_path):
    """Three windows, the last of them partial, computed here in double from logits of sessions of their own."""
    text = (EMBER / "held-out.txt").read_text()[:3000]
    (tmp_path / "text").write_text(text)
    flash_moe("dump", EMBER, "-f", tmp_path / "text", "-o", tmp_path / "all", "--context", 4096)
    ids = read(tmp_path / "all")["ids"]
    window, tokens = 40, 105
    assert len(ids) > tokens
    nll = []
    for first in range(0, tokens, window):
        part = ids[first:min(first + window, tokens)]
        flash_moe("dump", EMBER, "--ids", ",".join(map(str, part)), "-o", tmp_path / "part")
        logits = read(tmp_path / "part")["logits"].astype(np.float64)
        most = logits.max(axis=1)
        log_sum = most + np.log(np.exp(logits - most[:, None]).sum(axis=1))
        nll += [log_sum[i] - logits[i, part[i + 1]] for i in range(len(part) - 1)]
    result = output_json("perplexity", EMBER, "-f", tmp_path / "text", "--window", window, "--tokens", tokens)
    assert result["tokens"] == len(nll) == 39 + 39 + 24
    assert result["mean_nll"] == pytest.approx(np.mean(nll), rel=1e-9)
    assert result["perplexity"] == pytest.approx(math.exp(np.mean(nll)), rel=1e-9)
    assert result["tokens_per_second"] == pytest.approx(result["tokens"] / result["seconds"])


def test_perplexity_is_that_of_transformers():
    """The reference is float32 throughout, over the whole text; int8 activations cost a little."""
    reference = json.loads((EMBER / "reference.json").read_text())
    exact = output_json("perplexity", EMBER, "-f", EMBER / "held-out.txt", "--activations", "f32", "--kv", "f32", timeout=300)
    assert exact["tokens"] == reference["tokens"]
    assert exact["mean_nll"] == pytest.approx(reference["mean_nll"], abs=2e-5)
    quick = output_json("perplexity", EMBER, "-f", EMBER / "held-out.txt", timeout=300)
    assert quick["mean_nll"] == pytest.approx(reference["mean_nll"], abs=2e-3)


def test_perplexity_text_and_a_text_that_is_too_short():
    assert output("perplexity", EMBER, "-p", "Once upon a time, in a house").startswith("perplexity ")
    assert output("perplexity", EMBER, "-", input="Once upon a time, in a house").startswith("perplexity ")
    result = flash_moe("perplexity", EMBER, "-p", "")
    assert result.returncode == 1
    assert result.stderr == "flash-moe: the text has 0 tokens, and 2 is the least that can be predicted.\n"


def test_fewer_experts_are_worse():
    text = (EMBER / "held-out.txt").read_text()[:8000]
    all_of_them = output_json("perplexity", EMBER, "-p", text)["mean_nll"]
    assert output_json("perplexity", EMBER, "-p", text, "--experts-per-token", 1)["mean_nll"] > all_of_them + 0.01
