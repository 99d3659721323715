"""An independent reading of DICOM by pydicom alone: where each pixel lies, and its value."""

import gzip
import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from SpatialARAnomalyLib.engine.volumes.volume import Volume

PLACE_MM = 1e-3


@dataclass(frozen=True)
class Image:
    """One image as its header says."""

    origin: np.ndarray
    """Center of the first pixel in LPS mm."""
    along_column_index: np.ndarray
    """Step in mm from one column to the next."""
    along_row_index: np.ndarray
    """Step in mm from one row to the next."""
    pixels: np.ndarray
    """Rescaled values [row, column]."""
    step: float
    """One stored step."""

    def values_at(self, lps: np.ndarray) -> np.ndarray:
        """The values of the pixels whose centers are there [n, 3]; NaN where there is none."""
        axes = np.stack([self.along_column_index, self.along_row_index], axis=1)
        columns, rows = np.rint(np.linalg.lstsq(axes, (lps - self.origin).T, rcond=None)[0])
        places = self.origin + (axes @ [columns, rows]).T
        height, width = self.pixels.shape
        found = (np.linalg.norm(places - lps, axis=1) <= PLACE_MM) & (rows >= 0) & (columns >= 0)
        found &= (rows < height) & (columns < width)
        values = np.full(len(lps), np.nan)
        values[found] = self.pixels[rows[found].astype(int), columns[found].astype(int)]
        return values


def read_images(paths: Iterable[Path]) -> list[Image]:
    """Every image of the files; those of multi-frame objects by their functional groups."""
    images = []
    for path in paths:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        with warnings.catch_warnings(action="ignore"):
            header = pydicom.dcmread(io.BytesIO(data), force=True)
            if len(header) < 2:  # a byte before the first element
                header = pydicom.dcmread(io.BytesIO(data[1:]), force=True)
            if "Rows" not in header:
                continue
            if "TransferSyntaxUID" not in header.file_meta:
                header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
            frames = np.asarray(header.pixel_array)
        if "PerFrameFunctionalGroupsSequence" not in header:
            if "ImagePositionPatient" not in header:
                continue
            images.append(_image(header, header, header, header, frames))
            continue
        frames = frames.reshape(-1, header.Rows, header.Columns)
        shared = header.get("SharedFunctionalGroupsSequence", [pydicom.Dataset()])[0]
        for own, pixels in zip(header.PerFrameFunctionalGroupsSequence, frames, strict=True):

            def group(name: str, own=own, shared=shared) -> pydicom.Dataset:
                found = own.get(name) or shared.get(name)
                return found[0] if found else pydicom.Dataset()

            images.append(
                _image(
                    group("PlanePositionSequence"),
                    group("PlaneOrientationSequence"),
                    group("PixelMeasuresSequence"),
                    group("PixelValueTransformationSequence"),
                    pixels,
                )
            )
    return images


def _image(position, orientation, measures, rescale, pixels) -> Image:
    cosines = np.array(orientation.ImageOrientationPatient, float)
    between_rows, between_columns = map(float, measures.PixelSpacing)
    slope = float(rescale.get("RescaleSlope", 1))
    return Image(
        np.array(position.ImagePositionPatient, float),
        cosines[:3] * between_columns,
        cosines[3:] * between_rows,
        pixels * slope + float(rescale.get("RescaleIntercept", 0)),
        abs(slope),
    )


def check_volume(volume: Volume, images: list[Image], voxels: int = 100) -> None:
    """Random voxels have the value of a pixel within 1e-3 mm, to one stored step."""
    random = np.random.RandomState(0)
    k, j, i = (random.randint(size, size=voxels) for size in volume.voxels.shape)
    places = (volume.ras_from_voxel @ np.stack([i, j, k, np.ones(voxels)]))[:3].T * [-1, -1, 1]
    measured = np.ones(voxels, bool) if volume.outside is None else ~volume.outside[k, j, i]
    steps = np.full(voxels, np.inf)
    for image in images:
        apart = np.abs(image.values_at(places) - volume.voxels[k, j, i]) / image.step
        steps = np.fmin(steps, apart)
    assert steps[measured].max(initial=0) <= 1
