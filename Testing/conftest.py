"""What holds for every test: checked shapes, no network, no settings of the user's, seeded."""

import importlib.metadata
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

# Here and in the worker processes: the networks of the tests are too small to
# share, and threads that wait for each other slow down the test beside.
os.environ["OMP_NUM_THREADS"] = "1"

import jaxtyping
import pytest
from tqdm import tqdm

# Installed before anything of ours is imported, so that every annotated
# function of these packages checks its arguments and results.
jaxtyping.install_import_hook(
    ["SpatialARAnomalyLib", "Benchmark.real", "Benchmark.peers"], "typecheck.check"
)

GUARD = Path(__file__).parent / "Guard"
sys.path.insert(0, str(GUARD))

from network_guard import LOG, install  # noqa: E402

# Its thread may run the garbage collector, which then deletes Qt's objects in that thread: the
# event loop of the main thread crashes.
tqdm.monitor_interval = 0

HEADER_PACKAGES = ("torch", "transformers", "numpy", "scipy", "SimpleITK", "nibabel", "pydicom")


def pytest_configure(config: pytest.Config) -> None:
    """End the run when a process crashes: pytest-xdist would wait for the rest of its file."""
    config.option.maxworkerrestart = 0


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their argument: made anew in each process, they may differ (gzip's time)."""
    return argname if isinstance(val, bytes) else None


def pytest_report_header() -> str:
    """Name the versions the tests run on."""
    versions = (f"{name} {importlib.metadata.version(name)}" for name in HEADER_PACKAGES)
    return f"{', '.join(versions)}; {os.cpu_count()} cores"


@pytest.fixture(scope="session", autouse=True)
def _guarded_children(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file in which child processes note whom they tried to reach; they are guarded, too."""
    log = tmp_path_factory.mktemp("guard") / "network.log"
    earlier = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(GUARD), *filter(None, [earlier])])
    os.environ[LOG] = str(log)
    return log


@pytest.fixture(autouse=True)
def _no_network(_guarded_children: Path) -> Iterator[None]:
    """Fail whatever tries to reach another machine, from here or from a child process."""
    tried: list[object] = []

    def refuse(address: object) -> None:
        tried.append(address)
        raise OSError(101, "the tests may reach this machine only")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, getattr(socket.socket, name))
        install(refuse)
        yield
    if _guarded_children.exists():
        tried += _guarded_children.read_text(encoding="utf-8").splitlines()
        _guarded_children.unlink()
    if tried:
        pytest.fail(f"a test tried to reach the network: {tried}")


@pytest.fixture(autouse=True)
def _own_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keep the user's settings and model cache out of the tests."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("SPATIAL_AR_ANOMALY_HOME", str(home / "settings"))
    monkeypatch.setenv("HF_HOME", str(home / "hub"))


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the demo leaves, run once for all processes of the tests; not to be changed.

    Its events lie beside it in `events.jsonl`.
    """
    import torch
    from filelock import FileLock
    from service.small_site import run

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    events, out = shared / "demo run" / "events.jsonl", shared / "demo run" / "my demo"
    with FileLock(shared / "demo.lock"), pytest.MonkeyPatch.context() as patch:
        if not events.exists():
            patch.setenv("SPATIAL_AR_ANOMALY_HOME", str(events.parent / "settings"))
            # The one large network of the tests; others wait for it.
            torch.set_num_threads(os.cpu_count() or 1)
            done = run("demo", "--out", out, "--device", "cpu", "--json")
            torch.set_num_threads(1)
            assert done.exit_code == 0, done.stderr
            events.write_text(done.stdout, encoding="utf-8")
    return out
