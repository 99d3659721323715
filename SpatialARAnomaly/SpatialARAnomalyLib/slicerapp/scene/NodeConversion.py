"""Between MRML volume nodes and what the worker knows: arrays, affines, modalities."""

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import arrayFromVolume, arrayFromVTKMatrix, vtkMatrixFromArray

from SpatialARAnomalyLib.engine.errors import InputError

ROLE = "SpatialARAnomaly.Role"
"""Node attribute that tells which part of a result a node is."""


def checkScan(node: "slicer.vtkMRMLScalarVolumeNode | None") -> None:
    """Raise `InputError` unless the node is a volume that can be searched.

    A label map and an RGB volume are scalar volumes to `IsA`; a volume of a
    sequence changes its content while we work.
    """
    if node is None:
        raise InputError("volume-missing", _("No volume is chosen."))
    kind = node.GetClassName()
    if kind == "vtkMRMLLabelMapVolumeNode":
        raise InputError(
            "volume-label-map", _("Expected a scan; the chosen volume is a label map.")
        )
    if node.GetAttribute(ROLE):
        raise InputError(
            "volume-result",
            _("Expected a scan; the chosen volume is the overlay of an earlier detection."),
        )
    image = node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        raise InputError("volume-empty", _("Expected a scan; the chosen volume holds no voxels."))
    if kind != "vtkMRMLScalarVolumeNode" or image.GetNumberOfScalarComponents() != 1:
        raise InputError(
            "volume-components",
            _("Expected one value per voxel; the chosen volume has {count} ({kind}).").format(
                count=image.GetNumberOfScalarComponents(), kind=kind
            ),
        )
    if not np.isfinite(rasFromVoxel(node)).all():
        raise InputError(
            "affine-not-affine",
            _("Expected a scan with a place; that of the chosen volume holds no numbers."),
        )
    if _isSequenceProxy(node):
        raise InputError(
            "volume-sequence",
            _("Expected one scan; the chosen volume shows a frame of a sequence (4-D)."),
        )


def _isSequenceProxy(node: "slicer.vtkMRMLScalarVolumeNode") -> bool:
    sequences = getattr(slicer.modules, "sequences", None)
    logic = sequences.logic() if sequences is not None else None
    return logic is not None and logic.GetFirstBrowserNodeForProxyNode(node) is not None


def voxelsOf(node: "slicer.vtkMRMLScalarVolumeNode") -> np.ndarray:
    """The voxels [k, j, i], a view of the node's own."""
    return arrayFromVolume(node)


def rasFromVoxel(node: "slicer.vtkMRMLScalarVolumeNode") -> np.ndarray:
    """The affine of the node's own space (its parent transform not applied), RAS mm."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return arrayFromVTKMatrix(matrix)


def modalityOf(node: "slicer.vtkMRMLScalarVolumeNode") -> str | None:
    """MR or CT where the volume came from DICOM and the database knows (0008,0060)."""
    uids = (node.GetAttribute("DICOM.instanceUIDs") or "").split()
    database = getattr(slicer, "dicomDatabase", None)
    if not uids or database is None:
        return None
    modality = database.instanceValue(uids[0], "0008,0060")
    return modality if modality in ("MR", "CT") else None


def volumeState(node: "slicer.vtkMRMLScalarVolumeNode") -> tuple[object, ...]:
    """What must be equal for a volume to be still the one that was searched."""
    image = node.GetImageData()
    scalars = image.GetPointData().GetScalars() if image is not None else None
    if scalars is None:
        return ()
    placed = tuple(rasFromVoxel(node).ravel().tolist())
    return scalars.GetMTime(), image.GetDimensions(), placed


def newImage(sizeKji: tuple[int, int, int]) -> tuple["vtk.vtkImageData", np.ndarray]:
    """A float32 image without content yet, and its voxels [k, j, i] to be filled."""
    from vtk.util.numpy_support import vtk_to_numpy

    image = vtk.vtkImageData()
    image.SetDimensions(sizeKji[2], sizeKji[1], sizeKji[0])
    image.AllocateScalars(vtk.VTK_FLOAT, 1)
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(sizeKji)
    return image, voxels


def worldFromLocal(
    node: "slicer.vtkMRMLTransformableNode", ras: tuple[float, float, float]
) -> tuple[float, float, float]:
    """A point of the node's own space where it is in the scene (RAS mm)."""
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        node.GetParentTransformNode(), None, transform
    )
    right, anterior, superior = transform.TransformPoint(*ras)
    return right, anterior, superior


def setRasFromVoxel(node: "slicer.vtkMRMLScalarVolumeNode", affine: np.ndarray) -> None:
    """Place a volume's voxels in its own space."""
    node.SetIJKToRASMatrix(vtkMatrixFromArray(np.asarray(affine, dtype=float)))
