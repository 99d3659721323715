"""The scores of one scan that are held against the truth: the model's, and what needs no model.

On some sequences plain intensity finds lesions as well as a model does (Meissen
et al., arXiv 2109.06023), so it always stands beside.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from ..engine.calibration import Calibration
from ..engine.evaluation import Evaluation, ScoredCase, SearchRule, evaluate_cases, score_case
from ..engine.progress import Reporter
from ..engine.specs import FindingsSpec

POINTS = 20
"""Thresholds at which lesions found are held against false findings, at most twice as many."""


def rules(calibration: Calibration, spec: FindingsSpec) -> dict[str, SearchRule]:
    """How every kind of scores becomes findings.

    The NLL's curve is taken at rates of normal voxels from one in ten to one
    in a million, and on above all of them; the intensity's, which lies in
    [0, 1], evenly. Only the NLL has a calibrated threshold.
    """
    low, highest = calibration.threshold(0.1), calibration.nll[-1]
    within = [calibration.threshold(rate) for rate in np.logspace(-1, -6, POINTS).tolist()]
    above = np.linspace(highest, highest + 3 * max(highest - low, 1e-6), POINTS // 2).tolist()
    threshold = calibration.threshold(spec.false_positive_rate)
    nll = SearchRule(
        threshold=threshold,
        min_volume_ml=spec.min_volume_ml,
        thresholds=tuple(sorted({*within, *above, threshold})),
    )
    even = tuple((np.arange(1, POINTS + 1) / POINTS).tolist())
    plain = SearchRule(threshold=None, min_volume_ml=spec.min_volume_ml, thresholds=even)
    return {"nll": nll, "intensity": plain, "intensity_distance": plain}


def score_all(
    nll: Float[np.ndarray, "k j i"],
    intensity: Float[np.ndarray, "k j i"] | None,
    body: Bool[np.ndarray, "k j i"],
    truth: Bool[np.ndarray, "k j i"],
    ras_from_voxel: Float[np.ndarray, "4 4"],
    how: Mapping[str, SearchRule],
    patient: str,
    report: Reporter,
) -> dict[str, ScoredCase]:
    """One scan counted for every kind of scores; without `intensity` (in [0, 1]) for the NLL's.

    Raises `InputError` as `score_case` does, `Cancelled` through `report`.
    """
    scores = {"nll": nll}
    if intensity is not None:
        scores["intensity"] = intensity
        scores["intensity_distance"] = np.abs(intensity - np.median(intensity[body]))
    scored = {}
    for kind, values in scores.items():
        report.check_cancelled()
        scored[kind] = score_case(values, body, truth, ras_from_voxel, how[kind], patient)
    return scored


def evaluate_all(
    cases: list[dict[str, ScoredCase]],
    how: Mapping[str, SearchRule],
    resamples: int,
    seed: int,
    report: Reporter,
) -> dict[str, Evaluation]:
    """Every kind of scores evaluated over all scans."""
    kinds = list(cases[0])
    total = resamples * len(kinds)
    return {
        kind: evaluate_cases(
            [case[kind] for case in cases],
            how[kind],
            PartOfStage(report, place * resamples, total),
            resamples,
            seed,
        )
        for place, kind in enumerate(kinds)
    }


class PartOfStage:
    """A reporter for one part of a stage: its progress counts on from the parts before."""

    def __init__(self, whole: Reporter, before: int, total: int) -> None:
        self._before, self._total = before, total
        self._whole = whole
        self.epoch, self.notice, self.stage = whole.epoch, whole.notice, whole.stage
        self.check_cancelled = whole.check_cancelled

    def progress(self, done: int, total: int, unit: str) -> None:
        """`done` of this part are finished, after those before."""
        self._whole.progress(self._before + done, self._total, unit)
