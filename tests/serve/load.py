"""Many clients of one server: 64 with requests of random lengths, of which some leave in the middle and some read slowly. Each whole answer is compared with the one that a
single user gets; nothing but 429 may be refused; memory has to stay. Used by test_load.py; or by hand, against any server with models/ember:

    python3 tests/serve/load.py http://127.0.0.1:8080 --seconds 120
"""
import argparse
import http.client
import json
import random
import threading
import time
import urllib.parse

WORDS = "The fox went to the river and saw a boat with a red sail. "
SUBJECTS = "fox owl cat dog boat tree river house bird bear lamp door".split()


def make_request(i):
    """The i-th of 48 requests: short and long prompts, 1 to 150 tokens."""
    rng = random.Random(i)
    text = WORDS * rng.choice([0, 0, 0, 1, 3, 10, 30]) + f"Tell me a story about a {rng.choice(SUBJECTS)}."
    return {"messages": [{"role": "user", "content": text}], "max_tokens": rng.choice([1, 5, 20, 40, 80, 150]), "temperature": rng.choice([0, 0.7, 1]), "seed": i}


class Load:
    def __init__(self, url, clients=64, requests=48):
        self.host, self.port = urllib.parse.urlsplit(url).hostname, urllib.parse.urlsplit(url).port
        self.clients, self.requests = clients, [make_request(i) for i in range(requests)]
        self.counts = dict.fromkeys(["whole", "streamed", "slow", "left", "refused"], 0)
        self.wrong, self.n_tokens, self.lock, self.want = [], 0, threading.Lock(), []

    def open(self, request):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        connection.request("POST", "/v1/chat/completions", json.dumps(request))
        return connection, connection.getresponse()

    def whole(self, request):
        connection, answer = self.open(request)
        data = json.loads(answer.read())
        connection.close()
        if answer.status != 200:
            return answer.status, None
        return 200, (data["choices"][0]["message"]["content"], data["choices"][0]["finish_reason"])

    def streamed(self, request, pause=0.0, leave=None):
        """leave: after so many lines."""
        connection, answer = self.open({**request, "stream": True})
        if answer.status != 200:
            answer.read()
            connection.close()
            return answer.status, None
        text, reason, n = [], None, 0
        for line in answer:
            n += 1
            if leave is not None and n > leave:
                connection.close()
                return 200, None
            time.sleep(pause)
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise ValueError(event["error"]["message"])
            text.append(event["choices"][0]["delta"].get("content") or "")
            reason = event["choices"][0]["finish_reason"] or reason
        connection.close()
        return 200, ("".join(text), reason)

    def single_user(self):
        self.want = [self.whole(request)[1] for request in self.requests]

    def client(self, number, until):
        rng = random.Random(1000 + number)
        while time.monotonic() < until:
            i = rng.randrange(len(self.requests))
            kind = rng.choices(["whole", "streamed", "slow", "left"], [4, 4, 1, 2])[0]
            try:
                if kind == "whole":
                    status, got = self.whole(self.requests[i])
                else:
                    status, got = self.streamed(self.requests[i], rng.uniform(0.005, 0.05) if kind == "slow" else 0.0, rng.randrange(1, 60) if kind == "left" else None)
            except Exception as error:
                status, got = -1, repr(error)
            with self.lock:
                if status == 429:
                    self.counts["refused"] += 1
                elif status != 200 or (got is not None and got != self.want[i]):
                    self.wrong.append((kind, i, status, got, self.want[i]))
                else:
                    self.counts[kind] += 1
            if status == 429:
                time.sleep(rng.uniform(0.05, 0.3))

    def run(self, seconds, watch=lambda: None):
        """watch is called twice a second; what it gives is returned."""
        until, seen = time.monotonic() + seconds, []
        threads = [threading.Thread(target=self.client, args=(i, until)) for i in range(self.clients)]
        for thread in threads:
            thread.start()
        while time.monotonic() < until:
            seen.append(watch())
            time.sleep(0.5)
        for thread in threads:
            thread.join()
        return seen


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=64)
    arguments = parser.parse_args()
    load = Load(arguments.url, arguments.clients)
    load.single_user()
    load.run(arguments.seconds)
    print(load.counts, f"{len(load.wrong)} wrong")
    for wrong in load.wrong[:5]:
        print(wrong)
    return 1 if load.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
