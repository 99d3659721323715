"""Conversion of MRML volume nodes from and to arrays, affines and modalities."""

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import arrayFromVolume, arrayFromVTKMatrix, vtkMatrixFromArray

from SpatialARAnomalyLib.engine.errors import InputError

ROLE = "SpatialARAnomaly.Role"
"""Node attribute: the part of a result that the node holds."""

DICOM_INSTANCES = "DICOM.instanceUIDs"
"""Node attribute of Slicer: SOP Instance UIDs of the files that a volume was loaded from."""

DICOM_VOLUME = "SpatialARAnomaly.DicomVolume"
"""Node attribute: number of the volume from 1, where its DICOM files hold several."""


def checkScan(node: "slicer.vtkMRMLScalarVolumeNode | None") -> None:
    """Raise `InputError` unless the node is a volume that can be searched.

    `IsA` accepts label maps and RGB volumes as scalar volumes. A volume that shows
    a sequence may change its content at any time.
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
            _("Expected a scan with a finite affine; that of the chosen volume is not finite."),
        )
    sceneFromLocal(node)
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
    """Return the voxels [k, j, i], a view of the node's array."""
    return arrayFromVolume(node)


def rasFromVoxel(node: "slicer.vtkMRMLScalarVolumeNode") -> np.ndarray:
    """Return the affine in the node's own space, RAS mm; its parent transform is not applied."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return arrayFromVTKMatrix(matrix)


def modalityOf(node: "slicer.vtkMRMLScalarVolumeNode") -> str | None:
    """Return MR or CT from Modality (0008,0060) of the DICOM database, or None."""
    uids = (node.GetAttribute(DICOM_INSTANCES) or "").split()
    database = getattr(slicer, "dicomDatabase", None)
    if not uids or database is None:
        return None
    modality = database.instanceValue(uids[0], "0008,0060")
    return modality if modality in ("MR", "CT") else None


def dicomFilesOf(node: "slicer.vtkMRMLScalarVolumeNode") -> list[str]:
    """Return the DICOM files that a volume was loaded from, as Slicer's database knows them."""
    database = getattr(slicer, "dicomDatabase", None)
    uids = (node.GetAttribute(DICOM_INSTANCES) or "").split()
    files = [database.fileForInstance(uid) for uid in uids] if database is not None else []
    return list(dict.fromkeys(str(file) for file in files if file))


def dicomVolumeOf(node: "slicer.vtkMRMLScalarVolumeNode") -> int | None:
    """Return the number of the volume, where its DICOM files hold several; else None."""
    number = node.GetAttribute(DICOM_VOLUME) or ""
    return int(number) if number.isdecimal() else None


def volumeState(node: "slicer.vtkMRMLScalarVolumeNode") -> tuple[object, ...]:
    """Return values that change whenever the volume's voxels or affine change."""
    image = node.GetImageData()
    scalars = image.GetPointData().GetScalars() if image is not None else None
    if scalars is None:
        return ()
    placed = tuple(rasFromVoxel(node).ravel().tolist())
    return scalars.GetMTime(), image.GetDimensions(), placed


def newImage(sizeKji: tuple[int, int, int]) -> tuple["vtk.vtkImageData", np.ndarray]:
    """Return a new float32 image, and its uninitialized voxels [k, j, i]."""
    from vtk.util.numpy_support import vtk_to_numpy

    image = vtk.vtkImageData()
    image.SetDimensions(sizeKji[2], sizeKji[1], sizeKji[0])
    image.AllocateScalars(vtk.VTK_FLOAT, 1)
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(sizeKji)
    return image, voxels


def worldFromLocal(
    node: "slicer.vtkMRMLTransformableNode", ras: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Transform a point from the node's own space to the scene's (RAS mm)."""
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        node.GetParentTransformNode(), None, transform
    )
    right, anterior, superior = transform.TransformPoint(*ras)
    return right, anterior, superior


def localFromWorld(
    node: "slicer.vtkMRMLTransformableNode", ras: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Transform a point from the scene (RAS mm) to the node's own space."""
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(
        None, node.GetParentTransformNode(), transform
    )
    right, anterior, superior = transform.TransformPoint(*ras)
    return right, anterior, superior


def sceneFromLocal(node: "slicer.vtkMRMLTransformableNode") -> np.ndarray:
    """Return the affine from the node's own space to the scene.

    Raises `InputError` under a transform that is not linear.
    """
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        raise InputError(
            "transform-nonlinear",
            _("Expected a linear transform above the volume; found one that bends it."),
        )
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return arrayFromVTKMatrix(matrix)


def setRasFromVoxel(node: "slicer.vtkMRMLScalarVolumeNode", affine: np.ndarray) -> None:
    """Set the affine in the volume's own space, RAS mm."""
    node.SetIJKToRASMatrix(vtkMatrixFromArray(affine.astype(float)))
