"""The page at / in headless Chromium, as a person uses it, and GET /live, which it looks at."""
import base64
import json
import re
import struct
import time

import pytest

from browser import MISSING, Browser
from conftest import EMBER, SANITIZED, WEATHER, Server

needs_browser = pytest.mark.skipif(bool(MISSING), reason=MISSING or "")
SMALL = () if SANITIZED else ("--memory", "30M")  # of the model's 512 experts some 160 fit
ENDLESS = ["--temp", "0", "--parallel", "1", *(x for i in json.loads((EMBER / "generation_config.json").read_text())["eos_token_id"] for x in ("--logit-bias", f"{i}=-1000"))]


@pytest.fixture(scope="module")
def chromium():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def open_page(chromium):
    """open_page(server): its page, in a browser that remembers nothing. What the page's console reports as an error fails the test."""
    def open_page(server, width=1440, height=900, **more):
        chromium.size(width, height, **more)
        chromium.dark(False)
        chromium.open(server.url + "/health")  # the same origin, without the page's script
        chromium.run("localStorage.clear(), sessionStorage.clear()")
        chromium.errors.clear()
        chromium.open(server.url + "/")
        return chromium
    yield open_page
    errors = [error for error in chromium.errors if "favicon" not in error]  # asked for by /health, which is not the page
    chromium.open("about:blank")
    assert not errors, errors


@pytest.fixture(scope="module")
def small():
    s = Server("--temp", "0", memory=SMALL)
    yield s
    s.stop()


def send(page, text):
    page.click("#text")
    page.type(text)
    page.key("Enter")


def ask(page, text):
    """Sends a message; waits until it is answered; the answer's text."""
    n = page.run("document.querySelectorAll('#log .assistant').length")
    send(page, text)
    return finished(page, n)


def finished(page, n=0):
    page.wait(f"document.querySelectorAll('#log .assistant').length > {n} && document.querySelector('#stop').hidden")
    return page.run("document.querySelector('#log .assistant:last-child .body').innerText")


# ---- GET /live, and the page as a file ----

def live(server, **headers):
    status, _, data = server.request("GET", "/live", headers=headers)
    assert status == 200, data
    now = json.loads(data)
    n = now["layers"] * now["experts"]
    now["state"] = list(base64.b64decode(now["state"]))
    for name in ("uses", "reads"):
        now[name] = list(struct.unpack(f"<{n}H", base64.b64decode(now[name])))
    assert len(now["state"]) == n == 512 and set(now["state"]) <= {0, 1, 2}
    return now


def test_live(small):
    before = live(small)
    small.chat([{"role": "user", "content": "Tell me a story."}], max_tokens=40)
    after, stats = live(small), small.metrics()
    assert after["sequence"] > before["sequence"] and after["seconds"] > before["seconds"]
    assert after["tokens"] == stats["tokens_total"] > before["tokens"]
    assert (after["requests"], after["hits"], after["disk_bytes"]) == (stats["expert_requests_total"], stats["expert_hits_total"], stats["disk_bytes_total"])
    assert sum(after["uses"]) - sum(before["uses"]) == after["requests"] - before["requests"] > 1000
    assert all(a >= b for name in ("uses", "reads") for a, b in zip(after[name], before[name]))
    assert after["state"].count(2) == min(after["slots"], 512) or SANITIZED
    if not SANITIZED:
        assert sum(after["reads"]) - sum(before["reads"]) == (after["requests"] - after["hits"]) - (before["requests"] - before["hits"]) > 0


def test_live_while_computing(start):
    """Asked in the middle of an answer, it tells of that moment."""
    server = start(*ENDLESS, memory=SMALL)
    connection = server.stream([{"role": "user", "content": "Tell me a story."}])
    connection.getresponse().readline()
    looks = [live(server)]
    until = time.monotonic() + 30
    while len({look["requests"] for look in looks}) < 4:
        looks.append(live(server))
        assert time.monotonic() < until, [look["requests"] for look in looks]
    assert all(b["requests"] >= a["requests"] and b["sequence"] > a["sequence"] for a, b in zip(looks, looks[1:]))
    assert server.metrics()["running"] == 1
    connection.close()


