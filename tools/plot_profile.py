"""The figures of a profile (`flash-moe profile -o FILE`), for plot.py: how often each expert is used, how few have most of the uses, and which hit rate a cache would have."""
import csv
import json

import matplotlib.pyplot as plt
import numpy as np

POLICY_COLOURS = {"belady": "#444444", "lfu": "#c8491f", "lru": "#2c6fad", "static": "#7fb98f"}
KIND_COLOURS = ("#c8491f", "#2c6fad", "#3f8f59", "#e69f24", "#7a4ea0", "#8a8a8a", "#b5485d", "#4aa5a5")


class WrongProfile(Exception):
    """Something in a profile that is not what it says."""


def older(data):
    """{kind: uses} of a profile of the flash-moe programs before: counts of prompts."""
    layers = {int(key): layer for key, layer in data["layers"].items()}
    uses = np.zeros((max(layers) + 1, data["num_experts"]))
    for i, layer in layers.items():
        for key, count in layer.get("activation_counts", {}).items():
            uses[i, int(key)] = count
        for expert in layer.get("universal", []):
            uses[i, expert] = max(uses[i, expert], 1)
    return {"all": uses}


def read(path):
    """{kind: uses [layer][expert]}, in the file's order."""
    try:
        data = json.loads(path.read_text())
        if not isinstance(data, dict) or data.get("format") not in (None, "flash-moe profile") or ("kinds" not in data and "num_experts" not in data):
            raise WrongProfile(f"{path}: it is no profile")
        if "kinds" not in data:
            return older(data)
        kinds = {}
        for kind in data["kinds"]:
            uses = kinds[kind["name"]] = np.zeros((data["n_layers"], data["n_experts"]))
            for layer, values in kind["layers"].items():
                uses[int(layer)] = values["uses"]
        return kinds
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise WrongProfile(f"{path}: it is no profile: {type(error).__name__}: {error}") from None


def read_replay(path):
    """{policy: [(share of all experts, hit rate of decoded tokens)]} of `flash-moe replay --csv`."""
    lines = {}
    with open(path, newline="") as file:
        rows = csv.DictReader(file)
        if not rows.fieldnames or not {"share", "policy", "part", "hit_rate"} <= set(rows.fieldnames):
            raise WrongProfile(f"{path}: it is not what replay --csv writes")
        for row in rows:
            if row["part"] == "decoded" and row["hit_rate"]:
                lines.setdefault(row["policy"], []).append((float(row["share"]), float(row["hit_rate"])))
    return {policy: sorted(points) for policy, points in lines.items()}


def total(kinds):
    return sum(kinds.values())


def curve(uses):
    """Share of uses that the most used n experts have, n from 0 to all of the layers that have some."""
    used = uses[uses.sum(axis=1) > 0]
    ordered = np.sort(used.ravel())[::-1]
    return np.concatenate([[0], np.cumsum(ordered) / ordered.sum()])


def draw_heat(name, kinds, _):
    """Layers down, experts across, most used first: the share of its layer's uses."""
    uses = total(kinds)
    shares = np.sort(uses / np.maximum(uses.sum(axis=1, keepdims=True), 1), axis=1)[:, ::-1]
    figure, axes = plt.subplots(figsize=(9, 1.6 + 0.16 * max(len(uses), 8)), layout="constrained")
    image = axes.imshow(np.where(shares > 0, shares, np.nan) * uses.shape[1], aspect="auto", cmap="inferno", interpolation="nearest", norm="log")
    axes.set_xlabel("experts of a layer, the most used first")
    axes.set_ylabel("layer")
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="uses, relative to all alike")
    axes.set_title(f"{name}: how often experts are used", loc="left", fontsize=11)
    return figure


def draw_concentration(name, kinds, _):
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    curves = {"all": curve(total(kinds)), **(kinds_curves(kinds) if len(kinds) > 1 else {})}
    for i, (kind, line) in enumerate(curves.items()):
        axes.plot(np.linspace(0, 100, len(line)), 100 * line, color="#222222" if kind == "all" else KIND_COLOURS[(i - 1) % len(KIND_COLOURS)],
                  linewidth=2 if kind == "all" else 1.3, label=kind)
    for share in 50, 80, 90:
        axes.axhline(share, color="#bbbbbb", linewidth=0.8)
    axes.plot([0, 100], [0, 100], color="#bbbbbb", linewidth=0.8, linestyle=":")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 101)
    axes.set_xlabel("experts, the most used first, %")
    axes.set_ylabel("of all uses, %")
    axes.legend(loc="lower right")
    axes.set_title(f"{name}: how few experts have most of the uses", loc="left", fontsize=11)
    return figure


def kinds_curves(kinds):
    return {kind: curve(uses) for kind, uses in kinds.items() if uses.sum() > 0}


def draw_hits(name, kinds, replay):
    """What a cache that never changes would hit, from the profile, and what policies do, from a replay."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    line = curve(total(kinds))
    axes.plot(np.linspace(0, 100, len(line)), 100 * line, color=POLICY_COLOURS["static"], linewidth=2, label="this profile, kept for good")
    for policy, points in replay.items():
        axes.plot([100 * share for share, _ in points], [100 * hits for _, hits in points], color=POLICY_COLOURS.get(policy, "#999999"), marker="o", markersize=4,
                  linewidth=1.3, label=policy)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 101)
    axes.set_xlabel("experts that fit in the cache, %")
    axes.set_ylabel("hit rate, %")
    axes.legend(loc="lower right")
    axes.set_title(f"{name}: hit rate against the budget", loc="left", fontsize=11)
    return figure


DRAWINGS = (("heat", draw_heat), ("concentration", draw_concentration), ("hits", draw_hits))
