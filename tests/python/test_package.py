"""What people do with the package: the same results as the program's, bit for bit; and what they do wrong."""
import asyncio
import ctypes
import doctest
import inspect
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import flash_moe
from conftest import EMBER, ROOT, TINY, program

PROMPTS = ["Once upon a time", "The capital of Norway is", "Mia and Tom went to the old mill because", "é 你好 🦊"]
WEATHER = [{"type": "function", "function": {"name": "get_weather", "description": "Get the current weather for a city.",
                                             "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "City name"}}, "required": ["city"]}}}]


def said(*arguments):
    return json.loads(program("run", EMBER, "--memory", "64M", "--context", 2048, "--heat", "off", "--json", *arguments))


# ---- the same as the program ----

@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 5}], ids=["greedy", "sampled"])
def test_texts_are_the_program_s(session, prompt, sampling):
    names = {"temperature": "--temp", "top_k": "--top-k", "top_p": "--top-p", "seed": "--seed"}
    options = [x for name, value in sampling.items() for x in (names[name], value)]
    session.clear()
    assert session.generate(prompt, max_tokens=40, **sampling) == said("--raw", "-p", prompt, "-n", 40, *options)["text"]


def test_logits_are_the_program_s_bit_for_bit(session, tmp_path):
    ids = session.tokenize(PROMPTS[0] + PROMPTS[2])
    program("dump", EMBER, "--ids", ",".join(map(str, ids)), "-o", tmp_path / "dump", "--context", 2048)
    raw = (tmp_path / "dump").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    begin, end = json.loads(raw[8:8 + size])["logits"]["data_offsets"]
    want = np.frombuffer(raw[8 + size + begin:8 + size + end], "<f4").reshape(len(ids), -1)
    session.clear()
    for i, token in enumerate(ids):
        session.feed([token])
        assert session.logits.tobytes() == want[i].tobytes(), i


def test_a_chat_is_the_program_s(session):
    question = "What is the capital of Norway?"
    message = session.chat(question, temperature=0, max_tokens=60)
    assert message["content"] == said("-p", question, "-n", 60, "--temp", 0)["text"] != ""
    assert (message["role"], message["finish_reason"]) == ("assistant", "stop")


def test_perplexity_and_plan_and_pack_are_the_program_s(tmp_path):
    text = (EMBER / "held-out.txt").read_text()[:3000]
    (tmp_path / "text").write_text(text)
    theirs = json.loads(program("perplexity", EMBER, "-f", tmp_path / "text", "--window", 128, "--json"))
    ours = flash_moe.perplexity(EMBER, text, window=128)
    assert float(ours) == ours.perplexity == pytest.approx(theirs["perplexity"], rel=1e-6) and ours.tokens > 100
    plan, stated = flash_moe.plan(EMBER, memory="24M", context=512), json.loads(program("plan", EMBER, "--memory", "24M", "--context", 512, "--json"))
    assert plan.cache == stated["cache_bytes"] and plan.slots == stated["n_slots"] and plan.fits and not plan.resident
    assert not flash_moe.plan(EMBER, memory="1M").fits
    packed = flash_moe.pack(EMBER, tmp_path / "ours", experts=2)
    program("pack", EMBER, "-o", tmp_path / "theirs", "--experts", 2)
    for path in sorted(p for p in (tmp_path / "theirs").rglob("*") if p.is_file()):
        assert (tmp_path / "ours" / path.relative_to(tmp_path / "theirs")).read_bytes() == path.read_bytes(), path
    assert packed.written_bytes > 10 ** 6 and all(0 < cosine < 1 for _, cosine in packed.kinds.values()) and packed.kinds


def test_trace(session, tmp_path):
    made = flash_moe.trace(session, ["Once upon a time"], tmp_path / "trace", max_tokens=8)
    assert (made.prompts, made.prompt_tokens) == (1, 4) and made.file_bytes == (tmp_path / "trace").stat().st_size
    assert session.position == 0 and session.generate("The capital of Norway is", max_tokens=8, temperature=0) == " Oslo."


def test_models_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(flash_moe.ReadError, match="org/name"):
        flash_moe.Session("org/name")
    snapshot = tmp_path / "models--org--name" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for path in EMBER.iterdir():
        (snapshot / path.name).symlink_to(path)
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text("0" * 40)
    assert flash_moe.generate("org/name", PROMPTS[1], max_tokens=8, temperature=0) == " Oslo."
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(flash_moe.ReadError):
        flash_moe.pull("org/other", retries=1)
    with pytest.raises(flash_moe.InvalidArgumentError):
        flash_moe.pull("no name")


