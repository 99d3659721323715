"""The folder of a training in progress, and the unfinished trainings of a models folder.

The folder is marked as a training's and locked by one process at a time. Only this folder holds
names and places of scans; models, logs and events do not. It is removed when the training is
done. Listing the unfinished trainings needs numpy alone.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.engine.errors import OutputError, SpatialARError, SpecError
from SpatialARAnomalyLib.engine.files import (
    file_sha256,
    is_locked,
    read_json,
    replacing,
    unwritable,
)
from SpatialARAnomalyLib.engine.model.model_file import model_path, read_card
from SpatialARAnomalyLib.engine.progress import EpochFigures
from SpatialARAnomalyLib.service.outputs import is_marked, make_folder, remove_empty, write_marker
from SpatialARAnomalyLib.service.training.request import TrainSpec

MARKER_FILE = "training.json"
LOCK_FILE = "lock"
SUFFIX = ".training"

MEANS_ENDING = ".means"
"""Follows the name of a scan's tokens in the name of its mean tokens."""

LOCK_S = 0.3
"""Seconds that a training waits for its lock, which `is_held` may hold for a moment."""

MARKER = "SpatialARAnomaly training in progress"
"""Content of the marker; in a folder without it nothing is written or removed."""

MAX_HEADER_BYTES = 1 << 27
"""Longest header of a checkpoint that is read."""

_CHUNK = 1 << 22
"""Bytes copied at once."""


@dataclass(frozen=True)
class TrainingRecord:
    """The request of a training, by which it is resumed."""

    spec: TrainSpec
    sources: tuple[dict[str, Any], ...]
    """The scans (`ScanSource.to_dict`), with absolute paths."""


