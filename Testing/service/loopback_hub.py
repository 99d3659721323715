"""A Hugging Face hub on loopback: as much of its HTTP as huggingface_hub needs, and its faults.

Large files redirect to a second server name with a signed address, as the hub's do; that one
serves `Range` requests.
"""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from SpatialARAnomalyLib.service.encoders.hub import cache_folder

HUB_ID = "timm/tiny.lvd1689m"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class LoopbackHub:
    """The files of the hub, its faults, and the requests that it got."""

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
    """Other bytes are sent than announced."""
    page: bytes | None = None
    """The login page of a network, which answers every request."""
    hashes: bool = True
    """The hashes of large files are announced."""
    token: str | None = None
    """The token without which it refuses weights."""
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
            elif parts[0] == "api":
                self._describe("/".join(parts[2:4]), parts[4])
            else:
                self._resolve("/".join(parts[:2]), parts[-1])

    def _describe(self, hub_id: str, what: str) -> None:
        """Answer `/api/models/<id>/revision/main` or `/api/models/<id>/tree/<commit>`."""
        if hub_id != HUB_ID:
            self._say(404, {"X-Error-Code": "RepoNotFound"})
            return
        siblings, tree = [], []
        for name, content in self.hub.files.items():
            known = {"size": len(content)}
            lfs = {}
            if name.endswith(".safetensors"):
                sha256 = hashlib.sha256(content).hexdigest() if self.hub.hashes else "strange"
                lfs = {"lfs": {"sha256": sha256, "oid": sha256, "pointerSize": 130} | known}
            siblings.append({"rfilename": name, "blobId": git_hash(content)} | known | lfs)
            tree.append({"type": "file", "path": name, "oid": git_hash(content)} | known | lfs)
        info = {"id": hub_id, "modelId": hub_id, "sha": COMMIT, "siblings": siblings}
        answer = tree if what == "tree" else info
        self._say(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _resolve(self, hub_id: str, name: str) -> None:
        hub = self.hub
        if hub_id != HUB_ID:
            self._say(404, {"X-Error-Code": "RepoNotFound"})
            return
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._say(401, {"X-Error-Code": "GatedRepo"})
            return
        if name not in hub.files:
            self._say(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        content = hub.files[name]
        headers = {"X-Repo-Commit": COMMIT}
        if name.endswith(".safetensors"):
            headers["Location"] = f"http://localhost:{hub.port}/cdn/{name}?signature=secret"
            headers["X-Linked-Size"] = str(len(content))
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
            self._say(302, headers)
        else:
            self._say(200, headers | {"ETag": f'W/"{git_hash(content)}"'}, content)

    def _large(self, content: bytes) -> None:
        hub = self.hub
        if hub.altered:
            content = bytes(255 - byte for byte in content)
        start, status, headers = 0, 200, {}
        if "Range" in self.headers:
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


def half_files() -> list[Path]:
    """The incomplete files of a download, beside the blobs of `HUB_ID`."""
    repository = cache_folder() / ("models--" + HUB_ID.replace("/", "--"))

    def size(file: Path) -> int:
        try:
            return file.stat().st_size
        except FileNotFoundError:  # renamed since it was listed
            return 0

    return [one for one in repository.glob("blobs/*.incomplete") if size(one) > 100_000]


@contextmanager
def only_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A hub that has the weights of a folder: the only one, with neither login nor proxy."""
    for variable in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    files = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    with serve(files) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub
