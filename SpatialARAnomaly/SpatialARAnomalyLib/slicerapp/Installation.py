"""One installation of packages into Slicer's Python: its steps, one after the other.

Every version that is there stays: pip is held to them by constraints, and
what was held is compared afterwards.
"""

import importlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CalledProcessError
from typing import Protocol, runtime_checkable

import slicer
from slicer.i18n import tr as _

from ..engine.errors import SetupError, SpatialARError
from ..service.constraints import (
    changed_versions,
    free_to_change,
    held_versions,
    write_constraints,
)
from ..service.install_size import InstallSize
from ..service.kit_manifest import pip_arguments
from ..service.packages import (
    installed_versions,
    modules_of,
)
from ..service.pip_words import cause_of_failure
from .PyTorchExtension import PyTorchExtension
from .Timing import onceTimer

REQUESTER = "SpatialARAnomaly"

PAINT_MS = 100
"""Time for the panel to show what is done, before Slicer stops answering."""

TORCH_PARTS = ("torch", "torchvision")
"""What a repair removes: what the PyTorch extension installs together."""

KEPT_LINES = 200
"""Of pip's words, to find the cause of a failure in."""


@runtime_checkable
class Packaging(Protocol):
    """What is used of `slicer.packaging`."""

    def pip_install(self, requirements: list[str], **options: object) -> object:
        """Install."""

    def pip_uninstall(self, requirements: list[str], **options: object) -> object:
        """Remove."""

    def isPipInstallInProgress(self) -> bool:
        """Whether an installation goes on behind the event loop."""


@runtime_checkable
class TorchSource(Protocol):
    """What is used of `PyTorchExtension`."""

    def isThere(self) -> bool:
        """Whether torch can be had now."""

    def canBeInstalled(self) -> bool:
        """Whether the source itself can be."""

    def install(self) -> bool:
        """Install the source itself."""

    def installTorch(self, requirement: str, constraints: Path) -> None:
        """Install torch."""


def loadedModules() -> set[str]:
    """The packages that Slicer has in memory."""
    return {name.split(".")[0] for name in sys.modules}


@dataclass(frozen=True)
class SitePackages:
    """Where packages are installed: on `sys.path`, or in these folders."""

    folders: tuple[str, ...] | None = None
    loaded: Callable[[], set[str]] = loadedModules

    def versions(self) -> dict[str, str]:
        """What is installed now, also what another process has just installed."""
        return installed_versions(self.folders)

    def modules(self, package: str) -> frozenset[str]:
        """The names under which a package is imported."""
        return modules_of(package, self.folders)


@dataclass(frozen=True, kw_only=True)
class InstallPlan:
    """What is to be installed, and how."""

    requirements: tuple[str, ...]
    """All of it, torch included."""
    size: InstallSize
    repair: bool = False
    """Remove what is left of torch first."""
    kit: Path | None = None
    """An offline kit whose wheels are taken, and nothing else."""

    @property
    def torch(self) -> str | None:
        """The requirement of torch, if it is among them."""
        return next((one for one in self.requirements if _name(one) == "torch"), None)

    @property
    def others(self) -> tuple[str, ...]:
        """The requirements that pip installs itself."""
        return tuple(one for one in self.requirements if self.kit is not None or one != self.torch)


@dataclass(frozen=True, kw_only=True)
class InstallOutcome:
    """What an installation changed."""

    added: tuple[str, ...] = ()
    """Packages that are there now, or in another version."""
    changed: dict[str, tuple[str, str]] = field(default_factory=dict)
    """What was to stay and did not: version before and after."""
    restart: bool = False
    """Slicer has old modules loaded, of what was replaced."""
    error: SpatialARError | None = None


def _name(requirement: str) -> str:
    from packaging.requirements import Requirement

    return Requirement(requirement).name.lower()


