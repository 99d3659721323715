"""Does a volume suit a model? Wrong input gets a sentence, not a meaningless overlay."""

from .errors import ModelError
from .model_store import ModelCard
from .plane_volume import PlaneVolume
from .specs import Modality
from .volume import Volume, infer_modality

MAX_FACTOR = 2.0
"""A spacing or extent this many times beyond what a model was trained on is far from it."""


def check_modality(card: ModelCard, volume: Volume) -> None:
    """Raise `ModelError` where the volume's modality is not the model's."""
    found = infer_modality(volume)
    if found is card.modality:
        return
    how = (
        "as its DICOM header says"
        if volume.modality is not None
        else "its darkest voxels are as dark as air in Hounsfield units"
        if found is Modality.CT
        else "nothing in it is as dark as air in Hounsfield units"
    )
    raise ModelError(
        "model-modality",
        f"Model {card.name!r} expects {card.modality}; the volume looks like {found} ({how}).",
        f"Choose a model trained on {found}.",
    )


def geometry_mismatches(card: ModelCard, plane_volume: PlaneVolume) -> list[str]:
    """What of the volume's spacing and size is far from the model's normal volumes, in words."""
    slice_mm, row_mm, column_mm = plane_volume.spacing_mm
    normals = card.normals
    measures = (
        ("pixel spacing", (row_mm, column_mm), normals.pixel_spacing_mm),
        ("slice spacing", (slice_mm,), normals.slice_spacing_mm),
        ("body size in the plane", plane_volume.extent_mm, normals.extent_mm),
    )
    mismatches = []
    for what, found, (least, largest) in measures:
        if min(found) < least / MAX_FACTOR or max(found) > largest * MAX_FACTOR:
            values = " × ".join(f"{value:.3g}" for value in found)
            mismatches.append(
                f"Model {card.name!r} was trained with a {what} of {least:.3g} to "
                f"{largest:.3g} mm; the volume has {values} mm."
            )
    return mismatches


def mismatch_error(mismatch: str) -> ModelError:
    """The error for a volume whose spacing or size is far from the model's normal volumes."""
    return ModelError(
        "model-geometry",
        mismatch,
        "Choose a model trained on such scans; to score it all the same, use --allow-mismatch.",
    )