def test_timings(small):
    """The speed that the page shows is measured where tokens are made: a call comes all at once."""
    begun = time.monotonic()
    connection = small.stream([{"role": "user", "content": "What is the weather in Brelka?"}], tools=[WEATHER], stream_options={"include_usage": True})
    lines = connection.getresponse().read().decode().splitlines()
    seconds = time.monotonic() - begun
    connection.close()
    last = json.loads(lines[-4].removeprefix("data: "))
    usage, timings = last["usage"], last["timings"]
    assert timings["prompt_n"] + timings["cache_n"] == usage["prompt_tokens"] and timings["cache_n"] == usage["prompt_tokens_details"]["cached_tokens"]
    assert timings["predicted_n"] == usage["completion_tokens"] > 10 and 0 < timings["prompt_ms"] and timings["prompt_ms"] + timings["predicted_ms"] < 1000 * seconds
    assert timings["predicted_per_second"] == pytest.approx((timings["predicted_n"] - 1) / (timings["predicted_ms"] / 1000))


def test_live_needs_the_key_and_the_model(start, tmp_path):
    (tmp_path / "key").write_text("a-secret\n")
    server = start("--api-key", tmp_path / "key", ready=False)
    for _ in range(1000):
        status, _, data = server.request("GET", "/live", headers={"Authorization": "Bearer a-secret"})
        if status == 200:
            break
        assert status == 503 and "not loaded" in json.loads(data)["error"]["message"]
        time.sleep(0.01)
    assert status == 200
    assert server.request("GET", "/live")[0] == 401
    assert server.request("POST", "/live", {}, headers={"Authorization": "Bearer a-secret"})[0] == 405


def test_the_file(small):
    """It needs nothing from outside, and no script but its own can run in it."""
    status, headers, data = small.request("GET", "/")
    page = data.decode()
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert not re.search(r"""(src|href)=["'](?!#|data:,)""", page) and "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "new Function"):
        assert word not in page, word
    assert small.request("HEAD", "/")[0] == 200 and small.request("POST", "/", {})[0] == 405


# ---- talking ----

@needs_browser
def test_send(small, open_page):
    page = open_page(small)
    assert page.wait("document.querySelector('#model').textContent") == "ember"
    assert ask(page, "What is the capital of Norway?") == "The capital of Norway is Oslo."
    page.click("#text")
    page.type("Tell me a story about a fox named Leo.")
    page.click("#send")
    assert "Leo" in finished(page, 1)
    assert re.search(r"\d+ tokens, [\d.]+ tokens/s", page.run("document.querySelector('#log .assistant:last-child .end').innerText"))
    assert page.run("document.querySelector('#text').value") == "" and page.run("document.activeElement.id") == "send"


@needs_browser
def test_code_is_a_block(small, open_page):
    page = open_page(small)
    ask(page, "Write a C function that can add two numbers.")
    assert page.run("document.querySelector('#log figcaption').firstChild.textContent") == "c"
    assert page.run("document.querySelector('#log figure pre code').textContent").startswith("int add(")


@needs_browser
@pytest.mark.parametrize("how", ["button", "escape"])
def test_stream_and_stop(start, open_page, how):
    server = start(*ENDLESS, context=16384)
    page = open_page(server)
    send(page, "Tell me a story.")
    for length in (200, 400, 600):  # it grows before one's eyes
        page.wait(f"document.querySelector('#log .assistant .body')?.innerText.length > {length}")
        assert page.run("!document.querySelector('#stop').hidden && !document.querySelector('#log .end').children.length")
    page.click("#stop") if how == "button" else page.key("Escape")
    assert len(finished(page)) > 200
    assert "Stopped." in page.run("document.querySelector('#log .assistant .end').innerText")
    server.wait_for("running", most=0)
    assert server.metrics()["cancelled_total"] == 1
    send(page, "And then?")
    page.wait("document.querySelectorAll('#log .assistant .body')[1]?.innerText.length > 50")
    page.click("#stop")


