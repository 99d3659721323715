"""DICOM series of a folder or of some files: list them, and choose one."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.specs import Modality
from SpatialARAnomalyLib.engine.volumes.dicom_frames import list_frames
from SpatialARAnomalyLib.engine.volumes.dicom_headers import (
    START_BYTES,
    DicomFile,
    is_dicom,
    open_dicom,
    read_header,
)

_SALT = os.urandom(16)
"""Random salt of this process: hashes of patient IDs cannot be compared outside of it."""

KINDS = {
    "CR": "X-ray image", "DX": "X-ray image", "KO": "selection of images", "MG": "mammogram",
    "NM": "nuclear medicine", "OT": "other image", "PR": "presentation of images", "PT": "PET",
    "REG": "registration", "RF": "fluoroscopy", "RTDOSE": "radiotherapy dose",
    "RTIMAGE": "radiotherapy image", "RTPLAN": "radiotherapy plan",
    "RTSTRUCT": "radiotherapy structures", "SC": "screenshot", "SEG": "segmentation",
    "SR": "report", "US": "ultrasound", "XA": "angiogram",
}  # fmt: skip
"""Names of what other modalities (0008,0060) than MR and CT hold."""


LOCALIZER = "localizer"
"""Remark on a series of localizers (Image Type value 3, DICOM PS3.3 C.8.2.1.1.1)."""

OTHER_ORIENTATION = 0.1
"""Difference of direction cosines from which images of a series are of several planes."""

UNKNOWN = "unknown"
"""UID of the series of files that look like DICOM and hold nothing of an image."""


@dataclass(frozen=True)
class DicomSeries:
    """Files that share a Series Instance UID (0020,000E)."""

    uid: str
    number: int | None
    description: str
    modality: str
    files: tuple[DicomFile, ...]

    @property
    def kind(self) -> str:
        """The content of the files, in words."""
        if self.uid == UNKNOWN:
            return "DICOM without an image"
        return KINDS.get(self.modality, self.modality or "DICOM")

    def __str__(self) -> str:
        number = "–" if self.number is None else str(self.number)
        images = sum(file.frames for file in self.files)
        count = f"{images} image{'' if images == 1 else 's'}"
        if self.uid == UNKNOWN:
            return f"–: {images} that look like DICOM, without the attributes of an image"
        remark = self.kind if self.kind != self.modality else self.not_a_scan
        return f"{number}: {self.modality} {self.description!r}, {count}" + (
            f" ({remark})" if remark else ""
        )

    @cached_property
    def not_a_scan(self) -> str | None:
        """Why the series is not taken for a scan unless it is named; None if it is."""
        if self.modality and self.modality not in set(Modality):
            return f"no {' or '.join(Modality)}"
        if not self.has_images:
            return "no images"
        if any(file.integer("SamplesPerPixel") not in (None, 1) for file in self.files):
            return "color"
        if not any(_is_placed(file) for file in self.files):
            return "without positions"
        if all("LOCALIZER" in file.image_type for file in self.files):
            return LOCALIZER
        if self._has_several_orientations:
            return "several orientations"
        return None

    @property
    def _has_several_orientations(self) -> bool:
        """True for images of several planes, such as localizers that are not marked."""
        try:
            found = [frame.orientation for frame in list_frames(self.files)]
        except InputError:
            return False
        stated = [one for one in found if one is not None]
        return any(np.abs(one - stated[0]).max() > OTHER_ORIENTATION for one in stated)

    @property
    def has_images(self) -> bool:
        """True if any of the files holds pixels."""
        return any(file.integer("Rows") for file in self.files)

    @property
    def patient_hash(self) -> str | None:
        """Salted hash of the Patient ID (0010,0020), to compare within this process.

        None where it is missing, empty or not the same in all images.
        """
        ids = {one.text("PatientID") for one in self.files}
        if len(ids) > 1 or not max(ids):
            return None
        return hashlib.sha256(_SALT + ids.pop().encode()).hexdigest()

    @property
    def image_names(self) -> frozenset[str]:
        """SOP Instance UIDs (0008,0018) of the images."""
        return frozenset(one.text("SOPInstanceUID") or str(one.path) for one in self.files)

    def merge(self, other: "DicomSeries") -> "DicomSeries":
        """Return the series with the images of another part of it added."""
        return replace(self, files=self.files + other.files)


def _is_placed(file: DicomFile) -> bool:
    return bool(
        file.numbers("ImagePositionPatient", 3) is not None
        or file.value("PerFrameFunctionalGroupsSequence")
    )


def list_series(
    source: Path | Iterable[Path], check_cancelled: Callable[[], None] = lambda: None
) -> list[DicomSeries]:
    """List the series of a folder or of some files by number, ignoring files of other kinds.

    Series without images (reports, structures) are listed, too. `check_cancelled` is called
    before every file, and may raise to stop.
    """
    files = sorted(source.rglob("*")) if isinstance(source, Path) else source
    groups: dict[tuple[str, ...], list[DicomFile]] = defaultdict(list)
    seen: dict[str, list[DicomFile]] = defaultdict(list)
    remnants: list[Path] = []
    for path in files:
        check_cancelled()
        try:
            file = read_header(path) if path.is_file() else None
        except Exception:  # pydicom raises anything on what is half DICOM
            file = DicomFile(path, header={}, syntax="") if is_dicom(path) else None
        if file is None:
            remnants += [path] if _is_remnant(path) else []
            continue
        if file.is_directory:
            continue
        earlier = seen[file.text("SOPInstanceUID") or str(path)]
        # Exports often hold copies of an image, which are not further slices.
        if any(_is_copy(file, one) for one in earlier):
            continue
        earlier.append(file)
        uid = file.text("SeriesInstanceUID")
        if not uid and not file.text("Modality") and min(file.size) < 1:
            uid = UNKNOWN
        # Without UID: the images of one folder with one number.
        folder = os.path.abspath(path.parent)
        place = () if uid else (folder, file.text("SeriesNumber"))
        # Broken anonymizers give all series of a study one UID.
        groups[(uid, file.text("Modality"), *place)].append(file)
    kinds = {
        (file.path.parent, file.path.suffix) for members in groups.values() for file in members
    }
    for path in remnants:
        if (path.parent, path.suffix) in kinds:
            groups[(UNKNOWN, "")].append(DicomFile(path, header={}, syntax=""))
    series = [
        DicomSeries(
            uid=key[0] or f"without-uid-{hashlib.sha256(repr(key).encode()).hexdigest()[:8]}",
            number=members[0].integer("SeriesNumber"),
            description=members[0].text("SeriesDescription"),
            modality=members[0].text("Modality"),
            files=tuple(members),
        )
        for key, members in groups.items()
    ]
    return sorted(series, key=lambda one: (one.number is None, one.number or 0, one.uid))


def _is_remnant(path: Path) -> bool:
    """Return True for a file that is empty, cut off in its preamble, or cannot be opened."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            start = file.read(START_BYTES)
    except OSError:
        return True
    return len(start) < START_BYTES and not start.strip(b"\0")


