"""Tests of the program flash-moe, run as people run it. FLASH_MOE names the program; models/ember is the model."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EMBER = ROOT / "models" / "ember"
PROGRAM = os.environ.get("FLASH_MOE", str(ROOT / "build" / "flash-moe"))
sys.path.insert(0, str(Path(__file__).parent))

from safetensors_file import Safetensors  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def cache_directory(tmp_path_factory):
    """The program keeps files in the user's cache directory: not in the tester's."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


def flash_moe(*arguments, input="", timeout=120, **more):
    """Runs the program; its output as text."""
    return subprocess.run([PROGRAM, *map(str, arguments)], input=input, capture_output=True, text=True, timeout=timeout, **more)


@pytest.fixture(scope="session", autouse=True)
def program():
    if not os.access(PROGRAM, os.X_OK):
        pytest.exit(f"there is no program {PROGRAM}: build it, or name it with FLASH_MOE", 1)
    return PROGRAM


@pytest.fixture
def ember():
    if not (EMBER / "model.safetensors").exists():
        pytest.skip("models/ember has no model.safetensors")
    return EMBER


class Copy:
    """A copy of models/ember in which something is about to be broken. Files are links until they are changed."""

    def __init__(self, path):
        self.path = path
        for file in EMBER.iterdir():
            if not file.name.startswith(("reference", "held-out")):
                (path / file.name).symlink_to(file)

    def own(self, name):
        """The path of a file that may be changed."""
        path = self.path / name
        if path.is_symlink():
            source = path.resolve()
            path.unlink()
            shutil.copyfile(source, path)
        return path

    def config(self, change, name="config.json"):
        """change(config) alters it in place."""
        path = self.own(name)
        config = json.loads(path.read_text())
        change(config)
        path.write_text(json.dumps(config))

    def tensors(self, change):
        """change(file) alters a Safetensors in place; the index follows."""
        path = self.own("model.safetensors")
        file = Safetensors.load(path)
        change(file)
        file.save(path)
        names = [name for name in file.header if name != "__metadata__"]
        index = {"metadata": {"total_size": len(file.data)}, "weight_map": {name: "model.safetensors" for name in names}}
        self.own("model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture
def copy(ember, tmp_path):
    return Copy(tmp_path)