def set_tools(page, tools):
    page.click("#show-settings")
    page.click("#field-tools")
    page.run("document.querySelector('#field-tools').select()")
    page.type(tools)
    page.click("#settings-done")


@needs_browser
def test_a_tool_call(small, open_page):
    page = open_page(small)
    set_tools(page, "[{]")
    assert "no JSON" in page.wait("document.querySelector('#settings-error').textContent")
    page.key("Escape")
    set_tools(page, json.dumps([WEATHER["function"]]))
    page.wait("!document.querySelector('#settings').open")
    ask(page, "What is the weather in Brelka?")
    card = page.run("document.querySelector('#log .call').innerText")
    assert "Calls get_weather" in card and '"city": "Brelka"' in card
    page.click(".call textarea")
    page.type('{"temperature": 7, "sky": "foggy"}')
    page.click(".calls > button")
    assert "foggy" in finished(page, 1)
    assert "foggy" in page.run("document.querySelector('#log .call').innerText") and not page.run("document.querySelector('.call textarea')")
    messages = page.run("talk.messages.map(m => m.role)")
    assert messages == ["user", "assistant", "tool", "assistant"]


@needs_browser
def test_reasoning_is_folded(reasoning_server, open_page):
    page = open_page(reasoning_server)
    page.click("#show-settings")
    page.click("#field-max_tokens")
    page.type("60")
    page.click("#settings-done")
    ask(page, "Tell me a story.")
    fold = "document.querySelector('#log .thought')"
    assert not page.run(f"{fold}.hidden") and not page.run(f"{fold}.open")
    text = page.run(f"{fold}.lastChild.textContent")
    assert len(text) > 20 and text not in page.run("document.querySelector('#log').innerText")
    page.click("#log .thought summary")
    page.wait(f"{fold}.open && {fold}.lastChild.getClientRects().length")
    page.click("#show-settings")
    page.run("document.querySelector('#field-thinking').value = 'off'")
    page.click("#settings-done")
    ask(page, "What is the capital of Norway?")
    assert page.run("document.querySelector('#log .assistant:last-child .thought').hidden")


@needs_browser
def test_sampling_settings_are_sent(small, open_page):
    page = open_page(small)
    page.click("#show-settings")
    for name, value in (("max_tokens", "3"), ("temperature", "0.5"), ("seed", "7"), ("system", "You are a helpful assistant.")):
        page.click(f"#field-{name}")
        page.type(value)
    page.click("#settings-done")
    body = page.run("requestOf({messages: [{role: 'user', content: 'x'}]})")
    assert (body["max_tokens"], body["temperature"], body["seed"], body["messages"][0]) == (3, 0.5, 7, {"role": "system", "content": "You are a helpful assistant."})
    ask(page, "Tell me a story.")
    assert "Cut at the limit of tokens." in page.run("document.querySelector('#log .assistant .end').innerText")


# ---- conversations ----

@needs_browser
def test_a_reload_keeps_the_conversations(small, open_page):
    page = open_page(small)
    ask(page, "What is the capital of Norway?")
    page.click("#new")
    ask(page, "What is the capital of Peru?")
    before = page.run("document.querySelector('#log').innerText")
    page.reload()
    assert page.wait("document.querySelector('#log').innerText") == before and "Lima" in before
    assert page.run("[...document.querySelectorAll('#list li button:first-child')].map(b => b.textContent)") == ["What is the capital of Peru?", "What is the capital of Norway?"]
    page.click("#list li:nth-child(2) button")
    page.wait("document.querySelector('#log').innerText.includes('Oslo')")
    assert "Lima" not in page.run("document.querySelector('#log').innerText")
    assert "Oslo" in ask(page, "What is the capital of Norway?")  # it goes on
    page.click("#list li:first-child button:last-child")
    page.wait("document.querySelectorAll('#list li').length === 1")
    assert page.dialogs[-1].startswith("Delete") and page.run("talks().length") == 1


