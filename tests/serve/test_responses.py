"""OpenAI's Responses with the official client `openai`: texts, items, function tools to a final answer, previous_response_id, streams event by event, probabilities, errors as typed
exceptions, and which fields are taken, advice, or refused by name."""
import json

import pytest

openai = pytest.importorskip("openai")

from openai.types.responses import Response, ResponseStreamEvent  # noqa: E402

import wire  # noqa: E402

OSLO = "The capital of Norway is Oslo."
QUESTION = "What is the capital of Norway?"
SYSTEM = "You are a helpful assistant."
WEATHER = {"type": "function", "name": "get_weather", "description": "Get the weather of a city", "strict": None, "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}
BASH = {"type": "function", "name": "bash", "description": "Run a shell command", "strict": None, "parameters": {
    "type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}}


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def create(client, input=QUESTION, **more):
    return client.responses.create(model="gpt", input=input, temperature=0, **more)


def stream(server, **body):
    """The typed events of a stream, whose order is checked."""
    found = []
    for event in wire.events(server.url, "/v1/responses", {"model": "gpt", "input": QUESTION, "temperature": 0, **body}):
        assert event.name == json.loads(event.data)["type"]
        found.append(wire.typed(ResponseStreamEvent, event.data))
    check_order(found)
    return found


INSIDE = {
    "message": ["response.content_part.added", "response.output_text.delta", "response.output_text.done", "response.content_part.done"],
    "reasoning": ["response.content_part.added", "response.reasoning_text.delta", "response.reasoning_text.done", "response.content_part.done"],
    "function_call": ["response.function_call_arguments.delta", "response.function_call_arguments.done"],
}


def check_order(events):
    """created, in_progress, each item from added to done with what belongs between, and the whole response, which holds the very items."""
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[0].response.status == "in_progress" and events[0].response.output == []
    last = events[-1].response
    assert events[-1].type in ("response.completed", "response.incomplete") and events[-1].type.endswith(last.status) and last.id == events[0].response.id
    items, item, kinds, text = [], None, [], ""
    for event in events[2:-1]:
        if event.type == "response.output_item.added":
            assert item is None and event.output_index == len(items) and event.item.status == "in_progress"
            item, kinds, text = event.item, [], ""
        elif event.type == "response.output_item.done":
            assert event.output_index == len(items) and event.item.id == item.id
            assert list(dict.fromkeys(kinds)) == INSIDE[item.type]
            items.append(event.item)
            item = None
        else:
            assert event.item_id == item.id and event.output_index == len(items)
            assert item.type == "function_call" or event.content_index == 0
            kinds.append(event.type)
            text += event.delta if event.type.endswith(".delta") else ""
            if event.type.endswith(("text.done", "arguments.done")):
                assert text == (event.arguments if item.type == "function_call" else event.text)
    assert item is None and [i.model_dump() for i in last.output] == [i.model_dump() for i in items]


# ---- texts ----

def test_a_question(client):
    response = create(client)
    assert response.output_text == OSLO and response.status == "completed" and response.id.startswith("resp_")
    usage = response.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens and usage.output_tokens > 5
    assert [item.type for item in response.output] == ["message"] and response.output[0].status == "completed"


def test_the_response_is_of_its_type(server):
    body = {"model": "gpt", "input": QUESTION, "temperature": 0, "metadata": {"a": "b"}, "tools": [WEATHER], "max_output_tokens": 50, "user": "u"}
    response = wire.typed(Response, wire.ask(server.url, "/v1/responses", body))
    assert response.metadata == {"a": "b"} and response.tools[0].name == "get_weather" and response.max_output_tokens == 50 and response.temperature == 0


def test_a_stream_says_the_same(server, client):
    events = stream(server)
    assert events[-1].response.output_text == OSLO
    plain = create(client).usage
    assert events[-1].response.usage.output_tokens == plain.output_tokens and events[-1].response.usage.input_tokens == plain.input_tokens
    with client.responses.stream(model="gpt", input=QUESTION, temperature=0) as reader:
        text = "".join(event.delta for event in reader if event.type == "response.output_text.delta")
        assert text == reader.get_final_response().output_text == OSLO


def test_what_was_read_is_not_read_again(client):
    long = "You know every capital there is. " * 20
    create(client, instructions=long)
    assert create(client, instructions=long).usage.input_tokens_details.cached_tokens > 100


def test_forms_of_input(client):
    parts = [{"type": "input_text", "text": QUESTION}]
    for item in ({"role": "user", "content": QUESTION}, {"role": "user", "content": parts}, {"type": "message", "role": "user", "content": parts}):
        assert create(client, [item]).output_text == OSLO
    tokens = create(client, instructions=SYSTEM).usage.input_tokens
    for role in ("system", "developer"):
        response = create(client, [{"role": role, "content": SYSTEM}, {"role": "user", "content": QUESTION}])
        assert response.usage.input_tokens == tokens


def test_max_output_tokens(server, client):
    response = create(client, max_output_tokens=3)
    assert response.status == "incomplete" and response.incomplete_details.reason == "max_output_tokens" and response.usage.output_tokens == 3
    assert response.output[0].status == "incomplete" and OSLO.startswith(response.output_text)
    assert stream(server, max_output_tokens=3)[-1].type == "response.incomplete"


# ---- tools ----

def test_a_tool_round_trip(client):
    items = [{"role": "user", "content": "What is the weather in Oslo?"}]
    first = create(client, items, tools=[WEATHER], instructions=SYSTEM)
    call, = first.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", {"city": "Oslo"}) and first.status == "completed"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": json.dumps({"temperature": 21, "sky": "foggy"})}
    last = create(client, [*items, *first.output, result], tools=[WEATHER], instructions=SYSTEM)
    assert last.output_text == "It is 21 degrees and foggy in Oslo."
    stored = create(client, [result], previous_response_id=first.id, tools=[WEATHER], instructions=SYSTEM)
    assert stored.output_text == last.output_text and stored.usage.input_tokens == last.usage.input_tokens
    parts = [{"type": "input_text", "text": result["output"]}]
    assert create(client, [{**result, "output": parts}], previous_response_id=first.id, tools=[WEATHER], instructions=SYSTEM).output_text == last.output_text


def test_a_streamed_tool_call(server, client):
    body = {"input": "What is the weather in Oslo?", "tools": [WEATHER], "instructions": SYSTEM}
    call, = stream(server, **body)[-1].response.output
    assert json.loads(call.arguments) == {"city": "Oslo"}
    with client.responses.stream(model="gpt", temperature=0, **body) as reader:
        kinds = [event.type for event in reader]
        assert json.loads(reader.get_final_response().output[0].arguments) == {"city": "Oslo"}
    assert "response.function_call_arguments.done" in kinds


@pytest.mark.parametrize("choice, names", [
    ("required", {"get_weather", "bash"}), ({"type": "function", "name": "bash"}, {"bash"}), ({"type": "function", "name": "get_weather"}, {"get_weather"}),
    ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "bash"}]}, {"bash"})])
