"""flash-moe pull: what arrives is what the hub has, whatever happens on the way; and huggingface_hub's cache is ours."""
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

from conftest import PROGRAM, SMALL, ember_files
from hub_server import git_hash
from small_disk import as_nobody, fails_when_full, full, on_small_disk, pause

KILLS = int(os.environ.get("FLASH_MOE_KILLS", 8))
EXTRA = {"README.md": b"# read me", ".gitattributes": b"*.safetensors lfs", "original/model.safetensors": b"x" * 200_000, "consolidated.safetensors": b"y" * 200_000,
         "pytorch_model.bin": b"z" * 200_000, "model.gguf": b"g" * 200_000, "optimizer.pt": b"o", "figures/a.png": b"p"}


# ---- what is pulled ----

def test_only_what_is_needed(serve, ember):
    hub, puller = serve({**ember, **EXTRA})
    assert puller.pull() == ember
    assert (puller.repo() / "refs" / "main").read_text() == hub.commit
    for name, data in ember.items():
        link = puller.repo() / "snapshots" / hub.commit / name
        assert os.readlink(link) == f"../../blobs/{hub.files[name].hash}" and link.read_bytes() == data
    assert sorted(p.name for p in (puller.repo() / "blobs").iterdir()) == sorted(f.hash for n, f in hub.files.items() if n in ember)


def test_prints_the_directory(serve):
    hub, puller = serve(SMALL)
    result = puller.run("pull", "org/name")
    assert result.stdout == f"{puller.repo()}/snapshots/{hub.commit}\n"
    asked = len(hub.requests)
    assert puller.run("pull", "org/name").stdout == result.stdout
    assert not any("model.safetensors" in r[2] for r in hub.requests[asked:])


def test_dry_run(serve, ember):
    hub, puller = serve({**ember, **EXTRA})
    result = puller.run("pull", "org/name", "--dry-run", "--json")
    plan = json.loads(result.stdout)
    assert {f["name"]: f["bytes"] for f in plan["files"]} == {name: len(data) for name, data in ember.items()}
    assert plan["bytes"] == sum(map(len, ember.values())) and plan["here_bytes"] == 0 and plan["commit"] == hub.commit
    assert not puller.cache.exists()
    assert "7 files, 17.3 MB; to be pulled: 17.3 MB; free there: " in puller.run("pull", "org/name", "--dry-run").stdout
    puller.pull()
    assert json.loads(puller.run("pull", "org/name", "--dry-run", "--json").stdout)["here_bytes"] == plan["bytes"]


def test_one_family_model_is_refused_before_anything_large(serve):
    config = {"architectures": ["BertModel"], "model_type": "bert"}
    hub, puller = serve({**SMALL, "config.json": json.dumps(config).encode()})
    assert "BertModel" in puller.refused()
    assert not hub.asked("cdn") and not puller.cache.exists()
    assert "model.safetensors" in puller.pull("--any")


@pytest.mark.parametrize("files, sentence", [
    ({"config.json": SMALL["config.json"], "pytorch_model.bin": b"x"}, "it has no safetensors files, which are what can be run"),
    ({"model.safetensors": b"x"}, "it has no config.json"),
    ({"config.json": SMALL["config.json"], "a.safetensors": b"x", "b.safetensors": b"y"}, "it has 2 safetensors files, but no model.safetensors.index.json"),
    ({**SMALL, "model.safetensors.index.json": json.dumps({"weight_map": {"a": "../../up.safetensors"}}).encode()}, "tensor a is in '../../up.safetensors'"),
    ({**SMALL, "model.safetensors.index.json": json.dumps({"weight_map": {"a": "lacks.safetensors"}}).encode()}, "which the model does not have"),
    ({**SMALL, "model.safetensors.index.json": b"{"}, "is not JSON")])
def test_no_model(serve, files, sentence):
    hub, puller = serve(files)
    assert sentence in puller.refused()
    assert not puller.cache.exists()


def test_names_that_lead_elsewhere(serve, tmp_path):
    evil = {"../evil.json": b"{}", "/tmp/evil.json": b"{}", "a/../../evil.json": b"{}", "..": b"{}", "sub/evil.json": b"{}", "a\\b.json": b"{}", ".hidden.json": b"{}"}
    hub, puller = serve({**SMALL, **evil})
    assert puller.pull() == SMALL
    assert not [p for p in tmp_path.rglob("*evil*")]


