"""A batch: every scan has one row, what is done stays done, and one scan's end is its own."""

import csv
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from filelock import FileLock
from service.batch import odd_scans
from service.small_site import tree
from SpatialARAnomalyLib.engine.errors import Cancelled, SpatialARError
from SpatialARAnomalyLib.engine.files import PARTIAL_PREFIX
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service import jobs
from SpatialARAnomalyLib.service.batch import processes
from SpatialARAnomalyLib.service.batch.batch import BatchScan, run_batch
from SpatialARAnomalyLib.service.batch.choose import choose_place
from SpatialARAnomalyLib.service.batch.places import Work

WAIT_S = 60


@pytest.fixture(autouse=True)
def odd(monkeypatch):
    monkeypatch.setattr(jobs.Job, "run", jobs.Job.run)
    monkeypatch.setattr(processes, "COMMAND", odd_scans.COMMAND)
    odd_scans.install()


class Site:
    """A folder of odd scans, and the batches over it."""

    def __init__(self, folder: Path, **scans: str) -> None:
        self.out, self.log, self.in_one_folder = folder / "out", folder / "log", False
        self.files = {}
        for name, content in scans.items():
            self.files[name] = folder / f"{name}.txt"
            self.files[name].write_text(content)

    def run(
        self, jobs: int = 1, factor: int = 1, report=SilentReporter(), scheduler=None, memory=None
    ):
        """Run the batch; the scans that were begun, in order."""
        self.log.write_text("")
        scans = [
            BatchScan(
                name=f"sub/{name}",
                inputs={"path": str(file)},
                files=(file.parent if self.in_one_folder else file,),
                inside=(file.name,) if self.in_one_folder else (),
            )
            for name, file in self.files.items()
        ]
        work = Work(job="detect_scan", spec={"log": str(self.log), "factor": factor})
        self.outcome = run_batch(
            work, scans, self.out, choose_place(jobs, scheduler, memory), {"factor": factor},
            report,
            columns=lambda values: {"findings": values["length"]},
        )  # fmt: skip
        return [line.split()[0] for line in self.log.read_text().splitlines()]

    def table(self, *columns: str) -> list[tuple[str, ...]]:
        with (self.out / "status.csv").open(encoding="utf-8", newline="") as file:
            return [tuple(row[column] for column in columns) for row in csv.DictReader(file)]


class Stop(SilentReporter):
    """Cancels after some scans; collects notices."""

    def __init__(self, after: int) -> None:
        self.after, self.done, self.notices = after, 0, []

    def progress(self, done, total, unit):
        self.done, self.total = done, total

    def notice(self, code, text):
        self.notices.append((code, text))

    def check_cancelled(self):
        if self.done >= self.after:
            raise Cancelled


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_scan_has_one_row_in_the_order_of_the_scans(tmp_path, jobs, capfd):
    site = Site(tmp_path, a="fine", b="refuse", c="break", d="memory", e="good")
    assert sorted(site.run(jobs)) == list("abcde")
    assert site.table("scan", "state", "code", "findings", "notices") == [
        ("sub/a", "done", "", "4", "usual"),
        ("sub/b", "refused", "input-damaged", "", "usual"),
        ("sub/c", "failed", "internal", "", "usual"),
        ("sub/d", "failed", "out-of-memory", "", "usual"),
        ("sub/e", "done", "", "4", "usual"),
    ]
    assert ("The scan is damaged, it is.",) in site.table("reason")
    assert site.outcome.counts == {"done": 2, "refused": 1, "failed": 2}
    assert "RuntimeError" in capfd.readouterr().err


def test_what_is_done_stays_done_and_the_rest_is_tried_again(tmp_path):
    site = Site(tmp_path, a="fine", b="refuse", c="good")
    site.run()
    before = tree(site.out)
    assert site.run() == ["b"]
    after = tree(site.out)
    del before["status.csv"], after["status.csv"]
    assert after == before
    site.files["b"].write_text("mended")
    assert site.run() == ["b"]
    assert site.run() == []
    assert site.outcome.is_complete


def test_a_change_of_scan_settings_or_results_is_a_new_scan(tmp_path):
    site = Site(tmp_path, a="fine", b="good")
    site.run()
    os.utime(site.files["a"], ns=(0, 0))
    assert site.run() == ["a"]
    assert site.run(factor=2) == ["a", "b"]
    assert tree(site.out)["sub/b/result.txt"] == b"good 2"
    odd = site.out / "sub" / "b"
    (odd / "result.txt").unlink()
    odd.rmdir()
    assert site.run(factor=2) == ["b"]


def test_a_change_in_a_folder_of_several_scans_is_one_of_its_scan(tmp_path):
    site = Site(tmp_path, a="fine", b="good")
    site.in_one_folder = True
    assert site.run() == ["a", "b"]
    site.files["a"].write_text("better")
    assert site.run() == ["a"]