@needs_browser
def test_a_reload_in_the_middle_of_an_answer(start, open_page):
    page = open_page(start(*ENDLESS, context=16384))
    send(page, "Tell me a story.")
    page.wait("document.querySelector('#log .assistant .body')?.innerText.length > 100 && localStorage.getItem(TALK + talk.id).length > 300")
    page.reload()
    assert page.wait("document.querySelector('#log .assistant .body').innerText")
    assert "Stopped by a reload." in page.run("document.querySelector('#log .assistant .end').innerText")


# ---- what can go wrong ----

@needs_browser
def test_an_api_key_is_asked_for(start, open_page, tmp_path):
    (tmp_path / "key").write_text("a-secret")
    page = open_page(start("--temp", 0, "--api-key", tmp_path / "key"))
    page.wait("document.querySelector('#key').open")
    page.click("#key-text")
    page.type("a-guess")
    page.click("#key button.main")
    assert "not the server's" in page.wait("document.querySelector('#key').open && document.querySelector('#key-error').textContent")
    page.click("#key-text")
    page.type("a-secret")
    page.click("#key button.main")
    assert page.wait("document.querySelector('#model').textContent") == "ember"
    assert ask(page, "What is the capital of Norway?") == "The capital of Norway is Oslo."
    page.reload()  # the tab remembers it
    assert page.wait("document.querySelector('#model').textContent") == "ember" and not page.run("document.querySelector('#key').open")
    assert page.errors and all("401" in error for error in page.errors)
    page.errors.clear()


@needs_browser
def test_the_server_dies(start, open_page):
    server = start(*ENDLESS, context=16384)
    page = open_page(server)
    send(page, "Tell me a story.")
    page.wait("document.querySelector('#log .assistant .body')?.innerText.length > 100")
    server.kill()
    finished(page)
    assert page.run("document.querySelector('#log .error').innerText") == "The connection was cut in the middle of the answer."
    send(page, "Are you there?")
    finished(page, 1)
    assert page.run("document.querySelector('#log .assistant:last-child .error').innerText") == "The server cannot be reached."
    page.errors.clear()


@needs_browser
def test_a_refusal_is_shown(small, open_page):
    page = open_page(small)
    ask(page, "one two three " * 3000)
    assert "context" in page.run("document.querySelector('#log .assistant .error').innerText")
    assert all("400" in error for error in page.errors)
    page.errors.clear()


HOSTILE = """<img src=x onerror="window.hacked = 1"> <script>window.hacked = 1</script> **<b onclick=x>bold</b>** `<i>`

```html" onload="x
<script>window.hacked = 1</script>
```
- <svg onload=window.hacked=1> [x](javascript:window.hacked=1)
> <iframe src=javascript:window.hacked=1>
# <style>*{display:none}</style>"""


@needs_browser
def test_output_is_never_markup(small, open_page):
    page = open_page(small)
    page.run(f"""{{ const node = make("div"); document.body.append(node); window.shown = node; showMarkdown(node, {json.dumps(HOSTILE)}); }}""")
    tags = page.run("[...new Set([...window.shown.querySelectorAll('*')].map(e => e.tagName.toLowerCase()))].sort()")
    assert set(tags) <= {"p", "strong", "code", "figure", "figcaption", "button", "pre", "div", "ul", "li", "blockquote", "h3"}, tags
    text = page.run("window.shown.textContent")
    for part in ('<img src=x onerror="window.hacked = 1">', "<b onclick=x>bold</b>", "<i>", "<svg onload=", "[x](javascript:", "<iframe", "<style>"):
        assert part in text, part
    assert page.run("[...window.shown.querySelectorAll('*')].every(e => [...e.attributes].every(a => ['class', 'type', 'tabindex'].includes(a.name)))")
    ask(page, "<img src=x onerror='window.hacked = 1'><script>window.hacked = 1</script>")
    page.run("settings.system = '<b>'; talk.title = '<img src=x onerror=window.hacked=1>'; keepTalk(talk); showTalk()")
    assert not page.run("document.querySelector('#log img, #list img, #log script')") and page.run("typeof window.hacked") == "undefined"


