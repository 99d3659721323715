"""The section *Review*: overlay, threshold, and the findings to accept or reject."""

import math
from collections.abc import Callable

import qt
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.service.detection.findings_table import rank_color
from SpatialARAnomalyLib.service.text import position_text, rate_text
from SpatialARAnomalyLib.slicerapp.Logic import Logic
from SpatialARAnomalyLib.slicerapp.panels.Dialogs import Dialogs
from SpatialARAnomalyLib.slicerapp.panels.VoxelReadout import VoxelReadout
from SpatialARAnomalyLib.slicerapp.ParameterNode import SpatialARAnomalyParameterNode
from SpatialARAnomalyLib.slicerapp.QtHelpers import (
    Connections,
    KeyedTable,
    enable,
    fitTable,
    singleShotTimer,
    tableItem,
)
from SpatialARAnomalyLib.slicerapp.scene.Comparison import (
    clearComparison,
    compare,
    endComparison,
    fitComparison,
    isComparing,
)
from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import (
    ACCEPTED,
    OPEN,
    REJECTED,
    Review,
    Row,
    changeReview,
    peakOf,
    readReviews,
    readRows,
    writeFindings,
)
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import worldFromLocal
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.scene.ResultsDisplay import (
    RARE,
    colorGradient,
    flicker,
    jumpTo,
    rememberLayers,
    remembersLayers,
    restoreLayers,
    setOpacity,
    showResult,
    showReviews,
    showThreshold,
)
from SpatialARAnomalyLib.slicerapp.scene.Segments import removeImages
from SpatialARAnomalyLib.slicerapp.tasks.Detection import Outcome
from SpatialARAnomalyLib.slicerapp.wording.Calibration import (
    caseText,
    caseTip,
    expectedCell,
    findingTip,
    rateTip,
)
from SpatialARAnomalyLib.slicerapp.wording.Errors import inOneLine

REST_MS = 300
"""Milliseconds that the threshold slider rests before the findings are updated."""

KEYS = {
    "next": "Ctrl+Down",
    "previous": "Ctrl+Up",
    "accept": "Ctrl+Return",
    "reject": "Ctrl+Del",
    "flicker": "Ctrl+Shift+F",
}

RANK, PLACE, COMMENT = 0, 4, 5
"""Columns of the findings table."""

ROWS = 1, 5
"""Rows that the table shows at least and at most."""

SWATCH_PX = 10
"""Side of the square in the color of a finding."""


def _columns() -> list[tuple[str, str]]:
    """Return title and tooltip of every column."""
    return [
        (_("#"), _("Rank, the strongest finding first")),
        (_("✓✗"), _("Your review: ✓ accepted, ✗ rejected")),
        (_("Per normal\nscan"), _("Findings like this or stronger in a normal scan")),
        (_("ml"), _("Volume in milliliters")),
        (_("Place (mm)"), _("Peak in the scene: left or right, front or back, up or down")),
        (_("Comment"), _("Double-click to edit")),
    ]