@pytest.mark.parametrize("change, sentence", [
    (lambda a: a.pop("sha"), "names no commit"),
    (lambda a: a.update(sha="../../up"), "names no commit"),
    (lambda a: a.pop("siblings"), "lists no files"),
    (lambda a: a["siblings"][0].update(blobId="../../../up"), "no proper size and hash"),
    (lambda a: a["siblings"][0].update(size=-1), "no proper size and hash"),
    (lambda a: a["siblings"][1].update(lfs={"sha256": "X" * 64, "size": 5}), "no proper size and hash"),
    (lambda a: a["siblings"].append(a["siblings"][1]), "twice")])
def test_answers_that_are_wrong(serve, change, sentence):
    hub, puller = serve(SMALL)
    answer = hub.listing()
    change(answer)
    hub.faults.append(lambda host, path, handler: path.startswith("/api/") and handler.answer(200, {}, json.dumps(answer).encode()))
    assert sentence in puller.refused()
    assert not puller.cache.exists()


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b'{"sha": 1}', b"\xff\xfe"])
def test_answers_that_are_none(serve, body):
    hub, puller = serve(SMALL)
    hub.faults.append(lambda host, path, handler: path.startswith("/api/") and handler.answer(200, {}, body))
    assert "org/name: the hub's answer" in puller.refused()


def test_a_hub_that_does_not_list_sizes(serve, ember):
    hub, puller = serve(ember)
    hub.sizes = False
    assert puller.pull() == ember


# ---- revisions, tokens, refusals ----

@pytest.mark.parametrize("name", ["name", "a/b/c", "../name", "org/", "org/na me", "org/name@", "org/name@../x", "org/-name", "org/a--b", "org/name@-x"])
def test_names_that_are_none(serve, name):
    hub, puller = serve(SMALL)
    puller.refused(name=name, status=2)
    assert not hub.requests


def test_revisions(serve):
    hub, puller = serve(SMALL, revisions=("main", "v1.0", "refs/pr/3"))
    assert puller.pull(name="org/name@v1.0") == SMALL
    assert (puller.repo() / "refs" / "v1.0").read_text() == hub.commit and not (puller.repo() / "refs" / "main").exists()
    puller.pull(name="org/name@refs/pr/3")
    assert (puller.repo() / "refs" / "refs" / "pr" / "3").read_text() == hub.commit
    puller.pull(name=f"org/name@{hub.commit}")
    assert sorted(p.name for p in (puller.repo() / "refs").iterdir()) == ["refs", "v1.0"]
    assert "the hub has no such revision" in puller.refused(name="org/name@v2")
    for name in ("org/name@v1.0", f"org/name@{hub.commit}", "org/name@refs/pr/3"):
        assert puller.run("info", name).returncode == 0
    assert puller.run("info", "org/name").returncode == 1


def test_token_goes_to_the_hub_only(serve, ember, tmp_path):
    hub, puller = serve(ember)
    hub.token = "hf_secret"
    assert "needs a token, as HF_TOKEN" in puller.refused()
    puller.environment["HF_TOKEN"] = "wrong"
    assert "does not take the token (401)" in puller.refused()
    puller.environment["HF_TOKEN"] = " hf_secret\n"
    assert puller.pull() == ember
    assert hub.asked("cdn") and not any("Authorization" in r[3] for r in hub.asked("cdn"))
    assert all(r[3]["Authorization"] == "Bearer hf_secret" for r in hub.asked("hub")[-5:])


