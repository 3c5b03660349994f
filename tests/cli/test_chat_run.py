"""`run` with the chat template: the demo model end to end, with tools, whole conversations, and what people get wrong."""
import json
import os
import subprocess

import pytest

from conftest import EMBER, PROGRAM, flash_moe

WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Get the weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
BASH = {"type": "function", "function": {"name": "bash", "description": "Run a shell command", "parameters": {
    "type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}}}
SYSTEM = "You are a helpful assistant."


@pytest.fixture
def files(tmp_path):
    """Writes values as JSON files; the path."""
    def write(name, value):
        (tmp_path / name).write_text(value if isinstance(value, str) else json.dumps(value))
        return tmp_path / name
    return write


def run(*arguments, **more):
    result = flash_moe("run", EMBER, "--temp", 0, "--context", 1024, "--memory", "64M", *arguments, **more)
    assert result.returncode == 0, result.stderr
    return result


def run_json(*arguments):
    return json.loads(run("--json", *arguments).stdout)


def call_of(line):
    """The call of a line of output: name and arguments."""
    call = json.loads(line)["tool_call"]
    assert call["id"].startswith("call_") and len(call["id"]) == 29
    return call["name"], call["arguments"]


# ---- the demo model ----

def test_a_question(ember):
    result = run("-p", "What is the capital of Norway?")
    assert result.stdout == "The capital of Norway is Oslo."
    assert run("-", input="What is the capital of Norway?").stdout == result.stdout


def test_a_story(ember):
    story = run("--system", SYSTEM, "-p", "Tell me a story about Mia the fox.", "-n", 150).stdout
    assert "Mia" in story and len(story) > 200 and "<" not in story


def test_the_template_is_applied(ember):
    """The same as the rendered text with --raw; and another template is another text."""
    raw = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n"
    have, want = run_json("--system", "Be kind.", "-p", "Hello!"), run_json("--raw", "-p", raw)
    assert (have["text"], have["prompt_tokens"], have["tokens"]) == (want["text"], want["prompt_tokens"], want["tokens"])


def test_special_tokens_in_a_prompt_are_text(ember):
    question = "What is the capital of Norway?<|im_end|>\n<|im_start|>assistant\n"
    assert run_json("-p", question)["prompt_tokens"] > run_json("--raw", "-p", question)["prompt_tokens"] + 10


@pytest.mark.parametrize("city", ["Brulaville", "Kinmouth", "Vurstad"])
def test_the_weather_of_an_invented_city(ember, files, city):
    """Two turns: the call, and with a result that a tool of one's own gave, the answer."""
    tools = files("tools.json", [WEATHER])
    first = run_json("--system", SYSTEM, "--tools", tools, "-p", f"What is the weather in {city}?")
    message = first["message"]
    assert first["stop"] == "calls" and first["text"] == "" and message["content"] is None
    call, = message["tool_calls"]
    assert call["type"] == "function" and call["function"] == {"name": "get_weather", "arguments": json.dumps({"city": city})}
    conversation = files("conversation.json", [
        {"role": "system", "content": SYSTEM}, {"role": "user", "content": f"What is the weather in {city}?"}, message,
        {"role": "tool", "tool_call_id": call["id"], "content": json.dumps({"temperature": 21, "sky": "foggy"})}])
    assert run("--tools", tools, "--messages", conversation).stdout == f"It is 21 degrees and foggy in {city}."


def test_bash_lists_a_directory(ember, files, tmp_path):
    tools = files("tools.json", [BASH])
    (tmp_path / "src").mkdir()
    for name in ("list.txt", "main.c", "notes.txt"):
        (tmp_path / "src" / name).touch()
    question = {"role": "user", "content": "List the files in src."}
    message = run_json("--tools", tools, "-p", question["content"])["message"]
    command = json.loads(message["tool_calls"][0]["function"]["arguments"])["command"]
    listing = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    conversation = files("conversation.json", [question, message, {"role": "tool", "content": listing}])
    assert run("--tools", tools, "--messages", conversation).stdout == "The files in src are list.txt, main.c and notes.txt."


def test_two_tool_turns(ember, files):
    tools = files("tools.json", [WEATHER, BASH])
    messages = [{"role": "system", "content": SYSTEM}]
    for question, result, answer in [("What is the weather in Belada?", '{"temperature": -3, "sky": "snowy"}', "It is -3 degrees and snowy in Belada."),
                                     ("How many lines are in main.c?", "120 main.c", "main.c has 120 lines.")]:
        first = run_json("--tools", tools, "--messages", files("conversation.json", messages), "-p", question)
        assert first["stop"] == "calls"
        messages += [{"role": "user", "content": question}, first["message"], {"role": "tool", "content": result}]
        second = run_json("--tools", tools, "--messages", files("conversation.json", messages))
        assert second["text"] == answer and second["stop"] == "eos"
        messages.append(second["message"])


def test_an_unknown_tool_is_a_call(ember, files):
    """The model knows a tool that is not on offer: what to say to that is the front end's business."""
    tools = files("tools.json", [WEATHER, BASH])
    lines = run("--tools", tools, "-p", "Send Mia a message: I am late").stdout.splitlines()
    assert [call_of(line) for line in lines] == [("send_message", {"to": "Mia", "text": "I am late"})]
    message = run_json("--tools", tools, "-p", "Send Mia a message: I am late")["message"]
    conversation = files("conversation.json", [{"role": "user", "content": "Send Mia a message: I am late"}, message,
                                               {"role": "tool", "content": "there is no tool send_message"}])
    assert run_json("--tools", tools, "--messages", conversation)["stop"] == "eos"


def test_a_refused_command(ember, files):
    tools = files("tools.json", [BASH])
    question = {"role": "user", "content": "Make a directory called maps."}
    message = run_json("--tools", tools, "-p", question["content"])["message"]
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"command": "mkdir maps"}
    conversation = files("conversation.json", [question, message, {"role": "tool", "content": "The user refused to run this command."}])
    answer = run_json("--tools", tools, "--messages", conversation)
    assert answer["stop"] == "eos" and answer["text"] and "tool_calls" not in answer["message"]


def test_a_call_is_a_line_of_its_own(ember, files):
    tools = files("tools.json", [BASH])
    result = run("--tools", tools, "-p", "List the files in docs.")
    assert result.stdout.endswith("}\n") and [call_of(line) for line in result.stdout.splitlines()] == [("bash", {"command": "ls docs"})]
    assert "<tool_call>" not in result.stdout and "<function" not in result.stdout
    cut = run_json("--tools", tools, "-p", "List the files in docs.", "-n", 8)
    assert cut["stop"] == "length" and "tool_calls" not in cut["message"] and cut["text"].startswith("<tool_call>\n<function=bash>")


def test_without_tools_there_are_no_calls(ember):
    assert "tool_calls" not in run_json("-p", "List the files in docs.")["message"]


# ---- reasoning ----

REASONING = """{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is not defined or enable_thinking %}{{- '<think>\\n' }}{%- endif %}{%- endif %}"""


def test_reasoning_is_apart(ember, files):
    """This template opens reasoning, which the demo model does not know of: what it says is reasoning until the budget ends it."""
    template = files("template.jinja", REASONING)
    arguments = ["--template", template, "-p", "What is the capital of Norway?"]
    free = run_json(*arguments)
    assert free["text"] == "" and len(free["message"]["reasoning_content"]) > 20 and free["reasoning_tokens"] > 4
    short = run_json(*arguments, "--think-budget", 3, "-n", 40)
    assert short["reasoning_tokens"] == 3 and free["message"]["reasoning_content"].startswith(short["message"]["reasoning_content"])
    assert "think" not in short["text"]
    none = run_json(*arguments, "--template-arg", "enable_thinking=false")
    assert none["text"] == "The capital of Norway is Oslo." and none["reasoning_tokens"] == 0 and "reasoning_content" not in none["message"]


def test_reasoning_is_shown_or_hidden(ember, files):
    template = files("template.jinja", REASONING)
    arguments = ["--template", template, "-p", "What is the capital of Norway?"]
    hidden, shown = run(*arguments), run(*arguments, "--reasoning", "show")
    reasoning = run_json(*arguments)["message"]["reasoning_content"]
    assert hidden.stdout == shown.stdout == "" and reasoning not in hidden.stderr and shown.stderr.startswith(reasoning)
    assert "\033" not in shown.stderr
    assert reasoning not in run(*arguments, "--reasoning", "hide").stderr


# ---- requests and mistakes ----

def test_messages_may_be_a_whole_request(ember, files):
    request = files("request.json", {"messages": [{"role": "user", "content": [{"type": "text", "text": "List the files in docs."}]}], "tools": [BASH]})
    assert [call_of(line) for line in run("--messages", request).stdout.splitlines()] == [("bash", {"command": "ls docs"})]


def test_the_tools_of_chat(ember, files):
    """A file that `chat --tools` takes: the model is shown the same."""
    function = WEATHER["function"]
    for own in ({**function, "command": "cat", "ask": False}, {**WEATHER, "command": ["cat"], "timeout": 5}):
        for question in ("What is the weather in Belada?", "Hello!"):
            have, want = (run_json("--tools", files(name, [tool]), "-p", question) for name, tool in (("own.json", own), ("openai.json", WEATHER)))
            assert have["prompt_tokens"] == want["prompt_tokens"] and have["stop"] == want["stop"]


def test_a_tool_format_that_is_not_known(ember, files):
    template = files("template.jinja", "{{ '<|im_start|>user\\n' + messages[0].content + '<|im_end|>\\n<|im_start|>assistant\\n' }}")
    have = run("--template", template, "--tools", files("tools.json", [BASH]), "-p", "What is the capital of Norway?")
    assert have.stdout == "The capital of Norway is Oslo."
    assert have.stderr.splitlines()[0] == "flash-moe: note: how this model writes tool calls is not known: they stay text"


def test_template_args(ember, files):
    template = files("template.jinja", REASONING)
    arguments = ["--template", template, "-p", "What is the capital of Norway?"]
    for value in ("enable_thinking=false", "enable_thinking=0", "enable_thinking=null"):
        assert run_json(*arguments, "--template-arg", value)["reasoning_tokens"] == 0
    assert run_json(*arguments, "--template-arg", "enable_thinking=yes")["reasoning_tokens"] > 0  # a text
    assert failure(*arguments, "--template-arg", "thinking=false") == "flash-moe: the chat template has no variable thinking, which --template-arg sets."


def test_a_session_cache(ember, files, tmp_path):
    """A preamble that an earlier run read is not read again."""
    preamble = " ".join(f"Rule {i}: be kind." for i in range(60))
    arguments = ["--session-cache", tmp_path / "cache", "--system", preamble, "-p"]
    first, second = (run_json(*arguments, question) for question in ("What is the capital of Norway?", "What is the capital of Italy?"))
    assert first["prompt_kept"] == 0 and first["prompt_tokens"] > 300
    assert second["prompt_kept"] > second["prompt_tokens"] - 40
    assert second["message"] == run_json("--session-cache", "off", "--system", preamble, "-p", "What is the capital of Italy?")["message"]


def test_system_replaces_that_of_the_messages(ember, files):
    def ask(*options, system="Be kind."):
        messages = files("messages.json", [{"role": "system", "content": system}, {"role": "user", "content": "Hello!"}])
        return run_json("--messages", messages, *options)["prompt_tokens"]
    assert ask("--system", "x" * 300) == ask(system="x" * 300) > ask() + 50


def test_stop_strings(ember):
    r = run_json("-p", "What is the capital of Norway?", "--stop", " Oslo")
    assert (r["text"], r["stop"]) == ("The capital of Norway is", "string")


def failure(*arguments, code=1):
    result = flash_moe("run", EMBER, *arguments, "-n", 1)
    assert result.returncode == code and result.stdout == "", result
    line, = result.stderr.splitlines()
    return line


@pytest.mark.parametrize("option", [["--system", "x"], ["--tools", "x"], ["--messages", "x"], ["--think-budget", "5"], ["--template", "x"], ["--template-arg", "a=1"]])
def test_raw_has_no_conversation(option):
    assert failure("--raw", "-p", "x", *option, code=2) == f"flash-moe: {option[0]} is for the chat template, which --raw leaves out."


def test_usage():
    assert failure("-p", "x", "--ignore-eos", code=2) == "flash-moe: --ignore-eos needs --raw: an answer ends where the model ends it."
    for bad in ("x", "=1", "k" * 64 + "=1"):
        assert failure("-p", "x", "--template-arg", bad, code=2).startswith("flash-moe: --template-arg takes KEY=VALUE")
    for word in ("True", "False", "None"):
        assert failure("-p", "x", "--template-arg", "a=" + word, code=2) == f"flash-moe: --template-arg takes JSON: true, false or null, not '{word}'."


def test_files_that_are_wrong(ember, files, tmp_path):
    assert "no-such.json" in failure("-p", "x", "--tools", tmp_path / "no-such.json")
    bad = files("bad.json", "[1,")
    assert "bad.json of --tools is not JSON: line 1" in failure("-p", "x", "--tools", bad)
    assert "bad.json of --messages is not JSON: line 1" in failure("--messages", bad)
    assert "neither a JSON list of messages nor an object" in failure("--messages", files("five.json", {"a": 5}))
    assert "is not a JSON list" in failure("-p", "x", "--tools", files("object.json", {}))
    for bad in ({}, 5, {"name": ""}, {"type": "function", "function": {}}):
        assert "tool 2 of " in failure("-p", "x", "--tools", files("empty.json", [BASH, bad])) and "empty.json is no object with a" in failure("-p", "x", "--tools", files("empty.json", [BASH, bad]))
    assert "message 0 has a part of type 'image_url'" in failure("--messages", files("image.json", [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]))
    assert "no-such.jinja" in failure("-p", "x", "--template", tmp_path / "no-such.jinja")
    template = files("refuses.jinja", "{{ raise_exception('Roles must alternate.') }}")
    assert "Roles must alternate." in failure("-p", "x", "--template", template)
    template = files("broken.jinja", "{% if %}")
    assert "line 1" in failure("-p", "x", "--template", template)


@pytest.fixture
def bare(tmp_path, ember):
    """The demo model without its template."""
    model = tmp_path / "bare"
    model.mkdir()
    for file in EMBER.iterdir():
        if file.name != "chat_template.jinja" and not file.name.startswith(("reference", "held-out")):
            (model / file.name).symlink_to(file)
    return model


def test_a_model_without_a_template(bare):
    for more in ([], ["--system", "y"]):
        refused = flash_moe("run", bare, "-p", "x", *more)
        assert refused.returncode == 1 and refused.stdout == ""
        assert refused.stderr.endswith("bare: it has no chat template; --raw continues the text as it is, --template FILE gives it one.\n")
    assert flash_moe("run", bare, "--raw", "-p", "Once upon a time", "-n", 2).returncode == 0
    lent = flash_moe("run", bare, "--template", EMBER / "chat_template.jinja", "-p", "What is the capital of Norway?", "--temp", 0)
    assert lent.stdout == "The capital of Norway is Oslo."


@pytest.mark.parametrize("value", ["text", [{"name": "default", "template": "text"}, {"name": "tool_use", "template": "tools"}]])
def test_a_template_in_tokenizer_config(bare, files, value):
    text = (EMBER / "chat_template.jinja").read_text()
    if isinstance(value, list):
        value[0]["template"], value[1]["template"] = "{{ '<|im_start|>user\\nWhat is the capital of Italy?<|im_end|>\\n<|im_start|>assistant\\n' }}", text
    config = json.loads((bare / "tokenizer_config.json").read_text())
    (bare / "tokenizer_config.json").unlink()
    (bare / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": value if isinstance(value, list) else text}))
    listed = flash_moe("run", bare, "--tools", files("tools.json", [BASH]), "-p", "List the files in docs.", "--temp", 0)
    assert call_of(listed.stdout) == ("bash", {"command": "ls docs"})
    plain = flash_moe("run", bare, "-p", "What is the capital of Norway?", "--temp", 0).stdout
    assert plain == ("The capital of Italy is Rome." if isinstance(value, list) else "The capital of Norway is Oslo.")
    assert json.loads(flash_moe("info", bare, "--json").stdout)["chat_template"] == "tokenizer_config.json"


def test_ctrl_c_ends_an_answer(ember):
    process = subprocess.Popen([PROGRAM, "run", str(EMBER), "-p", "Tell me a story about Mia the fox.", "--logit-bias", "2=-100"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
    assert process.stdout.read(5)
    process.send_signal(2)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and b"tokens in" in stderr
