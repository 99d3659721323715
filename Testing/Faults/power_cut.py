"""A power cut before every file operation of some work, replayed from what was written."""

import os
from collections.abc import Callable
from pathlib import Path

from Faults.faults import watched_operations

State = dict[str, bytes | None]
"""Everything below a folder: files with their content, folders."""


def read_state(folder: Path) -> State:
    """Return everything below a folder."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def write_state(folder: Path, state: State) -> None:
    """Make a folder hold what `read_state` returned."""
    for name, content in state.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            (folder / name).mkdir(exist_ok=True)
        else:
            (folder / name).write_bytes(content)


def cut_power(folder: Path, work: Callable[[], object]) -> list[State]:
    """Do the work; return what a power cut before each of its operations, and after it, leaves.

    Names are on the disk in the order of the operations, as journals keep them. Of what a file
    holds only that is there which was flushed (fsync); else its second half is zeros.
    """
    flushed = {
        path.stat().st_ino: path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    states: list[State] = []

    def snapshot() -> None:
        state = read_state(folder)
        for name, content in state.items():
            if content and flushed.get((folder / name).stat().st_ino) != content:
                half = len(content) // 2
                state[name] = content[:half] + bytes(len(content) - half)
        states.append(state)

    def note(event: str, detail: object) -> None:
        snapshot()
        if event == "fsync":
            assert isinstance(detail, int)
            inode = os.fstat(detail).st_ino
            for path in folder.rglob("*"):
                if path.is_file() and path.stat().st_ino == inode:
                    flushed[inode] = path.read_bytes()

    with watched_operations(folder, note):
        work()
    snapshot()
    return states
