"""Sizes, counts and comparisons in words, and the notice on every report."""

from collections.abc import Sized

from SpatialARAnomalyLib.engine.cards.calibration import ENOUGH_NORMALS, least_case_p
from SpatialARAnomalyLib.engine.cards.suitability import Verdict

RESEARCH_NOTICE = "For research use only. Not a medical device."

MEASURE_WORDS = {
    "contrast": "brightness and sharpness",
    "shape": "height, width and size",
    "tokens": "mean tokens",
}
"""Names of the measures of a scan (`engine.cards.suitability.MEASURES`)."""


def size_number(size_bytes: float) -> tuple[str, str]:
    """Return a size in the decimal unit that fits: `86.4`, `MB`."""
    value, unit = (size_bytes / 1e9, "GB") if size_bytes >= 1e9 else (size_bytes / 1e6, "MB")
    return (f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"), unit


def size_text(size_bytes: float, approximate: bool = False) -> str:
    """Return a size as text: `86.4 MB`, `~1.2 GB`."""
    return f"{'~' if approximate else ''}{' '.join(size_number(size_bytes))}"


def rate_text(rate: float) -> str:
    """Return a false-positive rate as text: `1 in 1,000`."""
    return f"1 in {round(1 / rate):,}"


def number_text(number: float, least: float) -> str:
    """Return an expected number of findings as text: `< 0.05`, `0.2`, `12`."""
    if number <= least:
        return f"< {least:.1g}"
    return f"{number:.0f}" if number >= 10 else f"{number:.{1 if number < 1 else 2}g}"


def position_text(ras: tuple[float, float, float]) -> str:
    """Return a position in RAS mm as text: `L 20, A 14, S 26`."""
    return ", ".join(
        f"{positive if value >= 0 else negative} {abs(value):.0f}"
        for value, positive, negative in zip(ras, "RAS", "LPI", strict=True)
    )


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 scan`, `2 scans`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def count_findings(findings: Sized) -> str:
    """Return `no findings`, `1 finding`, `2 findings`."""
    count = len(findings)
    return f"{count or 'no'} finding" + ("" if count == 1 else "s")


def unlike_text(verdict: Verdict) -> str:
    """Return how far a scan lies from normal scans, by which measure, and the p-value."""
    least = verdict.p_value <= least_case_p(verdict.normals)
    rough = ", rough" if verdict.normals < ENOUGH_NORMALS else ""
    return (
        f"by its {MEASURE_WORDS[verdict.measure]} it lies {verdict.factor:.1f} times as far from "
        f"them as usual (p {'≤' if least else '='} {verdict.p_value:.2g}, {verdict.normals} normal "
        f"scans{rough})"
    )
