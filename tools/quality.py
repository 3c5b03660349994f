#!/usr/bin/env python3
"""What fewer bits and fewer experts cost, measured on the demo model: writes docs/quality.md. quality.py BF16-SNAPSHOT [TOKENS]

Every model is packed from the bf16 snapshot by `flash-moe pack` and compared with it by `flash-moe compare`.
"""
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "ember"))
import corpus  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = Path(os.environ.get("FLASH_MOE", ROOT / "build" / "flash-moe"))
BITS, EXPERTS = (8, 4, 3, 2), (6, 4, 3, 2)
N_CALLS = 200

HEAD = """# What fewer bits and fewer experts cost

Made by `make quality`; do not edit. The demo model in bf16 (`models/ember` before it was quantised: {layers} layers of {experts} experts, {top_k} a token)
is compared with itself under other settings, over {tokens} predicted tokens of `models/ember/held-out.txt` in windows of 512. KL is the divergence of the
changed model's predictions from the bf16 model's, in nats; "same" is how often both find the same token likeliest; "bytes" is what one token reads of experts
when none is in memory. "Calls": of {calls} generated questions that a tool can answer (`tools/ember/corpus.py`, none of them in the training text), how many the model answers with a
call that parses, and with the right one: the tool's name and every argument. The bf16 model itself: perplexity {perplexity:.4f}, {bytes} a token, {own} calls.

A small model that was trained on generated text says how these settings compare with each other, not what they cost a large model: measure that one with the
commands below.

"""
TAIL = """
The commands, for any model:

```
flash-moe pack MODEL -o PACKED --experts 3 --search
flash-moe compare MODEL PACKED -f TEXT --experts-per-token 4
```
"""


def run(*arguments):
    result = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"quality.py: {' '.join(map(str, arguments))}: {result.stderr}")
    return json.loads(result.stdout)


def questions():
    """Requests with the call that is right for each."""
    rng, found = random.Random(20260), []
    while len(found) < N_CALLS:
        name, question, arguments, _, _ = corpus.tool_turns(rng)
        names = {name, *rng.sample(list(corpus.TOOLS), rng.randrange(1, len(corpus.TOOLS)))}
        tools = [corpus.TOOLS[n] for n in corpus.TOOLS if n in names]
        found.append(({"messages": [{"role": "user", "content": question}], "tools": tools, "temperature": 0, "max_tokens": 150}, (name, arguments)))
    return found


def calls(model, top_k):
    """Of the questions, how many are answered by a call that parses, and how many by the right one."""
    def ask(item):
        request, right = item
        with urllib.request.urlopen(urllib.request.Request(url + "/v1/chat/completions", json.dumps(request).encode()), timeout=600) as answer:
            made = json.load(answer)["choices"][0]["message"].get("tool_calls") or []
        made = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in made]
        return bool(made), made == [right]

    command = [PROGRAM, "serve", model, "--port", "0", "--parallel", "8", "--queue", N_CALLS, "--context", "1024", "--session-cache", "off", "--experts-per-token", top_k]
    with subprocess.Popen([str(x) for x in command], stderr=subprocess.PIPE, text=True) as server:
        try:
            url = next((found[1] for line in server.stderr if (found := re.search(r"ready at (\S+)", line))), None)
            with ThreadPoolExecutor(32) as threads:
                parsed, right = zip(*threads.map(ask, questions()))
        finally:
            server.terminate()
    return f"{sum(parsed)} / {sum(right)}"


def size(n):
    return f"{n / 1e6:.2f} MB"


def table(head, rows):
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "|".join("---:" if i else "---" for i in range(len(head))) + "|"] +
                     ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def main(source, tokens="8192"):
    text, scratch = ROOT / "models" / "ember" / "held-out.txt", tempfile.TemporaryDirectory(dir=ROOT / "build")
    model = run("info", source, "--json")
    packed, rows, dense_rows, base = {}, [], [], None

    def pack(*options):
        if options not in packed:
            path = Path(scratch.name) / str(len(packed))
            packed[options] = path, run("pack", source, "-o", path, *options, "--json")
        return packed[options]

    def measure(path, result, top_k):
        some = ["--experts-per-token", top_k] if top_k < model["experts_per_token"] else []
        c = run("compare", source, path, "-f", text, "--tokens", tokens, "--decode", 0, "--json", *some)
        loss = c["b"]["perplexity"] / c["a"]["perplexity"] - 1
        print(path.name, top_k, f"{c['kl']['mean']:.3g}", file=sys.stderr)
        return c, [calls(path, top_k), f"{c['b']['perplexity']:.4f}", f"{100 * loss:+.2f} %", f"{c['kl']['mean']:.2e}", f"{c['kl']['p90']:.1e}", f"{c['kl']['p99']:.1e}",
                   f"{100 * c['same_top']:.2f} %", size(top_k * model["n_moe_layers"] * result["plan"]["expert_bytes"])]

    for search in ([], ["--search"]):
        for bits in BITS:
            path, result = pack("--experts", bits, *search)
            lost = sum(k["relative"] ** 2 * k["weights"] for k in result["kinds"]) / max(1, sum(k["weights"] for k in result["kinds"]))
            for top_k in EXPERTS:
                base, row = measure(path, result, top_k)
                rows.append([f"{bits}", "search" if search else "rule", f"{top_k}", f"{100 * lost ** 0.5:.1f} %", *row])
    for experts, dense, search in (("keep", 8, []), ("keep", 4, []), ("keep", 4, ["--search"]), (4, 8, ["--search"]), (4, 4, []), (4, 4, ["--search"]), (3, 4, ["--search"])):
        path, result = pack("--experts", experts, "--dense", dense, *search)
        dense_rows.append(["bf16" if experts == "keep" else f"{experts}", f"{dense}", "search" if search else "rule", *measure(path, result, model["experts_per_token"])[1],
                           size(result["plan"]["dense_bytes"])])
    for top_k in EXPERTS[1:]:
        path, result = pack("--experts", "keep")
        rows.insert(len(rows), ["bf16", "", f"{top_k}", "0 %", *measure(path, result, top_k)[1]])

    columns = ["calls", "perplexity", "change", "KL mean", "p90", "p99", "same", "bytes"]
    out = HEAD.format(layers=model["n_layers"], experts=model["n_experts"], top_k=model["experts_per_token"], tokens=base["tokens"], calls=N_CALLS, own=calls(source, model["experts_per_token"]),
                      perplexity=base["a"]["perplexity"], bytes=size(model["experts_per_token"] * model["n_moe_layers"] * model["expert_bytes"]))
    out += "## Experts\n\nThe rest of the model stays bf16. Rule: MLX's; search: `--search`. Lost: root mean square of what the experts' weights lost, over theirs.\n\n"
    out += table(["bits", "by", "K", "lost", *columns], rows)
    out += "\n## The rest of the model\n\nAll experts a token; routers have 8 bits.\n\n" + table(["experts", "rest", "by", *columns, "dense part"], dense_rows) + TAIL
    (ROOT / "docs" / "quality.md").write_text(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
