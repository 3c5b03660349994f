"""POST /v1/chat/completions by the official client: every option, streamed and not, and what is refused."""
import json
import math

import openai
import pytest

from conftest import BASH, EMBER, SYSTEM, WEATHER, user

NORWAY = user("What is the capital of Norway?")
STORY = user("Tell me a story about Mia the fox.")


def collect(stream):
    """What the chunks of a stream make together, by choice; checks what every chunk has."""
    choices, usage, ids = {}, None, set()
    for chunk in stream:
        assert chunk.object == "chat.completion.chunk" and chunk.model == "ember" and chunk.created > 1.7e9
        ids.add(chunk.id)
        assert usage is None, "nothing comes after the usage"
        if not chunk.choices:
            usage = chunk.usage
            continue
        choice, = chunk.choices
        have = choices.setdefault(choice.index, {"role": None, "content": "", "reasoning": "", "calls": [], "logprobs": [], "finish": None})
        assert have["finish"] is None, "nothing of an answer comes after its end"
        delta = choice.delta
        have["role"] = have["role"] or delta.role
        have["content"] += delta.content or ""
        have["reasoning"] += (delta.model_extra or {}).get("reasoning_content") or ""
        for call in delta.tool_calls or []:
            if call.index == len(have["calls"]):
                have["calls"].append({"id": call.id, "name": call.function.name, "arguments": ""})
                assert call.type == "function" and call.id
            have["calls"][call.index]["arguments"] += call.function.arguments or ""
        if choice.logprobs:
            have["logprobs"] += choice.logprobs.content
        have["finish"] = choice.finish_reason
    assert len(ids) == 1 and all(c["finish"] and c["role"] == "assistant" for c in choices.values())
    return choices, usage


def test_an_answer(client):
    answer = client.chat.completions.create(model="ember", messages=NORWAY)
    choice, = answer.choices
    assert choice.message.content == "The capital of Norway is Oslo." and choice.message.role == "assistant"
    assert choice.finish_reason == "stop" and choice.logprobs is None and choice.message.tool_calls is None
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and answer.model == "ember"
    usage = answer.usage
    assert usage.prompt_tokens == 15 and usage.completion_tokens == 8 and usage.total_tokens == 23
    assert 0 <= usage.prompt_tokens_details.cached_tokens < 15 and usage.completion_tokens_details.reasoning_tokens == 0


def test_a_stream(client):
    whole = client.chat.completions.create(model="ember", messages=STORY, max_tokens=40)
    choices, usage = collect(client.chat.completions.create(model="ember", messages=STORY, max_tokens=40, stream=True, stream_options={"include_usage": True}))
    assert choices[0]["content"] == whole.choices[0].message.content and choices[0]["finish"] == "length" == whole.choices[0].finish_reason
    assert usage.completion_tokens == 40 == whole.usage.completion_tokens and usage.prompt_tokens == whole.usage.prompt_tokens
    choices, usage = collect(client.chat.completions.create(model="ember", messages=STORY, max_tokens=5, stream=True))
    assert usage is None and choices[0]["finish"] == "length"


def test_the_wire_form_of_a_stream(server):
    connection = server.stream(NORWAY)
    answer = connection.getresponse()
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/event-stream")
    events = answer.read().decode().split("\n\n")
    assert events.pop() == "" and events[-1] == "data: [DONE]"
    assert all(event.startswith("data: ") or event.startswith(":") for event in events)
    for event in events[:-1]:
        if event.startswith("data: "):
            assert json.loads(event[6:])["object"] == "chat.completion.chunk"


def test_the_same_as_run(server):
    """The server's answer is the program's."""
    import subprocess
    from conftest import PROGRAM
    run = subprocess.run([PROGRAM, "run", str(EMBER), "--temp", "0", "--context", "2048", "-n", "60", "-p", STORY[0]["content"]], capture_output=True, text=True)
    assert server.chat(STORY, max_tokens=60)["choices"][0]["message"]["content"] == run.stdout


def test_parts_of_content(client):
    parts = [{"role": "user", "content": [{"type": "text", "text": "What is the capital of Norway?"}]}]
    assert client.chat.completions.create(model="x", messages=parts).choices[0].message.content == "The capital of Norway is Oslo."


def test_cached_tokens_are_true(server):
    long = [{"role": "system", "content": "Be kind. " * 60}] + user("Hello!")
    first = server.chat(long, max_tokens=4)
    again = server.chat(long, max_tokens=4)
    n = first["usage"]["prompt_tokens"]
    assert first["choices"] == again["choices"] and n > 120
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] < 20
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > n - 20
    turn = long + [again["choices"][0]["message"]] + user("And then?")
    assert server.chat(turn, max_tokens=4)["usage"]["prompt_tokens_details"]["cached_tokens"] > n - 20


