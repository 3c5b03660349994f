"""A terminal for tests: the program under tmux, driven by keys, looked at as a screen. Waits are for what is to be seen, never for a time."""
import re
import shlex
import shutil
import subprocess
import time
import uuid

from conftest import PROGRAM

TMUX = shutil.which("tmux")


class Terminal:
    def __init__(self, command, columns=80, rows=24, environment=(), directory=None):
        self.tmux = [TMUX, "-u", "-f", "/dev/null", "-L", f"flash-moe-{uuid.uuid4().hex[:12]}"]
        line = "env " + " ".join(shlex.quote(str(word)) for word in [*environment, *command]) + '; echo "left with $?"; cat'
        start = ["new-session", "-d", "-x", str(columns), "-y", str(rows)]
        self("start-server", ";", "set-option", "-g", "history-limit", "5000", ";", *start, *(["-c", str(directory)] if directory else []), line)

    def __call__(self, *arguments, **more):
        return subprocess.run([*self.tmux, *map(str, arguments)], capture_output=True, text=True, timeout=30, check=True, **more).stdout

    def keys(self, *names):
        """Keys by tmux's names: Enter, C-c, M-Enter, Up …"""
        self("send-keys", *names)

    def type(self, text, *names):
        """Text, then keys."""
        self("send-keys", "-l", text)
        if names:
            self.keys(*names)

    def paste(self, text):
        """As a terminal does that was asked to mark pasted text."""
        self("load-buffer", "-", input=text)
        self("paste-buffer", "-p")

    def screen(self, attributes=False, scrolled=False):
        text = self("capture-pane", "-p", *(["-e"] if attributes else []), *(["-S", "-"] if scrolled else []))
        return text.rstrip("\n")

    def wait(self, pattern, timeout=20, **how):
        """The screen when the pattern (of several lines) is on it."""
        deadline = time.monotonic() + timeout
        while True:
            screen = self.screen(**how)
            if re.search(pattern, screen, re.M):
                return screen
            assert time.monotonic() < deadline, f"no {pattern!r} on the screen:\n{screen}"
            time.sleep(0.02)

    def prompt(self, **how):
        """Waits for an empty prompt as the last line."""
        return self.wait(r"^> *\Z", **how)

    def resize(self, columns, rows):
        self("resize-window", "-x", columns, "-y", rows)

    def close(self):
        subprocess.run([*self.tmux, "kill-server"], capture_output=True, timeout=30)


def chat_command(model, *arguments):
    return [PROGRAM, "chat", model, *arguments]
