#!/usr/bin/env python3
"""Draws the figures that `flash-moe bench --csv` collected, or of a profile, as PNG and SVG: plot.py [CSV or PROFILE.json…] [--replay CSV] [-o FOLDER].

Without arguments it draws bench/*.csv, a machine each, into bench/plots/. For MACHINE.csv there are
    MACHINE-speed    decoding speed against the memory budget
    MACHINE-share    share of the hardware's limit by case
    MACHINE-history  speed over the commits, in the file's order; only if there are several
For PROFILE.json, which `flash-moe profile` or an older program wrote, there are
    PROFILE-heat           how often each expert of each layer is used
    PROFILE-concentration  how few experts have most of the uses, by kind of prompt
    PROFILE-hits           the hit rate against the budget, and with --replay that of the policies (`flash-moe replay --csv`)
Lines of a CSV that begin with # say how it was made; a line of names may come again, as appending `bench --csv` leaves it. Of rows of one commit, model, budget,
routing and case the last counts.
"""
import argparse
import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams.update({"svg.hashsalt": "flash-moe", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                            "axes.grid.axis": "y", "grid.color": "#dddddd", "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False})
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator  # noqa: E402

from plot_profile import DRAWINGS, WrongProfile, read as read_profile, read_replay  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = ("memory_bytes", "threads", "tokens", "runs", "tokens_per_second", "tokens_per_second_min", "tokens_per_second_max", "hit_rate",
           "disk_bytes_per_token", "share_of_limit", "ram_gb_per_s", "disk_gb_per_s")
TEXTS = ("commit", "model", "routing", "case")
DECODE = ("warm", "rotating", "cold")
CASE_COLOURS = {"warm": "#c8491f", "rotating": "#e69f24", "cold": "#2c6fad"}
PREFILL_COLOURS = ("#bcd9c4", "#7fb98f", "#3f8f59", "#1d5b35")
MARKERS = "osD^vP*X"
STYLES = ("-", "--", ":", "-.")


class Wrong(Exception):
    """Something in a CSV that is not what it says."""


def read(path):
    lines = [(number, line) for number, line in enumerate(path.read_text().splitlines(), 1) if line.strip() and not line.startswith("#")]
    if not lines:
        raise Wrong(f"{path}: there are no rows")
    names = next(csv.reader([lines[0][1]]))
    missing = [name for name in (*TEXTS, *NUMBERS) if name not in names]
    if missing:
        raise Wrong(f"{path}:{lines[0][0]}: there is no column {', '.join(missing)}")
    rows = {}
    for number, line in lines[1:]:
        values = next(csv.reader([line]))
        if values == names:
            continue
        if len(values) != len(names):
            raise Wrong(f"{path}:{number}: {len(values)} values in {len(names)} columns")
        row = dict(zip(names, values))
        for name in NUMBERS:
            try:
                row[name] = float(row[name])
            except ValueError:
                raise Wrong(f"{path}:{number}: {name} is '{row[name]}', not a number") from None
        rows[tuple(row[name] for name in (*TEXTS, "memory_bytes"))] = row
    if not rows:
        raise Wrong(f"{path}: there are no rows")
    return list(rows.values())


def distinct(rows, name):
    return list(dict.fromkeys(row[name] for row in rows))


def gib(size):
    size /= 2**30
    return f"{size * 1024:.0f} MiB" if size < 1 else f"{size:.3g} GiB"


def short_routing(routing):
    """The preset of "zipf 1.40, reuse 0.05 (preset 128x8)"; else what it says."""
    return routing.split("(preset ")[1].rstrip(")") if "(preset " in routing else routing.split(" (")[0]


def groups_of(rows, names):
    """(label, rows) of rows that agree in these columns; what is the same everywhere is left out of the labels."""
    found = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    telling = [i for i, name in enumerate(names) if len(distinct(rows, name)) > 1]
    show = {"memory_bytes": gib, "routing": short_routing, "model": str, "case": str, "commit": str}
    return [(", ".join(show[names[i]](key[i]) for i in telling), list(group)) for key, group in found.items()]


def caption(rows, names):
    """What is the same everywhere, for the title."""
    parts = []
    for name in names:
        values = distinct(rows, name)
        if len(values) == 1 and values[0] != "":
            parts.append({"memory_bytes": gib, "routing": lambda x: f"routing: {short_routing(x)}", "commit": lambda x: f"commit {x}"}.get(name, str)(values[0]))
    return ", ".join(parts)


def spread(rows):
    """matplotlib's yerr of rows: from the median down to the slowest run and up to the fastest."""
    return [[row["tokens_per_second"] - row["tokens_per_second_min"] for row in rows], [row["tokens_per_second_max"] - row["tokens_per_second"] for row in rows]]


def newest(rows):
    """Of each commit's row for the same thing the last in the file."""
    last = {}
    for row in rows:
        last[tuple(row[name] for name in ("model", "routing", "case", "memory_bytes"))] = row
    return list(last.values())


def titled(axes, title, below):
    axes.set_title(title + (f"\n{below}" if below else ""), loc="left", fontsize=11)


def draw_speed(machine, rows):
    rows = [row for row in newest(rows) if row["case"] in DECODE]
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    for i, (label, group) in enumerate(groups_of(rows, ("model", "routing"))):
        for case in DECODE:
            line = sorted((row for row in group if row["case"] == case), key=lambda row: row["memory_bytes"])
            if line:
                axes.errorbar([row["memory_bytes"] / 2**30 for row in line], [row["tokens_per_second"] for row in line], spread(line), color=CASE_COLOURS[case],
                              marker=MARKERS[i % len(MARKERS)], markersize=5, linestyle=STYLES[i % len(STYLES)], linewidth=1.5, capsize=3, elinewidth=0.9,
                              label=f"{label}, {case}" if label else case)
    sizes = sorted(distinct(rows, "memory_bytes"))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator([size / 2**30 for size in sizes]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: gib(x * 2**30)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", rotation=30 if len(sizes) > 8 else 0)
    if len(sizes) == 1:
        axes.set_xlim(sizes[0] / 2**30 / 2, sizes[0] / 2**30 * 2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("memory budget (--memory)")
    axes.set_ylabel("decoding, tokens/s (median, slowest to fastest run)")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    titled(axes, f"{machine}: decoding speed against memory", caption(rows, ("model", "routing", "commit")))
    return figure


def case_order(case):
    return (DECODE.index(case), 0) if case in DECODE else (len(DECODE), int(case.split()[-1]))


def case_colour(case, cases):
    prefills = [other for other in cases if other not in DECODE]
    return CASE_COLOURS.get(case) or PREFILL_COLOURS[prefills.index(case) % len(PREFILL_COLOURS)]


def case_label(case):
    return f"decode, {case}" if case in DECODE else case


def panels(n, columns, width, height):
    """n axes in a grid, and their figure; places that are left over stay empty."""
    columns = min(n, columns)
    lines = -(-n // columns)
    figure, grid = plt.subplots(lines, columns, figsize=(width * columns, height * lines), layout="constrained", squeeze=False)
    for axes in grid.flat[n:]:
        axes.set_visible(False)
    return figure, list(grid.flat[:n])


def headed(figure, title, below):
    figure.suptitle(title + (f"\n{below}" if below else ""), x=0.01, ha="left", fontsize=11)


def draw_share(machine, rows):
    """A panel a model and routing, a group of bars a budget."""
    rows = newest(rows)
    models = groups_of(rows, ("model", "routing"))
    cases = sorted(distinct(rows, "case"), key=case_order)
    most = max(len(distinct(group, "memory_bytes")) for _, group in models)
    figure, all_axes = panels(len(models), 1, max(7.0, 2.2 + 0.3 * len(cases) * most), 3.6)
    width = 0.84 / len(cases)
    for axes, (label, group) in zip(all_axes, models):
        sizes = sorted(distinct(group, "memory_bytes"))
        for i, case in enumerate(cases):
            bars = [row for row in group if row["case"] == case]
            drawn = axes.bar([sizes.index(row["memory_bytes"]) + (i - (len(cases) - 1) / 2) * width for row in bars],
                             [row["share_of_limit"] * 100 for row in bars], width * 0.92, color=case_colour(case, cases), label=case_label(case))
            axes.bar_label(drawn, fmt="%.0f", fontsize=8, padding=2)
        axes.axhline(100, color="#444444", linewidth=0.9)
        axes.set_ylim(0, max(112, 1.12 * max(row["share_of_limit"] * 100 for row in rows)))
        axes.set_xlim(-0.6, most - 0.4)
        axes.set_xticks(range(len(sizes)), [gib(size) for size in sizes])
        axes.set_ylabel("share of the limit, %")
        axes.set_title(label, loc="left", fontsize=10)
    all_axes[-1].set_xlabel("memory budget (--memory)")
    all_axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1))
    headed(figure, f"{machine}: share of the hardware's limit by case", caption(rows, ("model", "routing", "commit")))
    return figure


def draw_history(machine, rows):
    """A panel a model, budget and routing that was measured at several commits."""
    commits = distinct(rows, "commit")
    kept = [(label, group) for label, group in groups_of(rows, ("model", "memory_bytes", "routing")) if len(distinct(group, "commit")) > 1]
    if not kept:
        return None
    figure, all_axes = panels(len(kept), 2, max(4.6, 1.5 + 0.45 * len(commits)), 3.4)
    cases = sorted(distinct([row for _, group in kept for row in group], "case"), key=case_order)
    for axes, (label, group) in zip(all_axes, kept):
        for case in cases:
            line = [row for row in group if row["case"] == case]
            if line:
                axes.errorbar([commits.index(row["commit"]) for row in line], [row["tokens_per_second"] for row in line], spread(line),
                              color=case_colour(case, cases), marker="o", markersize=4, linewidth=1.5, capsize=3, elinewidth=0.9, label=case_label(case))
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(which="minor", axis="y", color="#eeeeee", linewidth=0.5)
        axes.set_xlim(-0.3, len(commits) - 0.7)
        axes.set_xticks(range(len(commits)), [commit or "?" for commit in commits], rotation=45 if len(commits) > 4 else 0)
        axes.set_ylabel("tokens/s")
        axes.set_title(label, loc="left", fontsize=10)
    for axes in all_axes[-2:]:
        axes.set_xlabel("commit")
    handles = {label: handle for axes in all_axes for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend([handles[case_label(case)] for case in cases], [case_label(case) for case in cases], loc="outside lower center", ncols=min(len(cases), 6),
                  fontsize=9)
    headed(figure, f"{machine}: speed over the commits (median, slowest to fastest run)", caption(rows, ("model", "memory_bytes", "routing")))
    return figure


def save(figure, folder, name):
    for ending in "png", "svg":
        figure.savefig(folder / f"{name}.{ending}", dpi=150, metadata={"Date": None} if ending == "svg" else None)
    plt.close(figure)
    print(folder / f"{name}.png")


def draw_file(path, replay, folder):
    if path.suffix == ".json":
        kinds = read_profile(path)
        for kind, draw in DRAWINGS:
            save(draw(path.stem, kinds, replay), folder, f"{path.stem}-{kind}")
        return
    rows = read(path)
    for kind, draw in ("speed", draw_speed), ("share", draw_share), ("history", draw_history):
        figure = draw(path.stem, rows)
        if figure:
            save(figure, folder, f"{path.stem}-{kind}")


def main():
    parser = argparse.ArgumentParser(description="draws the figures of flash-moe bench --csv and of profiles")
    parser.add_argument("files", nargs="*", type=Path, metavar="CSV|PROFILE.json", help="default: bench/*.csv")
    parser.add_argument("--replay", type=Path, help="what flash-moe replay --csv wrote, for a profile's hit rates")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "bench" / "plots", help="folder (default: bench/plots)")
    arguments = parser.parse_args()
    paths = arguments.files or sorted((ROOT / "bench").glob("*.csv"))
    if not paths:
        sys.exit("plot.py: there is no bench/*.csv; flash-moe bench MODEL --csv makes one")
    arguments.output.mkdir(parents=True, exist_ok=True)
    try:
        replay = read_replay(arguments.replay) if arguments.replay else {}
        for path in paths:
            draw_file(path, replay, arguments.output)
    except (Wrong, WrongProfile, OSError, UnicodeDecodeError) as error:
        sys.exit(f"plot.py: {error}")


if __name__ == "__main__":
    main()
