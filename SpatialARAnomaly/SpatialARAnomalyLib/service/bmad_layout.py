"""BMAD's folders: where its normal training images, test images and labels lie.

BMAD (Bao et al., arXiv 2306.11876) has one layout in its README, others in its
configurations, and users of it have again others; all that are known are found.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..engine.errors import InputError


class BmadSet(StrEnum):
    """BMAD's sets with labels of pixels."""

    BRATS2021 = "brats2021"
    """Brain MR, 240×240."""
    LIVER = "liver"
    """Liver CT (normal: BTCV, lesions: LiTS), 512×512."""
    RESC = "resc"
    """Retinal OCT, 512×1024."""


class BmadProtocol(StrEnum):
    """On which pixels scores are held against labels."""

    PAPER = "paper"
    """240×240, as the released code of arXiv 2603.02974 does."""
    NATIVE = "native"
    """The image's own; the label is untouched."""


@dataclass(frozen=True)
class BmadImage:
    """One slice."""

    path: Path
    patient: str
    """The file's name before its last `_`; BMAD names files `<patient>_<slice>.png`."""
    label: Path | None
    """Where its anomaly is drawn; none for a normal image."""


@dataclass(frozen=True)
class BmadData:
    """The images of one set, sorted by name."""

    training: tuple[BmadImage, ...]
    """All normal."""
    test: tuple[BmadImage, ...]


@dataclass(frozen=True)
class _Layout:
    """Folders below the set's own; `{kind}` stands for `good` and `Ungood`."""

    training: tuple[str, ...]
    images: str
    labels: tuple[str, ...]


# Per class (BMAD's README and anomalib), per content (BMAD's liver), as RESC was published.
_PER_CLASS = _Layout(
    ("train/good/img", "train/good"),
    "test/{kind}/img",
    ("test/{kind}/anomaly_mask", "test/{kind}/label"),
)
_PER_CONTENT = _Layout(
    ("train/good", "train/img/good"), "test/img/{kind}", ("test/label/{kind}", "test/label")
)
_PUBLISHED = _Layout(("Train/train/good",), "Test/test/{kind}", ("Test/test_label/{kind}",))
_LAYOUTS = {
    BmadSet.BRATS2021: (_PER_CLASS, _PER_CONTENT, _PUBLISHED),
    BmadSet.LIVER: (_PER_CONTENT, _PER_CLASS, _PUBLISHED),
    BmadSet.RESC: (_PUBLISHED, _PER_CONTENT, _PER_CLASS),
}
"""What is looked for, in this order; the first is named where none is found."""

_NAMES = {
    BmadSet.BRATS2021: ("Brain", "BraTS2021", "BraTS2021_slice"),
    BmadSet.LIVER: ("Liver/Train/hist_DIY", "Train/hist_DIY", "hist_DIY", "Liver"),
    BmadSet.RESC: ("Retina_RESC", "RESC"),
}
"""A set's folder below the one that is named, which may be that of all BMAD."""


def find_bmad(root: Path, which: BmadSet) -> BmadData:
    """The images of a set in `root`, or in the set's folder there.

    Letters' case does not count. Raises `InputError`: `bmad-layout` where no
    known layout is there (naming the one that was expected and the folders
    found), `bmad-label-missing` where an anomalous image has no label.
    """
    root = Path(os.path.abspath(root))  # so that `.` has a name, too
    if not root.is_dir():
        raise InputError(
            "bmad-layout",
            f"A folder of BMAD's {which} set was expected; {root.name!r} is none.",
            "Name the folder into which the set was unpacked.",
        )
    try:
        places = [root, *filter(None, (_below(root, name) for name in _NAMES[which]))]
        for place in places:
            for layout in _LAYOUTS[which]:
                found = _read(place, layout)
                if found is not None:
                    return found
        raise _no_layout(root, which)
    except OSError as error:
        raise InputError(
            "bmad-layout",
            f"BMAD's folders must be readable; in {root.name!r} some are not "
            f"({error.strerror or error}).",
            "Allow yourself to read them.",
        ) from None


def unnamed(images: Sequence[BmadImage]) -> int:
    """How many names tell no patient, so that each image counts as a patient of its own."""
    return sum("_" not in image.path.stem for image in images)


def by_patient(images: Sequence[BmadImage]) -> list[list[BmadImage]]:
    """The images of every patient, in the order of their names."""
    groups: dict[str, list[BmadImage]] = {}
    for image in images:
        groups.setdefault(image.patient, []).append(image)
    return list(groups.values())


def _read(place: Path, layout: _Layout) -> BmadData | None:
    """The images if the folders are of this layout."""
    training = next(filter(None, (_images(place, name) for name in layout.training)), None)
    good, ungood = (_images(place, layout.images.format(kind=kind)) for kind in ("good", "Ungood"))
    if not (training and good and ungood):
        return None
    labels: dict[str, Path] = {}
    for name in reversed(layout.labels):  # the first one named counts most
        labels |= {path.name: path for path in _images(place, name.format(kind="Ungood"))}
    missing = [path.name for path in ungood if path.name not in labels]
    if missing:
        folders = " or ".join(f"{name.format(kind='Ungood')}/" for name in layout.labels)
        raise InputError(
            "bmad-label-missing",
            f"Every anomalous test image needs a label of its name in {folders}; "
            f"{len(missing)} of {len(ungood)} have none, the first {missing[0]!r}.",
            "Unpack the set again.",
        )
    return BmadData(
        tuple(_image(path, None) for path in training),
        tuple(
            [*(_image(path, None) for path in good)]
            + [_image(path, labels[path.name]) for path in ungood]
        ),
    )


def _image(path: Path, label: Path | None) -> BmadImage:
    return BmadImage(path, path.stem.rpartition("_")[0] or path.stem, label)


def _images(place: Path, name: str) -> list[Path]:
    """The PNG files in a folder, sorted; none where there is no such folder."""
    folder = _below(place, name)
    if folder is None:
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() == ".png" and not path.name.startswith(".")
    )


def _below(place: Path, name: str) -> Path | None:
    """The folder of that relative name, whatever the case of its letters."""
    for part in name.split("/"):
        same = [one for one in _folders(place) if one.lower() == part.lower()]
        if not same:
            return None
        place = place / (part if part in same else min(same))
    return place


def _folders(place: Path) -> list[str]:
    with os.scandir(place) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())


def _no_layout(root: Path, which: BmadSet) -> InputError:
    layout = _LAYOUTS[which][0]
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
        f"BMAD's {which} set was expected: {', '.join(needed)}; found in {root.name!r}: {shown}"
        + (", …" if len(found) > 12 else "")
        + ".",
        "Name the folder into which the set was unpacked; bmad.md lists all layouts.",
    )
