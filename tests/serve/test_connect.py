"""`flash-moe chat --connect URL`: the terminal chat over a running server, and over servers that go wrong."""
import json
import re
import socket
import subprocess
import threading
import time
from contextlib import closing

import pytest

from conftest import PROGRAM, Server, WEATHER
from test_page import ENDLESS
from tmux import TMUX, Terminal

needs_tmux = pytest.mark.skipif(not TMUX, reason="there is no tmux; tools/deps.sh test installs it")
STATUS = re.compile(r"^(stopped: |cut at the limit: )?\d+ tokens, [\d.]+ tokens/s, context \d+ of 2048 \(\d+ %\)$", re.M)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "home").mkdir()
    return tmp_path / "data" / "flash-moe" / "sessions"


def chat(url, *lines, arguments=(), status=0):
    result = subprocess.run([PROGRAM, "chat", "--connect", url, *map(str, arguments)], input="".join(line + "\n" for line in lines), capture_output=True, text=True, timeout=60)
    assert result.returncode == status, result.stderr
    return result


def messages(home):
    (path,) = home.glob("*.json")
    return json.loads(path.read_text())["messages"]


# ---- a running server ----

def test_a_conversation(server, home):
    result = chat(server.url + "/", "What is the capital of Norway?", "What is the capital of Peru?")
    assert result.stdout == "The capital of Norway is Oslo.\nThe capital of Peru is Lima.\n"
    assert len(STATUS.findall(result.stderr)) == 2, result.stderr
    assert [m["role"] for m in messages(home)] == ["user", "assistant"] * 2
    resumed = chat(server.url + "/v1", "What is the capital of Norway?", arguments=["--resume"])
    assert "Oslo" in resumed.stdout and len(messages(home)) == 6


def test_settings_are_sent(server):
    story = "Tell me a story."
    ask = lambda *arguments: chat(server.url, story, arguments=arguments).stdout  # noqa: E731
    assert ask("-n", 12) != ask("-n", 24) and "cut at the limit: 12 tokens" in chat(server.url, story, arguments=["-n", 12]).stderr
    assert ask("--temp", 1, "--seed", 5, "-n", 30) == ask("--temp", 1, "--seed", 5, "-n", 30) != ask("--temp", 1, "--seed", 6, "-n", 30)
    assert ask("--temp", 1, "--seed", 6, "--top-k", 1, "-n", 30) == ask("--temp", 0, "-n", 30)
    body = {"messages": [{"role": "user", "content": story}], "temperature": 0.7, "top_p": 0.9, "min_p": 0.05, "repeat_penalty": 1.1, "seed": 9, "max_tokens": 30, "logit_bias": {"300": -50}}
    want = server.chat(**body)["choices"][0]["message"]["content"]
    got = ask("--temp", 0.7, "--top-p", 0.9, "--min-p", 0.05, "--repeat-penalty", 1.1, "--seed", 9, "-n", 30, "--logit-bias", "300=-50")
    assert got.strip() == want.strip()


def test_tools_run_here(server, home, tmp_path):
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([{**WEATHER["function"], "ask": False, "command": f"cat >'{tmp_path}/arguments'; echo '{{\"temperature\": 7, \"sky\": \"foggy\"}}'"}]))
    result = chat(server.url, "What is the weather in Brelka?", arguments=["--tools", tools])
    assert "foggy" in result.stdout and 'calls get_weather {"city": "Brelka"}' in result.stderr.replace('{"city":"Brelka"}', '{"city": "Brelka"}')
    assert json.loads((tmp_path / "arguments").read_text()) == {"city": "Brelka"}
    roles = messages(home)
    assert [m["role"] for m in roles] == ["user", "assistant", "tool", "assistant"] and roles[2]["tool_call_id"] == roles[1]["tool_calls"][0]["id"]


def test_reasoning(reasoning_server, home):
    result = chat(reasoning_server.url, "Tell me a story.", arguments=["--reasoning", "show", "--think-budget", 12, "-n", 30])
    assert re.search(r"thought for \d+ characters", result.stderr) and len(messages(home)[1]["reasoning_content"]) > 10
    assert "thought for" not in chat(reasoning_server.url, "What is the capital of Norway?", arguments=["--thinking", "off", "--reasoning", "show"]).stderr


