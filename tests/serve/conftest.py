"""Tests of the server, run as people run it. FLASH_MOE names the program; models/ember is the model."""
import os
import re
import subprocess
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EMBER = ROOT / "models" / "ember"
PROGRAM = os.environ.get("FLASH_MOE", str(ROOT / "build" / "flash-moe"))


class Server:
    def __init__(self, *arguments):
        self.process = subprocess.Popen([PROGRAM, "serve", str(EMBER), "--port", "0", "--memory", "96M", "--context", "2048", *map(str, arguments)],
                                        stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            found = re.search(r"ready at (\S+)", line)
            if found:
                self.url = found[1]
                break
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def stop(self):
        self.process.terminate()
        assert self.process.wait(30) == 0


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    s = Server()
    yield s
    s.stop()


REASONING = """{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is not defined or enable_thinking %}{{- '<think>\\n' }}{%- endif %}{%- endif %}"""


@pytest.fixture(scope="session")
def reasoning_server(tmp_path_factory):
    """Its template opens reasoning unless it is told not to."""
    path = tmp_path_factory.mktemp("template") / "reasoning.jinja"
    path.write_text(REASONING)
    s = Server("--template", path)
    yield s
    s.stop()
