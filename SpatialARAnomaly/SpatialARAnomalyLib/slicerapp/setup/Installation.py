"""Installation of packages into Slicer's Python, by Slicer's own means.

`slicer.packaging.pip_ensure` installs with Slicer's progress dialog, and the
PyTorch extension installs torch. Neither takes pip's options, so environment
variables constrain both to the installed versions, which are compared afterwards.
"""

import importlib
import io
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import SetupError, SpatialARError
from SpatialARAnomalyLib.service.setup.kit_manifest import WHEELS
from SpatialARAnomalyLib.service.setup.packages import (
    InstallSize,
    cause_of_failure,
    changed_versions,
    held_versions,
    installed_versions,
    names,
    write_constraints,
)

REQUESTER = "SpatialARAnomaly"
"""Title of Slicer's progress dialog."""

TORCH_PARTS = ("torch", "torchvision")
"""Packages that the PyTorch extension installs together, and a repair removes."""


@runtime_checkable
class Packaging(Protocol):
    """The functions used of `slicer.packaging`."""

    def pip_ensure(self, requirements: list[str], **options: object) -> object:
        """Install what is missing; raises `CalledProcessError` if pip fails."""

    def pip_uninstall(self, requirements: list[str], **options: object) -> object:
        """Remove packages."""

    def isPipInstallInProgress(self) -> bool:
        """Return whether another module is installing packages."""


@runtime_checkable
class TorchSource(Protocol):
    """The methods of `PyTorchExtension`."""

    def isThere(self) -> bool:
        """Return whether the extension is loaded."""

    def canBeInstalled(self) -> bool:
        """Return whether this Slicer can install the extension."""

    def install(self) -> bool:
        """Install the extension."""

    def installTorch(self, requirement: str) -> None:
        """Install torch."""


@dataclass(frozen=True)
class SitePackages:
    """The installed packages: on `sys.path`, or in these folders."""

    folders: tuple[str, ...] | None = None

    def versions(self, packages: Iterable[str] = ()) -> dict[str, str]:
        """Return the installed versions of these packages, or of all."""
        return installed_versions(self.folders, packages)


@dataclass(frozen=True, kw_only=True)
class InstallPlan:
    """An installation to do."""

    requirements: tuple[str, ...]
    """All requirements, including torch."""
    size: InstallSize
    repair: bool = False
    """Remove torch first."""
    kit: Path | None = None
    """Offline kit to take all wheels from, instead of a package index."""

    @property
    def torch(self) -> str | None:
        """The requirement of torch, if it is one of them."""
        found = zip(self.requirements, names(self.requirements), strict=True)
        return next((requirement for requirement, name in found if name == "torch"), None)

    @property
    def others(self) -> tuple[str, ...]:
        """The requirements that pip installs itself."""
        return tuple(one for one in self.requirements if self.kit is not None or one != self.torch)


