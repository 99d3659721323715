"""Runs commands and worker jobs of the program in children of a warm process, each with a fault.

    python -m Faults.nursery

reads one request a line and answers each with one line when its child has ended.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from Faults.faults import Fault

TESTING = Path(__file__).parents[1]
LIBRARY = TESTING.parent / "SpatialARAnomaly"
STOPPED_S = 0.05
"""Seconds after which a stopped process is continued."""

HUNG_S = 200.0
"""Seconds after which a process hangs: it is ended by SIGALRM, which nothing else sends."""


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    code: int
    """Its exit code; negative for a signal."""
    output: str
    operations: int

    @property
    def last(self) -> dict[str, Any]:
        """Its last event."""
        lines = [line for line in self.output.splitlines() if line.startswith("{")]
        return json.loads(lines[-1]) if lines else {}


class Nursery:
    """The warm process."""

    def __init__(self) -> None:
        paths = [str(TESTING), str(LIBRARY), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "Faults.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def run(
        self,
        folder: Path,
        command: list[object] | dict[str, Any],
        fault: Fault | None = None,
        *,
        in_worker: bool = False,
        **environment: str,
    ) -> Ended:
        """Run a command line, or a job of the worker, in `folder`; only its files count.

        With `in_worker` it is a whole worker process behind two pipes, whose operations are not
        counted.
        """
        request = {
            "folder": str(folder),
            "command": command if isinstance(command, dict) else [str(one) for one in command],
            "fault": None if fault is None else asdict(fault),
            "environment": environment,
            "in_worker": in_worker,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> "Nursery":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _run_child(request: dict[str, Any], counted: int) -> int:
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    fault = Fault(**(request["fault"] or {"kind": "count"}))
    fault.begin(Path(request["folder"]))
    try:
        command = request["command"]
        if request["in_worker"]:
            from SpatialARAnomalyLib.service.worker.main import main

            main()  # which ends the process
        return _run_job(**command) if isinstance(command, dict) else _run_command(command)
    finally:
        os.write(counted, str(fault.operations).encode())


def _run_command(arguments: list[str]) -> int:
    from SpatialARAnomalyLib.service.cli.main import main

    sys.argv = ["spatial-ar-anomaly", *arguments]
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def _run_job(job: str, inputs: dict[str, Any], spec: dict[str, Any], output: str) -> int:
    """Run a job as the worker does."""
    from SpatialARAnomalyLib.service.worker.main import Worker
    from SpatialARAnomalyLib.service.worker.process import EventPipe
    from SpatialARAnomalyLib.service.worker.protocol import Request

    worker = Worker(EventPipe(os.dup(1)))
    worker._queue.put(Request(id=1, job=job, inputs=inputs, spec=spec, output=output))
    request = worker._queue.next()
    assert request is not None
    last = worker._run(request)
    worker._send(last, 1)
    return 0 if last.wire_name == "result" else 2


def _wait(child: int) -> int:
    """Wait for the end of a child; continue it where it is stopped, and end it where it hangs."""
    killer = threading.Timer(HUNG_S, os.kill, (child, signal.SIGALRM))
    killer.start()
    try:
        while True:
            _, status = os.waitpid(child, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                return os.waitstatus_to_exitcode(status)
            time.sleep(STOPPED_S)
            os.kill(child, signal.SIGCONT)
    finally:
        killer.cancel()


def _is_last(line: str) -> bool:
    """Return whether a worker says with this line how its job has ended."""
    return any(f'"event": "{one}"' in line for one in ("result", "failed", "cancelled"))


def main() -> None:
    """Load what commands need, then answer requests."""
    import filelock  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import nibabel  # noqa: F401
    import SimpleITK  # noqa: F401
    import skimage.measure  # noqa: F401
    from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder
    from SpatialARAnomalyLib.engine.model import training  # noqa: F401
    from SpatialARAnomalyLib.service.cli import main as cli  # noqa: F401
    from SpatialARAnomalyLib.service.cli import progress, tables  # noqa: F401
    from SpatialARAnomalyLib.service.detection import result_files  # noqa: F401
    from SpatialARAnomalyLib.service.evaluation import files  # noqa: F401
    from SpatialARAnomalyLib.service.training import train  # noqa: F401
    from SpatialARAnomalyLib.service.worker import export  # noqa: F401

    load_encoder("demonstration")
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        (read_count, count), (read_output, output) = os.pipe(), os.pipe()
        read_input, to_child = os.pipe()
        child = os.fork()
        if child == 0:
            code = 99
            os.close(to_child)
            os.dup2(read_input, 0)
            for descriptor in (1, 2):
                os.dup2(output, descriptor)
            # Those of the parent may be files, in which Python would seek.
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", 1, encoding="utf-8", closefd=False)  # noqa: SIM115
            try:
                code = _run_child(request, count)
            except BaseException:
                traceback.print_exc()
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            os._exit(code)
        for descriptor in (count, output, read_input):
            os.close(descriptor)
        if request["in_worker"]:
            message = {"protocol": 1, "id": 1, **request["command"]}
            with contextlib.suppress(OSError):  # it died at once
                os.write(to_child, json.dumps(message).encode() + b"\n")
        else:
            os.close(to_child)
        # A pipe, as a file would fall under a limit of file sizes; no thread outlives the child.
        codes: list[int] = []
        waiter = threading.Thread(target=lambda pid, to: to.append(_wait(pid)), args=(child, codes))
        waiter.start()
        with open(read_output, encoding="utf-8", errors="replace") as lines:
            said = ""
            for event in lines:
                said += event
                if request["in_worker"] and _is_last(event):  # the end of its input ends it
                    os.close(to_child)
                    request["in_worker"] = False
        waiter.join()
        if request["in_worker"]:
            os.close(to_child)
        with open(read_count) as file:
            operations = int(file.read() or 0)
        print(json.dumps({"code": codes[0], "output": said, "operations": operations}), flush=True)


if __name__ == "__main__":
    main()
