"""Session: a model in memory and one timeline of tokens, and what people do with it."""

from __future__ import annotations

import asyncio
import codecs
import collections.abc
import contextlib
import json
import os
import struct
from dataclasses import dataclass, field
from typing import Any, AsyncIterator, Callable, Iterator, Optional, Sequence, Union

import numpy

from ._native import ffi, lib
from .errors import CancelledError, FlashMoeError, check, new_error
from .handle import Handle, bar, to_path
from .hub import find

Prompt = Union[str, Sequence[int]]
_FIGURES = struct.Struct("=2q3d3Q2d")
_EOS = lib.FMPY_EOS
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "repeat_last", "seed")


@dataclass(frozen=True)
class Statistics:
    """How fast it went up to a token. `hit_rate` is the share of the routed experts that were in memory, `disk_bytes` what was read for the others, `stall_seconds` how
    long the computation waited for that: these three are sums since the model was loaded. `decode_seconds` is the time from the first token to this one, with what the
    reader of the stream did in between; `library_seconds` is what the library itself took for prompt and tokens."""

    prompt_tokens: int = 0
    tokens: int = 0
    prompt_seconds: float = 0.0
    first_token_seconds: float = 0.0
    decode_seconds: float = 0.0
    hit_rate: float = 1.0
    disk_bytes: int = 0
    stall_seconds: float = 0.0
    library_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of the tokens after the first."""
        return (self.tokens - 1) / self.decode_seconds if self.tokens > 1 and self.decode_seconds > 0 else 0.0

    @property
    def prompt_tokens_per_second(self) -> float:
        return self.prompt_tokens / self.prompt_seconds if self.prompt_seconds > 0 else 0.0


@dataclass(frozen=True)
class Token:
    """One step of a stream. `text` is what became whole characters with this token, `token` its id (-1: none, if none was wanted), `finish_reason` None until the last:
    "stop" (the model ended, or a stop string came) or "length"."""

    text: str
    token: int
    finish_reason: Optional[str] = None
    _figures: bytes = field(default=b"", repr=False)  # fmpy_figures of native.h: few ask each token for them

    @property
    def stats(self) -> Statistics:
        """The Statistics up to this token, also when it is asked for later."""
        if not self._figures:
            return Statistics()
        *times, requests, hits, read, stalled, library = _FIGURES.unpack(self._figures)
        return Statistics(*times, hits / requests if requests else 1.0, read, stalled, library)


@dataclass(frozen=True)
class Event:
    """A piece of a chat's answer. `type` is "text", "reasoning", "call" (a tool call begins: `id`, `name`), "arguments" (a piece of its JSON),
    "call_end", or "stop" (`finish_reason`)."""

    type: str
    text: str = ""
    call: int = 0
    id: Optional[str] = None
    name: Optional[str] = None
    finish_reason: Optional[str] = None


_STOPS = {lib.FM_STOP_EOS: "stop", lib.FM_STOP_STRING: "stop", lib.FM_STOP_LENGTH: "length", lib.FM_STOP_CANCELLED: "cancelled", lib.FM_STOP_CALLS: "tool_calls"}
_EVENTS = {lib.FM_EVENT_TEXT: "text", lib.FM_EVENT_REASONING: "reasoning", lib.FM_EVENT_CALL: "call", lib.FM_EVENT_ARGUMENTS: "arguments",
           lib.FM_EVENT_CALL_END: "call_end", lib.FM_EVENT_STOP: "stop"}


class _Receiver:
    """Where an answer's events go."""

    def __init__(self, function: Callable[[Event], Any]) -> None:
        self.function, self.raised = function, None

    def take(self, e) -> int:
        made = Event(_EVENTS[e.type], ffi.string(e.text).decode("utf-8", "replace") if e.text else "", e.call, _optional(e.id), _optional(e.name),
                     _STOPS.get(e.stop) if e.type == lib.FM_EVENT_STOP else None)
        try:
            self.function(made)
        except BaseException as raised:  # noqa: BLE001: raised again by whoever called the library
            self.raised = raised
            return 1
        return 0


def _optional(text) -> Optional[str]:
    return ffi.string(text).decode("utf-8", "replace") if text else None


@ffi.def_extern()
def fmpy_event(user, event):
    return ffi.from_handle(user).take(event)


def _as_limit(max_tokens: int) -> int:
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int):
        raise TypeError(f"max_tokens is a whole number, not {type(max_tokens).__name__}")
    if not -1 <= max_tokens < 2 ** 31:
        raise ValueError(f"max_tokens is {max_tokens}, but must be -1 (until the context is full) or more")
    return max_tokens


