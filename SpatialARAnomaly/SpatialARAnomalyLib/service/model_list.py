"""The models of a folder, each with its card or with what is wrong with it."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..engine.atomic_files import PARTIAL_PREFIX
from ..engine.errors import SpatialARError
from ..engine.model_store import CARD_FILE, WEIGHTS_FILE, ModelCard, read_card

_Touched = tuple[tuple[int, ...] | None, ...]
"""When and how the two files of a model were touched last, as far as the system tells."""


@dataclass(frozen=True)
class ModelEntry:
    """A model folder: either its card, or the error that says why there is none."""

    folder: Path
    card: ModelCard | None
    error: SpatialARError | None
    bytes: int = 0
    """Of its two files."""

    @property
    def name(self) -> str:
        """The model's name; of one that cannot be read, its folder's."""
        return self.card.name if self.card is not None else self.folder.name


def list_models(folder: Path) -> list[ModelEntry]:
    """The models in `folder` by name, none where it does not exist or may not be read.

    What is no model's folder is left out. Weights are not read here: a model
    is verified when it is used. A card that was read before and was not
    touched since is not read again.
    """
    return by_name(read_models(folder))


def read_models(folder: Path) -> Iterator[ModelEntry]:
    """The models in `folder` one after the other, as `list_models` finds them; in no order."""
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return
    for one in inside:
        if not one.name.startswith(PARTIAL_PREFIX):
            touched = _touched(one)
            if any(touched):
                yield _entry(one, touched)


def by_name(entries: Iterable[ModelEntry]) -> list[ModelEntry]:
    """The entries in the order in which they are shown."""
    return sorted(entries, key=lambda one: (one.name.casefold(), one.folder.name))


_known: dict[Path, tuple[_Touched, ModelEntry]] = {}


def _touched(folder: Path) -> _Touched:
    return tuple(_file_touched(folder / file) for file in (CARD_FILE, WEIGHTS_FILE))


def _file_touched(path: Path) -> tuple[int, ...] | None:
    try:
        if not path.is_file():
            return None
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


def _entry(folder: Path, touched: _Touched) -> ModelEntry:
    known = _known.get(folder)
    if known is not None and known[0] == touched:
        return known[1]
    size = sum(one[0] for one in touched if one)
    try:
        entry = ModelEntry(folder, read_card(folder, with_weights=False), None, size)
    except SpatialARError as error:
        if error.code == "model-unreadable":  # may be another's to allow, which touches nothing
            return ModelEntry(folder, None, error, size)
        entry = ModelEntry(folder, None, error, size)
    _known[folder] = (touched, entry)
    return entry
