"""The list of models: reading a folder, the table's cells, and the state of a model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import qt
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.service.encoders.catalog import EncoderState
from SpatialARAnomalyLib.service.models.listing import ModelEntry, ModelRow, as_row, read_models
from SpatialARAnomalyLib.slicerapp.QtHelpers import tableItem
from SpatialARAnomalyLib.slicerapp.wording.Calibration import sizeText
from SpatialARAnomalyLib.slicerapp.wording.Errors import hintOf, inOneLine
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import Transfer

NAME = 0
"""Column of the model's name."""


def modelColumns() -> list[tuple[str, str]]:
    """Return title and tooltip of every column."""
    return [
        (_("Name"), _("Name of the model")),
        (_("State"), _("Whether it can be used; Check also reads its weights")),
        (_("Modality"), _("Modality of its normal scans")),
        (_("Normal\nscans"), _("Number of normal scans, held-out ones included")),
    ]


@dataclass(frozen=True)
class ListedModel:
    """A model and its row of the table."""

    entry: ModelEntry
    row: ModelRow


class ModelsListing:
    """Reads the models of a folder without blocking Slicer; `onEnd` gets those that were read."""

    def __init__(self, onEnd: Callable[[list[ListedModel]], None]) -> None:
        self._onEnd = onEnd
        self._transfer: Transfer | None = None

    @property
    def running(self) -> bool:
        """True while a folder is being read."""
        return self._transfer is not None

    def start(self, folder: Path) -> None:
        """Read a folder, in place of one that is being read."""
        self.cancel()
        models: list[ListedModel] = []

        def steps() -> Iterator[None]:
            for entry in read_models(folder):
                yield
                models.append(ListedModel(entry, as_row(entry, hintOf)))
                yield

        def ended(error: Exception | None) -> None:
            self._transfer = None
            self._onEnd(models)
            if error is not None:
                raise error

        self._transfer = Transfer(steps(), ended)

    def cancel(self) -> None:
        """Stop without calling `onEnd`."""
        if self._transfer is not None:
            self._transfer.cancel()
            self._transfer = None


def modelCells(
    row: ModelRow, *, verified: bool, damage: SpatialARError | None
) -> list["qt.QTableWidgetItem"]:
    """Make the cells of a model; `verified` and `damage` are the outcome of *Check*."""
    state, reason = describeState(row, verified=verified, damage=damage)
    return [
        tableItem(row.name, "\n".join(dict.fromkeys((row.name, row.file)))),
        tableItem(state, reason),
        tableItem(row.modality or ""),
        tableItem(row.normals if row.normals is not None else ""),
    ]


def describeModel(row: ModelRow) -> str:
    """Return the rest of a usable model's card, and where to get a missing encoder."""
    text = _(
        "{plane} slices, field of view {fov} mm. Trained {date}; {size}. Encoder: {encoder}."
    ).format(
        plane=str(row.plane).capitalize(),
        fov=f"{row.fov_mm:g}",
        date=row.created,
        size=sizeText(row.bytes),
        encoder=row.encoder,
    )
    return f"{text} {explainMissingEncoder(row)}".strip()


def describeState(
    row: ModelRow, *, verified: bool, damage: SpatialARError | None
) -> tuple[str, str]:
    """Return whether a model can be used, in a word or two, and why."""
    if row.problem is not None:
        return _("⚠ cannot be used"), f"{row.problem} {row.hint or ''}".strip()
    if damage is not None:
        return _("⚠ cannot be used"), inOneLine(damage)
    missing = explainMissingEncoder(row)
    if missing:
        return _("encoder missing"), missing
    if verified:
        return _("✓ checked"), _("The weights match the card.")
    return _("✓"), _("The card is intact. Check also reads the weights.")


def explainMissingEncoder(row: ModelRow) -> str:
    """Return where to get a model's encoder; empty if it is on this machine."""
    if row.encoder_state is EncoderState.OBTAINABLE:
        return _(
            "The encoder {id} is not on this machine. Download it under Encoders, or add a copy "
            "of its files there."
        ).format(id=row.encoder_hub_id)
    if row.encoder_state is EncoderState.MISSING:
        return _(
            "The encoder {name} is not on this machine; its source is unknown. Copy its files from "
            "the training machine and add them under Encoders."
        ).format(name=row.encoder)
    return ""
