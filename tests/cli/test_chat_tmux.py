"""`flash-moe chat` at a terminal, driven by keys under tmux and looked at as a person sees it."""
import json
import re
import time

import pytest

from conftest import EMBER
from test_chat import STATUS, THINKING, endless, messages, tools_file
from tmux import TMUX, Terminal, chat_command

pytestmark = pytest.mark.skipif(not TMUX, reason="there is no tmux; tools/deps.sh test installs it")


@pytest.fixture
def home(ember, tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "data" / "flash-moe" / "sessions"


@pytest.fixture
def start(home, tmp_path):
    """start(options …) opens a chat in a terminal, at its first prompt."""
    opened = []

    def open_chat(*arguments, columns=80, rows=24, environment=(), wait=True):
        own = [f"HOME={tmp_path / 'home'}", f"XDG_DATA_HOME={tmp_path / 'data'}", f"XDG_CACHE_HOME={tmp_path / 'cache'}", *environment]
        terminal = Terminal(chat_command(EMBER, "--temp", 0, *arguments), columns, rows, own)
        opened.append(terminal)
        if wait:
            terminal.prompt()
        return terminal

    yield open_chat
    for terminal in opened:
        terminal.close()


def begin_story(t):
    t.type("Tell me a story.", "Enter")
    t.wait(r"> Tell me a story\.\n\w[^\n]{20}", scrolled=True)


def test_typing(start):
    t = start()
    assert "/help lists the commands" in t.screen()
    t.type("Whax", "BSpace")
    t.type("t is capital of Norwa?", "Left")
    t.type("y", "C-a", *["Right"] * 8)
    t.type("the ", "End", "Enter")
    screen = t.wait(r"capital of Norway\?\nThe capital of Norway is Oslo\.\n")
    t.prompt()
    assert STATUS.search(t.screen()), screen


def test_an_answer_has_attributes(start):
    t = start()
    t.type("Write a C function that can add two numbers.", "Enter")
    t.wait(r"^```\n\d+ tokens")
    screen = t.screen(attributes=True)
    assert re.search(r"\033\[[0-9;]*36m(\033\[49m)?int add", screen), screen
    t.type("What is the capital of Norway?", "Enter")
    t.wait(r"^The capital of Norway is Oslo\.\n\033\[(0;)?2m\d+ tokens, ", attributes=True)  # dim


@pytest.mark.parametrize("environment", ["NO_COLOR=1", "TERM=dumb"])
def test_no_attributes(start, environment):
    t = start(environment=[environment])
    t.type("Write a C function that can add two numbers.", "Enter")
    t.wait(r"^```\n\d+ tokens")
    screen = t.prompt(attributes=True)
    assert "\033" not in screen, screen
    t.type("/quit", "Enter")
    t.wait(r"^left with 0")


def test_ctrl_c_stops_an_answer(start, home):
    t = start(*endless())
    begin_story(t)
    for _ in range(100):  # it goes on and on
        if len(t.screen(scrolled=True)) > 4000:
            break
        time.sleep(0.05)
    t.keys("C-c")
    t.wait(r"^stopped: \d+ tokens")
    t.prompt()
    assert len(messages(home)[1]["content"]) > 1000
    t.type("/set max-tokens 4", "Enter")
    t.prompt()
    t.type("Hello!", "Enter")
    t.wait(r"^cut at the limit: 4 tokens")
    assert "left with" not in t.screen()


def test_ctrl_c_while_the_prompt_is_read(start, home):
    t = start("--context", 65536)
    t.paste("once upon a time " * 3000)
    t.wait(r"\[pasted 1: 51000 characters, 1 line\]")
    t.keys("Enter")
    t.wait(r"reading the prompt: ")
    t.keys("C-c")
    t.wait(r"your message is taken back")
    t.type("What is the capital of Norway?", "Enter")
    t.wait(r"^The capital of Norway is Oslo\.")
    t.prompt()
    assert [m["role"] for m in messages(home)] == ["user", "assistant"]


def test_ctrl_c_and_ctrl_d_at_the_prompt(start):
    t = start()
    t.type("never mind")
    t.wait(r"^> never mind")  # the terminal forgets what was typed and not read when Ctrl-C comes
    t.keys("C-c")
    t.wait(r"^> never mind *\^C\n> *\Z")
    t.keys("C-c")
    t.wait(r"Ctrl-C again, or Ctrl-D, leaves\.\n> *\Z")
    t.type("What is the capital of Norway?", "Enter")
    t.wait("is Oslo")
    t.prompt()
    t.keys("C-c")
    t.wait(r"leaves\.\n> *\Z")
    t.keys("C-c")
    t.wait(r"^left with 0")
    other = start()
    other.keys("C-d")
    other.wait(r"^left with 0")


def test_the_terminal_is_as_it_was(start):
    """After leaving, lines are echoed and edited by the system again."""
    t = start(*endless())
    begin_story(t)
    t.keys("C-c")
    t.wait(r"^stopped: ")
    t.prompt()
    t.keys("C-d")
    t.wait(r"^left with 0")
    t.type("echoed", "Enter")
    t.wait(r"^echoed\nechoed")  # by the terminal, and by cat


def test_resize_at_the_prompt(start, home):
    text = "0123456789" * 11
    t = start("-n", 3, columns=100)
    t.type(text)
    t.wait(rf"^> {text[:98]}\n{text[98:]} *\Z")
    t.resize(50, 20)
    t.wait(rf"^> {text[:48]}\n{text[48:98]}\n{text[98:]} *\Z")
    t.resize(120, 30)
    screen = t.wait(rf"^> {text} *\Z")
    assert screen.count("> 0123") == 1 and screen.count("/help lists") == 1, screen
    t.type("!", "Enter")
    t.wait(r"\d+ tokens, ")
    t.prompt()
    assert messages(home)[0]["content"] == text + "!"


def test_resize_in_an_answer(start):
    t = start(*endless())
    begin_story(t)
    for columns, rows in ((40, 10), (120, 40), (20, 5), (80, 24)):
        t.resize(columns, rows)
    t.keys("C-c")
    t.wait(r"stopped: ")
    t.prompt()
    t.type("/quit", "Enter")
    t.wait(r"^left with 0")


def test_a_paste_of_10000_characters_is_one_message(start, home):
    text = "".join(f"line {i}: it was a däy like any other\n" for i in range(1000))[:10000]
    assert len(text) == 10000 and text.count("\n") > 200
    t = start("-n", 5)
    t.type("Read this: ")
    t.paste(text)
    t.wait(rf"^> Read this: \[pasted 1: 10000 characters, {len(text.splitlines())} lines\]")
    t.type(" That was it.", "Enter")
    t.wait(r"^cut at the limit: 5 tokens")
    t.prompt()
    assert [m["content"] for m in messages(home) if m["role"] == "user"] == [f"Read this: {text} That was it."]
    t.keys("Up")
    t.wait(r"^> Read this: \[pasted 1: 10000 characters, \d+ lines\] That was it\. *\Z")


def test_a_short_paste_is_typed_in(start, home):
    t = start()
    t.paste("What is the capital of Norway?\033[31m")
    t.wait(r"^> What is the capital of Norway\?\[31m *\Z")
    t.keys("BSpace", "BSpace", "BSpace", "BSpace", "Enter")
    t.wait("is Oslo")
    t.prompt()
    assert messages(home)[0]["content"] == "What is the capital of Norway?"


def test_several_lines(start, home):
    t = start("-n", 3)
    t.type("one", "M-Enter")
    t.type("two\\", "Enter")
    t.wait(r"^> one\ntwo\\\n\| *\Z")
    t.type("three", "Enter")
    t.wait("cut at the limit")
    t.prompt()
    assert messages(home)[0]["content"] == "one\ntwo\nthree"


def test_history(start, home, tmp_path):
    t = start("-n", 3)
    for text in ("first", "second ü", "/set seed 3"):
        t.type(text, "Enter")
        t.prompt()
    t.keys("Up", "Up", "Up")
    t.wait(r"^> first *\Z")
    t.keys("Down")
    t.wait(r"^> second ü *\Z")
    t.keys("C-c")
    t.prompt()
    t.keys("C-d")
    t.wait(r"^left with 0")
    history = tmp_path / "data" / "flash-moe" / "history"
    assert [json.loads(line) for line in history.read_text().splitlines()] == ["first", "second ü", "/set seed 3"]
    assert history.stat().st_mode & 0o777 == 0o600
    later = start()
    later.keys("Up", "Up")
    later.wait(r"^> second ü *\Z")


def test_typing_ahead(start, home):
    """What is typed during an answer is not seen in it, and is there at the next prompt."""
    t = start(*endless())
    begin_story(t)
    t.type("Hello!")
    t.keys("C-c")
    t.wait(r"^> Hello! *\Z")
    assert t.screen(scrolled=True).count("Hello!") == 1


def test_commands(start, home, tmp_path):
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nstty -a >/dev/null && sed -i 's/Norway/Peru/' \"$1\"\n")
    editor.chmod(0o755)
    t = start("--tool", "bash", environment=[f"VISUAL={editor}"], rows=40)
    for command, pattern in (("/help", r"^/quit +leaves"), ("/tools", "^bash: Run a shell command"), ("/set", r"^seed \d+"), ("/stats", "^cpu: "), ("/system Be kind.", r"^> *\Z"),
                             ("/system", r"^  Be kind\."), ("What is the capital of Norway?", r"is Oslo"), ("/edit", r"Peru is Lima"), ("/retry", r"/retry\nThe capital of Peru is Lima"),
                             ("/sessions", r"1 turn  +What is the capital of Peru"), ("/clear", "a new conversation"), ("/resume", r"^session .*turns: 1"), ("/nope", "there is no command")):
        t.type(command, "Enter")
        t.wait(pattern, scrolled=command == "/help")
        t.prompt()
    t.type("/quit", "Enter")
    t.wait(r"^left with 0")


