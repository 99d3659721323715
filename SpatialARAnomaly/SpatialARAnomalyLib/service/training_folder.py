"""The folder of a training in progress: known by a marker, held by one process at a time."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..engine.atomic_files import unwritable
from ..engine.errors import OutputError
from ..engine.model_store import model_path
from .outputs import (
    is_marked,
    make_folder,
    remove_empty,
    still_missing,
    write_marker,
)

MARKER_FILE = "training.json"
LOCK_FILE = "lock"
SUFFIX = ".training"

PLACES_ENDING = ".places"
"""What the name of the places of a volume's tokens has after that of the tokens."""

LOCK_S = 0.3
"""A training waits so long for its lock: a look whether one runs may hold it for a moment."""

MARKER = "SpatialARAnomaly training in progress"
"""Without this in its marker a folder is somebody else's: nothing is written into it or removed."""


class TrainingFolder:
    """Where the tokens and the checkpoint of the training of a model lie until it is done."""

    def __init__(self, model: Path) -> None:
        self.model = model_path(model)
        self.path = self.model.with_name(f"{self.model.stem}{SUFFIX}")
        self.features = self.path / "features"
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.scans = self.path / "scans"
        """Arrays that the panel gave."""
        self.request = self.path / "request.json"
        """What was asked (`training_record`)."""

    def check(self) -> None:
        """Raise `OutputError` unless the folder is new, empty or of a training."""
        try:
            held = os.listdir(self.path)
        except (FileNotFoundError, NotADirectoryError):
            if not os.path.lexists(self.path):
                return
            held = [self.path.name]  # a file, or a link to nowhere
        except OSError as error:
            raise unwritable(
                f"The folder {self.path.name!r} of the training cannot be looked into",
                error,
                "Choose another name for the model.",
            ) from None
        if held and not is_marked(self.path / MARKER_FILE, MARKER):
            raise OutputError(
                "output-not-a-training",
                f"{self.path.name!r} is where this training would keep its work; it exists and "
                "is not of a training.",
                "Choose another name for the model, or move that folder away.",
            )

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keeps other trainings out; at the end a folder with nothing to resume goes away.

        The system lets go of the lock when the process dies, however it dies.
        Raises `OutputError` as `check` does, where another training runs, or
        where the folder cannot be written.
        """
        from filelock import FileLock, Timeout

        self.check()
        missing = still_missing(self.path.parent)
        make_folder(self.path)
        lock = FileLock(self.path / LOCK_FILE, timeout=LOCK_S)
        try:
            if not is_marked(self.path / MARKER_FILE, MARKER):
                write_marker(self.path / MARKER_FILE, MARKER)
            lock.acquire()
        except Timeout:
            raise OutputError(
                "training-running",
                f"Another training of this name is running in {self.path.name!r}.",
                "Wait for it, or choose another name for the model.",
            ) from None
        except OSError as error:
            raise unwritable("The folder of the training cannot be locked", error) from None
        try:
            yield
        finally:
            lock.release()
            with suppress(OSError):
                self._remove_if_empty()
            remove_empty(missing)

    @property
    def is_held(self) -> bool:
        """Whether a training runs here now, in whatever process."""
        try:
            descriptor = os.open(self.path / LOCK_FILE, os.O_RDWR)
        except OSError:
            return False
        try:
            # As filelock does, which the panel need not have.
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
                msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
            else:
                import fcntl

                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(descriptor)
        return False

    @property
    def is_training(self) -> bool:
        """Whether the folder is that of a training."""
        return is_marked(self.path / MARKER_FILE, MARKER)

    def discard_checkpoint(self) -> None:
        """Begin anew, with the tokens that are there: they belong to the scans."""
        try:
            for file in self.path.glob("checkpoint.*"):
                file.unlink()
        except OSError as error:
            raise unwritable("The checkpoint cannot be removed", error) from None

    def clear(self) -> None:
        """Remove what a training has written and nothing else; may raise `OSError`."""
        for file in (
            *self.path.glob("request.*"),  # first: half of the rest is no training to resume
            *self.path.glob("checkpoint.*"),
            *self.features.glob("*.npy"),
            *self.features.glob("*.partial"),
            *self.scans.glob("*.npy"),
            *self.scans.glob("*.partial"),
        ):
            file.unlink()

    def _remove_if_empty(self) -> None:
        with suppress(OSError):
            self.features.rmdir()
        if self.features.exists() or any(self.path.glob("checkpoint.*")):
            return
        for file in (
            *self.path.glob("request.*"),
            *self.scans.glob("*.npy"),
            *self.scans.glob("*.partial"),
        ):
            file.unlink()
        with suppress(OSError):
            self.scans.rmdir()
        # The marker goes last: without it the rest would be taken for another's.
        (self.path / LOCK_FILE).unlink(missing_ok=True)
        if os.listdir(self.path) == [MARKER_FILE]:
            (self.path / MARKER_FILE).unlink()
            self.path.rmdir()
