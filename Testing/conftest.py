"""What holds for every test: checked shapes, no network, no settings of the user's, seeded."""

import importlib.metadata
import os
import socket

# Here and in the worker processes: the networks of the tests are too small to
# share, and threads that wait for each other slow down the test beside.
os.environ["OMP_NUM_THREADS"] = "1"

import jaxtyping
import pytest

# Installed before anything of ours is imported, so that every annotated
# function of the package checks its arguments and results.
jaxtyping.install_import_hook("SpatialARAnomalyLib", "typecheck.check")

HEADER_PACKAGES = ("torch", "transformers", "numpy", "scipy", "SimpleITK", "nibabel", "pydicom")


def pytest_report_header() -> str:
    """Name the versions the tests run on."""
    versions = (f"{name} {importlib.metadata.version(name)}" for name in HEADER_PACKAGES)
    return f"{', '.join(versions)}; {os.cpu_count()} cores"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail whatever tries to reach another machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        local = self.family == getattr(socket, "AF_UNIX", None) or (
            isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1", "localhost")
        )
        if not local:
            pytest.fail(f"a test tried to reach the network: {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _own_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keep the user's settings and model cache out of the tests."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("SPATIAL_AR_ANOMALY_HOME", str(home / "settings"))
    monkeypatch.setenv("HF_HOME", str(home / "hub"))