class TrainingFolder:
    """The folder of tokens, checkpoint, request and the panel's arrays until the model is done."""

    def __init__(self, model: Path) -> None:
        self.model = model_path(model)
        self.path = self.model.with_name(f"{self.model.stem}{SUFFIX}")
        self.features = self.path / "features"
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.scans = self.path / "scans"
        """Arrays that the panel gave."""
        self.request = self.path / "request.json"
        """The `TrainingRecord`."""

    def check(self) -> None:
        """Raise `OutputError` unless the folder is new, empty or a training's."""
        try:
            held = os.listdir(self.path)
        except (FileNotFoundError, NotADirectoryError):
            if not os.path.lexists(self.path):
                return
            held = [self.path.name]  # a file, or a link to nowhere
        except OSError as error:
            name = self.path.name
            raise unwritable(f"The folder {name!r} of the training cannot be read", error) from None
        # Killed when it had begun, a training leaves a lock and a part of its marker.
        begun = all(one.startswith((MARKER_FILE, LOCK_FILE)) for one in held)
        if not begun and not self.is_training:
            raise OutputError(
                "output-not-a-training",
                f"This training would keep its work in {self.path.name!r}, which exists and is "
                "not a training's.",
            )

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Lock the folder; at the end, remove what is not needed to resume.

        The system releases the lock when the process dies. Raises `OutputError` as `check`
        does, where another training runs, or where the folder cannot be written.
        """
        from filelock import FileLock, Timeout

        self.check()
        made = make_folder(self.path)
        lock = FileLock(self.path / LOCK_FILE, timeout=LOCK_S)
        try:
            if not self.is_training:
                write_marker(self.path / MARKER_FILE, MARKER)
            lock.acquire()
        except Timeout:
            raise OutputError(
                "training-running",
                f"Another training of this name is running in {self.path.name!r}.",
            ) from None
        except OSError as error:
            raise unwritable("The folder of the training cannot be locked", error) from None
        try:
            self._remove_partials()
            yield
        finally:
            self._drop_unused_arrays()
            lock.release()
            with suppress(OSError):
                self._remove_if_empty()
            remove_empty(made)

    @property
    def is_held(self) -> bool:
        """True while a training runs here, in any process."""
        return is_locked(self.path / LOCK_FILE)

    @property
    def is_training(self) -> bool:
        """True where the folder is a training's."""
        return is_marked(self.path / MARKER_FILE, MARKER)

    def discard_checkpoint(self) -> None:
        """Remove the checkpoint; the tokens stay."""
        try:
            for file in self.path.glob("checkpoint.*"):
                file.unlink()
        except OSError as error:
            raise unwritable("The checkpoint cannot be removed", error) from None

    def clear(self) -> None:
        """Remove what a training has written and nothing else; may raise `OSError`."""
        for file in self.path.glob("request.*"):  # first: a part of the rest cannot be resumed
            file.unlink()
        for file in (*_arrays(self.features), *_arrays(self.scans)):
            file.unlink()
        for file in self.path.glob("checkpoint.*"):  # last: `remove_finished` compares it
            file.unlink()

    def remove_finished(self) -> None:
        """Remove what a training left that was killed after it had saved its model."""
        try:
            curve = list(read_card(self.model).curve)
            if self.is_training and curve == _read_curve(self.checkpoint):
                with self.hold():
                    self.clear()
        except (SpatialARError, OSError):
            return  # no model, another one, or a training that runs

    def _remove_partials(self) -> None:
        """Remove files that a killed training had not completed."""
        with suppress(OSError):
            for folder in (self.path, self.features, self.scans):
                for file in folder.glob("*.partial"):
                    file.unlink()

    def write_record(self, record: TrainingRecord) -> None:
        """Write the record; arrays are named relative to the folder, which may be moved.

        Raises `OutputError` where the disk is full or read-only.
        """
        sources = []
        for source in record.sources:
            voxels = source.get("voxels")
            if voxels is not None and Path(voxels).parent == self.scans:
                source = source | {"voxels": Path(voxels).name}
            sources.append(source)
        content = {"spec": record.spec.to_dict(), "sources": sources}
        try:
            with replacing(self.request) as partial:
                partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise unwritable("The request of the training cannot be kept", error) from None

    def read_record(self) -> TrainingRecord | None:
        """Read the record; None where it is missing or of another version of this program."""
        try:
            content = read_json(self.request)
            spec = TrainSpec.from_dict(content["spec"])
            sources = [dict(source) for source in content["sources"]]
            for source in sources:
                if "voxels" in source:  # an absolute path stays as it is
                    source["voxels"] = str(self.scans / source["voxels"])
        except (OSError, ValueError, TypeError, KeyError, SpecError):
            return None
        return TrainingRecord(spec, tuple(sources))

    def keep_array(self, voxels: Path, check_cancelled: Callable[[], None]) -> Path:
        """Link or copy an array's file into this folder, under its hash; return its path.

        It outlives the panel's file, and a scan that is sent again takes no more space.
        Raises `OutputError` where it can be neither linked nor copied.
        """
        if Path(os.path.realpath(voxels.parent)) == self.scans:
            return self.scans / voxels.name
        try:
            sha256 = file_sha256(voxels, lambda _size: check_cancelled())
        except OSError:
            return voxels  # reading it as a scan raises the error
        kept = self.scans / f"{sha256}.npy"
        try:
            self.scans.mkdir(exist_ok=True)
            if kept.exists():
                return kept
            with replacing(kept) as partial:
                partial.unlink(missing_ok=True)
                try:
                    os.link(voxels, partial)
                except OSError:
                    _copy(voxels, partial, check_cancelled)
        except OSError as error:
            raise unwritable("The scans cannot be kept for the training", error) from None
        return kept

    def _drop_unused_arrays(self) -> None:
        """Remove arrays that the record does not name, as far as possible."""
        record = self.read_record()
        if record is None and self.request.exists():
            return  # another version of this program may need them
        names = {source.get("voxels") for source in record.sources} if record else set()
        with suppress(OSError):
            for file in _arrays(self.scans):
                if str(file) not in names:
                    file.unlink()

    def _remove_if_empty(self) -> None:
        with suppress(OSError):
            self.features.rmdir()
        if self.features.exists() or any(self.path.glob("checkpoint.*")):
            return
        for file in (*self.path.glob("request.*"), *_arrays(self.scans)):
            file.unlink()
        with suppress(OSError):
            self.scans.rmdir()
        # The marker goes last: without it the rest would not be recognized.
        (self.path / LOCK_FILE).unlink(missing_ok=True)
        if os.listdir(self.path) == [MARKER_FILE]:
            (self.path / MARKER_FILE).unlink()
            self.path.rmdir()