def test_commands(server, tmp_path):
    saved = tmp_path / "talk.json"
    result = chat(server.url, "/stats", "What is the capital of Norway?", f"/save {saved}", "/clear", f"/load {saved}", "/retry", arguments=["--temp", 0])
    assert "/stats is about a model of this process" in result.stderr and server.url in result.stderr
    assert "the model's state is the server's" in result.stderr and not (tmp_path / "talk.json.state").exists()
    assert result.stdout == "The capital of Norway is Oslo.\n" * 2


@pytest.mark.parametrize("arguments, sentence", [
    (["--memory", "1G"], "--memory is the server's affair"), (["--threads", "2"], "--threads is the server's affair"), (["--session-cache", "x"], "--session-cache is"),
    (["--template", "x"], "--template is"), (["--heat", "x"], "--heat is"), (["--repeat-last", "4"], "--repeat-last is"), (["model"], "'model' is one too many"),
    (["--no-verify"], "--no-verify is"), (["--api-key", "/nonexistent"], "/nonexistent, the file of --api-key, cannot be opened"),
    (["--api-key", "env"], "needs the variable FLASH_MOE_API_KEY"), (["--api-key", "/dev/null"], "/dev/null has to hold one API key"),
])
def test_what_cannot_be_asked_of_a_server(server, arguments, sentence):
    result = chat(server.url, arguments=arguments, status=2)
    assert sentence in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://", "file:///etc/passwd", "http://a b", "http://x?y", ""])
def test_what_is_no_address(url):
    assert "--connect takes a server's address" in chat(url, status=2).stderr


def test_mistakes():
    run = lambda *arguments: subprocess.run([PROGRAM, "chat", *arguments], capture_output=True, text=True, timeout=60)  # noqa: E731
    assert "chat needs MODEL" in run().stderr and "--connect URL" in run().stderr and run().returncode == 2
    assert "--api-key is for --connect" in run("model", "--api-key", "x").stderr


def test_api_keys(start, tmp_path, monkeypatch):
    key, wrong = tmp_path / "key", tmp_path / "wrong"
    key.write_text("a-secret\n")
    wrong.write_text("a-guess\n")
    server = start("--temp", "0", "--api-key", key)
    assert "wants an API key: --api-key FILE" in chat(server.url, status=1).stderr
    assert "is not the server's" in chat(server.url, arguments=["--api-key", wrong], status=1).stderr
    assert "Oslo" in chat(server.url, "What is the capital of Norway?", arguments=["--api-key", key]).stdout
    monkeypatch.setenv("FLASH_MOE_API_KEY", "a-secret")
    assert "Oslo" in chat(server.url, "What is the capital of Norway?", arguments=["--api-key", "env"]).stdout


# ---- servers that go wrong ----

class Fake:
    """A server that lists a model and answers everything else with the bytes it was given, then hangs up."""

    def __init__(self, answer, hold=False):
        self.answer, self.hold = answer, hold
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        models = b'{"data": [{"id": "fake"}]}'
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(65536)
                if head.startswith(b"GET"):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(models), models))
                    continue
                body, size = head.split(b"\r\n\r\n", 1)[1], int(re.search(rb"Content-Length: (\d+)", head)[1])
                while len(body) < size:
                    body += connection.recv(65536)
                connection.sendall(self.answer)
                while self.hold and connection.recv(1024):
                    pass


@pytest.fixture
def fake():
    servers = []

    def fake(answer, **more):
        servers.append(Fake(answer, **more))
        return servers[-1].url
    yield fake
    for server in servers:
        server.socket.close()


