"""Tries faults at seeded moments, and counts what they cost.

    PYTHONPATH=Testing:SpatialARAnomaly python -m Faults.campaign --kills 200 --full-disks 50

prints a line per promise of `Resources/Docs/reliability.md`. The tests run a small sample.
"""

import argparse
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from service.small_site import Site, make_site

from Faults.faults import Fault
from Faults.nursery import LIBRARY, TESTING, Ended, Nursery
from Faults.operations import (
    OPERATIONS,
    WORKER_OPERATIONS,
    Command,
    Operation,
    prepare_site,
)
from Faults.whole import temporary_files, torn_files

CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGKILL)
"""Signals by which libraries, or the system, end a process that has no memory left."""

GONE_CODES = {"model-missing", "input-missing", "input-unreadable"}
"""Further errors that a folder which has vanished may cause."""

PLACES = {
    "train": ("brain.training", "brain.training/features", "."),
    "detect": ("results", "."),
    "evaluate": ("evaluated", "."),
    "export": ("exported", "."),
    "import": ("models", "."),
    "model export": (".",),
}
"""Folders that vanish: of results, a training, a feature store, a library, and all of them."""

DISK_CODES = {"output-unwritable", "training-unwritable", "encoder-disk-full", "encoder-cache"}
"""Errors that say that a file cannot be written."""


@dataclass
class Tally:
    """What faults have cost."""

    tried: Counter[str] = field(default_factory=Counter)
    """Faults by operation."""
    problems: list[str] = field(default_factory=list)
    """Torn files, lost results, runs that failed afterwards, files that were left, bad messages."""
    resumed: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    """How the runs with a fault ended: "done", the code of an error, or a signal."""

    def __str__(self) -> str:
        tried, ends = (
            ", ".join(f"{name}: {number}" for name, number in sorted(counts.items()))
            for counts in (self.tried, self.ends)
        )
        return (
            f"{self.tried.total()} faults ({tried}); ended as {ends}; {self.resumed} repeated "
            f"with success, {len(self.problems)} problems"
            + "".join(f"\n  {one}" for one in self.problems)
        )