def test_max_tokens(client):
    for name in ("max_tokens", "max_completion_tokens"):
        answer = client.chat.completions.create(model="ember", messages=STORY, **{name: 7})
        assert answer.usage.completion_tokens == 7 and answer.choices[0].finish_reason == "length"


def test_the_context_ends_an_answer(start):
    s = start("--temp", "0", context=64)
    answer = s.chat(STORY)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] in (64, 65)
    with pytest.raises(openai.BadRequestError) as error:
        s.client().chat.completions.create(model="ember", messages=user("word " * 100))
    assert error.value.code == "context_length_exceeded" and error.value.param == "messages" and "64" in error.value.message


@pytest.mark.parametrize("stop", [" fox", [" fox", "forest"]])
def test_stop(client, stop):
    whole = client.chat.completions.create(model="ember", messages=STORY, max_tokens=60).choices[0].message.content
    answer = client.chat.completions.create(model="ember", messages=STORY, max_tokens=60, stop=stop)
    first = min(whole.find(s) for s in ([stop] if isinstance(stop, str) else stop) if s in whole)
    assert answer.choices[0].message.content == whole[:first] and answer.choices[0].finish_reason == "stop"
    choices, _ = collect(client.chat.completions.create(model="ember", messages=STORY, max_tokens=60, stop=stop, stream=True))
    assert choices[0]["content"] == whole[:first] and choices[0]["finish"] == "stop"


def test_seed(client):
    def ask(seed):
        return client.chat.completions.create(model="ember", messages=STORY, max_tokens=30, temperature=1, seed=seed).choices[0].message.content
    assert ask(1) == ask(1) != ask(2)
    without = {client.chat.completions.create(model="ember", messages=STORY, max_tokens=30, temperature=1).choices[0].message.content for _ in range(4)}
    assert len(without) > 1


def test_sampling_options(client):
    """Each changes what it has to; the likeliest token only is greedy."""
    greedy = client.chat.completions.create(model="ember", messages=STORY, max_tokens=24).choices[0].message.content

    def ask(extra=None, **more):
        return client.chat.completions.create(model="ember", messages=STORY, max_tokens=24, seed=3, extra_body=extra, **more).choices[0].message.content
    assert ask(temperature=2) != greedy
    assert ask({"top_k": 1}, temperature=2) == greedy
    assert ask(temperature=2, top_p=0) == greedy or ask(temperature=2, top_p=1e-6) == greedy
    assert ask({"min_p": 1}, temperature=2) == greedy
    assert ask(temperature=0, presence_penalty=2, frequency_penalty=2) != greedy
    assert ask({"repeat_penalty": 5}, temperature=0) != greedy == ask({"repeat_penalty": 1}, temperature=0)
    assert ask({"repetition_penalty": 5}, temperature=0) == ask({"repeat_penalty": 5}, temperature=0)


def test_logit_bias(client):
    first = client.chat.completions.create(model="ember", messages=NORWAY, max_tokens=1, logprobs=True, top_logprobs=2)
    the = first.choices[0].message.content
    import sys
    tokens = json.loads((EMBER / "tokenizer.json").read_text())["model"]["vocab"]
    other = client.chat.completions.create(model="ember", messages=NORWAY, max_tokens=1, logit_bias={str(tokens[the]): -100})
    assert other.choices[0].message.content != the, sys.version


def test_n(client):
    answer = client.chat.completions.create(model="ember", messages=STORY, n=5, max_tokens=20, temperature=1, seed=7)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3, 4] and len(set(texts)) > 2
    assert answer.usage.completion_tokens == 100
    single = [client.chat.completions.create(model="ember", messages=STORY, max_tokens=20, temperature=1, seed=7 + i).choices[0].message.content for i in range(5)]
    assert single == texts, "each is what its seed gives alone"
    choices, _ = collect(client.chat.completions.create(model="ember", messages=STORY, n=5, max_tokens=20, temperature=1, seed=7, stream=True))
    assert [choices[i]["content"] for i in range(5)] == texts


