"""Small DICOM series, written as scanners and archives write them."""

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class Series:
    """Images [k, j, i] at equal steps, as stored and before any rescaling."""

    stored: np.ndarray
    orientation: tuple[float, ...] = AXIAL
    """Direction cosines (LPS) of a row, then of a column."""
    origin: tuple[float, ...] = (-10.0, 20.0, 30.0)
    step: tuple[float, ...] | None = None
    """LPS mm from one slice to the next; by default 2.5 along the normal."""
    pixel_spacing: tuple[float, float] = (0.7, 0.9)
    """Between rows, between columns."""
    uid: str = "1.2.826.0.1.3680043.8.498.1"
    attributes: dict[str, Any] = field(default_factory=dict)
    """Of every image; None leaves an attribute out."""

    @property
    def slice_step(self) -> np.ndarray:
        if self.step is not None:
            return np.array(self.step)
        return 2.5 * np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def ras_from_voxel(self) -> np.ndarray:
        """DICOM PS3.3 C.7.6.2.1.1, x and y negated: equation C.7.6.2.1-1 for every slice."""
        lps_from_voxel = np.eye(4)
        lps_from_voxel[:3, 0] = np.array(self.orientation[:3]) * self.pixel_spacing[1]
        lps_from_voxel[:3, 1] = np.array(self.orientation[3:]) * self.pixel_spacing[0]
        lps_from_voxel[:3, 2] = self.slice_step
        lps_from_voxel[:3, 3] = self.origin
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps_from_voxel

    def image(self, k: int, **attributes: Any) -> Dataset:
        """The k-th image; `attributes` replace the series' own."""
        pixels = self.stored[k]
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = CTImageStorage
        image.SOPInstanceUID = generate_uid(entropy_srcs=[self.uid, str(k)])
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        values = {
            "Modality": "CT",
            "SeriesInstanceUID": self.uid,
            "SeriesNumber": 1,
            "SeriesDescription": "thin",
            "InstanceNumber": k + 1,
            "ImagePositionPatient": [
                f"{value:.10g}" for value in self.origin + k * self.slice_step
            ],
            "ImageOrientationPatient": [f"{value:.10g}" for value in self.orientation],
            "PixelSpacing": list(self.pixel_spacing),
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 8 * pixels.dtype.itemsize,
            "BitsStored": 8 * pixels.dtype.itemsize,
            "HighBit": 8 * pixels.dtype.itemsize - 1,
            "PixelRepresentation": int(pixels.dtype.kind == "i"),
            "PixelData": pixels.tobytes(),
            **self.attributes,
            **attributes,
        }
        with warnings.catch_warnings(action="ignore"):  # some are wrong on purpose
            for name, value in values.items():
                if value is not None:
                    setattr(image, name, value)
        return image

    def write(self, folder: Path, **attributes: Any) -> Path:
        """Write all images into the folder, the last slice first."""
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(len(self.stored)):
            save(self.image(k, **attributes), folder / f"image {len(self.stored) - k:03d}.dcm")
        return folder

    def with_(self, **changes: Any) -> "Series":
        return replace(self, **changes)


def item(**attributes: Any) -> Sequence:
    """A sequence of one data set; values that are dictionaries are such sequences, too."""
    data_set = Dataset()
    for name, value in attributes.items():
        setattr(data_set, name, item(**value) if isinstance(value, dict) else value)
    return Sequence([data_set])


def multi_frame(
    volumes: list[Series], own: list[dict[str, Any]], shared: dict[str, Any], **attributes: Any
) -> Dataset:
    """An Enhanced MR object of all volumes' images, shuffled.

    `own` are functional groups of the frames of each volume, beside their positions, and
    `shared` those of all frames, beside pixel measures and orientation.
    """
    first = volumes[0]
    frames = [(n, k) for n, volume in enumerate(volumes) for k in range(len(volume.stored))]
    np.random.RandomState(0).shuffle(frames)
    image = first.image(0, Modality="MR", **attributes)
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = EnhancedMRImageStorage
    image.NumberOfFrames = len(frames)
    del image.ImagePositionPatient, image.ImageOrientationPatient, image.PixelSpacing
    (common,) = item(
        PixelMeasuresSequence={"PixelSpacing": list(first.pixel_spacing)},
        PlaneOrientationSequence={
            "ImageOrientationPatient": [f"{value:.10g}" for value in first.orientation]
        },
        **shared,
    )
    image.SharedFunctionalGroupsSequence = Sequence([common])
    image.PerFrameFunctionalGroupsSequence = Sequence(
        item(
            PlanePositionSequence={
                "ImagePositionPatient": list(volumes[n].image(k).ImagePositionPatient)
            },
            **own[n],
        )[0]
        for n, k in frames
    )
    image.PixelData = b"".join(volumes[n].stored[k].tobytes() for n, k in frames)
    return image


def save(image: Dataset, path: Path) -> Path:
    with warnings.catch_warnings(action="ignore"):
        image.save_as(path, enforce_file_format=True)
    return path


def small_series(slices: int = 5, dtype: str = "i2", **settings: Any) -> Series:
    """A seeded series of 6 × 8 pixels."""
    random = np.random.RandomState(0)
    limits = np.iinfo(dtype)
    stored = random.randint(max(limits.min, -2000), min(limits.max, 3000), (slices, 6, 8))
    return Series(stored=stored.astype(dtype), **settings)
