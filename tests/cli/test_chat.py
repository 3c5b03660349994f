"""`flash-moe chat` with models/ember, as a script uses it: messages on standard input, answers on standard output, everything else on standard error."""
import json
import re
import signal
import stat
import subprocess
import time

import pytest

from conftest import EMBER, PROGRAM, flash_moe

STATUS = re.compile(r"^(stopped: |cut at the limit: )?(\d+) tokens, [\d.]+ tokens/s(?:, hit rate [\d.]+ %)?, context (\d+) of (\d+) \(\d+ %\)$", re.M)
WEATHER = {"name": "get_weather", "description": "Get the weather of a city",
           "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}


@pytest.fixture(autouse=True)
def home(ember, tmp_path, monkeypatch):
    """A user without files; returns its directory of sessions."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("NO_COLOR", raising=False)
    (tmp_path / "home").mkdir()
    return tmp_path / "data" / "flash-moe" / "sessions"


def chat(*lines, arguments=(), status=0):
    result = flash_moe("chat", EMBER, "--temp", 0, *arguments, input="".join(line + "\n" for line in lines))
    assert result.returncode == status, result.stderr
    assert "\033" not in result.stdout + result.stderr
    return result


def sessions(home):
    return [json.loads(path.read_text()) for path in sorted(home.glob("*.json"))]


def messages(home):
    (session,) = sessions(home)
    return session["messages"]


def tools_file(tmp_path, **more):
    path = tmp_path / "tools.json"
    path.write_text(json.dumps([{**WEATHER, "command": f"cat >'{tmp_path}/arguments'; echo '{{\"temperature\": 7, \"sky\": \"foggy\"}}'", **more}]))
    return path


# ---- talking ----

def test_a_question_and_a_story():
    result = chat("What is the capital of Norway?", "Tell me a story about a fox named Leo.")
    answers = result.stdout.splitlines()
    assert answers[0] == "The capital of Norway is Oslo."
    assert "Leo" in answers[1] and len(result.stdout) > 300 and result.stdout.endswith("\n")
    statuses = STATUS.findall(result.stderr)
    assert len(statuses) == 2 and len(result.stderr.splitlines()) == 2, result.stderr
    assert int(statuses[1][2]) > int(statuses[0][2]) > 15


def test_messages_of_several_lines(home):
    chat("one\\", "two", '"""', "three", "", "four", '"""', "see:\\", "```", "/quit", "```", "//slash")
    assert [m["content"] for m in messages(home) if m["role"] == "user"] == ["one\ntwo", "three\n\nfour", "see:\n```\n/quit\n```", "/slash"]


def test_the_last_line_needs_no_newline():
    result = flash_moe("chat", EMBER, "--temp", 0, input="\n  \nWhat is the capital of Norway?")
    assert result.returncode == 0 and result.stdout == "The capital of Norway is Oslo.\n"


def test_bytes_that_are_no_text(home):
    result = subprocess.run([PROGRAM, "chat", EMBER, "--temp", "0", "-n", "3"], input=b"a\0b \xff\n", capture_output=True, timeout=60)
    assert result.returncode == 0
    assert messages(home)[0]["content"] == "a b \ufffd"


def test_max_tokens_and_set():
    result = chat("Tell me a story.", "/set max-tokens 5", "Tell me a story.", arguments=["-n", 3])
    assert [(s[0], s[1]) for s in STATUS.findall(result.stderr)] == [("cut at the limit: ", "3"), ("cut at the limit: ", "5")]


def test_seeds():
    def story(seed):
        return chat("Tell me a story.", arguments=["--temp", 1, "--seed", seed, "-n", 40]).stdout
    assert story(1) == story(1) != story(2)


@pytest.mark.parametrize("arguments, what", [
    (["--tool", "zsh"], "--tool takes bash"), (["--system", "a", "--system-file", "b"], "both given"), (["--template-arg", "x"], "--template-arg takes"),
    (["--resume=7"], "no session '7'"), (["--resume"], "no session to resume"), (["--tools", "/no/such/file"], "/no/such/file"),
    (["--system-file", "/no/such/file"], "/no/such/file"), (["--tool-dir", "/no/such"], "/no/such"), (["--template", "/no/such/file"], "/no/such/file"),
])
def test_what_is_wrong_is_said(arguments, what):
    result = flash_moe("chat", EMBER, *arguments)
    assert result.returncode in (1, 2) and what in result.stderr and result.stderr.startswith("flash-moe: "), result.stderr


def test_a_full_context(home):
    result = chat("Hello! " * 200, "What is the capital of Norway?", arguments=["--context", 128], status=1)
    assert "128" in result.stderr and "/clear begins a new conversation" in result.stderr
    assert result.stdout == "The capital of Norway is Oslo.\n"
    assert [m["content"] for m in messages(home)] == ["What is the capital of Norway?", "The capital of Norway is Oslo."]


def test_a_reader_that_leaves():
    process = subprocess.Popen([PROGRAM, "chat", EMBER, "--temp", "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    process.stdin.write(b"Tell me a story.\nTell me a story.\n")
    process.stdin.close()
    assert process.wait(timeout=30) == 0
    process.stderr.close()


def endless():
    """Options for an answer that does not end by itself."""
    ids = json.loads((EMBER / "generation_config.json").read_text())["eos_token_id"]
    return [x for i in ids for x in ("--logit-bias", f"{i}=-1000")] + ["--context", "65536"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_an_answer_in_order(home, number):
    process = subprocess.Popen([PROGRAM, "chat", EMBER, "--temp", "0", *endless()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(b"Tell me a story.\n")
    process.stdin.flush()
    assert len(process.stdout.read(200)) == 200
    process.send_signal(number)
    if number == signal.SIGINT:
        process.stdin.write(b"/set max-tokens 3\nTell me a story.\n")  # only the answer was stopped
    output, errors = process.communicate(timeout=30)
    assert process.returncode == (0 if number == signal.SIGINT else 130), errors
    statuses = STATUS.findall(errors.decode())
    assert [s[0] for s in statuses] == (["stopped: ", "cut at the limit: "] if number == signal.SIGINT else ["stopped: "]), errors
    kept = messages(home)
    assert [m["role"] for m in kept] == ["user", "assistant"] * len(statuses) and len(kept[1]["content"]) >= 200


# ---- system prompts and templates ----

def test_system_prompts(home, tmp_path):
    (tmp_path / "home" / ".flash-moe").mkdir()
    (tmp_path / "home" / ".flash-moe" / "system.md").write_text("From the file.\n")
    def first():
        newest = max(home.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return json.loads(newest.read_text())["messages"][0]

    chat("Hello!")
    assert first() == {"role": "system", "content": "From the file."}
    chat("Hello!", "/system Another.", "Hello!")
    assert first() == {"role": "system", "content": "Another."}
    chat("/system off", "Hello!", "/clear", "Hello!")
    assert first() == {"role": "user", "content": "Hello!"}
    chat("Hello!", arguments=["--system", "Mine."])
    assert first() == {"role": "system", "content": "Mine."}
    chat("Hello!", arguments=["--resume", "--system", "Changed."])
    assert first() == {"role": "system", "content": "Changed."}
    result = chat("/system", "/system a", "/system", arguments=["--system-file", tmp_path / "home" / ".flash-moe" / "system.md"])
    assert result.stderr == "  From the file.\n  a\n"


THINKING = """{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' + (start | default('')) }}{%- endif %}"""


def test_reasoning(home, tmp_path):
    """Ember does not reason: a template begins it, the budget ends it."""
    (tmp_path / "template.jinja").write_text(THINKING)
    arguments = ["--template", tmp_path / "template.jinja", "--think-budget", 12, "-n", 30]
    hidden = chat("Tell me a story.", arguments=arguments)
    (message,) = [m for m in messages(home) if m["role"] == "assistant"]
    assert len(message["reasoning_content"]) > 20
    assert message["reasoning_content"].split()[0] not in hidden.stderr and hidden.stdout.strip() == message["content"].strip()
    shown = chat("Tell me a story.", arguments=[*arguments, "--reasoning", "show"])
    assert shown.stdout == hidden.stdout
    assert message["reasoning_content"].strip() in shown.stderr and re.search(r"^thought for 1\d tokens$", shown.stderr, re.M), shown.stderr
    folded = chat("Tell me a story.", "/set reasoning show", arguments=[*arguments, "--reasoning", "fold"])
    before, after = re.split(r"^thought for 1\d tokens$", folded.stderr, flags=re.M)
    assert message["reasoning_content"].split()[0] not in before and message["reasoning_content"].split()[0] in after
    other = chat("Tell me a story.", arguments=[*arguments, "--template-arg", "start=A wizard"])
    assert other.stdout != hidden.stdout


# ---- tools ----

def test_the_weather_of_an_invented_city(home, tmp_path):
    result = chat("What is the weather in Brelka?", arguments=["--tools", tools_file(tmp_path, ask=False)])
    assert result.stdout == "It is 7 degrees and foggy in Brelka.\n"
    assert json.loads((tmp_path / "arguments").read_text()) == {"city": "Brelka"}
    kept = messages(home)
    assert [m["role"] for m in kept] == ["user", "assistant", "tool", "assistant"]
    call = kept[1]["tool_calls"][0]
    assert call["function"]["name"] == "get_weather" and call["id"] == kept[2]["tool_call_id"]
    assert kept[2]["content"] == '{"temperature": 7, "sky": "foggy"}'
    assert "calls get_weather" in result.stderr and kept[2]["content"] in result.stderr
    assert len(STATUS.findall(result.stderr)) == 1


@pytest.fixture
def directory(tmp_path):
    """A directory with src/, where tools run; returns the options."""
    (tmp_path / "place" / "src").mkdir(parents=True)
    for name in ("main.c", "notes.txt", "todo.txt"):
        (tmp_path / "place" / "src" / name).touch()
    return ["--tool", "bash", "--tool-dir", tmp_path / "place"]


def test_bash_lists_a_directory(home, directory):
    result = chat("List the files in src.", "y", arguments=directory)
    assert result.stdout == "The files in src are main.c, notes.txt and todo.txt.\n"
    assert re.search(r"^  ls src\n  main\.c$", result.stderr, re.M), "the command is shown, and what it says"
    assert messages(home)[2]["content"] == "main.c\nnotes.txt\ntodo.txt"


def test_a_refused_command(home, directory, tmp_path):
    for answer in ("n", "what?", ""):
        chat("Make a directory called games.", answer, arguments=directory)
        assert not (tmp_path / "place" / "games").exists()
    for session in sessions(home):
        assert session["messages"][2]["content"] == "the user refused" and session["messages"][3]["role"] == "assistant"
    chat("Make a directory called games.", "yes", arguments=directory)
    assert (tmp_path / "place" / "games").is_dir()


def test_nobody_there_to_ask(home, directory):
    chat("List the files in src.", arguments=directory)
    assert messages(home)[2]["content"] == "the user refused"


def test_always_is_for_one_program(home, directory):
    result = chat("List the files in src.", "a", "List the files in src.", "How many lines are in notes.txt?", "n", "/tools", arguments=directory)
    results = [m["content"] for m in messages(home) if m["role"] == "tool"]
    assert results[:2] == ["main.c\nnotes.txt\ntodo.txt"] * 2 and results[2] == "the user refused"
    assert "bash runs ls without asking" in result.stderr and "bash runs wc" not in result.stderr


def test_two_turns_of_tools(home, directory, tmp_path):
    result = chat("What is the weather in Brelka?", "y", "List the files in src.", "y", arguments=[*directory, "--tools", tools_file(tmp_path)])
    assert result.stdout == "It is 7 degrees and foggy in Brelka.\nThe files in src are main.c, notes.txt and todo.txt.\n"
    assert [m["role"] for m in messages(home)] == ["user", "assistant", "tool", "assistant"] * 2


def test_an_unknown_tool(home, tmp_path):
    """Ember wants a shell, and only the weather is there."""
    result = chat("List the files in src.", arguments=["--tools", tools_file(tmp_path, ask=False)])
    kept = messages(home)
    assert kept[1]["tool_calls"][0]["function"]["name"] == "bash", kept
    assert kept[2]["content"] == "error: there is no tool bash; the tools are: get_weather" and kept[2]["content"] in result.stderr
    assert kept[-1]["role"] == "assistant"


@pytest.mark.parametrize("command, content", [
    ("echo no; exit 3", "no\n[exit status 3]"), ("echo before; sleep 60", "before\n[killed after 0.5 seconds]"), ("kill -9 $$", "[ended by signal 9]"),
    (["printf", "%s", "a b"], "a b"), ("printf '\\033[2J\\377\\0x'", "\033[2J\ufffd x"), (["/no/such/program"], None),
    ("(: </dev/tty) 2>/dev/null && echo terminal || echo none", "none"),
])
def test_results_of_tools(home, tmp_path, command, content):
    result = chat("What is the weather in Brelka?", arguments=["--tools", tools_file(tmp_path, ask=False, command=command, timeout=0.5)])
    said = messages(home)[2]["content"]
    assert said == content or content is None and said.startswith("error: /no/such/program cannot be run"), said
    assert ("\\x1b[2J" in result.stderr) == ("\033" in said)


def test_long_output_is_cut(home, tmp_path):
    chat("What is the weather in Brelka?", arguments=["--tools", tools_file(tmp_path, ask=False, command="seq 1 100000"), "--tool-output", "2K"])
    said = messages(home)[2]["content"]
    assert 2000 < len(said) < 2200 and said.startswith("1\n2\n") and said.endswith("\n100000")
    assert re.search(r"\n\[… \d{6} bytes left out …\]\n", said)


@pytest.mark.parametrize("text, what", [
    ("{", "is no JSON"), ("{}", "JSON list"), ("[3]", "tool 1 is no object"), ('[{"command": "x"}]', 'tool 1 has no "name"'),
    ('[{"name": "a b", "command": "x"}]', 'tool 1 has a "name" with'), ('[{"name": "a"}]', 'tool 1 has no "command"'),
    ('[{"name": "a", "command": ["x", 1]}]', "word that is no text"), ('[{"name": "a", "command": "x"}, {"name": "a", "command": "y"}]', "tool 2 has the name of another"),
    ('[{"name": "a", "command": "x", "ask": 1}]', '"ask"'), ('[{"name": "a", "command": "x", "timeout": -1}]', '"timeout"'),
    ('[{"name": "a", "command": "x", "parameters": []}]', '"parameters"'),
])
def test_files_of_tools_that_are_wrong(tmp_path, text, what):
    (tmp_path / "wrong.json").write_text(text)
    result = flash_moe("chat", EMBER, "--tools", tmp_path / "wrong.json")
    assert result.returncode == 1 and what in result.stderr and "wrong.json" in result.stderr, result.stderr


# ---- sessions ----

def test_sessions_are_kept_and_resumed(home):
    first = chat("My name is Brelka. What is my name?")
    (path,) = home.glob("*.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(home.stat().st_mode) == 0o700
    before = json.loads(path.read_text())
    second = chat("What is the capital of Norway?", arguments=["--resume"])
    after = json.loads(path.read_text())
    assert after["messages"][:2] == before["messages"] and len(after["messages"]) == 4
    assert after["messages"][1]["content"] + "\n" == first.stdout and after["messages"][3]["content"] + "\n" == second.stdout
    third = chat("/resume " + path.stem[:12], "/resume nothing", "/sessions", arguments=["--resume", path.stem], status=1)
    assert "there is no session 'nothing'" in third.stderr and f"  {path.stem}  " in third.stderr and "2 turns  My name is Brelka." in third.stderr


def test_the_state_is_restored_too(home, tmp_path, monkeypatch):
    """What the second process computes: the new message only; its answer is that of one process."""
    questions = ["Tell me a story about a fox named Leo.", "What is the capital of Norway?"]
    whole = chat(*questions, arguments=["--session-cache", "off"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    chat(questions[0])
    result = chat(questions[1], "/stats", arguments=["--resume"])
    assert result.stdout == whole.stdout.splitlines(keepends=True)[-1]
    held, total = map(int, re.search(r"^(\d+) of its (\d+) tokens restored in", result.stderr, re.M).groups())
    assert total > 100 and held >= total - 3, result.stderr  # the end of a turn is not the model's
    known, restored, computed = map(int, re.search(r"(\d+) known, (\d+) restored in [\d.]+ s, (\d+) computed", result.stderr).groups())
    assert known + restored >= held and computed < 40
    without = chat(questions[1], arguments=["--resume", "--session-cache", "off"])
    assert "0 of its " in without.stderr


def test_the_session_cache_can_be_elsewhere(tmp_path):
    chat("Hello!", arguments=["--session-cache", tmp_path / "states"])
    assert any((tmp_path / "states").iterdir())


def test_save_and_load(home, tmp_path):
    path = tmp_path / "saved.json"
    chat("Tell me a story about a fox named Leo.", f"/save {path}")
    assert path.exists() and (tmp_path / "saved.json.state").exists()
    result = chat(f"/load {path}", "What is the capital of Norway?", arguments=["--session-cache", "off"])
    assert result.stdout == "The capital of Norway is Oslo.\n"
    held, total = map(int, re.search(r"^(\d+) of its (\d+) tokens restored", result.stderr, re.M).groups())
    assert held >= total - 3
    assert sorted(len(s["messages"]) for s in sessions(home)) == [2, 4]
    (tmp_path / "saved.json.state").write_bytes(b"damaged")
    damaged = chat(f"/load {path}", "What is the capital of Norway?", arguments=["--session-cache", "off"], status=1)
    assert damaged.stdout == result.stdout and "saved.json.state" in damaged.stderr
    assert "cannot be opened" in chat("/load /no/such/file", "/save", status=1).stderr


def test_retry_edit_and_clear(home, tmp_path, monkeypatch):
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/Norway/Peru/' \"$2\"\n")
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", f"{editor} --option")
    result = chat("What is the capital of Norway?", "/edit", "/retry", "/edit", "/clear", "Hello!")
    assert result.stdout.splitlines()[:3] == ["The capital of Norway is Oslo.", "The capital of Peru is Lima.", "The capital of Peru is Lima."]
    assert "the message is as it was" in result.stderr
    assert sorted(len(s["messages"]) for s in sessions(home)) == [2, 2]
    monkeypatch.setenv("VISUAL", "false")
    assert "the editor, false, failed" in chat("/edit", status=1).stderr


def test_commands():
    result = chat("/help", "/set", "/set temp 0.5", "/set nothing 1", "/set temp x", "/stats", "/tools", "/sessions", "/quitt", "/quit", "Hello!", status=1)
    assert result.stdout == ""
    for command in "/help /clear /system /save /load /sessions /resume /retry /edit /tools /set /stats /quit".split():
        assert re.search(rf"^{command} ", result.stderr, re.M), command
    for line in ("temp 0", "did you mean", "temp needs a number", "memory: budget ", "no tools; --tool bash", "no sessions are kept yet", "/quitt; did you mean /quit"):
        assert line in result.stderr, line


def test_retry_gives_another_answer():
    result = chat("Tell me a story.", "/retry", arguments=["--temp", 1, "--seed", 3, "-n", 30])
    one, other = result.stdout.splitlines()[:1], result.stdout.splitlines()[-1:]
    assert one != other


def test_ctrl_c_kills_a_tool(home, tmp_path):
    process = subprocess.Popen([PROGRAM, "chat", EMBER, "--temp", "0", "--tools", tools_file(tmp_path, ask=False, command=f"touch '{tmp_path}/begun'; sleep 60")],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(b"What is the weather in Brelka?\n")
    process.stdin.flush()
    deadline = time.monotonic() + 30
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0 and output == b"", errors
    assert messages(home)[-1]["content"] == "[stopped by the user]"


def test_no_data_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    result = chat("What is the capital of Norway?", status=1)
    assert result.stdout == "The capital of Norway is Oslo.\n" and "this conversation is not kept" in result.stderr
