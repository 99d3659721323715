"""The one that trains in this Slicer: its worker outlives panel, scene and reload of the module."""

from collections.abc import Callable

import slicer
from slicer.i18n import tr as _

from ..engine.errors import InputError
from .QuitQuestion import QuitQuestion
from .Training import Training, TrainingRequest
from .WorkerProcess import WorkerProcess
from .WorkFolder import WorkFolder

PLACE = "spatialARAnomalyTrainer"
"""Where Slicer keeps it: a reload forgets all modules of ours, and must not stop a training."""


def sharedTrainer() -> "Trainer":
    """The trainer; its process starts with its first job."""
    trainer = getattr(slicer.modules, PLACE, None)
    if trainer is None:
        trainer = Trainer(WorkerProcess())
        setattr(slicer.modules, PLACE, trainer)
        slicer.app.connect("aboutToQuit()", trainer.stop)
    return trainer


def _unheard() -> None:
    """Where there is no panel."""


def _notLogged(text: str) -> None:
    """Where there is no panel."""


class Trainer:
    """Runs one training at a time, in a worker process that does nothing else but surveys.

    `onChange` hears that something is different with the training, also that it has ended.
    """

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker
        self.onChange: Callable[[], None] = _unheard
        self.confirmQuit: Callable[[str], bool] = slicer.util.confirmYesNoDisplay
        self.training: Training | None = None
        """The one that runs, or the last one."""
        self._question: QuitQuestion | None = None
        self._left: WorkFolder | None = None

    @property
    def running(self) -> bool:
        """Whether a training has not ended."""
        return self.training is not None and self.training.running

    def train(self, request: TrainingRequest) -> Training:
        """Begin a training; raises `InputError` while another runs."""
        if self.running:
            raise InputError("busy", _("Another training is running."))
        self._watchWindow()
        self.training = None
        self.training = Training(request, self.worker, self._changed)
        return self.training

    def detach(self) -> None:
        """There is no panel to tell any more; the training goes on."""
        self.onChange = _unheard
        self.worker.log = _notLogged

    def stop(self) -> None:
        """End the worker, when Slicer quits; what was done is kept."""
        self.detach()
        self.worker.stop()

    def leave(self, files: WorkFolder) -> None:
        """Remove files that nobody else needs, once the training that reads them has ended."""
        if self.running and self.training.request.files is files:
            self._left = files
        else:
            files.remove()

    def _changed(self) -> None:
        if not self.running and self._left is not None:
            self._left.remove()
            self._left = None
        self.onChange()

    def _watchWindow(self) -> None:
        window = slicer.util.mainWindow()
        if self._question is None and window is not None:
            self._question = QuitQuestion(window, self._mayQuit)

    def _mayQuit(self) -> bool:
        return not self.running or self.confirmQuit(
            _(
                "A training is running and will stop. What it has done is kept: it can be "
                "resumed under Train. Quit all the same?"
            )
        )
