"""Findings as segments: one shared label map, and whether somebody edited it since."""

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
"""Attribute: name, voxel count and centroid (RAS mm) of every segment as we made it."""

MOVED_MM = 0.01
"""Centroids of the same voxels differ by less, whatever grid they were saved on."""

_clocks: dict[str, tuple[object, ...]] = {}
"""When the segments of a node were written, in this session: spares counting their voxels."""

FILL_OPACITY = 0.0
"""The overlay shows the inside; the segment its outline."""


def segmentId(rank: int) -> str:
    """The segment of the finding of that rank."""
    return f"Finding_{rank}"


def rankOf(segment: str) -> int | None:
    """The rank of the finding a segment id stands for; None for a user's own segment."""
    match = re.fullmatch(r"Finding_([1-9]\d*)", segment)
    return int(match[1]) if match else None


def terminologyEntry() -> str:
    """The neutral terms of every finding, as Slicer writes them into a segment."""
    category, type_ = ("^".join(TERMINOLOGY[key]) for key in ("category", "type"))
    region = "Anatomic codes - DICOM master list~^^~^^"
    return f"{TERMINOLOGY['contextName']}~{category}~{type_}~^^~{region}"


def addSegmentation(
    name: str, scan: "slicer.vtkMRMLScalarVolumeNode"
) -> "slicer.vtkMRMLSegmentationNode":
    """An empty segmentation on the grid of a scan."""
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLSegmentationNode", slicer.mrmlScene.GenerateUniqueName(name)
    )
    # First the transform: with it missing, voxels would land outside the reference geometry.
    node.SetAndObserveTransformNodeID(scan.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(scan)
    node.GetSegmentation().SetSourceRepresentationName(binaryLabelmap())
    display = node.GetDisplayNode()
    display.SetOpacity2DFill(FILL_OPACITY)
    display.SetVisibility2DOutline(True)
    return node


def binaryLabelmap() -> str:
    """The representation in which findings are made and edited."""
    return slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()


def writeSegments(
    node: "slicer.vtkMRMLSegmentationNode",
    labels: np.ndarray | None,
    startKji: Sequence[int],
    affine: np.ndarray,
    rows: Sequence[Row],
) -> None:
    """Replace all segments by the findings of a label map (value = rank) from `startKji` on.

    All segments share one image: sixty of their own would be sixty volumes.
    """
    segmentation = node.GetSegmentation()
    modified = node.StartModify()
    try:
        # Removing a segment wipes its voxels out of the image it shares, one by one: on a
        # large scan that takes seconds. A segment without an image is simply removed.
        for index in range(segmentation.GetNumberOfSegments()):
            segmentation.GetNthSegment(index).RemoveAllRepresentations()
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
    _clocks[node.GetID()] = _clock(node)


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
    # Not deep: VTK keeps the array, which is nobody else's.
    scalars = numpy_to_vtk(flat, deep=False, array_type=get_vtk_array_type(flat.dtype))
    scalars.SetName("ImageScalars")  # as VTK calls them: the DICOM exporter asks by name
    image.GetPointData().SetScalars(scalars)
    return image


def labelArray(image: "slicer.vtkOrientedImageData") -> tuple[np.ndarray, np.ndarray]:
    """A binary label map's voxels [k, j, i] and their affine (RAS mm of the segmentation)."""
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
    """Whether segments were added, removed, renamed or painted since we wrote them."""
    if _clocks.get(node.GetID()) == _clock(node):
        return False
    now = describeSegments(node)
    try:
        written = json.loads(node.GetAttribute(WRITTEN) or "")
        if written.keys() != now.keys():
            return True
        return any(_differ(written[segment], now[segment]) for segment in now)
    except (ValueError, TypeError, KeyError, AttributeError):
        return True  # the attribute was changed by somebody else


def _clock(node: "slicer.vtkMRMLSegmentationNode") -> tuple[object, ...]:
    """Times of the last change of every segment and its image; no two changes have the same."""
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


def _differ(before: dict[str, Any], now: dict[str, Any]) -> bool:
    if (before["name"], before["voxels"]) != (now["name"], now["voxels"]):
        return True
    moved = np.subtract(before["centroid"], now["centroid"])
    return bool(np.abs(moved).max() > MOVED_MM)


def describeSegments(node: "slicer.vtkMRMLSegmentationNode") -> dict[str, dict[str, Any]]:
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
    """Voxels and centroid (RAS mm) of every label value of an image."""
    labels, affine = labelArray(image)
    places = np.nonzero(labels)
    values = labels[places].astype(np.int64)
    counts = np.bincount(values)
    sums = [np.bincount(values, weights=axis) for axis in places[::-1]]
    ijk1 = np.stack([*sums, counts]) / np.maximum(counts, 1)
    return counts, (affine @ ijk1)[:3].T