def test_token_of_a_file(serve, tmp_path):
    hub, puller = serve(SMALL)
    hub.token = "hf_secret"
    path = tmp_path / ".cache" / "huggingface" / "token"
    path.parent.mkdir(parents=True)
    path.write_text("hf_secret\n")
    assert puller.pull() == SMALL
    puller.environment["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    puller.refused()


def test_gated(serve):
    hub, puller = serve(SMALL)
    hub.gated = True
    assert f"its authors give access on request: ask at {hub.url}/org/name, then give a token as HF_TOKEN" in puller.refused()
    puller.environment["HF_TOKEN"] = "hf_x"
    assert "has no access yet" in puller.refused()


def test_what_is_not_there(serve):
    hub, puller = serve(SMALL)
    assert "no public model of this name (401)" in puller.refused(name="org/other")
    puller.environment["HF_TOKEN"] = "hf_x"
    assert "the hub has no such thing (404)" in puller.refused(name="org/other")
    hub.faults.append(lambda host, path, handler: "/resolve/" in path and handler.refuse(404, "EntryNotFound"))
    assert "org/name/config.json: the hub has no such file" in puller.refused()
    hub.faults[:] = [lambda host, path, handler: handler.refuse(403, message="Not from here")]
    assert "the hub refuses it (403): Not from here" in puller.refused()


def test_no_server(serve):
    hub, puller = serve(SMALL)
    puller.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    assert "http://127.0.0.1:9: " in puller.refused("--retries", 1)
    puller.environment["HF_ENDPOINT"] = "ftp://127.0.0.1"
    assert "no http or https address" in puller.refused(status=2)


def test_offline(serve):
    hub, puller = serve(SMALL)
    puller.environment["HF_HUB_OFFLINE"] = "1"
    assert "HF_HUB_OFFLINE" in puller.refused(status=2)
    assert not hub.requests


# ---- faults that pass ----

@pytest.mark.parametrize("status", [429, 503, 408])
def test_later(serve, status):
    hub, puller = serve(SMALL)
    hub.times(1, lambda host, path, handler: handler.refuse(status), match="/api/")
    hub.times(1, lambda host, path, handler: handler.refuse(status), match="resolve")
    hub.times(1, lambda host, path, handler: handler.refuse(status), match="signed")
    assert puller.pull() == SMALL


def test_retry_after(serve):
    hub, puller = serve(SMALL)
    hub.times(1, lambda host, path, handler: handler.refuse(429, Retry_After=2), match="model.safetensors")
    begin = time.time()
    assert puller.pull() == SMALL and time.time() - begin > 2
    hub.faults[:] = [lambda host, path, handler: handler.refuse(429, Retry_After=100000)]
    assert "the hub says to come again in 100000 s" in puller.refused()


def test_rate_limit_as_the_hub_says_it(serve):
    hub, puller = serve(SMALL)
    hub.faults.append(lambda host, path, handler: handler.refuse(429, RateLimit='"api";r=0;t=100000'))
    assert "the hub says to come again in 100000 s" in puller.refused()


def test_another_hash_is_sent(serve):
    hub, puller = serve(SMALL)
    hub.faults.append(lambda host, path, handler: path.endswith("model.safetensors") and
                      handler.answer(302, {"X-Linked-ETag": '"' + "a" * 64 + '"', "Location": hub.cdn + "/signed/x"}))
    assert "and then says " + "a" * 64 in puller.refused()
    hub.faults[:] = [lambda host, path, handler: path.endswith("model.safetensors") and
                     handler.answer(302, {"X-Linked-Size": "17", "Location": hub.cdn + "/signed/x"})]
    assert "and then says 17" in puller.refused()


def test_gives_up(serve):
    hub, puller = serve(SMALL)
    hub.faults.append(lambda host, path, handler: host == "cdn" and handler.refuse(503))
    assert "answers 503" in puller.refused("--retries", 2)
    assert len(hub.asked("cdn")) == 3


def test_cut_connections(serve, ember):
    hub, puller = serve(ember)
    name = "model.safetensors"
    generator = random.Random(1)
    hub.times(12, lambda host, path, handler: handler.cut(hub.files[name], generator.randrange(3_000_000)), match="signed/" + name)
    hub.times(2, lambda host, path, handler: handler.cut(hub.files["tokenizer.json"], 100_000), match="signed/tokenizer.json")
    assert puller.pull() == ember
    # What had arrived was not asked for again.
    assert hub.sent < sum(map(len, ember.values())) + 500_000


def test_addresses_that_expire(serve, ember):
    hub, puller = serve(ember)
    hub.signed, hub.bytes_per_second = 1.0, 6_000_000
    assert puller.pull("--connections", 2) == ember
    assert len(hub.asked("hub", "model.safetensors")) > 2


def test_ranges(serve, ember):
    hub, puller = serve(ember)
    assert puller.pull("--connections", 4) == ember
    ranges = sorted(r[3]["Range"] for r in hub.asked("cdn", "signed/model.safetensors"))
    assert len(ranges) == 3 and ranges[0] == "bytes=0-8388607"
    assert len(hub.asked("hub", "resolve/" + hub.commit + "/model.safetensors")) <= 3  # the index is one of them


def test_a_server_without_ranges(serve, ember):
    hub, puller = serve(ember)
    hub.ranges = False
    assert puller.pull() == ember


def test_redirects_to_nowhere(serve):
    hub, puller = serve(SMALL)
    hub.faults.append(lambda host, path, handler: host == "hub" and "model.safetensors" in path and handler.answer(302, {"Location": "file:///etc/passwd"}))
    assert "is no address to go to" in puller.refused()
    hub.faults[:] = [lambda host, path, handler: "safetensors" in path and handler.answer(302, {"Location": handler.path})]
    assert "sends on and on" in puller.refused("--retries", 5)
    hub.faults[:] = [lambda host, path, handler: "/api/" in path and handler.answer(307, {"Location": handler.path})]
    assert "sends on more than 8 times" in puller.refused()


def test_renamed(serve):
    """The hub sends old names of models on to new ones, by relative addresses."""
    hub, puller = serve(SMALL)
    hub.token = "hf_secret"
    puller.environment["HF_TOKEN"] = "hf_secret"
    hub.faults.append(lambda host, path, handler: "old/name" in path and handler.answer(307, {"Location": handler.path.replace("old/name", "org/name")}))
    assert puller.run("pull", "old/name").returncode == 0
    assert puller.run("info", "old/name").returncode == 0


# ---- what is wrong ----

def parts(puller):
    return sorted((puller.repo() / "blobs").glob("*.incomplete"))


def test_wrong_hash(serve):
    hub, puller = serve(SMALL)
    data = bytearray(SMALL["model.safetensors"])
    data[1000] ^= 1
    hub.wrong["model.safetensors"] = bytes(data)
    assert "model.safetensors: what arrived has the hash" in puller.refused()
    assert not parts(puller) and "model.safetensors" not in puller.snapshot()
    hub.wrong = {"config.json": SMALL["config.json"] + b" "}
    assert "config.json: what arrived has the hash" in puller.refused()
    hub.wrong = {}
    assert puller.pull() == SMALL


def test_wrong_size(serve):
    hub, puller = serve(SMALL)
    for wrong in (SMALL["model.safetensors"] + b"x", SMALL["model.safetensors"][:-1]):
        hub.wrong["model.safetensors"] = wrong
        assert f"the hub says it has {len(SMALL['model.safetensors'])} bytes, but what it sends has {len(wrong)}" in puller.refused()
    assert "model.safetensors" not in puller.snapshot()


def test_another_commit_is_sent(serve, ember):
    hub, puller = serve(ember)
    hub.faults.append(lambda host, path, handler: "resolve" in path and path.endswith("model.safetensors") and
                      handler.answer(302, {"X-Repo-Commit": "7" * 40, "Location": hub.cdn + "/signed/x"}))
    assert "the hub sends it of " + "7" * 40 in puller.refused()


def test_disk_full(serve, ember):
    hub, puller = serve(ember)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (9_000_000, 9_000_000))
    sentence = puller.refused(preexec_fn=limit, restore_signals=False)
    assert "it cannot be written beyond its " in sentence and sentence.endswith(": File too large.\n")
    part, = parts(puller)
    size = part.stat().st_size
    assert 0 < size <= 9_000_000 and part.read_bytes() == ember["model.safetensors"][:size]
    hub.sent = 0
    assert puller.pull() == ember
    assert hub.sent <= len(ember["model.safetensors"]) - size + 100_000


