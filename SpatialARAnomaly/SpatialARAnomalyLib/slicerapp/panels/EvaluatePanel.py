"""The section *Evaluate*: the result under review held against a ground truth."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import OutputError
from SpatialARAnomalyLib.service.evaluation.wording import METRIC_WORDS, SCORE_WORDS
from SpatialARAnomalyLib.service.outputs import write_atomically
from SpatialARAnomalyLib.slicerapp.Logic import Logic
from SpatialARAnomalyLib.slicerapp.QtHelpers import PictureLabel, enable, prepareTable, tableItem
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.tasks.Detection import Outcome
from SpatialARAnomalyLib.slicerapp.tasks.Evaluation import Evaluation, nameTruthProblem
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError, inOneLine
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import WorkFolder

HIDDEN = ("dice_per_case", "case_auroc")
"""What is the same for one scan, or never defined by it."""

SAVED = ("evaluation", "metrics", "cases", "curves", "picture")
"""Which of the worker's files *Save…* writes."""


def chooseFolder() -> str:
    """The folder to save an evaluation into; empty if the user chose none."""
    answer = qt.QFileDialog.getExistingDirectory(
        slicer.util.mainWindow(), _("Save the evaluation into a folder"), ""
    )
    return str((answer[0] if isinstance(answer, tuple) else answer) or "")


