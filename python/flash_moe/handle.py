"""A loaded model and its one session, as the C library knows them: opening, closing, running what takes long so that Ctrl-C works. Private."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import Any, Callable, Optional, Union

from ._native import ffi, lib
from .errors import ClosedError, ForkedError, check, new_error

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def to_bytes(size) -> int:
    """12, 12_000_000, "12G", "500M" to bytes; None to 0, which is the library's own choice."""
    if size is None:
        return 0
    if isinstance(size, bool) or not isinstance(size, (int, float, str)):
        raise TypeError(f"a size is a number of bytes or text such as \"12G\", not {type(size).__name__}")
    if isinstance(size, str):
        text = size.strip().upper().removesuffix("B") if hasattr(str, "removesuffix") else size.strip().upper().rstrip("B")
        unit = text[-1:] if text[-1:] in ("K", "M", "G", "T") else ""
        try:
            size = float(text[: len(text) - len(unit)]) * _UNITS[unit]
        except ValueError:
            raise ValueError(f"{size!r} is no size: give bytes, or text such as \"12G\"") from None
    if not 0 <= size < 2 ** 63:
        raise ValueError(f"{size!r} is no size: give bytes, or text such as \"12G\"")
    return int(size)


def to_path(path) -> bytes:
    """A path as the library takes it. A name with a zero byte in it is refused, as it would be cut."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"a path is text or path-like, not {type(path).__name__}")
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError("a path has no zero bytes in it")
    return encoded


class Options:
    """fm_engine_options from keyword arguments; keeps what they point to."""

    def __init__(self, **options: Any) -> None:
        self.c = ffi.new("fm_engine_options *")
        self.kept: list[Any] = []
        lib.fmpy_engine_options(self.c)
        for name, value in options.items():
            if value is None:
                continue
            if name not in self.names():
                raise TypeError(f"there is no option {name}; the options are {', '.join(self.names())}")
            getattr(self, "_" + name)(value)

    @classmethod
    def names(cls) -> list[str]:
        return sorted(n[1:] for n in vars(cls) if n.startswith("_") and not n.startswith("__") and n not in ("_text", "_number", "_choice", "_share"))

    def _text(self, field: str, value: Union[str, bytes]) -> None:
        if isinstance(value, str):
            value = value.encode()
        if not isinstance(value, bytes):
            raise TypeError(f"{field} is text, not {type(value).__name__}")
        self.kept.append(ffi.new("char[]", value))
        setattr(self.c, field, self.kept[-1])

    def _number(self, field: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{field} is a whole number, not {type(value).__name__}")
        if not 0 <= value < 2 ** 31:
            raise ValueError(f"{field} is {value}, but must be from 0 to {2 ** 31 - 1}")
        setattr(self.c, field, value)

    def _choice(self, field: str, value: Any, choices: dict[str, int]) -> None:
        if value not in choices:
            raise ValueError(f"{field} is one of {', '.join(choices)}, not {value!r}")
        setattr(self.c, field, choices[value])

    def _memory(self, value: Any) -> None:
        self.c.memory_bytes = to_bytes(value)

    def _context(self, value: Any) -> None:
        self._number("context", value)

    def _threads(self, value: Any) -> None:
        self._number("n_threads", value)

    def _experts_per_token(self, value: Any) -> None:
        self._number("experts_per_token", value)

    def _activations(self, value: Any) -> None:
        self._choice("activations", value, {"int8": lib.FM_ACTIVATIONS_INT8, "f32": lib.FM_ACTIVATIONS_F32})

    def _kv(self, value: Any) -> None:
        self._choice("kv", value, {"bf16": lib.FM_KV_BF16, "f32": lib.FM_KV_F32, "q8": lib.FM_KV_Q8})

    def _prefetch(self, value: Any) -> None:
        self.c.prefetch = lib.FM_PREFETCH_ON if value else lib.FM_PREFETCH_OFF

    def _verify(self, value: Any) -> None:
        self.c.no_verify = not value

    def _cpu(self, value: str) -> None:
        self._text("cpu", value)

    def _io(self, value: str) -> None:
        self._text("io", value)

    def _policy(self, value: str) -> None:
        self._text("policy", value)

    def _heat(self, value: Any) -> None:
        self._text("heat", to_path(value))

    def _mirror(self, value: Any) -> None:
        self._text("mirror", to_path(value))

    def _config_from(self, value: Any) -> None:
        self._text("config_from", to_path(value))

    def _profile(self, value: Any) -> None:
        self._text("profile", to_path(value))

    def _share(self, field: str, value: float) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{field} is a share such as 0.2, not {type(value).__name__}")
        setattr(self.c, field, value)

    def _pin(self, value: float) -> None:
        self._share("pin", value)

    def _missing(self, value: Any) -> None:
        self._choice("missing", value, {"read": lib.FM_MISSING_READ, "drop": lib.FM_MISSING_DROP})

    def _cold_bits(self, value: Any) -> None:
        self._number("cold_bits", value)

    def _cold_below(self, value: float) -> None:
        self._share("cold_below", value)

    def _session_cache(self, value: Any) -> None:
        self._text("session_cache", to_path(value))

    def _session_cache_size(self, value: Any) -> None:
        self.c.session_cache_bytes = to_bytes(value)


class Watcher:
    """What the library calls while it works: a progress function, a log function. An exception in one of them stops the work and is raised."""

    def __init__(self, progress: Optional[Callable[[str, int, int], Any]], log: Optional[Callable[[str, str], Any]]) -> None:
        self.progress, self.log, self.raised = progress, log, None

    def call(self, function: Callable, *arguments: Any) -> int:
        try:
            function(*arguments)
        except BaseException as e:  # noqa: BLE001: it is raised again when the library has come back
            self.raised = e
            return 1
        return 0

    def raise_if_any(self) -> None:
        raised, self.raised = self.raised, None
        if raised is not None:
            raise raised


@ffi.def_extern()
def fmpy_progress(user, what, done, total):
    watcher = ffi.from_handle(user)
    return watcher.call(watcher.progress, ffi.string(what).decode(), done, total) if watcher.progress else 0


@ffi.def_extern()
def fmpy_log(user, level, line):
    watcher = ffi.from_handle(user)
    if watcher.log:
        watcher.call(watcher.log, "warning" if level == lib.FM_LOG_WARNING else "info", ffi.string(line).decode("utf-8", "replace"))


def bar(description: str = "") -> Callable[[str, int, int], None]:
    """A progress function that draws a bar: tqdm's, if it is there, else nothing."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return lambda what, done, total: None
    bars: dict[str, Any] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in bars:
            bars[what] = tqdm(total=total, desc=description or what, unit="tokens" if what in ("prompt", "tokens") else "B", unit_scale=True, leave=False)
        bars[what].total = total
        bars[what].update(done - bars[what].n)
        if done >= total:
            bars.pop(what).close()
    return show


