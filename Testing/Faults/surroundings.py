"""Commands started in poor surroundings: little memory, and folders that cannot be written.

    PYTHONPATH=Testing:SpatialARAnomaly python -m Faults.surroundings

Other faults meet children of a warm process; here every command starts by itself, as a
user's does.
"""

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.small_site import Site, make_site

from Faults.campaign import small_disk
from Faults.nursery import LIBRARY
from Faults.operations import OPERATIONS, prepare_site
from Faults.whole import temporary_files, torn_files

MAIN = "from SpatialARAnomalyLib.service.cli.main import main; main()"

CACHES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "HF_HOME", "TMPDIR")
"""Variables that name folders in which libraries, and this program, keep what they like to."""

STATES = ("missing", "read-only", "full")

COMMANDS = ("train", "detect", "evaluate", "import", "model export")
"""Operations, which write into folders that are named."""

LISTS = (("models", "list"), ("encoders", "list"), ("doctor",), ("models", "import"))
"""Further commands, which use the user's folder of settings."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    output: str

    @property
    def is_clear(self) -> bool:
        """True if it is done, or one error says what is wrong."""
        return self.code in (0, 2) and "Traceback" not in self.output


def run(
    arguments: list[object], folder: Path, *, memory_bytes: int = 0, **environment: str
) -> Ended:
    """Run a command in a new process; with a limit of its address space."""

    def limit() -> None:
        if memory_bytes:
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    named = {"SPATIAL_AR_ANOMALY_HOME": str(folder / "settings"), "OMP_NUM_THREADS": "1"}
    named |= {"PYTHONPATH": str(LIBRARY)} | environment
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        env={name: value for name, value in (os.environ | named).items() if value},
        cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=300, preexec_fn=limit,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout + done.stderr)


@contextmanager
def unwritable(state: str, scratch: Path) -> Iterator[Path]:
    """Give a folder that is missing, read-only or full; needs root."""
    with small_disk(scratch / "disk") as disk:
        (disk / "there").mkdir()
        option = "size=8k" if state == "full" else "ro"
        if state == "full":
            (disk / "content").write_bytes(bytes(8192))
        subprocess.run(["mount", "-o", f"remount,{option}", str(disk)], check=True, timeout=60)
        yield disk / ("not there" if state == "missing" else "there")


def try_caches(site: Site, scratch: Path, state: str, name: str) -> list[str]:
    """Run a command where all caches are in such a state; return what is wrong."""
    with unwritable(state, scratch) as cache, tempfile.TemporaryDirectory(dir=scratch) as top:
        folder = Path(top)
        places = dict.fromkeys(CACHES, str(cache)) | {"SPATIAL_AR_ANOMALY_HOME": ""}
        if name in COMMANDS:
            operation = OPERATIONS[name]
            operation.prepare(site, folder)
            arguments = operation.command(site, folder)
            assert isinstance(arguments, list)
        else:
            arguments = [*name.split(), *([site.model] if "import" in name else [])]
        ended = run(arguments, folder, **places)
        problems = torn_files(folder) + temporary_files(folder)
        # The user's own library lies there, and the doctor reports it.
        if not ended.is_clear or (ended.code == 2 and name not in ("models import", "doctor")):
            problems.append(f"{ended.code} {ended.output[-1500:]}")
        return [f"{name}, caches {state}: {one}" for one in problems]


def try_memory(site: Site, scratch: Path, memory_mb: int, name: str) -> tuple[str, list[str]]:
    """Run a command with little memory and again with enough; return its end, what is wrong."""
    with tempfile.TemporaryDirectory(dir=scratch) as top:
        folder = Path(top)
        operation = OPERATIONS[name]
        operation.prepare(site, folder)
        command = operation.command(site, folder)
        assert isinstance(command, list)
        command = [one for one in command if one != "--json"]
        ended = run(command, folder, memory_bytes=memory_mb << 20)
        problems = torn_files(folder)
        told = ended.code == 0 or (ended.code == 2 and "[out-of-memory]" in ended.output)
        told = told or "Memory allocation still failed" in ended.output  # OpenBLAS, which exits
        if "Traceback" in ended.output or not (told or ended.code < 0):
            problems.append(f"{ended.code} {ended.output[-2500:]}")
        again = run(command, folder) if ended.code else ended
        if again.code:
            problems.append(f"cannot be repeated: {again.code} {again.output[-500:]}")
        problems += torn_files(folder) + temporary_files(folder)
        end = "out-of-memory" if ended.code == 2 else str(ended.code)
        return end, [f"{name}, {memory_mb} MB: {one}" for one in problems]


def main() -> None:
    """Try all surroundings; exit with 1 where something is wrong."""
    found: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "site").mkdir()
        os.environ["SPATIAL_AR_ANOMALY_HOME"] = str(scratch / "settings")
        site = make_site(scratch / "site")
        prepare_site(site, lambda folder, command: run(command, folder))  # type: ignore[arg-type]
        for state in STATES:
            for command in (*COMMANDS, *map(" ".join, LISTS)):
                problems = try_caches(site, scratch, state, command)
                print(f"caches {state}, {command}: {len(problems)} problems", flush=True)
                found += problems
        for command in COMMANDS:
            for memory_mb in (100, 300, 600, 1000, 1500, 2000, 3000):
                end, problems = try_memory(site, scratch, memory_mb, command)
                print(f"{memory_mb} MB, {command}: {end}, {len(problems)} problems", flush=True)
                found += problems
    print(*found, sep="\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
