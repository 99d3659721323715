"""Which packages are installed, in which versions, and which of those needed are not."""

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, distributions, version

from ..engine.specs import Spec

TORCH = "torch>=2.4,!=2.12.*"
"""Without 2.12, which asks for an older setuptools than Slicer's."""

REQUIREMENTS = (
    TORCH,
    "transformers>=4.56",
    "filelock>=3.12",
    "huggingface-hub>=1.31",
    "jaxtyping>=0.3",
    "matplotlib>=3.8",
    "nibabel>=5.2",
    "rich>=13.7",
    "safetensors>=0.5",
    "scikit-image>=0.24",
    "scikit-learn>=1.5",
    "slicerio>=1.1",
    "truststore>=0.10",
    "typer>=0.15",
)
"""What training and detection need beside Slicer's own packages: Resources/requirements.txt."""


class PackageState(StrEnum):
    """Whether a package can be used."""

    READY = "ready"
    MISSING = "missing"
    OTHER_VERSION = "other-version"
    """Installed, in a version that is not among those needed."""
    BROKEN = "broken"
    """Installed, or left behind in part, and cannot be loaded."""


@dataclass(frozen=True, kw_only=True)
class PackageCheck(Spec):
    """One package: what is needed of it and what was found."""

    package: str
    needed: str
    """The versions that will do, as pip writes them."""
    found: str | None
    """The version that is installed."""
    state: PackageState
    error: str = ""
    """What its import said, where it is broken."""

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}{self.needed}"


def names(requirements: Iterable[str]) -> list[str]:
    """The packages that requirements are about."""
    from packaging.requirements import Requirement

    return [Requirement(one).name for one in requirements]


def installed_version(package: str) -> str | None:
    """The version of a distribution; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def normalized(package: str) -> str:
    """The name in the one spelling that all its spellings share."""
    return re.sub(r"[-_.]+", "-", package).lower()


def installed_versions(folders: Iterable[str] | None = None) -> dict[str, str]:
    """The version of every distribution, by normalized name: on `sys.path`, or in `folders`.

    By the names of their metadata folders alone: to read a hundred of them takes a second.
    """
    found: dict[str, str] = {}
    for folder in sys.path if folders is None else folders:
        try:
            inside = sorted(os.listdir(folder or "."))
        except OSError:
            continue  # an archive, or not there
        for entry in inside:
            name, ending = os.path.splitext(entry)
            package, dash, version_found = name.partition("-")
            if ending not in (".dist-info", ".egg-info") or not dash:
                continue
            # A folder that an interrupted pip left has no metadata.
            metadata = os.path.join(folder, entry, "METADATA")
            if ending == ".dist-info" and not os.path.isfile(metadata):
                continue
            if ending == ".egg-info":
                version_found = version_found.partition("-py")[0]
            # The first on the path is the one that is imported.
            found.setdefault(normalized(package), version_found)
    return found


def modules_of(package: str, folders: Iterable[str] | None = None) -> frozenset[str]:
    """The names under which a distribution is imported; none where it is not installed."""
    where = distributions() if folders is None else distributions(path=list(folders))
    for distribution in where:
        if normalized(distribution.metadata["Name"] or "") == normalized(package):
            named = (distribution.read_text("top_level.txt") or "").split()
            files = (file.parts for file in distribution.files or ())
            found = {parts[0].split(".")[0] for parts in files if parts and parts[0].isprintable()}
            return frozenset(named or {name for name in found if name.isidentifier()})
    return frozenset()


def check_packages(
    installed: Mapping[str, str],
    import_errors: Mapping[str, str] | None = None,
    requirements: Iterable[str] = REQUIREMENTS,
) -> tuple[PackageCheck, ...]:
    """The state of each required package, of versions by normalized name.

    `import_errors` (by package, from a probe) tell those that are there and
    cannot be loaded; without them a package counts by its metadata alone.
    """
    from packaging.requirements import Requirement

    errors = import_errors or {}
    checks = []
    for text in requirements:
        required = Requirement(text)
        found = installed.get(normalized(required.name))
        error = errors.get(required.name, "")
        if error:
            state = PackageState.BROKEN
        elif found is None:
            state = PackageState.MISSING
        elif not required.specifier.contains(found, prereleases=True):
            state = PackageState.OTHER_VERSION
        else:
            state = PackageState.READY
        needed = text.removeprefix(required.name)
        checks.append(
            PackageCheck(
                package=required.name, needed=needed, found=found, state=state, error=error
            )
        )
    return tuple(checks)