class Campaign:
    """Operations on a small site, in the children of a warm process."""

    def __init__(self, nursery: Nursery, site: Site, scratch: Path) -> None:
        self._nursery, self._site, self._scratch = nursery, site, scratch
        self._operations: dict[str, int] = {}
        self._models: dict[str, bytes] = {}
        self._can_mount = can_mount(scratch)
        self.tally = Tally()
        prepare_site(site, self._run)
        self.operations(OPERATIONS["train"])

    def _run(
        self, folder: Path, command: Command, fault: Fault | None = None, *, in_worker: bool = False
    ) -> Ended:
        places = {"SPATIAL_AR_ANOMALY_HOME": "settings", "TMPDIR": "tmp", "HF_HOME": "hub"}
        (folder / "tmp").mkdir(exist_ok=True)
        names = {name: str(folder / place) for name, place in places.items()}
        return self._nursery.run(folder, command, fault, in_worker=in_worker, **names)

    def operations(self, operation: Operation) -> int:
        """Return the number of file operations without a fault, and check the result."""
        if operation.name not in self._operations:
            with self._folder(operation) as folder:
                ended = self._run(folder, operation.command(self._site, folder))
                assert ended.code == 0, ended.output
                assert torn_files(folder) == []
                assert temporary_files(folder) == []
                self._operations[operation.name] = ended.operations
                if "train" in operation.name:
                    model = (folder / "brain.safetensors").read_bytes()
                    self._models[operation.name] = model
        return self._operations[operation.name]

    @contextmanager
    def _folder(self, operation: Operation) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._scratch) as name:
            folder = Path(name)
            operation.prepare(self._site, folder)
            yield folder

    def meet(self, operation: Operation, fault: Fault) -> None:
        """Let an operation meet a fault; check what it left, repeat it, check again."""
        self.operations(operation)
        in_worker = operation.name in WORKER_OPERATIONS
        with self._folder(operation) as folder:
            before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            command = operation.command(self._site, folder)
            ended = self._run(folder, command, fault, in_worker=in_worker)
            self.check(operation, fault, folder, before, ended)

    def check(
        self,
        operation: Operation,
        fault: Fault,
        folder: Path,
        before: dict[Path, bytes],
        ended: Ended,
    ) -> None:
        """Check what a fault left, repeat the operation, check again."""
        what = f"{operation.name}, {fault}"
        in_worker = operation.name in WORKER_OPERATIONS
        self.tally.tried[operation.name] += 1
        self.tally.ends[_describe(ended)] += 1
        found = [f"torn: {one}" for one in torn_files(folder)]
        found += [f"lost: {path.name}" for path in before if not path.exists()]
        other = folder / "models" / "other.safetensors"
        if other in before and other.read_bytes() != before[other]:
            found.append("changed: another model")
        found += self._bad_end(operation, fault, ended)
        command = operation.command(self._site, folder)
        again = self._run(folder, command, in_worker=in_worker)
        done_before = again.last.get("code") == "output-exists"
        if (again.code != 0 or again.last.get("event") != "result") and not done_before:
            found.append(f"cannot be repeated: {again.code} {again.output[-300:]}")
        elif done_before:  # complete results are not lost; replaced, they leave nothing either
            if isinstance(command, list):
                command = [*command, "--overwrite"]
            else:
                command = command | {"spec": command["spec"] | {"overwrite": True}}
            replaced = self._run(folder, command, in_worker=in_worker)
            if replaced.code != 0 or replaced.last.get("event") != "result":
                found.append(f"cannot be replaced: {replaced.output[-300:]}")
        found += [f"torn afterwards: {one}" for one in torn_files(folder)]
        found += [f"left: {one}" for one in temporary_files(folder)]
        if list((folder / "tmp").iterdir()) and fault.kind not in ("signal", "write"):
            found.append(f"left: {os.listdir(folder / 'tmp')}")
        if "train" in operation.name:
            model = folder / "brain.safetensors"
            if not model.exists() or model.read_bytes() != self._models[operation.name]:
                found.append("another model than without the fault")
        self.tally.resumed += not found
        self.tally.problems += [f"{what}: {one}" for one in found]

    def _bad_end(self, operation: Operation, fault: Fault, ended: Ended) -> list[str]:
        """Return what is wrong with the exit code and the last message."""
        is_job = operation.name == "export"  # without the worker, a signal ends it at once
        if "Traceback" in ended.output:
            good = False
        elif fault.kind in ("write", "clock"):
            good = ended.code in (0, -signal.SIGXFSZ)
        elif operation.name in WORKER_OPERATIONS and fault.number != signal.SIGKILL:
            expected = 0 if fault.number == signal.SIGSTOP else 128 + fault.number
            good = ended.code == expected and ended.last["event"] in ("result", "cancelled")
        elif fault.kind == "signal":
            cancelled = ended.code == 130 and ended.last.get("event") == "cancelled"
            good = cancelled or ended.code == -signal.SIGKILL or (is_job and ended.code < 0)
        elif fault.kind == "memory" and ended.code < 0:
            good = -ended.code in CRASHES  # of a library; the shell or the panel says so
        else:
            codes = {"out-of-memory"} if fault.kind == "memory" else DISK_CODES
            codes = codes | GONE_CODES if fault.kind == "vanish" else codes
            named = ended.last.get("code") in codes and (is_job or bool(ended.last.get("hint")))
            named = named or "[out-of-memory]\n" in ended.output  # before there are events
            good = ended.code in (0, 2) and (named or ended.last.get("event") == "result")
        return [] if good else [f"ended: {ended.code} {ended.output[-600:]}"]

    # The faults

    def kill(self, random: np.random.RandomState) -> None:
        """Kill an operation at a random moment: between file operations, or within a write."""
        operation = OPERATIONS[str(random.choice(sorted(OPERATIONS)))]
        if random.rand() < 0.25:
            at = int(10 ** random.uniform(1, 5))
            self.meet(operation, Fault("write", at))
            return
        number = int(
            random.choice([signal.SIGKILL] * 5 + [signal.SIGTERM, signal.SIGHUP, signal.SIGSTOP])
        )
        at = random.randint(1, self.operations(operation) + 1)
        self.meet(operation, Fault("signal", at, number))

    def refuse(self, random: np.random.RandomState) -> None:
        """Refuse an operation its files: a full or read-only disk, a quota, an unplugged one."""
        operation = OPERATIONS[str(random.choice(sorted(OPERATIONS)))]
        if random.rand() < 0.25:
            self.meet(operation, Fault("quota", int(10 ** random.uniform(1, 5))))
            return
        number = random.choice([errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES])
        at = random.randint(1, self.operations(operation) + 1)
        self.meet(operation, Fault("refuse", at, int(number)))

    def kill_worker(self, random: np.random.RandomState) -> None:
        """Signal a worker process at a random moment of its job."""
        operation = WORKER_OPERATIONS[str(random.choice(sorted(WORKER_OPERATIONS)))]
        number = random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGSTOP])
        at = random.randint(1, self.operations(operation) + 1)
        self.meet(operation, Fault("signal", at, int(number)))

    def exhaust(self, random: np.random.RandomState) -> None:
        """Give an operation less memory than it may need."""
        names = sorted(OPERATIONS)
        operation = OPERATIONS[str(random.choice(names))]
        self.meet(operation, Fault("memory", int(10 ** random.uniform(5, 8.3))))

    def vanish(self, random: np.random.RandomState) -> None:
        """Remove or unmount a folder that an operation writes into, at a random moment."""
        operation = OPERATIONS[str(random.choice(sorted(PLACES)))]
        place = str(random.choice(PLACES[operation.name]))
        self.vanish_at(operation, place, random.randint(1, self.operations(operation) + 1))

    def vanish_at(self, operation: Operation, place: str, at: int) -> None:
        """Remove or unmount a folder at an operation; check, repeat in a new one, check again."""
        self.operations(operation)
        fault = Fault("vanish", at, place=place)
        with self._disk(operation) if place == "." else self._folder(operation) as folder:
            ended = self._run(folder, operation.command(self._site, folder), fault)
            torn = torn_files(folder)  # what it wrote afterwards
            operation.prepare(self._site, folder)
            self.check(operation, fault, folder, {}, ended)
            self.tally.problems += [f"{operation.name}, {fault}: torn: {one}" for one in torn]

    @contextmanager
    def _disk(self, operation: Operation) -> Iterator[Path]:
        """Give a disk of its own where that is possible, else a folder."""
        if not self._can_mount:
            with self._folder(operation) as folder:
                yield folder
            return
        with small_disk(self._scratch / "disk") as folder:
            operation.prepare(self._site, folder)
            yield folder

    def fill_disk(self, random: np.random.RandomState) -> None:
        """Run an operation on a disk that is too small for it; repeat it with more space."""
        operation = OPERATIONS[str(random.choice(sorted(OPERATIONS)))]
        self.operations(operation)
        needed = self._needed_bytes(operation)
        with small_disk(self._scratch / "disk") as folder:
            operation.prepare(self._site, folder)
            before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            taken = sum(-(-len(content) // 4096) * 4096 for content in before.values())
            resize_disk(folder, taken + 20480 + int(needed * random.uniform(0.05, 0.9)))
            ended = self._run_on_small(folder, operation)
            resize_disk(folder, 1 << 28)
            self.check(operation, Fault("disk"), folder, before, ended)

    def _run_on_small(self, folder: Path, operation: Operation) -> Ended:
        return self._run(folder, operation.command(self._site, folder))

    def _needed_bytes(self, operation: Operation) -> int:
        """Return about how much space the operation's results take."""
        with self._folder(operation) as folder:
            ended = self._run(folder, operation.command(self._site, folder))
            assert ended.code == 0, ended.output
            return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _describe(ended: Ended) -> str:
    if ended.code < 0:
        return signal.Signals(-ended.code).name
    if "[out-of-memory]\n" in ended.output:
        return "out-of-memory"
    return str(ended.last.get("code", ended.last.get("event")))


def resize_disk(folder: Path, size: int) -> None:
    """Change the size of a small disk in bytes."""
    subprocess.run(
        ["mount", "-o", f"remount,size={size}", "tmpfs", str(folder)], check=True, timeout=60
    )


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Give a disk of its own (tmpfs) at `folder`; needs root."""
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(folder)], check=True, timeout=60
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False, timeout=60)
        shutil.rmtree(folder)  # a fault may have unmounted it before


def can_mount(scratch: Path) -> bool:
    """Return whether small disks can be made here."""
    try:
        with small_disk(scratch / "try"):
            return True
    except (OSError, subprocess.SubprocessError):
        shutil.rmtree(scratch / "try", ignore_errors=True)
        return False


def hammer(folder: Path, seconds: float) -> list[str]:
    """Let two processes use one library, store and registry at once; return what went wrong."""
    paths = os.pathsep.join([str(TESTING), str(LIBRARY)])
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "Faults.hammer", str(folder), str(seed), str(seconds)],
            env=os.environ
            | {"PYTHONPATH": paths, "SPATIAL_AR_ANOMALY_HOME": str(folder / "settings")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for seed in (1, 2)
    ]
    outputs = [process.communicate(timeout=seconds + 120)[0] for process in started]
    problems = [
        output[-2000:]
        for process, output in zip(started, outputs, strict=True)
        if process.returncode != 0
    ]
    rounds = [json.loads(output.splitlines()[-1])["rounds"] for output in outputs if not problems]
    print(f"hammer: {rounds} rounds", flush=True)
    return problems + torn_files(folder) + temporary_files(folder / "models")


def main() -> None:
    """Run the campaign that the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--worker-kills", type=int, default=0)
    parser.add_argument("--little-memory", type=int, default=0)
    parser.add_argument("--vanished", type=int, default=0)
    parser.add_argument("--refusals", type=int, default=0)
    parser.add_argument("--full-disks", type=int, default=0)
    parser.add_argument("--hammer-s", type=float, default=0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as name, Nursery() as nursery:
        scratch = Path(name)
        (scratch / "site").mkdir()
        os.environ["SPATIAL_AR_ANOMALY_HOME"] = str(scratch / "settings")
        site = make_site(scratch / "site")
        for what, count in (
            ("kill", asked.kills), ("kill_worker", asked.worker_kills),
            ("refuse", asked.refusals), ("fill_disk", asked.full_disks),
            ("exhaust", asked.little_memory), ("vanish", asked.vanished),
        ):  # fmt: skip
            random = np.random.RandomState(asked.seed)
            campaign = Campaign(nursery, site, scratch) if count else None
            for number in range(count):
                getattr(campaign, what)(random)
                if (number + 1) % 10 == 0:
                    print(f"{what} {number + 1}: {campaign.tally}", file=sys.stderr, flush=True)
            if campaign is not None:
                print(f"{what}: {campaign.tally}", flush=True)
                bad += len(campaign.tally.problems)
            shutil.rmtree(scratch / "site" / "results", ignore_errors=True)
        if asked.hammer_s:
            problems = hammer(scratch / "hammered", asked.hammer_s)
            print(f"hammer: {len(problems)} problems", *problems, sep="\n  ", flush=True)
            bad += len(problems)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
