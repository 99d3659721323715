"""The models of a folder, each with its card or the error of reading it."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.engine.model.model_file import SUFFIX, ModelCard, read_card
from SpatialARAnomalyLib.engine.specs import Spec
from SpatialARAnomalyLib.service.encoders.catalog import (
    EncoderPresence,
    EncoderState,
    encoder_presence,
)


@dataclass(frozen=True)
class ModelEntry:
    """A model file with either its card or the error of reading it."""

    path: Path
    card: ModelCard | None
    error: SpatialARError | None
    bytes: int = 0
    """Size of the file."""

    @property
    def name(self) -> str:
        """The model's name; for one that cannot be read, the file's name without its suffix."""
        return self.card.name if self.card is not None else self.path.stem


@dataclass(frozen=True, kw_only=True)
class ModelRow(Spec):
    """A model in a list; one that cannot be read has only name, file, size, problem and hint."""

    name: str
    file: str
    """Name of the file, without its folder."""
    modality: str | None = None
    plane: str | None = None
    fov_mm: float | None = None
    encoder: str | None = None
    encoder_state: EncoderState | None = None
    encoder_hub_id: str | None = None
    """The hub's name of an encoder that is not on this machine."""
    normals: int | None = None
    """Number of normal scans, held-out ones included."""
    created: str | None = None
    bytes: int
    problem: str | None = None
    """Why the model cannot be used; its tensors are not verified here."""
    hint: str | None = None

    @property
    def presence(self) -> EncoderPresence | None:
        """Place of the encoder; None where the model cannot be read."""
        if self.encoder_state is None:
            return None
        return EncoderPresence(self.encoder_state, self.encoder_hub_id)


def list_models(folder: Path) -> list[ModelEntry]:
    """Return the models in `folder` by name; none where it is missing or may not be read.

    Cards are read, tensors are not: a model is verified when it is used. A file that is
    unchanged since the last call is not read again.
    """
    return sorted(read_models(folder), key=lambda one: (one.name.casefold(), one.path.name))


def read_models(folder: Path) -> Iterator[ModelEntry]:
    """Yield the models of `list_models` in the order of their files."""
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return
    for path in inside:
        # macOS leaves `._NAME` on disks of other systems.
        if path.name.endswith(SUFFIX) and not path.name.startswith("."):
            entry = _read_entry(path)
            if entry is not None:
                yield entry


def as_row(
    entry: ModelEntry, find_hint: Callable[[SpatialARError], str] = lambda _: ""
) -> ModelRow:
    """Describe a model in a list; `find_hint` is the front end's table of hints."""
    card, error = entry.card, entry.error
    row = ModelRow(name=entry.name, file=entry.path.name, bytes=entry.bytes)
    if error is not None:
        return dataclasses.replace(row, problem=error.message, hint=find_hint(error) or None)
    assert card is not None
    presence = encoder_presence(card.encoder)
    return dataclasses.replace(
        row,
        modality=card.modality.value,
        plane=card.slices.plane.value,
        fov_mm=card.slices.fov_mm,
        encoder=card.encoder.name,
        encoder_state=presence.state,
        encoder_hub_id=presence.hub_id,
        normals=len(card.normals.training_sha256) + len(card.normals.held_out_sha256),
        created=card.created,
    )


_known: dict[Path, tuple[tuple[int, ...], ModelEntry]] = {}
"""Entries that were read, each with the size, times and inode of its file."""


def _read_entry(path: Path) -> ModelEntry | None:
    """Read a model file, or return its entry of an earlier call; None where it is not a file."""
    try:
        if not path.is_file():
            return None
        found = path.stat()
    except OSError:
        return None
    state = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    known = _known.get(path)
    if known is not None and known[0] == state:
        return known[1]
    try:
        entry = ModelEntry(path, read_card(path), None, found.st_size)
    except SpatialARError as error:
        entry = ModelEntry(path, None, error, found.st_size)
        if error.code == "model-unreadable":  # permissions may change without a trace in `state`
            return entry
    _known[path] = (state, entry)
    return entry
