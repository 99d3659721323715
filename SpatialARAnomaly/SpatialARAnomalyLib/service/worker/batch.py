"""The jobs `detect_batch` and `saved_result`: many scans, and the saved result of one of them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from SpatialARAnomalyLib.engine.errors import InputError, ModelError
from SpatialARAnomalyLib.engine.model.model_file import ModelCard
from SpatialARAnomalyLib.engine.progress import Reporter, SilentReporter
from SpatialARAnomalyLib.engine.scoring.findings import LabelBox
from SpatialARAnomalyLib.engine.specs import Spec
from SpatialARAnomalyLib.engine.volumes.files import read_volume_file
from SpatialARAnomalyLib.service.array_files import check_same_size, write_arrays
from SpatialARAnomalyLib.service.batch.places import HERE
from SpatialARAnomalyLib.service.detection import detect_many
from SpatialARAnomalyLib.service.detection.findings_table import FINDING_COLUMNS
from SpatialARAnomalyLib.service.detection.result_files import (
    RUN_FILE,
    ResultsSpec,
    result_names,
)
from SpatialARAnomalyLib.service.models.listing import list_models
from SpatialARAnomalyLib.service.outputs import check_names
from SpatialARAnomalyLib.service.scan_search import search_scans
from SpatialARAnomalyLib.service.scans import ScanSource
from SpatialARAnomalyLib.service.worker.detection import (
    LABELS_FILE,
    NLL_FILE,
    label_values,
    model_values,
)

VOXELS_FILE = "voxels.npy"


@dataclass(frozen=True, kw_only=True)
class BatchInputs(Spec):
    """The inputs of a batch."""

    paths: tuple[str, ...]
    """Files, folders and tables, as the command `detect` takes them."""

    def __post_init__(self) -> None:
        self._require(bool(self.paths), "paths must not be empty")


@dataclass(frozen=True, kw_only=True)
class SavedInputs(BatchInputs):
    """A scan of a batch, and where its results are."""

    scan: str
    """Name of the scan in the table of the batch."""
    folder: Path
    """Folder of the results of the batch."""
    models: Path
    """Folder of models, among which is that of the results."""


def detect_batch(
    inputs: BatchInputs, spec: ResultsSpec, output: Path, report: Reporter
) -> dict[str, Any]:
    """Detect anomalies in all scans of the inputs, as the command `detect` does.

    A single scan is a batch, too. Raises as `detect_many.detect_batch` does.
    """
    paths = [Path(one) for one in inputs.paths]
    found = detect_many.find_batch(paths, report) or [
        one for one in search_scans(paths, (), report) if one.series is None or one.series.is_scan
    ]
    if not found:
        raise InputError("input-empty", "Expected scans; the inputs hold none.")
    batch = detect_many.detect_batch(
        paths, found, ScanSource(path=paths[0]), spec, output, HERE, _Repeating(report)
    )
    return batch.as_result()


class _Repeating(SilentReporter):
    """Repeats the last progress between the steps of a scan, which is a sign of life."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._last: tuple[int, int, str] | None = None

    def stage(self, name: str, index: int, of: int) -> None:
        """Start a stage."""
        self._last = None
        self._report.stage(name, index, of)

    def progress(self, done: int, total: int, unit: str) -> None:
        """Report progress."""
        self._last = done, total, unit
        self._report.progress(done, total, unit)

    def notice(self, code: str, text: str) -> None:
        """Report a notice."""
        self._report.notice(code, text)

    def check_cancelled(self) -> None:
        """Raise `Cancelled` if the user cancelled the job; else report the last progress."""
        self._report.check_cancelled()
        if self._last is not None:
            self._report.progress(*self._last)


def saved_result(inputs: SavedInputs, output: Path, report: Reporter) -> dict[str, Any]:
    """Read a scan of a batch and its result files, and write them as `detect` does its arrays.

    Raises:
        InputError: The scan is gone or has changed, or its results are damaged.
        ModelError: The model of the results is not in the folder of models.
        Cancelled: Through `report`; nothing is written.
    """
    report.stage("read", 1, 1)
    check_names(output, [VOXELS_FILE, NLL_FILE, LABELS_FILE], overwrite=False)
    name, source = detect_many.find_named([Path(one) for one in inputs.paths], inputs.scan, report)
    folder = inputs.folder / name
    run = _read_run(folder)
    card = _find_card(inputs.models, run["model"])
    report.check_cancelled()
    scan_name, volume = source.read(report.check_cancelled, report)
    if volume.content_sha256() != run["sha256"]:
        raise InputError(
            "result-scan", "Expected the scan that was searched; its file has changed since."
        )
    files = result_names(scan_name)
    nll = read_volume_file(folder / files["nll"]).voxels
    labels = read_volume_file(folder / files["segmentation"], labels=True).voxels
    check_same_size(volume.voxels.shape, nll)
    check_same_size(volume.voxels.shape, labels, "segmentation")
    report.check_cancelled()
    (where,) = ndimage.find_objects((labels > 0).astype(np.uint8)) or (None,)
    box = None
    if where is not None:
        starts = where[0].start, where[1].start, where[2].start
        box = LabelBox(labels[where].astype(np.uint16), starts)
    arrays = {VOXELS_FILE: volume.voxels, NLL_FILE: np.asarray(nll, np.float32)}
    write_arrays(output, arrays | ({} if box is None else {LABELS_FILE: box.labels}))
    values = label_values(output, box)
    values["files"] |= {
        "voxels": str(output / VOXELS_FILE),
        "nll": str(output / NLL_FILE),
    }
    del run["sha256"]
    return (
        values
        | run
        | {
            "name": scan_name,
            "ras_from_voxel": volume.ras_from_voxel.tolist(),
            "model": model_values(card),
            "calibration": card.calibration.to_dict(),
            "token_mm": card.token_mm,
        }
    )


def _read_run(folder: Path) -> dict[str, Any]:
    """Return what the manifest of a detection says; raises `InputError` where it is damaged."""
    try:
        run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        return {
            "sha256": str(run["input"]["sha256"]),
            "model": {key: str(run["model"][key]) for key in ("name", "weights_sha256")},
            "findings": [{key: one[key] for key in FINDING_COLUMNS} for one in run["findings"]],
            "false_positive_rate": float(run["false_positive_rate"]),
            "min_volume_ml": float(run["min_volume_ml"]),
            "refine_outlines": bool(run["refine_outlines"]),
            "case_score": float(run["case_score"]),
            "cautions": [
                {key: str(one[key]) for key in ("code", "text")} for one in run["cautions"]
            ],
            "mismatches": [str(one) for one in run["mismatches_allowed"]],
        }
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise InputError(
            "result-damaged", f"Expected the results of a scan; {RUN_FILE} is missing or damaged."
        ) from None


def _find_card(models: Path, made_by: dict[str, str]) -> ModelCard:
    """Return the card of the model that made a result; raises `ModelError`."""
    for entry in list_models(models):
        card = entry.card
        if card is not None and card.weights_sha256 == made_by["weights_sha256"]:
            return card
    raise ModelError(
        "result-model",
        f"Expected the model {made_by['name']!r}, which made the results, among the models; it is "
        "not there.",
    )
