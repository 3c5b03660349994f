"""flash_moe runs mixture-of-experts language models that are larger than memory: the dense part stays in memory, experts are read from the disk when
the router asks for them, and what is computed is exactly the published model.

    import flash_moe
    print(flash_moe.generate("models/ember", "Once upon a time", max_tokens=40, memory="64M"))

    with flash_moe.Session("models/ember", memory="64M") as session:
        for token in session.stream("Once upon a time", max_tokens=40):
            print(token.text, end="", flush=True)
        print(session.chat("What is the capital of Norway?")["content"])

Session is the heart of it; `generate` and `stream_generate` open one for a single text. `plan` says what a model would take, `pack` prepares one, `perplexity` and `trace`
measure. Everything that the library refuses is a FlashMoeError, whose sentence names the path, the tensor and the number.
"""

from __future__ import annotations

from typing import Any, Iterator, Sequence, Union

from .errors import (CancelledError, ClosedError, ContextFullError, FlashMoeError, ForkedError, FormatError, InvalidArgumentError, NotFiniteError, OutOfMemoryError, ReadError,
                     UnsupportedError)
from .handle import version as _version
from .hub import pull
from .session import Event, Prompt, Session, Statistics, Token
from .tools import Packed, Path, Perplexity, Plan, Trace, pack, perplexity, plan, trace

__version__ = _version()

_OPTIONS = ("memory", "experts_per_token", "context", "threads", "session_cache", "progress", "profile", "pin", "missing", "cold_bits", "cold_below", "log", "kv", "activations", "prefetch", "verify", "heat", "mirror", "policy", "io",
            "cpu", "config_from", "session_cache_size")


def stream_generate(model: Union[Session, Path], prompt: Prompt, max_tokens: int = 256, stop: Union[str, Sequence[str]] = (), **options: Any) -> Iterator[Token]:
    """Yields a Token for each step of what a model writes behind a prompt. `model`: a directory, which is loaded for this text, or a Session. Options are those of
    Session and of Session.stream."""
    if isinstance(model, Session):
        yield from model.stream(prompt, max_tokens, stop, **options)
        return
    opening = {name: options.pop(name) for name in _OPTIONS if name in options}
    with Session(model, **opening) as session:
        yield from session.stream(prompt, max_tokens, stop, **options)


def generate(model: Union[Session, Path], prompt: Prompt, max_tokens: int = 256, stop: Union[str, Sequence[str]] = (), **options: Any) -> str:
    """The whole text that `stream_generate` would give.

    >>> generate("models/ember", "The capital of Norway is", max_tokens=8, temperature=0, memory="64M")
    ' Oslo.'
    """
    return "".join(t.text for t in stream_generate(model, prompt, max_tokens, stop, **options))


#: The names that earlier programs had for the same.
flash_generate = generate
flash_stream_generate = stream_generate
FlashSession = Session

__all__ = ["Session", "generate", "stream_generate", "pull", "plan", "pack", "perplexity", "trace", "Token", "Event", "Statistics", "Plan", "Packed", "Perplexity", "Trace", "FlashMoeError",
           "InvalidArgumentError", "FormatError", "ReadError", "OutOfMemoryError", "UnsupportedError", "NotFiniteError", "CancelledError", "ContextFullError", "ClosedError",
           "ForkedError", "flash_generate", "flash_stream_generate", "FlashSession"]
