"""Python packages: those needed, their state here, what an installation costs and must keep.

A Slicer whose numpy, SimpleITK or requests was replaced may not start any more:
pip is given the installed versions as constraints. `packaging` is imported where
it is used, so that this module loads with the standard library alone.
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
"""Packages that training and detection need beside those that Slicer brings."""

PARTS = {
    "torch": ("torchvision", "torchaudio", "torchtext", "triton", "pytorch-triton"),
    "transformers": ("tokenizers", "huggingface-hub", "hf-xet"),
    "huggingface-hub": ("transformers", "tokenizers", "hf-xet"),
    "slicerio": ("pynrrd",),
}
"""Packages that change with one of ours; Slicer brings none of them."""

TORCH_PREFIXES = ("nvidia-", "cuda-", "pytorch-triton-")
"""Prefixes of the names of CUDA libraries that change with torch."""


class PackageState(StrEnum):
    """Whether a package can be used."""

    READY = "ready"
    MISSING = "missing"
    OTHER_VERSION = "other-version"
    """Installed in a version that is not among those needed."""
    BROKEN = "broken"
    """Installed, in whole or in part, and cannot be imported."""


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
    """Error of its import, where it is broken."""

    @property
    def requirement(self) -> str:
        """The package and its specifier, as pip takes them."""
        return f"{self.package}{self.needed}"


def names(requirements: Iterable[str]) -> list[str]:
    """Return the packages that requirements name."""
    from packaging.requirements import Requirement

    return [Requirement(one).name for one in requirements]


def installed_version(package: str) -> str | None:
    """Return the version of an installed distribution; None where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def installed_versions(
    folders: Iterable[str] | None = None, packages: Iterable[str] = ()
) -> dict[str, str]:
    """Return the versions of installed distributions by normalized name.

    Args:
        folders: Where to look; by default `sys.path`.
        packages: Which to look for; by default all, which reads a hundred files.
    """
    from packaging.utils import canonicalize_name

    invalidate_caches()  # another process may have installed something
    path = sys.path if folders is None else list(folders)
    found: dict[str, str] = {}
    for package in tuple(packages) or (None,):
        for one in distributions(name=package, path=path):
            name = one.metadata["Name"]
            if name:  # a folder that an interrupted pip left has none
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
        import_errors: By package, what a probe could not import; without them a
            package counts by its metadata alone.
        requirements: What is needed.
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
        needed = text.removeprefix(required.name)
        checks.append(
            PackageCheck(
                package=required.name, needed=needed, found=found, state=state, error=error
            )
        )
    return tuple(checks)


def held_versions(installed: Mapping[str, str], packages: Iterable[str]) -> dict[str, str]:
    """Return the installed versions that an installation of `packages` must keep.

    All but those of the packages themselves and of their parts.
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
    """Return the held versions as pip reads them; a version that pip cannot read is left out."""
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
    """Read the versions, by normalized package, from a file of `pip freeze > FILE`.

    Windows' PowerShell writes UTF-16. Lines other than `name==version` are left out.
    Raises `SetupError` `constraints` where no line remains, so that nothing would be kept.
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
            "The list of what the other machine has must hold lines such as numpy==2.4.6; it "
            "cannot be read, or holds none.",
            "Make it there with: PythonSlicer -m pip freeze > list.txt",
        )
    return versions


def changed_versions(
    held: Mapping[str, str], installed: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """Return by package the version before and after ('' if gone) of what changed though held."""
    return {
        package: (before, installed.get(package, ""))
        for package, before in held.items()
        if installed.get(package, "") != before
    }


_CAUSES = (
    (
        ("ResolutionImpossible", "conflicting dependencies", "user requested (constraint)"),
        "pip-conflict",
        "A package needs other versions than Slicer has, which are kept as they are.",
        "Update Slicer or the extension; the log names the package.",
    ),
    (
        ("No space left", "Errno 28", "not enough space"),
        "pip-disk",
        "The disk is full.",
        "Free some room and try again.",
    ),
    (
        ("CERTIFICATE_VERIFY_FAILED", "SSLError", "SSLCertVerificationError"),
        "pip-certificate",
        "The package index could not be trusted: its certificate was refused.",
        "Behind a proxy that inspects traffic, set PIP_CERT to the site's certificates.",
    ),
    (
        (
            "ProxyError",
            "NewConnectionError",
            "ConnectTimeoutError",
            "ReadTimeoutError",
            "Temporary failure in name resolution",
            "getaddrinfo failed",
        ),
        "pip-network",
        "The package index could not be reached.",
        "Check the connection and the proxy (HTTPS_PROXY), or use Install from folder.",
    ),
    (
        ("No matching distribution", "Could not find a version"),
        "pip-no-version",
        "A package has no version for this system and Python.",
        "The log names it.",
    ),
    (
        ("Permission denied", "Access is denied", "WinError 5", "Read-only file system"),
        "pip-permission",
        "Slicer's folder cannot be written.",
        "Start Slicer as a user who may, or install Slicer into a folder of your own.",
    ),
)


def cause_of_failure(lines: Iterable[str]) -> tuple[str, str, str]:
    """Return a code, what happened and what to do, from what pip printed before it failed."""
    said = "\n".join(lines)
    for words, code, text, hint in _CAUSES:
        if any(word in said for word in words):
            return code, text, hint
    return "pip-failed", "pip could not install the packages.", "The log tells more."


# Megabytes to download and on the disk, with dependencies; wheels of autumn 2026
# for Python 3.12 (torch: the CPU build).
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
_CUDA_MEGABYTES = (3000, 7500)
_OTHER_MEGABYTES = (1, 3)


@dataclass(frozen=True, kw_only=True)
class InstallSize:
    """Estimated bytes of an installation."""

    download_bytes: int
    disk_bytes: int
    """On the disk during the installation: downloads and what is unpacked from them."""


def has_nvidia_driver() -> bool:
    """Return whether an NVIDIA driver is there, without torch."""
    return os.path.exists("/proc/driver/nvidia/gpus") or shutil.which("nvidia-smi") is not None


def estimate(packages: Iterable[str], *, cuda: bool) -> InstallSize:
    """Estimate the size of packages with their dependencies; `cuda`: torch is built for it."""
    sizes = [
        _CUDA_MEGABYTES
        if cuda and package == "torch"
        else _MEGABYTES.get(package, _OTHER_MEGABYTES)
        for package in packages
    ]
    download, disk = (sum(column) * 10**6 for column in zip((0, 0), *sizes, strict=True))
    return InstallSize(download_bytes=download, disk_bytes=download + disk)


def free_bytes(folder: Path | None = None) -> int | None:
    """Return the bytes free on the disk of a folder, by default of this Python's packages.

    None where the system does not tell.
    """
    try:
        return shutil.disk_usage(folder or sysconfig.get_paths()["purelib"]).free
    except OSError:
        return None