# ---- streams ----

def test_a_stream_says_what_it_does(session):
    tokens = list(session.stream(PROMPTS[0], max_tokens=12, temperature=0))
    assert [t.finish_reason for t in tokens] == [None] * 11 + ["length"] and len({t.token for t in tokens}) > 3
    assert "".join(t.text for t in tokens) == session.generate(PROMPTS[0], max_tokens=12, temperature=0)
    assert [t.stats.tokens for t in tokens] == list(range(1, 13)) and tokens[-1].stats.tokens_per_second > 0 and tokens[-1].stats.prompt_tokens == 4
    assert list(session.stream(PROMPTS[1], temperature=0))[-1].finish_reason == "stop"


def test_only_what_is_new_is_computed(session):
    session.generate(PROMPTS[2] + " the miller was away.", max_tokens=8, temperature=0)
    before = session.stats["tokens"]
    text = session.generate(session.tokens + session.tokenize(" And"), max_tokens=1, temperature=0)
    assert session.stats["tokens"] - before <= 3 and text


def test_stop_strings(session):
    whole = session.generate(PROMPTS[0], max_tokens=60, temperature=0)
    word = whole.split()[6]
    tokens = list(session.stream(PROMPTS[0], max_tokens=60, temperature=0, stop=["never said", word]))
    assert "".join(t.text for t in tokens) == whole[:whole.index(word)] and tokens[-1].finish_reason == "stop"
    assert session.generate(PROMPTS[0], max_tokens=60, temperature=0, stop="never said") == whole
    with pytest.raises(ValueError, match="a stop string is empty"):
        session.generate(PROMPTS[0], stop="")


def test_leaving_a_stream_and_using_the_session_meanwhile(session):
    for token in session.stream(PROMPTS[0], max_tokens=50):
        break
    stream = session.stream(PROMPTS[0], max_tokens=50)
    next(stream)
    session.feed(PROMPTS[1])
    with pytest.raises(flash_moe.FlashMoeError, match="used for something else while it streamed"):
        next(stream)
    assert session.generate(PROMPTS[1], max_tokens=8, temperature=0) == " Oslo."


def test_in_one_line_and_by_the_older_names():
    text = flash_moe.generate(str(EMBER), PROMPTS[1], max_tokens=8, temperature=0, memory="64M")
    assert text == " Oslo." == flash_moe.flash_generate(EMBER, PROMPTS[1], max_tokens=8, temperature=0)
    assert "".join(t.text for t in flash_moe.flash_stream_generate(EMBER, PROMPTS[1], max_tokens=8, temperature=0)) == text
    assert flash_moe.FlashSession is flash_moe.Session


def test_from_coroutines(session):
    async def several():
        assert await session.agenerate(PROMPTS[1], max_tokens=8, temperature=0) == " Oslo."
        seen = [t.text async for t in session.astream(PROMPTS[1], max_tokens=8, temperature=0)]
        ticks, task = 0, asyncio.ensure_future(session.achat("Tell me a story.", temperature=0, max_tokens=150))
        while not task.done():
            await asyncio.sleep(0.001)
            ticks += 1
        assert len(task.result()["content"]) > 20 and ticks > 3  # the loop went on
        task = asyncio.ensure_future(session.achat("Tell me a long story.", logit_bias={0: -100, 2: -100}))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return "".join(seen)
    assert asyncio.run(several()) == " Oslo." == session.generate(PROMPTS[1], max_tokens=8, temperature=0)


# ---- chat ----

def test_a_tool_round_trip(session):
    events, messages = [], [{"role": "user", "content": "What is the weather in Oslo?"}]
    answer = session.chat(messages, tools=WEATHER, temperature=0, max_tokens=200, on_event=events.append)
    call = answer["tool_calls"][0]
    assert answer["finish_reason"] == "tool_calls" and json.loads(call["function"]["arguments"]) == {"city": "Oslo"}
    assert [e.type for e in events if e.type not in ("text", "reasoning", "arguments")] == ["call", "call_end", "stop"]
    assert json.loads("".join(e.text for e in events if e.type == "arguments")) == {"city": "Oslo"} and events[-1].finish_reason == "tool_calls"
    messages += [answer, {"role": "tool", "tool_call_id": call["id"], "content": '{"temperature": 12, "sky": "cloudy"}'}]
    assert "12" in session.chat(messages, tools=WEATHER, temperature=0, max_tokens=60)["content"]
    forced = session.chat("Hello!", tools=WEATHER, force_call="get_weather", temperature=0, max_tokens=80)
    assert forced["tool_calls"][0]["function"]["name"] == "get_weather"


