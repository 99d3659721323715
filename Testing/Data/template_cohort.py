"""A cohort of varied real heads: the MNI152 average brain, deformed by seed.

nilearn contains the ICBM 2009a nonlinear symmetric T1 average and its tissue probabilities
(skull-stripped, 1 mm), so nothing is downloaded. The heads are more lifelike than the phantom's,
which tests that results do not depend on its drawing. As deformations of one average they vary
less than people do.

To write a cohort, with the engine installed:

    python Testing/Data/template_cohort.py OUT --normals 12 --lesions 4 --spacing-mm 2
"""

import argparse
import functools
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation
from SpatialARAnomalyLib.engine.specs import Modality
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.demo.phantom import (
    BIAS,
    GAIN,
    NOISE,
    PhantomHead,
    add_lesion,
)
from SpatialARAnomalyLib.service.demo.phantom_anatomy import (
    Tissue,
    Waves,
)

WARP_MM = 2.5
"""Standard deviation of the deformation along each axis, in mm."""

RADII_MM = (5.0, 14.0)
CONTRASTS = (0.25, 0.5)
"""Contrasts of lesions, in units of white matter: odd seeds are bright, even ones dark."""

VENTRICLES_MM = ((-42.0, 42.0), (-60.0, 40.0), (-20.0, 32.0))
"""Box (x, y, z) in mm of the average brain in which deep CSF is ventricle and not sulcus."""

LESION_SEEDS = 1000
"""Offset of the seeds of lesion heads from those of normal heads."""


@functools.cache
def _template():
    """Load T1 (median white matter = 1), gray and white probability [k, j, i], voxel_from_ras."""
    from nilearn import datasets

    t1, gray, white = (
        load(resolution=1)
        for load in (
            datasets.load_mni152_template,
            datasets.load_mni152_gm_template,
            datasets.load_mni152_wm_template,
        )
    )
    voxel_from_ras = np.linalg.inv(t1.affine)
    t1, gray, white = (image.get_fdata(dtype=np.float32).T for image in (t1, gray, white))
    return t1 / np.median(t1[white > 0.9]), gray, white, voxel_from_ras


def _grid(spacing_mm):
    """Return shape [k, j, i] and affine of an axial grid (RAS) that covers the template."""
    t1, _, _, voxel_from_ras = _template()
    ras_from_voxel = np.linalg.inv(voxel_from_ras)
    shape_kji = tuple(int(np.ceil(size / spacing_mm)) for size in t1.shape)
    ras_from_voxel[:3, :3] = np.eye(3) * spacing_mm
    return shape_kji, ras_from_voxel


def _sample(image, kji):
    return ndimage.map_coordinates(image, kji, order=1, mode="constant")


