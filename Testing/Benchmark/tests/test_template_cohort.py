"""The cohort of varied template heads: seeded, with correct truth, written as NIfTI."""

import nibabel as nib
import numpy as np
import pytest
from Data.template_cohort import RADII_MM, main, template_head, template_head_with_lesion
from scipy import ndimage
from SpatialARAnomalyLib.service.demo.phantom_anatomy import Tissue

pytestmark = pytest.mark.slow

SPACING_MM = 4.0


def test_same_seed_gives_the_same_bits_and_another_another_head():
    first = template_head(1, spacing_mm=SPACING_MM)
    again = template_head(1, spacing_mm=SPACING_MM)
    other = template_head(2, spacing_mm=SPACING_MM)
    assert first.voxels.tobytes() == again.voxels.tobytes()
    both = first.brain & other.brain
    assert 0.8 < 2 * both.sum() / (first.brain.sum() + other.brain.sum()) < 0.99
    difference = first.signal / first.white_signal - other.signal / other.white_signal
    assert 0.05 < np.abs(difference[both]).mean() < 0.3


def test_the_head_is_the_same_on_a_finer_grid():
    coarse = template_head(3, spacing_mm=6.0)
    fine = template_head(3, spacing_mm=3.0)
    assert np.allclose(fine.ras_from_voxel[:3, 3], coarse.ras_from_voxel[:3, 3])
    k, j, i = (size // 2 for size in coarse.voxels.shape)
    assert np.allclose(
        fine.signal[::2, ::2, ::2][:k, :j, :i], coarse.signal[:k, :j, :i], rtol=1e-3, atol=0.1
    )
    assert coarse.signal[:k, :j, :i].std() > 50


def test_tissues_are_ordered_as_in_t1_and_of_human_size():
    head = template_head(4, spacing_mm=SPACING_MM)
    share = head.signal / head.white_signal
    means = [
        share[head.tissues == tissue].mean()
        for tissue in (Tissue.AIR, Tissue.SULCUS, Tissue.GRAY, Tissue.WHITE)
    ]
    assert means == sorted(means)
    assert means[0] == 0
    assert means[-1] == pytest.approx(1, abs=0.08)
    assert 1500 < head.brain.sum() * head.voxel_ml < 2400
    assert head.voxels.dtype == np.int16
    assert np.all(head.voxels[~head.brain] == 0)


@pytest.mark.parametrize("contrast", [0.4, -0.3])
def test_a_lesion_lies_in_the_brain_as_asked(contrast):
    head = template_head(5, spacing_mm=2.0)
    lesioned, truth = template_head_with_lesion(
        5, spacing_mm=2.0, radius_mm=11.0, contrast=contrast
    )
    assert truth.sum() * head.voxel_ml == pytest.approx(4 / 3 * np.pi * 11**3 / 1000, rel=0.04)
    assert np.all(head.brain[truth])
    inner = ndimage.binary_erosion(truth)
    found = lesioned.voxels[inner] / lesioned.white_signal[inner]
    assert found.mean() == pytest.approx(1 + contrast, abs=0.02)
    far = ~ndimage.binary_dilation(truth, iterations=12)
    assert np.array_equal(lesioned.voxels[far], head.voxels[far])


def test_lesions_vary_in_size_and_neighboring_seeds_in_sign():
    radii_mm, contrasts = [], []
    for seed in range(4):
        head, truth = template_head_with_lesion(seed, spacing_mm=SPACING_MM)
        radii_mm.append(np.cbrt(truth.sum() * head.voxel_ml * 1000 * 3 / (4 * np.pi)))
        contrasts.append((head.signal / head.white_signal)[truth].mean() - 1)
    assert RADII_MM[0] * 0.8 < min(radii_mm) < max(radii_mm) < RADII_MM[1] * 1.1
    assert np.ptp(radii_mm) > 2
    assert [contrast > 0 for contrast in contrasts] == [False, True, False, True]


def test_the_command_writes_the_cohort(tmp_path):
    main([str(tmp_path / "cohort"), "--normals", "1", "--lesions", "1", "--spacing-mm", "6"])
    names = sorted(path.name for path in (tmp_path / "cohort").iterdir())
    assert names == ["lesion_01.nii.gz", "lesion_01_truth.nii.gz", "normal_01.nii.gz"]
    head = template_head(1, spacing_mm=6.0)
    image = nib.load(tmp_path / "cohort" / "normal_01.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj).T, head.voxels)
    assert np.allclose(image.affine, head.ras_from_voxel)
    assert image.header.get_xyzt_units()[0] == "mm"
    truth = np.asarray(nib.load(tmp_path / "cohort" / "lesion_01_truth.nii.gz").dataobj)
    assert set(np.unique(truth)) == {0, 1}
