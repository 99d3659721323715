"""The suite's results as Markdown, CSV and JSON, with everything needed to repeat the run."""

import csv
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from Benchmark.speed.machine import processor
from Benchmark.suite.measures import MARGIN_TOKENS, REACH_TOKENS
from Benchmark.suite.summary import (
    FIGURES,
    SHADOWS,
    difference,
    estimate,
    of_figure,
    uniformity,
)
from Benchmark.suite.trial import ASKED_RATES, Trial

PACKAGES = ("torch", "transformers", "numpy", "scipy", "scikit-learn", "nilearn")


def surroundings(device: str) -> dict[str, Any]:
    """Collect versions, hardware and commit."""
    import torch

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "commit": commit or "unknown",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "device": device,
        "gpu": gpu,
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def rates_of(trial: Trial, rate: float) -> dict[str, float]:
    """Compute the rate reached and its interval by resampling the heads."""
    found = estimate(trial.rates[rate])
    return dataclasses.asdict(found)


def summarize(trials: Mapping[str, Trial]) -> dict[str, Any]:
    """Compute every method's figures, and all differences of average precision."""
    methods: dict[str, Any] = {}
    for name, trial in trials.items():
        families = dict.fromkeys(head.family for head in trial.figures)
        normal_p = [
            p_value for head, p_value in trial.case_p_values.items() if head not in trial.figures
        ]
        methods[name] = {
            **{
                figure: dataclasses.asdict(estimate(of_figure(trial, figure)))
                for figure in (*FIGURES, *SHADOWS)
            },
            "families": {
                family: {
                    figure: dataclasses.asdict(estimate(of_figure(trial, figure, family)))
                    for figure in (*FIGURES, *SHADOWS)
                }
                for family in families
            },
            "false_positive_rate": {str(rate): rates_of(trial, rate) for rate in ASKED_RATES},
            "case_p_value_uniformity": uniformity(normal_p),
            "fit_s_per_slice": trial.fit_s_per_slice,
            "score_s_per_slice": trial.score_s_per_slice,
        }
    figures = {name: of_figure(trial, "average_precision") for name, trial in trials.items()}
    differences = [
        {
            "method": one,
            "less": other,
            **dataclasses.asdict(difference(figures[one], figures[other])),
        }
        for one in trials
        for other in trials
        if one != other
    ]
    return {"methods": methods, "average_precision_differences": differences}


def head_rows(trials: Mapping[str, Trial]) -> list[dict[str, Any]]:
    """Make a row per method and test head."""
    rows = []
    for name, trial in trials.items():
        for head, score in trial.case_scores.items():
            figures, shadow = trial.figures.get(head), trial.shadows.get(head)
            rows.append(
                {
                    "method": name,
                    "group": head.group,
                    "family": head.family,
                    "size": head.size,
                    "seed": head.seed,
                    "case_score": score,
                    "case_p_value": trial.case_p_values.get(head),
                    **{each: getattr(figures, each, None) for each in FIGURES},
                    **{f"shadow_{each}": getattr(shadow, each, None) for each in SHADOWS},
                    **{f"rate_at_{rate:g}": trial.rates[rate].get(head) for rate in ASKED_RATES},
                }
            )
    return rows


