"""Detection in memory: a volume and a loaded model in, NLL volume and findings out."""

import dataclasses
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, UInt16

from SpatialARAnomalyLib.engine.cards.calibration import ENOUGH_NORMALS, Calibration
from SpatialARAnomalyLib.engine.cards.suitability import Look, Verdict
from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.model.model_file import ModelCard
from SpatialARAnomalyLib.engine.progress import Reporter, SilentReporter
from SpatialARAnomalyLib.engine.scoring.calibration_fit import case_score
from SpatialARAnomalyLib.engine.scoring.findings import Finding, LabelBox, find_in_box
from SpatialARAnomalyLib.engine.scoring.suitability_fit import measure_volume
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
from SpatialARAnomalyLib.engine.specs import FindingsSpec
from SpatialARAnomalyLib.engine.volumes.refusals import single_precision
from SpatialARAnomalyLib.engine.volumes.volume import Volume, check_scan
from SpatialARAnomalyLib.service.detection.cautions import Caution, find_cautions, unchecked_text
from SpatialARAnomalyLib.service.detection.compatibility import find_mismatches
from SpatialARAnomalyLib.service.detection.model_cache import Model
from SpatialARAnomalyLib.service.models.wording import count_normals


@dataclass(frozen=True, kw_only=True)
class DetectSpec(FindingsSpec):
    """Settings of a detection."""

    device: Device = Device.AUTO
    encoder: str | None = None
    """Where the model's encoder is, if it was moved."""
    allow_download: bool = False
    allow_mismatch: bool = False
    """Score a scan of another modality, spacing or size than the model's."""


class Clock:
    """Measures the stages of a job."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        """Seconds by stage."""
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Record the time since the last lap as that of a stage."""
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._since, 3)
        self._since = now


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """A scan that was checked against a model's card, in the model's plane."""

    volume: Volume
    plane_volume: PlaneVolume
    mismatches: tuple[str, ...]
    """Differences from the model's normal scans, where they are allowed."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Detection:
    """The result of a detection."""

    volume: Volume
    stack: SliceStack
    """Slices of the volume as the encoder took them."""
    card: ModelCard
    nll: Float[np.ndarray, "k j i"]
    """NLL of every voxel, in nats per channel."""
    outside_nll: float
    """Value of `nll` outside the body or the field of view."""
    threshold_nll: float
    case_score: float
    """Case score in nats per channel (`engine.scoring.calibration_fit`)."""
    case_p_value: float | None
    """Share of normal scans with a case score at least as high; None with too few held-out ones."""
    spec: FindingsSpec
    findings: list[Finding]
    """Findings in the order of their ranks."""
    label_box: LabelBox | None
    """Part of the label map that holds all findings; None without findings."""
    mismatches: tuple[str, ...]
    """Differences of the scan from the model's normal scans, where they were allowed."""
    cautions: tuple[Caution, ...]
    """Reasons to doubt the result as a whole."""
    verdict: Verdict | None
    """Comparison of the scan with the model's normal scans; None where there is none."""
    device: str
    seconds: dict[str, float]
    """Seconds by stage."""

    @property
    def calibration(self) -> Calibration:
        """Calibration of the model."""
        return self.card.calibration

    def caution_values(self) -> dict[str, Any]:
        """Return the cautions and the verdict in the types of JSON."""
        return {
            "cautions": [dataclasses.asdict(one) for one in self.cautions],
            "suitability": None if self.verdict is None else dataclasses.asdict(self.verdict),
        }

    @cached_property
    def labels(self) -> UInt16[np.ndarray, "k j i"]:
        """Label map on the volume's grid (value = rank)."""
        if self.label_box is None:
            return np.zeros(self.nll.shape, dtype=np.uint16)
        return self.label_box.on_grid(self.nll.shape)


def prepare_scan(
    volume: Volume, card: ModelCard, allow_mismatch: bool, report: Reporter
) -> PreparedScan:
    """Check a scan, find its body and cut it along the model's plane.

    Raises:
        InputError: The voxels cannot be those of a scan.
        ModelError: The scan differs from the model's normal scans; with `allow_mismatch`, a
            notice is reported instead.
    """
    voxels = single_precision(volume.voxels)
    if voxels is not volume.voxels:
        volume = dataclasses.replace(volume, voxels=np.asarray(voxels))
    volume = check_scan(volume)
    plane_volume = PlaneVolume(volume, card.slices.plane, card.modality, card.region)
    for code, text in plane_volume.notices:
        report.notice(code, text)
    mismatches = find_mismatches(card, volume, plane_volume)
    for mismatch in mismatches:
        if not allow_mismatch:
            raise mismatch
        report.notice(mismatch.code, mismatch.message)
    return PreparedScan(volume, plane_volume, tuple(one.message for one in mismatches))


def score_scan(
    scan: PreparedScan, model: Model, report: Reporter
) -> tuple[SliceStack, Float[np.ndarray, "k j i"], Verdict | None]:
    """Return slices of a scan, NLL of every voxel in nats per channel, and whether it suits."""
    from SpatialARAnomalyLib.engine.scoring.scoring import mean_token, nll_volume

    card = model.card
    stack = SliceStack(scan.plane_volume, card.slices, card.intensity, card.encoder.patch_px)
    means: list[Float[np.ndarray, "m c"]] = []
    nll = nll_volume(
        stack,
        model.encoder,
        model.network,
        report,
        card.rim,
        on_tokens=lambda index, tokens: means.append(mean_token(stack, index, tokens)),
    )
    tokens = np.concatenate(means)
    if unchecked_text(card, scan.plane_volume) is not None or not len(tokens):
        return stack, nll, None
    assert card.suitability is not None
    contrast, shape = measure_volume(scan.plane_volume, card.modality)
    return stack, nll, card.suitability.verdict(Look(contrast, shape, tokens))


