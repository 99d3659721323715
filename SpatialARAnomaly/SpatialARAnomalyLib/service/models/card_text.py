"""A model's card for people: intended use, data, domain, calibration, limits, and what made it.

After the model cards of Mitchell et al. (2019, arXiv 1810.03993); what the card does not know,
such as who the patients were and how well lesions are found, is said to be unknown.
"""

from SpatialARAnomalyLib.engine.cards.calibration import ENOUGH_NORMALS
from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.engine.model.model_file import ModelCard
from SpatialARAnomalyLib.engine.specs import IntensityMethod, Region
from SpatialARAnomalyLib.engine.volumes.geometry import lengths_text
from SpatialARAnomalyLib.service.models.wording import (
    case_basis,
    count_normals,
    findings_basis,
    network_text,
    rates_text,
)
from SpatialARAnomalyLib.service.text import RESEARCH_NOTICE, counted

Sections = dict[str, dict[str, str]]
"""Texts by their names, by the title of their section."""

REGION_WORDS = {
    Region.BODY: "all of the body",
    Region.HEAD_INTERIOR: "the head without scalp and skull",
    Region.MASK: "where a mask says; every scan needs one",
}


def card_sections(card: ModelCard) -> Sections:
    """Describe a model for people who decide whether to use it."""
    return {
        "Intended use": _intended_use(card),
        "Data": _data(card),
        "Domain": _domain(card),
        "Network": _network(card),
        "Calibration": {
            "rates on new scans": rates_text(card.calibration),
            "findings": findings_basis(card.calibration),
            "case p-values": case_basis(card.calibration),
        },
        "Limits": _limits(card),
        "Origin": {
            "date": card.created,
            "program": f"SpatialARAnomaly {card.engine_version}",
            "weights SHA-256": card.weights_sha256,
            "notice": card.notice,
        },
    }


def _intended_use(card: ModelCard) -> dict[str, str]:
    return {
        "for": f"Showing a person where a scan ({card.modality}) is unlike the normal scans below.",
        "not for": "Diagnosis, screening or treatment; scans of another kind (sequence, contrast, "
        "body part, preparation).",
        "status": RESEARCH_NOTICE,
    }


def _data(card: ModelCard) -> dict[str, str]:
    normals = card.normals
    return {
        "normal scans": _normals_text(card),
        "modality": _modality_text(card),
        "pixel spacing": _range(normals.pixel_spacing_mm),
        "slice spacing": _range(normals.slice_spacing_mm),
        "body size": _range(normals.extent_mm),
        "not recorded": "Age, sex and health of the patients; scanner and sequence.",
    }


def _domain(card: ModelCard) -> dict[str, str]:
    slices, intensity = card.slices, card.intensity
    if intensity.method is IntensityMethod.WINDOW:
        values = f"{intensity.low:g} to {intensity.high:g} HU"
    else:
        values = f"percentiles {intensity.low:g} to {intensity.high:g} of the body"
    return {
        "plane": slices.plane.value,
        "field of view": f"{slices.fov_mm:g} mm, {slices.size_px} px ({slices.pixel_mm:.3g} mm per "
        f"pixel, {card.token_mm:.3g} mm per token)",
        "looks at": REGION_WORDS[card.region],
        "intensities": values,
        "refused": "Another modality; spacing or body size far outside of the ranges above.",
        "doubted": "Scans whose look is unlike that of the normal scans."
        if card.suitability is not None
        else "Nothing: the model was made before the look of scans was kept.",
    }


def _network(card: ModelCard) -> dict[str, str]:
    encoder, best = card.encoder, card.curve[card.best_epoch - 1]
    return {
        "encoder": f"{encoder.name} ({encoder.architecture}, {encoder.precision})",
        "network": network_text(card.autoregressive),
        "best epoch": f"{card.best_epoch} of {len(card.curve)}, held-out NLL "
        f"{best.held_out_nll:.4f} nats per channel",
    }


def _limits(card: ModelCard) -> dict[str, str]:
    limits = {
        "size": f"A lesion smaller than a token ({card.token_mm:.3g} mm) is seen only as far as it "
        "changes its patch.",
        "accuracy": "Not on the card: evaluate the model on scans with known lesions.",
        "look-alikes": "A lesion that looks like normal tissue of another place may be likely.",
        "dependence": "The held-out scans also chose the epoch, so rates and p-values are a little "
        "optimistic.",
    }
    if card.calibration.is_rough:
        limits["few scans"] = (
            f"Rates and p-values are rough: {count_normals(card.calibration)}, "
            f"{ENOUGH_NORMALS} are enough."
        )
    if card.encoder.name == DEMONSTRATION:
        limits["encoder"] = "The demonstration encoder is for demos and tests only."
    return limits


def _range(values: tuple[float, float]) -> str:
    low, high = values
    return f"{' to '.join(dict.fromkeys(lengths_text([one]) for one in (low, high)))} mm"


def _modality_text(card: ModelCard) -> str:
    scans = len(card.normals.training_sha256) + len(card.normals.held_out_sha256)
    stated = card.normals.stated_modality
    if stated is None or stated == scans:
        return card.modality.value
    return f"{card.modality} (stated by {stated} of {scans} scans, else told from their values)"


def _normals_text(card: ModelCard) -> str:
    normals = card.normals
    training = f"{len(normals.training_sha256)} trained on"
    held_out = f"{len(normals.held_out_sha256)} held out"
    if normals.training_patients is None or normals.held_out_patients is None:
        return f"{training}, {held_out}"
    training_patients = counted(normals.training_patients, "patient")
    held_out_patients = counted(normals.held_out_patients, "patient")
    return f"{training} (of {training_patients}), {held_out} (of {held_out_patients})"
