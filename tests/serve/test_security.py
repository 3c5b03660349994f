"""Who may ask, what may be asked: each attack is a test."""
import json
import time

import openai
import pytest

from conftest import user

OSLO = "The capital of Norway is Oslo."
BODY = {"messages": user("What is the capital of Norway?")}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    from conftest import Server
    key = tmp_path_factory.mktemp("key") / "key.txt"
    key.write_text("sesame-open\n")
    s = Server("--api-key", key, "--temp", "0", "--cors", "https://friend.example", "--allow-host", "box.local")
    yield s
    s.stop()


# ---- the key ----

def test_the_key(guarded):
    assert guarded.client(api_key="sesame-open").chat.completions.create(model="m", **BODY).choices[0].message.content == OSLO
    assert guarded.request("POST", "/v1/chat/completions", BODY, {"x-api-key": "sesame-open"})[0] == 200
    with pytest.raises(openai.AuthenticationError) as error:
        guarded.client(api_key="sesame-opem").chat.completions.create(model="m", **BODY)
    assert error.value.code == "invalid_api_key"


@pytest.mark.parametrize("headers", [
    {}, {"Authorization": ""}, {"Authorization": "Bearer "}, {"Authorization": "Bearer"}, {"Authorization": "sesame-open"}, {"Authorization": "Basic sesame-open"},
    {"Authorization": "Bearer sesame"}, {"Authorization": "Bearer sesame-opensesame-open"}, {"Authorization": "Bearer sesame-open "}, {"Authorization": "Bearer Sesame-open"},
    {"x-api-key": ""}, {"x-api-key": "sesame-ope"}, {"Authorization": "Bearer " + "s" * 8000},
], ids=lambda h: json.dumps(h)[:50])
def test_wrong_keys(guarded, headers):
    status, answer, data = guarded.request("POST", "/v1/chat/completions", BODY, headers)
    if headers.get("Authorization") == "Bearer sesame-open ":
        assert status in (200, 401)  # space at the end of a header is no part of it
        return
    assert status == 401 and answer["WWW-Authenticate"] == "Bearer"
    assert b"sesame" not in data and json.loads(data)["error"]["type"] == "authentication_error"


def test_everything_but_health_needs_the_key(guarded):
    for method, path in [("GET", "/v1/models"), ("GET", "/v1/models/ember"), ("GET", "/metrics"), ("GET", "/props"), ("POST", "/v1/chat/completions"), ("GET", "/nothing")]:
        assert guarded.request(method, path, BODY if method == "POST" else None)[0] == 401, path
    assert guarded.request("GET", "/health")[0] == 200


def test_guessing_takes_as_long_for_any_key(guarded):
    """The comparison looks at all of what is given. Coarse, as other things take longer; guard.c says how."""
    def seconds(key):
        times = []
        for _ in range(40):
            begin = time.perf_counter()
            assert guarded.request("GET", "/props", headers={"x-api-key": key})[0] == 401
            times.append(time.perf_counter() - begin)
        return sorted(times)[20]
    near, far = seconds("sesame-opex"), seconds("xesame-open")
    assert 1 / 3 < near / far < 3


# ---- names and pages ----

@pytest.mark.parametrize("host, status", [
    ("localhost", 200), ("LOCALHOST:8080", 200), ("127.0.0.1:1", 200), ("[::1]:8080", 200), ("192.168.1.7:8080", 200), ("box.local:80", 200), ("localhost.", 200),
    ("evil.example", 403), ("evil.example:8080", 403), ("localhost.evil.example", 403), ("127.0.0.1.evil.example", 403), ("localhost@evil.example", 403), ("", 403),
    ("evil.example#localhost", 403), ("[::1", 403), ("127.0.0.1:80:80", 403), ("localhost:80x", 403), ("0x7f.1", 403), ("evil.example, localhost", 403),
])
def test_host(guarded, host, status):
    """DNS rebinding: a page's own name, which it pointed at us, is in Host."""
    assert guarded.request("GET", "/health", headers={"Host": host})[0] == status


def test_a_request_without_host(guarded):
    sock = guarded.socket()
    sock.sendall(b"GET /health HTTP/1.1\r\n\r\n")
    assert b" 400 " in sock.recv(4096).split(b"\r\n")[0] + b" "


@pytest.mark.parametrize("origin, status", [
    (None, 200), ("https://friend.example", 200), ("http://localhost:8080", 200), ("https://evil.example", 403), ("null", 403), ("http://friend.example", 403),
    ("https://friend.example.evil.example", 403), ("http://localhost", 403), ("http://localhost:8081", 403), ("file://", 403), ("", 403),
])
def test_origin(guarded, origin, status):
    headers = {"Host": "localhost:8080", "x-api-key": "sesame-open"}
    if origin is not None:
        headers["Origin"] = origin
    got, answer, _ = guarded.request("GET", "/props", headers=headers)
    assert got == status
    assert answer.get("Access-Control-Allow-Origin") == ("https://friend.example" if origin == "https://friend.example" else None)


def test_preflight(guarded, server):
    ask = {"Host": "localhost:8080", "Origin": "https://friend.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type"}
    status, headers, _ = guarded.request("OPTIONS", "/v1/chat/completions", headers=ask)
    assert status == 204 and headers["Access-Control-Allow-Origin"] == "https://friend.example" and "authorization" in headers["Access-Control-Allow-Headers"]
    assert guarded.request("OPTIONS", "/v1/chat/completions", headers={**ask, "Origin": "https://evil.example"})[0] == 403
    status, headers, _ = server.request("OPTIONS", "/v1/chat/completions", headers=ask)
    assert status == 403 and "Access-Control-Allow-Origin" not in headers, "off unless asked for"


