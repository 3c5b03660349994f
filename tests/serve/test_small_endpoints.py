"""POST /tokenize, /detokenize and /apply-template, as llama-server has them, and errors in OpenAI's form."""
import pytest

pytest.importorskip("pydantic")

import wire  # noqa: E402

TEXT = "The capital of Norway is Oslo. \u00c4 \U0001f600 \u6771\u4eac"


def test_there_and_back(server):
    tokens = wire.ask(server.url, "/tokenize", {"content": TEXT})["tokens"]
    assert len(tokens) > 5 and wire.ask(server.url, "/detokenize", {"tokens": tokens}) == {"content": TEXT}
    assert wire.ask(server.url, "/tokenize", {"content": ""}) == {"tokens": []} and wire.ask(server.url, "/detokenize", {"tokens": []}) == {"content": ""}


def test_pieces(server):
    """Parts of characters are bytes, and detokenising half of one is no broken JSON."""
    pieces = wire.ask(server.url, "/tokenize", {"content": TEXT, "with_pieces": True})["tokens"]
    whole = b"".join(piece["piece"].encode() if isinstance(piece["piece"], str) else bytes(piece["piece"]) for piece in pieces)
    assert whole.decode() == TEXT
    part = [piece["id"] for piece in pieces if isinstance(piece["piece"], list)][:1]
    assert part and "\ufffd" in wire.ask(server.url, "/detokenize", {"tokens": part})["content"]


def test_special_tokens(server):
    one = wire.ask(server.url, "/tokenize", {"content": "<|im_start|>"})["tokens"]
    assert len(one) == 1 and len(wire.ask(server.url, "/tokenize", {"content": "<|im_start|>", "parse_special": False})["tokens"]) > 1


def test_apply_template(server):
    body = {"messages": [{"role": "user", "content": "Hello."}]}
    prompt = wire.ask(server.url, "/apply-template", body)["prompt"]
    assert prompt == "<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.startswith(wire.ask(server.url, "/apply-template", {**body, "add_generation_prompt": False})["prompt"])
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    assert "# Tools" in wire.ask(server.url, "/apply-template", {**body, "tools": [tool]})["prompt"]


@pytest.mark.parametrize("path, param, body", [
    ("/tokenize", "content", {}), ("/tokenize", "content", {"content": 3}), ("/tokenize", "add_special", {"content": "x", "add_special": True}),
    ("/tokenize", "with_pieces", {"content": "x", "with_pieces": 1}), ("/tokenize", "frobnicate", {"content": "x", "frobnicate": 1}),
    ("/detokenize", "tokens", {}), ("/detokenize", "tokens", {"tokens": [10 ** 9]}), ("/detokenize", "tokens", {"tokens": [-1]}), ("/detokenize", "tokens", {"tokens": ["a"]}),
    ("/apply-template", "frobnicate", {"messages": [], "frobnicate": 1}),
])
def test_what_is_wrong_is_named(server, path, param, body):
    error = wire.ask(server.url, path, body, status=400)["error"]
    assert error["param"] == param and error["message"] and error["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/apply-template", "/v1/completions", "/v1/responses", "/v1/messages/count_tokens"])
def test_bodies_that_are_none(server, path):
    for body in (b"", b"{", b"[]", b"null", b'"x"', b"\xff"):
        assert wire.ask(server.url, path, body, status=400)["error"]["message"]
    assert "messages" not in wire.ask(server.url, "/apply-template", {"messages": []}, status=400)
