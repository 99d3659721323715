"""Segments and label maps on the grid of a volume."""

from collections.abc import Iterator

import numpy as np
import slicer

from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import rasFromVoxel, voxelsOf
from SpatialARAnomalyLib.slicerapp.scene.Segments import binaryLabelmap, labelArray

ALIGNED = 0.01
"""Largest distance, in voxels, at which voxels of two grids coincide."""


def voxelize(node: "slicer.vtkMRMLNode", volume: "slicer.vtkMRMLScalarVolumeNode") -> np.ndarray:
    """Return the labels of a label map or segmentation on a volume's grid, uint8 0 or 1.

    All segments count. Each voxel takes the nearest one of labels on another grid.
    """
    affine, size = rasFromVoxel(volume), voxelsOf(volume).shape
    if node.IsA("vtkMRMLSegmentationNode"):
        segments = node.GetSegmentation()
        ids = [segments.GetNthSegmentID(n) for n in range(segments.GetNumberOfSegments())]
        labels, start = mergeLabels(node, dict.fromkeys(ids, 1), affine, size)
    else:
        labels, first = cropToGrid(
            (voxelsOf(node) > 0).astype(np.uint8), rasFromVoxel(node), affine, np.asarray(size)
        )
        start = first.tolist()
    voxels = np.zeros(size, np.uint8)
    if labels.size:
        k, j, i = start
        depth, height, width = labels.shape
        voxels[k : k + depth, j : j + height, i : i + width] = labels > 0
    return voxels


def mergeLabels(
    segmentation: "slicer.vtkMRMLSegmentationNode",
    values: dict[str, int],
    gridAffine: np.ndarray,
    sizeKji: tuple[int, ...],
) -> tuple[np.ndarray, list[int]]:
    """Merge segments into one label map on a grid; return it cropped, and its start [k, j, i].

    Slicer's own merging works segment by segment and takes minutes for hundreds of
    findings; here the segments that share an image need one look-up.
    """
    size = np.asarray(sizeKji)
    layers = [cropToGrid(*layer, gridAffine, size) for layer in _layers(segmentation, values)]
    layers = [(labels, start) for labels, start in layers if labels.size]
    if not layers:
        return np.zeros((1, 1, 1), np.uint16), [0, 0, 0]
    low = np.min([start for _labels, start in layers], axis=0)
    high = np.max([start + labels.shape for labels, start in layers], axis=0)
    merged = np.zeros(high - low, np.uint16)
    for labels, start in layers:
        box = tuple(
            slice(int(a), int(b))
            for a, b in zip(start - low, start - low + labels.shape, strict=True)
        )
        # Later layers hide earlier ones, as in Slicer's views.
        np.copyto(merged[box], labels, where=labels > 0)
    return merged, low.tolist()


def _layers(
    segmentation: "slicer.vtkMRMLSegmentationNode", values: dict[str, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield a label map with the final values, and its affine, for each image of the segments."""
    container = segmentation.GetSegmentation()
    shared: dict[object, list[str]] = {}
    for segment in values:
        image = container.GetSegment(segment).GetRepresentation(binaryLabelmap())
        if image is not None:
            shared.setdefault(image, []).append(segment)
    for image, segments in shared.items():
        labels, affine = labelArray(image)
        if not labels.size:
            continue
        final = np.zeros(int(labels.max()) + 1, np.uint16)
        for segment in segments:
            value = container.GetSegment(segment).GetLabelValue()
            if value < final.size:
                final[value] = values[segment]
        yield final[labels], affine


def cropToGrid(
    labels: np.ndarray, affine: np.ndarray, gridAffine: np.ndarray, sizeKji: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a label map on another grid, cropped to its labels and the grid, and its start."""
    gridFromVoxel = np.linalg.inv(gridAffine) @ affine
    used = _box(labels)
    if used is None:
        return labels[:0], np.zeros(3, int)
    offset = gridFromVoxel[2::-1, 3]
    aligned = np.abs(gridFromVoxel[:3, :3] - np.eye(3)).max() * max(labels.shape) < ALIGNED
    if aligned and np.abs(offset - np.rint(offset)).max() < ALIGNED:
        labels, start = labels[used], np.rint(offset).astype(int) + [one.start for one in used]
    else:
        labels, start = _resampled(labels, gridFromVoxel, sizeKji), np.zeros(3, int)
    low, high = np.maximum(-start, 0), np.minimum(sizeKji - start, labels.shape)
    if (low >= high).any():
        return labels[:0], start
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return labels[box], start + low


def _resampled(labels: np.ndarray, gridFromVoxel: np.ndarray, sizeKji: np.ndarray) -> np.ndarray:
    """Resample a label map to the nearest voxel, by slices to save gigabytes of coordinates."""
    voxelFromGrid = np.linalg.inv(gridFromVoxel)
    resampled = np.zeros(tuple(sizeKji), labels.dtype)
    j, i = np.indices(tuple(sizeKji[1:])).reshape(2, -1)
    for k, one in enumerate(resampled):
        ijk1 = np.stack([i, j, np.full_like(i, k), np.ones_like(i)])
        nearest = np.rint(voxelFromGrid @ ijk1).astype(int)[2::-1]
        inside = ((nearest >= 0) & (nearest < np.array(labels.shape)[:, None])).all(axis=0)
        one.reshape(-1)[inside] = labels[tuple(nearest[:, inside])]
    return resampled


def _box(labels: np.ndarray) -> tuple[slice, slice, slice] | None:
    """Return the bounding box of the nonzero voxels."""
    used = [np.flatnonzero(labels.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not used[0].size:
        return None
    k, j, i = (slice(int(one[0]), int(one[-1]) + 1) for one in used)
    return k, j, i
