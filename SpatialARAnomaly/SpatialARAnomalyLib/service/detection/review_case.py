"""A case as the review picture and the report show it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt16

from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.engine.model.model_file import ModelCard
from SpatialARAnomalyLib.engine.slices.intensity import intensity_range
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume
from SpatialARAnomalyLib.engine.specs import FindingsSpec, IntensitySpec, Plane
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.detection.detect import Detection
from SpatialARAnomalyLib.service.detection.findings_table import finding_row
from SpatialARAnomalyLib.service.models.wording import basis_text, preset_text

DEMONSTRATION_NOTICE = "Demonstration encoder: for trying only."


@dataclass(frozen=True, eq=False, kw_only=True)
class ReviewCase:
    """A scan with its NLL volume and findings."""

    volume: Volume
    plane_volume: PlaneVolume
    plane: Plane
    intensity: IntensitySpec
    nll: Float[np.ndarray, "k j i"]
    labels: UInt16[np.ndarray, "k j i"]
    """Label map on the scan's grid; values are ranks."""
    findings: Sequence[Mapping[str, Any]]
    """Rows with the columns `FINDING_COLUMNS`, the strongest first; perhaps with a review."""
    calibration: Calibration
    spec: FindingsSpec
    case_p_value: float | None
    model: Mapping[str, str]
    """The model's card in words (`card_facts`)."""
    notices: tuple[str, ...]
    """Reasons to doubt the result."""
    value_range: tuple[float, float] = field(init=False)
    """Intensities drawn in black and in white."""

    def __post_init__(self) -> None:
        found = intensity_range(self.plane_volume.voxels, self.plane_volume.body, self.intensity)
        object.__setattr__(self, "value_range", found)

    @property
    def threshold_nll(self) -> float:
        """NLL of the threshold, nats per channel."""
        return self.calibration.threshold(self.spec.false_positive_rate)

    def slice_of(self, row: Mapping[str, Any]) -> int:
        """Return the slice of a finding's peak."""
        shape = tuple(self.volume.voxels.shape)
        ras_from_plane = self.plane_volume.orientation.ras_from_plane(
            self.volume.ras_from_voxel, shape
        )
        peak = [*peak_of(row), 1.0]
        return round(float((np.linalg.inv(ras_from_plane) @ peak)[2]))

    def ranks_in(self, index: int) -> Int[np.ndarray, " n"]:
        """Return the ranks of the findings in a slice, ascending."""
        labels = self.plane_volume.orientation.apply(self.labels)[index]
        return np.unique(labels[labels > 0]).astype(int)


def peak_of(row: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return the place of a finding's peak, RAS mm."""
    return row["peak_r_mm"], row["peak_a_mm"], row["peak_s_mm"]


def case_of(detection: Detection) -> ReviewCase:
    """Return what is shown of a detection."""
    card = detection.card
    return ReviewCase(
        volume=detection.volume,
        plane_volume=detection.stack.plane_volume,
        plane=card.slices.plane,
        intensity=card.intensity,
        nll=detection.nll,
        labels=detection.labels,
        findings=[finding_row(finding) for finding in detection.findings],
        calibration=detection.calibration,
        spec=detection.spec,
        case_p_value=detection.case_p_value,
        model=card_facts(card),
        notices=(
            *(one.text for one in detection.cautions),
            *detection.mismatches,
            *card_notices(card),
        ),
    )


def card_facts(card: ModelCard) -> dict[str, str]:
    """Return a model's card in words."""
    return {
        "name": card.name,
        "modality": str(card.modality),
        "plane": str(card.slices.plane),
        "region": str(card.region),
        "field of view": f"{card.slices.fov_mm:g} mm, {card.slices.size_px} px",
        "encoder": card.encoder.name,
        "network": preset_text(card.autoregressive),
        "normal scans": f"{len(card.normals.training_sha256)} trained on, "
        f"{len(card.normals.held_out_sha256)} held out",
        "made": card.created,
        "weights (SHA-256)": card.weights_sha256,
        "license": card.notice,
    }


def card_notices(card: ModelCard) -> tuple[str, ...]:
    """Return what a user of a result must know of its model."""
    notices = []
    if card.encoder.name == DEMONSTRATION:
        notices.append(DEMONSTRATION_NOTICE)
    if card.calibration.is_rough:
        text = basis_text(card.calibration)
        notices.append(f"Rates and numbers are {text}.")
    return tuple(notices)
