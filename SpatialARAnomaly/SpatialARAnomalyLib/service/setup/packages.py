"""Python packages: the required ones, their state, the size of an installation, constraints.

A Slicer whose numpy, SimpleITK or requests was replaced may not start any more:
pip gets the installed versions as constraints. `packaging` is imported inside
functions, so that this module loads with the standard library alone.
"""

import codecs
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib import invalidate_caches
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

from SpatialARAnomalyLib.engine.errors import SetupError
from SpatialARAnomalyLib.engine.files import unwritable
from SpatialARAnomalyLib.engine.specs import Spec

REQUIREMENTS = (
    "torch>=2.4,!=2.12.*",  # 2.12 needs an older setuptools than Slicer 5.12 has
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
"""Packages that training and detection need in addition to those that Slicer brings."""

PARTS = {
    "torch": ("torchvision", "torchaudio", "torchtext", "triton", "pytorch-triton"),
    "transformers": ("tokenizers", "huggingface-hub", "hf-xet"),
    "huggingface-hub": ("transformers", "tokenizers", "hf-xet"),
    "slicerio": ("pynrrd",),
}
"""Packages that may change with a required one, by its name; Slicer brings none of them."""

TORCH_PREFIXES = ("nvidia-", "cuda-", "pytorch-triton-")
"""Name prefixes of CUDA libraries that may change with torch."""


class PackageState(StrEnum):
    """State of a package: usable, or the reason why not."""

    READY = "ready"
    MISSING = "missing"
    OTHER_VERSION = "other-version"
    """Installed in a version that the requirement excludes."""
    BROKEN = "broken"
    """Installed completely or in part, but cannot be imported."""


@dataclass(frozen=True, kw_only=True)
class PackageCheck(Spec):
    """State of one required package."""

    package: str
    needed: str
    """Version specifier, such as `>=2.4,!=2.12.*`."""
    found: str | None
    """Installed version."""
    state: PackageState
    error: str = ""
    """Error of its import, if it is broken."""

    @property
    def requirement(self) -> str:
        """Package and specifier in pip's form."""
        return f"{self.package}{self.needed}"


def names(requirements: Iterable[str]) -> list[str]:
    """Return the package names of requirements."""
    from packaging.requirements import Requirement

    return [Requirement(one).name for one in requirements]


def installed_version(package: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def installed_versions(
    folders: Iterable[str] | None = None, packages: Iterable[str] = ()
) -> dict[str, str]:
    """Return the versions of installed distributions by normalized name.

    Args:
        folders: Folders to search; by default `sys.path`.
        packages: Packages to look up; by default all, which reads a hundred files.
    """
    from packaging.utils import canonicalize_name

    invalidate_caches()  # another process may have installed something
    path = sys.path if folders is None else list(folders)
    found: dict[str, str] = {}
    for package in tuple(packages) or (None,):
        for one in distributions(name=package, path=path):
            try:
                name = one.metadata["Name"]
            except FileNotFoundError:  # of the package importlib_metadata, which Dask loads
                continue
            if name:  # None in a folder left by an interrupted pip
                found.setdefault(canonicalize_name(name), one.version)
    return found


def check_packages(
    installed: Mapping[str, str],
    import_errors: Mapping[str, str] | None = None,
    requirements: Iterable[str] = REQUIREMENTS,
) -> tuple[PackageCheck, ...]:
    """Return the state of each required package.

    Args:
        installed: Versions by normalized name.
        import_errors: Errors of a probe by package; without them the metadata decide.
        requirements: Requirements in pip's form.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    errors = import_errors or {}
    checks = []
    for text in requirements:
        required = Requirement(text)
        found = installed.get(canonicalize_name(required.name))
        error = errors.get(required.name, "")
        if error:
            state = PackageState.BROKEN
        elif found is None:
            state = PackageState.MISSING
        elif not required.specifier.contains(found, prereleases=True):
            state = PackageState.OTHER_VERSION
        else:
            state = PackageState.READY
        name, needed = required.name, text.removeprefix(required.name)
        checks.append(
            PackageCheck(package=name, needed=needed, found=found, state=state, error=error)
        )
    return tuple(checks)


def held_versions(installed: Mapping[str, str], packages: Iterable[str]) -> dict[str, str]:
    """Return the installed versions that an installation of `packages` must keep.

    These are all but `packages` and those that may change with them (`PARTS`).
    """
    from packaging.utils import canonicalize_name

    free = {str(canonicalize_name(package)) for package in packages}
    prefixes = TORCH_PREFIXES if "torch" in free else ()
    free.update(part for package in tuple(free) for part in PARTS.get(package, ()))
    return {
        package: held
        for package, held in sorted(installed.items())
        if package not in free and not package.startswith(prefixes)
    }


def constraint_lines(held: Mapping[str, str]) -> list[str]:
    """Return the held versions in pip's form, without versions that pip cannot parse."""
    from packaging.version import InvalidVersion, Version

    lines = []
    for package, held_version in sorted(held.items()):
        try:
            Version(held_version)
        except InvalidVersion:
            continue
        lines.append(f"{package}=={held_version}")
    return lines


def write_constraints(file: Path, held: Mapping[str, str]) -> None:
    """Write a constraints file for pip; raises `OutputError` `output-unwritable`."""
    try:
        file.write_text("\n".join([*constraint_lines(held), ""]), encoding="utf-8")
    except OSError as error:
        raise unwritable("The list of versions to keep cannot be written", error) from error


def read_constraints(file: Path) -> dict[str, str]:
    """Read the versions, by normalized package, from a file of `pip freeze --all > FILE`.

    Windows' PowerShell writes UTF-16. Lines other than `name==version` are skipped.
    Raises `SetupError` `constraints` if the file is unreadable or has no such line.
    """
    from packaging.utils import canonicalize_name

    versions: dict[str, str] = {}
    try:
        content = file.read_bytes()
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        for line in content.decode("utf-16" if utf16 else "utf-8-sig").splitlines():
            package, equal, held = line.split("#")[0].split(";")[0].partition("==")
            if equal and package.strip():
                versions[canonicalize_name(package.strip())] = held.strip()
    except (OSError, UnicodeError):
        versions = {}
    if not versions:
        raise SetupError(
            "constraints",
            "The list of the other machine's packages must have lines such as numpy==2.4.6; it "
            "has none, or cannot be read.",
        )
    return versions


def changed_versions(
    held: Mapping[str, str], installed: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """Return, by package, the version before and after ('' if removed) of changed packages."""
    return {
        package: (before, installed.get(package, ""))
        for package, before in held.items()
        if installed.get(package, "") != before
    }


_CAUSES = (
    (
        ("ResolutionImpossible", "conflicting dependencies", "user requested (constraint)"),
        ("pip-conflict", "A package needs other versions of packages that must not change."),
    ),
    (("No space left", "Errno 28", "not enough space"), ("pip-disk", "The disk is full.")),
    (
        ("CERTIFICATE_VERIFY_FAILED", "SSLError", "SSLCertVerificationError"),
        ("pip-certificate", "The certificate of the package index is not trusted."),
    ),
    (
        (
            *("ProxyError", "NewConnectionError", "ConnectTimeoutError", "ReadTimeoutError"),
            *("Temporary failure in name resolution", "getaddrinfo failed"),
        ),
        ("pip-network", "The package index could not be reached."),
    ),
    (
        ("No matching distribution", "Could not find a version"),
        ("pip-no-version", "A package has no version for this system and Python."),
    ),
    (
        ("Permission denied", "Access is denied", "WinError 5", "Read-only file system"),
        ("pip-permission", "The folder of this Python's packages cannot be written."),
    ),
)
"""Causes of a failure of pip: words in its output, with the error code and message.

The order matters: an index that cannot be reached also leads to "No matching distribution".
"""

_LAST_LINES = 3
"""Lines of pip's output that the message of an unknown failure shows."""


def cause_of_failure(lines: Iterable[str]) -> tuple[str, str]:
    """Derive the error code and message from the output of a pip that failed."""
    printed = [line.strip() for line in lines if line.strip()]
    for words, cause in _CAUSES:
        if any(word in line for word in words for line in printed):
            return cause
    text = "pip could not install the packages."
    return "pip-failed", "\n".join([text, *printed[-_LAST_LINES:]])


_MEGABYTES = {
    "torch": (220, 900),
    "transformers": (25, 150),
    "scikit-image": (20, 60),
    "scikit-learn": (10, 40),
    "matplotlib": (20, 60),
    "nibabel": (4, 12),
    "rich": (1, 6),
    "typer": (1, 2),
}
"""MB to download and on disk, with dependencies: Python 3.12, autumn 2026, torch for CPU."""

_CUDA_MEGABYTES = (3000, 7500)
_OTHER_MEGABYTES = (1, 3)


@dataclass(frozen=True, kw_only=True)
class InstallSize:
    """Estimated bytes of an installation."""

    download_bytes: int
    disk_bytes: int
    """Disk space during the installation: downloads and unpacked files."""


def has_nvidia_driver() -> bool:
    """Return whether an NVIDIA driver is installed; works without torch."""
    return os.path.exists("/proc/driver/nvidia/gpus") or shutil.which("nvidia-smi") is not None


def estimate(packages: Iterable[str], *, cuda: bool) -> InstallSize:
    """Estimate the size of packages with their dependencies; `cuda`: torch is a CUDA build."""
    sizes = [
        _CUDA_MEGABYTES
        if cuda and package == "torch"
        else _MEGABYTES.get(package, _OTHER_MEGABYTES)
        for package in packages
    ]
    download, disk = (sum(column) * 10**6 for column in zip((0, 0), *sizes, strict=True))
    return InstallSize(download_bytes=download, disk_bytes=download + disk)


def free_bytes(folder: Path | None = None) -> int | None:
    """Return the free bytes on a folder's disk, or None if the system gives no number.

    The default folder is the one of this Python's packages.
    """
    try:
        return shutil.disk_usage(folder or sysconfig.get_paths()["purelib"]).free
    except OSError:
        return None