class EvaluatePanel:
    """Evaluates one result and shows the figures."""

    def __init__(
        self,
        ui: object,
        logic: Logic,
        confirm: Callable[[str], bool],
        chooseFolder: Callable[[], str] = chooseFolder,
    ) -> None:
        self._ui = ui
        self._logic = logic
        self._confirm = confirm
        self._chooseFolder = chooseFolder
        self._result: Result | None = None
        self._shownFor: tuple[object, ...] = ()
        self._evaluating: Evaluation | None = None
        self._folder: WorkFolder | None = None
        self._files: dict[str, Path] = {}
        self._picture = PictureLabel(ui.evaluateSection)
        ui.evaluatePictureFrame.layout().addWidget(self._picture)
        ui.evaluateTable.setVisible(False)
        self._connections = (
            (ui.evaluateButton.clicked, self._evaluate),
            (ui.evaluateSaveButton.clicked, self._save),
            (ui.truthSelector.currentNodeChanged, self._truthChanged),
        )
        for signal, slot in self._connections:
            signal.connect(slot)
        self.refresh()

    def cleanup(self) -> None:
        """Let go of the widgets, and of the files."""
        for signal, slot in self._connections:
            signal.disconnect(slot)
        self._forget()

    @property
    def evaluating(self) -> bool:
        """Whether an evaluation is under way."""
        return self._evaluating is not None

    def setResult(self, result: Result | None) -> None:
        """Evaluate this result from now on; figures of another one, or threshold, go."""
        self._result = result
        if self._key() != self._shownFor:
            self._forget()
            self._tell("")
        self.refresh()

    def _key(self) -> tuple[object, ...]:
        """What the figures belong to."""
        result, truth = self._result, self._ui.truthSelector.currentNode()
        if result is None or truth is None:
            return ()
        return (result.id, result.falsePositiveRate, result.leastVolumeMl, truth.GetID())

    def _truthChanged(self, *_unused: object) -> None:
        self.setResult(self._result)

    def refresh(self, *_unused: object) -> None:
        """Show what can be done, and why not if not."""
        button = self._ui.evaluateButton
        if self._evaluating is not None:
            button.setText(_("Cancel"))
            enable(button, None, _("Stop the evaluation."))
        else:
            button.setText(_("Evaluate"))
            enable(
                button,
                self._whyNot(),
                _("Compare the model's NLL, and plain intensity, with the ground truth."),
            )
        enable(
            self._ui.evaluateSaveButton,
            None if self._files else _("No evaluation to save."),
            _("Write the figures as JSON and CSV, and the curves as PNG, into a folder."),
        )

    def _whyNot(self) -> str | None:
        if self._result is None:
            return _("No result to evaluate: detect anomalies first.")
        return nameTruthProblem(self._result, self._ui.truthSelector.currentNode())

    def _evaluate(self, *_unused: object) -> None:
        if self._evaluating is not None:
            self._forget()
            self._tell(_("The evaluation was stopped."))
            self.refresh()
            return
        self.refresh()  # what was chosen may have changed since
        if self._whyNot() is not None:
            return
        self._forget()
        self._shownFor = self._key()
        self._tell(_("Evaluating…"))
        truth = self._ui.truthSelector.currentNode()
        try:
            self._evaluating = self._logic.evaluate(self._result, truth, self._evaluated)
        except Exception as error:
            self._evaluated(Outcome(error=asUserError(error)), None, None)
        self.refresh()

    def _evaluated(
        self, outcome: Outcome, event: dict[str, Any] | None, folder: WorkFolder | None
    ) -> None:
        self._evaluating = None
        if event is None:
            self._shownFor = ()
            stopped = _("The evaluation was stopped.")
            self._tell(stopped if outcome.error is None else "⚠ " + inOneLine(outcome.error))
        else:
            self._folder = folder
            files = {name: Path(file) for name, file in event["files"].items()}
            self._files = {name: files[name] for name in SAVED}
            self._fillTable(event["metrics"])
            self._picture.showFile(str(files["preview"]))
            self._tell(_summary(event))
        self.refresh()

    def _fillTable(self, rows: list[dict[str, Any]]) -> None:
        table = self._ui.evaluateTable
        scores = list(dict.fromkeys(row["score"] for row in rows))
        found = {(row["score"], row["metric"]): row for row in rows}
        heads = [(_("Metric"), _("Point at a metric to read what it says."))]
        heads += [(_columnTitle(score), SCORE_WORDS[score]) for score in scores]
        prepareTable(table, heads, stretched=0)
        names = [name for name in METRIC_WORDS if name not in HIDDEN]
        table.setRowCount(len(names))
        for place, name in enumerate(names):
            title, meaning = METRIC_WORDS[name]
            table.setItem(place, 0, tableItem(title, meaning))
            for column, score in enumerate(scores, start=1):
                row = found[score, name]
                item = tableItem(_figure(row["value"]), row["reason"] or meaning)
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
                table.setItem(place, column, item)
        table.setFixedHeight(
            int(table.horizontalHeader().property("sizeHint").height())
            + len(names) * int(table.rowHeight(0))
            + 2 * int(table.property("frameWidth"))
        )
        table.setVisible(True)

    def _save(self, *_unused: object) -> None:
        chosen = self._chooseFolder()
        if chosen and self._files:
            self._saveInto(Path(chosen), overwrite=False)

    def _saveInto(self, folder: Path, overwrite: bool) -> None:
        names = [file.name for file in self._files.values()]
        try:
            with write_atomically(folder, names, overwrite=overwrite) as partial:
                for file in self._files.values():
                    shutil.copyfile(file, partial / file.name)
        except OutputError as error:
            if error.code == "output-exists" and not overwrite:
                question = _("{problem} Replace them?").format(problem=error.message)
                if self._confirm(question):
                    self._saveInto(folder, overwrite=True)
                return
            self._tell("⚠ " + inOneLine(error))
            return
        self._tell(_("Written: {names}").format(names=", ".join(names)))

    def _forget(self) -> None:
        """Drop the figures, their files, and an evaluation that is under way."""
        if self._evaluating is not None:
            self._evaluating.cancel()
            self._evaluating = None
        if self._folder is not None:
            self._folder.remove()
            self._folder = None
        self._files = {}
        self._shownFor = ()
        self._ui.evaluateTable.setVisible(False)
        self._picture.showFile("")

    def _tell(self, text: str) -> None:
        self._ui.evaluateStatusLabel.setText(text)


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


def _summary(event: dict[str, Any]) -> str:
    lesions = event["cases"]["lesions"]
    if lesions == 0:
        return _("The ground truth labels no voxel of this scan: most figures are undefined.")
    share = f"{100 * event['lesion_share']:.2g}"
    return _(
        "Lesions: {lesions}, {share} % of the voxels (average precision by chance: {chance}). "
        "One scan: no intervals."
    ).format(lesions=lesions, share=share, chance=f"{event['lesion_share']:.2g}")
