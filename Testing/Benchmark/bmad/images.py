"""BMAD's PNG files as images for the encoder, and scores and labels on the same pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from Benchmark.bmad.layout import ImageFile, Protocol
from jaxtyping import Bool, Float32
from SpatialARAnomalyLib.engine.errors import InputError
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


def resize_for_encoder(gray: Float32[np.ndarray, "h w"], size_px: int) -> Float32[Tensor, "1 s s"]:
    """Resize an image to a square: bilinear with antialiasing, aspect not kept, 8 bits."""
    resized = F.interpolate(
        torch.from_numpy(gray)[None, None],
        size=(size_px, size_px),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    return (resized[0] * GRAY_STEPS).round() / GRAY_STEPS


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


def load_batch(images: Sequence[ImageFile], size_px: int) -> tuple[Float32[Tensor, "b 1 s s"], int]:
    """Read images as the encoder's input.

    Returns:
        The batch, and the number of images that had colors.
    """
    read = [read_gray(image.path) for image in images]
    stacked = torch.stack([resize_for_encoder(gray, size_px) for gray, _ in read])
    return stacked, sum(colored for _, colored in read)


def _size(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
