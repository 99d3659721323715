"""The client against servers of every kind of paging, and failures that need no PACS."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from SpatialARAnomalyLib.engine.errors import PacsError
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service.pacs.address import parse_address
from SpatialARAnomalyLib.service.pacs.client import Pacs

IMAGES = 10_000


class Answering(BaseHTTPRequestHandler):
    """A DICOMweb server that lists the same images for every series."""

    def do_GET(self):
        server = self.server
        query = parse_qs(urlsplit(self.path).query)
        limit, offset = (int(query[key][0]) for key in ("limit", "offset"))
        server.asked += 1
        begin = offset if server.knows_offset else 0
        rows = server.rows[begin : begin + min(limit, server.page)]
        body = server.body if server.body is not None else json.dumps(rows).encode()
        status = 200 if body != b"[]" else server.status_of_nothing
        self.send_response(status)
        if status == 200:
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status == 200:
            self.wfile.write(body)

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    made.rows = [{"00080018": {"vr": "UI", "Value": [f"1.2.{n}"]}} for n in range(IMAGES)]
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def pacs(server) -> Pacs:
    server.asked, server.knows_offset, server.page = 0, True, IMAGES
    server.status_of_nothing, server.body = 200, None
    port = server.server_address[1]
    return Pacs(parse_address(f"dicomweb+http://127.0.0.1:{port}/dicom-web"), SilentReporter())


@pytest.mark.parametrize("page", [IMAGES, 300])
@pytest.mark.parametrize("status", [200, 204])
def test_a_long_series_is_listed_page_by_page(server, pacs, page, status):
    server.page, server.status_of_nothing = page, status
    assert pacs.list_images("1.2", "1.3") == {f"1.2.{n}" for n in range(IMAGES)}
    assert server.asked == -(-IMAGES // min(page, 500)) + 1


def test_a_server_without_pages_is_asked_twice(server, pacs):
    server.knows_offset = False
    assert len(pacs.list_images("1.2", "1.3")) == 500
    assert server.asked == 2


@pytest.mark.parametrize(
    "body", [b"<html>login</html>", b'[{"00080018": 7}]', b"[7]", b'{"error": "no"}']
)
def test_what_is_not_dicomweb_is_told(server, pacs, body):
    server.body = body
    if body == b'{"error": "no"}':  # a single row without a UID
        assert pacs.list_images("1.2", "1.3") == set()
        return
    with pytest.raises(PacsError) as failed:
        pacs.list_images("1.2", "1.3")
    assert failed.value.code == "pacs-not-dicomweb"


def test_folder_names_never_come_from_a_server(server, pacs):
    row = {
        "0020000E": {"Value": ["../../etc"]},
        "0020000D": {"Value": ["1.2"]},
        "00080060": {"Value": ["MR"]},
    }
    server.body = json.dumps([row]).encode()
    with pytest.raises(PacsError) as failed:
        pacs.find_series()
    assert failed.value.code == "pacs-not-dicomweb"


def test_nobody_there_and_no_such_host(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(PacsError, match="nothing answers there") as failed:
        Pacs(parse_address(f"dicomweb://127.0.0.1:{port}/x"), SilentReporter()).find_series()
    assert failed.value.code == "pacs-offline"

    def unknown(*arguments, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(PacsError, match="its name is not known") as failed:
        Pacs(parse_address("dicomweb://pacs.example/x"), SilentReporter()).find_series()
    assert failed.value.code == "pacs-offline"


def test_a_server_without_tls_is_told(server):
    port = server.server_address[1]
    with pytest.raises(PacsError) as failed:
        Pacs(parse_address(f"dicomweb://127.0.0.1:{port}/x"), SilentReporter()).find_series()
    assert failed.value.code == "pacs-tls"
