#!/usr/bin/env python3
"""What a token costs from Python beside from C: python_cost.py MODEL [--memory SIZE] [--threads N] [--rounds 200] [--tokens 8] [--aa] [--json].

To be run with the Python that has the wheel, such as build/wheel-test/bin/python after `tools/wheel.sh test`. One process has a stream of the installed package, another is
tests/python/cost.c over the library that the wheel was built with (--build, build/wheel-build). Both load MODEL once, with the same prompt, greedily and without an end, so
both hold the same tokens at any time, which is checked. Then they are driven strictly in turns, one asleep while the other decodes a block of --tokens: a round is four
blocks, C Python Python C. A round's ratio is that of the two sums, so what drifts slowly and what depends on who came before cancels out. The figure is the median of the
rounds' ratios, with the interval that 95 % of the medians of resampled rounds are in; beside it that of the tenth of the blocks that were fastest. The statistics of Python's
stream say what of a block passed outside of the library. --memory is that of each process; without it each gets 45 % of what is free. --aa drives two C programs, which shows
the method's own zero. A block should take 50 ms or more, and the machine be quiet: the tool says what others had of it.
"""
import argparse
import itertools
import json
import os
import random
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROMPT = list(range(100, 116))
WARM = 4  # rounds that are not counted
PAUSE = 0.003  # seconds between blocks: the library's threads look for work for up to a millisecond before they sleep


# ---- statistics ----

def round_figures(blocks, tokens):
    """Of rounds [(C, Python, Python, C)] in nanoseconds: their ratios, and the differences in microseconds a token."""
    sums = [(a + d, b + c) for a, b, c, d in blocks]
    return [p / c for c, p in sums], [(p - c) / (2000 * tokens) for c, p in sums]


