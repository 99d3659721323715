"""The extension's Python packages in Slicer: their state, and the installation of missing ones.

This module shows nothing and opens no dialogs: the panel does. Packages are tried
in the worker, never in Slicer's own process.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import SetupError, SpatialARError
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
"""Error codes of a probe whose process was ended by a package."""

KitEnd = Callable[[Event | None, SpatialARError | None], None]
"""Receives the result of a job on an offline kit, or its error."""


@runtime_checkable
class Worker(Protocol):
    """The methods used of `WorkerProcess`."""

    busy: bool

    def submit(
        self,
        job: str,
        *,
        inputs: dict[str, Any] | None = None,
        onEnd: Callable[[Event], None],
        onEvent: Callable[[Event], None] = lambda event: None,
    ) -> int:
        """Submit a job."""

    def hold(self, reason: str) -> None:
        """End the process, and refuse jobs with a reason."""

    def release(self) -> None:
        """Accept jobs again."""

    def restartWhenIdle(self) -> None:
        """Use a new process after the running jobs."""


class Dependencies:
    """The state of the packages; checks them and installs missing ones, one job at a time."""

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
        self.checking = False
        """True while the worker is checking packages or a kit."""
        self.installing = False
        """True while packages are being installed."""
        self.probed: dict[str, Any] | None = None
        """Result of the last probe; None before the first, and after one that crashed."""
        self._crash = ""
        self._checks: tuple[PackageCheck, ...] | None = None

    @property
    def inUse(self) -> bool:
        """True while a task of any section is using the packages."""
        return self._isBusy() or any(worker.busy for worker in self._workers)

    @property
    def external(self) -> bool:
        """True if the user chose another Python than Slicer's, with its own packages."""
        return bool(Settings.workerPython())

    def checks(self) -> tuple[PackageCheck, ...]:
        """Return the state of each package; until it was tried, by its metadata."""
        if self._checks is None:
            self._checks = self._checkPackages()
        return self._checks

    def lookAgain(self) -> None:
        """Read the metadata again at the next check: other programs may install packages."""
        self._checks = None

    def _checkPackages(self) -> tuple[PackageCheck, ...]:
        if self.probed is not None:
            packages = self.probed["packages"]
            versions = {name: one for name, one in packages.items() if one is not None}
            return check_packages(versions, self.probed["import_errors"])
        versions = {} if self.external else self._site.versions(names(REQUIREMENTS))
        crashed = self._crash and "torch" in versions
        return check_packages(versions, {"torch": self._crash} if crashed else {})

    def missing(self) -> tuple[PackageCheck, ...]:
        """Return the packages that cannot be used."""
        return tuple(one for one in self.checks() if one.state is not PackageState.READY)

    def torchIsBroken(self) -> bool:
        """Return whether torch is installed but cannot be loaded."""
        return any(
            one.package == "torch" and one.state is PackageState.BROKEN for one in self.missing()
        )

    def check(self, onEnd: Callable[[SpatialARError | None], None]) -> None:
        """Try all packages in the worker."""
        self._forget()

        def finish(event: Event) -> None:
            self.checking, self._checks = False, None
            if event["event"] == "result":
                self.probed = event
                onEnd(None)
                return
            if event.get("code") in CRASHES:
                self._crash = str(event.get("text"))
            onEnd(_errorOf(event))

        self.checking = True  # a worker that cannot start may call `finish` at once
        self._worker.submit("probe", onEnd=finish)

    def _forget(self) -> None:
        self.probed, self._crash, self._checks = None, "", None

    def restartWorkers(self) -> None:
        """Restart idle workers in the Python chosen now, and busy ones after their jobs."""
        self._forget()
        for worker in self._workers:
            worker.restartWhenIdle()

    def nameInstallProblem(self) -> str | None:
        """Return why nothing can be installed now, or None."""
        if self.installing:
            return _("Packages are being installed.")
        if self.external:
            return _(
                "Another Python is chosen below. Install the packages there: "
                "pip install spatial-ar-anomaly[torch]"
            )
        if self._nameTorchProblem():
            return self._nameTorchProblem()
        if self.checking:
            return _("The packages are being checked.")
        if self.inUse:
            return _("Wait for the running task, or cancel it: the packages are in use.")
        return None

    def nameTorchProblem(self) -> str:
        """Return why this platform has no PyTorch, or ''."""
        return self._nameTorchProblem()

    def plan(self, *, repair: bool = False) -> InstallPlan | None:
        """Plan the installation of what is missing; None if nothing is. `repair` replaces torch."""
        checks = [
            one
            for one in self.checks()
            if one.state is not PackageState.READY or (repair and one.package == "torch")
        ]
        repair = repair or any(
            one.package == "torch" and one.state is not PackageState.MISSING for one in checks
        )
        return _makePlan(checks, repair=repair)

    def kitPlan(self, kit: Path, requirements: list[str]) -> InstallPlan | None:
        """Plan the installation of a verified kit; None if all of it is installed."""
        unusable = {one.package for one in self.missing()}
        versions = self._site.versions(names(requirements))
        checks = [
            one
            for one in check_packages(versions, requirements=requirements)
            if one.state is not PackageState.READY or one.package in unusable
        ]
        return _makePlan(checks, repair=self.torchIsBroken(), kit=kit)

    def question(self, plan: InstallPlan) -> str:
        """Return the question before an installation: packages, sizes, what stays unchanged."""
        size, disk = sizeText(plan.size.download_bytes), sizeText(plan.size.disk_bytes)
        free = self._freeBytes()
        if plan.kit is None:
            details = [
                _("About {size} are downloaded; {disk} of disk are needed.").format(
                    size=size, disk=disk
                )
            ]
        else:
            text = _("They come from the folder; about {disk} of disk are needed.")
            details = [text.format(disk=disk)]
        if free is not None:
            details.append(_("{free} are free.").format(free=sizeText(free)))
        if plan.repair:
            details.append(_("The installed PyTorch is removed first."))
        if plan.torch is not None and plan.kit is None:
            details.append(
                _("The PyTorch extension installs PyTorch; Slicer does not respond meanwhile.")
                if self.extension.isThere()
                else _("Slicer's PyTorch extension is installed first; then Slicer restarts.")
            )
        paragraphs = (
            _("These Python packages will be installed into Slicer: {names}.").format(
                names=", ".join(plan.requirements)
            ),
            " ".join(details),
            _("Packages that Slicer brings are not changed. Install?"),
        )
        return "\n\n".join(paragraphs)

    def nameDiskProblem(self, plan: InstallPlan) -> str | None:
        """Return that the disk is too small for a plan, or None."""
        free = self._freeBytes()
        if free is None or free >= plan.size.disk_bytes:
            return None
        return _("{needed} of disk are needed; {free} are free. Free disk space first.").format(
            needed=sizeText(plan.size.disk_bytes), free=sizeText(free)
        )

    def install(
        self,
        plan: InstallPlan,
        log: Callable[[str], None],
        onEnd: Callable[[InstallOutcome], None],
    ) -> None:
        """Install, check the packages in a new worker, then call `onEnd`.

        Raises `SetupError` `install-not-now` if `nameInstallProblem` returns a reason, `busy`
        while another module installs packages, and `OutputError`.
        """
        reason = self.nameInstallProblem()
        if reason is not None:
            raise SetupError("install-not-now", reason)
        self.installing = True
        for worker in self._workers:
            worker.hold(_("Python packages are being installed; try again afterwards."))
        try:
            outcome = installPackages(
                plan, log, packaging=self._packaging, extension=self.extension, site=self._site
            )
        finally:
            self.installing, self._checks = False, None
            for worker in self._workers:
                worker.release()
        self.check(lambda error: onEnd(outcome))

    def verifyKit(self, kit: Path, onEvent: Callable[[Event], None], onEnd: KitEnd) -> None:
        """Check every file of an offline kit in the worker; the result lists its contents."""
        self._submitKit("kit_verify", kit, onEvent, onEnd)

    def installWeights(self, kit: Path, onEvent: Callable[[Event], None], onEnd: KitEnd) -> None:
        """Copy a kit's weights into the hub's cache, and load each, in the worker."""
        self._submitKit("kit_weights", kit, onEvent, onEnd)

    def _submitKit(
        self, job: str, kit: Path, onEvent: Callable[[Event], None], onEnd: KitEnd
    ) -> None:
        def finish(event: Event) -> None:
            self.checking = False
            if event["event"] == "result":
                onEnd(event, None)
            else:
                onEnd(None, _errorOf(event))

        self.checking = True
        self._worker.submit(job, inputs={"kit": str(kit)}, onEvent=onEvent, onEnd=finish)


def _makePlan(
    checks: Sequence[PackageCheck], *, repair: bool, kit: Path | None = None
) -> InstallPlan | None:
    if not checks:
        return None
    return InstallPlan(
        requirements=tuple(one.requirement for one in checks),
        size=estimate([one.package for one in checks], cuda=has_nvidia_driver()),
        repair=repair,
        kit=kit,
    )


def _errorOf(event: Event) -> SpatialARError:
    if event["event"] == "cancelled":
        return SetupError("cancelled", _("Cancelled."))
    return errorOf(event)