def template_head(seed: int, *, spacing_mm: float = 2.0) -> PhantomHead:
    """Make a T1 average brain of another size, shape, contrast, gain, bias field and noise.

    Voxels outside the brain are zero, as after skull stripping.
    """
    shape, receiver = np.random.SeedSequence(seed).spawn(2)
    rng = np.random.default_rng(shape)
    t1, gray, white, voxel_from_ras = _template()
    shape_kji, ras_from_voxel = _grid(spacing_mm)

    k, j, i = np.indices(shape_kji).reshape(3, -1)
    ras_mm = ras_from_voxel[:3, :3] @ np.stack([i, j, k]) + ras_from_voxel[:3, 3:]
    place = tuple(ras_mm.astype(np.float32))
    size = rng.uniform(0.96, 1.04) * rng.uniform(0.98, 1.02, 3)
    turn = Rotation.from_euler("xyz", rng.uniform(-4, 4, 3), degrees=True).as_matrix()
    warp_mm = np.stack([WARP_MM * Waves.draw(rng, 10, 45.0, 130.0).at(place) for _ in range(3)])
    template_mm = (turn / size) @ ras_mm + rng.uniform(-3, 3, (3, 1)) + warp_mm
    kji = (voxel_from_ras[:3, :3] @ template_mm + voxel_from_ras[:3, 3:])[::-1]

    level, gray, white = (_sample(image, kji) for image in (t1, gray, white))
    brain = level > 0.05
    x, y, z = template_mm
    deep = np.all(
        [(low < a) & (a < high) for a, (low, high) in zip((x, y, z), VENTRICLES_MM, strict=True)],
        axis=0,
    )
    csf = np.where(deep, Tissue.VENTRICLE, Tissue.SULCUS)
    tissue = np.where(gray > white, Tissue.GRAY, Tissue.WHITE)
    tissues = np.where(gray + white > 0.5, tissue, csf)
    tissues = np.where(brain, tissues, Tissue.AIR).astype(np.uint8).reshape(shape_kji)

    gain = np.exp(rng.uniform(*np.log(GAIN)))
    bias = np.exp(BIAS * Waves.draw(rng, 3, 200.0, 450.0).at(place))
    white_signal = (gain * bias).astype(np.float32)
    signal = np.where(brain, level, 0) ** rng.uniform(0.8, 1.25) * white_signal

    rng = np.random.default_rng(receiver)
    real = signal + NOISE * gain * rng.standard_normal(len(signal))
    voxels = np.hypot(real, NOISE * gain * rng.standard_normal(len(signal))) * brain
    return PhantomHead(
        np.rint(voxels).astype(np.int16).reshape(shape_kji),
        ras_from_voxel,
        Modality.MR,
        tissues=tissues,
        signal=signal.astype(np.float32).reshape(shape_kji),
        white_signal=white_signal.reshape(shape_kji),
    )


def template_head_with_lesion(
    seed: int,
    *,
    spacing_mm: float = 2.0,
    radius_mm: float | None = None,
    contrast: float | None = None,
) -> tuple[PhantomHead, np.ndarray]:
    """Make a `template_head` with a mass within its brain, and the mask of the mass.

    Radius and contrast (in units of white matter) come from the seed unless given.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(3)[2])
    drawn_radius_mm = rng.uniform(*RADII_MM)
    # Neighboring seeds alternate, so that the smallest cohort has both.
    drawn_contrast = (1 if seed % 2 else -1) * rng.uniform(*CONTRASTS)
    return add_lesion(
        template_head(seed, spacing_mm=spacing_mm),
        seed,
        radius_mm=drawn_radius_mm if radius_mm is None else radius_mm,
        contrast=drawn_contrast if contrast is None else contrast,
    )


def _write(path: Path, voxels: np.ndarray, volume: Volume) -> None:
    image = nib.Nifti1Image(voxels.T, volume.ras_from_voxel)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def write_cohort(
    folder: Path, *, normals: int, lesions: int, spacing_mm: float = 2.0, seed: int = 0
) -> None:
    """Write normal_01.nii.gz …, and lesion_01.nii.gz … with lesion_01_truth.nii.gz …."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, normals + 1):
        head = template_head(seed + number, spacing_mm=spacing_mm)
        _write(folder / f"normal_{number:02d}.nii.gz", head.voxels, head)
    for number in range(1, lesions + 1):
        head, truth = template_head_with_lesion(seed + LESION_SEEDS + number, spacing_mm=spacing_mm)
        _write(folder / f"lesion_{number:02d}.nii.gz", head.voxels, head)
        _write(folder / f"lesion_{number:02d}_truth.nii.gz", truth.astype(np.uint8), head)


def main(arguments: list[str] | None = None) -> None:
    """Write the cohort that the command line describes."""
    parser = argparse.ArgumentParser(description="Write varied MNI152 heads as NIfTI files.")
    parser.add_argument("folder", type=Path, metavar="OUT", help="made if it is not there")
    parser.add_argument("--normals", type=int, default=12, help="heads without a lesion (12)")
    parser.add_argument("--lesions", type=int, default=4, help="heads with one (4)")
    parser.add_argument("--spacing-mm", type=float, default=2.0, help="isotropic (2)")
    parser.add_argument("--seed", type=int, default=0, help="another cohort (0)")
    write_cohort(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    main()
