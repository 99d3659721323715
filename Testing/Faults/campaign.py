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
from Faults.operations import OPERATIONS, Command, Operation, prepare_site
from Faults.whole import temporary_files, torn_files

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

    def __str__(self) -> str:
        tried = ", ".join(f"{name}: {number}" for name, number in sorted(self.tried.items()))
        return (
            f"{self.tried.total()} faults ({tried}); {self.resumed} repeated with success, "
            f"{len(self.problems)} problems" + "".join(f"\n  {one}" for one in self.problems)
        )


class Campaign:
    """Operations on a small site, in the children of a warm process."""

    def __init__(self, nursery: Nursery, site: Site, scratch: Path) -> None:
        self._nursery, self._site, self._scratch = nursery, site, scratch
        self._operations: dict[str, int] = {}
        self._model = b""
        self.tally = Tally()
        prepare_site(site, self._run)
        self.operations(OPERATIONS["train"])

    def _run(self, folder: Path, command: Command, fault: Fault | None = None) -> Ended:
        places = {"SPATIAL_AR_ANOMALY_HOME": "settings", "TMPDIR": "tmp", "HF_HOME": "hub"}
        (folder / "tmp").mkdir(exist_ok=True)
        names = {name: str(folder / place) for name, place in places.items()}
        return self._nursery.run(folder, command, fault, **names)

    def operations(self, operation: Operation) -> int:
        """Return the number of file operations without a fault, and check the result."""
        if operation.name not in self._operations:
            with self._folder(operation) as folder:
                ended = self._run(folder, operation.command(self._site, folder))
                assert ended.code == 0, ended.output
                assert torn_files(folder) == []
                assert temporary_files(folder) == []
                self._operations[operation.name] = ended.operations
                if operation.name == "train":
                    self._model = (folder / "brain.safetensors").read_bytes()
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
        with self._folder(operation) as folder:
            before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            ended = self._run(folder, operation.command(self._site, folder), fault)
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
        self.tally.tried[operation.name] += 1
        found = [f"torn: {one}" for one in torn_files(folder)]
        found += [f"lost: {path.name}" for path in before if not path.exists()]
        other = folder / "models" / "other.safetensors"
        if other in before and other.read_bytes() != before[other]:
            found.append("changed: another model")
        found += self._bad_end(operation, fault, ended)
        again = self._run(folder, operation.command(self._site, folder))
        done_before = again.code == 2 and again.last.get("code") == "output-exists"
        if again.code != 0 and not done_before:
            found.append(f"cannot be repeated: {again.code} {again.output[-300:]}")
        elif done_before:  # complete results are not lost; replaced, they leave nothing either
            command = [*operation.command(self._site, folder), "--overwrite"]  # type: ignore[misc]
            if (replaced := self._run(folder, command)).code != 0:
                found.append(f"cannot be replaced: {replaced.output[-300:]}")
        found += [f"torn afterwards: {one}" for one in torn_files(folder)]
        found += [f"left: {one}" for one in temporary_files(folder)]
        if list((folder / "tmp").iterdir()) and fault.kind not in ("signal", "write"):
            found.append(f"left: {os.listdir(folder / 'tmp')}")
        if operation.name.startswith("train"):
            trained = (folder / "brain.safetensors").read_bytes()
            if trained != self._model:
                found.append("another model than without the fault")
        self.tally.resumed += not found
        self.tally.problems += [f"{what}: {one}" for one in found]

    def _bad_end(self, operation: Operation, fault: Fault, ended: Ended) -> list[str]:
        """Return what is wrong with the exit code and the last message."""
        is_job = operation.name == "export"  # without the worker, a signal ends it at once
        if fault.kind in ("write", "clock"):
            good = ended.code in (0, -signal.SIGXFSZ)
        elif fault.kind == "signal":
            cancelled = ended.code == 130 and ended.last.get("event") == "cancelled"
            good = cancelled or ended.code == -signal.SIGKILL or (is_job and ended.code < 0)
        else:
            codes = {"out-of-memory"} if fault.kind == "memory" else DISK_CODES
            named = ended.last.get("code") in codes and (is_job or "hint" in ended.last)
            good = ended.code == 2 and named
        return [] if good or ended.code == 0 else [f"ended: {ended.code} {ended.output[-600:]}"]

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

    def fill_disk(self, random: np.random.RandomState) -> None:
        """Run an operation on a disk that is too small for it; repeat it with more space."""
        operation = OPERATIONS[str(random.choice(sorted(OPERATIONS)))]
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
        subprocess.run(["umount", "-l", str(folder)], check=True, timeout=60)
        folder.rmdir()


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
            ("kill", asked.kills), ("refuse", asked.refusals), ("fill_disk", asked.full_disks),
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