def interval(values, figure=statistics.median, share=0.95, samples=2000, seed=1):
    """(low, high) that so many of the figures of resampled values lie in. They are drawn in runs of about the root of their number, as neighbours are alike."""
    chance, n = random.Random(seed), len(values)
    run, twice = max(1, round(n ** 0.5)), [*values, *values]
    figures = []
    for _ in range(samples):
        drawn = [v for _ in range(-(-n // run)) for at in [chance.randrange(n)] for v in twice[at:at + run]]
        figures.append(figure(drawn[:n]))
    figures.sort()
    cut = int(samples * (1 - share) / 2)
    return figures[cut], figures[samples - 1 - cut]


def percentile(values, share):
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def fast_ratio(blocks):
    """Python over C in the tenth of the blocks that were least disturbed."""
    return percentile([x for _, b, c, _ in blocks for x in (b, c)], 0.1) / percentile([x for a, _, _, d in blocks for x in (a, d)], 0.1)


def summary(blocks, tokens, outside):
    ratios, differences = round_figures(blocks, tokens)
    per = 1000 * tokens
    made = {"c_us": statistics.median(x / per for a, _, _, d in blocks for x in (a, d)), "other_us": statistics.median(x / per for _, b, c, _ in blocks for x in (b, c)),
            "ratio": statistics.median(ratios), "ratio_95": interval(ratios), "difference_us": statistics.median(differences), "difference_us_95": interval(differences),
            "fast_ratio": fast_ratio(blocks), "fast_ratio_95": interval(blocks, fast_ratio)}
    if outside:
        made["outside_us"] = {"median": statistics.median(outside), "p10": percentile(outside, 0.1), "p90": percentile(outside, 0.9)}
    return made


# ---- the two programs ----

def build_c(build, into):
    """tests/python/cost.c over the library in a build directory."""
    env = {**os.environ, "PKG_CONFIG_PATH": str(build / "meson-uninstalled")}
    made = subprocess.run(["pkg-config", "--cflags", "--libs", "flash-moe"], env=env, capture_output=True, text=True)
    if made.returncode:
        sys.exit(f"{build}: there is no library built by Meson: {made.stderr.strip()} (`tools/wheel.sh build` makes it)")
    program = into / "cost"
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", program, ROOT / "tests" / "python" / "cost.c", *shlex.split(made.stdout), f"-Wl,-rpath,{build}"], check=True)
    return program


class Worker:
    """A process that decodes blocks of tokens when it is told to."""

    def __init__(self, name, command):
        self.name, self.outside = name, []  # of each block, nanoseconds outside of the library, from a program that says so
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = self.answer()[1:]

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the {self.name} program ended with {self.process.wait()}")
        return line.split()

    def ask(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.answer()

    def block(self, n):
        """Nanoseconds that n tokens took, and their ids."""
        time.sleep(PAUSE)
        answer = [int(x) for x in self.ask(n)]
        if len(answer) <= n:
            sys.exit(f"the {self.name} program's text ended within {n} tokens")
        ids = answer[len(answer) - n:]
        self.outside += answer[:len(answer) - n - 1]
        return answer[len(answer) - n - 1], ids

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def python_worker(model, memory, threads, context, eos):
    """What the Python process does: as cost.c, but it says first how many nanoseconds of the block passed outside of the library."""
    import flash_moe
    with flash_moe.Session(model, memory=int(memory), threads=int(threads), context=int(context)) as session:
        stream = session.stream(PROMPT, temperature=0, top_k=0, top_p=1, min_p=0, repeat_penalty=1, logit_bias=dict.fromkeys(json.loads(eos), -100))
        print("ready", flush=True)
        before = 0.0
        while n := sys.stdin.readline():
            ids, texts, start = [], [], time.perf_counter_ns()
            for token in itertools.islice(stream, int(n)):
                ids.append(token.token)
                texts.append(token.text)
            passed, inside = time.perf_counter_ns() - start, token.stats.library_seconds
            print(passed - round(1e9 * (inside - before)), passed, *ids, flush=True)
            before = inside


# ---- the measurement ----

def processor_seconds(pids):
    """(of these processes, of the whole machine, both since they began); None where there is no /proc."""
    try:
        ours = sum(sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13])) for pid in pids)
        user, nice, system, idle, wait, interrupts, soft, stolen, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    except OSError:
        return None
    tick = os.sysconf("SC_CLK_TCK")
    return ours / tick, (user + nice + system + interrupts + soft + stolen) / tick


def drive(c, other, rounds, tokens):
    """Rounds of four blocks each, and all ids."""
    blocks, written = [], []
    for i in range(WARM + rounds):
        times, ids = zip(*(w.block(tokens) for w in (c, other, other, c)))
        if ids[0] + ids[3] != ids[1] + ids[2]:
            sys.exit(f"round {i}: {c.name} wrote {ids[0] + ids[3]}, but {other.name} {ids[1] + ids[2]}")
        written += ids[0] + ids[3]
        if i >= WARM:
            blocks.append(times)
    return blocks, written


def measure(o):
    import flash_moe
    plan = flash_moe.plan(o.model, memory=o.memory)
    memory = plan.budget if o.memory else int(0.45 * plan.available)
    context = len(PROMPT) + 2 * o.tokens * (WARM + o.rounds) + 16
    with tempfile.TemporaryDirectory() as into:
        command = [build_c(o.build.resolve(), Path(into)), o.model, memory, o.threads, context, *PROMPT]
        c = Worker("C", command)
        threads, cpu, *eos = c.ready
        other = Worker("second C", command) if o.aa else Worker("Python", [sys.executable, __file__, "--worker", o.model, memory, o.threads, context, json.dumps(list(map(int, eos)))])
        pids = c.process.pid, other.process.pid, os.getpid()
        try:
            start, before = time.monotonic(), processor_seconds(pids)
            blocks, written = drive(c, other, o.rounds, o.tokens)
            passed, after = time.monotonic() - start, processor_seconds(pids)
            outside = [ns / (1000 * o.tokens) for ns in other.outside[2 * WARM:]]
        finally:
            c.close()
            other.close()
    others = max(0.0, (after[1] - before[1]) - (after[0] - before[0])) / (passed * os.cpu_count()) if before and after else None
    return {"others": others, "model": o.model, "against": other.name, "memory": memory, "threads": int(threads), "cpu": cpu, "rounds": o.rounds, "tokens": o.tokens, "ids": written,
            **summary(blocks, o.tokens, outside)}


def say(r):
    low, high = r["ratio_95"]
    print(f"{r['model']}: {r['rounds']} rounds of 2 x {r['tokens']} tokens, {r['threads']} threads, {r['cpu']}, {r['memory'] / 1e9:.2f} GB of memory each; {len(r['ids'])} tokens, the same in both\n"
          f"{'C':<10} {r['c_us']:10.1f} us a token\n{r['against']:<10} {r['other_us']:10.1f} us a token\n"
          f"cost {100 * (r['ratio'] - 1):+.2f} % of C's token (95 %: {100 * (low - 1):+.2f} to {100 * (high - 1):+.2f}), "
          f"{r['difference_us']:+.1f} us a token (95 %: {r['difference_us_95'][0]:+.1f} to {r['difference_us_95'][1]:+.1f})")
    low, high = r["fast_ratio_95"]
    print(f"of the least disturbed tenth {100 * (r['fast_ratio'] - 1):+.2f} % (95 %: {100 * (low - 1):+.2f} to {100 * (high - 1):+.2f})")
    if r["others"] is not None:
        print(f"others had {100 * r['others']:.0f} % of the processors meanwhile" + (": too much for a figure, measure again when it is quiet" if r["others"] > 0.03 else ""))
    if "outside_us" in r:
        x = r["outside_us"]
        print(f"outside of the library {x['median']:.1f} us a token in Python ({x['p10']:.1f} to {x['p90']:.1f} in 80 % of the blocks)")


def main(argv):
    if argv[:1] == ["--worker"]:
        return python_worker(*argv[1:])
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("model")
    p.add_argument("--memory", help="of each of the two processes, such as 6G")
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--rounds", type=int, default=200)
    p.add_argument("--tokens", type=int, default=8, help="of a block")
    p.add_argument("--build", type=Path, default=ROOT / "build" / "wheel-build", help="directory of a Meson build of the library")
    p.add_argument("--aa", action="store_true", help="C beside C")
    p.add_argument("--json", action="store_true")
    o = p.parse_args(argv)
    if o.rounds < 1 or not 1 <= o.tokens <= 4096:
        p.error("--rounds is at least 1, and --tokens 1 to 4096")
    try:
        import flash_moe
    except ImportError:
        sys.exit(f"{sys.executable} has no package flash_moe: take one that has the wheel, such as build/wheel-test/bin/python")
    try:
        result = measure(o)
    except flash_moe.FlashMoeError as e:
        sys.exit(f"{e}")
    print(json.dumps(result)) if o.json else say(result)


if __name__ == "__main__":
    main(sys.argv[1:])
