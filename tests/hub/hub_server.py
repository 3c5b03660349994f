"""A server that speaks the Hugging Face hub's protocol for one model, with faults that a test switches on: a second address plays the host that files are served from."""
import hashlib
import json
import random
import re
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGE = 100_000  # files of as many bytes are kept in LFS


def git_hash(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class File:
    def __init__(self, data):
        self.data = data
        self.large = len(data) >= LARGE
        self.hash = hashlib.sha256(data).hexdigest() if self.large else git_hash(data)


class Hub:
    """files: {name: bytes}. Faults are attributes; requests is a list of (host, method, path, headers)."""

    def __init__(self, files, repo="org/name", revisions=("main",)):
        self.files = {name: File(data) for name, data in files.items()}
        self.repo = repo
        self.commit = hashlib.sha1(repr(sorted((n, f.hash) for n, f in self.files.items())).encode()).hexdigest()
        self.revisions = set(revisions) | {self.commit}
        self.token = None          # what the hub wants to see
        self.gated = False
        self.sizes = True          # ?blobs=true is understood
        self.faults = []           # functions (host, path, handler) -> True: it has answered
        self.ranges = True
        self.bytes_per_second = None
        self.signed = None         # seconds that an address of the second host works
        self.wrong = {}            # name: bytes that are sent instead
        self.requests = []
        self.sent = 0
        self.lock = threading.Lock()
        self.servers = [Server(self, host) for host in ("hub", "cdn")]

    def __enter__(self):
        for server in self.servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.servers[0].server_port}"

    @property
    def cdn(self):
        return f"http://localhost:{self.servers[1].server_port}"

    def times(self, n, do, match=""):
        """A fault that happens n times, to requests whose path has match in it."""
        left = [n]

        def fault(host, path, handler):
            with self.lock:
                if left[0] <= 0 or match not in path:
                    return False
                left[0] -= 1
            return do(host, path, handler)
        self.faults.append(fault)

    def listing(self, sizes=True):
        siblings = []
        for name, file in self.files.items():
            entry = {"rfilename": name}
            if sizes:
                entry |= {"size": len(file.data), "blobId": file.hash if not file.large else git_hash(file.hash.encode())}
                if file.large:
                    entry["lfs"] = {"sha256": file.hash, "size": len(file.data), "pointerSize": 134}
            siblings.append(entry)
        return {"id": self.repo, "modelId": self.repo, "sha": self.commit, "private": False, "gated": "auto" if self.gated else False, "disabled": False,
                "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}

    def asked(self, host, part=""):
        with self.lock:
            return [request for request in self.requests if request[0] == host and part in request[2]]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub, host):
        self.hub, self.host = hub, host
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, *_):
        pass  # clients that are killed


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, headers=None, body=b""):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return True

    def refuse(self, status, code="", message="", **headers):
        return self.answer(status, {**({"X-Error-Code": code} if code else {}), **({"X-Error-Message": message} if message else {}),
                                    **{name.replace("_", "-"): str(value) for name, value in headers.items()}}, b"no")

    def cut(self, file, n):
        """The head of an answer and n bytes of what should follow."""
        begin, end = self.range_of(file)
        self.answer(206 if "Range" in self.headers else 200, {**self.range_head(file, begin, end), "Content-Length": str(end - begin)}, b"")
        self.wfile.write(file.data[begin:min(end, begin + n)])
        self.wfile.flush()
        self.close_connection = True
        return True

    def range_of(self, file):
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not found or not self.server.hub.ranges:
            return 0, len(file.data)
        return int(found[1]), min(int(found[2]) + 1 if found[2] else len(file.data), len(file.data))

    def range_head(self, file, begin, end):
        if "Range" in self.headers and self.server.hub.ranges:
            return {"Content-Range": f"bytes {begin}-{end - 1}/{len(file.data)}"}
        return {}

    def send_file(self, name, file, headers=None):
        hub = self.server.hub
        if name in hub.wrong:
            file = File(hub.wrong[name])
        begin, end = self.range_of(file)
        if begin >= len(file.data) > 0:
            return self.answer(416, {"Content-Range": f"bytes */{len(file.data)}"})
        self.answer(206 if "Range" in self.headers and hub.ranges else 200,
                    {**(headers or {}), **self.range_head(file, begin, end), "Content-Length": str(end - begin), "Accept-Ranges": "bytes"})
        if self.command == "HEAD":
            return True
        step = 65536
        for at in range(begin, end, step):
            piece = file.data[at:min(end, at + step)]
            if hub.bytes_per_second:
                time.sleep(len(piece) / hub.bytes_per_second)
            self.wfile.write(piece)
            with hub.lock:
                hub.sent += len(piece)
        return True

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, host = self.server.hub, self.server.host
        path = urllib.parse.unquote(self.path)
        with hub.lock:
            hub.requests.append((host, self.command, path, dict(self.headers)))
            faults = list(hub.faults)
        if any(fault(host, path, self) for fault in faults):
            return
        if host == "cdn":
            self.serve_signed(path)
        elif path.startswith("/api/models/"):
            self.serve_listing(path)
        else:
            self.serve_resolve(path)

    def allowed(self):
        hub = self.server.hub
        own = self.headers.get("Authorization") == f"Bearer {hub.token}"
        if hub.gated and not own:
            self.refuse(403 if "Authorization" in self.headers else 401, "GatedRepo", "Access to this model is restricted.")
            return False
        if hub.token and not own:
            self.refuse(401, "RepoNotFound", "Repository Not Found")
            return False
        return True

    def serve_listing(self, path):
        hub = self.server.hub
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(?:revision|tree)/([^?]+))?(\?.*)?", path)
        if not found or found[1] != hub.repo:
            return self.refuse(404 if found and hub.token is None and "Authorization" in self.headers else 401, "RepoNotFound", "Repository Not Found")
        if (found[2] or "main") not in hub.revisions:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        if hub.token and not self.allowed():
            return None
        if "/tree/" in path: # as huggingface_hub lists files, from 2.0 on
            entries = [{"type": "file", "path": e["rfilename"], "size": e["size"], "oid": e["blobId"],
                        **({"lfs": {**e["lfs"], "oid": e["lfs"]["sha256"]}} if "lfs" in e else {})} for e in hub.listing()["siblings"]]
            return self.answer(200, {"Content-Type": "application/json"}, json.dumps(entries).encode())
        body = json.dumps(hub.listing(hub.sizes and "blobs=true" in path)).encode()
        return self.answer(200, {"Content-Type": "application/json"}, body)

    def serve_resolve(self, path):
        hub = self.server.hub
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if not found or found[1] != hub.repo:
            return self.refuse(401, "RepoNotFound", "Repository Not Found")
        if found[2] not in hub.revisions:
            return self.refuse(404, "RevisionNotFound")
        if not self.allowed():
            return None
        if found[3] not in hub.files:
            return self.refuse(404, "EntryNotFound")
        name, file = found[3], hub.files[found[3]]
        head = {"X-Repo-Commit": hub.commit, "Accept-Ranges": "bytes"}
        if not file.large:
            return self.send_file(name, file, {**head, "ETag": f'"{file.hash}"'})
        where = f"{hub.cdn}/signed/{urllib.parse.quote(name)}?at={time.time()}&nonce={random.random()}"
        return self.answer(302, {**head, "X-Linked-Size": str(len(file.data)), "X-Linked-ETag": f'"{file.hash}"', "ETag": '"pointer"', "Location": where})

    def serve_signed(self, path):
        hub = self.server.hub
        found = re.fullmatch(r"/signed/(.+)\?at=([0-9.]+)&nonce=.*", path)
        if not found or found[1] not in hub.files:
            return self.refuse(404)
        if hub.signed and time.time() - float(found[2]) > hub.signed:
            return self.refuse(403, message="Request has expired")
        return self.send_file(found[1], hub.files[found[1]], {"ETag": '"of the second host"'})
