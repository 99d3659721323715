"""Reasons to doubt the result of a detection as a whole, shown before its findings."""

from dataclasses import dataclass

from SpatialARAnomalyLib.engine.cards.calibration import (
    MIN_NORMALS,
    Calibration,
    least_case_p,
)
from SpatialARAnomalyLib.engine.cards.suitability import Verdict
from SpatialARAnomalyLib.engine.model.model_file import ModelCard
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume
from SpatialARAnomalyLib.engine.specs import Region
from SpatialARAnomalyLib.service.models.wording import count_normals
from SpatialARAnomalyLib.service.text import unlike_text


@dataclass(frozen=True, kw_only=True)
class Caution:
    """A reason, and what to do."""

    code: str
    text: str


def find_cautions(
    card: ModelCard,
    *,
    verdict: Verdict | None,
    rate: float,
    share: float,
    case_p_value: float | None,
    sha256: str,
) -> tuple[Caution, ...]:
    """Return the cautions of a scan, the most important first.

    Args:
        card: Card of the model.
        verdict: Comparison of the scan with the model's normal scans, if there is one.
        rate: False-positive rate of the threshold.
        share: Share of the body's voxels above the threshold.
        case_p_value: The case p-value, if there is one.
        sha256: Hash of the scan's content.
    """
    found = (
        _unlike(verdict),
        _known(card, sha256),
        _share(card.calibration, rate, share),
        _case(card.calibration, case_p_value),
    )
    return tuple(one for one in found if one is not None)


def _unlike(verdict: Verdict | None) -> Caution | None:
    if verdict is None or not verdict.unlike:
        return None
    return Caution(
        code="scan-unlike",
        text=f"The scan does not look like the model's normal scans: {unlike_text(verdict)}. "
        "Another sequence, body part, orientation or preparation? Findings mean little then; "
        "choose a model trained on such scans.",
    )


def _known(card: ModelCard, sha256: str) -> Caution | None:
    if sha256 in card.normals.training_sha256:
        how = "was trained on"
    elif sha256 in card.normals.held_out_sha256:
        how = "was calibrated with"
    else:
        return None
    return Caution(
        code="scan-known",
        text=f"The model {how} this scan, so its NLL is too low and findings are missed. Use a "
        "model that was made without it.",
    )


def _share(calibration: Calibration, rate: float, share: float) -> Caution | None:
    interval = calibration.rate_interval(rate)
    if interval is None or interval.scan[0] <= share <= interval.scan[1]:
        return None
    low, high = (f"{100 * one:.2g}" for one in interval.scan)
    return Caution(
        code="share-outside",
        text=f"{100 * share:.2g} % of the body lie above the threshold; a normal scan has {low} to "
        f"{high} % (95 % interval, {count_normals(calibration)}). There is a large anomaly, or "
        "the scan does not suit the model: look at the scan first.",
    )


def _case(calibration: Calibration, p_value: float | None) -> Caution | None:
    if p_value is None or p_value > least_case_p(calibration.volumes):
        return None
    return Caution(
        code="case-least",
        text=f"As a whole the scan is less likely than any of {count_normals(calibration)}: its "
        f"case p-value is the least they can show, {p_value:.2g}. Check that it suits the model.",
    )


def unchecked_text(card: ModelCard, plane_volume: PlaneVolume) -> str | None:
    """Return why a scan's look cannot be compared; None if it can."""
    if card.suitability is None:
        return (
            "Whether the scan looks like the model's normal scans is not checked: the model was "
            "made by an earlier version. Train it again to have this check."
        )
    count = len(card.suitability.distances)
    if count < MIN_NORMALS:
        return (
            "Whether the scan looks like the model's normal scans is not checked: that needs "
            f"{MIN_NORMALS} normal scans; the model has {count}."
        )
    if card.region is not Region.MASK and plane_volume.counted is not plane_volume.region:
        return (
            "Whether the scan looks like the model's normal scans is not checked: only the part "
            "in the mask is searched."
        )
    return None
