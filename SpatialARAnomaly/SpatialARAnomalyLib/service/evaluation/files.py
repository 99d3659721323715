"""The files of an evaluation. They call scans by number: no name or path of a patient."""

import json
import math
import platform
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.evaluation.evaluation import Metric
from SpatialARAnomalyLib.engine.evaluation.metrics import (
    CONFIDENCE,
    PooledCounts,
    Undefined,
    auroc,
    average_precision,
    dice,
)
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.service.detection.findings_table import write_table
from SpatialARAnomalyLib.service.evaluation.outcome import (
    Evaluated,
    named_curves,
)
from SpatialARAnomalyLib.service.evaluation.picture import write_picture
from SpatialARAnomalyLib.service.setup.packages import installed_version
from SpatialARAnomalyLib.service.text import RESEARCH_NOTICE

MARKER = "SpatialARAnomaly evaluation"
"""Only where the evaluation's own file says so does `--overwrite` replace anything."""

EVALUATION_FILES = {
    "evaluation": "evaluation.json",
    "metrics": "metrics.csv",
    "cases": "cases.csv",
    "curves": "curves.csv",
    "picture": "evaluation.png",
}
"""What an evaluation writes, by what it holds."""

_PACKAGES = (
    *("numpy", "scipy", "scikit-learn", "torch", "transformers"),
    *("SimpleITK", "nibabel", "scikit-image"),
)

METRIC_COLUMNS = ("score", "metric", "value", "low", "high", "resamples", "reason")
CASE_COLUMNS = (
    "case",
    "patient",
    "lesions",
    "lesion_ml",
    "missed_ml",
    "body_ml",
    "case_score",
    "case_p_value",
    "voxel_auroc",
    "average_precision",
    "dice",
    "false_positive_rate",
    "lesions_found",
    "false_findings",
    "scan_sha256",
)


def metric_rows(evaluated: Evaluated) -> list[dict[str, Any]]:
    """Every metric of every kind of scores, in the columns of `METRIC_COLUMNS`."""
    return [
        {"score": score, "metric": name} | _metric_values(metric)
        for score, evaluation in evaluated.evaluations.items()
        for name, metric in evaluation.metrics.items()
    ]


def _metric_values(metric: Metric) -> dict[str, Any]:
    found = metric.interval
    return {
        "value": metric.value,
        "low": found.low if found else None,
        "high": found.high if found else None,
        "resamples": found.resamples if found else 0,
        "reason": metric.reason,
    }


def case_rows(evaluated: Evaluated) -> list[dict[str, Any]]:
    """Every scan by its number, with what the model's scores say of it."""
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
                "false_findings": int(case.false_findings[0]),
                "scan_sha256": fact.sha256,
            }
        )
    return rows


def _defined(value: float | Undefined) -> float | None:
    return None if isinstance(value, Undefined) else value


def curve_rows(evaluated: Evaluated) -> Iterator[dict[str, Any]]:
    """Every curve as points x, y."""
    for score, evaluation in evaluated.evaluations.items():
        for name, (x, y) in named_curves(evaluation.curves).items():
            for point_x, point_y in zip(x.tolist(), y.tolist(), strict=True):
                yield {"score": score, "curve": name, "x": point_x, "y": point_y}


def evaluation_values(evaluated: Evaluated) -> dict[str, Any]:
    """All of it in the types that JSON knows."""
    return {
        "what": MARKER,
        "program": "SpatialARAnomaly",
        "version": __version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "notice": RESEARCH_NOTICE,
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
        "per_case": case_rows(evaluated),
        "packages": {package: installed_version(package) for package in _PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def write_evaluation(folder: Path, evaluated: Evaluated, report: Reporter) -> None:
    """Write all files of an evaluation into `folder`."""
    writers: dict[str, Callable[[Path], object]] = {
        "evaluation": lambda path: path.write_text(
            json.dumps(evaluation_values(evaluated), indent=1, allow_nan=False) + "\n",
            encoding="utf-8",
        ),
        "metrics": lambda path: write_table(path, METRIC_COLUMNS, metric_rows(evaluated)),
        "cases": lambda path: write_table(path, CASE_COLUMNS, case_rows(evaluated)),
        "curves": lambda path: write_table(
            path, ("score", "curve", "x", "y"), curve_rows(evaluated)
        ),
        "picture": lambda path: write_picture(path, evaluated),
    }
    for done, (kind, write) in enumerate(writers.items(), start=1):
        report.check_cancelled()
        write(folder / EVALUATION_FILES[kind])
        report.progress(done, len(writers), "file")


def as_result(evaluated: Evaluated, files: dict[str, Path]) -> dict[str, Any]:
    """What the `result` event of an evaluation says."""
    return {
        "cases": evaluated.counts,
        "lesion_share": evaluated.lesion_share,
        "threshold_nll": evaluated.threshold_nll,
        "metrics": metric_rows(evaluated),
        "files": {kind: str(path) for kind, path in files.items()},
    }


def figure_text(metric: Metric) -> str:
    """A metric with its interval as a person reads it."""
    if metric.value is None:
        return "–"
    text = rounded(metric.value)
    if metric.interval is not None:
        text += f" [{rounded(metric.interval.low)}, {rounded(metric.interval.high)}]"
    return text


def rounded(value: float) -> str:
    """Three decimals; three digits of what is smaller."""
    if value == 0 or not math.isfinite(value) or abs(value) >= 0.01:
        return f"{value:.3f}"
    return f"{value:.2e}"