def test_a_disk_that_becomes_full(serve, ember, tmp_path):
    def small(disk):
        hub, puller = serve(ember)
        puller.environment["HF_HUB_CACHE"] = str(disk)
        puller.cache = disk
        hub.bytes_per_second = 3_000_000
        process = puller.start("pull", "org/name", "--connections", 2, stderr=subprocess.PIPE, text=True)
        pause(process, lambda: any(p.stat().st_size > 1_000_000 for p in disk.rglob("*.incomplete")))
        hub.bytes_per_second = None
        with full(disk):
            fails_when_full(process, disk)
            assert "model.safetensors" not in puller.snapshot()
        hub.sent = 0
        assert puller.pull() == ember and hub.sent < len(ember["model.safetensors"])
    on_small_disk(tmp_path / "small", 128, small)


def test_no_room(serve):
    hub, puller = serve(SMALL)
    answer = hub.listing()
    answer["siblings"][1]["lfs"]["size"] = 1 << 49
    hub.faults.append(lambda host, path, handler: path.startswith("/api/") and handler.answer(200, {}, json.dumps(answer).encode()))
    assert "it needs 5629" in puller.refused() and not puller.cache.exists()


def test_permission_denied(serve):
    """Another user's cache, and another user's directory for the packed model: nothing is written there, and only what is asked before is fetched."""
    hub, puller = serve(SMALL)
    with as_nobody(PROGRAM) as (folder, run):
        own = folder / "own"
        own.mkdir()
        os.chown(own, 65534, 65534)
        there = {p.name for p in folder.iterdir()}
        for cache, options, name in ((folder / "hub", (), "hub"), (own / "hub", ("--pack", folder / "packed"), "packed.pull"),
                                     (own / "hub", ("--pack", folder / "packed", "--delete-consumed"), "packed.pull"), (folder / "hub", ("--pack", own / "packed"), "hub")):
            result = run("pull", "org/name", *options, env={**puller.environment, "HOME": str(own), "HF_HUB_CACHE": str(cache)})
            assert result.returncode == 1 and result.stdout == "" and result.stderr.count("\n") == 1, result
            assert str(folder / name) in result.stderr and result.stderr.endswith(": Permission denied.\n"), result.stderr
            assert {p.name for p in folder.iterdir()} == there and not (own / "packed").exists()
        assert not hub.asked("cdn")


