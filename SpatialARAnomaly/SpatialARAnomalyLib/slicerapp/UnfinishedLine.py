"""In the section *Train*: trainings that were cancelled or broken off, to resume or discard."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from ..service.unfinished_trainings import UnfinishedTraining, list_unfinished
from . import Settings
from .Buttons import enable
from .Detection import outcomeOf
from .ErrorWords import inOneLine
from .Timing import onceTimer
from .Training import Trainer, TrainingRequest

AGAIN_MS = 3000
"""Where another program trains: it may end, or be one of ours that is just ending."""


class UnfinishedLine:
    """Lists them; `onResume` gets what is to be trained on, `onDiscarded` how that went."""

    def __init__(
        self,
        ui: object,
        trainer: Trainer,
        confirm: Callable[[str], bool],
        onResume: Callable[[TrainingRequest], None],
        onDiscarded: Callable[[str], None],
    ) -> None:
        self._ui = ui
        self._trainer = trainer
        self._confirm = confirm
        self._onResume = onResume
        self._onDiscarded = onDiscarded
        self._busy = False
        self._discarding = False
        self._closed = False
        self.entries: list[UnfinishedTraining] = []
        """Those in the folder of models when it was last looked at."""
        self._timer = onceTimer(AGAIN_MS)
        self._connections = (
            (self._timer.timeout, self._lookAgain),
            (ui.trainUnfinishedSelector.currentIndexChanged, self._chosenChanged),
            (ui.trainResumeButton.clicked, self._resume),
            (ui.trainDiscardButton.clicked, self._discard),
        )
        for signal, slot in self._connections:
            signal.connect(slot)

    def cleanup(self) -> None:
        """Let go of the widgets."""
        self._closed = True
        self._timer.stop()
        for signal, slot in self._connections:
            signal.disconnect(slot)

    def look(self) -> None:
        """List what is in the folder of models now."""
        chosen = self._chosen()
        self.entries = list_unfinished(Settings.modelsFolder())
        selector = self._ui.trainUnfinishedSelector
        blocked = selector.blockSignals(True)
        selector.clear()
        for entry in self.entries:
            selector.addItem(_described(entry))
        selector.blockSignals(blocked)
        if chosen is not None:
            self.choose(chosen.model)
        if any(entry.running for entry in self.entries) and not self._trainer.running:
            self._timer.start()
        self.refresh(busy=self._busy)

    def of(self, model: Path) -> UnfinishedTraining | None:
        """The unfinished training of a model file."""
        return next((one for one in self.entries if one.model == model), None)

    def choose(self, model: Path) -> None:
        """Choose the training of this model, where there is one."""
        models = [one.model for one in self.entries]
        if model in models:
            self._ui.trainUnfinishedSelector.setCurrentIndex(models.index(model))

    def refresh(self, *, busy: bool) -> None:
        """Show what can be done with the chosen one."""
        self._busy = busy
        ui, entry = self._ui, self._chosen()
        ui.trainUnfinishedBox.setVisible(bool(self.entries) and not self._trainer.running)
        if entry is None:
            return
        reason = None
        if busy or self._discarding:
            reason = _("Wait until the present task has ended.")
        elif entry.running:
            reason = _("It runs in another program.")
        resumeReason = reason
        if reason is None and entry.finished:
            resumeReason = _("Its model is there already.")
        elif reason is None and entry.spec is None:
            resumeReason = _("Its settings cannot be read; it can only be discarded.")
        enable(ui.trainResumeButton, resumeReason, _("Go on where it stopped."))
        enable(ui.trainDiscardButton, reason, _("Remove what it had done."))

    def _chosen(self) -> UnfinishedTraining | None:
        index = self._ui.trainUnfinishedSelector.property("currentIndex")
        return self.entries[index] if 0 <= index < len(self.entries) else None

    def _lookAgain(self, *_unused: object) -> None:
        self.look()

    def _chosenChanged(self, *_unused: object) -> None:
        self.refresh(busy=self._busy)

    def _resume(self, *_unused: object) -> None:
        entry = self._chosen()
        if entry is None or entry.spec is None:
            return
        # It may go on elsewhere than where it began: the device decides nothing of the model.
        spec = replace(entry.spec, name=entry.name, device=Settings.device(), restart=False)
        self._onResume(TrainingRequest(model=entry.model, sources=tuple(entry.sources), spec=spec))

    def _discard(self, *_unused: object) -> None:
        entry = self._chosen()
        if entry is None or not self._confirm(
            _("Remove all that the training of {name} had done?").format(name=entry.name)
        ):
            return
        self._discarding = True
        self.refresh(busy=self._busy)

        def answered(event: dict[str, Any]) -> None:
            self._discarding = False
            if self._closed:
                return
            self.look()
            error = outcomeOf(event).error if event["event"] != "result" else None
            self._onDiscarded(_("Discarded.") if error is None else "⚠ " + inOneLine(error))

        self._trainer.worker.submit(
            "training_discard", inputs={"folder": str(entry.folder)}, onEnd=answered
        )


def _described(entry: UnfinishedTraining) -> str:
    if entry.finished:
        return _("{name} (finished, files left)").format(name=entry.name)
    if not entry.epochs_done:
        return _("{name} (embedding)").format(name=entry.name)
    return _("{name} ({done} of {epochs} epochs)").format(
        name=entry.name, done=entry.epochs_done, epochs=entry.epochs or "?"
    )
