"""An evaluation from files to files; only the table of cases and kept files name the scans."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from SpatialARAnomalyLib.engine.device import Device, require_torch
from SpatialARAnomalyLib.engine.errors import InputError, OutputError
from SpatialARAnomalyLib.engine.evaluation.evaluation import Metric
from SpatialARAnomalyLib.engine.evaluation.metrics import (
    CONFIDENCE,
    PooledCounts,
    Undefined,
    auroc,
    average_precision,
    dice,
)
from SpatialARAnomalyLib.engine.file_names import make_file_name
from SpatialARAnomalyLib.engine.model.model_file import read_card
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import EvaluationSpec, Orientation, Spec
from SpatialARAnomalyLib.engine.volumes.files import write_nrrd
from SpatialARAnomalyLib.service.batch.batch import BatchScan, run_batch
from SpatialARAnomalyLib.service.batch.places import HERE, Place, Work
from SpatialARAnomalyLib.service.batch.table import DONE
from SpatialARAnomalyLib.service.csv_files import write_table
from SpatialARAnomalyLib.service.detection.detect import Clock, Detection
from SpatialARAnomalyLib.service.detection.model_cache import MODELS, ModelRequest
from SpatialARAnomalyLib.service.detection.result_files import RESULT_SUFFIXES, run_values
from SpatialARAnomalyLib.service.detection.review_case import case_of
from SpatialARAnomalyLib.service.detection.review_picture import write_review
from SpatialARAnomalyLib.service.evaluation.cases import Case, find_cases
from SpatialARAnomalyLib.service.evaluation.evaluate import (
    CaseScores,
    Evaluated,
    Keep,
    check_cases,
    evaluate,
    score_one,
    summarize,
)
from SpatialARAnomalyLib.service.evaluation.picture import thinned, write_picture
from SpatialARAnomalyLib.service.outputs import is_marked, write_atomically, write_each

MARKER = "SpatialARAnomaly evaluation"
"""Text in `evaluation.json`; only a folder with such a file may be overwritten."""

EVALUATION_FILES = {
    "evaluation": "evaluation.json",
    "metrics": "metrics.csv",
    "cases": "cases.csv",
    "curves": "curves.csv",
    "picture": "evaluation.png",
}
"""Names of the files by kind."""

_PACKAGES = (
    *("numpy", "scipy", "scikit-learn", "torch", "transformers"),
    *("SimpleITK", "nibabel", "scikit-image"),
)

METRIC_COLUMNS = ("score", "metric", "value", "low", "high", "resamples", "reason")


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest(ModelRequest):
    """An evaluation from files to files."""

    cases: Path
    """A CSV table or a folder (`find_cases`)."""
    orientation: Orientation | None = None
    """The form of NIfTI files that counts, where two disagree."""
    keep: bool = False
    """Also write the NLL volume and the review picture of every scan."""
    spec: EvaluationSpec = EvaluationSpec()


SCORES_FILE = "scores.npz"
"""Scores of a case that was scored in another process."""

WORK_SUFFIX = ".evaluation"
"""Follows the name of the output folder: the folder of cases that are scored elsewhere."""


@dataclass(frozen=True, kw_only=True)
class CaseInputs(Spec):
    """A case in files (`cases.Case`)."""

    number: int
    """Number of the case, from 1."""
    scan: Path
    truth: Path | None = None
    patient: str = ""
    mask: Path | None = None
    orientation: Orientation | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreSpec(EvaluationSpec):
    """Settings of the scoring of a case."""

    model: Path
    encoder: str | None = None
    device: Device = Device.AUTO
    allow_download: bool = False
    keep: bool = False
    """Also write the NLL volume and the review picture."""


def score_case(
    inputs: CaseInputs, spec: ScoreSpec, output: Path, report: Reporter
) -> dict[str, Any]:
    """Do the worker's job `score_case`: write the scores of a case into `output`.

    Raises as `evaluate` does; nothing is written then.
    """
    model = MODELS.load(
        spec.model, spec.device, encoder=spec.encoder, allow_download=spec.allow_download
    )
    case = Case(inputs.scan, inputs.truth, inputs.patient, inputs.mask, inputs.orientation)
    kept = _kept_names(inputs.number, case) if spec.keep else ()
    with write_atomically(output, [SCORES_FILE, *kept], overwrite=True) as new:
        keep = _keeper(new, {inputs.number: kept} if kept else {})
        with case.named(inputs.number):
            scores = score_one(case, inputs.number, model, spec, report, keep)
        scores.write(new / SCORES_FILE)
    return {"slices": scores.slices}


def _keeper(folder: Path, kept: dict[int, tuple[str, str]]) -> Keep | None:
    """Return what writes a scan's NLL volume and review picture, under names by its number."""
    if not kept:
        return None

    def keep(number: int, detection: Detection, truth: Bool[np.ndarray, "k j i"]) -> None:
        nll, picture = (folder / name for name in kept[number])
        write_nrrd(nll, detection.nll, detection.volume.ras_from_voxel)
        write_review(picture, case_of(detection), truth)

    return keep


