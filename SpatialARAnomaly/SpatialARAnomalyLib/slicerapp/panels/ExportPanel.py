"""The section *Export*: write the result under review to files."""

from pathlib import Path

from slicer.i18n import tr as _

from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.Logic import Logic
from SpatialARAnomalyLib.slicerapp.panels.Dialogs import Dialogs
from SpatialARAnomalyLib.slicerapp.QtHelpers import (
    Connections,
    enable,
    pathChanges,
    pathText,
)
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.tasks.Detection import Outcome
from SpatialARAnomalyLib.slicerapp.tasks.Export import (
    ExportFormat,
    nameDicomSegProblem,
    nameReportProblem,
)
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError, inOneLine


class ExportPanel:
    """Exports the result under review."""

    def __init__(self, ui: object, logic: Logic, dialogs: Dialogs | None = None) -> None:
        self._ui = ui
        self._logic = logic
        self._dialogs = dialogs or Dialogs(ui.exportSection)
        self._result: Result | None = None
        self.exporting = False
        for format_ in ExportFormat:
            ui.exportFormatSelector.addItem(format_.label(), format_.name)
        ui.exportFolderEdit.setCurrentPath(Settings.exportFolder())
        self._showStatus("")
        self._connections = Connections(
            (ui.exportButton.clicked, self._export),
            (ui.exportFormatSelector.currentIndexChanged, self.refresh),
            *pathChanges(ui.exportFolderEdit, self.refresh),
        )
        self.refresh()

    def cleanup(self) -> None:
        """Disconnect from the widgets."""
        self._connections.close()

    def setResult(self, result: Result | None) -> None:
        """Set the result to export; a message about another one goes."""
        before, now = (one.id if one else None for one in (self._result, result))
        if before != now:
            self._showStatus("")
        self._result = result
        self.refresh()

    def _format(self) -> ExportFormat:
        selector = self._ui.exportFormatSelector
        return ExportFormat[selector.itemData(selector.property("currentIndex"))]

    def _folder(self) -> str:
        return pathText(self._ui.exportFolderEdit)

    def refresh(self, *_unused: object) -> None:
        """Enable the button, or show the problem in its tooltip."""
        dicom = self._format() is ExportFormat.DICOM_SEG
        self._ui.inSceneSpaceCheckBox.setVisible(self._isTransformed() and not dicom)
        enable(
            self._ui.exportButton,
            self._nameProblem(),
            _("Write the result on the scan's grid, all files at once."),
        )

    def _nameProblem(self) -> str | None:
        if self.exporting:
            return _("An export is running.")
        if self._result is None:
            return _("No result to export.")
        if self._format() is ExportFormat.DICOM_SEG:
            problem = nameDicomSegProblem(self._result)
            if problem is not None:
                return problem
        if self._format() is ExportFormat.REPORT:
            problem = nameReportProblem(self._result)
            if problem is not None:
                return problem
        return None if self._folder() else _("Choose a folder first.")

    def _isTransformed(self) -> bool:
        result = self._result
        return result is not None and result.volume.GetParentTransformNode() is not None

    def _isInScene(self) -> bool:
        dicom = self._format() is ExportFormat.DICOM_SEG
        return self._isTransformed() and not dicom and self._ui.inSceneSpaceCheckBox.isChecked()

    def _export(self, *_unused: object, overwrite: bool = False) -> None:
        self.exporting = True
        self._showStatus(_("Exporting…"))
        self.refresh()
        try:
            self._logic.export(
                self._result,
                self._format(),
                Path(self._folder()).expanduser(),
                self._exported,
                withRejected=self._ui.withRejectedCheckBox.isChecked(),
                overwrite=overwrite,
                inScene=self._isInScene(),
            )
        except Exception as error:
            self._exported(Outcome(error=asUserError(error)), [])

    def _exported(self, outcome: Outcome, files: list[Path]) -> None:
        self.exporting = False
        self.refresh()
        error = outcome.error
        if error is None and files:
            Settings.setExportFolder(self._folder())
            names = ", ".join(file.name for file in files)
            text = _("Written: {names}")
            if self._isInScene():
                text = _("Written in the scene's space: {names}")
            elif self._isTransformed():
                text = _("Written in the scan's own space: {names}")
            self._showStatus(text.format(names=names))
        elif error is None:
            self._showStatus(_("Cancelled. Nothing was written."))
        elif error.code == "output-exists" and self._dialogs.confirm(
            _("{problem} Replace them?").format(problem=error.message)
        ):
            self._export(overwrite=True)
        else:
            self._showStatus("⚠ " + inOneLine(error))

    def _showStatus(self, text: str) -> None:
        self._ui.exportStatusLabel.setText(text)
        self._ui.exportStatusLabel.setVisible(bool(text))
