"""What a stream says of itself, and its text on the way out."""
import asyncio
import dataclasses
import pickle
import random
import time

import pytest

import flash_moe
from conftest import EMBER
from flash_moe.session import _Stops

NO_END = {0: -100, 2: -100}


@pytest.fixture(scope="module")
def small():
    """A session whose experts do not all fit."""
    with flash_moe.Session(EMBER, memory="24M", context=512) as opened:
        yield opened


def test_statistics_are_those_of_their_token(small):
    small.clear()
    tokens, sums, clock, start = [], [], [], time.perf_counter()
    for token in small.stream("Once upon a time", max_tokens=24, temperature=0, logit_bias=NO_END):
        clock.append(time.perf_counter() - start)
        tokens.append(token)
        sums.append(small.stats)
    seen = [t.stats for t in tokens]  # asked for when all is over
    assert len({s["disk_bytes"] for s in sums}) > 3 and sums[0]["hit_rate"] < 1
    for i, (s, whole, passed) in enumerate(zip(seen, sums, clock)):
        assert (s.prompt_tokens, s.tokens) == (4, i + 1)
        assert (s.hit_rate, s.disk_bytes, s.stall_seconds) == (whole["hit_rate"], whole["disk_bytes"], whole["stall_seconds"])
        assert 0 < s.prompt_seconds <= s.first_token_seconds <= s.first_token_seconds + s.decode_seconds <= passed
        assert (s.prompt_seconds, s.first_token_seconds) == (seen[0].prompt_seconds, seen[0].first_token_seconds)
        assert s.tokens_per_second == (pytest.approx(i / s.decode_seconds) if i else 0) and s.prompt_tokens_per_second == pytest.approx(4 / s.prompt_seconds)
        assert s.prompt_seconds < s.library_seconds <= s.first_token_seconds + s.decode_seconds
    assert [s.library_seconds for s in seen] == sorted({s.library_seconds for s in seen})
    assert [s.decode_seconds for s in seen] == sorted(s.decode_seconds for s in seen) and seen[0].decode_seconds == 0 < seen[1].decode_seconds


def test_a_token_is_a_value(small):
    tokens = list(small.stream("Once upon a time", max_tokens=3, temperature=0))
    again = pickle.loads(pickle.dumps(tokens))
    assert again == tokens and [t.stats for t in again] == [t.stats for t in tokens] and len(set(tokens)) == 3
    assert repr(flash_moe.Token("a", 5)) == "Token(text='a', token=5, finish_reason=None)" and flash_moe.Token("a", 5).stats == flash_moe.Statistics()
    with pytest.raises(dataclasses.FrozenInstanceError):
        tokens[0].text = "b"


def test_a_token_is_given_before_the_next_is_computed(small):
    small.clear()
    stream = small.stream("Once upon a time", temperature=0, logit_bias=NO_END)
    for i in range(3):
        computed = small.stats["tokens"]
        next(stream)
        assert small.position == 4 + i and small.stats["tokens"] - computed == (1 if i else 4)


def test_no_tokens_and_a_full_context(small):
    nothing, = small.stream("Once upon a time", max_tokens=0)
    assert (nothing.text, nothing.token, nothing.finish_reason) == ("", -1, "length") and nothing.stats.tokens == 0 and nothing.stats.prompt_tokens == 4
    small.clear()
    tokens = list(small.stream([300] * 505, temperature=0, logit_bias=NO_END))
    assert len(tokens) == 8 and tokens[-1].finish_reason == "length" and small.position == small.context == 512


def test_characters_come_whole(small):
    ids = sorted({*small.tokenize("🦊"), *small.tokenize("é"), *small.tokenize("a")})
    assert len(ids) > 4  # parts of characters, which a hot sampler throws together
    tokens = list(small.stream([300], max_tokens=300, temperature=5, top_k=len(ids), top_p=1, seed=3, logit_bias=dict.fromkeys(ids, 100)))
    assert {t.token for t in tokens} == set(ids)
    text = "".join(t.text for t in tokens)
    assert text == small.detokenize([t.token for t in tokens]) and "\ufffd" in text and "a" in text and sum(not t.text for t in tokens) > 5


def plain(stops, pieces):
    """What should come of it: the text up to the first stop string, and whether there was one."""
    text = "".join(pieces)
    found = [text.find(s) for s in stops if s in text]
    return (text[:min(found)], True) if found else (text, False)


def test_stop_strings_however_the_text_is_cut():
    chance = random.Random(8)
    for _ in range(3000):
        stops = ["".join(chance.choices("ab", k=chance.randint(1, 4))) for _ in range(chance.randint(1, 3))]
        pieces = ["".join(chance.choices("abc", k=chance.randint(0, 4))) for _ in range(chance.randint(0, 6))]
        out, feed = "", _Stops(tuple(stops))
        for piece in pieces:
            out += feed.feed(piece)
            assert "".join(pieces).startswith(out)
            if feed.found:
                break
        if not feed.found:
            out += feed.feed("", True)
        assert (out, feed.found) == plain(stops, pieces), (stops, pieces)


def test_a_cancelled_task_stops_its_prompt():
    async def cancelled(session):
        task = asyncio.ensure_future(session.agenerate([300 + i % 50 for i in range(30000)], max_tokens=1))
        while not session.position and not task.done():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert session.position < 30000
        return [t.text async for t in session.astream("The capital of Norway is", max_tokens=8, temperature=0)]
    with flash_moe.Session(EMBER, memory="400M", context=31000) as session:
        assert "".join(asyncio.run(cancelled(session))) == " Oslo."


def test_a_chat_is_the_same_with_and_without_a_listener(small):
    events = []
    with_it = small.chat("What is the capital of Norway?", temperature=0, max_tokens=40, on_event=events.append)
    assert with_it == small.chat("What is the capital of Norway?", temperature=0, max_tokens=40) and "".join(e.text for e in events if e.type == "text") == with_it["content"] != ""
