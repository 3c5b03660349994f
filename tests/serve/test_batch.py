"""Several at once: the answers are those that each gets alone, bit for bit, and nobody stands still."""
import concurrent.futures
import json
import re
import time

import openai
import pytest

from conftest import BASH, SANITIZED, WEATHER, user

WORDS = "The fox went to the river and saw a boat with a red sail. "


def questions():
    """Requests of all kinds: short and long prompts, greedy and sampled, tools, stops, probabilities."""
    yield dict(messages=user("What is the capital of Norway?"), temperature=0)
    yield dict(messages=user("Tell me a story about Mia the fox."), temperature=0, max_tokens=70)
    for seed in range(4):
        yield dict(messages=user("Tell me a story."), temperature=1, seed=seed, max_tokens=30 + 9 * seed, top_k=40)
    for n in (3, 11, 30):
        yield dict(messages=user(WORDS * n + "What did the fox see?"), temperature=0.7, seed=n, max_tokens=40)
    yield dict(messages=[{"role": "system", "content": WORDS * 20}, *user("Hello!")], temperature=0, max_tokens=25)
    yield dict(messages=user("What is the weather in Belada?"), temperature=0, tools=[WEATHER])
    yield dict(messages=user("List the files in src."), temperature=0, tools=[WEATHER, BASH], tool_choice="required", max_tokens=60)
    yield dict(messages=user("Tell me a story."), temperature=0.9, seed=5, presence_penalty=1, max_tokens=40, stop=[" and"])
    yield dict(messages=user("Tell me a story."), temperature=0.9, seed=6, n=3, max_tokens=20)
    yield dict(messages=user("Tell me a story."), temperature=0, logprobs=True, top_logprobs=5, max_tokens=20)


def essence(answer):
    for choice in answer["choices"]:
        for call in choice["message"].get("tool_calls") or []:
            del call["id"]
    return answer["choices"], answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]


def ask(server, request):
    return essence(server.chat(**json.loads(json.dumps(request))))


@pytest.mark.parametrize("memory", ["96M", "44M"])
def test_answers_do_not_depend_on_others(start, memory):
    s = start("--parallel", 8, "--session-cache", "off", memory=() if SANITIZED else ("--memory", memory))
    requests = list(questions())
    alone = [ask(s, request) for request in requests]
    steps = s.metrics()
    with concurrent.futures.ThreadPoolExecutor(len(requests) * 2) as pool:
        together = list(pool.map(lambda request: ask(s, request), requests * 2))
    assert together == alone * 2
    now = s.metrics()
    batched, n = now["batched_total"] - steps["batched_total"], now["steps_total"] - steps["steps_total"]
    assert batched / n > 2, "they were computed together"
    if memory == "44M" and not SANITIZED:
        assert now["disk_bytes_total"] > 0, "experts were read from the disk"


def test_a_long_prompt_does_not_hold_up_a_stream(start):
    """While a long prompt is read, somebody else's tokens go on coming."""
    s = start("--parallel", 2, "--temp", "0", "--session-cache", "off")
    connection = s.stream(user("Tell me a long story about Mia the fox."), max_tokens=400, logit_bias={"2": -100, "0": -100})
    answer = connection.getresponse()
    answer.readline()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        begin = time.monotonic()
        other = pool.submit(s.chat, user(WORDS * 100), max_tokens=1)
        during = 0
        while not other.done():
            during += answer.readline().startswith(b"data: ")
        took = time.monotonic() - begin
    assert other.result()["usage"]["prompt_tokens"] > 1000
    assert during >= 5, f"{during} tokens in the {took:.2f} seconds that a prompt was read"
    connection.close()
    s.wait_idle()


def test_the_queue_is_fair(start):
    """Many answers of one request do not keep another request waiting for all of them."""
    s = start("--parallel", 2, "--temp", "1")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        many = pool.submit(s.chat, user("Tell me a story."), n=12, max_tokens=120)
        s.wait_for("waiting", least=5)
        assert s.chat(user("What is the capital of Norway?"), temperature=0)["choices"][0]["finish_reason"] == "stop"
        assert not many.done(), "the later and shorter one is ready first"
        assert len(many.result()["choices"]) == 12


def test_too_many_wait(start):
    s = start("--parallel", 1, "--queue", 2, "--temp", "0", "--threads", 1)
    client = s.client()
    client.models.list()
    streams = [s.stream(user("Tell me a story."), max_tokens=1900, logit_bias={"2": -100, "0": -100}) for _ in range(3)]
    s.wait_for("waiting", least=2)
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="ember", messages=user("Hello!"))
    status, headers, data = s.request("POST", "/v1/chat/completions", {"messages": user("Hello!")})
    assert status == 429 and 1 <= int(headers["Retry-After"]) <= 60
    assert json.loads(data)["error"]["type"] == "rate_limit_error"
    for connection in streams:
        connection.close()
    s.wait_idle()
    assert s.chat(user("What is the capital of Norway?"))["choices"][0]["message"]["content"] == "The capital of Norway is Oslo."


def test_a_client_that_leaves_frees_its_slot(start):
    s = start("--parallel", 1, "--temp", "0")
    for streams in (True, False):
        body = json.dumps({"messages": user("Tell me a story."), "stream": streams, "max_tokens": 1900, "logit_bias": {"2": -100, "0": -100}}).encode()
        sock = s.socket()
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        s.wait_for("running", least=1)
        left = s.metrics()["cancelled_total"]
        time.sleep(0.05)
        sock.close()
        begin = time.monotonic()
        s.wait_for("running", most=0)
        assert time.monotonic() - begin < 1 and s.metrics()["cancelled_total"] == left + 1


def test_clients_that_leave_while_they_wait(start):
    s = start("--parallel", 1, "--temp", "0")
    first = s.stream(user("Tell me a story."), max_tokens=1900, logit_bias={"2": -100, "0": -100})
    s.wait_for("running", least=1)
    others = [s.stream(user("Hello!")) for _ in range(5)]
    s.wait_for("waiting", least=5)
    for connection in others:
        connection.close()
    s.wait_for("waiting", most=0)
    first.close()
    s.wait_idle()


def test_who_waits_hears_something(start):
    """A stream that waits for its turn has comments; and one whose prompt is read, how far that is."""
    s = start("--parallel", 1, "--temp", "0", "--threads", 1, "--alive", 0.2)
    first = s.stream(user("Tell me a story."), max_tokens=1900, logit_bias={"2": -100, "0": -100})
    s.wait_for("running", least=1)
    waiting = s.stream(user("What is the capital of Norway?")).getresponse()
    assert waiting.readline().startswith(b"data: ")
    waiting.readline()
    begin = time.monotonic()
    line = waiting.readline()
    assert line.startswith(b": waiting") and time.monotonic() - begin < 1, line
    first.close()
    assert b"Oslo" in waiting.read()


def test_a_long_prompt_says_how_far_it_is(start):
    s = start("--parallel", 1, "--temp", "0", "--threads", 1, "--alive", 0.05, "--session-cache", "off")
    events = s.stream(user(WORDS * 120), max_tokens=2).getresponse().read().split(b"\n\n")
    said = [tuple(map(int, re.fullmatch(rb": reading the prompt, (\d+) of (\d+) tokens", e).groups())) for e in events if e.startswith(b": reading the prompt, ")]
    assert said and said == sorted(said) and all(0 < done < total > 1500 for done, total in said), events
