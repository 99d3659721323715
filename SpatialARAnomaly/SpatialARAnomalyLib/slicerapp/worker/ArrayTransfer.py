"""Large arrays to and from files, in steps short enough that Slicer stays responsive.

Functions that return an iterator do one step of their work for each item.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import qt
import slicer

STEP_S = 0.012
"""Seconds of work between two turns of the event loop, less than a frame."""

PIECE_BYTES = 2 << 20
"""Bytes copied between two readings of the clock."""


class Transfer:
    """Runs an iterator's steps, for `STEP_S` in every turn of the event loop.

    `onEnd` is called once, with None or the exception that ended it; never after `cancel`.
    """

    def __init__(self, steps: Iterator[None], onEnd: Callable[[Exception | None], None]) -> None:
        self._steps = steps
        self._onEnd = onEnd
        self._timer = qt.QTimer()
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._work)
        self._timer.start()

    def cancel(self) -> None:
        """Stop, and close the files that the iterator holds open."""
        self._stop()
        self._steps.close()

    def _stop(self) -> None:
        self._timer.stop()
        # A connected timer would keep this object alive.
        self._timer.timeout.disconnect(self._work)

    def _work(self) -> None:
        until = time.perf_counter() + STEP_S
        error = None
        try:
            while time.perf_counter() < until:
                next(self._steps)
            return
        except StopIteration:
            pass
        except Exception as problem:
            error = problem
        self._stop()
        self._onEnd(error)


def _pieces(array: np.ndarray) -> Iterator[slice]:
    """Slabs of the first axis of about `PIECE_BYTES`."""
    rows = array.shape[0]
    step = max(1, PIECE_BYTES * rows // max(1, array.nbytes))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def writeNpy(array: np.ndarray, path: Path) -> Iterator[None]:
    """Write an array as .npy, in steps.

    Not through a memory map: on a full disk that would end the process
    instead of raising `OSError`.
    """
    with path.open("wb") as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(array.dtype),
            "fortran_order": False,
            "shape": array.shape,
        }
        np.lib.format.write_array_header_1_0(file, header)
        for piece in _pieces(array):
            file.write(np.ascontiguousarray(array[piece]).tobytes())
            yield


def copyArray(source: np.ndarray, target: np.ndarray) -> Iterator[None]:
    """Copy an array (possibly a memory map) into another of its shape, in steps."""
    for piece in _pieces(target):
        target[piece] = source[piece]
        yield


def loadNpy(path: Path) -> tuple[np.ndarray, Iterator[None]]:
    """Return an array of the size of one in a .npy file, and the steps that fill it from there."""
    stored = np.load(path, mmap_mode="r", allow_pickle=False)
    array = np.empty(stored.shape, stored.dtype)
    return array, copyArray(stored, array)


def inSequence(*works: Iterator[None]) -> Iterator[None]:
    """Run the steps of several iterators one after the other, and close them with this one."""
    for work in works:
        yield from work


class WorkFolder:
    """A new folder in Slicer's temporary folder."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="SpatialARAnomaly-", dir=slicer.app.temporaryPath))

    def remove(self) -> None:
        """Remove the folder; files that another program holds open are left behind."""
        shutil.rmtree(self.path, ignore_errors=True)
