"""Jobs of the tests, in place of the worker's own, by `spec["do"]`."""

import hashlib
import itertools
import os
import subprocess
import sys
import time

from SpatialARAnomalyLib.engine.device import require_torch
from SpatialARAnomalyLib.service import jobs
from SpatialARAnomalyLib.service.worker import process

SLEEPER = [sys.executable, "-c", "import time; time.sleep(300)"]
PRINTER = [sys.executable, "-c", "import os; print('from a child'); os.write(1, b'\\xff\\n')"]


def install() -> None:
    """Put them in place, and let the worker wait for a job to stop as long as a test does."""

    def run(self, inputs, spec, output, report):
        return JOBS[spec["do"]](inputs, spec, report)

    jobs.Job.run = run
    process.GRACE_S = 300.0


def wait(inputs, spec, report):
    """Work until cancelled."""
    report.notice("begun", "")
    while True:
        report.check_cancelled()
        time.sleep(0.01)


def count(inputs, spec, report):
    """Report progress at every step, until cancelled."""
    report.notice("begun", "")
    for done in itertools.count():
        report.check_cancelled()
        time.sleep(0.02)
        report.progress(done, done, "step")


def with_child(inputs, spec, report):
    """Work until cancelled, with a child process."""
    subprocess.Popen(SLEEPER)
    return wait(inputs, spec, report)


def stuck(inputs, spec, report):
    """Compute in C without checking for a cancel, with a child process."""
    process.GRACE_S = 0.5
    subprocess.Popen(SLEEPER)
    report.notice("begun", "")
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


def stray(inputs, spec, report):
    """Print in every way there is, between events; read from standard input."""
    print("from Python")
    report.notice("one", "Größe 脳")
    os.write(1, b"from C\n")
    sys.__stdout__.write("from the first stdout, without an end")
    subprocess.run(PRINTER, check=True)
    report.notice("two", "\ud800")
    return {"stdin": sys.stdin.read(), "inheritable": [_inheritable(fd) for fd in range(3, 30)]}


def _inheritable(descriptor):
    try:
        return os.get_inheritable(descriptor)
    except OSError:
        return False


def _raising(error):
    def job(inputs, spec, report):
        raise error

    return job


def bug(inputs, spec, report):
    """Fail as a bug does, with the input in the message."""
    raise KeyError(inputs["voxels"])


def nested_bug(inputs, spec, report):
    """Fail while failing."""
    try:
        bug(inputs, spec, report)
    except KeyError as error:
        raise RuntimeError("cannot open " + inputs["voxels"]) from error


def without_torch(inputs, spec, report):
    """Need torch."""
    sys.modules["torch"] = None
    require_torch()


def other_package(inputs, spec, report):
    """Need a package that is not there."""
    import a_package_that_is_not_there.at_all  # noqa: F401


JOBS = {
    "wait": wait,
    "count": count,
    "with_child": with_child,
    "stuck": stuck,
    "stray": stray,
    "bug": bug,
    "nested_bug": nested_bug,
    "without_torch": without_torch,
    "other_package": other_package,
    "memory": _raising(MemoryError()),
    "torch_memory": _raising(RuntimeError("[enforce fail] DefaultCPUAllocator: no memory")),
    "no_json": lambda inputs, spec, report: {"value": float("nan")},
    "echo": lambda inputs, spec, report: {"said": spec.get("said")},
}