def test_a_simple_request_of_a_page_is_refused(server):
    """What a form or a script of a page can send without asking first."""
    before = server.metrics()["requests_total"]
    headers = {"Host": f"localhost:{server.port}", "Origin": "https://evil.example", "Content-Type": "text/plain"}
    assert server.request("POST", "/v1/chat/completions", BODY, headers)[0] == 403
    assert server.metrics()["requests_total"] == before


def test_typed_permission(server):
    with pytest.raises(openai.PermissionDeniedError):
        server.client(default_headers={"Origin": "https://evil.example"}).chat.completions.create(model="m", **BODY)


# ---- paths ----

@pytest.mark.parametrize("path", [
    "/../../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/v1/models/../../etc/passwd", "/v1/models/..%2f..%2fetc%2fpasswd",
    "/v1//models", "/v1/models/", "/v1/chat/completions/", "/health%00", "/health/x", "/" + "a" * 5000, "/v1/models/%ff%fe", "/index.html/../../config.json", "/config.json",
    "/v1/models/ember/../ember", "/file:///etc/passwd",
])
def test_paths(server, path):
    status, _, data = server.request("GET", path)
    assert status in (404, 400, 414) and b"root:" not in data
    if status == 404:
        json.loads(data)["error"]["message"].encode()


@pytest.mark.parametrize("method, path", [("GET", "/v1/chat/completions"), ("DELETE", "/health"), ("PUT", "/v1/models"), ("POST", "/metrics"), ("BREW", "/health")])
def test_methods(server, method, path):
    status, _, data = server.request(method, path)
    assert status == 405 and json.loads(data)["error"]["message"]


def test_head(server):
    status, headers, data = server.request("HEAD", "/health")
    assert status == 200 and data == b"" and int(headers["Content-Length"]) > 0


@pytest.mark.parametrize("target", ["http://evil.example/health", "*", "health"])
def test_request_targets(server, target):
    sock = server.socket()
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert sock.recv(4096).split()[1] in (b"404", b"400", b"405")


# ---- sizes ----

def test_a_body_that_says_it_is_too_large(server):
    sock = server.socket()
    sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
    assert sock.recv(4096).split()[1] == b"413"


def test_a_body_that_turns_out_too_large(server):
    most = json.loads(server.request("GET", "/props")[2])["body_bytes"]
    for chunked in (False, True):
        if chunked:
            status = server.request("POST", "/v1/chat/completions", iter_bytes(most + 1), {"Transfer-Encoding": "chunked"})[0]
        else:
            status = server.request("POST", "/v1/chat/completions", b"[" * (most + 1))[0]
        assert status == 413
    assert server.metrics()["body_bytes"] == 0


def iter_bytes(n):
    piece = b" " * 65536
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for _ in range(n // len(piece) + 1)) + b"0\r\n\r\n"


def test_a_text_much_longer_than_the_context(server):
    """It would only keep everybody waiting: it is refused by its size, before its tokens are looked for."""
    most = json.loads(server.request("GET", "/props")[2])["body_bytes"]
    assert most <= (1 << 20) + 64 * 2048
    begin = time.monotonic()
    assert server.request("POST", "/v1/chat/completions", {"messages": user(" " * (most - 1000))})[0] == 400
    assert server.request("POST", "/v1/chat/completions", {"messages": user(" " * most)})[0] == 413
    assert time.monotonic() - begin < 10


def test_a_header_that_is_too_large(server):
    sock = server.socket()
    sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100000 + b"\r\n\r\n")
    try:
        assert sock.recv(4096).split()[1] in (b"431", b"413", b"400")
    except ConnectionResetError:
        pass  # it was closed before all was sent
    assert server.request("GET", "/health")[0] == 200


@pytest.mark.parametrize("body", [b"[" * 100000, b'{"messages":' * 50000, b'{"messages":[{"role":"user","content":' + b"[" * 65 + b"]" * 65 + b"}]}",
                                  b'{"messages": [], "x": "' + b"\\" * 99999])
def test_deep_bodies(server, body):
    status, _, data = server.request("POST", "/v1/chat/completions", body)
    assert status == 400 and json.loads(data)["error"]["message"]


def test_two_lengths(server):
    """Request smuggling: a length that contradicts another is refused, or the connection closed."""
    sock = server.socket()
    sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    data = sock.recv(65536)
    assert data.split()[1] == b"400" and b"flash_moe_" not in data


# ---- the command line ----

def test_a_warning_for_other_machines(start, tmp_path):
    assert not any("warning" in line for line in start("--temp", "0").log)
    log = start("--host", "0.0.0.0").log
    assert any("warning: 0.0.0.0 can be reached from other machines, without an API key" in line for line in log)


def test_the_key_from_the_environment(start, monkeypatch):
    monkeypatch.setenv("FLASH_MOE_API_KEY", "from-env")
    s = start("--api-key", "env")
    assert s.request("GET", "/props")[0] == 401 and s.request("GET", "/props", headers={"x-api-key": "from-env"})[0] == 200