def test_a_call_can_be_asked_for(client, choice, names):
    response = create(client, "What is the weather in Oslo?", tools=[WEATHER, BASH], tool_choice=choice, instructions=SYSTEM, parallel_tool_calls=False)
    call, = [item for item in response.output if item.type == "function_call"]
    assert call.name in names


def test_no_call(client):
    response = create(client, "What is the weather in Oslo?", tools=[WEATHER], tool_choice="none", instructions=SYSTEM)
    assert {item.type for item in response.output} <= {"message"}


# ---- what is kept ----

def test_previous_response(client):
    first = create(client, "What is the weather in Oslo?", tools=[WEATHER], instructions=SYSTEM)
    a = create(client, QUESTION)
    b = create(client, "And of Denmark?", previous_response_id=a.id)
    whole = create(client, [{"role": "user", "content": QUESTION}, *a.output, {"role": "user", "content": "And of Denmark?"}])
    assert b.previous_response_id == a.id and b.output_text == whole.output_text and b.usage.input_tokens == whole.usage.input_tokens
    assert b.usage.input_tokens_details.cached_tokens > 0
    assert client.responses.retrieve(first.id).output[0].name == "get_weather"


def test_instructions_are_not_carried_over(client):
    a = create(client, QUESTION, instructions=SYSTEM)
    b = create(client, "And of Denmark?", previous_response_id=a.id)
    plain = create(client, QUESTION)
    assert b.usage.input_tokens == create(client, "And of Denmark?", previous_response_id=plain.id).usage.input_tokens


