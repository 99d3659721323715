"""Large arrays to and from files in small steps between which Slicer stays alive."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import qt
import slicer

STEP_S = 0.012
"""A step takes about so long: less than a frame."""

PIECE_BYTES = 2 << 20
"""Copied between two looks at the clock."""


class Transfer:
    """Works through an iterator a little in every turn of the event loop.

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
        """Stop; what the iterator holds open is closed."""
        self._stop()
        self._steps.close()

    def _stop(self) -> None:
        self._timer.stop()
        # A running timer connected to us would keep us for ever.
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
    """Steps that write an array as .npy.

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
    """Steps that copy an array (it may be a memory map) into another of its shape."""
    for piece in _pieces(target):
        target[piece] = source[piece]
        yield


def loadNpy(path: Path) -> tuple[np.ndarray, Iterator[None]]:
    """An array of the size of one in a .npy file, and the steps that fill it from there."""
    stored = np.load(path, mmap_mode="r", allow_pickle=False)
    array = np.empty(stored.shape, stored.dtype)
    return array, copyArray(stored, array)


def inSequence(*works: Iterator[None]) -> Iterator[None]:
    """The steps of several works, one after the other."""
    for work in works:
        yield from work


class WorkFolder:
    """A new folder in Slicer's temporary one."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="SpatialARAnomaly-", dir=slicer.app.temporaryPath))

    def remove(self) -> None:
        """Remove it; a file that is still open elsewhere changes nothing for the user."""
        shutil.rmtree(self.path, ignore_errors=True)