class ReviewPanel:
    """Shows one result and the reviewer's marks and comments."""

    def __init__(
        self,
        ui: object,
        logic: Logic,
        onResult: Callable[[Result | None], None],
        dialogs: Dialogs | None = None,
    ) -> None:
        self._ui = ui
        self._logic = logic
        self._dialogs = dialogs or Dialogs(ui.reviewSection)
        self._onResult = onResult
        self._parameters: SpatialARAnomalyParameterNode | None = None
        self._result: Result | None = None
        self._rows: list[Row] = []
        self._undo: list[list[Review]] = []
        ui.resultSelector.addAttribute("vtkMRMLScalarVolumeNode", "SpatialARAnomaly.Role", "NLL")
        self.view = KeyedTable(ui.findingsTable, _columns(), self._jump, stretched=COMMENT)
        ui.findingsTable.sortByColumn(RANK, qt.Qt.AscendingOrder)
        self._rest = singleShotTimer(REST_MS)
        # A transform that is being dragged changes many times a second.
        self._moved = singleShotTimer(REST_MS)
        self._arranged = singleShotTimer(0)
        self._transformTag: int | None = None
        ui.legendFrame.setStyleSheet(
            f"QFrame#legendFrame {{ background: {colorGradient()}; }} "
            "QLabel { background: transparent; color: white; } "
            # Over several colors of the map, the text has a ground of its own.
            "QLabel#legendMiddleLabel { background: rgba(0, 0, 0, 128); } "
            "QLabel#legendRareLabel { color: black; }"
        )
        ui.legendMiddleLabel.setText(rate_text(RARE))
        menu = qt.QMenu(ui.resultMenuButton)
        menu.setToolTipsVisible(True)
        self.restoreAction = menu.addAction(_("Restore the views"))
        self.deleteAction = menu.addAction(_("Delete this result…"))
        ui.resultMenuButton.setMenu(menu)
        self._menu = menu  # PythonQt deletes an object without a reference
        actions = {
            "previous": (ui.previousButton, lambda *_unused: self.view.step(-1)),
            "next": (ui.nextButton, lambda *_unused: self.view.step(1)),
            "accept": (ui.acceptButton, lambda *_unused: self._mark(ACCEPTED)),
            "reject": (ui.rejectButton, lambda *_unused: self._mark(REJECTED)),
        }
        self._readout = VoxelReadout(ui.voxelLabel)
        # These keys work wherever the focus is while the module is open.
        window = slicer.util.mainWindow() or ui.reviewSection
        self._shortcuts = {name: qt.QShortcut(qt.QKeySequence(KEYS[name]), window) for name in KEYS}
        # Elsewhere this key is Slicer's own undo.
        self._shortcuts["undo"] = qt.QShortcut(qt.QKeySequence("Ctrl+Z"), ui.reviewSection)
        self._shortcuts["undo"].setContext(qt.Qt.WidgetWithChildrenShortcut)
        self.setActive(False)
        layout = slicer.app.layoutManager()
        self._connections = Connections(
            *((button.clicked, action) for button, action in actions.values()),
            *((self._shortcuts[name].activated, actions[name][1]) for name in actions),
            (self._shortcuts["undo"].activated, self._undoReview),
            (self._shortcuts["flicker"].activated, self._flicker),
            (ui.compareButton.clicked, self._compare),
            (self._rest.timeout, self.updateFindings),
            (self._moved.timeout, self.refresh),
            (self._arranged.timeout, self._fitComparison),
            *([(layout.layoutChanged, self._layoutChanged)] if layout is not None else ()),
            (ui.findingsTable.itemChanged, self._itemChanged),
            (ui.findingsTable.horizontalScrollBar().rangeChanged, self._fitTable),
            (ui.thresholdSlider.valueChanged, self._thresholdMoved),
            (ui.opacitySlider.valueChanged, self._opacityMoved),
            (ui.undoButton.clicked, self._undoReview),
            (self.restoreAction.triggered, self._restoreViews),
            (self.deleteAction.triggered, self._delete),
        )
        self.refresh()

    def cleanup(self) -> None:
        """Disconnect from the widgets."""
        self._observe(None)
        self._readout.cleanup()
        self._rest.stop()
        self._moved.stop()
        self._arranged.stop()
        self._connections.close()
        for shortcut in self._shortcuts.values():
            shortcut.setEnabled(False)
            shortcut.deleteLater()
        self._shortcuts = {}
        self.view.cleanup()

    def setActive(self, active: bool) -> None:
        """Enable the keys and the read-out while the module is open."""
        self._readout.active = active
        for shortcut in self._shortcuts.values():
            shortcut.setEnabled(active)

    def setParameters(self, parameters: SpatialARAnomalyParameterNode | None) -> None:
        """Set the parameters of the scene; None without a scene."""
        self._parameters = parameters
        self.update()

    def update(self, *_unused: object) -> None:
        """Show the result that the parameter node names."""
        node = self._parameters.resultVolume if self._parameters is not None else None
        result = Result.of(node)
        if (result.id if result else None) == (self._result.id if self._result else None):
            if result is None:
                self.refresh()
            return
        switched = self._result is not None and result is not None
        self._rest.stop()
        self._observe(result)
        self._result = result
        self._readout.setResult(result)
        self._undo = []
        self._showStatus("")
        self._showThresholdOnSlider()
        if result is not None:
            # A scene keeps the display's threshold with six digits only.
            showThreshold(result, result.falsePositiveRate)
        self.refresh()
        self._onResult(result)
        if switched:
            self._showInViews()

    def _observe(self, result: Result | None) -> None:
        """Follow the transform above a result: the table shows positions in the scene."""
        if self._transformTag is not None:
            self._result.volume.RemoveObserver(self._transformTag)
            self._transformTag = None
        if result is not None:
            self._transformTag = result.volume.AddObserver(
                slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
                lambda *_unused: self._moved.start(),
            )

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
        """Show the findings; enable the buttons, or show their problems in tooltips."""
        result = self._result
        self._rows = readRows(result.table) if result is not None else []
        self.view.show(
            {int(row["rank"]): self._cells(row) for row in self._rows}, self.view.chosen()
        )
        self._fitTable()
        if result is not None:
            showReviews(result, self._rows)
        ui = self._ui
        ui.thresholdSlider.setEnabled(result is not None)
        ui.show3DButton.setSegmentationNode(result.segmentation if result is not None else None)
        # The button disables itself without segments, but stays pressed.
        segments = (
            result is not None
            and result.segmentation is not None
            and result.segmentation.GetSegmentation().GetNumberOfSegments() > 0
        )
        if not segments:
            ui.show3DButton.setChecked(False)
        enable(
            ui.show3DButton,
            None if segments else _("No finding to show in 3D."),
            _("Show the findings as surfaces in the 3D view."),
        )
        enable(
            self.deleteAction,
            None if result is not None else _("No result to delete."),
            _("Delete the overlay, segmentation and table of this result."),
        )
        enable(
            ui.compareButton,
            None if result is not None and result.scan is not None else _("No result to compare."),
            _("Show the scan beside the scan with its overlay.")
            + f" ({KEYS['flicker']}: "
            + _("flicker")
            + ")",
        )
        ui.compareButton.setChecked(isComparing())
        self._refreshButtons()
        self._showThresholdText()
        self._showCase()

    def _fitTable(self, *_unused: object) -> None:
        fitTable(self._ui.findingsTable, *ROWS)

    def _refreshButtons(self) -> None:
        ui = self._ui
        noFinding = None if self._rows else _("No finding to go to.")
        notChosen = None if self.view.chosen() is not None else _("Choose a finding first.")
        keys = {name: f" ({key})" for name, key in KEYS.items()}
        enable(ui.previousButton, noFinding, _("Go to the previous finding") + keys["previous"])
        enable(ui.nextButton, noFinding, _("Go to the next finding") + keys["next"])
        enable(ui.acceptButton, notChosen, _("Mark the finding as a true anomaly") + keys["accept"])
        enable(
            ui.rejectButton,
            notChosen,
            _("Mark the finding as a false alarm and hide its segment") + keys["reject"],
        )
        enable(
            ui.undoButton,
            None if self._undo else _("Nothing to undo."),
            _("Undo the last acceptance, rejection or comment") + " (Ctrl+Z)",
        )
        remembered = self._parameters is not None and remembersLayers(
            self._parameters.parameterNode
        )
        enable(
            self.restoreAction,
            None if remembered else _("Nothing to restore in the slice views."),
            _("Show what the slice views showed before the detection."),
        )

    def _cells(self, row: Row) -> list["qt.QTableWidgetItem"]:
        calibration, expected = self._result.calibration, row["per_normal_scan"]
        return [
            _rankItem(int(row["rank"])),
            tableItem({ACCEPTED: "✓", REJECTED: "✗"}.get(row["status"], "")),
            tableItem(expectedCell(calibration, expected), findingTip(calibration, row)),
            tableItem(round(row["volume_ml"], 2)),
            tableItem(position_text(self._place(row))),
            tableItem(row["comment"], editable=True),
        ]

    def _place(self, row: Row) -> tuple[float, float, float]:
        """Return the finding's peak in the scene (RAS, mm); the scan may be transformed."""
        return worldFromLocal(self._result.volume, peakOf(row))

    def _row(self, rank: int | None) -> Row | None:
        return next((row for row in self._rows if row["rank"] == rank), None)

    def _jump(self) -> None:
        row = self._row(self.view.chosen())
        if row is not None:
            jumpTo(self._place(row))
        self._refreshButtons()

    def _itemChanged(self, item: "qt.QTableWidgetItem") -> None:
        row = self._row(self.view.keyAt(item.row()))
        if item.column() == COMMENT and row is not None and item.text() != row["comment"]:
            self._review(row, comment=item.text())

    def _mark(self, status: str) -> None:
        row = self._row(self.view.chosen())
        if row is not None:
            # A second click removes the mark.
            self._review(row, status=OPEN if row["status"] == status else status)

    def _review(self, row: Row, *, status: str | None = None, comment: str | None = None) -> None:
        table = self._result.table
        if table is None:
            self._showStatus(_("The findings table was deleted. Move the threshold to restore it."))
            return
        before = readReviews(table)
        self._undo.append(before)
        writeFindings(table, self._rows, changeReview(before, row, status=status, comment=comment))
        self.refresh()

    def _undoReview(self, *_unused: object) -> None:
        if not self._undo or self._result is None or self._result.table is None:
            return
        writeFindings(self._result.table, self._rows, self._undo.pop())
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
        text = _("{rate} voxels of normal scans")
        if not calibration.supports(rate):
            text = _("roughly {rate} voxels of normal scans")
        ui.thresholdValueLabel.setText(text.format(rate=rate_text(rate)))
        ui.thresholdValueLabel.setToolTip(rateTip(calibration, rate))

    def _showCase(self) -> None:
        label, result = self._ui.caseValueLabel, self._result
        cautions = result.cautions if result is not None else []
        self._ui.cautionsLabel.setText("\n".join(f"⚠ {one}" for one in cautions))
        self._ui.cautionsLabel.setVisible(bool(cautions))
        if result is None:
            label.setText("")
            label.setToolTip("")
            return
        label.setText(caseText(result.calibration, result.caseScore))
        label.setToolTip(caseTip(result.calibration))

    def updateFindings(self) -> None:
        """Find again at the slider's threshold."""
        if self._result is None or self._parameters is None:
            return
        result, rate = self._result, self._rateOnSlider()
        result.falsePositiveRate = rate
        self._parameters.falsePositiveRate = rate
        self._showStatus(_("Updating findings…"))
        self._logic.updateFindings(result, lambda outcome: self._findingsUpdated(result, outcome))

    def _findingsUpdated(self, result: Result, outcome: Outcome) -> None:
        self.update()  # the result may have been deleted
        if self._result is None or self._result.id != result.id:
            return
        if outcome.error is not None:
            self._showStatus("⚠ " + inOneLine(outcome.error))
            return
        self._undo = []
        self._showStatus(" ".join(outcome.notices))
        self.refresh()
        self._onResult(self._result)

    def endComparison(self) -> None:
        """Return to the layout before a comparison, if there is one."""
        if isComparing():
            endComparison()

    def _compare(self, *_unused: object) -> None:
        if isComparing():
            self.endComparison()
        elif self._result is not None and self._result.scan is not None:
            compare(self._result, self._parameters.overlayOpacity)
            self._arranged.start()
        self._ui.compareButton.setChecked(isComparing())

    def _fitComparison(self) -> None:
        if isComparing():
            fitComparison()
            self._jump()

    def _layoutChanged(self, *_unused: object) -> None:
        """Follow Slicer's layout menu."""
        self._ui.compareButton.setChecked(isComparing())
        if not isComparing():
            clearComparison()

    def _flicker(self, *_unused: object) -> None:
        if self._result is not None:
            flicker(self._result, self._parameters.overlayOpacity)

    def _opacityMoved(self, *_unused: object) -> None:
        setOpacity(float(self._ui.opacitySlider.property("value")))

    def _restoreViews(self, *_unused: object) -> None:
        if self._parameters is not None:
            restoreLayers(self._parameters.parameterNode)
            self._refreshButtons()

    def _delete(self, *_unused: object) -> None:
        if self._result is None or not self._dialogs.confirm(
            _("Delete this result with its overlay, segmentation, table and reviews?")
        ):
            return
        result = self._result
        restoreLayers(self._parameters.parameterNode)
        self.endComparison()
        segmentation = result.segmentation
        for node in (result.table, segmentation, result.volume):
            if node is not None:
                slicer.mrmlScene.RemoveNode(node)
        if segmentation is not None:
            removeImages(segmentation)
        self.update()

    def _showStatus(self, text: str) -> None:
        self._ui.reviewStatusLabel.setText(text)
        self._ui.reviewStatusLabel.setVisible(bool(text))


def _rankItem(rank: int) -> "qt.QTableWidgetItem":
    """Make the cell of a rank, with a square in the color of the outline."""
    item = tableItem(rank)
    swatch = qt.QPixmap(SWATCH_PX, SWATCH_PX)
    swatch.fill(qt.QColor.fromRgbF(*rank_color(rank)))
    item.setIcon(qt.QIcon(swatch))
    return item
