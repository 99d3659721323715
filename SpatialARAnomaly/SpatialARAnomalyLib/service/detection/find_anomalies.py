"""A scan in memory and a loaded model in, NLL and findings out: no file is read or written."""

import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt16

from SpatialARAnomalyLib.engine.cards.calibration import (
    ENOUGH_NORMALS,
    Calibration,
)
from SpatialARAnomalyLib.engine.model.model_file import ModelCard
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.scoring.calibration_fit import case_score
from SpatialARAnomalyLib.engine.scoring.findings import (
    Finding,
    LabelBox,
    find_in_box,
)
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
from SpatialARAnomalyLib.engine.specs import FindingsSpec
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.detection.compatibility import mismatches
from SpatialARAnomalyLib.service.models.wording import count_normals

if TYPE_CHECKING:
    from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
    from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel


class Clock:
    """Seconds of every stage of a job."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Note the time since the last lap as that of a stage."""
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._since, 3)
        self._since = now


@dataclass(frozen=True, eq=False)
class SuitedScan:
    """A scan that may be scored by a model, turned to the model's plane."""

    volume: Volume
    turned: PlaneVolume
    card: ModelCard
    mismatches: tuple[str, ...]
    """How the scan is unlike the model's normals, where that was allowed."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Detection:
    """What a detection found, before it is written."""

    volume: Volume
    stack: SliceStack
    """Its slices as the model saw them."""
    card: ModelCard
    nll: Float[np.ndarray, "k j i"]
    """Nats per channel, on the volume's grid."""
    outside_nll: float
    """The value of `nll` outside the body or the field of view."""
    threshold_nll: float
    case_score: float
    """Of the whole body (`engine.scoring.calibration_fit`), nats per channel."""
    case_p_value: float | None
    """How likely a normal scan's case score reaches it; None with too few held-out normals."""
    spec: FindingsSpec
    findings: list[Finding]
    label_box: LabelBox | None
    """The part of the label map that holds the findings, if any."""
    mismatches: tuple[str, ...]
    """How the scan is unlike the model's normals, where that was allowed."""
    device: str
    seconds: dict[str, float]
    """Time of every stage."""

    @property
    def calibration(self) -> Calibration:
        """What the NLL means."""
        return self.card.calibration

    @cached_property
    def labels(self) -> UInt16[np.ndarray, "k j i"]:
        """The label map on the volume's grid (value = rank)."""
        if self.label_box is None:
            return np.zeros(self.nll.shape, dtype=np.uint16)
        return self.label_box.on_grid(self.nll.shape)


def suit(volume: Volume, card: ModelCard, allow_mismatch: bool, report: Reporter) -> SuitedScan:
    """The scan turned to the model's plane.

    Raises the first `ModelError` of `mismatches`, unless they are allowed:
    then they are told.
    """
    turned = PlaneVolume(volume, card.slices.plane, card.modality)
    found = mismatches(card, volume, turned)
    for mismatch in found:
        if not allow_mismatch:
            raise mismatch
        report.notice(mismatch.code, mismatch.message)
    return SuitedScan(volume, turned, card, tuple(mismatch.message for mismatch in found))


def find_anomalies(
    scan: SuitedScan,
    model: "AutoregressiveModel",
    encoder: "Encoder",
    spec: FindingsSpec,
    report: Reporter,
    clock: Clock,
) -> Detection:
    """Score every voxel and gather findings: stages 2 and 3 of the 4 of a detection.

    `model` and `encoder` must be on one device. Raises `Cancelled` through `report`.
    """
    from SpatialARAnomalyLib.engine.scoring.scoring import nll_volume

    card, volume = scan.card, scan.volume
    report.stage("embed", 2, 4)
    stack = SliceStack(scan.turned, card.slices, card.intensity, encoder.card.patch_px)
    nll = nll_volume(stack, encoder, model, report)
    clock.lap("embed")

    report.stage("find", 3, 4)
    rate = spec.false_positive_rate
    threshold = card.calibration.threshold(rate)
    tell_rough_threshold(card.calibration, rate, report)
    tell_few_normals(card.calibration, report)
    findings, label_box = find_in_box(
        nll, volume.ras_from_voxel, card.calibration, threshold, spec.min_volume_ml
    )
    score = case_score(nll[stack.inside_volume()])
    clock.lap("find")
    return Detection(
        volume=volume,
        stack=stack,
        card=card,
        nll=nll,
        outside_nll=model.lowest_nll,
        threshold_nll=threshold,
        case_score=score,
        case_p_value=card.calibration.case_p_value(score),
        spec=spec,
        findings=findings,
        label_box=label_box,
        mismatches=scan.mismatches,
        device=str(encoder.device),
        seconds=clock.seconds,
    )


def tell_rough_threshold(calibration: Calibration, rate: float, report: Reporter) -> None:
    """Give notice of a rate that is rarer than the held-out scans can show."""
    if not calibration.supports(rate):
        report.notice(
            "threshold-rough",
            f"A rate of {rate:g} is rarer than {calibration.tokens} tokens of held-out "
            "normal body can show; the threshold is a rough one.",
        )


def tell_few_normals(calibration: Calibration, report: Reporter) -> None:
    """Give notice of a model with too few held-out normals for more than rough figures."""
    if calibration.is_rough:
        report.notice(
            "few-normals",
            f"False-positive rates and p-values of this model are rough: they rest on "
            f"{count_normals(calibration)}, fewer than {ENOUGH_NORMALS}.",
        )
