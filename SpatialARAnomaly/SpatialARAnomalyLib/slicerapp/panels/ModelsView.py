"""Models as the rows of a Qt table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.engine.model.model_file import SUFFIX
from SpatialARAnomalyLib.service.encoders.catalog import EncoderState
from SpatialARAnomalyLib.service.models.listing import ModelEntry, ModelRow, as_row, read_models
from SpatialARAnomalyLib.slicerapp.QtHelpers import chosenRow, prepareTable, tableItem
from SpatialARAnomalyLib.slicerapp.wording.Errors import inOneLine
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import Transfer
from SpatialARAnomalyLib.slicerapp.worker.Progress import Progress, progressCallback
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

NAME, STATE, MODALITY, PLANE, FOV, NORMALS, DATE, SIZE, ENCODER = range(9)

MAX_NAME_PX = 200
"""A longer name is cut in the table; pointing at it shows all."""


def _heads() -> list[tuple[str, str]]:
    """Title and meaning of every column."""
    return [
        (_("Name"), _("The model's name")),
        (_("State"), _("Whether it can be used; Verify also looks at its weights")),
        (_("Modality"), _("Of the scans it learned from")),
        (_("Plane"), _("Of the slices it looks at")),
        (_("FOV"), _("Field of view in millimeters")),
        (_("Normals"), _("Normal scans it was trained and calibrated on")),
        (_("Date"), _("When it was trained")),
        (_("MB"), _("Size on disk in megabytes, without the encoder")),
        (_("Encoder"), _("What it needs to embed slices")),
    ]


@dataclass(frozen=True, kw_only=True)
class ShownModel:
    """What the table shows of a model."""

    key: str
    """Tells it from the others."""
    cells: tuple[object, ...]
    """Texts and numbers, by column."""
    tips: dict[int, str]
    """Tooltips of cells, by column."""


class ModelsView:
    """Shows models; tells which is chosen and which was double-clicked."""

    def __init__(
        self, table: "qt.QTableWidget", onChosen: Callable[[], None], onUsed: Callable[[], None]
    ) -> None:
        self._table = table
        self._onChosen = onChosen
        self._onUsed = onUsed
        prepareTable(table, _heads())
        table.horizontalHeader().setStretchLastSection(True)
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        table.sortByColumn(NAME, qt.Qt.AscendingOrder)
        table.itemSelectionChanged.connect(self._chosenChanged)
        table.cellDoubleClicked.connect(self._doubleClicked)

    def cleanup(self) -> None:
        """Let go of the table."""
        self._table.itemSelectionChanged.disconnect(self._chosenChanged)
        self._table.cellDoubleClicked.disconnect(self._doubleClicked)

    def show(self, models: Sequence[ShownModel], chosen: str | None) -> None:
        """Show models and choose one of them, if it is there."""
        table = self._table
        blocked = table.blockSignals(True)
        # Sorting while cells are set would move rows away under us.
        table.setSortingEnabled(False)
        table.setRowCount(len(models))
        for index, model in enumerate(models):
            for column, value in enumerate(model.cells):
                table.setItem(index, column, tableItem(value, model.tips.get(column, "")))
            table.item(index, NAME).setData(qt.Qt.UserRole, model.key)
        table.setSortingEnabled(True)
        # Once: a header that does so by itself measures all rows after every cell.
        table.resizeColumnsToContents()
        if table.columnWidth(NAME) > MAX_NAME_PX:
            table.setColumnWidth(NAME, MAX_NAME_PX)
        table.clearSelection()
        for index in range(len(models)):
            if self._keyAt(index) == chosen:
                table.selectRow(index)
        table.blockSignals(blocked)
        self._onChosen()

    def _keyAt(self, row: int) -> str | None:
        item = self._table.item(row, NAME) if row >= 0 else None
        return str(item.data(qt.Qt.UserRole)) if item is not None else None

    def chosen(self) -> str | None:
        """The key of the chosen model."""
        return self._keyAt(chosenRow(self._table))

    def _chosenChanged(self, *_unused: object) -> None:
        self._onChosen()

    def _doubleClicked(self, *_unused: object) -> None:
        self._onUsed()


def _first(answer: object) -> str:
    """The text of a dialog's answer: alone in PythonQt, with what it was in PySide6."""
    return str((answer[0] if isinstance(answer, tuple) else answer) or "")


def _filter() -> str:
    return _("Models of SpatialARAnomaly ({pattern})").format(pattern=f"*{SUFFIX}")


def chooseFileToImport() -> str:
    """The file to import; empty if the user chose none."""
    return _first(
        qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("Import a model"), "", _filter())
    )


def chooseFileToExport(name: str) -> str:
    """The file to write a model into, which may exist if it ends as ours do."""
    return _first(
        qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(), _("Export the model"), name + SUFFIX, _filter()
        )
    )


