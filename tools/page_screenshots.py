#!/usr/bin/env python3
"""Pictures of the server's page for the README: page_screenshots.py PROGRAM MODEL FOLDER. Chromium is driven as in tests/serve."""
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "serve"))
from browser import MISSING, Browser  # noqa: E402

WEATHER = """[{"name": "get_weather", "description": "Get the weather of a city",
  "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}]"""


def ask(page, text, wait=True):
    n = page.run("document.querySelectorAll('#log .assistant').length")
    page.click("#text")
    page.type(text)
    page.key("Enter")
    if wait:
        page.wait(f"document.querySelectorAll('#log .assistant').length > {n} && document.querySelector('#stop').hidden")


def desktop(page, url, path):
    page.size(1280, 800)
    page.open(url)
    for text in ("Tell me a story about a girl named Julia.", "What is the capital of Norway?"):
        page.click("#new")
        for _ in range(8):  # something for the curves
            ask(page, text)
            time.sleep(0.6)
    page.click("#new")
    ask(page, "Write a C function that can add two numbers.")
    ask(page, "Tell me a story about a fox named Leo.")
    time.sleep(0.5)  # a look at it
    page.screenshot(path)


def phone(page, url, path):
    page.size(390, 780, mobile=True, scale=2)
    page.dark(True)
    page.open(url)
    page.run(f"settings.tools = {WEATHER!r}; talk = freshTalk(); showTalk()".replace("\\n", " "))
    ask(page, "What is the weather in Brelka?")
    page.click(".call textarea")
    page.type('{"temperature": 7, "sky": "foggy"}')
    page.click(".calls > button")
    page.wait("document.querySelectorAll('#log .assistant').length > 1 && document.querySelector('#stop').hidden")
    page.run("document.activeElement.blur()")
    page.screenshot(path)


def main(program, model, folder):
    if MISSING:
        sys.exit(f"page_screenshots.py: {MISSING}")
    server = subprocess.Popen([program, "serve", model, "--port", "0", "--memory", "33M", "--context", "1024", "--temp", "0", "--heat", "off"], stderr=subprocess.PIPE, text=True)
    url = next(found[1] for line in server.stderr if (found := re.search(r"ready at (\S+)", line))) + "/"
    page = Browser()
    try:
        desktop(page, url, Path(folder) / "page-light.png")
        phone(page, url, Path(folder) / "page-phone.png")
    finally:
        page.close()
        server.terminate()
        server.wait(30)


main(*sys.argv[1:])