@dataclass(frozen=True, kw_only=True)
class InstallOutcome:
    """The changes of an installation."""

    added: tuple[str, ...] = ()
    """Packages that are new or have another version."""
    changed: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Versions before and after of packages that should not have changed."""
    restart: bool = False
    """True if Slicer may have the removed torch in memory."""
    error: SpatialARError | None = None


def installPackages(
    plan: InstallPlan,
    log: Callable[[str], None],
    *,
    packaging: Packaging | None = None,
    extension: TorchSource,
    site: SitePackages,
) -> InstallOutcome:
    """Carry out a plan that the user agreed to; `log` receives every line that pip prints.

    Slicer shows the progress, and pip's log after a failure. `packaging` is by default
    `slicer.packaging`. Raises `SetupError` `busy` while another module installs packages, and
    `OutputError` if the constraints cannot be written; nothing was changed then.
    """
    packaging = packaging or importlib.import_module("slicer.packaging")
    if packaging.isPipInstallInProgress():
        raise SetupError("busy", _("Another module is installing packages; wait for it."))
    before = site.versions()
    held = held_versions(before, names(plan.requirements))
    held.pop("pip", None)  # the extension's installer (light-the-torch) needs an older one
    printed: list[str] = []

    def append(line: str) -> None:
        printed.append(line)
        log(line)

    with tempfile.TemporaryDirectory(
        prefix="SpatialARAnomaly-", dir=slicer.app.temporaryPath, ignore_cleanup_errors=True
    ) as folder:
        constraints = Path(folder) / "constraints.txt"
        write_constraints(constraints, held)
        with redirect_stdout(_Lines(append)), _pipEnvironment(constraints, plan.kit):
            failure = _installAll(plan, append, packaging, extension, site)
    error = None
    if failure is not None:
        code, cause = cause_of_failure(printed)
        error = SetupError(code, f"{failure} {cause}".strip())
    after = site.versions()
    return InstallOutcome(
        added=tuple(sorted(name for name in after if before.get(name) != after[name])),
        changed=changed_versions(held, after),
        restart=plan.repair,
        error=error,
    )


def _installAll(
    plan: InstallPlan,
    log: Callable[[str], None],
    packaging: Packaging,
    extension: TorchSource,
    site: SitePackages,
) -> str | None:
    """Do the steps of a plan; return None, '' if pip failed, or what else failed."""
    failure = ""
    try:
        if plan.repair:
            log(_("Removing PyTorch…"))
            packaging.pip_uninstall(list(TORCH_PARTS))
        if plan.torch is not None and plan.kit is None:
            log(_("Installing PyTorch; Slicer does not respond meanwhile…"))
            failure = _("The PyTorch extension could not install PyTorch.")
            extension.installTorch(plan.torch.removeprefix("torch"))
            if "torch" not in site.versions(["torch"]):
                return failure
            failure = ""
        if plan.others:
            log(_("Installing {packages}…").format(packages=", ".join(names(plan.others))))
            packaging.pip_ensure(
                list(plan.others),
                prompt_install=False,  # the panel has asked, with more details
                prompt_restart=not plan.repair,  # after a repair the panel asks
                requester=REQUESTER,
                skip_in_testing=False,
            )
    except Exception as error:  # from pip, the extension or a torch that cannot be loaded
        log(f"{type(error).__name__}: {error}")
        return failure
    return None


class _Lines(io.TextIOBase):
    """A stdout that also passes the lines printed by this thread to a function."""

    def __init__(self, onLine: Callable[[str], None]) -> None:
        self._onLine, self._stdout, self._rest = onLine, sys.stdout, ""
        self._thread = threading.get_ident()

    def write(self, text: str) -> int:
        """Write to stdout; lines of other threads go only there: widgets are not thread-safe."""
        self._stdout.write(text)
        if threading.get_ident() == self._thread:
            *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                self._onLine(line)
        return len(text)


@contextmanager
def _pipEnvironment(constraints: Path, kit: Path | None) -> Iterator[None]:
    """Set options for every pip that starts within the context."""
    # As URIs: pip splits the variables at spaces.
    ours = {"PIP_CONSTRAINT": constraints.as_uri(), "PIP_ONLY_BINARY": ":all:"}
    if kit is not None:
        ours |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": (kit / WHEELS).absolute().as_uri()}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


NAME = "PyTorch"
"""Name of the PyTorch extension in the Extensions Manager."""


class PyTorchExtension:
    """Slicer's PyTorch extension, which installs torch; it can be installed itself."""

    def isThere(self) -> bool:
        """Return whether the extension is installed and loaded."""
        return self._utilities() is not None

    def canBeInstalled(self) -> bool:
        """Return whether this Slicer has an Extensions Manager."""
        return self._manager() is not None

    def install(self) -> bool:
        """Install the extension without further questions; it is loaded after a restart.

        Blocks Slicer for some seconds, with a network.
        """
        manager = self._manager()
        if manager is None:
            return False
        manager.interactive = False
        try:
            return bool(manager.installExtensionFromServer(NAME, False))
        finally:
            manager.interactive = True

    def installTorch(self, requirement: str) -> None:
        """Install torch, in the build for this machine and a version such as `>=2.4`.

        Blocks Slicer, and raises any error of the extension.
        """
        self._utilities().installTorch(askConfirmation=False, torchVersionRequirement=requirement)

    def _utilities(self) -> object | None:
        try:
            from PyTorchUtils import PyTorchUtilsLogic
        except ImportError:
            return None
        return PyTorchUtilsLogic()

    def _manager(self) -> object | None:
        model = getattr(slicer.app, "extensionsManagerModel", None)
        return model() if model is not None else None