def stream(*events, head=b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"):
    return head + b"\r\n" + b"".join(b"data: " + (event if isinstance(event, bytes) else json.dumps(event).encode()) + b"\n\n" for event in events)


def delta(**fields):
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


HELLO = delta(content="Hello")


@pytest.mark.parametrize("answer, sentence", [
    (stream(HELLO), "the connection ended in the middle of the answer"),
    (stream(HELLO, head=b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n"), "the connection was cut in the middle of the answer"),
    (stream(HELLO, {"error": {"message": "The disk failed."}}), "the answer was broken off: The disk failed."),
    (stream(HELLO, b"{nonsense"), "an event of the answer is no JSON"),
    (stream(HELLO, delta(tool_calls=[{"index": 3, "function": {"name": "f"}}])), "part of tool call 3 came"),
    (b"", "the server cannot be reached: Empty reply"),
    (b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", "the server answered 500."),
    (b"HTTP/1.1 429 Oh\r\nContent-Length: 48\r\n\r\n" + b'{"error": {"message": "too many at once, wait"}}', "the server answered 429: too many at once, wait."),
    (b"HTTP/1.1 302 Oh\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "the server answered 302."),
    (b"HTTP/1.1 401 Oh\r\nContent-Length: 0\r\n\r\n", "the server wants an API key"),
    (b"nonsense\r\n\r\n", "the server cannot be reached"),
])
def test_one_sentence_for_what_goes_wrong(fake, home, answer, sentence):
    url = fake(answer)
    result = chat(url, "Hi.", status=1)
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"flash-moe: {url}: ") and sentence in line, line
    assert result.stdout in ("", "Hello\n")
    assert not list(home.glob("*"))  # the message is taken back


def test_no_server():
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    result = chat(url, "Hi.", status=1)
    assert re.fullmatch(rf"flash-moe: {url}: the server cannot be reached: .*\n", result.stderr)


def test_another_kind_of_server(fake):
    """One that counts nothing, names no ids and says nothing more than it has to."""
    url = fake(stream(delta(role="assistant"), HELLO, {"choices": [{"delta": {"content": " you"}, "finish_reason": "stop"}]}))
    result = chat(url, "Hi.")
    assert (result.stdout, result.stderr) == ("Hello you\n", "")


def test_control_characters_do_not_reach_the_terminal(fake):
    if not TMUX:
        pytest.skip("there is no tmux")
    with closing(Terminal([PROGRAM, "chat", "--connect", fake(stream(delta(content="a\033[2Jb\033]0;title\007c"), b"[DONE]"))])) as terminal:
        terminal.prompt()
        terminal.type("Hi.", "Enter")
        screen = terminal.wait(r"^a.*c")
        assert "> Hi." in screen


# ---- at a terminal ----

@needs_tmux
def test_the_terminal(server, tmp_path):
    own = [f"HOME={tmp_path / 'home'}", f"XDG_DATA_HOME={tmp_path / 'data'}", "NO_PROXY=127.0.0.1"]
    with closing(Terminal([PROGRAM, "chat", "--connect", server.url], environment=own)) as terminal:
        terminal.prompt()
        assert f"ember at {server.url}" in terminal.screen()
        terminal.type("What is the capital of Norway?", "Enter")
        terminal.wait(r"capital of Norway\?\nThe capital of Norway is Oslo\.\n\d+ tokens, ")
        terminal.prompt()
        terminal.type("Write a C function that can add two numbers.", "Enter")
        terminal.wait(r"^```\n\d+ tokens")
        assert re.search(r"\033\[[0-9;]*36m(\033\[49m)?int add", terminal.screen(attributes=True))
        terminal.type("/quit", "Enter")
        terminal.wait(r"^left with 0")


@needs_tmux
def test_ctrl_c(start, fake, home, tmp_path):
    server = start(*ENDLESS, context=16384)
    own = [f"HOME={tmp_path / 'home'}", f"XDG_DATA_HOME={tmp_path / 'data'}", "NO_PROXY=127.0.0.1"]
    with closing(Terminal([PROGRAM, "chat", "--connect", server.url], environment=own)) as terminal:
        terminal.prompt()
        terminal.type("Tell me a story.", "Enter")
        terminal.wait(r"> Tell me a story\.\n\w[^\n]{20}", scrolled=True)
        terminal.keys("C-c")
        terminal.wait(r"^stopped$")
        terminal.prompt()
        server.wait_for("running", most=0)
        assert len(messages(home)) == 2
        server.kill()
        terminal.type("And then?", "Enter")
        terminal.wait("the server cannot be reached")
        terminal.wait("your message is taken back")
        terminal.keys("C-d")
        terminal.wait(r"^left with 0")


@needs_tmux
def test_ctrl_c_of_a_silent_server(fake, tmp_path):
    url = fake(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: reading the prompt, 512 of 3000 tokens\n\n", hold=True)
    with closing(Terminal([PROGRAM, "chat", "--connect", url], environment=[f"HOME={tmp_path / 'home'}", f"XDG_DATA_HOME={tmp_path / 'data'}"])) as terminal:
        terminal.prompt()
        terminal.type("Hi.", "Enter")
        terminal.wait("reading the prompt")
        begun = time.monotonic()
        terminal.keys("C-c")
        terminal.wait("your message is taken back")
        assert time.monotonic() - begun < 3
