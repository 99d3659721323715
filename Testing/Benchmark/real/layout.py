"""Finds BMAD's normal training images, test images and labels in its folders.

BMAD (Bao et al., arXiv 2306.11876) describes one layout in its README and others in its
configurations; users have further ones. All known layouts are searched.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from SpatialARAnomalyLib.engine.errors import InputError


class Protocol(StrEnum):
    """The pixels on which scores are compared with labels."""

    PAPER = "paper"
    """240×240, as in the released code of arXiv 2603.02974."""
    NATIVE = "native"
    """The image's own pixels; labels are not resized."""


@dataclass(frozen=True)
class ImageFile:
    """The file of one slice."""

    path: Path
    patient: str
    """The file's name before its last `_`; BMAD names files `<patient>_<slice>.png`."""
    label: Path | None
    """Mask of its anomaly; None for a normal image."""


@dataclass(frozen=True)
class Dataset:
    """The images of one data set, sorted by name."""

    training: tuple[ImageFile, ...]
    """Normal images only."""
    test: tuple[ImageFile, ...]


@dataclass(frozen=True)
class _Layout:
    """Folders below that of the data set; `{kind}` stands for `good` and `Ungood`."""

    training: tuple[str, ...]
    images: str
    labels: tuple[str, ...]


_LAYOUTS = (
    # By class (BMAD's README and anomalib), by content (BMAD's liver), as RESC was published.
    _Layout(
        ("train/good/img", "train/good"),
        "test/{kind}/img",
        ("test/{kind}/anomaly_mask", "test/{kind}/label"),
    ),
    _Layout(
        ("train/good", "train/img/good"), "test/img/{kind}", ("test/label/{kind}", "test/label")
    ),
    _Layout(("Train/train/good",), "Test/test/{kind}", ("Test/test_label/{kind}",)),
)
"""Layouts in the order of the search; the error message shows the first."""


def find_dataset(root: Path) -> Dataset:
    """Find the images of a data set in `root`; the case of folder names does not count.

    Raises:
        InputError: `bmad-layout` if no known layout is found (the message names the
            expected one and the folders found), `bmad-label-missing` if an anomalous
            image has no label.
    """
    root = Path(os.path.abspath(root))  # gives `.` a name
    try:
        for layout in _LAYOUTS:
            found = _read(root, layout)
            if found is not None:
                return found
        raise _no_layout(root)
    except OSError as error:
        raise InputError(
            "bmad-layout",
            f"Some folders in {root.name!r} cannot be read ({error.strerror or error}). "
            "Change their permissions.",
        ) from None


def count_unnamed(images: Sequence[ImageFile]) -> int:
    """Count file names without a patient; each of these images is treated as its own patient."""
    return sum("_" not in image.path.stem for image in images)


def group_by_patient(images: Sequence[ImageFile]) -> dict[str, list[ImageFile]]:
    """Group images by patient, in the order of their names."""
    groups: dict[str, list[ImageFile]] = {}
    for image in images:
        groups.setdefault(image.patient, []).append(image)
    return groups


def _read(place: Path, layout: _Layout) -> Dataset | None:
    """Read the images, or return None if the folders have another layout."""
    training = next(filter(None, (_images(place, name) for name in layout.training)), None)
    good, ungood = (_images(place, layout.images.format(kind=kind)) for kind in ("good", "Ungood"))
    if not (training and good and ungood):
        return None
    labels: dict[str, Path] = {}
    for name in reversed(layout.labels):  # the first layout wins
        labels |= {path.name: path for path in _images(place, name.format(kind="Ungood"))}
    missing = [path.name for path in ungood if path.name not in labels]
    if missing:
        folders = " or ".join(f"{name.format(kind='Ungood')}/" for name in layout.labels)
        raise InputError(
            "bmad-label-missing",
            f"Every anomalous test image needs a label of its name in {folders}; "
            f"{len(missing)} of {len(ungood)} have none, the first {missing[0]!r}. "
            "Unpack the data set again.",
        )
    return Dataset(
        tuple(_image(path, None) for path in training),
        tuple(
            [*(_image(path, None) for path in good)]
            + [_image(path, labels[path.name]) for path in ungood]
        ),
    )


def _image(path: Path, label: Path | None) -> ImageFile:
    return ImageFile(path, path.stem.rpartition("_")[0] or path.stem, label)


def _images(place: Path, name: str) -> list[Path]:
    """List the PNG files of a folder, sorted; empty if there is no such folder."""
    folder = _below(place, name)
    if folder is None:
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() == ".png" and not path.name.startswith(".")
    )


def _below(place: Path, name: str) -> Path | None:
    """Find a subfolder by its relative name, without regard to case."""
    for part in name.split("/"):
        same = [one for one in _folders(place) if one.lower() == part.lower()]
        if not same:
            return None
        place = place / (part if part in same else min(same))
    return place


def _folders(place: Path) -> list[str]:
    with os.scandir(place) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def _no_layout(root: Path) -> InputError:
    layout = _LAYOUTS[0]
    needed = [
        f"{layout.training[0]}/*.png",
        *(f"{layout.images.format(kind=kind)}/*.png" for kind in ("good", "Ungood")),
        f"{layout.labels[0].format(kind='Ungood')}/*.png",
    ]
    found = Counter(
        folder.relative_to(root).as_posix()
        for pattern in ("*", "*/*", "*/*/*")
        for folder in root.glob(pattern)
        if folder.is_dir()
    )
    shown = ", ".join(sorted(found)[:12]) or "no folders"
    return InputError(
        "bmad-layout",
        f"BMAD's folders were expected: {', '.join(needed)}; found in {root.name!r}: {shown}"
        f"{', …' if len(found) > 12 else ''}. Name the folder into which the data set was "
        "unpacked; Resources/Docs/real_images.md lists all layouts.",
    )
