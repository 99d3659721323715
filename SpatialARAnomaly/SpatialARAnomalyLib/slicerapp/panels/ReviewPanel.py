"""The section *Review*: overlay, threshold, findings one by one, accept and reject."""

import math
from collections.abc import Callable

import qt
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.slicerapp.Logic import Logic
from SpatialARAnomalyLib.slicerapp.panels.FindingsView import FindingsView
from SpatialARAnomalyLib.slicerapp.ParameterNode import SpatialARAnomalyParameterNode
from SpatialARAnomalyLib.slicerapp.QtHelpers import enable, singleShotTimer
from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import (
    ACCEPTED,
    OPEN,
    REJECTED,
    Review,
    Row,
    peakOf,
    readReviews,
    readRows,
    changeReview,
    writeFindings,
)
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import worldFromLocal
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.scene.ResultsDisplay import (
    jumpTo,
    rememberLayers,
    remembersLayers,
    restoreLayers,
    setOpacity,
    showResult,
    showReviews,
    showThreshold,
)
from SpatialARAnomalyLib.slicerapp.tasks.Detection import Outcome
from SpatialARAnomalyLib.slicerapp.wording.Calibration import caseText, caseTip, rateTip
from SpatialARAnomalyLib.slicerapp.wording.Errors import inOneLine

REST_MS = 300
"""The findings follow when the slider has rested for so long."""

KEYS = {"next": "Ctrl+Down", "previous": "Ctrl+Up", "accept": "Ctrl+Return", "reject": "Ctrl+Del"}


