"""What a training was asked to do, kept in its folder until it is done; needs no package.

The names and places of scans stand here, and nowhere else that we write: not in a
model, a log or an event. The file goes away with the folder.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.atomic_files import replacing, unwritable
from ..engine.errors import SpecError
from ..engine.file_hash import file_sha256
from .training_folder import TrainingFolder
from .training_request import TrainSpec

_CHUNK = 1 << 22


@dataclass(frozen=True)
class TrainingRecord:
    """What it takes to begin a training again where it stopped."""

    spec: TrainSpec
    sources: tuple[dict[str, Any], ...]
    """As `sources.source_values` tells them, with absolute paths."""


def write_record(folder: TrainingFolder, record: TrainingRecord) -> None:
    """Keep the record; its arrays' places are noted as they are seen from the folder.

    Raises `OutputError` where the disk does not take it.
    """
    sources = []
    for source in record.sources:
        voxels = source.get("voxels")
        if voxels is not None and Path(voxels).parent == folder.scans:
            # So that models and their trainings can be moved.
            source = source | {"voxels": Path(voxels).name}
        sources.append(source)
    content = {"spec": record.spec.to_dict(), "sources": sources}
    try:
        with replacing(folder.request) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise unwritable("The request of the training cannot be kept", error) from None


def read_record(folder: TrainingFolder) -> TrainingRecord | None:
    """The record; None where there is none, or none that this program understands."""
    try:
        content = json.loads(folder.request.read_text(encoding="utf-8"))
        spec = TrainSpec.from_dict(content["spec"])
        sources = [dict(source) for source in content["sources"]]
        for source in sources:
            if "voxels" in source:  # an absolute path stays as it is
                source["voxels"] = str(folder.scans / source["voxels"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SpecError):
        return None
    return TrainingRecord(spec, tuple(sources))


def keep_array(folder: TrainingFolder, voxels: Path, check_cancelled: Callable[[], None]) -> Path:
    """The array's file in the training's own folder, where it outlives the panel's.

    Named by its content, so that a scan sent again takes no more room. Linked
    where the disk can, else copied. Raises `OutputError` where it takes neither.
    """
    if Path(os.path.realpath(voxels.parent)) == folder.scans:
        return folder.scans / voxels.name
    try:
        sha256 = file_sha256(voxels, lambda _size: check_cancelled())
    except OSError:
        return voxels  # who reads it as a scan says what is wrong
    kept = folder.scans / f"{sha256}.npy"
    try:
        folder.scans.mkdir(exist_ok=True)
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


def drop_unused_arrays(folder: TrainingFolder) -> None:
    """Remove arrays that the kept record does not name, as far as possible."""
    record = read_record(folder)
    if record is None and folder.request.exists():
        return  # of another version of this program, perhaps
    used: Sequence[dict[str, Any]] = record.sources if record is not None else ()
    names = {source.get("voxels") for source in used}
    with suppress(OSError):
        for file in folder.scans.iterdir():
            if str(file) not in names and file.suffix in (".npy", ".partial"):
                file.unlink()


def _copy(source: Path, target: Path, check_cancelled: Callable[[], None]) -> None:
    with source.open("rb") as read, target.open("wb") as write:
        while chunk := read.read(_CHUNK):
            check_cancelled()
            write.write(chunk)
    shutil.copystat(source, target)
