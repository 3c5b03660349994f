#!/usr/bin/env python3
"""Plots what `flash-moe replay FILE --json` says: hit rate of decoded tokens over the size of the cache, one panel a trace.

    flash-moe replay stories.trace --json > stories.json
    plot_replay.py stories.json [MORE.json …] -o NAME        writes NAME.png and NAME.svg; - reads standard input

Needs matplotlib.
"""
import argparse
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

# Belady is a limit, so it is grey; a policy keeps its colour whatever else is drawn.
STYLE = {"belady": dict(color="#555555", linestyle="--", label="Belady: the most without prefetching"),
         "lfu": dict(color="#0072b2", marker="o"), "lru": dict(color="#d55e00", marker="s"), "static": dict(color="#009e73", marker="^")}
SPARE = ["#cc79a7", "#e69f00", "#56b4e9"]


def read(name):
    data = json.load(sys.stdin if name == "-" else open(name, encoding="utf-8"))
    if "budgets" not in data:
        sys.exit(f"{name}: this is not what flash-moe replay --json prints")
    if data["decoded_tokens"] == 0:
        sys.exit(f"{name}: the trace has no decoded tokens")
    return data


def draw(axes, data, title):
    shares = [100 * budget["share"] for budget in data["budgets"]]
    names = list(data["budgets"][0]["policies"])
    others = [name for name in names if name not in STYLE]
    for name in names:
        style = dict(STYLE.get(name) or dict(color=SPARE[others.index(name) % len(SPARE)], marker="d"))
        style.setdefault("label", name + (" (default)" if name == data["default_policy"] else ""))
        axes.plot(shares, [100 * budget["policies"][name]["decoded"] for budget in data["budgets"]], linewidth=1.8, markersize=5, **style)
    token = 100 * data["experts_per_token"] / data["n_experts"]
    axes.axvline(token, color="#999999", linewidth=0.8, linestyle=":")
    axes.annotate("one token's\nexperts", (token, 99), fontsize=8, color="#666666", va="top", xytext=(4, 0), textcoords="offset points")
    axes.set(title=title, xlabel="cache, % of all experts", xlim=(0, max(shares) * 1.04), ylim=(0, 100))
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE.json")
    parser.add_argument("-o", "--output", required=True, metavar="NAME", help="path without .png and .svg")
    args = parser.parse_args()
    plt.rcParams["svg.hashsalt"] = "flash-moe"  # the same file for the same numbers
    figure, panels = plt.subplots(1, len(args.files), figsize=(1 + 4.4 * len(args.files), 4.6), sharey=True, squeeze=False, layout="constrained")
    for axes, name in zip(panels[0], args.files):
        data = read(name)
        prompts = data["made"].get("prompts", "")
        title = Path(prompts).stem.removeprefix("prompts-") or data["model_type"]
        draw(axes, data, f"{title}\n{data['decoded_tokens']} tokens, {data['experts_per_token']} of {data['n_experts']} experts in {data['n_moe_layers']} layers")
        axes.title.set_fontsize(10)
    panels[0][0].set_ylabel("hit rate of decoded tokens, %")
    panels[0][-1].legend(loc="lower right", fontsize=8, frameon=True, framealpha=0.9, edgecolor="none")
    figure.savefig(args.output + ".png", dpi=150)
    figure.savefig(args.output + ".svg", metadata={"Date": None})
    print(f"{args.output}.png and {args.output}.svg written")


if __name__ == "__main__":
    main()