MARKDOWN = [
    ("a *b* **c** ~~d~~ `e*f*` 2 * 3 * 4 snake_case_name", "<p>a <em>b</em> <strong>c</strong> <s>d</s> <code>e*f*</code> 2 * 3 * 4 snake_case_name</p>"),
    ("one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"),
    ("1. a\n   - b\n   - c\n2. d", '<div><ol start="1"><li>a<ul><li>b</li><li>c</li></ul></li><li>d</li></ol></div>'),
    ("# One #\n### Two\n---\n> a\n> b", "<h3>One</h3><h4>Two</h4><hr><blockquote>a\nb</blockquote>"),
    ("**open `and** never closed", "<p><strong>open `and</strong> never closed</p>"),
    ("~~~~\n```\n~~~~\nx", '<figure><figcaption>code<button class="small" type="button">Copy</button></figcaption><pre tabindex="0"><code>```</code></pre></figure><p>x</p>'),
]


@needs_browser
def test_markdown(small, open_page):
    page = open_page(small)
    for text, html in MARKDOWN:
        whole = f"showMarkdown(node, {json.dumps(text)});"
        piecewise = f"for (let i = 0; i <= {len(text)}; i++) showMarkdown(node, {json.dumps(text)}.slice(0, i));"
        for show in (whole, piecewise):  # as it grows, it ends as the whole would
            assert page.run(f"(() => {{ const node = make('div'); {show} return node.innerHTML; }})()") == html, (text, show)


@needs_browser
def test_long_and_odd_texts_are_quick(small, open_page):
    page = open_page(small)
    for text in ("*" * 100000, "**a " * 30000, "`" * 50000 + "x", "_a" * 50000, "- " * 50000, "> " * 50000, "```\n" * 20000, " " * 100000, "1. x\n" * 10000, "`a" * 50000, "~~x *y " * 20000):
        seconds = page.run(f"(() => {{ const begun = performance.now(); showMarkdown(make('div'), {json.dumps(text)}); return (performance.now() - begun) / 1000; }})()")
        assert seconds < 2, (text[:10], seconds)


# ---- looks ----

CONTRAST = """(selector => {
  const numbers = c => c.match(/[\\d.]+/g).map(Number), linear = x => (x /= 255) <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
  const luminance = c => numbers(c).slice(0, 3).map(linear).reduce((sum, x, i) => sum + x * [.2126, .7152, .0722][i], 0);
  let element = document.querySelector(selector), behind = element;
  const ink = luminance(getComputedStyle(element).color);
  while (/rgba\\(.*, 0\\)|transparent/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
  const paper = luminance(getComputedStyle(behind).backgroundColor);
  return {ratio: (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05), dark: paper < ink};
})"""


@needs_browser
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_light_and_dark(small, open_page, dark):
    page = open_page(small)
    page.dark(dark)
    ask(page, "Write a C function that can add two numbers.")
    page.wait("!document.querySelector('#live-body').hidden")
    for selector in ("header h1", "#model", "#log .who", "#log .user .body", "#log .assistant .note", "#log pre", "#status", "#text", "#figures dt", "#figures dd", "#figures small", "#cell"):
        seen = page.run(f"{CONTRAST}({json.dumps(selector)})")
        assert seen["ratio"] >= 4.5 and seen["dark"] == dark, (selector, seen)
    assert page.run(f"{CONTRAST}('#send')")["ratio"] >= 4.5