def test_logprobs(client):
    answer = client.chat.completions.create(model="ember", messages=STORY, max_tokens=12, logprobs=True, top_logprobs=3)
    content = answer.choices[0].logprobs.content
    assert b"".join(bytes(t.bytes) for t in content).decode() == answer.choices[0].message.content == "".join(t.token for t in content) and len(content) == 12
    for token in content:
        assert len(token.top_logprobs) == 3 and token.logprob == token.top_logprobs[0].logprob, "greedy takes the likeliest"
        assert [t.logprob for t in token.top_logprobs] == sorted((t.logprob for t in token.top_logprobs), reverse=True)
        assert sum(math.exp(t.logprob) for t in token.top_logprobs) <= 1 + 1e-6 and token.logprob <= 0
    choices, _ = collect(client.chat.completions.create(model="ember", messages=STORY, max_tokens=12, logprobs=True, top_logprobs=3, stream=True))
    assert [(t.token, t.logprob) for t in choices[0]["logprobs"]] == [(t.token, t.logprob) for t in content]
    plain = client.chat.completions.create(model="ember", messages=NORWAY, logprobs=True).choices[0].logprobs.content
    assert "".join(t.token for t in plain) == "The capital of Norway is Oslo." and all(t.top_logprobs == [] for t in plain)


# ---- tools ----

def test_a_tool_round_trip(client):
    messages = [{"role": "system", "content": SYSTEM}, *user("What is the weather in Belada?")]
    first = client.chat.completions.create(model="ember", messages=messages, tools=[WEATHER])
    choice, = first.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    call, = choice.message.tool_calls
    assert call.type == "function" and call.function.name == "get_weather" and json.loads(call.function.arguments) == {"city": "Belada"}
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21, "sky": "foggy"}'}]
    second = client.chat.completions.create(model="ember", messages=messages, tools=[WEATHER])
    assert second.choices[0].message.content == "It is 21 degrees and foggy in Belada." and second.choices[0].finish_reason == "stop"
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens, "the call is replayed as it was made"


def test_a_streamed_tool_call(client):
    choices, _ = collect(client.chat.completions.create(model="ember", messages=user("What is the weather in Belada?"), tools=[WEATHER], stream=True))
    call, = choices[0]["calls"]
    assert call["name"] == "get_weather" and json.loads(call["arguments"]) == {"city": "Belada"} and choices[0]["finish"] == "tool_calls"
    assert choices[0]["content"] == ""


def test_tool_choice(client):
    def ask(choice, question="What is the weather in Belada?", **more):
        return client.chat.completions.create(model="ember", messages=user(question), tools=[WEATHER, BASH], tool_choice=choice, max_tokens=80, **more).choices[0]
    assert ask("auto").finish_reason == "tool_calls"
    none = ask("none")
    assert none.finish_reason in ("stop", "length") and none.message.tool_calls is None
    forced = ask("required", "Hello!")
    assert forced.finish_reason == "tool_calls" and forced.message.tool_calls[0].function.name in ("get_weather", "bash")
    named = ask({"type": "function", "function": {"name": "bash"}})
    assert named.message.tool_calls[0].function.name == "bash" and named.finish_reason == "tool_calls"
    assert ask("required", parallel_tool_calls=False).message.tool_calls[0].function.name == "get_weather"


@pytest.mark.parametrize("more, param", [
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "sometimes", "tools": [WEATHER]}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "nothing"}}, "tools": [WEATHER]}, "tool_choice"),
    ({"tools": [{"type": "retrieval"}]}, "tools"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools"),
    ({"tools": {}}, "tools"),
])
def test_refused_tools(client, more, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="ember", messages=NORWAY, extra_body=more)
    assert error.value.param == param


# ---- reasoning ----

