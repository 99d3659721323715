"""The scans that a training can use, of all that there are; the others are told, with reasons."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ..engine.device import resolve_device
from ..engine.progress import Reporter
from .encoder_loading import load_encoder
from .normal_scans import judge, read_scans
from .scan_candidates import find_candidates
from .sources import Source
from .training_request import TrainSpec


def usable_normals(
    paths: Sequence[Path], spec: TrainSpec, report: Reporter
) -> tuple[list[Source], TrainSpec]:
    """The usable ones, and the spec with the modality that most of them are.

    A notice tells of every scan that is left out. Raises `SpatialARError` for an
    encoder that cannot be used, `Cancelled` through `report`.
    """
    device = resolve_device(spec.device)
    encoder = load_encoder(
        spec.encoder, device=device, allow_download=spec.allow_download, report=report
    )
    report.stage("list", 1, 2)
    candidates = find_candidates(paths, [], report)
    report.stage("read", 2, 2)
    scans = read_scans(candidates, spec.plane, spec.modality, report)
    survey = judge(scans, spec.modality, spec.fov_mm, spec.size_px, encoder.card.patch_px)
    for scan in survey.scans:
        if scan.code is not None:
            report.notice("normal-left-out", f"{scan.name} is left out: {scan.reason}")
    spec = dataclasses.replace(spec, modality=survey.modality)
    return [scan.source for scan in survey.used], spec
