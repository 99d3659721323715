"""BMAD's PNG files as the encoder's images, and scores beside labels on the same pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor
from torch.nn import functional as F

from ..engine.errors import InputError
from .bmad_layout import BmadImage, BmadProtocol

PAPER_PX = 240
"""The side on which the paper's released code holds scores against labels."""

GRAY_STEPS = 255
"""Resized images keep 8 bits, as those of PIL do, through which the paper's go."""

LUMINANCE = (0.299, 0.587, 0.114)
"""Of red, green and blue (ITU-R BT.601), as PIL makes gray of color."""


def read_gray(path: Path) -> tuple[Float32[np.ndarray, "h w"], bool]:
    """The image in [0, 1], and whether it had colors, of which the luminance is taken.

    Raises `InputError` `bmad-image` where it is no PNG image.
    """
    values = _read_png(path)
    if values.ndim == 2:
        return values, False
    red, green, blue = (values[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return np.ascontiguousarray(red), False
    return (values[..., :3] @ np.array(LUMINANCE, np.float32)), True


def read_label(path: Path) -> Bool[np.ndarray, "h w"]:
    """Where the anomaly is: what is not zero, of the first channel if there are more.

    Raises `InputError` `bmad-image` where it is no PNG image.
    """
    values = _read_png(path)
    return (values if values.ndim == 2 else values[..., 0]) > 0


def _read_png(path: Path) -> Float32[np.ndarray, "h w *c"]:
    from matplotlib.image import imread

    try:
        values: np.ndarray = imread(path, format="png")
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(
            "bmad-image",
            f"{path.name!r} was expected to be a PNG image; it cannot be read ({error}).",
            "Unpack the set again.",
        ) from None
    if values.ndim == 3 and values.shape[2] < 3:  # gray with opacity
        values = values[..., 0]
    return values.astype(np.float32)


def encoder_image(gray: Float32[np.ndarray, "h w"], size_px: int) -> Float32[Tensor, "1 s s"]:
    """The image resized to a square: bilinear with antialias, the aspect not kept, in 8 bits."""
    resized = F.interpolate(
        torch.from_numpy(gray)[None, None],
        size=(size_px, size_px),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    return (resized[0] * GRAY_STEPS).round() / GRAY_STEPS


def score_on_pixels(
    score: Float32[Tensor, "h w"], shape: tuple[int, int]
) -> Float32[np.ndarray, "r c"]:
    """Scores of tokens on pixels: bilinear, token centers where they are in the image."""
    on_pixels = F.interpolate(score[None, None], size=shape, mode="bilinear", align_corners=False)
    return on_pixels[0, 0].cpu().numpy()


def pixels_of(image: BmadImage, protocol: BmadProtocol, size_px: int) -> Bool[np.ndarray, "r c"]:
    """The label on the pixels on which the protocol compares; all false for a normal image.

    In the paper's protocol it is resized twice, as there: to the encoder's
    image by the nearest pixel center, then to 240×240 by the nearest pixel to
    the upper left. Raises `InputError` where image and label differ in size.
    """
    if image.label is None:
        if protocol is BmadProtocol.PAPER:
            return np.zeros((PAPER_PX, PAPER_PX), dtype=bool)
        return np.zeros(read_gray(image.path)[0].shape, dtype=bool)
    label = read_label(image.label)
    if protocol is BmadProtocol.NATIVE:
        shape = read_gray(image.path)[0].shape
        if shape != label.shape:
            raise InputError(
                "bmad-label-size",
                f"A label must have its image's size; {image.label.name!r} has "
                f"{_size(label.shape)} pixels, its image {_size(shape)}.",
                "Unpack the set again.",
            )
        return label
    grid = torch.from_numpy(label.astype(np.float32))[None, None]
    grid = F.interpolate(grid, size=(size_px, size_px), mode="nearest-exact")
    grid = F.interpolate(grid, size=(PAPER_PX, PAPER_PX), mode="nearest")
    return grid[0, 0].numpy() > 0


def encoder_batch(
    images: Sequence[BmadImage], size_px: int
) -> tuple[Float32[Tensor, "b 1 s s"], int]:
    """The images as the encoder sees them, and how many of them had colors."""
    read = [read_gray(image.path) for image in images]
    stacked = torch.stack([encoder_image(gray, size_px) for gray, _ in read])
    return stacked, sum(colored for _, colored in read)


def _size(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
