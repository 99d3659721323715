"""The section *Models*: the models of the models folder."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.engine.model.model_file import SUFFIX
from SpatialARAnomalyLib.service.models.library import make_valid
from SpatialARAnomalyLib.service.models.listing import ModelEntry
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.Logic import Logic
from SpatialARAnomalyLib.slicerapp.panels.DetectPanel import DetectPanel
from SpatialARAnomalyLib.slicerapp.panels.Dialogs import Dialogs, openModelsFolder
from SpatialARAnomalyLib.slicerapp.panels.JobRunner import JobRunner
from SpatialARAnomalyLib.slicerapp.panels.ModelsView import (
    NAME,
    ListedModel,
    ModelsListing,
    describeModel,
    describeState,
    explainMissingEncoder,
    modelCells,
    modelColumns,
)
from SpatialARAnomalyLib.slicerapp.QtHelpers import (
    Connections,
    KeyedTable,
    PictureLabel,
    doNothing,
    enable,
    fitTable,
)
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import WorkFolder
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import Event

ROWS = 2, 8
"""Rows that the table shows at least and at most."""


class ModelsPanel:
    """Lists the models, and runs one job on them at a time.

    `onGetEncoder` gets the hub id, or else the name, of an encoder that a model needs.
    """

    def __init__(
        self,
        ui: object,
        logic: Logic,
        log: Callable[[str], None],
        detect: DetectPanel,
        onGetEncoder: Callable[[str], None],
        dialogs: Dialogs | None = None,
    ) -> None:
        self._ui = ui
        self._logic = logic
        self._detect = detect
        self._onGetEncoder = onGetEncoder
        self._dialogs = dialogs or Dialogs(ui.modelsSection)
        self._models: dict[str, ListedModel] = {}
        self._verified: dict[str, tuple[ModelEntry, SpatialARError | None]] = {}
        self.onUse: Callable[[], None] = doNothing
        """Called after a model was chosen for *Detect*."""
        self._toChoose: str | None = None
        self._listing = ModelsListing(self._listed)
        self._view = KeyedTable(ui.modelsTable, modelColumns(), self.refresh, stretched=NAME)
        ui.modelsTable.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        ui.modelsTable.sortByColumn(NAME, qt.Qt.AscendingOrder)
        self._picture = PictureLabel(ui.modelsCardFrame)
        ui.modelsCardFrame.layout().insertWidget(1, self._picture)
        self._shownCard: ListedModel | None = None
        self._cardFolder: WorkFolder | None = None
        self._jobs = JobRunner(ui.modelsProgressBar, self._showStatus, log, self._jobsChanged)
        self._showStatus("")
        self._connections = Connections(
            (ui.modelsSection.contentsCollapsed, self.reload),
            (ui.modelsTable.cellDoubleClicked, self._use),
            (ui.modelsUseButton.clicked, self._use),
            (ui.modelsCheckButton.clicked, self._check),
            (ui.modelsEncoderButton.clicked, self._getEncoder),
            (ui.modelsImportButton.clicked, self.importModel),
            (ui.modelsExportButton.clicked, self._export),
            (ui.modelsRenameButton.clicked, self._rename),
            (ui.modelsDeleteButton.clicked, self._delete),
            (ui.modelsOpenButton.clicked, self._open),
            (ui.modelsCardButton.clicked, self._showCard),
            (ui.modelsCardSaveButton.clicked, self._saveCard),
            (ui.modelsCancelButton.clicked, lambda *_unused: self._jobs.cancel()),
        )
        detect.onModels = self.reload
        self.refresh()

    def cleanup(self) -> None:
        """Disconnect from the widgets and cancel a running job."""
        self._detect.onModels = doNothing
        self._connections.close()
        self._view.cleanup()
        self._listing.cancel()
        self._jobs.close()
        if self._cardFolder is not None:
            self._cardFolder.remove()

    @property
    def busy(self) -> bool:
        """True while a job is running."""
        return self._jobs.busy

    @property
    def listing(self) -> bool:
        """True while the models folder is being read."""
        return self._listing.running

    def reload(self, *_unused: object) -> None:
        """Read the models folder if the section is open."""
        if not self._ui.modelsSection.property("collapsed"):
            self._listing.start(Settings.modelsFolder())

    def _listed(self, models: list[ListedModel]) -> None:
        chosen, self._toChoose = self._toChoose or self._view.chosen(), None
        if chosen is None and models:
            chosen = min(models, key=lambda one: one.row.name.casefold()).row.file
        self._models = {one.row.file: one for one in models}
        rows = {}
        for file, one in self._models.items():
            verified, damage = self._verification(one)
            rows[file] = modelCells(one.row, verified=verified, damage=damage)
        self._view.show(rows, chosen)
        fitTable(self._ui.modelsTable, *ROWS)
        self.refresh()

    def _verification(self, model: ListedModel) -> tuple[bool, SpatialARError | None]:
        """Return whether the file was verified as it is now, and the damage that was found."""
        entry, damage = self._verified.get(model.row.file, (None, None))
        return (True, damage) if entry is model.entry else (False, None)

    def _chosen(self) -> ListedModel | None:
        return self._models.get(self._view.chosen() or "")

    def refresh(self, *_unused: object) -> None:
        """Enable the buttons, or show their problems in tooltips."""
        ui, model = self._ui, self._chosen()
        busy = _("Wait for the running task.") if self.busy else None
        none = _("Choose a model first.") if model is None else None
        broken, missing = self._nameProblems(model)
        details = describeModel(model.row) if model is not None and broken is None else ""
        ui.modelsDetailLabel.setText(broken or details or none or "")
        enable(
            ui.modelsUseButton, none or broken, _("Choose this model in Detect (or double-click).")
        )
        enable(ui.modelsCheckButton, busy or none, _("Check the weights against the card."))
        enable(
            ui.modelsEncoderButton,
            busy or none or (None if missing else _("The encoder is on this machine.")),
            _("Show this model's encoder under Encoders."),
        )
        enable(ui.modelsImportButton, busy, _("Add a model file from another machine."))
        enable(ui.modelsExportButton, busy or none or broken, _("Copy this model to a file."))
        enable(ui.modelsRenameButton, busy or none or broken, _("Give this model another name."))
        enable(ui.modelsDeleteButton, busy or none, _("Delete this model, after asking."))
        enable(ui.modelsOpenButton, None, _("Show the models folder in the file manager."))
        enable(
            ui.modelsCardButton,
            busy or none or broken,
            _("Show intended use, data, calibration and limits of this model."),
        )
        enable(ui.modelsCardSaveButton, busy, _("Write this card as Markdown, with its picture."))
        shown = self._shownCard
        ui.modelsCardFrame.setVisible(
            model is not None and shown is not None and model.entry is shown.entry
        )
        ui.modelsProgressBar.setVisible(self.busy)
        ui.modelsCancelButton.setVisible(self.busy)
        stopping = _("It stops at the next file.") if self._jobs.cancelling else None
        enable(ui.modelsCancelButton, stopping, _("Stop; the models stay as they are."))

    def _nameProblems(self, model: ListedModel | None) -> tuple[str | None, str | None]:
        """Return why a model cannot be used, and where to get an encoder that is missing."""
        if model is None:
            return None, None
        verified, damage = self._verification(model)
        _state, reason = describeState(model.row, verified=verified, damage=damage)
        if model.row.problem is not None or damage is not None:
            return reason, None
        return None, explainMissingEncoder(model.row) or None

    def _use(self, *_unused: object) -> None:
        model = self._chosen()
        if model is None or self._nameProblems(model)[0] is not None:
            return
        if self._detect.chooseModel(model.entry.path):
            self._showStatus(_("{name} is chosen in Detect.").format(name=model.row.name))
            self.onUse()
        else:
            self._showStatus(_("⚠ The model cannot be used any more."))

    def _check(self, *_unused: object) -> None:
        model = self._chosen()
        if model is None:
            return

        def onResult(event: Event) -> str:
            self._verified[model.row.file] = (model.entry, None)
            return _("{name} is intact: its weights match its card.").format(name=model.row.name)

        def onError(error: SpatialARError) -> bool:
            self._verified[model.row.file] = (model.entry, error)
            return False

        status = _("Checking {name}…").format(name=model.row.name)
        self._runOn(model, "model_verify", onResult, status=status, onError=onError)

    def _getEncoder(self, *_unused: object) -> None:
        model = self._chosen()
        if model is not None:
            self._onGetEncoder(model.row.encoder_hub_id or model.row.encoder)

    def importModel(self, *_unused: object) -> None:
        """Ask for a model file, and add it."""
        file = self._dialogs.chooseFile(_("Import a model"), _fileFilter())
        if not file:
            return

        def onResult(event: Event) -> str:
            self._toChoose = Path(event["model"]).name
            return _describeArrival(event)

        inputs, folder = {"file": file}, Settings.modelsFolder()
        self._run("model_import", inputs, onResult, status=_("Importing…"), output=folder)

    def _export(self, *_unused: object) -> None:
        model = self._chosen()
        if model is None:
            return
        name = make_valid(model.row.name) + SUFFIX
        file = self._dialogs.chooseNewFile(_("Export the model"), name, _fileFilter())
        if file:
            # The dialog has asked if the file exists, unless the suffix is still to be added.
            self._exportTo(model, Path(file), overwrite=file.endswith(SUFFIX))

    def _exportTo(self, model: ListedModel, file: Path, *, overwrite: bool) -> None:
        def onError(error: SpatialARError) -> bool:
            question = _("{problem} Replace it?").format(problem=error.message)
            again = error.code == "output-exists" and not overwrite
            if again and self._dialogs.confirm(question):
                self._exportTo(model, file, overwrite=True)
                return True
            return False

        self._runOn(
            model,
            "model_export",
            lambda event: _("Written: {name}").format(name=Path(event["file"]).name),
            status=_("Exporting {name}…").format(name=model.row.name),
            spec={"overwrite": overwrite},
            output=file,
            onError=onError,
        )

    def _rename(self, *_unused: object) -> None:
        model = self._chosen()
        if model is None:
            return
        old = model.row.name
        new = self._dialogs.enterText(_("Rename the model"), _("New name:"), old).strip()
        if not new or new == old:
            return

        def onResult(event: Event) -> str:
            self._toChoose = Path(event["model"]).name
            return _("Renamed: {old} is now {new}.").format(old=old, new=new)

        status = _("Renaming {name}…").format(name=old)
        self._runOn(model, "model_rename", onResult, status=status, spec={"name": new})

    def _delete(self, *_unused: object) -> None:
        model = self._chosen()
        if model is None:
            return
        name = model.row.name
        question = _("Delete the model {name}? This cannot be undone.").format(name=name)
        if self._dialogs.confirm(question):
            self._runOn(
                model,
                "model_delete",
                lambda event: _("Deleted: {name}.").format(name=name),
                status=_("Deleting {name}…").format(name=name),
            )

    def _open(self, *_unused: object) -> None:
        self._showStatus(openModelsFolder(self._dialogs))

    def _showCard(self, *_unused: object) -> None:
        model = self._chosen()
        if model is None:
            return
        self._cardFolder = self._cardFolder or WorkFolder()

        def onResult(event: Event) -> str:
            text = Path(event["file"]).read_text(encoding="utf-8")
            # The picture stands below the text, as wide as the panel.
            lines = [line for line in text.splitlines() if not line.startswith("![")]
            self._ui.modelsCardText.setMarkdown("\n".join(lines))
            self._picture.showFile(event["picture"])
            self._shownCard = model
            return ""

        status = _("Checking {name}…").format(name=model.row.name)
        output, spec = self._cardFolder.path / "card.md", {"overwrite": True}
        self._runOn(model, "model_card", onResult, status=status, spec=spec, output=output)

    def _saveCard(self, *_unused: object) -> None:
        model = self._shownCard
        if model is None:
            return
        name = f"{make_valid(model.row.name)}.md"
        file = self._dialogs.chooseNewFile(_("Save the card"), name, _("Markdown (*.md)"))
        if not file:
            return
        self._runOn(
            model,
            "model_card",
            lambda event: _("Written: {name}").format(
                name=", ".join(Path(event[key]).name for key in ("file", "picture"))
            ),
            # The dialog has asked about the text if it exists.
            spec={"overwrite": file.endswith(".md") and os.path.exists(file)},
            output=Path(file),
        )

    def _runOn(self, model: ListedModel, job: str, *args: Any, **options: Any) -> None:
        self._run(job, {"model": str(model.entry.path)}, *args, **options)

    def _run(self, job: str, inputs: dict[str, Any], *args: Any, **options: Any) -> None:
        if self._logic.worker.busy:
            self._showStatus(_("⚠ Another task is running. Wait for it, or cancel it first."))
        else:
            self._jobs.run(self._logic.worker, job, inputs, *args, **options)

    def _jobsChanged(self) -> None:
        self.refresh()
        if not self.busy:
            self._detect.reloadModels()

    def _showStatus(self, text: str) -> None:
        self._ui.modelsStatusLabel.setText(text)
        self._ui.modelsStatusLabel.setVisible(bool(text))


def _fileFilter() -> str:
    return _("Models of SpatialARAnomaly ({pattern})").format(pattern=f"*{SUFFIX}")


def _describeArrival(event: Event) -> str:
    name = event["name"]
    if event["arrival"] == "present":
        return _("This model already exists as {name}.").format(name=name)
    if event["arrival"] == "renamed":
        return _("Imported as {name}: the name {original} is taken or invalid.").format(
            name=name, original=event["original_name"]
        )
    return _("Imported: {name}.").format(name=name)
