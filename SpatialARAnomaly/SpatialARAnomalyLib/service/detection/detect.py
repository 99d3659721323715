"""The detection job: a scan and a model in, NLL volume, findings and pictures out."""

from dataclasses import dataclass, field
from pathlib import Path

from SpatialARAnomalyLib.engine.device import (
    Device,
    require_torch,
    resolve_device,
    start_imports,
)
from SpatialARAnomalyLib.engine.errors import SpecError
from SpatialARAnomalyLib.engine.model.model_file import (
    load_model,
    read_card,
)
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import FindingsSpec
from SpatialARAnomalyLib.service.detection.find_anomalies import (
    Clock,
    Detection,
    find_anomalies,
    suit,
)
from SpatialARAnomalyLib.service.detection.result_files import (
    result_names,
    write_results,
)
from SpatialARAnomalyLib.service.encoders.loading import load_model_encoder
from SpatialARAnomalyLib.service.outputs import write_atomically
from SpatialARAnomalyLib.service.scans import find_one_scan


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


def detect(request: DetectRequest, report: Reporter) -> tuple[Detection, dict[str, Path]]:
    """Find anomalies in a scan and write the results; the files by what they hold.

    Raises `SpatialARError` for an input, model or output that cannot be used,
    `Cancelled` through `report`; nothing is written in either case.
    """
    if request.name is not None and not request.name.strip():
        raise SpecError("name-empty", "The name of the results must not be empty.")
    require_torch()
    clock = Clock()
    report.stage("read", 1, 4)
    card = read_card(request.model)
    start_imports()
    own_name, volume = find_one_scan(request.input, request.series, report.check_cancelled).read(
        report.check_cancelled
    )
    name = own_name if request.name is None else request.name
    scan = suit(volume, card, request.allow_mismatch, report)
    files = result_names(name)
    device = resolve_device(request.device)
    _, model = load_model(request.model, device)
    with write_atomically(
        request.out, list(files.values()), overwrite=request.overwrite
    ) as partial:
        encoder = load_model_encoder(card, request.encoder, device, request.allow_download)
        clock.lap("read")
        detection = find_anomalies(scan, model, encoder, request.findings, report, clock)
        report.stage("write", 4, 4)
        write_results(detection, partial, files, report)
    return detection, {kind: request.out / file for kind, file in files.items()}
