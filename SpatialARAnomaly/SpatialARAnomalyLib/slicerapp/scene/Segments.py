"""Findings as segments of one shared label map, and the detection of later edits."""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import arrayFromVTKMatrix, vtkMatrixFromArray

from SpatialARAnomalyLib.service.detection.findings_table import TERMINOLOGY, rank_color
from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import Row

WRITTEN = "SpatialARAnomaly.WrittenSegments"
"""Attribute: name, voxel count and centroid (RAS mm) of every segment as it was written."""

MOVED_MM = 0.01
"""Largest change of a segment's centroid, mm, that is rounding when it is saved and loaded."""

_writtenTimes: dict[str, tuple[object, ...]] = {}
"""Modification times of the segments written in this session; if equal, no voxels are counted."""

FILL_OPACITY = 0.0
"""Opacity of the segments' area, which the overlay shows; segments show their outline."""


def segmentId(rank: int) -> str:
    """Return the id of a finding's segment."""
    return f"Finding_{rank}"


def rankOf(segment: str) -> int | None:
    """Return the rank of a finding's segment; None for a segment that the user added."""
    match = re.fullmatch(r"Finding_([1-9]\d*)", segment)
    return int(match[1]) if match else None


def terminologyEntry() -> str:
    """Return the terminology of all findings in the format of Slicer's segments."""
    category, type_ = ("^".join(TERMINOLOGY[key]) for key in ("category", "type"))
    region = "Anatomic codes - DICOM master list~^^~^^"
    return f"{TERMINOLOGY['contextName']}~{category}~{type_}~^^~{region}"


