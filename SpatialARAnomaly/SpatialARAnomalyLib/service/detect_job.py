"""The detection job: a scan and a model in, NLL volume, findings and pictures out."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt16

from ..engine.calibration import Calibration
from ..engine.compatibility import mismatches
from ..engine.device import Device, require_torch, resolve_device
from ..engine.encoder_card import DEMONSTRATION
from ..engine.errors import EncoderError, SpecError
from ..engine.findings import Finding, find
from ..engine.model_store import ModelCard, load_model
from ..engine.plane_volume import PlaneVolume
from ..engine.progress import Reporter
from ..engine.slicing import SliceStack
from ..engine.specs import FindingsSpec
from ..engine.volume import Volume
from . import encoder_registry
from .inputs import find_one_input
from .outputs import appear_together
from .result_files import RESULT_SUFFIXES, RUN_FILE, write_results

if TYPE_CHECKING:
    from ..engine.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class DetectRequest:
    """What the user asks a detection to do."""

    input: Path
    model: Path
    out: Path
    series: str | None = None
    name: str | None = None
    """Of the result files; by default the input's."""
    encoder: str | None = None
    """Where the model's encoder is; by default where it was last found."""
    findings: FindingsSpec = field(default_factory=FindingsSpec)
    device: Device = Device.AUTO
    allow_download: bool = False
    allow_mismatch: bool = False
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
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
    spec: FindingsSpec
    findings: list[Finding]
    labels: UInt16[np.ndarray, "k j i"]
    mismatches: tuple[str, ...]
    """How the scan is unlike the model's normals, where that was allowed."""
    device: str
    seconds: dict[str, float]
    """Time of every stage."""

    @property
    def calibration(self) -> Calibration:
        """What the NLL means."""
        return self.card.calibration


def detect(request: DetectRequest, report: Reporter) -> tuple[Detection, dict[str, Path]]:
    """Find anomalies in a scan and write the results; the files by what they hold.

    Raises `SpatialARError` for an input, model or output that cannot be used,
    `Cancelled` through `report`; nothing is written in either case.
    """
    if request.name is not None and not request.name.strip():
        raise SpecError("name-empty", "The name of the results must not be empty.")
    require_torch()
    clock = _Clock()
    report.stage("read", 1, 4)
    card, model = load_model(request.model)
    own_name, volume = find_one_input(request.input, request.series, report.check_cancelled).read(
        report.check_cancelled
    )
    name = own_name if request.name is None else request.name
    turned = PlaneVolume(volume, card.slices.plane, card.modality)
    found_mismatches = mismatches(card, volume, turned)
    for mismatch in found_mismatches:
        if not request.allow_mismatch:
            raise mismatch
        report.notice(mismatch.code, mismatch.message)
    files = {kind: name + suffix for kind, suffix in RESULT_SUFFIXES.items()} | {"run": RUN_FILE}
    device = resolve_device(request.device)
    with appear_together(request.out, list(files.values()), overwrite=request.overwrite) as partial:
        encoder = _find_encoder(card, request, str(device))
        model = model.to(device)
        clock.lap("read")

        from ..engine.detection import nll_volume

        report.stage("embed", 2, 4)
        stack = SliceStack(turned, card.slices, card.intensity, encoder.card.patch_px)
        nll = nll_volume(stack, encoder, model, report)
        clock.lap("embed")

        report.stage("find", 3, 4)
        rate = request.findings.false_positive_rate
        threshold = card.calibration.threshold(rate)
        if not card.calibration.supports(rate):
            report.notice(
                "threshold-rough",
                f"A rate of {rate:g} is rarer than {card.calibration.tokens} tokens of held-out "
                "normal body can show; the threshold is a rough one.",
            )
        findings, labels = find(
            nll,
            volume.ras_from_voxel,
            card.calibration,
            threshold,
            request.findings.min_volume_ml,
        )
        clock.lap("find")

        report.stage("write", 4, 4)
        detection = Detection(
            volume=volume,
            stack=stack,
            card=card,
            nll=nll,
            outside_nll=model.lowest_nll,
            threshold_nll=threshold,
            spec=request.findings,
            findings=findings,
            labels=labels,
            mismatches=tuple(mismatch.message for mismatch in found_mismatches),
            device=str(device),
            seconds=clock.seconds,
        )
        write_results(detection, partial, files, report)
    return detection, {kind: request.out / file for kind, file in files.items()}


class _Clock:
    """Seconds of every stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Note the time since the last lap."""
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._since, 3)
        self._since = now


def _can_be_found(name: str) -> bool:
    """Whether an encoder's name alone tells where it is: the embedded one, or a hub id."""
    return name == DEMONSTRATION or "/" in name


def _find_encoder(card: ModelCard, request: DetectRequest, device: str) -> "Encoder":
    """The encoder the model was trained with: the same weights, wherever they lie now."""
    from ..engine.encoder import load_encoder

    known = encoder_registry.recall(card.encoder.weights_sha256)
    named = card.encoder.name
    source = request.encoder or known or named
    if request.encoder is None and known is None and not _can_be_found(named):
        raise EncoderError(
            "encoder-not-found",
            f"Model {card.name!r} needs the encoder {named!r}, which was not found on this "
            "machine.",
            "Say where it is with --encoder (a folder, a .safetensors file or a hub id).",
        )
    encoder = load_encoder(source, device=device, allow_download=request.allow_download)
    if encoder.card.weights_sha256 != card.encoder.weights_sha256:
        raise EncoderError(
            "encoder-other",
            f"Model {card.name!r} was trained on the encoder {named!r} "
            f"(weights {card.encoder.weights_sha256[:12]}…); the one given is "
            f"{encoder.card.name!r} ({encoder.card.weights_sha256[:12]}…).",
            "Give the very encoder the model was trained on.",
        )
    encoder_registry.remember(encoder.card.weights_sha256, source)
    return encoder
