"""What an installation must leave as it is: every version that is installed now.

A Slicer whose numpy, SimpleITK or requests was replaced may not start any
more, so pip is given the installed versions as constraints.
"""

import codecs
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..engine.atomic_files import unwritable
from ..engine.errors import SetupError
from .packages import normalized

WITH_TORCH = ("torchvision", "torchaudio", "torchtext", "triton", "pytorch-triton")
"""What is of one build with torch, and changes with it."""

WITH_TORCH_PREFIXES = ("nvidia-", "cuda-", "pytorch-triton-")
"""How the names of the CUDA libraries begin that torch brings."""

PARTS = {
    "transformers": ("tokenizers", "huggingface-hub", "hf-xet"),
    "huggingface-hub": ("transformers", "tokenizers", "hf-xet"),
    "slicerio": ("pynrrd",),
}
"""Packages that come with one of ours and must be of its age; Slicer brings none of them."""


def free_to_change(packages: Iterable[str]) -> frozenset[str]:
    """The packages that are to be installed, and the parts of them; normalized.

    Names that end in `*` stand for all that begin so.
    """
    free = {normalized(package) for package in packages}
    for package in tuple(free):
        free.update(PARTS.get(package, ()))
    if "torch" in free:
        free.update(WITH_TORCH)
        free.update(f"{prefix}*" for prefix in WITH_TORCH_PREFIXES)
    return frozenset(free)


def _is_free(package: str, free: frozenset[str]) -> bool:
    return package in free or any(
        one.endswith("*") and package.startswith(one[:-1]) for one in free
    )


def held_versions(installed: Mapping[str, str], free: frozenset[str]) -> dict[str, str]:
    """The versions that must stay, of what is installed; `free` as of `free_to_change`."""
    return {
        package: version
        for package, version in sorted(installed.items())
        if not _is_free(package, free)
    }


def constraint_lines(held: Mapping[str, str]) -> list[str]:
    """The held versions as pip reads them; a version that pip cannot read is left out."""
    from packaging.version import InvalidVersion, Version

    lines = []
    for package, version in sorted(held.items()):
        try:
            Version(version)
        except InvalidVersion:
            continue
        lines.append(f"{package}=={version}")
    return lines


def write_constraints(file: Path, held: Mapping[str, str]) -> None:
    """Write the constraints file.

    Raises `OutputError` `output-unwritable`.
    """
    try:
        file.write_text("\n".join([*constraint_lines(held), ""]), encoding="utf-8")
    except OSError as error:
        raise unwritable("The list of versions to keep cannot be written", error) from error


def changed_versions(
    held: Mapping[str, str], installed: Mapping[str, str]
) -> dict[str, tuple[str, str]]:
    """What changed although it was held: package to version before and after ('' if gone)."""
    return {
        package: (before, installed.get(package, ""))
        for package, before in held.items()
        if installed.get(package, "") != before
    }


def read_constraints_file(file: Path) -> dict[str, str]:
    """Versions by normalized package, of a file as `pip freeze > FILE` writes it.

    Windows' PowerShell writes UTF-16 then. Raises `SetupError` `constraints`
    where nothing is held by it: nothing would be kept.
    """
    try:
        content = file.read_bytes()
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        versions = read_constraints(content.decode("utf-16" if utf16 else "utf-8-sig"))
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


def read_constraints(text: str) -> dict[str, str]:
    """Versions by normalized package, of lines `name==version`; others are left out."""
    versions = {}
    for line in text.splitlines():
        package, equal, version = line.split("#")[0].partition("==")
        if equal and package.strip():
            versions[normalized(package.strip())] = version.split(";")[0].strip()
    return versions
