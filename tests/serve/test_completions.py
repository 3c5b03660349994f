"""OpenAI's Completions with the official client `openai`: prompts as text, lists and tokens, echo, n, stop, probabilities, streams chunk by chunk, errors as typed exceptions."""
import json

import pytest

openai = pytest.importorskip("openai")

from openai.types import Completion  # noqa: E402

import wire  # noqa: E402

PROMPT = "<|im_start|>user\nWhat is the capital of Norway?<|im_end|>\n<|im_start|>assistant\n"
OSLO = "The capital of Norway is Oslo."


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def create(client, prompt=PROMPT, **more):
    more = {"max_tokens": 40, "temperature": 0, **more}
    return client.completions.create(model="gpt", prompt=prompt, **more)


class Chunk(Completion):
    """OpenAI's type says that a finish_reason is always there, which is not so in its own streams."""
    choices: list


def chunks(server, **body):
    """The typed chunks of a stream."""
    found = wire.events(server.url, "/v1/completions", {"model": "gpt", "prompt": PROMPT, "max_tokens": 40, "temperature": 0, **body})
    assert found[-1] == (None, "[DONE]") and all(event.name is None for event in found)
    all_of_them = [wire.typed(Chunk, event.data) for event in found[:-1]]
    assert len({chunk.id for chunk in all_of_them}) == 1 and {chunk.object for chunk in all_of_them} == {"text_completion"}
    return all_of_them


def texts_of(found):
    texts, reasons = {}, {}
    for chunk in found:
        for choice in chunk.choices:
            assert choice["index"] not in reasons, "nothing comes after the end"
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
            if choice["finish_reason"]:
                reasons[choice["index"]] = choice["finish_reason"]
    return texts, reasons


def test_a_text_goes_on(server, client):
    completion = create(client)
    assert completion.choices[0].text == OSLO and completion.choices[0].finish_reason == "stop" and completion.id.startswith("cmpl-")
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    typed = wire.typed(Completion, wire.ask(server.url, "/v1/completions", {"model": "gpt", "prompt": PROMPT, "max_tokens": 40, "temperature": 0}))
    assert typed.choices[0].text == OSLO and typed.usage.prompt_tokens_details.cached_tokens > 0


def test_it_is_text_and_nothing_else(client):
    """Neither a call nor reasoning: tags stay as the model writes them."""
    prompt = "<|im_start|>user\nList the files in docs.<|im_end|>\n<|im_start|>assistant\n"
    for begun in ("<tool_call>\n<function=", "<think>\n"):
        assert create(client, prompt + begun, echo=True).choices[0].text.startswith(prompt + begun)


def test_max_tokens(client):
    assert create(client, max_tokens=3).usage.completion_tokens == 3 and create(client, max_tokens=3).choices[0].finish_reason == "length"
    assert client.completions.create(model="gpt", prompt="Once", temperature=0).usage.completion_tokens <= 16


def test_prompts_as_tokens_and_lists(server, client):
    tokens = wire.ask(server.url, "/tokenize", {"content": PROMPT})["tokens"]
    assert create(client, tokens).choices[0].text == OSLO
    for prompt in ([PROMPT, "Once upon a time"], [tokens, tokens[:5]]):
        both = create(client, prompt)
        assert [choice.index for choice in both.choices] == [0, 1] and both.choices[0].text == OSLO
        assert both.choices[1].text == create(client, prompt[1]).choices[0].text
        assert both.usage.prompt_tokens == sum(create(client, each).usage.prompt_tokens for each in prompt)


def test_n(client):
    same = create(client, n=3)
    assert [choice.index for choice in same.choices] == [0, 1, 2] and {choice.text for choice in same.choices} == {OSLO}
    assert same.usage.prompt_tokens == create(client).usage.prompt_tokens and same.usage.completion_tokens == 3 * create(client).usage.completion_tokens
    many = create(client, "Once upon a time", n=4, temperature=2, seed=1)
    assert len({choice.text for choice in many.choices}) > 1
    assert [c.text for c in many.choices] == [c.text for c in create(client, "Once upon a time", n=4, temperature=2, seed=1).choices]