def addSegmentation(
    name: str, scan: "slicer.vtkMRMLScalarVolumeNode"
) -> "slicer.vtkMRMLSegmentationNode":
    """Add an empty segmentation on the grid of a scan."""
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLSegmentationNode", slicer.mrmlScene.GenerateUniqueName(name)
    )
    # The reference geometry depends on the transform.
    node.SetAndObserveTransformNodeID(scan.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(scan)
    node.GetSegmentation().SetSourceRepresentationName(binaryLabelmap())
    display = node.GetDisplayNode()
    display.SetOpacity2DFill(FILL_OPACITY)
    display.SetVisibility2DOutline(True)
    return node


def binaryLabelmap() -> str:
    """Return the name of the representation in which segments are edited."""
    return slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()


def writeSegments(
    node: "slicer.vtkMRMLSegmentationNode",
    labels: np.ndarray | None,
    startKji: Sequence[int],
    affine: np.ndarray,
    rows: Sequence[Row],
) -> None:
    """Replace all segments by the findings of a label map (value = rank) cropped from `startKji`.

    All segments share one image; separate ones would multiply the memory.
    """
    segmentation = node.GetSegmentation()
    modified = node.StartModify()
    try:
        removeImages(node)
        segmentation.RemoveAllSegments()
        image = None if labels is None else _orientedImage(labels, startKji, affine)
        entry = terminologyEntry()
        for rank in (row["rank"] for row in rows):
            segment = slicer.vtkSegment()
            segment.SetName(_("Finding {rank}").format(rank=rank))
            segment.SetColor(*rank_color(rank))
            segment.SetTag(segment.GetTerminologyEntryTagName(), entry)
            segment.SetLabelValue(rank)
            segment.AddRepresentation(binaryLabelmap(), image)
            segmentation.AddSegment(segment, segmentId(rank))
    finally:
        node.EndModify(modified)
    written = {
        segmentId(row["rank"]): {
            "name": segmentation.GetSegment(segmentId(row["rank"])).GetName(),
            "voxels": row["voxels"],
            "centroid": [row[f"centroid_{axis}_mm"] for axis in "ras"],
        }
        for row in rows
    }
    node.SetAttribute(WRITTEN, json.dumps(written))
    _writtenTimes[node.GetID()] = _modificationTimes(node)


def removeImages(node: "slicer.vtkMRMLSegmentationNode") -> None:
    """Remove the images of all segments, before the segments or the node itself go.

    Removing a segment erases its voxels from the shared image, which takes seconds on a large scan.
    """
    segmentation = node.GetSegmentation()
    for index in range(segmentation.GetNumberOfSegments()):
        segmentation.GetNthSegment(index).RemoveAllRepresentations()


def _orientedImage(
    labels: np.ndarray, startKji: Sequence[int], affine: np.ndarray
) -> "slicer.vtkOrientedImageData":
    from vtk.util.numpy_support import get_vtk_array_type, numpy_to_vtk

    kji = zip(startKji, labels.shape, strict=True)
    k, j, i = ((int(start), int(start) + size - 1) for start, size in kji)
    image = slicer.vtkOrientedImageData()
    image.SetExtent(*i, *j, *k)
    image.SetGeometryFromImageToWorldMatrix(vtkMatrixFromArray(np.asarray(affine, dtype=float)))
    flat = np.ascontiguousarray(labels).ravel()
    # VTK keeps a reference to the array, which nothing else uses.
    scalars = numpy_to_vtk(flat, deep=False, array_type=get_vtk_array_type(flat.dtype))
    scalars.SetName("ImageScalars")  # the DICOM exporter expects this name
    image.GetPointData().SetScalars(scalars)
    return image


def labelArray(image: "slicer.vtkOrientedImageData") -> tuple[np.ndarray, np.ndarray]:
    """Return a label map's voxels [k, j, i] and affine (RAS mm of the segmentation's space)."""
    from vtk.util.numpy_support import vtk_to_numpy

    i0, i1, j0, j1, k0, k1 = image.GetExtent()
    shape = (k1 - k0 + 1, j1 - j0 + 1, i1 - i0 + 1)
    scalars = image.GetPointData().GetScalars()
    if scalars is None or min(shape) < 1:
        return np.zeros((0, 0, 0), np.uint8), np.eye(4)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    affine = arrayFromVTKMatrix(matrix).copy()
    affine[:3, 3] = (affine @ [i0, j0, k0, 1.0])[:3]
    return vtk_to_numpy(scalars).reshape(shape), affine


def wasEdited(node: "slicer.vtkMRMLSegmentationNode") -> bool:
    """Return True if segments were added, removed, renamed or painted since `writeSegments`."""
    if _writtenTimes.get(node.GetID()) == _modificationTimes(node):
        return False
    now = describeSegments(node)
    try:
        written = json.loads(node.GetAttribute(WRITTEN) or "")
        return written.keys() != now.keys() or any(
            (before["name"], before["voxels"]) != (now[segment]["name"], now[segment]["voxels"])
            or np.abs(np.subtract(before["centroid"], now[segment]["centroid"])).max() > MOVED_MM
            for segment, before in written.items()
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        return True  # another program changed the attribute


def _modificationTimes(node: "slicer.vtkMRMLSegmentationNode") -> tuple[object, ...]:
    """Return the unique modification times of every segment and its image."""
    segmentation = node.GetSegmentation()
    times: list[object] = []
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        image = segment.GetRepresentation(binaryLabelmap())
        scalars = image.GetPointData().GetScalars() if image is not None else None
        times.append(
            (
                segmentation.GetNthSegmentID(index),
                segment.GetMTime(),
                image.GetMTime() if image is not None else None,
                scalars.GetMTime() if scalars is not None else None,
            )
        )
    return tuple(times)


def describeSegments(node: "slicer.vtkMRMLSegmentationNode") -> dict[str, dict[str, Any]]:
    """Return name, voxel count and centroid (RAS mm) of every segment by id."""
    segmentation = node.GetSegmentation()
    places: dict[object, tuple[np.ndarray, np.ndarray]] = {}
    described = {}
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        image = segment.GetRepresentation(binaryLabelmap())
        count, centroid = 0, [0.0, 0.0, 0.0]
        if image is not None:
            if image not in places:
                places[image] = _countsAndCentroids(image)
            counts, centroids = places[image]
            value = segment.GetLabelValue()
            if value < len(counts) and counts[value]:
                count, centroid = int(counts[value]), centroids[value].tolist()
        described[segmentation.GetNthSegmentID(index)] = {
            "name": segment.GetName(),
            "voxels": count,
            "centroid": centroid,
        }
    return described


def _countsAndCentroids(image: "slicer.vtkOrientedImageData") -> tuple[np.ndarray, np.ndarray]:
    """Return voxel count and centroid (RAS mm) of every label value of an image."""
    labels, affine = labelArray(image)
    places = np.nonzero(labels)
    values = labels[places].astype(np.int64)
    counts = np.bincount(values)
    sums = [np.bincount(values, weights=axis) for axis in places[::-1]]
    ijk1 = np.stack([*sums, counts]) / np.maximum(counts, 1)
    return counts, (affine @ ijk1)[:3].T
