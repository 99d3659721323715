"""What is in an offline kit: wheels and weights for a machine without internet, with their hashes.

FOLDER/
kit.json        this manifest
README.txt      what to do with it
wheels/…        the packages
encoders/<owner>--<name>--<commit>/…   weights as the hub has them, with their license
"""

import json
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from SpatialARAnomalyLib.engine.errors import (
    SetupError,
    SpecError,
)
from SpatialARAnomalyLib.engine.files import file_sha256
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
    """From the kit's folder on, with forward slashes."""
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class KitEncoder(Spec):
    """Weights in a kit."""

    hub_id: str
    revision: str
    """The hub's commit."""
    folder: str
    """From the kit's folder on."""


@dataclass(frozen=True, kw_only=True)
class KitManifest(Spec):
    """What a kit holds and for which machines."""

    schema: int = SCHEMA
    created: str
    python_version: str
    """`3.12`: the wheels are for no other."""
    platforms: tuple[str, ...]
    """As pip calls them; one of them must be the other machine's."""
    requirements: tuple[str, ...]
    wheels: tuple[str, ...]
    """`name==version` of each."""
    held: tuple[str, ...]
    """`name==version` of what the other machine was taken to have already."""
    encoders: tuple[KitEncoder, ...] = ()
    files: tuple[KitFile, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)


def list_files(folder: Path) -> list[str]:
    """The files below a folder, as the manifest names them.

    Without the manifest itself, and what file managers leave on the way.
    """
    found = (
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not is_left_by_system(path.name)
    )
    return sorted(path for path in found if path != MANIFEST)


def is_left_by_system(name: str) -> bool:
    """Whether a file manager made the file: `._name` is what macOS adds on a USB stick.

    pip takes none of them for a wheel of one of our packages.
    """
    return name.startswith("._") or name in (".DS_Store", "Thumbs.db", "desktop.ini")


def read_manifest(folder: Path) -> KitManifest:
    """The manifest of a kit.

    Raises `SetupError`: `kit-missing`, `kit-damaged`, `kit-version`.
    """
    try:
        values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        raise SetupError(
            "kit-missing",
            f"The folder holds no offline kit: {MANIFEST} is missing or cannot be read.",
            "Choose the folder that 'spatial-ar-anomaly offline-kit' made.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(f"{MANIFEST} is not JSON") from error
    if not isinstance(values, dict):
        raise _damaged(f"{MANIFEST} holds no object")
    schema = values.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise SetupError(
            "kit-version",
            f"The kit is of a newer kind ({schema}) than this version knows ({SCHEMA}).",
            "Update the extension here, or make the kit with this version.",
        )
    try:
        return KitManifest.from_dict(values)
    except SpecError as error:
        raise _damaged(error.message) from error


def verify_kit(folder: Path, report: Reporter) -> KitManifest:
    """The manifest of a kit of which every file is there, unchanged, and no other beside them.

    Raises `SetupError` as `read_manifest`, and `Cancelled` through `report`.
    """
    manifest = read_manifest(folder)
    places = [file.path for file in manifest.files]
    places += [encoder.folder for encoder in manifest.encoders]
    if not all(map(_is_encoder, manifest.encoders)):
        raise _damaged("the manifest names weights that cannot be")
    if not all(map(_stays_inside, places)):
        raise _damaged("the manifest names a file outside of the kit")
    if not all(map(_is_plain, manifest.requirements)):
        raise _damaged("the manifest requires what is no package")
    extra = set(list_files(folder)) - {file.path for file in manifest.files}
    if extra:
        # pip would take a wheel that somebody put beside ours.
        raise _damaged(f"{PurePosixPath(min(extra)).name} is not in the manifest")
    report.stage("verify", 1, 1)
    for number, file in enumerate(manifest.files):
        report.progress(number, len(manifest.files), "file")
        path = folder / file.path
        name = PurePosixPath(file.path).name
        try:
            changed = path.stat().st_size != file.size_bytes
            changed = (
                changed or file_sha256(path, lambda _size: report.check_cancelled()) != file.sha256
            )
        except OSError as error:
            raise _damaged(f"{name} is missing or cannot be read") from error
        if changed:
            raise _damaged(f"{name} is not as it was packed")
    report.progress(len(manifest.files), len(manifest.files), "file")
    return manifest


def check_fits(
    manifest: KitManifest,
    python_version: tuple[int, int] | None = None,
    tags: list[str] | None = None,
) -> None:
    """Raise `SetupError` where the kit is for another Python or platform than this one.

    `kit-other-python`, `kit-other-platform`.
    """
    here = ".".join(map(str, python_version or sys.version_info[:2]))
    if here != manifest.python_version:
        raise SetupError(
            "kit-other-python",
            f"The kit is for Python {manifest.python_version}; this is Python {here}.",
            f"Make it with --python-version {here}.",
        )
    if tags is None:
        from packaging.tags import platform_tags

        # `linux_x86_64` is the tag of what was built here; no wheel of an index has it.
        tags = [tag for tag in platform_tags() if not tag.startswith("linux_")]
    if manifest.platforms and not set(manifest.platforms) & set(tags):
        raise SetupError(
            "kit-other-platform",
            f"The kit is for {manifest.platforms[0]}; this is {platform.system()} "
            f"{platform.machine()}.",
            f"Make it with --platform {tags[0]}." if tags else "Make it for this platform.",
        )


def _is_plain(requirement: str) -> bool:
    """Whether pip reads a package and versions: no option, and no address to fetch from."""
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


def _is_encoder(encoder: KitEncoder) -> bool:
    """Whether hub id and commit can be names of folders: they become those of the hub's cache."""
    revision = encoder.revision
    return is_hub_id(encoder.hub_id) and bool(re.fullmatch(r"\w[\w.-]*", revision))


def _damaged(what: str) -> SetupError:
    return SetupError(
        "kit-damaged",
        f"The offline kit is not as it was made: {what}.",
        "Copy it again, or make it again.",
    )
