"""What makes and measures models: plan, pack, perplexity, trace."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Callable, Optional, Sequence, Union

from ._native import ffi, lib
from .errors import check, new_error
from .handle import Options, Watcher, bar, to_bytes, to_path
from .hub import find
from .session import Session

Path = Union[str, "os.PathLike[str]"]
Progress = Union[Callable[[str, int, int], Any], bool, None]


def _gb(n: float) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e8 else f"{n / 1e6:.1f} MB"


@dataclass(frozen=True)
class Plan:
    """What loading a model would take, in bytes: nothing is loaded to know it. `fits` is whether the budget is enough; `floor` is the least that is."""

    budget: int
    available: int
    dense: int
    session: int
    buffers: int
    cache: int
    slots: int
    experts: int
    floor: int
    context: int
    resident: bool
    token_expert_bytes: int
    token_dense_bytes: int
    fits: bool

    def _rows(self) -> list:
        return [("budget", _gb(self.budget)), ("dense weights", _gb(self.dense)), ("session", f"{_gb(self.session)} for {self.context} tokens"), ("buffers", _gb(self.buffers)),
                ("expert cache", f"{_gb(self.cache)}: {self.slots} of {self.experts} experts"), ("the least", _gb(self.floor)),
                ("a token reads", f"{_gb(self.token_dense_bytes)} of memory, up to {_gb(self.token_expert_bytes)} of the disk")]

    def __str__(self) -> str:
        return "\n".join(f"{name:<14} {value}" for name, value in self._rows())

    def _repr_html_(self) -> str:
        return "<table>" + "".join(f"<tr><th style='text-align:left'>{name}</th><td>{value}</td></tr>" for name, value in self._rows()) + "</table>"


def plan(model: Path, memory: Union[str, int, None] = None, **options: Any) -> Plan:
    """What `Session(model, memory, …)` would take.

    >>> plan("models/ember", memory="64M").fits
    True
    """
    out, error = ffi.new("fm_plan *"), new_error()
    code = lib.fm_plan_make(out, to_path(find(model)), Options(memory=memory, **options).c, error)
    if code != lib.FM_ENOMEM or not out.floor_bytes:
        check(code, error)
    return Plan(out.budget_bytes, out.available_bytes, out.dense_bytes, out.session_bytes, out.buffer_bytes + out.text_bytes + out.overhead_bytes + out.snapshot_bytes,
                out.cache_bytes, out.n_slots, out.n_experts_total, out.floor_bytes, out.context, bool(out.resident), out.token_expert_bytes, out.token_dense_bytes, code >= 0)


def _bits(value: Any, name: str) -> int:
    if value in (None, "keep"):
        return lib.FM_BITS_KEEP
    if value == "bf16":
        return lib.FM_BITS_BF16
    if value in (2, 3, 4, 5, 6, 8):
        return int(value)
    raise ValueError(f'{name} is 2, 3, 4, 5, 6, 8, "bf16" or "keep", not {value!r}')


@dataclass(frozen=True)
class Packed:
    """What packing did. `kinds` is what was lost, by kind of matrix: {name: (rmse, cosine)}; empty when nothing was."""

    directory: str
    read_bytes: int
    written_bytes: int
    seconds: float
    kinds: dict


def pack(model: Path, directory: Path, experts: Union[int, str, None] = None, dense: Union[int, str, None] = None, group: int = 0, search: bool = False,
         memory: Union[str, int, None] = None, threads: int = 0, rules: Optional[Path] = None, progress: Progress = None) -> Packed:
    """Writes a packed model, of which an expert is one read of the disk. `experts` and `dense`: bits that their matrices get, "bf16", or "keep". It appears as
    `directory` when it is whole; after an interruption the same call goes on."""
    options, result, error = ffi.new("fm_pack_options *"), ffi.new("fm_pack_result *"), new_error()
    lib.fmpy_pack_options(options)
    watcher = Watcher(bar() if progress is True else progress or None, None)
    user, kept = ffi.new_handle(watcher), ffi.new("char[]", to_path(rules)) if rules is not None else ffi.NULL
    options.experts, options.dense, options.group, options.search = _bits(experts, "experts"), _bits(dense, "dense"), group, bool(search)
    options.memory_bytes, options.n_threads, options.rules = to_bytes(memory), threads, kept
    options.progress, options.user = lib.fmpy_progress, user
    code = lib.fm_pack_model(to_path(find(model)), to_path(directory), options, result, error)
    watcher.raise_if_any()
    check(code, error)
    kinds = {ffi.string(k.what).decode(): (k.rmse, k.cosine) for k in result.kinds[0:result.n_kinds]}
    return Packed(os.fspath(directory), result.read_bytes, result.written_bytes, result.seconds, kinds)


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text: exp of the mean negative logarithm of each token's probability."""

    perplexity: float
    mean_nll: float
    tokens: int
    seconds: float

    def __float__(self) -> float:
        return self.perplexity


def perplexity(session: Union[Session, Path], text: Union[str, Sequence[int]], window: int = 512, stride: int = 0, **options: Any) -> Perplexity:
    """Perplexity of a text in windows of so many tokens, each predicted from those before it in its window. `session`: a Session, which is cleared, or a model, which is
    loaded with the `options` of Session."""
    if not isinstance(session, Session):
        with Session(session, **options) as opened:
            return perplexity(opened, text, window, stride)
    if options:
        raise TypeError(f"{', '.join(options)}: options are for a model that is loaded here, not for a session that is open")
    ids = session._as_ids(text)
    how, out = ffi.new("fm_quality_options *"), ffi.new("fm_perplexity_result *")
    lib.fmpy_quality_options(how)
    how.window, how.stride = min(window, max(len(ids), 2)), stride
    with session._handle.lock, session._alone():
        session._handle.run(lib.fm_perplexity, session._engine, ffi.new("int32_t[]", ids), len(ids), how, out)
    return Perplexity(out.perplexity, out.mean_nll, out.n_tokens, out.seconds)


@dataclass(frozen=True)
class Trace:
    """A recorded routing: prompts, tokens of prompts and decoded ones, and the file's size."""

    path: str
    prompts: int
    prompt_tokens: int
    decoded_tokens: int
    file_bytes: int


def trace(session: Union[Session, Path], prompts: Sequence[str], path: Path, max_tokens: int = 128, ignore_eos: bool = False, **options: Any) -> Trace:
    """Records to a file which experts each token of the prompts, and of what is written behind them, is routed to."""
    if not isinstance(session, Session):
        with Session(session, **options) as opened:
            return trace(opened, prompts, path, max_tokens, ignore_eos)
    if isinstance(prompts, str):
        prompts = [prompts]
    texts = [ffi.new("char[]", p.encode()) for p in prompts]
    how, out = ffi.new("fm_trace_options *"), ffi.new("fm_traced *")
    lib.fmpy_trace_options(how)
    how.max_tokens, how.ignore_eos = max_tokens, bool(ignore_eos)
    with session._handle.lock, session._alone():
        session._handle.run(lib.fm_trace_record, session._engine, ffi.new("char *[]", texts), len(texts), to_path(path), how, out)
    return Trace(os.fspath(path), out.n_sequences, out.n_prompt, out.n_decoded, out.file_bytes)


__all__ = ["Plan", "plan", "Packed", "pack", "Perplexity", "perplexity", "Trace", "trace"]