def detect(
    volume: Volume | PreparedScan,
    model: Model,
    findings: FindingsSpec = FindingsSpec(),
    *,
    allow_mismatch: bool = False,
    report: Reporter = SilentReporter(),
    clock: Clock | None = None,
) -> Detection:
    """Score every voxel of a scan and find what is unlikely in it.

    Args:
        volume: The scan, or the result of `prepare_scan` with the model's card.
        model: From `load_model`; one model scores any number of scans.
        findings: Which voxels make a finding.
        allow_mismatch: Score a scan of another modality, spacing or size than the model's.
        report: Receives stages, progress and notices, and may cancel by raising `Cancelled`.
        clock: Clock to record the stages in; by default a new one.

    Raises:
        InputError: The voxels cannot be those of a scan.
        ModelError: The scan differs from the model's normal scans.
    """
    card, clock = model.card, clock or Clock()
    if isinstance(volume, PreparedScan):
        scan = volume
    else:
        scan = prepare_scan(volume, card, allow_mismatch, report)
        clock.lap("read")
    report.stage("embed", 2, 4)
    stack, nll, verdict = score_scan(scan, model, report)
    clock.lap("embed")

    report.stage("find", 3, 4)
    report_rough_threshold(card.calibration, findings.false_positive_rate, report)
    report_few_normals(card.calibration, report)
    detection = find_in_scan(scan, stack, nll, verdict, model, findings, clock.seconds, report)
    for caution in detection.cautions:
        report.notice(caution.code, caution.text)
    if unchecked := unchecked_text(card, scan.plane_volume):
        report.notice("suitability-unknown", unchecked)
    clock.lap("find")
    return detection


def find_in_scan(
    scan: PreparedScan,
    stack: SliceStack,
    nll: Float[np.ndarray, "k j i"],
    verdict: Verdict | None,
    model: Model,
    findings: FindingsSpec,
    seconds: dict[str, float],
    report: Reporter = SilentReporter(),
) -> Detection:
    """Find the findings of a scan with this NLL, from `score_scan`."""
    calibration = model.card.calibration
    inside = nll[stack.inside_volume()]
    score = case_score(inside)
    case_p_value = calibration.case_p_value(score)
    threshold = calibration.threshold(findings.false_positive_rate)
    found, label_box = find_in_box(
        nll, scan.volume.ras_from_voxel, calibration, threshold, findings.min_volume_ml
    )
    if findings.refine_outlines:
        found, label_box = refine(
            found, label_box, nll, scan.volume, threshold, model.card.token_mm, report
        )
    return Detection(
        volume=scan.volume,
        stack=stack,
        card=model.card,
        nll=nll,
        outside_nll=model.network.lowest_nll,
        threshold_nll=threshold,
        case_score=score,
        case_p_value=case_p_value,
        spec=findings,
        findings=found,
        label_box=label_box,
        mismatches=scan.mismatches,
        cautions=find_cautions(
            model.card,
            verdict=verdict,
            rate=findings.false_positive_rate,
            share=float(np.mean(inside > threshold)),
            case_p_value=case_p_value,
            sha256=scan.volume.content_sha256(),
        ),
        verdict=verdict,
        device=str(model.encoder.device),
        seconds=seconds,
    )


def refine(
    findings: list[Finding],
    label_box: LabelBox | None,
    nll: Float[np.ndarray, "k j i"],
    volume: Volume,
    threshold_nll: float,
    token_mm: float,
    report: Reporter,
) -> tuple[list[Finding], LabelBox | None]:
    """Refine the outlines of findings, and report how many stay raw."""
    if label_box is None:
        return findings, None
    from SpatialARAnomalyLib.engine.scoring.outlines import refine_outlines

    found, label_box, moved = refine_outlines(
        findings, label_box, nll, volume.voxels, volume.ras_from_voxel, threshold_nll, token_mm
    )
    if moved < len(found):
        report.notice(
            "outlines-raw",
            f"{len(found) - moved} of {len(found)} findings keep their raw outlines: the image "
            "has no clear edge near them, they are too large, or too many come before them.",
        )
    return found, label_box


def report_rough_threshold(calibration: Calibration, rate: float, report: Reporter) -> None:
    """Report a notice if the rate is lower than the held-out scans can support."""
    if not calibration.supports(rate):
        report.notice(
            "threshold-rough",
            f"A rate of {rate:g} is lower than {calibration.tokens} tokens of held-out "
            "normal body can support; the threshold is rough.",
        )


def report_few_normals(calibration: Calibration, report: Reporter) -> None:
    """Report a notice if the held-out scans are too few for exact rates and p-values."""
    if calibration.is_rough:
        report.notice(
            "few-normals",
            f"Rates and numbers are rough: they rest on {count_normals(calibration)}; "
            f"{ENOUGH_NORMALS} are enough.",
        )