def _is_copy(one: DicomFile, other: DicomFile) -> bool:
    """Return True if two files of one SOP Instance UID hold the same image.

    Some anonymizers give all images one UID, so positions and pixels are compared.
    """
    for tag in ("ImagePositionPatient", "InstanceNumber", "pixel_bytes"):
        first, second = (
            file.pixel_bytes if tag == "pixel_bytes" else str(file.value(tag))
            for file in (one, other)
        )
        if first != second:
            return False
    return _pixels_sha256(one) == _pixels_sha256(other)


def _pixels_sha256(file: DicomFile) -> str:
    """Return a hash of the stored pixels and all that follows them."""
    digest = hashlib.sha256()
    with open_dicom(file.path) as stream:
        if stream is not None and file.pixels_at:
            stream.seek(file.pixels_at)
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def choose_series(series: list[DicomSeries], wanted: str | None) -> DicomSeries:
    """Return the series of the wanted number or UID; if none is wanted, the only scan.

    Other modalities than MR and CT, localizers and series without positions are no scans, but
    are returned where there is nothing else. Raises `InputError` with a list of the series if
    the choice is open.
    """
    if not series:
        raise InputError(
            "input-empty", "Expected a folder with a DICOM series; found no DICOM images in it."
        )
    listing = "; ".join(str(one) for one in series)
    if wanted is None:
        scans = (
            [one for one in series if one.not_a_scan is None]
            or [one for one in series if one.has_images]
            or [one for one in series if one.modality]
            or series
        )
        if len(scans) == 1:
            return scans[0]
        raise InputError(
            "series-ambiguous",
            f"Expected one DICOM series; the folder holds {len(series)} ({listing}).",
        )
    chosen = [
        one
        for one in series
        if wanted == one.uid or (one.number is not None and wanted == str(one.number))
    ]
    if not chosen:
        raise InputError(
            "series-missing",
            f"No series has the number or UID {wanted}; the folder holds {listing}.",
        )
    scans = [one for one in chosen if one.not_a_scan is None]
    if len(scans) == 1:
        return scans[0]
    if len(chosen) > 1:
        raise InputError(
            "series-ambiguous",
            f"Series number {wanted} stands for {len(chosen)} series "
            f"({', '.join(one.uid for one in chosen)}).",
        )
    return chosen[0]
