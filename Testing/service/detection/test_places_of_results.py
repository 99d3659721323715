"""Result files lie on the scan in every reader, or the reader refuses them."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from engine.grids import random_grid
from SpatialARAnomalyLib.engine.specs import Plane
from SpatialARAnomalyLib.engine.volumes.files import (
    read_volume_file,
    write_nifti_labels,
    write_nrrd,
)
from SpatialARAnomalyLib.engine.volumes.geometry import LPS_FROM_RAS, MAX_SHEAR, shear
from SpatialARAnomalyLib.service.detection.segmentation_file import Segment, write_segmentation

PLACE_MM = 1e-3
SHEARS = {"orthogonal": 0.0, "rounded": 1e-5, "slight": 2e-3, "tilted": 0.25}


def grid(seed: int, along: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels 1 to 8 at the corners of an oblique grid of any handedness, and its matrix."""
    drawn = random_grid(seed, plane=Plane.AXIAL, slices=5, largest_mm=90.0)
    labels = np.zeros(drawn.shape_kji, np.uint16)
    for number, corner in enumerate(np.ndindex(2, 2, 2), start=1):
        labels[tuple(-one for one in corner)] = number
    sheared = drawn.ras_from_voxel.copy()
    sheared[:3, 2] += along * sheared[:3, 1]
    return labels, sheared


def places(labels: np.ndarray, ras_from_voxel: np.ndarray) -> np.ndarray:
    """RAS mm of the labels 1 to 8."""
    found = np.array([np.argwhere(labels == number)[0] for number in range(1, 9)])
    return found[:, ::-1] @ ras_from_voxel[:3, :3].T + ras_from_voxel[:3, 3]


def in_nibabel(path) -> np.ndarray:
    image = nib.load(path)
    return places(np.asarray(image.dataobj).T, image.affine)


def in_itk(path) -> np.ndarray | None:
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:
        return None
    place = np.eye(4)
    place[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    place[:3, 3] = image.GetOrigin()
    return places(sitk.GetArrayFromImage(image), LPS_FROM_RAS @ place)


def matrix(read) -> np.ndarray:
    found = vtk.vtkMatrix4x4()
    read(found)
    return np.array([[found.GetElement(i, j) for j in range(4)] for i in range(4)])


def in_slicer(path) -> np.ndarray | None:
    """Through the storage nodes that Slicer itself reads files with."""
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    storage = scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        return None
    return places(slicer.util.arrayFromVolume(node), matrix(node.GetIJKToRASMatrix))


def segments_in_slicer(path) -> np.ndarray:
    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    image = slicer.vtkOrientedImageData()
    found = np.zeros((8, 3))
    for number in range(8):
        node.GetBinaryLabelmapRepresentation(f"S{number + 1}", image)
        i0, i1, j0, j1, k0, k1 = image.GetExtent()
        values = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
        k, j, i = np.argwhere(values.reshape(k1 - k0 + 1, j1 - j0 + 1, i1 - i0 + 1) > 0)[0]
        place = matrix(image.GetImageToWorldMatrix)
        found[number] = (place @ (i + i0, j + j0, k + k0, 1))[:3]
    return found


def apart_mm(found: np.ndarray, stated: np.ndarray) -> float:
    return float(np.linalg.norm(found - stated, axis=1).max())


@pytest.mark.parametrize("along", SHEARS.values(), ids=SHEARS)
@pytest.mark.parametrize("seed", range(2))
def test_results_lie_on_the_scan_in_every_reader(tmp_path, seed, along):
    labels, ras_from_voxel = grid(seed, along)
    stated = places(labels, ras_from_voxel)
    nifti, nrrd, segmentation = (tmp_path / f"l{end}" for end in (".nii.gz", ".nrrd", ".seg.nrrd"))
    write_nifti_labels(nifti, labels, ras_from_voxel)
    write_nrrd(nrrd, labels, ras_from_voxel)
    segments = [
        Segment(value=one, id=f"S{one}", name=f"{one}", color=(1.0, 0, 0)) for one in range(1, 9)
    ]
    write_segmentation(segmentation, labels, ras_from_voxel, segments)
    for read, path in (
        (in_nibabel, nifti),
        (in_itk, nrrd),
        (in_slicer, nrrd),
        (in_itk, segmentation),
        (segments_in_slicer, segmentation),
    ):
        assert apart_mm(read(path), stated) < PLACE_MM, (read, path)
    for read in (in_itk, in_slicer):
        found = read(nifti)
        if shear(ras_from_voxel) > MAX_SHEAR:
            assert found is None
        else:
            assert apart_mm(found, stated) < PLACE_MM


def test_labels_of_a_scan_without_orientation_state_none(tmp_path):
    """So that nibabel, which centers such files, has both at one place, and ITK, too."""
    labels, _ = grid(0, 0.0)
    place = np.diag([-2.5, -2.0, 3.0, 1.0])
    scan = nib.Nifti1Image(labels.T, None)
    scan.header["pixdim"][1:4] = (2.5, 2.0, 3.0)
    nib.save(scan, tmp_path / "scan.nii")
    write_nifti_labels(tmp_path / "labels.nii", labels, place, is_stated=False)
    for read in (in_nibabel, in_itk, in_slicer):
        assert apart_mm(read(tmp_path / "labels.nii"), read(tmp_path / "scan.nii")) < PLACE_MM
    assert apart_mm(in_itk(tmp_path / "labels.nii"), places(labels, place)) < PLACE_MM
    oblique = grid(1, 0.0)[1]
    write_nifti_labels(tmp_path / "other.nii", labels, oblique, is_stated=False)
    assert apart_mm(in_nibabel(tmp_path / "other.nii"), places(labels, oblique)) < PLACE_MM


@pytest.mark.parametrize(("unit", "unit_mm"), [("micron", 1e-3), ("meter", 1e3)])
def test_labels_have_the_unit_of_their_scan(tmp_path, unit, unit_mm):
    """nibabel leaves the numbers as they are, ITK and Slicer turn them into mm."""
    labels, place = grid(2, 0.0)
    in_unit = place.copy()
    in_unit[:3] /= unit_mm
    scan = nib.Nifti1Image(labels.T, in_unit)
    scan.header.set_xyzt_units(unit)
    nib.save(scan, tmp_path / "scan.nii")
    volume = read_volume_file(tmp_path / "scan.nii", labels=True)
    write_nifti_labels(
        tmp_path / "labels.nii", labels, volume.ras_from_voxel, unit_mm=volume.unit_mm
    )
    for read in (in_nibabel, in_itk, in_slicer):
        found, stated = read(tmp_path / "labels.nii"), read(tmp_path / "scan.nii")
        np.testing.assert_allclose(found, stated, rtol=1e-6, atol=1e-5)
    assert apart_mm(in_itk(tmp_path / "labels.nii"), places(labels, place)) < PLACE_MM
    written = read_volume_file(tmp_path / "labels.nii", labels=True)
    assert apart_mm(places(labels, written.ras_from_voxel), places(labels, place)) < PLACE_MM
