"""Results of an earlier run, added to the tables without running the methods again."""

import json
from pathlib import Path
from typing import Any

from Benchmark.suite.heads import Head
from Benchmark.suite.measures import Shadow, VoxelFigures
from Benchmark.suite.summary import FIGURES, SHADOWS
from Benchmark.suite.trial import ASKED_RATES, Trial

DECISIVE = ("training", "held_out", "normals", "families", "sizes", "repeats", "spacing_mm",
            "every", "seed", "fov_mm", "size_px", "encoder")  # fmt: skip
"""Settings that must agree: the same heads and tokens. Those of the training may differ."""


def read_trials(path: Path, settings: dict[str, Any]) -> dict[str, Trial]:
    """Read the methods of a `results.json`; raise `ValueError` if heads or tokens differ."""
    results = json.loads(path.read_text(encoding="utf-8"))
    asked = json.loads(json.dumps(settings))
    others = [name for name in DECISIVE if results["settings"][name] != asked[name]]
    if others:
        raise ValueError(f"{path.name} was made with other {', '.join(others)}.")
    trials = {}
    for name, method in results["methods"].items():
        trial = Trial(
            fit_s_per_slice=method["fit_s_per_slice"],
            score_s_per_slice=method["score_s_per_slice"],
            rates={rate: {} for rate in ASKED_RATES},
        )
        for row in (row for row in results["heads"] if row["method"] == name):
            head = Head(**{key: row[key] for key in ("group", "family", "size", "seed")})
            trial.case_scores[head] = row["case_score"]
            if row["case_p_value"] is not None:
                trial.case_p_values[head] = row["case_p_value"]
            if row[FIGURES[0]] is not None:
                trial.figures[head] = VoxelFigures(**{each: row[each] for each in FIGURES})
            if row[f"shadow_{SHADOWS[0]}"] is not None:
                trial.shadows[head] = Shadow(**{each: row[f"shadow_{each}"] for each in SHADOWS})
            for rate, rates in trial.rates.items():
                if row[f"rate_at_{rate:g}"] is not None:
                    rates[head] = row[f"rate_at_{rate:g}"]
        trials[name] = trial
    return trials