class ReviewPanel:
    """Shows one result and what the reviewer says of it."""

    def __init__(
        self,
        ui: object,
        logic: Logic,
        confirm: Callable[[str], bool],
        onResult: Callable[[Result | None], None],
    ) -> None:
        self._ui = ui
        self._logic = logic
        self._confirm = confirm
        self._onResult = onResult
        self._parameters: SpatialARAnomalyParameterNode | None = None
        self._result: Result | None = None
        self._rows: list[Row] = []
        self._undo: list[tuple[str, list[Review]]] = []
        ui.resultSelector.addAttribute("vtkMRMLScalarVolumeNode", "SpatialARAnomaly.Role", "NLL")
        self.view = FindingsView(ui.findingsTable, self._jump, self._comment)
        self._rest = singleShotTimer(REST_MS)
        self._connections = (
            (self._rest.timeout, self._findAgain),
            (ui.thresholdSlider.valueChanged, self._thresholdMoved),
            (ui.opacitySlider.valueChanged, self._opacityMoved),
            (ui.previousButton.clicked, self._previous),
            (ui.nextButton.clicked, self._next),
            (ui.acceptButton.clicked, self._accept),
            (ui.rejectButton.clicked, self._reject),
            (ui.undoButton.clicked, self._undoReview),
            (ui.restoreViewsButton.clicked, self._restoreViews),
            (ui.deleteResultButton.clicked, self._delete),
        )
        for signal, slot in self._connections:
            signal.connect(slot)
        self._shortcuts = self._makeShortcuts()
        self.refresh()

    def _makeShortcuts(self) -> list[tuple[object, Callable[..., None]]]:
        """Keys that work wherever the focus is while the module is open."""
        window = slicer.util.mainWindow() or self._ui.reviewSection
        actions = {
            "next": self._next,
            "previous": self._previous,
            "accept": self._accept,
            "reject": self._reject,
        }
        made = []
        for name, action in actions.items():
            shortcut = qt.QShortcut(qt.QKeySequence(KEYS[name]), window)
            shortcut.activated.connect(action)
            shortcut.setEnabled(False)
            made.append((shortcut, action))
        # Slicer's own undo has this key everywhere else.
        undo = qt.QShortcut(qt.QKeySequence("Ctrl+Z"), self._ui.reviewSection)
        undo.setContext(qt.Qt.WidgetWithChildrenShortcut)
        undo.activated.connect(self._undoReview)
        made.append((undo, self._undoReview))
        return made

    def cleanup(self) -> None:
        """Let go of the widgets."""
        self._rest.stop()
        for signal, slot in self._connections:
            signal.disconnect(slot)
        for shortcut, action in self._shortcuts:
            shortcut.activated.disconnect(action)
            shortcut.setEnabled(False)
            shortcut.deleteLater()
        self._shortcuts = []
        self.view.cleanup()

    def setActive(self, active: bool) -> None:
        """Whether the module is open: only then its keys work."""
        for shortcut, _action in self._shortcuts:
            shortcut.setEnabled(active)

    def setParameters(self, parameters: SpatialARAnomalyParameterNode | None) -> None:
        """Work with the settings of a scene; None while there is none."""
        self._parameters = parameters
        self.update()

    def update(self, *_unused: object) -> None:
        """Follow the parameter node: another result may be under review."""
        node = self._parameters.resultVolume if self._parameters is not None else None
        result = Result.of(node)
        if (result.id if result else None) == (self._result.id if self._result else None):
            if result is None:
                self.refresh()
            return
        switched = self._result is not None and result is not None
        self._rest.stop()
        self._result = result
        self._undo = []
        self._tell("")
        self._showThresholdOnSlider()
        if result is not None:
            # A scene keeps the display's threshold with six digits only.
            showThreshold(result, result.falsePositiveRate)
        self.refresh()
        self._onResult(result)
        if switched:
            self._showInViews()

    def review(self, result: Result) -> None:
        """Show a result in the views and go to its first finding."""
        if self._parameters is None:
            return
        self._parameters.resultVolume = result.volume
        self.update()
        self._showInViews()
        if self._rows:
            self.view.choose(self._rows[0]["rank"])

    def _showInViews(self) -> None:
        rememberLayers(self._parameters.parameterNode)
        showResult(self._result, self._parameters.overlayOpacity)
        self.refresh()

    def refresh(self) -> None:
        """Show the result's rows, and what can be done with them."""
        result = self._result
        self._rows = readRows(result.table) if result is not None else []
        places = [self._place(row) for row in self._rows]
        self.view.show(self._rows, places)
        if result is not None:
            showReviews(result, self._rows)
        ui = self._ui
        ui.thresholdSlider.setEnabled(result is not None)
        ui.show3DButton.setSegmentationNode(result.segmentation if result is not None else None)
        segments = result is not None and result.segmentation is not None
        enable(
            ui.show3DButton,
            None if segments else _("No result to show in 3D."),
            _("Show the segments as surfaces in the 3D view."),
        )
        enable(
            ui.deleteResultButton,
            None if result is not None else _("No result to delete."),
            _("Delete the overlay, segmentation and table of this result."),
        )
        self._refreshButtons()
        self._showThresholdText()
        self._showCase()

    def _refreshButtons(self) -> None:
        ui = self._ui
        none = None if self._rows else _("No finding to go to.")
        chosen = None if self.view.chosen() is not None else _("Choose a finding first.")
        keys = {name: f" ({key})" for name, key in KEYS.items()}
        enable(ui.previousButton, none, _("Go to the previous finding") + keys["previous"])
        enable(ui.nextButton, none, _("Go to the next finding") + keys["next"])
        enable(ui.acceptButton, chosen, _("Mark the finding as a true anomaly") + keys["accept"])
        enable(
            ui.rejectButton,
            chosen,
            _("Mark the finding as a false alarm and hide its segment") + keys["reject"],
        )
        enable(
            ui.undoButton,
            None if self._undo else _("Nothing to undo."),
            _("Take the last acceptance, rejection or comment back") + " (Ctrl+Z)",
        )
        remembered = self._parameters is not None and remembersLayers(
            self._parameters.parameterNode
        )
        enable(
            ui.restoreViewsButton,
            None if remembered else _("The views show what they did before."),
            _("Show in the slice views what they showed before the detection."),
        )

    def _place(self, row: Row) -> tuple[float, float, float]:
        """The finding's peak in the scene, RAS mm: the scan may lie under a transform."""
        return worldFromLocal(self._result.volume, peakOf(row))

    def _row(self, rank: int | None) -> Row | None:
        return next((row for row in self._rows if row["rank"] == rank), None)

    def _jump(self, rank: int) -> None:
        row = self._row(rank)
        if row is not None:
            jumpTo(self._place(row))
        self._refreshButtons()

    def _next(self, *_unused: object) -> None:
        self.view.step(1)

    def _previous(self, *_unused: object) -> None:
        self.view.step(-1)

    def _accept(self, *_unused: object) -> None:
        self._mark(ACCEPTED)

    def _reject(self, *_unused: object) -> None:
        self._mark(REJECTED)

    def _mark(self, status: str) -> None:
        row = self._row(self.view.chosen())
        if row is not None:
            # The same button again takes the mark away.
            self._review(row, status=OPEN if row["status"] == status else status)

    def _comment(self, rank: int, comment: str) -> None:
        row = self._row(rank)
        if row is not None and comment != row["comment"]:
            self._review(row, comment=comment)

    def _review(self, row: Row, *, status: str | None = None, comment: str | None = None) -> None:
        table = self._result.table
        if table is None:
            self._tell(_("The table of findings was deleted; move the threshold to make it anew."))
            return
        before = readReviews(table)
        self._undo.append((self._result.id, before))
        writeFindings(table, self._rows, changeReview(before, row, status=status, comment=comment))
        self.refresh()

    def _undoReview(self, *_unused: object) -> None:
        if not self._undo or self._result is None or self._result.table is None:
            return
        _result, reviews = self._undo.pop()
        writeFindings(self._result.table, self._rows, reviews)
        self.refresh()

    def _showThresholdOnSlider(self) -> None:
        if self._result is not None:
            slider = self._ui.thresholdSlider
            blocked = slider.blockSignals(True)
            slider.setValue(-math.log10(self._result.falsePositiveRate))
            slider.blockSignals(blocked)

    def _rateOnSlider(self) -> float:
        return 10.0 ** -float(self._ui.thresholdSlider.property("value"))

    def _thresholdMoved(self, *_unused: object) -> None:
        if self._result is None:
            return
        showThreshold(self._result, self._rateOnSlider())
        self._showThresholdText(self._rateOnSlider())
        self._rest.start()

    def _showThresholdText(self, rate: float | None = None) -> None:
        ui = self._ui
        if self._result is None:
            ui.thresholdValueLabel.setText("")
            ui.thresholdValueLabel.setToolTip("")
            return
        rate = self._result.falsePositiveRate if rate is None else rate
        calibration = self._result.calibration
        text = _("One in {count} voxels of normal scans · NLL ≥ {nll}").format(
            count=f"{round(1 / rate):,}", nll=f"{calibration.threshold(rate):.3f}"
        )
        if not calibration.supports(rate):
            text += " · " + _("rough: rarer than the held-out normal scans can tell")
        ui.thresholdValueLabel.setText(text)
        ui.thresholdValueLabel.setToolTip(rateTip(calibration, rate))

    def _showCase(self) -> None:
        label, result = self._ui.caseValueLabel, self._result
        if result is None:
            label.setText("")
            label.setToolTip("")
            return
        label.setText(caseText(result.calibration, result.caseScore))
        label.setToolTip(caseTip(result.calibration))

    def _findAgain(self) -> None:
        if self._result is None or self._parameters is None:
            return
        result, rate = self._result, self._rateOnSlider()
        result.falsePositiveRate = rate
        self._parameters.falsePositiveRate = rate
        self._tell(_("Finding anew…"))
        self._logic.updateFindings(result, lambda outcome: self._foundAgain(result, outcome))

    def _foundAgain(self, result: Result, outcome: Outcome) -> None:
        self.update()  # a result that was tampered with is none any more
        if self._result is None or self._result.id != result.id:
            return
        if outcome.error is not None:
            self._tell("⚠ " + inOneLine(outcome.error))
            return
        self._undo = []
        self._tell(" ".join(outcome.notices))
        self.refresh()
        self._onResult(self._result)

    def _opacityMoved(self, *_unused: object) -> None:
        setOpacity(float(self._ui.opacitySlider.property("value")))

    def _restoreViews(self, *_unused: object) -> None:
        if self._parameters is not None:
            restoreLayers(self._parameters.parameterNode)
            self._refreshButtons()

    def _delete(self, *_unused: object) -> None:
        if self._result is None or not self._confirm(
            _("Delete this result with its overlay, segmentation, table and reviews?")
        ):
            return
        result = self._result
        for node in (result.table, result.segmentation, result.volume):
            if node is not None:
                slicer.mrmlScene.RemoveNode(node)
        self.update()

    def _tell(self, text: str) -> None:
        self._ui.reviewStatusLabel.setText(text)