def write_tables(
    folder: Path, trials: Mapping[str, Trial], settings: dict[str, Any], device: str
) -> dict[str, Any]:
    """Write `table.md`, `heads.csv` and `results.json`; return the content of the last."""
    results = {
        "settings": settings,
        "surroundings": surroundings(device),
        **summarize(trials),
        "heads": head_rows(trials),
    }
    results = _plain(results)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    with (folder / "heads.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(results["heads"][0]))
        writer.writeheader()
        writer.writerows(results["heads"])
    with (folder / "methods.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [_flat(name, one) for name, one in results["methods"].items()]
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (folder / "table.md").write_text(markdown(results), encoding="utf-8")
    return results


def _plain(value: Any) -> Any:
    """Convert to JSON types, NaN to null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def _flat(name: str, one: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"method": name}
    for figure in (*FIGURES, *SHADOWS):
        row |= {f"{figure}_{part}": value for part, value in one[figure].items()}
    for rate, reached in one["false_positive_rate"].items():
        row |= {f"rate_at_{rate}_{part}": value for part, value in reached.items()}
    for figure in ("case_p_value_uniformity", "fit_s_per_slice", "score_s_per_slice"):
        row[figure] = one[figure]
    return row


def _cell(found: dict[str, Any], digits: int = 3, scale: float = 1.0) -> str:
    if found["mean"] is None:
        return "–"
    mean, low, high = (scale * found[part] for part in ("mean", "low", "high"))
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def markdown(results: dict[str, Any]) -> str:
    """Write the tables for readers, best average precision first."""
    methods = dict(
        sorted(
            results["methods"].items(),
            key=lambda item: -(item[1]["average_precision"]["mean"] or 0),
        )
    )
    best = next(iter(methods))
    against = {
        row["method"]: row
        for row in results["average_precision_differences"]
        if row["less"] == best
    }
    families = list(methods[best]["families"])
    parts = [
        "Means over heads within a family, then over families; 95 % intervals over patients.\n",
        _table(
            ["method", "average precision", f"less {best}", "AUROC", "PRO", "best Dice"],
            [
                [
                    name,
                    _cell(one["average_precision"]),
                    _cell(against[name]) if name in against else "",
                    _cell(one["auroc"]),
                    _cell(one["pro"]),
                    _cell(one["best_dice"]),
                ]
                for name, one in methods.items()
            ],
        ),
        "Average precision by family:\n",
        _table(
            ["method", *families],
            [
                [name, *(_cell(one["families"][f]["average_precision"]) for f in families)]
                for name, one in methods.items()
            ],
        ),
        f"Shadow: mean score of normal tokens {MARGIN_TOKENS + 1} to "
        f"{MARGIN_TOKENS + REACH_TOKENS} right of or below an anomaly less that of the mirrored "
        "place; against the twin: less that of the same place without the anomaly; disturbance: "
        "root mean square of the latter difference; response: the same in the anomaly itself; "
        "all in standard deviations of held-out normal tokens. Depth: disturbance by response. "
        "Rates reached on fresh normal heads, in percent of the body's "
        "voxels, with thresholds from held-out ones. Kolmogorov–Smirnov p of the fresh "
        "normals' case p-values. Milliseconds a slice.\n",
        _table(
            [
                "method",
                "shadow",
                "against twin",
                "disturbance",
                "response",
                "depth",
                *(f"rate at {100 * rate:g} %" for rate in ASKED_RATES),
                "case KS p",
                "fit ms",
                "score ms",
            ],
            [
                [
                    name,
                    _cell(one["against_mirror"], 2),
                    _cell(one["against_twin"], 2),
                    _cell(one["disturbance"], 2),
                    _cell(one["response"], 2),
                    _depth(one),
                    *(
                        _cell(one["false_positive_rate"][str(rate)], 2 if rate > 0.005 else 3, 100)
                        for rate in ASKED_RATES
                    ),
                    _number(one["case_p_value_uniformity"]),
                    f"{1000 * one['fit_s_per_slice']:.1f}",
                    f"{1000 * one['score_s_per_slice']:.2f}",
                ]
                for name, one in methods.items()
            ],
        ),
        "Disturbance by family:\n",
        _table(
            ["method", *families],
            [
                [name, *(_cell(one["families"][f]["disturbance"], 2) for f in families)]
                for name, one in methods.items()
                if one["against_twin"]["mean"] is not None
            ],
        ),
        _origin(results),
    ]
    return "\n".join(parts)


def _depth(one: dict[str, Any]) -> str:
    """Divide a method's disturbance by its response."""
    disturbance, response = one["disturbance"]["mean"], one["response"]["mean"]
    return "–" if not response or disturbance is None else f"{disturbance / response:.3f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _origin(results: dict[str, Any]) -> str:
    around, settings = results["surroundings"], results["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in around["versions"].items())
    machine = around["gpu"] or f"{around['cpu']}, {around['threads']} threads"
    listed = ", ".join(f"{name} {value}" for name, value in settings.items())
    return f"Commit {around['commit']}; {versions}; {machine}.\nSettings: {listed}.\n"
