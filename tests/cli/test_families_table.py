"""The table of families in the documentation is the one that the tree gives."""
import importlib.util
import os
import subprocess
import sys

import pytest

from conftest import PROGRAM, ROOT

TOOL = ROOT / "tools" / "families_table.py"
spec = importlib.util.spec_from_file_location("families_table", TOOL)
families_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(families_table)


@pytest.fixture(scope="module")
def table():
    result = subprocess.run([sys.executable, TOOL], capture_output=True, text=True, env={**os.environ, "FLASH_MOE": PROGRAM})
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_table_is_up_to_date(table):
    """Else: python3 tools/families_table.py --write README.md."""
    text = (ROOT / "README.md").read_text()
    assert text[text.index(families_table.BEGIN) + len(families_table.BEGIN) + 1:text.index(families_table.END)] == table


def test_it_has_every_family(table):
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]]
    assert rows == sorted(families_table.families())
    assert all(line.count(" | ") == 6 for line in table.splitlines()[2:])