def test_what_is_not_stored_is_not_found(client):
    response = create(client, store=False)
    with pytest.raises(openai.BadRequestError) as error:
        create(client, previous_response_id=response.id)
    assert error.value.code == "previous_response_not_found" and error.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_one_can_be_deleted(client):
    response = create(client)
    assert client.responses.retrieve(response.id).output_text == OSLO
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(response.id)


# ---- reasoning ----

def test_reasoning(reasoning_server):
    client = openai.OpenAI(base_url=reasoning_server.url + "/v1", api_key="none", max_retries=0)
    free = create(client, reasoning={"effort": "high", "summary": "auto"}, max_output_tokens=30)
    assert free.output[0].type == "reasoning" and free.output[0].content[0].text and free.usage.output_tokens_details.reasoning_tokens > 0
    none = create(client, reasoning={"effort": "none"})
    assert none.output_text == OSLO and [item.type for item in none.output] == ["message"]
    again = create(client, [{"role": "user", "content": QUESTION}, *free.output, {"role": "user", "content": QUESTION}], reasoning={"effort": "none"})
    assert again.status in ("completed", "incomplete")
    events = stream(reasoning_server, reasoning={"effort": "high"}, max_output_tokens=30)
    assert "response.reasoning_text.done" in [event.type for event in events]


# ---- probabilities ----

def test_logprobs(server, client):
    response = create(client, top_logprobs=2, include=["message.output_text.logprobs"])
    logprobs = response.output[0].content[0].logprobs
    assert "".join(each.token for each in logprobs) == OSLO and all(each.logprob <= 0 for each in logprobs)
    assert all(len(each.top_logprobs) == 2 and each.top_logprobs[0].logprob >= each.logprob for each in logprobs)
    events = stream(server, top_logprobs=1)
    streamed = [each.token for event in events if event.type == "response.output_text.delta" for each in event.logprobs]
    assert "".join(streamed) == OSLO


# ---- errors ----

FUNCTION_OUTPUT = {"type": "function_call_output", "call_id": "call_9", "output": "x"}


@pytest.mark.parametrize("param, more", [
    ("input", {"input": []}),
    ("input", {"input": [FUNCTION_OUTPUT]}),
    ("input[0].role", {"input": [{"role": "robot", "content": "x"}]}),
    ("input[0].content", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x/y.png"}]}]}),
    ("input[0].type", {"input": [{"type": "item_reference", "id": "msg_1"}]}),
    ("input[0].call_id", {"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}),
    ("tools[0].type", {"tools": [{"type": "web_search"}]}),
    ("tool_choice", {"tool_choice": "required"}),
    ("tool_choice", {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "bash"}}),
    ("tool_choice", {"tools": [WEATHER], "tool_choice": {"type": "web_search"}}),
    ("previous_response_id", {"previous_response_id": "resp_none"}),
    ("text.format", {"text": {"format": {"type": "json_object"}}}),
    ("text.verbosity", {"text": {"verbosity": "low"}}),
    ("reasoning.mode", {"reasoning": {"mode": "pro"}}),
    ("background", {"background": True}),
    ("conversation", {"conversation": "conv_1"}),
    ("prompt", {"prompt": {"id": "pmpt_1"}}),
    ("truncation", {"truncation": "auto"}),
    ("service_tier", {"service_tier": "flex"}),
    ("max_output_tokens", {"max_output_tokens": 0}),
    ("top_logprobs", {"top_logprobs": 99}),
    ("temperature", {"extra_body": {"temperature": 9}}),
    ("frobnicate", {"extra_body": {"frobnicate": 1}}),
])
def test_what_is_wrong_is_named(client, param, more):
    with pytest.raises(openai.BadRequestError) as error:
        create(client, **more)
    assert error.value.param == param and error.value.type == "invalid_request_error" and error.value.body["message"]


@pytest.mark.parametrize("more", [
    {"user": "u"}, {"metadata": {"k": "v"}}, {"service_tier": "auto"}, {"safety_identifier": "s"}, {"prompt_cache_key": "k"}, {"truncation": "disabled"},
    {"background": False}, {"text": {"format": {"type": "text"}}}, {"include": ["reasoning.encrypted_content"]}, {"max_tool_calls": 3}, {"reasoning": {"summary": "auto"}},
    {"tools": [{**WEATHER, "strict": True}]},
])
def test_advice_is_accepted(client, more):
    assert create(client, **more).status == "completed"


def test_strict_tools_are_told_not_to_be(client):
    assert create(client, tools=[{**WEATHER, "strict": True}]).tools[0].strict is False
