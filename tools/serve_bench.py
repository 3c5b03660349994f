#!/usr/bin/env python3
"""Tokens a second in total against the number of clients, and how much expert reading the batch saves.

    tools/serve_bench.py [--program build/flash-moe] MODEL [options of flash-moe serve]

Starts the server with as many sessions as the most clients, so that every row has the same cache. In each row so many clients ask for answers of --tokens tokens at the same
time, each --rounds times, with prompts of their own; every answer has all its tokens. Prints a row a number of clients:

    tokens/s        of all answers together, prompts included in the time
    experts/token   asked for by a batch, divided by its tokens: one that two answers need is asked for once
    MB/token        read from the disk, for each computed token
    hits            experts that were in memory
"""
import argparse
import http.client
import json
import re
import subprocess
import threading
import time

CLIENTS = [1, 2, 4, 8, 16]
SUBJECTS = "fox owl cat dog boat tree river house bird bear lamp door hill wolf frog bee".split()


def start(program, model, options):
    server = subprocess.Popen([program, "serve", model, "--port", "0", "--parallel", str(CLIENTS[-1]), "--session-cache", "off", *options], stderr=subprocess.PIPE, text=True)
    said, port = [], 0
    for line in server.stderr:
        said.append(line)
        found = re.search(r"ready at \S+:(\d+)", line)
        if found:
            port = int(found[1])
            break
    if not port:
        raise SystemExit("".join(said))
    threading.Thread(target=server.stderr.read, daemon=True).start()
    return server, port


def request(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3600)
    connection.request(method, path, None if body is None else json.dumps(body))
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status} {data.decode()}")
    return data.decode()


def metrics(port):
    return {name: float(value) for name, value in re.findall(r"^flash_moe_(\w+) (\S+)$", request(port, "GET", "/metrics"), re.M)}


def client(port, number, rounds, n_tokens, bias, total):
    for i in range(rounds):
        text = f"Tell me story {i} about a {SUBJECTS[number % len(SUBJECTS)]}."
        answer = json.loads(request(port, "POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": n_tokens, "temperature": 1,
                                                                          "seed": 100 * number + i, "logit_bias": bias}))
        total.append(answer["usage"]["completion_tokens"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", default="build/flash-moe")
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--never", default="", help="ids of tokens that end a text, separated by commas, so that none ends early")
    parser.add_argument("model")
    arguments, options = parser.parse_known_args()
    bias = {i: -100 for i in arguments.never.split(",") if i}
    server, port = start(arguments.program, arguments.model, options)
    print("clients  tokens/s  experts/token  MB/token  hits")
    for n in CLIENTS:
        request(port, "POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8})
        before, begin, total = metrics(port), time.monotonic(), []
        threads = [threading.Thread(target=client, args=(port, i, arguments.rounds, arguments.tokens, bias, total)) for i in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took, after = time.monotonic() - begin, metrics(port)
        d = {name: after[name] - before[name] for name in after}
        hits = d["expert_hits_total"] / d["expert_requests_total"] if d["expert_requests_total"] else 1
        print(f"{n:7}  {sum(total) / took:8.1f}  {d['expert_requests_total'] / d['tokens_total']:13.2f}  {d['disk_bytes_total'] / d['tokens_total'] / 1e6:8.3f}  {100 * hits:3.0f} %",
              flush=True)
    server.terminate()
    server.wait()


if __name__ == "__main__":
    main()