def test_an_exception_in_a_callback_is_raised_here(session):
    def fail(event):
        raise LookupError("mine")
    with pytest.raises(LookupError, match="mine"):
        session.chat("Hello!", on_event=fail, max_tokens=20)
    with pytest.raises(LookupError, match="mine"):
        flash_moe.Session(EMBER, memory="64M", progress=lambda *a: fail(a))
    assert session.generate(PROMPTS[1], max_tokens=8, temperature=0) == " Oslo."


def test_progress_and_log():
    steps, lines = [], []
    with flash_moe.Session(EMBER, memory="64M", experts_per_token=2, progress=lambda *a: steps.append(a), log=lambda *a: lines.append(a)) as s:
        s.feed(list(range(300, 400)))
    assert {what for what, _, _ in steps} >= {"load", "prompt"} and all(done <= total for _, done, total in steps)
    assert ("warning", "2 experts a token instead of the 6 this model was trained with: an approximation") in lines or lines


# ---- memory ----

def test_logits_are_no_copy(session):
    session.feed("x")
    a, b = session.logits, session.logits
    assert a.shape == (session.vocab_size,) and a.dtype == np.float32 and a.ctypes.data == b.ctypes.data
    with pytest.raises(ValueError):
        a[0] = 1
    kept, before = a.copy(), a.ctypes.data
    session.feed("y")
    assert session.logits.ctypes.data == before and not np.array_equal(session.logits, kept)


def test_save_and_load(session, tmp_path):
    session.clear()
    session.feed(PROMPTS[2])
    tokens, logits = session.tokens, session.logits.copy()
    session.save(tmp_path / "state")
    session.clear()
    assert session.position == 0 and session.tokens == []
    session.load(tmp_path / "state")
    assert session.tokens == tokens
    session.clear()
    session.feed(PROMPTS[2])
    assert np.array_equal(session.logits, logits)
    (tmp_path / "state").write_bytes(b"none of it")
    with pytest.raises(flash_moe.FormatError, match="state"):
        session.load(tmp_path / "state")


def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="there is no /proc")
def test_a_thousand_sessions_leave_nothing():
    def some(n):
        for i in range(n):
            with flash_moe.Session(TINY, memory="32M", context=64, threads=1) as s:
                s.feed([1, 2, 3])
            if i % 10 == 0:
                flash_moe.Session(TINY, memory="32M", context=64, threads=1)  # forgotten, not closed
    some(100)
    before, files = resident(), len(os.listdir("/proc/self/fd"))
    some(1000)
    assert resident() - before < 4096 and len(os.listdir("/proc/self/fd")) == files, (before, resident())


# ---- what goes wrong ----

@pytest.mark.parametrize("make, kind, sentence", [
    (lambda p: flash_moe.Session("none"), flash_moe.ReadError, "none: there is no such directory"),
    (lambda p: flash_moe.Session(EMBER, memory="1M"), flash_moe.OutOfMemoryError, "does not fit in 1 MiB: it needs at least"),
    (lambda p: flash_moe.Session(EMBER, experts_per_token=200), flash_moe.InvalidArgumentError, "200 experts a token is more than"),
    (lambda p: flash_moe.Session(p), flash_moe.FormatError, "config.json"),
    (lambda p: flash_moe.pack(EMBER, p), flash_moe.ReadError, "it is there already"),
])
def test_errors_have_a_kind_and_a_sentence(tmp_path, make, kind, sentence):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(flash_moe.FlashMoeError) as e:
        make(tmp_path)
    assert sentence in str(e.value) and e.value.code < 0 and type(e.value) in (kind, flash_moe.FormatError, flash_moe.ReadError), repr(e.value)


def test_the_context_is_full(session):
    with pytest.raises(flash_moe.ContextFullError):
        session.feed([1] * (session.context + 1))
    with pytest.raises(flash_moe.InvalidArgumentError, match="outside the vocabulary"):
        session.feed([10 ** 6])
    assert session.generate(PROMPTS[1], max_tokens=8, temperature=0) == " Oslo."


