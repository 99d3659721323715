"""A real Orthanc with DICOMweb and login, behind a proxy that adds TLS and can cut connections.

Debian's Orthanc crashes with its own TLS (civetweb with OpenSSL 3); hospitals, too, put a proxy
before it.
"""

import json
import os
import shutil
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests
import trustme

ORTHANC = shutil.which("Orthanc", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
INSTALLED = ORTHANC is not None and PLUGIN.exists()

USER, PASSWORD = "radiology", "correct horse"
WAIT_S = 60


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class TlsProxy(socketserver.ThreadingTCPServer):
    """Passes connections with TLS on to a port of this machine."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, folder: Path, target: int) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.target = target
        self.ca = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(self.ca_file))
        self.certify()
        self.left: int | None = None
        """Bytes of the server that are still passed on; then connections are cut. None for all."""
        self.cut_at: bytes | None = None
        """What a client sends at whose sight the connection is cut."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def certify(self, *, expired: bool = False) -> None:
        """Take a new certificate for connections from now on."""
        until = datetime.now(UTC) - timedelta(days=1) if expired else None
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert("localhost", not_after=until).configure_cert(self.context)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that break off are part of the tests."""


class _Passing(socketserver.BaseRequestHandler):
    server: TlsProxy

    def handle(self) -> None:
        client = self.server.context.wrap_socket(self.request, server_side=True)
        with client, socket.create_connection(("127.0.0.1", self.server.target)) as orthanc:
            client.settimeout(WAIT_S)
            back = threading.Thread(target=self._back, args=(orthanc, client), daemon=True)
            back.start()
            with suppress(OSError):
                while data := client.recv(1 << 16):
                    if self.server.cut_at is not None and self.server.cut_at in data:
                        self._cut(client)
                        break
                    orthanc.sendall(data)
            with suppress(OSError):
                orthanc.shutdown(socket.SHUT_RDWR)
            back.join(WAIT_S)

    def _back(self, orthanc: socket.socket, client: ssl.SSLSocket) -> None:
        with suppress(OSError):
            while data := orthanc.recv(1 << 16):
                if self.server.left is not None:
                    if len(data) > self.server.left:
                        client.sendall(data[: self.server.left])
                        self._cut(client)
                        return
                    self.server.left -= len(data)
                client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)

    def _cut(self, client: ssl.SSLSocket) -> None:
        """Reset the connection, as a server does that dies."""
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        client.close()


class Orthanc:
    """A server that can be stopped and started again, with what it holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.proxy = TlsProxy(folder, self.port)
        self.ca_file = self.proxy.ca_file
        self.address = f"dicomweb://localhost:{self.proxy.server_address[1]}/dicom-web"
        self.plain_address = f"dicomweb+http://localhost:{self.port}/dicom-web"

    def start(self) -> None:
        config = {
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "HttpPort": self.port,
            "DicomServerEnabled": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "OverwriteInstances": False,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (self.folder / "orthanc.json").write_text(json.dumps(config), encoding="utf-8")
        with (self.folder / "orthanc.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(ORTHANC), str(self.folder / "orthanc.json")], stdout=log, stderr=log
            )
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until and self.process.poll() is None:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise AssertionError((self.folder / "orthanc.log").read_text(errors="replace")[-3000:])

    def ask(self, method: str, path: str, data: bytes | None = None) -> Any:
        """Use Orthanc's own interface, beside DICOMweb."""
        return self._answer(method, path, data).json()

    def download(self, instance: str) -> bytes:
        return bytes(self._answer("GET", f"/instances/{instance}/file").content)

    def _answer(self, method: str, path: str, data: bytes | None = None) -> requests.Response:
        answer = requests.request(
            method,
            f"http://localhost:{self.port}{path}",
            data=data,
            auth=(USER, PASSWORD),
            timeout=WAIT_S,
        )
        answer.raise_for_status()
        return answer

    def upload(self, folder: Path) -> None:
        """Send all files of a folder, as a scanner does."""
        for path in sorted(folder.iterdir()):
            self.ask("POST", "/instances", path.read_bytes())

    def holds(self) -> dict[str, int]:
        """Numbers of instances by modality and series description."""
        found = {}
        for series in self.ask("GET", "/series?expand"):
            tags = series["MainDicomTags"]
            name = f"{tags['Modality']} {tags.get('SeriesDescription', '')}"
            found[name] = found.get(name, 0) + len(series["Instances"])
        return found

    def empty(self) -> None:
        """Delete all studies; the proxy passes everything on again."""
        for study in self.ask("GET", "/studies"):
            self.ask("DELETE", f"/studies/{study}")
        self.proxy.left = self.proxy.cut_at = None
        self.proxy.certify()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(timeout=WAIT_S)
            self.process = None


@contextmanager
def running_orthanc(folder: Path) -> Iterator[Orthanc]:
    """A running Orthanc that keeps its files in this folder."""
    server = Orthanc(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)
        server.proxy.shutdown()
        server.proxy.server_close()
