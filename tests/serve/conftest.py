"""Tests of the server, run as people run it. FLASH_MOE names the program; models/ember is the model."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import openai
import pytest

ROOT = Path(__file__).resolve().parents[2]
EMBER = ROOT / "models" / "ember"
PROGRAM = os.environ.get("FLASH_MOE", str(ROOT / "build" / "flash-moe"))
SANITIZED = os.environ.get("FLASH_MOE_SANITIZE", "none") != "none"
MEMORY = () if SANITIZED else ("--memory", "96M")  # a sanitizer needs memory of its own
sys.path.insert(0, str(ROOT / "tests" / "cli"))
sys.path.insert(0, str(Path(__file__).parent))

SYSTEM = "You are a helpful assistant."
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Get the weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
BASH = {"type": "function", "function": {"name": "bash", "description": "Run a shell command", "parameters": {
    "type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}}}


def user(text):
    return [{"role": "user", "content": text}]


class Server:
    """A running server. Everything it says on standard error is in log."""

    def __init__(self, *arguments, model=EMBER, ready=True, memory=MEMORY, context=2048):
        command = [PROGRAM, "serve", str(model), "--port", "0", *memory, "--context", str(context), *map(str, arguments)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log, self.port, self.is_ready = [], None, threading.Event()
        self.listens = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        assert self.listens.wait(60), self.log
        assert self.port, self.log
        self.url = f"http://127.0.0.1:{self.port}"
        if ready:
            assert self.is_ready.wait(120) and self.process.poll() is None, self.log

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(r"listening at \S+ port (\d+)", line)
            if found:
                self.port = int(found[1])
                self.listens.set()
            if "ready at" in line:
                self.is_ready.set()
        self.listens.set()
        self.is_ready.set()

    def client(self, **more):
        return openai.OpenAI(base_url=self.url + "/v1", api_key=more.pop("api_key", "none"), max_retries=0, timeout=60, **more)

    def request(self, method, path, body=None, headers=None, timeout=60):
        """Status, headers and body of one plain request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), data

    def chat(self, messages, headers=None, **more):
        """The JSON of a chat completion that is expected to succeed."""
        status, _, data = self.request("POST", "/v1/chat/completions", {"messages": messages, **more}, headers)
        assert status == 200, data
        return json.loads(data)

    def stream(self, messages, **more):
        """A connection in the middle of a stream."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps({"messages": messages, "stream": True, **more}))
        return connection

    def socket(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def metrics(self):
        status, _, data = self.request("GET", "/metrics")
        assert status == 200
        return {name: float(value) for name, value in re.findall(r"^flash_moe_(\w+) (\S+)$", data.decode(), re.M)}

    def wait_for(self, what, least=0, most=float("inf"), seconds=20):
        """Until a metric is in a range."""
        until = time.monotonic() + seconds
        while not least <= (value := self.metrics()[what]) <= most:
            assert time.monotonic() < until, f"{what} stays {value}"
            time.sleep(0.01)
        return value

    def wait_idle(self, seconds=20):
        self.wait_for("running", most=0, seconds=seconds)
        self.wait_for("waiting", most=0, seconds=seconds)

    def resident(self):
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1]) << 10

    def stop(self, code=0, seconds=60):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(seconds) == code, self.log

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)


@pytest.fixture(scope="session", autouse=True)
def cache_directory(tmp_path_factory):
    """The program keeps files in the user's cache directory: not in the tester's."""
    if not os.access(PROGRAM, os.X_OK):
        pytest.exit(f"there is no program {PROGRAM}: build it, or name it with FLASH_MOE", 1)
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def server():
    """One for all tests that leave it as it was. It ends properly, which is a test by itself."""
    s = Server("--temp", "0")
    yield s
    s.wait_idle()
    s.stop()


@pytest.fixture
def start():
    """Starts servers of one's own, which are gone at the end."""
    servers = []

    def start(*arguments, **more):
        servers.append(Server(*arguments, **more))
        return servers[-1]
    yield start
    for s in servers:
        s.kill()


@pytest.fixture
def client(server):
    return server.client()


REASONING = """{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is not defined or enable_thinking %}{{- '<think>\\n' }}{%- endif %}{%- endif %}"""


@pytest.fixture(scope="session")
def reasoning_server(tmp_path_factory):
    """Its template opens reasoning unless it is told not to."""
    path = tmp_path_factory.mktemp("template") / "reasoning.jinja"
    path.write_text(REASONING)
    s = Server("--template", path, "--temp", "0")
    yield s
    s.stop()
