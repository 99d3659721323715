"""The worker jobs of a section: progress, cancelling, and the status at their end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.slicerapp.QtHelpers import doNothing
from SpatialARAnomalyLib.slicerapp.tasks.Detection import outcomeOf
from SpatialARAnomalyLib.slicerapp.wording.Errors import inOneLine, isMissingPackage
from SpatialARAnomalyLib.slicerapp.worker.Progress import Progress, progressCallback, showShare
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import Event, WorkerProcess


class JobRunner:
    """Runs one job at a time; `onChange` is called when one begins, is cancelled or ends."""

    def __init__(
        self,
        bar: "qt.QProgressBar",
        showStatus: Callable[[str], None],
        log: Callable[[str], None],
        onChange: Callable[[], None],
    ) -> None:
        self._bar = bar
        self._showStatus = showStatus
        self._log = log
        self._onChange = onChange
        self.onMissingPackage: Callable[[], None] = doNothing
        self._cancelJob: Callable[[], None] | None = None
        self._closed = False
        self.cancelling = False

    @property
    def busy(self) -> bool:
        """True while a job is running."""
        return self._cancelJob is not None

    def run(
        self,
        worker: WorkerProcess,
        job: str,
        inputs: dict[str, Any],
        onResult: Callable[[Event], str],
        *,
        spec: dict[str, Any] | None = None,
        output: Path | None = None,
        status: str = "",
        cancelled: str = "",
        onEvent: Callable[[Event], None] = doNothing,
        onError: Callable[[SpatialARError], bool] = lambda error: False,
    ) -> None:
        """Run a job; `status` is shown until the first progress, `cancelled` after a cancel.

        `onEvent` gets every event before the last. `onResult` gets the result and returns the
        status text; `onError` gets the error and returns whether it handled it.
        """

        def showProgress(progress: Progress) -> None:
            if not self.cancelling and not self._closed:
                showShare(self._bar, progress.share)
                self._showStatus(progress.text)

        reportProgress = progressCallback(showProgress)

        def receive(event: Event) -> None:
            reportProgress(event)
            onEvent(event)

        def end(event: Event) -> None:
            self._cancelJob, self.cancelling = None, False
            if self._closed:
                return
            if event["event"] == "result":
                self._showStatus(onResult(event))
            else:
                error = outcomeOf(event).error
                if error is None:
                    self._showStatus(cancelled or _("Cancelled. Nothing was changed."))
                else:
                    self._showError(job, error, onError)
            self._onChange()

        self._showStatus(status)
        self._bar.setValue(0)
        self._cancelJob = doNothing
        number = worker.submit(
            job,
            inputs=inputs,
            spec=spec or {},
            output=output,
            onEvent=receive,
            onEnd=end,
        )
        # The job has ended already if the process could not be started.
        if self.busy:
            self._cancelJob = lambda: worker.cancel(number)
        self._onChange()

    def _showError(
        self, job: str, error: SpatialARError, onError: Callable[[SpatialARError], bool]
    ) -> None:
        if not onError(error):
            self._log(f"{job} failed: {error.code}")
            self._showStatus("⚠ " + inOneLine(error))
            if isMissingPackage(error):
                self.onMissingPackage()

    def cancel(self) -> None:
        """Cancel the running job."""
        if self._cancelJob is not None and not self.cancelling:
            self.cancelling = True
            self._showStatus(_("Cancelling…"))
            self._cancelJob()
            self._onChange()

    def close(self) -> None:
        """Cancel the running job and call nothing any more."""
        self._closed = True
        if self._cancelJob is not None:
            self._cancelJob()
