"""Tiny sets in BMAD's folders: smooth gray slices of few patients, some with a bright disk."""

from pathlib import Path

import numpy as np
from Benchmark.bmad.layout import DatasetName
from PIL import Image

TRAINING, TEST_GOOD, TEST_UNGOOD = ("00001", "00002", "00003"), ("00010",), ("00020", "00021")
SLICES = (60, 61)

SHAPES = {DatasetName.BRATS2021: (48, 48), DatasetName.LIVER: (64, 64), DatasetName.RESC: (40, 80)}

LAYOUTS = {
    "readme": ("train/good/img", "test/{}/img", "test/{}/anomaly_mask"),
    "anomalib": ("train/good", "test/{}/img", "test/{}/label"),
    "liver": ("train/good", "test/img/{}", "test/label/{}"),
    "flat labels": ("train/good", "test/img/{}", "test/label"),
    "published": ("Train/train/good", "Test/test/{}", "Test/test_label/{}"),
}
"""Folders of training images, test images and labels."""

USUAL = {DatasetName.BRATS2021: "readme", DatasetName.LIVER: "liver", DatasetName.RESC: "published"}


def picture(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """A smooth slice in 8 bits, similar for all seeds."""
    random = np.random.RandomState(seed)
    row, column = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    smooth = 0.4 + 0.2 * np.sin(6 * row + 0.3 * random.rand()) * np.cos(5 * column)
    return (255 * np.clip(smooth + 0.01 * random.normal(size=shape), 0, 1)).astype(np.uint8)


def disk(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Mask of a lesion."""
    random = np.random.RandomState(seed)
    row, column = np.mgrid[: shape[0], : shape[1]]
    center = np.array(shape) * random.uniform(0.35, 0.65, 2)
    return np.hypot(row - center[0], column - center[1]) < 0.16 * min(shape)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_set(root: Path, which: DatasetName, layout: str | None = None) -> Path:
    """Write a data set and return its root."""
    train, images, labels = LAYOUTS[layout or USUAL[which]]
    shape = SHAPES[which]
    numbered = [
        (kind, f"{patient}_{number}.png")
        for kind, patients in (
            ("train", TRAINING), ("good", TEST_GOOD), ("Ungood", TEST_UNGOOD),
        )
        for patient in patients
        for number in SLICES
    ]  # fmt: skip
    for seed, (kind, name) in enumerate(numbered):
        pixels, lesion = picture(seed, shape), np.zeros(shape, bool)
        if kind == "train":
            write(root / train / name, pixels)
            continue
        if kind == "Ungood":
            lesion = disk(seed, shape)
            pixels = np.where(lesion, np.minimum(pixels.astype(int) + 110, 255), pixels)
        write(root / images.format(kind) / name, pixels.astype(np.uint8))
        if kind == "Ungood" or layout != "readme":  # in BMAD's README layout only those have labels
            write(root / labels.format(kind) / name, lesion.astype(np.uint8) * 255)
    return root