def _score_elsewhere(
    request: EvaluateRequest,
    cases: Sequence[Case],
    weights_sha256: str,
    place: Place,
    new: Path,
    report: Reporter,
) -> list[CaseScores]:
    """Score the cases at a place, and move what is kept into `new`; resumed after a cancel.

    Raises the error of the first case that could not be scored, when the others are.
    """
    settings = request.spec.to_dict()
    spec = ScoreSpec(
        **settings,
        model=request.model,
        encoder=request.encoder,
        device=request.device,
        allow_download=request.allow_download,
        keep=request.keep,
    )
    work = request.out.with_name(request.out.name + WORK_SUFFIX)
    scans = []
    for number, case in enumerate(cases, start=1):
        scan, truth, mask = (
            None if one is None else Path(os.path.abspath(str(one)))
            for one in (case.scan, case.truth, case.mask)
        )
        assert scan is not None
        inputs = CaseInputs(
            number=number,
            scan=scan,
            truth=truth,
            patient=case.patient,
            mask=mask,
            orientation=case.orientation,
        )
        files = tuple(path for path in (scan, truth, mask) if path is not None)
        scans.append(BatchScan(name=f"{number:05}", inputs=inputs.to_dict(), files=files))
    report.stage("score", 2, 4)
    batch = run_batch(
        Work(job="score_case", spec=spec.to_dict() | {"model": os.path.abspath(request.model)}),
        scans,
        work,
        place,
        settings | {"weights": weights_sha256, "keep": request.keep},
        report,
        is_whole=lambda folder: (folder / SCORES_FILE).is_file(),
    )
    for row in batch.rows:
        if row["state"] != DONE:
            raise InputError(row["code"], row["reason"])
    if request.keep:
        for one, case in zip(scans, cases, strict=True):
            for name in _kept_names(one.inputs["number"], case):
                shutil.move(work / one.name / name, new / name)
    scores = [CaseScores.read(work / one.name / SCORES_FILE) for one in scans]
    shutil.rmtree(work, ignore_errors=True)
    return scores


def evaluate_to_files(
    request: EvaluateRequest, report: Reporter, place: Place = HERE
) -> tuple[Evaluated, dict[str, Path]]:
    """Evaluate a model on cases and write the results; return the files by kind.

    Elsewhere than in this process, scored cases are kept beside the output until the end, and are
    not scored again when the same request is repeated.

    Raises:
        SpatialARError: A case, the model or the output cannot be used; nothing is written.
        Cancelled: Through `report`; nothing is written.
    """
    require_torch()
    clock = Clock()
    _check_replaceable(request)
    report.stage("check", 1, 4)
    found = [
        replace(case, orientation=request.orientation) for case in find_cases(request.cases, report)
    ]
    kept = [_kept_names(*one) for one in enumerate(found, start=1)] if request.keep else []
    names = [*EVALUATION_FILES.values(), *(name for one in kept for name in one)]
    with write_atomically(request.out, names, overwrite=request.overwrite) as new:
        card = read_card(request.model)
        cases = check_cases(found, card, request.allow_mismatch, report)
        clock.lap("check")
        if place is HERE:
            keep = _keeper(new, dict(enumerate(kept, start=1)))
            model = request.load_model()
            evaluated = evaluate(cases, model, request.spec, report=report, clock=clock, keep=keep)
        else:
            scored = _score_elsewhere(request, found, card.weights_sha256, place, new, report)
            evaluated = summarize(cases, scored, card, request.spec, report, clock)
        report.stage("write", 4, 4)
        write_evaluation(new, evaluated, report)
    return evaluated, {kind: request.out / name for kind, name in EVALUATION_FILES.items()}


def _kept_names(number: int, case: Case) -> tuple[str, str]:
    """Return the names of a scan's NLL volume and review picture, which its number makes unique."""
    name = make_file_name(f"{number:03}_{case.name}")
    return name + RESULT_SUFFIXES["nll"], name + RESULT_SUFFIXES["review"]


def _check_replaceable(request: EvaluateRequest) -> None:
    """Replace only an earlier evaluation: a table of cases may have the name of a result."""
    marker = request.out / EVALUATION_FILES["evaluation"]
    existing = [name for name in EVALUATION_FILES.values() if (request.out / name).exists()]
    if request.overwrite and existing and not is_marked(marker, MARKER):
        raise OutputError(
            "output-not-an-evaluation",
            f"Only an earlier evaluation is replaced; {existing[0]} in the output folder belongs "
            "to none.",
        )


def metric_rows(evaluated: Evaluated) -> list[dict[str, Any]]:
    """Return the metrics by kind of scores, as rows of `METRIC_COLUMNS`."""
    return [
        {"score": score, "metric": name} | _metric_values(metric)
        for score, evaluation in evaluated.evaluations.items()
        for name, metric in evaluation.metrics.items()
    ]


