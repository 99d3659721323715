"""`slicer.packaging`: Python packages a module needs.

A test installs none, but into a Python of its own: while `pip_of_the_test` is
set, `PythonSlicer -m pip` is run, which the test has put on the path.
"""

import importlib.metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement


class InstallationInTestError(RuntimeError):
    """A test came to the point where packages would be installed."""


def _as_requirements(requirements: Any) -> list[Requirement]:
    if isinstance(requirements, str | Requirement):
        requirements = [requirements]
    return [item if isinstance(item, Requirement) else Requirement(item) for item in requirements]


def load_requirements(path: str | Path) -> list[Requirement]:
    """The requirements of a file, one a line; comments and options of pip are left out."""
    lines = (line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def _is_satisfied(requirement: Requirement, extras: frozenset[str]) -> bool:
    if requirement.marker is not None and not any(
        requirement.marker.evaluate({"extra": extra}) for extra in extras or ("",)
    ):
        return True
    try:
        found = importlib.metadata.distribution(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    if not requirement.specifier.contains(found.version, prereleases=True):
        return False
    if not requirement.extras:
        return True
    asked = frozenset(requirement.extras)
    needed = (Requirement(text) for text in found.requires or ())
    return all(_is_satisfied(item, asked) for item in needed if item.marker is not None)


def pip_check(req: Any) -> bool:
    """Return True if the requirements are installed according to their metadata."""
    return all(_is_satisfied(item, frozenset()) for item in _as_requirements(req))


def pip_ensure(
    requirements: Any,
    constraints: Any = None,
    skip_packages: list[str] | None = None,
    prompt_install: bool = True,
    prompt_restart: bool = True,
    requester: str | None = None,
    skip_in_testing: bool = True,
    show_progress: bool = True,
) -> None:
    """Install what is missing, unless tests skip it; asks nothing."""
    import slicer

    missing = [str(item) for item in _as_requirements(requirements) if not pip_check(item)]
    if missing and not (skip_in_testing and slicer.app.testingEnabled()):
        pip_install(missing, constraints=constraints)


pip_of_the_test = False
"""True if `PythonSlicer` is a temporary Python of the test."""


def pip_install(requirements: Any, constraints: Any = None) -> None:
    """Install into the test's own Python before it returns; else an error."""
    if not pip_of_the_test:
        raise InstallationInTestError(f"a test would install {requirements}")
    import slicer

    arguments = ["install", *requirements]
    if constraints is not None:
        arguments += ["-c", str(constraints)]
    slicer.util.executePythonModule("pip", arguments)


def pip_uninstall(requirements: Any) -> None:
    """Remove from the test's own Python; else an error."""
    if not pip_of_the_test:
        raise InstallationInTestError(f"a test would remove {requirements}")
    import slicer

    slicer.util.executePythonModule("pip", ["uninstall", *requirements, "--yes"])


def isPipInstallInProgress() -> bool:
    """False: pip never runs in the background here."""
    return False
