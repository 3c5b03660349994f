"""Make models/ember: the demo model's bf16 snapshot in MLX 4-bit form, by
mlx-lm's own converter, with what transformers computes from the dequantised
weights in float32.

    make_ember.py SRC OUT        SRC: the bf16 snapshot that tools/ember/train.py wrote
"""

import json
import math
import os
import shutil
import sys

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

import common

GREEDY = 96
LAST_ROWS = 16          # of the long prompts' logits, to keep the file small
LONG = 64               # tokens


def convert(src, out):
    """The dtype is given because mlx-lm would take it from text_config, where
    transformers leaves the float32 that the model was trained in."""
    import mlx.core as mx
    from mlx_lm import convert as mlx_convert
    mx.set_default_device(mx.cpu)
    shutil.rmtree(out, ignore_errors=True)
    mlx_convert(src, out, quantize=True, q_bits=4, q_group_size=64, dtype="bfloat16")
    os.remove(f"{out}/README.md")


def window_logits(model, ids, window):
    with torch.no_grad():
        for i in range(0, len(ids), window):
            x = torch.tensor([ids[i:i + window]])
            yield x[0], model(input_ids=x, use_cache=False).logits[0]


def held_out(model, original, ids, window):
    """Perplexities of both and the mean KL divergence, each window alone, its
    first token given."""
    nll, nll_original, kl = [], [], []
    for (x, ours), (_, theirs) in zip(window_logits(model, ids, window), window_logits(original, ids, window)):
        p, q = theirs[:-1].log_softmax(-1), ours[:-1].log_softmax(-1)
        nll += torch.nn.functional.nll_loss(q, x[1:], reduction="none").tolist()
        nll_original += torch.nn.functional.nll_loss(p, x[1:], reduction="none").tolist()
        kl += (p.exp() * (p - q)).sum(-1).tolist()
    mean = lambda v: sum(v) / len(v)
    return {"window": window, "tokens": len(nll), "mean_nll": mean(nll), "perplexity": math.exp(mean(nll)),
            "bf16": {"mean_nll": mean(nll_original), "perplexity": math.exp(mean(nll_original)), "mean_kl_bf16_to_4bit": mean(kl)}}


def main():
    src, out = sys.argv[1:]
    convert(src, out)
    shutil.copyfile(f"{src}/held-out.txt", f"{out}/held-out.txt")
    with open(f"{src}/reference.json") as f:
        published = json.load(f)
    tok = Tokenizer.from_file(f"{out}/tokenizer.json")
    model, original = common.load_reference(out), common.load_reference(src)

    tensors, texts, logits_from = {}, [], []
    for i, prompt in enumerate(p["prompt"] for p in published["prompts"]):
        x = torch.tensor([tok.encode(prompt).ids])
        first = max(0, x.shape[1] - LAST_ROWS) if x.shape[1] > LONG else 0
        with torch.no_grad():
            logits = model(input_ids=x, use_cache=False).logits[0]
            y = model.generate(x, max_new_tokens=GREEDY, do_sample=False, eos_token_id=[0, 2], pad_token_id=0)[0]
        tensors[f"{i}.ids"] = x[0].to(torch.int32)
        tensors[f"{i}.logits"] = logits[first:].contiguous()
        tensors[f"{i}.greedy"] = y.to(torch.int32)
        logits_from.append(first)
        texts.append({"prompt": prompt, "greedy": tok.decode(y[x.shape[1]:].tolist(), skip_special_tokens=False)})
    save_file(tensors, f"{out}/reference.safetensors")

    with open(f"{src}/held-out.txt") as f:
        ids = tok.encode(f.read()).ids[:16 * published["window"]]
    result = {"source": "transformers, float32, of the dequantised weights (q * scale + bias in float32), experts one by one, no cache",
              "versions": common.versions(), **held_out(model, original, ids, published["window"]),
              "logits_from": logits_from, "prompts": texts}
    with open(f"{out}/reference.json", "w") as f:
        json.dump(result, f, indent=1, ensure_ascii=False)
    for file in os.listdir(out):
        os.chmod(f"{out}/{file}", 0o644)
    print({k: v for k, v in result.items() if k != "prompts"})


if __name__ == "__main__":
    main()
