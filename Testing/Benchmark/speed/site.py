"""Files that a whole job needs: scans, and a model of an encoder with random weights."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from Benchmark.speed.encoders import Size, encoder_folder
from SpatialARAnomalyLib.service.user_folder import HOME_VARIABLE

SLICES, SIDE = 155, 240
"""Slices and side in voxels of the timed scan: 1 mm, as in research scans of the brain."""
SPACING_MM = 1.0
SLAB = 6
"""Slices of each training scan: enough for a valid model."""


@contextmanager
def own_settings(work: Path) -> Iterator[None]:
    """Keep the program's notes on encoders out of the user's settings."""
    before = os.environ.get(HOME_VARIABLE)
    os.environ[HOME_VARIABLE] = str(work / "settings")
    try:
        yield
    finally:
        if before is None:
            del os.environ[HOME_VARIABLE]
        else:
            os.environ[HOME_VARIABLE] = before


def head_scan(
    work: Path, seed: int, slices: int = SLICES, side: int = SIDE, lesion: bool = False
) -> Path:
    """Write a NIfTI file of a head to `work`, unless it is there; 1 mm except for small grids."""
    from SpatialARAnomalyLib.engine.volumes.files import write_nifti
    from SpatialARAnomalyLib.service.demo.phantom import (
        add_lesion,
        normal_head,
    )

    path = work / f"head-{seed}-{slices}-{side}{'-lesion' * lesion}.nii.gz"
    if not path.exists():
        in_plane_mm = SPACING_MM * SIDE / side
        head = normal_head(
            seed, shape_kji=(slices, side, side), spacing_mm=(in_plane_mm, in_plane_mm, SPACING_MM)
        )
        if lesion:
            head, _ = add_lesion(head, seed)
        write_nifti(path, head)
    return path


def trained_model(work: Path, size: Size, side_px: int, device: str, grid_side: int = SIDE) -> Path:
    """Train a model file of the preset `standard` with the program's own training.

    One epoch on slabs of two heads: its figures have no meaning, its computation is that of any
    model. Call it within `own_settings`.
    """
    from SpatialARAnomalyLib.engine.device import Device
    from SpatialARAnomalyLib.engine.progress import SilentReporter
    from SpatialARAnomalyLib.engine.specs import Preset
    from SpatialARAnomalyLib.service.training.request import TrainSpec
    from SpatialARAnomalyLib.service.training.train import train

    encoder = encoder_folder(work, size)
    model = work / f"model-{encoder.name}-{side_px}-{grid_side}.safetensors"
    if not model.exists():
        train(
            [head_scan(work, seed, SLAB, grid_side) for seed in (1, 2)],
            model,
            TrainSpec(
                size_px=side_px,
                encoder=str(encoder),
                preset=Preset.STANDARD,
                epochs=1,
                device=Device(device),
            ),
            SilentReporter(),
        )
    return model


def many_heads(work: Path, count: int, slices: int, side: int) -> list[Path]:
    """Write files of one head, each with its own gain and noise."""
    import numpy as np
    from SpatialARAnomalyLib.engine.volumes.files import (
        read_volume_file,
        write_nifti,
    )
    from SpatialARAnomalyLib.engine.volumes.volume import Volume

    folder = work / f"heads-{slices}-{side}"
    folder.mkdir(exist_ok=True)
    paths = [folder / f"head-{number:03d}.nii.gz" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            head = read_volume_file(head_scan(work, 1, slices, side))
            random = np.random.default_rng(number)
            noise = random.normal(0.0, 0.02 * float(head.voxels.max()), head.voxels.shape)
            voxels = np.clip(head.voxels * random.uniform(0.7, 1.3) + noise, 0, None)
            write_nifti(path, Volume(voxels.astype(np.int16), head.ras_from_voxel))
    return paths