def test_resume_shows_the_conversation(start):
    t = start()
    t.type("What is the capital of Norway?", "Enter")
    t.prompt()
    t.keys("C-d")
    t.wait("left with 0")
    later = start("--resume")
    screen = later.screen()
    assert re.search(r"^> What is the capital of Norway\?\nThe capital of Norway is Oslo\.\nsession .*, turns: 1\n\d+ of its \d+ tokens restored", screen, re.M), screen


def test_tools_are_asked_about(start, home, tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.c").touch()
    t = start("--tool", "bash", "--tool-dir", tmp_path)
    t.type("List the files in src.", "Enter")
    t.wait(r"^  ls src\nRun it\? y = yes, n = no, a = always for ls: *\Z")
    t.type("perhaps", "Enter")
    t.wait(r"perhaps\nRun it\? .*: *\Z")
    t.type("y", "Enter")
    t.wait(r"^  main\.c$")
    t.prompt()
    assert messages(home)[2]["content"] == "main.c"
    t.type("List the files in src.", "Enter")
    t.wait(r"Run it\? [^\n]*: *\Z")
    t.keys("C-c")  # is a no
    t.prompt()
    assert [m["content"] for m in messages(home) if m["role"] == "tool"] == ["main.c", "the user refused"]


def test_a_tool_has_no_terminal_and_cannot_write_control_sequences(start, home, tmp_path):
    script = "(: </dev/tty) 2>/dev/null && echo terminal; printf '\\033[2J\\033]0;title\\007gone\\n'; touch '%s'; sleep 60" % (tmp_path / "printed")
    t = start("--tools", tools_file(tmp_path, ask=False, command=script))
    t.type("What is the weather in Brelka?", "Enter")
    t.wait("calls get_weather")
    deadline = time.monotonic() + 20
    while not (tmp_path / "printed").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)  # for the program to read it
    t.keys("C-c")
    screen = t.wait(r"^  \\x1b\[2J\\x1b\]0;title\\x07gone\n  \[stopped by the user\]")
    assert "What is the weather" in screen
    t.prompt()
    assert messages(home)[2]["content"] == "\033[2J\033]0;title\007gone\n[stopped by the user]"


def test_reasoning_is_folded(start, tmp_path):
    """The reasoning is longer than its window; when it is over no row of it is left, and /set reasoning show brings all of it."""
    (tmp_path / "template.jinja").write_text(THINKING)
    t = start("--template", tmp_path / "template.jinja", "--think-budget", 250, "-n", 300, *endless(), rows=50)
    t.type("Tell me a story.", "Enter")
    t.wait(r"^> Tell me a story\.\nthought for 2\d\d tokens\n")
    t.prompt()
    t.type("/set reasoning show", "Enter")
    t.wait(r"/set reasoning show\n  [\s\S]{600,}\n> *\Z", scrolled=True)
    t.type("Tell me a story.", "Enter")
    t.wait(r"/set reasoning show\n[\s\S]{600,}> Tell me a story\.\n[\s\S]{600,}\nthought for 2\d\d tokens\n", scrolled=True)