def _metric_values(metric: Metric) -> dict[str, Any]:
    interval = metric.interval
    return {
        "value": metric.value,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "resamples": interval.resamples if interval else 0,
        "reason": metric.reason,
    }


def case_rows(evaluated: Evaluated) -> list[dict[str, Any]]:
    """Return a row of the table per scan; patients get numbers, too."""
    patients: dict[str, int] = {}
    rows = []
    for number, (scored, fact) in enumerate(
        zip(evaluated.cases, evaluated.facts, strict=True), start=1
    ):
        case = scored["nll"]
        tally = PooledCounts.of([case.counts]).tally(np.ones(1))
        rows.append(
            {
                "case": number,
                "scan": fact.name,
                "patient": patients.setdefault(case.patient, len(patients) + 1),
                "lesions": case.lesions,
                "lesion_ml": case.lesion_voxels * fact.voxel_ml,
                "missed_ml": case.counts.missed * fact.voxel_ml,
                "body_ml": case.body_voxels * fact.voxel_ml,
                "case_score": case.case_score,
                "case_p_value": fact.case_p_value,
                "voxel_auroc": _defined(auroc(tally)),
                "average_precision": _defined(average_precision(tally)),
                "dice": _defined(
                    dice(case.true_positives, case.false_positives, case.lesion_voxels)
                ),
                "false_positive_rate": (
                    case.false_positives / normal if (normal := float(tally.normal.sum())) else None
                ),
                "lesions_found": int(case.found[0]),
                "lesion_rank": case.lesion_rank or None,
                "false_findings": int(case.false_findings[0]),
                "scan_sha256": fact.sha256,
            }
        )
    return rows


def _defined(value: float | Undefined) -> float | None:
    return None if isinstance(value, Undefined) else value


def curve_rows(evaluated: Evaluated) -> Iterator[dict[str, Any]]:
    """Yield the points of every curve."""
    for score, evaluation in evaluated.evaluations.items():
        for name, curve in evaluation.curves.items():
            x, y = thinned(*curve)
            for point_x, point_y in zip(x.tolist(), y.tolist(), strict=True):
                yield {"score": score, "curve": name, "x": point_x, "y": point_y}


def evaluation_values(evaluated: Evaluated) -> dict[str, Any]:
    """Return the whole evaluation in JSON types."""
    return {
        "what": MARKER,
        **run_values(_PACKAGES),
        **evaluated.context,
        "false_positive_rate_asked": evaluated.spec.false_positive_rate,
        "threshold_nll": evaluated.threshold_nll,
        "min_volume_ml": evaluated.spec.min_volume_ml,
        "nll_unit": "nats per channel",
        "confidence": CONFIDENCE,
        "cases": evaluated.counts,
        "lesion_share": evaluated.lesion_share,
        "scores": {
            score: {
                "metrics": {
                    name: _metric_values(metric) for name, metric in evaluation.metrics.items()
                },
                "resamples": evaluation.resamples,
                "exact": evaluation.exact,
            }
            for score, evaluation in evaluated.evaluations.items()
        },
        "per_case": [
            {name: value for name, value in row.items() if name != "scan"}
            for row in case_rows(evaluated)
        ],
    }


def write_evaluation(folder: Path, evaluated: Evaluated, report: Reporter) -> None:
    """Write the files of an evaluation into `folder`."""
    cases = case_rows(evaluated)
    writers: dict[str, Callable[[Path], object]] = {
        "evaluation": lambda path: path.write_text(
            json.dumps(evaluation_values(evaluated), indent=1, allow_nan=False) + "\n",
            encoding="utf-8",
        ),
        "metrics": lambda path: write_table(path, METRIC_COLUMNS, metric_rows(evaluated)),
        "cases": lambda path: write_table(path, list(cases[0]), cases),
        "curves": lambda path: write_table(
            path, ("score", "curve", "x", "y"), curve_rows(evaluated)
        ),
        "picture": lambda path: write_picture(path, evaluated),
    }
    write_each(folder, {EVALUATION_FILES[kind]: one for kind, one in writers.items()}, report)


def as_result(evaluated: Evaluated, files: dict[str, Path]) -> dict[str, Any]:
    """Return the values of the `result` event of an evaluation."""
    return {
        "cases": evaluated.counts,
        "lesion_share": evaluated.lesion_share,
        "threshold_nll": evaluated.threshold_nll,
        "metrics": metric_rows(evaluated),
        "files": {kind: str(path) for kind, path in files.items()},
    }


def figure_text(metric: Metric) -> str:
    """Return a metric with its interval as text."""
    if metric.value is None:
        return "–"
    text = rounded(metric.value)
    if metric.interval is not None:
        text += f" [{rounded(metric.interval.low)}, {rounded(metric.interval.high)}]"
    return text


def rounded(value: float) -> str:
    """Return three decimals, or three significant digits of a value below 0.01."""
    if value == 0 or not math.isfinite(value) or abs(value) >= 0.01:
        return f"{value:.3f}"
    return f"{value:.2e}"