def _as_stops(stop: Union[str, Sequence[str]]) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, collections.abc.Iterable) else (stop,)
    for s in stops:
        if not isinstance(s, str):
            raise TypeError(f"stop is a text or several, not {type(s).__name__}")
        if not s:
            raise ValueError("a stop string is empty")
    return stops


class _Stops:
    """Text on its way out: what may be the beginning of a stop string waits."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.stops, self.held, self.found = stops, "", False
        self.longest = max(map(len, self.stops), default=0)

    def feed(self, text: str, end: bool = False) -> str:
        text = self.held + text
        out = min((at for at in map(text.find, self.stops) if at >= 0), default=len(text))
        self.found = out < len(text)
        for at in range(max(0, len(text) - self.longest + 1), 0 if end else out):
            if any(s.startswith(text[at:]) for s in self.stops):  # it is an earlier one's beginning
                out, self.found = at, False
                break
        self.held = "" if self.found else text[out:]
        return text[:out]


class Session:
    """A model in memory and one timeline of tokens.

    >>> with Session("models/ember", memory="64M") as session:
    ...     print(session.generate("The capital of Norway is", max_tokens=8, temperature=0))
     Oslo.

    `model` is a directory: a Hugging Face or MLX snapshot, or a packed model; or ORG/NAME, which `pull` has fetched. `memory` is all the process may use ("12G", or bytes; None: what is
    free, less a reserve): what does not fit stays on the disk and is read when it is needed. `experts_per_token` below what the model was trained with is
    an approximation. `profile` is a file of `flash-moe profile`: the experts it found most used fill the cache first. `session_cache` is a directory where texts that were read before are found again by a later process.

    `progress(what, done, total)` is called while loading ("load", "experts": bytes) and while a prompt is read ("prompt": tokens); True draws a bar
    with tqdm, if that is installed. `log(level, line)` gets what a person should know. Other options, all None for the library's choice: `context`
    (tokens), `threads`, `pin` (a share of the cache that the profile's first keep), `kv` ("bf16", "f32", "q8"), `activations` ("int8", "f32"), `prefetch`, `verify`, `heat` (a file), `mirror` (a directory), `policy`, `io`, `cpu`,
    `config_from`, `session_cache_size`; and the approximations `missing` ("read", "drop"), `cold_bits` and `cold_below`.

    One thread at a time works with a session; others wait for it. Ctrl-C stops a generation and leaves the session usable. After a fork the child
    cannot use it.
    """

    def __init__(self, model: Union[str, "os.PathLike[str]"], memory: Union[str, int, None] = None, *, profile: Union[str, "os.PathLike[str]", None] = None, experts_per_token: Optional[int] = None,
                 context: Optional[int] = None, threads: Optional[int] = None, session_cache: Union[str, "os.PathLike[str]", None] = None,
                 progress: Union[Callable[[str, int, int], Any], bool, None] = None, log: Optional[Callable[[str, str], Any]] = None, **options: Any) -> None:
        shown = bar() if progress is True else progress or None
        self._handle = Handle(find(model), shown, log, memory=memory, profile=profile, experts_per_token=experts_per_token, context=context, threads=threads,
                              session_cache=session_cache, **options)
        self._turn = 0  # who uses the timeline: a stream that finds another number has lost it
        self._ids: list[int] = []

    # ---- opening and closing ----

    def close(self) -> None:
        """Gives the model's memory back. Closing twice is fine; anything else on a closed session raises ClosedError."""
        self._handle.close()

    def __enter__(self) -> "Session":
        self._handle.check_open()
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._handle.closed or os.getpid() != self._handle.pid:
            return "<flash_moe.Session, closed>"
        info = lib.fm_engine_info(self._engine)
        name = os.path.basename(ffi.string(info.path).decode("utf-8", "replace").rstrip("/"))
        return (f"<flash_moe.Session {name}: {ffi.string(info.family).decode()}, {info.n_parameters / 1e9:.3g} B parameters "
                f"({info.n_active_parameters / 1e9:.3g} B active), {self.memory_gb:.2f} GB of memory, {self.position} of {self.context} tokens>")

    @property
    def _engine(self):
        self._handle.check_open()
        return self._handle.engine[0]

    @property
    def _session(self):
        self._handle.check_open()
        return self._handle.session[0]

    # ---- what it is ----

    @property
    def context(self) -> int:
        """Tokens that the session can hold."""
        return lib.fm_engine_plan(self._engine).context

    @property
    def position(self) -> int:
        """Tokens that it holds."""
        return lib.fm_session_position(self._session)

    @property
    def vocab_size(self) -> int:
        return lib.fm_engine_info(self._engine).vocab

    @property
    def memory_gb(self) -> float:
        """What the plan takes of the memory, in GB (10^9 bytes): weights, experts, the session and buffers."""
        p = lib.fm_engine_plan(self._engine)
        return (p.dense_bytes + p.session_bytes + p.snapshot_bytes + p.buffer_bytes + p.text_bytes + p.overhead_bytes + p.cache_bytes) / 1e9

    @property
    def stats(self) -> dict[str, Any]:
        """Sums since the model was loaded: tokens, experts asked for and found, bytes read, seconds waited and computed."""
        s = ffi.new("fm_stats *")
        with self._handle.lock:
            lib.fm_engine_stats(self._engine, s)
        return {"tokens": s.n_tokens, "experts_requested": s.n_requests, "experts_found": s.n_hits, "hit_rate": s.n_hits / s.n_requests if s.n_requests else 1.0,
                "disk_bytes": s.disk_bytes, "disk_seconds": s.disk_seconds, "stall_seconds": s.stall_seconds,
                "seconds": {ffi.string(lib.fm_phase_name(i)).decode(): s.phase_seconds[i] for i in range(lib.FM_N_PHASES)}}

    # ---- text and tokens ----

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        """Text to token ids. `special`: strings such as <|im_start|> become the tokens they name; else they are plain text."""
        if not isinstance(text, str):
            raise TypeError(f"text to tokenize is str, not {type(text).__name__}")
        encoded, ids, error = text.encode("utf-8", "replace"), ffi.new("int32_t **"), new_error()
        n = check(lib.fm_engine_encode(self._engine, encoded, len(encoded), bool(special), ids, error), error)
        try:
            return ffi.unpack(ids[0], n) if n else []
        finally:
            lib.fm_free(ids[0])

    def detokenize(self, ids: Sequence[int]) -> str:
        """Token ids to text; bytes that are no characters become U+FFFD."""
        return b"".join(self._bytes(i) for i in ids).decode("utf-8", "replace")

    def _bytes(self, token: int) -> bytes:
        at = ffi.new("const char **")
        n = lib.fm_engine_token_bytes(self._engine, token, at)
        return ffi.buffer(at[0], n)[:] if n else b""

    def _as_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenize(prompt)
        if isinstance(prompt, (bytes, bytearray)):
            raise TypeError("a prompt is text or a sequence of token ids, not bytes")
        try:
            return [int(i) for i in prompt]
        except (TypeError, ValueError):
            raise TypeError("a prompt is text or a sequence of token ids") from None

    # ---- the timeline ----

    def feed(self, prompt: Prompt) -> int:
        """Computes a prompt behind what the session holds, so that `logits` are those after its last token. Returns its number of tokens."""
        ids = self._as_ids(prompt)
        with self._handle.lock:
            self._turn += 1
            return self._feed(ids)

    def _feed(self, ids: Sequence[int]) -> int:
        session, made = self._session, ffi.new("int32_t[]", ids)
        call = (session, made, len(ids), lib.FM_LOGITS_LAST, ffi.NULL, ffi.NULL)
        return self._handle.run(lib.fm_session_feed, *call, brief=len(ids) == 1)

    def clear(self) -> None:
        """Back to no tokens."""
        with self._handle.lock:
            self._turn += 1
            lib.fm_session_clear(self._session)

    @property
    def tokens(self) -> list[int]:
        """The tokens it holds."""
        with self._handle.lock:
            n = lib.fm_session_position(self._session)
            return ffi.unpack(lib.fm_session_tokens(self._session), n) if n else []

    @property
    def logits(self) -> Optional["numpy.ndarray"]:
        """Logits of the next token, float32 [vocab_size], or None before anything was fed. It is the library's own memory, not a copy, and cannot be
        written to: the next token changes it, and after `close` it must not be read. Copy it to keep it."""
        with self._handle.lock:
            p = lib.fm_session_logits(self._session)
            if p == ffi.NULL:
                return None
            array = numpy.frombuffer(ffi.buffer(p, 4 * self.vocab_size), dtype=numpy.float32)
        array.flags.writeable = False
        return array

    def save(self, path: Union[str, "os.PathLike[str]"]) -> None:
        """Writes the session's state (not the model) to a file: whole, or not at all."""
        with self._handle.lock:
            self._handle.run(lib.fm_session_save, self._session, to_path(path))

    def load(self, path: Union[str, "os.PathLike[str]"]) -> None:
        """Takes a state back that `save` wrote, of the same model with the same settings."""
        with self._handle.lock:
            self._turn += 1
            self._handle.run(lib.fm_session_load, self._session, to_path(path))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """The budget is for one session: what opens its own gets the room of this one, which comes back empty."""
        self._turn += 1
        session = self._handle.session
        lib.fm_session_close(session)
        try:
            yield
        finally:
            self._handle.run(lib.fm_session_open, session, self._engine)

    # ---- generating ----

    def _sampling(self, given: dict[str, Any]):
        """The model's own sampling with what was given in its place."""
        s = ffi.new("fm_sampling *")
        lib.fm_engine_sampling(self._engine, s)
        bias = given.pop("logit_bias", None) or {}
        for name, value in given.items():
            if name not in _SAMPLING:
                raise TypeError(f"there is no option {name}; those of sampling are {', '.join(_SAMPLING)}, logit_bias")
            try:
                if value is not None:
                    setattr(s, name, value)
            except (TypeError, OverflowError) as e:
                raise type(e)(f"{name} cannot be {value!r}: {e}") from None
        if not isinstance(bias, dict):
            raise TypeError(f"logit_bias is a dict of token ids and what is added to their logits, not {type(bias).__name__}")
        pairs = ffi.new("fm_logit_bias[]", [(int(i), float(b)) for i, b in bias.items()])
        s.bias, s.n_bias = pairs, len(pairs)
        return s, pairs

    def stream(self, prompt: Prompt, max_tokens: int = -1, stop: Union[str, Sequence[str]] = (), **sampling: Any) -> Iterator[Token]:
        """Computes a prompt and yields a Token for each step of what the model writes behind it.

        The session first goes back to the longest beginning that it shares with the prompt, so a prompt that goes on with an earlier one costs only what is
        new. `max_tokens` -1 is until the context is full. `stop`: texts that end it and are not given. Sampling is the model's own unless given: `temperature`
        (0: the likeliest), `top_k`, `top_p`, `min_p`, `repeat_penalty`, `presence_penalty`, `frequency_penalty`, `repeat_last`, `seed`, `logit_bias` ({id: bias}).
        Leaving the loop early is fine.
        """
        stops, limit, ids = _Stops(_as_stops(stop)), _as_limit(max_tokens), self._as_ids(prompt)
        how, _keep = self._sampling(dict(sampling))
        return self._stream(ids, limit, stops, how, _keep)

    def _stream(self, ids: list[int], max_tokens: int, stops: _Stops, how, _keep) -> Iterator[Token]:
        handle, stream = self._handle, ffi.new("fmpy_stream *", {"engine": self._handle.engine, "session": self._handle.session, "pid": self._handle.pid})
        lock, watcher, following, unpack, figures = handle.lock, handle.watcher, lib.fmpy_stream_next, ffi.unpack, ffi.buffer(ffi.addressof(stream, "figures"))
        decoder, partial, n, reason = codecs.getincrementaldecoder("utf-8")("replace"), False, 0, None
        try:
            with lock:
                handle.check_open()
                self._turn += 1
                turn = self._turn
                handle.run(lib.fmpy_stream_begin, stream, how, ffi.new("int32_t[]", ids), len(ids))
            while reason is None:
                text, token = "", -1
                with lock:
                    if turn != self._turn:
                        handle.check_open()
                        raise FlashMoeError("the session was used for something else while it streamed")
                    if n != max_tokens:
                        token = following(stream)  # without the interpreter's lock
                        if token < 0 or watcher.raised is not None:
                            handle.check_open()
                            watcher.raise_if_any()
                            check(token, stream.error)
                        n += 1
                    end = stream.end
                    if token >= 0 and end != _EOS:
                        text = unpack(stream.bytes, stream.n_bytes)
                        if partial or not text.isascii():
                            text = decoder.decode(text)
                            partial = decoder.getstate()[0]
                        else:
                            text = text.decode("ascii")
                        if stops.stops:
                            text = stops.feed(text)
                    seen = figures[:]
                if stops.found or end == _EOS:
                    reason = "stop"
                elif end or n == max_tokens:
                    reason = "length"
                if reason and not stops.found:
                    text += stops.feed(decoder.decode(b"", True), True)
                    reason = "stop" if stops.found else reason
                yield Token(text, token, reason, seen)
        finally:
            lib.fmpy_stream_end(stream)

    def generate(self, prompt: Prompt, max_tokens: int = -1, stop: Union[str, Sequence[str]] = (), **sampling: Any) -> str:
        """The whole text that `stream` would give."""
        return "".join(t.text for t in self.stream(prompt, max_tokens, stop, **sampling))

    # ---- chat ----

    def _chat(self):
        if not self._handle.chat[0]:
            options = ffi.new("fm_chat_options *")
            lib.fmpy_chat_options(options)
            self._handle.run(lib.fm_chat_open, self._handle.chat, self._engine, options)
        return self._handle.chat[0]

    def chat(self, messages: Union[str, Sequence[dict]], tools: Optional[Sequence[dict]] = None, max_tokens: int = -1, stop: Union[str, Sequence[str]] = (),
             on_event: Optional[Callable[[Event], Any]] = None, think_budget: int = -1, force_call: Optional[str] = None,
             template: Optional[dict] = None, **sampling: Any) -> dict:
        """One answer to a conversation, as a message: {"role": "assistant", "content", "reasoning_content", "tool_calls", "finish_reason"}.

        `messages` and `tools` have OpenAI's form; a text stands for one message of the user. Append the answer (and a "tool" message for each call's result) and call
        again to go on: only what is new is computed. `on_event` gets each Event as it is written. `think_budget`: tokens of reasoning at most. `force_call`: the answer
        has to be a call of the function of this name ("": of any). `template`: variables for the chat template, such as {"enable_thinking": False}.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        if isinstance(messages, dict):
            raise TypeError("messages is a text or a sequence of messages; one message is [message]")
        request: dict[str, Any] = {"messages": list(messages)}
        if tools:
            request["tools"] = list(tools)
        if template:
            request["chat_template_kwargs"] = template
        encoded = json.dumps(request).encode()
        options, receiver, answered = ffi.new("fm_answer_options *"), _Receiver(on_event) if on_event else None, ffi.new("fm_answered *")
        lib.fmpy_answer_options(options)
        stops = [ffi.new("char[]", s.encode()) for s in _as_stops(stop)]
        table = ffi.new("char *[]", stops)
        forced = ffi.new("char[]", force_call.encode()) if force_call is not None else ffi.NULL
        options.max_tokens, options.think_budget, options.stops, options.n_stops = _as_limit(max_tokens), think_budget, table, len(stops)
        options.force_call = forced
        if receiver:
            user = ffi.new_handle(receiver)
            options.event, options.user = lib.fmpy_event, user
        try:
            with self._handle.lock:
                self._turn += 1
                how, _keep = self._sampling(dict(sampling))
                self._handle.run(lib.fm_chat_answer, self._chat(), self._session, encoded, how, options, answered)
            if receiver and receiver.raised is not None:
                raise receiver.raised
            message = json.loads(ffi.string(answered.message).decode("utf-8", "replace"))
        finally:
            lib.fm_free(answered.message)
        message["finish_reason"] = _STOPS.get(answered.stop)
        return message

    # ---- from coroutines ----

    async def astream(self, prompt: Prompt, max_tokens: int = -1, stop: Union[str, Sequence[str]] = (), **sampling: Any) -> AsyncIterator[Token]:
        """`stream` for `async for`: the event loop goes on while a token is computed. Cancelling the task stops a prompt that is being read."""
        made, end, loop = self.stream(prompt, max_tokens, stop, **sampling), object(), asyncio.get_running_loop()
        token = await self._cancellable(next, made, end)  # the prompt, which may take long
        while token is not end:
            yield token
            token = await loop.run_in_executor(None, next, made, end)

    async def _cancellable(self, function: Callable, *arguments: Any, **more: Any) -> Any:
        """A call in another thread. Cancelling the task cancels the computation, and comes back when that has ended."""
        work = asyncio.ensure_future(asyncio.to_thread(function, *arguments, **more))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            lib.fm_engine_cancel(self._engine, True)
            try:
                await work
            except CancelledError:
                pass
            finally:
                lib.fm_engine_cancel(self._engine, False)
            raise

    async def agenerate(self, prompt: Prompt, max_tokens: int = -1, stop: Union[str, Sequence[str]] = (), **sampling: Any) -> str:
        """`generate`, awaited."""
        return "".join([t.text async for t in self.astream(prompt, max_tokens, stop, **sampling)])

    async def achat(self, messages: Union[str, Sequence[dict]], tools: Optional[Sequence[dict]] = None, **options: Any) -> dict:
        """`chat`, awaited. Cancelling the task cancels the computation."""
        return await self._cancellable(self.chat, messages, tools, **options)
