"""The section *Evaluate*: compare the result under review with a ground truth."""

import shutil
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import OutputError
from SpatialARAnomalyLib.service.evaluation.wording import METRIC_WORDS, SCORE_WORDS
from SpatialARAnomalyLib.service.outputs import write_atomically
from SpatialARAnomalyLib.slicerapp.Logic import Logic
from SpatialARAnomalyLib.slicerapp.panels.Dialogs import Dialogs
from SpatialARAnomalyLib.slicerapp.QtHelpers import (
    Connections,
    PictureLabel,
    enable,
    fillTable,
    fitTable,
    prepareTable,
    tableItem,
)
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.tasks.Detection import Outcome
from SpatialARAnomalyLib.slicerapp.tasks.Evaluation import Evaluation, nameTruthProblem
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError, inOneLine
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import WorkFolder

HIDDEN = ("dice_per_case", "case_auroc")
"""Metrics that need several scans, hidden for one."""

SAVED = ("evaluation", "metrics", "cases", "curves", "picture")
"""Keys of the worker's files that *Save…* writes."""


class EvaluatePanel:
    """Evaluates one result and shows its metrics."""

    def __init__(self, ui: object, logic: Logic, dialogs: Dialogs | None = None) -> None:
        self._ui = ui
        self._logic = logic
        self._dialogs = dialogs or Dialogs(ui.evaluateSection)
        self._result: Result | None = None
        self._shownFor: tuple[object, ...] = ()
        self._evaluation: Evaluation | None = None
        self._folder: WorkFolder | None = None
        self._files: dict[str, Path] = {}
        self._picture = PictureLabel(ui.evaluateSection)
        ui.evaluatePictureFrame.layout().addWidget(self._picture)
        ui.evaluateTable.setVisible(False)
        self._showStatus("")
        self._connections = Connections(
            (ui.evaluateButton.clicked, self._evaluateOrCancel),
            (ui.evaluateSaveButton.clicked, self._save),
            (ui.truthSelector.currentNodeChanged, lambda *_unused: self.setResult(self._result)),
        )
        self.refresh()

    def cleanup(self) -> None:
        """Disconnect from the widgets and remove the files."""
        self._connections.close()
        self._discard()

    @property
    def evaluating(self) -> bool:
        """True while an evaluation is running."""
        return self._evaluation is not None

    def setResult(self, result: Result | None) -> None:
        """Set the result to evaluate; metrics of another result, threshold or truth go."""
        self._result = result
        if self._inputs() != self._shownFor:
            self._discard()
            self._showStatus("")
        self.refresh()

    def _inputs(self) -> tuple[object, ...]:
        """Return what identifies the result, threshold and truth; empty if one is missing."""
        result, truth = self._result, self._ui.truthSelector.currentNode()
        if result is None or truth is None:
            return ()
        return (result.id, result.falsePositiveRate, result.leastVolumeMl, truth.GetID())

    def refresh(self, *_unused: object) -> None:
        """Enable the buttons, or show their problems in tooltips."""
        button = self._ui.evaluateButton
        if self.evaluating:
            button.setText(_("Cancel"))
            enable(button, None, _("Stop the evaluation."))
        else:
            button.setText(_("Evaluate"))
            enable(
                button,
                self._nameProblem(),
                _("Compare the model's NLL, and plain intensity, with the ground truth."),
            )
        enable(
            self._ui.evaluateSaveButton,
            None if self._files else _("No evaluation to save."),
            _("Write metrics (JSON, CSV) and curves (PNG) into a folder."),
        )

    def _nameProblem(self) -> str | None:
        if self._result is None:
            return _("No result to evaluate: detect anomalies first.")
        return nameTruthProblem(self._result, self._ui.truthSelector.currentNode())

    def _evaluateOrCancel(self, *_unused: object) -> None:
        if self.evaluating:
            self._discard()
            self._showStatus(_("Cancelled."))
            self.refresh()
            return
        self.refresh()
        if self._nameProblem() is not None:
            return
        self._discard()
        self._shownFor = self._inputs()
        self._showStatus(_("Evaluating…"))
        truth = self._ui.truthSelector.currentNode()
        try:
            self._evaluation = self._logic.evaluate(self._result, truth, self._evaluated)
        except Exception as error:
            self._evaluated(Outcome(error=asUserError(error)), None, None)
        self.refresh()

    def _evaluated(
        self, outcome: Outcome, event: dict[str, Any] | None, folder: WorkFolder | None
    ) -> None:
        self._evaluation = None
        if event is None:
            self._shownFor = ()
            cancelled = _("Cancelled.")
            self._showStatus(
                cancelled if outcome.error is None else "⚠ " + inOneLine(outcome.error)
            )
        else:
            self._folder = folder
            files = {name: Path(file) for name, file in event["files"].items()}
            self._files = {name: files[name] for name in SAVED}
            self._fillTable(event["metrics"])
            self._picture.showFile(str(files["preview"]))
            self._showStatus(_summarize(event))
        self.refresh()

    def _fillTable(self, metrics: list[dict[str, Any]]) -> None:
        table = self._ui.evaluateTable
        scores = list(dict.fromkeys(one["score"] for one in metrics))
        found = {(one["score"], one["metric"]): one for one in metrics}
        columns = [(_("Metric"), _("Point at a metric to read its definition."))]
        columns += [(_columnTitle(score), SCORE_WORDS[score]) for score in scores]
        prepareTable(table, columns, stretched=0)
        rows = []
        for name, (title, meaning) in METRIC_WORDS.items():
            if name not in HIDDEN:
                rows.append([tableItem(title, meaning)])
                for score in scores:
                    one = found[score, name]
                    item = tableItem(_figure(one["value"]), one["reason"] or meaning)
                    item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                    rows[-1].append(item)
        fillTable(table, rows)
        fitTable(table, len(rows), len(rows))
        table.setVisible(True)

    def _save(self, *_unused: object) -> None:
        folder = self._dialogs.chooseFolder(_("Save the evaluation into a folder"))
        if folder and self._files:
            self._saveInto(Path(folder), overwrite=False)

    def _saveInto(self, folder: Path, overwrite: bool) -> None:
        names = [file.name for file in self._files.values()]
        try:
            with write_atomically(folder, names, overwrite=overwrite) as partial:
                for file in self._files.values():
                    shutil.copyfile(file, partial / file.name)
        except OutputError as error:
            if error.code != "output-exists" or overwrite:
                self._showStatus("⚠ " + inOneLine(error))
            elif self._dialogs.confirm(_("{problem} Replace them?").format(problem=error.message)):
                self._saveInto(folder, overwrite=True)
            return
        self._showStatus(_("Written: {names}").format(names=", ".join(names)))

    def _discard(self) -> None:
        """Remove the metrics and their files; cancel a running evaluation."""
        if self._evaluation is not None:
            self._evaluation.cancel()
            self._evaluation = None
        if self._folder is not None:
            self._folder.remove()
            self._folder = None
        self._files = {}
        self._shownFor = ()
        self._ui.evaluateTable.setVisible(False)
        self._picture.showFile("")

    def _showStatus(self, text: str) -> None:
        self._ui.evaluateStatusLabel.setText(text)
        self._ui.evaluateStatusLabel.setVisible(bool(text))


