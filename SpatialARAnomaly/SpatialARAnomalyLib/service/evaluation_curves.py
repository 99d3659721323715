"""The curves of an evaluation by name, with as many points as can be seen."""

import numpy as np
from jaxtyping import Float

from ..engine.evaluation import Curves

MAX_POINTS = 500
"""Points of a curve; those left out lie closest together."""

Curve = tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]
"""x and y of every point."""


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
