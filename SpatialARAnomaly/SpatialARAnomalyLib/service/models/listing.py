"""The models of a folder, each with its card or with what is wrong with it."""

from collections.abc import Iterable, Iterator
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
    """A model file: either its card, or the error that says why there is none."""

    path: Path
    card: ModelCard | None
    error: SpatialARError | None
    bytes: int = 0
    """Size of the file."""

    @property
    def name(self) -> str:
        """The model's name; of one that cannot be read, its file's without the suffix."""
        return self.card.name if self.card is not None else self.path.stem


@dataclass(frozen=True, kw_only=True)
class ModelRow(Spec):
    """A model in a list; one that cannot be read has only name, file, size and problem."""

    name: str
    file: str
    """Name of the file, without its folder."""
    modality: str | None = None
    plane: str | None = None
    fov_mm: float | None = None
    encoder: str | None = None
    encoder_state: EncoderState | None = None
    encoder_hub_id: str | None = None
    """Where an encoder that is not on this machine can be downloaded."""
    normals: int | None = None
    """Number of normal scans, trained on and held out."""
    created: str | None = None
    bytes: int
    problem: str | None = None
    """Why the model cannot be used; its tensors are not verified here."""
    hint: str | None = None

    @property
    def presence(self) -> EncoderPresence | None:
        """Where the encoder is."""
        if self.encoder_state is None:
            return None
        return EncoderPresence(self.encoder_state, self.encoder_hub_id)


def list_models(folder: Path) -> list[ModelEntry]:
    """List the model files in `folder` by name; none where it is missing or may not be read.

    Cards are read, tensors are not: a model is verified when it is used. A file that was not
    changed since the last call is not read again.
    """
    entries: Iterable[ModelEntry] = read_models(folder)
    return sorted(entries, key=lambda one: (one.name.casefold(), one.path.name))


def read_models(folder: Path) -> Iterator[ModelEntry]:
    """Read the models of `list_models` one after the other, in the order of their files."""
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return
    for path in inside:
        # macOS leaves `._NAME` on disks of other systems.
        if path.name.endswith(SUFFIX) and not path.name.startswith("."):
            entry = _entry(path)
            if entry is not None:
                yield entry


def as_row(entry: ModelEntry) -> ModelRow:
    """Describe a model in a list."""
    card, error = entry.card, entry.error
    if card is None:
        return ModelRow(
            name=entry.name,
            file=entry.path.name,
            bytes=entry.bytes,
            problem=error.message if error is not None else None,
            hint=error.hint if error is not None else None,
        )
    presence = encoder_presence(card.encoder)
    return ModelRow(
        name=card.name,
        file=entry.path.name,
        modality=card.modality.value,
        plane=card.slices.plane.value,
        fov_mm=card.slices.fov_mm,
        encoder=card.encoder.name,
        encoder_state=presence.state,
        encoder_hub_id=presence.hub_id,
        normals=len(card.normals.training_sha256) + len(card.normals.held_out_sha256),
        created=card.created,
        bytes=entry.bytes,
    )


_known: dict[Path, tuple[tuple[int, ...], ModelEntry]] = {}
"""What was read, with size, times and inode of the file."""


def _entry(path: Path) -> ModelEntry | None:
    """Read a model file, or recall it; None for what is no file."""
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
        if error.code == "model-unreadable":  # permissions may change without a trace here
            return entry
    _known[path] = (state, entry)
    return entry
