"""A watch processes every series once: grown ones when they are whole, after kills and failures."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from service.dicom_site import dicom_head
from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import Cancelled, OutputError, PacsError
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service.batch.processes import Processes
from SpatialARAnomalyLib.service.detection.result_files import ResultsSpec
from SpatialARAnomalyLib.service.pacs.address import parse_address
from SpatialARAnomalyLib.service.pacs.client import Pacs, PacsSeries
from SpatialARAnomalyLib.service.pacs.watch import INCOMING, STATE_FILE, WatchRequest, watch
from SpatialARAnomalyLib.service.pacs.watch_state import DONE, open_state

HEAD = PacsSeries(study="1.1", uid="1.2", number=3, modality="MR", images=5)


def uid(seed: int) -> str:
    return f"1.2.826.0.1.3680043.8.498.7{seed}"


class Notices(SilentReporter):
    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def notice(self, code: str, text: str) -> None:
        self.found.append((code, text))

    def codes(self) -> list[str]:
        return sorted(code for code, _ in self.found if code.startswith("series-"))


def test_a_series_is_ready_when_it_stands_still_and_done_for_good(tmp_path):
    file = tmp_path / STATE_FILE
    with open_state(file, "m") as state:
        state.see([HEAD], 100.0)
        assert state.list_ready(99.0) == []
        assert state.list_ready(100.0) == [HEAD]
        grown = PacsSeries(study="1.1", uid="1.2", number=3, modality="MR", images=6)
        state.see([grown], 130.0)
        assert state.list_ready(129.0) == []
        state.see([grown], 200.0)
        assert state.list_ready(130.0) == [grown]
        assert state.begin("1.2") == (1, "")
    with open_state(file, "m") as state:  # after a kill
        assert state.list_ready(130.0) == [grown]
        assert state.begin("1.2") == (2, "")
        state.note("1.2", DONE, "")
        state.see([HEAD], 300.0)
        assert state.list_ready(1e9) == []
        assert state.counts()[DONE] == 1
    with pytest.raises(OutputError) as refused, open_state(file, "another"):
        pass
    assert refused.value.code == "watch-model"


def test_a_damaged_state_is_refused_and_stays(tmp_path):
    file = tmp_path / STATE_FILE
    file.write_bytes(b"no database" * 100)
    with pytest.raises(OutputError) as refused, open_state(file, "m"):
        pass
    assert refused.value.code == "watch-state"
    assert file.read_bytes() == b"no database" * 100


def request(orthanc, site, out, **changes):
    values = {
        "address": parse_address(f"{orthanc.address}?Modality=MR"),
        "spec": ResultsSpec(
            model=site.model, device=Device.CPU, false_positive_rate=0.02, dicom=True
        ),
        "out": out,
        "store": True,
        "once": True,
        "settle_s": 0.0,
    }
    return WatchRequest(**(values | changes))


@pytest.mark.slow
def test_every_series_is_processed_once(orthanc, site, tmp_path, monkeypatch):
    out = tmp_path / "night"
    orthanc.upload(dicom_head(tmp_path / "5"))
    gap = dicom_head(tmp_path / "6", seed=6)
    (gap / "image 003.dcm").unlink()
    orthanc.upload(gap)
    first = Notices()
    counts = watch(request(orthanc, site, out), first)
    assert counts == {"arriving": 0, "done": 1, "refused": 1, "failed": 0}
    assert first.codes() == ["series-done", "series-refused"]
    assert (out / uid(5) / f"{uid(5)}_seg.dcm").exists()
    assert not (out / uid(6)).exists()
    held = orthanc.holds()
    assert sum(held.values()) == 6 + 5 + 4

    again = Notices()
    watch(request(orthanc, site, out), again)
    assert again.codes() == []
    assert orthanc.holds() == held

    # A series that grows while it is processed waits until it is whole.
    whole = dicom_head(tmp_path / "7", seed=7)
    last = whole / "image 001.dcm"
    kept = last.read_bytes()
    last.unlink()
    orthanc.upload(whole)
    fetch = Pacs.fetch

    def fetch_and_grow(self, series, folder):
        images = fetch(self, series, folder)
        orthanc.ask("POST", "/instances", kept)
        return images

    grown = Notices()
    with monkeypatch.context() as patch:
        patch.setattr(Pacs, "fetch", fetch_and_grow)
        counts = watch(request(orthanc, site, out), grown)
    assert counts["arriving"] == 1
    assert grown.codes() == []
    assert orthanc.holds() == held | {"MR thin": 6 + 5 + 6}
    counts = watch(request(orthanc, site, out), grown)
    assert counts == {"arriving": 0, "done": 2, "refused": 1, "failed": 0}
    assert grown.codes() == ["series-done"]
    assert sum(orthanc.holds().values()) == 6 + 5 + 6 + 2 * 4

    # A server that is gone breaks the scan off, and costs no series.
    orthanc.upload(dicom_head(tmp_path / "8", seed=8))
    with monkeypatch.context() as patch:
        patch.setattr(Pacs, "fetch", lambda *_: (_ for _ in ()).throw(PacsError("pacs-cut", "x")))
        for _ in range(5):
            with pytest.raises(PacsError):
                watch(request(orthanc, site, out), Notices())
    assert watch(request(orthanc, site, out), Notices())["done"] == 3


@pytest.mark.slow
def test_two_processes_end_what_they_have_begun(orthanc, site, tmp_path):
    """At a cancel after the first result, too: the other series that was begun is stored."""
    for seed in (5, 6, 7, 8):
        orthanc.upload(dicom_head(tmp_path / str(seed), seed=seed))

    class Cancelling(Notices):
        done = 0

        def progress(self, done, total, unit):
            self.done = done

        def check_cancelled(self):
            if self.done:
                raise Cancelled

    asked = request(orthanc, site, tmp_path / "night", place=Processes(2))
    counts = watch(asked, Cancelling())
    assert (counts["arriving"], counts["done"]) == (2, 2)
    assert not (tmp_path / "night" / INCOMING).exists()
    assert watch(asked, Notices())["done"] == 4
    assert sum(orthanc.holds().values()) == 4 * (6 + 4)


RUN = """
import sys
from pathlib import Path
from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service.detection.result_files import ResultsSpec
from SpatialARAnomalyLib.service.pacs.address import parse_address
from SpatialARAnomalyLib.service.pacs.watch import WatchRequest, watch
address, model, out = sys.argv[1:]
spec = ResultsSpec(model=Path(model), device=Device.CPU, false_positive_rate=0.02, dicom=True)
watch(
    WatchRequest(
        address=parse_address(address), spec=spec, out=Path(out), store=True, once=True, settle_s=0
    ),
    SilentReporter(),
)
"""


@pytest.mark.slow
def test_a_signal_ends_a_watch_in_order(orthanc, site, tmp_path):
    command = [
        *(sys.executable, "-c", "from SpatialARAnomalyLib.service.cli.main import main; main()"),
        *("watch", f"{orthanc.address}?Modality=MR", "--model", site.model),
        *("--out", tmp_path / "night", "--every", "1", "--days", "1", "--json"),
    ]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while time.monotonic() < until and not (tmp_path / "night" / STATE_FILE).exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    result = json.loads(said.splitlines()[-1])
    assert result["event"] == "result"
    assert result["done"] == 0


@pytest.mark.slow
def test_kills_lose_and_double_nothing(orthanc, site, tmp_path):
    """Killed where the first result is stored, and where the last is; then run to the end."""
    out = tmp_path / "night"
    orthanc.upload(dicom_head(tmp_path / "5"))
    arguments = [sys.executable, "-c", RUN, f"{orthanc.address}?Modality=MR", site.model, out]
    for stored in (1, 4):
        process = subprocess.Popen(list(map(str, arguments)), env=dict(os.environ))
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if sum(orthanc.holds().values()) >= 6 + stored:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        assert sum(orthanc.holds().values()) <= 6 + 4
    counts = watch(request(orthanc, site, out), Notices())
    assert counts["done"] == 1
    assert sum(orthanc.holds().values()) == 6 + 4
    assert not (out / INCOMING).exists()
    with sqlite3.connect(out / STATE_FILE) as state:
        assert state.execute("SELECT uid, state FROM series").fetchall() == [(uid(5), DONE)]
    state.close()
