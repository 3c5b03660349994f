#!/usr/bin/env python3
"""Which experts a layer will ask for, guessed one layer early: how well the predictors that people have tried do on a recorded trace, and what reading ahead would gain.

    flash-moe trace MODEL --raw -f PROMPTS -o x.trace --states x.npy
    predict.py x.trace --states x.npy [--disk GB/S] [--expert-bytes N] [--compute-ms MS] [--cache PERCENT]

Predictors, each for the experts of a decoded token in a layer, learnt from most sequences of the trace and tried on the others:
    frequency        the layer's most used experts
    previous token   those that the token before chose there, then the most used
    next router      what that layer's router chose on the state one layer before, as the engine recorded it (K experts, no more)
    linear           a linear map from what the router before saw to this one's choice
    mlp              the same with one hidden layer
The last two need --states. PyTorch, if it is there, trains both; without it the linear map is a ridge regression and the MLP is left out.

The gain: a cache holds for good the experts most used in the training part, the rest is read. While a layer computes, the disk reads guessed experts that are not in the
cache, likeliest first; a miss that was read ahead costs nothing, any other its reading time. "perfect" knows what will be asked for.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np

try:
    import torch
except ImportError:
    torch = None

MAGIC = b"flash-moe trace1"
FIRST, PROMPT, PREDICTED = 1, 2, 4


class Trace:
    """experts and predicted [token][layer][K] (-1: none), sequence and decoded [token]."""

    def __init__(self, path):
        data = Path(path).read_bytes()
        if data[:16] != MAGIC:
            raise ValueError(f"{path}: it is no trace of version 1")
        end = data.index(b"\n")
        head = json.loads(data[16:end])
        self.k, self.n_experts, self.n_layers, n = head["top_k"], head["n_experts"], len(head["moe"]), head["n_tokens"]
        kind = "u1" if self.n_experts <= 255 else "<u2"
        row = self.k * self.n_layers
        width = row * np.dtype(kind).itemsize
        self.experts = np.full((n, self.n_layers, self.k), -1, np.int32)
        self.predicted = np.full((n, self.n_layers, self.k), -1, np.int32)
        kinds = np.zeros(n, np.uint8)
        at = end + 1
        for i in range(n):
            if at >= len(data) - 8:
                raise ValueError(f"{path}: it ends at token {i} of {n}")
            kinds[i] = data[at]
            self.experts[i] = np.frombuffer(data, kind, row, at + 1).reshape(self.n_layers, self.k)
            at += 1 + width
            if kinds[i] & PREDICTED:
                guess = np.frombuffer(data, kind, row, at).reshape(self.n_layers, self.k).astype(np.int32)
                self.predicted[i] = np.where(guess >= self.n_experts, -1, guess)
                at += width
        self.sequence = np.cumsum(kinds & FIRST) - 1
        self.decoded = (kinds & PROMPT) == 0
        self.first = (kinds & FIRST) != 0


def chosen(experts, n_experts):
    """[token][K] to [token][n_experts] of 0 and 1."""
    out = np.zeros((len(experts), n_experts), np.float32)
    np.put_along_axis(out, experts, 1, axis=1)
    return out


class Frequency:
    name = "frequency"

    def fit(self, trace, layer, train, _):
        self.counts = chosen(trace.experts[train, layer], trace.n_experts).mean(axis=0)

    def scores(self, trace, layer, test, _):
        return np.broadcast_to(self.counts, (len(test), trace.n_experts))


class Previous(Frequency):
    name = "previous token"

    def scores(self, trace, layer, test, _):
        before = chosen(trace.experts[np.maximum(test - 1, 0), layer], trace.n_experts)
        return before * ~trace.first[test][:, None] * 2 + self.counts


class NextRouter(Frequency):
    name = "next router"

    def scores(self, trace, layer, test, _):
        guess = trace.predicted[test, layer]
        out = np.zeros((len(test), trace.n_experts), np.float32)
        for k in range(trace.k):
            rows = guess[:, k] >= 0
            out[rows, guess[rows, k]] = 1
        return out


def inputs(states, layer, tokens):
    """What the router of the layer before saw: rms-normed already."""
    return np.asarray(states[tokens, layer - 1], np.float32)


class Ridge:
    name = "linear"

    def fit(self, trace, layer, train, states):
        x = inputs(states, layer, train).astype(np.float64)
        y = chosen(trace.experts[train, layer], trace.n_experts).astype(np.float64)
        self.mean, self.target = x.mean(axis=0), y.mean(axis=0)
        x -= self.mean
        square = x.T @ x
        square[np.diag_indices_from(square)] += 1e-2 * np.trace(square) / len(square) + 1e-9
        self.map = np.linalg.solve(square, x.T @ (y - self.target))

    def scores(self, trace, layer, test, states):
        return (inputs(states, layer, test) - self.mean) @ self.map + self.target


class Trained:
    """A network that is trained to give the chosen experts high scores."""

    def __init__(self, name, hidden, epochs):
        self.name, self.hidden, self.epochs = name, hidden, epochs

    def network(self, n_in, n_out):
        if not self.hidden:
            return torch.nn.Linear(n_in, n_out)
        return torch.nn.Sequential(torch.nn.Linear(n_in, self.hidden), torch.nn.GELU(), torch.nn.Linear(self.hidden, n_out))

    def fit(self, trace, layer, train, states):
        torch.manual_seed(layer)
        torch.set_num_threads(1)  # such small products gain nothing from more
        x = torch.from_numpy(inputs(states, layer, train))
        y = torch.from_numpy(chosen(trace.experts[train, layer], trace.n_experts)) / trace.k
        self.scale = float(x.std()) + 1e-9
        self.net = self.network(x.shape[1], trace.n_experts)
        optimiser = torch.optim.AdamW(self.net.parameters(), lr=2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.epochs)
        for _ in range(self.epochs):
            for batch in torch.randperm(len(x)).split(256):
                loss = torch.nn.functional.cross_entropy(self.net(x[batch] / self.scale), y[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            schedule.step()

    def scores(self, trace, layer, test, states):
        with torch.no_grad():
            return self.net(torch.from_numpy(inputs(states, layer, test)) / self.scale).numpy()


class Perfect(Frequency):
    name = "perfect"

    def scores(self, trace, layer, test, _):
        return chosen(trace.experts[test, layer], trace.n_experts)


def recall(scores, truth, n):
    """Share of the chosen experts that are among the n of the highest scores above nothing."""
    top = np.argsort(-scores, axis=1, kind="stable")[:, :n]
    hit = np.take_along_axis(truth, top, axis=1) * (np.take_along_axis(scores, top, axis=1) > -np.inf)
    return hit.sum() / truth.sum()


def read_ahead(scores, truth, cached, n):
    """Of the misses, by token: how many there are, and how many are among the n likeliest experts that are not in the cache."""
    missing = truth * ~cached
    order = np.argsort(-np.where(cached | (scores <= 0 if (scores >= 0).all() else np.zeros_like(scores, bool)), -np.inf, scores), axis=1, kind="stable")
    whole = int(n)
    found = np.take_along_axis(missing, order[:, :whole], axis=1).sum(axis=1)
    if whole < order.shape[1]:  # the last one is half read when it is asked for
        found = found + (n - whole) * np.take_along_axis(missing, order[:, whole:whole + 1], axis=1).sum(axis=1)
    return missing.sum(axis=1), found


def caches(trace, train, share):
    """[layer][expert]: whether it is in the cache: over all layers the most used of the training part."""
    counts = np.stack([chosen(trace.experts[train, layer], trace.n_experts).sum(axis=0) for layer in range(trace.n_layers)])
    keep = np.zeros(counts.size, bool)
    keep[np.argsort(-counts.ravel(), kind="stable")[:round(share * counts.size)]] = True
    return keep.reshape(counts.shape)


def evaluate(predictor, trace, train, test, states, cached, seconds):
    """Recall at K and 2 K, share of the misses read ahead, seconds of a token; layers from the second on."""
    layer_compute, expert = seconds
    at_k, at_2k, misses, ahead = [], [], 0, 0
    for layer in range(trace.n_layers):
        truth = chosen(trace.experts[test, layer], trace.n_experts)
        if layer == 0:  # nobody looks ahead at the first
            misses += (truth * ~cached[0]).sum()
            continue
        predictor.fit(trace, layer, train, states)
        scores = np.asarray(predictor.scores(trace, layer, test, states), np.float64)
        at_k.append(recall(scores, truth, trace.k))
        at_2k.append(recall(scores, truth, 2 * trace.k))
        m, found = read_ahead(scores, truth, cached[layer], layer_compute / expert)
        misses += m.sum()
        ahead += found.sum()
    token = trace.n_layers * layer_compute + (misses - ahead) / len(test) * expert
    return np.mean(at_k), np.mean(at_2k), ahead / max(misses, 1), token, misses / len(test)


def predictors(trace, states, epochs, hidden):
    out = [Frequency(), Previous()]
    if (trace.predicted[trace.decoded] >= 0).any():
        out.append(NextRouter())
    if states is not None and torch:
        out += [Trained("linear", 0, epochs), Trained("mlp", hidden, epochs)]
    elif states is not None:
        out.append(Ridge())
    return out + [Perfect()]


def split(trace, share):
    """Tokens to learn from, all of most sequences, and decoded tokens of the others, which are spread over the trace."""
    n = trace.sequence[-1] + 1
    tried = np.diff(np.floor(np.arange(n + 1) * share + 1e-9)).astype(bool)
    train, test = np.flatnonzero(~tried[trace.sequence]), np.flatnonzero(tried[trace.sequence] & trace.decoded)
    if not len(train) or not len(test):
        raise ValueError(f"{n} sequences are too few to learn from some and to try on others")
    return train, test


def read_states(path, trace):
    states = np.load(path, mmap_mode="r")
    if states.ndim != 3 or states.shape[:2] != (len(trace.experts), trace.n_layers):
        raise ValueError(f"{path}: it has the shape {states.shape}, and the trace {len(trace.experts)} tokens of {trace.n_layers} layers")
    return states


def report(trace, states, a):
    train, test = split(trace, a.test / 100)
    cached = caches(trace, train, a.cache / 100)
    seconds = a.compute_ms / 1e3 / trace.n_layers, a.expert_bytes / (a.disk * 1e9)
    print(f"{a.trace}: {trace.n_layers} layers with {trace.n_experts} experts each, {trace.k} for a token; learnt from {len(train)} tokens, tried on {len(test)} decoded ones")
    print(f"A token computes {a.compute_ms:g} ms; an expert of {a.expert_bytes / 1e6:g} MB takes {1e3 * seconds[1]:.3g} ms at {a.disk:g} GB/s: {seconds[0] / seconds[1]:.2g} while a "
          f"layer computes; the cache has {a.cache:g} % of the experts")
    if states is None:
        print("Without --states nothing is learnt from what the routers saw.")
    elif not torch:
        print("PyTorch is not there: the linear map is a ridge regression, and there is no MLP.")
    rows, plain = [], None
    for predictor in predictors(trace, states, a.epochs, a.hidden):
        at_k, at_2k, ahead, token, misses = evaluate(predictor, trace, train, test, states, cached, seconds)
        if plain is None:
            plain = trace.n_layers * seconds[0] + misses * seconds[1]
            rows.append({"predictor": "none", "recall_at_k": None, "recall_at_2k": None, "read_ahead": 0.0, "tokens_per_second": 1 / plain, "gain": 0.0})
        rows.append({"predictor": predictor.name, "recall_at_k": at_k, "recall_at_2k": None if predictor.name == "next router" else at_2k, "read_ahead": ahead,
                     "tokens_per_second": 1 / token, "gain": plain / token - 1})
    if a.json:
        print(json.dumps({"tokens": len(test), "misses_per_token": float(misses), "rows": [{k: float(v) if isinstance(v, np.floating) else v for k, v in row.items()} for row in rows]}))
        return
    print(f"{misses:.1f} of {trace.n_layers * trace.k} experts a token are not in the cache\n")
    print(f"  {'predictor':<16}{'recall at K':>12}{'at 2 K':>9}{'misses read ahead':>19}{'tokens/s':>10}{'gain':>9}")
    for row in rows:
        shown = [f"{100 * row[key]:.1f} %" if row[key] is not None else "-" for key in ("recall_at_k", "recall_at_2k", "read_ahead")]
        print(f"  {row['predictor']:<16}{shown[0]:>12}{shown[1]:>9}{shown[2]:>19}{row['tokens_per_second']:>10.2f}{100 * row['gain']:>+8.1f}%")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("--states", help="what flash-moe trace --states wrote beside it")
    parser.add_argument("--disk", type=float, default=3.0, help="GB/s that the disk gives (default: 3)")
    parser.add_argument("--expert-bytes", type=float, default=1.77e6, help="bytes of an expert (default: 1.77e6, as of 35B-A3B at 4 bits)")
    parser.add_argument("--compute-ms", type=float, default=20.0, help="milliseconds that a token computes (default: 20)")
    parser.add_argument("--cache", type=float, default=20.0, help="percent of the experts that are in memory (default: 20)")
    parser.add_argument("--test", type=float, default=20.0, help="percent of the sequences that are not learnt from (default: 20)")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=256, help="width of the MLP (default: 256)")
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    if not (a.disk > 0 and a.expert_bytes > 0 and a.compute_ms > 0 and 0 <= a.cache <= 100 and 0 < a.test < 100):
        sys.exit("predict.py: times, sizes and percentages are above 0")
    try:
        trace = Trace(a.trace)
        report(trace, read_states(a.states, trace) if a.states else None, a)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"predict.py: {error}")


if __name__ == "__main__":
    main()
