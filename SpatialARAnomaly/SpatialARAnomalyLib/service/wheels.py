"""Which packages a set of wheels still lacks, on a machine that is not this one.

pip evaluates the markers of requirements (`; sys_platform == "win32"`) for the
system it runs on, also when it collects wheels for another. What it missed is
found here, by the markers of the other machine.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

from ..engine.errors import SetupError
from .packages import normalized


@dataclass(frozen=True)
class Wheel:
    """A wheel, as its metadata tell."""

    name: str
    """Normalized."""
    version: str
    requires: tuple[str, ...]
    file: Path


@dataclass(frozen=True)
class Closure:
    """What becomes of the requirements with the wheels that are there."""

    used: frozenset[str]
    """Names of the wheels that are needed."""
    missing: tuple[str, ...]
    """Requirements that no wheel and no held package meets."""
    conflicts: tuple[str, ...]
    """Sentences: which held package is of a version that does not do."""


def read_wheel(file: Path) -> Wheel:
    """The metadata of a wheel; raises `SetupError` `kit-damaged`."""
    try:
        with zipfile.ZipFile(file) as archive:
            (name,) = (
                one
                for one in archive.namelist()
                if one.endswith(".dist-info/METADATA") and one.count("/") == 1
            )
            text = archive.read(name).decode("utf-8", "replace")
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise SetupError(
            "kit-damaged", f"{file.name} is not a wheel.", "Remove it and make the kit again."
        ) from error
    headers = HeaderParser().parsestr(text)
    return Wheel(
        normalized(headers["Name"] or ""),
        headers["Version"] or "",
        tuple(headers.get_all("Requires-Dist") or ()),
        file,
    )


_SYSTEMS = {
    "win": ("win32", "Windows", "nt"),
    "macosx": ("darwin", "Darwin", "posix"),
    "manylinux": ("linux", "Linux", "posix"),
    "musllinux": ("linux", "Linux", "posix"),
    "linux": ("linux", "Linux", "posix"),
}

_MACHINES = {"win_amd64": "AMD64", "win_arm64": "ARM64", "win32": "x86"}


def marker_environment(platform_tag: str, python_version: str) -> dict[str, str]:
    """What markers see on a machine of this platform (pip's word) and Python (`3.12`).

    Raises `SetupError` `kit-platform` for a tag that is none.
    """
    kind = next((kind for kind in _SYSTEMS if platform_tag.startswith(kind)), None)
    if kind is None:
        raise SetupError(
            "kit-platform",
            f"The platform {platform_tag!r} is not known.",
            "Give it as pip does: win_amd64, manylinux_2_28_x86_64, macosx_14_0_arm64.",
        )
    sys_platform, system, os_name = _SYSTEMS[kind]
    machine = _MACHINES.get(platform_tag, "")
    if not machine:
        known = ("x86_64", "arm64", "aarch64", platform_tag)
        machine = next(one for one in known if platform_tag.endswith(one))
    return {
        "os_name": os_name,
        "sys_platform": sys_platform,
        "platform_system": system,
        "platform_machine": machine,
        "platform_release": "",
        "platform_version": "",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "implementation_version": f"{python_version}.0",
        "python_version": python_version,
        "python_full_version": f"{python_version}.0",
    }


def closure(
    requirements: tuple[str, ...],
    wheels: Mapping[str, Wheel],
    held: Mapping[str, str],
    environment: Mapping[str, str],
) -> Closure:
    """Follow the requirements through the wheels, with the other machine's markers.

    `held` are the versions that machine has and keeps; what they require is there too.
    """
    from packaging.requirements import Requirement

    used: set[str] = set()
    missing: dict[str, None] = {}
    conflicts: dict[str, str] = {}
    seen: set[tuple[str, ...]] = set()
    waiting = [(text, "", "") for text in requirements]
    while waiting:
        text, extra, asker = waiting.pop()
        required = Requirement(text)
        if required.marker and not required.marker.evaluate({**environment, "extra": extra}):
            continue
        name = normalized(required.name)
        key = (name, str(required.specifier), *sorted(required.extras))
        if key in seen:
            continue
        seen.add(key)
        plain = f"{required.name}{required.specifier}"
        if name in held:
            if not required.specifier.contains(held[name], prereleases=True):
                conflicts[plain] = (
                    f"{asker or 'This program'} needs {plain}; {required.name} {held[name]} is "
                    "there and stays."
                )
            continue
        wheel = wheels.get(name)
        if wheel is None or not required.specifier.contains(wheel.version, prereleases=True):
            missing[plain] = None
            continue
        used.add(name)
        for extra_asked in ("", *required.extras):
            waiting += [(one, extra_asked, required.name) for one in wheel.requires]
    return Closure(frozenset(used), tuple(missing), tuple(conflicts.values()))
