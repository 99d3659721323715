"""What the extension needs of Slicer's Python, what of it is there, and getting the rest.

Nothing here asks or shows: the panel does. Whether a package works is tried in
the worker, never in Slicer's own process.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import (
    SetupError,
    SpatialARError,
)
from SpatialARAnomalyLib.service.setup.doctor import no_torch_reason
from SpatialARAnomalyLib.service.setup.packages import (
    REQUIREMENTS,
    PackageCheck,
    PackageState,
    check_packages,
    estimate,
    free_bytes,
    has_nvidia_driver,
    names,
)
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.setup.Installation import (
    InstallOutcome,
    InstallPlan,
    Packaging,
    PyTorchExtension,
    SitePackages,
    TorchSource,
    installPackages,
)
from SpatialARAnomalyLib.slicerapp.wording.Calibration import sizeText
from SpatialARAnomalyLib.slicerapp.wording.Errors import errorOf
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import Event

CRASHES = ("worker-died", "worker-silent", "worker-garbage")
"""How a probe ends where a package takes its process down."""


@runtime_checkable
class Worker(Protocol):
    """What is used of `WorkerProcess`."""

    busy: bool

    def submit(
        self,
        job: str,
        *,
        inputs: dict[str, Any] | None = None,
        onEnd: Callable[[Event], None],
        onEvent: Callable[[Event], None] = lambda event: None,
    ) -> int:
        """Give it a job."""

    def hold(self, reason: str) -> None:
        """End it and start none."""

    def release(self) -> None:
        """Let it start again."""

    def restartWhenIdle(self) -> None:
        """Go on in a new process, once what runs has ended."""


class Dependencies:
    """The state of the packages, and what changes it; one thing at a time."""

    def __init__(
        self,
        worker: Worker,
        isBusy: Callable[[], bool] = lambda: False,
        *,
        others: Sequence[Worker] = (),
        packaging: Packaging | None = None,
        extension: TorchSource | None = None,
        site: SitePackages | None = None,
        freeBytes: Callable[[], int | None] = free_bytes,
        nameTorchProblem: Callable[[], str] = no_torch_reason,
    ) -> None:
        self._worker = worker
        self._isBusy = isBusy
        self._workers = (worker, *others)
        self._packaging = packaging
        self.extension = extension or PyTorchExtension()
        self._site = site or SitePackages()
        self._freeBytes = freeBytes
        self._nameTorchProblem = nameTorchProblem
        self._checking = False
        self._installing = False
        self.probed: dict[str, Any] | None = None
        """What the last probe said; None before one, or where its process died."""
        self._crash = ""
        self._checks: tuple[PackageCheck, ...] | None = None

    @property
    def checking(self) -> bool:
        """Whether the worker is at work for us."""
        return self._checking

    @property
    def installing(self) -> bool:
        """Whether packages are being installed."""
        return self._installing

    @property
    def inUse(self) -> bool:
        """Whether a task of any section needs the packages now."""
        return self._isBusy() or any(worker.busy for worker in self._workers)

    @property
    def external(self) -> bool:
        """Whether another Python than Slicer's computes, whose packages are the user's own."""
        return bool(Settings.workerPython())

    def checks(self) -> tuple[PackageCheck, ...]:
        """The state of each package, as far as it is known: by metadata until it was tried."""
        if self._checks is None:
            self._checks = self._look()
        return self._checks

    def lookAgain(self) -> None:
        """Forget what was seen of the disk: others may have installed something."""
        self._checks = None

    def _look(self) -> tuple[PackageCheck, ...]:
        if self.probed is not None:
            packages = self.probed["packages"]
            versions = {name: one for name, one in packages.items() if one is not None}
            return check_packages(versions, self.probed["import_errors"])
        versions = {} if self.external else self._site.versions(names(REQUIREMENTS))
        crashed = self._crash and "torch" in versions
        return check_packages(versions, {"torch": self._crash} if crashed else {})

    def missing(self) -> tuple[PackageCheck, ...]:
        """The packages that cannot be used."""
        return tuple(one for one in self.checks() if one.state is not PackageState.READY)

    def torchIsBroken(self) -> bool:
        """Whether there is a torch that cannot be loaded."""
        return any(
            one.package == "torch" and one.state is PackageState.BROKEN for one in self.missing()
        )

    def check(self, onEnd: Callable[[SpatialARError | None], None]) -> None:
        """Try all packages in the worker."""
        self.probed, self._crash, self._checks = None, "", None

        def answered(event: Event) -> None:
            self._checking, self._checks = False, None
            if event["event"] == "result":
                self.probed = event
                onEnd(None)
                return
            if event.get("code") in CRASHES:
                self._crash = str(event.get("text"))
            onEnd(_errorOf(event))

        self._checking = True  # before: a worker that cannot start says so at once
        self._worker.submit("probe", onEnd=answered)

    def restartWorkers(self) -> None:
        """Run in the Python that is chosen now, once what runs has ended."""
        self.probed, self._crash, self._checks = None, "", None
        for worker in self._workers:
            worker.restartWhenIdle()

    def nameInstallProblem(self) -> str | None:
        """Why nothing can be installed now; None if it can."""
        if self.installing:
            return _("Packages are being installed.")
        if self.external:
            return _(
                "Another Python than Slicer's computes (see below). Install the packages there: "
                "pip install spatial-ar-anomaly[torch]"
            )
        if self._nameTorchProblem():
            return self._nameTorchProblem()
        if self.checking:
            return _("The packages are being tried.")
        if self.inUse:
            return _("Wait for the running task, or cancel it: the packages are in use.")
        return None

    def nameTorchProblem(self) -> str:
        """The sentence for a platform that has no PyTorch; '' for all others."""
        return self._nameTorchProblem()

    def plan(self, *, repair: bool = False) -> InstallPlan | None:
        """What is to be installed now; None if there is nothing. `repair` replaces torch."""
        checks = [
            one
            for one in self.checks()
            if one.state is not PackageState.READY or (repair and one.package == "torch")
        ]
        if not checks:
            return None
        repair = repair or any(
            one.package == "torch" and one.state is not PackageState.MISSING for one in checks
        )
        return InstallPlan(
            requirements=tuple(one.requirement for one in checks),
            size=estimate([one.package for one in checks], cuda=has_nvidia_driver()),
            repair=repair,
        )

    def kitPlan(self, kit: Path, requirements: list[str]) -> InstallPlan | None:
        """What of a verified kit is to be installed; None if all of it is there."""
        unusable = {one.package for one in self.missing()}
        checks = [
            one
            for one in check_packages(
                self._site.versions(names(requirements)), requirements=requirements
            )
            if one.state is not PackageState.READY or one.package in unusable
        ]
        if not checks:
            return None
        return InstallPlan(
            requirements=tuple(one.requirement for one in checks),
            size=estimate([one.package for one in checks], cuda=has_nvidia_driver()),
            repair=self.torchIsBroken(),
            kit=kit,
        )

    def question(self, plan: InstallPlan) -> str:
        """The one question: what, how large, and what stays as it is."""
        names = ", ".join(plan.requirements)
        free = self._freeBytes()
        sentences = [
            _("These Python packages are to be installed into Slicer: {names}.").format(names=names)
        ]
        if plan.kit is None:
            sentences.append(
                _("About {size} are downloaded; {disk} of disk are needed.").format(
                    size=sizeText(plan.size.download_bytes), disk=sizeText(plan.size.disk_bytes)
                )
            )
        else:
            sentences.append(
                _("They come from the folder; about {disk} of disk are needed.").format(
                    disk=sizeText(plan.size.disk_bytes)
                )
            )
        if free is not None:
            sentences.append(_("{free} are free.").format(free=sizeText(free)))
        if plan.repair:
            sentences.append(_("What is there of PyTorch is removed first."))
        if plan.torch is not None and plan.kit is None:
            if self.extension.isThere():
                sentences.append(
                    _("PyTorch comes through the PyTorch extension; Slicer does not answer then.")
                )
            else:
                sentences.append(
                    _("Slicer's PyTorch extension is installed first; Slicer restarts for it.")
                )
        sentences.append(_("Packages that Slicer brings are not changed. Install?"))
        return "\n\n".join([sentences[0], " ".join(sentences[1:-1]), sentences[-1]])

    def nameDiskProblem(self, plan: InstallPlan) -> str | None:
        """Why the disk is too small for a plan; None if it is not."""
        free = self._freeBytes()
        if free is None or free >= plan.size.disk_bytes:
            return None
        return _("{needed} of disk are needed; {free} are free. Free some room first.").format(
            needed=sizeText(plan.size.disk_bytes), free=sizeText(free)
        )

    def install(
        self,
        plan: InstallPlan,
        log: Callable[[str], None],
        onEnd: Callable[[InstallOutcome], None],
    ) -> None:
        """Install, then try the packages in a new worker; `onEnd` is called once, after both.

        Raises `SetupError` `install-not-now` where `nameInstallProblem` says so, `busy`
        while another module installs packages, and `OutputError`.
        """
        reason = self.nameInstallProblem()
        if reason is not None:
            raise SetupError("install-not-now", reason)
        self._installing = True
        for worker in self._workers:
            worker.hold(_("Python packages are being installed; try again when they are."))
        try:
            outcome = installPackages(
                plan, log, packaging=self._packaging, extension=self.extension, site=self._site
            )
        finally:
            self._installing, self._checks = False, None
            for worker in self._workers:
                worker.release()
        self.check(lambda error: onEnd(outcome))

    def verifyKit(
        self,
        kit: Path,
        onEvent: Callable[[Event], None],
        onEnd: Callable[[Event | None, SpatialARError | None], None],
    ) -> None:
        """Check every file of an offline kit in the worker; what it holds, or what is wrong."""
        self._submitKit("kit_verify", kit, onEvent, onEnd)

    def installWeights(
        self,
        kit: Path,
        onEvent: Callable[[Event], None],
        onEnd: Callable[[Event | None, SpatialARError | None], None],
    ) -> None:
        """Put a kit's weights where the hub's are, and load each."""
        self._submitKit("kit_weights", kit, onEvent, onEnd)

    def _submitKit(
        self,
        job: str,
        kit: Path,
        onEvent: Callable[[Event], None],
        onEnd: Callable[[Event | None, SpatialARError | None], None],
    ) -> None:
        def answered(event: Event) -> None:
            self._checking = False
            if event["event"] == "result":
                onEnd(event, None)
            else:
                onEnd(None, _errorOf(event))

        self._checking = True
        self._worker.submit(job, inputs={"kit": str(kit)}, onEvent=onEvent, onEnd=answered)


def _errorOf(event: Event) -> SpatialARError:
    if event["event"] == "cancelled":
        return SetupError("cancelled", _("Cancelled."))
    return errorOf(event)
