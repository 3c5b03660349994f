"""What can go wrong: a small family of exceptions. Each says in one sentence which path, tensor and number it is about."""

from __future__ import annotations

from ._native import ffi, lib


class FlashMoeError(Exception):
    """Anything that the library refuses. `code` is its number in flash_moe.h, `FM_E…`."""

    code: int = 0


class InvalidArgumentError(FlashMoeError, ValueError):
    """An argument is out of its range."""


class FormatError(FlashMoeError, ValueError):
    """A file's contents are wrong: missing, short, corrupt, mis-shaped."""


class ReadError(FlashMoeError, OSError):
    """The system refused to open, read or write something."""

    def __str__(self) -> str:
        return str(self.args[0])


class OutOfMemoryError(FlashMoeError, MemoryError):
    """It does not fit in the memory budget, or the system has no memory."""


class UnsupportedError(FlashMoeError, NotImplementedError):
    """Well formed, but not something this version runs."""


class NotFiniteError(FlashMoeError, ArithmeticError):
    """A weight, an activation or a logit is not a finite number."""


class CancelledError(FlashMoeError):
    """A computation was cancelled."""


class ContextFullError(FlashMoeError):
    """The session's context is full."""


class ClosedError(FlashMoeError, ValueError):
    """The session was closed before."""


class ForkedError(FlashMoeError, RuntimeError):
    """The session belongs to a parent process: its threads do not exist in this one."""


_KINDS = {
    lib.FM_EINVAL: InvalidArgumentError, lib.FM_EFORMAT: FormatError, lib.FM_EIO: ReadError, lib.FM_ENOMEM: OutOfMemoryError,
    lib.FM_EUNSUPPORTED: UnsupportedError, lib.FM_ENAN: NotFiniteError, lib.FM_ECANCELLED: CancelledError, lib.FM_EFULL: ContextFullError,
}


def new_error():
    """A place for the library to write its sentence to."""
    return ffi.new("fm_error *")


def check(code: int, error) -> int:
    """The code, if it is no error; else raises it."""
    if code >= 0:
        return code
    raised = _KINDS.get(code, FlashMoeError)(ffi.string(error.message).decode("utf-8", "replace") or f"error {code}")
    raised.code = code
    raise raised
