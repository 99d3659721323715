"""The section *Export*: results as files."""

from collections.abc import Callable
from pathlib import Path

from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.Logic import Logic
from SpatialARAnomalyLib.slicerapp.QtHelpers import enable
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.tasks.Detection import Outcome
from SpatialARAnomalyLib.slicerapp.tasks.Export import ExportFormat, nameDicomSegProblem
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError, inOneLine


class ExportPanel:
    """Exports the result under review."""

    def __init__(self, ui: object, logic: Logic, confirm: Callable[[str], bool]) -> None:
        self._ui = ui
        self._logic = logic
        self._confirm = confirm
        self._result: Result | None = None
        self._exporting = False
        for format_ in ExportFormat:
            ui.exportFormatSelector.addItem(format_.label(), format_.name)
        ui.exportFolderEdit.setCurrentPath(Settings.exportFolder())
        self._connections = (
            (ui.exportButton.clicked, self._export),
            (ui.exportFormatSelector.currentIndexChanged, self.refresh),
            (ui.exportFolderEdit.currentPathChanged, self.refresh),
        )
        for signal, slot in self._connections:
            signal.connect(slot)
        self.refresh()

    def cleanup(self) -> None:
        """Let go of the widgets."""
        for signal, slot in self._connections:
            signal.disconnect(slot)

    def setResult(self, result: Result | None) -> None:
        """Export this result from now on."""
        self._result = result
        self.refresh()

    def _format(self) -> ExportFormat:
        selector = self._ui.exportFormatSelector
        return ExportFormat[selector.itemData(selector.property("currentIndex"))]

    def _folder(self) -> str:
        return str(self._ui.exportFolderEdit.property("currentPath") or "").strip()

    def refresh(self, *_unused: object) -> None:
        """Show whether the chosen export can be done, and why not if not."""
        enable(
            self._ui.exportButton,
            self._whyNot(),
            _("Write the result on the scan's own grid; all files appear at once."),
        )

    def _whyNot(self) -> str | None:
        if self._exporting:
            return _("An export is under way.")
        if self._result is None:
            return _("No result to export.")
        if self._format() is ExportFormat.DICOM_SEG:
            problem = nameDicomSegProblem(self._result)
            if problem is not None:
                return problem
        if not self._folder():
            return _("Choose a folder first.")
        return None

    def _export(self, *_unused: object, overwrite: bool = False) -> None:
        folder = Path(self._folder()).expanduser()
        self._exporting = True
        self._tell(_("Exporting…"))
        self.refresh()
        try:
            self._logic.export(
                self._result,
                self._format(),
                folder,
                self._exported,
                withRejected=self._ui.withRejectedCheckBox.isChecked(),
                overwrite=overwrite,
            )
        except Exception as error:
            self._exported(Outcome(error=asUserError(error)), [])

    def _exported(self, outcome: Outcome, files: list[Path]) -> None:
        self._exporting = False
        self.refresh()
        error: SpatialARError | None = outcome.error
        if (
            error is not None
            and error.code == "output-exists"
            and self._confirm(_("{problem} Replace them?").format(problem=error.message))
        ):
            self._export(overwrite=True)
            return
        if error is not None:
            self._tell("⚠ " + inOneLine(error))
        elif not files:
            self._tell(_("The export was cancelled; nothing was written."))
        else:
            Settings.setExportFolder(self._folder())
            names = ", ".join(file.name for file in files)
            self._tell(_("Written: {names}").format(names=names))

    def _tell(self, text: str) -> None:
        self._ui.exportStatusLabel.setText(text)
