"""Anthropic's Messages with the official client `anthropic`: texts, tools to a final answer, thinking, streams event by event, token counts, errors as typed exceptions, and which
fields are taken, advice, or refused by name."""
import json

import pytest

anthropic = pytest.importorskip("anthropic")

from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent  # noqa: E402

import wire  # noqa: E402

OSLO = "The capital of Norway is Oslo."
QUESTION = {"role": "user", "content": "What is the capital of Norway?"}
SYSTEM = "You are a helpful assistant."
WEATHER = {"name": "get_weather", "description": "Get the weather of a city", "input_schema": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}
BASH = {"name": "bash", "description": "Run a shell command", "input_schema": {
    "type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}}
GREEDY = {"temperature": 0}


@pytest.fixture
def client(server):
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


def create(client, messages=(QUESTION,), max_tokens=64, **more):
    return client.messages.create(model="claude", max_tokens=max_tokens, messages=list(messages), extra_body={**GREEDY, **more.pop("extra", {})}, **more)


def raw(body):
    return {"model": "claude", "max_tokens": 64, "messages": [QUESTION], **GREEDY, **body}


def stream(server, **body):
    """The typed events of a stream, whose order is checked; and what they add up to."""
    found = []
    for event in wire.events(server.url, "/v1/messages", raw(body)):
        assert event.name == json.loads(event.data)["type"]
        if event.name != "ping":
            found.append(wire.typed(RawMessageStreamEvent, event.data))
    check_order(found)
    return found


DELTAS = {"text": {"text_delta"}, "thinking": {"thinking_delta", "signature_delta"}, "tool_use": {"input_json_delta"}}


def check_order(events):
    """message_start, then each block from its start to its stop, message_delta, message_stop."""
    assert events[0].type == "message_start" and events[0].message.content == [] and events[0].message.stop_reason is None
    assert [event.type for event in events[-2:]] == ["message_delta", "message_stop"]
    block, index = None, -1
    for event in events[1:-2]:
        if event.type == "content_block_start":
            assert block is None and event.index == index + 1
            block, index, last = event.content_block, event.index, None
            assert (block.type != "text" or block.text == "") and (block.type != "tool_use" or block.input == {})
        elif event.type == "content_block_delta":
            assert block is not None and event.index == index and event.delta.type in DELTAS[block.type] and last != "signature_delta"
            last = event.delta.type
        else:
            assert event.type == "content_block_stop" and event.index == index and block is not None
            assert block.type != "thinking" or last == "signature_delta"
            block = None
    assert block is None


def joined(events, delta, member):
    return "".join(getattr(event.delta, member) for event in events if event.type == "content_block_delta" and event.delta.type == delta)


# ---- texts ----

def test_a_question(client):
    message = create(client)
    assert [block.text for block in message.content] == [OSLO] and message.stop_reason == "end_turn" and message.stop_sequence is None
    assert message.id.startswith("msg_") and message.role == "assistant"
    assert message.usage.input_tokens + message.usage.cache_read_input_tokens > 5 and message.usage.output_tokens > 5


def test_the_message_is_of_its_type(server):
    message = wire.typed(Message, wire.ask(server.url, "/v1/messages", raw({})))
    assert message.content[0].text == OSLO and message.usage.cache_creation_input_tokens == 0 and message.usage.output_tokens_details.thinking_tokens == 0


def test_a_stream_says_the_same(server, client):
    events = stream(server)
    assert joined(events, "text_delta", "text") == OSLO and events[-2].delta.stop_reason == "end_turn"
    usage, plain = events[-2].usage, create(client).usage
    assert usage.output_tokens == plain.output_tokens
    assert usage.input_tokens + usage.cache_read_input_tokens == plain.input_tokens + plain.cache_read_input_tokens
    with client.messages.stream(model="claude", max_tokens=64, messages=[QUESTION], extra_body=GREEDY) as reader:
        assert "".join(reader.text_stream) == OSLO
        assert reader.get_final_message().usage.output_tokens == plain.output_tokens


def test_what_was_read_is_not_read_again(client):
    first = create(client, system="You know every capital there is. " * 20)
    again = create(client, system="You know every capital there is. " * 20)
    assert again.usage.cache_read_input_tokens > 100
    total = [m.usage.input_tokens + m.usage.cache_read_input_tokens for m in (first, again)]
    assert total[0] == total[1] and again.usage.input_tokens >= 1


@pytest.mark.parametrize("system", [SYSTEM, [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}],
                                    [{"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=0a1b2;"}, {"type": "text", "text": SYSTEM}]])
def test_system_as_text_or_blocks(client, system):
    """And Claude Code's accounting line, which changes with every request, is none of the model's business."""
    tokens = client.messages.count_tokens(model="claude", messages=[QUESTION], system=system).input_tokens
    assert tokens == client.messages.count_tokens(model="claude", messages=[QUESTION], system=SYSTEM).input_tokens
    assert tokens > client.messages.count_tokens(model="claude", messages=[QUESTION]).input_tokens
    assert create(client, system=system).content[0].text == create(client, system=SYSTEM).content[0].text


def test_content_as_blocks(client):
    blocks = [{"type": "text", "text": QUESTION["content"], "cache_control": {"type": "ephemeral"}}]
    assert create(client, [{"role": "user", "content": blocks}]).content[0].text == OSLO


def test_turns_of_one_role_are_one(client):
    def count(messages):
        return client.messages.count_tokens(model="claude", messages=messages).input_tokens
    assert count([{"role": "user", "content": "Hello."}, QUESTION]) == count([{"role": "user", "content": "Hello.\n" + QUESTION["content"]}])
    conversation = [QUESTION, {"role": "assistant", "content": "The capital of Norway"}, {"role": "assistant", "content": " is Oslo."}, QUESTION]
    assert count(conversation) == count([QUESTION, {"role": "assistant", "content": OSLO}, QUESTION])


def test_many_pieces_take_no_longer_than_one(client):
    """Tens of thousands of blocks in a turn, and thousands of turns of one role."""
    def count(messages):
        return client.messages.count_tokens(model="claude", messages=messages).input_tokens
    assert count([{"role": "user", "content": [{"type": "text", "text": "a"}] * 10000}]) == count([{"role": "user", "content": "\n".join("a" * 10000)}])
    assert count([{"role": "user", "content": "a"}] * 4096) == count([{"role": "user", "content": "\n".join("a" * 4096)}])
    with pytest.raises(anthropic.BadRequestError):
        count([{"role": "user", "content": "a"}] * 4097)


# ---- how an answer ends ----

def test_max_tokens(server, client):
    message = create(client, max_tokens=3)
    assert message.stop_reason == "max_tokens" and message.usage.output_tokens == 3 and OSLO.startswith(message.content[0].text)
    assert stream(server, max_tokens=3)[-2].delta.stop_reason == "max_tokens"


def test_stop_sequences(server, client):
    message = create(client, stop_sequences=["Denmark", " is", "Oslo"])
    assert message.content[0].text == "The capital of Norway" and message.stop_reason == "stop_sequence" and message.stop_sequence == " is"
    events = stream(server, stop_sequences=["Oslo"])
    assert joined(events, "text_delta", "text").rstrip() == "The capital of Norway is"
    assert (events[-2].delta.stop_reason, events[-2].delta.stop_sequence) == ("stop_sequence", "Oslo")


def test_sampling(client):
    texts = {create(client, extra={"temperature": 1, "top_k": 1}).content[0].text, create(client, extra={"temperature": 1.0, "top_p": 0.0}).content[0].text}
    assert texts == {OSLO}


# ---- tools ----

def test_a_tool_round_trip(server, client):
    messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
    first = create(client, messages, tools=[WEATHER], system=SYSTEM)
    assert first.stop_reason == "tool_use" and [block.type for block in first.content] == ["tool_use"]
    call = first.content[0]
    assert (call.name, call.input) == ("get_weather", {"city": "Oslo"}) and call.id
    wire.typed(Message, wire.ask(server.url, "/v1/messages", raw({"messages": messages, "tools": [WEATHER], "system": SYSTEM})))
    result = {"type": "tool_result", "tool_use_id": call.id, "content": json.dumps({"temperature": 21, "sky": "foggy"})}
    for content in (result["content"], [{"type": "text", "text": result["content"]}]):
        turns = [*messages, {"role": "assistant", "content": first.content}, {"role": "user", "content": [{**result, "content": content}]}]
        last = create(client, turns, tools=[WEATHER], system=SYSTEM)
        assert last.content[0].text == "It is 21 degrees and foggy in Oslo." and last.stop_reason == "end_turn"
    assert last.usage.cache_read_input_tokens > first.usage.output_tokens  # the call stands there as the model wrote it


def test_a_streamed_tool_call(server, client):
    body = {"messages": [{"role": "user", "content": "What is the weather in Oslo?"}], "tools": [WEATHER], "system": SYSTEM}
    events = stream(server, **body)
    assert json.loads(joined(events, "input_json_delta", "partial_json")) == {"city": "Oslo"} and events[-2].delta.stop_reason == "tool_use"
    with client.messages.stream(model="claude", max_tokens=64, extra_body=GREEDY, **body) as reader:
        message = reader.get_final_message()
    assert message.content[0].input == {"city": "Oslo"}


def test_the_clients_tool_runner(client):
    """The client's own agent loop, to the end."""
    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Get the weather of a city

        Args:
            city: its name
        """
        return json.dumps({"temperature": 21, "sky": "foggy"})

    runner = client.beta.messages.tool_runner(model="claude", max_tokens=64, tools=[get_weather], system=SYSTEM, extra_body=GREEDY,
                                              messages=[{"role": "user", "content": "What is the weather in Oslo?"}])
    messages = list(runner)
    assert [message.stop_reason for message in messages] == ["tool_use", "end_turn"]
    assert messages[-1].content[0].text == "It is 21 degrees and foggy in Oslo."


def test_a_tool_that_failed(client):
    messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
    call = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}}
    def count(**result):
        turns = [*messages, {"role": "assistant", "content": [call]}, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", **result}]}]
        return client.messages.count_tokens(model="claude", messages=turns, tools=[WEATHER]).input_tokens
    assert count(content="no answer", is_error=True) == count(content="Error: no answer") > count(content="no answer", is_error=False) > count()


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}, {"type": "tool", "name": "bash", "disable_parallel_tool_use": True}])
def test_a_call_can_be_asked_for(client, choice):
    question = {"role": "user", "content": "What is the weather in Oslo?"}
    message = create(client, [question], tools=[WEATHER, BASH], tool_choice=choice, system=SYSTEM)
    assert message.content[0].type == "tool_use" and message.content[0].name == choice.get("name", message.content[0].name)


def test_no_call(client):
    message = create(client, [{"role": "user", "content": "What is the weather in Oslo?"}], tools=[WEATHER], tool_choice={"type": "none"}, system=SYSTEM)
    assert message.stop_reason != "tool_use" and all(block.type == "text" for block in message.content)


# ---- thinking ----

def test_thinking(reasoning_server):
    """The template opens reasoning, which the demo model does not know of: what it says is reasoning until the budget ends it."""
    client = anthropic.Anthropic(base_url=reasoning_server.url, api_key="none", max_retries=0)
    budget = create(client, thinking={"type": "enabled", "budget_tokens": 4})
    assert budget.content[0].type == "thinking" and budget.content[0].thinking and budget.content[0].signature
    assert budget.usage.output_tokens_details.thinking_tokens == 4
    free = create(client, thinking={"type": "adaptive"})
    assert free.content[0].thinking.startswith(budget.content[0].thinking) and len(free.content[0].thinking) > len(budget.content[0].thinking)
    for off in ({}, {"thinking": {"type": "disabled"}}):
        assert [(block.type, block.text) for block in create(client, **off).content] == [("text", OSLO)]


def test_thinking_in_a_stream(reasoning_server):
    events = stream(reasoning_server, thinking={"type": "enabled", "budget_tokens": 4})
    assert joined(events, "thinking_delta", "thinking") and joined(events, "signature_delta", "signature")
    assert events[-2].usage.output_tokens_details.thinking_tokens == 4
    hidden = stream(reasoning_server, thinking={"type": "enabled", "budget_tokens": 4, "display": "omitted"})
    assert not joined(hidden, "thinking_delta", "thinking") and joined(hidden, "signature_delta", "signature")


def test_thinking_is_handed_back(reasoning_server):
    client = anthropic.Anthropic(base_url=reasoning_server.url, api_key="none", max_retries=0)
    first = create(client, thinking={"type": "enabled", "budget_tokens": 4})
    again = create(client, [QUESTION, {"role": "assistant", "content": first.content}, QUESTION], thinking={"type": "enabled", "budget_tokens": 4})
    assert again.content[0].type == "thinking"


# ---- count_tokens ----

def test_count_tokens(server, client):
    body = {"model": "claude", "messages": [QUESTION], "tools": [WEATHER], "system": SYSTEM}
    count = wire.typed(MessageTokensCount, wire.ask(server.url, "/v1/messages/count_tokens", body)).input_tokens
    usage = create(client, tools=[WEATHER], system=SYSTEM).usage
    assert count == usage.input_tokens + usage.cache_read_input_tokens
    assert client.messages.count_tokens(model="claude", messages=[QUESTION]).input_tokens < count


# ---- errors ----

def refused(client, status=anthropic.BadRequestError, **more):
    with pytest.raises(status) as error:
        create(client, **more)
    body = error.value.body
    assert body["type"] == "error" and body["error"]["message"] and error.value.status_code == error.value.response.status_code
    return body["error"]["type"], body["error"]["message"]


def user(*blocks):
    return {"role": "user", "content": list(blocks)}


USE = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sun"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}}


@pytest.mark.parametrize("name, more", [
    ("messages", {"messages": []}),
    ("messages.0.role", {"messages": [{"role": "robot", "content": "x"}]}),
    ("messages.0.content", {"messages": [{"role": "user", "content": 3}]}),
    ("messages.0.content.0", {"messages": [user(IMAGE)]}),
    ("messages.0.content.1", {"messages": [user({"type": "text", "text": "x"}, {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}})]}),
    ("messages.0.content.0", {"messages": [user(RESULT)]}),
    ("messages.2.content.0.content", {"messages": [QUESTION, {"role": "assistant", "content": [USE]}, user({**RESULT, "content": [IMAGE]})]}),
    ("toolu_1", {"messages": [QUESTION, {"role": "assistant", "content": [USE]}, QUESTION]}),
    ("prefill", {"messages": [QUESTION, {"role": "assistant", "content": "The"}]}),
    ("max_tokens", {"max_tokens": 0}),
    ("system", {"system": [{"type": "image"}]}),
    ("thinking.budget_tokens", {"thinking": {"type": "enabled", "budget_tokens": 64}}),
    ("thinking.budget_tokens", {"thinking": {"type": "enabled"}}),
    ("thinking.type", {"thinking": {"type": "between_tools"}}),
    ("tool_choice", {"tool_choice": {"type": "any"}}),
    ("tool_choice.name", {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "bash"}}),
    ("tools.0.type", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    ("tools.0.input_schema", {"tools": [{"name": "f"}]}),
    ("tools.0.defer_loading", {"tools": [{**WEATHER, "defer_loading": True}]}),
    ("tools.0.input_examples", {"tools": [{**WEATHER, "input_examples": [{"city": "Oslo"}]}]}),
    ("stop_sequences", {"stop_sequences": [""]}),
    ("output_config.format", {"output_config": {"format": {"type": "json_schema", "schema": {}}}}),
    ("container", {"extra": {"container": "c"}}),
    ("speed", {"extra": {"speed": "fast"}}),
    ("mcp_servers", {"extra": {"mcp_servers": [{"type": "url", "url": "http://x", "name": "x"}]}}),
    ("context_management", {"extra": {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}}),
    ("temperature", {"extra": {"temperature": 3}}),
    ("top_p", {"extra": {"top_p": "much"}}),
    ("top_k", {"extra": {"top_k": 1.5}}),
    ("frobnicate", {"extra": {"frobnicate": 1}}),
])
def test_what_is_wrong_is_named(client, name, more):
    kind, message = refused(client, **more)
    assert kind == "invalid_request_error" and name in message


@pytest.mark.parametrize("more", [
    {"metadata": {"user_id": "u"}}, {"service_tier": "auto"}, {"output_config": {"effort": "high"}}, {"cache_control": {"type": "ephemeral"}},
    {"tools": [{**WEATHER, "cache_control": {"type": "ephemeral"}, "strict": True, "type": "custom"}], "system": SYSTEM},
    {"extra": {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}}},
    {"extra": {"mcp_servers": [], "speed": "standard", "inference_geo": "eu", "container": None}}, {"extra_headers": {"anthropic-beta": "x-2025-01-01"}},
    {"extra_query": {"beta": "true"}},
])
def test_advice_is_accepted(client, more):
    assert create(client, **more).content[0].text


def test_bodies_that_are_none(server):
    for body in (b"", b"{", b"[]", b"3", b'{"model": "claude", "max_tokens": 9, "messages": "x"}', b"\xff\xfe"):
        answer = wire.ask(server.url, "/v1/messages", body, status=400)
        assert answer["type"] == "error" and answer["error"]["type"] == "invalid_request_error" and answer["error"]["message"]


def test_too_long_for_the_context(client):
    kind, message = refused(client, messages=[{"role": "user", "content": "word " * 20000}])
    assert kind == "invalid_request_error" and "context" in message
