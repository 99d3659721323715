"""A job of the tests in place of `detect_scan`: cheap, and with all the ways in which scans end.

The scan is a text file: what it says is done, and copied into the results. `install` puts the
job in place, in this process or in a worker's.
"""

import os
import signal
import sys
import time
from pathlib import Path

from SpatialARAnomalyLib.engine.errors import DeviceError, InputError, OutputError
from SpatialARAnomalyLib.service import jobs
from SpatialARAnomalyLib.service.outputs import write_atomically

COMMAND = [
    sys.executable,
    "-c",
    f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import odd_scans; "
    "odd_scans.install(); from SpatialARAnomalyLib.service.worker import main; main.main()",
]
"""Starts a worker with this job."""

RESULT = "result.txt"


def install() -> None:
    """Put the job in place."""
    jobs.Job.run = lambda self, inputs, spec, output, report: scan(inputs, spec, output, report)


def dask_setup(worker) -> None:
    """Put the job in place in a Dask worker, whose configuration names this file as a preload."""
    from SpatialARAnomalyLib.engine import device

    install()
    jobs.Job.load = lambda self: None
    device.start_imports = lambda: None


def scan(inputs, spec, output, report):
    """Do what the file of the scan says; note in the log that it begins."""
    path, output = Path(inputs["path"]), Path(output)
    with open(spec["log"], "a", encoding="utf-8") as log:
        log.write(f"{path.stem} {os.getpid()}\n")
    word, _, number = path.read_text(encoding="utf-8").partition(" ")
    report.notice("usual", "It is as usual.")
    match word:
        case "refuse":
            raise InputError("input-damaged", "The scan is damaged,\nit is.")
        case "break":
            raise RuntimeError("a bug")
        case "memory":
            raise MemoryError
        case "device":
            raise DeviceError("device-missing", "There is no such device.")
        case "full":
            raise OutputError("output-unwritable", "The disk is full.")
        case "die" if Path(spec["log"]).read_text().split().count(path.stem) <= int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        case "fill":
            _ = b"x" * (int(number) << 20)
            time.sleep(60)
        case "alone":
            with open(f"{spec['log']}.alone", "x"):
                time.sleep(float(number))
            os.remove(f"{spec['log']}.alone")
        case "sleep":
            end = time.monotonic() + float(number)
            while time.monotonic() < end:
                report.check_cancelled()
                time.sleep(0.01)
    with write_atomically(output, [RESULT], overwrite=True) as new:
        (new / RESULT).write_text(f"{word} {spec['factor']}")
    return {"findings": [], "length": len(word)}