def test_after_close():
    s = flash_moe.Session(EMBER, memory="64M", context=256)
    stream = s.stream(PROMPTS[0])
    next(stream)
    s.close()
    s.close()
    uses = [lambda: s.generate("x"), lambda: s.feed([1]), lambda: s.logits, lambda: s.tokens, lambda: s.stats, lambda: s.tokenize("x"), lambda: s.detokenize([1]), lambda: s.chat("x"),
            lambda: s.save("x"), lambda: s.load("x"), lambda: s.clear(), lambda: s.position, lambda: s.context, lambda: s.memory_gb, lambda: s.vocab_size, lambda: next(stream),
            lambda: s.__enter__(), lambda: flash_moe.perplexity(s, "a b c"), lambda: flash_moe.trace(s, "x", "y")]
    for use in uses:
        with pytest.raises(flash_moe.ClosedError, match="the session is closed"):
            use()
    assert "closed" in repr(s)


@pytest.mark.parametrize("use, kind, sentence", [
    (lambda s: s.generate("x", max_tokens=-5), ValueError, "max_tokens is -5, but must be -1"), (lambda s: s.chat("x", max_tokens="5"), TypeError, "max_tokens is a whole number, not str"),
    (lambda s: s.generate("x", temprature=0), TypeError, "there is no option temprature; those of sampling are temperature,"),
    (lambda s: s.generate("x", temperature="hot"), TypeError, "temperature cannot be 'hot'"), (lambda s: s.generate("x", seed=-1), OverflowError, "seed cannot be -1"),
    (lambda s: s.generate("x", logit_bias=[1]), TypeError, "logit_bias is a dict"), (lambda s: s.generate("x", stop=5), TypeError, "stop is a text or several, not int"),
    (lambda s: s.chat("x", stop=["a", ""]), ValueError, "a stop string is empty"), (lambda s: s.chat({"role": "user", "content": "x"}), TypeError, r"one message is \[message\]"),
    (lambda s: flash_moe.Session(EMBER, cpu=5), TypeError, "cpu is text, not int"), (lambda s: flash_moe.Session(EMBER, cold_below="a"), TypeError, "cold_below is a share"),
    (lambda s: flash_moe.Session(EMBER, progress=5), TypeError, "progress is a function, not int"), (lambda s: flash_moe.Session(EMBER, text="a"), TypeError, "there is no option text"),
])
def test_what_is_wrong_is_named(session, use, kind, sentence):
    with pytest.raises(kind, match=sentence):
        use(session)


@pytest.mark.parametrize("use, kind", [
    (lambda s: s.feed(b"bytes"), TypeError), (lambda s: s.feed(3), TypeError), (lambda s: s.feed(["a"]), TypeError), (lambda s: s.feed([2 ** 40]), OverflowError),
    (lambda s: s.feed([]), ValueError), (lambda s: s.tokenize(b"x"), TypeError), (lambda s: s.generate("x", max_tokens="3"), TypeError),
    (lambda s: s.generate("x", heat=3), TypeError), (lambda s: s.generate("x", temperature="warm"), TypeError), (lambda s: s.generate("x", top_p=7), ValueError),
    (lambda s: s.chat([{"role": 3}]), ValueError), (lambda s: s.chat([{"content": object()}]), TypeError), (lambda s: s.save(3), TypeError),
    (lambda s: flash_moe.Session(EMBER, memory="much"), ValueError), (lambda s: flash_moe.Session(EMBER, memory=-1), ValueError), (lambda s: flash_moe.Session(3), TypeError),
    (lambda s: flash_moe.Session(EMBER, colour=3), TypeError), (lambda s: flash_moe.Session(EMBER, kv="f8"), ValueError), (lambda s: flash_moe.Session("a\0b"), ValueError),
    (lambda s: flash_moe.Session(EMBER, context="many"), TypeError), (lambda s: flash_moe.pack(EMBER, "x", experts=7), ValueError),
])
def test_wrong_types_and_values(session, use, kind):
    with pytest.raises(kind):
        use(session)
    assert session.generate(PROMPTS[1], max_tokens=8, temperature=0) == " Oslo."


def test_threads_wait_for_each_other(session):
    want, got = session.generate(PROMPTS[0], max_tokens=30, temperature=0), []
    threads = [threading.Thread(target=lambda: got.append(session.generate(PROMPTS[0], max_tokens=30, temperature=0))) for _ in range(4)]
    failed = []

    def work():
        for _ in range(10):
            try:
                got.append(session.generate(PROMPTS[0], max_tokens=30, temperature=0))
            except flash_moe.FlashMoeError as e:  # another took the timeline
                failed.append(str(e))
    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert set(got) <= {want} and set(failed) <= {"the session was used for something else while it streamed"} and len(got) + len(failed) == 40 and got
    s = flash_moe.Session(EMBER, memory="64M", context=512)
    closing = threading.Timer(0.05, s.close)
    closing.start()
    with pytest.raises((flash_moe.ClosedError, StopIteration)):
        while True:
            s.generate(PROMPTS[0], max_tokens=30)
    closing.join()


