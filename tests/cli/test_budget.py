"""--memory is a promise: under a memory cgroup whose limit is the budget, a model several times larger runs to the end."""

import json
import os
import pathlib
import subprocess
import uuid

import pytest

import big_model

ROOT = pathlib.Path(__file__).resolve().parents[2]
V1 = pathlib.Path("/sys/fs/cgroup/memory")
V2 = pathlib.Path("/sys/fs/cgroup")
BUDGET = 56 << 20


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("big")
    size = big_model.make(directory, ROOT / "models" / "ember")
    assert size > 4 * BUDGET
    return directory


@pytest.fixture
def cgroup():
    """A memory cgroup of BUDGET, and the name of the file whose line counts kills."""
    name = f"flash-moe-test-{uuid.uuid4().hex[:8]}"
    if (V1 / "memory.limit_in_bytes").exists():
        path, limit, kills = V1 / name, "memory.limit_in_bytes", "memory.oom_control"
    elif (V2 / "cgroup.controllers").exists() and "memory" in (V2 / "cgroup.controllers").read_text().split():
        path, limit, kills = V2 / name, "memory.max", "memory.events"
    else:
        pytest.skip("no memory cgroup here")
    try:
        path.mkdir()
        (path / limit).write_text(str(BUDGET))
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield path, kills
    path.rmdir()


def run(model, *options, prefix=()):
    command = [*prefix, os.environ["FLASH_MOE"], "run", str(model), "--raw", "--json", "--temp", "0", "--ignore-eos", "--context", "1024", *options]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=600)


def test_model_larger_than_memory(model, cgroup):
    if os.environ.get("FLASH_MOE_SANITIZE", "none") != "none":
        pytest.skip("a sanitizer needs memory of its own")
    path, kills = cgroup
    enter = ["sh", "-c", f'echo $$ >{path}/cgroup.procs && exec "$@"', "sh"]
    done = run(model, "-f", str(ROOT / "tests" / "cli" / "prompt.txt"), "-n", "40", "--memory", str(BUDGET), prefix=enter)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["tokens"] == 40 and result["prompt_tokens"] > 300
    assert 0 < result["n_slots"] < result["n_experts_total"] / 2
    assert result["disk_bytes"] > 100 << 20
    assert result["memory_peak_bytes"] < BUDGET
    counts = dict(line.split() for line in (path / kills).read_text().splitlines())
    assert int(counts.get("oom_kill", 0)) == 0
    print(f"peak {result['memory_peak_bytes'] / 2**20:.1f} MiB of {BUDGET / 2**20:.0f}")
    # The same text as with all the memory there is.
    free = json.loads(run(model, "-f", str(ROOT / "tests" / "cli" / "prompt.txt"), "-n", "40").stdout)
    assert free["n_slots"] == free["n_experts_total"]
    assert free["text"] == result["text"]


def test_cgroup_limit_is_seen(model, cgroup):
    """Without --memory the budget comes from the cgroup, not from the machine."""
    path, _ = cgroup
    enter = ["sh", "-c", f'echo $$ >{path}/cgroup.procs && exec "$@"', "sh"]
    done = subprocess.run([*enter, os.environ["FLASH_MOE"], "plan", str(model), "--no-measure", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert BUDGET // 2 < plan["budget_bytes"] <= BUDGET


@pytest.mark.parametrize("slack", [0, 1 << 20, 4 << 20, 16 << 20])
def test_peak_stays_below_the_budget(slack):
    """Loading takes no more than running, from the least budget on."""
    if os.environ.get("FLASH_MOE_SANITIZE", "none") != "none":
        pytest.skip("a sanitizer needs memory of its own")
    ember = ROOT / "models" / "ember"
    plan = subprocess.run([os.environ["FLASH_MOE"], "plan", str(ember), "--no-measure", "--json", "--context", "1024"], capture_output=True, text=True)
    budget = json.loads(plan.stdout)["floor_bytes"] + slack
    done = run(ember, "-p", "Once upon a time", "-n", "50", "--memory", str(budget))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["memory_peak_bytes"] < budget


def test_below_the_floor(model):
    done = run(model, "-p", "x", "-n", "1", "--memory", "8M")
    assert done.returncode == 1
    assert "does not fit in 8 MiB" in done.stderr and "--memory" in done.stderr