def test_no_permission(serve, tmp_path):
    hub, puller = serve(SMALL)
    (tmp_path / "file").write_text("x")
    puller.environment["HF_HUB_CACHE"] = str(tmp_path / "file" / "hub")
    assert "it cannot be made" in puller.refused()


def test_planted_link(serve, ember, tmp_path):
    """What lies where a part is to be written and is a link is not followed."""
    hub, puller = serve(ember)
    (tmp_path / "precious").write_bytes(b"precious")
    blobs = puller.repo() / "blobs"
    blobs.mkdir(parents=True)
    (blobs / (hub.files["model.safetensors"].hash + ".incomplete")).symlink_to(tmp_path / "precious")
    assert "cannot be written" in puller.refused()
    assert (tmp_path / "precious").read_bytes() == b"precious"


# ---- going on ----

def test_damaged_part_is_fetched_again(serve, ember):
    hub, puller = serve(ember)
    blobs = puller.repo() / "blobs"
    blobs.mkdir(parents=True)
    part = blobs / (hub.files["model.safetensors"].hash + ".incomplete")
    part.write_bytes(b"\0" * 5_000_000)
    assert puller.pull() == ember
    part.write_bytes(b"")
    (blobs / hub.files["model.safetensors"].hash).rename(part)  # all of it, without its name
    hub.sent = 0
    assert puller.pull() == ember and hub.sent < 100_000
    part.write_bytes(ember["model.safetensors"] + b"x")
    (blobs / hub.files["model.safetensors"].hash).unlink()
    assert puller.pull() == ember


def test_killed(serve, ember):
    hub, puller = serve(ember)
    generator, kills, most = random.Random(3), 0, 0
    while kills < KILLS:
        hub.bytes_per_second = 10_000_000
        process = puller.start("pull", "org/name", "--connections", 3)
        try:
            assert process.wait(generator.uniform(0.02, 0.4)) == 0
            assert puller.snapshot() == ember and not parts(puller)
            shutil.rmtree(puller.cache)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        for part in parts(puller):
            size = part.stat().st_size
            assert part.read_bytes() == next(f.data for f in hub.files.values() if f.hash == part.name.split(".")[0])[:size]
            most = max(most, size)
    assert most > 0
    hub.bytes_per_second = None
    assert puller.pull() == ember
    assert not parts(puller)


def test_interrupted(serve, ember):
    hub, puller = serve(ember)
    hub.bytes_per_second = 2_000_000
    process = puller.start("pull", "org/name")
    time.sleep(0.6)
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130
    here = sum(p.stat().st_size for p in parts(puller))
    hub.bytes_per_second, hub.sent = None, 0
    assert here > 0 and puller.pull() == ember
    assert hub.sent <= sum(map(len, ember.values())) - here + 200_000