class Installation:
    """Installs what a plan says; `onEnd` hears once how it went, `log` every line of pip."""

    def __init__(
        self,
        plan: InstallPlan,
        log: Callable[[str], None],
        onEnd: Callable[[InstallOutcome], None],
        *,
        packaging: Packaging | None = None,
        extension: TorchSource | None = None,
        site: SitePackages | None = None,
    ) -> None:
        self._plan = plan
        self._log = log
        self._onEnd = onEnd
        self._packaging = packaging or importlib.import_module("slicer.packaging")
        self._extension = extension or PyTorchExtension()
        self._site = site or SitePackages()
        self._said: list[str] = []
        self._waiting = False
        self._steps: list[Callable[[], None]] = []
        self._paint = onceTimer(PAINT_MS)
        self._paint.timeout.connect(self._installTorch)

    def start(self) -> None:
        """Begin; raises `OutputError` where no file of constraints can be written."""
        self._before = self._site.versions()
        self._loaded = self._site.loaded()
        self._folder = Path(
            tempfile.mkdtemp(prefix="SpatialARAnomaly-", dir=slicer.app.temporaryPath)
        )
        free = free_to_change(map(_name, self._plan.requirements))
        self._held = held_versions(self._before, free)
        self._constraints = self._folder / "constraints.txt"
        try:
            write_constraints(self._constraints, self._held)
        except SpatialARError:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        if self._plan.repair:
            self._steps.append(self._removeTorch)
        if self._plan.torch is not None and self._plan.kit is None:
            self._steps.append(self._paint.start)
        if self._plan.others:
            self._steps.append(self._installOthers)
        self._next()

    def _next(self) -> None:
        if self._steps:
            self._steps.pop(0)()
        else:
            self._finish(None)

    def _hear(self, line: str) -> None:
        self._said = [*self._said[-KEPT_LINES:], line]
        self._log(line)

    def _removeTorch(self) -> None:
        self._log(_("Removing what is left of PyTorch…"))
        self._pip(self._packaging.pip_uninstall, list(TORCH_PARTS))

    def _installTorch(self) -> None:
        """Through the extension, which returns when torch is there."""
        # Its installer (light-the-torch) may ask for an older pip; pip itself computes nothing.
        held = {name: version for name, version in self._held.items() if name != "pip"}
        constraints = self._folder / "constraints of torch.txt"
        requirement = self._plan.torch[len("torch") :]
        self._log(_("Installing PyTorch; Slicer does not answer meanwhile…"))
        try:
            write_constraints(constraints, held)
            self._extension.installTorch(requirement, constraints)
        except Exception as error:  # of pip, of the extension, of a torch that does not load
            self._hear(f"{type(error).__name__}: {error}")
            self._fail(_("The PyTorch extension could not install PyTorch."))
            return
        if "torch" not in self._site.versions():
            self._fail(_("The PyTorch extension installed no PyTorch."))
            return
        self._next()

    def _installOthers(self) -> None:
        others = self._plan.others
        self._log(_("Installing {packages}…").format(packages=", ".join(map(_name, others))))
        arguments = ["--only-binary=:all:", *others]
        if self._plan.kit is not None:
            arguments = pip_arguments(self._plan.kit, others)
        self._pip(
            self._packaging.pip_install,
            arguments,
            constraints=str(self._constraints),
            show_progress=False,
            requester=REQUESTER,
        )

    def _pip(self, run: Callable[..., object], arguments: list[str], **options: object) -> None:
        """Run pip behind the event loop; with `show_progress` off it shows no dialog of its own."""
        self._waiting = True
        installs = run == self._packaging.pip_install
        try:
            run(
                arguments,
                blocking=False,
                logCallback=self._hear,
                completedCallback=self._pipEnded,
                **options,
            )
        except CalledProcessError as error:
            self._pipEnded(error.returncode)
        except Exception as error:  # another installation is under way, or pip is not there
            self._hear(f"{type(error).__name__}: {error}")
            self._pipEnded(1)
        else:
            # In its testing mode Slicer installs before it returns, and calls nobody back.
            if installs and self._waiting and not self._packaging.isPipInstallInProgress():
                self._pipEnded(0)

    def _pipEnded(self, code: int) -> None:
        if not self._waiting:
            return
        self._waiting = False
        if code:
            self._fail("")
        else:
            self._next()

    def _fail(self, what: str) -> None:
        code, cause, _hint = cause_of_failure(self._said)
        self._finish(SetupError(code, f"{what} {cause}".strip()))

    def _finish(self, error: SpatialARError | None) -> None:
        self._paint.stop()
        after = self._site.versions()
        added = [name for name, version in after.items() if self._before.get(name) != version]
        touched = {*added, *(name for name in self._before if name not in after)}
        changed = changed_versions(self._held, after)
        if self._plan.torch is not None and "pip" in changed:
            self._log(_("pip itself changed from {0} to {1}.").format(*changed.pop("pip")))
        outcome = InstallOutcome(
            added=tuple(sorted(added)),
            changed=changed,
            restart=self._plan.repair or self._areLoaded(touched),
            error=error,
        )
        shutil.rmtree(self._folder, ignore_errors=True)
        self._onEnd(outcome)

    def _areLoaded(self, packages: Iterable[str]) -> bool:
        """Whether Slicer had loaded one of them before it was replaced."""
        return any(self._site.modules(package) & self._loaded for package in packages)
