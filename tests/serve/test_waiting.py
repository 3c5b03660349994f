"""Streams of Anthropic's messages and OpenAI's responses that have to wait, and that the server ends: they are kept alive in their API's own way, and say what happened as the
official clients understand it."""
import concurrent.futures
import json
import signal
import time

import pytest

anthropic = pytest.importorskip("anthropic")
openai = pytest.importorskip("openai")

from openai.types.responses import ResponseStreamEvent  # noqa: E402

import wire  # noqa: E402

ENDLESS = {"messages": [{"role": "user", "content": "Tell me a story."}], "logit_bias": {"2": -100, "0": -100}, "max_tokens": 7000, "stream": True}
QUESTION = {"role": "user", "content": "What is the capital of Norway?"}


def blocks(answer):
    return [block for block in answer.body.decode().split("\n\n") if block]


def test_streams_that_wait_and_are_ended(start):
    s = start("--parallel", 1, "--grace", 0, "--alive", 0.2, context=8192)
    message = {"model": "claude", "max_tokens": 9, "messages": [QUESTION], "stream": True}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        first = pool.submit(wire.request, s.url, "/v1/chat/completions", ENDLESS)
        s.wait_for("running", least=1)
        waiting = pool.submit(wire.request, s.url, "/v1/messages", message), pool.submit(wire.request, s.url, "/v1/responses", {"input": "Hello", "stream": True})
        client = anthropic.Anthropic(base_url=s.url, api_key="none", max_retries=0)
        typed = pool.submit(lambda: list(client.messages.create(**message)))
        own = openai.OpenAI(base_url=s.url + "/v1", api_key="none", max_retries=0)
        events = pool.submit(lambda: list(own.responses.create(model="gpt", input="Hello", stream=True)))
        s.wait_for("waiting", least=4)
        time.sleep(1)
        s.process.send_signal(signal.SIGTERM)
        messages, responses = (blocks(each.result(30)) for each in waiting)
        assert s.process.wait(30) == 0, s.log
        first.result(30)
        with pytest.raises(anthropic.APIStatusError) as error:
            typed.result(30)
    names = [block.split("\n")[0] for block in messages]
    assert names[0] == "event: message_start" and names[-1] == "event: error" and set(names[1:-1]) == {"event: ping"}
    assert json.loads(messages[-1].split("data: ")[1])["error"]["type"] == "overloaded_error" == error.value.body["error"]["type"]
    assert responses[0].startswith("event: response.created") and any(block.startswith(":") for block in responses[2:-1])
    failed = wire.typed(ResponseStreamEvent, responses[-1].split("data: ")[1])
    assert failed.type == "response.failed" and failed.response.status == "failed" and "shutting down" in failed.response.error.message
    assert events.result(30)[-1].response.error == failed.response.error


def test_who_may_ask(start, tmp_path):
    """Both clients' ways of showing a key, and their own exceptions for a wrong one."""
    (tmp_path / "key").write_text("secret\n")
    s = start("--api-key", tmp_path / "key")
    for kind, base in ((anthropic.Anthropic, s.url), (openai.OpenAI, s.url + "/v1")):
        for key, module in (("secret", None), ("wrong", anthropic if kind is anthropic.Anthropic else openai)):
            client = kind(base_url=base, api_key=key, max_retries=0)

            def ask():
                if kind is anthropic.Anthropic:
                    return client.messages.create(model="claude", max_tokens=3, messages=[QUESTION])
                return client.responses.create(model="gpt", input="Hello", max_output_tokens=3)
            if module:
                with pytest.raises(module.AuthenticationError):
                    ask()
            else:
                assert ask().usage.output_tokens == 3


def test_strict_model(start):
    s = start("--strict-model", "--alias", "ember")
    with pytest.raises(anthropic.NotFoundError):
        anthropic.Anthropic(base_url=s.url, api_key="none", max_retries=0).messages.create(model="claude", max_tokens=3, messages=[QUESTION])
    own = openai.OpenAI(base_url=s.url + "/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.NotFoundError):
        own.responses.create(model="gpt", input="Hello")
    with pytest.raises(openai.NotFoundError):
        own.completions.create(model="gpt", prompt="Hello")
    assert own.responses.create(model="ember", input="Hello", max_output_tokens=3).model == "ember"
