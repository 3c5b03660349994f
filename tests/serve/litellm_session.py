"""A tool round trip by litellm, the client and proxy that many agents have inside, through each API of a running server. Run by hand, as it weighs 300 MB with what it needs:

    python3 -m venv venv && venv/bin/pip install litellm==1.109.1 mcp
    build/flash-moe serve models/ember --temp 0 &
    venv/bin/python tests/serve/litellm_session.py http://127.0.0.1:8080
"""
import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it does not ask the net for prices

import litellm  # noqa: E402

litellm.suppress_debug_info = True

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Get the weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
RESULT = json.dumps({"temperature": 21, "sky": "foggy"})
ANSWER = "It is 21 degrees and foggy in Oslo."


def chat(model, base, stream):
    """A whole conversation in OpenAI's form, which litellm puts into the API's own."""
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "What is the weather in Oslo?"}]

    def ask():
        answer = litellm.completion(model=model, api_base=base, api_key="none", messages=messages, tools=[WEATHER], max_tokens=64, temperature=0, stream=stream)
        return litellm.stream_chunk_builder(list(answer), messages=messages) if stream else answer
    first = ask()
    call, = first.choices[0].message.tool_calls
    assert first.choices[0].finish_reason == "tool_calls" and json.loads(call.function.arguments) == {"city": "Oslo"}
    messages.append(first.choices[0].message.model_dump())
    messages.append({"role": "tool", "tool_call_id": call.id, "content": RESULT})
    last = ask()
    assert last.choices[0].message.content == ANSWER and last.choices[0].finish_reason == "stop", last
    print(model, "streamed" if stream else "whole", "->", last.choices[0].message.content, last.usage.prompt_tokens, last.usage.completion_tokens)


def responses():
    tool = {"type": "function", **WEATHER["function"], "strict": False}
    more = {"model": "openai/ember", "api_base": URL + "/v1", "api_key": "none", "tools": [tool], "instructions": "You are a helpful assistant.", "temperature": 0}
    first = litellm.responses(input="What is the weather in Oslo?", **more)
    call, = first.output
    assert call.name == "get_weather"
    output = [{"type": "function_call_output", "call_id": call.call_id, "output": RESULT}]
    items = [{"role": "user", "content": "What is the weather in Oslo?"}, {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}]
    last = litellm.responses(input=items + output, **more)
    assert last.output[0].content[0].text == ANSWER
    print("responses ->", last.output[0].content[0].text)


for streamed in (False, True):
    chat("anthropic/ember", URL, streamed)
    chat("openai/ember", URL + "/v1", streamed)
responses()
text = litellm.text_completion(model="text-completion-openai/ember", api_base=URL + "/v1", api_key="none", max_tokens=20, temperature=0,
                               prompt="<|im_start|>user\nWhat is the capital of Norway?<|im_end|>\n<|im_start|>assistant\n")
assert text.choices[0].text == "The capital of Norway is Oslo."
print("completions ->", text.choices[0].text)