def test_echo(client):
    assert create(client, echo=True).choices[0].text == PROMPT + OSLO


def test_stop(client):
    assert create(client, stop=" is").choices[0].text == "The capital of Norway"
    assert create(client, stop=["Denmark", "Oslo"]).choices[0].finish_reason == "stop"


def test_logprobs(client):
    choice = create(client, logprobs=2).choices[0]
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == OSLO and len(logprobs.token_logprobs) == len(logprobs.tokens) and max(logprobs.token_logprobs) <= 0
    assert [OSLO[offset:].startswith(token) for offset, token in zip(logprobs.text_offset, logprobs.tokens)] == [True] * len(logprobs.tokens)
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
        assert 2 <= len(top) <= 3 and top[token] == logprob == max(top.values())
    assert create(client, logprobs=0).choices[0].logprobs.tokens == logprobs.tokens


def test_a_stream_says_the_same(server, client):
    found = chunks(server)
    assert texts_of(found) == ({0: OSLO}, {0: "stop"}) and all(chunk.usage is None for chunk in found)
    assert "".join(chunk.choices[0].text for chunk in create(client, stream=True)) == OSLO
    assert texts_of(chunks(server, max_tokens=3))[1] == {0: "length"}


def test_usage_in_a_stream(server, client):
    found = chunks(server, stream_options={"include_usage": True})
    assert found[-1].choices == [] and found[-1].usage.completion_tokens == create(client).usage.completion_tokens
    assert all(chunk.usage is None for chunk in found[:-1])


def test_several_in_a_stream(server):
    texts, reasons = texts_of(chunks(server, n=2, prompt=[PROMPT, PROMPT], echo=True))
    assert texts == {i: PROMPT + OSLO for i in range(4)} and reasons == {i: "stop" for i in range(4)}


def test_logprobs_in_a_stream(server):
    tokens = [token for chunk in chunks(server, logprobs=1) for choice in chunk.choices if choice["logprobs"] for token in choice["logprobs"]["tokens"]]
    assert "".join(tokens) == OSLO


@pytest.mark.parametrize("param, more", [
    ("prompt", {"prompt": []}), ("prompt", {"prompt": ""}), ("prompt", {"prompt": [1, 10 ** 9]}), ("prompt", {"prompt": [1, "x"]}), ("prompt", {"prompt": [[]]}),
    ("suffix", {"suffix": "end"}), ("best_of", {"best_of": 3}), ("n", {"n": 10 ** 6}), ("n", {"n": 0}), ("max_tokens", {"max_tokens": 0}),
    ("logprobs", {"logprobs": 1, "echo": True}), ("logprobs", {"logprobs": 99}), ("stop", {"stop": [""]}), ("temperature", {"temperature": 3}),
    ("frobnicate", {"extra_body": {"frobnicate": 1}}), ("stream_options", {"stream_options": {"include_usage": True}}),
])
def test_what_is_wrong_is_named(client, param, more):
    with pytest.raises(openai.BadRequestError) as error:
        create(client, **more)
    assert error.value.param == param and error.value.type == "invalid_request_error" and json.dumps(error.value.body)


@pytest.mark.parametrize("more", [{"user": "u"}, {"frequency_penalty": 0, "presence_penalty": 0}, {"suffix": None}, {"best_of": 1}, {"seed": 3}, {"logit_bias": {}}])
def test_advice_and_defaults_are_accepted(client, more):
    assert create(client, **more).choices[0].text == OSLO


def test_logit_bias(server, client):
    oslo = wire.ask(server.url, "/tokenize", {"content": OSLO})["tokens"]
    assert create(client, logit_bias={str(oslo[0]): -100}).choices[0].text != OSLO
