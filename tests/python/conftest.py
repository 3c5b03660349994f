"""Tests of the installed package flash_moe, by tools/wheel.sh in a virtual environment that has nothing but the wheel and pytest. FLASH_MOE names the program."""
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EMBER = ROOT / "models" / "ember"
TINY = ROOT / "tests" / "golden" / "qwen3_5_moe-mlx-4bit"  # random weights, no tokenizer
PROGRAM = os.environ.get("FLASH_MOE", str(ROOT / "build" / "flash-moe"))


def program(*arguments):
    result = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def session():
    import flash_moe
    with flash_moe.Session(EMBER, memory="64M", context=2048) as opened:
        yield opened
