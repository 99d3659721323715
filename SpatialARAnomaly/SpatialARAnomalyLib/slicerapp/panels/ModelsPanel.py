"""The section *Models*: the library of the user's models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.engine.model.model_file import SUFFIX
from SpatialARAnomalyLib.service.models.listing import ModelEntry
from SpatialARAnomalyLib.service.models.names import fitting
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.Logic import Logic
from SpatialARAnomalyLib.slicerapp.panels.DetectPanel import DetectPanel
from SpatialARAnomalyLib.slicerapp.panels.ModelsView import (
    LibraryJob,
    ListedModel,
    ModelDialogs,
    ModelsListing,
    ModelsView,
    howToGetEncoder,
    shownModel,
    stateOf,
)
from SpatialARAnomalyLib.slicerapp.QtHelpers import enable
from SpatialARAnomalyLib.slicerapp.tasks.Detection import outcomeOf
from SpatialARAnomalyLib.slicerapp.wording.Errors import inOneLine
from SpatialARAnomalyLib.slicerapp.worker.Progress import Progress, showShare

Event = dict[str, Any]


class ModelsPanel:
    """Lists the models and does what is done with them, one job at a time.

    `onGetEncoder` is called with the hub id, or else the name, of an encoder
    that the user wants to get; without it the button is hidden.
    """

    def __init__(
        self,
        ui: object,
        logic: Logic,
        log: Callable[[str], None],
        detect: DetectPanel,
        dialogs: ModelDialogs,
        onGetEncoder: Callable[[str], None] | None = None,
    ) -> None:
        self._ui = ui
        self._logic = logic
        self._log = log
        self._detect = detect
        self.dialogs = dialogs
        self._onGetEncoder = onGetEncoder
        self._models: dict[str, ListedModel] = {}
        self._looked: dict[str, tuple[ModelEntry, SpatialARError | None]] = {}
        self._wanted: str | None = None
        self._job: LibraryJob | None = None
        self._cancelling = False
        self._listing = ModelsListing(self._listed)
        self._view = ModelsView(ui.modelsTable, self.refresh, self._use)
        self._connections = (
            (ui.modelsSection.contentsCollapsed, self._list),
            (ui.modelsUseButton.clicked, self._use),
            (ui.modelsVerifyButton.clicked, self._verify),
            (ui.modelsEncoderButton.clicked, self._getEncoder),
            (ui.modelsImportButton.clicked, self._import),
            (ui.modelsExportButton.clicked, self._export),
            (ui.modelsRenameButton.clicked, self._rename),
            (ui.modelsDeleteButton.clicked, self._delete),
            (ui.modelsOpenButton.clicked, self._open),
            (ui.modelsCancelButton.clicked, self._cancel),
        )
        for signal, slot in self._connections:
            signal.connect(slot)
        detect.onModels = self._list
        self.refresh()

    def cleanup(self) -> None:
        """Let go of the widgets; what runs is cancelled."""
        self._detect.onModels = _nothing
        for signal, slot in self._connections:
            signal.disconnect(slot)
        self._view.cleanup()
        self._listing.cancel()
        if self._job is not None:
            job, self._job = self._job, None
            job.cancel()

    def enter(self) -> None:
        """The user came back: models may have come or gone meanwhile."""
        self._list()

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self._job is not None

    @property
    def listing(self) -> bool:
        """Whether the models are being read."""
        return self._listing.running

    def _list(self, *_unused: object) -> None:
        """Read the models anew, if they are seen."""
        if not self._ui.modelsSection.property("collapsed"):
            self._listing.start(Settings.modelsFolder())

    def _listed(self, models: list[ListedModel]) -> None:
        chosen, self._wanted = self._wanted or self._view.chosen(), None
        self._models = {one.row.file: one for one in models}
        shown = []
        for one in models:
            looked, damage = self._lookedAt(one)
            shown.append(shownModel(one.row, verified=looked and damage is None, damage=damage))
        if chosen is None and models:
            chosen = min(models, key=lambda one: one.row.name.casefold()).row.file
        self._view.show(shown, chosen)

    def _lookedAt(self, model: ListedModel) -> tuple[bool, SpatialARError | None]:
        """Whether the model was verified since it was touched last, and what was wrong with it."""
        entry, damage = self._looked.get(model.row.file, (None, None))
        return (True, damage) if entry is model.entry else (False, None)

    def _chosen(self) -> ListedModel | None:
        return self._models.get(self._view.chosen() or "")

    def refresh(self, *_unused: object) -> None:
        """Show what can be done now, and why not what cannot."""
        ui, model = self._ui, self._chosen()
        busy = _("Wait until what runs here has ended.") if self.busy else None
        none = _("Choose a model first.") if model is None else None
        broken, away = self._whyNotUsed(model)
        ui.modelsDetailLabel.setText(broken or away or _sayWhere(model))
        enable(
            ui.modelsUseButton,
            none or broken,
            _("Choose this model in Detect; a double click does the same."),
        )
        enable(
            ui.modelsVerifyButton,
            busy or none,
            _("Verify that the model is complete and as it was trained."),
        )
        enable(
            ui.modelsEncoderButton,
            busy or none or (None if away else _("The encoder is on this machine.")),
            _("Get the encoder that this model needs."),
        )
        enable(ui.modelsImportButton, busy, _("Add a model file of another machine."))
        enable(
            ui.modelsExportButton,
            busy or none or broken,
            _("Copy this model to another place."),
        )
        enable(ui.modelsRenameButton, busy or none or broken, _("Give this model another name."))
        enable(ui.modelsDeleteButton, busy or none, _("Delete this model, after asking."))
        enable(ui.modelsOpenButton, None, _("Show the models folder in the file manager."))
        ui.modelsProgressBar.setVisible(self.busy)
        ui.modelsCancelButton.setVisible(self.busy)
        waiting = _("It stops at the next file.") if self._cancelling else None
        enable(ui.modelsCancelButton, waiting, _("Stop; the models stay as they are."))

    def _whyNotUsed(self, model: ListedModel | None) -> tuple[str | None, str | None]:
        """What is wrong with a model, and what it lacks."""
        if model is None:
            return None, None
        looked, damage = self._lookedAt(model)
        _state, reason = stateOf(model.row, verified=looked, damage=damage)
        if model.row.problem is not None or damage is not None:
            return reason, None
        return None, howToGetEncoder(model.row) or None

    def _use(self, *_unused: object) -> None:
        model = self._chosen()
        if model is None or self._whyNotUsed(model)[0] is not None:
            return
        if self._detect.chooseModel(model.entry.path):
            self._tell(_("{name} is chosen in Detect.").format(name=model.row.name))
        else:
            self._tell(_("⚠ The model cannot be used any more."))

    def _verify(self, *_unused: object) -> None:
        model = self._chosen()
        if model is None:
            return

        def ended(event: Event, error: SpatialARError | None) -> str:
            if event["event"] != "cancelled":
                self._looked[model.row.file] = (model.entry, error)
            return _("{name} is complete, and as it was trained.").format(name=model.row.name)

        self._run(
            "model_verify",
            {"model": str(model.entry.path)},
            _("Verifying {name}…").format(name=model.row.name),
            ended,
        )

    def _getEncoder(self, *_unused: object) -> None:
        model = self._chosen()
        if model is not None:
            self._onGetEncoder(model.row.encoder_hub_id or model.row.encoder)

    def _import(self, *_unused: object) -> None:
        file = self.dialogs.chooseFileToImport()
        if not file:
            return

        def ended(event: Event, error: SpatialARError | None) -> str:
            if error is None:
                self._wanted = Path(event["model"]).name
            return _arrivalText(event) if error is None else ""

        self._run(
            "model_import", {"file": file}, _("Importing…"), ended, output=Settings.modelsFolder()
        )

    def _export(self, *_unused: object) -> None:
        model = self._chosen()
        if model is None:
            return
        file = self.dialogs.chooseFileToExport(fitting(model.row.name))
        if file:
            # The dialog asked before it gave the name of a file that exists.
            self._exportTo(model, Path(file), overwrite=file.endswith(SUFFIX))

    def _exportTo(self, model: ListedModel, file: Path, *, overwrite: bool) -> None:
        def ended(event: Event, error: SpatialARError | None) -> str:
            if error is None:
                return _("Written: {name}").format(name=Path(event["file"]).name)
            return ""

        def failed(error: SpatialARError) -> bool:
            if error.code != "output-exists" or overwrite:
                return False
            question = _("{problem} Replace it?").format(problem=error.message)
            if self.dialogs.confirm(question):
                self._exportTo(model, file, overwrite=True)
                return True
            return False

        self._run(
            "model_export",
            {"model": str(model.entry.path)},
            _("Exporting {name}…").format(name=model.row.name),
            ended,
            spec={"overwrite": overwrite},
            output=file,
            failed=failed,
        )

    def _rename(self, *_unused: object) -> None:
        model = self._chosen()
        if model is None:
            return
        name = self.dialogs.askName(model.row.name).strip()
        if not name or name == model.row.name:
            return

        def ended(event: Event, error: SpatialARError | None) -> str:
            if error is None:
                self._wanted = Path(event["model"]).name
            return _("{old} is called {new} now.").format(old=model.row.name, new=name)

        self._run(
            "model_rename",
            {"model": str(model.entry.path)},
            _("Renaming {name}…").format(name=model.row.name),
            ended,
            spec={"name": name},
        )

    def _delete(self, *_unused: object) -> None:
        model = self._chosen()
        if model is None or not self.dialogs.confirm(
            _("Delete the model {name}? It cannot be brought back.").format(name=model.row.name)
        ):
            return
        self._run(
            "model_delete",
            {"model": str(model.entry.path)},
            _("Deleting {name}…").format(name=model.row.name),
            lambda event, error: _("{name} was deleted.").format(name=model.row.name),
        )

    def _open(self, *_unused: object) -> None:
        folder = Settings.modelsFolder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._tell(
                _("⚠ The models folder cannot be made ({reason}).").format(reason=error.strerror)
            )
            return
        self.dialogs.openFolder(folder)

    def _run(
        self,
        job: str,
        inputs: dict[str, Any],
        doing: str,
        ended: Callable[[Event, SpatialARError | None], str],
        *,
        spec: dict[str, Any] | None = None,
        output: Path | None = None,
        failed: Callable[[SpatialARError], bool] = lambda error: False,
    ) -> None:
        """Run a job.

        `ended` gets its last event and returns what to say; `failed` returns whether it handled
        an error itself.
        """
        if self._logic.worker.busy:
            self._tell(_("⚠ Another task is running. Wait for it, or cancel it first."))
            return

        def end(event: Event) -> None:
            if self._job is None:  # the panel is gone
                return
            self._job, self._cancelling = None, False
            error = outcomeOf(event).error if event["event"] == "failed" else None
            text = ended(event, error) if event["event"] != "cancelled" else ""
            if event["event"] == "cancelled":
                self._tell(_("Cancelled; the models are as they were."))
            elif error is not None and failed(error):
                return
            elif error is not None:
                self._log(f"{job} failed: {error.code}")
                self._tell(f"⚠ {inOneLine(error)}")
            else:
                self._tell(text)
            self.refresh()
            self._detect.refreshModels()

        self._cancelling = False
        self._ui.modelsProgressBar.setValue(0)
        self._tell(doing)
        self._job = LibraryJob(
            self._logic.worker, job, inputs, spec or {}, output, self._showProgress, end
        )
        self.refresh()

    def _cancel(self, *_unused: object) -> None:
        if self._job is not None and not self._cancelling:
            self._cancelling = True
            self._tell(_("Cancelling…"))
            self.refresh()
            self._job.cancel()

    def _showProgress(self, progress: Progress) -> None:
        showShare(self._ui.modelsProgressBar, progress.share)
        if not self._cancelling and self._job is not None:
            self._tell(progress.text)

    def _tell(self, text: str) -> None:
        self._ui.modelsStatusLabel.setText(text)


def _nothing() -> None:
    """Of a panel that is gone."""


def _sayWhere(model: ListedModel | None) -> str:
    return "" if model is not None else _("No model is chosen.")


def _arrivalText(event: Event) -> str:
    """How a model came into the library."""
    name, original = event["name"], event["original_name"]
    if event["arrival"] == "present":
        return _("This model is there already, as {name}.").format(name=name)
    if event["arrival"] == "renamed":
        return _(
            "Imported as {name}: {original} is the name of another model, or cannot be one."
        ).format(name=name, original=original)
    return _("Imported: {name}.").format(name=name)