def _columnTitle(score: str) -> str:
    return {
        "nll": _("Model"),
        "intensity": _("Intensity"),
        "intensity_distance": _("From median"),
    }[score]


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.01 else f"{value:.2g}"


def _summarize(event: dict[str, Any]) -> str:
    lesions = event["cases"]["lesions"]
    if lesions == 0:
        return _("The ground truth labels no voxel: most metrics are undefined.")
    share = event["lesion_share"]
    text = _(
        "Lesions: {lesions}, {percent} % of the voxels (average precision by chance: {chance}). "
        "One scan has no intervals."
    ).format(lesions=lesions, percent=f"{100 * share:.2g}", chance=f"{share:.2g}")
    precision = {
        one["score"]: one["value"]
        for one in event["metrics"]
        if one["metric"] == "average_precision" and one["value"] is not None
    }
    model = precision.pop("nll", None)
    best = max(precision.values(), default=None)
    if model is None or best is None:
        return text
    comparison = _("The model is better than plain intensity on this scan:")
    if best >= model:
        comparison = _("⚠ Plain intensity is at least as good as the model on this scan:")
    figures = _("average precision {higher} against {lower}.").format(
        higher=_figure(max(best, model)), lower=_figure(min(best, model))
    )
    return f"{comparison} {figures} {text}"
