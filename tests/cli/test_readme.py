"""Every command of README.md, run as it stands there: in a copy of its own directory, with a home directory in which the downloaded model is the demo model."""

import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, tmp_path):
    program = pathlib.Path(os.environ["FLASH_MOE"]).resolve()
    if command in ("make demo", "make test"):
        # They build and test: that they exist is what can be checked from inside a test.
        done = subprocess.run(["make", "-n", *command.split()[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return
    home = tmp_path / "home" / "models"
    home.mkdir(parents=True)
    for name in set(re.findall(r"~/models/(\S+)", command)):
        (home / name).symlink_to(ROOT / "models" / "ember")
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "bench").symlink_to(ROOT / "bench")
    if "synth qwen" in command:  # at the demo model's shapes: the real ones take gigabytes
        (home / re.search(r"~/models/(\S+)", command)[1]).unlink()
        command = re.sub(r"synth \S+", f"synth {ROOT}/models/ember", command)
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "flash-moe").symlink_to(program)

    def run(line):
        typed = "What is the capital of Norway?\n" if " chat " in line else None
        return subprocess.run(["sh", "-c", line], cwd=tmp_path, env={**os.environ, "HOME": str(tmp_path / "home")}, input=typed, capture_output=True, text=True, timeout=300)

    if "--resume" in command:  # there has to be a conversation
        assert run(command.replace("--resume", "")).returncode == 0
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert done.stdout or re.search(r" -o \S", command), done.stderr
