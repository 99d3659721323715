"""Tiny sets, in BMAD's folders and as volumes: smooth patients, some with a bright lesion."""

from pathlib import Path

import numpy as np
from PIL import Image
from SpatialARAnomalyLib.engine.volumes.files import write_nifti
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.demo.phantom import add_lesion, normal_head

TRAINING, TEST_GOOD, TEST_UNGOOD = ("00001", "00002", "00003"), ("00010",), ("00020", "00021")
SLICES = (60, 61)

LAYOUTS = {
    "readme": ("train/good/img", "test/{}/img", "test/{}/anomaly_mask"),
    "anomalib": ("train/good", "test/{}/img", "test/{}/label"),
    "liver": ("train/good", "test/img/{}", "test/label/{}"),
    "flat labels": ("train/good", "test/img/{}", "test/label"),
    "published": ("Train/train/good", "Test/test/{}", "Test/test_label/{}"),
}
"""Folders of training images, test images and labels."""


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


def make_set(root: Path, layout: str = "readme", shape: tuple[int, int] = (48, 48)) -> Path:
    """Write a data set and return its root."""
    train, images, labels = LAYOUTS[layout]
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


def make_scans(root: Path) -> tuple[Path, Path]:
    """Write a table of cases and a folder of normal scans; return both."""
    folder = root / "normals"
    folder.mkdir(parents=True)
    small = {"shape_kji": (6, 48, 48), "spacing_mm": (4.8, 4.8, 20.0)}
    for seed in range(3):
        name = "7_s001-006" if seed == 1 else "7_s007-012" if seed == 2 else "5"
        write_nifti(folder / f"{name}.nii.gz", normal_head(seed, **small))
    write_nifti(folder / "6.nii.gz", normal_head(5, **small))
    lines = ["scan,truth,patient"]
    for seed in (3, 4):
        head, truth = add_lesion(normal_head(seed, **small), seed, radius_mm=18.0)
        write_nifti(root / f"ill_{seed}.nii.gz", head)
        label = Volume(truth.astype(np.uint8), head.ras_from_voxel)
        write_nifti(root / f"ill_{seed}_truth.nii.gz", label)
        lines.append(f"ill_{seed}.nii.gz,ill_{seed}_truth.nii.gz,{seed}")
    (root / "cases.csv").write_text("\n".join(lines), encoding="utf-8")
    return root / "cases.csv", folder