def test_two_at_once(serve, ember):
    hub, puller = serve(ember)
    hub.bytes_per_second = 10_000_000
    processes = [puller.start("pull", "org/name") for _ in range(3)]
    assert [p.wait(60) for p in processes] == [0, 0, 0]
    assert puller.snapshot() == ember and not parts(puller)
    # The large file came once.
    assert hub.sent < 1.2 * sum(map(len, ember.values()))


# ---- the commands ----

def test_commands_take_the_name(serve, ember, tmp_path):
    hub, puller = serve(ember)
    result = puller.run("info", "org/name")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr == (f"flash-moe: org/name: there is no such directory, and no model of that name in {puller.cache}; "
                             "flash-moe pull org/name fetches it from the hub.\n")
    assert not hub.requests
    puller.pull()
    hub.requests.clear()
    answer = puller.run("run", "org/name", "-p", "Hello", "-n", 4, "--temp", 0, "--memory", "30M", "--context", 512)
    assert answer.returncode == 0, answer
    assert puller.run("plan", "org/name", "--memory", "30M", "--no-measure").returncode == 0
    (tmp_path / "text").write_text("Once upon a time there was a house. " * 12)
    assert puller.run("compare", "org/name", "org/name", "-f", tmp_path / "text", "--memory", "30M", "--context", 256, "--window", 64).returncode == 0
    assert puller.run("pack", "org/name", "-o", tmp_path / "packed", "--memory", "200M").returncode == 0
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert "config.json" in puller.run("info", "org/name", cwd=tmp_path).stderr  # the directory wins
    assert not hub.requests
    (puller.repo() / "blobs" / hub.files["model.safetensors"].hash).unlink()
    assert "there is no such directory" in puller.run("info", "org/name").stderr


def test_offer(serve, ember):
    """Someone at a terminal is asked."""
    hub, puller = serve(ember)
    for answer, status, sentence in (("n", 130, "org/name was not pulled"), ("y", 0, "architecture")):
        master, slave = os.openpty()
        process = subprocess.Popen([PROGRAM, "info", "org/name"], env=puller.environment, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        os.write(master, answer.encode() + b"\n")
        text = b""
        while True:
            try:
                more = os.read(master, 65536)
            except OSError:
                break
            if not more:
                break
            text += more
        os.close(master)
        assert process.wait(60) == status, text
        assert b"is not here; it is 17.3 MB on " + hub.url.encode() in text and sentence.encode() in text, text
    assert puller.snapshot() == ember


def test_where_models_are_kept(serve, tmp_path):
    hub, puller = serve(SMALL)
    for variables, where in (({"HF_HOME": "~/home"}, "home/hub"), ({"HF_HUB_CACHE": str(tmp_path / "own")}, "own"), ({"HUGGINGFACE_HUB_CACHE": "~/old"}, "old")):
        result = puller.run("pull", "org/name")
        del result
        environment = {**puller.environment, **variables}
        result = subprocess.run([PROGRAM, "pull", "org/name"], env=environment, capture_output=True, text=True)
        assert result.stdout == f"{tmp_path}/{where}/models--org--name/snapshots/{hub.commit}\n", result


# ---- huggingface_hub ----

PYTHON_PULL = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download("org/name", local_files_only=sys.argv[1] == "here"))
"""


def in_python(puller, how):
    # httpx reads proxies from the environment; the hub's own hosts are here.
    environment = {**puller.environment, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
    return subprocess.run([sys.executable, "-c", PYTHON_PULL, how], env=environment, capture_output=True, text=True, timeout=60)


def test_huggingface_hub_finds_ours(serve, ember):
    pytest.importorskip("huggingface_hub")
    hub, puller = serve(ember)
    path = puller.run("pull", "org/name").stdout.strip()
    result = in_python(puller, "here")
    assert result.stdout.strip() == path, result
    hub.sent = 0
    assert in_python(puller, "hub").stdout.strip() == path and hub.sent == 0


def test_we_find_huggingface_hubs(serve, ember):
    pytest.importorskip("huggingface_hub")
    hub, puller = serve(ember)
    result = in_python(puller, "hub")
    assert result.returncode == 0, result
    path = result.stdout.strip()
    assert puller.run("info", "org/name").stdout.startswith(path)
    hub.sent = 0
    assert puller.run("pull", "org/name").stdout.strip() == path
    assert hub.sent <= len(ember["config.json"]) + len(ember["model.safetensors.index.json"])
    assert git_hash(ember["config.json"]) in [p.name for p in (puller.repo() / "blobs").iterdir()]
