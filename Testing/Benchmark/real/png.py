"""BMAD's PNG files as images for the encoder, and scores and labels on the same pixels."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import SpatialARAnomalyLib
import torch
from Benchmark.real.layout import ImageFile, Protocol, find_dataset, group_by_patient
from Benchmark.real.patients import Compared, Patient, Patients
from jaxtyping import Bool, Float, Float32
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.files import file_sha256
from SpatialARAnomalyLib.engine.slices.body import body_mask
from SpatialARAnomalyLib.engine.slices.head_interior import head_interior
from SpatialARAnomalyLib.engine.specs import Modality, Region
from torch import Tensor
from torch.nn import functional as F

PAPER_PX = 240
"""Side in pixels at which the paper's released code compares scores with labels."""

GRAY_STEPS = 255
"""Steps of a resized image: 8 bits, as from PIL, which the paper's code uses."""

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601), as in PIL's conversion to gray."""


def read_gray(path: Path) -> tuple[Float32[np.ndarray, "h w"], bool]:
    """Read an image as gray in [0, 1].

    Returns:
        The image, and whether it had colors and was reduced to its luminance.

    Raises:
        InputError: `bmad-image` if the file is not a PNG image.
    """
    values = _read_png(path)
    if values.ndim == 2:
        return values, False
    red, green, blue = (values[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return np.ascontiguousarray(red), False
    return (values[..., :3] @ np.array(LUMINANCE, np.float32)), True


def read_label(path: Path) -> Bool[np.ndarray, "h w"]:
    """Read the mask of the anomaly: nonzero pixels of the first channel.

    Raises `InputError` `bmad-image` if the file is not a PNG image.
    """
    values = _read_png(path)
    return (values if values.ndim == 2 else values[..., 0]) > 0


def image_error(path: Path, reason: object) -> InputError:
    """Make the error for a file that cannot be read as a PNG image."""
    return InputError(
        "bmad-image",
        f"{path.name!r} cannot be read as a PNG image ({reason}). Unpack the data set again.",
    )


def _read_png(path: Path) -> Float32[np.ndarray, "h w *c"]:
    from matplotlib.image import imread

    try:
        values: np.ndarray = imread(path, format="png")
    except (OSError, ValueError, SyntaxError) as error:
        raise image_error(path, error) from None
    if values.ndim == 3 and values.shape[2] < 3:  # gray with opacity
        values = values[..., 0]
    return values.astype(np.float32)


def resize_for_encoder(
    gray: Float32[np.ndarray, "h w"], size_px: int
) -> Float32[np.ndarray, "1 s s"]:
    """Resize an image to a square: bilinear with antialiasing, aspect not kept, 8 bits."""
    resized = _antialiased(torch.from_numpy(gray), (size_px, size_px))
    return ((resized * GRAY_STEPS).round() / GRAY_STEPS)[None].numpy()


def _antialiased(gray: Float32[Tensor, "h w"], shape: tuple[int, int]) -> Float32[Tensor, "r c"]:
    return F.interpolate(
        gray[None, None], size=shape, mode="bilinear", align_corners=False, antialias=True
    )[0, 0]


def upsample_scores(
    score: Float32[Tensor, "h w"], shape: tuple[int, int]
) -> Float32[np.ndarray, "r c"]:
    """Interpolate token scores to pixels, bilinear between the tokens' centers."""
    on_pixels = F.interpolate(score[None, None], size=shape, mode="bilinear", align_corners=False)
    return on_pixels[0, 0].cpu().numpy()


def label_on_grid(image: ImageFile, protocol: Protocol, size_px: int) -> Bool[np.ndarray, "r c"]:
    """Read a label on the pixels that the protocol compares; all False for a normal image.

    The paper's protocol resizes it twice: to the encoder's image by the nearest pixel
    center, then to 240×240 by the nearest pixel to the upper left. Raises `InputError`
    `bmad-label-size` if image and label differ in size (native protocol).
    """
    if image.label is None:
        if protocol is Protocol.PAPER:
            return np.zeros((PAPER_PX, PAPER_PX), dtype=bool)
        return np.zeros(read_gray(image.path)[0].shape, dtype=bool)
    label = read_label(image.label)
    if protocol is Protocol.NATIVE:
        shape = read_gray(image.path)[0].shape
        if shape != label.shape:
            raise InputError(
                "bmad-label-size",
                f"A label must have the size of its image; {image.label.name!r} has "
                f"{_size(label.shape)} pixels, its image {_size(shape)}. "
                "Unpack the data set again.",
            )
        return label
    grid = torch.from_numpy(label.astype(np.float32))[None, None]
    grid = F.interpolate(grid, size=(size_px, size_px), mode="nearest-exact")
    grid = F.interpolate(grid, size=(PAPER_PX, PAPER_PX), mode="nearest")
    return grid[0, 0].numpy() > 0


FIELD_MM = 240.0
"""Assumed width of an image, for the body mask; BMAD's files state none."""

SLICE_MM = 5.0
"""Assumed distance of slices, for the inside of a head."""

IMAGES_PER_BATCH = 16


@dataclass(frozen=True, eq=False)
class PngPatient(Patient):
    """The PNG images of one patient."""

    name: str
    files: Sequence[ImageFile]
    size_px: int
    patch_px: int
    protocol: Protocol
    region: Region = Region.BODY

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    @cached_property
    def sha256(self) -> str:
        """Hash of the image files."""
        return joint_sha256([_hash(file.path) for file in self.files])

    @cached_property
    def truth_sha256(self) -> str:
        """Hash of the label files."""
        return joint_sha256([_hash(file.label) if file.label else "" for file in self.files])

    def images(self) -> Iterator[Float32[np.ndarray, "b 1 s s"]]:
        """Yield the images for the encoder, in batches."""
        for start in range(0, len(self.files), IMAGES_PER_BATCH):
            chosen = self.files[start : start + IMAGES_PER_BATCH]
            yield np.stack(
                [resize_for_encoder(read_gray(one.path)[0], self.size_px) for one in chosen]
            )

    def inside(self) -> Bool[np.ndarray, "n h w"]:
        """Return the mask of the tokens that count: all."""
        side = self.size_px // self.patch_px
        return np.ones((len(self), side, side), bool)

    @cached_property
    def _truth(self) -> list[tuple[tuple[int, int], np.ndarray, np.ndarray]]:
        """For every image, the size of body and lesion on the compared pixels, and both as bits."""
        gray = [read_gray(file.path)[0] for file in self.files]
        bodies: list[np.ndarray] = [np.zeros(0)] * len(gray)
        upward = sorted(range(len(gray)), key=lambda index: self.files[index].path.name)
        for shape in {one.shape for one in gray}:
            same = [index for index in upward if gray[index].shape == shape]
            pixel_mm = FIELD_MM / max(shape)
            # Slices so far apart are masked each by itself, by the thresholds of all together.
            stack = np.stack([gray[index] for index in same])
            found = body_mask(stack, (FIELD_MM, pixel_mm, pixel_mm), Modality.MR)
            if self.region is Region.HEAD_INTERIOR:
                spacing_mm = (SLICE_MM, pixel_mm, pixel_mm)
                interior = head_interior(stack, found, spacing_mm, Modality.MR)
                found = found if interior is None else interior
            for index, body in zip(same, found, strict=True):
                bodies[index] = body
        truth = []
        for file, body in zip(self.files, bodies, strict=True):
            lesion = label_on_grid(file, self.protocol, self.size_px)
            if lesion.shape != body.shape:
                body = _nearest(body, lesion.shape)
            truth.append((lesion.shape, np.packbits(body), np.packbits(lesion)))
        return truth

    def compared(self, scores: Float[np.ndarray, "n h w"] | None) -> Iterator[Compared]:
        """Yield token scores on the compared pixels; without scores, the brightness."""
        for index, (shape, body, lesion) in enumerate(self._truth):
            if scores is not None:
                values = upsample_scores(torch.from_numpy(scores[index]), shape)
            else:
                gray = torch.from_numpy(read_gray(self.files[index].path)[0])
                values = _antialiased(gray, shape).numpy()
            yield Compared(values, *(_unpacked(bits, shape) for bits in (body, lesion)))


def png_patients(
    root: Path, size_px: int, patch_px: int, protocol: Protocol, region: Region
) -> Patients:
    """Find the patients of a BMAD set (`layout.find_dataset`)."""
    data = find_dataset(root)
    training, test = (
        [
            PngPatient(name, files, size_px, patch_px, protocol, region)
            for name, files in group_by_patient(files).items()
        ]
        for files in (data.training, data.test)
    )
    colored = sum(read_gray(file.path)[1] for file in (*data.training, *data.test))
    unnamed = sum("_" not in file.path.stem for file in (*data.training, *data.test))
    about = {"pixels": f"{PAPER_PX} × {PAPER_PX}" if protocol is Protocol.PAPER else "the image's"}
    if colored:
        about["colors"] = f"{colored} images have colors and were reduced to their luminance"
    if unnamed:
        about["names"] = (
            f"{unnamed} file names are not <patient>_<slice>.png; each of these images counts as "
            "a patient"
        )
    return Patients(training, test, f"png 1, {size_px} px", about)


def code_sha256(*rooms: str) -> str:
    """Hash the code of folders of the engine, so that nothing made by other code is reused."""
    engine = Path(SpatialARAnomalyLib.__file__).parent / "engine"
    files = sorted(file for room in rooms for file in (engine / room).glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def joint_sha256(parts: Sequence[str]) -> str:
    """Hash a sequence of hashes."""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _hash(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise image_error(path, error.strerror or error) from None


def _unpacked(bits: np.ndarray, shape: tuple[int, int]) -> Bool[np.ndarray, "r c"]:
    return np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape).astype(bool)


def _nearest(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(int)
        for old, new in zip(mask.shape, shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def _size(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
