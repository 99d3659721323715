"""The manifest of an offline kit: wheels and weights for a machine without internet.

FOLDER/
kit.json        this manifest, with the SHA-256 of every other file
README.txt      how to install the kit
wheels/…        the packages
encoders/<owner>--<name>--<commit>/…   weights as on the hub, with their license
"""

import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from SpatialARAnomalyLib.engine.errors import SetupError, SpecError
from SpatialARAnomalyLib.engine.files import file_sha256, read_json
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import Spec
from SpatialARAnomalyLib.service.encoders.hub import is_hub_id

MANIFEST = "kit.json"
WHEELS = "wheels"
ENCODERS = "encoders"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class KitFile(Spec):
    """A file of a kit."""

    path: str
    """Relative to the kit's folder, with forward slashes."""
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class KitEncoder(Spec):
    """Weights in a kit."""

    hub_id: str
    revision: str
    """Commit on the hub."""
    folder: str
    """Relative to the kit's folder."""


@dataclass(frozen=True, kw_only=True)
class KitManifest(Spec):
    """Contents of a kit, and the machines it is for."""

    schema: int = SCHEMA
    created: str
    python_version: str
    """The only Python version that the wheels are for, such as `3.12`."""
    platforms: tuple[str, ...]
    """pip's platform tags; the other machine must support one of them."""
    requirements: tuple[str, ...]
    wheels: tuple[str, ...]
    """`name==version` of each wheel."""
    held: tuple[str, ...]
    """`name==version` of the packages that the other machine is assumed to have."""
    encoders: tuple[KitEncoder, ...] = ()
    files: tuple[KitFile, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)


def list_files(folder: Path) -> list[str]:
    """List a kit's files as in its manifest, without the manifest and system files."""
    found = (
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not is_system_file(path.name)
    )
    return sorted(path for path in found if path != MANIFEST)


def is_system_file(name: str) -> bool:
    """Return whether a file manager made the file, such as macOS's `._name` on a USB stick.

    pip takes none of them for a wheel of a required package.
    """
    return name.startswith("._") or name in (".DS_Store", "Thumbs.db", "desktop.ini")


def read_manifest(folder: Path) -> KitManifest:
    """Read the manifest of a kit.

    Raises `SetupError`: `kit-missing`, `kit-damaged`, `kit-version`.
    """
    try:
        values = read_json(folder / MANIFEST)
    except (OSError, UnicodeError) as error:
        raise SetupError(
            "kit-missing",
            f"The folder holds no offline kit: {MANIFEST} is missing or cannot be read.",
        ) from error
    except ValueError as error:
        raise _damaged(f"{MANIFEST} is not JSON") from error
    if not isinstance(values, dict):
        raise _damaged(f"{MANIFEST} is not a JSON object")
    schema = values.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise SetupError(
            "kit-version", f"The kit has schema {schema}; this version reads up to {SCHEMA}."
        )
    try:
        return KitManifest.from_dict(values)
    except SpecError as error:
        raise _damaged(error.message) from error


def verify_kit(folder: Path, report: Reporter) -> KitManifest:
    """Read a manifest, and check that every file is present and unchanged, with no others.

    Raises `SetupError` as `read_manifest`, and `Cancelled` through `report`.
    """
    manifest = read_manifest(folder)
    files = manifest.files
    places = [file.path for file in files] + [encoder.folder for encoder in manifest.encoders]
    if not all(map(_is_valid_encoder, manifest.encoders)):
        raise _damaged("the manifest has an invalid hub id or commit")
    if not all(map(_stays_inside, places)):
        raise _damaged("the manifest names a file outside of the kit")
    if not all(map(_is_plain, manifest.requirements)):
        raise _damaged("the manifest has an invalid requirement")
    if extra := set(list_files(folder)) - {file.path for file in files}:
        # pip would install a wheel that was added later.
        raise _damaged(f"{PurePosixPath(min(extra)).name} is not in the manifest")
    report.stage("verify", 1, 1)
    for number, file in enumerate(files):
        report.progress(number, len(files), "file")
        path = folder / file.path
        try:
            unchanged = path.stat().st_size == file.size_bytes and file.sha256 == file_sha256(
                path, lambda _size: report.check_cancelled()
            )
        except OSError as error:
            raise _damaged(f"{path.name} is missing or cannot be read") from error
        if not unchanged:
            raise _damaged(f"{path.name} has changed")
    report.progress(len(files), len(files), "file")
    return manifest


def check_fits(
    manifest: KitManifest,
    python_version: tuple[int, int] | None = None,
    tags: list[str] | None = None,
) -> None:
    """Check that a kit is for this Python and platform, or for those given.

    Raises `SetupError`: `kit-other-python`, `kit-other-platform`.
    """
    here = ".".join(map(str, python_version or sys.version_info[:2]))
    if here != manifest.python_version:
        raise SetupError(
            "kit-other-python",
            f"The kit is for Python {manifest.python_version}; this is Python {here}.",
            python_version=here,
        )
    if tags is None:
        from packaging.tags import platform_tags

        # Wheels of an index never have the tag `linux_x86_64`.
        tags = [tag for tag in platform_tags() if not tag.startswith("linux_")]
    if manifest.platforms and not set(manifest.platforms) & set(tags):
        raise SetupError(
            "kit-other-platform",
            f"The kit is for {manifest.platforms[0]}; this is {platform.system()} "
            f"{platform.machine()}.",
            **({"platform": tags[0]} if tags else {}),
        )


def _is_plain(requirement: str) -> bool:
    """Return whether a requirement is a package and versions: no option, no address."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        return Requirement(requirement).url is None
    except InvalidRequirement:
        return False


def _stays_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not (
        path.startswith("/") or ".." in parts or any(sign in path for sign in "\\:\0")
    )


def _is_valid_encoder(encoder: KitEncoder) -> bool:
    """Return whether hub id and commit are safe folder names: the hub's cache gets them."""
    return is_hub_id(encoder.hub_id) and bool(re.fullmatch(r"\w[\w.-]*", encoder.revision))


def _damaged(reason: str) -> SetupError:
    return SetupError("kit-damaged", f"The offline kit is damaged: {reason}.")
