"""A tiny model of tests/golden that can read and write: its vocabulary widened to 256 rows, and a tokenizer whose tokens are bytes, with a chat template."""
import json

from safetensors_file import Safetensors

TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"


def tokenizer():
    """Byte-level BPE without merges; what can be read comes first."""
    letters = {b: chr(b) for b in [*range(33, 127), *range(161, 173), *range(174, 256)]}
    others = [b for b in range(256) if b not in letters]
    letters |= {b: chr(256 + i) for i, b in enumerate(others)}
    order = [*range(32, 127), 10]
    order += [b for b in range(256) if b not in order]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
             "byte_fallback": False, "vocab": {letters[b]: i for i, b in enumerate(order)}, "merges": []}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "post_processor": None, "model": model,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}, "decoder": {"type": "ByteLevel"}}


def widen(file, vocab):
    """Rows of tensors that have one for each token are repeated up to 256."""
    header, data = {}, bytearray()
    for name, tensor in file.header.items():
        if name == "__metadata__":
            continue
        begin, end = tensor["data_offsets"]
        body, shape = bytes(file.data[begin:end]), list(tensor["shape"])
        if shape[0] == vocab and any(word in name for word in ("embed", "lm_head")):
            body, shape[0] = (body * (256 // vocab + 1))[:256 * (len(body) // vocab)], 256
        header[name] = {"dtype": tensor["dtype"], "shape": shape, "data_offsets": [len(data), len(data) + len(body)]}
        data += body
    return Safetensors(header, data)


def make(source, path, template=TEMPLATE):
    """source, a directory of tests/golden, as a model directory at path."""
    path.mkdir()
    config = json.loads((source / "config.json").read_text())
    text = config.get("text_config", config)
    for file in source.glob("model*.safetensors"):
        widen(Safetensors.load(file), text["vocab_size"]).save(path / file.name)
    for file in source.glob("*.index.json"):
        (path / file.name).write_bytes(file.read_bytes())
    text["vocab_size"] = 256
    text["eos_token_id"] = None     # it goes on until it is told to stop
    (path / "config.json").write_text(json.dumps(config))
    (path / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (path / "chat_template.jinja").write_text(template)
    return path