def run_python(text, *arguments, **more):
    return subprocess.run([sys.executable, "-c", textwrap.dedent(text), str(EMBER), *arguments], capture_output=True, text=True, timeout=120, **more)


def test_after_a_fork():
    result = run_python("""
        import flash_moe, os, sys, warnings
        warnings.simplefilter("ignore")
        s = flash_moe.Session(sys.argv[1], memory="64M", context=256)
        want = s.generate("The capital of Norway is", max_tokens=8, temperature=0)
        stream = s.stream("Once upon a time", temperature=0)
        next(stream)
        child = os.fork()
        if child == 0:
            for use in (lambda: next(stream), lambda: s.generate("x"), lambda: s.logits, lambda: s.stats):
                try:
                    use()
                except flash_moe.ForkedError as e:
                    print(e)
            s.close()
            print(flash_moe.generate(sys.argv[1], "The capital of Norway is", max_tokens=8, temperature=0, memory="64M"), flush=True)
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0 and next(stream).stats.tokens == 2
        assert s.generate("The capital of Norway is", max_tokens=8, temperature=0) == want
    """)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 5 and all("after a fork it cannot be used" in x for x in lines[:4]) and lines[4] == " Oslo."


@pytest.mark.parametrize("work", ["s.feed([300] * 30000)", "s.generate('Once', temperature=1, logit_bias={0: -100, 2: -100})", "s.chat('Hi', max_tokens=25000, logit_bias={0: -100, 2: -100})",
                                  "flash_moe.perplexity(s, [300 + i % 50 for i in range(60000)], window=4096)"])
def test_ctrl_c_stops_at_once_and_leaves_all_usable(work):
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(f"""
        import flash_moe, sys, time
        s = flash_moe.Session(sys.argv[1], memory="400M", context=31000)
        want = s.generate("The capital of Norway is", max_tokens=8, temperature=0)
        print("ready", flush=True)
        try:
            {work}
            print("ended")
        except KeyboardInterrupt:
            print("stopped", flush=True)
        print(s.generate("The capital of Norway is", max_tokens=8, temperature=0) == want)
    """), str(EMBER)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (out, err) == ("stopped\nTrue\n", ""), (out, err)


def test_ctrl_c_while_loading(tmp_path):
    result = run_python("""
        import flash_moe, sys, signal
        def progress(what, done, total):
            signal.raise_signal(signal.SIGINT)
        try:
            flash_moe.Session(sys.argv[1], memory="64M", progress=progress)
        except KeyboardInterrupt:
            print(flash_moe.generate(sys.argv[1], "The capital of Norway is", max_tokens=8, temperature=0, memory="64M"))
    """)
    assert (result.stdout, result.stderr) == (" Oslo.\n", "")


# ---- what it says of itself ----

def test_everything_is_documented():
    for name in flash_moe.__all__:
        thing = getattr(flash_moe, name)
        assert inspect.getdoc(thing), name
    for name, member in vars(flash_moe.Session).items():
        if not name.startswith("_"):
            assert inspect.getdoc(getattr(flash_moe.Session, name)) or name == "vocab_size", name


def test_doctests(monkeypatch):
    monkeypatch.chdir(ROOT)
    for module in (flash_moe, sys.modules["flash_moe.session"], sys.modules["flash_moe.tools"]):
        assert doctest.testmod(module).failed == 0, module.__name__
    assert doctest.DocTestFinder().find(flash_moe.generate)[0].examples


def test_the_page_of_documentation_is_what_the_docstrings_say():
    made = subprocess.run([sys.executable, ROOT / "tools" / "python_docs.py"], capture_output=True, text=True, check=True).stdout
    assert (ROOT / "docs" / "python.md").read_text() == made, "make python-docs writes it"


def test_reprs(session):
    assert "ember: qwen3_5_moe" in repr(session) and "of 2048 tokens" in repr(session)
    plan = flash_moe.plan(EMBER, memory="64M")
    assert "expert cache" in str(plan) and plan._repr_html_().startswith("<table>")


def test_the_extension_is_for_every_python(tmp_path):
    native = sys.modules["flash_moe._native"].__file__
    assert native.endswith(".abi3.so")
    ctypes.CDLL(native)