def _close(pid: int, engine, session, chat, keep) -> None:
    if os.getpid() != pid:  # the parent's threads are not here to be joined
        return
    lib.fm_chat_close(chat)
    lib.fm_session_close(session)
    lib.fm_engine_close(engine)


class Handle:
    """An engine with one session. Everything that touches it holds `lock`; what takes long goes through `run`."""

    def __init__(self, model, progress=None, log=None, **options: Any) -> None:
        for name, function in (("progress", progress), ("log", log)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} is a function, not {type(function).__name__}")
        self.lock = threading.RLock()
        self.pid = os.getpid()
        self.engine, self.session, self.chat = ffi.new("fm_engine **"), ffi.new("fm_session **"), ffi.new("fm_chat **")
        self.watcher = Watcher(progress, log)
        self.path = to_path(model)
        o = Options(**options)
        user = ffi.new_handle(self.watcher)
        o.c.progress = lib.fmpy_progress  # without a progress function too: it is where loading is stopped
        o.c.log = lib.fmpy_log
        o.c.user = user
        self.kept = (o, user)
        self.finalizer = weakref.finalize(self, _close, self.pid, self.engine, self.session, self.chat, (user, self.watcher))
        try:
            self.run(lib.fm_engine_open, self.engine, self.path, o.c)
            self.run(lib.fm_session_open, self.session, self.engine[0])
        except BaseException:
            self.finalizer()
            raise

    def close(self) -> None:
        with self.lock:
            if os.getpid() == self.pid:
                self.finalizer()

    @property
    def closed(self) -> bool:
        return not self.finalizer.alive

    def check_open(self) -> None:
        if os.getpid() != self.pid:
            raise ForkedError(f"the session was opened in process {self.pid}, and this is {os.getpid()}: after a fork it cannot be used, open another")
        if self.closed:
            raise ClosedError("the session is closed")

    def run(self, function, *arguments: Any, brief: bool = False) -> int:
        """Calls function(*arguments, error) without the interpreter's lock; an error is raised. Unless it is brief, it runs in a thread of its own while
        this one waits for Ctrl-C, which cancels it and leaves all usable."""
        error = new_error()
        code: list[int] = []
        if brief or threading.current_thread() is not threading.main_thread():
            code.append(function(*arguments, error))
        else:
            self._run_aside(lambda: code.append(function(*arguments, error)))
        self.watcher.raise_if_any()
        return check(code[0], error)

    def _run_aside(self, work: Callable[[], Any]) -> None:
        done = threading.Event()  # not Thread.join, which an interrupt makes believe that the thread has ended

        def run() -> None:
            try:
                work()
            finally:
                done.set()

        progress = self.watcher.progress
        thread = threading.Thread(target=run, name="flash-moe", daemon=True)
        try:
            thread.start()
            done.wait()
        except BaseException:
            self.watcher.progress = _stop  # while it is loaded there is no engine to be cancelled
            if self.engine[0]:
                lib.fm_engine_cancel(self.engine[0], True)
            while thread.ident is not None and not done.is_set():
                try:
                    done.wait()
                except KeyboardInterrupt:
                    continue
            if self.engine[0]:
                lib.fm_engine_cancel(self.engine[0], False)
            self.watcher.progress, self.watcher.raised = progress, None
            raise


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def version() -> str:
    return ffi.string(lib.fmpy_version()).decode()


if sys.platform.startswith("win"):  # pragma: no cover
    raise ImportError("flash_moe runs on Linux and macOS")
