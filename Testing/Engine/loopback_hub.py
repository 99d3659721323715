"""A Hugging Face hub on loopback: as much of its HTTP as fetching weights needs, and its faults.

Large files lead on to a second server name with an address that is a
permission itself, as the hub's do; that one knows `Range`.
"""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

HUB_ID = "timm/tiny.lvd1689m"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class LoopbackHub:
    """What the hub holds, how it misbehaves, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers of all requests."""
    sent: int = 0
    """Bytes of large files that left."""
    refusal: tuple[int, dict[str, str]] | None = None
    """Status and headers of every answer."""
    cuts: list[int] = field(default_factory=list)
    """After so many bytes the answers break off, one after the other."""
    stall_s: float = 0.0
    """Silence before the second half of a large file."""
    altered: bool = False
    ranges: bool = True
    page: bytes | None = None
    """What a network's login page answers to everything."""
    hashes: bool = True
    moved: bool = False
    """Files are at another address of the hub, to which it leads."""
    lengths: bool = True
    """Small files are sent with their lengths."""
    token: str | None = None
    """What weights are given for."""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ranges_asked(self) -> list[str]:
        return [
            headers["Range"]
            for _, path, headers in self.requests
            if "Range" in headers and path.startswith("/cdn/")
        ]


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_CONNECT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.hub
        hub.requests.append((self.command, self.path, dict(self.headers)))
        if hub.refusal is not None:
            status, headers = hub.refusal
            self._say(status, headers)
        elif hub.page is not None:
            self._say(200, {"Content-Type": "text/html"}, hub.page)
        else:
            # Through a proxy the whole address is the path.
            parts = urlsplit(self.path).path.strip("/").split("/")
            if parts[0] == "cdn":
                self._large(hub.files[parts[1]])
            else:
                self._resolve("/".join(parts[:2]), parts[-1])

    def _resolve(self, hub_id: str, name: str) -> None:
        hub = self.hub
        if hub_id != HUB_ID:
            self._say(404, {"X-Error-Code": "RepoNotFound"})
            return
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._say(401, {"X-Error-Code": "GatedRepo"})
            return
        if hub.moved and "moved" not in self.path:
            where = urlsplit(self.path)
            self._say(307, {"Location": f"{where.path}?moved", "X-Linked-Etag": '"none"'}, b"moved")
            return
        if name not in hub.files:
            self._say(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        content = hub.files[name]
        headers = {"X-Repo-Commit": COMMIT}
        if name.endswith(".safetensors"):
            headers["Location"] = f"http://localhost:{hub.port}/cdn/{name}?signature=secret"
            headers["X-Linked-Size"] = str(len(content))
            sha256 = hashlib.sha256(content).hexdigest()
            headers["X-Linked-Etag"] = f'"{sha256 if hub.hashes else "strange"}"'
            self._say(302, headers)
        else:
            self._say(200, headers | {"ETag": f'W/"{git_hash(content)}"'}, content)

    def _large(self, content: bytes) -> None:
        hub = self.hub
        if hub.altered:
            content = bytes(255 - byte for byte in content)
        start, status, headers = 0, 200, {}
        if hub.ranges and "Range" in self.headers:
            start, status = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        headers["Content-Length"] = str(len(body))
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if hub.cuts:
            body = body[: hub.cuts.pop(0)]
        half = len(body) // 2
        self._send(body[:half])
        time.sleep(hub.stall_s)
        self._send(body[half:])

    def _send(self, part: bytes) -> None:
        self.wfile.write(part)
        self.wfile.flush()
        self.hub.sent += len(part)

    def _say(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if self.hub.lengths or status != 200:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@contextmanager
def serve(files: dict[str, bytes]) -> Iterator[LoopbackHub]:
    """A hub with these files of `HUB_ID`, until the end of the block."""
    hub = LoopbackHub(files=dict(files))
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *args: None  # a client that goes away is no fault
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def only_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A hub that has the weights of a folder: the only one, with neither login nor proxy."""
    for variable in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    files = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    with serve(files) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