def askName(name: str) -> str:
    """Another name for a model."""
    return _first(
        qt.QInputDialog.getText(
            slicer.util.mainWindow(),
            _("Rename the model"),
            _("New name:"),
            qt.QLineEdit.Normal,
            name,
        )
    )


def openFolder(folder: Path) -> None:
    """Show a folder in the system's file manager."""
    qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(folder)))


@dataclass(frozen=True, kw_only=True)
class ModelDialogs:
    """All of them; an empty answer is none."""

    confirm: Callable[[str], bool]
    chooseFileToImport: Callable[[], str] = chooseFileToImport
    chooseFileToExport: Callable[[str], str] = chooseFileToExport
    askName: Callable[[str], str] = askName
    openFolder: Callable[[Path], None] = openFolder


@dataclass(frozen=True)
class ListedModel:
    """A model and what the table says of it."""

    entry: ModelEntry
    row: ModelRow


class ModelsListing:
    """Lists a folder; `onEnd` gets the models, or those found until an error. A newer one wins."""

    def __init__(self, onEnd: Callable[[list[ListedModel]], None]) -> None:
        self._onEnd = onEnd
        self._transfer: Transfer | None = None

    @property
    def running(self) -> bool:
        """Whether a folder is being read."""
        return self._transfer is not None

    def start(self, folder: Path) -> None:
        """Begin to read a folder."""
        self.cancel()
        models: list[ListedModel] = []

        def steps() -> Iterator[None]:
            for entry in read_models(folder):
                yield
                models.append(ListedModel(entry, as_row(entry)))
                yield

        def ended(error: Exception | None) -> None:
            self._transfer = None
            self._onEnd(models)
            if error is not None:
                raise error

        self._transfer = Transfer(steps(), ended)

    def cancel(self) -> None:
        """Stop; `onEnd` is not called."""
        if self._transfer is not None:
            self._transfer.cancel()
            self._transfer = None


MB = 1e6


def shownModel(row: ModelRow, *, verified: bool, damage: SpatialARError | None) -> ShownModel:
    """The model's cells; `verified` and `damage` are what a look at its weights told."""
    state, reason = stateOf(row, verified=verified, damage=damage)
    encoder = row.encoder or ""
    tip = encoder
    if _isAway(row):
        encoder = _("{name} (not on this machine)").format(name=row.encoder)
        tip = howToGetEncoder(row)
    return ShownModel(
        key=row.file,
        cells=(
            row.name,
            state,
            row.modality or "",
            row.plane or "",
            row.fov_mm if row.fov_mm is not None else "",
            row.normals if row.normals is not None else "",
            row.created or "",
            round(row.bytes / MB, 1),
            encoder,
        ),
        tips={NAME: "\n".join(dict.fromkeys((row.name, row.file))), STATE: reason, ENCODER: tip},
    )


def stateOf(row: ModelRow, *, verified: bool, damage: SpatialARError | None) -> tuple[str, str]:
    """Whether a model can be used, in a word or two, and why."""
    if row.problem is not None:
        reason = f"{row.problem} {row.hint or ''}".strip()
        return _("⚠ cannot be used"), reason
    if damage is not None:
        return _("⚠ cannot be used"), inOneLine(damage)
    if _isAway(row):
        return _("encoder missing"), howToGetEncoder(row)
    if verified:
        return _("✓ verified"), _("Complete, and as it was trained.")
    return _("✓"), _("Its card is as it was written. Verify checks its weights, too.")


def _isAway(row: ModelRow) -> bool:
    return row.presence is not None and not row.presence.here


def howToGetEncoder(row: ModelRow) -> str:
    """How the encoder of a model comes to this machine; empty where it is here."""
    if row.encoder_state is EncoderState.OBTAINABLE:
        return _(
            "The encoder {id} is not on this machine. Get it from the Hugging Face hub under "
            "Encoders, or copy it from another machine and add its folder or file there."
        ).format(id=row.encoder_hub_id)
    if row.encoder_state is EncoderState.MISSING:
        return _(
            "The encoder {name} is not on this machine, and its name does not tell where to get "
            "it. Copy it from where the model was trained, and add its folder or file under "
            "Encoders."
        ).format(name=row.encoder)
    return ""


class LibraryJob:
    """Runs a job; `onEnd` gets its last event."""

    def __init__(
        self,
        worker: WorkerProcess,
        job: str,
        inputs: dict[str, Any],
        spec: dict[str, Any],
        output: Path | None,
        onProgress: Callable[[Progress], None],
        onEnd: Callable[[dict[str, Any]], None],
    ) -> None:
        self._worker = worker
        self._number = worker.submit(
            job, inputs=inputs, spec=spec, output=output, onEvent=progressCallback(onProgress), onEnd=onEnd
        )

    def cancel(self) -> None:
        """Ask it to stop; then nothing is changed."""
        self._worker.cancel(self._number)