def test_a_row_that_was_cut_off_is_not_counted(tmp_path):
    site = Site(tmp_path, a="fine", b="good", c="fine")
    site.run()
    table = site.out / "status.csv"
    *rows, last = table.read_text().splitlines(keepends=True)
    for cut in (1, len(last) // 2, len(last) - 2):
        table.write_text("".join(rows) + last[:cut])
        assert site.run() == ["c"]
        assert table.read_text().count("sub/c") == 1


def test_an_error_that_all_scans_would_meet_ends_the_batch(tmp_path):
    for word, code in (("device", "device-missing"), ("full", "output-unwritable")):
        site = Site(tmp_path, a="fine", b=word, c="good")
        with pytest.raises(SpatialARError) as caught:
            site.run()
        assert caught.value.code == code
        assert site.table("scan") == [("sub/a",)]
    site.files["b"].write_text("fine")
    assert site.run() == ["b", "c"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_cancelled_batch_keeps_what_is_done(tmp_path, jobs):
    site = Site(tmp_path, a="fine", b="good", c=f"sleep {WAIT_S}", d=f"sleep {WAIT_S}")
    with pytest.raises(Cancelled, match="Scans that are done are kept"):
        site.run(jobs, report=Stop(after=2))
    assert sorted(site.table("scan", "state")) == [("sub/a", "done"), ("sub/b", "done")]
    for name in "cd":
        site.files[name].write_text("fine")
    reporter = Stop(after=9)
    assert sorted(site.run(jobs, report=reporter)) == ["c", "d"]
    assert (reporter.done, reporter.total) == (4, 4)
    ((code, text),) = reporter.notices  # of two scans, told once
    assert code == "usual"
    assert text.endswith(": It is as usual.")


def test_a_process_that_dies_costs_one_scan(tmp_path):
    site = Site(tmp_path, a="die 1", b="fine", c="die 9", d="good", e="die 2")
    begun = site.run(2)
    assert [begun.count(name) for name in "abcde"] == [2, 1, 3, 1, 3]
    assert site.table("scan", "state", "code") == [
        ("sub/a", "done", ""),
        ("sub/b", "done", ""),
        ("sub/c", "failed", "process-died"),
        ("sub/d", "done", ""),
        ("sub/e", "done", ""),
    ]


@pytest.mark.slow
def test_processes_killed_at_20_moments_cost_nothing(tmp_path):
    (tmp_path / "serial").mkdir()
    (tmp_path / "killed").mkdir()
    scans = {f"s{number}": f"sleep {0.02 * (number % 5)}" for number in range(60)}
    serial, site = Site(tmp_path / "serial", **scans), Site(tmp_path / "killed", **scans)
    serial.run()
    moments = random.Random(5)
    at = set(moments.sample(range(1, 58), 20))

    class Killer(Stop):
        """Kills the process that began the last scan when so many scans are done."""

        def progress(self, done, total, unit):
            super().progress(done, total, unit)
            if done in at:
                at.remove(done)
                time.sleep(moments.uniform(0, 0.08))
                begun = [int(line.split()[1]) for line in site.log.read_text().splitlines()]
                with suppress(ProcessLookupError):
                    os.kill(begun[-1], signal.SIGKILL)

    for _ in range(5):
        site.run(2, report=Killer(after=99))
        if site.outcome.is_complete:
            break
    columns = ("scan", "state", "code", "reason", "findings", "notices")
    assert site.table(*columns) == serial.table(*columns)
    # One killed before it has a lock may leave a folder for a day (`engine.files`).
    found = {name: file for name, file in tree(site.out).items() if PARTIAL_PREFIX not in name}
    expected = tree(serial.out)
    del found["status.csv"], expected["status.csv"]
    assert found == expected


def test_processes_that_cannot_start_end_the_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "COMMAND", [odd_scans.COMMAND[0], "-c", "raise SystemExit(3)"])
    with pytest.raises(SpatialARError) as caught:
        Site(tmp_path, a="fine").run(2)
    assert caught.value.code == "process-start"
    assert "exit code 3" in caught.value.message


def test_a_folder_of_something_else_is_refused_and_unchanged(tmp_path):
    site = Site(tmp_path, a="fine")
    site.out.mkdir()
    (site.out / "status.csv").write_text("a,b\n")
    with pytest.raises(SpatialARError) as caught:
        site.run()
    assert caught.value.code == "output-not-a-batch"
    assert tree(site.out) == {"status.csv": b"a,b\n"}


def test_one_batch_at_a_time_writes_into_a_folder(tmp_path):
    site = Site(tmp_path, a="fine")
    site.run()
    with FileLock(site.out / ".lock"), pytest.raises(SpatialARError) as caught:
        site.run()
    assert caught.value.code == "batch-running"