def test_reasoning(reasoning_server):
    client = reasoning_server.client()

    def ask(**extra):
        return client.chat.completions.create(model="ember", messages=STORY, max_tokens=30, extra_body=extra)
    thought = ask()
    assert thought.choices[0].message.model_extra["reasoning_content"] and thought.usage.completion_tokens_details.reasoning_tokens == 30
    budget = ask(think_budget=5)
    assert budget.usage.completion_tokens_details.reasoning_tokens == 5 and budget.choices[0].message.content
    for off in ({"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}):
        plain = ask(**off)
        assert plain.usage.completion_tokens_details.reasoning_tokens == 0 and plain.choices[0].message.content
    choices, usage = collect(client.chat.completions.create(model="ember", messages=STORY, max_tokens=30, stream=True, extra_body={"think_budget": 5},
                                                            stream_options={"include_usage": True}))
    assert choices[0]["reasoning"] == budget.choices[0].message.model_extra["reasoning_content"] and choices[0]["content"] == budget.choices[0].message.content
    assert usage.completion_tokens_details.reasoning_tokens == 5


# ---- fields ----

@pytest.mark.parametrize("more", [
    {"user": "me"}, {"metadata": {"a": "b"}}, {"store": False}, {"service_tier": "auto"}, {"presence_penalty": 0, "frequency_penalty": 0}, {"logit_bias": {}}, {"n": 1},
    {"response_format": {"type": "text"}}, {"modalities": ["text"]}, {"cache_control": {"type": "ephemeral"}}, {"temperature": None, "stop": None, "seed": None, "tools": None},
    {"prompt_cache_key": "k", "safety_identifier": "s"}, {"verbosity": "medium"}, {"model": "any other"}, {"stream": False, "stream_options": None}, {"functions": []},
    {"tools": [], "tool_choice": "auto"}, {"reasoning_effort": None}, {"logprobs": False, "top_logprobs": 0}, {"max_tokens": None},
], ids=lambda more: "+".join(more))
def test_accepted_fields(server, more):
    assert server.chat(NORWAY, **more)["choices"][0]["message"]["content"] == "The capital of Norway is Oslo."


@pytest.mark.parametrize("more, param", [
    ({"response_format": {"type": "json_object"}}, "response_format"), ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
    ({"audio": {}}, "audio"), ({"modalities": ["text", "audio"]}, "modalities"), ({"store": True}, "store"), ({"functions": [{"name": "f"}]}, "functions"),
    ({"service_tier": "flex"}, "service_tier"), ({"verbosity": "low"}, "verbosity"), ({"web_search_options": {}}, "web_search_options"), ({"nothing": 1}, "nothing"),
    ({"temperature": "hot"}, "temperature"), ({"temperature": -1}, "temperature"), ({"temperature": 3}, "temperature"), ({"top_p": 1.5}, "top_p"), ({"n": 0}, "n"),
    ({"n": 1.5}, "n"), ({"n": 100000}, "n"), ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": "7"}, "max_tokens"), ({"max_tokens": 1e300}, "max_tokens"),
    ({"stop": ""}, "stop"), ({"stop": [1]}, "stop"), ({"stop": ["a"] * 17}, "stop"), ({"logit_bias": {"x": 1}}, "logit_bias"), ({"logit_bias": {"99999999": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias"), ({"logit_bias": []}, "logit_bias"), ({"seed": "a"}, "seed"), ({"seed": 1.5}, "seed"), ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"), ({"stream": True, "stream_options": {"x": 1}}, "x"), ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"), ({"logprobs": 1}, "logprobs"), ({"presence_penalty": 3}, "presence_penalty"), ({"model": 3}, "model"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs"), ({"reasoning_effort": "high"}, "reasoning_effort"), ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ({"messages": []}, "messages"), ({"messages": "hello"}, "messages"), ({"messages": [1]}, "messages"), ({"messages": [{"content": "x"}]}, "messages"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"), ({"messages": None}, "messages"),
    ({"messages": [{"role": "user"}] * 4097}, "messages"),
], ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else value)
def test_refused_fields(server, more, param):
    status, _, data = server.request("POST", "/v1/chat/completions", {"messages": NORWAY, **more})
    error = json.loads(data)["error"]
    assert status == 400 and error["param"] == param and error["type"] == "invalid_request_error" and error["message"], data


def test_typed_exceptions(client, start):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="ember", messages=NORWAY, response_format={"type": "json_object"})
    assert error.value.param == "response_format" and "response_format" in error.value.message
    s = start("--strict-model", "--alias", "spark", "--temp", "0")
    with pytest.raises(openai.NotFoundError) as error:
        s.client().chat.completions.create(model="ember", messages=NORWAY)
    assert error.value.code == "model_not_found"
    assert s.client().chat.completions.create(model="spark", messages=NORWAY).model == "spark"
    assert s.client().models.retrieve("spark").id == "spark"
    with pytest.raises(openai.NotFoundError):
        s.client().models.retrieve("ember")


def test_models(client):
    model, = client.models.list().data
    assert model.id == "ember" and model.object == "model" and client.models.retrieve("ember").id == "ember"


def test_health_and_props(server):
    assert server.request("GET", "/health")[::2] == (200, b'{"status":"ok"}')
    props = json.loads(server.request("GET", "/props")[2])
    assert props["context"] == 2048 and props["parallel"] == 4 and props["model"] == "ember" and props["sampling"]["temperature"] == 0


def test_metrics(server):
    before = server.metrics()
    server.chat(NORWAY)
    after = server.metrics()
    assert after["requests_total"] == before["requests_total"] + 1 and after["answer_tokens_total"] == before["answer_tokens_total"] + 8
    assert after["expert_requests_total"] > before["expert_requests_total"] and 0 <= after["expert_hit_rate"] <= 1
    status, headers, data = server.request("GET", "/metrics")
    assert headers["Content-Type"].startswith("text/plain")
    for line in data.decode().splitlines():
        assert line.startswith("# ") or len(line.split()) == 2
