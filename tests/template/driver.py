"""Runs jobs through tests/template/render and jinja2 side by side and compares them."""
import copy
import json
import os
import re
import subprocess
import tempfile

import reference

CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # which an error's message shows as ?
AT_ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # Python prints where an object lies; nothing can equal that


class Comparison:
    """unsupported: regular expressions of refusals by name that are allowed where jinja2 goes on."""

    def __init__(self, program, unsupported=()):
        self.program = program
        self.unsupported = re.compile("|".join(unsupported) if unsupported else r"(?!)")
        self.pairs = self.texts = self.refusals = self.raised = self.left_out = self.addresses = 0
        self.reasons = {}
        self.differences = []

    def run(self, jobs):
        """jobs: (label, source, variables) in a row; equal sources next to each other are parsed once."""
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout:
            last = None
            for label, source, variables in jobs:
                job = {"variables": variables, "now": reference.NOW, "name": "t"}
                if source is not last:
                    job["template"] = last = source
                stdin.write(json.dumps(job).encode() + b"\n")
            stdin.seek(0)
            with subprocess.Popen([self.program], stdin=stdin, stdout=stdout, env={**os.environ, "TZ": "UTC", "LC_ALL": "C"}) as process:
                expected, last, template = [], None, None
                for _, source, variables in jobs:
                    if source is not last:
                        template, last = reference.compiled(source), source
                    expected.append(reference.render(template, copy.deepcopy(variables)))
                status = process.wait()
            stdout.seek(0)
            answers = [json.loads(line) for line in stdout.read().split(b"\n")[:-1]]
        for job, want, got in zip(jobs, expected, answers):
            self.compare(job, want, got)
        if status or len(answers) != len(jobs):
            label, source, variables = jobs[min(len(answers), len(jobs) - 1)]
            self.differences.append(f"{label}: the program ended with status {status}\n  template {source[:2000]!r}\n  variables {json.dumps(variables)[:2000]}")

    def compare(self, job, want, got):
        label, source, variables = job
        kind, text = want
        self.pairs += 1
        if "text" in got:
            if kind == "text" and got["text"] == text:
                self.texts += 1
                return
            if kind == "text" and AT_ADDRESS.search(text):
                self.addresses += 1
                return
            what = where_different(text, got["text"]) if kind == "text" else f"jinja2 {kind}: {text}\n  we give {got['text'][:300]!r}"
        else:
            if kind == "raised" and got["error"] == "FM_EINVAL" and got["message"].endswith(CONTROL.sub("?", text)[:400]):
                self.raised += 1
                return
            if kind == "refused" and got["error"] != "FM_EINVAL":
                self.refusals += 1
                return
            found = self.unsupported.search(got["message"]) if got["error"] != "FM_EINVAL" else None
            if found:
                self.left_out += 1
                self.reasons[found[0]] = self.reasons.get(found[0], 0) + 1
                return
            if kind == "text" and AT_ADDRESS.search(text):
                self.addresses += 1
                return
            what = f"jinja2 {kind}: {text[:300]!r}\n  we give {got['error']}: {got['message']}"
        self.differences.append(f"{label}\n  {what}" + (f"\n  template {source!r}" if len(source) < 2000 else ""))

    def report(self, most=20):
        for difference in self.differences[:most]:
            print(difference)
        print(f"{self.pairs} pairs: {self.texts} equal texts, {self.raised} raised alike, {self.refusals} refused alike; {len(self.differences)} differ; "
              f"{self.left_out} left out by name {self.reasons or ''}; {self.addresses} of jinja2's print an address")
        return 1 if self.differences or not self.texts else 0


def where_different(want, got):
    a, b = want.encode(), got.encode()
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    begin = max(0, at - 60)
    return f"differs from byte {at} on ({len(a)} bytes, we give {len(b)})\n  jinja2 {a[begin:at + 60]!r}\n  we     {b[begin:at + 60]!r}"
