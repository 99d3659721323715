"""Compare a scan with the normal scans of a model: modality, spacing and size of the body."""

from collections.abc import Iterator

from SpatialARAnomalyLib.engine.errors import ModelError
from SpatialARAnomalyLib.engine.model.model_file import ModelCard
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume
from SpatialARAnomalyLib.engine.specs import Region
from SpatialARAnomalyLib.engine.volumes.geometry import lengths_text
from SpatialARAnomalyLib.engine.volumes.volume import Volume, air_share, infer_modality

MAX_FACTOR = 2.0
"""Factor by which a spacing or size may lie outside the range of the model's normal scans."""


def find_mismatches(card: ModelCard, volume: Volume, plane_volume: PlaneVolume) -> list[ModelError]:
    """Return every mismatch between a scan and a model, as an error that can be raised."""
    return [
        *_modality_mismatch(card, volume),
        *_mask_mismatch(card, volume),
        *_geometry_mismatches(card, plane_volume),
    ]


def _modality_mismatch(card: ModelCard, volume: Volume) -> Iterator[ModelError]:
    found = infer_modality(volume)
    if found is card.modality:
        return
    reason = (
        "as its DICOM header says"
        if volume.modality is not None
        else f"{100 * air_share(volume):.1f} % of its voxels are as dark as air in Hounsfield units"
    )
    yield ModelError(
        "model-modality",
        f"Model {card.name!r} expects {card.modality}; the volume looks like {found} ({reason}).",
        modality=found.value,
    )


def _mask_mismatch(card: ModelCard, volume: Volume) -> Iterator[ModelError]:
    if card.region is Region.MASK and volume.mask is None:
        yield ModelError(
            "model-mask",
            f"Model {card.name!r} was trained on scans with masks; the volume has none.",
        )


def _geometry_mismatches(card: ModelCard, plane_volume: PlaneVolume) -> Iterator[ModelError]:
    slice_mm, row_mm, column_mm = plane_volume.spacing_mm
    normals = card.normals
    measures = (
        ("pixel spacing", (row_mm, column_mm), normals.pixel_spacing_mm),
        ("slice spacing", (slice_mm,), normals.slice_spacing_mm),
        ("body size in the plane", plane_volume.extent_mm, normals.extent_mm),
    )
    for name, found, (least, largest) in measures:
        if min(found) < least / MAX_FACTOR or max(found) > largest * MAX_FACTOR:
            trained = " to ".join(dict.fromkeys(lengths_text([one]) for one in (least, largest)))
            yield ModelError(
                "model-geometry",
                f"Model {card.name!r} was trained with a {name} of {trained} mm; the volume has "
                f"{lengths_text(found)} mm.",
            )
