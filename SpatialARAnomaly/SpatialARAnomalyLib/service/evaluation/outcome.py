"""The outcome of an evaluation: its figures, cases and curves, before they are written."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from SpatialARAnomalyLib.engine.evaluation.evaluation import (
    Curves,
    Evaluation,
    ScoredCase,
)
from SpatialARAnomalyLib.engine.evaluation.metrics import PooledCounts
from SpatialARAnomalyLib.engine.specs import FindingsSpec

MAX_POINTS = 500
"""Points of a curve; those left out lie closest together."""

Curve = tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]
"""x and y of every point."""


@dataclass(frozen=True, kw_only=True)
class ScanFacts:
    """What is told of a scan beside its counts."""

    sha256: str
    """Of its content, as its detection's manifest has it."""
    voxel_ml: float
    case_p_value: float | None
    """Of its case score, by the model's calibration (`Calibration.case_p_value`)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluated:
    """An evaluation, before it is written."""

    evaluations: dict[str, Evaluation]
    """By kind of scores (`SCORE_WORDS`)."""
    cases: list[dict[str, ScoredCase]]
    """Every scan, likewise."""
    facts: list[ScanFacts]
    spec: FindingsSpec
    threshold_nll: float
    context: dict[str, Any]
    """What the scores were made with, for the record."""

    @property
    def counts(self) -> dict[str, int]:
        """Scans, patients, scans without a lesion, lesions."""
        cases = [case["nll"] for case in self.cases]
        return {
            "scans": len(cases),
            "patients": len({case.patient for case in cases}),
            "normal_scans": sum(case.normal for case in cases),
            "lesions": sum(case.lesions for case in cases),
        }

    @property
    def lesion_share(self) -> float:
        """Share of lesion voxels among all that count: average precision by chance."""
        tally = PooledCounts.of([case["nll"].counts for case in self.cases]).tally(
            np.ones(len(self.cases))
        )
        return float(tally.lesion.sum() / (tally.lesion.sum() + tally.normal.sum()))


def named_curves(curves: Curves) -> dict[str, Curve]:
    """Every curve by its name in files, thinned; one that is undefined has no points."""
    whole = {
        "roc": (curves.false_positive_rate, curves.recall_at_rate),
        "precision_recall": (curves.recall, curves.precision),
        "pro": (curves.pro_rate, curves.overlap),
        "froc": (curves.false_findings_per_scan, curves.lesions_found),
    }
    return {name: thinned(x, y) for name, (x, y) in whole.items()}


def thinned(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> Curve:
    """All points, or about `MAX_POINTS` evenly along the curve, both ends among them."""
    if x.size <= MAX_POINTS:
        return x, y
    way = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    places = np.searchsorted(way, np.linspace(0.0, way[-1], MAX_POINTS))
    kept = np.unique(np.append(np.minimum(places, x.size - 1), [0, x.size - 1]))
    return x[kept], y[kept]