@needs_browser
def test_a_phone(small, open_page):
    page = open_page(small, 390, 844, mobile=True, scale=2)
    fits = "document.documentElement.scrollWidth <= innerWidth && [...document.querySelectorAll('button, textarea, #log li')].every(e => e.getBoundingClientRect().right <= innerWidth + 1)"
    assert page.run("document.querySelector('#talks').hidden && document.querySelector('#live').hidden")
    ask(page, "Write a C function that can add two numbers.")
    assert page.run(fits)
    page.click("#show-live")
    page.wait("!document.querySelector('#live-body').hidden")
    assert page.run(fits) and page.run("document.querySelector('#live').getBoundingClientRect().width === innerWidth")
    page.click("#show-talks")
    assert page.run("document.querySelector('#live').hidden") and page.run(fits)
    page.click("#list button")  # back to the conversation
    assert page.run("document.querySelector('#talks').hidden")
    page.size(320, 568, mobile=True)
    assert page.run(fits)


@needs_browser
def test_keyboard_and_names(small, open_page):
    """Everything that can be used has a name and is reached by Tab."""
    page = open_page(small)
    ask(page, "What is the capital of Norway?")
    page.run("document.querySelector('.skip').focus()")
    seen = []
    for _ in range(20):
        seen.append(page.run("document.activeElement.id || document.activeElement.textContent"))
        page.key("Tab")
    for name in ("show-talks", "show-live", "show-settings", "new", "Copy", "Try again", "text", "send", "widen", "map"):
        assert name in seen, (name, seen)
    names = page.call("Accessibility.getFullAXTree")["nodes"]
    unnamed = [node for node in names if node["role"]["value"] in ("button", "textbox", "img", "navigation", "complementary", "log", "dialog") and not node.get("ignored")
               and not node.get("name", {}).get("value")]
    assert not unnamed, unnamed


# ---- the live view ----

@needs_browser
def test_the_heat_map_moves(small, open_page):
    page = open_page(small)
    page.wait("!document.querySelector('#live-body').hidden")
    picture = "document.querySelector('#map').toDataURL()"
    time.sleep(8 if page.run("engine.used.some(n => n > .02)") else 0)  # what others did fades
    before, still = page.run(picture), page.run("engine.allUses.reduce((a, b) => a + b)")
    ask(page, "Tell me a story about a fox named Leo.")
    page.wait(f"engine.allUses.reduce((a, b) => a + b) > {still} && {picture} !== {json.dumps(before)}")
    now = live(small)
    page.wait(f"engine.tokens === {now['tokens']}")
    assert page.run("[...engine.state]") == now["state"]
    figures = page.run("document.querySelector('#figures').innerText")
    assert f"{now['tokens']} so far" in figures and f"{now['state'].count(2)} of 512" in figures and re.search(r"[\d.]+ % of \d+ in all", figures), figures
    assert re.match(r"Heat map of 8 layers by 64 experts: \d+ of 512 in memory, \d+ used lately", page.run("document.querySelector('#map').ariaLabel"))
    colours = page.run("(c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, s = new Set(); for (let i = 0; i < d.length; i += 4) "
                       "s.add(d[i] << 16 | d[i + 1] << 8 | d[i + 2]); return s.size; })(document.querySelector('#map'))")
    assert colours > 4, colours
    page.run("document.querySelector('#map').focus()")
    page.key("ArrowDown")
    page.key("ArrowRight")
    text = page.run("document.querySelector('#cell').textContent")
    assert re.match(r"Layer 1, expert 1: (on disk only|being read|in memory); since this view was opened used (once|\d+ times), read (once|\d+ times)\.", text), text


@needs_browser
def test_the_live_view_rests_when_it_is_closed(small, open_page):
    page = open_page(small)
    page.wait("engine && looking")
    page.click("#show-live")
    page.wait("!looking")
    first = live(small)["sequence"]
    time.sleep(1.2)
    assert live(small)["sequence"] == first + 1