def _arrays(folder: Path) -> Sequence[Path]:
    """Return the files of complete and incomplete arrays in a folder."""
    return [*folder.glob("*.npy"), *folder.glob("*.partial")]


def _copy(source: Path, target: Path, check_cancelled: Callable[[], None]) -> None:
    with source.open("rb") as read, target.open("wb") as write:
        while chunk := read.read(_CHUNK):
            check_cancelled()
            write.write(chunk)
    shutil.copystat(source, target)


@dataclass(frozen=True, kw_only=True)
class UnfinishedTraining:
    """A training that can be resumed, or only be discarded."""

    folder: Path
    """The training's own, `<model>.training`."""
    model: Path
    """The model file that it was to write: the `output` of the job that resumes it."""
    name: str
    """Name of the model."""
    spec: TrainSpec | None
    """The `spec` of the job that resumes it; None where it can only be discarded."""
    sources: list[dict[str, Any]]
    """The scans: `normals` of the job that resumes it."""
    curve: list[EpochFigures]
    """Figures of the epochs in the checkpoint."""
    epochs: int | None
    """Number of epochs of the whole training."""
    touched: float
    """Time of the last write, in seconds as `time.time`."""
    running: bool
    """True while a process is working on it."""
    finished: bool
    """True if its model exists: the rest can only be discarded."""

    @property
    def epochs_done(self) -> int:
        """Number of epochs in the checkpoint."""
        return len(self.curve)


def list_unfinished(models: Path) -> list[UnfinishedTraining]:
    """Return the unfinished trainings in a models folder, the last touched first."""
    try:
        inside = sorted(models.iterdir())
    except OSError:
        return []
    folders = [
        TrainingFolder(one.with_name(one.name.removesuffix(SUFFIX)))
        for one in inside
        if one.name.endswith(SUFFIX) and one.name != SUFFIX
    ]
    found = [_describe(folder) for folder in folders if folder.is_training]
    return sorted(found, key=lambda one: -one.touched)


def discard(folder: Path) -> None:
    """Remove what a training has written, so that it cannot be resumed; other files stay.

    `folder` is the training's own. Raises `OutputError` where the training runs, the folder is
    not a training's, or cannot be removed.
    """
    model = folder.name.removesuffix(SUFFIX)
    training = TrainingFolder(folder.with_name(model)) if model != folder.name and model else None
    if training is None or not training.is_training:
        raise OutputError(
            "output-not-a-training", f"{folder.name!r} is not the folder of an unfinished training."
        )
    try:
        with training.hold():
            training.clear()
    except OSError as error:
        raise unwritable("The training cannot be removed", error) from None


def _describe(folder: TrainingFolder) -> UnfinishedTraining:
    record = folder.read_record()
    spec = None if record is None else record.spec
    finished = folder.model.exists() and not (spec is not None and spec.overwrite)
    return UnfinishedTraining(
        folder=folder.path,
        model=folder.model,
        name=(spec and spec.name) or folder.model.stem,
        spec=None if finished else spec,
        sources=[] if record is None or finished else list(record.sources),
        curve=_read_curve(folder.checkpoint),
        epochs=None if spec is None else spec.epochs,
        touched=_last_write(folder),
        running=folder.is_held,
        finished=finished,
    )


def _read_curve(checkpoint: Path) -> list[EpochFigures]:
    """Read the figures of the epochs in a checkpoint; none where it is missing or damaged."""
    try:
        with checkpoint.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER_BYTES:
                return []
            about = json.loads(json.loads(file.read(length))["__metadata__"]["fit"])
        return [EpochFigures.from_dict(figures) for figures in about["curve"]]
    except (OSError, struct.error, ValueError, TypeError, KeyError, RecursionError, SpecError):
        return []


def _last_write(folder: TrainingFolder) -> float:
    latest = 0.0
    for file in (folder.path, folder.features, folder.checkpoint, folder.request):
        with suppress(OSError):
            latest = max(latest, file.stat().st_mtime)
    return latest
